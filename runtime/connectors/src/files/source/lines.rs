//! One text file, record by record, from a position on.

use super::SourceCompression;
use super::framing::Framing;
use super::position::{Position, Unit};
use crate::api::ConnectorError;
use crate::files::io_error;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How much is read at once.
const BLOCK_BYTES: usize = 256 << 10;
/// A longer record is a bad one.
pub(super) const MAX_RECORD_BYTES: usize = 16 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

pub(super) struct Lines {
    path: PathBuf,
    input: Box<dyn Read + Send>,
    framing: Framing,
    block: Vec<u8>,
    /// Bytes of `block` that have been read and not been given out.
    unread: Range<usize>,
    /// Of the first unread byte, from the start of the (decompressed) text.
    offset: u64,
    line: u64,
    input_ended: bool,
}

/// A record, with where it begins.
pub(super) struct Record<'a> {
    /// Without the line end.
    pub bytes: &'a [u8],
    pub offset: u64,
    /// Counted from 1.
    pub line: u64,
    /// The record is longer than `MAX_RECORD_BYTES`; `bytes` is its beginning.
    pub too_long: bool,
}

/// What to do with bytes after the last line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastLine {
    /// It is a record.
    Counts,
    /// It may be half written: it waits for its line end.
    Waits,
}

impl Lines {
    /// Opens a file where `position` says, having checked that it still is the same file.
    pub fn open(
        path: &Path,
        compression: SourceCompression,
        framing: Framing,
        position: &mut Position,
    ) -> Result<Self, ConnectorError> {
        let mut file = File::open(path).map_err(|error| io_error("open", path, &error))?;
        position.recognise(path, &mut file)?;
        let failed = |error: std::io::Error| io_error("read", path, &error);
        let seek_to = if position.unit == Unit::Bytes { position.offset } else { 0 };
        file.seek(SeekFrom::Start(seek_to)).map_err(failed)?;
        let input: Box<dyn Read + Send> = match resolved(compression, path) {
            SourceCompression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
            SourceCompression::Zstd => Box::new(zstd::stream::read::Decoder::new(file).map_err(failed)?),
            SourceCompression::None | SourceCompression::Auto => Box::new(file),
        };
        let mut lines = Lines {
            path: path.to_owned(),
            input,
            framing,
            block: Vec::new(),
            unread: 0..0,
            offset: seek_to,
            line: position.line,
            input_ended: false,
        };
        lines.pass_over(position.offset - seek_to)?;
        Ok(lines)
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How far the file was there, half a last line included, when its end was met.
    pub fn seen(&self) -> u64 {
        self.offset + self.unread.len() as u64
    }

    /// Lines before `offset`, counted from where counting began.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The next record; `None` when there is none, for now or for good.
    #[inline]
    pub fn next(&mut self, last_line: LastLine) -> Result<Option<Record<'_>>, ConnectorError> {
        let (record, consumed) = loop {
            let unread = &self.block[self.unread.clone()];
            match self.framing.record_end(unread) {
                Some(end) if end <= MAX_RECORD_BYTES => break (end, end + 1),
                None if unread.len() <= MAX_RECORD_BYTES => {}
                _ => return self.oversized().map(Some),
            }
            if self.input_ended {
                if unread.is_empty() || last_line == LastLine::Waits {
                    return Ok(None);
                }
                // A quote that is never closed costs its own line, not the rest of the file.
                let end = memchr::memchr(b'\n', unread);
                break end.map_or((unread.len(), unread.len()), |end| (end, end + 1));
            }
            self.fill()?;
        };
        Ok(Some(self.consume(record, consumed)))
    }

