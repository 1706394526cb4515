//! What a user's own operators, sources and sinks are written against, and how they get into a binary.
//!
//! ```no_run
//! # use weir_sdk::{Context, Inputs, Operator, Output, RowSchema, Result, Row, Setup};
//! # struct DelayAlerts;
//! # impl Operator for DelayAlerts {
//! #     type Config = ();
//! #     fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> { Ok(RowSchema::new()) }
//! #     fn new(_: (), _: &mut Setup<'_>) -> Result<Self> { Ok(DelayAlerts) }
//! #     fn process(&mut self, _: Row<'_>, _: &mut Context<'_>, _: &mut Output<'_>) -> Result<()> { Ok(()) }
//! # }
//! # #[cfg(feature = "cli")]
//! fn main() -> std::process::ExitCode {
//!     weir_sdk::Weir::new().operator::<DelayAlerts>("DelayAlerts").main()
//! }
//! # #[cfg(not(feature = "cli"))]
//! # fn main() {}
//! ```
//!
//! * [`Operator`]: row by row, with keyed state and timers
//! * [`BatchOperator`]: batch by batch
//! * [`ValueState`], [`ListState`], [`MapState`], [`Timers`]: what an operator remembers by key
//! * [`testing::Harness`]: an operator under test, with real state and without a job
//! * `Weir` (feature `cli`, on by default): the `weir` command with all of that

#[cfg(feature = "cli")]
mod app;
/// What sources and sinks of one's own implement.
#[cfg(feature = "cli")]
pub mod connector {
    pub use weir_connectors::api::*;
    pub use weir_model::{CheckpointId, CommitPermit};
}
mod config;
mod drive;
mod error;
mod keys;
mod names;
mod operator;
mod rows;
mod state;
pub mod testing;
mod types;

#[cfg(feature = "cli")]
pub use app::Weir;
pub use drive::Operators;
pub use error::{Error, Result};
pub use operator::{BatchContext, BatchOperator, BatchSetup, Context, KeyColumn, OpenContext, Operator, Setup, Timer};
pub use rows::{Column, Input, Inputs, Output, OutputRow, OutputWriter, RecordColumns, Row, RowSchema};
pub use state::{KeyOf, KeyWriter, ListState, MapState, StateDescriptor, Timers, ValueState};
pub use types::{ColumnType, Date, Json, Kind, Record, RecordReader, RecordWriter, Time, Timestamp, ToValue, Value};
pub use weir_model::{ChangeKind, KeyGroupRange, StateField};

/// Arrow, in the version that batches are of.
pub use arrow;
/// What batch operators emit through.
pub use weir_dataflow::Collector;
/// Schemas of state, and time, as batch operators see them.
pub use weir_model::{StateKind, StateSchema, Watermark};
/// The state that batch operators use directly.
pub use weir_state as raw_state;
