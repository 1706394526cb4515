"""Fills the topic `orders`, or shows what a reader of the topic `totals` sees. Needs confluent-kafka (pip install)."""

import json
import random
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

ADDRESS = {"bootstrap.servers": "127.0.0.1:9092"}


def fill():
    admin = AdminClient(ADDRESS)
    for made in admin.create_topics([NewTopic(name, 4, 1) for name in ("orders", "totals")]).values():
        if made.exception() and made.exception().args[0].name() != "TOPIC_ALREADY_EXISTS":
            raise made.exception()
    producer = Producer(ADDRESS)
    number = 0
    while True:
        order = {"id": number, "customer": random.choice("ABCDEFGH"), "cents": random.randint(100, 9999)}
        producer.produce("orders", json.dumps(order), key=order["customer"])
        producer.poll(0)
        number += 1
        time.sleep(0.001)


def show():
    settings = {"group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    consumer = Consumer(ADDRESS | settings)
    consumer.subscribe(["totals"])
    while True:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            print(message.key().decode(), message.value().decode(), flush=True)


try:
    {"fill": fill, "show": show}[sys.argv[1]]()
except KeyboardInterrupt:
    pass
