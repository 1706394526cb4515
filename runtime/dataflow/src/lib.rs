//! Operators and what surrounds them, as pure cores: batches in, batches out. A node drives them.

pub mod aggregate;
pub mod alignment;
pub mod calc;
pub mod custom;
pub mod operator;
pub mod union;
pub mod watermark;
pub mod window;
