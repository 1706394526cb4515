use super::*;
use crate::keyed::testing::*;
use proptest::prelude::*;
use weir_model::graph::SortKey;

fn input(updating: bool) -> StreamSchema {
    stream(&[("p", INT), ("a", INT), ("b", TEXT), ("s", TIME), ("e", TIME)], updating)
}

fn spec(ranks: (u64, u64), emit_rank: bool, order: Vec<SortKey>, windowed: bool) -> TopNSpec {
    TopNSpec {
        partition: if windowed { vec![0, 4] } else { vec![0] },
        order,
        first_rank: ranks.0,
        last_rank: ranks.1,
        emit_rank,
        rank_name: "rank".into(),
        window: windowed.then_some(WindowColumns { start: 3, end: 4 }),
        state_ttl_ms: None,
    }
}

fn driver(spec: &TopNSpec, updating: bool) -> Driver<TopN> {
    let input = input(updating);
    let rank = stream(&[("rank", INT)], false);
    let sides = if spec.emit_rank { vec![&input, &rank] } else { vec![&input] };
    let output = concat(&sides, spec.window.is_none());
    Driver::new(vec![input], output, |inputs, output, state| TopN::new(spec, inputs, output, state))
}

/// Sorts each partition and numbers its rows. `partition` are the columns that name it.
fn oracle(spec: &TopNSpec, partition: &[usize], rows: &Table) -> Table {
    let mut partitions: std::collections::BTreeMap<Row, Vec<Row>> = Default::default();
    for (row, count) in rows {
        let key = partition.iter().map(|column| row[*column]).collect();
        partitions.entry(key).or_default().extend(std::iter::repeat_n(row.clone(), *count as usize));
    }
    let mut result = Table::new();
    for mut rows in partitions.into_values() {
        rows.sort_by(|a, b| {
            let by_key = |key: &SortKey| {
                let (a, b) = (a[key.column], b[key.column]);
                match (a.is_none(), b.is_none()) {
                    (false, false) if key.descending => b.cmp(&a),
                    (false, false) => a.cmp(&b),
                    (a_null, b_null) if key.nulls_first => b_null.cmp(&a_null),
                    (a_null, b_null) => a_null.cmp(&b_null),
                }
            };
            let ordering = spec.order.iter().map(by_key).fold(std::cmp::Ordering::Equal, |all, next| all.then(next));
            ordering.then_with(|| a.cmp(b))
        });
        for (index, mut row) in rows.into_iter().enumerate() {
            let rank = index as u64 + 1;
            if (spec.first_rank..=spec.last_rank).contains(&rank) {
                if spec.emit_rank {
                    row.push(Some(rank as i64));
                }
                *result.entry(row).or_default() += 1;
            }
        }
    }
    result
}

fn order() -> impl Strategy<Value = Vec<SortKey>> {
    let key = |column| {
        any::<(bool, bool)>().prop_map(move |(descending, nulls_first)| SortKey { column, descending, nulls_first })
    };
    prop_oneof![key(1).prop_map(|key| vec![key]), (key(2), key(1)).prop_map(|(a, b)| vec![a, b])]
}

fn ranks() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![Just((1, 1)), Just((1, 3)), Just((2, 4)), Just((3, 3)), Just((1, 1000))]
}

/// A row, and whether it is inserted or which of the rows that are there is taken back.
fn event() -> impl Strategy<Value = (Row, u8, usize)> {
    let small = || prop_oneof![1 => Just(None), 5 => (0i64..4).prop_map(Some)];
    let window = (0i64..6, 1i64..3).prop_map(|(start, slices)| (Some(start * 10), Some((start + slices) * 10)));
    (small(), small(), small(), window, 0..10u8, any::<usize>())
        .prop_map(|(p, a, b, (start, end), action, pick)| (vec![p, a, b, start, end], action, pick))
}

