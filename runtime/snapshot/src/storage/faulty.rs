//! A storage that fails as it is told to: for tests of everything that stands on one.

use super::{ObjectInfo, ObjectPath, Operation, PutOutcome, Storage, StorageError, StorageErrorKind, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A transient error, and nothing was done.
    FailBefore,
    /// Done, and then a transient error: the response was lost.
    FailAfter,
    /// A permanent error, and nothing was done.
    Refuse,
    /// Done after the delay hook lets it.
    Delay,
    /// A write that leaves only the first `keep_bytes` of the object and says `Ok`: a store that isn't atomic and died.
    Torn { keep_bytes: usize },
    /// A write that says `Ok` and leaves nothing: a disk that lies.
    Lost,
    /// A read that gives one flipped bit at this byte (modulo the length), or a write that stores it so.
    Flip { byte: usize },
}

/// One call as the plan sees it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Counted from 0 over all calls of this storage and its clones.
    pub number: u64,
    pub operation: Operation,
    pub path: ObjectPath,
}

/// Probabilities per call, 0 to 1. Reads know only failing, refusing, delaying and flipping.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    pub fail_before: f64,
    pub fail_after: f64,
    pub delay: f64,
    pub torn: f64,
    pub lost: f64,
    pub flip: f64,
}

/// A fault of the `nth` call (from 0) that matches.
#[derive(Clone, Debug)]
pub struct ScriptedFault {
    /// `None`: any operation.
    pub operation: Option<Operation>,
    /// What the path must contain; empty for any.
    pub path_contains: String,
    pub nth: u64,
    pub fault: Fault,
}

/// Which calls fail, and how. Equal plans and equal calls give equal faults.
pub enum FaultPlan {
    None,
    Seeded {
        seed: u64,
        rates: FaultRates,
    },
    Scripted(Vec<ScriptedFault>),
    /// This one call (by number), for walking through every step of a procedure.
    NthCall {
        number: u64,
        fault: Fault,
    },
    Custom(FaultChoice),
}

/// Says what happens to a call; `None`: nothing unusual.
pub type FaultChoice = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

/// Called for `Fault::Delay`; the call goes on when the future is done.
pub type DelayHook = Arc<dyn Fn(&Call) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

#[derive(Clone)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    shared: Arc<Mutex<Shared>>,
    delay: DelayHook,
}

struct Shared {
    plan: FaultPlan,
    random: ChaCha8Rng,
    calls: u64,
    /// How often each scripted fault's pattern has matched.
    matches: Vec<u64>,
    injected: Vec<(Call, Fault)>,
}

impl FaultyStorage {
    pub fn new(inner: Arc<dyn Storage>, plan: FaultPlan) -> Self {
        let seed = if let FaultPlan::Seeded { seed, .. } = &plan { *seed } else { 0 };
        let matches = if let FaultPlan::Scripted(script) = &plan { vec![0; script.len()] } else { vec![] };
        let random = ChaCha8Rng::seed_from_u64(seed);
        let shared = Shared { plan, random, calls: 0, matches, injected: vec![] };
        let yields: DelayHook = Arc::new(|_| Box::pin(tokio::task::yield_now()));
        FaultyStorage { inner, shared: Arc::new(Mutex::new(shared)), delay: yields }
    }

    /// What `Fault::Delay` waits for; without it, one turn of the other tasks.
    pub fn with_delay(mut self, delay: DelayHook) -> Self {
        self.delay = delay;
        self
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).calls
    }

    /// Faults so far, for messages of failed tests.
    pub fn injected(&self) -> Vec<(Call, Fault)> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).injected.clone()
    }

    fn next_fault(&self, operation: Operation, path: &ObjectPath) -> (Call, Option<Fault>) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &mut *shared;
        let call = Call { number: shared.calls, operation, path: path.clone() };
        shared.calls += 1;
        let fault = match &mut shared.plan {
            FaultPlan::None => None,
            FaultPlan::Seeded { rates, .. } => draw(*rates, &mut shared.random),
            FaultPlan::Scripted(script) => scripted(script, &mut shared.matches, &call),
            FaultPlan::NthCall { number, fault } => (*number == call.number).then_some(*fault),
            FaultPlan::Custom(decide) => decide(&call),
        };
        if let Some(fault) = fault {
            shared.injected.push((call.clone(), fault));
        }
        (call, fault)
    }

    fn failure(&self, call: &Call, kind: StorageErrorKind, message: &str) -> StorageError {
        StorageError::new(call.operation, self.inner.address(&call.path), kind, message)
    }

    /// Waits or fails before the call; what remains to be applied is returned.
    async fn enter(&self, operation: Operation, path: &ObjectPath) -> Result<(Call, Option<Fault>), StorageError> {
        let (call, fault) = self.next_fault(operation, path);
        match fault {
            Some(Fault::FailBefore) => {
                Err(self.failure(&call, StorageErrorKind::Transient, "injected: failed before it was done"))
            }
            Some(Fault::Refuse) => Err(self.failure(&call, StorageErrorKind::Permanent, "injected: refused")),
            Some(Fault::Delay) => {
                (self.delay)(&call).await;
                Ok((call, None))
            }
            other => Ok((call, other)),
        }
    }

    fn lost_response(&self, call: &Call) -> StorageError {
        self.failure(call, StorageErrorKind::Transient, "injected: done, but the response was lost")
    }

    async fn read<T>(
        &self,
        entered: (Call, Option<Fault>),
        read: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        match entered {
            (call, Some(Fault::FailAfter)) => Err(self.lost_response(&call)),
            _ => read.await,
        }
    }
}

