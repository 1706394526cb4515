//! What the spec says about checkpoints and restarts, as numbers.

use crate::RestartStrategy;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// None: no periodic checkpoints. Savepoints and the final checkpoint are taken all the same.
    pub checkpoints: Option<CheckpointConfig>,
    /// A checkpoint (of any kind) that takes longer is given up.
    pub timeout_ms: u64,
    /// Checkpoints that may fail one after the other before the job does.
    pub tolerable_failures: u32,
    pub restart: RestartStrategy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// From one trigger to the next.
    pub interval_ms: u64,
    /// From the end of one attempt, failed or not, to the next trigger.
    pub min_pause_ms: u64,
    /// At least 1.
    pub max_concurrent: u32,
    pub mode: CheckpointMode,
    /// From the trigger of a checkpoint until its barriers overtake rows; 0: at once. `None`: never. Savepoints,
    /// final checkpoints and those behind which sources hold are always aligned.
    pub aligned_timeout_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointMode {
    ExactlyOnce,
    AtLeastOnce,
}
