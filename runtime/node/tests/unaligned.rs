//! Whole jobs whose sinks are far slower than their sources, with unaligned checkpoints, ended at random moments and
//! started again at other parallelisms, from checkpoints with rows in flight and from savepoints, which have none: the
//! output is that of an undisturbed run.
//!
//! `WEIR_UNALIGNED_SEED` repeats one run; `WEIR_UNALIGNED_RUNS` says how many there are.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{Int8Type, Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use weir_connectors::api::*;
use weir_model::{ChangeKind, CheckpointId, CommitPermit};
use weir_node::job::load_text;
use weir_node::{Job, LocalJob, Outcome, Registry, Request, StartFrom, StatusHandle, StopMode};
use weir_snapshot::Storage;
use weir_snapshot::storage::MemoryStorage;

const ROWS: i64 = 20_000;
const USERS: i64 = 40;
const PARALLELISMS: [u32; 4] = [1, 2, 3, 4];
const RUNS: u64 = 12;
const THREADS: u64 = 4;
/// What a sink takes for a row: the source is a thousand times as quick.
const WORK_OF_A_ROW: Duration = Duration::from_micros(25);

/// Whose rows are changes, with what they are last.
const UPDATING: [&str; 2] = ["sums-out", "counts-out"];

/// Rows of all sinks, by the sink's name, sorted; of changes what they come to.
type Output = BTreeMap<String, Vec<Vec<i64>>>;

/// How a life of the job ends before its input does.
#[derive(Clone, Copy, Debug)]
enum End {
    Cancel,
    /// With a savepoint, from which the next life starts on another storage.
    Savepoint,
}

#[test]
fn output_is_that_of_an_undisturbed_run() {
    let from_environment = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let repeated: Option<u64> = from_environment("WEIR_UNALIGNED_SEED");
    let first = repeated.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let runs = if repeated.is_some() { 1 } else { from_environment("WEIR_UNALIGNED_RUNS").unwrap_or(RUNS) };
    println!("{runs} runs, the first with seed {first}");
    let (next, in_flight) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= runs {
                        return;
                    }
                    in_flight.fetch_add(check(first + index), Ordering::Relaxed);
                }
            });
        }
    });
    let in_flight = in_flight.into_inner();
    println!("{in_flight} starts had rows in flight to begin with");
    assert!(in_flight > 0 || repeated.is_some(), "nothing was in flight: the sinks are not slow enough");
}

/// `alignedTimeout` passes while a sink still prepares.
#[test]
fn a_checkpoint_under_way_says_that_it_has_turned_unaligned() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gate = Gate::default();
    let settings = Settings { aligned_timeout_ms: Some(3), gate: gate.clone(), ..Settings::default() };
    let job = job(folder.path(), &Visible::default(), settings);
    let local = LocalJob::start_on(job, &StartFrom::Nothing, Arc::new(MemoryStorage::default())).expect("it starts");
    let (requests, status) = (local.requests(), local.status());
    let (shut, is_shut) = channel::<()>();
    let user = std::thread::spawn(move || {
        let held = gate.lock().expect("nobody panicked");
        shut.send(()).expect("the job waits for it");
        let began = Instant::now();
        let has_turned = || status.lock().under_way.iter().any(|shown| shown.is_unaligned);
        while !has_turned() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        let seen = status.lock().under_way.clone();
        drop(held);
        requests.send(Request::Stop(StopMode::Cancel));
        seen
    });
    is_shut.recv().expect("the gate is shut");
    assert_eq!(local.run(), Outcome::Cancelled);
    let seen = user.join().expect("the asking thread");
    let [one] = &seen[..] else { panic!("one checkpoint is under way, and waits for the gate: {seen:?}") };
    assert!(one.is_unaligned && one.turns_unaligned_ms.is_none() && !one.awaited.is_empty(), "{one:?}");
}

