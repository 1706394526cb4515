use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::datatypes::Int8Type;
use std::sync::Arc;
use weir_model::ChangeKind;

/// A column of change kinds as text: `+I`, `-U`, `+U`, `-D`.
pub fn change_kind_symbols(column: &ArrayRef) -> ArrayRef {
    let kinds = column.as_primitive::<Int8Type>().values();
    let symbol = |kind: &i8| ChangeKind::from_byte(*kind).expect("a change kind is one of four").symbol();
    Arc::new(StringArray::from_iter_values(kinds.iter().map(symbol)))
}
