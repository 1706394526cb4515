use super::{TimerSet, value::ValueSlots};
use crate::Result;
use arrow::array::ArrayRef;
use weir_model::{KeyGroup, StateField};
use weir_state::{KeyBatch, KeyEncoder, KeyedState};

/// What the states of an operator need beside `KeyedState`: the keys of the current batch, and where it is at.
pub(crate) struct Scope {
    pub(crate) key_fields: Vec<StateField>,
    /// For values: present once there is one.
    raw: Option<Keys>,
    /// For lists, maps and timers: present once there is one.
    ordered: Option<Keys>,
    pub(crate) values: Vec<ValueSlots>,
    pub(crate) timers: Vec<TimerSet>,
    pub(crate) scratch: Scratch,
}

struct Keys {
    encoder: KeyEncoder,
    batch: KeyBatch,
}

/// Encoded parts of an entry, kept for their capacity.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) namespace: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

impl Scope {
    pub(crate) fn new(key_fields: Vec<StateField>) -> Self {
        let (values, timers) = (vec![], vec![]);
        Scope { key_fields, raw: None, ordered: None, values, timers, scratch: Scratch::default() }
    }

    pub(crate) fn use_raw_keys(&mut self) {
        self.raw.get_or_insert_with(|| Keys { encoder: KeyEncoder::new(&self.key_fields), batch: KeyBatch::new() });
    }

    pub(crate) fn use_ordered_keys(&mut self) {
        self.ordered
            .get_or_insert_with(|| Keys { encoder: KeyEncoder::for_ordered(&self.key_fields), batch: KeyBatch::new() });
    }

    /// Takes the keys of the next batch.
    pub(crate) fn begin(&mut self, columns: &[ArrayRef], rows: usize, max_parallelism: u32) -> Result<()> {
        for keys in self.raw.iter_mut().chain(&mut self.ordered) {
            keys.encoder.encode(columns, rows, max_parallelism, &mut keys.batch)?;
        }
        Ok(())
    }

    /// After the last row of a batch, and before `KeyedState` does anything else.
    pub(crate) fn end(&mut self, state: &mut KeyedState) {
        self.values.iter_mut().for_each(|slots| slots.settle(state));
    }

    /// Finds the rows of the batch's keys in a value state.
    pub(crate) fn load_value(&mut self, index: usize, state: &mut KeyedState) -> Result<()> {
        let raw = self.raw.as_ref().expect("registering a value state asks for raw keys");
        self.values[index].load(&raw.batch, state)
    }

    #[inline]
    pub(crate) fn ordered_key(&self, row: usize) -> (KeyGroup, &[u8]) {
        let keys = &self.ordered.as_ref().expect("registering an ordered state asks for its keys").batch;
        (keys.key_group(row), keys.key(row))
    }
}
