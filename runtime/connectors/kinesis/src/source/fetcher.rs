//! The thread beside a reader: asks for the records of each shard that was begun, and looks for new shards.

use super::KinesisSourceConfig;
use crate::client::{Listing, Place, Read, Shard, StreamClient};
use crate::failure::Failure;
use aws_sdk_kinesis::types::Record;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use weir_connectors::api::ConnectorError;

/// Answers that are asked for or wait to be decoded: with the largest of them 80 MB.
const MAX_ANSWERS: usize = 8;
/// After this long without an answer for a shard the attempt fails: the restart strategy decides what follows.
const MAX_SILENCE: Duration = Duration::from_secs(60);
/// After a failure that may pass, beside the SDK's own pauses.
const PAUSE: Duration = Duration::from_millis(500);
/// Of a shard that has not been read yet.
const LAG_UNKNOWN: i64 = -1;

/// What the thread tells its reader, in the order in which it came about.
pub(super) enum News {
    Chunk(Chunk),
    /// Shards that came after those that were known.
    Listed(Vec<Shard>),
    Failed(ConnectorError),
}

/// What one read gave of one shard.
pub(super) struct Chunk {
    /// Its number in the reader.
    pub(super) split: usize,
    pub(super) records: std::vec::IntoIter<Record>,
    /// The shard is closed, and has no more records.
    pub(super) is_last: bool,
    /// Nothing waits to be read.
    pub(super) is_caught_up: bool,
    _room: OwnedSemaphorePermit,
}

/// How far behind each shard's end the last read was, in milliseconds, by the shard's number in the reader.
#[derive(Clone, Default)]
struct Lags(Arc<Mutex<Vec<Arc<AtomicI64>>>>);

impl Lags {
    fn of(&self, split: usize) -> Arc<AtomicI64> {
        let mut lags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while lags.len() <= split {
            lags.push(Arc::new(AtomicI64::new(LAG_UNKNOWN)));
        }
        Arc::clone(&lags[split])
    }
}

struct Begin {
    split: usize,
    shard: String,
    place: Place,
}

pub(super) struct Fetcher {
    news: mpsc::Receiver<News>,
    begins: Option<mpsc::UnboundedSender<Begin>>,
    lags: Lags,
    thread: Option<JoinHandle<()>>,
}

impl Fetcher {
    /// `latest`: the last shard that is known. None: new ones are not looked for.
    pub(super) fn start(
        runtime: Runtime,
        client: StreamClient,
        config: &Arc<KinesisSourceConfig>,
        name: &str,
        latest: Option<String>,
    ) -> Result<Self, ConnectorError> {
        let (to_reader, news) = mpsc::channel(MAX_ANSWERS);
        // Its bound is the number of shards.
        let (begins, wanted) = mpsc::unbounded_channel();
        let lags = Lags::default();
        let shared = Arc::new(Shared {
            client,
            config: Arc::clone(config),
            name: name.to_owned(),
            room: Arc::new(Semaphore::new(MAX_ANSWERS)),
            to_reader,
            latest: tokio::sync::Mutex::new(latest),
            lags: lags.clone(),
        });
        let thread = std::thread::Builder::new().name(format!("kinesis {name}"));
        let thread = thread.spawn(move || runtime.block_on(run(shared, wanted)));
        let thread = thread.map_err(|error| ConnectorError::Transient(format!("cannot start a thread: {error}")))?;
        Ok(Fetcher { news, begins: Some(begins), lags, thread: Some(thread) })
    }

    pub(super) fn begin(&self, split: usize, shard: &str, place: Place) {
        // Without the thread there are no news either, which says so.
        if let Some(begins) = &self.begins {
            begins.send(Begin { split, shard: shard.to_owned(), place }).ok();
        }
    }

    /// What there is now.
    pub(super) fn next(&mut self) -> Option<News> {
        match self.news.try_recv() {
            Ok(news) => Some(news),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => {
                let reason = "the thread that reads the stream has ended".to_owned();
                Some(News::Failed(ConnectorError::Transient(reason)))
            }
        }
    }

