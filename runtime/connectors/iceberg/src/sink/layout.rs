//! From the sink's input to the table's columns.

use crate::catalog::TableName;
use crate::format::schema::{TableColumn, TableSchema, TableType};
use crate::permanent;
use arrow::array::{Array, ArrayRef};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use std::collections::HashMap;
use std::sync::Arc;
use weir_connectors::api::ConnectorError;
use weir_connectors::formats::change_kind_symbols;
use weir_model::CHANGE_KIND_COLUMN;

pub(super) struct Layout {
    /// Of the files.
    pub schema: SchemaRef,
    /// The table's columns that are written, in the files' order.
    pub columns: Vec<TableColumn>,
    /// The input's column behind each of them.
    from: Vec<usize>,
    /// Place of the change kind among them.
    change_kind: Option<usize>,
}

/// The columns that a table for this input has. Refuses what no table can hold.
pub(super) fn columns_for(
    input: &SchemaRef,
    change_kind_column: Option<&str>,
) -> Result<Vec<TableColumn>, ConnectorError> {
    let mut columns: Vec<TableColumn> = Vec::new();
    for (field, id) in input.fields().iter().zip(1..) {
        let is_change_kind = field.name() == CHANGE_KIND_COLUMN;
        let (name, kind) = match (is_change_kind, change_kind_column) {
            (true, None) => {
                return permanent(
                    "the input is updating (its rows change or take back earlier ones), and this sink can only append: \
                     it writes no delete files, by which an Iceberg table takes rows back; set changeKindColumn to \
                     append each row with its change kind (+I, -U, +U, -D), aggregate in windows, or use a sink with keys \
                     (postgres, kafka)",
                );
            }
            (true, Some(name)) => (name, Some(TableType::String)),
            (false, _) => (field.name().as_str(), TableType::for_input(field.data_type())),
        };
        let Some(kind) = kind else {
            return permanent(format!(
                "column `{name}`: {} has no counterpart that this sink writes into an Iceberg table; CAST it to another \
                 type in the query that the sink reads{}",
                field.data_type(),
                if matches!(field.data_type(), DataType::Timestamp(..) | DataType::Time64(_)) {
                    " (TIMESTAMP(6))"
                } else {
                    ""
                },
            ));
        };
        if columns.iter().any(|column| column.name == name) {
            return permanent(format!(
                "two columns would be called `{name}`; rename one in the query that the sink reads with AS, or give \
                 changeKindColumn a name that is free"
            ));
        }
        columns.push(TableColumn { id, name: name.to_owned(), is_required: !field.is_nullable(), kind });
    }
    Ok(columns)
}

