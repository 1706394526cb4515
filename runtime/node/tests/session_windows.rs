//! Session windows over disordered input, through cancels, stops and savepoints at random moments and restores at
//! other parallelisms: the output is that of a computation over all rows at once.
//!
//! `WEIR_SESSIONS_SEED` repeats one run; `WEIR_SESSIONS_RUNS` says how many there are.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use weir_node::job::load_text;
use weir_node::{Job, LocalJob, Outcome, Registry, Request, StartFrom, StopMode};
use weir_snapshot::Storage;
use weir_snapshot::storage::MemoryStorage;

const ROWS: i64 = 12_000;
const ROWS_PER_SECOND: u64 = 20_000;
const USERS: i64 = 40;
/// A user comes every 400 ms of event time, give or take the disorder: sessions of all lengths.
const GAP_US: i64 = 600_000;
const PARALLELISMS: [u32; 3] = [1, 3, 8];
const RUNS: u64 = 16;
/// Runs at once: a run mostly waits for its rate-limited source.
const THREADS: u64 = 4;

/// User, start, end, rows and the sum of their ids.
type Session = (i64, i64, i64, i64, i64);

/// How a life of the job ends before its input does.
#[derive(Clone, Copy, Debug)]
enum End {
    /// As abruptly as it gets without killing the process.
    Cancel,
    /// After a last checkpoint.
    Drain,
    /// With a savepoint, from which the next life starts on another storage, under the same name.
    Savepoint,
    /// A savepoint on the way, which nobody uses, and then a cancel.
    SavepointAndCancel,
}

#[test]
fn sessions_are_those_of_all_rows_at_once() {
    let from_environment = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let repeated: Option<u64> = from_environment("WEIR_SESSIONS_SEED");
    let first = repeated.unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let runs = if repeated.is_some() { 1 } else { from_environment("WEIR_SESSIONS_RUNS").unwrap_or(RUNS) };
    println!("{runs} runs, the first with seed {first}");
    let expected = expected(&generated_rows());
    assert!(expected.len() > 500, "{} sessions are too few to tell anything", expected.len());
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= runs {
                        return;
                    }
                    check(first + index, &expected);
                }
            });
        }
    });
}

fn check(seed: u64, expected: &[Session]) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let (mut from, mut story) = (StartFrom::Latest, vec![]);
    for life in 0..random.random_range(1..6) {
        let parallelism = PARALLELISMS[random.random_range(0..PARALLELISMS.len())];
        let lived = Duration::from_millis(random.random_range(0..150));
        let end = [End::Cancel, End::Drain, End::Savepoint, End::SavepointAndCancel][random.random_range(0..4)];
        let savepoint = folder.path().join(format!("savepoint-{life}"));
        story.push(format!("x{parallelism} {end:?} after {lived:?}"));
        let local = LocalJob::start_on(sessions(folder.path(), parallelism), &from, storage.clone());
        let local = local.unwrap_or_else(|error| panic!("WEIR_SESSIONS_SEED={seed}: {error}: {story:?}"));
        from = StartFrom::Latest;
        let outcome = live(local, lived, end, &savepoint);
        match outcome {
            Outcome::Cancelled | Outcome::Stopped { savepoint: None } => {}
            Outcome::Stopped { savepoint: Some(_) } => {
                from = StartFrom::Savepoint(savepoint.display().to_string());
                storage = Arc::new(MemoryStorage::default());
            }
            Outcome::Finished => break,
            other => panic!("WEIR_SESSIONS_SEED={seed}: {other:?}: {story:?}"),
        }
    }
    let parallelism = PARALLELISMS[random.random_range(0..PARALLELISMS.len())];
    story.push(format!("x{parallelism} to the end"));
    match LocalJob::start_on(sessions(folder.path(), parallelism), &from, storage) {
        Ok(local) => assert_eq!(local.run(), Outcome::Finished, "WEIR_SESSIONS_SEED={seed}: {story:?}"),
        Err(weir_node::StartError::AlreadyFinished) => {}
        Err(error) => panic!("WEIR_SESSIONS_SEED={seed}: {error}: {story:?}"),
    }
    let found = found(&folder.path().join("sessions"));
    let missing: Vec<_> = expected.iter().filter(|session| found.binary_search(session).is_err()).take(5).collect();
    let foreign: Vec<_> = found.iter().filter(|session| expected.binary_search(session).is_err()).take(5).collect();
    assert!(
        found == expected,
        "WEIR_SESSIONS_SEED={seed}: {} sessions, and {} are expected; missing {missing:?}, wrong {foreign:?}; {story:?}",
        found.len(),
        expected.len(),
    );
}

/// Runs the job, ends it so.
fn live(local: LocalJob, lived: Duration, end: End, savepoint: &Path) -> Outcome {
    let requests = local.requests();
    let (ended, awaited) = channel::<()>();
    let folder = savepoint.display().to_string();
    let user = std::thread::spawn(move || {
        if awaited.recv_timeout(lived) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let save = |stop| {
            let (answer, answered) = channel();
            requests.send(Request::Savepoint { folder: Some(folder), stop, answer });
            // The job may end before.
            answered.recv().ok();
        };
        match end {
            End::Cancel => drop(requests.send(Request::Stop(StopMode::Cancel))),
            End::Drain => drop(requests.send(Request::Stop(StopMode::Drain))),
            End::Savepoint => save(true),
            End::SavepointAndCancel => {
                save(false);
                requests.send(Request::Stop(StopMode::Cancel));
            }
        }
    });
    let outcome = local.run();
    drop(ended);
    user.join().expect("the requests were sent");
    outcome
}

