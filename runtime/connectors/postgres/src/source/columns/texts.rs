//! Values as the server writes them, with the settings of our replication connections.

use super::Read;
use arrow::array::*;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use std::sync::Arc;

pub(super) fn read(texts: &StringArray, data_type: &DataType) -> Read<ArrayRef> {
    Ok(match data_type {
        DataType::Utf8 => Arc::new(texts.clone()),
        DataType::Boolean => {
            let values = texts.iter().map(|text| text.map(boolean).transpose());
            Arc::new(values.collect::<Result<BooleanArray, _>>()?)
        }
        DataType::Binary => {
            let mut values = BinaryBuilder::with_capacity(texts.len(), texts.value_data().len() / 2);
            for text in texts {
                values.append_option(text.map(bytes).transpose()?);
            }
            Arc::new(values.finish())
        }
        _ => {
            if let Some(infinite) = texts.iter().flatten().find(|text| is_infinite_time(text, data_type)) {
                return Err(format!("`{infinite}`, which has no counterpart; NULL it, or leave such rows out").into());
            }
            cast_with_options(texts, data_type, &CastOptions { safe: false, ..CastOptions::default() })?
        }
    })
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "t" => Ok(true),
        "f" => Ok(false),
        other => Err(format!("`{other}` is no boolean")),
    }
}

/// `\x0a1b`.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let unreadable = || "bytes that are not written in hexadecimal".to_owned();
    let digits = text.strip_prefix("\\x").ok_or_else(unreadable)?.as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    digits.chunks(2).map(byte).collect::<Option<_>>().ok_or_else(unreadable)
}

fn is_infinite_time(text: &str, data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Timestamp(..)) && text.ends_with("infinity")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::TimeUnit;
    use arrow::util::display::array_value_to_string;

    /// What the server writes, and what it is here.
    fn check(data_type: DataType, text: &str, expected: &str) {
        let read = read(&StringArray::from(vec![Some(text), None]), &data_type);
        let found = match &read {
            Ok(array) => array_value_to_string(array, 0).expect("a value"),
            Err(error) => format!("error: {error}"),
        };
        assert!(found.starts_with(expected), "{data_type} {text}: {found}");
        assert!(read.is_err() || read.unwrap().is_null(1));
    }

    #[test]
    fn of_each_type() {
        let timestamp = || DataType::Timestamp(TimeUnit::Microsecond, None);
        check(DataType::Boolean, "t", "true");
        check(DataType::Boolean, "yes", "error: `yes` is no boolean");
        check(DataType::Int16, "-32768", "-32768");
        check(DataType::Int64, "9223372036854775807", "9223372036854775807");
        check(DataType::Float32, "1e-45", "1e-45");
        check(DataType::Float64, "0.1", "0.1");
        check(DataType::Float64, "NaN", "NaN");
        check(DataType::Float64, "-Infinity", "-inf");
        check(DataType::Binary, "\\x00ff0a", "00ff0a");
        check(DataType::Binary, "\\x00f", "error: bytes");
        check(DataType::Binary, "00", "error: bytes");
        check(DataType::Date32, "2026-02-28", "2026-02-28");
        check(DataType::Date32, "-infinity", "error: `-infinity`, which has no counterpart");
        check(DataType::Time64(TimeUnit::Microsecond), "23:59:59.999999", "23:59:59.999999");
        check(timestamp(), "2026-01-31 12:00:00.000001", "2026-01-31T12:00:00.000001");
        check(timestamp(), "2026-01-31 12:00:00+00", "2026-01-31T12:00:00");
        check(timestamp(), "infinity", "error: `infinity`, which has no counterpart");
        check(timestamp(), "0044-03-15 00:00:00+00 BC", "error: ");
    }
}
