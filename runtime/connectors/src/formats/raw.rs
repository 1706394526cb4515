//! Records as they are: the bytes of the only column.

use super::columns::{ColumnBuilder, into_batch};
use super::encoder::{Encoder, Rows};
use super::{BadRecord, Decoder};
use crate::api::ConnectorError;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use weir_model::types::sql_type_name;

pub(super) struct RawDecoder {
    schema: SchemaRef,
    column: ColumnBuilder,
}

pub(super) struct RawEncoder;

fn check(schema: &SchemaRef) -> Result<(), ConnectorError> {
    let columns = schema.fields();
    if columns.len() == 1 && matches!(columns[0].data_type(), DataType::Utf8 | DataType::Binary) {
        return Ok(());
    }
    let found: Vec<_> =
        columns.iter().map(|field| format!("{} {}", field.name(), sql_type_name(field.data_type()))).collect();
    Err(ConnectorError::Permanent(format!(
        "format raw needs exactly one column, of type VARCHAR or BYTES; there are: {}",
        found.join(", ")
    )))
}

impl RawDecoder {
    pub fn new(schema: &SchemaRef) -> Result<Self, ConnectorError> {
        check(schema)?;
        Ok(RawDecoder { schema: schema.clone(), column: ColumnBuilder::new(schema.field(0))? })
    }
}

impl Decoder for RawDecoder {
    fn decode(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        if !self.column.is_text() {
            return self.column.push_bytes(record);
        }
        let text = std::str::from_utf8(record)
            .map_err(|error| BadRecord::new(format!("not UTF-8 at byte {} of the record", error.valid_up_to())))?;
        self.column.push_text(text)
    }

    fn is_blank(&self, _record: &[u8]) -> bool {
        false
    }

    fn rows(&self) -> usize {
        self.column.rows()
    }

    fn finish(&mut self) -> RecordBatch {
        into_batch(&self.schema, std::slice::from_mut(&mut self.column))
    }
}

impl RawEncoder {
    pub fn new(schema: &SchemaRef) -> Result<Self, ConnectorError> {
        check(schema)?;
        Ok(RawEncoder)
    }
}

impl Encoder for RawEncoder {
    fn encode(
        &mut self,
        batch: &RecordBatch,
        rows: Rows<'_>,
        out: &mut Vec<u8>,
        end_record: &mut dyn FnMut(&mut Vec<u8>),
    ) {
        let column = batch.column(0);
        rows.for_each(batch.num_rows(), |row| {
            if column.is_valid(row) {
                match column.data_type() {
                    DataType::Utf8 => out.extend_from_slice(column.as_string::<i32>().value(row).as_bytes()),
                    _ => out.extend_from_slice(column.as_binary::<i32>().value(row)),
                }
            }
            end_record(out);
        });
    }
}
