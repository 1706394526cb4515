//! The commands that build and run the workspace.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::build_env::BuildEnv;
use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::{replace, run, run_aside, say, succeeds};
use crate::{cluster, data, kubernetes, python, servers, tidy};

/// Builds the CLI and becomes it, in the folder of the caller.
pub fn weir(layout: &Layout, arguments: &[String]) -> Result<()> {
    data::fetch_for(layout, arguments)?;
    let env = BuildEnv::prepare(layout)?;
    run_aside(
        // The whole workspace's features, though one binary: else Arrow and DataFusion would be built once more for
        // each command that selects other packages.
        env.cargo(&["build", "--release", "--workspace", "--bin", "weir"]).current_dir(&layout.checkout),
    )?;
    let binary = layout.target.join("release").join(format!("weir{}", std::env::consts::EXE_SUFFIX));
    let mut command = Command::new(binary);
    command.args(arguments);
    replace(command)
}

pub fn bench(layout: &Layout, arguments: &[String]) -> Result<()> {
    if arguments.first().is_some_and(|benchmark| benchmark == "operator") {
        return bench_operator(layout, arguments);
    }
    let env = BuildEnv::prepare(layout)?;
    let build = ["build", "--release", "--workspace", "--bin", "weir", "--bin", "weir-bench"];
    run_aside(env.cargo(&build).current_dir(&layout.checkout))?;
    let mut bench = Command::new(layout.target.join("release").join("weir-bench"));
    bench.args(arguments).env("WEIR_CACHE_DIR", &layout.cache).env("WEIR_BENCH_PYTHON", python::ensure(layout)?);
    if !arguments.iter().any(|argument| argument == "kafka") {
        return replace_in_checkout(layout, bench);
    }
    let with_flink = !arguments.iter().any(|argument| argument == "--without-flink");
    let kafka = servers::kafka_for_bench(layout, with_flink)?;
    kafka.broker.announce(&mut bench);
    bench.env("WEIR_BENCH_PYTHON", kafka.python);
    bench.envs(kafka.flink_connector.map(|folder| ("WEIR_BENCH_FLINK_CONNECTORS", folder)));
    // The broker ends with this process.
    run(bench.current_dir(&layout.checkout))
}

/// On etcd and an API server of its own, without nodes.
fn bench_operator(layout: &Layout, arguments: &[String]) -> Result<()> {
    let programs = cluster::prepare(layout)?;
    let env = BuildEnv::prepare(layout)?;
    let build = ["build", "--release", "--workspace", "--bin", "weir-operator", "--bin", "weir-bench"];
    run_aside(env.cargo(&build).current_dir(&layout.checkout))?;
    let mut bench = Command::new(layout.target.join("release").join("weir-bench"));
    bench.args(arguments).env("WEIR_BENCH_CLUSTER", cluster::script_path(layout)).env("CLUSTER_BIN", programs);
    // Short: there are sockets in it.
    bench.env("WEIR_BENCH_CLUSTER_DIR", layout.cache.join("cluster-bench"));
    replace_in_checkout(layout, bench)
}

/// All tests, those that a filter names, or what arguments for `cargo test` select.
pub fn test(layout: &Layout, arguments: &[String]) -> Result<()> {
    let started = Instant::now();
    data::fetch_all(layout)?;
    let env = BuildEnv::prepare_for_tests(layout)?;
    match arguments {
        [] => run_all_tests(&env, layout, started),
        _ => run_tests(&env, layout, arguments),
    }
}

/// Quick checks first, tests last: their result lines end the output.
pub fn check(layout: &Layout) -> Result<()> {
    let started = Instant::now();
    ensure_components()?;
    step("tidy: file sizes, whitespace, words, links");
    tidy::check(layout)?;
    step("formatting: cargo fmt --check");
    run(Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(&layout.checkout))
        .map_err(|_| Failure::new("the formatting differs from rustfmt's; `cargo fmt --all` repairs it"))?;
    data::fetch_all(layout)?;
    let env = BuildEnv::prepare_for_tests(layout)?;
    step("generated files: crdgen --check, apigen --check");
    run_crdgen(&env, layout, "--check")?;
    run_apigen(&env, layout, "--check")?;
    step("chart: helm lint, helm template; scripts for Argo CD");
    kubernetes::check(layout)?;
    step("lints: cargo clippy");
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run(env.cargo(&clippy).current_dir(&layout.checkout))?;
    step("tests: cargo test");
    run_all_tests(&env, layout, started)
}

/// Those on a cluster even if one before them fails: what they find is worth knowing, too.
fn run_all_tests(env: &BuildEnv, layout: &Layout, started: Instant) -> Result<()> {
    let tests = run_tests(env, layout, &[]);
    let on_cluster = run_on_cluster(layout, started);
    if tests.is_err() {
        say("tests that need no cluster have failed; what they say is above");
    }
    tests.and(on_cluster)
}

fn run_on_cluster(layout: &Layout, started: Instant) -> Result<()> {
    step("tests on a cluster");
    kubernetes::e2e_chosen(layout, started.elapsed())
}

