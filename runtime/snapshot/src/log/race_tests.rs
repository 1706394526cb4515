//! Several coordinators at once, on a storage that fails, delays and loses responses, with crashes anywhere:
//! there is one history, and whatever a coordinator was told is in it.

use super::*;
use crate::folder::log_entry_number;
use crate::history::{Restorable, list_checkpoints};
use crate::retention::SweepScope;
use crate::storage::{
    FaultPlan, FaultRates, FaultyStorage, MemoryStorage, ObjectInfo, ObjectPath, PutOutcome, Storage, Upload,
};
use crate::testing::*;
use async_trait::async_trait;
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use weir_model::CheckpointId;

const COORDINATORS: u64 = 3;
const OPENINGS_EACH: u32 = 4;
const CHECKPOINTS_EACH: u64 = 6;

#[test]
fn there_is_one_history() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    // WEIR_SEED: this one; WEIR_SEEDS: so many, for a longer search.
    let seeds = match number("WEIR_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WEIR_SEEDS").unwrap_or(200),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}; again: WEIR_SEED={seed} cargo test -p weir-snapshot there_is_one_history");
            std::panic::resume_unwind(panic);
        }
    }
}

fn run(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let recording = Arc::new(Recording::default());
        let mut told = vec![];
        let coordinators = (0..COORDINATORS).map(|name| {
            let storage = troubled(recording.clone(), seed * COORDINATORS + name);
            tokio::spawn(coordinate(storage, name, ChaCha8Rng::seed_from_u64(seed * 1000 + name)))
        });
        for coordinator in coordinators.collect::<Vec<_>>() {
            told.extend(coordinator.await.unwrap());
        }
        let truth = recording.truth();
        check_order(&truth);
        check_told(&truth, &told);
        let storage: Arc<dyn Storage> = recording.clone();
        let listed = list_checkpoints(&job_folder(storage)).await.unwrap();
        assert_eq!(listed.broken, []);
        for summary in &listed.checkpoints {
            assert_eq!(summary.restorable, Restorable::Yes, "checkpoint {}", summary.checkpoint);
        }
        let newest = truth.values().rev().find_map(|entry| entry.manifest()).map(|manifest| manifest.checkpoint);
        assert_eq!(listed.checkpoints.last().map(|summary| summary.checkpoint), newest);
    });
}

fn troubled(inner: Arc<dyn Storage>, seed: u64) -> Arc<dyn Storage> {
    let rates = FaultRates { fail_before: 0.04, fail_after: 0.06, delay: 0.3, ..Default::default() };
    let pauses = Mutex::new(ChaCha8Rng::seed_from_u64(seed));
    let delay = move |_: &crate::storage::Call| {
        // Mostly short; sometimes longer than everything that another does in its whole life.
        let turns = match pauses.lock().unwrap().random_range(0..20) {
            0 => 2_000,
            1..5 => 60,
            _ => 3,
        };
        let pause: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(turns_of_others(turns));
        pause
    };
    Arc::new(FaultyStorage::new(inner, FaultPlan::Seeded { seed, rates }).with_delay(Arc::new(delay)))
}

async fn turns_of_others(turns: u32) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// What one owner of the log was told is durable.
type Told = (WriterId, CheckpointId);

async fn coordinate(storage: Arc<dyn Storage>, name: u64, mut random: ChaCha8Rng) -> Vec<Told> {
    let told = Arc::new(Mutex::new(vec![]));
    for opening in 0..OPENINGS_EACH {
        let owner = WriterId::named(format!("coordinator-{name}-{opening}"));
        let life = live(storage.clone(), owner, told.clone(), ChaCha8Rng::seed_from_u64(random.random()));
        let crash_after = if random.random_bool(0.5) { random.random_range(1..400) } else { 20_000 };
        tokio::select! {
            biased;
            () = life => {}
            () = turns_of_others(crash_after) => {}
        }
    }
    Arc::try_unwrap(told).unwrap().into_inner().unwrap()
}