/// How many starts were from a checkpoint with rows in flight.
fn check(seed: u64) -> u64 {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let visible = Visible::default();
    let backend = if random.random_bool(0.5) { "heap" } else { "rocksdb" };
    let (mut from, mut story, mut with_in_flight) = (StartFrom::Latest, vec![backend.to_owned()], 0);
    for life in 0..random.random_range(1..5) {
        let parallelism = PARALLELISMS[random.random_range(0..PARALLELISMS.len())];
        let aligned_timeout_ms = [0, 0, 3][random.random_range(0..3)];
        let checkpoints = random.random_range(1..4);
        let end = if random.random_bool(0.75) { End::Cancel } else { End::Savepoint };
        let savepoint = folder.path().join(format!("savepoint-{life}"));
        story.push(format!("x{parallelism}, aligned for {aligned_timeout_ms} ms, {end:?} after {checkpoints}"));
        let settings =
            Settings { parallelism, backend, aligned_timeout_ms: Some(aligned_timeout_ms), ..Settings::default() };
        let job = job(folder.path(), &visible, settings);
        let local = LocalJob::start_on(job, &from, storage.clone());
        let local = local.unwrap_or_else(|error| panic!("WEIR_UNALIGNED_SEED={seed}: {error}: {story:?}"));
        from = StartFrom::Latest;
        let (outcome, in_flight_bytes) = live(local, checkpoints, end, &savepoint);
        story.push(format!("{in_flight_bytes} bytes in flight"));
        match outcome {
            Outcome::Cancelled => with_in_flight += u64::from(in_flight_bytes > 0),
            Outcome::Stopped { savepoint: Some(_) } => {
                from = StartFrom::Savepoint(savepoint.display().to_string());
                storage = Arc::new(MemoryStorage::default());
            }
            Outcome::Finished => break,
            other => panic!("WEIR_UNALIGNED_SEED={seed}: {other:?}: {story:?}"),
        }
    }
    let parallelism = PARALLELISMS[random.random_range(0..PARALLELISMS.len())];
    let aligned_timeout_ms = random.random_bool(0.5).then_some(0);
    story.push(format!("x{parallelism} to the end, aligned for {aligned_timeout_ms:?} ms"));
    let settings = Settings { parallelism, backend, aligned_timeout_ms, ..Settings::default() };
    match LocalJob::start_on(job(folder.path(), &visible, settings), &from, storage) {
        Ok(local) => assert_eq!(local.run(), Outcome::Finished, "WEIR_UNALIGNED_SEED={seed}: {story:?}"),
        Err(weir_node::StartError::AlreadyFinished) => {}
        Err(error) => panic!("WEIR_UNALIGNED_SEED={seed}: {error}: {story:?}"),
    }
    let found = output(&visible);
    for (name, expected) in expected() {
        let found = found.get(name).map_or(&[][..], |rows| &rows[..]);
        let missing: Vec<_> = expected.iter().filter(|row| found.binary_search(row).is_err()).take(5).collect();
        let foreign: Vec<_> = found.iter().filter(|row| expected.binary_search(row).is_err()).take(5).collect();
        assert!(
            found == expected.as_slice(),
            "WEIR_UNALIGNED_SEED={seed}: {name}: {} rows, and {} are expected; missing {missing:?}, wrong {foreign:?}; \
             {story:?}",
            found.len(),
            expected.len(),
        );
    }
    with_in_flight
}

/// Runs the job until it has completed so many checkpoints, and ends it so. With it, the bytes in flight of the last.
fn live(local: LocalJob, checkpoints: usize, end: End, savepoint: &Path) -> (Outcome, u64) {
    let (requests, status) = (local.requests(), local.status());
    let (ended, has_ended) = channel::<()>();
    let folder = savepoint.display().to_string();
    let user = std::thread::spawn(move || {
        while completed(&status).len() < checkpoints {
            if has_ended.recv_timeout(Duration::from_millis(1)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
        let request = match end {
            End::Cancel => Request::Stop(StopMode::Cancel),
            End::Savepoint => Request::Savepoint { folder: Some(folder), stop: true, answer: channel().0 },
        };
        requests.send(request);
    });
    let status = local.status();
    let outcome = local.run();
    drop(ended);
    user.join().expect("the asking thread");
    (outcome, completed(&status).last().copied().unwrap_or(0))
}

/// Bytes in flight of each completed checkpoint.
fn completed(status: &StatusHandle) -> Vec<u64> {
    let status = status.lock();
    let completed = status.checkpoints.iter().filter(|line| line.failure.is_none());
    completed.map(|line| line.in_flight_bytes).collect()
}

/// In what the starts of a job differ.
struct Settings {
    parallelism: u32,
    backend: &'static str,
    /// None: aligned.
    aligned_timeout_ms: Option<u64>,
    /// Of a sink for each row.
    work: Duration,
    gate: Gate,
}

/// What sinks wait for before they prepare.
type Gate = Arc<Mutex<()>>;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            parallelism: 1,
            backend: "heap",
            aligned_timeout_ms: None,
            work: WORK_OF_A_ROW,
            gate: Gate::default(),
        }
    }
}

