//! What an updating operator emits: the difference between the results before a batch and after it.

use crate::operator::OperatorError;
use arrow::array::{ArrayRef, BooleanArray, Int8Array, UInt32Array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{concat, or, take};
use arrow::datatypes::SchemaRef;
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
    groups: Vec<u32>,
    /// Into the results before (first) and after the batch, one behind the other.
    results: Vec<u32>,
    kinds: Vec<i8>,
}

impl Changelog {
    /// One row or two for each group; `before` and `after` have a value for each.
    pub fn write(
        &mut self,
        fates: &[Fate],
        before: &[ArrayRef],
        after: &[ArrayRef],
        mode: ChangelogMode,
    ) -> Result<(), OperatorError> {
        self.groups.clear();
        self.results.clear();
        self.kinds.clear();
        let changed = if mode.unchanged { None } else { changed(before, after)? };
        let is_changed = |group: usize| changed.as_ref().is_some_and(|changed| changed.value(group));
        let groups = fates.len() as u32;
        for (group, fate) in fates.iter().enumerate() {
            let (old, new) = (group as u32, group as u32 + groups);
            match fate {
                Fate::Silent => {}
                Fate::Inserted => self.push(group, new, ChangeKind::Insert),
                Fate::Deleted => self.push(group, old, ChangeKind::Delete),
                Fate::Updated if !mode.unchanged && !is_changed(group) => {}
                Fate::Updated => {
                    if mode.update_before {
                        self.push(group, old, ChangeKind::UpdateBefore);
                    }
                    self.push(group, new, ChangeKind::UpdateAfter);
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn push(&mut self, group: usize, result: u32, kind: ChangeKind) {
        self.groups.push(group as u32);
        self.results.push(result);
        self.kinds.push(kind as i8);
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
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
        let key_indices = self.groups.iter().map(|group| key_rows[*group as usize]);
        let key_indices = UInt32Array::from_iter_values(key_indices);
        for key in keys {
            columns.push(take(key, &key_indices, None)?);
        }
        let indices = UInt32Array::from(std::mem::take(&mut self.results));
        for (before, after) in before.iter().zip(after) {
            columns.push(take(&concat(&[before.as_ref(), after.as_ref()])?, &indices, None)?);
        }
        columns.push(Arc::new(Int8Array::from(std::mem::take(&mut self.kinds))));
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}

/// For each group whether any result differs; `None` if there are no results that could.
fn changed(before: &[ArrayRef], after: &[ArrayRef]) -> Result<Option<BooleanArray>, OperatorError> {
    let mut changed: Option<BooleanArray> = None;
    for (before, after) in before.iter().zip(after) {
        let differs = distinct(before, after)?;
        changed = Some(match changed {
            None => differs,
            Some(changed) => or(&changed, &differs)?,
        });
    }
    Ok(changed)
}
