use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write;

fn barrier(checkpoint: u64, kind: CheckpointKind) -> Barrier {
    Barrier { checkpoint: CheckpointId(checkpoint), kind }
}

fn checkpoint(id: u64) -> Barrier {
    barrier(id, CheckpointKind::Checkpoint)
}

/// Runs `channel:event` words (`b5` barrier, `u5` unaligned barrier, `s5` savepoint barrier, `c5` cancel, `t5` turned
/// unaligned, `e` end) and prints the actions.
fn run(channels: usize, mode: AlignmentMode, script: &str) -> String {
    let mut aligner = Aligner::new(channels, mode);
    let mut printed = vec![];
    for word in script.split_whitespace() {
        let (channel, event) = word.split_once(':').unwrap();
        let channel = channel.parse().unwrap();
        let id = || event[1..].parse().unwrap();
        let actions = match &event[..1] {
            "b" => aligner.on_barrier(channel, checkpoint(id())),
            "s" => aligner.on_barrier(channel, barrier(id(), CheckpointKind::Savepoint)),
            "u" => aligner.on_unaligned_barrier(channel, checkpoint(id())),
            "t" => aligner.turn_unaligned(CheckpointId(id())),
            "c" => aligner.on_cancel(channel, CheckpointId(id())),
            _ => aligner.on_end(channel),
        };
        printed.extend(actions.into_iter().map(|action| print(&action)));
    }
    printed.join(" ")
}

fn print(action: &Action) -> String {
    let mut text = String::new();
    match action {
        Action::Block(channel) => write!(text, "block:{channel}"),
        Action::UnblockAll => write!(text, "unblock"),
        Action::Snapshot(barrier) => write!(text, "snapshot:{}", barrier.checkpoint),
        Action::SnapshotInFlight { barrier, channels } => {
            write!(text, "cut:{}{channels:?}", barrier.checkpoint).map(|()| text.retain(|letter| letter != ' '))
        }
        Action::InFlightComplete(checkpoint) => write!(text, "whole:{checkpoint}"),
        Action::ForwardCancel { checkpoint, cause: CancelCause::Cancelled } => write!(text, "cancel:{checkpoint}"),
        Action::ForwardCancel { checkpoint, .. } => write!(text, "overtaken:{checkpoint}"),
        Action::AllEnded => write!(text, "ended"),
    }
    .unwrap();
    text
}

use AlignmentMode::{AtLeastOnce, ExactlyOnce};

#[test]
fn exactly_once_blocks_until_all_have_delivered() {
    assert_eq!(run(1, ExactlyOnce, "0:b1 0:b2 0:e"), "snapshot:1 snapshot:2 ended");
    assert_eq!(run(3, ExactlyOnce, "1:b1 0:b1 2:b1 2:b2"), "block:1 block:0 snapshot:1 unblock block:2");
}

#[test]
fn an_ended_channel_counts_as_delivered() {
    assert_eq!(run(2, ExactlyOnce, "0:e 1:b1 1:e"), "snapshot:1 ended");
    assert_eq!(run(2, ExactlyOnce, "0:b1 1:e 1:e 0:e"), "block:0 snapshot:1 unblock ended");
}

#[test]
fn a_higher_barrier_overtakes() {
    assert_eq!(run(2, ExactlyOnce, "0:b1 1:b2 0:b2"), "block:0 overtaken:1 unblock block:1 snapshot:2 unblock");
    assert_eq!(run(2, ExactlyOnce, "0:b2 1:b1 1:b2"), "block:0 overtaken:1 snapshot:2 unblock");
    assert_eq!(run(2, AtLeastOnce, "0:b1 1:b2 0:b2"), "overtaken:1 snapshot:2");
}

#[test]
fn a_cancellation_is_told_once_and_outlives_its_barriers() {
    assert_eq!(
        run(2, ExactlyOnce, "0:b1 1:c1 0:c1 1:b1 0:b2 1:b2"),
        "block:0 cancel:1 unblock block:0 snapshot:2 unblock"
    );
    assert_eq!(run(2, ExactlyOnce, "1:c2 0:b1 1:b1 0:b2 1:b2"), "cancel:2 block:0 snapshot:1 unblock");
    assert_eq!(run(2, ExactlyOnce, "0:b1 1:b1 0:c1"), "block:0 snapshot:1 unblock");
}

#[test]
fn at_least_once_blocks_for_savepoints_alone() {
    assert_eq!(run(2, AtLeastOnce, "0:b1 0:b2 1:b1 1:b2"), "snapshot:1 snapshot:2");
    assert_eq!(run(2, AtLeastOnce, "0:b1 0:s2 1:b1 1:s2"), "block:0 snapshot:1 snapshot:2 unblock");
}

