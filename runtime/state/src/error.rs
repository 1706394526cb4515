use arrow::datatypes::DataType;
use weir_model::hash::UnhashableType;

/// What can go wrong with state. Storage and restore errors name the object and the place in it.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A key column whose type has no stable hash.
    #[error(transparent)]
    Unhashable(#[from] UnhashableType),
    /// A column type that state cannot hold.
    #[error("column `{field}` has type {data_type}, which state cannot hold; cast it to a type of the SQL list")]
    UnsupportedType { field: String, data_type: DataType },
    /// A batch whose column isn't what the schema of the state says.
    #[error("column `{field}`: the state's schema says {expected}, the batch holds {found}")]
    ColumnType { field: String, expected: DataType, found: DataType },
    #[error("column `{field}` holds a null, which the state's schema doesn't allow")]
    UnexpectedNull { field: String },
    #[error("{what}: {columns} columns for a schema of {fields} fields")]
    ColumnCount { what: &'static str, columns: usize, fields: usize },
    /// Bytes that are no encoding of the schema's columns.
    #[error("cannot decode {what}: {reason}")]
    Decode { what: String, reason: String },
    /// Stored bytes that fail their checksum or don't read as what they should be.
    #[error("object `{object}` is corrupt at offset {offset}: {what}")]
    Corrupt { object: String, offset: u64, what: String },
    /// The state in the checkpoint cannot be read as the new version wants it.
    #[error("state `{state}` cannot be restored: {reason}")]
    Incompatible { state: String, reason: String },
    /// The checkpoint holds state that nothing registered.
    #[error("the checkpoint holds state `{state}`, which this version of the operator doesn't have")]
    Unmatched { state: String },
    #[error("state `{state}` is registered twice")]
    RegisteredTwice { state: String },
    #[error("state `{state}`: {reason}")]
    InvalidSchema { state: String, reason: String },
    /// A record reached a subtask that doesn't own its key group: a fault in the exchange.
    #[error("a key of group {group} reached the subtask of groups {owned}")]
    NotOwned { group: u16, owned: weir_model::KeyGroupRange },
    /// More rows or bytes than a table can number.
    #[error("state `{state}` has outgrown a limit: {what}; raise the max parallelism or the parallelism")]
    TooLarge { state: String, what: &'static str },
    /// Another kind of handle, or one written by a later version.
    #[error("checkpoint format version {found}; this version of Weir reads up to {supported}")]
    Version { found: u32, supported: u32 },
    #[error("{action} `{object}`: {source}")]
    Storage { action: &'static str, object: String, source: std::io::Error },
    /// The store behind a bounded cache has failed.
    #[error("the cold store failed to {action}: {reason}")]
    ColdStore { action: &'static str, reason: String },
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

impl StateError {
    pub(crate) fn decode(what: impl Into<String>, reason: impl Into<String>) -> Self {
        StateError::Decode { what: what.into(), reason: reason.into() }
    }
}
