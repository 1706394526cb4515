//! A small job's checkpoints on a storage that fails, tears, loses, flips and forgets to answer, at each of its calls:
//! whatever is restored afterwards is the state of the checkpoint that it claims to be, or there is an error that
//! names an object.

use crate::folder::worker_object_path;
use crate::log::{RestorePoint, read_history};
use crate::manifest::{OperatorManifest, SegmentLocation, SubtaskManifest};
use crate::object::{ObjectReader, ObjectWriter};
use crate::retention::SweepScope;
use crate::storage::{Fault, FaultPlan, FaultyStorage, LocalStorage, MemoryStorage, Storage};
use crate::testing::*;
use crate::{CheckpointManifest, CommitLog, ObjectRef};
use std::sync::Arc;
use weir_model::{CheckpointId, OperatorUid};

const CHECKPOINTS: u64 = 5;
/// Segments of a checkpoint; each is written new by every third.
const SEGMENTS: u64 = 3;

/// What segment `index` holds at this checkpoint: it changes with every third.
fn content(checkpoint: u64, index: u64) -> Vec<u8> {
    let written_at = (1..=checkpoint).rev().find(|at| is_rewritten(*at, index)).unwrap_or(0);
    format!("segment {index} as of checkpoint {written_at}, {}", "x".repeat(index as usize * 7)).into_bytes()
}

fn is_rewritten(checkpoint: u64, index: u64) -> bool {
    checkpoint % SEGMENTS == index
}

/// The job: takes checkpoints, each building on the last that completed, until something fails for good.
async fn run_job(storage: Arc<dyn Storage>) {
    let Ok(mut log) = open_log(&storage, "job").await else { return };
    let mut base: Option<(CheckpointManifest, Vec<SegmentLocation>)> = None;
    for checkpoint in 1..=CHECKPOINTS {
        let Some((manifest, segments)) = snapshot(&log, checkpoint, base.as_ref()).await else { continue };
        if log.complete(manifest.clone(), &keep(1), None, 0).await.is_ok() {
            base = Some((manifest, segments));
        }
        let _ = log.collect_garbage(SweepScope::Trimmed).await;
    }
}

async fn snapshot(
    log: &CommitLog,
    checkpoint: u64,
    base: Option<&(CheckpointManifest, Vec<SegmentLocation>)>,
) -> Option<(CheckpointManifest, Vec<SegmentLocation>)> {
    let mut manifest = manifest(log.epoch(), checkpoint, &[]);
    let object = worker_object_path(CheckpointId(checkpoint), manifest.fence(), 0);
    let (writer, upload) = ObjectWriter::new(log.folder().clone(), object);
    let upload = tokio::spawn(upload.run());
    // What has changed since the base, which may lie several checkpoints back.
    let since = base.map_or(0, |(manifest, _)| manifest.checkpoint.0);
    let old = base.map(|(_, segments)| segments.clone());
    let append = move || {
        let segments = (0..SEGMENTS).map(|index| match &old {
            Some(old) if content(since, index) == content(checkpoint, index) => old[index as usize].clone(),
            _ => writer.append(&content(checkpoint, index)).unwrap(),
        });
        let segments = segments.collect::<Vec<_>>();
        writer.finish().unwrap();
        segments
    };
    let segments = tokio::task::spawn_blocking(append).await.unwrap();
    let own = upload.await.unwrap().ok()?;
    let held = base.map_or(vec![], |(manifest, _)| manifest.objects.clone());
    let is_needed = |object: &ObjectRef| segments.iter().any(|segment| segment.object == object.path);
    manifest.objects = held.into_iter().chain(own).filter(is_needed).collect();
    let keyed = Some(serde_json::to_value(&segments).unwrap());
    let subtasks = vec![SubtaskManifest { keyed, ..Default::default() }];
    let uid = OperatorUid::new("count");
    manifest.operators = vec![OperatorManifest { uid, parallelism: 1, states: vec![], subtasks }];
    Some((manifest, segments))
}

/// Another process starts the job again. `Ok(None)`: it would start empty.
async fn restore(storage: Arc<dyn Storage>) -> Result<Option<u64>, String> {
    let history = read_history(&job_folder(storage.clone())).await.map_err(|error| error.to_string())?;
    if let Some(broken) = history.broken.first() {
        return Err(format!("`{}`: {}", broken.object, broken.reason));
    }
    let Some(RestorePoint::Checkpoint { checkpoint }) = history.restore_point() else { return Ok(None) };
    let manifest = history.checkpoint(checkpoint).ok_or("the restore point isn't in the log")?;
    let segments = manifest.operators[0].subtasks[0].keyed.clone().unwrap();
    let segments: Vec<SegmentLocation> = serde_json::from_value(segments).unwrap();
    let reader = ObjectReader::new(job_folder(storage));
    reader.plan(&segments);
    for (index, segment) in (0..).zip(&segments) {
        let found = reader.read(segment).await.map_err(|error| error.to_string())?;
        assert_eq!(found, content(checkpoint.0, index), "checkpoint {checkpoint} restored wrong");
    }
    Ok(Some(checkpoint.0))
}

