//! Whether a state that stands in a checkpoint can be read as a new version of the job wants it.

use arrow::datatypes::DataType;
use std::fmt;
use weir_model::{StateField, StateSchema};

/// The answer, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    AsIs,
    /// Rows are rewritten while they're read.
    Migrate {
        why: String,
    },
    Incompatible {
        why: String,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::AsIs => f.write_str("as is"),
            Verdict::Migrate { why } => write!(f, "migrates: {why}"),
            Verdict::Incompatible { why } => write!(f, "incompatible: {why}"),
        }
    }
}

/// Compares what stands in the checkpoint with what the new version wants. Pure: used before a job is stopped
/// and again at the restore.
pub fn compatibility(old: &StateSchema, new: &StateSchema) -> Verdict {
    let mut why = vec![];
    match check(old, new, &mut why) {
        Err(why) => Verdict::Incompatible { why },
        Ok(()) if old.key == new.key && old.namespace == new.namespace && old.value == new.value => Verdict::AsIs,
        Ok(()) => Verdict::Migrate { why: why.join("; ") },
    }
}

fn check(old: &StateSchema, new: &StateSchema, why: &mut Vec<String>) -> Result<(), String> {
    if old.kind != new.kind {
        return Err(format!("it was a state of kind {:?} and is now of kind {:?}", old.kind, new.kind));
    }
    check_key("key", &old.key, &new.key, why)?;
    check_key("namespace", &old.namespace, &new.namespace, why)?;
    check_semantics(old, new)?;
    for field in &new.value {
        match old.value.iter().find(|was| was.name == field.name) {
            None if field.nullable => why.push(format!("column `{}` is new and starts as null", field.name)),
            None => {
                return Err(format!(
                    "column `{}` is new and not nullable, so there is no value for it in the old state",
                    field.name
                ));
            }
            Some(was) => check_field("column", was, field, widens, why)?,
        }
    }
    for field in old.value.iter().filter(|was| new.value.iter().all(|field| field.name != was.name)) {
        why.push(format!("column `{}` goes away", field.name));
    }
    if why.is_empty() && old.value != new.value {
        why.push("the columns come in another order".into());
    }
    Ok(())
}

fn check_key(what: &str, old: &[StateField], new: &[StateField], why: &mut Vec<String>) -> Result<(), String> {
    let names = |fields: &[StateField]| {
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        if names.is_empty() { "none".to_string() } else { format!("({})", names.join(", ")) }
    };
    if old.len() != new.len() || old.iter().zip(new).any(|(old, new)| old.name != new.name) {
        return Err(format!("its {what} was {} and is now {}", names(old), names(new)));
    }
    old.iter().zip(new).try_for_each(|(old, new)| check_field(what, old, new, widens_key, why))
}

fn check_field(
    what: &str,
    old: &StateField,
    new: &StateField,
    widens: fn(&DataType, &DataType) -> bool,
    why: &mut Vec<String>,
) -> Result<(), String> {
    if old.data_type != new.data_type {
        let change = format!("{what} `{}` was {} and is now {}", new.name, old.data_type, new.data_type);
        if !widens(&old.data_type, &new.data_type) {
            return Err(change);
        }
        why.push(change);
    }
    match (old.nullable, new.nullable) {
        (false, true) => why.push(format!("{what} `{}` may be null now", new.name)),
        (true, false) => why.push(format!("{what} `{}` may not be null any more, and must hold none", new.name)),
        _ => {}
    }
    Ok(())
}

/// Columns are matched by name; what computes one must be what computed it.
fn check_semantics(old: &StateSchema, new: &StateSchema) -> Result<(), String> {
    if old.semantics.len() != old.value.len() || new.semantics.len() != new.value.len() {
        return match old.semantics == new.semantics {
            true => Ok(()),
            false => Err(format!("it was computed as {:?} and is now as {:?}", old.semantics, new.semantics)),
        };
    }
    for (field, semantics) in new.value.iter().zip(&new.semantics) {
        let Some(at) = old.value.iter().position(|was| was.name == field.name) else { continue };
        let was = &old.semantics[at];
        if without_type(was) != without_type(semantics) {
            return Err(format!("column `{}` was computed as `{was}` and is now as `{semantics}`", field.name));
        }
    }
    Ok(())
}

