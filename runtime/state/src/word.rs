//! Fixed-width column values as 64-bit words: how rows hold them, and how a single-column key is kept raw.

use crate::StateError;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::*;
use std::sync::Arc;

/// A value of at most 8 bytes.
pub(crate) trait Word: Copy {
    const BYTES: usize;
    /// Integers sign- or zero-extended, floats as their bits.
    fn to_word(self) -> u64;
    fn from_word(word: u64) -> Self;
    /// The value so that unsigned comparison of the lower `BYTES` bytes orders it. All zeroes are one
    /// value and so are all NaNs, as in the key hash.
    fn to_ordered(self) -> u64;
    fn from_ordered(ordered: u64) -> Self;
}

macro_rules! signed_word {
    ($($t:ty => $u:ty),*) => {$(
        impl Word for $t {
            const BYTES: usize = size_of::<$t>();
            #[inline]
            fn to_word(self) -> u64 { self as i64 as u64 }
            #[inline]
            fn from_word(word: u64) -> Self { word as $t }
            #[inline]
            fn to_ordered(self) -> u64 { (self as $u ^ (1 << (<$t>::BITS - 1))) as u64 }
            #[inline]
            fn from_ordered(ordered: u64) -> Self { (ordered as $u ^ (1 << (<$t>::BITS - 1))) as $t }
        }
    )*};
}
signed_word!(i8 => u8, i16 => u16, i32 => u32, i64 => u64);

macro_rules! unsigned_word {
    ($($t:ty),*) => {$(
        impl Word for $t {
            const BYTES: usize = size_of::<$t>();
            #[inline]
            fn to_word(self) -> u64 { self as u64 }
            #[inline]
            fn from_word(word: u64) -> Self { word as $t }
            #[inline]
            fn to_ordered(self) -> u64 { self as u64 }
            #[inline]
            fn from_ordered(ordered: u64) -> Self { ordered as $t }
        }
    )*};
}
unsigned_word!(u8, u16, u32, u64);

macro_rules! float_word {
    ($($t:ty => $u:ty),*) => {$(
        impl Word for $t {
            const BYTES: usize = size_of::<$t>();
            #[inline]
            fn to_word(self) -> u64 { self.to_bits() as u64 }
            #[inline]
            fn from_word(word: u64) -> Self { <$t>::from_bits(word as $u) }
            #[inline]
            fn to_ordered(self) -> u64 {
                const SIGN: $u = 1 << (<$u>::BITS - 1);
                let value = if self == 0.0 { 0.0 } else if self.is_nan() { <$t>::NAN } else { self };
                let bits = value.to_bits();
                (if bits & SIGN == 0 { bits ^ SIGN } else { !bits }) as u64
            }
            #[inline]
            fn from_ordered(ordered: u64) -> Self {
                const SIGN: $u = 1 << (<$u>::BITS - 1);
                let ordered = ordered as $u;
                <$t>::from_bits(if ordered & SIGN != 0 { ordered ^ SIGN } else { !ordered })
            }
        }
    )*};
}
float_word!(f32 => u32, f64 => u64);

/// Runs `$body` with `$t` being the Arrow type of at most 8 bytes that `$data_type` names, else `$other`.
macro_rules! with_word_type {
    ($data_type:expr, $t:ident => $body:expr, _ => $other:expr) => {{
        use arrow::datatypes::*;
        macro_rules! arm {
            ($arrow:ty) => {{
                type $t = $arrow;
                $body
            }};
        }
        match $data_type {
            DataType::Int8 => arm!(Int8Type),
            DataType::Int16 => arm!(Int16Type),
            DataType::Int32 => arm!(Int32Type),
            DataType::Int64 => arm!(Int64Type),
            DataType::UInt8 => arm!(UInt8Type),
            DataType::UInt16 => arm!(UInt16Type),
            DataType::UInt32 => arm!(UInt32Type),
            DataType::UInt64 => arm!(UInt64Type),
            DataType::Float32 => arm!(Float32Type),
            DataType::Float64 => arm!(Float64Type),
            DataType::Date32 => arm!(Date32Type),
            DataType::Time32(TimeUnit::Second) => arm!(Time32SecondType),
            DataType::Time32(TimeUnit::Millisecond) => arm!(Time32MillisecondType),
            DataType::Time64(TimeUnit::Microsecond) => arm!(Time64MicrosecondType),
            DataType::Time64(TimeUnit::Nanosecond) => arm!(Time64NanosecondType),
            DataType::Timestamp(TimeUnit::Second, _) => arm!(TimestampSecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => arm!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Microsecond, _) => arm!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => arm!(TimestampNanosecondType),
            _ => $other,
        }
    }};
}
pub(crate) use with_word_type;

