use super::*;
use arrow::array::Int64Array;
use std::sync::Arc;
use weir_model::Watermark;

fn batch(rows: usize) -> StreamElement {
    let column = Arc::new(Int64Array::from(vec![0; rows])) as _;
    StreamElement::Batch(RecordBatch::try_from_iter([("n", column)]).unwrap())
}

fn barrier(checkpoint: u64) -> Barrier {
    Barrier { checkpoint: CheckpointId(checkpoint), kind: CheckpointKind::Checkpoint }
}

/// The channels after these have arrived, in order.
fn channels(count: usize, arrivals: impl IntoIterator<Item = (usize, StreamElement)>) -> InputChannels {
    let mut channels = InputChannels::new(count);
    for (channel, element) in arrivals {
        channels.arrive(channel, element, 1);
    }
    channels
}

/// What is read, up to the end, in words.
fn read(channels: &mut InputChannels) -> String {
    let mut words = vec![];
    loop {
        let urgent = channels.next_urgent();
        let is_urgent = urgent.is_some();
        let Some((channel, element)) =
            urgent.or_else(|| channels.next_waiting(usize::MAX).map(|(channel, element, _)| (channel, element)))
        else {
            break words.join(" ");
        };
        let element = match element {
            StreamElement::Batch(batch) => format!("{} rows", batch.num_rows()),
            StreamElement::Watermark(Watermark(watermark)) => format!("watermark {watermark}"),
            StreamElement::Barrier(barrier) => format!("barrier {}", barrier.checkpoint),
            StreamElement::UnalignedBarrier(barrier) => format!("unaligned {}", barrier.checkpoint),
            StreamElement::CancelBarrier(checkpoint) => format!("cancel {checkpoint}"),
            other => format!("{other:?}"),
        };
        words.push(format!("{channel}:{}{element}", if is_urgent { "!" } else { "" }));
    }
}

fn kept(channels: &mut InputChannels, checkpoint: u64) -> Vec<Vec<usize>> {
    let rows = |element: &InFlightElement| match element {
        InFlightElement::Batch(batch) => batch.num_rows(),
        other => panic!("{other:?} is no batch"),
    };
    let kept = channels.take_in_flight(CheckpointId(checkpoint)).expect("not too much");
    kept.iter().map(|elements| elements.iter().map(rows).collect()).collect()
}

#[test]
fn channels_take_turns_and_a_blocked_one_is_passed_over() {
    let mut three = channels(3, [(0, batch(1)), (0, batch(2)), (1, batch(3)), (1, batch(4)), (2, batch(5))]);
    three.block(1);
    assert_eq!(read(&mut three), "0:1 rows 2:5 rows 0:2 rows");
    assert!(!three.is_readable());
    assert_eq!([0, 1, 2].map(|channel| three.waiting_bytes(channel)), [0, 2, 0]);
    three.unblock_all();
    assert_eq!(read(&mut three), "1:3 rows 1:4 rows");
}

#[test]
fn a_cancellation_comes_first_from_a_blocked_channel_too() {
    let mut two = channels(2, [(0, batch(1)), (1, batch(2)), (1, StreamElement::CancelBarrier(CheckpointId(7)))]);
    two.block(1);
    assert_eq!(read(&mut two), "1:!cancel 7 0:1 rows");
}

#[test]
fn what_an_unaligned_barrier_overtakes_is_kept_and_read_all_the_same() {
    let unaligned = StreamElement::UnalignedBarrier(barrier(4));
    let arrivals = [(0, batch(1)), (0, unaligned), (0, batch(2)), (1, batch(3)), (2, batch(4))];
    let mut three = channels(3, arrivals);
    assert!(matches!(three.next_urgent(), Some((0, StreamElement::UnalignedBarrier(_)))));
    // Channel 2 had delivered in order. The barrier of channel 1 is aligned, and overtakes all the same.
    three.keep_in_flight(CheckpointId(4), &[0, 1]);
    for element in [batch(5), StreamElement::Barrier(barrier(4)), batch(6)] {
        three.arrive(1, element, 1);
    }
    assert_eq!(kept(&mut three, 4), [vec![1], vec![3, 5], vec![]]);
    assert_eq!(read(&mut three), "1:!unaligned 4 0:1 rows 1:3 rows 2:4 rows 0:2 rows 1:5 rows 1:6 rows");
}

#[test]
fn barriers_that_wait_are_turned_but_for_savepoints() {
    let savepoint = Barrier { kind: CheckpointKind::Savepoint, ..barrier(4) };
    let arrivals =
        [(0, batch(1)), (0, StreamElement::Barrier(barrier(3))), (0, StreamElement::Barrier(savepoint)), (0, batch(2))];
    let mut one = channels(1, arrivals);
    one.turn_unaligned(CheckpointId(3));
    one.turn_unaligned(CheckpointId(4));
    assert_eq!(read(&mut one), "0:!unaligned 3 0:1 rows 0:barrier 4 0:2 rows");
}