    /// How far behind the end of a shard the last read of it was. None: it has not been read yet.
    pub(super) fn behind_ms(&self, split: usize) -> Option<u64> {
        u64::try_from(self.lags.of(split).load(Ordering::Relaxed)).ok()
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.begins = None;
        self.news.close();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Shared {
    client: StreamClient,
    config: Arc<KinesisSourceConfig>,
    /// The step's.
    name: String,
    room: Arc<Semaphore>,
    to_reader: mpsc::Sender<News>,
    latest: tokio::sync::Mutex<Option<String>>,
    lags: Lags,
}

/// Until the reader is gone.
async fn run(shared: Arc<Shared>, mut wanted: mpsc::UnboundedReceiver<Begin>) {
    let mut reading = JoinSet::new();
    let discovering = shared.latest.lock().await.is_some();
    if discovering {
        reading.spawn(discover(Arc::clone(&shared)));
    }
    while let Some(begin) = wanted.recv().await {
        reading.spawn(read_shard(Arc::clone(&shared), begin));
    }
    reading.shutdown().await;
}

async fn discover(shared: Arc<Shared>) {
    let mut answered = Instant::now();
    loop {
        sleep(shared.config.discovery_interval).await;
        match shared.list_new().await {
            Ok(()) => answered = Instant::now(),
            Err(failure) => {
                if shared.is_over(&failure, answered, "looking for new shards").await {
                    return;
                }
            }
        }
    }
}

async fn read_shard(shared: Arc<Shared>, Begin { split, shard, mut place }: Begin) {
    let mut answered = Instant::now();
    let mut iterator = None;
    let mut said_caught_up = false;
    let lag = shared.lags.of(split);
    loop {
        let Ok(room) = Arc::clone(&shared.room).acquire_owned().await else { return };
        let next_read = Instant::now() + shared.config.read_interval;
        let Read { records, next, behind_ms } = match shared.read(&shard, &mut iterator, &mut place).await {
            Ok(read) => read,
            // The place says where the next one begins.
            Err(Failure::Expired) if answered.elapsed() < MAX_SILENCE => {
                iterator = None;
                sleep_until(next_read).await;
                continue;
            }
            Err(failure) => {
                drop(room);
                if shared.is_over(&failure, answered, &format!("reading {shard}")).await {
                    return;
                }
                continue;
            }
        };
        answered = Instant::now();
        lag.store(behind_ms, Ordering::Relaxed);
        if let Some(last) = records.last() {
            place = Place::After(last.sequence_number().to_owned());
        }
        let is_last = next.is_none();
        iterator = next;
        if is_last && !shared.config.bounded {
            // The reader should know the children when it hears of their parent's end. It hears of them sooner or later.
            if let Err(failure) = shared.list_new().await {
                tracing::debug!(source = shared.name, shard, ?failure, "the children of a shard could not be listed");
            }
        }
        let is_caught_up = records.is_empty() && behind_ms == 0;
        if !records.is_empty() || is_last || (is_caught_up && !said_caught_up) {
            said_caught_up = is_caught_up;
            let records = records.into_iter();
            let chunk = Chunk { split, records, is_last, is_caught_up, _room: room };
            if shared.to_reader.send(News::Chunk(chunk)).await.is_err() {
                return;
            }
        } else {
            drop(room);
        }
        if is_last {
            return;
        }
        sleep_until(next_read).await;
    }
}

impl Shared {
    async fn read(&self, shard: &str, iterator: &mut Option<String>, place: &mut Place) -> Result<Read, Failure> {
        let at = match iterator {
            Some(iterator) => iterator,
            None => {
                let found = self.client.iterator(shard, place).await?;
                iterator.insert(found)
            }
        };
        self.client.read(at, self.config.records_per_read).await
    }

    async fn list_new(&self) -> Result<(), Failure> {
        // One after the other, so that a shard is told of once.
        let mut latest = self.latest.lock().await;
        let Some(after) = latest.as_deref() else { return Ok(()) };
        let new = self.client.shards(Listing::After(after)).await?;
        if let Some(last) = new.last() {
            *latest = Some(last.id.clone());
            self.to_reader.send(News::Listed(new)).await.ok();
        }
        Ok(())
    }

    /// Whether to give up, which the reader has then been told; else it has waited for a while.
    async fn is_over(&self, failure: &Failure, answered: Instant, doing: &str) -> bool {
        let what = format!("source `{}`, {doing}", self.name);
        let error = match failure {
            Failure::Transient(reason) if answered.elapsed() < MAX_SILENCE => {
                tracing::debug!(source = self.name, doing, reason, "a request failed, trying again");
                sleep(PAUSE).await;
                return self.to_reader.is_closed();
            }
            failure => failure.clone().of(what),
        };
        self.to_reader.send(News::Failed(error)).await.ok();
        true
    }
}
