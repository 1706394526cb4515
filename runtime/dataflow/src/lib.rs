//! Operators and what surrounds them, as pure cores: batches in, batches out. A node drives them.

pub mod alignment;
pub mod watermark;
