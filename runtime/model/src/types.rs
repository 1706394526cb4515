//! SQL type names as a StreamJob's schema writes them, and the Arrow types behind them.

use arrow::datatypes::{DataType, TimeUnit};

/// The Arrow type of event times and of SQL `TIMESTAMP`: microseconds, no zone (UTC).
pub const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// The names that `parse_sql_type` takes, for messages and docs.
pub const SQL_TYPE_NAMES: &[&str] = &[
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL(p, s)",
    "VARCHAR",
    "BYTES",
    "DATE",
    "TIME",
    "TIMESTAMP",
];

/// Parses a SQL type name (any case; the usual synonyms). `None`: no such type.
pub fn parse_sql_type(name: &str) -> Option<DataType> {
    let upper = name.trim().to_ascii_uppercase();
    let (base, arguments) = match upper.split_once('(') {
        Some((base, rest)) => (base.trim(), Some(rest.strip_suffix(')')?)),
        None => (upper.as_str(), None),
    };
    Some(match (base, arguments) {
        ("BOOLEAN" | "BOOL", None) => DataType::Boolean,
        ("TINYINT", None) => DataType::Int8,
        ("SMALLINT", None) => DataType::Int16,
        ("INT" | "INTEGER", None) => DataType::Int32,
        ("BIGINT", None) => DataType::Int64,
        ("FLOAT" | "REAL", None) => DataType::Float32,
        ("DOUBLE" | "DOUBLE PRECISION", None) => DataType::Float64,
        ("VARCHAR" | "STRING" | "TEXT" | "CHAR", None) => DataType::Utf8,
        ("VARCHAR" | "CHAR", Some(length)) if length.trim().parse::<u32>().is_ok() => DataType::Utf8,
        ("BYTES" | "VARBINARY" | "BINARY", None) => DataType::Binary,
        ("DATE", None) => DataType::Date32,
        ("TIME", None) => DataType::Time64(TimeUnit::Microsecond),
        ("TIMESTAMP" | "DATETIME", None) => TIMESTAMP,
        ("TIMESTAMP", Some("3" | "6")) => TIMESTAMP,
        ("DECIMAL" | "NUMERIC", None) => DataType::Decimal128(38, 10),
        ("DECIMAL" | "NUMERIC", Some(arguments)) => {
            let (precision, scale) = arguments.split_once(',').unwrap_or((arguments, "0"));
            let (precision, scale) = (precision.trim().parse::<u8>().ok()?, scale.trim().parse::<i8>().ok()?);
            if !(1..=38).contains(&precision) || scale < 0 || scale as u8 > precision {
                return None;
            }
            DataType::Decimal128(precision, scale)
        }
        _ => return None,
    })
}

/// The SQL name of an Arrow type; falls back to Arrow's own name.
pub fn sql_type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".into(),
        DataType::Binary | DataType::LargeBinary => "BYTES".into(),
        DataType::Date32 => "DATE".into(),
        DataType::Time64(_) | DataType::Time32(_) => "TIME".into(),
        DataType::Timestamp(_, _) => "TIMESTAMP".into(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_there_and_back() {
        for name in
            ["BOOLEAN", "TINYINT", "INT", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP", "DECIMAL(10, 2)"]
        {
            assert_eq!(sql_type_name(&parse_sql_type(name).unwrap()), name);
        }
        assert_eq!(parse_sql_type("timestamp(3)"), Some(TIMESTAMP));
        for wrong in ["", "INTT", "DECIMAL(39,1)", "DECIMAL(2,3)", "VARCHAR(x)", "TIMESTAMP(9"] {
            assert_eq!(parse_sql_type(wrong), None, "{wrong}");
        }
    }
}
