//! The reader of one subtask: its splits one after another, in the order of the files' names.

use super::discovery::{list, owner};
use super::framing::Framing;
use super::lines::{LastLine, Lines, MAX_RECORD_BYTES, resolved};
use super::parquet_rows::ParquetRows;
use super::position::{Position, Range, Unit, truncated};
use super::{FileFormat, FilesSourceConfig, SourceCompression};
use crate::api::{ConnectorError, Poll, SourceContext, SourceReader, SplitState};
use crate::files::io_error;
use crate::formats::{BadRecord, DecoderConfig, Intake, Place, decoder};
use arrow::record_batch::RecordBatch;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A batch ends once it holds this much text, however few rows that is.
const MAX_BATCH_BYTES: u64 = 8 << 20;

pub(super) struct FilesReader {
    config: Arc<FilesSourceConfig>,
    context: SourceContext,
    /// Of text formats.
    intake: Option<Intake>,
    /// All splits that this reader has had.
    splits: BTreeMap<SplitKey, Split>,
    /// Those that may have something to read.
    readable: BTreeSet<SplitKey>,
    /// Numbers, for `Poll`, of those that have given records and may give more.
    numbers: BTreeMap<SplitKey, u32>,
    /// Every file that any subtask has splits of: they aren't cut anew.
    known_files: HashSet<String>,
    open: Option<Open>,
    next_number: u32,
    finished: VecDeque<u32>,
    next_scan: Instant,
}

/// Orders splits as they are read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SplitKey {
    path: String,
    /// Number of the range; `None` is the whole file.
    range: Option<u64>,
}

struct Split {
    position: Position,
    /// How long the file was when it was last read to its end: it has more to read when it is longer.
    drained_at: Option<u64>,
}

struct Open {
    key: SplitKey,
    content: Content,
}

enum Content {
    Text(Lines),
    Parquet(ParquetRows),
}

/// What one read gave.
struct Read {
    rows: Option<(RecordBatch, Option<RecordBatch>)>,
    /// How long the file was, when it has nothing more for now.
    drained_at: Option<u64>,
}

impl SplitKey {
    fn id(&self) -> String {
        match self.range {
            Some(range) => format!("{}#{range}", self.path),
            None => self.path.clone(),
        }
    }

    fn of(id: &str, position: &Position) -> Option<Self> {
        Some(match position.range {
            Some(_) => {
                let (path, range) = id.rsplit_once('#')?;
                SplitKey { path: path.into(), range: Some(range.parse().ok()?) }
            }
            None => SplitKey { path: id.into(), range: None },
        })
    }
}

