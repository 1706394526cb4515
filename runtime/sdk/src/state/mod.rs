//! State by key: values, lists, maps and timers, typed.

mod descriptor;
mod key_bytes;
mod list;
mod map;
mod row_fields;
mod scope;
mod timers;
mod value;
mod value_bytes;

pub use descriptor::StateDescriptor;
pub use key_bytes::KeyWriter;
pub use list::ListState;
pub(crate) use list::position_field;
pub(crate) use map::map_key_fields;
pub use map::{KeyOf, MapState};
pub(crate) use scope::Scope;
pub use timers::Timers;
pub(crate) use timers::{Due, TimeDomain, TimerSet, timer_time_field};
pub(crate) use value::ValueSlots;
pub use value::ValueState;