/// `sum(Int64)` without the type, which is compared as that of the column.
fn without_type(semantics: &str) -> &str {
    match semantics.split_once('(') {
        Some((function, argument)) if argument.trim_end_matches(')').parse::<DataType>().is_ok() => function,
        _ => semantics,
    }
}

/// Whether every value of the old type is one of the new.
fn widens(old: &DataType, new: &DataType) -> bool {
    widens_key(old, new)
        || matches!((old, new), (DataType::Int8 | DataType::Int16 | DataType::Int32, DataType::Float64))
}

/// Whether the key hash stays, too.
fn widens_key(old: &DataType, new: &DataType) -> bool {
    use DataType::*;
    match (old, new) {
        (Int8, Int16 | Int32 | Int64) | (Int16, Int32 | Int64) | (Int32, Int64) => true,
        (UInt8, UInt16 | UInt32 | UInt64 | Int16 | Int32 | Int64) => true,
        (UInt16, UInt32 | UInt64 | Int32 | Int64) | (UInt32, UInt64 | Int64) => true,
        (Float32, Float64) => true,
        (Decimal128(old_precision, old_scale), Decimal128(precision, scale)) => {
            precision >= old_precision && scale == old_scale
        }
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) | (Binary | LargeBinary, Binary | LargeBinary) => {
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::StateKind;

    fn schema(key: &str, value: &str, semantics: &str) -> StateSchema {
        let fields = |text: &str| {
            text.split_whitespace()
                .map(|field| {
                    let (name, data_type) = field.split_once(':').unwrap();
                    let nullable = data_type.ends_with('?');
                    let data_type = weir_model::types::parse_sql_type(data_type.trim_end_matches('?')).unwrap();
                    StateField::new(name, data_type, nullable)
                })
                .collect()
        };
        StateSchema {
            name: "s".into(),
            kind: StateKind::Value,
            key: fields(key),
            namespace: vec![],
            value: fields(value),
            semantics: semantics.split_whitespace().map(String::from).collect(),
        }
    }

    #[test]
    fn verdicts() {
        let old = schema("k:INT", "s:INT? c:BIGINT", "sum(Int32) count");
        let verdict =
            |key: &str, value: &str, semantics: &str| compatibility(&old, &schema(key, value, semantics)).to_string();
        for (key, value, semantics, expected) in [
            ("k:INT", "s:INT? c:BIGINT", "sum(Int32) count", "as is"),
            ("k:INT", "c:BIGINT s:INT?", "count sum(Int32)", "migrates: the columns come in another order"),
            (
                "k:BIGINT",
                "s:BIGINT? c:BIGINT",
                "sum(Int64) count",
                "migrates: key `k` was Int32 and is now Int64; column `s` was Int32 and is now Int64",
            ),
            (
                "k:INT",
                "s:INT? c:BIGINT m:INT?",
                "sum(Int32) count max(Int32)",
                "migrates: column `m` is new and starts as null",
            ),
            ("k:INT", "c:BIGINT", "count", "migrates: column `s` goes away"),
            (
                "k:INT",
                "s:INT? c:BIGINT m:INT",
                "sum(Int32) count max(Int32)",
                "incompatible: column `m` is new and not nullable, so there is no value for it in the old state",
            ),
            ("k:INT", "s:VARCHAR? c:BIGINT", "sum(Int32) count", "incompatible: column `s` was Int32 and is now Utf8"),
            (
                "k:INT",
                "s:INT? c:BIGINT",
                "max(Int32) count",
                "incompatible: column `s` was computed as `sum(Int32)` and is now as `max(Int32)`",
            ),
            ("j:INT", "s:INT? c:BIGINT", "sum(Int32) count", "incompatible: its key was (k) and is now (j)"),
            ("", "s:INT? c:BIGINT", "sum(Int32) count", "incompatible: its key was (k) and is now none"),
            ("k:DOUBLE", "s:INT? c:BIGINT", "sum(Int32) count", "incompatible: key `k` was Int32 and is now Float64"),
        ] {
            assert_eq!(verdict(key, value, semantics), expected);
        }
    }
}
