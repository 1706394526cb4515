//! Sessions in state: one entry per session, and the timers that find those which are over.

use crate::aggregate::{AggregateField, AggregatePlan, AggregateSet, Place, RowBlock};
use crate::operator::OperatorError;
use arrow::array::{ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_model::types::TIMESTAMP;
use weir_model::{KeyGroup, StateField, StateKind, StateSchema};
use weir_state::{EncodedRows, KeyCodec, KeyedState, OrderedStateId, ValueCodec};

/// The session's end, before the fields of the aggregates.
pub fn leading_field() -> AggregateField {
    AggregateField {
        field: StateField::new("window_end", TIMESTAMP, true),
        semantics: "end of the session".into(),
        is_counter: false,
    }
}

/// What distinguishes the sessions of a key.
pub fn start_field() -> StateField {
    StateField::new("window_start", TIMESTAMP, false)
}

/// `sessions`: (key; start) -> end and aggregates. `session_timers`: a time and key for each session, not later
/// than its next deadline; a session that grew gets a new timer when the one that it outgrew comes due.
pub fn schemas(key: &[StateField], plan: &AggregatePlan) -> [StateSchema; 2] {
    let sessions = StateSchema {
        name: "sessions".into(),
        kind: StateKind::Map,
        key: key.to_vec(),
        namespace: vec![start_field()],
        value: plan.value_fields(),
        semantics: plan.semantics(),
    };
    let timers = StateSchema {
        name: "session_timers".into(),
        kind: StateKind::Timer,
        key: key.to_vec(),
        namespace: vec![StateField::new("time", TIMESTAMP, false)],
        value: vec![],
        semantics: vec![],
    };
    [sessions, timers]
}

pub struct SessionState {
    pub sessions: OrderedStateId,
    pub timers: OrderedStateId,
    start_codec: KeyCodec,
    value_codec: ValueCodec,
    end: Place,
}

/// Sessions read from state, a block row each, behind the rows that the block had.
#[derive(Default)]
pub struct ReadSessions {
    /// Number of the key in the list that was asked for.
    pub key: Vec<u32>,
    pub start_us: Vec<i64>,
    pub end_us: Vec<i64>,
}

impl SessionState {
    pub fn open(
        [sessions, timers]: [StateSchema; 2],
        aggregates: &AggregateSet,
        state: &mut KeyedState,
    ) -> Result<Self, OperatorError> {
        Ok(SessionState {
            start_codec: KeyCodec::new(&sessions.namespace)?,
            value_codec: ValueCodec::new(&sessions.value)?,
            sessions: state.register_ordered(sessions)?,
            timers: state.register_ordered(timers)?,
            end: aggregates.place(0),
        })
    }

    /// Appends all sessions of these keys to the block: of one key in the order of time.
    pub fn read<'a>(
        &self,
        keys: impl Iterator<Item = (KeyGroup, &'a [u8])>,
        aggregates: &AggregateSet,
        block: &mut RowBlock,
        state: &mut KeyedState,
    ) -> Result<ReadSessions, OperatorError> {
        let (mut starts, mut values) = (EncodedRows::default(), EncodedRows::default());
        let mut read = ReadSessions::default();
        let sessions = state.ordered(self.sessions);
        for (number, (group, key)) in keys.enumerate() {
            sessions.scan_prefix(group, key, |start, value| {
                read.key.push(number as u32);
                starts.push(start);
                values.push(value);
                ControlFlow::Continue(())
            })?;
        }
        let rows = read.key.len();
        if rows == 0 {
            return Ok(read);
        }
        let times = |column: &ArrayRef| column.as_primitive::<TimestampMicrosecondType>().values().to_vec();
        read.start_us = times(&self.start_codec.decode(starts.iter())?[0]);
        let columns = self.value_codec.decode(values.iter())?;
        read.end_us = times(&columns[0]);
        aggregates.append_state_columns(block, &columns, rows)?;
        Ok(read)
    }

    /// Writes rows of the block as sessions of these keys and starts; their ends stand in the block.
    pub fn write<'a>(
        &self,
        sessions: &[(u32, i64)],
        key: impl Fn(usize) -> (KeyGroup, &'a [u8]),
        aggregates: &AggregateSet,
        block: &RowBlock,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        let rows: Vec<u32> = sessions.iter().map(|(row, _)| *row).collect();
        let mut values = EncodedRows::default();
        self.value_codec.encode(&aggregates.state_columns(block, &rows)?, rows.len(), &mut values)?;
        let starts = self.encode_starts(sessions.iter().map(|(_, start)| *start))?;
        let state = state.ordered(self.sessions);
        for at in 0..sessions.len() {
            let (group, key) = key(at);
            state.put(group, key, starts.row(at), values.row(at))?;
        }
        Ok(())
    }

    pub fn delete<'a>(
        &self,
        starts_us: &[i64],
        key: impl Fn(usize) -> (KeyGroup, &'a [u8]),
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        let starts = self.encode_starts(starts_us.iter().copied())?;
        let state = state.ordered(self.sessions);
        for at in 0..starts_us.len() {
            let (group, key) = key(at);
            state.delete(group, key, starts.row(at))?;
        }
        Ok(())
    }

    pub fn set_end(&self, block: &mut RowBlock, row: usize, end_us: i64) {
        block.set_word(row, self.end, end_us);
        block.set_valid(row, self.end);
    }

    pub fn encode_starts(&self, starts_us: impl Iterator<Item = i64>) -> Result<EncodedRows, OperatorError> {
        let column = TimestampMicrosecondArray::from_iter_values(starts_us);
        let (rows, mut encoded) = (column.values().len(), EncodedRows::default());
        self.start_codec.encode(&[Arc::new(column) as ArrayRef], rows, &mut encoded)?;
        Ok(encoded)
    }
}
