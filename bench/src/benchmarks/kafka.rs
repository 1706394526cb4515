//! From Kafka to Kafka, exactly once: records per second, and how long a record takes.

use super::throughput::{HEADER, compared_rows};
use super::{Bench, Contender};
use crate::flink::{FlinkCluster, FlinkInstallation, FlinkSettings};
use crate::measure::{Measure, median};
use crate::process::output_of;
use crate::report::{Run, Table};
use crate::settings::{Backend, Benchmark, name};
use crate::weir::job_head;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const INPUT: &str = "numbers";
/// Each engine has as many, so that it may run in as many subtasks as the machine has cores.
const PARTITIONS: u32 = 4;
/// In the input topic: what the quickest engine reads in a quarter of a minute or more.
const RECORDS: u64 = 80_000_000;
/// For latency.
const RECORDS_PER_SECOND: u64 = 5_000;

/// A broker, and a client of it that is neither engine's.
struct Kafka<'a> {
    bench: &'a Bench,
    broker: String,
    python: String,
    topics: std::cell::Cell<u32>,
}

/// A job that counts and adds up by key.
#[derive(Clone, Copy, Debug)]
struct KafkaJob<'a> {
    input: &'a str,
    output: &'a str,
    /// Column that is aggregated: `n`, a number, or `t`, when the record was made.
    column: &'a str,
    function: &'a str,
    parallelism: u32,
    backend: Backend,
    interval: Duration,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Latency {
    seen: u64,
    p50_ms: f64,
    p99_ms: f64,
    worst_ms: f64,
}

pub fn run(bench: &Bench) -> Result<()> {
    let kafka = Kafka::of_environment(bench)?;
    kafka.fill()?;
    let mut table = Table::new(&[HEADER.as_slice(), &["Ratio"]].concat());
    let mut all_runs = vec![];
    for backend in &bench.settings.backend {
        for parallelism in &bench.settings.parallelism {
            let case = format!("Kafka to Kafka, {}, parallelism {parallelism}", name(*backend));
            let runs = kafka.throughput(*backend, *parallelism, &case)?;
            compared_rows(&mut table, &case, &runs);
            all_runs.extend(runs);
        }
    }
    let mut notes = vec![format!(
        "Messages of JSON (`{{\"k\":123456,\"n\":7}}`) in {PARTITIONS} partitions, count and sum by key ({} keys), each \
         update a message by key in a transaction, exactly once, a checkpoint each second. The broker runs on the same \
         cores; the CPU time is the engine's alone.",
        bench.job().keys
    )];
    notes.extend(kafka.latencies()?);
    bench.publish(Benchmark::Kafka, table, notes, all_runs)
}

