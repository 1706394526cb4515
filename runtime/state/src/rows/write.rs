//! A row cut as blocks, in the background.
//!
//! A block: `puts u32, removes u32`, the namespaces of both as runs `(i64, rows u32)`, the places of null keys,
//! the key column of both, and for the puts the null words, the fields and the last write.

use super::cut::{Chunk, RowCut, group_of};
use super::null_key_hash;
use super::table::NULL_KEY;
use super::words::{handle_length, handle_offset};
use crate::StateError;
use crate::key_batch::{KeyForm, Modulus};
use crate::segment::block::BlockWriter;
use crate::segment::column::{write_bytes, write_words};
use std::collections::BTreeSet;
use weir_model::hash::hash_u64;

/// Rows of a block, and bytes of its strings, at most (but for one row larger than that).
const BLOCK_ROWS: usize = 1 << 15;
const BLOCK_STRING_BYTES: usize = 1 << 24;

/// Rows `first .. first + rows` of a chunk.
#[derive(Clone, Copy)]
struct Piece {
    chunk: u32,
    first: u32,
    rows: u32,
}

/// A removed key.
#[derive(Clone, Copy)]
struct Remove<'a> {
    namespace: i64,
    key: RemovedKey<'a>,
}

#[derive(Clone, Copy)]
enum RemovedKey<'a> {
    Null,
    Word(u64),
    Bytes(&'a [u8]),
}

impl RowCut {
    pub(crate) fn write(&self, writer: &mut BlockWriter<'_>) -> Result<(), StateError> {
        let dropped: BTreeSet<i64> =
            self.removed.iter().flat_map(|removed| removed.namespaces.iter().copied()).collect();
        writer.drop_namespaces(dropped.into_iter().collect());
        let pieces = self.pieces_by_group();
        let removes = self.removes_by_group();
        for (place, group) in self.groups.owned.iter().enumerate() {
            let is_base = self.bases[place];
            let removes = if is_base { &[][..] } else { &removes[place] };
            if !is_base && pieces[place].is_empty() && removes.is_empty() {
                continue;
            }
            writer.begin_group(group, is_base);
            self.write_group(&pieces[place], removes, writer)?;
        }
        Ok(())
    }

    fn pieces_by_group(&self) -> Vec<Vec<Piece>> {
        let first_group = self.groups.owned.first;
        let mut pieces: Vec<Vec<Piece>> = vec![vec![]; self.groups.owned.len()];
        let modulus = Modulus::new(self.groups.max_parallelism);
        for (number, chunk) in self.chunks.iter().enumerate() {
            let number = number as u32;
            if chunk.groups.len() == 1 {
                let piece = Piece { chunk: number, first: 0, rows: chunk.rows as u32 };
                pieces[(chunk.groups.first - first_group) as usize].push(piece);
                continue;
            }
            for row in 0..chunk.rows as u32 {
                let group = group_of(&self.physical, &modulus, self.row(chunk, row));
                let of_group = &mut pieces[(group.0 - first_group) as usize];
                match of_group.last_mut() {
                    Some(last) if last.chunk == number && last.first + last.rows == row => last.rows += 1,
                    _ => of_group.push(Piece { chunk: number, first: row, rows: 1 }),
                }
            }
        }
        pieces
    }

