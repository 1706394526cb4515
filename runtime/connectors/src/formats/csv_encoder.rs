//! Rows as comma-separated values.

use super::encoder::{Cells, Encoder, Rows, check_encodable};
use super::{CsvFormat, UnsupportedColumn};
use arrow::array::Array;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

pub(super) struct CsvEncoder {
    format: CsvFormat,
    names: Vec<String>,
}

impl CsvEncoder {
    pub fn new(format: &CsvFormat, schema: &SchemaRef) -> Result<Self, UnsupportedColumn> {
        check_encodable(schema)?;
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(CsvEncoder { format: format.clone(), names })
    }
}

impl Encoder for CsvEncoder {
    fn encode(
        &mut self,
        batch: &RecordBatch,
        rows: Rows<'_>,
        out: &mut Vec<u8>,
        end_record: &mut dyn FnMut(&mut Vec<u8>),
    ) {
        let format = &self.format;
        let columns: Vec<_> =
            batch.columns().iter().map(|column| (Cells::of(column), column.logical_nulls())).collect();
        rows.for_each(batch.num_rows(), |row| {
            for (index, (cells, nulls)) in columns.iter().enumerate() {
                if index > 0 {
                    out.push(format.delimiter);
                }
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    out.extend_from_slice(format.null_value.as_bytes());
                } else if let Some(text) = cells.text(row) {
                    write_field(text, format, out);
                } else {
                    cells.write(row, out);
                }
            }
            end_record(out);
        });
    }

    fn header(&self) -> Option<Vec<u8>> {
        if !self.format.header {
            return None;
        }
        let mut header = Vec::new();
        for (index, name) in self.names.iter().enumerate() {
            if index > 0 {
                header.push(self.format.delimiter);
            }
            write_field(name, &self.format, &mut header);
        }
        Some(header)
    }
}

/// Text in quotes where it would not read back as it is; NULL's text is one such.
fn write_field(text: &str, format: &CsvFormat, out: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b'\n' | b'\r') || *byte == format.delimiter || *byte == format.quote;
    if text != format.null_value && !text.as_bytes().iter().any(special) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(format.quote);
    for byte in text.as_bytes() {
        if *byte == format.quote {
            out.push(*byte);
        }
        out.push(*byte);
    }
    out.push(format.quote);
}
