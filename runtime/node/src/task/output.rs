//! The output of one task: for each reading task, how rows find its subtasks.

use super::writer::ChannelWriter;
use crate::hot_keys::Sampler;
use crate::metrics::NodeMetrics;
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_dataflow::operator::OperatorError;
use weir_model::{KeyGroup, StreamElement, hash};

/// All edges that leave one node of a chain (or its dead letters).
#[derive(Default)]
pub(crate) struct Outputs {
    pub(crate) edges: Vec<OutputEdge>,
}

impl Outputs {
    pub(crate) fn writers(&self) -> impl Iterator<Item = &ChannelWriter> {
        self.edges.iter().flat_map(|edge| &edge.writers)
    }

    pub(crate) fn emit(&mut self, batch: &RecordBatch) -> Result<(), OperatorError> {
        self.edges.iter_mut().try_for_each(|edge| edge.emit(batch))
    }

    /// Watermarks, barriers and such go to every subtask that reads.
    pub(crate) fn broadcast(&self, element: &StreamElement) -> Result<(), OperatorError> {
        self.writers().try_for_each(|writer| push(writer, element.clone()))
    }
}

pub(crate) struct OutputEdge {
    pub(crate) writers: Vec<ChannelWriter>,
    pub(crate) partitioner: Partitioner,
}

pub(crate) enum Partitioner {
    /// The only writer of this edge.
    Forward,
    Rebalance {
        next: usize,
    },
    Hash(HashPartitioner),
}

impl OutputEdge {
    fn emit(&mut self, batch: &RecordBatch) -> Result<(), OperatorError> {
        match &mut self.partitioner {
            Partitioner::Forward => push(&self.writers[0], StreamElement::Batch(batch.clone())),
            Partitioner::Rebalance { next } => {
                let writer = &self.writers[*next % self.writers.len()];
                *next = (*next + 1) % self.writers.len();
                push(writer, StreamElement::Batch(batch.clone()))
            }
            Partitioner::Hash(partitioner) if self.writers.len() == 1 => {
                // Without keys there is one group, of which nothing is to be told.
                if !partitioner.key_columns.is_empty() && partitioner.sampler.takes_next() {
                    partitioner.hash(batch)?;
                    partitioner.count();
                }
                push(&self.writers[0], StreamElement::Batch(batch.clone()))
            }
            Partitioner::Hash(partitioner) => partitioner.emit(batch, &self.writers),
        }
    }
}

/// Splits batches by the key group of each row. Its buffers are reused from batch to batch.
pub(crate) struct HashPartitioner {
    pub(crate) key_columns: Vec<usize>,
    pub(crate) max_parallelism: u32,
    /// Of each key group.
    subtasks: Vec<u32>,
    hashes: Vec<u64>,
    /// Rows of each target subtask.
    rows: Vec<Vec<u32>>,
    sampler: Sampler,
    /// Where the writing task counts, and the node that reads.
    metrics: Arc<NodeMetrics>,
    reader: u32,
}

impl HashPartitioner {
    pub(crate) fn new(
        key_columns: Vec<usize>,
        max_parallelism: u32,
        parallelism: usize,
        metrics: Arc<NodeMetrics>,
        reader: u32,
    ) -> Self {
        let groups = 0..max_parallelism as u16;
        let subtasks = groups.map(|group| KeyGroup(group).subtask(parallelism as u32, max_parallelism)).collect();
        HashPartitioner {
            key_columns,
            max_parallelism,
            subtasks,
            hashes: vec![],
            rows: vec![vec![]; parallelism],
            sampler: Sampler::default(),
            metrics,
            reader,
        }
    }

    fn hash(&mut self, batch: &RecordBatch) -> Result<(), OperatorError> {
        let keys: Vec<ArrayRef> = self.key_columns.iter().map(|column| batch.column(*column).clone()).collect();
        hash::hash_rows(&keys, batch.num_rows(), &mut self.hashes)
            .map_err(|error| OperatorError::Failed(error.to_string()))
    }

    /// Of a batch that is in the sample.
    fn count(&self) {
        self.metrics.task.hot_key_groups.count(self.reader, &self.hashes, self.max_parallelism);
    }

    fn emit(&mut self, batch: &RecordBatch, writers: &[ChannelWriter]) -> Result<(), OperatorError> {
        self.hash(batch)?;
        if self.sampler.takes_next() {
            self.count();
        }
        self.rows.iter_mut().for_each(Vec::clear);
        for (row, hash) in self.hashes.iter().enumerate() {
            let group = KeyGroup::of_hash(*hash, self.max_parallelism);
            self.rows[self.subtasks[group.0 as usize] as usize].push(row as u32);
        }
        for (rows, writer) in self.rows.iter().zip(writers) {
            if rows.len() == batch.num_rows() {
                push(writer, StreamElement::Batch(batch.clone()))?;
            } else if !rows.is_empty() {
                let part = take_record_batch(batch, &UInt32Array::from_iter_values(rows.iter().copied()))?;
                push(writer, StreamElement::Batch(part))?;
            }
        }
        Ok(())
    }
}

fn push(writer: &ChannelWriter, element: StreamElement) -> Result<(), OperatorError> {
    writer.push(element).map_err(|_| OperatorError::Cancelled)
}
