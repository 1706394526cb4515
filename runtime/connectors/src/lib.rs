//! Sources and sinks: the traits that every connector fits, and the connectors that come with Weir.

pub mod api;