/// With an S3 server beside them, and a Kafka broker where its tests may be among them.
fn run_tests(env: &BuildEnv, layout: &Layout, arguments: &[String]) -> Result<()> {
    let s3 = servers::light_for_tests(layout)?;
    servers::ensure_postgres_for_tests();
    let names_kafka = arguments.iter().any(|argument| argument.contains("kafka"));
    let kafka = match arguments {
        _ if names_kafka => servers::kafka_for_tests(layout)?,
        [] => kafka_if_it_is_here(layout),
        _ => None,
    };
    let names_iceberg = arguments.iter().any(|argument| argument.contains("iceberg"));
    let iceberg = match arguments {
        _ if names_iceberg => servers::iceberg_for_tests(layout)?,
        [] => iceberg_if_it_is_here(layout),
        _ => vec![],
    };
    let names_kinesis = arguments.iter().any(|argument| argument.contains("kinesis"));
    let kinesis = match arguments {
        _ if names_kinesis => servers::kinesis_for_tests(layout)?,
        [] => kinesis_if_it_is_here(layout),
        _ => None,
    };
    let mut cargo = cargo_test(env, arguments);
    cargo.envs(iceberg);
    for server in [&s3, &kafka, &kinesis].into_iter().flatten() {
        server.announce(&mut cargo);
    }
    run(cargo.current_dir(&layout.checkout))
}

fn kafka_if_it_is_here(layout: &Layout) -> Option<servers::ForTests> {
    unless_missing(servers::kafka_for_tests(layout), "The tests against Kafka")
}

/// A machine without Java, Maven or Node still runs everything else.
fn unless_missing<T: Default>(found: Result<T>, tests: &str) -> T {
    found.unwrap_or_else(|failure| {
        let reason = if let Failure::Message(reason) = failure { reason } else { String::new() };
        say(&format!("{reason}. {tests} are skipped"));
        T::default()
    })
}

fn iceberg_if_it_is_here(layout: &Layout) -> Vec<(&'static str, PathBuf)> {
    unless_missing(servers::iceberg_for_tests(layout), "The tests of the Iceberg sink")
}

fn kinesis_if_it_is_here(layout: &Layout) -> Option<servers::ForTests> {
    unless_missing(servers::kinesis_for_tests(layout), "The tests against Kinesis")
}

/// Kills of a whole process, at random moments.
pub fn kill_test(layout: &Layout, arguments: &[String]) -> Result<()> {
    random_runs(layout, "kill-test", "kill", ["WEIR_KILL_RUNS", "WEIR_KILL_SEED"], arguments)
}

/// The same for jobs that write into PostgreSQL, whose server is killed too.
pub fn kill_test_postgres(layout: &Layout, arguments: &[String]) -> Result<()> {
    servers::ensure_postgres_for_tests();
    let variables = ["WEIR_POSTGRES_RUNS", "WEIR_POSTGRES_SEED"];
    random_runs(layout, "kill-test-postgres", "postgres", variables, arguments)
}

/// Kills of jobs between topics of a real broker.
pub fn kafka_test(layout: &Layout, arguments: &[String]) -> Result<()> {
    random_runs(layout, "kafka-test", "kafka", ["WEIR_KAFKA_RUNS", "WEIR_KAFKA_SEED"], arguments)
}

/// Kills of jobs that read a stream whose shards change.
pub fn kinesis_test(layout: &Layout, arguments: &[String]) -> Result<()> {
    random_runs(layout, "kinesis-test", "kinesis", ["WEIR_KINESIS_RUNS", "WEIR_KINESIS_SEED"], arguments)
}

/// Kills of jobs that write into Iceberg tables, and of their catalog.
pub fn iceberg_test(layout: &Layout, arguments: &[String]) -> Result<()> {
    random_runs(layout, "iceberg-test", "iceberg", ["WEIR_ICEBERG_RUNS", "WEIR_ICEBERG_SEED"], arguments)
}

/// Kills of jobs that write files on S3.
pub fn s3_files_test(layout: &Layout, arguments: &[String]) -> Result<()> {
    random_runs(layout, "s3-files-test", "object_files", ["WEIR_S3_FILES_RUNS", "WEIR_S3_FILES_SEED"], arguments)
}

/// Random faults on the processes of a job and on what connects them.
pub fn chaos(layout: &Layout, arguments: &[String]) -> Result<()> {
    random_runs(layout, "chaos", "chaos", ["WEIR_CHAOS_RUNS", "WEIR_CHAOS_SEED"], arguments)
}

