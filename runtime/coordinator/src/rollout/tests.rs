//! What a rollout tells, step by step.

use super::*;
use weir_model::Epoch;

const FENCE: Fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
const A: WorkerId = WorkerId(1);
const B: WorkerId = WorkerId(2);

fn two_slots() -> RegisteredWorker {
    RegisteredWorker { slots: 2, ..RegisteredWorker::default() }
}

/// Two workers of two slots each prepare an attempt that needs three.
fn preparing() -> Rollout {
    let mut rollout = Rollout::new(3, 0);
    rollout.begin(FENCE, None, 0);
    assert_eq!(rollout.registered(A, two_slots(), 0), vec![]);
    assert_eq!(rollout.located(FENCE, vec![], 10), vec![]);
    assert!(rollout.waits_for().unwrap().starts_with("2 of 3 slots"));
    let placement = Placement::of(&[(A, 2), (B, 2)], 3, |_, _| 0).unwrap();
    assert_eq!(rollout.registered(B, two_slots(), 20), vec![RolloutStep::Prepare { fence: FENCE, placement }]);
    rollout
}

fn running() -> Rollout {
    let mut rollout = preparing();
    assert_eq!(rollout.prepared(FENCE, B), vec![]);
    assert_eq!(rollout.prepared(FENCE, A), vec![RolloutStep::Settle { fence: FENCE }]);
    assert_eq!(rollout.settled(FENCE), vec![RolloutStep::Start { fence: FENCE, workers: vec![A, B] }]);
    rollout
}

#[test]
fn records_flow_when_all_have_made_their_tasks() {
    let mut rollout = running();
    assert_eq!(rollout.finish(FENCE), vec![RolloutStep::Finish { fence: FENCE, workers: vec![A, B] }]);
    assert_eq!(rollout.stopped(FENCE, A), vec![]);
    assert_eq!(rollout.stopped(FENCE, A), vec![], "said twice");
    assert_eq!(rollout.stopped(FENCE, B), vec![RolloutStep::Ended { fence: FENCE }]);
}

#[test]
fn a_worker_lost_while_it_runs_fails_the_attempt_and_is_not_waited_for() {
    let mut rollout = running();
    let lost = rollout.lost(A, "no heartbeat for 10 s");
    let reason = "worker 1 is lost: no heartbeat for 10 s".to_owned();
    assert_eq!(lost, vec![RolloutStep::Lost { fence: FENCE, reason }]);
    assert_eq!(rollout.stop(FENCE), vec![RolloutStep::Stop { fence: FENCE, workers: vec![B] }]);
    assert_eq!(rollout.stopped(FENCE, B), vec![RolloutStep::Ended { fence: FENCE }]);
}

#[test]
fn a_worker_lost_while_tasks_end_counts_as_ended() {
    let mut rollout = running();
    rollout.stop(FENCE);
    assert_eq!(rollout.stopped(FENCE, B), vec![]);
    assert_eq!(rollout.lost(A, "gone"), vec![RolloutStep::Ended { fence: FENCE }]);
}

#[test]
fn what_cannot_be_made_stops_the_others() {
    let mut rollout = preparing();
    rollout.prepared(FENCE, A);
    let steps = rollout.not_prepared(FENCE, "state does not fit".to_owned(), true);
    assert_eq!(
        steps,
        vec![
            RolloutStep::Stop { fence: FENCE, workers: vec![A, B] },
            RolloutStep::NotDeployed { fence: FENCE, reason: "state does not fit".to_owned(), is_fatal: true }
        ]
    );
    assert_eq!(rollout.prepared(FENCE, B), vec![], "too late");
}

#[test]
fn nothing_is_settled_before_all_have_read_their_state() {
    let mut rollout = preparing();
    assert_eq!(rollout.settled(FENCE), vec![], "nobody asked for it yet");
    assert_eq!(rollout.prepared(FENCE, A), vec![]);
    assert_eq!(rollout.prepared(FENCE, B), vec![RolloutStep::Settle { fence: FENCE }]);
    assert_eq!(rollout.prepared(FENCE, B), vec![], "said twice");
    let steps = rollout.not_settled(FENCE, "its transaction has expired".to_owned(), true);
    let reason = "its transaction has expired".to_owned();
    let stop = RolloutStep::Stop { fence: FENCE, workers: vec![A, B] };
    assert_eq!(steps, vec![stop, RolloutStep::NotDeployed { fence: FENCE, reason, is_fatal: true }]);
}

