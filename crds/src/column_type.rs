//! The SQL type of a column, as a schema in a job file writes it.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The SQL type of a column.
///
/// Names as in Flink SQL: `BOOLEAN`, `TINYINT`, `SMALLINT`, `INT`, `BIGINT`, `FLOAT`, `DOUBLE`, `DECIMAL(p, s)`,
/// `VARCHAR` (also `STRING`), `BYTES`, `DATE`, `TIME`, `TIMESTAMP(p)`, `TIMESTAMP_LTZ(p)`, `ARRAY<T>`, `MAP<K, V>`,
/// `ROW<name T, ...>`. Case does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    Boolean,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Float,
    Double,
    /// `precision` is 1 to 38 digits, `scale` of them after the point.
    Decimal {
        precision: u8,
        scale: u8,
    },
    Varchar,
    Bytes,
    Date,
    /// A time of day.
    Time,
    /// A date and time without a zone; `precision` is the digits of a second's fraction: 0, 3, 6 or 9.
    Timestamp {
        precision: u8,
    },
    /// A point in time, shown in the session's zone; `precision` as for `TIMESTAMP`.
    TimestampLtz {
        precision: u8,
    },
    Array(Box<ColumnType>),
    Map(Box<ColumnType>, Box<ColumnType>),
    Row(Vec<(String, ColumnType)>),
}

/// The digits of a second's fraction where `TIMESTAMP` says nothing, as in the SQL standard and Flink.
pub const DEFAULT_TIMESTAMP_PRECISION: u8 = 6;
const DEFAULT_DECIMAL: ColumnType = ColumnType::Decimal { precision: 10, scale: 0 };
/// Types inside types deeper than this are refused, so that no text can exhaust the stack.
const MAX_DEPTH: usize = 16;

/// The names a type may start with, for messages and for the nearest name.
pub const TYPE_NAMES: [&str; 17] = [
    "BOOLEAN",
    "TINYINT",
    "SMALLINT",
    "INT",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
    "VARCHAR",
    "BYTES",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "TIMESTAMP_LTZ",
    "ARRAY",
    "MAP",
    "ROW",
];

/// Why a text is not a column type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnTypeError {
    #[error("unknown type `{0}`")]
    UnknownType(String),
    #[error("`{text}` is not a type: {expected}")]
    Malformed { text: String, expected: String },
}

impl ColumnType {
    /// Whether a watermark can run on the column.
    pub fn is_timestamp(&self) -> bool {
        matches!(self, Self::Timestamp { .. } | Self::TimestampLtz { .. })
    }

    pub fn is_integer(&self) -> bool {
        matches!(self, Self::TinyInt | Self::SmallInt | Self::Int | Self::BigInt)
    }

    pub fn is_numeric(&self) -> bool {
        self.is_integer() || matches!(self, Self::Float | Self::Double | Self::Decimal { .. })
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("BOOLEAN"),
            Self::TinyInt => f.write_str("TINYINT"),
            Self::SmallInt => f.write_str("SMALLINT"),
            Self::Int => f.write_str("INT"),
            Self::BigInt => f.write_str("BIGINT"),
            Self::Float => f.write_str("FLOAT"),
            Self::Double => f.write_str("DOUBLE"),
            Self::Decimal { precision, scale } => write!(f, "DECIMAL({precision}, {scale})"),
            Self::Varchar => f.write_str("VARCHAR"),
            Self::Bytes => f.write_str("BYTES"),
            Self::Date => f.write_str("DATE"),
            Self::Time => f.write_str("TIME"),
            Self::Timestamp { precision: DEFAULT_TIMESTAMP_PRECISION } => f.write_str("TIMESTAMP"),
            Self::Timestamp { precision } => write!(f, "TIMESTAMP({precision})"),
            Self::TimestampLtz { precision: DEFAULT_TIMESTAMP_PRECISION } => f.write_str("TIMESTAMP_LTZ"),
            Self::TimestampLtz { precision } => write!(f, "TIMESTAMP_LTZ({precision})"),
            Self::Array(element) => write!(f, "ARRAY<{element}>"),
            Self::Map(key, value) => write!(f, "MAP<{key}, {value}>"),
            Self::Row(fields) => {
                f.write_str("ROW<")?;
                for (index, (name, field)) in fields.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{name} {field}")?;
                }
                f.write_str(">")
            }
        }
    }
}