fn job(folder: &Path, visible: &Visible, settings: Settings) -> Arc<Job> {
    let Settings { parallelism, backend, aligned_timeout_ms, work, gate } = settings;
    let clicks = |name: &str| {
        json!({
            "name": name,
            "generator": {
                "count": ROWS,
                "seed": 7,
                "columns": [
                    {"name": "id", "sequence": {}},
                    {"name": "usr", "sequence": {"cardinality": USERS, "order": "Mixed"}},
                    {"name": "at", "time": {"step": "10ms", "maxOutOfOrderness": "3s"}},
                ],
            },
            "schema": [
                {"name": "id", "type": "BIGINT"},
                {"name": "usr", "type": "BIGINT"},
                {"name": "at", "type": "TIMESTAMP"},
            ],
            "watermark": {"column": "at", "maxOutOfOrderness": "3s"},
        })
    };
    let sink = |name: &str| json!({"name": format!("{name}-out"), "from": name, "custom": {"type": "Slow"}});
    let changes = |name: &str| {
        let mut sink = sink(name);
        sink["changeKindColumn"] = json!("op");
        sink
    };
    let checkpoint = match aligned_timeout_ms {
        Some(ms) => json!({
            "interval": "10ms",
            "tolerableFailures": 3,
            "retain": {"count": 1},
            "unaligned": {"enabled": true, "alignedTimeout": format!("{ms}ms")},
        }),
        None => json!({"interval": "50ms", "tolerableFailures": 3}),
    };
    let resource = json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": "slow"},
        "spec": {
            "parallelism": parallelism,
            "maxParallelism": 8,
            "pipeline": {
                "sources": [clicks("clicks"), clicks("views")],
                "transforms": [
                    // Two inputs, each by its own key; and what is in flight towards it is of both.
                    {
                        "name": "joined",
                        "sql": "SELECT c.id AS id, v.usr AS usr FROM clicks AS c JOIN views AS v ON c.id = v.id \
                                WHERE MOD(c.id, 5) = 0",
                    },
                    {
                        "name": "windows",
                        "sql": "SELECT usr, COUNT(*) AS n, SUM(id) AS ids \
                                FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '2' SECOND)) \
                                GROUP BY usr, window_start, window_end",
                    },
                    // No keys at all, and two inputs.
                    {
                        "name": "both",
                        "sql": "SELECT id, usr FROM clicks WHERE MOD(id, 3) = 0 \
                                UNION ALL SELECT id, usr FROM views WHERE MOD(id, 3) = 1",
                    },
                    // Updates by a key that is not among their columns, for two readers; one finds by `n` what they update.
                    {"name": "sums", "sql": "SELECT usr * 2 AS twice, COUNT(*) AS n FROM clicks GROUP BY usr"},
                    {"name": "counts", "sql": "SELECT n, COUNT(*) AS users FROM sums GROUP BY n"},
                ],
                "sinks": [sink("joined"), sink("windows"), sink("both"), changes("sums"), changes("counts")],
            },
            "checkpoint": checkpoint,
            "stateBackend": {backend: {}},
            "restart": {"none": {}},
        },
    });
    let mut registry = Registry::default();
    let store = Arc::clone(visible);
    let slow = move |name: &str, _: &Value| {
        let (visible, gate) = (Arc::clone(&store), Arc::clone(&gate));
        Ok(Arc::new(Slow { name: name.to_owned(), work, visible, gate }) as Arc<dyn Sink>)
    };
    registry.sinks.insert("Slow".to_owned(), Arc::new(slow));
    let loaded = load_text(resource.to_string(), folder.to_owned(), Arc::new(registry), |_| Ok(()));
    let problems: Vec<String> = loaded.diagnostics.iter().map(|found| format!("{found:?}")).collect();
    Arc::new(loaded.job.unwrap_or_else(|| panic!("the test's job is wrong: {problems:#?}")))
}

