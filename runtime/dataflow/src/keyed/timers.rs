//! Event-time timers of keys, and times as the first part of a namespace.

use crate::operator::OperatorError;
use arrow::array::ArrayRef;
use weir_model::types::TIMESTAMP;
use weir_model::{KeyGroup, StateField, StateKind, StateSchema};
use weir_state::{EncodedRows, KeyCodec, KeyedState, OrderedStateId, StateError, timer_time};

/// One timer at most for each key and time.
pub(crate) struct Timers {
    id: OrderedStateId,
}

impl Timers {
    pub(crate) fn schema(name: &str, key_fields: &[StateField]) -> StateSchema {
        StateSchema {
            name: name.into(),
            kind: StateKind::Timer,
            key: key_fields.to_vec(),
            namespace: vec![StateField::new("timer_time", TIMESTAMP, false)],
            value: vec![],
            semantics: vec![],
        }
    }

    pub(crate) fn register(name: &str, key_fields: &[StateField], state: &mut KeyedState) -> Result<Self, StateError> {
        Ok(Timers { id: state.register_ordered(Self::schema(name, key_fields))? })
    }

    pub(crate) fn set(
        &self,
        state: &mut KeyedState,
        group: KeyGroup,
        key: &[u8],
        time_us: i64,
    ) -> Result<(), StateError> {
        let timers = state.ordered(self.id);
        match timers.get(group, &timer_time(time_us), key)? {
            Some(_) => Ok(()),
            None => timers.put_timer(group, time_us, key, &[]),
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self, state: &mut KeyedState) -> usize {
        state.ordered(self.id).len()
    }

    /// Takes out at most `limit` timers that are due at `watermark`.
    pub(crate) fn take_due(&self, state: &mut KeyedState, watermark: i64, limit: usize) -> Result<Due, StateError> {
        let mut due = Due::default();
        state.ordered(self.id).take_due(watermark, limit, |group, time_us, key, _| {
            due.groups.push(group);
            due.times_us.push(time_us);
            due.keys.push(key);
        })?;
        Ok(due)
    }
}

/// Timers that have fired.
#[derive(Default)]
pub(crate) struct Due {
    groups: Vec<KeyGroup>,
    times_us: Vec<i64>,
    keys: EncodedRows,
}

impl Due {
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(crate) fn group(&self, nth: usize) -> KeyGroup {
        self.groups[nth]
    }

    pub(crate) fn time_us(&self, nth: usize) -> i64 {
        self.times_us[nth]
    }

    pub(crate) fn key(&self, nth: usize) -> &[u8] {
        self.keys.row(nth)
    }

    /// The keys as columns, a row for each timer.
    pub(crate) fn key_columns(&self, key_fields: &[StateField]) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(KeyCodec::new(key_fields)?.decode(self.keys.iter())?)
    }
}

/// How a namespace begins whose first field is this time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimePrefix([u8; TimePrefix::BYTES]);

impl TimePrefix {
    pub(crate) const BYTES: usize = 9;

    pub(crate) fn of(time_us: i64) -> Self {
        let mut bytes = [1; Self::BYTES];
        bytes[1..].copy_from_slice(&timer_time(time_us));
        TimePrefix(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::TimestampMicrosecondArray;
    use std::sync::Arc;

    #[test]
    fn a_time_prefix_is_what_the_key_codec_writes() {
        let times = vec![i64::MIN, -1, 0, 1, i64::MAX];
        let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.clone()));
        let codec = KeyCodec::new(&[StateField::new("t", TIMESTAMP, true)]).unwrap();
        let mut encoded = EncodedRows::default();
        codec.encode(&[column], times.len(), &mut encoded).unwrap();
        for (row, time) in times.iter().enumerate() {
            assert_eq!(encoded.row(row), TimePrefix::of(*time).bytes());
        }
    }
}
