//! Sources and sinks: the traits that every connector fits, and the connectors that come with Weir.

pub mod api;
pub mod blackhole;
pub mod files;
pub mod formats;
pub mod generator;
pub mod nexmark;
mod numbered;
pub mod print;
pub mod socket;
