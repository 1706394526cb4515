//! Change kinds of an updating stream.

use arrow::datatypes::{DataType, Field};

/// Name of the column that carries the change kind; always the last column of an updating stream,
/// and absent from an append-only one.
pub const CHANGE_KIND_COLUMN: &str = "__change_kind";

/// What a row does to the result, with Flink's byte values of `RowKind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum ChangeKind {
    Insert = 0,
    UpdateBefore = 1,
    UpdateAfter = 2,
    Delete = 3,
}

/// What a reader does with update-before rows. Where nobody does anything with them, they aren't made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateBeforeUse {
    None,
    /// These columns tell rows apart, and the later one takes the earlier one's place. So it needs to know what a row was
    /// whose update changes one of them, or that is not among the results any more.
    ByKey(Vec<String>),
    All,
}

impl ChangeKind {
    pub fn from_byte(byte: i8) -> Option<Self> {
        Some(match byte {
            0 => ChangeKind::Insert,
            1 => ChangeKind::UpdateBefore,
            2 => ChangeKind::UpdateAfter,
            3 => ChangeKind::Delete,
            _ => return None,
        })
    }

    /// Whether the row takes something back (update-before and delete).
    pub fn is_retraction(self) -> bool {
        matches!(self, ChangeKind::UpdateBefore | ChangeKind::Delete)
    }

    /// As Flink prints it: `+I`, `-U`, `+U`, `-D`.
    pub fn symbol(self) -> &'static str {
        match self {
            ChangeKind::Insert => "+I",
            ChangeKind::UpdateBefore => "-U",
            ChangeKind::UpdateAfter => "+U",
            ChangeKind::Delete => "-D",
        }
    }
}

/// The field of the change-kind column: `Int8`, never null.
pub fn change_kind_field() -> Field {
    Field::new(CHANGE_KIND_COLUMN, DataType::Int8, false)
}
