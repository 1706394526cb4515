//! Sinks whose writes others see at once wait while their worker has no coordinator: it may have started the attempt
//! anew elsewhere by then, and an old row would overwrite a newer one. What a two-phase sink writes meanwhile nobody
//! sees, and nobody ever will unless the attempt is gone on with.

use arrow::record_batch::RecordBatch;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use weir_connectors::api::{ConnectorError, SinkSnapshot, SinkWriter};
use weir_model::CheckpointId;

/// One for an attempt on a worker.
#[derive(Default)]
pub(crate) struct Leash {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Held,
    /// The attempt ends: who waits is let go, and writes nothing.
    Ended,
}

impl Leash {
    pub(crate) fn hold(&self) {
        self.set(|state| if state == State::Ended { state } else { State::Held });
    }

    pub(crate) fn release(&self) {
        self.set(|state| if state == State::Ended { state } else { State::Free });
    }

    pub(crate) fn end(&self) {
        self.set(|_| State::Ended);
    }

    fn set(&self, change: impl Fn(State) -> State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = change(*state);
        self.changed.notify_all();
    }

    fn wait(&self) -> Result<(), ConnectorError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(state, |state| *state == State::Held);
        match *waited.unwrap_or_else(PoisonError::into_inner) {
            State::Ended => Err(ConnectorError::Transient("the attempt has ended".to_owned())),
            State::Free | State::Held => Ok(()),
        }
    }
}

/// A writer that waits while the leash is held.
pub(crate) struct Leashed {
    pub(crate) writer: Box<dyn SinkWriter>,
    pub(crate) leash: Arc<Leash>,
}

impl SinkWriter for Leashed {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.leash.wait()?;
        self.writer.write(batch)
    }

    fn pre_commit(&mut self, checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        self.leash.wait()?;
        self.writer.pre_commit(checkpoint)
    }

    fn end_of_input(&mut self) {
        self.writer.end_of_input();
    }

    fn abort(&mut self) {
        self.writer.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, TryRecvError, channel};

    struct Idle;

    impl SinkWriter for Idle {
        fn write(&mut self, _batch: &RecordBatch) -> Result<(), ConnectorError> {
            Ok(())
        }

        fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
            Ok(SinkSnapshot::default())
        }
    }

    fn pre_commit(leash: &Arc<Leash>) -> Receiver<bool> {
        let (done, result) = channel();
        let mut leashed = Leashed { writer: Box::new(Idle), leash: Arc::clone(leash) };
        std::thread::spawn(move || done.send(leashed.pre_commit(CheckpointId(1)).is_ok()));
        result
    }

    #[test]
    fn waits_while_it_is_held_and_writes_nothing_once_the_attempt_has_ended() {
        let leash = Arc::new(Leash::default());
        assert_eq!(pre_commit(&leash).recv(), Ok(true));
        leash.hold();
        let waiting = pre_commit(&leash);
        assert_eq!(waiting.try_recv(), Err(TryRecvError::Empty));
        leash.release();
        assert_eq!(waiting.recv(), Ok(true));
        leash.hold();
        let waiting = pre_commit(&leash);
        leash.end();
        assert_eq!(waiting.recv(), Ok(false));
        leash.release();
        assert_eq!(pre_commit(&leash).recv(), Ok(false));
    }
}
