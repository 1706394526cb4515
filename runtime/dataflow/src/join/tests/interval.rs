use super::*;
use crate::join::IntervalJoin;
use crate::operator::Operator;
use std::sync::Arc;
use weir_model::ChangeKind;
use weir_model::Watermark;
use weir_model::graph::{Expr, IntervalJoinSpec, StreamSchema};

fn spec(kind: JoinKind, lower_us: i64, upper_us: i64, with_residual: bool) -> IntervalJoinSpec {
    IntervalJoinSpec {
        kind,
        left_keys: vec![0],
        right_keys: vec![1],
        left_time: 1,
        right_time: 0,
        lower_us,
        upper_us,
        residual: with_residual.then(|| Arc::new(LessThan(2, 5)) as Expr),
    }
}

fn driver(spec: &IntervalJoinSpec, time_columns: Vec<usize>) -> Driver<IntervalJoin> {
    let left = stream(&[("k", INT), ("t", TIME), ("v", INT)], false);
    let right = stream(&[("t", TIME), ("k", INT), ("w", INT)], false);
    let left_only = matches!(spec.kind, JoinKind::Semi | JoinKind::Anti);
    let mut output = if left_only { concat(&[&left], false) } else { concat(&[&left, &right], false) };
    output.time_columns = time_columns;
    Driver::new(vec![left, right], output, |inputs, output, state| IntervalJoin::new(spec, inputs, output, state))
}

#[derive(Clone, Debug)]
enum Event {
    Row(usize, Row),
    Watermark(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let key = prop_oneof![1 => Just(None), 6 => (0i64..3).prop_map(Some)];
    let row = (0..2usize, key, 0i64..100, 0i64..3).prop_map(|(input, key, time, v)| {
        let row = if input == 0 { vec![key, Some(time), Some(v)] } else { vec![Some(time), key, Some(v)] };
        Event::Row(input, row)
    });
    prop_oneof![9 => row, 1 => (1i64..15).prop_map(Event::Watermark)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn equals_nested_loops_over_what_was_in_time(
        kind in kinds(),
        with_residual: bool,
        lower in -40i64..40,
        width in 0i64..60,
        of_left: bool,
        events in proptest::collection::vec(event(), 0..80),
        cuts in proptest::collection::vec(proptest::bool::weighted(0.3), 7),
    ) {
        let spec = spec(kind, lower, lower + width, with_residual);
        let time_column = if of_left || matches!(kind, JoinKind::Semi | JoinKind::Anti) { 1 } else { 3 };
        let mut driver = driver(&spec, vec![time_column]);
        let mut tables = [Table::new(), Table::new()];
        let (mut watermark, mut sent_on, mut late) = (i64::MIN, i64::MIN, 0);
        let mut now = 0;
        let mut pending: Vec<(usize, Change)> = vec![];
        for event in events.into_iter().chain([Event::Watermark(1000)]) {
            match event {
                Event::Row(input, row) => {
                    let time = row[if input == 0 { 1 } else { 0 }].unwrap();
                    if time < watermark {
                        late += 1;
                    } else {
                        *tables[input].entry(row.clone()).or_default() += 1;
                    }
                    pending.push((input, (row, ChangeKind::Insert)));
                }
                Event::Watermark(by) => {
                    now += by;
                    for (input, changes) in batches(&std::mem::take(&mut pending), &cuts) {
                        driver.process(input, &changes);
                        let times = driver.last.iter().filter_map(|(row, _)| row[time_column]);
                        prop_assert!(times.min().is_none_or(|time| time >= sent_on));
                    }
                    watermark = now;
                    driver.watermark(watermark);
                    let times = driver.last.iter().filter_map(|(row, _)| row[time_column]);
                    prop_assert!(times.min().is_none_or(|time| time >= sent_on), "behind the watermark that was sent on");
                    sent_on = driver.operator.output_watermark(Watermark(watermark)).0;
                    prop_assert!(sent_on <= watermark);
                }
            }
        }
        let matches = |l: &Row, r: &Row| {
            let (lt, rt) = (l[1].unwrap(), r[0].unwrap());
            let near = rt + lower <= lt && lt <= rt + lower + width;
            equal(l[0], r[1]) && near && (!with_residual || l[2] < r[2])
        };
        prop_assert_eq!(&driver.table, &oracle(kind, [3, 3], &tables[0], &tables[1], matches));
        prop_assert_eq!(driver.metrics.late_records_dropped, late);
        prop_assert_eq!(driver.operator.entries(&mut driver.state), 0, "state is left behind");
    }
}

#[test]
fn rows_leave_the_state_when_no_partner_can_come() {
    let mut driver = driver(&spec(JoinKind::Left, -10, 10, false), vec![1]);
    let left = |time: i64| (vec![Some(1), Some(time), Some(0)], ChangeKind::Insert);
    driver.process(0, &[left(100), left(105)]);
    driver.watermark(110);
    assert_eq!(driver.last, []);
    driver.watermark(112);
    assert_eq!(driver.last, [(vec![Some(1), Some(100), Some(0), None, None, None], ChangeKind::Insert)]);
    assert_eq!(driver.operator.output_watermark(Watermark(112)), Watermark(101));
    driver.watermark(i64::MAX);
    assert_eq!(driver.last.len(), 1);
    assert_eq!(driver.operator.output_watermark(Watermark::MAX), Watermark::MAX);
    assert_eq!(driver.operator.entries(&mut driver.state), 0);
}

#[test]
fn bounds_the_wrong_way_round_are_refused() {
    let left = stream(&[("k", INT), ("t", TIME), ("v", INT)], false);
    let right = stream(&[("t", TIME), ("k", INT), ("w", INT)], false);
    let output: StreamSchema = concat(&[&left, &right], false);
    let mut state = weir_state::KeyedState::new(weir_model::KeyGroupRange { first: 0, last: 0 }, 1);
    let spec = spec(JoinKind::Inner, 1, 0, false);
    let error = IntervalJoin::new(&spec, &[left, right], &output, &mut state).err().unwrap().to_string();
    assert_eq!(error, "no time is between the bounds of the interval join, 1 us and 0 us");
}
