//! From the sink's input to messages: the value's columns, the key, and which rows are deletions.

use super::{Delivery, KafkaSinkConfig};
use arrow::array::{Array, ArrayRef, AsArray, Int8Array};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use weir_connectors::api::ConnectorError;
use weir_connectors::formats::{Cells, Encoder, EncoderConfig, Rows, avro_schema, change_kind_symbols, encoder};
use weir_model::{CHANGE_KIND_COLUMN, ChangeKind};

pub(super) struct Layout {
    /// Of the values.
    schema: SchemaRef,
    /// The input's column behind each of the values' columns.
    columns: Vec<usize>,
    changes: Changes,
    key: Key,
    value: Box<dyn Encoder>,
}

/// What becomes of an input's change kinds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changes {
    /// The input has none.
    None,
    /// Written as text, in this column of the values.
    Column(usize),
    /// The latest row of a key counts, and a deletion is a message without a value. In this column of the input.
    ByKey(usize),
}

enum Key {
    None,
    /// The text of the input's only key column.
    Text(usize),
    /// A JSON object of several.
    Object {
        columns: Vec<usize>,
        schema: SchemaRef,
        encoder: Box<dyn Encoder>,
    },
}

/// The messages of one batch; buffers that are used again.
#[derive(Default)]
pub(super) struct Messages {
    keys: Vec<u8>,
    /// Where each message's key ends; empty without keys.
    key_ends: Vec<usize>,
    /// Whether a message has its key: where the only key column is NULL it has none.
    has_key: Vec<bool>,
    values: Vec<u8>,
    value_ends: Vec<usize>,
    /// Empty: none is.
    is_deletion: Vec<bool>,
}

impl Layout {
    /// Refuses an input that the topic can't hold.
    pub(super) fn of(config: &KafkaSinkConfig, input: &SchemaRef) -> Result<Self, ConnectorError> {
        let kind = input.column_with_name(CHANGE_KIND_COLUMN).map(|(index, _)| index);
        let by_key = !config.key.is_empty() && config.change_kind_column.is_none();
        if config.delivery == Delivery::Upsert && config.change_kind_column.is_some() {
            return Err(refused(
                "changeKindColumn has no place in an upsert, where a deletion is a message without a value; remove it, or set another delivery",
            ));
        }
        let (mut fields, mut columns, mut changes) = (vec![], vec![], Changes::None);
        for (index, field) in input.fields().iter().enumerate() {
            if Some(index) != kind {
                fields.push(field.clone());
                columns.push(index);
                continue;
            }
            match &config.change_kind_column {
                None if by_key => changes = Changes::ByKey(index),
                None => {
                    return Err(refused(
                        "the input is updating (its rows change or take back earlier ones): name the columns that identify \
                         a row in `key`, so that the latest message of a key counts and a deletion is one without a value; or \
                         set changeKindColumn to write each row's change kind (+I, -U, +U, -D) beside it",
                    ));
                }
                Some(name) if input.column_with_name(name).is_some() => {
                    return Err(refused(&format!(
                        "changeKindColumn `{name}` is the name of another column; choose a name that is free"
                    )));
                }
                Some(name) => {
                    changes = Changes::Column(columns.len());
                    fields.push(Arc::new(Field::new(name, DataType::Utf8, false)));
                    columns.push(index);
                }
            }
        }
        let schema = Arc::new(Schema::new(fields));
        let value = encoder(&config.format, &schema)?;
        let key = Key::of(&config.key, input)?;
        Ok(Layout { schema, columns, changes, key, value })
    }

    /// The schema of the values, where they are Avro.
    pub(super) fn avro_schema(&self, config: &KafkaSinkConfig) -> Result<Option<String>, ConnectorError> {
        match &config.format {
            EncoderConfig::Avro { schema: Some(given), .. } => Ok(Some(given.clone())),
            EncoderConfig::Avro { schema: None, .. } => {
                avro_schema(&config.topic, &self.schema).map(Some).map_err(ConnectorError::Permanent)
            }
            _ => Ok(None),
        }
    }

    /// Writes with this schema of a registry's, and its number before each value.
    pub(super) fn with_schema(mut self, schema: String, number: u32) -> Result<Self, ConnectorError> {
        self.value = encoder(&EncoderConfig::Avro { schema: Some(schema), number: Some(number) }, &self.schema)?;
        Ok(self)
    }