/// From the opening to being fenced, or to the last checkpoint.
async fn live(storage: Arc<dyn Storage>, owner: WriterId, told: Arc<Mutex<Vec<Told>>>, mut random: ChaCha8Rng) {
    let options = LogOptions { attempts: random.random_range(1..4), backoff_ms: 1, ..LogOptions::default() };
    let folder = job_folder(storage);
    let Ok(mut log) = CommitLog::open(folder, owner.clone(), options, 0, from_latest).await else { return };
    let mut base = match log.history().opened().and_then(|opened| opened.restored_from.clone()) {
        Some(RestorePoint::Checkpoint { checkpoint }) => log.history().checkpoint(checkpoint).unwrap().objects.clone(),
        _ => vec![],
    };
    let first = log.next_checkpoint().0;
    for next in first..first + CHECKPOINTS_EACH {
        // Some of the old objects are no longer needed; what is needed must still be there.
        base.retain(|_| random.random_bool(0.7));
        let manifest = manifest(log.epoch(), next, &base);
        match complete(&mut log, manifest, &keep(random.random_range(1..4))).await {
            Ok(checkpoint) => {
                told.lock().unwrap().push((owner.clone(), checkpoint));
                base = log.history().checkpoint(checkpoint).unwrap().objects.clone();
            }
            Err(LogError::Fenced { .. }) => return,
            Err(LogError::Broken(broken)) => panic!("nothing was broken: {broken:?}"),
            Err(LogError::Refused(reason)) => panic!("refused: {reason}"),
            Err(LogError::Unknown(_) | LogError::Storage(_)) => {}
        }
        let scope = if random.random_bool(0.3) { SweepScope::Everything } else { SweepScope::Trimmed };
        let _ = log.collect_garbage(scope).await;
    }
}

/// Epochs and checkpoints only ever grow, and every opening starts from what the log said until then.
fn check_order(truth: &BTreeMap<u64, LogEntry>) {
    let (mut epoch, mut newest, mut restore_point) = (Epoch(0), None, None);
    for (expected, (number, entry)) in (1..).zip(truth) {
        assert_eq!(*number, expected, "numbers have no gap");
        match &entry.record {
            LogRecord::Opened(opened) => {
                assert!(entry.epoch > epoch, "entry {number} opens epoch {} after {epoch}", entry.epoch);
                epoch = entry.epoch;
                assert_eq!(opened.restored_from, restore_point, "entry {number} starts from elsewhere");
            }
            LogRecord::CheckpointCompleted(manifest) => {
                assert_eq!(entry.epoch, epoch, "entry {number} is by a fenced coordinator");
                assert!(Some(manifest.checkpoint) > newest, "entry {number} completes {} again", manifest.checkpoint);
                newest = Some(manifest.checkpoint);
                restore_point = Some(RestorePoint::Checkpoint { checkpoint: manifest.checkpoint });
            }
            LogRecord::Closed(_) => panic!("nobody closes"),
        }
    }
}

fn check_told(truth: &BTreeMap<u64, LogEntry>, told: &[Told]) {
    for (owner, checkpoint) in told {
        let in_log = truth.values().any(|entry| {
            entry.owner == *owner && entry.manifest().is_some_and(|manifest| manifest.checkpoint == *checkpoint)
        });
        assert!(in_log, "{owner} was told that checkpoint {checkpoint} is durable, and it is not in the log");
    }
}

/// Notes every log entry that was created. The first under a number is the true one: a later one can only have been
/// created because the first was trimmed.
#[derive(Debug, Default)]
struct Recording {
    inner: MemoryStorage,
    created: Mutex<BTreeMap<u64, LogEntry>>,
}

impl Recording {
    fn truth(&self) -> BTreeMap<u64, LogEntry> {
        self.created.lock().unwrap().clone()
    }
}

#[async_trait]
impl Storage for Recording {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError> {
        self.inner.put(path, content).await
    }

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError> {
        let outcome = self.inner.put_if_absent(path, content.clone()).await?;
        let in_folder = path.relative_to(&ObjectPath::parse(JOB).unwrap()).unwrap();
        if let (PutOutcome::Created, Some(number)) = (outcome, log_entry_number(&in_folder)) {
            let entry = LogEntry::decode(number, &content).unwrap();
            self.created.lock().unwrap().entry(number).or_insert(entry);
        }
        Ok(outcome)
    }

    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError> {
        self.inner.upload(path).await
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError> {
        self.inner.get(path).await
    }

    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        self.inner.get_range(path, offset, length).await
    }

    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError> {
        self.inner.head(path).await
    }

    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError> {
        self.inner.list(folder, start_after, limit).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        self.inner.delete(path).await
    }

    async fn sweep_unfinished(&self, folder: &ObjectPath, older_than: Duration) -> Result<u64, StorageError> {
        self.inner.sweep_unfinished(folder, older_than).await
    }
}
