//! Comma-separated values into columns.

use super::columns::{ColumnBuilder, into_batch};
use super::{BadRecord, CsvFormat, Decoder, UnsupportedColumn};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

pub(super) struct CsvDecoder {
    format: CsvFormat,
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    /// For each field of a record the column it fills, if any.
    fields: Vec<Option<usize>>,
    rows: usize,
    scratch: Vec<u8>,
}

impl CsvDecoder {
    pub fn new(format: &CsvFormat, schema: &SchemaRef) -> Result<Self, UnsupportedColumn> {
        let columns = schema.fields().iter().map(|field| ColumnBuilder::new(field)).collect::<Result<_, _>>()?;
        Ok(CsvDecoder {
            format: format.clone(),
            schema: schema.clone(),
            columns,
            fields: (0..schema.fields().len()).map(Some).collect(),
            rows: 0,
            scratch: Vec::new(),
        })
    }

    fn record(&mut self, record: &str) -> Result<(), BadRecord> {
        let mut fields = Fields { text: record, next: Some(0), format: &self.format };
        let mut count = 0;
        while let Some(field) = fields.next(&mut self.scratch)? {
            if let Some(Some(column)) = self.fields.get(count) {
                let column = &mut self.columns[*column];
                if !field.quoted
                    && (field.text == self.format.null_value || (field.text.is_empty() && !column.is_text()))
                {
                    column.push_null()?;
                } else if column.is_text() {
                    column.push_text(field.text)?;
                } else {
                    column.push_text(field.text.trim_ascii())?;
                }
            }
            count += 1;
        }
        if count != self.fields.len() {
            let expected = self.fields.len();
            let whence = if self.format.header { "the header names" } else { "the schema has" };
            return Err(BadRecord::new(format!("it has {count} fields, but {whence} {expected}")));
        }
        Ok(())
    }
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        let decoded = as_text(record).and_then(|text| self.record(text));
        match decoded {
            Ok(()) => self.rows += 1,
            Err(_) => {
                let rows = self.rows;
                self.columns.iter_mut().for_each(|column| column.truncate(rows));
            }
        }
        decoded
    }

    fn header(&mut self, header: &[u8]) -> Result<(), BadRecord> {
        let mut names = Vec::new();
        let mut fields = Fields { text: as_text(header)?, next: Some(0), format: &self.format };
        while let Some(field) = fields.next(&mut self.scratch)? {
            names.push(field.text.trim_ascii().to_owned());
        }
        for column in &self.columns {
            match names.iter().filter(|name| *name == column.name()).count() {
                1 => {}
                0 => {
                    let reason = format!("the header has no such column; it has {}", names.join(", "));
                    return Err(BadRecord::in_column(column.name(), reason));
                }
                _ => return Err(BadRecord::in_column(column.name(), "the header names it more than once")),
            }
        }
        let column_of = |name: &String| self.columns.iter().position(|column| column.name() == name);
        self.fields = names.iter().map(column_of).collect();
        Ok(())
    }

    fn is_blank(&self, record: &[u8]) -> bool {
        // With a single field an empty record is an empty field.
        record.is_empty() && self.fields.len() > 1
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        into_batch(&self.schema, &mut self.columns)
    }
}

fn as_text(record: &[u8]) -> Result<&str, BadRecord> {
    std::str::from_utf8(record)
        .map_err(|error| BadRecord::new(format!("not UTF-8 at byte {} of the record", error.valid_up_to())))
}

struct Field<'a> {
    text: &'a str,
    quoted: bool,
}

/// The fields of one record, one after another. Delimiter and quote are ASCII, so that every cut is between characters.
struct Fields<'a> {
    text: &'a str,
    /// Where the next field begins; past the last delimiter one more, if empty, field follows.
    next: Option<usize>,
    format: &'a CsvFormat,
}

impl<'a> Fields<'a> {
    #[inline]
    fn next<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Result<Option<Field<'s>>, BadRecord>
    where
        'a: 's,
    {
        let Some(start) = self.next else { return Ok(None) };
        let bytes = self.text.as_bytes();
        if bytes.get(start) == Some(&self.format.quote) {
            return self.quoted(start, scratch).map(Some);
        }
        let length = bytes[start..].iter().position(|byte| *byte == self.format.delimiter);
        let end = length.map_or(bytes.len(), |length| start + length);
        self.next = length.map(|_| end + 1);
        Ok(Some(Field { text: &self.text[start..end], quoted: false }))
    }

    fn quoted<'s>(&mut self, start: usize, scratch: &'s mut Vec<u8>) -> Result<Field<'s>, BadRecord>
    where
        'a: 's,
    {
        let bytes = self.text.as_bytes();
        let CsvFormat { delimiter, quote, .. } = *self.format;
        scratch.clear();
        let mut from = start + 1;
        loop {
            let Some(length) = memchr::memchr(quote, &bytes[from..]) else {
                return Err(BadRecord::new(format!("the quote at byte {start} of the record is never closed")));
            };
            let end = from + length;
            let text = match bytes.get(end + 1) {
                Some(next) if *next == quote => {
                    scratch.extend_from_slice(&bytes[from..=end]);
                    from = end + 2;
                    continue;
                }
                None => {
                    self.next = None;
                    from..end
                }
                Some(next) if *next == delimiter => {
                    self.next = Some(end + 2);
                    from..end
                }
                Some(_) => {
                    return Err(BadRecord::new(format!(
                        "expected `{}` or the end of the record after the closing quote at byte {end} of the record",
                        char::from(delimiter)
                    )));
                }
            };
            if scratch.is_empty() {
                return Ok(Field { text: &self.text[text], quoted: true });
            }
            scratch.extend_from_slice(&bytes[text]);
            let text = std::str::from_utf8(scratch).expect("made of whole pieces of a string");
            return Ok(Field { text, quoted: true });
        }
    }
}
