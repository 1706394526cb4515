//! Where the fields of a row are.

use crate::StateError;
use crate::key_batch::KeyForm;
use crate::word::is_word;
use arrow::datatypes::DataType;
use weir_model::StateField;

/// Where a row begins, as `RowState::row` lends it: `[null bits][fields]`, a multiple of 8 bytes less 4.
///
/// The null bits (set: null) take 4 bytes for up to 32 fields and 8 more for each further 64. Then the fields
/// follow in the order of the schema, 8 bytes each (decimals 16): integers, dates and times as i64, booleans
/// as 0 or 1, floats as their bits, strings and bytes as a handle that only `get_var` and `set_var` read.
/// Numbers are little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowLayout {
    fields: Vec<FieldLayout>,
    /// Length of what `row` lends.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// 8 bytes.
    Word,
    /// 16 bytes.
    Decimal,
    /// Strings and bytes.
    Var,
}

/// Where one field of a row is. All methods take rows of the layout it comes from; they panic at one that is
/// too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLayout {
    pub(crate) offset: u32,
    null_byte: u16,
    null_bit: u8,
    pub(crate) kind: FieldKind,
}

impl RowLayout {
    /// # Errors
    /// A field whose type state cannot hold.
    pub fn of(fields: &[StateField]) -> Result<Self, StateError> {
        let null_bytes = 4 + fields.len().saturating_sub(32).div_ceil(64) * 8;
        let mut offset = null_bytes;
        let mut layouts = Vec::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate() {
            let kind = match &field.data_type {
                DataType::Decimal128(_, _) => FieldKind::Decimal,
                data_type if is_word(data_type) || *data_type == DataType::Null => FieldKind::Word,
                DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary => FieldKind::Var,
                other => {
                    return Err(StateError::UnsupportedType { field: field.name.clone(), data_type: other.clone() });
                }
            };
            let (null_byte, null_bit) = ((index / 8) as u16, 1 << (index % 8));
            layouts.push(FieldLayout { offset: offset as u32, null_byte, null_bit, kind });
            offset += if kind == FieldKind::Decimal { 16 } else { 8 };
        }
        Ok(RowLayout { fields: layouts, bytes: offset })
    }

    /// # Panics
    /// If the schema has no such field.
    #[inline]
    pub fn field(&self, index: usize) -> FieldLayout {
        self.fields[index]
    }

    pub fn fields(&self) -> &[FieldLayout] {
        &self.fields
    }

    /// Length of a row in bytes.
    #[inline]
    pub fn row_bytes(&self) -> usize {
        self.bytes
    }
}

impl RowLayout {
    /// Length of a row as `RowState::read_words` gives it: the first null bits take a word of their own.
    #[inline]
    pub fn row_words(&self) -> usize {
        (self.bytes + 4) / 8
    }
}

impl FieldLayout {
    pub fn kind(&self) -> FieldKind {
        self.kind
    }

    /// Bytes from the begin of the row.
    #[inline]
    pub fn offset(&self) -> usize {
        self.offset as usize
    }

    #[inline]
    pub fn is_null(&self, row: &[u8]) -> bool {
        row[self.null_byte as usize] & self.null_bit != 0
    }

    #[inline]
    pub fn set_null(&self, row: &mut [u8]) {
        row[self.null_byte as usize] |= self.null_bit;
    }

    #[inline]
    pub fn set_valid(&self, row: &mut [u8]) {
        // Mostly it is valid: a branch that is foreseen costs less than the store.
        if self.is_null(row) {
            row[self.null_byte as usize] &= !self.null_bit;
        }
    }

    /// The raw word; whatever it was left as, or 0, if the field is null.
    #[inline]
    pub fn get_u64(&self, row: &[u8]) -> u64 {
        let at = self.offset as usize;
        u64::from_le_bytes(row[at..at + 8].try_into().expect("8 bytes"))
    }

