use crate::StateError;
use crate::codec::{EncodedRows, KeyCodec, check_columns};
use crate::word::{append_words, array_of_key_words, canonical_key_words, is_word};
use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use weir_model::hash::{hash_rows, hash_u64};
use weir_model::{KeyGroup, StateField};

/// Turns the key columns of a batch into a [`KeyBatch`]. One per operator and key; keeps its scratch space.
#[derive(Clone, Debug)]
pub struct KeyEncoder {
    fields: Vec<StateField>,
    form: KeyForm,
    codec: Option<KeyCodec>,
}

/// How the keys of a batch, and of a state, are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyForm {
    /// One column of at most 8 bytes, raw; a null beside.
    Word,
    /// Order-preserving bytes.
    Bytes,
}

impl KeyForm {
    pub(crate) fn of(fields: &[StateField]) -> Self {
        match fields {
            [field] if is_word(&field.data_type) => KeyForm::Word,
            _ => KeyForm::Bytes,
        }
    }
}

impl KeyEncoder {
    /// For row states: a single key column of at most 8 bytes stays raw.
    pub fn new(key_fields: &[StateField]) -> Self {
        KeyEncoder { fields: key_fields.to_vec(), form: KeyForm::of(key_fields), codec: None }
    }

    /// For ordered states: always encodes bytes, so that [`KeyBatch::key`] can lend them.
    pub fn for_ordered(key_fields: &[StateField]) -> Self {
        KeyEncoder { fields: key_fields.to_vec(), form: KeyForm::Bytes, codec: None }
    }

    /// Hashes and encodes `rows` rows of the key columns into `out`, which is overwritten.
    ///
    /// # Errors
    /// Columns that aren't those of the key fields; a null in a field that isn't nullable.
    pub fn encode(
        &mut self,
        columns: &[ArrayRef],
        rows: usize,
        max_parallelism: u32,
        out: &mut KeyBatch,
    ) -> Result<(), StateError> {
        check_columns("key", &self.fields, columns, rows)?;
        let modulus = Modulus::new(max_parallelism);
        match self.form {
            KeyForm::Word => {
                let (words, nulls) = out.keys.as_words();
                words.clear();
                append_words(&columns[0], words)?;
                canonical_key_words(&self.fields[0].data_type, words);
                *nulls = columns[0].nulls().filter(|nulls| nulls.null_count() > 0).cloned();
                hash_words(words, &modulus, &mut out.hashes, &mut out.groups);
                if nulls.is_some() {
                    hash_rows(columns, rows, &mut out.hashes)?;
                    modulus.groups(&out.hashes, &mut out.groups);
                }
            }
            KeyForm::Bytes => {
                if self.codec.is_none() {
                    self.codec = Some(KeyCodec::new(&self.fields)?);
                }
                let codec = self.codec.as_ref().expect("just made");
                codec.encode(columns, rows, out.keys.as_bytes())?;
                hash_rows(columns, rows, &mut out.hashes)?;
                modulus.groups(&out.hashes, &mut out.groups);
            }
        }
        Ok(())
    }
}

/// `hash as u32 % divisor` without a division (Lemire's fast remainder, exact for 32 bits).
pub(crate) struct Modulus {
    divisor: u64,
    inverse: u64,
}

impl Modulus {
    pub(crate) fn new(divisor: u32) -> Self {
        assert!(divisor > 0, "max parallelism is at least 1");
        Modulus { divisor: divisor as u64, inverse: (u64::MAX / divisor as u64).wrapping_add(1) }
    }

    /// What `KeyGroup::of_hash` gives.
    #[inline(always)]
    pub(crate) fn group(&self, hash: u64) -> u16 {
        // The upper half of a product of 96 bits, from products of 64, which processors do many at a time.
        let fraction = self.inverse.wrapping_mul(hash as u32 as u64);
        let low = (fraction & u32::MAX as u64) * self.divisor;
        (((fraction >> 32) * self.divisor + (low >> 32)) >> 32) as u16
    }

    fn groups(&self, hashes: &[u64], groups: &mut Vec<u16>) {
        groups.clear();
        groups.extend(hashes.iter().map(|hash| self.group(*hash)));
    }
}

/// The hashes and groups of raw keys without nulls.
pub(crate) fn hash_words(words: &[u64], modulus: &Modulus, hashes: &mut Vec<u64>, groups: &mut Vec<u16>) {
    hashes.resize(words.len(), 0);
    groups.resize(words.len(), 0);
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { hash_words_avx512(words, modulus, hashes, groups) };
    }
    hash_words_plain(words, modulus, hashes, groups)
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
}

/// The same code, compiled for processors that multiply eight words at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
fn hash_words_avx512(words: &[u64], modulus: &Modulus, hashes: &mut [u64], groups: &mut [u16]) {
    hash_words_plain(words, modulus, hashes, groups)
}

#[inline(always)]
fn hash_words_plain(words: &[u64], modulus: &Modulus, hashes: &mut [u64], groups: &mut [u16]) {
    for ((word, hash), group) in words.iter().zip(hashes).zip(groups) {
        *hash = hash_u64(*word);
        *group = modulus.group(*hash);
    }
}

/// The keys of one batch: hash, key group and the key itself, a row each.
#[derive(Clone, Debug, Default)]
pub struct KeyBatch {
    pub(crate) hashes: Vec<u64>,
    pub(crate) groups: Vec<u16>,
    pub(crate) keys: Keys,
}

