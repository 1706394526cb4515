use crate::{Error, Result};
use std::time::Duration;
use weir_model::{StateField, StateKind, StateSchema};
use weir_state::StateOptions;

/// A state's name, and how long it keeps what nothing touches. A `&str` is one without an end.
///
/// The name is what the state is matched by on restore: it must be unique within the operator and stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDescriptor {
    name: String,
    ttl: Option<Duration>,
}

/// Longer names than this are mistakes, and they stand in file names of savepoints.
const MAX_NAME_LENGTH: usize = 64;

impl StateDescriptor {
    pub fn new(name: impl Into<String>) -> Self {
        StateDescriptor { name: name.into(), ttl: None }
    }

    /// What wasn't written for this long (processing time) reads as absent and goes away. In steps of milliseconds. If
    /// nothing is said here, it is what the step's `stateTtl` says.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// `of_step_ms`: the step's `stateTtl`.
    pub(crate) fn options(&self, of_step_ms: Option<u64>) -> Result<StateOptions> {
        match self.ttl {
            None => Ok(StateOptions { ttl_ms: of_step_ms }),
            Some(ttl) if ttl < Duration::from_millis(1) => {
                Err(Error::new(format!("the TTL of state `{}` is less than a millisecond", self.name)))
            }
            ttl => Ok(StateOptions { ttl_ms: ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)) }),
        }
    }

    /// The schema with these columns. Where a column has the name of one before it, it gets a number.
    pub(crate) fn schema(
        &self,
        kind: StateKind,
        key: &[StateField],
        mut namespace: Vec<StateField>,
        mut value: Vec<StateField>,
        semantics: Vec<String>,
    ) -> Result<StateSchema> {
        let name = &self.name;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.chars().all(is_plain) {
            let rule = "letters, digits, `-` and `_`";
            return Err(Error::new(format!("`{name}` is no name for a state: take {rule}, {MAX_NAME_LENGTH} at most")));
        }
        if key.is_empty() {
            return Err(Error::new(format!(
                "its state `{name}` is kept by key, and the step has no `keyBy`; name the key columns there"
            )));
        }
        let mut taken: Vec<String> = key.iter().map(|field| field.name.clone()).collect();
        for field in namespace.iter_mut().chain(&mut value) {
            let wanted = std::mem::take(&mut field.name);
            field.name = (1..)
                .map(|number| if number == 1 { wanted.clone() } else { format!("{wanted}_{number}") })
                .find(|name| !taken.contains(name))
                .unwrap_or(wanted);
            taken.push(field.name.clone());
        }
        Ok(StateSchema { name: name.clone(), kind, key: key.to_vec(), namespace, value, semantics })
    }
}

impl From<&str> for StateDescriptor {
    fn from(name: &str) -> Self {
        StateDescriptor::new(name)
    }
}
