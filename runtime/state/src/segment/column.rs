//! Columns of words and of byte strings, packed; and a reader that fails on every length that doesn't fit.

use std::fmt;

/// Why bytes aren't a column; the reader of the block adds the place.
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Reads from the front of a block.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("it ends early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(self.u64()? as i64)
    }

    /// A count of things that take at least `bytes_each` bytes of what is left, so that a broken count
    /// allocates nothing large.
    pub(crate) fn count(&mut self, bytes_each: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        match count.checked_mul(bytes_each) {
            Some(bytes) if bytes <= self.0.len() => Ok(count),
            _ => Err(Malformed("a count is larger than the bytes behind it")),
        }
    }

    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes are left over")) }
    }
}

/// `[least u64][width u8]` and for each word its distance from the least (as signed numbers) in `width` bytes.
pub(crate) fn write_words(words: &[u64], out: &mut Vec<u8>) {
    let count = words.len();
    let least = words.iter().map(|word| *word as i64).min().unwrap_or(0) as u64;
    let greatest = words.iter().map(|word| *word as i64).max().unwrap_or(0) as u64;
    let span = greatest.wrapping_sub(least);
    let width = (u64::BITS - span.leading_zeros()).div_ceil(8) as usize;
    out.extend_from_slice(&least.to_le_bytes());
    out.push(width as u8);
    if width == 0 {
        return;
    }
    // Whole words are stored, each over the upper bytes of the one before.
    let begin = out.len();
    out.resize(begin + count * width + 8, 0);
    let mut at = begin;
    for word in words {
        out[at..at + 8].copy_from_slice(&word.wrapping_sub(least).to_le_bytes());
        at += width;
    }
    out.truncate(begin + count * width);
}

/// Reads `count` words.
pub(crate) fn read_words(reader: &mut Reader<'_>, count: usize, out: &mut Vec<u64>) -> Result<(), Malformed> {
    out.clear();
    let least = reader.u64()?;
    let width = reader.u8()? as usize;
    if width > 8 {
        return Err(Malformed("a word of more than 8 bytes"));
    }
    if width == 0 {
        out.resize(count, least);
        return Ok(());
    }
    let bytes = reader.take(count.checked_mul(width).ok_or(Malformed("a count is too large"))?)?;
    out.reserve(count);
    let mask = u64::MAX >> (64 - width * 8);
    // Whole words are read as long as they lie in the column, the last few byte by byte.
    let whole = if bytes.len() >= 8 { ((bytes.len() - 8) / width + 1).min(count) } else { 0 };
    for at in 0..whole {
        let word = u64::from_le_bytes(bytes[at * width..at * width + 8].try_into().expect("8 bytes"));
        out.push(least.wrapping_add(word & mask));
    }
    for at in whole..count {
        let mut word = [0; 8];
        word[..width].copy_from_slice(&bytes[at * width..(at + 1) * width]);
        out.push(least.wrapping_add(u64::from_le_bytes(word)));
    }
    Ok(())
}

const RAW: u8 = 0;
const LZ4: u8 = 1;
/// Below this, compression isn't tried.
const MIN_COMPRESSED_BYTES: usize = 64;
/// More than this in one column of a block is never written.
const MAX_COLUMN_BYTES: usize = 1 << 31;

/// The lengths as words, then `[form u8][bytes u32][stored bytes u32]` and the bytes, LZ4 where that is smaller.
pub(crate) fn write_bytes<'a>(strings: impl Iterator<Item = &'a [u8]> + Clone, out: &mut Vec<u8>) {
    let lengths: Vec<u64> = strings.clone().map(|string| string.len() as u64).collect();
    write_words(&lengths, out);
    let total: usize = strings.clone().map(<[u8]>::len).sum();
    let mut bytes = Vec::with_capacity(total);
    strings.for_each(|string| bytes.extend_from_slice(string));
    let compressed = (bytes.len() >= MIN_COMPRESSED_BYTES).then(|| lz4_flex::block::compress(&bytes));
    let (form, stored) = match &compressed {
        Some(compressed) if compressed.len() < bytes.len() / 8 * 7 => (LZ4, &compressed[..]),
        _ => (RAW, &bytes[..]),
    };
    out.push(form);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    out.extend_from_slice(stored);
}

/// Byte strings of a column that was read.
#[derive(Default)]
pub(crate) struct ByteColumn {
    bytes: Vec<u8>,
    /// One more than there are strings.
    offsets: Vec<u32>,
}

impl ByteColumn {
    #[inline]
    pub(crate) fn get(&self, at: usize) -> &[u8] {
        &self.bytes[self.offsets[at] as usize..self.offsets[at + 1] as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.offsets.windows(2).map(|ends| &self.bytes[ends[0] as usize..ends[1] as usize])
    }

    /// Reads `count` byte strings.
    pub(crate) fn read(reader: &mut Reader<'_>, count: usize) -> Result<Self, Malformed> {
        let mut lengths = vec![];
        read_words(reader, count, &mut lengths)?;
        let form = reader.u8()?;
        let length = reader.u32()? as usize;
        let stored_length = reader.u32()? as usize;
        let stored = reader.take(stored_length)?;
        let bytes = match form {
            RAW => stored.to_vec(),
            LZ4 if length <= MAX_COLUMN_BYTES && length / 255 <= stored.len() => {
                lz4_flex::block::decompress(stored, length).map_err(|_| Malformed("LZ4 bytes that don't decompress"))?
            }
            _ => return Err(Malformed("a byte column of no known form")),
        };
        let mut offsets = Vec::with_capacity(count + 1);
        let mut end = 0u64;
        offsets.push(0);
        for length in lengths {
            end = end.saturating_add(length);
            offsets.push(u32::try_from(end).map_err(|_| Malformed("lengths of more than 4 GiB"))?);
        }
        if bytes.len() != length || end != length as u64 {
            return Err(Malformed("lengths that don't add up"));
        }
        Ok(ByteColumn { bytes, offsets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_there_and_back(words in prop::collection::vec(prop_oneof![any::<u64>(), 1000u64..1300, Just(u64::MAX), Just(i64::MIN as u64)], 0..50), shift in 0u32..64) {
            let words: Vec<u64> = words.into_iter().map(|word| word >> shift).collect();
            let (mut bytes, mut out) = (vec![], vec![]);
            write_words(&words, &mut bytes);
            let mut reader = Reader(&bytes);
            prop_assert!(read_words(&mut reader, words.len(), &mut out).is_ok());
            prop_assert!(reader.finish().is_ok());
            prop_assert_eq!(out, words);
        }

        #[test]
        fn strings_there_and_back(strings in prop::collection::vec(prop::collection::vec(0u8..3, 0..40), 0..50)) {
            let mut bytes = vec![];
            write_bytes(strings.iter().map(|s| &s[..]), &mut bytes);
            let mut reader = Reader(&bytes);
            let Ok(column) = ByteColumn::read(&mut reader, strings.len()) else { panic!("reads") };
            prop_assert!(reader.finish().is_ok());
            prop_assert_eq!(column.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), strings);
        }
    }
}