#[derive(Clone, Debug)]
pub(crate) enum Keys {
    Words { words: Vec<u64>, nulls: Option<NullBuffer> },
    Bytes(EncodedRows),
}

impl Default for Keys {
    fn default() -> Self {
        Keys::Words { words: vec![], nulls: None }
    }
}

impl Keys {
    fn as_words(&mut self) -> (&mut Vec<u64>, &mut Option<NullBuffer>) {
        if !matches!(self, Keys::Words { .. }) {
            *self = Keys::default();
        }
        match self {
            Keys::Words { words, nulls } => (words, nulls),
            Keys::Bytes(_) => unreachable!("just set"),
        }
    }

    fn as_bytes(&mut self) -> &mut EncodedRows {
        if !matches!(self, Keys::Bytes(_)) {
            *self = Keys::Bytes(EncodedRows::default());
        }
        match self {
            Keys::Bytes(rows) => rows,
            Keys::Words { .. } => unreachable!("just set"),
        }
    }
}

impl KeyBatch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The stable hash of each key.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    #[inline]
    pub fn key_group(&self, row: usize) -> KeyGroup {
        KeyGroup(self.groups[row])
    }

    /// The order-preserving bytes of a key.
    ///
    /// # Panics
    /// If the batch comes from `KeyEncoder::new` with a single fixed-width column: ordered states take theirs
    /// from `KeyEncoder::for_ordered`.
    #[inline]
    pub fn key(&self, row: usize) -> &[u8] {
        match &self.keys {
            Keys::Bytes(rows) => rows.row(row),
            Keys::Words { .. } => panic!("a raw key has no bytes: use KeyEncoder::for_ordered"),
        }
    }

    /// Puts the given rows of this batch into `out`, in that order: for an operator that takes a batch apart
    /// by window.
    pub fn take(&self, rows: &[u32], out: &mut KeyBatch) {
        out.hashes.clear();
        out.hashes.extend(rows.iter().map(|row| self.hashes[*row as usize]));
        out.groups.clear();
        out.groups.extend(rows.iter().map(|row| self.groups[*row as usize]));
        match &self.keys {
            Keys::Words { words, nulls } => {
                let (out_words, out_nulls) = out.keys.as_words();
                out_words.clear();
                out_words.extend(rows.iter().map(|row| words[*row as usize]));
                *out_nulls = nulls.as_ref().and_then(|nulls| {
                    let taken: NullBuffer = rows.iter().map(|row| nulls.is_valid(*row as usize)).collect();
                    (taken.null_count() > 0).then_some(taken)
                });
            }
            Keys::Bytes(encoded) => {
                let out = out.keys.as_bytes();
                out.clear();
                rows.iter().for_each(|row| out.push(encoded.row(*row as usize)));
            }
        }
    }

    pub(crate) fn form(&self) -> KeyForm {
        match &self.keys {
            Keys::Words { .. } => KeyForm::Word,
            Keys::Bytes(_) => KeyForm::Bytes,
        }
    }

    /// The keys as columns again.
    pub fn decode(&self, key_fields: &[StateField]) -> Result<Vec<ArrayRef>, StateError> {
        match &self.keys {
            Keys::Words { words, nulls } => {
                Ok(vec![array_of_key_words(words, nulls.clone(), &key_fields[0].data_type)?])
            }
            Keys::Bytes(rows) => KeyCodec::new(key_fields)?.decode(rows.iter()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float32Array, Int32Array, Int64Array, StringArray};
    use arrow::datatypes::DataType;
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn the_fast_remainder_is_the_remainder(hash: u64, max in 1u32..40_000) {
            prop_assert_eq!(Modulus::new(max).group(hash), KeyGroup::of_hash(hash, max).0);
        }
    }

    #[test]
    fn the_hash_of_a_raw_word_is_the_hash_of_the_key() {
        let columns: [ArrayRef; 2] =
            [Arc::new(Int32Array::from(vec![1, -5])), Arc::new(Float32Array::from(vec![0.5, -0.0]))];
        for column in columns {
            let fields = [StateField::new("k", column.data_type().clone(), false)];
            let mut keys = KeyBatch::new();
            KeyEncoder::new(&fields).encode(std::slice::from_ref(&column), 2, 128, &mut keys).unwrap();
            let Keys::Words { words, .. } = &keys.keys else { panic!("raw") };
            assert_eq!(keys.hashes, words.iter().map(|word| hash_u64(*word)).collect::<Vec<_>>());
            assert_eq!(keys.decode(&fields).unwrap()[0].len(), 2);
        }
    }

    #[test]
    fn a_part_of_a_batch() {
        let fields = [StateField::new("a", DataType::Int64, true), StateField::new("b", DataType::Utf8, true)];
        let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let b: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("y"), None]));
        for columns in [vec![a.clone()], vec![a, b]] {
            let (mut keys, mut part) = (KeyBatch::new(), KeyBatch::new());
            let fields = &fields[..columns.len()];
            KeyEncoder::new(fields).encode(&columns, 3, 128, &mut keys).unwrap();
            keys.take(&[2, 1], &mut part);
            let decoded = part.decode(fields).unwrap();
            for (column, decoded) in columns.iter().zip(decoded) {
                let indices = arrow::array::UInt32Array::from(vec![2, 1]);
                assert_eq!(&arrow::compute::take(column, &indices, None).unwrap(), &decoded);
            }
        }
    }
}
