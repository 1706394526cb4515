use super::*;
use crate::history::{Restorable, list_checkpoints};
use crate::log::{LogOptions, Opened, WriterId, read_history};
use crate::manifest::ObjectRef;
use crate::storage::{Fault, FaultPlan, FaultyStorage, MemoryStorage, Storage};
use crate::testing::*;
use bytes::Bytes;
use std::sync::Arc;
use weir_model::Epoch;

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new())
}

async fn stored(storage: &Arc<dyn Storage>) -> Vec<String> {
    let all = list_all(&**storage, &ObjectPath::root()).await.unwrap();
    all.iter().map(|info| info.path.as_str().trim_start_matches("job-1/").to_owned()).collect()
}

/// The retained checkpoints; all must be restorable.
async fn retained(storage: &Arc<dyn Storage>) -> Vec<u64> {
    let list = list_checkpoints(&job_folder(storage.clone())).await.unwrap();
    assert_eq!(list.broken, []);
    assert!(list.checkpoints.iter().all(|summary| summary.restorable == Restorable::Yes), "{list:?}");
    list.checkpoints.iter().map(|summary| summary.checkpoint.0).collect()
}

fn objects(log: &CommitLog, checkpoint: u64) -> Vec<ObjectRef> {
    log.history().checkpoint(CheckpointId(checkpoint)).unwrap().objects.clone()
}

#[tokio::test]
async fn count_and_age() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    for _ in 0..5 {
        complete_next(&mut log, &keep(3)).await.unwrap();
    }
    assert_eq!(retained(&storage).await, [3, 4, 5]);
    // Checkpoint n completes at second n: at 6, what completed before 4.5 is too old, the one before stays as the base.
    let aged = Retention { count: 3, max_age_ms: Some(1_500) };
    complete_next(&mut log, &aged).await.unwrap();
    assert_eq!(retained(&storage).await, [5, 6]);
    complete_next(&mut log, &keep(1)).await.unwrap();
    assert_eq!(retained(&storage).await, [6, 7], "the one before the last: tasks may not know of the last yet");
}

#[tokio::test]
async fn what_a_task_may_build_on_stays() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    for checkpoint in 1..=5 {
        let next = manifest(Epoch(1), checkpoint, &[]);
        storage
            .put(&log.folder().path(&next.objects[0].path), Bytes::from_static(b"state of checkpoint 1"))
            .await
            .unwrap();
        log.complete(next, &keep(1), Some(CheckpointId(2)), 0).await.unwrap();
    }
    assert_eq!(retained(&storage).await, [2, 3, 4, 5]);
}

#[tokio::test]
async fn shared_objects_live_as_long_as_one_needs_them() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    complete(&mut log, manifest(Epoch(1), 1, &[]), &keep(1)).await.unwrap();
    let first = objects(&log, 1);
    complete(&mut log, manifest(Epoch(1), 2, &first), &keep(1)).await.unwrap();
    complete(&mut log, manifest(Epoch(1), 3, &first), &keep(1)).await.unwrap();
    log.collect_garbage(SweepScope::Trimmed).await.unwrap();
    assert_eq!(retained(&storage).await, [2, 3]);
    complete(&mut log, manifest(Epoch(1), 4, &[]), &keep(1)).await.unwrap();
    complete(&mut log, manifest(Epoch(1), 5, &[]), &keep(1)).await.unwrap();
    let swept = log.collect_garbage(SweepScope::Trimmed).await.unwrap();
    assert_eq!(swept, Swept { log_entries: 2, objects: 3 });
    let expected = [
        "chk-4/e1-a1-worker-0.data",
        "chk-5/e1-a1-worker-0.data",
        "log/00000000000000000005.json",
        "log/00000000000000000006.json",
    ];
    assert_eq!(stored(&storage).await, expected);
}

