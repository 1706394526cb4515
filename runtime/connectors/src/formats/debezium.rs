//! Change events of Debezium, as JSON, with their schema around them or without: rows that are inserted, changed, deleted.

use super::json_decoder::{Cursor, JsonDecoder};
use super::{BadRecord, Decoder, UnsupportedColumn};
use arrow::array::Int8Array;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_model::ChangeKind;
use weir_model::change::change_kind_field;

pub(super) struct DebeziumDecoder {
    rows: JsonDecoder,
    kinds: Vec<i8>,
    schema: SchemaRef,
    scratch: Vec<u8>,
}

/// The members of an event that count, as they stand in its text. `null` is none.
#[derive(Default)]
struct Event<'a> {
    before: Option<&'a str>,
    after: Option<&'a str>,
    op: Option<&'a str>,
    /// Of the envelope with a schema: the event itself.
    payload: Option<&'a str>,
}

impl DebeziumDecoder {
    pub fn new(schema: &SchemaRef) -> Result<Self, UnsupportedColumn> {
        let change_kind = Arc::new(change_kind_field());
        let fields: Vec<_> = schema.fields().iter().cloned().chain([change_kind]).collect();
        Ok(DebeziumDecoder {
            rows: JsonDecoder::new(schema)?,
            kinds: vec![],
            schema: Arc::new(Schema::new(fields)),
            scratch: vec![],
        })
    }

    fn event<'a>(&mut self, record: &'a str) -> Result<Event<'a>, BadRecord> {
        let event = members(record, &mut self.scratch)?;
        match event.payload {
            Some(payload) if event.op.is_none() => members(payload, &mut self.scratch),
            _ => Ok(event),
        }
    }

    fn change(&mut self, event: &Event<'_>) -> Result<(), BadRecord> {
        let op = event.op.ok_or_else(|| {
            BadRecord::new(
                "no change event of Debezium: it has no `op` (with a connector's `unwrap` transform use json)",
            )
        })?;
        match op.trim_matches('"') {
            "c" | "r" => self.row("after", event.after, ChangeKind::Insert),
            "u" => {
                self.row("before", event.before, ChangeKind::UpdateBefore)?;
                self.row("after", event.after, ChangeKind::UpdateAfter)
            }
            "d" => self.row("before", event.before, ChangeKind::Delete),
            // A message beside the rows.
            "m" => Ok(()),
            "t" => Err(BadRecord::new(
                "a truncated table: its event doesn't say which rows are gone. Leave such events out (skipped.operations=t), \
                 and start the job anew where a table was truncated",
            )),
            other => Err(BadRecord::new(format!("the operation `{other}` is none of c, r, u, d, t and m"))),
        }
    }

    fn row(&mut self, name: &str, row: Option<&str>, kind: ChangeKind) -> Result<(), BadRecord> {
        let Some(row) = row else {
            let hint = match name {
                "before" => ": the database must log whole rows (PostgreSQL: ALTER TABLE .. REPLICA IDENTITY FULL)",
                _ => "",
            };
            return Err(BadRecord::new(format!("the event has no `{name}`{hint}")));
        };
        self.rows.row(row).map_err(|bad| BadRecord { reason: format!("in `{name}`: {}", bad.reason), ..bad })?;
        self.kinds.push(kind as i8);
        Ok(())
    }
}

impl Decoder for DebeziumDecoder {
    fn decode(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        let text = std::str::from_utf8(record)
            .map_err(|error| BadRecord::new(format!("not UTF-8 at byte {} of the record", error.valid_up_to())))?;
        let rows = self.kinds.len();
        let event = self.event(text)?;
        self.change(&event).inspect_err(|_| {
            // What an update takes back may stand there already.
            self.rows.truncate(rows);
            self.kinds.truncate(rows);
        })
    }

    fn is_blank(&self, record: &[u8]) -> bool {
        // A tombstone as some converters write it.
        let record = record.trim_ascii();
        record.is_empty() || record == b"null"
    }

    fn rows(&self) -> usize {
        self.kinds.len()
    }

    fn finish(&mut self) -> RecordBatch {
        let kinds = Arc::new(Int8Array::from(std::mem::take(&mut self.kinds)));
        let values = self.rows.finish();
        let columns = values.columns().iter().cloned().chain([kinds as _]).collect();
        RecordBatch::try_new(self.schema.clone(), columns).expect("a change kind for each row")
    }
}