    /// Moves on by `consumed` bytes, of which the first `record` are the record.
    #[inline]
    fn consume(&mut self, record: usize, consumed: usize) -> Record<'_> {
        let start = self.unread.start;
        let (offset, line) = (self.offset, self.line + 1);
        self.unread.start += consumed;
        self.offset += consumed as u64;
        let bytes = &self.block[start..start + record];
        self.line += match self.framing {
            Framing::Lines => 1,
            Framing::Csv { .. } => 1 + memchr::memchr_iter(b'\n', bytes).count() as u64,
        };
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let bytes = if offset == 0 { bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes) } else { bytes };
        Record { bytes, offset, line, too_long: false }
    }

    /// Passes over a record that is too long. If it's a quote that isn't closed within the bound, only its
    /// first line is taken for bad.
    #[cold]
    fn oversized(&mut self) -> Result<Record<'_>, ConnectorError> {
        let first_line = memchr::memchr(b'\n', &self.block[self.unread.clone()]);
        if let Some(end) = first_line.filter(|end| *end <= MAX_RECORD_BYTES) {
            return Ok(self.consume(end, end + 1));
        }
        let (offset, line) = (self.offset, self.line + 1);
        let beginning = self.block[self.unread.clone()][..BLOCK_BYTES].to_vec();
        loop {
            let unread = &self.block[self.unread.clone()];
            let end = memchr::memchr(b'\n', unread);
            let consumed = end.map_or(unread.len(), |end| end + 1);
            self.unread.start += consumed;
            self.offset += consumed as u64;
            if end.is_some() || self.input_ended {
                break;
            }
            self.fill()?;
        }
        self.line += 1;
        // Kept in front of the unread bytes, so that it can be lent like any record.
        let unread = self.block[self.unread.clone()].to_vec();
        self.block.clear();
        self.block.extend_from_slice(&beginning);
        self.block.extend_from_slice(&unread);
        self.unread = beginning.len()..self.block.len();
        Ok(Record { bytes: &self.block[..beginning.len()], offset, line, too_long: true })
    }

    /// Drops bytes up to the next line end: what a range before this one reads.
    pub fn pass_over_line(&mut self) -> Result<(), ConnectorError> {
        let line = self.line;
        self.next(LastLine::Counts)?;
        self.line = line;
        Ok(())
    }

    fn pass_over(&mut self, mut bytes: u64) -> Result<(), ConnectorError> {
        while bytes > 0 {
            if self.unread.is_empty() {
                if self.input_ended {
                    return Err(ConnectorError::Permanent(format!(
                        "{} ends {bytes} bytes before the position it was read up to; restore the file as it was",
                        self.path.display()
                    )));
                }
                self.fill()?;
            }
            let step = bytes.min(self.unread.len() as u64);
            self.unread.start += step as usize;
            self.offset += step;
            bytes -= step;
        }
        Ok(())
    }

    /// Reads a block more behind the unread bytes.
    fn fill(&mut self) -> Result<(), ConnectorError> {
        if self.unread.start > 0 {
            self.block.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        let filled = self.unread.end;
        // A record longer than a block makes the block grow twofold, so that few bytes are looked at often.
        let room = BLOCK_BYTES.max(filled);
        if self.block.len() < filled + room {
            self.block.resize(filled + room, 0);
        }
        loop {
            match self.input.read(&mut self.block[filled..]) {
                Ok(read) => {
                    self.unread.end = filled + read;
                    self.input_ended = read == 0;
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // What a decompressor says of bytes that it can't read comes as one of these.
                Err(error) if matches!(error.kind(), std::io::ErrorKind::Other | std::io::ErrorKind::UnexpectedEof) => {
                    return Err(ConnectorError::Permanent(format!(
                        "{} is broken or not complete: {error}; a compressed file must be moved into place whole",
                        self.path.display()
                    )));
                }
                Err(error) => return Err(io_error("read", &self.path, &error)),
            }
        }
    }
}

/// What `Auto` means for this file.
pub(super) fn resolved(compression: SourceCompression, path: &Path) -> SourceCompression {
    match compression {
        SourceCompression::Auto => match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz" | "gzip") => SourceCompression::Gzip,
            Some("zst" | "zstd") => SourceCompression::Zstd,
            _ => SourceCompression::None,
        },
        named => named,
    }
}