#[test]
fn a_worker_lost_or_a_stop_while_sinks_are_settled() {
    let mut settling = preparing();
    settling.prepared(FENCE, A);
    settling.prepared(FENCE, B);
    let mut rollout = settling.clone();
    let lost = rollout.lost(A, "gone");
    assert!(
        matches!(&lost[..], [RolloutStep::Stop { workers, .. }, RolloutStep::NotDeployed { .. }] if *workers == [B]),
        "{lost:?}"
    );
    assert_eq!(rollout.settled(FENCE), vec![], "too late");
    let mut rollout = settling;
    assert_eq!(rollout.stop(FENCE), vec![RolloutStep::Stop { fence: FENCE, workers: vec![A, B] }]);
    assert_eq!(rollout.settled(FENCE), vec![], "too late");
    rollout.stopped(FENCE, A);
    assert_eq!(rollout.stopped(FENCE, B), vec![RolloutStep::Ended { fence: FENCE }]);
}

#[test]
fn stopped_before_it_was_placed() {
    let mut rollout = Rollout::new(1, 0);
    rollout.begin(FENCE, None, 0);
    assert_eq!(rollout.stop(FENCE), vec![]);
    assert_eq!(rollout.located(FENCE, vec![], 0), vec![RolloutStep::Ended { fence: FENCE }]);
}

#[test]
fn waits_a_while_for_promised_workers_and_longer_for_slots() {
    let mut rollout = Rollout::new(2, 2);
    rollout.begin(FENCE, None, 0);
    rollout.located(FENCE, vec![], 0);
    assert_eq!(rollout.next_wake_ms(), Some(SLOTS_TIMEOUT_MS));
    assert_eq!(rollout.registered(A, two_slots(), 5), vec![]);
    assert_eq!(rollout.next_wake_ms(), Some(PROMISED_GRACE_MS));
    assert!(matches!(rollout.tick(PROMISED_GRACE_MS)[..], [RolloutStep::Prepare { .. }]));

    // After a failure the job stands still meanwhile.
    let mut rollout = Rollout::new(2, 2);
    let again = Fence { attempt: AttemptNumber(2), ..FENCE };
    rollout.begin(again, None, 0);
    rollout.located(again, vec![], 0);
    assert_eq!(rollout.registered(A, two_slots(), 5), vec![]);
    assert_eq!(rollout.next_wake_ms(), Some(RESTART_GRACE_MS));
    assert!(matches!(rollout.tick(RESTART_GRACE_MS)[..], [RolloutStep::Prepare { .. }]));

    let mut rollout = Rollout::new(2, 0);
    rollout.begin(FENCE, None, 0);
    rollout.located(FENCE, vec![], 0);
    let failed = rollout.tick(SLOTS_TIMEOUT_MS);
    assert!(matches!(&failed[..], [RolloutStep::NotDeployed { is_fatal: false, .. }]), "{failed:?}");
}

#[test]
fn a_worker_that_comes_back_gets_the_state_that_it_has() {
    let objects = |names: &[&str]| -> ObjectBytes { names.iter().map(|name| ((*name).to_owned(), 10)).collect() };
    let mut rollout = Rollout::new(2, 0);
    rollout.begin(FENCE, None, 0);
    rollout.registered(A, RegisteredWorker { slots: 1, held: objects(&["old", "second"]), running: None }, 0);
    rollout.registered(B, RegisteredWorker { slots: 1, held: objects(&["old"]), running: None }, 0);
    rollout.holds(B, "first".to_owned(), 10);
    rollout.retain_held(|object| object != "old");
    let placed = rollout.located(FENCE, vec![objects(&["old", "first"]), objects(&["old", "second"])], 0);
    let [RolloutStep::Prepare { placement, .. }] = &placed[..] else { panic!("{placed:?}") };
    assert_eq!(placement.slots(), [B, A]);
}

const OLD: Fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(4) };
const NEW: Fence = Fence { epoch: Epoch(2), attempt: AttemptNumber(1) };
const OPENING: u64 = 17;
const C: WorkerId = WorkerId(3);

/// A worker that had the number `own` in an attempt over three slots of two workers.
fn returning(own: u32, opening: u64) -> RegisteredWorker {
    let slots = [7, 7, 8].map(WorkerId).to_vec();
    let running = RunningAttempt { fence: OLD, opening, slots, own: WorkerId(own), parallelism: PARALLELISM };
    RegisteredWorker { slots: 2, running: Some(running), ..RegisteredWorker::default() }
}

/// The widest step has one of its own.
const PARALLELISM: u32 = 2;

fn takes_over() -> Rollout {
    let mut rollout = Rollout::new(3, 0);
    rollout.needs(3, PARALLELISM);
    assert_eq!(rollout.begin(NEW, Some(LeftRunning::Under(OPENING)), 0), vec![]);
    rollout
}

fn locate() -> RolloutStep {
    RolloutStep::Locate { fence: NEW }
}

