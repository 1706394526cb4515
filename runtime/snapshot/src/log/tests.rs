//! One writer, or two of which one is paused: what the log says, and who is told so.

use super::*;
use crate::folder::log_entry_path;
use crate::history::{Restorable, list_checkpoints};
use crate::retention::SweepScope;
use crate::storage::{Fault, FaultPlan, FaultyStorage, MemoryStorage, Operation, ScriptedFault, Storage};
use crate::testing::*;
use bytes::Bytes;
use std::sync::Arc;
use weir_model::CheckpointId;

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new())
}

/// The log in one line per entry.
async fn shown(storage: &Arc<dyn Storage>) -> Vec<String> {
    let history = read_history(&job_folder(storage.clone())).await.unwrap();
    assert_eq!(history.broken, []);
    let show = |entry: &Arc<LogEntry>| {
        let record = match &entry.record {
            LogRecord::Opened(opened) => match &opened.restored_from {
                None => "opened empty".to_owned(),
                Some(RestorePoint::Checkpoint { checkpoint }) => format!("opened from {checkpoint}"),
                Some(RestorePoint::Location { uri }) => format!("opened from {uri}"),
            },
            LogRecord::CheckpointCompleted(manifest) => format!("completed {}", manifest.checkpoint),
            LogRecord::Closed(closed) => format!("closed {:?}", closed.reason),
        };
        format!("{} epoch {} {record}", entry.number, entry.epoch)
    };
    history.entries.iter().map(show).collect()
}

#[tokio::test]
async fn a_new_coordinator_goes_on_where_the_last_one_was() {
    let storage = memory();
    let mut first = open_log(&storage, "a").await.unwrap();
    assert_eq!((first.epoch(), first.next_checkpoint()), (Epoch(1), CheckpointId(1)));
    complete_next(&mut first, &keep(5)).await.unwrap();
    complete_next(&mut first, &keep(5)).await.unwrap();
    assert_eq!(shown(&storage).await[0], "1 epoch 1 opened empty");
    let mut second = open_log(&storage, "b").await.unwrap();
    assert_eq!((second.epoch(), second.next_checkpoint()), (Epoch(2), CheckpointId(3)));
    complete_next(&mut second, &keep(5)).await.unwrap();
    second.close(CloseReason::Finished, "the input has ended", 9).await.unwrap();
    assert_eq!(
        shown(&storage).await,
        [
            "2 epoch 1 completed 1",
            "3 epoch 1 completed 2",
            "4 epoch 2 opened from 2",
            "5 epoch 2 completed 3",
            "6 epoch 2 closed Finished",
        ]
    );
}

