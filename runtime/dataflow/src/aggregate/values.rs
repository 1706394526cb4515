//! How often each value of an argument is there, per group: DISTINCT, and minima and maxima of updating inputs.

use super::argument::{Argument, state_type, to_state};
use super::block::{Place, RowBlock};
use super::function::{InputMode, Pick, pick_values};
use super::last_entry::last_namespace;
use super::selection::Selection;
use super::session_values::SessionKey;
use super::set::Batch;
use crate::operator::OperatorError;
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::ops::ControlFlow;
use weir_model::{KeyGroup, StateField, StateKind, StateSchema};
use weir_state::{EncodedRows, KeyBatch, KeyCodec, KeyedState, OrderedState, OrderedStateId, StateOptions};

/// A multiset of values per group: (key; window end, value) -> count.
pub struct ValueCounts {
    state: OrderedStateId,
    /// Of the namespace: the window's end, if there are windows, and the value.
    codec: KeyCodec,
    value_type: DataType,
    counts: Counts,
    namespaces: EncodedRows,
    entries: Vec<Entry>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    transitions: Vec<(u32, i8)>,
}

/// What the batch does to one value of one group.
struct Entry {
    group: u32,
    /// A row with this value.
    row: u32,
    change: i64,
}

/// What is written as a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    /// 1: the input is append-only, so that a value that came once stays.
    Presence,
    Exact,
}

impl ValueCounts {
    pub fn schema(
        name: &str,
        argument: &DataType,
        mode: InputMode,
        key: &[StateField],
        window: &[StateField],
    ) -> StateSchema {
        let value_type = state_type(argument);
        let semantics = match Counts::of(mode) {
            Counts::Presence => format!("distinct({value_type})"),
            Counts::Exact => format!("count of each({value_type})"),
        };
        StateSchema {
            name: format!("{name}.values"),
            kind: StateKind::Map,
            key: key.to_vec(),
            namespace: [window, &[StateField::new("value", value_type, true)]].concat(),
            value: vec![StateField::new("count", DataType::Int64, false)],
            semantics: vec![semantics],
        }
    }

    pub fn open(
        name: &str,
        argument: &DataType,
        mode: InputMode,
        key: &[StateField],
        window: &[StateField],
        state: &mut KeyedState,
        ttl_ms: Option<u64>,
    ) -> Result<Self, OperatorError> {
        let schema = Self::schema(name, argument, mode, key, window);
        let codec = KeyCodec::new(&schema.namespace)?;
        Ok(ValueCounts {
            state: state.register_ordered_with(schema, StateOptions { ttl_ms })?,
            codec,
            value_type: state_type(argument),
            counts: Counts::of(mode),
            namespaces: EncodedRows::default(),
            entries: vec![],
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            transitions: vec![],
        })
    }

    pub fn state(&self) -> OrderedStateId {
        self.state
    }

    /// Counts the selected rows' values, and gives a row (+1) for each value that is new in its group and a row
    /// (-1) for each that is there no more.
    pub fn apply(
        &mut self,
        state: &mut OrderedState,
        values: &ArrayRef,
        batch: &Batch<'_>,
        rows: &Selection<'_>,
    ) -> Result<&[(u32, i8)], OperatorError> {
        let mut columns: Vec<ArrayRef> = batch.namespace.into_iter().cloned().collect();
        columns.push(to_state(values)?);
        self.codec.encode(&columns, batch.rows, &mut self.namespaces)?;
        self.collect(&batch.touched.of_row, rows);
        self.transitions.clear();
        for entry in self.entries.iter().filter(|entry| entry.change != 0) {
            let row = entry.row as usize;
            let (group, key, namespace) = (batch.keys.key_group(row), batch.keys.key(row), self.namespaces.row(row));
            let old = match state.get(group, key, namespace)? {
                Some(bytes) => decode_count(bytes)?,
                None => 0,
            };
            let new = match self.counts {
                Counts::Presence => 1,
                Counts::Exact => old + entry.change,
            };
            if new == old {
                continue;
            }
            if new == 0 {
                state.delete(group, key, namespace)?;
            } else {
                state.put(group, key, namespace, &encode_count(new))?;
            }
            match (old > 0, new > 0) {
                (false, true) => self.transitions.push((entry.row, 1)),
                (true, false) => self.transitions.push((entry.row, -1)),
                _ => {}
            }
        }
        Ok(&self.transitions)
    }

