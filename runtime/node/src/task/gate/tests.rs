use super::*;
use crate::task::ChannelWriter;
use arrow::array::Int64Array;
use arrow::record_batch::RecordBatch;
use weir_model::Watermark;

fn batch(rows: usize) -> StreamElement {
    let column = Arc::new(Int64Array::from(vec![0; rows])) as _;
    StreamElement::Batch(RecordBatch::try_from_iter([("n", column)]).unwrap())
}

fn channel_of(event: Event) -> usize {
    match event {
        Event::Element(channel, ..) => channel,
        _ => panic!("expected an element"),
    }
}

#[test]
fn channels_take_turns_and_a_blocked_one_is_passed_over() {
    let gate = Gate::new(3);
    let writers: Vec<_> = (0..3).map(|channel| ChannelWriter::local(gate.clone(), channel, Arc::default())).collect();
    for writer in &writers {
        for _ in 0..3 {
            writer.push(StreamElement::Watermark(Watermark(0))).unwrap();
        }
    }
    assert_eq!([0; 3].map(|_| channel_of(gate.next(None))), [0, 1, 2]);
    gate.block(1);
    assert_eq!([0; 4].map(|_| channel_of(gate.next(None))), [0, 2, 0, 2]);
    assert!(matches!(gate.next(Some(Instant::now())), Event::TimedOut));
    gate.unblock_all();
    assert_eq!(channel_of(gate.next(None)), 1);
}

#[test]
fn a_full_channel_makes_its_writer_wait_and_no_other() {
    let gate = Gate::new(2);
    let slow = ChannelWriter::local(gate.clone(), 0, Arc::default());
    let quick = ChannelWriter::local(gate.clone(), 1, Arc::default());
    let rows = CHANNEL_BYTES / 8 / 2;
    slow.push(batch(rows)).unwrap();
    let waiting = std::thread::spawn(move || {
        slow.push(batch(rows)).unwrap();
        slow.push(batch(rows)).is_err()
    });
    quick.push(batch(rows)).unwrap();
    assert_eq!(channel_of(gate.next(None)), 0);
    assert_eq!(channel_of(gate.next(None)), 1);
    // The second batch of the slow channel comes through; the third waits until the cancellation.
    assert_eq!(channel_of(gate.next(None)), 0);
    gate.cancel();
    waiting.join().unwrap();
    assert!(matches!(gate.next(None), Event::Cancelled));
}

fn barrier(checkpoint: u64) -> Barrier {
    Barrier { checkpoint: CheckpointId(checkpoint), kind: CheckpointKind::Checkpoint }
}

fn rows_of(elements: &[InFlightElement]) -> Vec<usize> {
    let rows = elements.iter().map(|element| match element {
        InFlightElement::Batch(batch) => batch.num_rows(),
        other => panic!("{other:?} is no batch"),
    });
    rows.collect()
}

#[test]
fn what_an_unaligned_barrier_overtakes_is_kept_and_read_all_the_same() {
    let gate = Gate::new(3);
    let writers: Vec<_> = (0..3).map(|channel| ChannelWriter::local(gate.clone(), channel, Arc::default())).collect();
    writers[0].push(batch(1)).unwrap();
    writers[0].push(StreamElement::UnalignedBarrier(barrier(4))).unwrap();
    writers[0].push(batch(2)).unwrap();
    writers[1].push(batch(3)).unwrap();
    writers[2].push(batch(4)).unwrap();
    let first = gate.next(None);
    assert!(matches!(first, Event::Element(0, StreamElement::UnalignedBarrier(_), 0)));
    // Channel 2 had delivered in order. The barrier of channel 1 is aligned, and overtakes all the same.
    gate.keep_in_flight(CheckpointId(4), &[0, 1]);
    writers[1].push(batch(5)).unwrap();
    writers[1].push(StreamElement::Barrier(barrier(4))).unwrap();
    writers[1].push(batch(6)).unwrap();
    assert!(matches!(gate.next(None), Event::Element(1, StreamElement::UnalignedBarrier(_), 0)));
    let kept = gate.take_in_flight(CheckpointId(4)).expect("not too much");
    assert_eq!(kept.iter().map(|elements| rows_of(elements)).collect::<Vec<_>>(), [vec![1], vec![3, 5], vec![]]);
    let mut read: Vec<usize> = vec![];
    while let Event::Element(_, StreamElement::Batch(batch), _) = gate.next(Some(Instant::now())) {
        read.push(batch.num_rows());
    }
    read.sort_unstable();
    assert_eq!(read, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn barriers_that_wait_are_turned() {
    let gate = Gate::new(1);
    let writer = ChannelWriter::local(gate.clone(), 0, Arc::default());
    writer.push(batch(1)).unwrap();
    writer.push(StreamElement::Barrier(barrier(3))).unwrap();
    writer.push(StreamElement::Barrier(Barrier { kind: CheckpointKind::Savepoint, ..barrier(4) })).unwrap();
    gate.send(Mail::TurnUnaligned(CheckpointId(3)));
    assert!(matches!(gate.next(None), Event::Mail(Mail::TurnUnaligned(CheckpointId(3)))));
    assert!(matches!(gate.next(None), Event::Element(0, StreamElement::UnalignedBarrier(_), 0)));
    assert!(matches!(gate.next(None), Event::Element(0, StreamElement::Batch(_), _)));
    assert!(matches!(gate.next(None), Event::Element(0, StreamElement::Barrier(_), 0)), "a savepoint's");
}

#[test]
fn a_writer_passes_while_something_urgent_waits_for_its_task() {
    let (own, reader) = (Gate::new(1), Gate::new(1));
    let writer = ChannelWriter::local(reader.clone(), 0, own.urgent());
    own.wakes(vec![writer.clone()]);
    let rows = CHANNEL_BYTES / 8;
    writer.push(batch(rows)).unwrap();
    let waiting = std::thread::spawn(move || writer.push(batch(rows)).is_ok());
    own.send(Mail::Trigger { barrier: barrier(1), is_unaligned: true, hold: false });
    assert!(waiting.join().unwrap());
    assert_eq!([0; 2].map(|_| channel_of(reader.next(None))), [0, 0]);
}

#[test]
fn a_slow_reader_lets_less_in() {
    let gate = Gate::new(1);
    let writer = ChannelWriter::local(gate.clone(), 0, Arc::default());
    gate.limit(1 << 10);
    writer.push(batch(1_000)).unwrap();
    let waiting = std::thread::spawn(move || writer.push(batch(1_000)).is_ok());
    assert_eq!(channel_of(gate.next(None)), 0);
    assert!(waiting.join().unwrap(), "one that is bigger than the bound goes through an empty channel");
}
