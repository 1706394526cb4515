//! The PostgreSQL connectors against a real server, which each test starts for itself; what a job wrote is read back by
//! psql. Real processes are killed at random and at chosen moments, and so is the server.
//!
//! `WEIR_POSTGRES_RUNS` says how many random runs there are and `WEIR_POSTGRES_SEED` what the first one's seed is;
//! `cargo xtask kill-test-postgres RUNS SEED` sets both.

#[path = "../support/mod.rs"]
mod support;

mod changes;
mod copies;
mod secured;
mod traffic;
mod values;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;
use support::inputs::Inputs;
use support::postgres::Postgres;
use support::unaligned::make_unaligned;
use support::{Scratch, Weir, random_runs};

/// Enough for a merge; `cargo xtask kill-test-postgres` makes more.
const DEFAULT_RUNS: u64 = 3;
/// Deaths of processes or the server in a random run.
const MAX_DEATHS: u32 = 4;
/// The copy comes to 13,333 rows: it takes them somewhat longer than the generator makes them.
const SLOW_SINK_ROWS_PER_SECOND: u64 = 4_000;
/// After the pre-commit; between the manifest and the commits; among the commits of several subtasks; while restoring.
const FAILPOINTS: [&str; 6] = [
    "before-manifest:3",
    "after-manifest:3",
    "before-commit:3",
    "mid-commit:5",
    "before-restore-done:1",
    "before-settle:1",
];

#[test]
fn each_moment_of_a_commit() {
    let Some(postgres) = Postgres::start() else { return };
    let [staged, prepared] = traffic::COMMIT_BY;
    for (failpoint, commit_by) in [
        ("before-manifest:3", staged),
        ("after-manifest:3", prepared),
        ("before-commit:3", staged),
        ("mid-commit:5", staged),
        ("mid-commit:6", prepared),
    ] {
        let scratch = Scratch::new(&format!("postgres-{}", failpoint.replace(':', "-")));
        traffic::create_tables(&postgres);
        let job = traffic::write(&scratch, &postgres, commit_by);
        let died = start(&scratch, &job, 2, 0).env("WEIR_FAILPOINT", failpoint).run();
        assert!(died.status.signal().is_some(), "{failpoint} was not passed: {died}");
        // At another parallelism, so that others commit what was prepared.
        start(&scratch, &job, 3, 0).succeed();
        traffic::verify(&postgres).unwrap_or_else(|problem| panic!("{failpoint}: {problem}"));
    }
}

#[test]
fn a_table_is_copied() {
    let Some(postgres) = Postgres::start() else { return };
    let scratch = Scratch::new("postgres-copy");
    let job = traffic::write_copy(&scratch, &postgres);
    let died = start(&scratch, &job, 2, 0).env("WEIR_FAILPOINT", "after-manifest:1").run();
    assert!(died.status.signal().is_some(), "the failpoint was not passed: {died}");
    start(&scratch, &job, 3, 0).succeed();
    traffic::verify_copy(&postgres);
}

/// Whatever the restart strategy: no restart makes a table, or gives a user a right.
#[test]
fn what_cannot_be_opened_ends_the_job() {
    let Some(postgres) = Postgres::start() else { return };
    traffic::create_tables(&postgres);
    postgres.psql("CREATE ROLE stranger LOGIN");
    let scratch = Scratch::new("postgres-refused");
    let job = traffic::write(&scratch, &postgres, traffic::COMMIT_BY[0]);
    for (setting, said) in [
        ("spec.pipeline.sinks[0].postgres.table=nowhere".to_owned(), "nowhere"),
        (url_of(&postgres, "stranger"), "GRANT INSERT ON public.copied TO it"),
        (url_of(&postgres, "nobody"), "role \"nobody\" does not exist"),
    ] {
        let failed = start(&scratch, &job, 2, 0).with(["--set", &setting, "--from", "none"]).fail();
        for part in [said, "copied", "no restart can help"] {
            assert!(failed.stderr.contains(part), "{setting}: no word of {part}: {failed}");
        }
    }
}

/// It takes what is sent and closes no connection: only that nobody else is answered either tells it from one that is busy.
#[test]
fn a_server_that_hangs_is_noticed() {
    let Some(postgres) = Postgres::start() else { return };
    for commit_by in traffic::COMMIT_BY {
        traffic::create_tables(&postgres);
        let scratch = Scratch::new("postgres-hangs");
        let job = traffic::write(&scratch, &postgres, commit_by);
        let text = std::fs::read_to_string(&job).expect("read the job");
        let url = postgres.url();
        // By which it goes how long any answer is waited for until somebody looks.
        std::fs::write(&job, text.replace(&url, &format!("{url}?connect_timeout=1"))).expect("write the job");
        let running = start(&scratch, &job, 2, 0).spawn();
        support::await_condition("the first rows", || {
            (postgres.psql("SELECT count(*) FROM copied") != "0").then_some(())
        });
        postgres.freeze();
        support::await_condition("the attempt fails", || running.stderr().contains("no answer").then_some(()));
        postgres.thaw();
        let finished = running.wait();
        assert!(finished.status.success(), "{finished}");
        traffic::verify(&postgres).unwrap_or_else(|problem| panic!("{commit_by}: {problem}\n{finished}"));
    }
}