    /// Sums the rows up by group and value, so that state is asked once for each.
    fn collect(&mut self, groups: &[u32], rows: &Selection<'_>) {
        let ValueCounts { entries, index, hasher, namespaces, .. } = self;
        entries.clear();
        index.clear();
        rows.each(|row, retract| {
            let (group, namespace) = (groups[row], namespaces.row(row));
            let change = if retract { -1 } else { 1 };
            let hash_of = |group: u32, namespace: &[u8]| hasher.hash_one((group, namespace));
            let hash = hash_of(group, namespace);
            let same = |at: &u32| {
                let entry = &entries[*at as usize];
                entry.group == group && namespaces.row(entry.row as usize) == namespace
            };
            match index.find(hash, same) {
                Some(at) => entries[*at as usize].change += change,
                None => {
                    let at = entries.len() as u32;
                    entries.push(Entry { group, row: row as u32, change });
                    index.insert_unique(hash, at, |at| {
                        let entry = &entries[*at as usize];
                        hash_of(entry.group, namespaces.row(entry.row as usize))
                    });
                }
            }
        });
    }

    /// After `apply`: brings the least or greatest value in the block's rows up to date. The counts are asked
    /// only where the value that stood there is gone.
    #[allow(clippy::too_many_arguments)]
    pub fn pick_again(
        &self,
        state: &mut OrderedState,
        block: &mut RowBlock,
        groups: &[u32],
        argument: &Argument,
        batch: &Batch<'_>,
        place: Place,
        pick: Pick,
    ) -> Result<(), OperatorError> {
        let gone = self.transitions.iter().filter(|(row, sign)| {
            *sign < 0 && argument.equals(*row as usize, block, groups[*row as usize] as usize, place)
        });
        let mut gone: Vec<u32> = gone.map(|(row, _)| *row).collect();
        let came: Vec<(u32, i8)> = self.transitions.iter().copied().filter(|(_, sign)| *sign > 0).collect();
        pick_values(block, groups, place, pick, argument, &Selection::Listed(&came));

        gone.sort_unstable_by_key(|row| groups[*row as usize]);
        gone.dedup_by_key(|row| groups[*row as usize]);
        let (mut found, mut found_groups) = (EncodedRows::default(), vec![]);
        for row in gone {
            let (key_group, key) = (batch.keys.key_group(row as usize), batch.keys.key(row as usize));
            let namespace = match pick {
                Pick::Max => last_namespace(state, key_group, key)?,
                _ => first_namespace(state, key_group, key)?,
            };
            let group = groups[row as usize];
            block.clear(group as usize, place);
            if let Some(namespace) = namespace {
                found.push(&namespace);
                found_groups.push(group);
            }
        }
        if found_groups.is_empty() {
            return Ok(());
        }
        let columns = self.codec.decode(found.iter())?;
        let values = columns.last().expect("a value is the last field of the namespace");
        debug_assert_eq!(values.data_type(), &self.value_type);
        let values = Argument::of_state(values)?;
        pick_values(block, &found_groups, place, pick, &values, &Selection::All(found_groups.len()));
        Ok(())
    }

    /// Deletes all values of a row's key.
    pub fn forget(&mut self, row: usize, keys: &KeyBatch, state: &mut KeyedState) -> Result<(), OperatorError> {
        delete_under(state.ordered(self.state), keys, row, &[])
    }

    /// Deletes all values of these keys in the window with this end (a column of one row).
    pub fn forget_window(
        &mut self,
        window_end: &ArrayRef,
        keys: &KeyBatch,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        let window_codec = KeyCodec::new(&self.codec.fields()[..1])?;
        window_codec.encode(std::slice::from_ref(window_end), 1, &mut self.namespaces)?;
        let state = state.ordered(self.state);
        (0..keys.len()).try_for_each(|row| delete_under(state, keys, row, self.namespaces.row(0)))
    }

