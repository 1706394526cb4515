//! Formats: what is written reads back, and odd input means what the docs say.

mod support;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use proptest::prelude::*;
use std::sync::Arc;
use weir_connectors::formats::*;
use weir_model::types::TIMESTAMP;

fn wide_schema() -> SchemaRef {
    let fields = [
        ("b", DataType::Boolean),
        ("i8", DataType::Int8),
        ("i16", DataType::Int16),
        ("i32", DataType::Int32),
        ("i64", DataType::Int64),
        ("f32", DataType::Float32),
        ("f64", DataType::Float64),
        ("decimal", DataType::Decimal128(20, 3)),
        ("te\"xt,", DataType::Utf8),
        ("bytes", DataType::Binary),
        ("date", DataType::Date32),
        ("time", DataType::Time64(TimeUnit::Microsecond)),
        ("timestamp", TIMESTAMP),
    ];
    Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
}

type Row = (
    (Option<bool>, Option<i8>, Option<i16>, Option<i32>, Option<i64>, Option<f32>, Option<f64>),
    (Option<i64>, Option<String>, Option<Vec<u8>>, Option<i32>, Option<i64>, Option<i64>),
);

fn wide_row() -> impl Strategy<Value = Row> {
    use prop::option::of;
    let text = prop_oneof![any::<String>(), "[a\"\\\\,\\n\\r\\t ]{0,8}", Just("NA".to_owned()), Just(String::new())];
    (
        (
            of(any::<bool>()),
            of(any::<i8>()),
            of(any::<i16>()),
            of(any::<i32>()),
            of(any::<i64>()),
            of(any::<f32>()),
            of(any::<f64>()),
        ),
        (
            of(any::<i64>()),
            of(text),
            of(prop::collection::vec(any::<u8>(), 1..9)),
            of(-700_000..2_900_000),
            of(0_i64..86_400_000_000),
            of(-62_135_596_800_000_000_i64..253_402_300_800_000_000),
        ),
    )
}

fn wide_batch(rows: &[Row]) -> RecordBatch {
    let decimal = rows.iter().map(|(_, (value, ..))| value.map(i128::from)).collect::<Decimal128Array>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|((value, ..), _)| *value).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|(row, _)| row.1).collect::<Int8Array>()),
        Arc::new(rows.iter().map(|(row, _)| row.2).collect::<Int16Array>()),
        Arc::new(rows.iter().map(|(row, _)| row.3).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|(row, _)| row.4).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|(row, _)| row.5).collect::<Float32Array>()),
        Arc::new(rows.iter().map(|(row, _)| row.6).collect::<Float64Array>()),
        Arc::new(decimal.with_precision_and_scale(20, 3).unwrap()),
        Arc::new(rows.iter().map(|(_, row)| row.1.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|(_, row)| row.2.clone()).collect::<BinaryArray>()),
        Arc::new(rows.iter().map(|(_, row)| row.3).collect::<Date32Array>()),
        Arc::new(rows.iter().map(|(_, row)| row.4).collect::<Time64MicrosecondArray>()),
        Arc::new(rows.iter().map(|(_, row)| row.5).collect::<TimestampMicrosecondArray>()),
    ];
    RecordBatch::try_new(wide_schema(), columns).unwrap()
}

/// Through records and back.
fn there_and_back(write: &EncoderConfig, read: &DecoderConfig, batch: &RecordBatch) -> RecordBatch {
    let mut encoder = encoder(write, &batch.schema()).unwrap();
    let mut decoder = decoder(read, &batch.schema()).unwrap();
    if let Some(header) = encoder.header() {
        decoder.header(&header).unwrap();
    }
    let (mut bytes, mut ends) = (Vec::new(), vec![0]);
    encoder.encode(batch, Rows::All, &mut bytes, &mut |out| ends.push(out.len()));
    for record in ends.windows(2) {
        let record = &bytes[record[0]..record[1]];
        decoder.decode(record).unwrap_or_else(|bad| panic!("{bad}: {}", String::from_utf8_lossy(record)));
    }
    decoder.finish()
}

