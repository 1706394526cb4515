//! The Kubernetes resources of Weir and everything that can be said about them without running them.
//!
//! * [`StreamJob`]: the job a user writes, and its status
//! * [`Checkpoint`] and [`Savepoint`]: the restore points of a job
//! * [`defaults`]: every default, stated once; `spec.checkpoint_interval()` and its like apply them
//! * [`crd`]: the CustomResourceDefinitions, generated into `crds/generated`
//!
//! The same types serve the command line (`weir run job.yaml`), which never sees a cluster, and the operator.

pub mod checkpoint;
pub mod column_type;
pub mod conditions;
pub mod defaults;
pub mod duration;
pub mod quantity;
mod rules;
pub mod savepoint;
mod schema;
pub mod streamjob;

pub use checkpoint::{Checkpoint, CheckpointKind, CheckpointPhase, CheckpointSpec, CheckpointStatus};
pub use column_type::ColumnType;
pub use duration::HumanDuration;
pub use quantity::ByteSize;
pub use savepoint::{Savepoint, SavepointPhase, SavepointSpec, SavepointStatus, SavepointTrigger};
pub use streamjob::{StreamJob, StreamJobSpec, StreamJobStatus};

/// The API group of all resources.
pub const GROUP: &str = "weir.dev";
/// The version of all resources.
pub const VERSION: &str = "v1alpha1";
/// What `apiVersion` says in a resource file.
pub const API_VERSION: &str = "weir.dev/v1alpha1";
