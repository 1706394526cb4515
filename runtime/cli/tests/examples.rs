//! The examples do what their READMEs say, each in a scratch folder that stands for the checkout.

mod support;

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use support::{Check, Mode, Oracle, Rows, Run, Scratch, Table, Weir, await_condition, finished_lines};

const FLIGHT_COLUMNS: [(&str, &str); 12] = [
    ("scheduled_at", "TIMESTAMP"),
    ("departed_at", "TIMESTAMP"),
    ("carrier", "VARCHAR"),
    ("flight", "BIGINT"),
    ("tailnum", "VARCHAR"),
    ("origin", "VARCHAR"),
    ("dest", "VARCHAR"),
    ("dep_delay", "BIGINT"),
    ("arr_delay", "BIGINT"),
    ("air_time", "BIGINT"),
    ("distance", "BIGINT"),
    ("cancelled", "BOOLEAN"),
];

#[test]
fn flights() {
    let data = examples().join("flights/data");
    assert!(data.join("flights.csv").is_file(), "the flights are not here; `cargo xtask data` brings them");
    let scratch = Scratch::new("example-flights");
    let job = copy_job(&scratch, "flights", |text| text);
    std::os::unix::fs::symlink(&data, scratch.join("examples/flights/data")).expect("link the data");
    Weir::new(scratch.path(), ["run", &job]).succeed();

    let out = scratch.join("examples/flights/out");
    let check = |name: &str, change_column, rows, sql: &str| Check {
        name: name.to_owned(),
        sql: sql.to_owned(),
        change_column,
        mode: Mode::Exact,
        may_be_empty: false,
        runs: vec![Run { label: "the example".to_owned(), rows }],
    };
    let table = |name: &str, file: &str, columns: &[(&str, &str)]| Table {
        name: name.to_owned(),
        files: data.join(file).display().to_string(),
        format: "csv",
        columns: columns.iter().map(|(name, sql_type)| ((*name).to_owned(), (*sql_type).to_owned())).collect(),
    };
    let oracle = Oracle {
        tables: vec![
            // Not the file that the example reads: the same flights in another order.
            table("flights", "flights.csv", &FLIGHT_COLUMNS),
            table("airlines", "airlines.csv", &[("carrier", "VARCHAR"), ("name", "VARCHAR")]),
        ],
        checks: vec![
            check(
                "hourly",
                None,
                Rows::Sql(format!(
                    "SELECT origin, window_start, flights, cancelled, delay, worst \
                     FROM read_csv('{}/hourly/*/*.csv', hive_partitioning = true)",
                    out.display()
                )),
                "SELECT origin, tumble(scheduled_at, INTERVAL 1 HOUR) AS window_start, COUNT(*) AS flights, \
                 COUNT(*) FILTER (WHERE cancelled) AS cancelled, AVG(dep_delay) AS delay, MAX(dep_delay) AS worst \
                 FROM flights GROUP BY ALL",
            ),
            check(
                "carriers",
                Some("op"),
                Rows::Folder(out.join("carriers")),
                "SELECT carrier, name, COUNT(*) AS flights, AVG(dep_delay) AS delay, \
                 COUNT(*) FILTER (WHERE dep_delay > 15) AS late, COUNT(*) FILTER (WHERE cancelled) AS cancelled \
                 FROM flights LEFT JOIN airlines USING (carrier) GROUP BY carrier, name",
            ),
            check(
                "worst-routes",
                None,
                Rows::Sql(format!(
                    "SELECT flight_day, origin, dest, flights, minutes, place FROM read_parquet('{}/worst-routes/*.parquet')",
                    out.display()
                )),
                "SELECT tumble(scheduled_at, INTERVAL 1 DAY) AS flight_day, origin, dest, COUNT(*) AS flights, \
                 SUM(dep_delay)::BIGINT AS minutes, ROW_NUMBER() OVER (PARTITION BY flight_day ORDER BY minutes DESC, \
                 origin, dest) AS place FROM flights WHERE dep_delay > 0 GROUP BY flight_day, origin, dest QUALIFY place <= 3",
            ),
        ],
    };
    oracle.compare(&scratch.join("compare.json")).unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn follow() {
    let scratch = Scratch::new("example-follow");
    // No room may become idle here only because the machine is slow: a reading that comes later would be late.
    let job = copy_job(&scratch, "follow", |text| text.replace(", idleTimeout: 2s", ""));
    let data = scratch.join("examples/follow/data");
    std::fs::create_dir_all(&data).expect("create the data folder");
    let windows = || finished_windows(&scratch.join("examples/follow/out/averages"));
    append(&data, "attic.jsonl", &reading("attic", 20.0, 1));
    append(&data, "cellar.jsonl", &reading("cellar", 10.0, 2));
    append(&data, "cellar.jsonl", "no reading at all\n");

    let running = Weir::new(scratch.path(), ["run", &job]).spawn();
    await_condition("the first reading on the screen", || running.stdout().contains("warmest: ").then_some(()));
    append(&data, "attic.jsonl", &reading("attic", 22.0, 3));
    // A line is read when it is whole.
    let (head, tail) =
        reading("cellar", 14.0, 4).split_at_checked(20).map(|(a, b)| (a.to_owned(), b.to_owned())).expect("ASCII");
    append(&data, "cellar.jsonl", &head);
    append(&data, "attic.jsonl", &reading("attic", 0.0, 31));
    append(&data, "cellar.jsonl", &tail);
    append(&data, "cellar.jsonl", &reading("cellar", 0.0, 31));
    let expected = ["attic 2 21", "cellar 2 12"];
    await_condition("the windows of the first ten seconds", || contains_all(&windows(), &expected).then_some(()));
    running.kill();

    // While nobody reads, a file grows and another appears.
    append(&data, "attic.jsonl", &reading("attic", 5.0, 32));
    append(&data, "roof.jsonl", &reading("roof", -3.0, 33));
    let running = Weir::new(scratch.path(), ["run", &job]).spawn();
    // Not before the new file is known: until then it cannot hold back the watermark.
    await_condition("the new file's reading on the screen", || running.stdout().contains("roof").then_some(()));
    for room in ["attic", "cellar", "roof"] {
        append(&data, &format!("{room}.jsonl"), &reading(room, 0.0, 61));
    }
    let expected = ["attic 2 2.5", "cellar 1 0", "roof 1 -3"];
    await_condition("the windows after the restart", || contains_all(&windows(), &expected).then_some(()));
    Weir::new(scratch.path(), ["stop", &job, "--savepoint"]).succeed();
    let stopped = running.wait();
    assert!(stopped.status.success(), "{stopped}");

    let mut all = windows();
    let count = all.len();
    all.dedup();
    assert_eq!(all.len(), count, "a window is there twice: {all:?}");
    let letters = finished_lines(&scratch.join("examples/follow/out/unreadable"));
    assert!(letters.len() == 1 && letters[0].contains("no reading at all"), "{letters:?}");
}

#[test]
fn nexmark() {
    let scratch = Scratch::new("example-nexmark");
    let endless = "eventsPerSecond: 50000}";
    let job = copy_job(&scratch, "nexmark", |text| {
        assert_eq!(text.matches(endless).count(), 3);
        text.replace(endless, "eventInterval: 1ms, events: 60000}")
    });
    Weir::new(scratch.path(), ["run", &job]).succeed();
    for folder in ["local-sellers", "hot-auctions", "new-sellers"] {
        let lines = finished_lines(&scratch.join("examples/nexmark/out").join(folder));
        assert!(!lines.is_empty(), "{folder} is empty");
    }
}

/// `room readings average` of each window of ten seconds that begins on a full one, sorted.
fn finished_windows(out: &Path) -> Vec<String> {
    let mut windows: Vec<String> = finished_lines(out)
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"))
        .filter(|row| {
            row["window_start"].as_str().is_some_and(|start| ["00", "30"].iter().any(|s| start[17..].starts_with(s)))
        })
        .map(|row| {
            let celsius = row["celsius"].as_f64().expect("an average");
            format!("{} {} {celsius}", row["room"].as_str().expect("a room"), row["readings"])
        })
        .collect();
    windows.sort();
    windows
}

fn contains_all(windows: &[String], expected: &[&str]) -> bool {
    expected.iter().all(|window| windows.iter().any(|found| found == window))
}

fn reading(room: &str, celsius: f64, second: u32) -> String {
    let (minute, second) = (second / 60, second % 60);
    format!(
        "{{\"room\": \"{room}\", \"celsius\": {celsius}, \"measured_at\": \"2026-03-01T12:{minute:02}:{second:02}\"}}\n"
    )
}

fn append(data: &Path, file: &str, text: &str) {
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).open(data.join(file)).expect("open for append");
    file.write_all(text.as_bytes()).expect("append");
}

/// Copies an example's job, changed where the test needs it; returns its path from the scratch folder.
fn copy_job(scratch: &Scratch, example: &str, change: impl Fn(String) -> String) -> String {
    let name = format!("examples/{example}/job.yaml");
    let text = std::fs::read_to_string(examples().join(example).join("job.yaml")).expect("read the example's job");
    scratch.write(&name, change(text));
    name
}

fn examples() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../examples")
}
