//! A job for tests that disturb it: windows, sessions, an updating aggregate and a copy, from a generator whose rate
//! makes a run last two seconds, and from files.

use super::{Check, Mode, Oracle, Rows, Run, Scratch, Table, Weir, finished_files, finished_lines, unaligned};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const CLICKS: u64 = 60_000;
/// So that the generator alone takes two seconds, whatever the build and the machine.
const CLICKS_PER_SECOND: u64 = 30_000;
/// The windows come to 18,000 rows: it takes them four seconds where the clicks take two.
const SLOW_SINK_ROWS_PER_SECOND: u64 = 4_500;
const PAYMENTS: u64 = 120_000;
const PAYMENT_FILES: u64 = 5;
const CHANGE_COLUMN: &str = "op";
const TRANSFORMS: [&str; 4] = ["copy", "windows", "sessions", "totals"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    ExactlyOnce,
    AtLeastOnce,
}

/// How often checkpoints come, and so where kills can fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoints {
    /// Every 100 ms, the last two retained: retention works at each.
    Frequent,
    /// The same in a run that lasts ten seconds: time to ask it for something.
    Unhurried,
    /// The one at the end of the input.
    Last,
}

/// Where state is kept: in RocksDB's memory all of this job's fits, and of `spilled` little does.
pub const BACKENDS: [&str; 3] = ["heap", "rocksdb", "spilled"];

/// For `--set`.
pub fn backend(name: &str) -> &'static str {
    match name {
        "heap" => "spec.stateBackend={heap: {}}",
        "rocksdb" => "spec.stateBackend={rocksdb: {}}",
        "spilled" => "spec.stateBackend={rocksdb: {memory: 8Mi, writeBufferRatio: 0.005}}",
        other => panic!("there is no state backend `{other}`"),
    }
}

/// The job's file in its scratch folder, where its storage and its output are too.
pub fn write(scratch: &Scratch, guarantee: Guarantee, checkpoints: Checkpoints) -> PathBuf {
    let delivery = format!("{guarantee:?}");
    let sinks: Vec<Value> = TRANSFORMS
        .iter()
        .map(|transform| {
            let mut sink = json!({
                "name": format!("{transform}-files"),
                "from": transform,
                "delivery": delivery,
                "files": {"path": output(scratch, transform)},
                "format": {"json": {}},
            });
            if *transform == "totals" {
                sink["changeKindColumn"] = json!(CHANGE_COLUMN);
            }
            sink
        })
        .collect();
    let interval = match checkpoints {
        Checkpoints::Frequent | Checkpoints::Unhurried => "100ms",
        Checkpoints::Last => "1h",
    };
    let rate = if checkpoints == Checkpoints::Unhurried { CLICKS_PER_SECOND / 5 } else { CLICKS_PER_SECOND };
    let spec = json!({
        "pipeline": {
            "sources": [clicks(Some(rate)), payments()],
            "transforms": [
                {"name": "copy", "sql": "SELECT id, usr, cents, clicked_at FROM clicks WHERE id % 3 = 0"},
                {
                    "name": "windows",
                    "sql": "SELECT usr, window_start, COUNT(*) AS n, SUM(cents) AS cents, MAX(id) AS last_id \
                            FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(clicked_at), INTERVAL '10' SECOND)) \
                            GROUP BY usr, window_start, window_end",
                },
                {
                    "name": "sessions",
                    "sql": "SELECT usr, window_start, window_end, COUNT(*) AS n, SUM(cents) AS cents \
                            FROM TABLE(SESSION(TABLE clicks PARTITION BY usr, DESCRIPTOR(clicked_at), \
                            INTERVAL '3' SECOND)) GROUP BY usr, window_start, window_end",
                },
                {"name": "both", "sql": "SELECT usr, cents FROM clicks UNION ALL SELECT usr, cents FROM payments"},
                {
                    "name": "totals",
                    "sql": "SELECT usr, COUNT(*) AS n, SUM(cents) AS cents, MAX(cents) AS most FROM both GROUP BY usr",
                },
            ],
            "sinks": sinks,
        },
        "checkpoint": {
            "interval": interval,
            "mode": format!("{guarantee:?}"),
            "retain": {"count": 2},
            "storage": {"uri": scratch.storage_uri("checkpoints")},
        },
        // A failure of the job itself must not hide behind a restart that repairs it.
        "restart": {"none": {}},
    });
    scratch.write_job("traffic", &spec)
}

