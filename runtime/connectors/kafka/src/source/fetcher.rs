//! The thread beside a reader: fetches ahead, looks for new partitions, commits the group's offsets.

use super::partitions::{self, Position, Split, begin, owner, split_name};
use super::{KafkaSourceConfig, Start};
use crate::failure::connector_error;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weir_connectors::api::{ConnectorError, SourceContext};
use weir_kafka_client::records::{Aborted, end_of};
use weir_kafka_client::{Cluster, ConsumerOptions, FetchPosition, Fetched, Isolation, KafkaError, ResponseError};

/// Responses of one partition that wait to be decoded: with the largest of them 16 MiB.
const MAX_CHUNKS: usize = 8;
/// After this long without any answer the attempt fails: the restart strategy decides what follows.
const MAX_SILENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at whether the reader is gone, while it has no room.
const FULL_PAUSE: Duration = Duration::from_millis(1);
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

/// What the thread tells its reader, in the order in which it came about.
pub(super) enum News {
    Chunk(Chunk),
    NewSplit(Split),
    Failed(ConnectorError),
}

/// What one fetch gave of one partition.
pub(super) struct Chunk {
    /// Its number in the reader.
    pub(super) split: usize,
    pub(super) records: bytes::Bytes,
    pub(super) aborted: Vec<Aborted>,
    /// That of the fetch.
    pub(super) offset: i64,
}

/// Offsets that the group's coordinator is to be told, the latest only: earlier ones are in it.
type ToCommit = Arc<Mutex<Option<Vec<(String, i32, i64)>>>>;

/// Where each partition ended when it was last asked, by its number in the reader; None before the first answer.
type Ends = Arc<Mutex<Vec<Option<i64>>>>;

pub(super) struct Fetcher {
    news: Receiver<News>,
    to_commit: ToCommit,
    ends: Ends,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fetcher {
    pub(super) fn start(
        cluster: Cluster,
        config: Arc<KafkaSourceConfig>,
        options: ConsumerOptions,
        context: SourceContext,
        splits: &[Split],
    ) -> Result<Self, ConnectorError> {
        let (to_reader, news) = sync_channel(MAX_CHUNKS);
        let to_commit = ToCommit::default();
        let ends: Ends = Arc::new(Mutex::new(vec![None; splits.len()]));
        let is_over = Arc::new(AtomicBool::new(false));
        let known = splits.iter().map(|split| split_name(&split.topic, split.partition)).collect();
        let splits = splits.iter().cloned().map(|split| Fetching { next: split.position.offset, split }).collect();
        let name = format!("kafka {}", context.name);
        let worker = Worker {
            cluster,
            config,
            options,
            context,
            splits,
            known,
            first: 0,
            discovered: Instant::now(),
            to_reader,
            to_commit: Arc::clone(&to_commit),
            ends: Arc::clone(&ends),
            is_over: Arc::clone(&is_over),
        };
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run());
        let thread = thread.map_err(|error| ConnectorError::Transient(format!("cannot start a thread: {error}")))?;
        Ok(Fetcher { news, to_commit, ends, is_over, thread: Some(thread) })
    }

    /// What there is now, or within `wait`.
    pub(super) fn next(&self, wait: Duration) -> Option<News> {
        self.news.recv_timeout(wait).ok()
    }

    /// Records between a position, by its split's number, and where the partition ended last. None: that is not known.
    pub(super) fn behind(&self, positions: impl Iterator<Item = Position>) -> Vec<Option<u64>> {
        let ends = self.ends.lock().expect("nobody panics while holding the ends");
        let behind = |(number, position): (usize, Position)| {
            if position.is_at_end() {
                return Some(0);
            }
            let end = ends.get(number).copied().flatten()?;
            let end = position.end.map_or(end, |own| own.min(end));
            Some(u64::try_from(end - position.offset).unwrap_or(0))
        };
        positions.enumerate().map(behind).collect()
    }