impl FromStr for ColumnType {
    type Err = ColumnTypeError;

    fn from_str(text: &str) -> Result<Self, ColumnTypeError> {
        let mut reader = Reader { text, tokens: tokens(text)?, next: 0 };
        let column_type = reader.column_type(0)?;
        match reader.peek() {
            None => Ok(column_type),
            Some(rest) => Err(reader.malformed(format!("nothing may follow {column_type}, but `{rest}` does"))),
        }
    }
}

/// Words, numbers and single punctuation characters.
fn tokens(text: &str) -> Result<Vec<&str>, ColumnTypeError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let len = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if "()<>,".contains(first) {
            1
        } else {
            return Err(ColumnTypeError::Malformed {
                text: text.to_owned(),
                expected: format!("`{first}` cannot stand in one"),
            });
        };
        tokens.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    Ok(tokens)
}

struct Reader<'a> {
    text: &'a str,
    tokens: Vec<&'a str>,
    next: usize,
}

impl<'a> Reader<'a> {
    fn column_type(&mut self, depth: usize) -> Result<ColumnType, ColumnTypeError> {
        if depth > MAX_DEPTH {
            return Err(self.malformed(format!("types may nest {MAX_DEPTH} deep")));
        }
        let Some(word) = self.take() else {
            return Err(self.malformed(format!("a type is missing; the types are {}", TYPE_NAMES.join(", "))));
        };
        Ok(match word.to_ascii_uppercase().as_str() {
            "BOOLEAN" | "BOOL" => ColumnType::Boolean,
            "TINYINT" => ColumnType::TinyInt,
            "SMALLINT" => ColumnType::SmallInt,
            "INT" | "INTEGER" => ColumnType::Int,
            "BIGINT" => ColumnType::BigInt,
            "FLOAT" | "REAL" => ColumnType::Float,
            "DOUBLE" => {
                self.take_word("PRECISION");
                ColumnType::Double
            }
            "DECIMAL" | "NUMERIC" | "DEC" => self.decimal()?,
            "VARCHAR" | "STRING" | "TEXT" | "CHAR" => self.without_length(ColumnType::Varchar)?,
            "BYTES" | "VARBINARY" | "BINARY" => self.without_length(ColumnType::Bytes)?,
            "DATE" => ColumnType::Date,
            "TIME" => ColumnType::Time,
            "TIMESTAMP" => ColumnType::Timestamp { precision: self.timestamp_precision()? },
            "TIMESTAMP_LTZ" => ColumnType::TimestampLtz { precision: self.timestamp_precision()? },
            "ARRAY" => {
                self.expect("<")?;
                let element = self.column_type(depth + 1)?;
                self.expect(">")?;
                ColumnType::Array(Box::new(element))
            }
            "MAP" => {
                self.expect("<")?;
                let key = self.column_type(depth + 1)?;
                self.expect(",")?;
                let value = self.column_type(depth + 1)?;
                self.expect(">")?;
                ColumnType::Map(Box::new(key), Box::new(value))
            }
            "ROW" => self.row(depth)?,
            _ => return Err(ColumnTypeError::UnknownType(word.to_owned())),
        })
    }

    fn row(&mut self, depth: usize) -> Result<ColumnType, ColumnTypeError> {
        self.expect("<")?;
        let mut fields = Vec::new();
        loop {
            let Some(name) = self.take().filter(|name| !"()<>,".contains(name)) else {
                return Err(self.malformed("a ROW lists its fields as `name TYPE`"));
            };
            let field = self.column_type(depth + 1)?;
            fields.push((name.to_owned(), field));
            if !self.take_word(",") {
                break;
            }
        }
        self.expect(">")?;
        Ok(ColumnType::Row(fields))
    }

    fn decimal(&mut self) -> Result<ColumnType, ColumnTypeError> {
        if !self.take_word("(") {
            return Ok(DEFAULT_DECIMAL);
        }
        let precision = self.number("a DECIMAL has 1 to 38 digits", 1..=38)?;
        let scale = if self.take_word(",") {
            self.number("a DECIMAL's scale is at most its precision", 0..=precision)?
        } else {
            0
        };
        self.expect(")")?;
        Ok(ColumnType::Decimal { precision, scale })
    }

