//! Retention against a model, over whatever a job's life may hold: checkpoints of several workers that share objects,
//! aborted ones, pins, workers of older epochs that write late, and coordinators that die at any call to the storage, in
//! the middle of a sweep too.

use super::*;
use crate::folder::worker_object_path;
use crate::history::{Restorable, list_checkpoints};
use crate::manifest::ObjectRef;
use crate::storage::{Call, Fault, FaultPlan, FaultyStorage, MemoryStorage, Storage};
use crate::testing::*;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use weir_model::{AttemptNumber, Fence};

const FOREIGN: &str = "job-1/chk-1/notes.txt";

#[derive(Clone, Debug)]
enum Step {
    /// Each of the workers writes an object; of the last checkpoint's those with a bit set in `carried` are needed on.
    Complete {
        workers: u32,
        carried: u16,
        keep: u32,
    },
    /// Some workers have written theirs by the time that the checkpoint is given up.
    Abort {
        workers: u32,
    },
    Pin {
        nth: usize,
    },
    Unpin {
        nth: usize,
    },
    Sweep {
        everything: bool,
    },
    TakeOver,
    /// A worker of an older epoch, which nobody could tell to end, writes now what it was once asked for.
    WriteLate {
        ahead: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1u32..4, any::<u16>(), 1u32..4)
            .prop_map(|(workers, carried, keep)| Step::Complete { workers, carried, keep }),
        2 => (1u32..4).prop_map(|workers| Step::Abort { workers }),
        1 => (0usize..4).prop_map(|nth| Step::Pin { nth }),
        1 => (0usize..4).prop_map(|nth| Step::Unpin { nth }),
        2 => any::<bool>().prop_map(|everything| Step::Sweep { everything }),
        1 => Just(Step::TakeOver),
        1 => (0u64..9).prop_map(|ahead| Step::WriteLate { ahead }),
    ]
}

/// The storage fails from this call on, if any, until the next coordinator takes over.
fn life() -> impl Strategy<Value = Vec<(Step, Option<u64>)>> {
    let dies_at = prop_oneof![3 => Just(None), 2 => (0u64..12).prop_map(Some)];
    prop::collection::vec((step(), dies_at), 1..40)
}

/// What must still be there, by what a reader of the documentation would expect.
#[derive(Default)]
struct Model {
    retained: BTreeMap<u64, Vec<ObjectRef>>,
    pinned: BTreeMap<u64, Vec<ObjectRef>>,
}

struct World {
    truth: Arc<dyn Storage>,
    faulty: Arc<dyn Storage>,
    calls_left: Arc<AtomicU64>,
    log: CommitLog,
    next: u64,
    model: Model,
}

