//! From the sink's input to the columns of its files: folders out, change kinds as text.

use super::names::{NULL_PARTITION, write_partition_value};
use super::{FilesSinkConfig, SinkFileFormat};
use crate::api::ConnectorError;
use crate::formats::{Cells, change_kind_symbols, check_encodable, encoder};
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::collections::HashMap;
use std::sync::Arc;
use weir_model::CHANGE_KIND_COLUMN;

pub(super) struct Layout {
    /// Of the files.
    pub schema: SchemaRef,
    /// The input's column behind each of the files' columns.
    columns: Vec<usize>,
    /// Place of the change kind among the files' columns.
    change_kind: Option<usize>,
    /// Name and place in the input of the columns that become folders.
    partition_by: Vec<(String, usize)>,
}

impl Layout {
    /// Refuses an input that the files can't hold.
    pub fn of(config: &FilesSinkConfig, input: &SchemaRef) -> Result<Self, ConnectorError> {
        let mut partition_by = Vec::new();
        for name in &config.partition_by {
            let Some((index, field)) = input.column_with_name(name) else {
                let names: Vec<_> = input.fields().iter().map(|field| field.name().as_str()).collect();
                return Err(ConnectorError::Permanent(format!(
                    "partitionBy names the column `{name}`, which the input lacks; it has {}",
                    names.join(", ")
                )));
            };
            check_encodable(&Schema::new(vec![field.clone()]))?;
            partition_by.push((name.clone(), index));
        }
        let (mut fields, mut columns, mut change_kind) = (Vec::new(), Vec::new(), None);
        for (index, field) in input.fields().iter().enumerate() {
            if partition_by.iter().any(|(_, partition)| *partition == index) {
                continue;
            }
            if field.name() == CHANGE_KIND_COLUMN {
                let Some(name) = &config.change_kind_column else {
                    return Err(ConnectorError::Permanent(
                        "the input is updating (its rows change or take back earlier ones), which files can't hold as \
                         such; set changeKindColumn to write each row's change kind (+I, -U, +U, -D) beside it, or \
                         aggregate in windows"
                            .into(),
                    ));
                };
                if input.column_with_name(name).is_some_and(|(clash, _)| clash != index) {
                    return Err(ConnectorError::Permanent(format!(
                        "changeKindColumn `{name}` is the name of another column; choose a name that is free"
                    )));
                }
                change_kind = Some(columns.len());
                fields.push(Arc::new(Field::new(name, DataType::Utf8, false)));
            } else {
                fields.push(field.clone());
            }
            columns.push(index);
        }
        if fields.is_empty() {
            return Err(ConnectorError::Permanent(
                "partitionBy names every column, so that nothing is left to write; leave one out".into(),
            ));
        }
        let schema = Arc::new(Schema::new(fields));
        if let SinkFileFormat::Text(format) = &config.format {
            encoder(format, &schema)?;
        }
        Ok(Layout { schema, columns, change_kind, partition_by })
    }

    /// The batch as the files hold it.
    pub fn apply(&self, batch: &RecordBatch) -> RecordBatch {
        let column = |(place, index): (usize, &usize)| -> ArrayRef {
            let column = batch.column(*index);
            if self.change_kind == Some(place) { change_kind_symbols(column) } else { column.clone() }
        };
        let columns = self.columns.iter().enumerate().map(column).collect();
        RecordBatch::try_new(self.schema.clone(), columns).expect("the layout was made for this input")
    }

    /// The input's rows by folder, each with its rows in order; `None` if there is one folder for all.
    pub fn partitions(&self, batch: &RecordBatch) -> Option<Vec<(String, Vec<u32>)>> {
        if self.partition_by.is_empty() {
            return None;
        }
        let columns: Vec<_> = self.partition_by.iter().map(|(name, index)| (name, batch.column(*index))).collect();
        let cells: Vec<_> = columns.iter().map(|(name, column)| (*name, *column, Cells::of(column))).collect();
        let mut partitions: Vec<(String, Vec<u32>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let (mut folder, mut value) = (String::new(), Vec::new());
        for row in 0..batch.num_rows() {
            folder.clear();
            for (name, column, cells) in &cells {
                if !folder.is_empty() {
                    folder.push('/');
                }
                write_partition_value(name.as_bytes(), &mut folder);
                folder.push('=');
                value.clear();
                if column.is_valid(row) {
                    cells.write(row, &mut value);
                }
                match value.is_empty() {
                    true => folder.push_str(NULL_PARTITION),
                    false => write_partition_value(&value, &mut folder),
                }
            }
            let place = match places.get(&folder) {
                Some(place) => *place,
                None => {
                    places.insert(folder.clone(), partitions.len());
                    partitions.push((folder.clone(), Vec::new()));
                    partitions.len() - 1
                }
            };
            partitions[place].1.push(row as u32);
        }
        Some(partitions)
    }
}
