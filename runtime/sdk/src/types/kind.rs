use arrow::datatypes::{DataType, TimeUnit};
use weir_model::types::{TIMESTAMP, sql_type_name};

/// One value of a column, by its SQL type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Null,
    Boolean(bool),
    TinyInt(i8),
    SmallInt(i16),
    Int(i32),
    BigInt(i64),
    Float(f32),
    Double(f64),
    /// The unscaled value: 12.50 in a DECIMAL(10, 2) is 1250.
    Decimal(i128),
    Varchar(&'a str),
    Bytes(&'a [u8]),
    /// Days since the Unix epoch.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Microseconds since the Unix epoch, UTC.
    Timestamp(i64),
}

/// The type of a column, as far as the SDK tells types apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Float,
    Double,
    Decimal,
    Varchar,
    Bytes,
    Date,
    Time,
    Timestamp,
}

impl Kind {
    pub const ALL: [Kind; 13] = [
        Kind::Boolean,
        Kind::TinyInt,
        Kind::SmallInt,
        Kind::Int,
        Kind::BigInt,
        Kind::Float,
        Kind::Double,
        Kind::Decimal,
        Kind::Varchar,
        Kind::Bytes,
        Kind::Date,
        Kind::Time,
        Kind::Timestamp,
    ];

    /// `None` for Arrow types that no SQL type of a job has.
    pub fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Kind::Boolean,
            DataType::Int8 => Kind::TinyInt,
            DataType::Int16 => Kind::SmallInt,
            DataType::Int32 => Kind::Int,
            DataType::Int64 => Kind::BigInt,
            DataType::Float32 => Kind::Float,
            DataType::Float64 => Kind::Double,
            DataType::Decimal128(_, _) => Kind::Decimal,
            DataType::Utf8 => Kind::Varchar,
            DataType::Binary => Kind::Bytes,
            DataType::Date32 => Kind::Date,
            DataType::Time64(TimeUnit::Microsecond) => Kind::Time,
            DataType::Timestamp(TimeUnit::Microsecond, None) => Kind::Timestamp,
            _ => return None,
        })
    }

    /// The type of a new column of this kind; decimals are whole numbers of 38 digits.
    pub fn data_type(self) -> DataType {
        match self {
            Kind::Boolean => DataType::Boolean,
            Kind::TinyInt => DataType::Int8,
            Kind::SmallInt => DataType::Int16,
            Kind::Int => DataType::Int32,
            Kind::BigInt => DataType::Int64,
            Kind::Float => DataType::Float32,
            Kind::Double => DataType::Float64,
            Kind::Decimal => DataType::Decimal128(38, 0),
            Kind::Varchar => DataType::Utf8,
            Kind::Bytes => DataType::Binary,
            Kind::Date => DataType::Date32,
            Kind::Time => DataType::Time64(TimeUnit::Microsecond),
            Kind::Timestamp => TIMESTAMP,
        }
    }

    /// The SQL name.
    pub fn sql_name(self) -> String {
        match self {
            Kind::Decimal => "DECIMAL".to_owned(),
            other => sql_type_name(&other.data_type()),
        }
    }

    /// Any value of the kind.
    pub(crate) fn sample(self) -> Value<'static> {
        match self {
            Kind::Boolean => Value::Boolean(false),
            Kind::TinyInt => Value::TinyInt(0),
            Kind::SmallInt => Value::SmallInt(0),
            Kind::Int => Value::Int(0),
            Kind::BigInt => Value::BigInt(0),
            Kind::Float => Value::Float(0.0),
            Kind::Double => Value::Double(0.0),
            Kind::Decimal => Value::Decimal(0),
            Kind::Varchar => Value::Varchar("null"),
            Kind::Bytes => Value::Bytes(&[]),
            Kind::Date => Value::Date(0),
            Kind::Time => Value::Time(0),
            Kind::Timestamp => Value::Timestamp(0),
        }
    }
}

impl Value<'_> {
    /// `None` for a null.
    pub fn kind(&self) -> Option<Kind> {
        Some(match self {
            Value::Null => return None,
            Value::Boolean(_) => Kind::Boolean,
            Value::TinyInt(_) => Kind::TinyInt,
            Value::SmallInt(_) => Kind::SmallInt,
            Value::Int(_) => Kind::Int,
            Value::BigInt(_) => Kind::BigInt,
            Value::Float(_) => Kind::Float,
            Value::Double(_) => Kind::Double,
            Value::Decimal(_) => Kind::Decimal,
            Value::Varchar(_) => Kind::Varchar,
            Value::Bytes(_) => Kind::Bytes,
            Value::Date(_) => Kind::Date,
            Value::Time(_) => Kind::Time,
            Value::Timestamp(_) => Kind::Timestamp,
        })
    }

    /// The SQL name of its type, or `NULL`.
    pub fn type_name(&self) -> String {
        self.kind().map_or_else(|| "NULL".to_owned(), Kind::sql_name)
    }
}