/// Sessions by a sort and a pass over it.
fn expected(rows: &[(i64, i64, i64)]) -> Vec<Session> {
    let mut sorted: Vec<_> = rows.iter().map(|(id, usr, at_us)| (*usr, *at_us, *id)).collect();
    sorted.sort_unstable();
    let mut sessions: Vec<Session> = vec![];
    for (usr, at_us, id) in sorted {
        match sessions.last_mut() {
            Some((of, _, end_us, n, ids)) if *of == usr && at_us <= *end_us => {
                *end_us = at_us + GAP_US;
                *n += 1;
                *ids += id;
            }
            _ => sessions.push((usr, at_us, at_us + GAP_US, 1, id)),
        }
    }
    sessions.sort_unstable();
    sessions
}

fn found(folder: &Path) -> Vec<Session> {
    let row = |row: &Value| {
        let number = |column: &str| row[column].as_i64().unwrap_or_else(|| panic!("no {column} in {row}"));
        (number("usr"), time_us(row, "window_start"), time_us(row, "window_end"), number("n"), number("ids"))
    };
    let mut sessions: Vec<Session> = lines(folder).iter().map(row).collect();
    sessions.sort_unstable();
    sessions
}

/// Id, user and time of the rows, by a run that nobody disturbs.
fn generated_rows() -> Vec<(i64, i64, i64)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = "SELECT id, usr, at FROM clicks";
    let copied = job(folder.path(), copy, 1, None);
    let local = LocalJob::start_on(copied, &StartFrom::Nothing, Arc::new(MemoryStorage::default()));
    assert_eq!(local.expect("it starts").run(), Outcome::Finished);
    let number = |row: &Value, column: &str| row[column].as_i64().unwrap_or_else(|| panic!("no {column} in {row}"));
    let row = |row: &Value| (number(row, "id"), number(row, "usr"), time_us(row, "at"));
    let rows: BTreeMap<i64, _> =
        lines(&folder.path().join("sessions")).iter().map(row).map(|row| (row.0, row)).collect();
    assert!(rows.keys().copied().eq(0..ROWS), "the generator gave {} rows of {ROWS}", rows.len());
    rows.into_values().collect()
}

fn time_us(row: &Value, column: &str) -> i64 {
    let text = row[column].as_str().unwrap_or_else(|| panic!("no {column} in {row}"));
    let time = text.trim_end_matches('Z').parse::<chrono::NaiveDateTime>();
    time.unwrap_or_else(|error| panic!("{text}: {error}")).and_utc().timestamp_micros()
}

fn sessions(folder: &Path, parallelism: u32) -> Arc<Job> {
    let sql = "SELECT usr, window_start, window_end, COUNT(*) AS n, SUM(id) AS ids \
               FROM TABLE(SESSION(TABLE clicks PARTITION BY usr, DESCRIPTOR(at), INTERVAL '0.6' SECOND)) \
               GROUP BY usr, window_start, window_end";
    job(folder, sql, parallelism, Some(ROWS_PER_SECOND))
}

fn job(folder: &Path, sql: &str, parallelism: u32, rows_per_second: Option<u64>) -> Arc<Job> {
    let mut generator = json!({
        "count": ROWS,
        "seed": 5,
        "columns": [
            {"name": "id", "sequence": {}},
            {"name": "usr", "sequence": {"cardinality": USERS, "order": "Mixed"}},
            {"name": "at", "time": {"step": "10ms", "maxOutOfOrderness": "1s"}},
        ],
    });
    if let Some(rate) = rows_per_second {
        generator["rowsPerSecond"] = json!(rate);
    }
    let resource = json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": "sessions"},
        "spec": {
            "parallelism": parallelism,
            "maxParallelism": 16,
            "pipeline": {
                "sources": [{
                    "name": "clicks",
                    "generator": generator,
                    "schema": [
                        {"name": "id", "type": "BIGINT"},
                        {"name": "usr", "type": "BIGINT"},
                        {"name": "at", "type": "TIMESTAMP"},
                    ],
                    "watermark": {"column": "at", "maxOutOfOrderness": "1s"},
                }],
                "transforms": [{"name": "sessions", "sql": sql}],
                "sinks": [{
                    "name": "files",
                    "from": "sessions",
                    "delivery": "ExactlyOnce",
                    "files": {"path": folder.join("sessions")},
                    "format": {"json": {}},
                }],
            },
            "checkpoint": {"interval": "20ms"},
            "restart": {"none": {}},
        },
    });
    let loaded = load_text(resource.to_string(), folder.to_owned(), Arc::new(Registry::default()), |_| Ok(()));
    let problems: Vec<String> = loaded.diagnostics.iter().map(|found| format!("{found:?}")).collect();
    Arc::new(loaded.job.unwrap_or_else(|| panic!("the test's job is wrong: {problems:#?}")))
}

/// The rows of all visible files.
fn lines(folder: &Path) -> Vec<Value> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut lines = vec![];
    for entry in entries {
        let path = entry.expect("list the output").path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.')) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("read the output");
        lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line")));
    }
    lines
}
