//! The stable hash of a key: decides its key group, so it is part of the storage format (version 1).
//!
//! Integers, dates and timestamps hash as their 64-bit value, so that widening a key's type keeps every
//! key in its group. Strings and bytes hash by XXH3. Columns combine in order.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::*;
use xxhash_rust::xxh3::xxh3_64;

/// Where the hash of a row starts, before the first key column.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;
/// What a null hashes as: an arbitrary odd constant.
const NULL: u64 = 0xA076_1D64_78BD_642F;

/// A key type that has no stable hash.
#[derive(Debug, thiserror::Error)]
#[error("a column of type {0} cannot be a key; cast it to VARCHAR, BIGINT, DOUBLE, DECIMAL, DATE or TIMESTAMP")]
pub struct UnhashableType(pub DataType);

/// Hashes every row of the key columns into `hashes` (cleared first): one `u64` a row.
pub fn hash_rows(columns: &[ArrayRef], rows: usize, hashes: &mut Vec<u64>) -> Result<(), UnhashableType> {
    hashes.clear();
    hashes.resize(rows, SEED);
    columns.iter().try_for_each(|column| hash_column(column, hashes))
}

/// The hash of a row without key columns (a global aggregate): always the same group.
pub fn hash_of_no_key() -> u64 {
    SEED
}

/// Hash of one 64-bit key column value: what `hash_rows` gives for a single integer column.
#[inline]
pub fn hash_u64(value: u64) -> u64 {
    combine(SEED, mix(value))
}

pub fn is_hashable(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Null | Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Float32
            | Float64
            | Date32
            | Time32(_)
            | Time64(_)
            | Timestamp(_, _)
            | Decimal128(_, _)
            | Utf8
            | LargeUtf8
            | Utf8View
            | Binary
            | LargeBinary
    )
}

fn hash_column(column: &ArrayRef, hashes: &mut [u64]) -> Result<(), UnhashableType> {
    use DataType::*;
    macro_rules! integers {
        ($t:ty) => {{
            let array = column.as_primitive::<$t>();
            fold(array, hashes, |row| mix(array.values()[row] as i64 as u64));
        }};
    }
    match column.data_type() {
        Null => hashes.iter_mut().for_each(|hash| *hash = combine(*hash, NULL)),
        Boolean => {
            let array = column.as_boolean();
            fold(array, hashes, |row| mix(array.value(row) as u64));
        }
        Int8 => integers!(Int8Type),
        Int16 => integers!(Int16Type),
        Int32 => integers!(Int32Type),
        Int64 => integers!(Int64Type),
        UInt8 => integers!(UInt8Type),
        UInt16 => integers!(UInt16Type),
        UInt32 => integers!(UInt32Type),
        UInt64 => integers!(UInt64Type),
        Date32 => integers!(Date32Type),
        Time32(TimeUnit::Second) => integers!(Time32SecondType),
        Time32(_) => integers!(Time32MillisecondType),
        Time64(TimeUnit::Nanosecond) => integers!(Time64NanosecondType),
        Time64(_) => integers!(Time64MicrosecondType),
        Timestamp(TimeUnit::Second, _) => integers!(TimestampSecondType),
        Timestamp(TimeUnit::Millisecond, _) => integers!(TimestampMillisecondType),
        Timestamp(TimeUnit::Microsecond, _) => integers!(TimestampMicrosecondType),
        Timestamp(TimeUnit::Nanosecond, _) => integers!(TimestampNanosecondType),
        Float32 => {
            let array = column.as_primitive::<Float32Type>();
            fold(array, hashes, |row| mix(float_bits(array.values()[row] as f64)));
        }
        Float64 => {
            let array = column.as_primitive::<Float64Type>();
            fold(array, hashes, |row| mix(float_bits(array.values()[row])));
        }
        Decimal128(_, _) => {
            let array = column.as_primitive::<Decimal128Type>();
            fold(array, hashes, |row| {
                let value = array.values()[row];
                mix((value as u64) ^ mix((value >> 64) as u64))
            });
        }
        Utf8 => {
            let array = column.as_string::<i32>();
            fold(array, hashes, |row| xxh3_64(array.value(row).as_bytes()));
        }
        LargeUtf8 => {
            let array = column.as_string::<i64>();
            fold(array, hashes, |row| xxh3_64(array.value(row).as_bytes()));
        }
        Utf8View => {
            let array = column.as_string_view();
            fold(array, hashes, |row| xxh3_64(array.value(row).as_bytes()));
        }
        Binary => {
            let array = column.as_binary::<i32>();
            fold(array, hashes, |row| xxh3_64(array.value(row)));
        }
        LargeBinary => {
            let array = column.as_binary::<i64>();
            fold(array, hashes, |row| xxh3_64(array.value(row)));
        }
        other => return Err(UnhashableType(other.clone())),
    }
    Ok(())
}

