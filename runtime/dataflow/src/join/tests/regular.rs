use super::*;
use crate::join::{Join, regular};
use std::sync::Arc;
use weir_model::ChangeKind;
use weir_model::graph::{Expr, JoinSpec, StreamSchema};

fn inputs(updating: bool) -> Vec<StreamSchema> {
    let left = stream(&[("k", INT), ("v", INT), ("s", TEXT)], updating);
    let right = stream(&[("w", INT), ("k", INT)], updating);
    vec![left, right]
}

/// Key columns of each side: one, both of the right side's (so that nothing is left beside the key), or none.
const KEYS: [(&[usize], &[usize]); 3] = [(&[0], &[1]), (&[0, 1], &[1, 0]), (&[], &[])];

fn spec(kind: JoinKind, with_residual: bool, keys: usize) -> JoinSpec {
    let residual = with_residual.then(|| Arc::new(LessThan(1, 3)) as Expr);
    let (left_keys, right_keys) = KEYS[keys];
    JoinSpec { kind, left_keys: left_keys.to_vec(), right_keys: right_keys.to_vec(), residual, state_ttl_ms: None }
}

fn driver(kind: JoinKind, with_residual: bool, updating: bool, keys: usize) -> Driver<Join> {
    let inputs = inputs(updating);
    let sides: &[&StreamSchema] =
        if matches!(kind, JoinKind::Semi | JoinKind::Anti) { &[&inputs[0]] } else { &[&inputs[0], &inputs[1]] };
    let output = concat(sides, updating || kind != JoinKind::Inner);
    let spec = spec(kind, with_residual, keys);
    Driver::new(inputs, output, |inputs, output, state| Join::new(&spec, inputs, output, state))
}

fn small() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![1 => Just(None), 6 => (0i64..3).prop_map(Some)]
}

/// Inserts, and deletes of rows that are there (as far as `updating` allows any).
pub(super) fn history(inserts: Vec<(usize, Row, u8, usize)>, updating: bool) -> Vec<(usize, Change)> {
    let mut live: [Vec<Row>; 2] = [vec![], vec![]];
    let mut events = vec![];
    for (input, row, action, pick) in inserts {
        let rows = &mut live[input];
        if updating && action < 4 && !rows.is_empty() {
            let row = rows.swap_remove(pick % rows.len());
            events.push((input, (row, [ChangeKind::Delete, ChangeKind::UpdateBefore][action as usize % 2])));
        } else {
            rows.push(row.clone());
            let kind = if updating && action % 2 == 0 { ChangeKind::UpdateAfter } else { ChangeKind::Insert };
            events.push((input, (row, kind)));
        }
    }
    events
}

fn event() -> impl Strategy<Value = (usize, Row, u8, usize)> {
    (0..2usize, small(), small(), small(), 0..10u8, any::<usize>()).prop_map(|(input, k, v, s, action, pick)| {
        (input, if input == 0 { vec![k, v, s] } else { vec![v, k] }, action, pick)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn equals_nested_loops_after_every_batch(
        kind in kinds(),
        with_residual: bool,
        updating: bool,
        keys in 0..KEYS.len(),
        events in proptest::collection::vec(event(), 0..80),
        cuts in proptest::collection::vec(proptest::bool::weighted(0.3), 7),
    ) {
        let mut driver = driver(kind, with_residual, updating, keys);
        let mut tables = [Table::new(), Table::new()];
        for (input, changes) in batches(&history(events, updating), &cuts) {
            driver.process(input, &changes);
            apply(&mut tables[input], changes);
            let matches = |l: &Row, r: &Row| {
                let mut pairs = KEYS[keys].0.iter().zip(KEYS[keys].1);
                pairs.all(|(a, b)| equal(l[*a], r[*b])) && (!with_residual || matches!((l[1], r[0]), (Some(l), Some(r)) if l < r))
            };
            prop_assert_eq!(&driver.table, &oracle(kind, [3, 2], &tables[0], &tables[1], matches));
        }
    }
}

fn row(values: &[i64]) -> Row {
    values.iter().copied().map(Some).collect()
}

#[test]
fn an_outer_row_is_taken_back_before_its_first_match() {
    let mut driver = driver(JoinKind::Left, false, true, 0);
    let insert = |values: &[i64]| (row(values), ChangeKind::Insert);
    let padded = vec![Some(1), Some(2), Some(3), None, None];
    driver.process(0, &[insert(&[1, 2, 3])]);
    assert_eq!(driver.last, [(padded.clone(), ChangeKind::Insert)]);
    driver.process(1, &[insert(&[7, 1])]);
    let joined = row(&[1, 2, 3, 7, 1]);
    assert_eq!(driver.last, [(padded.clone(), ChangeKind::Delete), (joined.clone(), ChangeKind::Insert)]);
    driver.process(1, &[(row(&[7, 1]), ChangeKind::Delete)]);
    assert_eq!(driver.last, [(joined, ChangeKind::Delete), (padded, ChangeKind::Insert)]);
}

/// One change of a key's row goes through as it came, so that a sink that knows another key sees deletes
/// before inserts.
#[test]
fn output_keeps_the_order_of_the_input() {
    let mut driver = driver(JoinKind::Inner, false, true, 0);
    driver.process(1, &[(row(&[7, 1]), ChangeKind::Insert), (row(&[8, 2]), ChangeKind::Insert)]);
    driver.process(0, &[(row(&[1, 0, 0]), ChangeKind::Insert)]);
    driver.process(0, &[(row(&[1, 0, 0]), ChangeKind::UpdateBefore), (row(&[2, 0, 0]), ChangeKind::UpdateAfter)]);
    let expected = [(row(&[1, 0, 0, 7, 1]), ChangeKind::Delete), (row(&[2, 0, 0, 8, 2]), ChangeKind::Insert)];
    assert_eq!(driver.last, expected);
}

#[test]
fn a_product_comes_in_several_batches() {
    let mut driver = driver(JoinKind::Inner, true, false, 0);
    let insert = |values: Row| (values, ChangeKind::Insert);
    driver.process(1, &(0..200).map(|n| insert(row(&[n, 1]))).collect::<Vec<_>>());
    driver.process(0, &(0..200).map(|n| insert(row(&[1, n, 0]))).collect::<Vec<_>>());
    assert_eq!(driver.last.len(), 200 * 199 / 2);
}

#[test]
fn what_is_registered_is_what_is_declared() {
    for kind in [JoinKind::Inner, JoinKind::Full, JoinKind::Anti] {
        let declared = regular::state_schemas(&spec(kind, true, 0), &inputs(true)).unwrap();
        assert_eq!(declared.iter().map(|schema| schema.name.as_str()).collect::<Vec<_>>(), ["left", "right"]);
        assert_eq!(declared[0].value.len() == 2, kind != JoinKind::Inner);
        assert_eq!(declared[1].value.len() == 2, kind == JoinKind::Full);
    }
}

#[test]
fn keys_of_different_types_are_refused() {
    let mut inputs = inputs(true);
    inputs[1] = stream(&[("w", INT), ("k", TEXT)], true);
    let error = regular::state_schemas(&spec(JoinKind::Inner, false, 0), &inputs).unwrap_err().to_string();
    assert_eq!(error, "the join compares `k` (Int64) with `k` (Utf8): cast one to the type of the other");
}
