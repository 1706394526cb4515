"""Writes the tables that the oracle's cases read: `data.py FOLDER SEED`. The same seed gives the same bytes.

Every table that has an event time comes out of order by less than 5 seconds, which is the bound that the sources
declare, so none of its rows is late; `late` alone has rows that are, and says which.
"""

import csv
import datetime
import gzip
import io
import json
import pathlib
import random
import sys

START = datetime.datetime(2026, 3, 1, 8, 0, 0)
# Less than the sources' maxOutOfOrderness of 5 s.
MAX_DELAY_MS = 4_900
CATEGORIES = ["books", "games", "tools", "garden", "bücher", "音楽", "toys", "misc"]
NOTES = ["", " padded ", 'say "hi"', "comma, here", "back\\slash", "naïve café", "100%_sure", "Tab\there"]


def main():
    folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    orders = make_orders(random.Random(f"{seed} orders"))
    write_json(folder / "orders", orders, files=4)
    write_json(folder / "shipments", make_shipments(random.Random(f"{seed} shipments"), orders), files=2)
    write_csv(folder / "customers", make_customers(random.Random(f"{seed} customers")), files=1)
    write_csv(folder / "clicks", make_clicks(random.Random(f"{seed} clicks")), files=3, compressed=[1])
    write_json(folder / "late", make_late(random.Random(f"{seed} late")), files=1)


def make_orders(rng):
    """A shop's orders: 6,000 in 25 minutes, with NULLs in everything that may be NULL."""
    rows, at_ms = [], 0
    for order in range(6_000):
        at_ms += rng.randint(1, 500)
        rows.append({
            "id": order,
            "ts": at_ms,
            "customer": maybe(rng, 0.05, lambda: f"c{min(rng.randint(0, 199), rng.randint(0, 199)):03}"),
            "category": rng.choice(CATEGORIES),
            "price": maybe(rng, 0.1, lambda: rng.randint(100, 20_000) / 100),
            "quantity": maybe(rng, 0.1, lambda: rng.randint(-3, 40)),
            "paid": maybe(rng, 0.2, lambda: rng.random() < 0.6),
            "amount": maybe(rng, 0.05, lambda: f"{rng.randint(-99_999, 999_999) / 100:.2f}"),
            "sku": rng.choice([str(rng.randint(0, 10**6)), f"x{rng.randint(0, 99)}", "", None]),
            "note": maybe(rng, 0.1, lambda: rng.choice(NOTES)),
            "payload": payload(rng),
        })
    return out_of_order(rng, rows, "ts")


def payload(rng):
    """JSON inside a text column: a nested object, with members missing at random."""
    if rng.random() < 0.1:
        return None
    document = {"channel": rng.choice(["web", "app", "shop"]), "items": [rng.randint(1, 9) for _ in range(3)]}
    if rng.random() < 0.7:
        document["address"] = {"city": rng.choice(["Köln", "Oslo", "Lyon"]), "zip": str(rng.randint(10_000, 99_999))}
    if rng.random() < 0.5:
        document["score"] = rng.randint(0, 100)
    if rng.random() < 0.3:
        document["gift"] = rng.random() < 0.5
    return json.dumps(document, ensure_ascii=False)


def make_shipments(rng, orders):
    """Up to two shipments for an order, within 90 s; some for no order at all, some whose order is unknown."""
    rows = []
    for order in orders:
        for _ in range(rng.choice([0, 1, 1, 1, 1, 1, 2])):
            order_id = order["id"] if rng.random() > 0.03 else 1_000_000 + order["id"]
            rows.append({
                "order_id": maybe(rng, 0.03, lambda: order_id),
                "shipped_at": milliseconds(order["ts"]) + rng.randint(0, 90_000),
                "carrier": rng.choice(["north", "south", None]),
                "cost": maybe(rng, 0.1, lambda: rng.randint(100, 3_000) / 100),
            })
    return out_of_order(rng, rows, "shipped_at")


def make_customers(rng):
    """What is known of a customer, anew each time it changes. No two versions of one customer have one time."""
    rows = []
    for customer in rng.sample(range(220), 170):
        for at_ms in rng.sample(range(1_500_000), rng.randint(1, 4)):
            rows.append({
                "customer": f"c{customer:03}",
                "updated_at": at_ms,
                "city": maybe(rng, 0.1, lambda: rng.choice(["Köln", "Oslo", "Lyon", "Paris, TX"])),
                "tier": rng.randint(1, 3),
            })
    return out_of_order(rng, rows, "updated_at")


def make_clicks(rng):
    """Users who click in bursts: sessions that a gap of 10 s tells apart, some of one click."""
    rows = []
    for user in range(40):
        at_ms = rng.randint(0, 60_000)
        for _ in range(rng.randint(3, 12)):
            for _ in range(rng.randint(1, 9)):
                rows.append({
                    "user_id": user,
                    "clicked_at": at_ms,
                    "page": rng.choice(["/", "/cart", "/item,1", None]),
                    "ms": rng.randint(1, 900),
                })
                at_ms += rng.randint(0, 9_900)
            at_ms += rng.randint(10_001, 90_000)
    return out_of_order(rng, rows, "clicked_at")


def make_late(rng):
    """In order, except for two groups of 500 rows each after row 30,000, between which order goes on.

    `kind` says what a row is: `ok`, `late` (9 to 10 minutes behind) or `very late` (19 to 20). A row comes every
    40 ms, so a batch of 8,192 rows is 5.5 minutes: wherever batches end, the watermark is at most that much behind,
    and which rows are late against windows of a minute and a lateness of 12 minutes does not depend on it.
    """
    rows = []
    for at in range(60_000):
        rows.append({"key": at % 7, "ts": at * 40, "v": rng.randint(0, 1_000), "kind": "ok"})
        if at in (35_000, 55_000):
            for kind, behind in (("late", 9), ("very late", 19)):
                for _ in range(500):
                    ts = at * 40 - rng.randint(behind * 60_000, (behind + 1) * 60_000)
                    rows.append({"key": rng.randint(0, 6), "ts": ts, "v": rng.randint(0, 1_000), "kind": kind})
    for row in rows:
        row["ts"] = text_of(row["ts"])
    return rows


def out_of_order(rng, rows, time_column):
    """The rows as they arrive: each up to MAX_DELAY_MS after its time, which becomes text."""
    rows.sort(key=lambda row: row[time_column] + rng.randint(0, MAX_DELAY_MS))
    for row in rows:
        row[time_column] = text_of(row[time_column])
    return rows


def maybe(rng, null_ratio, make):
    return None if rng.random() < null_ratio else make()


def text_of(at_ms):
    return (START + datetime.timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")


def milliseconds(text):
    return (datetime.datetime.fromisoformat(text) - START) // datetime.timedelta(milliseconds=1)


def parts(rows, files):
    """Slices in order: files that are read by several subtasks, each in time order, meet at the watermark."""
    size = -(-len(rows) // files)
    return [rows[at:at + size] for at in range(0, len(rows), size)]


def write_json(folder, rows, files):
    folder.mkdir(parents=True)
    for number, part in enumerate(parts(rows, files)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"part-{number}.jsonl").write_text(text, encoding="utf-8")


def write_csv(folder, rows, files, compressed=()):
    folder.mkdir(parents=True)
    for number, part in enumerate(parts(rows, files)):
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(part)
        data = out.getvalue().encode()
        if number in compressed:
            (folder / f"part-{number}.csv.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / f"part-{number}.csv").write_bytes(data)


main()
