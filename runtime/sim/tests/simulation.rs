//! Many seeds. `WEIR_SIM_SEEDS`: how many; `WEIR_SIM_SEED`: the first of them.

use weir_sim::{Bug, report, search, simulate};

const SEEDS: u64 = 10_000;
/// Lines of a trace that are printed.
const SHOWN: usize = 400;

#[test]
fn no_seed_finds_anything() {
    let (first, count) = (number("WEIR_SIM_SEED").unwrap_or(0), number("WEIR_SIM_SEEDS").unwrap_or(SEEDS));
    let found = search(first, count, None, false);
    if let Some(failure) = found.failures.first() {
        panic!("{}", report(failure.seed, None, SHOWN));
    }
    println!("{count} seeds from {first}: {:?}", found.total);
}

/// The same seed does the same: its trace, line by line.
#[test]
fn a_seed_repeats_exactly() {
    for seed in 0..20 {
        let trace = |bug| match simulate(seed, bug, true) {
            Ok(summary) => format!("{summary:?}"),
            Err(failure) => format!("{}\n{}", failure.reason, failure.trace.join("\n")),
        };
        for bug in [None, Some(Bug::NoCommitAtRestore)] {
            assert_eq!(trace(bug), trace(bug), "seed {seed}");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: `{text}` is not a number")))
}