impl Layout {
    /// # Errors
    /// The table can't take the input; names the columns, both types and a remedy.
    pub(super) fn of(
        input: &SchemaRef,
        change_kind_column: Option<&str>,
        table: &TableSchema,
        name: &TableName,
    ) -> Result<Self, ConnectorError> {
        let natural = columns_for(input, change_kind_column)?;
        let (mut columns, mut from, mut fields, mut problems) = (vec![], vec![], vec![], vec![]);
        let mut change_kind = None;
        for (index, (ours, field)) in natural.iter().zip(input.fields()).enumerate() {
            let own = &ours.name;
            let Some(theirs) = table.column(own) else {
                let has: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
                problems.push(format!(
                    "column `{own}` is not in the table, which has {}; add it to the table (ALTER TABLE {name} ADD \
                     COLUMN {own} {}), leave it out of the query that the sink reads, or rename it there with AS",
                    has.join(", "),
                    ours.kind
                ));
                continue;
            };
            let is_change_kind = field.name() == CHANGE_KIND_COLUMN;
            let takes =
                if is_change_kind { theirs.kind == TableType::String } else { theirs.kind.takes(field.data_type()) };
            let Some(arrow) = theirs.kind.arrow().filter(|_| takes) else {
                problems.push(format!(
                    "column `{own}` is {} here and {} in the table, which does not take every value of it; CAST it in \
                     the query that the sink reads, or change the table's column",
                    field.data_type(),
                    theirs.kind
                ));
                continue;
            };
            if is_change_kind {
                change_kind = Some(columns.len());
            }
            let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), theirs.id.to_string())]);
            fields.push(Field::new(&theirs.name, arrow, !theirs.is_required).with_metadata(id));
            from.push(index);
            columns.push(theirs.clone());
        }
        for column in &table.columns {
            let is_written = natural.iter().any(|ours| ours.name == column.name);
            if column.is_required && !is_written && problems.is_empty() {
                problems.push(format!(
                    "the table's column `{}` is required and not in the input; add it to the query that the sink reads, \
                     or let it be optional in the table",
                    column.name
                ));
            }
        }
        if problems.is_empty() {
            return Ok(Layout { schema: Arc::new(Schema::new(fields)), columns, from, change_kind });
        }
        permanent(format!("the table `{name}` cannot take the input: {}", problems.join("; ")))
    }

    /// The batch as the files hold it.
    ///
    /// # Errors
    /// NULL for a column that is required.
    pub(super) fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, ConnectorError> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (place, (column, index)) in self.columns.iter().zip(&self.from).enumerate() {
            let array = batch.column(*index);
            if column.is_required && array.null_count() > 0 {
                return permanent(format!(
                    "a row has no value for `{}`, which the table requires; filter such rows or replace NULL in the \
                     query that the sink reads (COALESCE), or let the column be optional in the table",
                    column.name
                ));
            }
            let wanted = self.schema.field(place).data_type();
            arrays.push(if self.change_kind == Some(place) {
                change_kind_symbols(array)
            } else if array.data_type() == wanted {
                array.clone()
            } else {
                cast(array, wanted).map_err(|error| {
                    ConnectorError::Permanent(format!("a value of `{}` is no {}: {error}", column.name, column.kind))
                })?
            });
        }
        Ok(RecordBatch::try_new(self.schema.clone(), arrays).expect("the layout was made for this input"))
    }

    /// Place in the files of the column with this id.
    pub(super) fn place_of(&self, id: i64) -> Option<usize> {
        self.columns.iter().position(|column| i64::from(column.id) == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, TimestampMicrosecondArray};
    use arrow::datatypes::TimeUnit;
    use serde_json::json;

    fn input() -> SchemaRef {
        let at = DataType::Timestamp(TimeUnit::Microsecond, None);
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, true), Field::new("at", at, true)]))
    }

    fn table(fields: serde_json::Value) -> TableSchema {
        TableSchema::parse(&json!({"schema-id": 0, "type": "struct", "fields": fields})).unwrap()
    }

    fn layout(fields: serde_json::Value) -> Result<Layout, ConnectorError> {
        Layout::of(&input(), None, &table(fields), &TableName::parse("n.t").unwrap())
    }

    #[test]
    fn columns_go_by_name_and_are_widened() {
        let layout = layout(json!([
            {"id": 4, "name": "at", "required": false, "type": "timestamptz"},
            {"id": 2, "name": "n", "required": true, "type": "long"},
            {"id": 3, "name": "other", "required": false, "type": "string"},
        ]))
        .unwrap();
        let rows = |values: Vec<Option<i32>>| {
            let at = TimestampMicrosecondArray::from(vec![Some(1); values.len()]);
            RecordBatch::try_new(input(), vec![Arc::new(Int32Array::from(values)), Arc::new(at)]).unwrap()
        };
        let batch = layout.apply(&rows(vec![Some(7)])).unwrap();
        assert_eq!(batch.schema().field(0).data_type(), &DataType::Int64);
        assert_eq!(batch.schema().field(1).metadata()[PARQUET_FIELD_ID_META_KEY], "4");
        let error = layout.apply(&rows(vec![None])).unwrap_err().to_string();
        assert!(error.contains("`n`") && error.contains("COALESCE"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_told_at_once() {
        let error =
            layout(json!([{"id": 1, "name": "n", "required": false, "type": "string"}])).err().unwrap().to_string();
        for part in
            ["`n` is Int32 here and string in the table", "`at` is not in the table, which has n", "ADD COLUMN at"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = layout(json!([
            {"id": 1, "name": "n", "required": false, "type": "int"},
            {"id": 2, "name": "at", "required": false, "type": "timestamp"},
            {"id": 3, "name": "must", "required": true, "type": "string"},
        ]));
        assert!(error.err().unwrap().to_string().contains("`must` is required"));
    }

    #[test]
    fn an_updating_input_is_refused() {
        let mut fields: Vec<_> = input().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(CHANGE_KIND_COLUMN, DataType::Int8, false)));
        let updating = Arc::new(Schema::new(fields));
        let error = columns_for(&updating, None).unwrap_err().to_string();
        assert!(error.contains("delete files") && error.contains("changeKindColumn"), "{error}");
        assert_eq!(columns_for(&updating, Some("op")).unwrap()[2].kind, TableType::String);
        assert!(columns_for(&updating, Some("n")).unwrap_err().to_string().contains("two columns"));
    }
}
