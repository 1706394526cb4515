use super::*;
use crate::keyed::testing::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn spec(keep: Keep, time: TimeDomain, keys: Vec<usize>) -> DeduplicateSpec {
    DeduplicateSpec { keys, time, keep, state_ttl_ms: None }
}

fn driver(spec: &DeduplicateSpec) -> Driver<Deduplicate> {
    let input = stream(&[("v", TEXT), ("k", INT), ("t", TIME), ("j", TEXT)], false);
    let updating = !(spec.keep == Keep::First && spec.time == TimeDomain::ProcessingTime);
    let output = concat(&[&input], updating);
    Driver::new(vec![input], output, |inputs, output, state| Deduplicate::new(spec, inputs, output, state))
}

fn rows() -> impl Strategy<Value = Vec<(usize, Change)>> {
    let small = || prop_oneof![1 => Just(None), 5 => (0i64..4).prop_map(Some)];
    let row = (small(), small(), 0i64..10, small());
    let row = row.prop_map(|(v, k, t, j)| (0, (vec![v, k, Some(t), j], ChangeKind::Insert)));
    proptest::collection::vec(row, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn equals_a_map_after_every_batch(
        keep in prop_oneof![Just(Keep::First), Just(Keep::Last)],
        event_time: bool,
        keys in prop_oneof![Just(vec![1]), Just(vec![3, 1]), Just(vec![2]), Just(vec![])],
        rows in rows(),
        cuts in proptest::collection::vec(proptest::bool::weighted(0.3), 7),
    ) {
        let time = if event_time { TimeDomain::EventTime { column: 2 } } else { TimeDomain::ProcessingTime };
        let spec = spec(keep, time, keys.clone());
        let mut driver = driver(&spec);
        let mut kept: BTreeMap<Row, Row> = BTreeMap::new();
        for (_, changes) in batches(&rows, &cuts) {
            let touched: std::collections::BTreeSet<Row> =
                changes.iter().map(|(row, _)| keys.iter().map(|key| row[*key]).collect()).collect();
            driver.process(0, &changes);
            for (row, _) in changes {
                let key = keys.iter().map(|key| row[*key]).collect();
                let replaces = match kept.get(&key) {
                    None => true,
                    Some(before) => match (keep, event_time) {
                        (Keep::First, false) => false,
                        (Keep::Last, false) => true,
                        (Keep::First, true) => row[2] < before[2],
                        (Keep::Last, true) => row[2] >= before[2],
                    },
                };
                if replaces {
                    kept.insert(key, row);
                }
            }
            let expected: Table = kept.values().map(|row| (row.clone(), 1)).collect();
            prop_assert_eq!(&driver.table, &expected);
            prop_assert!(driver.last.len() <= 2 * touched.len(), "one change a key and batch");
        }
    }
}

#[test]
fn a_row_without_a_time_is_an_error_that_names_the_column() {
    let mut driver = driver(&spec(Keep::Last, TimeDomain::EventTime { column: 2 }, vec![1]));
    let batch = batch(&driver.inputs[0], &[(vec![Some(1), Some(1), None, None], ChangeKind::Insert)]);
    let mut metrics = Default::default();
    let mut context = OperatorContext { state: &mut driver.state, processing_time_us: 0, metrics: &mut metrics };
    let error = driver.operator.process(0, batch, &mut context, &mut vec![]).unwrap_err().to_string();
    assert_eq!(error, "1 rows to deduplicate have no time: `t` is NULL; filter them out before");
}

#[test]
fn only_the_first_by_arrival_is_append_only() {
    let input = stream(&[("v", TEXT), ("k", INT), ("t", TIME), ("j", TEXT)], false);
    let mut state = KeyedState::new(weir_model::KeyGroupRange { first: 0, last: 0 }, 1);
    let spec = spec(Keep::Last, TimeDomain::ProcessingTime, vec![1]);
    let error = Deduplicate::new(&spec, std::slice::from_ref(&input), &concat(&[&input], false), &mut state);
    assert_eq!(error.err().unwrap().to_string(), "the output of this deduplication must be updating");
}
