use super::*;
use crate::join::WindowJoin;
use std::sync::Arc;
use weir_model::graph::{Expr, WindowColumns, WindowJoinSpec};

fn driver(kind: JoinKind, with_residual: bool, updating: bool) -> Driver<WindowJoin> {
    let left = stream(&[("k", INT), ("v", INT), ("s", TIME), ("e", TIME)], updating);
    let right = stream(&[("s", TIME), ("e", TIME), ("w", INT), ("k", INT)], updating);
    let left_only = matches!(kind, JoinKind::Semi | JoinKind::Anti);
    let output = if left_only { concat(&[&left], false) } else { concat(&[&left, &right], false) };
    let spec = WindowJoinSpec {
        kind,
        left_keys: vec![0],
        right_keys: vec![3],
        left_window: WindowColumns { start: 2, end: 3 },
        right_window: WindowColumns { start: 0, end: 1 },
        residual: with_residual.then(|| Arc::new(LessThan(1, 6)) as Expr),
    };
    Driver::new(vec![left, right], output, |inputs, output, state| WindowJoin::new(&spec, inputs, output, state))
}

#[derive(Clone, Debug)]
enum Event {
    Row(usize, Row, u8, usize),
    Watermark(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let small = || prop_oneof![1 => Just(None), 6 => (0i64..3).prop_map(Some)];
    // Windows of different lengths that end together.
    let window = (0i64..6, 1i64..3).prop_map(|(start, slices)| (Some(start * 10), Some((start + slices) * 10)));
    let row = (0..2usize, small(), small(), window, 0..10u8, any::<usize>());
    let row = row.prop_map(|(input, k, v, (start, end), action, pick)| {
        let row = if input == 0 { vec![k, v, start, end] } else { vec![start, end, v, k] };
        Event::Row(input, row, action, pick)
    });
    prop_oneof![9 => row, 1 => (1i64..20).prop_map(Event::Watermark)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn equals_nested_loops_over_what_was_in_time(
        kind in kinds(),
        with_residual: bool,
        updating: bool,
        events in proptest::collection::vec(event(), 0..80),
        cuts in proptest::collection::vec(proptest::bool::weighted(0.3), 7),
    ) {
        let mut driver = driver(kind, with_residual, updating);
        let mut tables = [Table::new(), Table::new()];
        let (mut watermark, mut late) = (i64::MIN, 0);
        let mut now = 0;
        let mut pending = vec![];
        for event in events.into_iter().chain([Event::Watermark(1000)]) {
            match event {
                Event::Row(input, row, action, pick) => pending.push((input, row, action, pick)),
                Event::Watermark(by) => {
                    now += by;
                    let events = super::regular::history(std::mem::take(&mut pending), updating);
                    for (input, changes) in batches(&events, &cuts) {
                        driver.process(input, &changes);
                        prop_assert!(driver.last.is_empty(), "before the end of the window");
                        let is_late = |row: &Row| row[if input == 0 { 3 } else { 1 }].unwrap() <= watermark;
                        late += changes.iter().filter(|(row, _)| is_late(row)).count() as u64;
                        apply(&mut tables[input], changes.into_iter().filter(|(row, _)| !is_late(row)));
                    }
                    watermark = now;
                    driver.watermark(watermark);
                    let ends = driver.last.iter().flat_map(|(row, _)| row[3].or(row.get(5).copied().flatten()));
                    prop_assert!(ends.max().is_none_or(|end| end <= watermark));
                }
            }
        }
        let matches = |l: &Row, r: &Row| {
            let condition = !with_residual || matches!((l[1], r[2]), (Some(l), Some(r)) if l < r);
            equal(l[0], r[3]) && l[2] == r[0] && l[3] == r[1] && condition
        };
        prop_assert_eq!(&driver.table, &oracle(kind, [4, 4], &tables[0], &tables[1], matches));
        prop_assert_eq!(driver.metrics.late_records_dropped, late);
        prop_assert_eq!(driver.operator.entries(&mut driver.state), 0, "state is left behind");
    }
}
