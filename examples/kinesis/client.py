"""Makes the stream `orders` and fills it, or splits the shard with the widest range. Needs boto3 (pip install)."""

import json
import random
import sys
import time

import boto3

kinesis = boto3.client("kinesis", endpoint_url="http://127.0.0.1:4567", region_name="us-east-1")


def open_shards():
    shards = kinesis.list_shards(StreamName="orders")["Shards"]
    return [shard for shard in shards if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]


def fill():
    try:
        kinesis.create_stream(StreamName="orders", ShardCount=2)
    except kinesis.exceptions.ResourceInUseException:
        pass
    kinesis.get_waiter("stream_exists").wait(StreamName="orders", WaiterConfig={"Delay": 1})
    number = 0
    while True:
        records = []
        for number in range(number, number + 50):
            order = {"id": number, "cents": random.randint(100, 9999)}
            records.append({"Data": json.dumps(order), "PartitionKey": random.choice("ABCDEFGH")})
        failed = kinesis.put_records(StreamName="orders", Records=records)["FailedRecordCount"]
        if failed:
            raise SystemExit(f"{failed} records were refused")
        number += 1
        print(f"\r{number} orders", end="", flush=True)
        time.sleep(0.1)


def split():
    def ends(shard):
        keys = shard["HashKeyRange"]
        return int(keys["StartingHashKey"]), int(keys["EndingHashKey"])

    widest = max(open_shards(), key=lambda shard: ends(shard)[1] - ends(shard)[0])
    middle = sum(ends(widest)) // 2
    kinesis.split_shard(StreamName="orders", ShardToSplit=widest["ShardId"], NewStartingHashKey=str(middle))
    print(f"split {widest['ShardId']}")


try:
    {"fill": fill, "split": split}[sys.argv[1]]()
except KeyboardInterrupt:
    print()
