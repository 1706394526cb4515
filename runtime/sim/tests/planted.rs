//! Bugs planted on purpose, each found within so many seeds: what the simulator is for, shown.

use weir_sim::{Bug, search};

/// Of each, the seeds within which it is found.
const FOUND_WITHIN: [(Bug, u64); Bug::ALL.len()] = [
    (Bug::CommitBeforeDurable, 10),
    (Bug::StaleAcknowledgement, 1_500),
    (Bug::BarrierLetsOneBy, 500),
    (Bug::PositionOneTooHigh, 10),
    (Bug::RangeOneTooShort, 50),
    (Bug::RestoresOneTooOld, 50),
    (Bug::NoCommitAtRestore, 500),
    (Bug::ForgetsAborted, 500),
    (Bug::ForgetsWhatIsBeingCommitted, 500),
    (Bug::AcknowledgesTooEarly, 10),
    (Bug::DeletesWhatIsShared, 10),
    (Bug::StoreWithoutPutIfAbsent, 100),
    (Bug::AbortsNewerEpochs, 500),
    (Bug::ForgetsInFlight, 500),
    (Bug::NamesFilesAnew, 1_500),
];

#[test]
fn each_planted_bug_is_found() {
    for (bug, seeds) in FOUND_WITHIN {
        let found = search(0, seeds, Some(bug), false);
        match found.failures.first() {
            Some(failure) => println!("{bug}: seed {}: {}", failure.seed, failure.reason),
            None => panic!("{bug} is not found within {seeds} seeds"),
        }
    }
}