#[tokio::test]
async fn a_checkpoint_number_on_storage_is_never_used_again() {
    let storage = memory();
    let log = open_log(&storage, "a").await.unwrap();
    let in_flight = log.folder().path(&path("chk-7/e1-a1-worker-0.data"));
    storage.put(&in_flight, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(open_log(&storage, "b").await.unwrap().next_checkpoint(), CheckpointId(8));
}

#[tokio::test]
async fn who_is_overtaken_is_fenced_and_stays_so() {
    let storage = memory();
    let mut old = open_log(&storage, "old").await.unwrap();
    let mut new = open_log(&storage, "new").await.unwrap();
    for _ in 0..2 {
        let error = complete_next(&mut old, &keep(1)).await.unwrap_err();
        assert!(matches!(error, LogError::Fenced { by: Some(Epoch(2)), .. }), "{error}");
        assert_eq!(error.to_string(), "fenced: entry 2 was written by new at epoch 2");
    }
    complete_next(&mut new, &keep(1)).await.unwrap();
    assert!(old.close(CloseReason::Failed, "", 0).await.is_err());
}

#[tokio::test]
async fn who_asks_learns_that_the_job_has_another_coordinator() {
    let storage = memory();
    let mut old = open_log(&storage, "old").await.unwrap();
    old.verify().await.unwrap();
    complete_next(&mut old, &keep(1)).await.unwrap();
    old.verify().await.unwrap();
    let mut new = open_log(&storage, "new").await.unwrap();
    let error = old.verify().await.unwrap_err();
    assert_eq!(error.to_string(), "fenced: entry 3 was written by new at epoch 2");
    assert!(complete_next(&mut old, &keep(1)).await.is_err(), "it stays so");
    for _ in 0..4 {
        complete_next(&mut new, &keep(1)).await.unwrap();
        new.collect_garbage(SweepScope::Trimmed).await.unwrap();
        new.verify().await.unwrap();
    }
    new.delete_job(0).await.unwrap();
}

#[tokio::test]
async fn an_own_entry_of_unknown_fate_fences_nobody() {
    let inner = memory();
    let mut log = open_log(&faulty(&inner, Operation::PutIfAbsent, 1, Fault::FailAfter), "a").await.unwrap();
    complete(&mut log, manifest(Epoch(1), 1, &[]), &keep(5)).await.unwrap_err();
    log.verify().await.unwrap();
    complete(&mut log, manifest(Epoch(1), 2, &[]), &keep(5)).await.unwrap();
    log.verify().await.unwrap();
}

#[tokio::test]
async fn a_paused_writer_cannot_take_a_number_that_was_trimmed() {
    let storage = memory();
    let mut paused = open_log(&storage, "paused").await.unwrap();
    complete_next(&mut paused, &keep(1)).await.unwrap();
    let mut new = open_log(&storage, "new").await.unwrap();
    for _ in 0..4 {
        complete_next(&mut new, &keep(1)).await.unwrap();
        new.collect_garbage(SweepScope::Trimmed).await.unwrap();
    }
    let before = shown(&storage).await;
    assert_eq!(before, ["6 epoch 2 completed 4", "7 epoch 2 completed 5"]);

    // Its number, 3, is free again; its entry would have claimed checkpoint 2 a second time.
    let error = complete_next(&mut paused, &keep(1)).await.unwrap_err();
    assert_eq!(error.to_string(), "fenced: the log has gone on to entry 7: another coordinator has the job");
    let stray = new.folder().path(&log_entry_path(3));
    storage.get(&stray).await.expect("the put itself succeeded");
    assert_eq!(shown(&storage).await, before, "what it left below the low-water mark counts for nothing");
    new.collect_garbage(SweepScope::Everything).await.unwrap();
    assert!(storage.get(&stray).await.unwrap_err().is_not_found());
}

/// A storage that does this to the nth creation of a log entry.
fn faulty(inner: &Arc<dyn Storage>, operation: Operation, nth: u64, fault: Fault) -> Arc<dyn Storage> {
    let script = ScriptedFault { operation: Some(operation), path_contains: "/log/".into(), nth, fault };
    Arc::new(FaultyStorage::new(inner.clone(), FaultPlan::Scripted(vec![script])))
}

#[tokio::test(start_paused = true)]
async fn a_lost_response_is_not_a_lost_race() {
    let inner = memory();
    let storage = faulty(&inner, Operation::PutIfAbsent, 1, Fault::FailAfter);
    let folder = job_folder(storage.clone());
    let options = LogOptions::default();
    let mut log = CommitLog::open(folder, WriterId::named("a"), options, 0, from_latest).await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    assert_eq!(shown(&inner).await.len(), 3);
}

#[tokio::test]
async fn an_entry_whose_fate_was_unknown_is_part_of_the_log() {
    let inner = memory();
    let mut log = open_log(&faulty(&inner, Operation::PutIfAbsent, 1, Fault::FailAfter), "a").await.unwrap();
    let error = complete(&mut log, manifest(Epoch(1), 1, &[]), &keep(5)).await.unwrap_err();
    assert!(matches!(error, LogError::Unknown(_)), "{error}");
    complete(&mut log, manifest(Epoch(1), 2, &[]), &keep(5)).await.unwrap();
    let expected = ["1 epoch 1 opened empty", "2 epoch 1 completed 1", "3 epoch 1 completed 2"];
    assert_eq!(shown(&inner).await, expected);
    assert_eq!(log.history().checkpoints().count(), 2);
}

#[tokio::test]
async fn an_entry_that_did_not_arrive_leaves_its_number_to_the_next() {
    let inner = memory();
    let mut log = open_log(&faulty(&inner, Operation::PutIfAbsent, 1, Fault::FailBefore), "a").await.unwrap();
    complete(&mut log, manifest(Epoch(1), 1, &[]), &keep(5)).await.unwrap_err();
    complete(&mut log, manifest(Epoch(1), 2, &[]), &keep(5)).await.unwrap();
    assert_eq!(shown(&inner).await, ["1 epoch 1 opened empty", "2 epoch 1 completed 2"]);
}

#[tokio::test]
async fn a_lying_disk_is_found_out() {
    let inner = memory();
    let mut log = open_log(&faulty(&inner, Operation::PutIfAbsent, 1, Fault::Lost), "a").await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    let error = complete_next(&mut log, &keep(5)).await.unwrap_err();
    assert!(matches!(error, LogError::Fenced { .. }), "{error}");
    let error = open_log(&inner, "b").await.unwrap_err();
    let expected = "the commit log is damaged: `memory://job-1/log/00000000000000000002.json`: it is missing";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn every_changed_byte_of_every_entry_is_noticed_and_the_entry_named() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    for number in 1..=3 {
        let entry = log.folder().path(&log_entry_path(number));
        let good = storage.get(&entry).await.unwrap();
        for byte in 0..good.len() {
            for bit in [0, 3, 5] {
                let mut damaged = good.to_vec();
                damaged[byte] ^= 1 << bit;
                storage.put(&entry, damaged.into()).await.unwrap();
                let error = open_log(&storage, "b").await.unwrap_err().to_string();
                assert!(error.contains(entry.as_str()), "byte {byte} of {entry}: {error}");
            }
        }
        storage.put(&entry, good.slice(..good.len() / 2)).await.unwrap();
        assert!(open_log(&storage, "b").await.unwrap_err().to_string().contains(entry.as_str()), "torn");
        storage.put(&entry, good).await.unwrap();
    }
    open_log(&storage, "b").await.unwrap();
}

#[tokio::test]
async fn marks_outlive_the_entries_that_made_them() {
    let storage = memory();
    let marked = |mark: &str| LogOptions { mark: Some(mark.parse().unwrap()), ..no_retries() };
    let open = async |owner: &str, options| {
        CommitLog::open(job_folder(storage.clone()), WriterId::named(owner), options, 0, from_latest).await
    };
    let has = |log: &CommitLog, mark: &str| log.history().has(&mark.parse().unwrap());
    let mut log = open("a", marked("first")).await.unwrap();
    for _ in 0..5 {
        complete_next(&mut log, &keep(1)).await.unwrap();
    }
    assert!(shown(&storage).await.iter().all(|entry| !entry.contains("opened")), "the opening is trimmed");
    let log = open_log(&storage, "b").await.unwrap();
    assert!(has(&log, "first") && !has(&log, "second"));
    for number in 1..=7 {
        open("c", marked(&format!("later-{number}"))).await.unwrap();
    }
    let log = open("c", marked("later-7")).await.unwrap();
    assert!(has(&log, "first") && has(&log, "later-7"), "the last eight are known");
    let mut log = open("c", marked("later-8")).await.unwrap();
    assert!(!has(&log, "first") && has(&log, "later-1"));
    log.close(CloseReason::Deleted, "", 0).await.unwrap();
    assert!(!has(&log, "later-8"), "of data that is gone nothing was started");
    for text in ["", "a b", "a=1", "\u{e4}"] {
        assert!(text.parse::<Mark>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn with_consent_a_broken_entry_is_passed_over() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    storage.put(&log.folder().path(&log_entry_path(3)), Bytes::from_static(b"rubbish")).await.unwrap();
    assert!(matches!(open_log(&storage, "b").await, Err(OpenError::Log(LogError::Broken(_)))));
    let options = LogOptions { allow_broken: true, ..no_retries() };
    let folder = job_folder(storage.clone());
    let log = CommitLog::open(folder, WriterId::named("b"), options, 0, from_latest).await.unwrap();
    let last = log.history().opened().unwrap();
    assert_eq!(last.restored_from, Some(RestorePoint::Checkpoint { checkpoint: CheckpointId(1) }));
    assert!(log.epoch() > Epoch(2), "the unreadable entry may have been an opening at epoch 2");
}

#[tokio::test]
async fn a_manifest_that_could_not_be_restored_is_refused() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    let base = log.history().checkpoint(CheckpointId(1)).unwrap().objects.clone();
    let gone = vec![crate::ObjectRef { path: path("chk-0/e1-a1-worker-0.data"), length: 1, crc32c: 0 }];
    let twice = [base.clone(), base.clone()].concat();
    for (manifest, reason) in [
        (manifest(Epoch(1), 2, &gone), "neither its own nor held by a retained checkpoint"),
        (manifest(Epoch(1), 2, &twice), "stands in it twice"),
        (manifest(Epoch(2), 2, &[]), "belongs to epoch 2, and this log is at 1"),
        (manifest(Epoch(1), 1, &[]), "checkpoint 1 is already complete"),
    ] {
        let error = complete(&mut log, manifest, &keep(5)).await.unwrap_err();
        assert!(matches!(error, LogError::Refused(_)) && error.to_string().contains(reason), "{error}");
    }
    complete(&mut log, manifest(Epoch(1), 2, &base), &keep(5)).await.unwrap();
}

#[tokio::test]
async fn a_job_started_from_an_older_checkpoint_stays_on_that_branch() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    for _ in 0..3 {
        complete_next(&mut log, &keep(3)).await.unwrap();
    }
    let back_to_1 = |_: &JobHistory| {
        let restored_from = Some(RestorePoint::Checkpoint { checkpoint: CheckpointId(1) });
        Ok::<_, std::convert::Infallible>(Opened { restored_from, job_fingerprint: "v1".into() })
    };
    let folder = job_folder(storage.clone());
    CommitLog::open(folder, WriterId::named("b"), no_retries(), 0, back_to_1).await.unwrap();
    // It crashed before a checkpoint: the next one must not jump to checkpoint 3, which the user left behind.
    let mut log = open_log(&storage, "c").await.unwrap();
    let from_1 = Some(RestorePoint::Checkpoint { checkpoint: CheckpointId(1) });
    assert_eq!(log.history().opened().unwrap().restored_from, from_1);
    let base = log.history().checkpoint(CheckpointId(1)).unwrap().objects.clone();
    complete(&mut log, manifest(Epoch(3), 4, &base), &keep(1)).await.unwrap();
    log.collect_garbage(SweepScope::Everything).await.unwrap();
    let listed = list_checkpoints(&job_folder(storage.clone())).await.unwrap();
    assert!(listed.checkpoints.iter().all(|summary| summary.restorable == Restorable::Yes), "{listed:?}");
    assert_eq!(
        open_log(&storage, "d").await.unwrap().history().restore_point().unwrap(),
        RestorePoint::Checkpoint { checkpoint: CheckpointId(4) }
    );
}

#[tokio::test]
async fn going_back_follows_the_history_that_led_to_a_checkpoint() {
    let storage = memory();
    let mut first = open_log(&storage, "a").await.unwrap();
    for _ in 1..=3 {
        complete_next(&mut first, &keep(9)).await.unwrap();
    }
    // Begun anew, empty: what stands before is another history.
    let empty = |_: &JobHistory| {
        Ok::<_, std::convert::Infallible>(Opened { restored_from: None, job_fingerprint: "v1".into() })
    };
    let folder = job_folder(storage.clone());
    let opened = CommitLog::open(folder, WriterId::named("b"), no_retries(), 0, empty).await;
    let mut second = opened.unwrap();
    complete_next(&mut second, &keep(9)).await.unwrap();
    complete_next(&mut second, &keep(9)).await.unwrap();
    let before =
        |log: &CommitLog, id| log.history().checkpoint_before(CheckpointId(id)).map(|found| found.checkpoint.0);
    assert_eq!([3, 2, 1].map(|id| before(&second, id)), [Some(2), Some(1), None]);
    assert_eq!([5, 4].map(|id| before(&second, id)), [Some(4), None]);

    second.fall_back(CheckpointId(4), 0).await.unwrap();
    let at_4 = Some(RestorePoint::Checkpoint { checkpoint: CheckpointId(4) });
    assert_eq!(second.history().restore_point(), at_4);
    assert_eq!(read_history(&job_folder(storage.clone())).await.unwrap().restore_point(), at_4);
    // What was passed over keeps its number, and nothing later is built on it.
    assert_eq!(complete_next(&mut second, &keep(9)).await.unwrap(), CheckpointId(6));
    assert_eq!(before(&second, 6), Some(4));
    assert_eq!(shown(&storage).await[6..], ["8 epoch 2 opened from 4".to_owned(), "9 epoch 2 completed 6".to_owned()]);
    let refused = second.fall_back(CheckpointId(99), 0).await.unwrap_err();
    assert_eq!(refused.to_string(), "refused: going back to checkpoint 99: it is not retained");
    // Another coordinator took over: the one that goes back is fenced as with any entry.
    let _third = open_log(&storage, "c").await.unwrap();
    let fenced = second.fall_back(CheckpointId(4), 0).await.unwrap_err();
    assert!(matches!(fenced, LogError::Fenced { .. }), "{fenced}");
}

#[tokio::test]
async fn what_the_job_went_back_to_is_kept_until_it_has_a_checkpoint_of_its_own() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    for _ in 1..=3 {
        complete_next(&mut log, &keep(3)).await.unwrap();
    }
    log.fall_back(CheckpointId(1), 0).await.unwrap();
    complete_next(&mut log, &keep(1)).await.unwrap();
    assert!(log.history().checkpoint(CheckpointId(1)).is_some(), "the tasks still build on it");
    complete_next(&mut log, &keep(1)).await.unwrap();
    complete_next(&mut log, &keep(1)).await.unwrap();
    assert!(log.history().checkpoint(CheckpointId(1)).is_none(), "nobody needs it any more");
}

