//! The process: what joins planner, operators, connectors, state and storage into a running job.
//!
//! * [`job::load`]: from a StreamJob file to a [`job::Job`], with every mistake found on the way
//! * [`LocalJob`]: a job run in this process, all tasks as threads
//! * [`http`]: how people and other processes watch and steer a running job
//!
//! Nothing here knows Kubernetes: in a pod and on a laptop the same code runs.

mod attempt;
mod backends;
mod checkpoint_objects;
mod control;
mod ended_splits;
mod exchange;
mod failpoint;
mod hot_keys;
pub mod http;
pub mod job;
mod kept;
mod local;
mod local_copies;
pub mod metrics;
mod physical;
pub mod preflight;
pub mod probe;
pub mod registry;
mod remote;
mod restore;
mod run;
pub mod savepoint;
mod sink_commits;
mod standing;
mod start;
pub mod status;
mod storage_thread;
mod task;
mod task_clock;
pub mod tls;
mod worker;

pub use control::Request;
pub use job::{Job, Loaded, load};
pub use local::{CoordinatorOptions, DistributedJob, LocalJob};
pub use local_copies::local_copies_folder;
pub use preflight::{Fit, Preflight, preflight};
pub use probe::{Probed, probe};
pub use registry::Registry;
pub use remote::{WorkerError, WorkerOptions, run_worker};
pub use run::RequestSender;
pub use start::{StartError, StartFrom, job_folder};
pub use status::{CheckpointLine, JobStatus, NodeStatus, StatusHandle};
pub use weir_coordinator::{Outcome, RescaleAnswer, StopMode};
pub use weir_snapshot::log::Mark;
pub use weir_state_rocksdb::Figures as RocksDbFigures;
