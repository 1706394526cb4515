//! The job of the other kill tests, from files and from each source that can be read again, into topics of a broker that is
//! killed too: windows, sessions, a copy and an updating aggregate, each change of which is a message.

use crate::FAILPOINTS;
use crate::broker::{Broker, OwnBroker};
use crate::support::inputs::Inputs;
use crate::support::traffic::{self, Checkpoints, Guarantee};
use crate::support::{Finished, Scratch, Weir, random_runs};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_RUNS: u64 = 3;
const PARTITIONS: u32 = 3;
/// A run lasts 20 seconds, where it is to die at a certain point long before.
const SLOW_ROWS_PER_SECOND: u32 = 3_000;
const STEPS: [&str; 4] = ["copy", "windows", "sessions", "totals"];

#[derive(Clone, Copy, Debug)]
enum Death {
    After(Duration),
    Failpoint(&'static str, u32),
    /// The broker's, and no process of ours.
    OfBroker(Duration),
    /// The broker's and ours; both start again at the same moment.
    OfBoth(Duration),
}

struct Session {
    scratch: Scratch,
    job: PathBuf,
    broker: Broker,
    guarantee: Guarantee,
    name: String,
}

#[test]
fn from_every_source_through_deaths_of_jobs_and_brokers() {
    let folder = Scratch::new("kafka-pairs-broker");
    let Some(mut own) = OwnBroker::start(folder.path()) else { return };
    let inputs = Inputs::default();
    let repeat = |seed| format!("cargo xtask kafka-test 1 {seed}");
    random_runs("KAFKA", DEFAULT_RUNS, repeat, |seed, rng| {
        // Mostly exactly once, which is less easily had.
        let guarantee = [Guarantee::ExactlyOnce, Guarantee::AtLeastOnce][usize::from(rng.random_bool(0.2))];
        let session = Session::new(&format!("kafka-pairs-{seed}"), guarantee, &own.broker);
        let from = inputs.choose(rng, &session.job);
        if rng.random_bool(0.5) && guarantee == Guarantee::ExactlyOnce {
            traffic::make_unaligned(&session.job, 0);
        }
        let mut story = vec![format!("{guarantee:?} {from}")];
        for _ in 0..rng.random_range(1..=3) {
            let death = Death::random(rng);
            let parallelism = rng.random_range(1..=3);
            let finished = session.start(parallelism, death, &mut own);
            let died = finished.was_killed().map_err(|problem| format!("{story:?}, {death:?}: {problem}"))?;
            story.push(format!("p={parallelism} {death:?}{}", if died { "" } else { " (came to its end)" }));
        }
        let parallelism = rng.random_range(1..=3);
        match session.finish(parallelism, &mut own) {
            Ok(()) => Ok(format!("{}, then p={parallelism}", story.join(", "))),
            Err(problem) => Err(format!("{story:?}: {problem}\nkept: {}", session.scratch.keep().display())),
        }
    });
}

impl Death {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        // Rows of a server come as fast as they are read: later than this the job has often ended.
        let after = Duration::from_millis(rng.random_range(0..2_500));
        match rng.random_range(0..6) {
            0 => Death::Failpoint(FAILPOINTS[rng.random_range(0..FAILPOINTS.len())].0, rng.random_range(1..=8)),
            1 => Death::OfBroker(after),
            2 => Death::OfBoth(after),
            _ => Death::After(after),
        }
    }
}

impl Session {
    fn new(name: &str, guarantee: Guarantee, broker: &Broker) -> Self {
        let scratch = Scratch::new(name);
        let job = traffic::write(&scratch, guarantee, Checkpoints::Frequent);
        let name = format!("{name}-{:08x}", rand::random::<u32>());
        let session = Session { scratch, job, broker: broker.clone(), guarantee, name };
        session.change(|resource| {
            // The transactions' ids have it.
            resource["metadata"]["name"] = json!(session.name);
            for sink in resource["spec"]["pipeline"]["sinks"].as_array_mut().expect("sinks") {
                let topic = session.topic(sink["from"].as_str().expect("a step"));
                broker.create(&topic, PARTITIONS);
                sink.as_object_mut().expect("a sink").remove("files");
                sink["kafka"] = json!({"bootstrapServers": broker.address, "topic": topic});
            }
        });
        session
    }

    fn topic(&self, step: &str) -> String {
        format!("{}-{step}", self.name)
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(&self.job).expect("read the job");
        let mut job: Value = serde_json::from_str(&text).expect("the job is JSON");
        change(&mut job);
        std::fs::write(&self.job, serde_json::to_string_pretty(&job).expect("JSON is written to memory"))
            .expect("write");
    }

    /// It waits for a broker that comes back, however long that takes.
    fn weir(&self, parallelism: u32) -> Weir {
        let parallelism = parallelism.to_string();
        let restarts = "spec.restart={fixedDelay: {attempts: 1000, delay: 200ms}}";
        let weir = Weir::new(self.scratch.path(), ["run".as_ref(), self.job.as_os_str()]);
        weir.with(["-p", &parallelism, "--set", restarts])
    }

    /// Starts the job and lets it die.
    fn start(&self, parallelism: u32, death: Death, own: &mut OwnBroker) -> Finished {
        let weir = self.weir(parallelism);
        let slowly = traffic::slowly(&self.job, SLOW_ROWS_PER_SECOND);
        match death {
            Death::Failpoint(name, nth) => weir.with(slowly).env("WEIR_FAILPOINT", format!("{name}:{nth}")).run(),
            Death::After(delay) => weir.with(slowly).kill_after(delay),
            Death::OfBroker(delay) => {
                let mut running = weir.spawn();
                running.pass(delay);
                own.kill_and_restart();
                running.wait()
            }
            Death::OfBoth(delay) => {
                let mut running = weir.with(slowly).spawn();
                running.pass(delay);
                own.kill_and_begin();
                running.kill()
            }
        }
    }

    /// Lets the job run to its end, and compares what a consumer sees.
    fn finish(&self, parallelism: u32, own: &mut OwnBroker) -> Result<(), String> {
        let finished = self.weir(parallelism).run();
        own.await_start();
        if finished.was_killed()? {
            return Err(format!("the last start was ended by a signal: {finished}"));
        }
        let prefix = format!("weir.{}.", self.name);
        self.broker.await_ends(&prefix);
        let open = self.broker.open_transactions(&prefix);
        if !open.is_empty() {
            return Err(format!("transactions were left open: {open:?}\n{finished}"));
        }
        for step in STEPS {
            let messages = self.broker.read(&self.topic(step));
            let lines: Option<String> =
                messages.iter().map(|message| Some(format!("{}\n", message.value.as_deref()?))).collect();
            let lines = lines.ok_or_else(|| format!("{step}: a message has no value"))?;
            self.scratch.write(&format!("out/{step}/messages.jsonl"), lines);
        }
        traffic::verify(&self.scratch, self.guarantee).map_err(|problem| format!("{problem}\n{finished}"))
    }
}
