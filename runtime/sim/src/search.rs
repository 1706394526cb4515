//! Many seeds, on all cores.

use crate::{Bug, Failure, Summary, simulate};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads that search at most.
const THREADS: usize = 64;

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Over the seeds that found nothing wrong.
    pub total: Summary,
    /// By seed; without their traces.
    pub failures: Vec<Failure>,
}

/// Runs `count` seeds from `first` on. With `keep_going` all of them, else until one fails; then the lowest that does
/// is among the failures.
pub fn search(first: u64, count: u64, bug: Option<Bug>, keep_going: bool) -> Found {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let (next, found) = (AtomicU64::new(first), Mutex::new(Found::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            let is_decided = lock(&found).failures.iter().any(|failure| failure.seed < seed) && !keep_going;
            if seed >= first.saturating_add(count) || is_decided {
                return;
            }
            match simulate(seed, bug, false) {
                Ok(summary) => lock(&found).total.add(&summary),
                Err(failure) => lock(&found).failures.push(failure),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.failures.sort_by_key(|failure| failure.seed);
    found
}

/// A failed seed told once more, with its trace, and the command that repeats it.
pub fn report(seed: u64, bug: Option<Bug>, lines: usize) -> String {
    let Err(again) = simulate(seed, bug, true) else { return format!("seed {seed} finds nothing wrong") };
    let from = again.trace.len().saturating_sub(lines);
    let planted = bug.map_or(String::new(), |bug| format!(" --bug {bug}"));
    format!(
        "{}\n{}{}\nseed {seed}: {}\nagain: cargo xtask simulate --seed {seed}{planted}",
        crate::describe(seed),
        if from > 0 { "...\n" } else { "" },
        again.trace[from..].join("\n"),
        again.reason
    )
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}