#[inline]
fn fold(array: &dyn Array, hashes: &mut [u64], value: impl Fn(usize) -> u64) {
    if array.null_count() == 0 {
        for (row, hash) in hashes.iter_mut().enumerate() {
            *hash = combine(*hash, value(row));
        }
    } else {
        for (row, hash) in hashes.iter_mut().enumerate() {
            *hash = combine(*hash, if array.is_null(row) { NULL } else { value(row) });
        }
    }
}

/// All zeroes are one key, and so are all NaNs.
fn float_bits(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

#[inline]
fn combine(hash: u64, value: u64) -> u64 {
    let h = (hash.rotate_left(23) ^ value).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    h ^ (h >> 32)
}

/// The 64-bit finalizer of MurmurHash3 (Austin Appleby, public domain): every input bit reaches every output bit.
#[inline]
fn mix(value: u64) -> u64 {
    let mut h = value;
    h ^= h >> 33;
    h = h.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    h ^= h >> 33;
    h = h.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use std::sync::Arc;

    fn hashes(columns: &[ArrayRef]) -> Vec<u64> {
        let mut out = vec![];
        hash_rows(columns, columns[0].len(), &mut out).unwrap();
        out
    }

    /// Changing any of these numbers orphans every key in every checkpoint and savepoint ever written.
    #[test]
    fn golden() {
        let printed =
            |columns: &[ArrayRef]| hashes(columns).iter().map(|h| format!("{h:016x}")).collect::<Vec<_>>().join(" ");
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(-1), Some(i64::MAX), None]));
        let strings: ArrayRef = Arc::new(StringArray::from(vec![Some(""), Some("JFK"), Some("LGA"), Some("é"), None]));
        let floats: ArrayRef =
            Arc::new(Float64Array::from(vec![Some(0.0), Some(-0.0), Some(1.5), Some(f64::NAN), None]));
        let golden = include_str!("hash_golden.txt").trim();
        let now = [
            printed(std::slice::from_ref(&ints)),
            printed(std::slice::from_ref(&strings)),
            printed(std::slice::from_ref(&floats)),
            printed(&[ints, strings]),
        ]
        .join("\n");
        assert_eq!(now, golden, "the key hash changed");
    }

    #[test]
    fn widening_keeps_the_hash() {
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![5, -7, i32::MAX]));
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![5, -7, i32::MAX as i64]));
        assert_eq!(hashes(&[narrow]), hashes(&[wide]));
        let narrow: ArrayRef = Arc::new(Float32Array::from(vec![0.5, -2.25]));
        let wide: ArrayRef = Arc::new(Float64Array::from(vec![0.5, -2.25]));
        assert_eq!(hashes(&[narrow]), hashes(&[wide]));
    }

    #[test]
    fn one_integer_column_is_hash_u64() {
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![42, -3]));
        assert_eq!(hashes(&[ints]), [hash_u64(42), hash_u64(-3i64 as u64)]);
    }
}
