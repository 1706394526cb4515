use super::*;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float64Type, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use proptest::prelude::*;
use std::sync::Arc;
use weir_model::types::TIMESTAMP;

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields = columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn record(fields: &str) -> String {
    format!(r#"{{"type": "record", "name": "R", "namespace": "n", "fields": [{fields}]}}"#)
}

fn decoder(fields: &str, columns: &[(&str, DataType)]) -> AvroDecoder {
    AvroDecoder::new(&AvroSchemas::One(record(fields)), &schema(columns)).unwrap()
}

/// Zigzag, as the standard's examples have it.
fn long(value: i64) -> Vec<u8> {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    let mut bytes = vec![];
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn text(value: &str) -> Vec<u8> {
    [long(value.len() as i64), value.as_bytes().to_vec()].concat()
}

#[test]
fn numbers_are_those_of_the_standard() {
    for (value, bytes) in [(0, vec![0]), (-1, vec![1]), (1, vec![2]), (-64, vec![0x7f]), (64, vec![0x80, 1])] {
        assert_eq!(long(value), bytes);
        assert_eq!(Cursor::new(&bytes).long().unwrap(), value);
    }
    assert_eq!(Cursor::new(&long(i64::MIN)).long().unwrap(), i64::MIN);
    assert!(Cursor::new(&[0x80; 11]).long().is_err());
}

#[test]
fn values_go_to_the_columns_of_their_names() {
    let fields = r#"
        {"name": "gone", "type": {"type": "array", "items": ["null", "string"]}},
        {"name": "id", "type": "int"},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "color", "type": {"type": "enum", "name": "C", "symbols": ["RED", "BLUE"]}},
        {"name": "more", "type": {"type": "map", "values": {"type": "record", "name": "In", "fields": [
            {"name": "next", "type": ["null", "In"]}, {"name": "c", "type": "C"}]}}}"#;
    let columns = [
        ("id", DataType::Int64),
        ("ratio", DataType::Float64),
        ("price", DataType::Decimal128(12, 3)),
        ("at", TIMESTAMP),
        ("day", DataType::Date32),
        ("color", DataType::Utf8),
        ("more", DataType::Utf8),
    ];
    let mut decoder = decoder(fields, &columns);
    let nested = [long(1), text("k"), long(1), long(0), long(0), long(1), long(0)].concat();
    let row = [
        // An array in a block that says how many bytes it has.
        [long(-2), long(5), long(0), long(1), text("ab"), long(0)].concat(),
        long(7),
        [long(2), vec![0xfe, 0x0c]].concat(),
        [long(1), long(1_700_000_000_123)].concat(),
        long(-1),
        long(1),
        nested,
    ]
    .concat();
    decoder.decode(&row).unwrap();
    // Cut off, and with something behind it: neither leaves anything.
    assert!(decoder.decode(&row[..row.len() - 1]).is_err());
    assert!(decoder.decode(&[row.clone(), vec![0]].concat()).unwrap_err().reason.contains("another schema"));
    decoder.decode(&row).unwrap();
    let batch = decoder.finish();
    assert_eq!(batch.num_rows(), 2);
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(1), 7);
    assert!(batch.column(1).as_primitive::<Float64Type>().null_count() == 2);
    assert_eq!(batch.column(2).as_primitive::<Decimal128Type>().value(0), -5_000);
    assert_eq!(batch.column(3).as_primitive::<TimestampMicrosecondType>().value(0), 1_700_000_000_123_000);
    assert_eq!(batch.column(4).as_primitive::<Date32Type>().value(0), -1);
    assert_eq!(batch.column(5).as_string::<i32>().value(0), "BLUE");
    assert_eq!(batch.column(6).as_string::<i32>().value(0), r#"{"k":{"next":{"next":null,"c":"RED"},"c":"BLUE"}}"#);
}

#[test]
fn messages_of_several_schemas_make_one_table() {
    let columns = schema(&[("id", DataType::Int64), ("note", DataType::Utf8), ("n", DataType::Int32)]);
    let mut decoder = AvroDecoder::new(&AvroSchemas::ByNumber, &columns).unwrap();
    let message = |number: u32, body: Vec<u8>| [vec![0], number.to_be_bytes().to_vec(), body].concat();
    let first = message(3, long(1));
    assert_eq!(decoder.unknown_schema(&first), Some(3));
    assert!(decoder.decode(&first).unwrap_err().reason.contains("no schema 3"));
    decoder.learn_schema(3, &record(r#"{"name": "id", "type": "int"}"#)).unwrap();
    assert_eq!(decoder.unknown_schema(&first), None);
    decoder.decode(&first).unwrap();
    let wider =
        r#"{"name": "note", "type": "string"}, {"name": "id", "type": "long"}, {"name": "new", "type": "boolean"}"#;
    decoder.learn_schema(9, &record(wider)).unwrap();
    decoder.decode(&message(9, [text("x"), long(1 << 40), vec![1]].concat())).unwrap();
    assert!(decoder.decode(b"{}").unwrap_err().reason.contains("a zero byte"));
    decoder.learn_schema(4, &record(r#"{"name": "n", "type": "long"}"#)).unwrap();
    assert_eq!(decoder.decode(&message(4, long(1 << 40))).unwrap_err().column.as_deref(), Some("n"));
    let batch = decoder.finish();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 1 << 40]);
    assert!(batch.column(1).is_null(0) && batch.column(1).as_string::<i32>().value(1) == "x");
    assert_eq!(batch.column(2).as_primitive::<Int32Type>().null_count(), 2);
}

#[test]
fn schemas_that_cannot_be_used_say_why() {
    for (text, said) in [
        ("{", "not JSON"),
        (r#""long""#, "rows need a record"),
        (&record(r#"{"name": "a", "type": "Missing"}"#), "uses the type `Missing`"),
        (&record(r#"{"name": "a", "type": {"type": "array"}}"#), "array without `items`"),
        (&record(r#"{"name": "a", "type": "int"}, {"name": "a", "type": "int"}"#), "two fields `a`"),
    ] {
        let refused = AvroDecoder::new(&AvroSchemas::One(text.to_owned()), &schema(&[])).err().unwrap().to_string();
        assert!(refused.contains(said), "{refused}");
    }
}

proptest! {
    /// Whatever bytes come: a row, or an error that leaves nothing.
    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let fields = r#"
            {"name": "a", "type": ["null", "string", {"type": "map", "values": "bytes"}]},
            {"name": "b", "type": {"type": "array", "items": "null"}},
            {"name": "c", "type": {"type": "record", "name": "In", "fields": [{"name": "in", "type": ["null", "In"]}]}},
            {"name": "d", "type": {"type": "fixed", "name": "F", "size": 20, "logicalType": "decimal", "scale": 3}}"#;
        let columns = [("a", DataType::Utf8), ("c", DataType::Utf8), ("d", DataType::Decimal128(38, 3))];
        let mut decoder = decoder(fields, &columns);
        let rows = usize::from(decoder.decode(&bytes).is_ok());
        prop_assert_eq!(decoder.rows(), rows);
        prop_assert_eq!(decoder.finish().num_rows(), rows);
    }
}