#[async_trait]
impl Storage for FaultyStorage {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    async fn put(&self, path: &ObjectPath, content: Bytes) -> Result<(), StorageError> {
        let (call, fault) = self.enter(Operation::Put, path).await?;
        let Some(content) = as_stored(fault, content) else { return Ok(()) };
        self.inner.put(path, content).await?;
        if fault == Some(Fault::FailAfter) { Err(self.lost_response(&call)) } else { Ok(()) }
    }

    async fn put_if_absent(&self, path: &ObjectPath, content: Bytes) -> Result<PutOutcome, StorageError> {
        let (call, fault) = self.enter(Operation::PutIfAbsent, path).await?;
        let Some(content) = as_stored(fault, content) else { return Ok(PutOutcome::Created) };
        let outcome = self.inner.put_if_absent(path, content).await?;
        if fault == Some(Fault::FailAfter) { Err(self.lost_response(&call)) } else { Ok(outcome) }
    }

    async fn upload(&self, path: &ObjectPath) -> Result<Box<dyn Upload>, StorageError> {
        let inner = self.inner.upload(path).await?;
        Ok(Box::new(FaultyUpload { storage: self.clone(), path: path.clone(), inner, parts: vec![] }))
    }

    async fn get(&self, path: &ObjectPath) -> Result<Bytes, StorageError> {
        let entered = self.enter(Operation::Get, path).await?;
        let fault = entered.1;
        self.read(entered, self.inner.get(path)).await.map(|content| as_read(fault, content))
    }

    async fn get_range(&self, path: &ObjectPath, offset: u64, length: u64) -> Result<Bytes, StorageError> {
        let entered = self.enter(Operation::GetRange, path).await?;
        let fault = entered.1;
        self.read(entered, self.inner.get_range(path, offset, length)).await.map(|content| as_read(fault, content))
    }

    async fn head(&self, path: &ObjectPath) -> Result<u64, StorageError> {
        let entered = self.enter(Operation::Head, path).await?;
        self.read(entered, self.inner.head(path)).await
    }

    async fn list(
        &self,
        folder: &ObjectPath,
        start_after: Option<&ObjectPath>,
        limit: usize,
    ) -> Result<Vec<ObjectInfo>, StorageError> {
        let entered = self.enter(Operation::List, folder).await?;
        self.read(entered, self.inner.list(folder, start_after, limit)).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), StorageError> {
        let (call, fault) = self.enter(Operation::Delete, path).await?;
        if fault == Some(Fault::Lost) {
            return Ok(());
        }
        self.inner.delete(path).await?;
        if fault == Some(Fault::FailAfter) { Err(self.lost_response(&call)) } else { Ok(()) }
    }

    async fn sweep_unfinished(&self, folder: &ObjectPath, older_than: Duration) -> Result<u64, StorageError> {
        self.inner.sweep_unfinished(folder, older_than).await
    }
}

/// Counts as one call, at `finish`.
struct FaultyUpload {
    storage: FaultyStorage,
    path: ObjectPath,
    inner: Box<dyn Upload>,
    parts: Vec<u8>,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, part: Bytes) -> Result<(), StorageError> {
        self.parts.extend_from_slice(&part);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StorageError> {
        let (call, fault) = self.storage.enter(Operation::Upload, &self.path).await?;
        let Some(content) = as_stored(fault, self.parts.into()) else { return Ok(()) };
        self.inner.write(content).await?;
        self.inner.finish().await?;
        if fault == Some(Fault::FailAfter) { Err(self.storage.lost_response(&call)) } else { Ok(()) }
    }
}

