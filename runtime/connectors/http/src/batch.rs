//! Records on their way into a body.

use crate::sink::BodyFormat;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_connectors::api::ConnectorError;
use weir_connectors::formats::{Encoder, Rows, change_kind_symbols, encoder};
use weir_model::CHANGE_KIND_COLUMN;

/// A body ends with the record that comes to this, whatever the number of records.
const MAX_BODY_BYTES: usize = 4 << 20;

/// What a request has of a row: the change kind as text, if it is asked for.
pub(crate) struct Columns {
    pub(crate) schema: SchemaRef,
    change_kind: Option<usize>,
}

impl Columns {
    pub(crate) fn of(input: &SchemaRef, change_kind_column: Option<&str>) -> Result<Self, ConnectorError> {
        let change_kind = input.index_of(CHANGE_KIND_COLUMN).ok();
        let mut fields: Vec<_> = input.fields().iter().cloned().collect();
        if let Some(place) = change_kind {
            let Some(name) = change_kind_column else {
                return Err(ConnectorError::Permanent(
                    "the input is updating (its rows change or take back earlier ones): set changeKindColumn to send each \
                     row's change kind (+I, -U, +U, -D) beside it, or aggregate in windows"
                        .into(),
                ));
            };
            if input.column_with_name(name).is_some() {
                return Err(ConnectorError::Permanent(format!(
                    "changeKindColumn `{name}` is the name of another column; choose a name that is free"
                )));
            }
            fields[place] = Arc::new(Field::new(name, DataType::Utf8, false));
        }
        Ok(Columns { schema: Arc::new(Schema::new(fields)), change_kind })
    }

    fn apply(&self, batch: &RecordBatch) -> RecordBatch {
        let mut columns = batch.columns().to_vec();
        if let Some(place) = self.change_kind {
            columns[place] = change_kind_symbols(&columns[place]);
        }
        RecordBatch::try_new(self.schema.clone(), columns).expect("made for this input")
    }
}

/// The body being filled. Where it ends follows from the records alone, not from the batches that they came in: the same
/// records make the same bodies when they come again.
pub(crate) struct Batch {
    columns: Columns,
    encoder: Box<dyn Encoder>,
    /// Records in brackets with commas between; else each is followed by a line end.
    is_array: bool,
    header: Vec<u8>,
    max_rows: usize,
    body: Vec<u8>,
    rows: usize,
}

impl Batch {
    pub(crate) fn new(format: &BodyFormat, columns: Columns, max_rows: usize) -> Result<Self, ConnectorError> {
        let encoder = encoder(&format.encoder(), &columns.schema)?;
        let mut header = encoder.header().unwrap_or_default();
        if !header.is_empty() {
            header.push(b'\n');
        }
        let is_array = matches!(format, BodyFormat::Json { .. });
        Ok(Batch { columns, encoder, is_array, header, max_rows, body: vec![], rows: 0 })
    }

    /// Takes all rows, and gives each body that is full to `send`.
    pub(crate) fn take(
        &mut self,
        batch: &RecordBatch,
        mut send: impl FnMut(Vec<u8>) -> Result<(), ConnectorError>,
    ) -> Result<(), ConnectorError> {
        let laid_out = self.columns.apply(batch);
        for row in 0..laid_out.num_rows() as u32 {
            let separator = if self.is_array { b',' } else { b'\n' };
            self.encoder.encode(&laid_out, Rows::These(&[row]), &mut self.body, &mut |out| out.push(separator));
            self.rows += 1;
            if (self.rows >= self.max_rows || self.body.len() >= MAX_BODY_BYTES)
                && let Some(body) = self.finish()
            {
                send(body)?;
            }
        }
        Ok(())
    }

    /// What there is of a body.
    pub(crate) fn finish(&mut self) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.rows) == 0 {
            return None;
        }
        let mut records = std::mem::take(&mut self.body);
        if !self.is_array {
            records.splice(0..0, self.header.iter().copied());
            return Some(records);
        }
        // The last comma.
        records.pop();
        if self.max_rows > 1 {
            records.insert(0, b'[');
            records.push(b']');
        }
        Some(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use weir_connectors::formats::EncoderConfig;

    /// The bodies of these batches of ids.
    fn bodies(format: &BodyFormat, max_rows: usize, batches: &[&[i64]]) -> Vec<String> {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
        let mut batch = Batch::new(format, Columns::of(&schema, None).expect("columns"), max_rows).expect("a batch");
        let mut bodies = vec![];
        for ids in batches {
            let rows =
                RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(ids.to_vec()))]).expect("rows");
            batch
                .take(&rows, |body| {
                    bodies.push(body);
                    Ok(())
                })
                .expect("taken");
        }
        bodies.extend(batch.finish());
        bodies.into_iter().map(|body| String::from_utf8(body).expect("text")).collect()
    }

    #[test]
    fn bodies_do_not_depend_on_how_records_come() {
        let json = BodyFormat::Json { omit_nulls: false };
        let expected = [r#"[{"id":1},{"id":2}]"#, r#"[{"id":3},{"id":4}]"#, r#"[{"id":5}]"#];
        assert_eq!(bodies(&json, 2, &[&[1, 2, 3, 4, 5]]), expected);
        assert_eq!(bodies(&json, 2, &[&[1], &[2, 3], &[4, 5]]), expected);
        assert_eq!(bodies(&json, 1, &[&[1, 2]]), [r#"{"id":1}"#, r#"{"id":2}"#]);
        let csv = BodyFormat::Lines { format: EncoderConfig::Csv(Default::default()), content_type: "text/csv" };
        assert_eq!(bodies(&csv, 2, &[&[1, 2, 3]]), ["id\n1\n2\n", "id\n3\n"]);
    }
}