#[test]
fn an_unaligned_barrier_cuts_at_once_and_blocks_nobody() {
    assert_eq!(run(1, ExactlyOnce, "0:u1 0:u2"), "cut:1[0] whole:1 cut:2[0] whole:2");
    assert_eq!(run(3, ExactlyOnce, "1:u1 0:u1 2:u1 2:u2"), "cut:1[0,1,2] whole:1 cut:2[0,1,2]");
    assert_eq!(run(3, ExactlyOnce, "1:e 0:u1 2:e"), "cut:1[0,2] whole:1");
    assert_eq!(run(2, ExactlyOnce, "0:u1 0:u1 1:e 0:e"), "cut:1[0,1] whole:1 ended");
}

#[test]
fn what_came_in_order_is_not_in_flight() {
    assert_eq!(run(3, ExactlyOnce, "1:b1 0:t1 0:u1 2:u1"), "block:1 cut:1[0,2] unblock whole:1");
    assert_eq!(run(3, ExactlyOnce, "1:b1 2:u1 0:b1"), "block:1 cut:1[0,2] unblock whole:1");
    assert_eq!(run(2, ExactlyOnce, "0:t1 0:b1 1:t1 1:t1 1:u1"), "block:0 cut:1[1] unblock whole:1");
    assert_eq!(run(2, ExactlyOnce, "0:b1 1:b1 0:t1"), "block:0 snapshot:1 unblock");
}

#[test]
fn savepoints_never_turn() {
    assert_eq!(run(2, ExactlyOnce, "0:s1 0:t1 1:s1"), "block:0 snapshot:1 unblock");
}

#[test]
fn an_unaligned_checkpoint_gives_up_what_it_overtakes() {
    assert_eq!(run(2, ExactlyOnce, "0:b1 0:u2 1:b1 1:u2"), "block:0 overtaken:1 cut:2[0,1] unblock whole:2");
    assert_eq!(run(2, ExactlyOnce, "0:u1 1:u2 0:u2"), "cut:1[0,1] overtaken:1 cut:2[0,1] whole:2");
    assert_eq!(run(2, ExactlyOnce, "0:u1 1:c1 1:u1 1:u2 0:u2"), "cut:1[0,1] cancel:1 cut:2[0,1] whole:2");
    assert_eq!(run(2, ExactlyOnce, "1:c1 0:u1 1:u1"), "cancel:1");
    assert_eq!(run(2, ExactlyOnce, "0:u1 0:s2 1:s2"), "cut:1[0,1] block:0 overtaken:1 snapshot:2 unblock");
}

#[test]
fn says_who_is_awaited() {
    let mut aligner = Aligner::new(3, ExactlyOnce);
    assert_eq!((aligner.pending(), aligner.awaited().count()), (None, 0));
    aligner.on_barrier(1, checkpoint(4));
    assert_eq!(aligner.pending(), Some(CheckpointId(4)));
    assert_eq!(aligner.awaited().collect::<Vec<_>>(), [0, 2]);
    aligner.on_end(0);
    assert_eq!(aligner.awaited().collect::<Vec<_>>(), [2]);
    assert!(aligner.is_blocked(1) && aligner.is_ended(0));
}

#[test]
#[should_panic(expected = "channel 0 was read while blocked")]
fn reading_a_blocked_channel_is_a_broken_driver() {
    run(2, ExactlyOnce, "0:b1 0:b2");
}

#[test]
fn memory_is_bounded() {
    let mut aligner = Aligner::new(2, AtLeastOnce);
    for id in 1..10_000 {
        aligner.on_barrier(0, checkpoint(id));
        aligner.cancel(CheckpointId(id + 5));
    }
    assert!(aligner.pending.len() <= PENDING_LIMIT && aligner.cancelled.len() <= CANCELLED_LIMIT);
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Row,
    Barrier(u64),
    Cancel(u64),
}

pub(super) const IDS: u64 = 6;

/// What one channel carries before its end: barriers mostly in order, some missing, repeated or out of order.
pub(super) fn channel() -> impl Strategy<Value = Vec<Event>> {
    let ordered = (1..=IDS).map(|id| {
        let rows = || proptest::collection::vec(Just(Event::Row), 0..4);
        let stray = prop_oneof![
            6 => Just(vec![]),
            1 => (1..=IDS).prop_map(|id| vec![Event::Barrier(id)]),
            1 => (1..=IDS).prop_map(|id| vec![Event::Cancel(id)]),
        ];
        let own = proptest::bool::weighted(0.85).prop_map(move |there| there.then_some(Event::Barrier(id)));
        (rows(), own, rows(), stray).prop_map(|(before, own, after, stray)| {
            before.into_iter().chain(own).chain(after).chain(stray).collect::<Vec<_>>()
        })
    });
    let ordered: Vec<_> = ordered.collect();
    (ordered, 0..100usize).prop_map(|(parts, cut)| {
        let mut events: Vec<Event> = parts.into_iter().flatten().collect();
        events.truncate(events.len() * (cut + 20).min(100) / 100);
        events
    })
}

