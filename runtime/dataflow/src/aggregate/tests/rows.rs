//! Random input with every type that aggregates take, and all of the aggregates over it.

use super::oracle::{Row, call};
use arrow::array::{ArrayRef, Int8Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_common::ScalarValue;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use weir_model::ChangeKind;
use weir_model::graph::{AggregateCall, AggregateFunction as F, StreamSchema};
use weir_model::types::TIMESTAMP;

pub(crate) const KEY: usize = 0;
pub(crate) const TIME: usize = 8;
const INT: usize = 1;
const LONG: usize = 2;
const FLOAT: usize = 3;
const DECIMAL: usize = 4;
const STRING: usize = 5;
const BOOL: usize = 6;
const FILTER: usize = 7;

pub(crate) fn schema() -> Schema {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Schema::new(vec![
        field("k", DataType::Int64),
        field("i", DataType::Int32),
        field("l", DataType::Int64),
        field("f", DataType::Float64),
        field("d", DataType::Decimal128(10, 2)),
        field("s", DataType::Utf8),
        field("b", DataType::Boolean),
        field("ok", DataType::Boolean),
        field("ts", TIMESTAMP),
    ])
}

pub(crate) fn stream(updating: bool) -> StreamSchema {
    let mut fields = schema().fields().to_vec();
    if updating {
        fields.push(Arc::new(weir_model::change::change_kind_field()));
    }
    StreamSchema::append_only(Arc::new(Schema::new(fields)))
}

/// A row with a null here and there; `keys` different keys.
pub(crate) fn random_row(random: &mut ChaCha8Rng, keys: i64, time_us: i64) -> Row {
    let null = |value: ScalarValue, random: &mut ChaCha8Rng| match random.random_ratio(1, 6) {
        true => ScalarValue::try_from(&value.data_type()).unwrap(),
        false => value,
    };
    let key = ScalarValue::Int64(Some(random.random_range(0..keys)));
    let int = ScalarValue::Int32(Some(random.random_range(-20..20)));
    let long = ScalarValue::Int64(Some(random.random_range(-1000..1000)));
    // Quarters add up exactly in any order, and no variance of a few comes near zero but zero.
    let float = ScalarValue::Float64(Some(random.random_range(-400..400) as f64 / 4.0));
    let decimal = ScalarValue::Decimal128(Some(random.random_range(-400..400) * 25), 10, 2);
    let string =
        ScalarValue::Utf8(Some("ab\0c".repeat(random.random_range(0..4)) + &random.random_range(0..9).to_string()));
    let boolean = ScalarValue::Boolean(Some(random.random()));
    let filter = ScalarValue::Boolean(Some(random.random()));
    let mut row: Row =
        [key, int, long, float, decimal, string, boolean, filter].map(|value| null(value, random)).into();
    row.push(ScalarValue::TimestampMicrosecond(Some(time_us), None));
    row
}

pub(crate) fn batch(schema: &SchemaRef, rows: &[(Row, ChangeKind)]) -> RecordBatch {
    let values = schema.fields().len() - (schema.field(schema.fields().len() - 1).name() == "__change_kind") as usize;
    let column = |at: usize| ScalarValue::iter_to_array(rows.iter().map(|(row, _)| row[at].clone())).unwrap();
    let mut columns: Vec<ArrayRef> = (0..values).map(column).collect();
    if values < schema.fields().len() {
        columns.push(Arc::new(Int8Array::from_iter_values(rows.iter().map(|(_, kind)| *kind as i8))));
    }
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

/// The values that count for a call, of rows in order.
pub(crate) fn counted<'a>(call: &AggregateCall, rows: impl Iterator<Item = &'a Row>) -> Vec<ScalarValue> {
    let passes = |row: &&Row| call.filter.is_none_or(|at| row[at] == ScalarValue::Boolean(Some(true)));
    let value = |row: &Row| call.argument.map_or(ScalarValue::Int64(Some(1)), |at| row[at].clone());
    rows.filter(passes).map(value).filter(|value| !value.is_null()).collect()
}

/// Every function over every type it takes, plain, filtered and distinct.
pub(crate) fn all_calls() -> Vec<AggregateCall> {
    let decimal = DataType::Decimal128(38, 2);
    let mut calls = vec![call("rows", F::Count, None, DataType::Int64)];
    for (column, name, data_type, sum, average) in [
        (INT, "i", DataType::Int32, DataType::Int64, DataType::Float64),
        (LONG, "l", DataType::Int64, DataType::Int64, DataType::Float64),
        (FLOAT, "f", DataType::Float64, DataType::Float64, DataType::Float64),
        (DECIMAL, "d", DataType::Decimal128(10, 2), decimal, DataType::Decimal128(38, 6)),
    ] {
        calls.push(call(&format!("sum_{name}"), F::Sum, Some(column), sum));
        calls.push(call(&format!("avg_{name}"), F::Avg, Some(column), average));
        calls.push(call(&format!("min_{name}"), F::Min, Some(column), data_type.clone()));
        calls.push(call(&format!("max_{name}"), F::Max, Some(column), data_type));
        calls.push(call(&format!("var_{name}"), F::VarPop, Some(column), DataType::Float64));
    }
    for (function, name) in [(F::StddevPop, "sp"), (F::StddevSamp, "ss"), (F::VarSamp, "vs")] {
        calls.push(call(name, function, Some(FLOAT), DataType::Float64));
    }
    for (column, name, data_type) in
        [(STRING, "s", DataType::Utf8), (BOOL, "b", DataType::Boolean), (TIME, "ts", TIMESTAMP)]
    {
        calls.push(call(&format!("count_{name}"), F::Count, Some(column), DataType::Int64));
        calls.push(call(&format!("min_{name}"), F::Min, Some(column), data_type.clone()));
        calls.push(call(&format!("max_{name}"), F::Max, Some(column), data_type));
    }
    calls.push(call("all_b", F::BoolAnd, Some(BOOL), DataType::Boolean));
    calls.push(call("any_b", F::BoolOr, Some(BOOL), DataType::Boolean));
    let filtered: Vec<AggregateCall> =
        calls.iter().cloned().map(|call| renamed(call, "ok", |call| call.filter = Some(FILTER))).collect();
    let is_distinct = |call: &&AggregateCall| call.argument.is_some();
    let distinct: Vec<AggregateCall> = calls
        .iter()
        .filter(is_distinct)
        .cloned()
        .map(|call| renamed(call, "distinct", |call| call.distinct = true))
        .collect();
    calls.extend(filtered);
    calls.extend(distinct);
    calls
}

/// FIRST_VALUE and LAST_VALUE, plain and filtered.
pub(crate) fn arrival_calls() -> Vec<AggregateCall> {
    let mut calls = vec![];
    for (function, name) in [(F::FirstValue, "first"), (F::LastValue, "last")] {
        for (column, data_type) in
            [(INT, DataType::Int32), (STRING, DataType::Utf8), (DECIMAL, DataType::Decimal128(10, 2))]
        {
            calls.push(call(&format!("{name}_{column}"), function, Some(column), data_type));
        }
    }
    let filtered: Vec<AggregateCall> =
        calls.iter().cloned().map(|call| renamed(call, "ok", |call| call.filter = Some(FILTER))).collect();
    calls.extend(filtered);
    calls
}

fn renamed(mut call: AggregateCall, suffix: &str, change: impl Fn(&mut AggregateCall)) -> AggregateCall {
    let field = call.output.as_ref().clone();
    let name = format!("{}_{suffix}", field.name());
    call.output = Arc::new(field.with_name(name));
    change(&mut call);
    call
}
