//! The operator: it makes what a StreamJob asks for true, and keeps it so.
//!
//! Each reconcile goes the same way: [`observe`] what there is, [`decide`] on one action with its reason (pure), [`act`]
//! on it, and tell the user by [`status`] (pure). An act whose repetition would hurt stands in the status before it is
//! done. Nothing is remembered between two reconciles but what the cluster holds.

pub mod act;
pub mod build;
pub mod certificates;
pub mod checkpoints;
pub mod controller;
pub mod coordinator_api;
pub mod decide;
pub mod job_metrics;
pub mod kept;
pub mod lease;
pub mod leaving;
pub mod looks;
pub mod names;
pub mod observe;
pub mod outcome;
pub mod pace;
pub mod packed;
pub mod queue;
pub mod reconcile;
pub mod remembered;
pub mod restore;
pub mod savepoints;
pub mod schedule;
pub mod serve;
pub mod settings;
pub mod spec_hash;
pub mod status;
pub mod world;

pub use settings::Settings;
