"""Appends temperature readings to files in data/ beside this file, twenty a second, until it is interrupted.

Each room has a file. Readings come up to half a second out of order, and now and then a line is no reading at all.
With a number as its argument, it writes so many readings and ends.
"""

import datetime
import itertools
import json
import pathlib
import random
import sys
import time

ROOMS = ["attic", "cellar", "kitchen"]
PAUSE_S = 0.05


def main():
    folder = pathlib.Path(__file__).resolve().parent / "data"
    folder.mkdir(exist_ok=True)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else None
    numbers = range(count) if count is not None else itertools.count()
    try:
        for number in numbers:
            room = random.choice(ROOMS)
            with open(folder / f"{room}.jsonl", "a", encoding="utf-8") as file:
                file.write(line(room, number))
            time.sleep(PAUSE_S)
    except KeyboardInterrupt:
        pass


def line(room, number):
    if number % 200 == 199:
        return "the sensor is on fire\n"
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    measured_at = now - datetime.timedelta(milliseconds=random.randint(0, 500))
    celsius = round(18 + 3 * ROOMS.index(room) + random.gauss(0, 1), 2)
    return json.dumps({"room": room, "celsius": celsius, "measured_at": measured_at.isoformat()}) + "\n"


main()
