use super::*;
use crate::key_batch::{KeyBatch, KeyEncoder};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use proptest::prelude::*;
use std::sync::Arc;
use weir_model::{StateField, StateKind};

pub(crate) fn schema(key: &[(DataType, bool)], value: &[DataType]) -> StateSchema {
    let fields = |prefix: &str, types: Vec<(DataType, bool)>| {
        types.into_iter().enumerate().map(|(i, (t, n))| StateField::new(format!("{prefix}{i}"), t, n)).collect()
    };
    StateSchema {
        name: "test".into(),
        kind: StateKind::Value,
        key: fields("k", key.to_vec()),
        namespace: vec![],
        value: fields("v", value.iter().map(|t| (t.clone(), true)).collect()),
        semantics: vec![],
    }
}

const MAX: u32 = 128;
const ALL: KeyGroupRange = KeyGroupRange { first: 0, last: 127 };

fn state(schema: StateSchema, ttl_ms: Option<u64>) -> RowState {
    RowState::new(schema, ALL, MAX, ttl_ms, 1).unwrap()
}

fn keys(schema: &StateSchema, columns: &[ArrayRef]) -> KeyBatch {
    let mut keys = KeyBatch::new();
    KeyEncoder::new(&schema.key).encode(columns, columns[0].len(), MAX, &mut keys).unwrap();
    keys
}

