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
    let mut case = Case::new();
    for _ in 0..3 {
        let mut child = case.spawn(&["run", "--quiet"]);
        case.wait_into_a_run(&mut child);
        let _ = child.kill();
        child.wait().unwrap();
    }
    case.verify(output(weir(case.folder.path(), &["run", "--quiet"])));
}

/// The binary with the operator in it is coordinator and worker, too.
#[test]
fn over_two_processes_a_killed_worker_changes_nothing() {
    let mut case = Case::new();
    let mut run = case.spawn(&["run", "--quiet", "--workers", "2", "-p", "2"]);
    case.wait_into_a_run(&mut run);
    if let Some(worker) = a_child_of(run.id()) {
        Command::new("kill").args(["-KILL", &worker]).status().unwrap();
    }
    case.verify(run.wait_with_output().unwrap());
}

/// Flights and the job over them, and the moments that a seed chooses.
struct Case {
    random: ChaCha8Rng,
    folder: tempfile::TempDir,
    flights: Vec<Flight>,
}

impl Case {
    fn new() -> Self {
        let seed = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        println!("seed {seed} (WEIR_SEED)");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let flights = random_flights(150_000, 24 * 120, &mut random);
        write_flights(&flights, &folder.path().join("flights.csv"));
        let job = job_in(folder.path())
            .replace("threshold: 60, windows: 4", "threshold: 30, windows: 2")
            .replace("interval: 200ms", "interval: 20ms");
        std::fs::write(folder.path().join("job.yaml"), job).unwrap();
        Case { random, folder, flights }
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        weir(self.folder.path(), arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Until some time after the job has written something that it would go on from, or has ended.
    fn wait_into_a_run(&mut self, child: &mut Child) {
        let entries = || std::fs::read_dir(self.folder.path().join(".weir")).map_or(0, |entries| entries.count());
        let deadline = Instant::now() + Duration::from_secs(60);
        while entries() == 0 && Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        // Where in the run the kill comes is what the seed decides; nothing depends on it.
        let moment = Instant::now() + Duration::from_millis(self.random.random_range(0..200));
        while Instant::now() < moment && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
    }

    fn verify(&self, finished: Output) {
        assert!(finished.status.success(), "{}", text(&finished));
        let config = Config { threshold: 30.0, windows: 2, clear_after_minutes: 180 };
        let expected = alerts_of(&hours_of(&self.flights), &config);
        assert!(expected.len() > 100, "{} alerts are too few to tell anything", expected.len());
        let found = alerts_in(&self.folder.path().join("out/alerts"));
        assert_eq!(found.len(), expected.len());
        assert_eq!(found, expected);
    }
}

/// None: it has none, or the system doesn't tell.
fn a_child_of(process: u32) -> Option<String> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    Some(children.split_whitespace().next()?.to_owned())
}