/// Checkpoints that the channel can deliver, each with the rows before it.
pub(super) fn delivered(events: &[Event]) -> BTreeMap<u64, usize> {
    let (mut rows, mut found) = (0, BTreeMap::new());
    for event in events {
        match event {
            Event::Row => rows += 1,
            Event::Barrier(id) if found.last_key_value().is_none_or(|(last, _)| last < id) => {
                found.insert(*id, rows);
            }
            _ => {}
        }
    }
    found
}

pub(super) fn kind(id: u64) -> CheckpointKind {
    if id.is_multiple_of(3) { CheckpointKind::Savepoint } else { CheckpointKind::Checkpoint }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_interleaving_is_exact_decided_once_and_never_stuck(
        channels in proptest::collection::vec(channel(), 1..5),
        exactly_once in any::<bool>(),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 400),
    ) {
        let mode = if exactly_once { ExactlyOnce } else { AtLeastOnce };
        let mut aligner = Aligner::new(channels.len(), mode);
        let plans: Vec<_> = channels.iter().map(|events| delivered(events)).collect();
        let mut read = vec![0; channels.len()];
        let mut rows = vec![0; channels.len()];
        let mut blocked = vec![false; channels.len()];
        let mut outcome: BTreeMap<u64, bool> = BTreeMap::new();
        let (mut snapshotted, mut all_ended) = (0, false);
        for pick in order {
            let open: Vec<_> = (0..channels.len()).filter(|i| read[*i] <= channels[*i].len()).collect();
            if open.is_empty() {
                break;
            }
            let readable: Vec<_> = open.into_iter().filter(|i| !blocked[*i]).collect();
            prop_assert!(!readable.is_empty(), "stuck: every open channel is blocked");
            let channel = *pick.get(&readable);
            let event = channels[channel].get(read[channel]).copied();
            read[channel] += 1;
            let actions = match event {
                Some(Event::Row) => {
                    rows[channel] += 1;
                    continue;
                }
                Some(Event::Barrier(id)) => aligner.on_barrier(channel, barrier(id, kind(id))),
                Some(Event::Cancel(id)) => aligner.on_cancel(channel, CheckpointId(id)),
                None => aligner.on_end(channel),
            };
            for action in actions {
                match action {
                    Action::Block(channel) => blocked[channel] = true,
                    Action::UnblockAll => blocked.fill(false),
                    Action::Snapshot(barrier) => {
                        let id = barrier.checkpoint.0;
                        prop_assert_eq!(barrier.kind, kind(id));
                        prop_assert!(id > snapshotted, "snapshots out of order");
                        snapshotted = id;
                        prop_assert_eq!(outcome.insert(id, true), None);
                        for (index, plan) in plans.iter().enumerate() {
                            match plan.get(&id) {
                                Some(before) if exactly_once || kind(id) == CheckpointKind::Savepoint => {
                                    prop_assert_eq!(rows[index], *before, "checkpoint {} channel {}", id, index)
                                }
                                Some(before) => prop_assert!(rows[index] >= *before),
                                None => prop_assert!(read[index] > channels[index].len(), "not ended"),
                            }
                        }
                    }
                    Action::ForwardCancel { checkpoint, .. } => {
                        prop_assert_eq!(outcome.insert(checkpoint.0, false), None);
                    }
                    Action::SnapshotInFlight { .. } | Action::InFlightComplete(_) => {
                        prop_assert!(false, "no barrier here is unaligned");
                    }
                    Action::AllEnded => all_ended = true,
                }
            }
            for (index, blocked) in blocked.iter().enumerate() {
                prop_assert_eq!(aligner.is_blocked(index), *blocked);
            }
        }
        prop_assert!(all_ended);
        prop_assert_eq!(aligner.pending(), None);
        let cancelled = |id: u64| channels.iter().flatten().any(|event| matches!(event, Event::Cancel(c) if *c == id));
        for id in 1..=IDS {
            let some = plans.iter().any(|plan| plan.contains_key(&id));
            let skipped = plans.iter().any(|plan| !plan.contains_key(&id) && plan.range(id..).next().is_some());
            if some && !cancelled(id) {
                prop_assert_eq!(outcome.get(&id), Some(&!skipped), "checkpoint {}", id);
            }
        }
    }
}