impl FilesReader {
    pub fn open(
        config: Arc<FilesSourceConfig>,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Self, ConnectorError> {
        let intake = match &config.format {
            FileFormat::Text(format) => {
                Some(Intake::new(&context.name, decoder(format, &config.schema)?, config.on_bad_record))
            }
            FileFormat::Parquet => None,
        };
        let mut reader = FilesReader {
            config,
            context,
            intake,
            splits: BTreeMap::new(),
            readable: BTreeSet::new(),
            numbers: BTreeMap::new(),
            known_files: HashSet::new(),
            open: None,
            next_number: 0,
            finished: VecDeque::new(),
            next_scan: Instant::now(),
        };
        restored.into_iter().try_for_each(|state| reader.restore(state))?;
        reader.scan()?;
        Ok(reader)
    }

    fn restore(&mut self, state: SplitState) -> Result<(), ConnectorError> {
        let name = &self.context.name;
        let position: Position = serde_json::from_value(state.position).map_err(|error| {
            let message =
                format!("source `{name}`: the checkpoint's position of {} can't be read: {error}", state.split);
            ConnectorError::Permanent(message)
        })?;
        let key = SplitKey::of(&state.split, &position).ok_or_else(|| {
            ConnectorError::Permanent(format!("source `{name}`: the checkpoint's split {} is not a file", state.split))
        })?;
        self.known_files.insert(key.path.clone());
        if owner(&state.split, self.context.parallelism) != self.context.subtask {
            return Ok(());
        }
        let unit = self.unit(&key.path);
        if position.unit != unit {
            return Err(ConnectorError::Permanent(format!(
                "source `{name}`: the checkpoint's position in {} counts {}, and the job now reads the file by {unit}; \
                 set format and compression as they were",
                state.split, position.unit
            )));
        }
        if position.at_end && self.config.follow && !Path::new(&key.path).exists() {
            tracing::warn!(source = name, file = key.path, "a file that had been read to its end is gone");
            self.splits.insert(key, Split { position: Position { finished: true, ..position }, drained_at: None });
            return Ok(());
        }
        self.add_split(key, position);
        Ok(())
    }

    fn add_split(&mut self, key: SplitKey, position: Position) {
        if !position.finished {
            self.readable.insert(key.clone());
        }
        self.splits.insert(key, Split { position, drained_at: None });
    }

    /// Looks for new files, and for growth of known ones.
    fn scan(&mut self) -> Result<(), ConnectorError> {
        self.next_scan = Instant::now() + self.config.poll_interval.max(Duration::from_millis(1));
        for path in list(&self.config)? {
            if !self.known_files.contains(&path) {
                self.add_file(&path)?;
                self.known_files.insert(path);
            }
        }
        for (key, split) in &mut self.splits {
            let Some(drained_at) = split.drained_at else { continue };
            match fs::metadata(&key.path) {
                Ok(metadata) if metadata.len() < split.position.offset => {
                    return Err(truncated(Path::new(&key.path), metadata.len(), split.position.offset));
                }
                Ok(metadata) if metadata.len() == drained_at => {}
                Ok(_) => {
                    split.drained_at = None;
                    split.position.at_end = false;
                    self.readable.insert(key.clone());
                }
                // Read to its end and removed, as log rotation does.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    split.drained_at = None;
                    split.position.finished = true;
                }
                Err(error) => return Err(io_error("read", Path::new(&key.path), &error)),
            }
        }
        self.retire_drained();
        Ok(())
    }

    /// Takes those splits of a new file that are this subtask's.
    fn add_file(&mut self, path: &str) -> Result<(), ConnectorError> {
        let unit = self.unit(path);
        let mut ranges = Vec::new();
        if let (Some(size), Unit::Bytes) = (self.config.split_size_bytes, unit) {
            let length = fs::metadata(path).map_err(|error| io_error("read", Path::new(path), &error))?.len();
            let count = if length > size { length.div_ceil(size) } else { 0 };
            let end = |index| (index + 1 < count).then_some((index + 1) * size);
            ranges.extend((0..count).map(|index| (Some(index), Some(Range { start: index * size, end: end(index) }))));
        }
        if ranges.is_empty() {
            ranges.push((None, None));
        }
        for (index, range) in ranges {
            let key = SplitKey { path: path.into(), range: index };
            if owner(&key.id(), self.context.parallelism) == self.context.subtask {
                self.add_split(key, Position::start(unit, range));
            }
        }
        Ok(())
    }

    fn unit(&self, path: &str) -> Unit {
        if self.config.format == FileFormat::Parquet {
            return Unit::Rows;
        }
        match resolved(self.config.compression, Path::new(path)) {
            SourceCompression::None | SourceCompression::Auto => Unit::Bytes,
            SourceCompression::Gzip | SourceCompression::Zstd => Unit::DecompressedBytes,
        }
    }

    fn framing(&self) -> Framing {
        match &self.config.format {
            FileFormat::Text(DecoderConfig::Csv(csv)) if self.config.split_size_bytes.is_none() => {
                Framing::Csv { delimiter: csv.delimiter, quote: csv.quote }
            }
            _ => Framing::Lines,
        }
    }

