//! Aggregates as SQL defines them, over plain lists of values, one row at a time.

use arrow::datatypes::{DataType, Field};
use datafusion_common::ScalarValue;
use std::sync::Arc;
use weir_model::graph::{AggregateCall, AggregateFunction};

pub(crate) type Row = Vec<ScalarValue>;

/// The result over these argument values (nulls and filtered rows already left out), in order of arrival.
pub(crate) fn result(call: &AggregateCall, values: &[ScalarValue]) -> ScalarValue {
    use AggregateFunction::*;
    let mut distinct: Vec<ScalarValue> = vec![];
    let ordered = matches!(call.function, FirstValue | LastValue);
    for value in values {
        if !call.distinct || ordered || !distinct.contains(value) {
            distinct.push(value.clone());
        }
    }
    let values = distinct;
    let output = call.output.data_type();
    if call.function == Count {
        return ScalarValue::Int64(Some(values.len() as i64));
    }
    let null = ScalarValue::try_from(output).unwrap();
    let numbers: Vec<f64> = values.iter().map(number).collect();
    let n = numbers.len() as f64;
    let variance = |divisor: f64| {
        let mean = numbers.iter().sum::<f64>() / n;
        numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / divisor
    };
    let float = |value: f64| ScalarValue::Float64(Some(value));
    match call.function {
        Count => unreachable!(),
        StddevSamp | VarSamp if values.len() < 2 => null,
        _ if values.is_empty() => null,
        Sum => match output {
            DataType::Int64 => ScalarValue::Int64(Some(values.iter().map(integer).sum::<i128>() as i64)),
            DataType::Decimal128(p, s) => ScalarValue::Decimal128(Some(values.iter().map(integer).sum()), *p, *s),
            _ => float(numbers.iter().sum()),
        },
        Avg => match (output, &values[0]) {
            (DataType::Decimal128(p, s), ScalarValue::Decimal128(_, _, scale)) => {
                let sum: i128 = values.iter().map(integer).sum::<i128>() * 10i128.pow((s - scale) as u32);
                let (quotient, rest) = (sum / values.len() as i128, sum % values.len() as i128);
                let up = (rest.abs() * 2 >= values.len() as i128) as i128 * sum.signum();
                ScalarValue::Decimal128(Some(quotient + up), *p, *s)
            }
            _ => float(numbers.iter().sum::<f64>() / n),
        },
        VarPop => float(variance(n)),
        VarSamp => float(variance(n - 1.0)),
        StddevPop => float(variance(n).sqrt()),
        StddevSamp => float(variance(n - 1.0).sqrt()),
        Min => values.iter().cloned().reduce(|a, b| if b < a { b } else { a }).unwrap(),
        Max => values.iter().cloned().reduce(|a, b| if b > a { b } else { a }).unwrap(),
        BoolAnd => ScalarValue::Boolean(Some(values.iter().all(|v| *v == ScalarValue::Boolean(Some(true))))),
        BoolOr => ScalarValue::Boolean(Some(values.contains(&ScalarValue::Boolean(Some(true))))),
        FirstValue => values.first().cloned().unwrap(),
        LastValue => values.last().cloned().unwrap(),
    }
}

fn integer(value: &ScalarValue) -> i128 {
    match value {
        ScalarValue::Int32(Some(v)) => *v as i128,
        ScalarValue::Int64(Some(v)) => *v as i128,
        ScalarValue::Decimal128(Some(v), _, _) => *v,
        other => panic!("{other:?} is no integer"),
    }
}

fn number(value: &ScalarValue) -> f64 {
    match value {
        ScalarValue::Int32(Some(v)) => *v as f64,
        ScalarValue::Int64(Some(v)) => *v as f64,
        ScalarValue::Float64(Some(v)) => *v,
        ScalarValue::Decimal128(Some(v), _, scale) => *v as f64 / 10f64.powi(*scale as i32),
        _ => f64::NAN,
    }
}

/// Rows as text, doubles to single precision: what is compared. The factor keeps short fractions, of which there
/// are many, from lying just between two single-precision numbers.
pub(crate) fn text(row: &[ScalarValue]) -> String {
    let cell = |value: &ScalarValue| match value {
        ScalarValue::Float64(Some(v)) => {
            format!("{:e}", if v.abs() < 1e-4 { 0.0 } else { (*v * 1.234567890123) as f32 })
        }
        other => format!("{other:?}").replace(' ', ""),
    };
    row.iter().map(cell).collect::<Vec<_>>().join(" ")
}

pub(crate) fn call(
    name: &str,
    function: AggregateFunction,
    argument: Option<usize>,
    output: DataType,
) -> AggregateCall {
    AggregateCall {
        function,
        argument,
        distinct: false,
        filter: None,
        output: Arc::new(Field::new(name, output, true)),
    }
}
