//! GROUP BY without a window: an updating result per key.

use super::changelog::{Changelog, ChangelogMode, Fate};
use super::function::{AggregateField, InputMode};
use super::selection::Selection;
use super::set::{AggregatePlan, AggregateSet, Batch, ValuesUse};
use super::touched::Touched;
use super::{block::Place, block::RowBlock, key_fields};
use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Int8Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::borrow::Cow;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{GroupAggregateSpec, StreamSchema};
use weir_model::{ChangeKind, StateField, StateKind, StateSchema};
use weir_state::{KeyBatch, KeyEncoder, KeyedState, RowStateId, Slot, StateOptions};

/// From here on few keys come twice in a batch, and their rows lie all over memory: a batch goes through in
/// pieces whose rows, found by the first pass over a piece, are still in the cache for the passes after it.
const MANY_GROUPS: usize = BATCH_ROWS;
const ROWS_OF_MANY_GROUPS: usize = BATCH_ROWS / 4;

/// Keeps a state row per key and emits, once per batch for each key that the batch touches, what became of the
/// key's result: `+I` for a new key, `-U` and `+U` for a changed result, `-D` when the last row of a key was
/// taken back.
///
/// A retraction of a row that isn't there (its state has expired) is ignored, as Flink does.
pub struct GroupAggregate {
    keys: Vec<usize>,
    schema: SchemaRef,
    mode: ChangelogMode,
    /// Each key that a batch touches gets one row, its new result: what it was before needn't be looked at.
    only_after: bool,
    /// Rows of a key, where rows can be taken back.
    row_count: Option<Place>,
    has_ttl: bool,
    aggregates: AggregateSet,
    state: RowStateId,
    encoder: KeyEncoder,
    byte_encoder: Option<KeyEncoder>,
    work: Work,
}

/// Buffers that live from batch to batch.
struct Work {
    keys: KeyBatch,
    key_bytes: KeyBatch,
    slots: Vec<Slot>,
    new: Vec<u32>,
    touched: Touched,
    existed: Vec<bool>,
    fates: Vec<Fate>,
    signs: Vec<i8>,
    block: RowBlock,
    changelog: Changelog,
}

/// Exactly the states that `GroupAggregate::new` registers.
pub fn state_schemas(spec: &GroupAggregateSpec, input: &StreamSchema) -> Result<Vec<StateSchema>, OperatorError> {
    let (plan, key) = (plan(spec, input)?, key_fields(input, &spec.keys));
    let mut schemas = vec![row_schema(&plan, &key)];
    schemas.extend(plan.side_states(&key, &[]));
    Ok(schemas)
}

fn plan(spec: &GroupAggregateSpec, input: &StreamSchema) -> Result<AggregatePlan, OperatorError> {
    let mode = if input.is_updating() { InputMode::Updating } else { InputMode::AppendOnly };
    let leading = match mode {
        InputMode::AppendOnly => vec![],
        InputMode::Updating => vec![AggregateField {
            field: StateField::new("row_count", DataType::Int64, true),
            semantics: "count(*)".into(),
            is_counter: true,
        }],
    };
    AggregatePlan::new(&spec.aggregates, input, mode, leading)
}

fn row_schema(plan: &AggregatePlan, key: &[StateField]) -> StateSchema {
    StateSchema {
        name: "groups".into(),
        kind: StateKind::Value,
        key: key.to_vec(),
        namespace: vec![],
        value: plan.value_fields(),
        semantics: plan.semantics(),
    }
}