    fn last_line(&self) -> LastLine {
        if self.config.follow { LastLine::Waits } else { LastLine::Counts }
    }

    /// Opens the first split, in order, that has something to read. `false`: there is none.
    fn open_next(&mut self) -> Result<bool, ConnectorError> {
        while self.open.is_none() {
            let Some(key) = self.readable.pop_first() else { return Ok(false) };
            self.open_split(key)?;
        }
        Ok(true)
    }

    /// Leaves the split unopened when its file has no complete header yet.
    fn open_split(&mut self, key: SplitKey) -> Result<(), ConnectorError> {
        let mut position = self.split(&key).position.clone();
        let content = match self.config.format {
            FileFormat::Parquet => {
                let path = Path::new(&key.path);
                Some(Content::Parquet(ParquetRows::open(path, &self.config.schema, &mut position)?))
            }
            FileFormat::Text(_) => self.open_text(&key, &mut position)?.map(Content::Text),
        };
        if let Some(content) = content {
            self.split(&key).position = position;
            self.open = Some(Open { key, content });
        }
        Ok(())
    }

    fn open_text(&mut self, key: &SplitKey, position: &mut Position) -> Result<Option<Lines>, ConnectorError> {
        let (compression, framing, last_line) = (self.config.compression, self.framing(), self.last_line());
        let path = Path::new(&key.path);
        let range_start = position.range.map_or(0, |range| range.start);
        let is_untouched = position.offset == range_start;
        if let FileFormat::Text(DecoderConfig::Csv(csv)) = &self.config.format
            && csv.header
        {
            let mut lines = Lines::open(path, compression, framing, &mut Position::start(position.unit, None))?;
            let Some(header) = lines.next(last_line)? else {
                self.drained(key, lines.seen());
                return Ok(None);
            };
            let accepted = self.intake.as_mut().map_or(Ok(()), |intake| intake.header(header.bytes));
            accepted.map_err(|bad| {
                ConnectorError::Permanent(format!("source `{}`: {}: {bad}", self.context.name, key.path))
            })?;
            if is_untouched && range_start == 0 {
                (position.offset, position.line) = (lines.offset(), lines.line());
            }
        }
        if is_untouched && range_start > 0 {
            // The line that holds the byte before the range belongs to an earlier range.
            position.offset = range_start - 1;
            let mut lines = Lines::open(path, compression, framing, position)?;
            lines.pass_over_line()?;
            position.offset = lines.offset();
            return Ok(Some(lines));
        }
        Lines::open(path, compression, framing, position).map(Some)
    }

    fn split(&mut self, key: &SplitKey) -> &mut Split {
        self.splits.get_mut(key).expect("splits are never dropped")
    }

    /// Reads from the open split.
    fn read(&mut self, open: &mut Open, max_rows: usize) -> Result<Read, ConnectorError> {
        let last_line = self.last_line();
        let position = &mut self.splits.get_mut(&open.key).expect("splits are never dropped").position;
        match (&mut open.content, &mut self.intake) {
            (Content::Parquet(rows), _) => {
                let batch = rows.next(max_rows)?;
                position.offset += batch.as_ref().map_or(0, |batch| batch.num_rows() as u64);
                Ok(Read { drained_at: batch.is_none().then_some(0), rows: batch.map(|batch| (batch, None)) })
            }
            (Content::Text(lines), Some(intake)) => {
                let is_drained = read_records(&open.key.path, lines, intake, position.range, last_line, max_rows)?;
                position.offset = lines.offset();
                position.line = lines.line();
                let rows = (intake.taken() > 0).then(|| intake.finish());
                Ok(Read { rows, drained_at: is_drained.then(|| lines.seen()) })
            }
            (Content::Text(_), None) => unreachable!("a text format has an intake"),
        }
    }