fn ints(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

/// Adds 1 to the first field of each key and 2^k to the second, as a sum with nulls would.
fn count(state: &mut RowState, namespace: i64, keys: &KeyBatch) -> Vec<u32> {
    let (mut slots, mut new) = (vec![], vec![]);
    state.upsert(namespace, keys, &mut slots, &mut new).unwrap();
    let field = state.layout().field(0);
    state.for_each_mut(&slots, |_, row| field.set_i64(row, field.get_i64(row) + 1));
    new
}

#[derive(Clone, Debug)]
enum Step {
    Count(i64, Vec<Option<i64>>),
    Remove(i64, Vec<Option<i64>>),
    Drop(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some_keys = || prop::collection::vec(prop::option::weighted(0.97, 0i64..300), 1..200);
    let step = prop_oneof![
        4 => (0i64..4, some_keys()).prop_map(|(n, k)| Step::Count(n, k)),
        2 => (0i64..4, some_keys()).prop_map(|(n, k)| Step::Remove(n, k)),
        1 => (0i64..4).prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn equals_a_map(steps in steps(), byte_keys: bool) {
        let types = if byte_keys { vec![(DataType::Int64, true), (DataType::Utf8, true)] } else { vec![(DataType::Int64, true)] };
        let schema = schema(&types, &[DataType::Int64, DataType::Utf8]);
        let columns = |values: &[Option<i64>]| -> Vec<ArrayRef> {
            let strings: ArrayRef = Arc::new(values.iter().map(|v| v.map(|v| format!("key {v}"))).collect::<StringArray>());
            vec![ints(values.iter().copied()), strings][..types.len()].to_vec()
        };
        let mut state = state(schema.clone(), None);
        let mut model: BTreeMap<(i64, Option<i64>), (i64, String)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Count(namespace, values) => {
                    let batch = keys(&schema, &columns(&values));
                    let (mut slots, mut new) = (vec![], vec![]);
                    state.upsert(namespace, &batch, &mut slots, &mut new).unwrap();
                    let (count, text) = (state.layout().field(0), state.layout().field(1));
                    let mut expected_new = vec![];
                    for (at, value) in values.iter().enumerate() {
                        let row = state.row_mut(slots[at]);
                        let counted = count.get_i64(row) + 1;
                        count.set_i64(row, counted);
                        let long = format!("{value:?}").repeat(counted as usize % 5);
                        state.set_var(slots[at], text, Some(long.as_bytes())).unwrap();
                        let entry = model.entry((namespace, *value)).or_insert_with(|| { expected_new.push(at as u32); Default::default() });
                        *entry = (counted, long);
                    }
                    prop_assert_eq!(new, expected_new);
                }
                Step::Remove(namespace, mut values) => {
                    values.sort();
                    values.dedup();
                    let batch = keys(&schema, &columns(&values));
                    let mut slots = vec![];
                    state.find(namespace, &batch, &mut slots).unwrap();
                    for (slot, value) in slots.iter().zip(values) {
                        prop_assert_eq!(!slot.is_none(), model.remove(&(namespace, value)).is_some());
                        if !slot.is_none() {
                            state.remove(*slot);
                        }
                    }
                }
                Step::Drop(namespace) => {
                    state.drop_namespace(namespace);
                    model.retain(|(of, _), _| *of != namespace);
                }
            }
            let mut found = BTreeMap::new();
            for namespace in state.namespaces().collect::<Vec<_>>() {
                state.scan(namespace, 50, |state, keys, slots| -> Result<(), StateError> {
                    let values = state.columns(slots)?;
                    for row in 0..slots.len() {
                        let key = keys[0].is_valid(row).then(|| keys[0].as_primitive::<Int64Type>().value(row));
                        let value = (values[0].as_primitive::<Int64Type>().value(row), values[1].as_string::<i32>().value(row).to_string());
                        assert!(found.insert((namespace, key), value).is_none(), "a row twice");
                    }
                    Ok(())
                }).unwrap();
            }
            prop_assert_eq!(&found, &model);
            prop_assert_eq!(state.len(), model.len());
        }
    }
}

#[test]
fn many_keys_split_into_tables_and_stay() {
    let schema = schema(&[(DataType::Int64, true)], &[DataType::Int64]);
    let mut state = state(schema.clone(), None);
    for round in 0..3 {
        for batch in 0..20i64 {
            let values = (batch * 5000..(batch + 1) * 5000).map(|v| (v != 17).then_some(v.wrapping_mul(0x9E37)));
            let new = count(&mut state, 7, &keys(&schema, &[ints(values)]));
            assert_eq!(new.len(), if round == 0 { 5000 } else { 0 });
        }
    }
    assert_eq!(state.len(), 100_000);
    let (mut seen, mut nulls) = (0, 0);
    state
        .scan(7, 8192, |state, keys, slots| -> Result<(), StateError> {
            let counts = state.column(slots, 0)?;
            assert!(counts.as_primitive::<Int64Type>().values().iter().all(|count| *count == 3));
            (seen, nulls) = (seen + slots.len(), nulls + keys[0].null_count());
            Ok(())
        })
        .unwrap();
    assert_eq!((seen, nulls), (100_000, 1));
}

#[test]
fn a_namespace_for_each_key() {
    let schema = schema(&[(DataType::Int64, false)], &[DataType::Int64]);
    let mut state = state(schema.clone(), None);
    let batch = keys(&schema, &[ints([1, 1, 2, 1].map(Some))]);
    let (mut slots, mut new) = (vec![], vec![]);
    state.upsert_each(&[10, 20, 10, 10], &batch, &mut slots, &mut new).unwrap();
    assert_eq!(new, [0, 1, 2]);
    assert_eq!(slots[0], slots[3]);
    assert_ne!(slots[0], slots[1]);
    assert_eq!(state.namespaces().collect::<Vec<_>>(), [10, 20]);
    state.remove(slots[1]);
    assert_eq!(state.namespaces().collect::<Vec<_>>(), [10], "it went with its last row");
}

#[test]
fn a_key_of_another_subtask_is_refused() {
    let schema = schema(&[(DataType::Int64, false)], &[DataType::Int64]);
    let mut state = RowState::new(schema.clone(), KeyGroupRange { first: 0, last: 1 }, MAX, None, 1).unwrap();
    let batch = keys(&schema, &[ints((0..100).map(Some))]);
    let error = state.upsert(0, &batch, &mut vec![], &mut vec![]).unwrap_err();
    assert!(matches!(error, StateError::NotOwned { .. }), "{error}");
}

#[test]
fn global_aggregates_have_the_empty_key() {
    let schema = schema(&[], &[DataType::Int64]);
    let mut state = state(schema.clone(), None);
    let mut batch = KeyBatch::new();
    KeyEncoder::new(&[]).encode(&[], 3, MAX, &mut batch).unwrap();
    assert_eq!(count(&mut state, 0, &batch), [0]);
    assert_eq!(state.len(), 1);
    state
        .scan(0, 10, |_, keys, slots| -> Result<(), StateError> {
            assert!(keys.is_empty() && slots.len() == 1);
            Ok(())
        })
        .unwrap();
}