fn history(events: Vec<(Row, u8, usize)>, updating: bool) -> Vec<(usize, Change)> {
    let mut live: Vec<Row> = vec![];
    let change = |(row, action, pick): (Row, u8, usize)| {
        if updating && action < 4 && !live.is_empty() {
            return (0, (live.swap_remove(pick % live.len()), ChangeKind::Delete));
        }
        live.push(row.clone());
        (0, (row, ChangeKind::Insert))
    };
    events.into_iter().map(change).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn equals_a_sort_after_every_batch(
        ranks in ranks(),
        emit_rank: bool,
        updating: bool,
        partitioned: bool,
        order in order(),
        events in proptest::collection::vec(event(), 0..80),
        cuts in proptest::collection::vec(proptest::bool::weighted(0.3), 7),
    ) {
        let mut spec = spec(ranks, emit_rank, order, false);
        spec.partition.truncate(partitioned as usize);
        let mut driver = driver(&spec, updating);
        let mut rows = Table::new();
        for (_, changes) in batches(&history(events, updating), &cuts) {
            let before = driver.table.clone();
            driver.process(0, &changes);
            apply(&mut rows, changes);
            prop_assert_eq!(&driver.table, &oracle(&spec, &spec.partition, &rows));
            // Nothing is taken back that is given again: as many changes as the tables differ by.
            let keys = before.keys().chain(driver.table.keys()).collect::<std::collections::BTreeSet<_>>();
            let count = |table: &Table, row: &Row| table.get(row).copied().unwrap_or(0);
            let difference: i64 = keys.iter().map(|row| (count(&before, row) - count(&driver.table, row)).abs()).sum();
            prop_assert_eq!(driver.last.len() as i64, difference);
        }
        if !updating {
            let partitions = rows.keys().map(|row| row[0]).collect::<std::collections::BTreeSet<_>>().len();
            prop_assert!(driver.operator.entries(&mut driver.state) <= partitions * ranks.1 as usize);
        }
    }

    #[test]
    fn windows_are_ranked_once_at_their_end(
        ranks in ranks(),
        emit_rank: bool,
        updating: bool,
        order in order(),
        rounds in proptest::collection::vec((proptest::collection::vec(event(), 0..30), 1i64..30), 0..4),
        cuts in proptest::collection::vec(proptest::bool::weighted(0.3), 7),
    ) {
        let spec = spec(ranks, emit_rank, order, true);
        let mut driver = driver(&spec, updating);
        let mut rows = Table::new();
        let (mut watermark, mut late) = (0, 0);
        for (events, by) in rounds.into_iter().chain([(vec![], 1000)]) {
            for (_, changes) in batches(&history(events, updating), &cuts) {
                driver.process(0, &changes);
                prop_assert!(driver.last.is_empty(), "before the end of the window");
                let is_late = |row: &Row| row[4].unwrap() <= watermark;
                late += changes.iter().filter(|(row, _)| is_late(row)).count() as u64;
                apply(&mut rows, changes.into_iter().filter(|(row, _)| !is_late(row)));
            }
            watermark += by;
            driver.watermark(watermark);
        }
        prop_assert_eq!(&driver.table, &oracle(&spec, &[0, 3, 4], &rows));
        prop_assert_eq!(driver.metrics.late_records_dropped, late);
        prop_assert_eq!(driver.operator.entries(&mut driver.state), 0, "state is left behind");
    }
}

#[test]
fn the_single_first_row_is_updated() {
    let order = vec![SortKey { column: 1, descending: true, nulls_first: false }];
    let mut driver = driver(&spec((1, 1), false, order, false), false);
    let row = |a: i64| vec![Some(1), Some(a), Some(0), Some(0), Some(0)];
    driver.process(0, &[(row(3), ChangeKind::Insert)]);
    assert_eq!(driver.last, [(row(3), ChangeKind::Insert)]);
    driver.process(0, &[(row(5), ChangeKind::Insert), (row(4), ChangeKind::Insert)]);
    assert_eq!(driver.last, [(row(3), ChangeKind::UpdateBefore), (row(5), ChangeKind::UpdateAfter)]);
    driver.process(0, &[(row(2), ChangeKind::Insert)]);
    assert_eq!(driver.last, []);
}

#[test]
fn what_is_registered_is_what_is_declared() {
    let order = vec![SortKey { column: 1, descending: true, nulls_first: false }];
    let declared = state_schemas(&spec((1, 3), true, order.clone(), true), &[input(false)]).unwrap();
    assert_eq!(declared.iter().map(|schema| schema.name.as_str()).collect::<Vec<_>>(), ["rows", "timers"]);
    assert_eq!(declared[0].semantics, ["count of equal rows by a DESC NULLS LAST, the first 3"]);
    let names: Vec<_> = declared[0].namespace.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["e_4", "s", "sort_key", "a", "b"]);
    let declared = state_schemas(&spec((1, 3), true, order, false), &[input(true)]).unwrap();
    assert_eq!(declared[0].semantics, ["count of equal rows by a DESC NULLS LAST"]);
}
