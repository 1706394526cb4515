//! Jobs over several processes under random faults: coordinator and workers are killed and paused, their links cut and
//! slowed, their certificates replaced. The committed output must be that of a run which nobody disturbed, and the
//! commit log must hold one history.
//!
//! `WEIR_CHAOS_RUNS` says how many runs there are and `WEIR_CHAOS_SEED` what the first one's seed is;
//! `cargo xtask chaos RUNS SEED` sets both. A failure names the command that repeats its run. Links need network
//! namespaces, and so root: elsewhere a run does without those faults, and says so. Half of the runs keep their
//! checkpoints on the S3 server that `WEIR_TEST_S3` names, if it does; all do with `WEIR_CHAOS_STORAGE=s3`.

#[path = "../support/mod.rs"]
mod support;

mod network;
mod plan;

use network::Network;
use plan::{Fault, Plan, Store};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::certificates::{Mount, authority};
use support::history::epochs;
use support::traffic::{self, Checkpoints, Guarantee};
use support::{Running, Scratch, Weir, number, signal};
use weir_node::tls::Authority;

const DEFAULT_RUNS: u64 = 4;
/// Runs at once: a run mostly waits for its rate-limited source, or for a fault to pass.
const THREADS: u64 = 4;
/// Far beyond what any plan needs: whoever is not through by then is stuck.
const DEADLINE: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const COORDINATOR: usize = 0;
const PORT: u16 = 6123;
const JOB: &str = "traffic";

