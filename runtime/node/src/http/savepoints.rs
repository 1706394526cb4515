//! Savepoints that were asked for: each under the id that its caller chose, so that asking again asks for the same.

use super::Shared;
use super::problem::{Answer, Failure};
use crate::control::Request;
use crate::job::Job;
use crate::savepoint::target_named;
use crate::storage_thread::now_ms;
use std::collections::VecDeque;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use weir_api::SavepointId;
use weir_api::view::{SavepointRequest, SavepointState, SavepointView};
use weir_snapshot::ObjectPath;
use weir_snapshot::savepoint::{SavepointError, read_savepoint_manifest};

/// Savepoints that are remembered; the oldest of those that have ended are forgotten.
const REMEMBERED: usize = 64;
/// As many as the coordinator lets wait.
const IN_PROGRESS: usize = 16;
/// For reading how large a new savepoint is.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Savepoints {
    records: Mutex<VecDeque<Record>>,
    changed: watch::Sender<()>,
}

struct Record {
    view: SavepointView,
    /// Somebody who asked has seen how it ended.
    is_heard_of: bool,
}

/// A savepoint that is complete, with what its manifest says, if it could be read.
struct Standing {
    address: String,
    found: Option<Found>,
}

#[derive(Clone, Copy)]
struct Found {
    checkpoint: u64,
    bytes: u64,
}