impl World {
    async fn new() -> Self {
        let truth: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        truth.put(&path(FOREIGN), Bytes::from_static(b"somebody's")).await.unwrap();
        let calls_left = Arc::new(AtomicU64::new(u64::MAX));
        let left = Arc::clone(&calls_left);
        let dies = move |_: &Call| {
            let had = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1)));
            match had {
                // The call that it died at was done, but no answer came.
                Ok(1) => Some(Fault::FailAfter),
                Ok(0) => Some(Fault::FailBefore),
                _ => None,
            }
        };
        let faulty = FaultyStorage::new(Arc::clone(&truth), FaultPlan::Custom(Box::new(dies)));
        let faulty: Arc<dyn Storage> = Arc::new(faulty);
        let log = open_log(&faulty, "first").await.unwrap();
        World { truth, faulty, calls_left, log, next: 1, model: Model::default() }
    }

    async fn go(&mut self, step: &Step, dies_at: Option<u64>) {
        self.calls_left.store(dies_at.unwrap_or(u64::MAX), Ordering::SeqCst);
        let is_alive = match step {
            Step::Complete { workers, carried, keep } => self.complete(*workers, *carried, *keep).await,
            Step::Abort { workers } => {
                self.next += 1;
                self.write(self.next - 1, *workers).await.is_some()
            }
            Step::Pin { nth } => self.pin(*nth).await,
            Step::Unpin { nth } => self.unpin(*nth).await,
            Step::Sweep { everything } => {
                let scope = if *everything { SweepScope::Everything } else { SweepScope::Trimmed };
                self.log.collect_garbage(scope).await.is_ok()
            }
            Step::TakeOver => false,
            Step::WriteLate { ahead } => {
                let epoch = Epoch(self.log.epoch().0 - 1);
                self.write_as(epoch, self.next + ahead, 1).await.is_some()
            }
        };
        self.calls_left.store(u64::MAX, Ordering::SeqCst);
        if !is_alive {
            self.log = open_log(&self.faulty, "another").await.unwrap();
            self.next = self.next.max(self.log.next_checkpoint().0);
        }
    }

    async fn write(&self, checkpoint: u64, workers: u32) -> Option<Vec<ObjectRef>> {
        self.write_as(self.log.epoch(), checkpoint, workers).await
    }

    async fn write_as(&self, epoch: Epoch, checkpoint: u64, workers: u32) -> Option<Vec<ObjectRef>> {
        let fence = Fence { epoch, attempt: AttemptNumber(1) };
        let mut objects = vec![];
        for worker in 0..workers {
            let content = Bytes::from(format!("checkpoint {checkpoint}, worker {worker}"));
            let own = ObjectRef {
                path: worker_object_path(CheckpointId(checkpoint), fence, worker),
                length: content.len() as u64,
                crc32c: crc32c::crc32c(&content),
            };
            self.log.folder().storage().put(&self.log.folder().path(&own.path), content).await.ok()?;
            objects.push(own);
        }
        Some(objects)
    }

    async fn complete(&mut self, workers: u32, carried: u16, keep: u32) -> bool {
        let checkpoint = self.next;
        self.next += 1;
        let last = self.log.history().checkpoints().last().map(|manifest| manifest.objects.clone());
        let is_carried = |index: &usize| carried >> (index % 16) & 1 == 1;
        let mut objects: Vec<_> = last
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(index, _)| is_carried(index))
            .map(|(_, object)| object)
            .collect();
        let Some(own) = self.write(checkpoint, workers).await else { return false };
        objects.extend(own);
        let manifest = CheckpointManifest { objects: objects.clone(), ..manifest(self.log.epoch(), checkpoint, &[]) };
        let is_known = self.log.complete(manifest, &crate::testing::keep(keep), None, 0).await.is_ok();
        // Without an answer the log itself says whether it stands there.
        if is_known || self.stands(checkpoint).await {
            self.model.retained.insert(checkpoint, objects);
            while self.model.retained.len() > keep as usize {
                self.model.retained.pop_first();
            }
        }
        is_known
    }

    async fn stands(&self, checkpoint: u64) -> bool {
        let list = list_checkpoints(&job_folder(Arc::clone(&self.truth))).await.unwrap();
        list.checkpoints.iter().any(|summary| summary.checkpoint.0 == checkpoint)
    }

    async fn pin(&mut self, nth: usize) -> bool {
        let Some((checkpoint, objects)) = self.model.retained.iter().nth(nth) else { return true };
        let (checkpoint, objects) = (*checkpoint, objects.clone());
        let is_known = self.log.pin(CheckpointId(checkpoint)).await.is_ok();
        if is_known {
            self.model.pinned.insert(checkpoint, objects);
        }
        is_known
    }

    async fn unpin(&mut self, nth: usize) -> bool {
        let Some(checkpoint) = self.model.pinned.keys().nth(nth).copied() else { return true };
        // From here on it may be gone, whatever is answered; unless the answer is that it is still needed.
        match self.log.unpin(CheckpointId(checkpoint)).await {
            Err(LogError::Refused(_)) => true,
            answer => {
                self.model.pinned.remove(&checkpoint);
                answer.is_ok()
            }
        }
    }

    /// Nothing is gone that must be there.
    async fn check(&self) -> Result<(), TestCaseError> {
        let list = list_checkpoints(&job_folder(Arc::clone(&self.truth))).await.unwrap();
        prop_assert_eq!(&list.broken, &[]);
        for summary in &list.checkpoints {
            prop_assert!(summary.restorable == Restorable::Yes, "{summary:?}");
        }
        for (checkpoint, objects) in self.model.retained.iter().chain(&self.model.pinned) {
            prop_assert!(
                list.checkpoints.iter().any(|summary| summary.checkpoint.0 == *checkpoint),
                "checkpoint {} is not listed",
                checkpoint
            );
            for object in objects {
                let stored = self.truth.get(&self.log.folder().path(&object.path)).await;
                prop_assert!(stored.is_ok(), "checkpoint {} lacks {}", checkpoint, object.path);
            }
        }
        prop_assert!(self.truth.get(&path(FOREIGN)).await.is_ok());
        Ok(())
    }

    /// After two more checkpoints and a sweep nothing is left that nobody lists.
    async fn check_no_orphans(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..2 {
            prop_assert!(self.complete(2, 0, 1).await);
        }
        prop_assert!(self.log.collect_garbage(SweepScope::Everything).await.is_ok());
        self.check().await?;
        let needed = self.log.history().checkpoints().chain(self.log.pinned());
        let needed: BTreeSet<_> =
            needed.flat_map(|manifest| &manifest.objects).map(|object| object.path.clone()).collect();
        let stored = list_folder(self.log.folder()).await.unwrap();
        let stored: BTreeSet<_> = stored.into_iter().filter(|path| checkpoint_of_object(path).is_some()).collect();
        prop_assert_eq!(stored, needed);
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_is_needed_stays_and_what_is_not_goes(life in life()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for (step, dies_at) in &life {
                world.go(step, *dies_at).await;
                world.check().await?;
            }
            world.check_no_orphans().await
        })?;
    }
}