impl GroupAggregate {
    pub fn new(
        spec: &GroupAggregateSpec,
        input: &StreamSchema,
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Self, OperatorError> {
        let (plan, key) = (plan(spec, input)?, key_fields(input, &spec.keys));
        let rows = state.register_rows_with(row_schema(&plan, &key), StateOptions { ttl_ms: spec.state_ttl_ms })?;
        let aggregates = AggregateSet::open(&plan, &key, &[], state, spec.state_ttl_ms, ValuesUse::AtOnce)?;
        let block = aggregates.new_block();
        Ok(GroupAggregate {
            keys: spec.keys.clone(),
            schema: output.fields.clone(),
            // Flink, too, repeats unchanged results when state has a time to live: it would run out downstream.
            mode: ChangelogMode { update_before: spec.update_before, unchanged: spec.state_ttl_ms.is_some() },
            only_after: !spec.update_before
                && !input.is_updating()
                && (spec.state_ttl_ms.is_some() || aggregates.always_change()),
            row_count: input.is_updating().then(|| aggregates.place(0)),
            has_ttl: spec.state_ttl_ms.is_some(),
            byte_encoder: aggregates.needs_key_bytes().then(|| KeyEncoder::for_ordered(&key)),
            aggregates,
            state: rows,
            encoder: KeyEncoder::new(&key),
            work: Work {
                keys: KeyBatch::new(),
                key_bytes: KeyBatch::new(),
                slots: vec![],
                new: vec![],
                touched: Touched::default(),
                existed: vec![],
                fates: vec![],
                signs: vec![],
                block,
                changelog: Changelog::default(),
            },
        })
    }

    fn process_piece(
        &mut self,
        batch: &RecordBatch,
        state: &mut KeyedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let (rows, columns) = (batch.num_rows(), batch.columns());
        let keys: Vec<ArrayRef> = self.keys.iter().map(|key| columns[*key].clone()).collect();
        self.find_rows(&keys, rows, state)?;
        let work = &mut self.work;
        let before = if self.only_after { vec![] } else { self.aggregates.results(&work.block)? };

        let selection = match self.row_count {
            None => Selection::All(rows),
            Some(row_count) => count_rows(batch, &mut work.block, &work.touched, row_count, &mut work.signs)?,
        };
        let (keys_for_sides, touched) = (&work.key_bytes, &work.touched);
        let piece = Batch { columns, rows, touched, keys: keys_for_sides, namespace: None };
        self.aggregates.update(&mut work.block, &piece, &selection, state)?;
        let after = self.aggregates.results(&work.block)?;

        self.settle(state)?;
        let work = &mut self.work;
        match self.only_after {
            true => work.changelog.write_each_after(&work.fates),
            false => work.changelog.write(&work.fates, &before, &after, self.mode)?,
        }
        if work.changelog.is_empty() {
            return Ok(());
        }
        out.emit(work.changelog.batch(&self.schema, &keys, &work.touched.first_rows, &before, &after)?)
    }

    /// Finds or makes the state rows of the batch's keys and takes them into the block.
    fn find_rows(&mut self, keys: &[ArrayRef], rows: usize, state: &mut KeyedState) -> Result<(), OperatorError> {
        let max_parallelism = state.max_parallelism();
        let work = &mut self.work;
        self.encoder.encode(keys, rows, max_parallelism, &mut work.keys)?;
        if let Some(encoder) = &mut self.byte_encoder {
            encoder.encode(keys, rows, max_parallelism, &mut work.key_bytes)?;
        }
        let groups = state.rows(self.state);
        groups.upsert(0, &work.keys, &mut work.slots, &mut work.new)?;
        work.touched.assign(&work.slots, work.keys.hashes().iter().copied());
        work.existed.clear();
        work.existed.resize(work.touched.len(), true);
        for row in &work.new {
            work.existed[work.touched.of_row[*row as usize] as usize] = false;
        }
        work.block.load(groups, &work.touched.slots);
        if self.has_ttl && self.byte_encoder.is_some() {
            // The row has expired; what is beside it may not have.
            for row in &work.new {
                self.aggregates.forget(*row as usize, &work.key_bytes, state)?;
            }
        }
        Ok(())
    }

    /// Writes the rows back, removes those of keys that have no rows left, and says what became of each.
    fn settle(&mut self, state: &mut KeyedState) -> Result<(), OperatorError> {
        let Work { touched, existed, fates, block, key_bytes, .. } = &mut self.work;
        fates.clear();
        let row_count = self.row_count;
        let lives = |group: usize| row_count.is_none_or(|place| block.word(group, place) > 0);
        fates.extend(existed.iter().enumerate().map(|(group, existed)| match (existed, lives(group)) {
            (false, true) => Fate::Inserted,
            (true, true) => Fate::Updated,
            (true, false) => Fate::Deleted,
            (false, false) => Fate::Silent,
        }));
        let groups = state.rows(self.state);
        if row_count.is_none() {
            return block.store(groups, &touched.slots);
        }
        let gone: Vec<usize> = (0..fates.len()).filter(|group| !lives(*group)).collect();
        let kept: Vec<Slot> = touched
            .slots
            .iter()
            .enumerate()
            .map(|(group, slot)| if lives(group) { *slot } else { Slot::NONE })
            .collect();
        block.store(groups, &kept)?;
        for group in &gone {
            groups.remove(touched.slots[*group]);
        }
        if self.byte_encoder.is_some() {
            for group in gone {
                self.aggregates.forget(touched.first_rows[group] as usize, key_bytes, state)?;
            }
        }
        Ok(())
    }
}

/// Counts the rows of each key and says which of the batch's rows count: all but retractions of what isn't there.
fn count_rows<'a>(
    batch: &RecordBatch,
    block: &mut RowBlock,
    touched: &Touched,
    row_count: Place,
    signs: &'a mut Vec<i8>,
) -> Result<Selection<'a>, OperatorError> {
    let rows = batch.num_rows();
    let kinds = batch.columns().last().and_then(|column| column.as_primitive_opt::<Int8Type>());
    let Some(kinds) = kinds.filter(|kinds| kinds.null_count() == 0) else {
        return Err(OperatorError::Failed("the change kinds of an updating stream are missing".into()));
    };
    signs.clear();
    let mut only_adds = true;
    for (row, kind) in kinds.values().iter().enumerate() {
        let Some(kind) = ChangeKind::from_byte(*kind) else {
            return Err(OperatorError::Failed(format!("{kind} is no change kind (0 to 3)")));
        };
        let group = touched.of_row[row] as usize;
        let count = block.word(group, row_count);
        let sign = match kind.is_retraction() {
            false => 1,
            true if count > 0 => -1,
            true => 0,
        };
        only_adds &= sign > 0;
        block.set_word(group, row_count, count + sign as i64);
        signs.push(sign);
    }
    Ok(if only_adds { Selection::All(rows) } else { Selection::Signed(Cow::Borrowed(signs)) })
}

impl Operator for GroupAggregate {
    fn process(
        &mut self,
        _input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let at_once = match context.state.rows(self.state).len_of(0) {
            0..MANY_GROUPS => BATCH_ROWS,
            MANY_GROUPS.. => ROWS_OF_MANY_GROUPS,
        };
        for first in (0..batch.num_rows()).step_by(at_once) {
            let piece = batch.slice(first, at_once.min(batch.num_rows() - first));
            self.process_piece(&piece, context.state, out)?;
        }
        Ok(())
    }
}
