//! The Kubernetes resources of Weir and everything that can be said about them without running them.
//!
//! * [`StreamJob`]: the job a user writes, and its status
//! * [`Checkpoint`] and [`Savepoint`]: the restore points of a job
//! * [`defaults`]: every default, stated once; `spec.checkpoint_interval()` and its like apply them
//! * [`validate`](validate::validate): what is wrong with a job, as far as that can be said without planning its SQL
//! * [`text`]: from a YAML file to a job, with every mistake at once, each with its line and column
//! * [`crd`]: the CustomResourceDefinitions, generated into `crds/generated`
//!
//! The same types serve the command line (`weir run job.yaml`), which never sees a cluster, and the operator.

mod canonical;
#[allow(clippy::duplicated_attributes, reason = "each printed column is an attribute of the same parts")]
pub mod checkpoint;
pub mod column_type;
pub mod conditions;
pub mod crd;
pub mod cron;
pub mod defaults;
pub mod duration;
pub mod quantity;
pub mod reference;
mod rules;
#[allow(clippy::duplicated_attributes, reason = "each printed column is an attribute of the same parts")]
pub mod savepoint;
pub mod schema;
pub mod streamjob;
pub mod suggest;
pub mod text;
pub mod validate;

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