    /// The batch's messages, in its order.
    pub(super) fn encode(&mut self, batch: &RecordBatch, into: &mut Messages) -> Result<(), ConnectorError> {
        into.clear();
        let kinds = match self.changes {
            Changes::ByKey(column) => Some(batch.column(column).as_primitive::<Int8Type>()),
            Changes::None | Changes::Column(_) => None,
        };
        let selected = kinds.map(|kinds| self.rows_of_messages(batch, kinds, into));
        if let (Some(kinds), Some(rows)) = (kinds, &selected) {
            let is_deletion =
                |row: &u32| ChangeKind::from_byte(kinds.value(*row as usize)).is_some_and(ChangeKind::is_retraction);
            into.is_deletion.extend(rows.iter().map(is_deletion));
        }
        let rows = selected.as_deref().map_or(Rows::All, Rows::These);
        let columns = self.columns.iter().enumerate().map(|(place, index)| -> ArrayRef {
            let column = batch.column(*index);
            if self.changes == Changes::Column(place) { change_kind_symbols(column) } else { column.clone() }
        });
        let values =
            RecordBatch::try_new(self.schema.clone(), columns.collect()).expect("the layout was made for this input");
        let ends = &mut into.value_ends;
        self.value.encode(&values, rows, &mut into.values, &mut |out| ends.push(out.len()));
        self.key.encode(batch, selected.as_deref(), into);
        if matches!(self.changes, Changes::ByKey(_)) && into.has_key.contains(&false) {
            return Err(refused("a row's key is NULL: it could not be told from others. Filter such rows out"));
        }
        Ok(())
    }
}

impl Layout {
    /// All but what a row was before an update, where a later row of the batch has its key: that one's message takes its
    /// place. Where none has, the key is gone: the update has changed it, or a filter keeps what the row is now.
    fn rows_of_messages(&mut self, batch: &RecordBatch, kinds: &Int8Array, into: &mut Messages) -> Vec<u32> {
        let rows = kinds.len();
        let is_before = |row: usize| ChangeKind::from_byte(kinds.value(row)) == Some(ChangeKind::UpdateBefore);
        if !(0..rows).any(is_before) {
            return (0..rows as u32).collect();
        }
        self.key.encode(batch, None, into);
        let key = |row: usize| &into.keys[range(&into.key_ends, row)];
        // Of each key, if it is asked for: the row after an update most often follows at once.
        let mut last_rows: Option<HashMap<&[u8], usize>> = None;
        let mut is_replaced = |row: usize| {
            (row + 1 < rows && key(row + 1) == key(row))
                || last_rows.get_or_insert_with(|| (0..rows).map(|row| (key(row), row)).collect())[key(row)] > row
        };
        let selected = (0..rows).filter(|row| !is_before(*row) || !is_replaced(*row)).map(|row| row as u32).collect();
        into.clear();
        selected
    }
}

impl Key {
    fn of(names: &[String], input: &SchemaRef) -> Result<Self, ConnectorError> {
        let mut columns = vec![];
        for name in names {
            let Some((index, _)) = input.column_with_name(name).filter(|_| name != CHANGE_KIND_COLUMN) else {
                let all: Vec<_> = input.fields().iter().map(|field| field.name().as_str()).collect();
                let all = all.into_iter().filter(|name| *name != CHANGE_KIND_COLUMN).collect::<Vec<_>>().join(", ");
                return Err(refused(&format!("key names the column `{name}`, which the input lacks; it has {all}")));
            };
            columns.push(index);
        }
        let fields: Vec<_> = columns.iter().map(|column| input.fields()[*column].clone()).collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let encoder = encoder(&EncoderConfig::Json { omit_nulls: false }, &schema)?;
        Ok(match columns.as_slice() {
            [] => Key::None,
            [only] => Key::Text(*only),
            _ => Key::Object { columns, schema, encoder },
        })
    }

    fn encode(&mut self, batch: &RecordBatch, rows: Option<&[u32]>, into: &mut Messages) {
        match self {
            Key::None => {}
            Key::Text(column) => {
                let column = batch.column(*column);
                let cells = Cells::of(column);
                let mut one = |row: usize| {
                    let is_valid = column.is_valid(row);
                    if is_valid {
                        match column.as_binary_opt::<i32>() {
                            Some(bytes) => into.keys.extend_from_slice(bytes.value(row)),
                            None => cells.write(row, &mut into.keys),
                        }
                    }
                    into.has_key.push(is_valid);
                    into.key_ends.push(into.keys.len());
                };
                match rows {
                    None => (0..batch.num_rows()).for_each(one),
                    Some(rows) => rows.iter().for_each(|row| one(*row as usize)),
                }
            }
            Key::Object { columns, schema, encoder } => {
                let columns = columns.iter().map(|column| batch.column(*column).clone()).collect();
                let keys = RecordBatch::try_new(schema.clone(), columns).expect("the layout was made for this input");
                let Messages { keys: out, key_ends, has_key, .. } = into;
                let rows = rows.map_or(Rows::All, Rows::These);
                encoder.encode(&keys, rows, out, &mut |out| {
                    key_ends.push(out.len());
                    has_key.push(true);
                });
            }
        }
    }
}