    /// The split has been read to the end that its file has now.
    fn drained(&mut self, key: &SplitKey, file_length: u64) {
        let follow = self.config.follow;
        let split = self.split(key);
        split.position.at_end = true;
        // A compressed file doesn't grow.
        split.position.finished = !follow || split.position.unit != Unit::Bytes;
        split.drained_at = (!split.position.finished).then_some(file_length);
        self.retire_drained();
    }

    /// Finishes the numbers of splits that must not hold back the watermark: those that are finished, and those
    /// read to their end while there is a file with a later name, which is where a rotated log goes on.
    fn retire_drained(&mut self) {
        let last = self.splits.keys().next_back();
        let (splits, finished) = (&self.splits, &mut self.finished);
        self.numbers.retain(|key, number| {
            let position = &splits[key].position;
            let retires = position.finished || (position.at_end && Some(key) != last);
            if retires {
                finished.push_back(*number);
            }
            !retires
        });
    }

    fn number(&mut self, key: &SplitKey) -> u32 {
        let next_number = &mut self.next_number;
        *self.numbers.entry(key.clone()).or_insert_with(|| {
            *next_number += 1;
            *next_number - 1
        })
    }
}

/// Takes records until the batch is full. `true`: there are no more, for now.
fn read_records(
    path: &str,
    lines: &mut Lines,
    intake: &mut Intake,
    range: Option<Range>,
    last_line: LastLine,
    max_rows: usize,
) -> Result<bool, ConnectorError> {
    let range_end = range.and_then(|range| range.end).unwrap_or(u64::MAX);
    let started_at = lines.offset();
    while intake.taken() < max_rows && lines.offset() - started_at < MAX_BATCH_BYTES {
        if lines.offset() >= range_end {
            return Ok(true);
        }
        let Some(record) = lines.next(last_line)? else { return Ok(true) };
        let place = || Place {
            split: path.into(),
            position: match range {
                None => format!("line {}, byte {}", record.line, record.offset),
                Some(_) => format!("byte {}", record.offset),
            },
        };
        if record.too_long {
            let bad = BadRecord::new(format!("it is longer than {} MiB", MAX_RECORD_BYTES >> 20));
            intake.reject(record.bytes, &bad, place())?;
        } else {
            intake.take(record.bytes, place)?;
        }
    }
    Ok(false)
}

impl SourceReader for FilesReader {
    fn has_splits(&self) -> bool {
        self.splits.values().any(|split| !split.position.finished)
    }

    fn poll(&mut self, max_rows: usize) -> Result<Poll, ConnectorError> {
        loop {
            if let Some(split) = self.finished.pop_front() {
                return Ok(Poll::SplitFinished { split });
            }
            if self.open.is_none() && !self.open_next()? {
                if !self.config.follow {
                    return Ok(Poll::End);
                }
                let now = Instant::now();
                if now < self.next_scan {
                    return Ok(Poll::Pending { retry_after: self.next_scan - now });
                }
                self.scan()?;
                continue;
            }
            let mut open = self.open.take().expect("a split was opened above");
            let Read { rows, drained_at } = self.read(&mut open, max_rows.max(1))?;
            let number = rows.is_some().then(|| self.number(&open.key));
            match drained_at {
                Some(length) => self.drained(&open.key, length),
                None => self.open = Some(open),
            }
            match (rows, number) {
                (Some((batch, rejected)), Some(split)) => return Ok(Poll::Batch { batch, split, rejected }),
                _ if drained_at.is_some() => {}
                // A long stretch of skipped records is no reason to keep a barrier waiting.
                _ => return Ok(Poll::Pending { retry_after: Duration::ZERO }),
            }
        }
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        let states = self.splits.iter().map(|(key, split)| {
            let position = serde_json::to_value(&split.position)
                .map_err(|error| ConnectorError::Permanent(format!("a position can't be written: {error}")))?;
            Ok(SplitState { split: key.id(), position })
        });
        states.collect()
    }

    fn skipped_records(&self) -> u64 {
        self.intake.as_ref().map_or(0, Intake::skipped)
    }
}