proptest! {
    #[test]
    fn every_type_reads_back(rows in prop::collection::vec(wide_row(), 0..20)) {
        let batch = wide_batch(&rows);
        for omit_nulls in [false, true] {
            let back = there_and_back(&EncoderConfig::Json { omit_nulls }, &DecoderConfig::Json, &batch);
            prop_assert_eq!(&back, &batch);
        }
        for null_value in ["", "NA"] {
            let csv = CsvFormat { null_value: null_value.into(), delimiter: b';', ..CsvFormat::default() };
            let back = there_and_back(&EncoderConfig::Csv(csv.clone()), &DecoderConfig::Csv(csv), &batch);
            prop_assert_eq!(&back, &batch);
        }
    }

    #[test]
    fn json_agrees_with_a_parser_that_builds_trees(text in any::<String>(), cut in any::<prop::sample::Index>()) {
        let record = serde_json::json!({ "id": 1, "other": [text, {"k": null}], "word": text }).to_string();
        // Whole records and mangled ones.
        let place = record.char_indices().nth(cut.index(record.chars().count())).unwrap().0;
        let mangled = [format!("{}{}", &record[..place], &record[place..].chars().skip(1).collect::<String>()), record];
        for record in mangled {
            let expected = serde_json::from_str::<serde_json::Value>(&record).ok().filter(|value| value["id"] == 1);
            let mut decoder = decoder(&DecoderConfig::Json, &support::schema()).unwrap();
            let decoded = decoder.decode(record.as_bytes());
            match (decoded, expected) {
                (Ok(()), Some(expected)) => {
                    let batch = decoder.finish();
                    let word = batch.column(1).as_string::<i32>();
                    let word = word.is_valid(0).then(|| word.value(0));
                    prop_assert_eq!(word, expected["word"].as_str());
                }
                // Raw control characters in strings are let through here, and a text column takes any value.
                (Ok(()), None) => prop_assert!(record.chars().any(|c| c < ' '), "{}", record),
                (Err(bad), Some(_)) => prop_assert!(false, "{}: {}", bad, record),
                (Err(_), None) => prop_assert_eq!(decoder.rows(), 0),
            }
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic_or_keep_half_a_row(records in prop::collection::vec(any::<Vec<u8>>(), 0..20)) {
        for config in [DecoderConfig::Json, DecoderConfig::Csv(CsvFormat::default())] {
            let mut decoder = decoder(&config, &support::schema()).unwrap();
            for record in records.iter().map(Vec::as_slice).chain([&b"{\"id\":5}"[..], b"5,a,1,", b"5,a,\"1,"]) {
                let before = decoder.rows();
                let decoded = decoder.decode(record);
                prop_assert_eq!(decoder.rows() - before, usize::from(decoded.is_ok()));
            }
            let rows = decoder.rows();
            prop_assert_eq!(decoder.finish().num_rows(), rows);
        }
    }
}

#[test]
fn lenient_where_the_meaning_is_clear() {
    let mut decoder = decoder(&DecoderConfig::Json, &wide_schema()).unwrap();
    decoder
        .decode(
            br#" { "i64" : "12", "f64":7, "f32" : "NaN", "i32": 1e3, "b":"true", "decimal": "1.2345",
              "timestamp": 1357017300000, "te\"xt,": {"a": [1, "\u00e4"]} , "date":null, "time" : "05:15" } "#,
        )
        .unwrap();
    decoder.decode(br#"{"te\"xt,": 1.50, "timestamp": "2013-01-01 05:15:00+01", "bytes": "/w=="}"#).unwrap();
    decoder.decode(br#"{"te\u0022xt,": true, "i64": -0}"#).unwrap();
    decoder.decode(b"{}").unwrap();
    let batch = decoder.finish();
    let mut lines = Vec::new();
    encoder(&EncoderConfig::Json { omit_nulls: true }, &batch.schema()).unwrap().encode(
        &batch,
        Rows::All,
        &mut lines,
        &mut |out| out.push(b'\n'),
    );
    let lines = String::from_utf8(lines).unwrap();
    let expected = [
        r#"{"b":true,"i32":1000,"i64":12,"f32":"NaN","f64":7.0,"decimal":1.235,"te\"xt,":"{\"a\": [1, \"\\u00e4\"]}","time":"05:15:00","timestamp":"2013-01-01T05:15:00"}"#,
        r#"{"te\"xt,":"1.50","bytes":"/w==","timestamp":"2013-01-01T04:15:00"}"#,
        r#"{"i64":0,"te\"xt,":"true"}"#,
        "{}",
    ];
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn bad_csv_records() {
    let mut decoder = decoder(&DecoderConfig::Csv(CsvFormat::default()), &support::schema()).unwrap();
    decoder.header(b"value,id,at,\"word\",unused").unwrap();
    for (record, expected) in [
        ("1,2,,w", "it has 4 fields, but the header names 5"),
        ("1,2,,w,x,y", "it has 6 fields, but the header names 5"),
        ("1,,,w,x", "column `id`: it has no value, and the column is not nullable"),
        ("1,two,,w,x", "column `id`: expected BIGINT, found \"two\""),
        ("1,99999999999999999999,,w,x", "column `id`: expected BIGINT, found \"99999999999999999999\""),
        ("1,2,,\"w,x", "the quote at byte 5 of the record is never closed"),
        ("1,2,,\"w\"x,y", "expected `,` or the end of the record after the closing quote at byte 7 of the record"),
        ("1,2,2013-02-30,w,x", "column `at`: expected TIMESTAMP"),
    ] {
        let bad = decoder.decode(record.as_bytes()).unwrap_err().to_string();
        assert!(bad.contains(expected), "{record}: {bad}");
    }
    let bad = decoder.decode(b"1,2,,\xff,x").unwrap_err().to_string();
    assert_eq!(bad, "not UTF-8 at byte 5 of the record");
    decoder.decode(b" 1.5 ,\"2\",1357017300000, w ,").unwrap();
    let batch = decoder.finish();
    assert_eq!(batch.num_rows(), 1);
    assert_eq!(batch.column(1).as_string::<i32>().value(0), " w ");
    let bad = decoder.header(b"id,id,word,value,at").unwrap_err().to_string();
    assert_eq!(bad, "column `id`: the header names it more than once");
}

#[test]
fn raw_is_one_column() {
    let batch = |column: ArrayRef| {
        let field = Field::new("line", column.data_type().clone(), false);
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap()
    };
    for batch in [
        batch(Arc::new(StringArray::from(vec!["a", "", "ü,\""]))),
        batch(Arc::new(BinaryArray::from(vec![&b"a"[..], b"", b"\xff\0"]))),
    ] {
        assert_eq!(there_and_back(&EncoderConfig::Raw, &DecoderConfig::Raw, &batch), batch);
    }
    let error = decoder(&DecoderConfig::Raw, &support::schema()).err().unwrap().to_string();
    assert!(error.contains("exactly one column") && error.contains("word VARCHAR"), "{error}");
}

#[test]
fn a_column_that_text_can_t_hold_is_refused_at_once() {
    let list = Field::new_list("items", Field::new("item", DataType::Int64, true), true);
    let schema = Arc::new(Schema::new(vec![list]));
    for error in [
        decoder(&DecoderConfig::Json, &schema).err().unwrap(),
        encoder(&EncoderConfig::Json { omit_nulls: false }, &schema).err().unwrap(),
    ] {
        assert!(error.to_string().starts_with("column `items` is of type"), "{error}");
    }
}
