//! Keyed state as tables and back, which is what savepoints hold: no backend's bytes, no subtask's key groups.
//!
//! A table's columns are the key group (`UInt16`), then the schema's key, namespace and value fields. When an entry
//! was last written is no part of it: a time to live begins anew.

use crate::any_state::AnyState;
use crate::codec::{EncodedRows, ValueCodec};
use crate::handle::KeyedStateHandle;
use crate::migrate::PlaceCodec;
use crate::ordered::OrderedState;
use crate::restore::restore_each;
use crate::rows::RowState;
use crate::{SegmentSource, StateError};
use arrow::array::{Array, ArrayRef, Int64Array, UInt16Array};
use arrow::compute::{CastOptions, cast_with_options, concat};
use std::ops::ControlFlow;
use std::sync::Arc;
use weir_model::{KeyGroup, KeyGroupRange, StateKind, StateSchema};

/// About what is read at once.
const CHUNK_BYTES: u64 = 16 << 20;
const BATCH_ROWS: usize = 8192;

/// Reads some key groups of one subtask's state of a checkpoint as tables: `visit` gets a state's schema and some of its
/// rows, by column. Over all calls for one state, rows ascend by key group.
///
/// # Errors
/// Whatever reading the checkpoint says, and what `visit` says.
pub fn export<E: From<StateError>>(
    handle: &KeyedStateHandle,
    key_groups: KeyGroupRange,
    source: &dyn SegmentSource,
    mut visit: impl FnMut(&StateSchema, Vec<ArrayRef>) -> Result<(), E>,
) -> Result<(), E> {
    let mut batches: Vec<Batches> = vec![];
    for part in handle.parts_of(key_groups, CHUNK_BYTES) {
        restore_each(handle, part, source, &mut |group, state| {
            let at = batches.iter().position(|batches| batches.schema.name == state.schema().name);
            let at = at.unwrap_or_else(|| {
                batches.push(Batches::new(state.schema()));
                batches.len() - 1
            });
            match state {
                AnyState::Rows(rows) => export_rows(rows, group, &mut batches[at], &mut visit),
                AnyState::Ordered(entries) => export_ordered(entries, &mut visit),
            }
        })?;
    }
    batches.into_iter().try_for_each(|mut batches| batches.flush(&mut visit))
}

/// Rows of one state on their way out, in batches that are worth their columns: a key group may hold a few rows of each
/// of many namespaces.
pub(crate) struct Batches {
    schema: StateSchema,
    pieces: Vec<Vec<ArrayRef>>,
    rows: usize,
}

impl Batches {
    pub(crate) fn new(schema: &StateSchema) -> Self {
        Batches { schema: schema.clone(), pieces: vec![], rows: 0 }
    }

    /// Adds rows of one key group: their namespaces, then the key columns and the values.
    pub(crate) fn add<E: From<StateError>>(
        &mut self,
        group: KeyGroup,
        namespaces: Int64Array,
        keys: &[ArrayRef],
        values: Vec<ArrayRef>,
        visit: &mut impl FnMut(&StateSchema, Vec<ArrayRef>) -> Result<(), E>,
    ) -> Result<(), E> {
        let rows = namespaces.len();
        let groups: ArrayRef = Arc::new(UInt16Array::from_value(group.0, rows));
        let namespaces = namespace_column(&self.schema, namespaces)?;
        self.pieces.push([groups].into_iter().chain(keys.iter().cloned()).chain(namespaces).chain(values).collect());
        self.rows += rows;
        if self.rows >= BATCH_ROWS { self.flush(visit) } else { Ok(()) }
    }

    pub(crate) fn flush<E: From<StateError>>(
        &mut self,
        visit: &mut impl FnMut(&StateSchema, Vec<ArrayRef>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.rows = 0;
        let mut pieces = std::mem::take(&mut self.pieces);
        let columns = match &pieces[..] {
            [] => return Ok(()),
            [_] => pieces.swap_remove(0),
            [first, ..] => {
                let column = |at: usize| {
                    let pieces: Vec<&dyn Array> = pieces.iter().map(|columns| &*columns[at]).collect();
                    concat(&pieces).map_err(StateError::from)
                };
                (0..first.len()).map(column).collect::<Result<_, _>>()?
            }
        };
        visit(&self.schema, columns)
    }
}

/// All rows of a state that holds one key group.
fn export_rows<E: From<StateError>>(
    mut rows: RowState,
    group: KeyGroup,
    batches: &mut Batches,
    visit: &mut impl FnMut(&StateSchema, Vec<ArrayRef>) -> Result<(), E>,
) -> Result<(), E> {
    rows.for_each_batch(BATCH_ROWS, |namespace, keys, values, count| {
        batches.add(group, Int64Array::from_value(namespace, count), keys, values, visit)
    })
}

/// The namespace of a row state is a number; as a column it has the type of the schema's field, if there is one.
fn namespace_column(schema: &StateSchema, namespaces: Int64Array) -> Result<Option<ArrayRef>, StateError> {
    match &schema.namespace[..] {
        [] => match namespaces.values().iter().find(|namespace| **namespace != 0) {
            None => Ok(None),
            Some(namespace) => Err(StateError::InvalidSchema {
                state: schema.name.clone(),
                reason: format!("it has no namespace field, and rows of namespace {namespace}"),
            }),
        },
        [field, ..] => Ok(Some(cast_with_options(&namespaces, &field.data_type, &strict())?)),
    }
}

pub(crate) fn strict() -> CastOptions<'static> {
    CastOptions { safe: false, ..CastOptions::default() }
}

