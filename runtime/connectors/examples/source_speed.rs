//! How fast the sources are on one core: `cargo run --release -p weir-connectors --example source_speed`.
//! With names behind it (`-- CSV nexmark`) it measures those only.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_connectors::api::*;
use weir_connectors::files::*;
use weir_connectors::formats::*;
use weir_connectors::generator::*;
use weir_connectors::nexmark::*;
use weir_model::types::TIMESTAMP;

const FILE_ROWS: u64 = 2_000_000;
const GENERATOR_ROWS: u64 = 1_000_000_000;
const NEXMARK_EVENTS: u64 = 10_000_000;
const BATCH_ROWS: usize = 8192;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chosen: Vec<_> = std::env::args().skip(1).collect();
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|choice| choice == name);
    let directory = tempfile::tempdir()?;
    let rows = GeneratorSource::new(flights(FILE_ROWS))?;
    let csv = CsvFormat { null_value: "NA".into(), ..CsvFormat::default() };
    let parquet = ParquetFormat { compression: ParquetCompression::Zstd, row_group_rows: 122_880 };
    let json = EncoderConfig::Json { omit_nulls: false };
    let formats = [
        ("JSON", SinkFileFormat::Text(json), FileFormat::Text(DecoderConfig::Json)),
        ("CSV", SinkFileFormat::Text(EncoderConfig::Csv(csv.clone())), FileFormat::Text(DecoderConfig::Csv(csv))),
        ("Parquet", SinkFileFormat::Parquet(parquet), FileFormat::Parquet),
    ];
    for (name, encode, decode) in formats.into_iter().filter(|(name, ..)| is_chosen(name)) {
        let path = directory.path().join(name);
        let started = Instant::now();
        write(&rows, &path, encode)?;
        measure_file(name, &rows, &path, decode, started.elapsed())?;
    }

    for (name, order) in [("in sequence", RowOrder::Sequential), ("mixed", RowOrder::Mixed)] {
        if !is_chosen("generator") {
            continue;
        }
        let (count, elapsed) = drain(&GeneratorSource::new(two_integers(order))?)?;
        println!("generator, 2 integers, keys {name}: {:.0} M rows/s", million_per_second(count, elapsed));
    }
    for table in [NexmarkTable::Bid, NexmarkTable::Auction, NexmarkTable::All] {
        if !is_chosen("nexmark") {
            continue;
        }
        let source = NexmarkSource::new(NexmarkConfig {
            table,
            events: Some(NEXMARK_EVENTS),
            events_per_second: None,
            seed: 0,
            start_us: 0,
            event_interval_ns: 100_000,
        })?;
        let (count, elapsed) = drain(&source)?;
        println!("nexmark {table:?}: {:.1} M rows/s", million_per_second(count, elapsed));
    }
    Ok(())
}

fn million_per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64() / 1e6
}

fn measure_file(
    name: &str,
    rows: &GeneratorSource,
    path: &Path,
    format: FileFormat,
    written_in: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    let source = FilesSource::new(FilesSourceConfig {
        path: path.display().to_string(),
        format,
        schema: rows.schema(),
        compression: SourceCompression::Auto,
        on_bad_record: OnBadRecord::Fail,
        follow: false,
        poll_interval: Duration::from_secs(1),
        split_size_bytes: None,
    })?;
    let size = std::fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.len())).sum::<std::io::Result<u64>>()?;
    let (count, elapsed) = drain(&source)?;
    assert_eq!(count, FILE_ROWS);
    println!(
        "{name}: read {:.0} MB/s, {:.2} M rows/s; written (rows made, encoded, fsynced) {:.0} MB/s, {:.2} M rows/s; {} bytes a row",
        size as f64 / elapsed.as_secs_f64() / 1e6,
        million_per_second(count, elapsed),
        size as f64 / written_in.as_secs_f64() / 1e6,
        million_per_second(count, written_in),
        size / count
    );
    Ok(())
}

