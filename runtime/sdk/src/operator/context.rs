use crate::Result;
use crate::rows::Row;
use crate::state::{Scope, Timers};
use crate::types::{ColumnType, Timestamp};
use std::marker::PhantomData;
use weir_state::KeyedState;

/// What an operator may use while it takes a row or a timer: the current key, its states, time.
pub struct Context<'a> {
    pub(crate) state: &'a mut KeyedState,
    pub(crate) scope: &'a mut Scope,
    /// The current key's columns; without columns if the step has no `keyBy`.
    pub(crate) key: Row<'a>,
    pub(crate) watermark: Timestamp,
    pub(crate) processing_time: Timestamp,
}

/// A column of the key, found by its name once and read by `Context::key`.
pub struct KeyColumn<T> {
    pub(crate) index: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for KeyColumn<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for KeyColumn<T> {}

impl<T> KeyColumn<T> {
    pub(crate) fn new(index: usize) -> Self {
        KeyColumn { index, value: PhantomData }
    }
}

impl<'a> Context<'a> {
    /// A column of the current key.
    ///
    /// # Errors
    /// A null in a column that isn't read as an `Option`.
    #[inline]
    pub fn key<T: ColumnType>(&self, column: KeyColumn<T>) -> Result<T::Ref<'a>> {
        self.key.get_at::<T>(column.index)
    }

    /// No row with an earlier event time is expected. `Timestamp::MIN` until the first watermark of this attempt;
    /// `Timestamp::MAX` once the input has ended.
    pub fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// The clock, read once per batch.
    pub fn processing_time(&self) -> Timestamp {
        self.processing_time
    }

    /// Keyed state, its scope, and the current row among the batch's keys.
    #[inline]
    pub(crate) fn parts(&mut self) -> (&mut KeyedState, &mut Scope, usize) {
        (self.state, self.scope, self.key.index)
    }
}

/// A timer that fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    pub(crate) set: usize,
    pub(crate) time: Timestamp,
}

impl Timer {
    /// The time that it was set to.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Whether it is one of these.
    pub fn is(&self, timers: Timers) -> bool {
        self.set == timers.set
    }
}