/// Whether values of the type fit a word.
pub(crate) fn is_word(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Boolean)
        || with_word_type!(data_type, T => { let _ = T::DATA_TYPE; true }, _ => false)
}

/// Appends the column's values as words (of a null: any word).
pub(crate) fn append_words(column: &dyn Array, out: &mut Vec<u64>) -> Result<(), StateError> {
    fn primitive<T: ArrowPrimitiveType>(column: &dyn Array, out: &mut Vec<u64>)
    where
        T::Native: Word,
    {
        out.extend(column.as_primitive::<T>().values().iter().map(|value| value.to_word()));
    }
    match column.data_type() {
        DataType::Boolean => out.extend(column.as_boolean().values().iter().map(u64::from)),
        data_type => {
            with_word_type!(data_type, T => primitive::<T>(column, out), _ => return Err(unsupported(data_type)))
        }
    }
    Ok(())
}

/// The column of these words.
pub(crate) fn array_of_words(
    words: &[u64],
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> Result<ArrayRef, StateError> {
    fn primitive<T: ArrowPrimitiveType>(words: &[u64], nulls: Option<NullBuffer>, data_type: &DataType) -> ArrayRef
    where
        T::Native: Word,
    {
        let values: Vec<T::Native> = words.iter().map(|word| T::Native::from_word(*word)).collect();
        Arc::new(PrimitiveArray::<T>::new(values.into(), nulls).with_data_type(data_type.clone()))
    }
    Ok(match data_type {
        DataType::Boolean => {
            Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(words.len(), |row| words[row] != 0), nulls))
        }
        _ => {
            with_word_type!(data_type, T => primitive::<T>(words, nulls, data_type), _ => return Err(unsupported(data_type)))
        }
    })
}

/// Makes the words of a key column what the key hash takes: floats as the bits of a canonical double,
/// everything else as it is, so that `hash_u64(word)` is the hash of the key.
pub(crate) fn canonical_key_words(data_type: &DataType, words: &mut [u64]) {
    let canonical = |value: f64| {
        if value == 0.0 {
            0
        } else if value.is_nan() {
            f64::NAN.to_bits()
        } else {
            value.to_bits()
        }
    };
    match data_type {
        DataType::Float32 => words.iter_mut().for_each(|w| *w = canonical(f32::from_bits(*w as u32) as f64)),
        DataType::Float64 => words.iter_mut().for_each(|w| *w = canonical(f64::from_bits(*w))),
        _ => {}
    }
}

/// The inverse of [`canonical_key_words`] followed by [`array_of_words`].
pub(crate) fn array_of_key_words(
    words: &[u64],
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> Result<ArrayRef, StateError> {
    if *data_type == DataType::Float32 {
        let narrow: Vec<u64> = words.iter().map(|word| (f64::from_bits(*word) as f32).to_bits() as u64).collect();
        return array_of_words(&narrow, nulls, data_type);
    }
    array_of_words(words, nulls, data_type)
}

pub(crate) fn unsupported(data_type: &DataType) -> StateError {
    StateError::UnsupportedType { field: "?".into(), data_type: data_type.clone() }
}
