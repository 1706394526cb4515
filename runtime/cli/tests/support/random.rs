//! Random runs, each of which its seed repeats.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

/// How many there are `WEIR_{name}_RUNS` says, and `WEIR_{name}_SEED` what the first one's seed is.
///
/// `run` tells what happened in it, or what is wrong; `repeat` is the command that repeats the run of a seed.
#[track_caller]
pub fn random_runs(
    name: &str,
    default_runs: u64,
    repeat: impl Fn(u64) -> String,
    mut run: impl FnMut(u64, &mut ChaCha8Rng) -> Result<String, String>,
) {
    let runs = number(&format!("WEIR_{name}_RUNS")).unwrap_or(default_runs);
    let first = number(&format!("WEIR_{name}_SEED")).unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    println!("{name}: {runs} runs, the first with seed {first}");
    for seed in (0..runs).map(|run| first.wrapping_add(run)) {
        let began = Instant::now();
        match run(seed, &mut ChaCha8Rng::seed_from_u64(seed)) {
            Ok(story) => println!("seed {seed}: {story}: correct after {:.1?}", began.elapsed()),
            Err(problem) => panic!("seed {seed}: {problem}\nrepeat with: {}", repeat(seed)),
        }
    }
}

/// What the variable says, if it is set.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}