#[tokio::test]
async fn a_sweep_takes_what_aborted_attempts_left_and_nothing_else() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    let put = async |name: &str| {
        storage.put(&path(&format!("job-1/{name}")), Bytes::from_static(b"x")).await.unwrap();
    };
    let foreign = ["chk-1/notes.txt", "readme.md", "log/0.json"];
    let in_the_making = "chk-9/e1-a1-worker-0.data";
    for name in foreign.into_iter().chain(["chk-1/e1-a0-worker-0.data", "chk-2/e1-a1-worker-3.data", in_the_making]) {
        put(name).await;
    }
    storage.put(&path("another-job/chk-1/e1-a1-worker-0.data"), Bytes::from_static(b"x")).await.unwrap();
    complete(&mut log, manifest(Epoch(1), 3, &[]), &keep(1)).await.unwrap();
    assert_eq!(log.collect_garbage(SweepScope::Everything).await.unwrap(), Swept { log_entries: 0, objects: 2 });
    let left = stored(&storage).await;
    for name in foreign.into_iter().chain([in_the_making, "another-job/chk-1/e1-a1-worker-0.data"]) {
        assert!(left.iter().any(|path| path == name), "{name} is gone");
    }
}

#[tokio::test]
async fn what_a_superseded_epoch_writes_late_goes_whatever_its_number() {
    let storage = memory();
    let mut first = open_log(&storage, "a").await.unwrap();
    complete(&mut first, manifest(Epoch(1), 1, &[]), &keep(1)).await.unwrap();
    let carried = objects(&first, 1);
    let mut second = open_log(&storage, "b").await.unwrap();
    let [late, in_the_making] = ["chk-9/e1-a3-worker-0.data", "chk-9/e2-a1-worker-0.data"];
    for name in [late, in_the_making] {
        storage.put(&path(&format!("job-1/{name}")), Bytes::from_static(b"x")).await.unwrap();
    }
    complete(&mut second, manifest(Epoch(2), 2, &carried), &keep(1)).await.unwrap();
    // Who was taken over knows nothing of the second's, and touches it no more than before.
    assert_eq!(first.collect_garbage(SweepScope::Everything).await.unwrap().objects, 0);
    assert_eq!(second.collect_garbage(SweepScope::Everything).await.unwrap().objects, 1);
    let left = stored(&storage).await;
    assert!(!left.iter().any(|path| path == late) && left.iter().any(|path| path == in_the_making), "{left:?}");
    assert_eq!(retained(&storage).await, [1, 2]);
}

#[tokio::test]
async fn of_a_log_that_cannot_all_be_read_no_older_epochs_object_goes() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    for _ in 0..2 {
        complete_next(&mut log, &keep(2)).await.unwrap();
    }
    storage.put(&path("job-1/log/00000000000000000003.json"), Bytes::from_static(b"broken")).await.unwrap();
    let options = LogOptions { allow_broken: true, backoff_ms: 0, ..LogOptions::default() };
    let choose = |history: &JobHistory| {
        Ok::<_, String>(Opened { restored_from: history.restore_point(), job_fingerprint: String::new() })
    };
    let opened = CommitLog::open(job_folder(storage.clone()), WriterId::named("b"), options, 0, choose).await;
    opened.unwrap().collect_garbage(SweepScope::Everything).await.unwrap();
    let left = stored(&storage).await;
    assert!(left.iter().any(|path| path == "chk-2/e1-a1-worker-0.data"), "{left:?}");
}

