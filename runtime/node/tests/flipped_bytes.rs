//! Each byte of everything that a small checkpoint consists of, flipped: the job that starts from it names the object
//! and does nothing (nor commits what the checkpoint had prepared: that waits until its state has been read), or (where
//! the byte is one that no restore reads) ends with the right result. Never a wrong state.

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use weir_connectors::api::{
    Committable, Committer, CommitterContext, ConnectorError, Guarantee, Sink, SinkContext, SinkSnapshot, SinkWriter,
};
use weir_model::{CheckpointId, CommitPermit};
use weir_node::job::load_text;
use weir_node::{Job, LocalJob, Outcome, Registry, Request, StartFrom, StopMode};
use weir_snapshot::storage::{MemoryStorage, list_all};
use weir_snapshot::{ObjectPath, Storage};

const ROWS: i64 = 600;
const USERS: i64 = 3;
const THREADS: usize = 4;

type Totals = BTreeMap<i64, (i64, i64)>;

/// What the sink was given, and was told to make visible.
#[derive(Default)]
struct Seen {
    totals: Totals,
    commits: usize,
}

#[test]
fn every_byte_of_a_checkpoint_is_checked_by_the_restore() {
    let objects = stopped_job();
    let bytes: Vec<(usize, usize)> = objects
        .iter()
        .enumerate()
        .flat_map(|(object, (_, content))| (0..content.len()).map(move |at| (object, at)))
        .collect();
    let segments = objects.iter().filter(|(path, _)| path.as_str().ends_with(".data")).count();
    assert!(segments > 0 && objects.len() > segments, "{objects:?}");
    assert_eq!(restored(&objects), Ok(expected()), "as it was written it restores");

    let (next, unread) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(&(object, at)) = bytes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut harmed = objects.clone();
                    let (path, content) = &mut harmed[object];
                    let mut flipped = content.to_vec();
                    flipped[at] ^= 1 << (at % 8);
                    *content = flipped.into();
                    let path = path.clone();
                    match restored(&harmed) {
                        Err(reason) => {
                            let name = path.as_str().trim_start_matches("small/");
                            assert!(reason.contains(name), "byte {at} of {path}: {reason}");
                        }
                        Ok(totals) => {
                            assert_eq!(totals, expected(), "byte {at} of {path} changed the state unseen");
                            unread.lock().expect("no thread panicked").insert((path, at));
                        }
                    }
                }
            });
        }
    });
    let unread = unread.into_inner().expect("no thread panicked");
    println!("{} bytes of {} objects; {} of them are read by no restore", bytes.len(), objects.len(), unread.len());
    let of_log: Vec<_> = unread.iter().filter(|(path, _)| path.as_str().contains("/log/")).collect();
    assert!(of_log.is_empty(), "bytes of the commit log that changed unseen: {of_log:?}");
    assert!(unread.len() * 10 < bytes.len(), "most of a checkpoint is not read: {unread:?}");
}

/// What stands on storage of a job that was stopped half-way.
fn stopped_job() -> Vec<(ObjectPath, Bytes)> {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let (small, _) = job(Some(ROWS as u64));
    let local = LocalJob::start_on(small, &StartFrom::Latest, storage.clone()).expect("it starts");
    let (requests, status) = (local.requests(), local.status());
    let stopper = std::thread::spawn(move || {
        let began = Instant::now();
        while !status.lock().checkpoints.iter().any(|line| line.failure.is_none()) {
            assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint within a minute");
            std::thread::yield_now();
        }
        assert!(requests.send(Request::Stop(StopMode::Drain)), "the job ended before it was asked to");
    });
    assert_eq!(local.run(), Outcome::Stopped { savepoint: None });
    stopper.join().expect("the job was stopped");
    block_on(async {
        let mut objects = vec![];
        for info in list_all(&*storage, &ObjectPath::root()).await.expect("memory is listed") {
            objects.push((info.path.clone(), storage.get(&info.path).await.expect("memory is read")));
        }
        objects
    })
}

