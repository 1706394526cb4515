//! `cargo xtask`: the one entry to building, running, testing and measuring Weir.
//!
//! Every subcommand first puts what it needs into a cache outside the checkout (see [`layout`]), says so while it
//! does, and is quick the second time. The standard library is the only dependency.

mod able;
mod build_env;
mod cluster;
mod commands;
mod data;
mod failure;
mod image;
mod kubernetes;
mod layout;
mod libclang;
mod links;
mod process;
mod python;
mod rocksdb;
mod servers;
mod system;
mod tidy;

use std::process::ExitCode;

use failure::{Failure, Result};
use layout::Layout;

const HELP: &str = "\
Usage: cargo xtask COMMAND [ARGUMENTS]

Run
  weir ARGS...             Build the weir command in release mode and run it with ARGS.
                           Data of an example named in ARGS is fetched first.
  bench ARGS...            Build the benchmarks in release mode and run them with ARGS.

Test
  test [FILTER]            Run all tests, or those whose name contains FILTER.
  test CARGO_ARGS...       The same, with arguments for cargo test: -p weir-state my_test -- --nocapture
  check                    Everything that continuous integration checks: tidy, formatting, generated
                           files, lints, all tests.
  tidy                     Check file sizes, whitespace, links between pages, and words that do not
                           belong in the repository.
  test-storage [STORE...]  Run the storage tests against real servers: s3, s3-light, gcs, azure, hdfs, or all.
  simulate [--seeds N] [--seed S] [--bug NAME] [--keep-going]
                           Whole jobs in one thread and virtual time, under faults: N seeds, or seed S alone.
  kill-test [RUNS] [SEED]  Kill real processes at random moments and compare their output.
  kill-test-postgres [RUNS] [SEED]
                           The same for jobs with PostgreSQL connectors; the server is killed, too.
  kinesis-test [RUNS] [SEED]
                           Kill jobs that read a Kinesis stream while its shards are split and merged.
  kafka-test [RUNS] [SEED] Kill jobs from Kafka to Kafka, and the broker, and compare what a client of another make reads.
  s3-files-test [RUNS] [SEED]
                           Kill jobs that write files on S3, and compare what boto3 reads.
  iceberg-test [RUNS] [SEED]
                           Kill jobs that write into Iceberg tables, and the catalog, and compare what pyiceberg reads.
  chaos [RUNS] [SEED]      Kill, pause and cut off the processes of distributed jobs, and compare their output.

Try
  server NAME              Run s3, s3-light, azure, hdfs, kafka, kinesis, postgres or iceberg until Ctrl-C, and say how a job reaches it.

Kubernetes
  demo                     From a checkout to a StreamJob with completed checkpoints, on the cluster that KUBECONFIG
                           names, else on one that it starts on this machine.
  e2e [FILTER]             All tests against a real cluster, chosen as for the demo.
  e2e --chosen             Those that are a part of `test`, on a cluster of this machine's own.
  chart                    Check the Helm chart and print what it renders to.
  cluster up               Start a Kubernetes cluster on this machine (as root; builds it the first time, 6 to 11
                           minutes). Also: down [--purge], status, env, images, smoke.
  cluster load [--release] Build Weir's image and make it known to that cluster's node.
  image [--debug]          Build Weir's container image as a tar, without a container engine.

Prepare
  setup                    Put everything in place: compiler, libclang, RocksDB, test oracle, example data.
  data                     Fetch the data of all examples.
  crds [--check]           Write the files generated from the resource types; --check only compares.
  api [--check]            Write the files generated from the REST API's types and the metrics' names.
  env                      Print the variables a plain cargo needs: eval \"$(cargo xtask env)\"

Environment
  WEIR_CACHE_DIR           Where tools and libraries are kept. Default: ${XDG_CACHE_HOME:-~/.cache}/weir
  WEIR_TARGET_DIR          Where cargo builds. Default: $CARGO_TARGET_DIR, else target/ in the cache.
  WEIR_NO_INSTALL          When set, system packages are never installed; what is missing is named instead.
  LIBCLANG_PATH            The folder of libclang. Default: the system's, else one fetched into the cache.
  KUBECONFIG               The cluster of demo and e2e; one on this machine if it is not set.
  WEIR_IMAGE               The image that such a cluster pulls.
  ROCKSDB_LIB_DIR          A folder with a librocksdb.a of your own. Default: built once, kept in the cache.

The first build compiles RocksDB, which takes about 12 minutes on 2 cores. It is kept in the cache.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Message(message)) => {
            eprintln!("xtask: error: {message}");
            ExitCode::FAILURE
        }
        // The command has already said what went wrong.
        Err(Failure::Exit(code)) => ExitCode::from(code),
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else {
        print!("{HELP}");
        return Ok(());
    };
    if matches!(command.as_str(), "help" | "-h" | "--help") {
        print!("{HELP}");
        return Ok(());
    }
    let layout = Layout::find()?;
    match command.as_str() {
        "weir" => commands::weir(&layout, rest),
        "bench" => commands::bench(&layout, rest),
        "test" => commands::test(&layout, rest),
        "check" => no_arguments(command, rest).and_then(|()| commands::check(&layout)),
        "tidy" => no_arguments(command, rest).and_then(|()| tidy::check(&layout)),
        "test-storage" => servers::test_storage(&layout, rest),
        "server" => servers::foreground(&layout, rest),
        "demo" => no_arguments(command, rest).and_then(|()| kubernetes::demo(&layout)),
        "e2e" => kubernetes::e2e(&layout, rest),
        "chart" => no_arguments(command, rest).and_then(|()| kubernetes::chart(&layout)),
        "cluster" => cluster::command(&layout, rest),
        "image" => image::command(&layout, rest),
        "simulate" => commands::simulate(&layout, rest),
        "kill-test" => commands::kill_test(&layout, rest),
        "kill-test-postgres" => commands::kill_test_postgres(&layout, rest),
        "kinesis-test" => commands::kinesis_test(&layout, rest),
        "kafka-test" => commands::kafka_test(&layout, rest),
        "s3-files-test" => commands::s3_files_test(&layout, rest),
        "iceberg-test" => commands::iceberg_test(&layout, rest),
        "chaos" => commands::chaos(&layout, rest),
        "setup" => no_arguments(command, rest).and_then(|()| commands::setup(&layout)),
        "data" => no_arguments(command, rest).and_then(|()| data::fetch_all(&layout)),
        "crds" => commands::crds(&layout, rest),
        "api" => commands::api(&layout, rest),
        "env" => no_arguments(command, rest).and_then(|()| commands::print_env(&layout)),
        unknown => {
            Err(Failure::new(format!("there is no command `{unknown}`; `cargo xtask help` lists those there are")))
        }
    }
}

fn no_arguments(command: &str, rest: &[String]) -> Result<()> {
    match rest.first() {
        None => Ok(()),
        Some(first) => Err(Failure::new(format!("`{command}` takes no arguments, but got `{first}`"))),
    }
}