impl Default for Savepoints {
    fn default() -> Self {
        Savepoints { records: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Savepoints {
    /// The latest first.
    pub(super) fn all(&self) -> Vec<SavepointView> {
        self.lock().iter().rev().map(|record| record.view.clone()).collect()
    }

    /// Waits at most so long for its end. None: there is no such savepoint.
    pub(super) async fn ended(&self, id: &SavepointId, at_most: Duration) -> Option<SavepointView> {
        let mut changed = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + at_most;
        loop {
            let view = self.look(id)?;
            let is_late = tokio::time::Instant::now() >= deadline;
            if view.state != SavepointState::InProgress || is_late {
                return Some(view);
            }
            // The sender lives as long as this; a timeout is seen above.
            tokio::time::timeout_at(deadline, changed.changed()).await.ok();
        }
    }

    /// Until nobody is left who asked and hasn't heard.
    pub(super) async fn all_heard_of(&self) {
        let mut changed = self.changed.subscribe();
        while !self.lock().iter().all(|record| record.is_heard_of) {
            changed.changed().await.ok();
        }
    }

    fn look(&self, id: &SavepointId) -> Option<SavepointView> {
        let mut records = self.lock();
        let record = records.iter_mut().find(|record| record.view.id == *id)?;
        if record.view.state != SavepointState::InProgress && !record.is_heard_of {
            record.is_heard_of = true;
            self.changed.send_replace(());
        }
        Some(record.view.clone())
    }

    /// Ok(None): it is new, and in progress from here on.
    fn begin(&self, request: &SavepointRequest, stop: bool) -> Answer<Option<SavepointView>> {
        let mut records = self.lock();
        if let Some(known) = records.iter().find(|record| record.view.id == request.id) {
            let view = &known.view;
            if view.folder == request.folder && view.stop == stop {
                return Ok(Some(view.clone()));
            }
            return Err(Failure::conflict(format!(
                "the id `{}` is that of another savepoint, with another folder, or of a stop; choose another one",
                request.id
            )));
        }
        let in_progress = records.iter().filter(|record| record.view.state == SavepointState::InProgress).count();
        if in_progress >= IN_PROGRESS {
            return Err(Failure::too_many(format!("{in_progress} savepoints are in progress; wait for one of them")));
        }
        if records.len() >= REMEMBERED
            && let Some(oldest) = records.iter().position(|record| record.view.state != SavepointState::InProgress)
        {
            records.remove(oldest);
        }
        let view = SavepointView {
            id: request.id.clone(),
            state: SavepointState::InProgress,
            stop,
            folder: request.folder.clone(),
            requested_at_ms: now_ms(),
            ended_at_ms: None,
            address: None,
            checkpoint: None,
            bytes: None,
            failure: None,
        };
        records.push_back(Record { view, is_heard_of: false });
        Ok(None)
    }

    fn end(&self, id: &SavepointId, result: Result<Standing, String>) {
        if let Some(record) = self.lock().iter_mut().find(|record| record.view.id == *id) {
            let view = &mut record.view;
            view.ended_at_ms = Some(now_ms());
            match result {
                Ok(Standing { address, found }) => {
                    view.state = SavepointState::Completed;
                    view.address = Some(address);
                    view.checkpoint = found.as_ref().map(|found| found.checkpoint);
                    view.bytes = found.map(|found| found.bytes);
                }
                Err(reason) => {
                    view.state = SavepointState::Failed;
                    view.failure = Some(reason);
                }
            }
        }
        self.changed.send_replace(());
    }

    /// As if nobody had asked.
    fn forget(&self, id: &SavepointId) {
        self.lock().retain(|record| record.view.id != *id);
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the job write one, unless it has been asked for this one before. Returns how it stands.
pub(super) async fn trigger(shared: &Arc<Shared>, request: SavepointRequest, stop: bool) -> Answer<SavepointView> {
    let SavepointRequest { id, folder } = &request;
    if let Some(known) = shared.savepoints.begin(&request, stop)? {
        return Ok(known);
    }
    // A folder of another name may hold a savepoint that was asked for under another id: nothing is overwritten there.
    let is_named_after_id = |folder: &&String| folder.trim_end_matches('/').rsplit('/').next() == Some(id.as_str());
    let target = match folder {
        Some(folder) if !is_named_after_id(&folder) => folder.clone(),
        _ => {
            let target = folder.clone().unwrap_or_else(|| target_named(&shared.job, id.as_str()));
            match stands(&shared.job, &target).await {
                Ok(None) => {}
                Ok(Some(_)) if stop => {
                    shared.savepoints.forget(id);
                    return Err(Failure::conflict(format!(
                        "the savepoint `{id}` stands in {target}, but the job did not stop with it and has gone on; \
                         choose another id"
                    )));
                }
                // Asked for under an earlier coordinator, which came to its end before it could say so.
                Ok(found) => {
                    shared.savepoints.end(id, Ok(Standing { address: target, found }));
                    return shared.savepoints.look(id).ok_or_else(Failure::ended);
                }
                Err(reason) => {
                    shared.savepoints.forget(id);
                    return Err(Failure::unavailable(reason));
                }
            }
            target
        }
    };
    let (answer, answered) = channel();
    if !shared.requests.send(Request::Savepoint { folder: Some(target), stop, answer }) {
        shared.savepoints.forget(id);
        return Err(Failure::ended());
    }
    let (waiting, own) = (Arc::clone(shared), id.clone());
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::Builder::new().name("savepoint answer".to_owned()).spawn(move || {
        let ended = || Err("the job ended before the savepoint was taken".to_owned());
        let result = answered.recv().unwrap_or_else(|_| ended());
        let standing = result.map(|address| {
            // It stands all the same if its size cannot be told. Within the runtime: this thread has no clock of its own.
            let found = runtime.block_on(async {
                tokio::time::timeout(MANIFEST_TIMEOUT, stands(&waiting.job, &address)).await.ok()?.ok()?
            });
            Standing { address, found }
        });
        waiting.savepoints.end(&own, standing);
    });
    if let Err(error) = thread {
        shared.savepoints.end(id, Err(format!("its end cannot be waited for: {error}")));
    }
    shared.savepoints.look(id).ok_or_else(Failure::ended)
}

/// The whole savepoint of this job that stands there, if one does.
async fn stands(job: &Job, target: &str) -> Result<Option<Found>, String> {
    if target.strip_prefix("file://").is_some_and(|path| !std::path::Path::new(path).is_dir()) {
        return Ok(None);
    }
    let storage = job.open_storage(target).await.map_err(|error| error.to_string())?;
    match read_savepoint_manifest(&*storage, &ObjectPath::root()).await {
        Ok(manifest) if manifest.job_uid == job.uid => {
            let files = manifest.operators.iter().flat_map(|operator| &operator.states).flat_map(|state| &state.files);
            Ok(Some(Found { checkpoint: manifest.checkpoint.0, bytes: files.map(|file| file.length).sum() }))
        }
        Ok(manifest) => Err(format!("`{target}` holds a savepoint of another job, `{}`", manifest.job_uid)),
        Err(SavepointError::NotASavepoint { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, folder: Option<&str>) -> SavepointRequest {
        SavepointRequest { id: SavepointId::try_from(id.to_owned()).unwrap(), folder: folder.map(str::to_owned) }
    }

    #[test]
    fn the_same_id_is_the_same_savepoint() {
        let all = Savepoints::default();
        assert!(matches!(all.begin(&request("a", None), false), Ok(None)));
        assert!(matches!(all.begin(&request("a", None), false), Ok(Some(_))));
        assert!(all.begin(&request("a", None), true).is_err(), "a stop is another request");
        assert!(all.begin(&request("a", Some("there")), false).is_err(), "another folder is another request");
        all.end(&request("a", None).id, Ok(Standing { address: "file:///a".to_owned(), found: None }));
        let Ok(Some(again)) = all.begin(&request("a", None), false) else { panic!("it is known") };
        assert_eq!((again.state, again.address.as_deref()), (SavepointState::Completed, Some("file:///a")));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_in_progress_stays() {
        let all = Savepoints::default();
        assert!(matches!(all.begin(&request("first", None), false), Ok(None)));
        for number in 0..3 * REMEMBERED {
            let request = request(&format!("n{number}"), None);
            assert!(matches!(all.begin(&request, false), Ok(None)));
            all.end(&request.id, Err("no".to_owned()));
        }
        assert_eq!(all.all().len(), REMEMBERED);
        assert!(all.look(&request("first", None).id).is_some());
        for number in 1..IN_PROGRESS {
            assert!(matches!(all.begin(&request(&format!("p{number}"), None), false), Ok(None)));
        }
        assert!(all.begin(&request("one-more", None), false).is_err());
    }
}