fn draw(rates: FaultRates, random: &mut ChaCha8Rng) -> Option<Fault> {
    let (mut at, place) = (random.random::<f64>(), random.random::<u32>() as usize);
    let choices = [
        (rates.fail_before, Fault::FailBefore),
        (rates.fail_after, Fault::FailAfter),
        (rates.delay, Fault::Delay),
        (rates.torn, Fault::Torn { keep_bytes: place % 4096 }),
        (rates.lost, Fault::Lost),
        (rates.flip, Fault::Flip { byte: place }),
    ];
    for (rate, fault) in choices {
        if at < rate {
            return Some(fault);
        }
        at -= rate;
    }
    None
}

fn scripted(script: &[ScriptedFault], matches: &mut [u64], call: &Call) -> Option<Fault> {
    let mut fault = None;
    for (entry, seen) in script.iter().zip(matches) {
        let fits = entry.operation.is_none_or(|operation| operation == call.operation)
            && call.path.as_str().contains(&entry.path_contains);
        if fits {
            if *seen == entry.nth {
                fault = fault.or(Some(entry.fault));
            }
            *seen += 1;
        }
    }
    fault
}

/// What of `content` reaches the store; `None`: nothing does.
fn as_stored(fault: Option<Fault>, content: Bytes) -> Option<Bytes> {
    match fault {
        Some(Fault::Lost) => None,
        Some(Fault::Torn { keep_bytes }) => Some(content.slice(..keep_bytes.min(content.len().saturating_sub(1)))),
        other => Some(as_read(other, content)),
    }
}

fn as_read(fault: Option<Fault>, content: Bytes) -> Bytes {
    match fault {
        Some(Fault::Flip { byte }) if !content.is_empty() => {
            let mut flipped = content.to_vec();
            let place = byte % flipped.len();
            flipped[place] ^= 1 << (byte % 8);
            flipped.into()
        }
        _ => content,
    }
}

impl fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStorage").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemoryStorage;
    use super::*;

    fn path(path: &str) -> ObjectPath {
        ObjectPath::parse(path).unwrap()
    }

    #[tokio::test]
    async fn conforms_without_faults() {
        let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()), FaultPlan::None);
        super::super::conformance::check(Arc::new(storage)).await;
    }

    #[tokio::test]
    async fn a_script_is_followed() {
        let inner = Arc::new(MemoryStorage::new());
        let at = |nth, fault| ScriptedFault { operation: Some(Operation::Put), path_contains: "a".into(), nth, fault };
        let faults = [
            Fault::FailBefore,
            Fault::FailAfter,
            Fault::Torn { keep_bytes: 2 },
            Fault::Lost,
            Fault::Refuse,
            Fault::Flip { byte: 0 },
        ];
        let script = faults.iter().enumerate().map(|(nth, fault)| at(nth as u64, *fault)).collect();
        let storage = FaultyStorage::new(inner.clone(), FaultPlan::Scripted(script));
        let mut seen = vec![];
        for round in 0..7 {
            inner.delete(&path("a")).await.unwrap();
            storage.put(&path("b"), Bytes::from_static(b"not meant")).await.unwrap();
            let outcome = storage.put(&path("a"), Bytes::from_static(b"0123")).await.map_err(|error| error.kind);
            let stored = inner.get(&path("a")).await.ok();
            seen.push(format!("{round} {outcome:?} {stored:?}"));
        }
        assert_eq!(
            seen,
            [
                "0 Err(Transient) None",
                "1 Err(Transient) Some(b\"0123\")",
                "2 Ok(()) Some(b\"01\")",
                "3 Ok(()) None",
                "4 Err(Permanent) None",
                "5 Ok(()) Some(b\"1123\")",
                "6 Ok(()) Some(b\"0123\")",
            ]
        );
        assert_eq!(storage.injected().len(), 6);
    }

    #[tokio::test]
    async fn a_seed_repeats_its_faults() {
        let run = || async {
            let rates = FaultRates { fail_before: 0.2, fail_after: 0.2, torn: 0.1, ..Default::default() };
            let plan = FaultPlan::Seeded { seed: 7, rates };
            let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()), plan);
            for _ in 0..50 {
                let _ = storage.put(&path("a"), Bytes::from_static(b"x")).await;
            }
            format!("{:?}", storage.injected())
        };
        let first = run().await;
        assert!(first.contains("FailAfter"));
        assert_eq!(first, run().await);
    }
}