/// Entries of other openings, then what the last opening says was left running.
async fn left_running(storage: &Arc<dyn Storage>) -> Option<LeftRunning> {
    open_log(storage, "last").await.unwrap().history().left_running()
}

#[tokio::test]
async fn the_last_attempt_that_began_may_still_run() {
    let storage = memory();
    assert_eq!(left_running(&storage).await, None, "nothing ever ran");

    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    assert_eq!(log.begin_first_attempt().await.unwrap(), 1);
    // Not a checkpoint yet: it is where it began.
    assert_eq!(left_running(&storage).await, Some(LeftRunning { began: Began::Under(1), stands_on: None }));

    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    assert_eq!(log.begin_attempt(7).await.unwrap(), 3);
    complete_next(&mut log, &keep(5)).await.unwrap();
    let stands_on = Some(CheckpointId(2));
    assert_eq!(left_running(&storage).await, Some(LeftRunning { began: Began::Under(3), stands_on }));
    // Whoever that was may have taken it over, and has completed nothing.
    assert_eq!(left_running(&storage).await, Some(LeftRunning { began: Began::Under(5), stands_on }));
}

#[tokio::test]
async fn where_the_opening_is_trimmed_its_checkpoints_tell() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    let mut fence = None;
    for _ in 0..4 {
        complete_next(&mut log, &keep(1)).await.unwrap();
        fence = log.history().checkpoints().next_back().map(|manifest| manifest.fence());
    }
    assert!(log.history().opened().is_none(), "the opening is trimmed");
    let began = Began::As(fence.unwrap());
    assert_eq!(left_running(&storage).await, Some(LeftRunning { began, stands_on: Some(CheckpointId(4)) }));
    // And what it said is still known, to whoever begins another attempt or goes back.
    let mut log = open_log(&storage, "b").await.unwrap();
    for _ in 0..3 {
        complete_next(&mut log, &keep(1)).await.unwrap();
    }
    log.begin_attempt(9).await.unwrap();
    assert_eq!(log.history().restore_point(), Some(RestorePoint::Checkpoint { checkpoint: CheckpointId(7) }));
}

#[tokio::test]
async fn what_has_ended_does_not_run() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    complete_next(&mut log, &keep(5)).await.unwrap();
    log.close(CloseReason::Stopped, "", 9).await.unwrap();
    assert_eq!(left_running(&storage).await, None);
}

#[tokio::test]
async fn who_was_overtaken_begins_no_attempt() {
    let storage = memory();
    let mut old = open_log(&storage, "old").await.unwrap();
    let mut new = open_log(&storage, "new").await.unwrap();
    assert!(matches!(old.begin_first_attempt().await, Err(LogError::Fenced { .. })));
    assert!(matches!(old.begin_attempt(1).await, Err(LogError::Fenced { .. })));
    assert_eq!(new.begin_first_attempt().await.unwrap(), 2);
    assert_eq!(new.begin_attempt(1).await.unwrap(), 3);
}
