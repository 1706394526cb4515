//! Which rows in flight belong to which subtask after a restore.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use weir_model::hash::hash_rows;
use weir_model::{InFlightElement, KeyGroup, KeyGroupRange, SubtaskInFlight};

/// How the rows of one input are divided among the subtasks that read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputDivision {
    /// By the key group of these columns.
    Keyed { key_columns: Vec<usize> },
    /// It doesn't matter who reads a row.
    Any,
}

/// The subtask that takes its share.
#[derive(Clone, Copy, Debug)]
pub struct Taker {
    pub subtask: u32,
    pub parallelism: u32,
    pub max_parallelism: u32,
}

/// What of the old subtask's rows in flight belongs to `taker`; watermarks are kept, as they say how late rows are.
///
/// `divisions`: by input.
pub fn share(
    old: &SubtaskInFlight,
    old_subtask: u32,
    old_parallelism: u32,
    taker: Taker,
    divisions: &[InputDivision],
) -> Result<SubtaskInFlight, ArrowError> {
    let stays = old_parallelism == taker.parallelism;
    // At the same parallelism this is the subtask itself.
    let takes_whole = old_subtask % taker.parallelism == taker.subtask;
    let mut own = old.clone();
    for channel in &mut own.channels {
        let mut kept = vec![];
        for element in std::mem::take(&mut channel.elements) {
            let InFlightElement::Batch(batch) = element else {
                kept.push(element);
                continue;
            };
            let part = match divisions.get(channel.input) {
                Some(InputDivision::Keyed { key_columns }) if !stays => Some(owned(&batch, key_columns, taker)?),
                _ => takes_whole.then_some(batch),
            };
            kept.extend(part.filter(|part| part.num_rows() > 0).map(InFlightElement::Batch));
        }
        channel.elements = kept;
    }
    Ok(own)
}

fn owned(batch: &RecordBatch, key_columns: &[usize], taker: Taker) -> Result<RecordBatch, ArrowError> {
    let range = KeyGroupRange::of_subtask(taker.subtask, taker.parallelism, taker.max_parallelism);
    let keys: Vec<ArrayRef> = key_columns.iter().map(|column| batch.column(*column).clone()).collect();
    let mut hashes = vec![];
    hash_rows(&keys, batch.num_rows(), &mut hashes).map_err(|error| ArrowError::ComputeError(error.to_string()))?;
    let is_own = |hash: &u64| range.contains(KeyGroup::of_hash(*hash, taker.max_parallelism));
    let rows = hashes.iter().enumerate().filter(|(_, hash)| is_own(hash)).map(|(row, _)| row as u32);
    take_record_batch(batch, &UInt32Array::from_iter_values(rows))
}
