//! Real processes, killed at random and at chosen moments, and started again until the job is finished: the committed
//! output must be that of a run which nobody disturbed. At least once, nothing may be lost.
//!
//! `WEIR_KILL_RUNS` says how many random runs there are and `WEIR_KILL_SEED` what the first one's seed is;
//! `cargo xtask kill-test RUNS SEED` sets both. A failure names the command that repeats its run.
//! `WEIR_KILL_BACKEND` keeps to one state backend, whatever the seed says.

#[path = "../support/mod.rs"]
mod support;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::inputs::{Input, Inputs};
use support::traffic::{self, BACKENDS, Checkpoints, Guarantee};
use support::{Scratch, Weir, number};

const DEFAULT_RUNS: u64 = 30;
/// Runs at once: a run mostly waits for its rate-limited source.
const THREADS: u64 = 4;
const ONLY_BACKEND: &str = "WEIR_KILL_BACKEND";
/// Where the engine lets a test end the process; each is passed at every checkpoint.
const CHECKPOINT_FAILPOINTS: [&str; 4] = ["before-manifest", "after-manifest", "mid-commit", "mid-retention"];
/// While it restores: a worker has read its state; all have, and sinks are not yet settled.
const RESTORE_FAILPOINTS: [&str; 2] = ["before-restore-done", "before-settle"];
const SAVEPOINT_FAILPOINT: &str = "savepoint-write";
/// A run lasts a minute, where it is to die at a certain point long before.
const SLOW_ROWS_PER_SECOND: u32 = 1_000;

