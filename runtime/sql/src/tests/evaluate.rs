//! Expressions, run: what SQL promises about their values and types.

use super::*;
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use weir_model::graph::{JobGraph, NodeKind, OperatorSpec};
use weir_model::types::sql_type_name;

/// id, customer, amount, ts: the third row is of nulls.
fn orders() -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(7), Some(-2), None])),
        Arc::new(StringArray::from(vec![Some("Ada"), Some("bücher"), None])),
        Arc::new(Float64Array::from(vec![Some(2.5), Some(-0.5), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(1_357_751_103_250_000), Some(0), None])),
    ];
    RecordBatch::try_new(definition(vec![]).sources[0].schema.clone(), columns).unwrap()
}

fn customers(payload: &str) -> RecordBatch {
    let text = |value: &str| Arc::new(StringArray::from(vec![Some(value)])) as ArrayRef;
    let level = Arc::new(arrow::array::Int32Array::from(vec![1])) as ArrayRef;
    let columns = vec![text("Ada"), text("GB"), text(payload), level];
    RecordBatch::try_new(definition(vec![]).sources[2].schema.clone(), columns).unwrap()
}

fn graph_of(sql: &str) -> JobGraph {
    plan(&definition(vec![transform("q", sql)]), &NoCustomOperators)
        .unwrap_or_else(|errors| panic!("{sql}: {}", errors[0]))
}

