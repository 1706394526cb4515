//! The storage of the simulated job: it takes its time, fails, loses answers, and writes late.
//!
//! A call is drawn up when it is made: when it takes effect, when its answer comes, and what that says. The effect
//! is the world's, not the caller's: it comes although the caller was killed meanwhile.

use crate::world::Pid;
use async_trait::async_trait;
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use weir_snapshot::storage::{ObjectInfo, Operation, PutOutcome, Upload};
use weir_snapshot::{ObjectPath, Storage, StorageError, StorageErrorKind};

/// How the storage behaves for now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StorageFaults {
    /// Of a call: it fails, and nothing was done.
    pub(crate) fail_before: f64,
    /// It is done, and the answer says that it failed.
    pub(crate) lose_response: f64,
    /// The answer says that it failed, and it is done later.
    pub(crate) late: f64,
    /// It takes a hundred times as long.
    pub(crate) slow: f64,
}

/// A way to the storage, of one process.
#[derive(Clone)]
pub(crate) struct SimStorage {
    pub(crate) process: Pid,
    is_instant: bool,
    shared: Arc<Mutex<Shared>>,
}

pub(crate) struct Shared {
    objects: BTreeMap<ObjectPath, Bytes>,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    /// Drawn up, and not yet in the world's queue.
    due: Vec<(u64, Due)>,
    /// Effects that the checkers are to look at.
    effects: Vec<Effect>,
    random: ChaCha8Rng,
    pub(crate) faults: StorageFaults,
    pub(crate) faults_injected: u64,
    /// Planted: creates whether or not there is something.
    pub(crate) overwrites: bool,
}

/// What is to happen with a call, in so many microseconds from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Effect { call: u64, respond: bool },
    Response { call: u64 },
}

/// What a call has changed.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Created { process: Pid, path: ObjectPath, content: Bytes },
    Deleted { process: Pid, path: ObjectPath },
}

struct Call {
    process: Pid,
    request: Request,
    answer: Option<Result<Answer, StorageError>>,
    /// Says that it failed, whatever happened.
    fails: bool,
    is_answered: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
enum Request {
    Put(ObjectPath, Bytes),
    PutIfAbsent(ObjectPath, Bytes),
    Get(ObjectPath),
    GetRange(ObjectPath, u64, u64),
    Head(ObjectPath),
    List(ObjectPath, Option<ObjectPath>, usize),
    Delete(ObjectPath),
    Pause,
}

#[derive(Debug)]
enum Answer {
    Done,
    Outcome(PutOutcome),
    Content(Bytes),
    Length(u64),
    Listed(Vec<ObjectInfo>),
}

impl SimStorage {
    pub(crate) fn new(seed: u64) -> Self {
        let shared = Shared {
            objects: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            due: vec![],
            effects: vec![],
            random: ChaCha8Rng::seed_from_u64(seed ^ 0x5707_a6e5),
            faults: StorageFaults::default(),
            faults_injected: 0,
            overwrites: false,
        };
        SimStorage { process: Pid(0), is_instant: false, shared: Arc::new(Mutex::new(shared)) }
    }