pub(crate) fn export_ordered<E: From<StateError>>(
    mut entries: OrderedState,
    visit: &mut impl FnMut(&StateSchema, Vec<ArrayRef>) -> Result<(), E>,
) -> Result<(), E> {
    let schema = entries.schema().clone();
    let (place_codec, value_codec) = (PlaceCodec::new(&schema)?, ValueCodec::new(&schema.value)?);
    for group in entries.key_groups().iter() {
        let mut from_place = Vec::new();
        loop {
            let (mut places, mut values) = (EncodedRows::default(), EncodedRows::default());
            entries.scan_range(group, &from_place, None, |place, value| {
                places.push(place);
                values.push(value);
                if places.len() < BATCH_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            let rows = places.len();
            if rows == 0 {
                break;
            }
            from_place = [places.row(rows - 1), &[0]].concat();
            let mut place_columns = place_codec.codec.decode(places.iter())?;
            if schema.kind == StateKind::Timer {
                place_columns.rotate_left(schema.namespace.len());
            }
            let groups: ArrayRef = Arc::new(UInt16Array::from_value(group.0, rows));
            let values = value_codec.decode(values.iter())?;
            visit(&schema, [groups].into_iter().chain(place_columns).chain(values).collect())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyBatch, KeyEncoder, KeyedState, MemorySegments, StateConfig, timer_time};
    use arrow::array::{AsArray, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, UInt16Type};
    use std::collections::BTreeSet;
    use weir_model::types::TIMESTAMP;
    use weir_model::{CheckpointId, StateField};

    const MAX_PARALLELISM: u32 = 128;
    const KEYS: i64 = 20_000;

    fn totals() -> StateSchema {
        StateSchema {
            name: "totals".into(),
            kind: StateKind::Value,
            key: vec![StateField::new("name", DataType::Utf8, true)],
            namespace: vec![StateField::new("window_start", TIMESTAMP, false)],
            value: vec![StateField::new("total", DataType::Int64, true)],
            semantics: vec!["sum(Int64)".into()],
        }
    }

    fn timers() -> StateSchema {
        StateSchema {
            name: "timers".into(),
            kind: StateKind::Timer,
            key: vec![StateField::new("name", DataType::Utf8, true)],
            namespace: vec![StateField::new("time", TIMESTAMP, false)],
            value: vec![StateField::new("total", DataType::Int64, true)],
            semantics: vec![],
        }
    }

    fn name(number: i64) -> Option<String> {
        (number > 0).then(|| format!("name {number}"))
    }

    /// State of `KEYS` keys, in two windows and as timers.
    fn filled() -> KeyedState {
        let mut state = KeyedState::new(KeyGroupRange { first: 0, last: 127 }, MAX_PARALLELISM);
        let rows = state.register_rows(totals()).unwrap();
        let entries = state.register_ordered(timers()).unwrap();
        let names: ArrayRef = Arc::new((0..KEYS).map(name).collect::<StringArray>());
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..KEYS));
        let mut keys = KeyBatch::new();
        KeyEncoder::for_ordered(&totals().key).encode(&[names], KEYS as usize, MAX_PARALLELISM, &mut keys).unwrap();
        for window in [-1_000_000, 7_000_000] {
            state.rows(rows).put_columns(&vec![window; KEYS as usize], &keys, std::slice::from_ref(&numbers)).unwrap();
        }
        let mut values = EncodedRows::default();
        ValueCodec::new(&timers().value).unwrap().encode(&[numbers], KEYS as usize, &mut values).unwrap();
        for row in 0..KEYS as usize {
            let time = timer_time(row as i64 - 50);
            state.ordered(entries).put(keys.key_group(row), &time, keys.key(row), values.row(row)).unwrap();
        }
        state
    }

    fn handle_of(state: &mut KeyedState) -> (KeyedStateHandle, MemorySegments) {
        let mut segments = MemorySegments::default();
        let handle = state.cut(CheckpointId(1)).unwrap().write(&mut segments).unwrap();
        (handle, segments)
    }

    fn exported(handle: &KeyedStateHandle, segments: &MemorySegments) -> Vec<(StateSchema, Vec<ArrayRef>)> {
        let mut batches = vec![];
        export::<StateError>(handle, handle.key_groups, segments, |schema, columns| {
            batches.push((schema.clone(), columns));
            Ok(())
        })
        .unwrap();
        batches
    }

    /// Each row of a state as text.
    fn texts(batches: &[(StateSchema, Vec<ArrayRef>)], state: &str) -> BTreeSet<String> {
        let mut texts = BTreeSet::new();
        for (_, columns) in batches.iter().filter(|(schema, _)| schema.name == state) {
            for row in 0..columns[0].len() {
                let values = columns.iter().map(|column| arrow::util::display::array_value_to_string(column, row));
                assert!(texts.insert(values.collect::<Result<Vec<_>, _>>().unwrap().join(" ")), "a row twice");
            }
        }
        texts
    }

    #[test]
    fn what_is_exported_comes_back_at_another_parallelism() {
        let (handle, segments) = handle_of(&mut filled());
        let batches = exported(&handle, &segments);
        assert_eq!(texts(&batches, "totals").len() as i64, 2 * KEYS);
        assert_eq!(texts(&batches, "timers").len() as i64, KEYS);
        for schema in [totals(), timers()] {
            let of_state = batches.iter().filter(|(of, _)| *of == schema);
            let groups = of_state.flat_map(|(_, columns)| columns[0].as_primitive::<UInt16Type>().values().to_vec());
            assert!(groups.is_sorted(), "rows ascend by key group");
        }
        let mut back = vec![];
        for subtask in 0..3 {
            let key_groups = KeyGroupRange::of_subtask(subtask, 3, MAX_PARALLELISM);
            let config = StateConfig { key_groups, max_parallelism: MAX_PARALLELISM };
            let mut state = KeyedState::open(config, &[], &MemorySegments::default()).unwrap();
            for (schema, columns) in &batches {
                let groups = columns[0].as_primitive::<UInt16Type>().values();
                let first = groups.partition_point(|group| *group < key_groups.first);
                let end = groups.partition_point(|group| *group <= key_groups.last);
                let part: Vec<_> = columns.iter().map(|column| column.slice(first, end - first)).collect();
                state.import(schema, &part).unwrap();
            }
            assert_eq!(state.unmatched().count(), 2);
            state.register_rows(totals()).unwrap();
            state.register_ordered(timers()).unwrap();
            let (handle, segments) = handle_of(&mut state);
            back.extend(exported(&handle, &segments));
        }
        for state in ["totals", "timers"] {
            assert_eq!(texts(&batches, state), texts(&back, state), "{state}");
        }
    }

    #[test]
    fn imported_state_migrates_as_restored_state_does() {
        let (handle, segments) = handle_of(&mut filled());
        let mut state = KeyedState::new(KeyGroupRange { first: 0, last: 127 }, MAX_PARALLELISM);
        for (schema, columns) in exported(&handle, &segments) {
            state.import(&schema, &columns).unwrap();
        }
        let mut wider = totals();
        wider.value.push(StateField::new("least", DataType::Int64, true));
        wider.semantics.push("min(Int64)".into());
        let id = state.register_rows(wider).unwrap();
        assert_eq!(state.rows(id).len() as i64, 2 * KEYS);
        let other = StateSchema { value: vec![StateField::new("total", DataType::Utf8, true)], ..timers() };
        let refused = state.register_ordered(other).unwrap_err().to_string();
        assert!(refused.contains("column `total` was Int64 and is now Utf8"), "{refused}");
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        let mut state = KeyedState::new(KeyGroupRange { first: 0, last: 63 }, MAX_PARALLELISM);
        let columns = |group: u16| -> Vec<ArrayRef> {
            vec![
                Arc::new(UInt16Array::from(vec![group])),
                Arc::new(StringArray::from(vec!["name 1"])),
                Arc::new(TimestampMicrosecondArray::from(vec![0])),
                Arc::new(Int64Array::from(vec![1])),
            ]
        };
        let mut refused = |columns: &[ArrayRef]| state.import(&totals(), columns).unwrap_err().to_string();
        assert_eq!(refused(&columns(64)), "a key of group 64 reached the subtask of groups 0-63");
        let errors = [refused(&columns(3)), refused(&columns(4))];
        assert!(errors.iter().any(|error| error.contains("its key belongs to")), "{errors:?}");
        assert!(refused(&columns(3)[..3]).contains("2 columns for a schema of 3 fields"));
    }
}