    fn timestamp_precision(&mut self) -> Result<u8, ColumnTypeError> {
        if !self.take_word("(") {
            return Ok(DEFAULT_TIMESTAMP_PRECISION);
        }
        let expected = "a timestamp has 0, 3, 6 or 9 digits after the second";
        let precision = self.number(expected, 0..=9)?;
        self.expect(")")?;
        if precision % 3 == 0 { Ok(precision) } else { Err(self.malformed(expected)) }
    }

    fn without_length(&mut self, column_type: ColumnType) -> Result<ColumnType, ColumnTypeError> {
        if self.peek() == Some("(") {
            return Err(self.malformed(format!("lengths are not enforced; write {column_type}")));
        }
        Ok(column_type)
    }

    fn number(&mut self, expected: &str, range: std::ops::RangeInclusive<u8>) -> Result<u8, ColumnTypeError> {
        let number = self.take().and_then(|token| token.parse().ok()).filter(|number| range.contains(number));
        number.ok_or_else(|| self.malformed(expected))
    }

    fn expect(&mut self, token: &str) -> Result<(), ColumnTypeError> {
        if self.take_word(token) {
            return Ok(());
        }
        let found = self.peek().map_or("its end".to_owned(), |found| format!("`{found}`"));
        Err(self.malformed(format!("expected `{token}`, found {found}")))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let taken = self.peek().is_some_and(|token| token.eq_ignore_ascii_case(word));
        self.next += usize::from(taken);
        taken
    }

    fn take(&mut self) -> Option<&'a str> {
        let token = self.peek();
        self.next += usize::from(token.is_some());
        token
    }

    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.next).copied()
    }

    fn malformed(&self, expected: impl Into<String>) -> ColumnTypeError {
        ColumnTypeError::Malformed { text: self.text.to_owned(), expected: expected.into() }
    }
}

impl Serialize for ColumnType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for ColumnType {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ColumnType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": 1024, "x-weir-type": "columnType"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_every_type() {
        for (text, written) in [
            ("boolean", "BOOLEAN"),
            ("INTEGER", "INT"),
            ("double precision", "DOUBLE"),
            ("DECIMAL(12,2)", "DECIMAL(12, 2)"),
            ("NUMERIC", "DECIMAL(10, 0)"),
            ("STRING", "VARCHAR"),
            ("TIMESTAMP(3)", "TIMESTAMP(3)"),
            ("TIMESTAMP(6)", "TIMESTAMP"),
            ("timestamp_ltz(9)", "TIMESTAMP_LTZ(9)"),
            ("ARRAY<ROW<a INT, b MAP<VARCHAR,BIGINT>>>", "ARRAY<ROW<a INT, b MAP<VARCHAR, BIGINT>>>"),
        ] {
            let column_type: ColumnType = text.parse().unwrap();
            assert_eq!(column_type.to_string(), written);
            assert_eq!(written.parse::<ColumnType>().unwrap(), column_type);
        }
    }

    #[test]
    fn refuses_with_a_remedy() {
        for (text, message) in [
            ("VARCHR", "unknown type `VARCHR`"),
            ("VARCHAR(20)", "`VARCHAR(20)` is not a type: lengths are not enforced; write VARCHAR"),
            ("TIMESTAMP(4)", "`TIMESTAMP(4)` is not a type: a timestamp has 0, 3, 6 or 9 digits after the second"),
            ("DECIMAL(50)", "`DECIMAL(50)` is not a type: a DECIMAL has 1 to 38 digits"),
            ("ARRAY<INT", "`ARRAY<INT` is not a type: expected `>`, found its end"),
            ("INT NOT NULL", "`INT NOT NULL` is not a type: nothing may follow INT, but `NOT` does"),
            ("INT;", "`INT;` is not a type: `;` cannot stand in one"),
        ] {
            assert_eq!(text.parse::<ColumnType>().unwrap_err().to_string(), message);
        }
        assert!("ARRAY<".repeat(1000).parse::<ColumnType>().is_err());
    }
}
