use super::*;
use crate::task::ChannelWriter;
use arrow::array::Int64Array;
use weir_dataflow::channels::InputChannels;
use weir_model::{Barrier, CheckpointKind, Watermark};

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
    let gate = Gate::new(InputChannels::new(3));
    let writers: Vec<_> = (0..3).map(|channel| ChannelWriter::local(gate.clone(), channel, Arc::default())).collect();
    for writer in &writers {
        for _ in 0..3 {
            writer.push(StreamElement::Watermark(Watermark(0))).unwrap();
        }
    }
    assert_eq!([0; 3].map(|_| channel_of(gate.next(None, usize::MAX))), [0, 1, 2]);
    gate.block(1);
    assert_eq!([0; 4].map(|_| channel_of(gate.next(None, usize::MAX))), [0, 2, 0, 2]);
    assert!(matches!(gate.next(Some(Instant::now()), usize::MAX), Event::TimedOut));
    gate.unblock_all();
    assert_eq!(channel_of(gate.next(None, usize::MAX)), 1);
}

#[test]
fn a_full_channel_makes_its_writer_wait_and_no_other() {
    let gate = Gate::new(InputChannels::new(2));
    let slow = ChannelWriter::local(gate.clone(), 0, Arc::default());
    let quick = ChannelWriter::local(gate.clone(), 1, Arc::default());
    // Two are just too many.
    let rows = first_room(2) / 8 / 2 + 1;
    slow.push(batch(rows)).unwrap();
    let waiting = std::thread::spawn(move || {
        slow.push(batch(rows)).unwrap();
        slow.push(batch(rows)).is_err()
    });
    quick.push(batch(rows)).unwrap();
    assert_eq!(channel_of(gate.next(None, usize::MAX)), 0);
    assert_eq!(channel_of(gate.next(None, usize::MAX)), 1);
    // The second batch of the slow channel comes through; the third waits until the cancellation.
    assert_eq!(channel_of(gate.next(None, usize::MAX)), 0);
    gate.cancel();
    waiting.join().unwrap();
    assert!(matches!(gate.next(None, usize::MAX), Event::Cancelled));
}

fn barrier(checkpoint: u64) -> Barrier {
    Barrier { checkpoint: CheckpointId(checkpoint), kind: CheckpointKind::Checkpoint }
}

#[test]
fn a_writer_passes_while_something_urgent_waits_for_its_task() {
    let (own, reader) = (Gate::new(InputChannels::new(1)), Gate::new(InputChannels::new(1)));
    let writer = ChannelWriter::local(reader.clone(), 0, own.urgent());
    own.wakes(vec![writer.clone()]);
    let rows = first_room(1) / 8;
    writer.push(batch(rows)).unwrap();
    let waiting = std::thread::spawn(move || writer.push(batch(rows)).is_ok());
    own.send(Mail::Trigger { barrier: barrier(1), is_unaligned: true, hold: false });
    assert!(waiting.join().unwrap());
    assert_eq!([0; 2].map(|_| channel_of(reader.next(None, usize::MAX))), [0, 0]);
}

#[test]
fn a_slow_reader_lets_less_in() {
    let gate = Gate::new(InputChannels::new(1));
    let writer = ChannelWriter::local(gate.clone(), 0, Arc::default());
    gate.limit(1 << 10);
    writer.push(batch(1_000)).unwrap();
    let waiting = std::thread::spawn(move || writer.push(batch(1_000)).is_ok());
    assert_eq!(channel_of(gate.next(None, usize::MAX)), 0);
    assert!(waiting.join().unwrap(), "one that is bigger than the bound goes through an empty channel");
}
