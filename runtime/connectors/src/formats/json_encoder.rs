//! Rows as JSON objects.

use super::UnsupportedColumn;
use super::encoder::{Cells, Encoder, Rows, check_encodable};
use arrow::array::Array;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

pub(super) struct JsonEncoder {
    /// `"name":` of each column.
    keys: Vec<Vec<u8>>,
    omit_nulls: bool,
}

impl JsonEncoder {
    pub fn new(schema: &SchemaRef, omit_nulls: bool) -> Result<Self, UnsupportedColumn> {
        check_encodable(schema)?;
        let key = |name: &str| {
            let mut key = Vec::new();
            write_string(name, &mut key);
            key.push(b':');
            key
        };
        Ok(JsonEncoder { keys: schema.fields().iter().map(|field| key(field.name())).collect(), omit_nulls })
    }
}

impl Encoder for JsonEncoder {
    fn encode(
        &mut self,
        batch: &RecordBatch,
        rows: Rows<'_>,
        out: &mut Vec<u8>,
        end_record: &mut dyn FnMut(&mut Vec<u8>),
    ) {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .zip(&self.keys)
            .map(|(column, key)| (key.as_slice(), Cells::of(column), column.logical_nulls()))
            .collect();
        rows.for_each(batch.num_rows(), |row| {
            let mut separator = b'{';
            for (key, cells, nulls) in &columns {
                let is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                if is_null && self.omit_nulls {
                    continue;
                }
                out.push(separator);
                separator = b',';
                out.extend_from_slice(key);
                if is_null {
                    out.extend_from_slice(b"null");
                } else if let Some(text) = cells.text(row) {
                    write_string(text, out);
                } else if cells.is_bare(row) {
                    cells.write(row, out);
                } else {
                    out.push(b'"');
                    cells.write(row, out);
                    out.push(b'"');
                }
            }
            if separator == b'{' {
                out.push(b'{');
            }
            out.push(b'}');
            end_record(out);
        });
    }
}

/// Appends a JSON string.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (position, byte) in bytes.iter().enumerate() {
        let escape = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..=0x1f => b'u',
            _ => continue,
        };
        out.extend_from_slice(&bytes[written..position]);
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        written = position + 1;
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}
