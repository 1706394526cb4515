//! Runs seeds: `weir-sim [--seeds N] [--seed S] [--bug NAME] [--keep-going] [--trace LINES]`.

use std::process::ExitCode;
use weir_sim::{Bug, report, search};

const USAGE: &str = "\
usage: cargo xtask simulate [--seeds N] [--seed S] [--bug NAME] [--keep-going] [--trace LINES]

  --seeds N      Run N seeds (10000).
  --seed S       Begin with seed S; without --seeds, run it alone.
  --bug NAME     With a bug planted on purpose; `--bug list` names them.
  --keep-going   Run all seeds, and print a line for each that fails.
  --trace LINES  Lines of a failing seed's trace to print, the last ones (400).";

struct Options {
    first: u64,
    count: u64,
    bug: Option<Bug>,
    keep_going: bool,
    lines: usize,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A panic of the product is a finding; it is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let Options { first, count, bug, keep_going, lines } = options;
    let found = search(first, count, bug, keep_going);
    for failure in found.failures.iter().filter(|_| keep_going) {
        println!("seed {}: {}", failure.seed, failure.reason);
    }
    println!("{count} seeds from {first}, {} failed; {:?}", found.failures.len(), found.total);
    match found.failures.first() {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("{}", report(failure.seed, bug, lines));
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut seeds, mut seed, mut bug, mut keep_going, mut lines) = (None, None, None, false, 400);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("`{argument}` wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number"));
        match argument.as_str() {
            "--seeds" => seeds = Some(number(value()?)?),
            "--seed" => seed = Some(number(value()?)?),
            "--bug" => bug = Some(value()?.parse::<Bug>()?),
            "--trace" => lines = number(value()?)? as usize,
            "--keep-going" => keep_going = true,
            unknown => return Err(format!("there is no option `{unknown}`")),
        }
    }
    let count = seeds.unwrap_or(if seed.is_some() { 1 } else { 10_000 });
    Ok(Options { first: seed.unwrap_or(0), count, bug, keep_going, lines })
}