impl<'a> Kafka<'a> {
    fn of_environment(bench: &'a Bench) -> Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set; `cargo xtask bench kafka` sets it"))
        };
        let (broker, python) = (variable("WEIR_TEST_KAFKA")?, variable("WEIR_BENCH_PYTHON")?);
        Ok(Kafka { bench, broker, python, topics: std::cell::Cell::new(0) })
    }

    /// The input of all runs, written by a job.
    fn fill(&self) -> Result<()> {
        let keys = self.bench.job().keys;
        self.observe(&["create", INPUT, &PARTITIONS.to_string()])?;
        eprintln!("bench: filling the topic `{INPUT}` with {RECORDS} messages");
        let yaml = format!(
            "{head}    - name: made
      schema: [{{name: k, type: BIGINT}}, {{name: n, type: BIGINT}}]
      generator:
        count: {RECORDS}
        columns: [{{name: k, sequence: {{cardinality: {keys}, order: Mixed}}}}, {{name: n, sequence: {{}}}}]
    sinks:
    - name: topic
      from: made
      delivery: AtLeastOnce
      kafka: {{bootstrapServers: \"{}\", topic: {INPUT}, properties: {{compression.type: lz4}}}}
      format: {{json: {{}}}}
",
            self.broker,
            head = job_head("fill", 2),
        );
        self.bench.with_folder(|folder| self.bench.weir.run_to_end(&yaml, folder))
    }

    fn throughput(&self, backend: Backend, parallelism: u32, case: &str) -> Result<Vec<Run>> {
        let job = KafkaJob {
            input: INPUT,
            output: "",
            column: "n",
            function: "SUM",
            parallelism,
            backend,
            interval: Duration::from_secs(1),
        };
        let settings = &self.bench.settings;
        let weir = move |folder: &Path| {
            self.with_topic(|output| {
                let run = self.bench.weir.start_yaml(&self.yaml(&KafkaJob { output, ..job }, folder), folder)?;
                let measure = run.measure(settings.warm_up(), settings.window())?;
                if run.samples().last().is_some_and(|sample| sample.records >= RECORDS) {
                    bail!("the topic was read to its end in the measured window; make --seconds or --warm-up less");
                }
                run.kill();
                Ok(measure)
            })
        };
        let mut contenders = vec![Contender { name: format!("Weir, {case}"), run: Box::new(weir) }];
        if let Some(flink) = &self.bench.flink {
            let run = move |folder: &Path| {
                self.with_topic(|output| {
                    let job = KafkaJob { output, ..job };
                    let cluster = self.flink(flink, &job, folder)?;
                    cluster.run_statements(&self.statements(&job))?.measure(settings.flink_warm_up(), settings.window())
                })
            };
            contenders.push(Contender { name: format!("Flink, {case}"), run: Box::new(run) });
        }
        self.bench.take_turns(&contenders)
    }

    /// A note for each engine and interval.
    fn latencies(&self) -> Result<Vec<String>> {
        let mut notes = vec![];
        for interval in [Duration::from_secs(1), Duration::from_millis(100)] {
            let job = KafkaJob {
                input: "",
                output: "",
                column: "t",
                function: "MAX",
                parallelism: 1,
                backend: Backend::Heap,
                interval,
            };
            let mut of_weir = vec![];
            let mut of_flink = vec![];
            for _ in 0..self.bench.settings.repeat {
                of_weir.push(self.latency_of_weir(&job).context("Weir")?);
                if let Some(flink) = &self.bench.flink {
                    of_flink.push(self.latency_of_flink(flink, &job).context("Flink")?);
                }
            }
            notes.extend(note("Weir", interval, &of_weir));
            notes.extend(note("Flink", interval, &of_flink));
        }
        Ok(notes)
    }

    fn latency_of_weir(&self, job: &KafkaJob<'_>) -> Result<(Latency, Measure)> {
        let warm_up = self.bench.settings.warm_up();
        self.with_topics(|input, output| {
            self.bench.with_folder(|folder| {
                let job = KafkaJob { input, output, ..*job };
                let run = self.bench.weir.start_yaml(&self.yaml(&job, folder), folder)?;
                run.until_running()?;
                let latency = self.latency(&job, warm_up)?;
                let measure = Measure::of(&run.samples(), &run.checkpoints())?;
                run.kill();
                Ok((latency, measure))
            })
        })
    }

    fn latency_of_flink(&self, flink: &FlinkInstallation, job: &KafkaJob<'_>) -> Result<(Latency, Measure)> {
        let warm_up = self.bench.settings.flink_warm_up();
        self.with_topics(|input, output| {
            self.bench.with_folder(|folder| {
                let job = KafkaJob { input, output, ..*job };
                let cluster = self.flink(flink, &job, folder)?;
                let running = cluster.run_statements(&self.statements(&job))?;
                running.until_running()?;
                let before = cluster.usage()?;
                let latency = self.latency(&job, warm_up)?;
                let cpu = cluster.usage()?.cpu.saturating_sub(before.cpu);
                let records = (warm_up + self.bench.settings.window()).as_secs_f64() * RECORDS_PER_SECOND as f64;
                Ok((latency, Measure { cpu_ns_per_record: cpu.as_nanos() as f64 / records, ..Measure::default() }))
            })
        })
    }

    fn latency(&self, job: &KafkaJob<'_>, warm_up: Duration) -> Result<Latency> {
        let keys = self.bench.job().keys.to_string();
        let (warm_up, window) = (warm_up.as_secs().to_string(), self.bench.settings.seconds.to_string());
        let rate = RECORDS_PER_SECOND.to_string();
        let said = self.observe(&["latency", job.input, job.output, &rate, &keys, &warm_up, &window])?;
        let latency: Latency = serde_json::from_str(said.trim()).with_context(|| format!("observer: {said}"))?;
        eprintln!("bench: {latency:?}");
        Ok(latency)
    }

    fn flink(&self, flink: &FlinkInstallation, job: &KafkaJob<'_>, folder: &Path) -> Result<FlinkCluster> {
        let memory = &self.bench.settings.flink_memory;
        let settings = FlinkSettings::new(job.parallelism, job.backend, Some(job.interval), memory);
        FlinkCluster::start(flink, &settings, folder)
    }

    fn yaml(&self, job: &KafkaJob<'_>, folder: &Path) -> String {
        let KafkaJob { input, output, column, function, parallelism, backend, interval } = job;
        format!(
            "{head}    - name: numbers
      schema: [{{name: k, type: BIGINT}}, {{name: {column}, type: BIGINT}}]
      kafka: {{bootstrapServers: \"{broker}\", topics: [{input}], groupId: {output}, startFrom: Earliest}}
      format: {{json: {{}}}}
    transforms:
    - name: totals
      sql: SELECT k, COUNT(*) AS c, {function}({column}) AS {column} FROM numbers GROUP BY k
    sinks:
    - name: topic
      from: totals
      delivery: ExactlyOnce
      kafka: {{bootstrapServers: \"{broker}\", topic: {output}, key: [k], transactionTimeout: 10m}}
      format: {{json: {{}}}}
  checkpoint:
    interval: {interval}ms
    timeout: 1m
    minPause: 0s
    storage: {{uri: \"file://{storage}\"}}
  stateBackend: {{{backend}: {{}}}}
  restart: {{none: {{}}}}
",
            head = job_head("bench", *parallelism),
            broker = self.broker,
            interval = interval.as_millis(),
            storage = folder.join("checkpoints").display(),
            backend = name(*backend),
        )
    }

    fn statements(&self, job: &KafkaJob<'_>) -> Vec<String> {
        let KafkaJob { input, output, column, function, .. } = job;
        let servers = format!("'properties.bootstrap.servers' = '{}'", self.broker);
        vec![
            format!(
                "CREATE TABLE numbers (k BIGINT, {column} BIGINT) WITH ('connector' = 'kafka', 'topic' = '{input}', \
                 {servers}, 'properties.group.id' = '{output}', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json')"
            ),
            format!(
                "CREATE TABLE totals (k BIGINT, c BIGINT, {column} BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH \
                 ('connector' = 'upsert-kafka', 'topic' = '{output}', {servers}, 'key.format' = 'json', \
                 'value.format' = 'json', 'sink.delivery-guarantee' = 'exactly-once', \
                 'sink.transactional-id-prefix' = '{output}', 'properties.transaction.timeout.ms' = '600000')"
            ),
            format!(
                "INSERT INTO totals SELECT k, COUNT(*) AS c, {function}({column}) AS {column} FROM numbers GROUP BY k"
            ),
        ]
    }

    /// A new one for the output of a run; gone when that is done.
    fn with_topic<T>(&self, use_it: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        self.topics.set(self.topics.get() + 1);
        let topic = format!("run-{}", self.topics.get());
        self.observe(&["create", &topic, &PARTITIONS.to_string()])?;
        let result = use_it(&topic);
        self.observe(&["delete", &topic])?;
        result
    }

    fn with_topics<T>(&self, use_them: impl FnOnce(&str, &str) -> Result<T>) -> Result<T> {
        self.with_topic(|input| self.with_topic(|output| use_them(input, output)))
    }

    fn observe(&self, arguments: &[&str]) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/observer.py");
        output_of(Command::new(&self.python).arg(script).arg(&self.broker).args(arguments))
    }
}

fn note(engine: &str, interval: Duration, runs: &[(Latency, Measure)]) -> Option<String> {
    let of = |figure: fn(&Latency) -> f64| median(runs.iter().map(|(latency, _)| figure(latency)));
    (!runs.is_empty()).then(|| {
        format!(
            "Latency of {engine} at {RECORDS_PER_SECOND} records/s, a checkpoint every {} ms, from the producer to a \
             `read_committed` consumer: p50 {:.0} ms, p99 {:.0} ms, worst {:.0} ms; {:.1} us of CPU per record; {} seen.",
            interval.as_millis(),
            of(|latency| latency.p50_ms),
            of(|latency| latency.p99_ms),
            of(|latency| latency.worst_ms),
            median(runs.iter().map(|(_, measure)| measure.cpu_ns_per_record)) / 1000.0,
            of(|latency| latency.seen as f64)
        )
    })
}
