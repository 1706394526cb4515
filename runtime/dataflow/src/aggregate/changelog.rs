//! What an updating operator emits: the difference between the results before a batch and after it.

use crate::operator::OperatorError;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, Int8Array, Int64Array, UInt32Array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{concat, take};
use arrow::datatypes::{Float64Type, Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_model::ChangeKind;

/// What became of one group in this batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It wasn't there and still isn't, or nothing is to be said of it.
    Silent,
    Inserted,
    /// Emitted only if the result differs, unless all updates are wanted.
    Updated,
    Deleted,
}

/// How updates are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangelogMode {
    /// False when nobody downstream reads update-before rows.
    pub update_before: bool,
    /// Also updates that change nothing: they keep state with a TTL alive downstream.
    pub unchanged: bool,
}

/// Rows of a changelog, as indices.
#[derive(Default)]
pub struct Changelog {
    /// Twice the number of the group, and one more for its result after the batch rather than before it.
    picks: Vec<u32>,
    kinds: Vec<i8>,
    changed: Vec<bool>,
    /// Each group has one row, its result after the batch: then the columns are there already, and nothing is picked.
    is_each_after: bool,
}

impl Changelog {
    /// A row for each group, with its new result: for groups whose results all change, where nobody reads what
    /// they were before.
    pub fn write_each_after(&mut self, fates: &[Fate]) {
        self.is_each_after = true;
        self.kinds.clear();
        self.kinds.extend(fates.iter().map(|fate| match fate {
            Fate::Inserted => ChangeKind::Insert as i8,
            Fate::Updated => ChangeKind::UpdateAfter as i8,
            Fate::Silent | Fate::Deleted => unreachable!("{fate:?} has no new result"),
        }));
    }

    /// One row or two for each group; `before` and `after` have a value for each.
    pub fn write(
        &mut self,
        fates: &[Fate],
        before: &[ArrayRef],
        after: &[ArrayRef],
        mode: ChangelogMode,
    ) -> Result<(), OperatorError> {
        self.is_each_after = false;
        self.picks.clear();
        self.kinds.clear();
        self.changed.clear();
        self.changed.resize(fates.len(), mode.unchanged);
        if !mode.unchanged {
            before.iter().zip(after).try_for_each(|(before, after)| find_changes(before, after, &mut self.changed))?;
        }
        for (group, (fate, changed)) in fates.iter().zip(&self.changed).enumerate() {
            let (old, new) = (group as u32 * 2, group as u32 * 2 + 1);
            let mut push = |pick: u32, kind: ChangeKind| {
                self.picks.push(pick);
                self.kinds.push(kind as i8);
            };
            match fate {
                Fate::Updated if *changed => {
                    if mode.update_before {
                        push(old, ChangeKind::UpdateBefore);
                    }
                    push(new, ChangeKind::UpdateAfter);
                }
                Fate::Updated | Fate::Silent => {}
                Fate::Inserted => push(new, ChangeKind::Insert),
                Fate::Deleted => push(old, ChangeKind::Delete),
            }
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The rows as a batch: key columns (a row of `keys` for each group, at `key_rows[group]`), then results,
    /// then the change kind.
    pub fn batch(
        &mut self,
        schema: &SchemaRef,
        keys: &[ArrayRef],
        key_rows: &[u32],
        before: &[ArrayRef],
        after: &[ArrayRef],
    ) -> Result<RecordBatch, OperatorError> {
        let mut columns = Vec::with_capacity(schema.fields().len());
        if self.is_each_after {
            let is_each_key = keys.first().is_none_or(|key| key.len() == key_rows.len());
            match is_each_key {
                // Each row of the batch is the first of its key: in ascending order these are all of them.
                true => columns.extend(keys.iter().cloned()),
                false => {
                    let indices = UInt32Array::from(key_rows.to_vec());
                    keys.iter().try_for_each(|key| take(key, &indices, None).map(|key| columns.push(key)))?;
                }
            }
            columns.extend(after.iter().cloned());
            columns.push(Arc::new(Int8Array::from(std::mem::take(&mut self.kinds))));
            return Ok(RecordBatch::try_new(schema.clone(), columns)?);
        }
        let key_indices = self.picks.iter().map(|pick| key_rows[*pick as usize / 2]);
        let key_indices = UInt32Array::from(key_indices.collect::<Vec<_>>());
        for key in keys {
            columns.push(take(key, &key_indices, None)?);
        }
        for (before, after) in before.iter().zip(after) {
            columns.push(self.gather(before, after)?);
        }
        columns.push(Arc::new(Int8Array::from(std::mem::take(&mut self.kinds))));
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }

    fn gather(&self, before: &ArrayRef, after: &ArrayRef) -> Result<ArrayRef, OperatorError> {
        if let Some((old, new)) = plain::<Int64Type>(before, after) {
            return Ok(Arc::new(Int64Array::from(self.gather_values(old, new))));
        }
        if let Some((old, new)) = plain::<Float64Type>(before, after) {
            return Ok(Arc::new(Float64Array::from(self.gather_values(old, new))));
        }
        let groups = before.len() as u32;
        let indices = self.picks.iter().map(|pick| pick / 2 + (pick % 2) * groups);
        let indices = UInt32Array::from(indices.collect::<Vec<_>>());
        Ok(take(&concat(&[before.as_ref(), after.as_ref()])?, &indices, None)?)
    }

    fn gather_values<T: Copy>(&self, before: &[T], after: &[T]) -> Vec<T> {
        let sides = [before, after];
        self.picks.iter().map(|pick| sides[*pick as usize % 2][*pick as usize / 2]).collect()
    }
}

/// Marks the groups whose result differs.
fn find_changes(before: &ArrayRef, after: &ArrayRef, changed: &mut [bool]) -> Result<(), OperatorError> {
    if let Some((before, after)) = plain::<Int64Type>(before, after) {
        let pairs = before.iter().zip(after);
        changed.iter_mut().zip(pairs).for_each(|(changed, (before, after))| *changed |= before != after);
        return Ok(());
    }
    let differs = distinct(before, after)?;
    differs.values().set_indices().for_each(|group| changed[group] = true);
    Ok(())
}

/// Values before and after.
type Pair<'a, T> = (&'a [T], &'a [T]);

/// The values of two columns of this type that have no nulls.
fn plain<'a, T: ArrowPrimitiveType>(before: &'a ArrayRef, after: &'a ArrayRef) -> Option<Pair<'a, T::Native>> {
    let values = |column: &'a ArrayRef| column.as_primitive_opt::<T>().filter(|column| column.null_count() == 0);
    Some((values(before)?.values(), values(after)?.values()))
}
