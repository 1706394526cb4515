//! Bugs planted on purpose, to show that the simulator finds such. Each is a place of the simulator's own drivers
//! that does something else than the node's, or a storage that is not what it says: nothing of the product knows them.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Sinks are told to commit when the last task has acknowledged, not when the log has the checkpoint.
    CommitBeforeDurable,
    /// An acknowledgement counts for the checkpoint under way, whichever attempt and checkpoint it speaks of.
    StaleAcknowledgement,
    /// A channel whose barrier has come is read once more before the others' have.
    BarrierLetsOneBy,
    /// A source says in its snapshot that it has read one record more than it has.
    PositionOneTooHigh,
    /// A restored subtask's key groups end one too early.
    RangeOneTooShort,
    /// An attempt starts from the checkpoint before the last.
    RestoresOneTooOld,
    /// What the restored checkpoint had prepared is not committed again.
    NoCommitAtRestore,
    /// What an aborted checkpoint had prepared is not in the next.
    ForgetsAborted,
    /// What a committer was told of, and has not done yet, is not in the next checkpoint.
    ForgetsWhatIsBeingCommitted,
    /// A worker acknowledges before its object is written.
    AcknowledgesTooEarly,
    /// Retention removes every object that is older than the checkpoints it keeps, whoever names it.
    DeletesWhatIsShared,
    /// The storage creates objects whether or not they are there.
    StoreWithoutPutIfAbsent,
    /// A coordinator that has lost the job removes what its successor's sinks have prepared.
    AbortsNewerEpochs,
    /// What an unaligned barrier overtook is not in the snapshot.
    ForgetsInFlight,
    /// A store that was restored gives its new files names that the restored ones have.
    NamesFilesAnew,
}

impl Bug {
    pub const ALL: [Bug; 15] = [
        Bug::CommitBeforeDurable,
        Bug::StaleAcknowledgement,
        Bug::BarrierLetsOneBy,
        Bug::PositionOneTooHigh,
        Bug::RangeOneTooShort,
        Bug::RestoresOneTooOld,
        Bug::NoCommitAtRestore,
        Bug::ForgetsAborted,
        Bug::ForgetsWhatIsBeingCommitted,
        Bug::AcknowledgesTooEarly,
        Bug::DeletesWhatIsShared,
        Bug::StoreWithoutPutIfAbsent,
        Bug::AbortsNewerEpochs,
        Bug::ForgetsInFlight,
        Bug::NamesFilesAnew,
    ];
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Bug::ALL.into_iter().find(|bug| bug.to_string() == name);
        found.ok_or_else(|| {
            let all: Vec<String> = Bug::ALL.iter().map(Bug::to_string).collect();
            format!("there is no planted bug `{name}`; there are {}", all.join(", "))
        })
    }
}
