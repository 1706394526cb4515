use super::row_fields::{RowFieldReader, RowFieldWriter};
use crate::Result;
use crate::operator::Context;
use crate::types::Record;
use hashbrown::HashSet;
use std::marker::PhantomData;
use weir_state::{KeyBatch, KeyedState, RowStateId, Slot};

/// One value for each key, as Flink's `ValueState`.
///
/// The rows of a whole batch are looked up at once, at the first access; after that an access is as cheap as the
/// value itself.
pub struct ValueState<T> {
    /// Among the operator's value states.
    index: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for ValueState<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ValueState<T> {}

impl<T: Record> ValueState<T> {
    pub(crate) fn new(index: usize) -> Self {
        ValueState { index, value: PhantomData }
    }

    /// The value of the current key; `None` if there is none.
    pub fn value(&self, context: &mut Context<'_>) -> Result<Option<T>> {
        let (state, slots, row) = self.slots(context)?;
        let slot = slots.slots[row];
        if slots.is_absent(slot) {
            return Ok(None);
        }
        T::read(&mut RowFieldReader::new(state.rows(slots.id), slot)).map(Some)
    }

    /// Sets the value of the current key.
    pub fn update(&self, context: &mut Context<'_>, value: &T) -> Result<()> {
        let (state, slots, row) = self.slots(context)?;
        let slot = slots.slots[row];
        if !slots.absent.is_empty() {
            slots.absent.remove(&slot);
        }
        value.write(&mut RowFieldWriter::new(state.rows(slots.id), slot))
    }

    /// Removes the value of the current key.
    pub fn clear(&self, context: &mut Context<'_>) -> Result<()> {
        let (_, slots, row) = self.slots(context)?;
        slots.absent.insert(slots.slots[row]);
        Ok(())
    }

    #[inline]
    fn slots<'c>(&self, context: &'c mut Context<'_>) -> Result<(&'c mut KeyedState, &'c mut ValueSlots, usize)> {
        let (state, scope, row) = context.parts();
        if !scope.values[self.index].is_loaded {
            scope.load_value(self.index, state)?;
        }
        Ok((state, &mut scope.values[self.index], row))
    }
}

/// The rows of one value state for the keys of the current batch.
///
/// Every key gets a row when the batch first asks for the state, since slots stay good only until rows are added
/// next; those that hold nothing in the end go away with the batch.
pub(crate) struct ValueSlots {
    id: RowStateId,
    is_loaded: bool,
    /// By row of the batch.
    slots: Vec<Slot>,
    /// Rows that stand for no value.
    absent: HashSet<Slot>,
    new: Vec<u32>,
}

impl ValueSlots {
    pub(crate) fn new(id: RowStateId) -> Self {
        ValueSlots { id, is_loaded: false, slots: vec![], absent: HashSet::new(), new: vec![] }
    }

    pub(crate) fn load(&mut self, keys: &KeyBatch, state: &mut KeyedState) -> Result<()> {
        state.rows(self.id).upsert(NO_NAMESPACE, keys, &mut self.slots, &mut self.new)?;
        self.absent.extend(self.new.iter().map(|row| self.slots[*row as usize]));
        self.is_loaded = true;
        Ok(())
    }

    #[inline]
    fn is_absent(&self, slot: Slot) -> bool {
        !self.absent.is_empty() && self.absent.contains(&slot)
    }

    pub(crate) fn settle(&mut self, state: &mut KeyedState) {
        if !self.is_loaded {
            return;
        }
        self.is_loaded = false;
        let rows = state.rows(self.id);
        self.absent.drain().for_each(|slot| rows.remove(slot));
    }
}

const NO_NAMESPACE: i64 = 0;