    /// For sessions: gives the values under `from` another session's start.
    pub fn move_under(
        &mut self,
        state: &mut KeyedState,
        from: SessionKey<'_>,
        to_start: &[u8],
    ) -> Result<(), OperatorError> {
        let state = state.ordered(self.state);
        let place = [from.key, from.start].concat();
        let values = all_under(state, from.group, &place)?;
        for value in values.iter() {
            state.delete(from.group, &place, value)?;
            state.put(from.group, from.key, &[to_start, value].concat(), &encode_count(1))?;
        }
        Ok(())
    }

    pub fn delete_under(&mut self, state: &mut KeyedState, session: SessionKey<'_>) -> Result<(), OperatorError> {
        let state = state.ordered(self.state);
        let place = [session.key, session.start].concat();
        let values = all_under(state, session.group, &place)?;
        values.iter().try_for_each(|value| Ok(state.delete(session.group, &place, value)?))
    }

    /// The values of sessions, and beside each the number that came with its session.
    pub fn read<'a>(
        &self,
        state: &mut KeyedState,
        sessions: impl Iterator<Item = (u32, SessionKey<'a>)>,
    ) -> Result<(ArrayRef, Vec<u32>), OperatorError> {
        let (mut all, mut numbers) = (EncodedRows::default(), vec![]);
        let state = state.ordered(self.state);
        for (number, session) in sessions {
            let place = [session.key, session.start].concat();
            state.scan_prefix(session.group, &place, |value, _| {
                all.push(value);
                numbers.push(number);
                ControlFlow::Continue(())
            })?;
        }
        let value_codec = KeyCodec::new(&self.codec.fields()[1..])?;
        let columns = value_codec.decode(all.iter())?;
        Ok((columns[0].clone(), numbers))
    }
}

impl Counts {
    fn of(mode: InputMode) -> Self {
        match mode {
            InputMode::AppendOnly => Counts::Presence,
            InputMode::Updating => Counts::Exact,
        }
    }
}

/// Deletes all entries of a row's key whose namespace begins with `prefix`.
pub(super) fn delete_under(
    state: &mut OrderedState,
    keys: &KeyBatch,
    row: usize,
    prefix: &[u8],
) -> Result<(), OperatorError> {
    let (group, place) = (keys.key_group(row), [keys.key(row), prefix].concat());
    let rests = all_under(state, group, &place)?;
    rests.iter().try_for_each(|rest| Ok(state.delete(group, &place, rest)?))
}

/// What follows `place` in the entries that begin with it.
fn all_under(state: &mut OrderedState, group: KeyGroup, place: &[u8]) -> Result<EncodedRows, OperatorError> {
    let mut rests = EncodedRows::default();
    state.scan_prefix(group, place, |rest, _| {
        rests.push(rest);
        ControlFlow::Continue(())
    })?;
    Ok(rests)
}

pub(super) fn first_namespace(
    state: &mut OrderedState,
    group: KeyGroup,
    key: &[u8],
) -> Result<Option<Vec<u8>>, OperatorError> {
    let mut first = None;
    state.scan_prefix(group, key, |namespace, _| {
        first = Some(namespace.to_vec());
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// As `ValueCodec` writes one BIGINT that isn't null: the null bitmap, then the number.
fn encode_count(count: i64) -> [u8; 9] {
    let mut bytes = [0; 9];
    bytes[1..].copy_from_slice(&count.to_le_bytes());
    bytes
}

fn decode_count(bytes: &[u8]) -> Result<i64, OperatorError> {
    match bytes.split_first() {
        Some((0, number)) if number.len() == 8 => Ok(i64::from_le_bytes(number.try_into().expect("8 bytes"))),
        _ => Err(OperatorError::Failed(format!("the count of a value in state is {} bytes of nonsense", bytes.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use std::sync::Arc;
    use weir_state::ValueCodec;

    #[test]
    fn a_count_is_what_the_value_codec_writes() {
        let mut encoded = EncodedRows::default();
        let codec = ValueCodec::new(&[StateField::new("count", DataType::Int64, false)]).unwrap();
        codec.encode(&[Arc::new(Int64Array::from(vec![-5])) as ArrayRef], 1, &mut encoded).unwrap();
        assert_eq!(encode_count(-5), encoded.row(0));
        assert_eq!(decode_count(&encode_count(-5)).unwrap(), -5);
        assert!(decode_count(&[1, 2]).is_err());
    }
}
