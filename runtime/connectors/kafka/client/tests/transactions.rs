//! What another process can do about a transaction, asked of a real broker (`WEIR_TEST_KAFKA`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use weir_kafka_client::records::RecordReader;
use weir_kafka_client::*;

const PATIENCE: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client as another process would have it. None: there is no broker to ask.
fn client() -> Option<Cluster> {
    let Ok(address) = std::env::var("WEIR_TEST_KAFKA") else {
        eprintln!("skipped: WEIR_TEST_KAFKA names no broker; `cargo xtask test` starts one");
        return None;
    };
    Some(Cluster::new(Options::new(&address, &BTreeMap::new()).unwrap()).unwrap())
}

fn options(compression: Compression) -> ProducerOptions {
    ProducerOptions { compression, batch_size_bytes: 1 << 10, delivery_timeout: PATIENCE }
}

/// A new topic with two partitions.
fn topic(cluster: &mut Cluster) -> String {
    let name = format!("client-{:08x}", rand::random::<u32>());
    cluster.create_topic(&name, 2, &[]).unwrap();
    let started = Instant::now();
    while cluster.topic(&name).is_err() {
        assert!(started.elapsed() < PATIENCE, "the topic does not appear");
        std::thread::yield_now();
    }
    name
}

fn producer(topic: &str, id: &str, timeout: Duration) -> Producer {
    Producer::transactional(client().unwrap(), options(Compression::None), topic, id, timeout).unwrap()
}

fn write(producer: &mut Producer, from: i32, to: i32) {
    for number in from..to {
        let text = number.to_string();
        producer.push(number % 2, 0, Some(text.as_bytes()), Some(text.as_bytes())).unwrap();
    }
}

/// All committed values of the topic.
fn read(topic: &str) -> Vec<i32> {
    let mut cluster = client().unwrap();
    // An end is decided before all partitions know of it.
    let started = Instant::now();
    while !cluster.ending_transactions(topic, PATIENCE).unwrap().is_empty() {
        assert!(started.elapsed() < PATIENCE, "a transaction does not come to its end");
        std::thread::yield_now();
    }
    let options = ConsumerOptions::new(&BTreeMap::new()).unwrap();
    let mut values = vec![];
    for partition in 0..2 {
        let ends = cluster.offsets(topic, &[partition], StartAt::Latest, Isolation::ReadCommitted, PATIENCE).unwrap();
        let mut offset = 0;
        while offset < ends[0] {
            for fetched in cluster.fetch(&options, &[FetchPosition { topic, partition, offset }]).unwrap() {
                assert_eq!(fetched.error, None);
                let mut reader = RecordReader::new(fetched.records, offset, fetched.aborted, true);
                while let Some(record) = reader.next_record().unwrap() {
                    assert_eq!(record.key, record.value);
                    values.push(std::str::from_utf8(record.value.unwrap()).unwrap().parse().unwrap());
                }
                offset = reader.next_offset();
            }
        }
    }
    values.sort_unstable();
    values
}

#[test]
fn another_process_commits_what_one_has_left() {
    let Some(mut other) = client() else { return };
    let topic = topic(&mut other);
    let mut first = producer(&topic, &topic, TIMEOUT);
    write(&mut first, 0, 100);
    let left = first.take_transaction().unwrap().unwrap();
    drop(first);

    assert_eq!(read(&topic), Vec::<i32>::new(), "nothing is visible before the commit");
    assert_eq!(other.outcome(&left, PATIENCE).unwrap(), Outcome::Open);
    let open: Vec<_> = other.open_transactions(&topic, PATIENCE).unwrap();
    assert_eq!(open.len(), 1);
    let next = other.end_transaction(&left, true, PATIENCE).unwrap();
    assert_eq!(read(&topic), Vec::from_iter(0..100));
    assert_eq!(other.end_transaction(&left, true, PATIENCE).unwrap(), next, "again is the same");
    assert_eq!(other.outcome(&left, PATIENCE).unwrap(), Outcome::Committed);
    match left.version {
        TransactionVersion::V1 => assert_eq!(next, left.identity),
        TransactionVersion::V2 => assert_ne!(next, left.identity),
    }
}

#[test]
fn ids_are_found_by_what_they_begin_with() {
    let Some(mut other) = client() else { return };
    let topic = topic(&mut other);
    // All that means something in a regular expression.
    let prefix = format!(r"{topic}.\+*?()|[a]{{1}}^$");
    for id in [format!("{prefix}1"), format!("{prefix}2"), format!("{topic}x1"), format!("a{prefix}1")] {
        drop(producer(&topic, &id, TIMEOUT));
    }
    let known = other.known_transactions(&prefix, PATIENCE).unwrap();
    let known: Vec<_> = known.into_iter().map(|listed| listed.transactional_id).collect();
    assert_eq!(known, [format!("{prefix}1"), format!("{prefix}2")]);
}

