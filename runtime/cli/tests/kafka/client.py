"""Kafka as others see it: topics made, filled and read by a client that is not Weir's.

    client.py ADDRESS create TOPIC PARTITIONS
    client.py ADDRESS fill TOPIC FIRST COUNT KEYS      records {"id", "k", "amount", "at"}, ids from FIRST on
    client.py ADDRESS extend TOPIC PARTITIONS          a topic gets more partitions
    client.py ADDRESS compacted TOPIC PARTITIONS       as create, of a topic that keeps the latest message of a key
    client.py ADDRESS put TOPIC FILE                   messages, a JSON array [partition, key, value] a line
    client.py ADDRESS avro TOPIC FILE                  Avro messages, a JSON array [number or null, schema, record] a line
    client.py ADDRESS read TOPIC                       committed messages, a JSON array [partition, offset, key, value] a line
    client.py ADDRESS group GROUP TOPIC                the sum of the group's committed offsets
"""

import io
import json
import struct
import sys
import uuid
from decimal import Decimal

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

ADDRESS, COMMAND, *ARGUMENTS = sys.argv[1:]
SECONDS = 60


def create(topic, partitions, **config):
    admin = AdminClient({"bootstrap.servers": ADDRESS})
    admin.create_topics([NewTopic(topic, int(partitions), 1, config=config)])[topic].result(SECONDS)


def compacted(topic, partitions):
    create(topic, partitions, **{"cleanup.policy": "compact"})


def extend(topic, partitions):
    admin = AdminClient({"bootstrap.servers": ADDRESS})
    admin.create_partitions([NewPartitions(topic, int(partitions))])[topic].result(SECONDS)


def put(topic, path, batch=10_000):
    producer = Producer({"bootstrap.servers": ADDRESS, "batch.num.messages": int(batch)})
    with open(path) as lines:
        for line in lines:
            partition, key, value = json.loads(line)
            producer.produce(topic, value, key=key, partition=partition)
    if producer.flush(SECONDS):
        sys.exit("not everything was delivered")


def fill(topic, first, count, keys):
    producer = Producer({"bootstrap.servers": ADDRESS, "linger.ms": 20, "queue.buffering.max.messages": 2_000_000})
    for number in range(int(first), int(first) + int(count)):
        key = f"k{number % int(keys)}"
        record = {"id": number, "k": key, "amount": number % 97, "at": 1_700_000_000_000 + number}
        producer.produce(topic, json.dumps(record), key=key)
    if producer.flush(SECONDS):
        sys.exit("not everything was delivered")


def avro(topic, path):
    import fastavro

    producer = Producer({"bootstrap.servers": ADDRESS})
    with open(path) as lines:
        for line in lines:
            number, schema, record = json.loads(line, object_hook=lambda o: Decimal(o["decimal"]) if "decimal" in o else o)
            body = io.BytesIO()
            # As Confluent's serializers write it.
            if number is not None:
                body.write(struct.pack(">bI", 0, number))
            fastavro.schemaless_writer(body, fastavro.parse_schema(schema), record)
            producer.produce(topic, body.getvalue())
    if producer.flush(SECONDS):
        sys.exit("not everything was delivered")


def read_avro(topic, path):
    """Values that begin with a number by its schema in the file, others by the schema `null`."""
    import fastavro

    schemas = {number: fastavro.parse_schema(schema) for number, schema in json.load(open(path)).items()}

    def decoded(value):
        magic, number = struct.unpack(">bI", value[:5])
        is_numbered = magic == 0 and str(number) in schemas
        body = io.BytesIO(value[5:] if is_numbered else value)
        record = fastavro.schemaless_reader(body, schemas[str(number) if is_numbered else "null"], None)
        if body.read():
            sys.exit(f"bytes are left behind a record: {value}")
        return json.dumps(record, default=lambda value: value.hex() if isinstance(value, bytes) else str(value))

    read(topic, decoded)


def read(topic, shown=bytes.decode):
    consumer = Consumer({
        "bootstrap.servers": ADDRESS,
        "group.id": uuid.uuid4().hex,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    })
    partitions = consumer.list_topics(topic, timeout=SECONDS).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    ended = set()
    while len(ended) < len(partitions):
        message = consumer.poll(SECONDS)
        if message is None:
            sys.exit("the broker does not answer")
        if message.error() is None:
            text = lambda part: None if part is None else part.decode()
            place = [message.partition(), message.offset()]
            value = message.value()
            print(json.dumps(place + [text(message.key()), None if value is None else shown(value)]))
        elif message.error().code() == -191:  # _PARTITION_EOF
            ended.add(message.partition())
        else:
            raise KafkaException(message.error())
    consumer.close()


def group(name, topic):
    consumer = Consumer({"bootstrap.servers": ADDRESS, "group.id": name})
    partitions = consumer.list_topics(topic, timeout=SECONDS).topics[topic].partitions
    places = consumer.committed([TopicPartition(topic, partition) for partition in partitions], SECONDS)
    print(sum(place.offset for place in places if place.offset > 0))
    consumer.close()


COMMANDS = {
    "avro": avro,
    "compacted": compacted,
    "create": create,
    "extend": extend,
    "fill": fill,
    "group": group,
    "put": put,
    "read": read,
    "read_avro": read_avro,
}
COMMANDS[COMMAND](*ARGUMENTS)
