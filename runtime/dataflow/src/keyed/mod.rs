//! What the operators that keep rows by key have in common: the keys of a batch, rows as state holds them,
//! timers, and output that is gathered from columns by index.

mod batch_keys;
mod changes;
mod gather;
mod late;
mod row_shape;
#[cfg(test)]
pub(crate) mod testing;
mod timers;

pub(crate) use batch_keys::{BatchKeys, NO_KEY, any_null};
pub(crate) use changes::Changes;
pub(crate) use gather::{Gather, NO_ROW, take_rows};
pub(crate) use late::drop_late;
pub(crate) use row_shape::{RowShape, Tally, value_fields};
pub(crate) use timers::{Due, TimePrefix, Timers};