    pub(crate) fn of(&self, process: Pid) -> Self {
        SimStorage { process, ..self.clone() }
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, in virtual time.
    pub(crate) async fn pause(&self, ms: u64) {
        let call = {
            let mut shared = self.shared();
            let call = shared.enter(self.process, Request::Pause, false);
            shared.due.push((ms * 1000, Due::Effect { call, respond: true }));
            call
        };
        Response { shared: Arc::clone(&self.shared), call }.await.ok();
    }

    /// The same objects, for the checkers: every call is answered at once, and nothing is noted.
    pub(crate) fn instant(&self) -> Self {
        SimStorage { is_instant: true, ..self.clone() }
    }

    async fn call(&self, request: Request) -> Result<Answer, StorageError> {
        if self.is_instant {
            let mut shared = self.shared();
            let answer = shared.carry_out(self.process, request);
            shared.effects.clear();
            return answer;
        }
        let call = self.shared().draw_up(self.process, request);
        Response { shared: Arc::clone(&self.shared), call }.await
    }
}

impl Shared {
    pub(crate) fn take_due(&mut self) -> Vec<(u64, Due)> {
        std::mem::take(&mut self.due)
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(crate) fn objects(&self) -> &BTreeMap<ObjectPath, Bytes> {
        &self.objects
    }

    /// Lets a call take effect, or answers it.
    pub(crate) fn pass(&mut self, due: Due) {
        match due {
            Due::Effect { call: id, respond } => {
                let Some(mut call) = self.calls.remove(&id) else { return };
                let answer = self.carry_out(call.process, call.request.clone());
                // What its answer says instead has come already, or comes by itself.
                if !call.fails {
                    call.answer = Some(answer);
                }
                self.calls.insert(id, call);
                if respond {
                    self.pass(Due::Response { call: id });
                }
            }
            Due::Response { call: id } => {
                let Some(call) = self.calls.get_mut(&id) else { return };
                if call.fails {
                    call.answer = Some(Err(StorageError::new(
                        call.request.operation(),
                        call.request.object(),
                        StorageErrorKind::Transient,
                        "simulated: no answer came",
                    )));
                }
                call.is_answered = true;
                if let Some(waker) = call.waker.take() {
                    waker.wake();
                }
            }
        }
    }

    fn enter(&mut self, process: Pid, request: Request, fails: bool) -> u64 {
        let id = self.next_call;
        self.next_call += 1;
        let call = Call { process, request, answer: None, fails, is_answered: false, waker: None };
        self.calls.insert(id, call);
        id
    }

    fn draw_up(&mut self, process: Pid, request: Request) -> u64 {
        let faults = self.faults;
        let slow = if self.random.random_bool(faults.slow) { 100 } else { 1 };
        let effect_us = self.random.random_range(200..6_000) * slow;
        let answer_us = self.random.random_range(200..6_000) * slow;
        let mut at: f64 = self.random.random();
        let mut is = |rate: f64| {
            at -= rate;
            at < 0.0
        };
        let writes = matches!(request, Request::Put(..) | Request::PutIfAbsent(..) | Request::Delete(..));
        let (effect_us, answer_us, fails) = if is(faults.fail_before) {
            (None, effect_us + answer_us, true)
        } else if is(faults.lose_response) {
            (Some(effect_us), effect_us + answer_us, true)
        } else if is(faults.late) {
            (writes.then(|| self.random.random_range(10_000..8_000_000)), effect_us, true)
        } else {
            (Some(effect_us), effect_us + answer_us, false)
        };
        self.faults_injected += fails as u64;
        let call = self.enter(process, request, fails);
        if let Some(effect_us) = effect_us {
            self.due.push((effect_us, Due::Effect { call, respond: false }));
        }
        self.due.push((answer_us, Due::Response { call }));
        call
    }

    fn carry_out(&mut self, process: Pid, request: Request) -> Result<Answer, StorageError> {
        let not_found = |request: &Request| StorageError::not_found(request.operation(), request.object());
        match &request {
            Request::Pause => Ok(Answer::Done),
            Request::Put(path, content) => {
                self.create(process, path, content);
                Ok(Answer::Done)
            }
            Request::PutIfAbsent(path, content) => {
                if self.objects.contains_key(path) && !self.overwrites {
                    return Ok(Answer::Outcome(PutOutcome::Exists));
                }
                self.create(process, path, content);
                Ok(Answer::Outcome(PutOutcome::Created))
            }
            Request::Get(path) => {
                self.objects.get(path).cloned().map(Answer::Content).ok_or_else(|| not_found(&request))
            }
            Request::GetRange(path, offset, length) => {
                let object = self.objects.get(path).ok_or_else(|| not_found(&request))?;
                match offset.checked_add(*length) {
                    Some(end) if end <= object.len() as u64 => {
                        Ok(Answer::Content(object.slice(*offset as usize..end as usize)))
                    }
                    _ => Err(StorageError::too_short(path, *offset, *length, object.len() as u64)),
                }
            }
            Request::Head(path) => {
                let length = self.objects.get(path).map(|object| Answer::Length(object.len() as u64));
                length.ok_or_else(|| not_found(&request))
            }
            Request::List(folder, start_after, limit) => {
                let after = start_after.clone().map_or(Bound::Unbounded, Bound::Excluded);
                let inside = self.objects.range((after, Bound::Unbounded)).filter(|(path, _)| path.is_inside(folder));
                let infos = inside.map(|(path, object)| ObjectInfo { path: path.clone(), length: object.len() as u64 });
                Ok(Answer::Listed(infos.take((*limit).max(1)).collect()))
            }
            Request::Delete(path) => {
                if self.objects.remove(path).is_some() {
                    self.effects.push(Effect::Deleted { process, path: path.clone() });
                }
                Ok(Answer::Done)
            }
        }
    }

    fn create(&mut self, process: Pid, path: &ObjectPath, content: &Bytes) {
        self.objects.insert(path.clone(), content.clone());
        self.effects.push(Effect::Created { process, path: path.clone(), content: content.clone() });
    }
}

impl Request {
    fn operation(&self) -> Operation {
        match self {
            Request::Put(..) => Operation::Put,
            Request::PutIfAbsent(..) => Operation::PutIfAbsent,
            Request::Get(_) => Operation::Get,
            Request::GetRange(..) => Operation::GetRange,
            Request::Head(_) => Operation::Head,
            Request::List(..) => Operation::List,
            Request::Delete(_) => Operation::Delete,
            Request::Pause => Operation::Open,
        }
    }

