"""A Kinesis client that is not ours: `kinesis.py ENDPOINT COMMAND STREAM ...`.

create SHARDS
feed FIRST COUNT KEYS CHANGES SEED  records {"id", "k"} in the order of their ids, the stream being resharded so often meanwhile
put FILE                            a record a line: [partition key, text or {"base64": ...}]
aggregate FILE                      the same, as one record as the Kinesis Producer Library packs them
reshard SEED                        one split or merge
shards                              each shard, its parents, and the sequence number of its first record
"""

import base64
import hashlib
import json
import random
import sys
import time

import boto3

endpoint, command, stream, *arguments = sys.argv[1:]
client = boto3.client(
    "kinesis",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="testkey",
    aws_secret_access_key="testsecret",
)


def await_active():
    while client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
        time.sleep(0.01)


def shards():
    return client.list_shards(StreamName=stream)["Shards"]


def reshard(rng):
    """Splits a shard or merges two neighbours, whichever chance says."""

    def hash_keys(shard):
        return int(shard["HashKeyRange"]["StartingHashKey"]), int(shard["HashKeyRange"]["EndingHashKey"])

    still_open = [shard for shard in shards() if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]
    still_open.sort(key=hash_keys)
    if len(still_open) > 1 and (len(still_open) >= 6 or rng.random() < 0.5):
        at = rng.randrange(len(still_open) - 1)
        one, other = still_open[at : at + 2]
        client.merge_shards(StreamName=stream, ShardToMerge=one["ShardId"], AdjacentShardToMerge=other["ShardId"])
    else:
        shard = rng.choice(still_open)
        middle = sum(hash_keys(shard)) // 2
        client.split_shard(StreamName=stream, ShardToSplit=shard["ShardId"], NewStartingHashKey=str(middle))
    await_active()


def put(records):
    for at in range(0, len(records), 200):
        answer = client.put_records(StreamName=stream, Records=records[at : at + 200])
        assert answer["FailedRecordCount"] == 0, answer


def read(file):
    for line in open(file):
        key, data = json.loads(line)
        yield key, data.encode() if isinstance(data, str) else base64.b64decode(data["base64"])


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out + bytearray([number]))


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


if command == "create":
    client.create_stream(StreamName=stream, ShardCount=int(arguments[0]))
    await_active()
elif command == "feed":
    first, count, keys, changes, seed = map(int, arguments)
    rng = random.Random(seed)
    at_changes = sorted(rng.sample(range(first, first + count), changes))
    batch = []
    for id in range(first, first + count):
        if at_changes and id == at_changes[0]:
            put(batch)
            batch = []
            while at_changes and id == at_changes[0]:
                at_changes.pop(0)
            reshard(rng)
        key = f"k{id % keys}"
        batch.append({"PartitionKey": key, "Data": json.dumps({"id": id, "k": key}).encode()})
        if len(batch) == 100:
            put(batch)
            batch = []
            time.sleep(0.005)
    put(batch)
elif command == "put":
    put([{"PartitionKey": key, "Data": data} for key, data in read(arguments[0])])
elif command == "aggregate":
    records = list(read(arguments[0]))
    keys = list(dict.fromkeys(key for key, _ in records))
    packed = b"".join(field(1, key.encode()) for key in keys)
    for key, data in records:
        packed += field(3, varint(1 << 3) + varint(keys.index(key)) + field(3, data))
    packed = b"\xf3\x89\x9a\xc2" + packed + hashlib.md5(packed).digest()
    client.put_record(StreamName=stream, PartitionKey=keys[0], Data=packed)
elif command == "reshard":
    reshard(random.Random(int(arguments[0])))
elif command == "shards":
    for shard in shards():
        parents = [shard[name] for name in ("ParentShardId", "AdjacentParentShardId") if name in shard]
        iterator = client.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )
        records = client.get_records(ShardIterator=iterator["ShardIterator"])["Records"]
        print(json.dumps([shard["ShardId"], parents, [record["SequenceNumber"] for record in records]]))
else:
    sys.exit(f"there is no command {command}")