/// The system has taken the connection, and nobody says anything.
#[test]
fn a_server_that_never_speaks_is_not_waited_for() {
    let Some(postgres) = Postgres::start() else { return };
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("it has a port").port();
    let scratch = Scratch::new("postgres-silent");
    let job = traffic::write(&scratch, &postgres, traffic::COMMIT_BY[0]);
    let url = format!("spec.pipeline.sinks[0].postgres.url.value={}?connect_timeout=1", postgres.url_by(port));
    let plan = Weir::new(scratch.path(), ["plan".as_ref(), job.as_os_str()]).with(["--set", &url]).fail();
    for part in ["cannot connect to PostgreSQL at 127.0.0.1", "no answer within 2s"] {
        assert!(plan.stderr.contains(part) || plan.stdout.contains(part), "no word of {part}: {plan}");
    }
}

fn url_of(postgres: &Postgres, user: &str) -> String {
    let url = postgres.url().replace("test@", &format!("{user}@"));
    format!("spec.pipeline.sinks[0].postgres.url.value={url}")
}

#[test]
fn killed_at_random() {
    let Some(mut postgres) = Postgres::start() else { return };
    let repeat = |seed| format!("cargo xtask kill-test-postgres 1 {seed}");
    let inputs = Inputs::default();
    random_runs("POSTGRES", DEFAULT_RUNS, repeat, |seed, rng| random_run(&mut postgres, &inputs, seed, rng));
}

/// What happened in it.
fn random_run(postgres: &mut Postgres, inputs: &Inputs, seed: u64, rng: &mut ChaCha8Rng) -> Result<String, String> {
    let scratch = Scratch::new(&format!("postgres-kill-{seed}"));
    traffic::create_tables(postgres);
    let commit_by = traffic::COMMIT_BY[rng.random_range(0..2)];
    let job = traffic::write(&scratch, postgres, commit_by);
    let mut story = vec![commit_by.to_owned(), inputs.choose(rng, &job).to_owned()];
    if rng.random_bool(0.5) {
        make_unaligned(&job, 0, ("copy", SLOW_SINK_ROWS_PER_SECOND));
        story.push("unaligned".to_owned());
    }
    for _ in 0..rng.random_range(1..=MAX_DEATHS) {
        let (parallelism, workers) = (rng.random_range(1..=4), [0, 0, 2][rng.random_range(0..3)]);
        let weir = start(&scratch, &job, parallelism, workers);
        let mut told = format!("p={parallelism} workers={workers} ");
        if rng.random_bool(0.3) && workers == 0 {
            let failpoint = FAILPOINTS[rng.random_range(0..FAILPOINTS.len())];
            let finished = weir.env("WEIR_FAILPOINT", failpoint).run();
            if finished.status.code().is_some_and(|code| code != 0) {
                return Err(format!("{}: a start failed by itself: {finished}", story.join(", ")));
            }
            story.push(told + failpoint);
            continue;
        }
        let mut running = weir.spawn();
        let delay = Duration::from_millis(rng.random_range(0..2_500));
        running.pass(delay);
        told += &format!("{delay:.0?} ");
        match rng.random_range(0..4) {
            0 => {
                postgres.crash();
                told += "server crashed ";
                running.pass(Duration::from_millis(rng.random_range(0..1_500)));
            }
            1 if workers > 0 => {
                let pids = running.children();
                if !pids.is_empty() {
                    support::signal(pids[rng.random_range(0..pids.len())], libc::SIGKILL);
                    told += "worker killed ";
                    running.pass(Duration::from_millis(rng.random_range(0..1_500)));
                }
            }
            _ => {}
        }
        let finished = running.kill();
        if finished.status.code().is_some_and(|code| code != 0) {
            return Err(format!("{}, {told}: a start failed by itself: {finished}", story.join(", ")));
        }
        story.push(told + "killed");
    }
    let parallelism = rng.random_range(1..=4);
    let finished = start(&scratch, &job, parallelism, 0).run();
    let story = format!("{}, then p={parallelism}", story.join(", "));
    if !finished.status.success() {
        return Err(format!("{story}: {finished}"));
    }
    traffic::verify(postgres).map_err(|problem| {
        let kept = scratch.keep().display();
        format!("{story}: {problem}\nkept for inspection: {kept}\n{finished}")
    })?;
    Ok(story)
}

fn start(scratch: &Scratch, job: &Path, parallelism: u32, workers: u32) -> Weir {
    let weir = Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()]).with(["-p", &parallelism.to_string()]);
    if workers == 0 { weir } else { weir.with(["--workers", &workers.to_string()]) }
}