fn drain(source: &dyn Source) -> Result<(u64, Duration), ConnectorError> {
    let started = Instant::now();
    let context = SourceContext { name: "source".into(), job_uid: "job".into(), subtask: 0, parallelism: 1 };
    let mut reader = source.reader(context, Vec::new())?;
    let mut count = 0;
    loop {
        match reader.poll(BATCH_ROWS)? {
            Poll::Batch { batch, .. } => count += black_box(batch).num_rows() as u64,
            Poll::End => return Ok((count, started.elapsed())),
            Poll::SplitAdded { .. } | Poll::SplitFinished { .. } | Poll::Pending { .. } => {}
        }
    }
}

fn write(rows: &GeneratorSource, path: &Path, format: SinkFileFormat) -> Result<(), ConnectorError> {
    let sink = FilesSink::new(FilesSinkConfig { format, ..FilesSinkConfig::json(path) })?;
    let context = SinkContext {
        name: "out".into(),
        job_uid: "speed".into(),
        subtask: 0,
        parallelism: 1,
        attempt: "1".into(),
        epoch: weir_model::Epoch(1),
        attempt_number: weir_model::AttemptNumber(1),
        input: rows.schema(),
    };
    let mut writer = sink.writer(context, Vec::new())?;
    let mut reader = rows
        .reader(SourceContext { name: "rows".into(), job_uid: "job".into(), subtask: 0, parallelism: 1 }, Vec::new())?;
    while let Poll::Batch { batch, .. } = reader.poll(BATCH_ROWS)? {
        writer.write(&batch)?;
    }
    let checkpoint = weir_model::CheckpointId(1);
    let snapshot = writer.pre_commit(checkpoint)?;
    let committer = CommitterContext { name: "out".into(), job_uid: "speed".into(), epoch: weir_model::Epoch(1) };
    let fence = weir_model::Fence { epoch: weir_model::Epoch(1), attempt: weir_model::AttemptNumber(1) };
    let permit = weir_model::CommitPermit::for_durable(&weir_model::Durable::attest(checkpoint), fence);
    sink.committer(committer)?.map_or(Ok(()), |mut committer| committer.commit(permit, &snapshot.committables))
}

/// Rows like those of a table of flights.
fn flights(count: u64) -> GeneratorConfig {
    let texts = |values: &[&str]| {
        ColumnRule::Random(RandomRule {
            values: values.iter().map(|text| (*text).into()).collect(),
            ..Default::default()
        })
    };
    let number = |max| ColumnRule::Random(RandomRule { max: Some(max), null_ratio: 0.03, ..Default::default() });
    let time =
        ColumnRule::Time { start_us: 1_357_017_300_000_000, step_ns: 95_000_000_000, max_out_of_orderness_us: 0 };
    let columns = vec![
        ("scheduled_at", TIMESTAMP, time),
        ("carrier", DataType::Utf8, texts(&["AA", "B6", "DL", "EV", "UA", "WN"])),
        ("flight", DataType::Int64, number(8000.0)),
        ("origin", DataType::Utf8, texts(&["EWR", "JFK", "LGA"])),
        ("destination", DataType::Utf8, texts(&["ATL", "BOS", "LAX", "MIA", "ORD", "SFO"])),
        ("dep_delay", DataType::Float64, number(60.0)),
        ("distance", DataType::Int32, number(2600.0)),
    ];
    let fields =
        columns.iter().map(|(name, data_type, _)| Field::new(*name, data_type.clone(), true)).collect::<Vec<_>>();
    let rules = columns.into_iter().map(|(name, _, rule)| (name.into(), rule)).collect();
    config(Arc::new(Schema::new(fields)), rules, count)
}

fn two_integers(order: RowOrder) -> GeneratorConfig {
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    let sequence = |cardinality, order| ColumnRule::Sequence { start: 0, step: 1, cardinality, order };
    let rules =
        vec![("key".into(), sequence(Some(1_000_000), order)), ("value".into(), sequence(None, RowOrder::Sequential))];
    config(Arc::new(Schema::new(vec![number("key"), number("value")])), rules, GENERATOR_ROWS)
}

fn config(schema: SchemaRef, columns: Vec<(String, ColumnRule)>, count: u64) -> GeneratorConfig {
    GeneratorConfig { schema, columns, count: Some(count), rows_per_second: None, seed: 1, splits: DEFAULT_SPLITS }
}