impl Messages {
    pub(super) fn len(&self) -> usize {
        self.value_ends.len()
    }

    pub(super) fn key(&self, message: usize) -> Option<&[u8]> {
        self.has_key.get(message).filter(|has_key| **has_key).map(|_| &self.keys[range(&self.key_ends, message)])
    }

    /// None: a deletion.
    pub(super) fn value(&self, message: usize) -> Option<&[u8]> {
        let is_deletion = self.is_deletion.get(message).copied().unwrap_or(false);
        (!is_deletion).then(|| &self.values[range(&self.value_ends, message)])
    }

    fn clear(&mut self) {
        let Messages { keys, key_ends, has_key, values, value_ends, is_deletion } = self;
        keys.clear();
        key_ends.clear();
        has_key.clear();
        values.clear();
        value_ends.clear();
        is_deletion.clear();
    }
}

fn range(ends: &[usize], at: usize) -> Range<usize> {
    let start = if at == 0 { 0 } else { ends[at - 1] };
    start..ends[at]
}

fn refused(reason: &str) -> ConnectorError {
    ConnectorError::Permanent(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KafkaCluster;
    use arrow::array::{Int64Array, StringArray};
    use std::time::Duration;

    fn config(key: &[&str], change_kind_column: Option<&str>) -> KafkaSinkConfig {
        KafkaSinkConfig {
            cluster: KafkaCluster::default(),
            topic: "t".into(),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            delivery: Delivery::ExactlyOnce,
            format: EncoderConfig::Json { omit_nulls: false },
            registry: None,
            change_kind_column: change_kind_column.map(str::to_owned),
            transaction_timeout: Duration::from_secs(60),
            transactional_id_prefix: None,
        }
    }

    fn updates() -> RecordBatch {
        let kinds = [ChangeKind::Insert, ChangeKind::UpdateBefore, ChangeKind::UpdateAfter, ChangeKind::Delete];
        let fields = vec![
            Field::new("k", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
            Field::new(CHANGE_KIND_COLUMN, DataType::Int8, false),
        ];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["a"; 4])),
            Arc::new(Int64Array::from(vec![1, 1, 2, 2])),
            Arc::new(Int8Array::from_iter_values(kinds.map(|kind| kind as i8))),
        ];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    fn messages(config: &KafkaSinkConfig, batch: &RecordBatch) -> Vec<String> {
        let mut messages = Messages::default();
        Layout::of(config, &batch.schema()).unwrap().encode(batch, &mut messages).unwrap();
        let text =
            |bytes: Option<&[u8]>| bytes.map_or("none".into(), |bytes| String::from_utf8_lossy(bytes).into_owned());
        (0..messages.len()).map(|at| format!("{} = {}", text(messages.key(at)), text(messages.value(at)))).collect()
    }

    #[test]
    fn updates_by_key_are_upserts_and_tombstones() {
        let expected = [r#"a = {"k":"a","n":1}"#, r#"a = {"k":"a","n":2}"#, "a = none"];
        assert_eq!(messages(&config(&["k"], None), &updates()), expected);
    }

    /// What an update takes out of the key's row, or a filter out of the results, is not there any more.
    #[test]
    fn what_an_update_was_goes_where_nothing_takes_its_place() {
        let several = messages(&config(&["k", "n"], None), &updates());
        let (first, second) = (r#"{"k":"a","n":1}"#, r#"{"k":"a","n":2}"#);
        assert_eq!(
            several[..3],
            [format!("{first} = {first}"), format!("{first} = none"), format!("{second} = {second}")]
        );
        // Filtered: what it is after the update is not among the results.
        let filtered = updates().slice(0, 2);
        assert_eq!(messages(&config(&["k"], None), &filtered), [r#"a = {"k":"a","n":1}"#, "a = none"]);
    }

    #[test]
    fn updates_with_a_column_for_their_kind_are_all_written() {
        let written = messages(&config(&[], Some("op")), &updates());
        assert_eq!(written.len(), 4);
        assert_eq!(written[1], r#"none = {"k":"a","n":1,"op":"-U"}"#);
    }

    #[test]
    fn updates_that_nothing_could_tell_apart_are_refused() {
        let refused = Layout::of(&config(&[], None), &updates().schema()).err().unwrap().to_string();
        assert!(refused.contains("`key`") && refused.contains("changeKindColumn"), "{refused}");
    }
}
