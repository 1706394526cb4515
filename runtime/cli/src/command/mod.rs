//! A file per command.

pub(crate) mod cancel;
pub(crate) mod checkpoints;
pub(crate) mod coordinator;
pub(crate) mod plan;
pub(crate) mod rescale;
pub(crate) mod run;
pub(crate) mod savepoint;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod validate;
pub(crate) mod worker;