/// For `--set`: makes a run last so much longer that it passes any moment of its checkpoints before it ends. Nothing where
/// the clicks come from a topic, which is read as slowly as can be anyway.
pub fn slowly(job: &Path, rows_per_second: u32) -> Vec<String> {
    let text = std::fs::read_to_string(job).expect("read the job");
    let spec: Value = serde_json::from_str(&text).expect("the job is JSON");
    match spec["spec"]["pipeline"]["sources"][0].get("generator") {
        Some(_) => {
            vec!["--set".to_owned(), format!("spec.pipeline.sources[0].generator.rowsPerSecond={rows_per_second}")]
        }
        None => vec![],
    }
}

/// Lets the job's barriers overtake records, and a slow sink let some wait for them. `aligned_ms`: how long a
/// checkpoint is aligned before.
pub fn make_unaligned(job: &Path, aligned_ms: u64) {
    unaligned::make_unaligned(job, aligned_ms, ("windows", SLOW_SINK_ROWS_PER_SECOND));
}

/// What is wrong with the committed output.
pub fn verify(scratch: &Scratch, guarantee: Guarantee) -> Result<(), String> {
    let mode = |exact_or: Mode| if guarantee == Guarantee::ExactlyOnce { Mode::Exact } else { exact_or };
    let check = |transform: &str, mode, sql: &str| Check {
        name: transform.to_owned(),
        sql: sql.to_owned(),
        change_column: (transform == "totals").then_some(CHANGE_COLUMN),
        mode,
        may_be_empty: false,
        runs: vec![Run { label: format!("{guarantee:?}"), rows: Rows::Folder(output(scratch, transform)) }],
    };
    let oracle = Oracle {
        tables: vec![
            table(
                "clicks",
                generated_clicks(),
                &[("id", "BIGINT"), ("usr", "BIGINT"), ("cents", "BIGINT"), ("clicked_at", "TIMESTAMP")],
            ),
            table("payments", payment_files(), &[("usr", "BIGINT"), ("cents", "BIGINT")]),
        ],
        checks: vec![
            check("copy", mode(Mode::NoLoss), "SELECT * FROM clicks WHERE id % 3 = 0"),
            check(
                "windows",
                mode(Mode::AtLeast(vec!["n", "cents", "last_id"])),
                "SELECT usr, tumble(clicked_at, INTERVAL 10 SECOND) AS window_start, COUNT(*) AS n, \
                 SUM(cents)::BIGINT AS cents, MAX(id) AS last_id FROM clicks GROUP BY ALL",
            ),
            check(
                "sessions",
                mode(Mode::AtLeast(vec!["n", "cents"])),
                "SELECT usr, MIN(clicked_at) AS window_start, MAX(clicked_at) + INTERVAL 3 SECOND AS window_end, \
                 COUNT(*) AS n, SUM(cents)::BIGINT AS cents FROM ( \
                   SELECT *, SUM(is_new) OVER (PARTITION BY usr ORDER BY clicked_at) AS session FROM ( \
                     SELECT *, CASE WHEN clicked_at - LAG(clicked_at) OVER (PARTITION BY usr ORDER BY clicked_at) \
                       <= INTERVAL 3 SECOND THEN 0 ELSE 1 END AS is_new FROM clicks) \
                 ) GROUP BY usr, session",
            ),
            check(
                "totals",
                mode(Mode::AtLeast(vec!["n", "cents", "most"])),
                "SELECT usr, COUNT(*) AS n, SUM(cents)::BIGINT AS cents, MAX(cents) AS most FROM \
                 (SELECT usr, cents FROM clicks UNION ALL SELECT usr, cents FROM payments) GROUP BY usr",
            ),
        ],
    };
    oracle.compare(&scratch.join("compare.json"))
}

