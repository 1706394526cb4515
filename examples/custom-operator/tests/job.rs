//! The job of this example with the real binary, killed on the way: its files hold what the batch computation gives.

mod support;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{Flight, alerts_of, hours_of, random_flights};
use weir_example_delay_alerts::{Alert, Config};

const BINARY: &str = env!("CARGO_BIN_EXE_delay-alerts");
const JOB: &str = include_str!("../job.yaml");

/// The example's job over other data.
fn job_in(folder: &Path) -> String {
    let folder = folder.display();
    JOB.replace("examples/flights/data/flights_by_departure.csv", &format!("{folder}/flights.csv"))
        .replace("examples/custom-operator/out", &format!("{folder}/out"))
}

fn write_flights(flights: &[Flight], path: &Path) {
    let mut text = "scheduled_at,origin,dep_delay\n".to_owned();
    for Flight { scheduled_at, origin, delay } in flights {
        let delay = delay.map_or(String::new(), |delay| delay.to_string());
        writeln!(text, "{scheduled_at},{origin},{delay}").unwrap();
    }
    std::fs::write(path, text).unwrap();
}

fn weir(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).arg(folder.join("job.yaml")).stdin(Stdio::null());
    command
}

fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// All committed alerts, sorted by airport and time.
fn alerts_in(folder: &Path) -> Vec<Alert> {
    let mut alerts = vec![];
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|end| end != "csv") {
            continue;
        }
        let mut reader = csv::Reader::from_path(&path).unwrap();
        let header = reader.headers().unwrap().clone();
        assert_eq!(header.iter().collect::<Vec<_>>(), ["airport", "event", "at", "since", "windows", "worst"]);
        for record in reader.records() {
            let record = record.unwrap();
            alerts.push(Alert {
                airport: record[0].to_owned(),
                event: record[1].to_owned(),
                at: record[2].parse().unwrap(),
                since: record[3].parse().unwrap(),
                windows: record[4].parse().unwrap(),
                worst: record[5].parse().unwrap(),
            });
        }
    }
    alerts.sort_by_key(|alert| (alert.airport.clone(), alert.at));
    alerts
}

#[test]
fn killed_and_started_again_it_commits_what_the_batch_computation_gives() {
    let seed = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed} (WEIR_SEED)");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let flights = random_flights(150_000, 24 * 120, &mut random);
    write_flights(&flights, &folder.join("flights.csv"));
    let job = job_in(folder)
        .replace("threshold: 60, windows: 4", "threshold: 30, windows: 2")
        .replace("interval: 200ms", "interval: 20ms");
    std::fs::write(folder.join("job.yaml"), job).unwrap();

    for _ in 0..3 {
        let child = weir(folder, &["run", "--quiet"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        kill_after_a_checkpoint(child, folder, random.random_range(0..200));
    }
    let finished = output(weir(folder, &["run", "--quiet"]));
    assert!(finished.status.success(), "{}", text(&finished));

    let config = Config { threshold: 30.0, windows: 2, clear_after_minutes: 180 };
    let expected = alerts_of(&hours_of(&flights), &config);
    assert!(expected.len() > 100, "{} alerts are too few to tell anything", expected.len());
    let found = alerts_in(&folder.join("out/alerts"));
    assert_eq!(found.len(), expected.len());
    assert_eq!(found, expected);
}

/// Kills the process some time after it has written something that it would go on from, unless it ends before.
fn kill_after_a_checkpoint(mut child: Child, folder: &Path, then_wait_ms: u64) {
    let entries = || std::fs::read_dir(folder.join(".weir")).map_or(0, |entries| entries.count());
    let deadline = Instant::now() + Duration::from_secs(60);
    while entries() == 0 && Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::yield_now();
    }
    // Where in the run the kill comes is what the seed decides; nothing depends on it.
    let kill_at = Instant::now() + Duration::from_millis(then_wait_ms);
    while Instant::now() < kill_at && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn the_example_is_valid_and_a_mistake_in_the_config_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_flights(&[], &folder.join("flights.csv"));
    let check = |job: String| {
        std::fs::write(folder.join("job.yaml"), job).unwrap();
        output(weir(folder, &["validate"]))
    };
    let fine = check(job_in(folder));
    assert!(fine.status.success(), "{}", text(&fine));
    for (right, wrong, expected) in [
        ("threshold: 60", "treshold: 60", "has no field `treshold`; did you mean `threshold`?"),
        ("windows: 4", "window: 4", "its config has no field `window`; did you mean `windows`?"),
        ("windows: 4", "windows: 4.5", "field `windows`: invalid type: floating point `4.5`, expected i64"),
        ("windows: 4", "windows: 0", "`windows` is 0; an alert takes one late window at least"),
        ("keyBy: [origin]", "keyBy: [delay]", "the step must be keyed by `origin`; its `keyBy` is `delay`"),
        ("type: DelayAlerts", "type: DelayAlert", "no operator of type `DelayAlert`"),
        ("AS delay", "AS late", "has no column `delay`"),
    ] {
        let refused = check(job_in(folder).replace(right, wrong));
        assert!(!refused.status.success(), "{wrong}");
        assert!(text(&refused).contains(expected), "{wrong}: {}", text(&refused));
    }
}