    /// Sets the raw word; doesn't touch the null bit.
    #[inline]
    pub fn put_u64(&self, row: &mut [u8], value: u64) {
        let at = self.offset as usize;
        row[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub fn get_i64(&self, row: &[u8]) -> i64 {
        self.get_u64(row) as i64
    }

    /// Sets the value and that it isn't null.
    #[inline]
    pub fn set_i64(&self, row: &mut [u8], value: i64) {
        self.set_valid(row);
        self.put_u64(row, value as u64);
    }

    #[inline]
    pub fn get_f64(&self, row: &[u8]) -> f64 {
        f64::from_bits(self.get_u64(row))
    }

    /// Sets the value and that it isn't null.
    #[inline]
    pub fn set_f64(&self, row: &mut [u8], value: f64) {
        self.set_valid(row);
        self.put_u64(row, value.to_bits());
    }

    /// A Float32 field.
    #[inline]
    pub fn get_f32(&self, row: &[u8]) -> f32 {
        f32::from_bits(self.get_u64(row) as u32)
    }

    /// Sets the value and that it isn't null.
    #[inline]
    pub fn set_f32(&self, row: &mut [u8], value: f32) {
        self.set_valid(row);
        self.put_u64(row, value.to_bits() as u64);
    }

    /// A decimal field.
    #[inline]
    pub fn get_i128(&self, row: &[u8]) -> i128 {
        debug_assert_eq!(self.kind, FieldKind::Decimal);
        let at = self.offset as usize;
        i128::from_le_bytes(row[at..at + 16].try_into().expect("16 bytes"))
    }

    /// Sets the value and that it isn't null.
    #[inline]
    pub fn set_i128(&self, row: &mut [u8], value: i128) {
        debug_assert_eq!(self.kind, FieldKind::Decimal);
        self.set_valid(row);
        let at = self.offset as usize;
        row[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }
}

/// A row's place. Stays good until the row is removed, its namespace is dropped or next upserted into, or
/// `KeyedState::between_batches` runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Slot(u64);

impl Slot {
    /// What `find` gives for an absent key.
    pub const NONE: Slot = Slot(u64::MAX);
    /// Tables of one namespace that a slot can tell apart.
    pub(crate) const MAX_TABLES: usize = 256;
    /// Live namespaces of one state that a slot can tell apart.
    pub(crate) const MAX_SETS: usize = (1 << 24) - 1;

    #[inline]
    pub(crate) fn new(set: usize, table: usize, row: u32) -> Self {
        Slot((set as u64) << 40 | (table as u64) << 32 | row as u64)
    }

    #[inline]
    pub fn is_none(self) -> bool {
        self == Slot::NONE
    }

    #[inline]
    pub(crate) fn set(self) -> usize {
        (self.0 >> 40) as usize
    }

    #[inline]
    pub(crate) fn table(self) -> usize {
        (self.0 >> 32) as usize & 0xFF
    }

    #[inline]
    pub(crate) fn row(self) -> u32 {
        self.0 as u32
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_none() {
            return f.write_str("Slot::NONE");
        }
        write!(f, "Slot({}/{}/{})", self.set(), self.table(), self.row())
    }
}

/// How a row is held in a table, in words of 8 bytes:
/// `[key][header][more null bits][fields][last write]`.
///
/// - key: the raw word, or for byte keys `[hash][handle into the arena]`.
/// - header: the birth mark in the lower 32 bits, the first 32 null bits in the upper ones.
/// - last write: milliseconds since the epoch, for states with a TTL.
///
/// What `RowState::row` lends begins in the middle of the header, so that the fields keep to words.
#[derive(Clone, Debug)]
pub(crate) struct Physical {
    pub(crate) form: KeyForm,
    pub(crate) key_words: usize,
    pub(crate) stride: usize,
    /// Bytes from the begin of the row in the table to what `row` lends.
    pub(crate) lent_at: usize,
    pub(crate) lent_bytes: usize,
    /// The last-write word, if the state has a TTL.
    pub(crate) last_write: Option<usize>,
    /// Words (from the row's begin) that are handles into the arena: fields, not the key.
    pub(crate) var_words: Vec<usize>,
    /// The null words of a fresh row, the header's upper half first.
    pub(crate) fresh_nulls: Vec<u64>,
}

impl Physical {
    pub(crate) fn new(key: &[StateField], layout: &RowLayout, ttl: bool) -> Self {
        let form = KeyForm::of(key);
        let key_words = if form == KeyForm::Word { 1 } else { 2 };
        let lent_at = key_words * 8 + 4;
        let end = (lent_at + layout.bytes) / 8;
        let null_words = (layout.fields.len().saturating_sub(32)).div_ceil(64) + 1;
        let mut null_bytes = vec![0u8; 4 + (null_words - 1) * 8];
        for index in 0..layout.fields.len() {
            null_bytes[index / 8] |= 1 << (index % 8);
        }
        let mut fresh = vec![0u8; 4];
        fresh.extend(null_bytes);
        let fresh_nulls =
            fresh.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect();
        let var_words = (layout.fields.iter())
            .filter(|field| field.kind == FieldKind::Var)
            .map(|field| (lent_at + field.offset as usize) / 8)
            .collect();
        Physical {
            form,
            key_words,
            stride: end + ttl as usize,
            lent_at,
            lent_bytes: layout.bytes,
            last_write: ttl.then_some(end),
            var_words,
            fresh_nulls,
        }
    }

    /// The header's word.
    #[inline]
    pub(crate) fn header(&self) -> usize {
        self.key_words
    }
}