/// What a run writes that nobody disturbs, and whose sinks take no time.
fn expected() -> &'static Output {
    static EXPECTED: OnceLock<Output> = OnceLock::new();
    EXPECTED.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let visible = Visible::default();
        let undisturbed = job(folder.path(), &visible, Settings { work: Duration::ZERO, ..Settings::default() });
        let local = LocalJob::start_on(undisturbed, &StartFrom::Nothing, Arc::new(MemoryStorage::default()));
        assert_eq!(local.expect("it starts").run(), Outcome::Finished);
        let output = output(&visible);
        let rows = |name: &str| output[name].len() as i64;
        assert_eq!((rows("joined-out"), rows("both-out")), (ROWS / 5, (ROWS + 2) / 3 * 2));
        assert_eq!((rows("sums-out"), rows("counts-out")), (USERS, 1), "each user has as many clicks");
        let counted: i64 = output["windows-out"].iter().map(|row| row[1]).sum();
        assert_eq!(counted, ROWS, "rows were late");
        output
    })
}

fn output(visible: &Visible) -> Output {
    let mut output = Output::new();
    for (sink, rows) in visible.lock().expect("no committer panicked").values() {
        output.entry(sink.clone()).or_default().extend(rows.clone());
    }
    for (sink, rows) in &mut output {
        if UPDATING.contains(&sink.as_str()) {
            *rows = what_changes_come_to(rows);
        }
        rows.sort_unstable();
    }
    output
}

/// Each row that is there in the end, with how often last.
fn what_changes_come_to(changes: &[Vec<i64>]) -> Vec<Vec<i64>> {
    let mut counts: BTreeMap<&[i64], i64> = BTreeMap::new();
    for change in changes {
        let (kind, row) = change.split_last().expect("its kind stands behind the row");
        *counts.entry(row).or_default() += kind;
    }
    let there = counts.into_iter().filter(|(_, count)| *count != 0);
    there.map(|(row, count)| [row, &[count]].concat()).collect()
}

/// A kind of change is 1 or -1.
fn numbers(column: &ArrayRef) -> Vec<i64> {
    if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
        return numbers.values().to_vec();
    }
    let kinds = column.as_primitive::<Int8Type>().values().iter();
    kinds
        .map(|kind| if ChangeKind::from_byte(*kind).expect("a kind of change").is_retraction() { -1 } else { 1 })
        .collect()
}

/// A sink in two phases, with so much work for each row. All columns are numbers; a kind of change becomes one.
#[derive(Clone)]
struct Slow {
    name: String,
    work: Duration,
    visible: Visible,
    gate: Gate,
}

/// What is committed, by the committable's name: the sink's name and its rows.
type Visible = Arc<Mutex<BTreeMap<String, (String, Vec<Vec<i64>>)>>>;

#[derive(Serialize, Deserialize)]
struct Prepared {
    id: String,
    sink: String,
    rows: Vec<Vec<i64>>,
}

impl Sink for Slow {
    fn check(&self, _input: &SchemaRef) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn writer(&self, context: SinkContext, _: Vec<(u32, Value)>) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        let id = format!("{}-{}-{}", context.name, context.attempt, context.subtask);
        Ok(Box::new(SlowWriter { sink: self.clone(), id, rows: vec![] }))
    }

    fn committer(&self, _: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        Ok(Some(Box::new(self.clone())))
    }
}

struct SlowWriter {
    sink: Slow,
    id: String,
    rows: Vec<Vec<i64>>,
}

impl SinkWriter for SlowWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        std::thread::sleep(self.sink.work * batch.num_rows() as u32);
        let columns: Vec<Vec<i64>> = batch.columns().iter().map(numbers).collect();
        let rows = (0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row]).collect());
        self.rows.extend(rows);
        Ok(())
    }

    fn pre_commit(&mut self, checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        drop(self.sink.gate.lock().expect("nobody panicked"));
        let rows = std::mem::take(&mut self.rows);
        let prepared = Prepared { id: format!("{}-{checkpoint}", self.id), sink: self.sink.name.clone(), rows };
        let committable = Committable(serde_json::to_value(prepared).expect("a plain structure"));
        Ok(SinkSnapshot { committables: vec![committable], writer: None })
    }
}

impl Committer for Slow {
    fn commit(&mut self, _permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError> {
        for Committable(prepared) in committables {
            let Prepared { id, sink, rows } = serde_json::from_value(prepared.clone()).expect("what it prepared");
            self.visible.lock().expect("no committer panicked").insert(id, (sink, rows));
        }
        Ok(())
    }

    fn abort_others(&mut self, _: &[Committable], _: &[Value]) -> Result<(), ConnectorError> {
        Ok(())
    }
}
