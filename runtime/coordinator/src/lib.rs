//! The coordinator of a job, pure: events in, commands out. No IO, no clock, no threads, no randomness: the same
//! code runs in the local runner, in a pod and in the simulator.
//!
//! It decides when a checkpoint is triggered, when it is complete, what a failure leads to, and when the job is over.
//! `Coordinator::on` takes one event and returns what is to be done, in order; `Coordinator::next_wake_ms` says
//! when it wants a `Tick`. Events of another fence than the current attempt's are dropped. `JobControl` is the
//! coordinator over its workers, as the simulator drives it; the node's runner decides the same around its own parts.

mod checkpoints;
mod command;
mod config;
mod control;
mod event;
mod history;
mod job;
mod placement;
mod restart;
mod rollout;

pub use checkpoints::CheckpointUnderWay;
pub use command::{Acknowledged, Command, Outcome, RescaleAnswer};
pub use config::{CheckpointConfig, CheckpointMode, Config};
pub use control::{Adopted, AttemptShape, DeployFailure, Inherited, JobCommand, JobControl, JobEvent, WorkerOrder};
pub use event::{Event, RequestId, StopMode};
pub use history::{AttemptRecord, AttemptResult, History, RestartRecord};
pub use job::{Coordinator, Phase, Then};
pub use placement::{Placement, Shortage};
pub use restart::{Failure, RestartDecision, RestartStrategy, RestartTracker};
pub use rollout::{LeftRunning, ObjectBytes, RegisteredWorker, Rollout, RolloutStep, RunningAttempt};
