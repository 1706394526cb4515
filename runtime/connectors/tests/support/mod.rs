//! What the tests of this crate share.
#![allow(dead_code)]

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use weir_connectors::api::*;
use weir_connectors::files::*;
use weir_connectors::formats::*;
use weir_model::types::TIMESTAMP;
use weir_model::{AttemptNumber, CheckpointId, CommitPermit, Durable, Epoch, Fence};

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("word", DataType::Utf8, true),
        Field::new("value", DataType::Float64, true),
        Field::new("at", TIMESTAMP, true),
    ]))
}

/// Rows `first .. first + count`, with texts that need quoting, NULLs and empty texts among them.
pub fn rows(first: i64, count: usize) -> RecordBatch {
    let ids: Vec<i64> = (first..first + count as i64).collect();
    let word = |id: &i64| match id % 7 {
        0 => None,
        1 => Some(String::new()),
        2 => Some(format!("two\nlines, \"quoted\" {id}")),
        3 => Some("ü漢\u{1F600}\\".repeat((id % 5) as usize)),
        _ => Some(format!("word {id}")),
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(StringArray::from(ids.iter().map(word).collect::<Vec<_>>())),
        Arc::new(Float64Array::from_iter(ids.iter().map(|id| (id % 5 != 0).then(|| *id as f64 / 3.0)))),
        Arc::new(TimestampMicrosecondArray::from_iter(
            ids.iter().map(|id| (id % 11 != 0).then(|| 1_357_017_300_000_000 + id * 1_234_567)),
        )),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// The rows as text in a format, with its header if it has one.
pub fn encoded(format: &EncoderConfig, batch: &RecordBatch) -> Vec<u8> {
    let mut encoder = encoder(format, &batch.schema()).unwrap();
    let mut out = Vec::new();
    if let Some(header) = encoder.header() {
        out.extend(header);
        out.push(b'\n');
    }
    encoder.encode(batch, Rows::All, &mut out, &mut |out| out.push(b'\n'));
    out
}

pub fn json() -> EncoderConfig {
    EncoderConfig::Json { omit_nulls: false }
}

pub fn source_config(path: &Path, format: FileFormat) -> FilesSourceConfig {
    FilesSourceConfig {
        path: path.to_str().unwrap().into(),
        format,
        schema: schema(),
        compression: SourceCompression::Auto,
        on_bad_record: OnBadRecord::Fail,
        follow: false,
        poll_interval: Duration::from_millis(1),
        split_size_bytes: None,
    }
}

pub fn open(
    source: &dyn Source,
    subtask: u32,
    parallelism: u32,
    restored: &[SplitState],
) -> Result<Box<dyn SourceReader>, ConnectorError> {
    source
        .reader(SourceContext { name: "source".into(), job_uid: "job".into(), subtask, parallelism }, restored.to_vec())
}

/// What a reader gives until it ends, or has had nothing for a while if it never ends.
#[derive(Default)]
pub struct Read {
    pub batches: Vec<(u32, RecordBatch)>,
    pub rejected: Vec<RecordBatch>,
    pub finished: Vec<u32>,
    pub is_at_end: bool,
}

impl Read {
    pub fn rows(&self) -> usize {
        self.batches.iter().map(|(_, batch)| batch.num_rows()).sum()
    }

    pub fn batch(&self) -> RecordBatch {
        arrow::compute::concat_batches(&schema(), self.batches.iter().map(|(_, batch)| batch)).unwrap()
    }
}

/// Polls until `enough` says so, the source ends, or `patience` polls in a row gave nothing.
pub fn read_until(
    reader: &mut dyn SourceReader,
    max_rows: usize,
    patience: usize,
    mut enough: impl FnMut(&Read) -> bool,
) -> Result<Read, ConnectorError> {
    let mut read = Read::default();
    let mut idle = 0;
    while !enough(&read) && idle < patience {
        match reader.poll(max_rows)? {
            Poll::Batch { batch, split, rejected } => {
                idle = 0;
                assert!(batch.num_rows() <= max_rows);
                read.batches.push((split, batch));
                read.rejected.extend(rejected);
            }
            Poll::SplitAdded { .. } => {}
            Poll::SplitFinished { split } => read.finished.push(split),
            Poll::Pending { retry_after } => {
                idle += 1;
                std::thread::park_timeout(retry_after);
            }
            Poll::End => {
                read.is_at_end = true;
                break;
            }
        }
    }
    Ok(read)
}

pub fn read_to_end(source: &dyn Source) -> Result<Read, ConnectorError> {
    let mut reader = open(source, 0, 1, &[])?;
    let read = read_until(&mut *reader, 100, usize::MAX, |_| false)?;
    assert!(read.is_at_end);
    Ok(read)
}

/// All rows of a source that is stopped, snapshotted and restored at another parallelism again and again, by id.
pub fn read_with_cuts(source: &dyn Source, cuts: &[(u32, usize)], max_rows: usize) -> RecordBatch {
    let mut batches = Vec::new();
    let mut restored = Vec::new();
    for (run, &(parallelism, stop)) in cuts.iter().chain(&[(2, 0)]).enumerate() {
        let is_last = run == cuts.len();
        let mut states = Vec::new();
        for subtask in 0..parallelism {
            let mut reader = open(source, subtask, parallelism, &restored).unwrap();
            let enough = |read: &Read| !is_last && read.rows() >= stop;
            let read = read_until(&mut *reader, max_rows, usize::MAX, enough).unwrap();
            assert!(!is_last || read.is_at_end);
            batches.extend(read.batches.into_iter().map(|(_, batch)| batch));
            states.extend(reader.snapshot().unwrap());
        }
        restored = states;
    }
    by_id(&batches)
}

pub fn by_id(batches: &[RecordBatch]) -> RecordBatch {
    let all = arrow::compute::concat_batches(&schema(), batches).unwrap();
    let order = arrow::compute::sort_to_indices(all.column(0), None, None).unwrap();
    arrow::compute::take_record_batch(&all, &order).unwrap()
}

pub fn permit(checkpoint: u64) -> CommitPermit {
    let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
    CommitPermit::for_durable(&Durable::attest(CheckpointId(checkpoint)), fence)
}