/// The finished files and their sizes, to see that nothing changes any more.
pub fn listing(scratch: &Scratch) -> Vec<(PathBuf, u64)> {
    finished_files(&scratch.join("out"))
        .into_iter()
        .map(|path| {
            let size = path.metadata().expect("a finished file stays").len();
            (path, size)
        })
        .collect()
}

fn output(scratch: &Scratch, transform: &str) -> PathBuf {
    scratch.join("out").join(transform)
}

fn clicks(rows_per_second: Option<u64>) -> Value {
    let mut source = json!({
        "name": "clicks",
        "generator": {
            "count": CLICKS,
            "seed": 11,
            "columns": [
                {"name": "id", "sequence": {}},
                {"name": "usr", "sequence": {"cardinality": 300, "order": "Mixed"}},
                {"name": "cents", "random": {"min": 1, "max": 5000}},
                {"name": "clicked_at", "time": {"step": "10ms", "maxOutOfOrderness": "2s"}},
            ],
        },
        "schema": [
            {"name": "id", "type": "BIGINT"},
            {"name": "usr", "type": "BIGINT"},
            {"name": "cents", "type": "BIGINT"},
            {"name": "clicked_at", "type": "TIMESTAMP"},
        ],
        "watermark": {"column": "clicked_at", "maxOutOfOrderness": "2s"},
    });
    if let Some(rate) = rows_per_second {
        source["generator"]["rowsPerSecond"] = json!(rate);
    }
    source
}

fn payments() -> Value {
    json!({
        "name": "payments",
        "files": {"path": payment_files(), "splitSize": "512Ki"},
        "format": {"json": {}},
        "schema": [{"name": "usr", "type": "BIGINT"}, {"name": "cents", "type": "BIGINT"}],
    })
}

fn table(name: &str, folder: &Path, columns: &[(&str, &str)]) -> Table {
    Table {
        name: name.to_owned(),
        files: format!("{}/*", folder.display()),
        format: "json",
        columns: columns.iter().map(|(name, sql_type)| ((*name).to_owned(), (*sql_type).to_owned())).collect(),
    }
}

/// The generator's rows as files for the oracle, written by a run that nobody disturbs.
fn generated_clicks() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = fresh_folder("traffic-clicks");
        let scratch = Scratch::new("traffic-clicks-job");
        let spec = json!({
            "pipeline": {
                "sources": [clicks(None)],
                "sinks": [{"name": "out", "from": "clicks", "files": {"path": folder}, "format": {"json": {}}}],
            },
            "checkpoint": {"storage": {"uri": scratch.storage_uri("checkpoints")}},
        });
        let job = scratch.write_job("copy", &spec);
        Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).succeed();
        // What the whole test rests on: that the undisturbed run has each row once.
        let mut ids: Vec<u64> = finished_lines(&folder)
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).expect("a JSON line")["id"].as_u64().expect("an id"))
            .collect();
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..CLICKS), "the generator gave {} rows of {CLICKS}", ids.len());
        folder
    })
}

fn payment_files() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = fresh_folder("traffic-payments");
        std::fs::create_dir_all(&folder).expect("create the payments' folder");
        for file in 0..PAYMENT_FILES {
            let lines: String = (0..PAYMENTS)
                .filter(|number| number * PAYMENT_FILES / PAYMENTS == file)
                .map(|number| {
                    let usr = number.wrapping_mul(2_654_435_761) % 300;
                    format!("{{\"usr\":{usr},\"cents\":{}}}\n", number % 4_999 + 1)
                })
                .collect();
            std::fs::write(folder.join(format!("payments-{file}.jsonl")), lines).expect("write payments");
        }
        folder
    })
}

fn fresh_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("remove what an earlier process of this id left");
    }
    folder
}