    fn removes_by_group(&self) -> Vec<Vec<Remove<'_>>> {
        let first_group = self.groups.owned.first;
        let mut removes: Vec<Vec<Remove<'_>>> = vec![vec![]; self.groups.owned.len()];
        let modulus = Modulus::new(self.groups.max_parallelism);
        let place = |hash: u64| (modulus.group(hash) - first_group) as usize;
        for removed in &self.removed {
            let keys = &removed.keys;
            for (at, namespace) in keys.namespaces.iter().copied().enumerate() {
                let (hash, key) = match self.physical.form {
                    KeyForm::Word => (hash_u64(keys.words[at]), RemovedKey::Word(keys.words[at])),
                    KeyForm::Bytes => (keys.hashes[at], RemovedKey::Bytes(keys.bytes.get(at))),
                };
                removes[place(hash)].push(Remove { namespace, key });
            }
            for namespace in keys.nulls.iter().copied() {
                removes[place(null_key_hash())].push(Remove { namespace, key: RemovedKey::Null });
            }
        }
        removes
    }

    fn write_group(
        &self,
        pieces: &[Piece],
        removes: &[Remove<'_>],
        writer: &mut BlockWriter<'_>,
    ) -> Result<(), StateError> {
        // Removes come in blocks of their own before the puts: a key that was removed and came back is a put.
        for removes in removes.chunks(BLOCK_ROWS) {
            writer.block(|out| self.write_block(&[], removes, out))?;
        }
        let mut block: Vec<Piece> = vec![];
        let mut room = Room::new();
        for piece in pieces {
            let mut rest = *piece;
            while rest.rows > 0 {
                let taken = room.take(self, rest);
                if taken == 0 {
                    writer.block(|out| self.write_block(&block, &[], out))?;
                    block.clear();
                    room = Room::new();
                    continue;
                }
                block.push(Piece { rows: taken, ..rest });
                rest = Piece { first: rest.first + taken, rows: rest.rows - taken, ..rest };
            }
        }
        if !block.is_empty() {
            writer.block(|out| self.write_block(&block, &[], out))?;
        }
        Ok(())
    }

    #[inline]
    pub(super) fn row(&self, chunk: &Chunk, row: u32) -> &[u64] {
        let stride = self.physical.stride;
        &self.words[chunk.begin + row as usize * stride..][..stride]
    }

    fn write_block(&self, pieces: &[Piece], removes: &[Remove<'_>], out: &mut Vec<u8>) {
        let puts: u32 = pieces.iter().map(|piece| piece.rows).sum();
        out.extend_from_slice(&puts.to_le_bytes());
        out.extend_from_slice(&(removes.len() as u32).to_le_bytes());
        self.write_namespaces(pieces, removes, out);
        self.write_null_places(pieces, removes, out);
        // Side by side first: a column is gone over twice.
        let mut column: Vec<u64> = Vec::with_capacity(puts as usize + removes.len());
        let take_column = |word: usize, column: &mut Vec<u64>| {
            let stride = self.physical.stride;
            column.clear();
            for piece in pieces {
                let begin = self.chunks[piece.chunk as usize].begin + piece.first as usize * stride;
                let rows = self.words[begin..][..piece.rows as usize * stride].chunks_exact(stride);
                column.extend(rows.map(|row| row[word]));
            }
        };
        let strings = |word: usize| {
            pieces.iter().flat_map(move |piece| {
                let chunk = &self.chunks[piece.chunk as usize];
                (piece.first..piece.first + piece.rows).map(move |row| string_of(chunk, self.row(chunk, row)[word]))
            })
        };
        match self.physical.form {
            KeyForm::Word => {
                take_column(0, &mut column);
                column.extend(removes.iter().map(|remove| remove.key.word()));
                write_words(&column, out);
            }
            KeyForm::Bytes => write_bytes(strings(1).chain(removes.iter().map(|remove| remove.key.bytes())), out),
        }
        let header = self.physical.header();
        let null_words = self.physical.fresh_nulls.len();
        take_column(header, &mut column);
        column.iter_mut().for_each(|word| *word >>= 32);
        write_words(&column, out);
        for word in header + 1..self.physical.stride {
            match word >= header + null_words && self.physical.var_words.contains(&word) {
                true => write_bytes(strings(word), out),
                false => {
                    take_column(word, &mut column);
                    write_words(&column, out);
                }
            }
        }
    }

    fn write_namespaces(&self, pieces: &[Piece], removes: &[Remove<'_>], out: &mut Vec<u8>) {
        let mut runs: Vec<(i64, u32)> = vec![];
        let mut add = |namespace: i64, rows: u32| match runs.last_mut() {
            Some((last, count)) if *last == namespace => *count += rows,
            _ => runs.push((namespace, rows)),
        };
        pieces.iter().for_each(|piece| add(self.chunks[piece.chunk as usize].namespace, piece.rows));
        removes.iter().for_each(|remove| add(remove.namespace, 1));
        out.extend_from_slice(&(runs.len() as u32).to_le_bytes());
        for (namespace, rows) in runs {
            out.extend_from_slice(&namespace.to_le_bytes());
            out.extend_from_slice(&rows.to_le_bytes());
        }
    }

    fn write_null_places(&self, pieces: &[Piece], removes: &[Remove<'_>], out: &mut Vec<u8>) {
        let mut places: Vec<u32> = vec![];
        let mut at = 0;
        if self.physical.form == KeyForm::Word {
            for piece in pieces {
                let chunk = &self.chunks[piece.chunk as usize];
                for row in piece.first..piece.first + piece.rows {
                    if self.row(chunk, row)[self.physical.header()] & NULL_KEY != 0 {
                        places.push(at);
                    }
                    at += 1;
                }
            }
            for remove in removes {
                if matches!(remove.key, RemovedKey::Null) {
                    places.push(at);
                }
                at += 1;
            }
        }
        out.extend_from_slice(&(places.len() as u32).to_le_bytes());
        places.iter().for_each(|place| out.extend_from_slice(&place.to_le_bytes()));
    }

    /// Bytes of a row's strings.
    fn string_bytes(&self, row: &[u64]) -> usize {
        let key = (self.physical.form == KeyForm::Bytes).then_some(1);
        key.into_iter().chain(self.physical.var_words.iter().copied()).map(|word| handle_length(row[word])).sum()
    }
}

/// What a block still takes.
struct Room {
    rows: usize,
    string_bytes: usize,
}

impl Room {
    fn new() -> Self {
        Room { rows: BLOCK_ROWS, string_bytes: BLOCK_STRING_BYTES }
    }

    /// How many of the piece's rows go into the block.
    fn take(&mut self, cut: &RowCut, piece: Piece) -> u32 {
        let mut taken = 0;
        let chunk = &cut.chunks[piece.chunk as usize];
        if chunk.strings.is_empty() {
            taken = piece.rows.min(self.rows as u32);
        } else {
            while taken < piece.rows && (taken as usize) < self.rows {
                let bytes = cut.string_bytes(cut.row(chunk, piece.first + taken));
                let is_first = self.rows == BLOCK_ROWS && taken == 0;
                if bytes > self.string_bytes && !is_first {
                    break;
                }
                self.string_bytes = self.string_bytes.saturating_sub(bytes);
                taken += 1;
            }
        }
        self.rows -= taken as usize;
        taken
    }
}

impl RemovedKey<'_> {
    fn word(&self) -> u64 {
        match self {
            RemovedKey::Word(word) => *word,
            RemovedKey::Null | RemovedKey::Bytes(_) => 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            RemovedKey::Bytes(bytes) => bytes,
            RemovedKey::Null | RemovedKey::Word(_) => &[],
        }
    }
}

fn string_of(chunk: &Chunk, handle: u64) -> &[u8] {
    &chunk.strings[handle_offset(handle)..][..handle_length(handle)]
}
