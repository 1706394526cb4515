//! The sending side of a connection.

use super::Failure;
use crate::task::{ChannelClosed, Urgent};
use crate::task_clock::{self, Wait, waiting};
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use weir_model::StreamElement;
use weir_wire::data::{Encoder, Frame, FrameError};

/// All channels to one worker.
pub(crate) struct Outgoing {
    /// Bounded by the credit of the channels: what is queued has been charged to one of them.
    frames: Mutex<Option<UnboundedSender<Frame>>>,
    queued: Mutex<Option<UnboundedReceiver<Frame>>>,
    channels: Mutex<BTreeMap<u32, Arc<RemoteChannel>>>,
    failure: Arc<Failure>,
}

impl Outgoing {
    pub(super) fn new(failure: Arc<Failure>) -> Self {
        let (frames, queued) = unbounded_channel();
        Outgoing {
            frames: Mutex::new(Some(frames)),
            queued: Mutex::new(Some(queued)),
            channels: Mutex::default(),
            failure,
        }
    }

    /// `urgent`: of the task that writes. `limit_bytes`: what may be on the way until the reader says more.
    pub(crate) fn channel(
        self: &Arc<Self>,
        number: u32,
        schema: &SchemaRef,
        urgent: Arc<Urgent>,
        limit_bytes: usize,
    ) -> Result<Arc<RemoteChannel>, FrameError> {
        let frames = lock(&self.frames).clone();
        let state = State { encoder: Encoder::new(number, schema)?, frames, on_the_way: 0, limit_bytes };
        let channel = Arc::new(RemoteChannel {
            state: Mutex::new(state),
            credit: Condvar::new(),
            urgent,
            failure: Arc::clone(&self.failure),
        });
        lock(&self.channels).insert(number, Arc::clone(&channel));
        Ok(channel)
    }

    /// What is to be sent; to be asked for once.
    pub(super) fn queued(&self) -> Option<UnboundedReceiver<Frame>> {
        lock(&self.queued).take()
    }

    pub(super) fn credit(&self, number: u32, bytes: u32) {
        let channel = lock(&self.channels).get(&number).cloned();
        if let Some(channel) = channel {
            let mut state = lock(&channel.state);
            state.on_the_way = state.on_the_way.saturating_sub(bytes as usize);
            drop(state);
            channel.credit.notify_all();
        }
    }

    /// The reader says how much may be on the way.
    pub(super) fn limit(&self, number: u32, bytes: u32) {
        let channel = lock(&self.channels).get(&number).cloned();
        if let Some(channel) = channel {
            lock(&channel.state).limit_bytes = bytes as usize;
            channel.credit.notify_all();
        }
    }

    /// The connection is gone: the attempt fails, unless it is over anyway.
    pub(super) fn lost(&self, reason: String) {
        self.failure.report(reason);
        self.close();
    }

    /// Lets every writer go; none sends anything more.
    pub(super) fn close(&self) {
        *lock(&self.frames) = None;
        for channel in lock(&self.channels).values() {
            lock(&channel.state).frames = None;
            channel.credit.notify_all();
        }
    }
}

/// One upstream subtask's way into a channel of another worker's gate.
pub(crate) struct RemoteChannel {
    state: Mutex<State>,
    credit: Condvar,
    urgent: Arc<Urgent>,
    failure: Arc<Failure>,
}

struct State {
    encoder: Encoder,
    /// None: closed.
    frames: Option<UnboundedSender<Frame>>,
    /// Bytes sent and not yet taken by the reader.
    on_the_way: usize,
    /// How many may be.
    limit_bytes: usize,
}

impl RemoteChannel {
    /// Waits while the channel is full, as a channel within a process does.
    pub(crate) fn push(&self, element: &StreamElement) -> Result<(), ChannelClosed> {
        let mut state = lock(&self.state);
        let frame = state.encoder.encode(element).map_err(|error| {
            self.failure.report(format!("a batch cannot be sent to another worker: {error}"));
            ChannelClosed
        })?;
        let bytes = frame.body_bytes();
        loop {
            let Some(frames) = &state.frames else { return Err(ChannelClosed) };
            if self.urgent.admits(state.on_the_way, bytes, state.limit_bytes) {
                return match frames.send(frame) {
                    Ok(()) => {
                        state.on_the_way += bytes;
                        task_clock::sent(bytes, state.limit_bytes);
                        Ok(())
                    }
                    Err(_) => Err(ChannelClosed),
                };
            }
            state = waiting(Wait::Output, || self.credit.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets a writer that waits look again; under the lock, or one that has looked already would miss it.
    pub(crate) fn wake(&self) {
        let _state = lock(&self.state);
        self.credit.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