/// A commit that is repeated after its id was used again must commit nothing of what came later.
#[test]
fn a_repeated_commit_leaves_the_next_transaction_of_its_id_alone() {
    let Some(mut other) = client() else { return };
    let topic = topic(&mut other);
    let mut writer = producer(&topic, &topic, TIMEOUT);
    write(&mut writer, 0, 10);
    let first = writer.take_transaction().unwrap().unwrap();
    let next = other.end_transaction(&first, true, PATIENCE).unwrap();
    writer.begin(next, TIMEOUT).unwrap();
    write(&mut writer, 10, 20);
    let second = writer.take_transaction().unwrap().unwrap();

    let refused = other.end_transaction(&first, true, PATIENCE).unwrap_err();
    assert!(refused.is_fenced(), "{refused}");
    assert_eq!(other.outcome(&first, PATIENCE).unwrap(), Outcome::Committed);
    assert_eq!(other.outcome(&second, PATIENCE).unwrap(), Outcome::Open);
    assert_eq!(read(&topic), Vec::from_iter(0..10));
    other.end_transaction(&second, true, PATIENCE).unwrap();
    assert_eq!(read(&topic), Vec::from_iter(0..20));
}

#[test]
fn an_id_that_is_taken_over_loses_its_transaction_and_says_so() {
    let Some(mut other) = client() else { return };
    let topic = topic(&mut other);
    let mut writer = producer(&topic, &topic, TIMEOUT);
    write(&mut writer, 0, 10);
    let left = writer.take_transaction().unwrap().unwrap();
    other.init_producer(Some(&topic), TIMEOUT, PATIENCE).unwrap();

    assert!(other.end_transaction(&left, true, PATIENCE).unwrap_err().is_fenced());
    assert_eq!(other.outcome(&left, PATIENCE).unwrap(), Outcome::Aborted);
    assert!(other.open_transactions(&topic, PATIENCE).unwrap().is_empty());
    assert_eq!(read(&topic), Vec::<i32>::new());
    writer.push(0, 0, None, Some(b"late")).unwrap();
    assert!(writer.flush().unwrap_err().is_fenced(), "who was shut out writes nothing any more");
}

/// What a job finds that was away for longer than its transactions live.
#[test]
fn a_transaction_that_timed_out_is_known_to_be_lost() {
    let Some(mut other) = client() else { return };
    let topic = topic(&mut other);
    let mut writer = producer(&topic, &topic, Duration::from_secs(1));
    write(&mut writer, 0, 10);
    let left = writer.take_transaction().unwrap().unwrap();
    let started = Instant::now();
    while other.outcome(&left, PATIENCE).unwrap() == Outcome::Open {
        assert!(started.elapsed() < Duration::from_secs(60), "the broker never gives up on it");
        std::thread::sleep(Duration::from_millis(50));
    }
    let refused = other.end_transaction(&left, true, PATIENCE).unwrap_err();
    assert!(refused.is_fenced(), "{refused}");
    assert_eq!(other.outcome(&left, PATIENCE).unwrap(), Outcome::Aborted);
}

#[test]
fn what_is_compressed_is_read_back() {
    let Some(mut cluster) = client() else { return };
    for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let topic = topic(&mut cluster);
        let mut producer = Producer::idempotent(client().unwrap(), options(compression), &topic).unwrap();
        write(&mut producer, 0, 500);
        producer.flush().unwrap();
        assert_eq!(producer.acknowledged().records, 500);
        assert_eq!(read(&topic), Vec::from_iter(0..500), "{compression:?}");
    }
}

#[test]
fn offsets_of_a_group_come_back() {
    let Some(mut cluster) = client() else { return };
    let topic = topic(&mut cluster);
    cluster.commit_offsets(&topic, &[(topic.clone(), 1, 42)], PATIENCE).unwrap();
    assert_eq!(cluster.committed_offsets(&topic, &topic, &[0, 1], PATIENCE).unwrap(), [None, Some(42)]);
}

#[test]
fn a_broker_tells_its_limit_of_transactions() {
    let Some(mut cluster) = client() else { return };
    let limit = cluster.broker_setting("transaction.max.timeout.ms").unwrap();
    assert!(limit.is_some_and(|limit| limit.parse::<u64>().is_ok()));
    let topic = topic(&mut cluster);
    let too_long =
        Producer::transactional(cluster, options(Compression::None), &topic, &topic, Duration::from_secs(100_000));
    assert_eq!(too_long.err().and_then(|error| error.code()), Some(ResponseError::InvalidTransactionTimeout));
}
