//! The schema that each state carries into checkpoints and savepoints, so that compatibility is decided
//! by comparing what stands there with what the new plan wants.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StateKind {
    /// One value per key (and namespace).
    Value,
    /// An ordered list of values per key.
    List,
    /// A map of values per key, ordered by the map key.
    Map,
    /// Event-time or processing-time timers per key.
    Timer,
}

/// A named, typed column of a state, its type as Arrow prints and parses it (`Int64`, `Timestamp(µs)`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateField {
    pub name: String,
    #[serde(rename = "type", with = "data_type_text")]
    pub data_type: DataType,
    pub nullable: bool,
}

impl StateField {
    pub fn new(name: impl Into<String>, data_type: DataType, nullable: bool) -> Self {
        StateField { name: name.into(), data_type, nullable }
    }

    pub fn to_field(&self) -> Field {
        Field::new(&self.name, self.data_type.clone(), self.nullable)
    }
}

/// One state of one operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSchema {
    /// Unique within the operator.
    pub name: String,
    pub kind: StateKind,
    /// The key that decides the key group; empty for a global aggregate.
    pub key: Vec<StateField>,
    /// What distinguishes entries under one key: the window for windowed state, the map key, the timer's time.
    pub namespace: Vec<StateField>,
    pub value: Vec<StateField>,
    /// How the value's columns are computed (`sum(Int64)`), compared on restore: a `sum` isn't read as a `max`.
    pub semantics: Vec<String>,
}

mod data_type_text {
    use arrow::datatypes::DataType;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(data_type: &DataType, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_type.to_string())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DataType, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not an Arrow type")))
    }
}