fn faults() -> Vec<Fault> {
    let torn = [0, 1, 30].map(|keep_bytes| Fault::Torn { keep_bytes });
    let flips = [0, 11, 33, 150].map(|byte| Fault::Flip { byte });
    [Fault::FailBefore, Fault::FailAfter, Fault::Refuse, Fault::Lost].into_iter().chain(torn).chain(flips).collect()
}

#[tokio::test]
async fn nothing_is_restored_wrong_after_a_fault_at_any_call() {
    for fault in faults() {
        let mut outcomes = vec![];
        for number in 0.. {
            let inner: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
            let faulty = FaultyStorage::new(inner.clone(), FaultPlan::NthCall { number, fault });
            run_job(Arc::new(faulty.clone())).await;
            let outcome = restore(inner.clone()).await;
            if let Err(error) = &outcome {
                assert!(error.contains("memory://job-1/"), "{fault:?} at call {number}: no object named: {error}");
            }
            // A fault that only lost time or an answer leaves a job that starts again.
            if matches!(fault, Fault::FailBefore | Fault::FailAfter | Fault::Refuse) {
                assert!(outcome.is_ok(), "{fault:?} at call {number}: {outcome:?}");
            }
            let is_over = faulty.injected().is_empty();
            outcomes.push(outcome);
            if is_over {
                break;
            }
        }
        assert_eq!(outcomes.last(), Some(&Ok(Some(CHECKPOINTS))), "{fault:?}: without the fault all is well");
        assert!(outcomes.len() > 20, "{fault:?}: the walk went through every call");
    }
}

#[tokio::test]
async fn nothing_is_restored_wrong_by_a_fault_while_restoring() {
    let inner: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    run_job(inner.clone()).await;
    for fault in faults() {
        for number in 0.. {
            let faulty = FaultyStorage::new(inner.clone(), FaultPlan::NthCall { number, fault });
            match restore(Arc::new(faulty.clone())).await {
                Ok(restored) => assert_eq!(restored, Some(CHECKPOINTS), "{fault:?} at call {number}"),
                Err(error) => assert!(error.contains("memory://job-1"), "{fault:?} at call {number}: {error}"),
            }
            if faulty.injected().is_empty() {
                break;
            }
        }
    }
}

/// Every byte of everything that a checkpoint consists of, on a real file system.
#[tokio::test]
async fn every_changed_byte_of_a_checkpoint_is_noticed_and_its_object_named() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(folder.path()).unwrap());
    run_job(storage.clone()).await;
    let history = read_history(&job_folder(storage.clone())).await.unwrap();
    let manifest = history.checkpoints().last().unwrap();
    let objects = manifest.objects.iter().map(|object| object.path.as_str().to_owned());
    let last_entry = format!("log/{:020}.json", history.entries.last().unwrap().number);
    let mut tried = 0;
    for name in objects.chain([last_entry]) {
        let file = folder.path().join(JOB).join(&name);
        let good = std::fs::read(&file).unwrap();
        for byte in 0..good.len() {
            let mut damaged = good.clone();
            damaged[byte] ^= 1 << (byte % 8);
            std::fs::write(&file, damaged).unwrap();
            match restore(storage.clone()).await {
                Err(error) => assert!(error.contains(&name), "byte {byte} of {name}: {error}"),
                // Segments that the newest checkpoint has replaced stay in objects that it needs for others.
                Ok(_) => assert!(!is_read(manifest, &name, byte), "byte {byte} of {name} changed unseen"),
            }
            tried += 1;
        }
        std::fs::write(&file, good).unwrap();
    }
    assert!(tried > 500);
    assert_eq!(restore(storage).await, Ok(Some(CHECKPOINTS)));
}

fn is_read(manifest: &CheckpointManifest, name: &str, byte: usize) -> bool {
    let segments = manifest.operators[0].subtasks[0].keyed.clone().unwrap();
    let segments: Vec<SegmentLocation> = serde_json::from_value(segments).unwrap();
    let is_of_log = name.starts_with("log/");
    let covers = |segment: &SegmentLocation| {
        segment.object.as_str() == name && (segment.offset..segment.offset + segment.length).contains(&(byte as u64))
    };
    is_of_log || segments.iter().any(covers)
}
