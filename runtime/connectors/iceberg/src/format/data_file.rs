//! A file of rows, as checkpoints hold it until its commit.

use super::schema::{TableColumn, TableType};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

/// Texts in a file's bounds are cut to so many characters, as Iceberg's own writers do.
const BOUND_CHARACTERS: usize = 16;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataFile {
    /// Its whole address.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    /// The partition spec that it was written by, and its values, one for each field of the spec.
    pub spec: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<Option<PartitionValue>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnFigures>,
}

/// A value that rows have in common, as partition fields can hold it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum PartitionValue {
    Boolean(bool),
    /// Of ints, dates, and of what transforms give.
    Int(i32),
    /// Of longs, times and timestamps.
    Long(i64),
    String(String),
    /// Of binary, in hexadecimal, and of decimals: their unscaled number, as Iceberg writes it.
    Bytes(Vec<u8>),
}

/// What readers go by when they pass over files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ColumnFigures {
    pub id: i32,
    pub values: i64,
    pub nulls: i64,
    /// As Iceberg encodes single values. None: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<Vec<u8>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<Vec<u8>>,
}

/// The figures of a file whose columns are these, in this order.
pub(crate) fn figures(columns: &[TableColumn], metadata: &ParquetMetaData) -> Vec<ColumnFigures> {
    columns.iter().enumerate().map(|(index, column)| figures_of(index, column, metadata)).collect()
}

fn figures_of(index: usize, column: &TableColumn, metadata: &ParquetMetaData) -> ColumnFigures {
    let mut figures = ColumnFigures { id: column.id, values: 0, nulls: 0, lower: None, upper: None };
    let mut bounds: Option<Bounds> = None;
    let mut is_known = true;
    for group in metadata.row_groups() {
        let chunk = group.column(index);
        figures.values += chunk.num_values();
        let statistics = chunk.statistics();
        let nulls = statistics.and_then(Statistics::null_count_opt).unwrap_or(0);
        figures.nulls += nulls as i64;
        if nulls as i64 == chunk.num_values() {
            continue;
        }
        match statistics.and_then(|statistics| Bounds::of(&column.kind, chunk.column_type(), statistics)) {
            Some(found) => bounds = Some(bounds.map_or(found.clone(), |known| known.merged(found))),
            None => is_known = false,
        }
    }
    if let Some(bounds) = bounds.filter(|_| is_known) {
        (figures.lower, figures.upper) = bounds.encoded(&column.kind);
    }
    figures
}

/// The least and the greatest value.
#[derive(Clone, Debug, PartialEq)]
enum Bounds {
    Boolean(bool, bool),
    Int(i64, i64),
    Text(String, String),
}

impl Bounds {
    /// None: there are none, or none that are certain.
    fn of(kind: &TableType, physical: PhysicalType, statistics: &Statistics) -> Option<Bounds> {
        match (kind, physical, statistics) {
            (TableType::Boolean, _, Statistics::Boolean(found)) => {
                Some(Bounds::Boolean(*found.min_opt()?, *found.max_opt()?))
            }
            (TableType::Int | TableType::Date | TableType::Decimal { .. }, _, Statistics::Int32(found)) => {
                Some(Bounds::Int(i64::from(*found.min_opt()?), i64::from(*found.max_opt()?)))
            }
            (
                TableType::Long
                | TableType::Time
                | TableType::Timestamp
                | TableType::Timestamptz
                | TableType::Decimal { .. },
                _,
                Statistics::Int64(found),
            ) => Some(Bounds::Int(*found.min_opt()?, *found.max_opt()?)),
            (TableType::String, _, Statistics::ByteArray(found)) => {
                // What was cut is no value, but a bound all the same; one that was cut inside a character is none.
                let text = |bytes: &parquet::data_type::ByteArray| bytes.as_utf8().ok().map(str::to_owned);
                Some(Bounds::Text(text(found.min_opt()?)?, text(found.max_opt()?)?))
            }
            // Not-a-number has no place among bounds, and the least of bytes tells readers little.
            _ => None,
        }
    }

    fn merged(self, other: Bounds) -> Bounds {
        match (self, other) {
            (Bounds::Boolean(a, b), Bounds::Boolean(c, d)) => Bounds::Boolean(a & c, b | d),
            (Bounds::Int(a, b), Bounds::Int(c, d)) => Bounds::Int(a.min(c), b.max(d)),
            (Bounds::Text(a, b), Bounds::Text(c, d)) => Bounds::Text(a.min(c), b.max(d)),
            (one, _) => unreachable!("a column has bounds of one kind, here {one:?}"),
        }
    }

    fn encoded(self, kind: &TableType) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let number = |value: i64| match kind {
            TableType::Int | TableType::Date => (value as i32).to_le_bytes().to_vec(),
            TableType::Decimal { .. } => unscaled_bytes(i128::from(value)),
            _ => value.to_le_bytes().to_vec(),
        };
        match self {
            Bounds::Boolean(lower, upper) => (Some(vec![u8::from(lower)]), Some(vec![u8::from(upper)])),
            Bounds::Int(lower, upper) => (Some(number(lower)), Some(number(upper))),
            Bounds::Text(lower, upper) => {
                let lower: String = lower.chars().take(BOUND_CHARACTERS).collect();
                (Some(lower.into_bytes()), cut_above(&upper).map(String::into_bytes))
            }
        }
    }
}

/// The shortest two's complement, most significant byte first.
pub(crate) fn unscaled_bytes(value: i128) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let is_spare = |index: usize| {
        let (byte, next) = (bytes[index], bytes[index + 1]);
        (byte == 0 && next & 0x80 == 0) || (byte == 0xff && next & 0x80 != 0)
    };
    let first = (0..bytes.len() - 1).find(|index| !is_spare(*index)).unwrap_or(bytes.len() - 1);
    bytes[first..].to_vec()
}

/// A short text that no shortened text is above. None: there is none.
fn cut_above(text: &str) -> Option<String> {
    if text.chars().count() <= BOUND_CHARACTERS {
        return Some(text.to_owned());
    }
    let mut characters: Vec<char> = text.chars().take(BOUND_CHARACTERS).collect();
    while let Some(last) = characters.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_as_short_as_they_can_be() {
        assert_eq!(unscaled_bytes(0), [0]);
        assert_eq!(unscaled_bytes(-1), [0xff]);
        assert_eq!(unscaled_bytes(127), [0x7f]);
        assert_eq!(unscaled_bytes(128), [0, 0x80]);
        assert_eq!(unscaled_bytes(-129), [0xff, 0x7f]);
    }

    #[test]
    fn a_text_that_is_cut_stays_a_bound() {
        assert_eq!(cut_above("short").as_deref(), Some("short"));
        assert_eq!(cut_above("0123456789abcdefg").as_deref(), Some("0123456789abcdeg"));
        let last = char::MAX.to_string();
        assert_eq!(cut_above(&last.repeat(20)), None);
        assert_eq!(cut_above(&format!("a{}", last.repeat(20))).as_deref(), Some("b"));
    }
}