fn dismiss(worker: WorkerId) -> RolloutStep {
    RolloutStep::Dismiss { worker, fence: OLD }
}

#[test]
fn an_attempt_that_is_all_there_is_gone_on_with() {
    let mut rollout = takes_over();
    // In whatever order and under whatever numbers they come back.
    assert_eq!(rollout.registered(A, returning(8, OPENING), 5), vec![]);
    let adopt = RolloutStep::Adopt { fence: NEW, from: OLD, workers: vec![A, B] };
    assert_eq!(rollout.registered(B, returning(7, OPENING), 10), vec![adopt]);
    assert_eq!(rollout.placement().unwrap().slots(), [B, B, A]);
    assert_eq!(rollout.adopted(NEW, B), vec![]);
    assert_eq!(rollout.adopted(OLD, A), vec![], "another attempt");
    assert_eq!(rollout.adopted(NEW, A), vec![RolloutStep::Adopted { fence: NEW, workers: vec![A, B] }]);
    assert_eq!(rollout.stop(NEW), vec![RolloutStep::Stop { fence: NEW, workers: vec![A, B] }]);
}

#[test]
fn one_that_another_may_have_followed_is_not() {
    // Its sinks were settled under an older opening than the last: what they prepared since may be gone.
    let mut rollout = takes_over();
    assert_eq!(rollout.registered(A, returning(8, OPENING - 1), 5), vec![]);
    assert_eq!(rollout.registered(B, returning(7, OPENING - 1), 10), vec![dismiss(A), dismiss(B), locate()]);
}

/// Its coordinator rescaled it; the next one goes by the spec, whose tasks are others.
#[test]
fn one_that_was_rescaled_is_not() {
    let rescaled = |own: u32, slots: &[u32]| {
        let mut returning = returning(own, OPENING);
        let running = returning.running.as_mut().expect("it runs something");
        running.slots = slots.iter().copied().map(WorkerId).collect();
        running.parallelism = PARALLELISM + 1;
        returning
    };
    // To more slots than the spec needs, and to as many: those are of a step that keeps a parallelism of its own.
    for slots in [&[7, 7, 8, 8][..], &[7, 7, 8]] {
        let mut rollout = takes_over();
        assert_eq!(rollout.registered(A, rescaled(8, slots), 5), vec![]);
        let steps = rollout.registered(B, rescaled(7, slots), 10);
        assert_eq!(steps, vec![dismiss(A), dismiss(B), locate()], "{slots:?}");
    }
}

#[test]
fn parts_that_disagree_are_not_one_attempt() {
    let mut rollout = takes_over();
    let mut other = returning(8, OPENING);
    other.running.as_mut().expect("it runs").parallelism = PARALLELISM + 1;
    assert_eq!(rollout.registered(A, other, 5), vec![]);
    assert_eq!(rollout.registered(B, returning(7, OPENING), 10), vec![], "its other part may yet come");
}

#[test]
fn where_the_opening_is_trimmed_the_fence_of_its_checkpoints_tells() {
    for (left_running, is_it) in [(OLD, true), (Fence { attempt: AttemptNumber(5), ..OLD }, false)] {
        let mut rollout = Rollout::new(3, 0);
        rollout.needs(3, PARALLELISM);
        rollout.begin(NEW, Some(LeftRunning::As(left_running)), 0);
        rollout.registered(A, returning(8, OPENING), 5);
        let steps = rollout.registered(B, returning(7, OPENING), 10);
        assert_eq!(matches!(&steps[..], [RolloutStep::Adopt { .. }]), is_it, "{steps:?}");
    }
}

#[test]
fn a_part_that_does_not_come_back_is_waited_for_a_while() {
    let mut rollout = takes_over();
    rollout.registered(A, returning(8, OPENING), 5);
    assert_eq!(rollout.next_wake_ms(), Some(10_000));
    assert_eq!(rollout.tick(9_999), vec![]);
    assert_eq!(rollout.tick(10_000), vec![dismiss(A), locate()]);

    // Shorter where a new worker could take its place.
    let mut rollout = takes_over();
    rollout.registered(A, returning(8, OPENING), 5);
    assert_eq!(rollout.registered(C, two_slots(), 10), vec![]);
    assert_eq!(rollout.next_wake_ms(), Some(3_000));
    let adopt = RolloutStep::Adopt { fence: NEW, from: OLD, workers: vec![A, B] };
    assert_eq!(rollout.registered(B, returning(7, OPENING), 20), vec![adopt], "it came in time");

    // Nobody runs anything: not a moment.
    let mut rollout = takes_over();
    assert_eq!(rollout.registered(A, two_slots(), 5), vec![]);
    assert_eq!(rollout.registered(B, two_slots(), 5), vec![locate()]);
}