/// The result of the job that goes on from these objects.
fn restored(objects: &[(ObjectPath, Bytes)]) -> Result<Totals, String> {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    block_on(async {
        for (path, content) in objects {
            storage.put(path, content.clone()).await.expect("memory takes everything");
        }
    });
    let (small, seen) = job(None);
    let local = LocalJob::start_on(small, &StartFrom::Latest, storage).map_err(|error| error.to_string())?;
    match local.run() {
        Outcome::Finished => {
            let seen = seen.lock().expect("no writer panicked");
            assert!(seen.commits > 0, "what the checkpoint had prepared was not committed again");
            Ok(seen.totals.clone())
        }
        Outcome::Failed { reason } => {
            let seen = seen.lock().expect("no writer panicked");
            assert!(seen.totals.is_empty(), "records flowed before it failed: {reason}");
            assert_eq!(seen.commits, 0, "a checkpoint that cannot be read was committed again: {reason}");
            Err(reason)
        }
        other => panic!("nobody asked for {other:?}"),
    }
}

fn expected() -> Totals {
    (0..USERS)
        .map(|usr| {
            let ids: Vec<i64> = (0..ROWS).filter(|id| id % USERS == usr).collect();
            (usr, (ids.len() as i64, ids.iter().sum()))
        })
        .collect()
}

/// The job, and what its sink sees.
fn job(rows_per_second: Option<u64>) -> (Arc<Job>, Arc<Mutex<Seen>>) {
    let mut generator = json!({
        "count": ROWS,
        "columns": [{"name": "id", "sequence": {}}, {"name": "usr", "sequence": {"cardinality": USERS}}],
    });
    if let Some(rate) = rows_per_second {
        generator["rowsPerSecond"] = json!(rate);
    }
    let resource = json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": "small"},
        "spec": {
            "maxParallelism": 2,
            "pipeline": {
                "sources": [{
                    "name": "clicks",
                    "generator": generator,
                    "schema": [{"name": "id", "type": "BIGINT"}, {"name": "usr", "type": "BIGINT"}],
                }],
                "transforms": [{
                    "name": "totals",
                    "sql": "SELECT usr, COUNT(*) AS n, SUM(id) AS ids FROM clicks GROUP BY usr",
                }],
                "sinks": [{"name": "out", "from": "totals", "custom": {"type": "Collect"}}],
            },
            "checkpoint": {"interval": "50ms", "retain": {"count": 1}},
            "restart": {"none": {}},
        },
    });
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut registry = Registry::default();
    let collected = seen.clone();
    let collect = move |_: &str, _: &Value| Ok(Arc::new(Collect(collected.clone())) as Arc<dyn Sink>);
    registry.sinks.insert("Collect".to_owned(), Arc::new(collect));
    let loaded = load_text(resource.to_string(), PathBuf::from("/"), Arc::new(registry), |_| Ok(()));
    let problems: Vec<String> = loaded.diagnostics.iter().map(|found| format!("{found:?}")).collect();
    (Arc::new(loaded.job.unwrap_or_else(|| panic!("the test's job is wrong: {problems:#?}"))), seen)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

struct Collect(Arc<Mutex<Seen>>);

impl Sink for Collect {
    fn check(&self, _input: &SchemaRef) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn writer(
        &self,
        _context: SinkContext,
        _restored: Vec<(u32, Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(Collect(self.0.clone())))
    }

    fn committer(&self, _context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        Ok(Some(Box::new(Collect(self.0.clone()))))
    }
}

impl Committer for Collect {
    fn commit(&mut self, _permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError> {
        self.0.lock().expect("no writer panicked").commits += committables.len();
        Ok(())
    }

    fn abort_others(&mut self, _committed: &[Committable], _writers: &[Value]) -> Result<(), ConnectorError> {
        Ok(())
    }
}

impl SinkWriter for Collect {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let column = |index: usize| batch.column(index).as_primitive::<Int64Type>();
        let (usr, n, ids) = (column(0), column(1), column(2));
        let totals = &mut self.0.lock().expect("no writer panicked").totals;
        for row in 0..batch.num_rows() {
            // Counts only grow: the highest is the last.
            let found = (n.value(row), ids.value(row));
            let last = totals.entry(usr.value(row)).or_insert(found);
            *last = found.max(*last);
        }
        Ok(())
    }

    fn pre_commit(&mut self, checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        Ok(SinkSnapshot { committables: vec![Committable(json!(checkpoint.0))], writer: None })
    }
}