#[test]
fn output_is_that_of_an_undisturbed_run() {
    let runs = number("WEIR_CHAOS_RUNS").unwrap_or(DEFAULT_RUNS);
    let first = number("WEIR_CHAOS_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    println!("chaos: {runs} runs, the first with seed {first}");
    let (next, began) = (AtomicU64::new(0), Instant::now());
    let failures = std::thread::scope(|scope| {
        let threads = (0..THREADS.min(runs)).map(|_| {
            scope.spawn(|| {
                let mut failures = vec![];
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= runs {
                        return failures;
                    }
                    failures.extend(random_run(first.wrapping_add(index)).err());
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a run panicked")).collect::<Vec<_>>()
    });
    println!("chaos: {runs} runs in {:.0?}, {} failed", began.elapsed(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn random_run(seed: u64) -> Result<(), String> {
    let plan = Plan::random(&mut ChaCha8Rng::seed_from_u64(seed));
    let scratch = Scratch::new(&format!("chaos-{seed}"));
    let began = Instant::now();
    let result = Run::new(seed, &plan, &scratch).and_then(Run::go);
    println!("chaos: seed {seed} in {:.0?}: {plan}", began.elapsed());
    result.map_err(|problem| {
        let kept = scratch.keep().display();
        format!("seed {seed} ({plan}): {problem}\nkept: {kept}\nrepeat with: cargo xtask chaos 1 {seed}")
    })
}

struct Run<'a> {
    plan: &'a Plan,
    scratch: &'a Scratch,
    job: PathBuf,
    /// None: this machine doesn't let the test make one.
    network: Option<Network>,
    /// Where workers register.
    address: String,
    /// The coordinator, and then the workers.
    processes: Vec<Process>,
    authority: Authority,
    mounts: Vec<Mount>,
    agenda: Vec<(Instant, Action)>,
}

struct Process {
    running: Option<Running>,
    starts: u32,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Begin(usize, Fault),
    Start(usize),
    Continue(usize),
    Mend(usize),
    Join(usize, usize),
    SpeedUp(usize),
}

impl<'a> Run<'a> {
    fn new(seed: u64, plan: &'a Plan, scratch: &'a Scratch) -> Result<Self, String> {
        let job = traffic::write(scratch, Guarantee::ExactlyOnce, Checkpoints::Frequent);
        if let Some(aligned_ms) = plan.unaligned_after_ms {
            traffic::make_unaligned(&job, aligned_ms);
        }
        let members = plan.workers + 1;
        let mut network = match Network::new(&format!("wc{}x{seed}", std::process::id()), members) {
            Ok(network) => Some(network),
            Err(reason) => {
                eprintln!("without cut and slowed links: {reason}");
                None
            }
        };
        if let (Store::S3, Ok(server)) = (plan.storage, std::env::var("WEIR_TEST_S3")) {
            let reached = match &mut network {
                Some(network) => format!("http://{}", network.relay_to(server.trim_start_matches("http://"))?),
                None => server,
            };
            keep_on_s3(&job, &reached, &format!("s3://weir-test/chaos/{seed}-{}", std::process::id()));
        }
        let address = match &network {
            Some(network) => format!("{}:{PORT}", network.address(COORDINATOR)),
            None => free_address(),
        };
        let authority = authority();
        let mounts =
            (0..members).map(|process| Mount::new(scratch.join("tls").join(process.to_string()), &authority, JOB));
        let mounts = mounts.collect();
        let processes = (0..members).map(|_| Process { running: None, starts: 0 }).collect();
        Ok(Run { plan, scratch, job, network, address, processes, authority, mounts, agenda: vec![] })
    }

    fn go(mut self) -> Result<(), String> {
        let began = Instant::now();
        let mut at = began;
        for step in &self.plan.steps {
            at += step.after;
            self.agenda.push((at, Action::Begin(step.process, step.fault)));
        }
        (0..self.processes.len()).for_each(|process| self.start(process));
        while !self.is_finished()? {
            if began.elapsed() > DEADLINE {
                return Err(format!("not finished after {DEADLINE:?}\n{}", self.logs()));
            }
            self.act();
            std::thread::sleep(LOOK_EVERY);
        }
        self.let_go();
        traffic::verify(self.scratch, Guarantee::ExactlyOnce)
            .map_err(|problem| format!("{problem}\n{}", self.logs()))?;
        let epochs = epochs(self.scratch, JOB);
        if !epochs.is_sorted() {
            return Err(format!("there are two histories in the log: {epochs:?}\n{}", self.logs()));
        }
        Ok(())
    }

    /// Whether the job is; starts again what has died.
    fn is_finished(&mut self) -> Result<bool, String> {
        for process in 0..self.processes.len() {
            let Some(running) = &mut self.processes[process].running else { continue };
            let Some(status) = running.exit_status() else { continue };
            let is_awaited =
                self.agenda.iter().any(|(_, action)| matches!(action, Action::Start(who) if *who == process));
            if process == COORDINATOR && status.success() {
                return Ok(true);
            }
            // One that was cut off from its storage may not have come to start; what failed is the job's own fault.
            if process == COORDINATOR && running.stderr().contains("error: traffic failed: ") {
                return Err(format!("the job failed\n{}", self.logs()));
            }
            // A worker that believes that the job is over would be wrong: only the coordinator ends last.
            if !is_awaited && (process == COORDINATOR || !status.success()) {
                if self.processes[process].starts > 30 {
                    return Err(format!("process {process} dies again and again\n{}", self.logs()));
                }
                self.agenda.push((Instant::now() + Duration::from_millis(200), Action::Start(process)));
            }
        }
        Ok(false)
    }

    fn act(&mut self) {
        let now = Instant::now();
        let (due, later) = self.agenda.drain(..).partition(|(at, _)| *at <= now);
        self.agenda = later;
        let due: Vec<(Instant, Action)> = due;
        for (_, action) in due {
            match action {
                Action::Start(process) => self.start(process),
                Action::Continue(process) => self.signal(process, libc::SIGCONT),
                Action::Mend(process) => self.with_network(|network| network.mend(process)),
                Action::Join(one, other) => self.with_network(|network| network.join(one, other)),
                Action::SpeedUp(process) => self.with_network(|network| network.speed_up(process)),
                Action::Begin(process, fault) => self.begin(process, fault, now),
            }
        }
    }

    fn begin(&mut self, process: usize, fault: Fault, now: Instant) {
        match fault {
            Fault::Kill { back_after } => {
                self.signal(process, libc::SIGKILL);
                self.agenda.push((now + back_after, Action::Start(process)));
            }
            Fault::Pause(lasts) => {
                self.signal(process, libc::SIGSTOP);
                self.agenda.push((now + lasts, Action::Continue(process)));
            }
            Fault::Cut(lasts) => {
                self.with_network(|network| network.cut(process));
                self.agenda.push((now + lasts, Action::Mend(process)));
            }
            Fault::Part(lasts, other) => {
                self.with_network(|network| network.part(process, other));
                self.agenda.push((now + lasts, Action::Join(process, other)));
            }
            Fault::Slow(lasts, kbit) => {
                self.with_network(|network| network.slow(process, kbit));
                self.agenda.push((now + lasts, Action::SpeedUp(process)));
            }
            Fault::Rotate => {
                let new = authority();
                let both = [&self.authority, &new];
                self.mounts.iter().for_each(|mount| mount.replace(&self.authority, JOB, &both));
                self.mounts.iter().for_each(|mount| mount.replace(&new, JOB, &both));
                self.mounts.iter().for_each(|mount| mount.replace(&new, JOB, &[&new]));
                self.authority = new;
            }
        }
    }

    /// Nothing is left paused or cut off.
    fn let_go(&mut self) {
        for process in 0..self.processes.len() {
            self.signal(process, libc::SIGCONT);
            self.with_network(|network| network.mend(process));
        }
    }

    fn start(&mut self, process: usize) {
        let is_running = self.processes[process].running.as_mut().is_some_and(|running| !running.has_ended());
        if is_running {
            return;
        }
        let weir = if process == COORDINATOR { self.coordinator() } else { self.worker(process) };
        let weir = weir.with(["--tls-dir".as_ref(), self.mounts[process].path().as_os_str()]);
        let weir = match &self.network {
            Some(network) => weir.in_network_namespace(&network.namespace(process)),
            None => weir,
        };
        self.processes[process].starts += 1;
        self.processes[process].running = Some(weir.spawn());
    }

    fn coordinator(&self) -> Weir {
        let Plan { workers, parallelism, backend, rows_per_second, .. } = self.plan;
        Weir::new(self.scratch.path(), ["coordinator".as_ref(), self.job.as_os_str()])
            .with(["--listen", &self.address, "--http", "none", "--workers", &workers.to_string()])
            .with(["-p", &parallelism.to_string(), "--set", traffic::backend(backend)])
            .with(["--set", "spec.restart={fixedDelay: {attempts: 1000, delay: 100ms}}"])
            .with(["--set", &format!("spec.pipeline.sources[0].generator.rowsPerSecond={rows_per_second}")])
    }

    fn worker(&self, process: usize) -> Weir {
        let needed = self.plan.workers - usize::from(self.plan.has_spare);
        let slots = (self.plan.parallelism as usize).div_ceil(needed);
        let listen = match &self.network {
            Some(network) => format!("{}:0", network.address(process)),
            None => "127.0.0.1:0".to_owned(),
        };
        Weir::new(self.scratch.path(), ["worker", "--coordinator", &self.address, "--listen", &listen]).with([
            "--slots",
            &slots.to_string(),
            "--patience",
            "60",
        ])
    }

    fn signal(&self, process: usize, number: i32) {
        if let Some(running) = &self.processes[process].running
            && let Ok(pid) = i32::try_from(running.id())
        {
            signal(pid, number);
        }
    }

    fn with_network(&self, act: impl FnOnce(&Network)) {
        if let Some(network) = &self.network {
            act(network);
        }
    }

    /// The end of what each process said.
    fn logs(&self) -> String {
        let shown = self.processes.iter().enumerate().filter_map(|(process, state)| {
            let said = state.running.as_ref()?.stderr();
            let lines: Vec<&str> = said.lines().collect();
            Some(format!("--- process {process}\n{}", lines[lines.len().saturating_sub(12)..].join("\n")))
        });
        shown.collect::<Vec<_>>().join("\n")
    }
}

fn keep_on_s3(job: &std::path::Path, endpoint: &str, uri: &str) {
    let text = std::fs::read_to_string(job).expect("read the job");
    let mut spec: serde_json::Value = serde_json::from_str(&text).expect("the job is JSON");
    spec["spec"]["checkpoint"]["storage"] = serde_json::json!({
        "uri": uri,
        "endpoint": endpoint,
        "region": "us-east-1",
        "credentials": {"env": "WEIR_TEST"},
    });
    std::fs::write(job, serde_json::to_string_pretty(&spec).expect("JSON is written to memory")).expect("write");
}

/// Nobody listens there now; that somebody else takes it before the coordinator does is unlikely enough.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}
