"""Makes topics, and watches a job from outside: how long a record takes from its producer to a read_committed consumer.

    observer.py BROKER create TOPIC PARTITIONS
    observer.py BROKER delete TOPIC...
    observer.py BROKER latency INPUT OUTPUT RATE KEYS WARM_UP SECONDS

A record says when it was made, and the job hands that on. The last command prints one line of JSON.
"""

import json
import random
import sys
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

# Records are made in bunches of so many seconds.
TICK = 0.005
# How long the last records are waited for.
PATIENCE = 30


def create(broker, topic, partitions):
    admin = AdminClient({"bootstrap.servers": broker})
    for future in admin.create_topics([NewTopic(topic, int(partitions), 1)]).values():
        future.result()


def delete(broker, *topics):
    admin = AdminClient({"bootstrap.servers": broker})
    for future in admin.delete_topics(list(topics)).values():
        future.result()


def produce(broker, topic, rate, keys, seconds):
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 0, "acks": "all"})
    numbers = random.Random(7)
    began = time.time()
    sent = 0
    while (now := time.time()) < began + seconds:
        # As many as the clock says, however long the last bunch took.
        for _ in range(int((now - began) * rate) - sent):
            record = '{"k":%d,"t":%d}' % (numbers.randrange(keys), time.time() * 1e6)
            producer.produce(topic, record.encode())
            sent += 1
        producer.poll(0)
        time.sleep(TICK)
    producer.flush()


def latency(broker, source, sink, rate, keys, warm_up, seconds):
    rate, keys, warm_up, seconds = int(rate), int(keys), float(warm_up), float(seconds)
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "observer-" + sink,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    partitions = consumer.list_topics(sink, timeout=PATIENCE).topics[sink].partitions
    consumer.assign([TopicPartition(sink, number, 0) for number in partitions])
    began = time.time()
    first, last = (began + warm_up) * 1e6, (began + warm_up + seconds) * 1e6
    # A second more, so that the window's last records are not the last of all.
    producing = threading.Thread(target=produce, args=(broker, source, rate, keys, warm_up + seconds + 1))
    producing.start()
    latencies = []
    while time.time() < began + warm_up + seconds + PATIENCE:
        messages = consumer.consume(1000, timeout=0.05)
        now = time.time() * 1e6
        made = [json.loads(message.value())["t"] for message in messages if message.error() is None]
        latencies.extend(now - at for at in made if first <= at < last)
        # Each partition is in order; a bunch beyond the window from one of them may come before another's last ones.
        if not producing.is_alive() and not messages and now > last + 5e6:
            break
    producing.join()
    latencies.sort()
    if not latencies:
        sys.exit("nothing came out of the job")
    at = lambda share: latencies[min(len(latencies) - 1, int(len(latencies) * share))] / 1000
    print(json.dumps({"seen": len(latencies), "p50_ms": at(0.5), "p99_ms": at(0.99), "worst_ms": at(1)}))


if __name__ == "__main__":
    broker, command, *arguments = sys.argv[1:]
    {"create": create, "delete": delete, "latency": latency}[command](broker, *arguments)
