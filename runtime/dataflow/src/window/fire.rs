//! Results of windows that are complete: read from state, emitted, forgotten.

use super::progress::Progress;
use crate::aggregate::{AggregateSet, RowBlock};
use crate::operator::{Collector, OperatorError};
use arrow::array::{ArrayRef, BooleanArray, Int8Array, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::StreamSchema;
use weir_model::{ChangeKind, StateField};
use weir_state::{KeyBatch, KeyEncoder, KeyedState, RowState, RowStateId, Slot};

/// Where the slices of one window are added up while it fires: gone again before anything else happens.
const SCRATCH: i64 = i64::MIN;

/// Emits windows from a row state with a namespace per window or slice.
pub struct Firing {
    state: RowStateId,
    schema: SchemaRef,
    updating: bool,
    encoder: KeyEncoder,
    max_parallelism: u32,
    keys: KeyBatch,
    block: RowBlock,
    sums: RowBlock,
    slots: Vec<Slot>,
    new: Vec<u32>,
}

/// `[start, end)` in microseconds.
type Bounds = (i64, i64);

impl Firing {
    pub fn new(output: &StreamSchema, state: RowStateId, key: &[StateField], aggregates: &AggregateSet) -> Self {
        Firing {
            state,
            schema: output.fields.clone(),
            updating: output.is_updating(),
            encoder: KeyEncoder::new(key),
            max_parallelism: 0,
            keys: KeyBatch::new(),
            block: aggregates.new_block(),
            sums: aggregates.new_block(),
            slots: vec![],
            new: vec![],
        }
    }

    /// Emits the window whose rows stand under `namespace`, but for keys of groups in which it has fired before.
    /// Windows come in the order of time and their keys in the order of the state's tables.
    pub fn emit(
        &mut self,
        aggregates: &AggregateSet,
        state: &mut KeyedState,
        namespace: i64,
        bounds: Bounds,
        progress: &Progress,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        self.max_parallelism = state.max_parallelism();
        state.rows(self.state).scan(namespace, BATCH_ROWS, |rows, keys, slots| {
            self.block.load(rows, slots);
            let batch = self.batch(keys, slots.len(), bounds, aggregates.results(&self.block)?)?;
            let batch =
                if progress.is_uniform() { Some(batch) } else { self.not_fired(batch, keys, bounds, progress)? };
            batch.map_or(Ok(()), |batch| out.emit(batch))
        })
    }

    /// Emits the window that consists of these slices.
    pub fn emit_slices(
        &mut self,
        aggregates: &AggregateSet,
        state: &mut KeyedState,
        slices: &[i64],
        bounds: Bounds,
        progress: &Progress,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if let [slice] = slices {
            return self.emit(aggregates, state, *slice, bounds, progress, out);
        }
        self.max_parallelism = state.max_parallelism();
        for slice in slices {
            state
                .rows(self.state)
                .scan(*slice, BATCH_ROWS, |rows, keys, slots| self.add_up(aggregates, rows, keys, slots))?;
        }
        self.emit(aggregates, state, SCRATCH, bounds, progress, out)?;
        state.rows(self.state).drop_namespace(SCRATCH);
        Ok(())
    }

    fn add_up(
        &mut self,
        aggregates: &AggregateSet,
        rows: &mut RowState,
        keys: &[ArrayRef],
        slots: &[Slot],
    ) -> Result<(), OperatorError> {
        self.block.load(rows, slots);
        self.encoder.encode(keys, slots.len(), self.max_parallelism, &mut self.keys)?;
        rows.upsert(SCRATCH, &self.keys, &mut self.slots, &mut self.new)?;
        self.sums.load(rows, &self.slots);
        let all: Vec<u32> = (0..slots.len() as u32).collect();
        aggregates.merge(&mut self.sums, &all, &self.block, &all)?;
        self.sums.store(rows, &self.slots)
    }

    /// Those rows of a batch of results for whose key groups the window hasn't fired yet.
    fn not_fired(
        &mut self,
        batch: RecordBatch,
        keys: &[ArrayRef],
        (_, end): Bounds,
        progress: &Progress,
    ) -> Result<Option<RecordBatch>, OperatorError> {
        self.encoder.encode(keys, batch.num_rows(), self.max_parallelism, &mut self.keys)?;
        let fires = |row| end > progress.of_group(self.keys.key_group(row));
        let firing: BooleanArray = (0..batch.num_rows()).map(|row| Some(fires(row))).collect();
        Ok(match firing.true_count() {
            0 => None,
            count if count == batch.num_rows() => Some(batch),
            _ => Some(filter_record_batch(&batch, &firing)?),
        })
    }

    /// Keys, window, results, and `+I` if the output is updating.
    fn batch(
        &self,
        keys: &[ArrayRef],
        rows: usize,
        (start, end): Bounds,
        results: Vec<ArrayRef>,
    ) -> Result<RecordBatch, OperatorError> {
        let mut columns = keys.to_vec();
        columns
            .extend([start, end].map(|time| Arc::new(TimestampMicrosecondArray::from_value(time, rows)) as ArrayRef));
        columns.extend(results);
        if self.updating {
            columns.push(Arc::new(Int8Array::from_value(ChangeKind::Insert as i8, rows)));
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    /// Drops a window's state, and what is kept beside it (`encoder` gives the key bytes for that).
    pub fn forget(
        &mut self,
        aggregates: &mut AggregateSet,
        encoder: Option<&mut KeyEncoder>,
        state: &mut KeyedState,
        namespace: i64,
    ) -> Result<(), OperatorError> {
        if let Some(encoder) = encoder {
            let mut batches: Vec<(Vec<ArrayRef>, usize)> = vec![];
            state.rows(self.state).scan(namespace, BATCH_ROWS, |_, keys, slots| {
                batches.push((keys.to_vec(), slots.len()));
                Ok::<(), OperatorError>(())
            })?;
            let window_end: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![namespace]));
            for (keys, rows) in batches {
                encoder.encode(&keys, rows, state.max_parallelism(), &mut self.keys)?;
                aggregates.forget_window(&window_end, &self.keys, state)?;
            }
        }
        state.rows(self.state).drop_namespace(namespace);
        Ok(())
    }
}