#[test]
fn what_is_kept_goes_with_its_checkpoint() {
    let mut one = channels(1, [(0, batch(1))]);
    one.keep_in_flight(CheckpointId(4), &[0]);
    one.drop_in_flight(CheckpointId(3));
    one.drop_in_flight(CheckpointId(4));
    assert!(one.take_in_flight(CheckpointId(4)).is_none());
    one.keep_in_flight(CheckpointId(5), &[0]);
    one.arrive(0, batch(2), keeper::IN_FLIGHT_LIMIT_BYTES);
    assert!(one.take_in_flight(CheckpointId(5)).is_none(), "too much");
    assert_eq!(read(&mut one), "0:1 rows 0:2 rows");
}

/// By turns: channel, rows and bytes of what is taken at most so many bytes at a time.
fn taken(channels: &mut InputChannels, at_most_bytes: usize) -> Vec<(usize, usize, usize)> {
    std::iter::from_fn(|| channels.next_waiting(at_most_bytes))
        .map(|(channel, element, bytes)| match element {
            StreamElement::Batch(batch) => (channel, batch.num_rows(), bytes),
            _ => (channel, 0, bytes),
        })
        .collect()
}

#[test]
fn a_large_batch_is_read_in_slices_between_those_of_other_channels() {
    let arrivals = || {
        let mut two = InputChannels::new(2);
        two.arrive(0, batch(100), 1_000);
        two.arrive(0, StreamElement::Barrier(barrier(1)), 0);
        two.arrive(1, batch(10), 100);
        two.arrive(1, batch(10), 100);
        two
    };
    for (at_most_bytes, expected) in [
        (usize::MAX, vec![(0, 100, 1_000), (1, 10, 100), (0, 0, 0), (1, 10, 100)]),
        (700, vec![(0, 100, 1_000), (1, 10, 100), (0, 0, 0), (1, 10, 100)]),
        (400, vec![(0, 40, 400), (1, 10, 100), (0, 60, 600), (1, 10, 100), (0, 0, 0)]),
        (333, vec![(0, 33, 330), (1, 10, 100), (0, 33, 330), (1, 10, 100), (0, 34, 340), (0, 0, 0)]),
    ] {
        assert_eq!(taken(&mut arrivals(), at_most_bytes), expected, "{at_most_bytes}");
    }
    let single_rows = taken(&mut arrivals(), 1);
    assert_eq!(single_rows.iter().filter(|(_, rows, _)| *rows == 1).count(), 120, "not less than a row");
    assert_eq!(single_rows.iter().map(|(_, _, bytes)| bytes).sum::<usize>(), 1_200);
}

#[test]
fn the_rest_of_a_slice_is_in_flight() {
    let mut one = InputChannels::new(1);
    one.arrive(0, batch(100), 1_000);
    assert!(matches!(one.next_waiting(300), Some((0, StreamElement::Batch(_), 300))));
    assert_eq!(one.waiting_bytes(0), 700);
    one.arrive(0, StreamElement::UnalignedBarrier(barrier(4)), 0);
    one.keep_in_flight(CheckpointId(4), &[0]);
    assert_eq!(kept(&mut one, 4), [vec![70]]);
}

#[test]
fn small_batches_of_a_channel_are_taken_together_up_to_what_is_no_batch() {
    let unaligned = StreamElement::UnalignedBarrier(barrier(1));
    let arrivals = [(0, batch(1)), (0, batch(2)), (0, batch(3)), (0, unaligned), (0, batch(4))];
    let mut one = channels(1, arrivals);
    let rows = |taken: Option<(RecordBatch, usize)>| taken.map(|(batch, bytes)| (batch.num_rows(), bytes));
    assert_eq!(rows(one.next_batch_of(0, 0)), None);
    assert_eq!(rows(one.next_batch_of(0, 1)), Some((1, 1)));
    one.block(0);
    assert_eq!(rows(one.next_batch_of(0, 1)), None);
    one.unblock_all();
    assert_eq!([0; 3].map(|_| rows(one.next_batch_of(0, 9))), [Some((2, 1)), Some((3, 1)), None]);
    assert_eq!(one.waiting_bytes(0), 2, "the barrier and what is behind it");
    assert_eq!(read(&mut one), "0:!unaligned 1 0:4 rows");
}

#[test]
fn in_order_no_barrier_overtakes_and_whether_it_would_is_known() {
    let unaligned = |checkpoint| StreamElement::UnalignedBarrier(barrier(checkpoint));
    let mut two = InputChannels::new(2).in_order();
    assert!(!two.arrive(0, batch(1), 1), "rows are not urgent");
    assert!(!two.arrive(0, unaligned(4), 0), "nor is such a barrier");
    two.arrive(0, batch(2), 1);
    two.arrive(1, StreamElement::Barrier(barrier(4)), 0);
    assert!(two.is_turned(CheckpointId(4)) && !two.is_turned(CheckpointId(5)));
    two.arrive(1, StreamElement::CancelBarrier(CheckpointId(3)), 0);
    assert_eq!(read(&mut two), "1:!cancel 3 0:1 rows 1:barrier 4 0:barrier 4 0:2 rows");
    two.arrive(0, batch(1), 1);
    two.arrive(0, StreamElement::Barrier(barrier(5)), 0);
    two.turn_unaligned(CheckpointId(5));
    assert!(two.is_turned(CheckpointId(5)) && !two.has_urgent());
    assert_eq!(read(&mut two), "0:1 rows 0:barrier 5");
}
