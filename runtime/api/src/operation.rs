//! Every operation of the API. The server's routes, the client's calls and the OpenAPI description come of this list.

/// One method of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Job,
    Graph,
    Subtasks,
    Checkpoints,
    Checkpoint,
    RestorePoints,
    Savepoints,
    Savepoint,
    TriggerSavepoint,
    RemoveSavepoint,
    PinCheckpoint,
    Rescale,
    RescaleState,
    Stop,
    Cancel,
    Plan,
    OpenApi,
    Metrics,
    Healthy,
    Ready,
}

/// What it takes to be allowed an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody who reaches the port: probes.
    Open,
    Read,
    /// Reading of names and figures alone, as whoever collects them of many jobs does.
    Metrics,
    /// It changes the job.
    Change,
}

impl Operation {
    pub const ALL: [Operation; 20] = [
        Operation::Job,
        Operation::Graph,
        Operation::Subtasks,
        Operation::Checkpoints,
        Operation::Checkpoint,
        Operation::RestorePoints,
        Operation::Savepoints,
        Operation::Savepoint,
        Operation::TriggerSavepoint,
        Operation::RemoveSavepoint,
        Operation::PinCheckpoint,
        Operation::Rescale,
        Operation::RescaleState,
        Operation::Stop,
        Operation::Cancel,
        Operation::Plan,
        Operation::OpenApi,
        Operation::Metrics,
        Operation::Healthy,
        Operation::Ready,
    ];

    /// With `{id}` where a part is the caller's.
    pub fn path(self) -> &'static str {
        match self {
            Operation::Job => "/api/v1/job",
            Operation::Graph => "/api/v1/graph",
            Operation::Subtasks => "/api/v1/subtasks",
            Operation::Checkpoints => "/api/v1/checkpoints",
            Operation::Checkpoint => "/api/v1/checkpoints/{id}",
            Operation::RestorePoints => "/api/v1/restore-points",
            Operation::Savepoints | Operation::TriggerSavepoint => "/api/v1/savepoints",
            Operation::Savepoint => "/api/v1/savepoints/{id}",
            Operation::RemoveSavepoint => "/api/v1/savepoint-removals",
            Operation::PinCheckpoint => "/api/v1/checkpoint-pins",
            Operation::Rescale => "/api/v1/rescale",
            Operation::RescaleState => "/api/v1/rescale/{id}",
            Operation::Stop => "/api/v1/stop",
            Operation::Cancel => "/api/v1/cancel",
            Operation::Plan => "/api/v1/plan",
            Operation::OpenApi => "/api/v1/openapi.json",
            Operation::Metrics => "/metrics",
            Operation::Healthy => "/healthz",
            Operation::Ready => "/readyz",
        }
    }

    pub fn is_post(self) -> bool {
        matches!(
            self,
            Operation::TriggerSavepoint
                | Operation::RemoveSavepoint
                | Operation::PinCheckpoint
                | Operation::Rescale
                | Operation::Stop
                | Operation::Cancel
                | Operation::Plan
        )
    }

    pub fn access(self) -> Access {
        match self {
            Operation::TriggerSavepoint
            | Operation::RemoveSavepoint
            | Operation::PinCheckpoint
            | Operation::Rescale
            | Operation::Stop
            | Operation::Cancel => Access::Change,
            Operation::OpenApi | Operation::Healthy | Operation::Ready => Access::Open,
            // It changes nothing, but it plans whatever is sent, and says what state there is.
            Operation::Plan => Access::Change,
            Operation::Job
            | Operation::Graph
            | Operation::Subtasks
            | Operation::Checkpoints
            | Operation::Checkpoint
            | Operation::RestorePoints
            | Operation::Savepoints
            | Operation::Savepoint
            | Operation::RescaleState => Access::Read,
            Operation::Metrics => Access::Metrics,
        }
    }

    /// The status of an answer that is no problem.
    pub fn success(self) -> u16 {
        match self {
            Operation::TriggerSavepoint | Operation::Rescale | Operation::Stop | Operation::Cancel => 202,
            _ => 200,
        }
    }

    /// One line for people.
    pub fn summary(self) -> &'static str {
        match self {
            Operation::Job => "The job as a whole: phase, epoch, attempt, restarts, checkpoints, workers",
            Operation::Graph => "Tasks, the operators chained in them, and the exchanges between them",
            Operation::Subtasks => "Records, bytes, watermarks and time shares of every subtask",
            Operation::Checkpoints => "Checkpoints under way, ended ones, and percentiles over them",
            Operation::Checkpoint => "One ended checkpoint, with what each subtask did for it",
            Operation::RestorePoints => "What the job could be restored from, as storage has it now",
            Operation::Savepoints => "Savepoints that this coordinator was asked for",
            Operation::Savepoint => "One savepoint: in progress, where it stands, or why it failed",
            Operation::TriggerSavepoint => "Ask for a savepoint; with the same id again, for the same one",
            Operation::RemoveSavepoint => "Remove a savepoint of this job from storage",
            Operation::PinCheckpoint => "Keep a checkpoint beyond retention, or no longer",
            Operation::Rescale => "Give the job another parallelism; its processes stay",
            Operation::RescaleState => "How a rescale goes, and how long it took",
            Operation::Stop => "Stop the job, with a savepoint or after a last checkpoint",
            Operation::Cancel => "End the job now, without another checkpoint",
            Operation::Plan => "Compare a new spec with the running job and its state; nothing is changed",
            Operation::OpenApi => "This description",
            Operation::Metrics => "Metrics, as Prometheus reads them",
            Operation::Healthy => "The process answers",
            Operation::Ready => "The job runs: 200, else 503",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_operation_is_missing_and_no_two_are_the_same() {
        let distinct: BTreeSet<_> = Operation::ALL.iter().map(|one| (one.path(), one.is_post())).collect();
        assert_eq!(distinct.len(), Operation::ALL.len());
        // Their numbers are dense, so the list has all of them.
        assert_eq!(Operation::ALL.iter().map(|one| *one as usize).collect::<Vec<_>>(), (0..=19).collect::<Vec<_>>());
        assert_eq!(Operation::Ready as usize, 19);
    }

    #[test]
    fn whatever_is_posted_needs_the_right_to_change() {
        for operation in Operation::ALL {
            assert_eq!(operation.is_post(), operation.access() == Access::Change, "{operation:?}");
        }
    }
}