    fn object(&self) -> String {
        match self {
            Request::Put(path, _) | Request::PutIfAbsent(path, _) => format!("sim://{path}"),
            Request::Get(path) | Request::Head(path) | Request::Delete(path) => format!("sim://{path}"),
            Request::GetRange(path, ..) | Request::List(path, ..) => format!("sim://{path}"),
            Request::Pause => String::new(),
        }
    }
}

/// Waits for the answer to a call.
struct Response {
    shared: Arc<Mutex<Shared>>,
    call: u64,
}

impl Future for Response {
    type Output = Result<Answer, StorageError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let call = shared.calls.get_mut(&self.call).expect("a call is kept until its answer is taken");
        if !call.is_answered {
            call.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let answer = call.answer.take().expect("an answered call has an answer");
        // What is done late keeps its entry; its effect is still to come.
        if !call.fails {
            shared.calls.remove(&self.call);
        }
        Poll::Ready(answer)
    }
}

#[async_trait]
impl Storage for SimStorage {
    fn uri(&self) -> &str {
        "sim://"
    }

    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError> {
        self.call(Request::Put(path.clone(), content)).await.map(drop)
    }

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError> {
        match self.call(Request::PutIfAbsent(path.clone(), content)).await? {
            Answer::Outcome(outcome) => Ok(outcome),
            other => unreachable!("a put was answered with {other:?}"),
        }
    }

    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(SimUpload { storage: self.clone(), path: path.clone(), content: vec![] }))
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError> {
        match self.call(Request::Get(path.clone())).await? {
            Answer::Content(content) => Ok(content),
            other => unreachable!("a read was answered with {other:?}"),
        }
    }

    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        match self.call(Request::GetRange(path.clone(), offset, length)).await? {
            Answer::Content(content) => Ok(content),
            other => unreachable!("a read was answered with {other:?}"),
        }
    }

    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError> {
        match self.call(Request::Head(path.clone())).await? {
            Answer::Length(length) => Ok(length),
            other => unreachable!("a head was answered with {other:?}"),
        }
    }

    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError> {
        match self.call(Request::List(folder.clone(), start_after.cloned(), limit)).await? {
            Answer::Listed(listed) => Ok(listed),
            other => unreachable!("a listing was answered with {other:?}"),
        }
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        self.call(Request::Delete(path.clone())).await.map(drop)
    }

    async fn sweep_unfinished(&self, _folder: &ObjectPath, _older_than: Duration) -> Result<u64, StorageError> {
        Ok(0)
    }
}

struct SimUpload {
    storage: SimStorage,
    path: ObjectPath,
    content: Vec<u8>,
}

#[async_trait]
impl Upload for SimUpload {
    async fn write(&mut self, part: Bytes) -> Result<(), StorageError> {
        self.content.extend_from_slice(&part);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), StorageError> {
        self.storage.put(&self.path, self.content.into()).await
    }
}

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStorage")
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Created { process, path, content } => write!(f, "{process} wrote {path} ({} bytes)", content.len()),
            Effect::Deleted { process, path } => write!(f, "{process} deleted {path}"),
        }
    }
}