/// The members of an object that an event may have.
fn members<'a>(object: &'a str, scratch: &mut Vec<u8>) -> Result<Event<'a>, BadRecord> {
    let mut event = Event::default();
    Cursor { text: object, position: 0 }.object(|cursor| {
        if cursor.peek() != Some(b'"') {
            return Err(cursor.error("expected a key in double quotes"));
        }
        let place = match cursor.string(scratch)? {
            "before" => Some(&mut event.before),
            "after" => Some(&mut event.after),
            "op" => Some(&mut event.op),
            "payload" => Some(&mut event.payload),
            _ => None,
        };
        cursor.colon()?;
        let start = cursor.position;
        cursor.skip_value(0)?;
        let value = &object[start..cursor.position];
        if let Some(place) = place
            && value != "null"
        {
            *place = Some(value);
        }
        Ok(())
    })?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{DataType, Field, Int8Type, Int64Type};

    /// The rows of a record, or why it has none.
    fn decode(record: &str) -> Result<Vec<String>, String> {
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)];
        let mut decoder = DebeziumDecoder::new(&Arc::new(Schema::new(fields))).expect("a decoder");
        // Something before it, which must stay.
        decoder.decode(br#"{"op": "c", "after": {"id": 0, "name": "first"}}"#).expect("an insert");
        let decoded = decoder.decode(record.as_bytes());
        let batch = decoder.finish();
        let (ids, names) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
        let kinds = batch.column(2).as_primitive::<Int8Type>();
        let row = |row: usize| {
            let kind = ChangeKind::from_byte(kinds.value(row)).expect("a change kind").symbol();
            format!("{kind} {} {}", ids.value(row), if names.is_null(row) { "-" } else { names.value(row) })
        };
        let rows: Vec<String> = (0..batch.num_rows()).map(row).collect();
        assert_eq!(rows.first().map(String::as_str), Some("+I 0 first"), "{rows:?}");
        decoded.map(|()| rows[1..].to_vec()).map_err(|bad| {
            assert_eq!(rows.len(), 1, "a bad record left something behind: {rows:?}");
            bad.to_string()
        })
    }

    #[test]
    fn operations() {
        let rows = |rows: &[&str]| Ok(rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>());
        assert_eq!(decode(r#"{"before": null, "after": {"id": 1, "name": "a"}, "op": "c"}"#), rows(&["+I 1 a"]));
        assert_eq!(decode(r#"{"op": "r", "after": {"id": 1}, "source": {"lsn": [1]}}"#), rows(&["+I 1 -"]));
        let update = r#"{"before":{"id":1,"name":"a"},"after":{"id":1,"name":"b"},"op":"u","ts_ms":7}"#;
        assert_eq!(decode(update), rows(&["-U 1 a", "+U 1 b"]));
        assert_eq!(decode(r#"{"before":{"id":1,"name":"a"},"after":null,"op":"d"}"#), rows(&["-D 1 a"]));
        assert_eq!(decode(r#"{"op":"m","message":{"prefix":"x"}}"#), rows(&[]));
    }

    #[test]
    fn an_envelope_with_its_schema() {
        let rows = decode(&format!(
            r#"{{"schema": {{"type": "struct", "fields": [{{"field": "op"}}]}}, "payload": {}}}"#,
            r#"{"op": "d", "before": {"id": 5, "name": "x"}, "after": null}"#
        ));
        assert_eq!(rows, Ok(vec!["-D 5 x".to_owned()]));
    }

    #[test]
    fn bad_records_leave_nothing_behind() {
        for (record, part) in [
            (r#"{"before":null,"after":{"id":1},"op":"u"}"#, "REPLICA IDENTITY FULL"),
            (r#"{"before":{"id":1},"after":{"id":"x"},"op":"u"}"#, "in `after`"),
            (r#"{"before":{"name":"a"},"op":"d"}"#, "id"),
            (r#"{"op":"t"}"#, "skipped.operations=t"),
            (r#"{"op":"x"}"#, "none of c, r, u, d"),
            (r#"{"id":1,"name":"flat"}"#, "no `op`"),
            (r#"{"op":"c","after":{"id":1}} {}"#, "end of the record"),
            ("[]", "expected a JSON object"),
        ] {
            let reason = decode(record).expect_err(record);
            assert!(reason.contains(part), "{record}: no word of {part}: {reason}");
        }
    }
}