#[test]
fn a_part_that_is_lost_while_it_is_taken_over_costs_a_restart() {
    let adopting = || {
        let mut rollout = takes_over();
        rollout.registered(A, returning(8, OPENING), 5);
        rollout.registered(B, returning(7, OPENING), 10);
        rollout
    };
    let mut rollout = adopting();
    let lost = rollout.lost(A, "gone");
    assert!(
        matches!(&lost[..], [RolloutStep::Stop { workers, fence: NEW }, RolloutStep::NotDeployed { .. }] if *workers == [B]),
        "{lost:?}"
    );
    let mut rollout = adopting();
    let failed = rollout.not_adopted(NEW, "a task has failed".to_owned());
    assert!(matches!(&failed[..], [RolloutStep::Stop { .. }, RolloutStep::NotDeployed { is_fatal: false, .. }]));
    let mut rollout = adopting();
    assert_eq!(rollout.stop(NEW), vec![RolloutStep::Stop { fence: NEW, workers: vec![A, B] }]);
}

#[test]
fn whoever_comes_with_an_attempt_that_is_over_is_told_to_end_it() {
    let mut rollout = running();
    assert_eq!(rollout.registered(C, returning(7, OPENING), 5), vec![dismiss(C)]);
    let mut rollout = takes_over();
    rollout.registered(A, returning(8, OPENING), 5);
    assert_eq!(rollout.stop(NEW), vec![dismiss(A), RolloutStep::Ended { fence: NEW }]);
}

mod worlds {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever workers come and go: what is gone on with is whole, of the last opening, and of one fence; and
        /// every attempt that somebody brings is either that or told to end.
        #[test]
        fn only_a_whole_attempt_of_the_last_opening_is_gone_on_with(
            steps in prop::collection::vec(
                (0u32..6, 0u32..4, 0u64..2, 1u32..3, 0u64..4_000, prop::bool::weighted(0.2), 0u32..8),
                1..30,
            )
        ) {
            let mut rollout = takes_over();
            let mut now_ms = 0;
            let mut brought = Brought::new();
            for (number, (worker, own, older, attempt, pass_ms, leaves, rescaled)) in steps.into_iter().enumerate() {
                now_ms += pass_ms;
                let steps = rollout.tick(now_ms);
                follow(steps, &rollout, &mut brought)?;
                if leaves && let Some((gone, _)) = brought.pop_first() {
                    let steps = rollout.lost(gone, "gone");
                    follow(steps, &rollout, &mut brought)?;
                }
                let worker = WorkerId(worker + 10 * number as u32);
                let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(attempt) };
                let slots = [1, 2, 3].map(WorkerId).to_vec();
                let parallelism = if rescaled == 0 { PARALLELISM + 1 } else { PARALLELISM };
                let running = RunningAttempt { fence, opening: OPENING - older, slots, own: WorkerId(own), parallelism };
                let running = (own > 0).then_some(running);
                brought.extend(running.clone().map(|running| (worker, running)));
                let registered = RegisteredWorker { slots: 1, running, ..RegisteredWorker::default() };
                let steps = rollout.registered(worker, registered, now_ms);
                follow(steps, &rollout, &mut brought)?;
            }
        }
    }

    /// What workers run of which nobody has decided yet.
    type Brought = BTreeMap<WorkerId, RunningAttempt>;

    fn follow(steps: Vec<RolloutStep>, rollout: &Rollout, brought: &mut Brought) -> Result<(), TestCaseError> {
        for step in steps {
            match step {
                RolloutStep::Adopt { fence, from, workers } => {
                    prop_assert_eq!(fence, NEW);
                    let parts: Vec<_> = workers.iter().map(|worker| &brought[worker]).collect();
                    prop_assert!(parts.iter().all(|part| part.opening == OPENING && part.fence == from));
                    prop_assert!(parts.iter().all(|part| part.parallelism == PARALLELISM));
                    let owns: BTreeSet<_> = parts.iter().map(|part| part.own).collect();
                    prop_assert_eq!(owns, [1, 2, 3].map(WorkerId).into());
                    let placed = rollout.placement().expect("it is placed");
                    for (slot, own) in placed.slots().iter().zip([1, 2, 3]) {
                        prop_assert_eq!(brought[slot].own, WorkerId(own));
                    }
                    workers.iter().for_each(|worker| drop(brought.remove(worker)));
                }
                RolloutStep::Dismiss { worker, fence } => {
                    prop_assert_eq!(brought.remove(&worker).map(|running| running.fence), Some(fence));
                }
                RolloutStep::Locate { .. } => prop_assert!(brought.is_empty(), "{:?} was forgotten", brought),
                _ => {}
            }
        }
        Ok(())
    }
}
