//! What the commands do, by what they need.

pub mod change;
pub mod look;
pub mod plan;
pub mod report;
pub mod top;