/// A test that makes random runs, with the servers that it needs beside it; the variables take their number and the first one's seed.
fn random_runs(
    layout: &Layout,
    command: &str,
    test: &str,
    variables: [&'static str; 2],
    arguments: &[String],
) -> Result<()> {
    let usage = format!("usage: cargo xtask {command} [RUNS] [SEED]");
    if arguments.len() > 2 {
        return Err(Failure::new(usage));
    }
    for argument in arguments {
        argument.parse::<u64>().map_err(|_| Failure::new(format!("`{argument}` is not a number; {usage}")))?;
    }
    let env = BuildEnv::prepare_for_tests(layout)?;
    let s3 = match test {
        "kafka" | "kinesis" => None,
        _ => servers::light_for_tests(layout)?,
    };
    let kinesis = match test {
        "kinesis" => servers::kinesis_for_tests(layout)?,
        "kafka" | "postgres" | "iceberg" | "object_files" => kinesis_if_it_is_here(layout),
        _ => None,
    };
    let kafka = match test {
        "chaos" | "kinesis" => None,
        "kafka" => servers::kafka_for_tests(layout)?,
        _ => kafka_if_it_is_here(layout),
    };
    let mut cargo = env.cargo(&["test", "--release", "--workspace", "--test", test, "--", "--nocapture"]);
    cargo.envs(variables.into_iter().zip(arguments));
    match test {
        "iceberg" => {
            servers::ensure_postgres_for_tests();
            cargo.envs(servers::iceberg_for_tests(layout)?);
        }
        "postgres" => drop(cargo.envs(iceberg_if_it_is_here(layout))),
        _ => {}
    }
    for server in [&s3, &kafka, &kinesis].into_iter().flatten() {
        server.announce(&mut cargo);
    }
    run(cargo.current_dir(&layout.checkout))
}

/// Runs simulated jobs; arguments are the simulator's own.
pub fn simulate(layout: &Layout, arguments: &[String]) -> Result<()> {
    let env = BuildEnv::prepare(layout)?;
    let mut cargo = env.cargo(&["run", "--quiet", "--release", "--package", "weir-sim", "--bin", "weir-sim", "--"]);
    cargo.args(arguments);
    replace_in_checkout(layout, cargo)
}

/// Writes the files that are generated from the resource types, or compares them with what would be written.
pub fn crds(layout: &Layout, arguments: &[String]) -> Result<()> {
    let mode = match arguments {
        [] => "--write",
        [only] if only == "--check" => "--check",
        _ => return Err(Failure::new("usage: cargo xtask crds [--check]")),
    };
    // With the whole environment, although the generator needs little of it: cargo would build anew whatever was
    // built under other variables.
    let env = BuildEnv::prepare(layout)?;
    run_crdgen(&env, layout, mode)
}

/// Writes the files that are generated from the REST API's types and the metrics' names, or compares them.
pub fn api(layout: &Layout, arguments: &[String]) -> Result<()> {
    let mode = match arguments {
        [] => "--write",
        [only] if only == "--check" => "--check",
        _ => return Err(Failure::new("usage: cargo xtask api [--check]")),
    };
    let env = BuildEnv::prepare(layout)?;
    run_apigen(&env, layout, mode)
}

/// Everything a later command needs, without building Weir.
pub fn setup(layout: &Layout) -> Result<()> {
    ensure_components()?;
    python::ensure_oracle(layout)?;
    data::fetch_all(layout)?;
    BuildEnv::prepare(layout)?;
    say("everything is in place");
    Ok(())
}

pub fn print_env(layout: &Layout) -> Result<()> {
    print!("{}", BuildEnv::prepare_for_tests(layout)?.exports());
    Ok(())
}

fn cargo_test(env: &BuildEnv, arguments: &[String]) -> Command {
    // All failures in one run: a second run may be half an hour away.
    let mut cargo = env.cargo(&["test", "--no-fail-fast"]);
    let selects_package = arguments.iter().take_while(|argument| *argument != "--").any(|argument| {
        matches!(argument.as_str(), "-p" | "--package" | "--workspace" | "--manifest-path")
            || argument.starts_with("--package=")
    });
    if !selects_package {
        cargo.arg("--workspace");
    }
    cargo.args(arguments);
    cargo
}

fn run_crdgen(env: &BuildEnv, layout: &Layout, mode: &str) -> Result<()> {
    let mut cargo = env.cargo(&["run", "--quiet", "--package", "weir-crds", "--bin", "crdgen", "--", mode]);
    run(cargo.current_dir(&layout.checkout))
}

fn run_apigen(env: &BuildEnv, layout: &Layout, mode: &str) -> Result<()> {
    let mut cargo = env.cargo(&["run", "--quiet", "--package", "weir-api", "--bin", "apigen", "--", mode]);
    run(cargo.current_dir(&layout.checkout))
}

/// Formatter and linter are parts of the toolchain that a minimal installation leaves out.
fn ensure_components() -> Result<()> {
    let missing: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(command, _)| !succeeds(Command::new("cargo").args([command, "--version"])))
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    say(&format!("adding to the Rust toolchain: {list}"));
    run_aside(Command::new("rustup").args(["component", "add"]).args(&missing)).map_err(|_| {
        Failure::new(format!("the Rust toolchain lacks {list}. With rustup: rustup component add {list}; else install them as your system packages them"))
    })
}

fn replace_in_checkout(layout: &Layout, mut command: Command) -> Result<()> {
    command.current_dir(&layout.checkout);
    replace(command)
}

fn step(name: &str) {
    eprintln!();
    say(name);
}
