//! Amazon Kinesis Data Streams as a source: a shard is a split, the sequence number of its last record the position.
//!
//! Shards follow one another: a split or a merge closes shards and opens others, which are begun when their parents have been
//! read to the end, by whichever subtask. See `docs/adr/0027-shards-after-their-parents.md`.

mod aggregate;
mod client;
mod failure;
mod source;

pub use source::{KinesisSource, KinesisSourceConfig, Metadata, Options, Start};