    /// Offsets for the group's coordinator; best effort.
    pub(super) fn commit(&self, offsets: Vec<(String, i32, i64)>) {
        *self.to_commit.lock().expect("nobody panics while holding the offsets") = Some(offsets);
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Fetching {
    split: Split,
    next: i64,
}

struct Worker {
    cluster: Cluster,
    config: Arc<KafkaSourceConfig>,
    options: ConsumerOptions,
    context: SourceContext,
    /// By their number in the reader.
    splits: Vec<Fetching>,
    known: HashSet<String>,
    /// Which split is asked for first: a response holds only so much.
    first: usize,
    discovered: Instant,
    to_reader: SyncSender<News>,
    to_commit: ToCommit,
    ends: Ends,
    is_over: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self) {
        let mut answered = Instant::now();
        while !self.is_over() {
            self.commit_offsets();
            let done = self.discover().and_then(|()| self.fetch());
            match done {
                Ok(true) => answered = Instant::now(),
                // Nothing to ask for: all has been read, or no partition is ours.
                Ok(false) => {
                    answered = Instant::now();
                    std::thread::sleep(PAUSE);
                }
                Err(Failure::Gone) => return,
                Err(Failure::Kafka(error)) if error.is_retriable() && answered.elapsed() < MAX_SILENCE => {
                    tracing::debug!(source = self.context.name, %error, "a fetch failed, trying again");
                    self.cluster.forget_leaders();
                    std::thread::sleep(PAUSE);
                }
                Err(Failure::Kafka(error)) => {
                    let context = format!("source `{}`", self.context.name);
                    self.tell(News::Failed(connector_error(&context, &error))).ok();
                    return;
                }
                Err(Failure::Lost(error)) => {
                    self.tell(News::Failed(error)).ok();
                    return;
                }
            }
        }
        self.commit_offsets();
    }

    /// Whether there was anything to ask for.
    fn fetch(&mut self) -> Result<bool, Failure> {
        let count = self.splits.len();
        let order: Vec<usize> = (0..count).map(|at| (self.first + at) % count).collect();
        self.first = self.first.wrapping_add(1) % count.max(1);
        let is_read = |fetching: &Fetching| fetching.split.position.end.is_some_and(|end| fetching.next >= end);
        let positions: Vec<FetchPosition<'_>> = (order.iter().map(|at| &self.splits[*at]))
            .filter(|fetching| !is_read(fetching))
            .map(|fetching| FetchPosition {
                topic: &fetching.split.topic,
                partition: fetching.split.partition,
                offset: fetching.next,
            })
            .collect();
        if positions.is_empty() {
            return Ok(false);
        }
        for fetched in self.cluster.fetch(&self.options, &positions)? {
            self.take(fetched)?;
        }
        Ok(true)
    }

    fn take(&mut self, fetched: Fetched) -> Result<(), Failure> {
        let Fetched { topic, partition, offset, error, records, aborted, .. } = fetched;
        let Fetched { high_watermark, last_stable_offset, log_start_offset, .. } = fetched;
        match error {
            None => {}
            Some(ResponseError::OffsetOutOfRange) => {
                return Err(Failure::Lost(ConnectorError::Permanent(format!(
                    "source `{}`: offset {offset} of {topic}, partition {partition}, is not there (it begins with \
                     {log_start_offset}): retention has removed records that were not read, or the topic was made anew. \
                     Start with `--from none` and another startFrom, or from a checkpoint that fits",
                    self.context.name
                ))));
            }
            Some(code) if code.is_retriable() => {
                self.cluster.forget_leaders();
                return Ok(());
            }
            Some(code) => {
                let what = format!("reading {topic}, partition {partition}");
                return Err(Failure::Kafka(KafkaError::Broker { code, what }));
            }
        }
        let found = self
            .splits
            .iter_mut()
            .enumerate()
            .find(|(_, fetching)| fetching.split.partition == partition && fetching.split.topic == topic);
        let Some((split, fetching)) = found else { return Ok(()) };
        // Behind the stable one is what can't be read yet.
        let readable = match self.options.isolation {
            Isolation::ReadCommitted => last_stable_offset,
            Isolation::ReadUncommitted => high_watermark,
        };
        let mut ends = self.ends.lock().expect("nobody panics while holding the ends");
        if ends.len() <= split {
            ends.resize(split + 1, None);
        }
        ends[split] = Some(readable);
        drop(ends);
        let Some(end) = end_of(&records) else { return Ok(()) };
        fetching.next = end;
        self.tell(News::Chunk(Chunk { split, records, aborted, offset }))
    }

    /// Looks for partitions that weren't there, when it is time to.
    fn discover(&mut self) -> Result<(), Failure> {
        let Some(interval) = self.config.discovery_interval.filter(|_| !self.config.bounded) else { return Ok(()) };
        if self.discovered.elapsed() < interval {
            return Ok(());
        }
        let config = Arc::clone(&self.config);
        for topic in partitions::topics(&mut self.cluster, &config.topics)? {
            let parallelism = self.context.parallelism;
            let new: Vec<i32> = (topic.partitions.iter().map(|partition| partition.partition))
                .filter(|partition| owner(&topic.name, *partition, parallelism) == self.context.subtask)
                .filter(|partition| !self.known.contains(&split_name(&topic.name, *partition)))
                .collect();
            if new.is_empty() {
                continue;
            }
            // From their beginning, whatever `startFrom` says: they hold nothing that was there before the job.
            let isolation = self.options.isolation;
            for split in begin(&mut self.cluster, &config, isolation, &topic.name, &new, &Start::Earliest)? {
                tracing::info!(
                    source = self.context.name,
                    topic = split.topic,
                    partition = split.partition,
                    "new partition"
                );
                self.known.insert(split_name(&split.topic, split.partition));
                self.splits.push(Fetching { next: split.position.offset, split: split.clone() });
                self.tell(News::NewSplit(split))?;
            }
        }
        self.discovered = Instant::now();
        Ok(())
    }

    fn commit_offsets(&mut self) {
        let Some(group) = &self.config.group_id else { return };
        let offsets = self.to_commit.lock().expect("nobody panics while holding the offsets").take();
        let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else { return };
        if let Err(error) = self.cluster.commit_offsets(group, &offsets, COMMIT_PATIENCE) {
            tracing::warn!(source = self.context.name, group, %error, "offsets were not committed to the group");
        }
    }

    /// Waits for room.
    fn tell(&self, mut news: News) -> Result<(), Failure> {
        loop {
            match self.to_reader.try_send(news) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Failure::Gone),
                Err(TrySendError::Full(back)) => news = back,
            }
            if self.is_over() {
                return Err(Failure::Gone);
            }
            std::thread::sleep(FULL_PAUSE);
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

enum Failure {
    /// The reader.
    Gone,
    Kafka(KafkaError),
    Lost(ConnectorError),
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        Failure::Kafka(error)
    }
}