/// The type of the only result column, and its values or the error.
fn evaluate(expression: &str, table: &str, batch: &RecordBatch) -> String {
    let graph = graph_of(&format!("SELECT {expression} AS x FROM {table}"));
    let NodeKind::Operator(OperatorSpec::Calc(calc)) = &graph.nodes.last().unwrap().kind else { panic!("no calc") };
    let expression = &calc.projection[0];
    match expression.evaluate(batch) {
        Ok(array) => {
            assert_eq!(array.data_type(), expression.data_type());
            assert_eq!(array.len(), batch.num_rows());
            let value = |row| match array.is_null(row) {
                true => "NULL".to_owned(),
                false => array_value_to_string(&array, row).unwrap(),
            };
            let values: Vec<String> = (0..array.len()).map(value).collect();
            format!("{}: {}", sql_type_name(array.data_type()), values.join(" | "))
        }
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn scalars() {
    let batch = orders();
    for (expression, expected) in [
        ("id", "BIGINT: 7 | -2 | NULL"),
        ("id * 2 + 1", "BIGINT: 15 | -3 | NULL"),
        ("id / 2", "BIGINT: 3 | -1 | NULL"),
        ("'fixed'", "VARCHAR: fixed | fixed | fixed"),
        ("NULL", "VARCHAR: NULL | NULL | NULL"),
        ("customer || '-' || id", "VARCHAR: Ada-7 | bücher--2 | NULL"),
        ("upper(customer)", "VARCHAR: ADA | BÜCHER | NULL"),
        ("SUBSTRING(customer FROM 2 FOR 3)", "VARCHAR: da | üch | NULL"),
        ("lpad(customer, 5, '.')", "VARCHAR: ..Ada | büche | NULL"),
        ("md5(customer)", "VARCHAR: 1a382809b7c03f686e12dd15677c5497 | aa843bb5a66a749043a59b6c8cd16dfb | NULL"),
        ("POSITION('c' IN customer)", "INT: 0 | 3 | NULL"),
        ("char_length(customer)", "INT: 3 | 6 | NULL"),
        ("regexp_replace(customer, '[aeiou]', '_')", "VARCHAR: Ad_ | büch_r | NULL"),
        ("COALESCE(customer, 'nobody')", "VARCHAR: Ada | bücher | nobody"),
        ("NULLIF(id, 7)", "BIGINT: NULL | -2 | NULL"),
        ("GREATEST(id, 0)", "BIGINT: 7 | 0 | 0"),
        (
            "CASE WHEN amount > 1 THEN 'much' WHEN amount IS NULL THEN 'none' ELSE 'little' END",
            "VARCHAR: much | little | none",
        ),
        ("CAST(amount AS INT)", "INT: 2 | 0 | NULL"),
        ("CAST(id AS VARCHAR)", "VARCHAR: 7 | -2 | NULL"),
        ("CAST(id AS DECIMAL(10, 2))", "DECIMAL(10, 2): 7.00 | -2.00 | NULL"),
        ("TRY_CAST(customer AS INT)", "INT: NULL | NULL | NULL"),
        ("SIGN(amount)", "DOUBLE: 1.0 | -1.0 | NULL"),
        ("MOD(id, 4)", "BIGINT: 3 | -2 | NULL"),
        ("IF(id > 0, 'plus', 'minus')", "VARCHAR: plus | minus | minus"),
        ("SPLIT_INDEX('a,b,c', ',', 1)", "VARCHAR: b | b | b"),
        ("LOCATE('d', customer)", "INT: 2 | 0 | NULL"),
        ("MONTH(ts)", "INT: 1 | 1 | NULL"),
        ("FLOOR(ts TO HOUR)", "TIMESTAMP: 2013-01-09T17:00:00 | 1970-01-01T00:00:00 | NULL"),
        ("ABS(id)", "BIGINT: 7 | 2 | NULL"),
        ("ROUND(amount)", "DOUBLE: 3.0 | -1.0 | NULL"),
        ("ts", "TIMESTAMP: 2013-01-09T17:05:03.250 | 1970-01-01T00:00:00 | NULL"),
        ("ts + INTERVAL '90' MINUTE", "TIMESTAMP: 2013-01-09T18:35:03.250 | 1970-01-01T01:30:00 | NULL"),
        ("DATE_TRUNC('hour', ts)", "TIMESTAMP: 2013-01-09T17:00:00 | 1970-01-01T00:00:00 | NULL"),
        ("EXTRACT(HOUR FROM ts)", "INT: 17 | 0 | NULL"),
        (
            "TO_TIMESTAMP('2026-01-01 12:00:00')",
            "TIMESTAMP: 2026-01-01T12:00:00 | 2026-01-01T12:00:00 | 2026-01-01T12:00:00",
        ),
        ("TO_TIMESTAMP_LTZ(id, 0)", "TIMESTAMP: 1970-01-01T00:00:07 | 1969-12-31T23:59:58 | NULL"),
        ("DATE_FORMAT(ts, 'yyyy-MM-dd HH:mm')", "VARCHAR: 2013-01-09 17:05 | 1970-01-01 00:00 | NULL"),
        ("TIMESTAMPDIFF(DAY, TIMESTAMP '2013-01-01 00:00:00', ts)", "BIGINT: 8 | -15706 | NULL"),
        ("TIMESTAMPADD(MONTH, 1, ts)", "TIMESTAMP: 2013-02-09T17:05:03.250 | 1970-02-01T00:00:00 | NULL"),
        ("CAST(ts AS DATE)", "DATE: 2013-01-09 | 1970-01-01 | NULL"),
        ("ts > TIMESTAMP '2000-01-01 00:00:00'", "BOOLEAN: true | false | NULL"),
        ("customer IN ('Ada', 'Bob')", "BOOLEAN: true | false | NULL"),
        ("id BETWEEN 1 AND 7", "BOOLEAN: true | false | NULL"),
        ("customer IS DISTINCT FROM 'Ada'", "BOOLEAN: false | true | true"),
    ] {
        assert_eq!(evaluate(expression, "orders", &batch), expected, "{expression}");
    }
}

#[test]
fn errors_of_rows_name_the_expression() {
    let batch = orders();
    for (expression, expected) in [
        ("id / (id - 7)", "error: id / (id - 7): Divide by zero error"),
        ("CAST(customer AS INT)", "error: CAST(customer AS INT): Cannot cast string 'Ada' to value of Int32 type"),
    ] {
        assert_eq!(evaluate(expression, "orders", &batch), expected);
    }
}

#[test]
fn json() {
    let batch = customers(r#"{"a": {"b": [10, "x"]}, "n": null, "t": "text"}"#);
    for (expression, expected) in [
        ("JSON_VALUE(payload, '$.a.b[0]')", "VARCHAR: 10"),
        ("CAST(JSON_VALUE(payload, '$.a.b[0]') AS INT) + 1", "BIGINT: 11"),
        ("JSON_VALUE(payload, '$.a')", "VARCHAR: NULL"),
        ("JSON_QUERY(payload, '$.a.b')", "VARCHAR: [10,\"x\"]"),
        ("JSON_QUERY(payload, '$.t')", "VARCHAR: NULL"),
        ("JSON_EXISTS(payload, '$.n')", "BOOLEAN: true"),
        ("JSON_EXISTS(payload, '$.m')", "BOOLEAN: false"),
        ("payload -> 'a' -> 'b' -> 1", "VARCHAR: \"x\""),
        ("payload -> 'a' -> 'b' ->> 1", "VARCHAR: x"),
        ("payload ->> 't'", "VARCHAR: text"),
        ("payload ->> 'n'", "VARCHAR: NULL"),
        (
            "JSON_VALUE(payload, country)",
            "error: json_value(payload, country): GB is not a JSON path: a path begins with $",
        ),
    ] {
        assert_eq!(evaluate(expression, "customers", &batch), expected, "{expression}");
    }
    let broken = customers("{\"a\": 1");
    assert_eq!(evaluate("JSON_VALUE(payload, '$.a')", "customers", &broken), "VARCHAR: NULL");
    assert_eq!(evaluate("JSON_EXISTS(payload, '$.a')", "customers", &broken), "BOOLEAN: false");
}

#[test]
fn a_column_is_handed_on_and_not_evaluated() {
    let graph = graph_of("SELECT customer, id AS number FROM orders");
    let NodeKind::Operator(OperatorSpec::Calc(calc)) = &graph.nodes.last().unwrap().kind else { panic!("no calc") };
    assert_eq!(calc.projection.iter().map(|column| column.as_column()).collect::<Vec<_>>(), [Some(1), Some(0)]);
}