/// How a process comes to its end.
#[derive(Clone, Debug)]
enum Death {
    /// SIGKILL so long after the start.
    After(Duration),
    /// The process ends itself, as abruptly, when it passes a failpoint for the nth time.
    Failpoint { name: &'static str, nth: u32 },
}

/// One start of the job.
#[derive(Clone, Debug)]
struct Start {
    parallelism: u32,
    death: Death,
}

/// All that a seed decides.
#[derive(Clone, Debug)]
struct Plan {
    backend: &'static str,
    guarantee: Guarantee,
    checkpoints: Checkpoints,
    /// Where the clicks come from, as far as servers are there.
    input: Input,
    /// Barriers overtake what a slow sink lets wait, after so long.
    unaligned_after_ms: Option<u64>,
    starts: Vec<Start>,
    /// Of the last start, which runs to the end.
    last_parallelism: u32,
}

#[test]
fn output_is_that_of_an_undisturbed_run() {
    let runs = number("WEIR_KILL_RUNS").unwrap_or(DEFAULT_RUNS);
    let first = number("WEIR_KILL_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    println!("kill test: {runs} runs, the first with seed {first}");
    let (next, inputs) = (AtomicU64::new(0), Inputs::default());
    let began = Instant::now();
    let failures = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = vec![];
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= runs {
                            return failures;
                        }
                        failures.extend(random_run(&inputs, first.wrapping_add(index)).err());
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a run panicked")).collect::<Vec<_>>()
    });
    println!("kill test: {runs} runs in {:.0?}, {} failed", began.elapsed(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn each_moment_of_a_checkpoint() {
    for backend in backends() {
        for name in CHECKPOINT_FAILPOINTS {
            // Of the commits of six sink subtasks in a checkpoint, one that others precede and others follow.
            let nth = if name == "mid-commit" { 9 } else { 3 };
            let starts = vec![Start { parallelism: 2, death: Death::Failpoint { name, nth } }];
            must_die_and_recover(&format!("kill-{backend}-{name}"), backend, Checkpoints::Frequent, starts);
        }
    }
}

#[test]
fn each_moment_of_the_last_checkpoint() {
    for backend in backends() {
        for (name, nth) in [("before-manifest", 1), ("after-manifest", 1), ("mid-commit", 3)] {
            let starts = vec![Start { parallelism: 2, death: Death::Failpoint { name, nth } }];
            must_die_and_recover(&format!("kill-last-{backend}-{name}"), backend, Checkpoints::Last, starts);
        }
    }
}

#[test]
fn twice_while_it_restores() {
    for backend in backends() {
        let [read, settle] = RESTORE_FAILPOINTS.map(|name| Death::Failpoint { name, nth: 1 });
        let starts = vec![
            Start { parallelism: 1, death: Death::Failpoint { name: "after-manifest", nth: 2 } },
            Start { parallelism: 3, death: read },
            Start { parallelism: 2, death: settle },
        ];
        must_die_and_recover(&format!("kill-restore-{backend}"), backend, Checkpoints::Frequent, starts);
    }
}

#[test]
fn while_a_savepoint_is_written() {
    for backend in backends() {
        let scratch = Scratch::new(&format!("kill-savepoint-{backend}"));
        let job = traffic::write(&scratch, Guarantee::ExactlyOnce, Checkpoints::Unhurried);
        // The start after it is quicker.
        let running = start(&scratch, &job, backend, 2).with(traffic::slowly(&job, SLOW_ROWS_PER_SECOND));
        let running = running.env("WEIR_FAILPOINT", SAVEPOINT_FAILPOINT).spawn();
        support::await_condition("the first checkpoint", || {
            let listed = Weir::new(scratch.path(), ["checkpoints".as_ref(), job.as_os_str()]);
            let listed = listed.with(["--output", "json"]).succeed();
            (listed.stdout.trim() != "[]").then_some(())
        });
        let folder = scratch.join("savepoint");
        // Its exit code is the client's affair: the process that it asked is gone.
        let asked =
            Weir::new(scratch.path(), ["savepoint".as_ref(), job.as_os_str(), "--to".as_ref(), folder.as_os_str()])
                .run();
        let died = running.wait();
        assert!(died.status.signal().is_some(), "the savepoint did not pass its failpoint: {died}\n{asked}");
        assert!(!asked.status.success(), "a savepoint that was never complete was reported as one: {asked}");
        let refused = start(&scratch, &job, backend, 2).with(["--from".as_ref(), folder.as_os_str()]).run();
        assert!(!refused.status.success(), "half a savepoint was restored: {refused}");
        start(&scratch, &job, backend, 3).succeed();
        traffic::verify(&scratch, Guarantee::ExactlyOnce).unwrap_or_else(|problem| panic!("{backend}: {problem}"));
    }
}

/// Each of the starts must end by its failpoint.
fn must_die_and_recover(name: &str, backend: &'static str, checkpoints: Checkpoints, starts: Vec<Start>) {
    let scratch = Scratch::new(name);
    let plan = Plan {
        backend,
        guarantee: Guarantee::ExactlyOnce,
        checkpoints,
        input: Input::Generator,
        unaligned_after_ms: None,
        starts,
        last_parallelism: 2,
    };
    match run(&scratch, &Inputs::default(), &plan) {
        Ok(deaths) => assert_eq!(deaths, plan.starts.len(), "{plan}: a failpoint was not passed"),
        Err(problem) => panic!("{name}: {plan}\n{problem}"),
    }
}

fn random_run(inputs: &Inputs, seed: u64) -> Result<(), String> {
    let plan = Plan::random(&mut ChaCha8Rng::seed_from_u64(seed));
    let scratch = Scratch::new(&format!("kill-{seed}"));
    let began = Instant::now();
    match run(&scratch, inputs, &plan) {
        Ok(deaths) => {
            println!("seed {seed}: {plan}: died {deaths} times, correct after {:.1?}", began.elapsed());
            Ok(())
        }
        Err(problem) => {
            let kept = scratch.keep();
            let message = format!(
                "seed {seed}: {plan}\n{problem}\nkept for inspection: {}\nrepeat with: cargo xtask kill-test 1 {seed}",
                kept.display()
            );
            println!("{message}");
            Err(message)
        }
    }
}

/// How many starts ended by their death; the last one, and any that was too quick for its death, must end well.
fn run(scratch: &Scratch, inputs: &Inputs, plan: &Plan) -> Result<usize, String> {
    let job = traffic::write(scratch, plan.guarantee, plan.checkpoints);
    inputs.put(plan.input, &job);
    if let Some(aligned_ms) = plan.unaligned_after_ms {
        traffic::make_unaligned(&job, aligned_ms);
    }
    let mut deaths = 0;
    for planned in &plan.starts {
        let weir = start(scratch, &job, plan.backend, planned.parallelism);
        let finished = match planned.death {
            Death::After(delay) => weir.kill_after(delay),
            Death::Failpoint { name, nth } => {
                // So slow that the job passes the failpoint before it ends, on whatever machine.
                let is_frequent = plan.checkpoints == Checkpoints::Frequent;
                let slowly = if is_frequent { traffic::slowly(&job, SLOW_ROWS_PER_SECOND) } else { vec![] };
                weir.with(slowly).env("WEIR_FAILPOINT", format!("{name}:{nth}")).run()
            }
        };
        deaths += usize::from(finished.was_killed()?);
    }
    let finished = start(scratch, &job, plan.backend, plan.last_parallelism).run();
    if finished.was_killed()? {
        return Err(format!("the last start was ended by a signal: {finished}"));
    }
    traffic::verify(scratch, plan.guarantee)?;
    let listing = traffic::listing(scratch);
    let again = start(scratch, &job, plan.backend, plan.last_parallelism).run();
    if !again.status.success() || traffic::listing(scratch) != listing {
        return Err(format!("a finished job was started again, and failed or wrote anew: {again}"));
    }
    Ok(deaths)
}

fn start(scratch: &Scratch, job: &Path, backend: &str, parallelism: u32) -> Weir {
    let parallelism = parallelism.to_string();
    let options = ["-p", &parallelism, "--set", traffic::backend(backend)];
    Weir::new(scratch.path(), ["run".as_ref(), job.as_os_str()].into_iter().chain(options.iter().map(AsRef::as_ref)))
}

impl Plan {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let backend = BACKENDS[rng.random_range(0..BACKENDS.len())];
        let guarantee = if rng.random_bool(0.75) { Guarantee::ExactlyOnce } else { Guarantee::AtLeastOnce };
        let checkpoints = if rng.random_bool(0.95) { Checkpoints::Frequent } else { Checkpoints::Last };
        let starts = (0..rng.random_range(1..=4))
            .map(|_| Start { parallelism: rng.random_range(1..=4), death: Death::random(rng) })
            .collect();
        let backend = if backends().contains(&backend) { backend } else { backends()[0] };
        let last_parallelism = rng.random_range(1..=4);
        let is_unaligned = guarantee == Guarantee::ExactlyOnce && rng.random_bool(0.4);
        let unaligned_after_ms = is_unaligned.then(|| if rng.random_bool(0.5) { 0 } else { rng.random_range(1..50) });
        let drawn = if rng.random_bool(0.4) { Input::random(rng) } else { Input::Generator };
        let input = match checkpoints {
            Checkpoints::Last => Input::Generator,
            _ => Input::of_all_runs().unwrap_or(drawn),
        };
        Plan { backend, guarantee, checkpoints, input, unaligned_after_ms, starts, last_parallelism }
    }
}

impl Death {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..10) {
            // While it starts or restores.
            0..=1 => Death::After(Duration::from_millis(rng.random_range(0..150))),
            2..=6 => Death::After(Duration::from_millis(rng.random_range(0..2_500))),
            7 => Death::Failpoint { name: RESTORE_FAILPOINTS[rng.random_range(0..RESTORE_FAILPOINTS.len())], nth: 1 },
            _ => Death::Failpoint {
                name: CHECKPOINT_FAILPOINTS[rng.random_range(0..CHECKPOINT_FAILPOINTS.len())],
                nth: rng.random_range(1..=12),
            },
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unaligned = self.unaligned_after_ms.map(|after_ms| format!(", unaligned after {after_ms} ms"));
        let unaligned = unaligned.unwrap_or_default();
        let Plan { backend, guarantee, checkpoints, input, .. } = self;
        write!(f, "{backend}, {guarantee:?}, checkpoints {checkpoints:?}{unaligned}, from {input:?}, killed ")?;
        for Start { parallelism, death } in &self.starts {
            match death {
                Death::After(delay) => write!(f, "after {delay:.0?}")?,
                Death::Failpoint { name, nth } => write!(f, "at {name}:{nth}")?,
            }
            write!(f, " (p={parallelism}), ")?;
        }
        write!(f, "then p={}", self.last_parallelism)
    }
}

fn backends() -> Vec<&'static str> {
    let only = std::env::var(ONLY_BACKEND).unwrap_or_default();
    BACKENDS.into_iter().filter(|backend| only.is_empty() || *backend == only).collect()
}