#[tokio::test]
async fn a_pinned_checkpoint_stays_until_it_is_unpinned() {
    let storage = memory();
    let mut log = open_log(&storage, "a").await.unwrap();
    complete_next(&mut log, &keep(1)).await.unwrap();
    log.pin(CheckpointId(1)).await.unwrap();
    assert!(log.pin(CheckpointId(77)).await.is_err());
    for _ in 0..3 {
        complete_next(&mut log, &keep(1)).await.unwrap();
        log.collect_garbage(SweepScope::Trimmed).await.unwrap();
    }
    assert_eq!(retained(&storage).await, [1, 3, 4]);

    // Also after a restart; and what is restored from it may build on it.
    let mut log = open_log(&storage, "b").await.unwrap();
    let base = log.pinned()[0].objects.clone();
    complete(&mut log, manifest(Epoch(2), 5, &base), &keep(1)).await.unwrap();
    complete_next(&mut log, &keep(1)).await.unwrap();
    complete_next(&mut log, &keep(1)).await.unwrap();
    log.collect_garbage(SweepScope::Everything).await.unwrap();
    assert_eq!(retained(&storage).await, [1, 6, 7]);
    log.unpin(CheckpointId(1)).await.unwrap();
    log.collect_garbage(SweepScope::Everything).await.unwrap();
    assert_eq!(retained(&storage).await, [6, 7]);
    assert!(!stored(&storage).await.iter().any(|path| path.starts_with("chk-1/")));
}

#[tokio::test]
async fn a_crash_anywhere_in_a_sweep_hurts_nothing() {
    // The storage fails at its nth call: the sweep stops there. Then another coordinator takes over.
    for number in 0.. {
        let storage = memory();
        let mut log = open_log(&storage, "a").await.unwrap();
        for checkpoint in 1..=4 {
            let base = if checkpoint == 3 { objects(&log, 1) } else { vec![] };
            complete(&mut log, manifest(Epoch(1), checkpoint, &base), &keep(9)).await.unwrap();
        }
        drop(log);
        let faulty = FaultyStorage::new(storage.clone(), FaultPlan::NthCall { number, fault: Fault::FailBefore });
        let faulty: Arc<dyn Storage> = Arc::new(faulty);
        let swept = async {
            let mut log = open_log(&faulty, "b").await.ok()?;
            complete_next(&mut log, &keep(1)).await.ok()?;
            log.collect_garbage(SweepScope::Everything).await.ok()
        };
        let is_done = swept.await.is_some();
        retained(&storage).await;
        let mut log = open_log(&storage, "c").await.unwrap();
        complete_next(&mut log, &keep(1)).await.unwrap();
        complete_next(&mut log, &keep(1)).await.unwrap();
        log.collect_garbage(SweepScope::Everything).await.unwrap();
        let newest = log.history().checkpoints().last().unwrap().checkpoint.0;
        assert_eq!(retained(&storage).await, [newest - 1, newest]);
        assert_eq!(stored(&storage).await.len(), 4, "two checkpoints, an object and an entry each");
        if is_done {
            assert!(number > 15, "the walk went through every call");
            return;
        }
    }
}

#[tokio::test]
async fn a_deleted_job_is_gone_and_one_half_deleted_restores_nothing() {
    for number in 0.. {
        let storage = memory();
        let faulty = FaultyStorage::new(storage.clone(), FaultPlan::None);
        let mut log = open_log(&storage, "a").await.unwrap();
        complete_next(&mut log, &keep(3)).await.unwrap();
        complete_next(&mut log, &keep(3)).await.unwrap();
        log.pin(CheckpointId(1)).await.unwrap();
        drop((log, faulty));

        let faulty = FaultyStorage::new(storage.clone(), FaultPlan::NthCall { number, fault: Fault::FailBefore });
        let faulty: Arc<dyn Storage> = Arc::new(faulty);
        let deleted = async {
            let log = open_log(&faulty, "b").await.ok()?;
            log.delete_job(0).await.ok()
        };
        if deleted.await.is_some() {
            assert_eq!(stored(&storage).await, Vec::<String>::new());
            return;
        }
        let history = read_history(&job_folder(storage.clone())).await.unwrap();
        match history.restore_point() {
            // The deletion had not begun.
            Some(_) => assert_eq!(retained(&storage).await, [1, 2]),
            None => assert_eq!(history.checkpoints().count(), 0, "call {number}"),
        }
        let log = open_log(&storage, "c").await.unwrap();
        log.delete_job(0).await.unwrap();
        assert_eq!(stored(&storage).await, Vec::<String>::new());
    }
}
