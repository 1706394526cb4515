//! A state as a table.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_model::{StateField, StateSchema};

/// The first column of every table: `UInt16`, never null.
pub const KEY_GROUP_COLUMN: &str = "key_group";

/// The table's columns: key group, key, namespace, value. A name that occurs twice gets its role in front
/// (`key.total`, `value.total`), as some tools refuse tables with equal names.
pub fn state_columns(schema: &StateSchema) -> SchemaRef {
    let roles: [(&str, &[StateField]); 3] =
        [("key", &schema.key), ("namespace", &schema.namespace), ("value", &schema.value)];
    let mut uses = BTreeMap::from([(KEY_GROUP_COLUMN.to_owned(), 1)]);
    for field in roles.iter().flat_map(|(_, fields)| fields.iter()) {
        // Some tools know no case in column names.
        *uses.entry(field.name.to_lowercase()).or_insert(0) += 1;
    }
    let mut columns = vec![Field::new(KEY_GROUP_COLUMN, DataType::UInt16, false)];
    for (role, fields) in roles {
        for (index, field) in fields.iter().enumerate() {
            let column = field.to_field();
            columns.push(match uses[&field.name.to_lowercase()] {
                1 => column,
                _ => column.with_name(unique_name(&columns, role, index, &field.name)),
            });
        }
    }
    Arc::new(Schema::new(columns))
}

fn unique_name(before: &[Field], role: &str, index: usize, name: &str) -> String {
    let with_role = format!("{role}.{name}");
    let is_taken = before.iter().any(|column| column.name().eq_ignore_ascii_case(&with_role));
    if is_taken { format!("{role}{index}.{name}") } else { with_role }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::StateKind;

    #[test]
    fn names_are_plain_where_they_are_unique() {
        let field = |name: &str| StateField::new(name, DataType::Int64, true);
        let schema = StateSchema {
            name: "agg".into(),
            kind: StateKind::Value,
            key: vec![field("carrier"), field("total")],
            namespace: vec![field("window_end")],
            value: vec![field("Total"), field("count"), field("key_group")],
            semantics: vec![],
        };
        let columns = state_columns(&schema);
        let names = columns.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>();
        let expected = ["key_group", "carrier", "key.total", "window_end", "value.Total", "count", "value.key_group"];
        assert_eq!(names, expected);
    }
}
