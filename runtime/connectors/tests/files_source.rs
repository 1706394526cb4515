//! The files source: each record once, through any restart, and clear words about files that aren't what they were.

mod support;

use arrow::array::AsArray;
use arrow::record_batch::RecordBatch;
use proptest::prelude::*;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use support::*;
use weir_connectors::api::*;
use weir_connectors::files::*;
use weir_connectors::formats::*;

const JSON: FileFormat = FileFormat::Text(DecoderConfig::Json);

fn csv_format() -> CsvFormat {
    CsvFormat { null_value: "NA".into(), ..CsvFormat::default() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Two members, as when compressed files are appended to one another.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    [first, second]
        .map(|part| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap()
        })
        .concat()
}

fn parquet_file(path: &Path, batch: &RecordBatch, row_group_rows: usize) {
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_row_count(Some(row_group_rows))
        .build();
    let file = fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Three files of 40, 70 and 30 rows in a directory.
fn directory_of(kind: &str) -> (tempfile::TempDir, FilesSourceConfig) {
    let directory = tempfile::tempdir().unwrap();
    let csv = || EncoderConfig::Csv(csv_format());
    for (name, first, count) in [("a", 0, 40), ("b", 40, 70), ("c/d", 110, 30)] {
        let batch = rows(first, count);
        fs::create_dir_all(directory.path().join("c")).unwrap();
        let path = |extension: &str| directory.path().join(format!("{name}.{extension}"));
        match kind {
            "json" => fs::write(path("jsonl"), encoded(&json(), &batch)).unwrap(),
            "json.gz" => fs::write(path("json.gz"), gzip(&encoded(&json(), &batch))).unwrap(),
            "csv" => fs::write(path("csv"), encoded(&csv(), &batch)).unwrap(),
            "csv.zst" => fs::write(path("csv.zst"), zstd::encode_all(&*encoded(&csv(), &batch), 0).unwrap()).unwrap(),
            "parquet" => parquet_file(&path("parquet"), &batch, 16),
            other => panic!("{other}"),
        }
    }
    fs::write(directory.path().join(".hidden"), "not read").unwrap();
    let format = match kind {
        "parquet" => FileFormat::Parquet,
        kind if kind.starts_with("csv") => FileFormat::Text(DecoderConfig::Csv(csv_format())),
        _ => JSON,
    };
    let config = source_config(directory.path(), format);
    (directory, config)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn restarts_anywhere_at_any_parallelism_change_nothing(
        kind in prop::sample::select(vec!["json", "json.gz", "csv", "csv.zst", "parquet", "json split"]),
        split_size in 1_u64..3000,
        cuts in prop::collection::vec((1_u32..4, 0_usize..60), 0..5),
        max_rows in 1_usize..50,
    ) {
        let (_directory, mut config) = directory_of(kind.trim_end_matches(" split"));
        if kind.ends_with("split") {
            config.split_size_bytes = Some(split_size);
        }
        let source = FilesSource::new(config).unwrap();
        prop_assert_eq!(read_with_cuts(&source, &cuts, max_rows), rows(0, 140));
    }
}

#[test]
fn every_single_position() {
    for kind in ["json", "csv", "parquet", "csv.zst"] {
        let (_directory, config) = directory_of(kind);
        let source = FilesSource::new(config).unwrap();
        for stop in 0..=140 {
            assert_eq!(read_with_cuts(&source, &[(1, stop)], 1), rows(0, 140), "{kind} cut after {stop}");
        }
    }
}

#[test]
fn ranges_are_cut_at_lines_wherever_they_fall() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one.csv");
    let plain: Vec<_> = (0..30).map(|id| format!("{id},{}\n", "x".repeat(id % 4))).collect();
    fs::write(&path, format!("id,word\n{}", plain.concat())).unwrap();
    let mut config = source_config(&path, FileFormat::Text(DecoderConfig::Csv(CsvFormat::default())));
    config.schema = std::sync::Arc::new(schema().project(&[0, 1]).unwrap());
    for size in 1..200 {
        let source = FilesSource::new(FilesSourceConfig { split_size_bytes: Some(size), ..config.clone() }).unwrap();
        let mut ids = Vec::new();
        for subtask in 0..3 {
            let mut reader = open(&source, subtask, 3, &[]).unwrap();
            let read = read_until(&mut *reader, 7, usize::MAX, |_| false).unwrap();
            for (_, batch) in read.batches {
                ids.extend(batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec());
            }
        }
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..30), "{size}: {ids:?}");
    }
    fs::write(&path, "id,word\n1,\"two\nlines\"\n").unwrap();
    let source = FilesSource::new(FilesSourceConfig { split_size_bytes: Some(1000), ..config }).unwrap();
    let error = read_to_end(&source).err().unwrap().to_string();
    assert!(error.contains("never closed"), "{error}");
}

#[test]
fn files_are_read_in_the_order_of_their_names_each_a_split() {
    let (_directory, config) = directory_of("json");
    let read = read_to_end(&FilesSource::new(config).unwrap()).unwrap();
    assert_eq!(read.batch(), rows(0, 140));
    assert_eq!(read.batches.iter().map(|(split, _)| *split).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(read.finished, [0, 1, 2]);
}

#[test]
fn a_growing_file_is_read_by_whole_lines() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.jsonl");
    let text = encoded(&json(), &rows(0, 50));
    let mut config = source_config(&path, JSON);
    config.follow = true;
    let source = FilesSource::new(config).unwrap();
    let mut reader = open(&source, 0, 1, &[]).unwrap();
    assert!(matches!(reader.poll(10).unwrap(), Poll::Pending { .. }), "it waits for the file");
    let mut written = 0;
    let mut batches = Vec::new();
    let mut line_ends = 0;
    // Pieces that end in the middle of lines, and of characters.
    for piece in text.chunks(97) {
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(piece).unwrap();
        written += piece.len();
        line_ends += piece.iter().filter(|byte| **byte == b'\n').count();
        let complete = line_ends;
        let read = read_until(&mut *reader, 10, 200, |read: &Read| {
            batches.iter().map(RecordBatch::num_rows).sum::<usize>() + read.rows() == complete
        });
        batches.extend(read.unwrap().batches.into_iter().map(|(_, batch)| batch));
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), complete, "after {written} bytes");
        // Every other time somebody else goes on.
        if written % 2 == 0 {
            reader = open(&source, 0, 1, &reader.snapshot().unwrap()).unwrap();
        }
    }
    assert_eq!(by_id(&batches), rows(0, 50));
}

#[test]
fn a_csv_file_may_begin_with_half_a_header() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.csv");
    let mut config = source_config(&path, FileFormat::Text(DecoderConfig::Csv(csv_format())));
    config.follow = true;
    fs::write(&path, "id,word,va").unwrap();
    let source = FilesSource::new(config).unwrap();
    let mut reader = open(&source, 0, 1, &[]).unwrap();
    assert_eq!(read_until(&mut *reader, 10, 3, |_| false).unwrap().rows(), 0);
    fs::write(&path, "id,word,value,at\n1,NA,NA,NA\n2,").unwrap();
    let read = read_until(&mut *reader, 10, 200, |read| read.rows() == 1).unwrap();
    assert_eq!(read.rows(), 1);
}

#[test]
fn new_files_of_a_followed_directory_are_found() {
    let (directory, mut config) = directory_of("json");
    config.follow = true;
    let source = FilesSource::new(config).unwrap();
    let mut reader = open(&source, 0, 1, &[]).unwrap();
    let read = read_until(&mut *reader, 100, 200, |read| read.rows() == 140 && read.finished.len() == 2).unwrap();
    assert_eq!(read.finished, [0, 1], "the last file may go on");
    fs::write(directory.path().join("e.jsonl"), encoded(&json(), &rows(140, 10))).unwrap();
    let read = read_until(&mut *reader, 100, 200, |read| read.rows() == 10 && !read.finished.is_empty()).unwrap();
    assert_eq!((read.batch(), read.finished), (rows(140, 10), vec![2]));
    // A file before the last that grows nevertheless: its records come as a split of a new number.
    let mut file = OpenOptions::new().append(true).open(directory.path().join("a.jsonl")).unwrap();
    file.write_all(&encoded(&json(), &rows(150, 1))).unwrap();
    let read = read_until(&mut *reader, 100, 200, |read| read.finished == [4]).unwrap();
    assert_eq!((read.batches[0].0, read.rows(), read.finished), (4, 1, vec![4]));
    // Read to its end and removed: nothing to complain about, not after a restore either.
    fs::remove_file(directory.path().join("b.jsonl")).unwrap();
    let states = reader.snapshot().unwrap();
    let mut reader = open(&source, 0, 1, &states).unwrap();
    let read = read_until(&mut *reader, 100, 5, |_| false).unwrap();
    assert_eq!(read.rows(), 0);
}

#[test]
fn a_truncated_or_replaced_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.jsonl");
    let mut config = source_config(&path, JSON);
    config.follow = true;
    let source = FilesSource::new(config).unwrap();
    let failure = |reader: &mut dyn SourceReader| match read_until(reader, 100, 200, |_| false) {
        Err(ConnectorError::Permanent(reason)) => reason,
        Err(other) => panic!("{other}"),
        Ok(read) => panic!("no error, {} rows", read.rows()),
    };
    let text = encoded(&json(), &rows(0, 20));
    let other = encoded(&json(), &rows(500, 60));
    for (then, expected) in [(&text[..100], "was truncated"), (&other[..], "is not the file that it was")] {
        fs::write(&path, &text).unwrap();
        let mut reader = open(&source, 0, 1, &[]).unwrap();
        read_until(&mut *reader, 100, 200, |read| read.rows() == 20).unwrap();
        let states = reader.snapshot().unwrap();
        fs::write(&path, then).unwrap();
        let reason = failure(&mut *reader);
        assert!(reason.contains(expected) && reason.contains("log.jsonl"), "{reason}");
        let reason = failure(&mut *open(&source, 0, 1, &states).unwrap());
        assert!(reason.contains(expected), "after a restore: {reason}");
    }
}

#[test]
fn what_can_t_be_read_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let missing = FilesSource::new(source_config(&directory.path().join("none/*.csv"), JSON)).unwrap();
    let error = open(&missing, 0, 1, &[]).err().unwrap().to_string();
    assert!(error.contains("no file, directory or glob match"), "{error}");

    let path = directory.path().join("x.json.gz");
    fs::write(&path, &gzip(&encoded(&json(), &rows(0, 100)))[..300]).unwrap();
    let error = read_to_end(&FilesSource::new(source_config(&path, JSON)).unwrap()).err().unwrap();
    assert!(matches!(&error, ConnectorError::Permanent(reason) if reason.contains("not complete")), "{error}");

    let path = directory.path().join("x.csv");
    fs::write(&path, "id,wort,value,at\n").unwrap();
    let csv = FileFormat::Text(DecoderConfig::Csv(csv_format()));
    let error = read_to_end(&FilesSource::new(source_config(&path, csv)).unwrap()).err().unwrap().to_string();
    assert!(
        error.contains("x.csv: column `word`: the header has no such column; it has id, wort, value, at"),
        "{error}"
    );

    let path = directory.path().join("x.parquet");
    fs::write(&path, "PAR1 or not").unwrap();
    let error = read_to_end(&FilesSource::new(source_config(&path, FileFormat::Parquet)).unwrap()).err().unwrap();
    assert!(error.to_string().contains("can't be read as Parquet"), "{error}");
}

#[test]
fn parquet_columns_by_name_cast_and_by_default_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.parquet");
    let batch = rows(0, 20);
    let zoned = arrow::datatypes::DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, Some("+02:00".into()));
    let at = batch.column(3).as_primitive::<arrow::datatypes::TimestampMicrosecondType>().clone();
    let at = arrow::compute::cast(&at.with_timezone("+00:00"), &zoned).unwrap();
    let ids = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Int32).unwrap();
    let columns = vec![
        ("at", at, true),
        ("value", batch.column(2).clone(), true),
        ("word", arrow::compute::cast(batch.column(1), &arrow::datatypes::DataType::LargeUtf8).unwrap(), true),
        ("id", ids, false),
    ];
    parquet_file(&path, &RecordBatch::try_from_iter_with_nullable(columns).unwrap(), 7);
    let read = read_to_end(&FilesSource::new(source_config(&path, FileFormat::Parquet)).unwrap()).unwrap();
    assert_eq!(read.batch(), batch);
    let mut config = source_config(&path, FileFormat::Parquet);
    config.schema = std::sync::Arc::new(arrow::datatypes::Schema::empty());
    let found = FilesSource::new(config).unwrap().schema();
    let found: Vec<_> = found.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
    assert_eq!(found, ["at Timestamp(µs)", "value Float64", "word Utf8", "id Int32"]);
}

#[test]
fn bad_records() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.jsonl");
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(300));
    let bad = [
        ("{\"id\": \"abc\", \"word\": \"w\"}", "column `id`: expected BIGINT, found \"abc\""),
        ("{\"word\": \"w\"}", "column `id`: it has no value, and the column is not nullable"),
        ("{\"id\": 1, \"value\": [1]}", "column `value`: expected DOUBLE, found an array"),
        ("{\"id\": 1, \"at\": \"yesterday\"}", "column `at`: expected TIMESTAMP (2013-01-01T05:15:00Z, or milli"),
        ("{\"id\": 1.5}", "column `id`: expected BIGINT, found the number 1.5"),
        ("{\"id\": 1", "not JSON: expected `,` or `}` after a value, found the end of the record at byte 8"),
        ("{\"id\": 1} {}", "not JSON: expected the end of the record after the object"),
        ("{\"id\": 1, \"id\": 2}", "column `id`: the key stands twice"),
        (&long, "column `id`: expected BIGINT"),
    ];
    for (index, (record, expected)) in bad.iter().enumerate() {
        let text = format!("{{\"id\": 7}}\n{record}\n{{\"id\": 8, \"more\": {{\"x\": [1, {{}}]}}}}\n");
        fs::write(&path, text).unwrap();
        let config = |on_bad_record| FilesSourceConfig { on_bad_record, ..source_config(&path, JSON) };
        let read = |on_bad_record| read_to_end(&FilesSource::new(config(on_bad_record)).unwrap());
        let ids = |read: &Read| {
            let batch = read.batch();
            batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
        };

        let error = read(OnBadRecord::Fail).err().unwrap().to_string();
        let shown: String = record.chars().take(200).collect();
        for part in ["x.jsonl, line 2, byte 10: ", expected, &shown, "set onBadRecord to Skip"] {
            assert!(error.contains(part), "{index}: {error}");
        }
        assert!(error.len() < 700, "{error}");

        let mut reader = open(&FilesSource::new(config(OnBadRecord::Skip)).unwrap(), 0, 1, &[]).unwrap();
        let skipped = read_until(&mut *reader, 100, usize::MAX, |_| false).unwrap();
        assert_eq!((ids(&skipped), reader.skipped_records()), (vec![7, 8], 1));

        let letters = read(OnBadRecord::DeadLetter).unwrap();
        assert_eq!(ids(&letters), [7, 8]);
        let letter = &letters.rejected[0];
        assert_eq!((letters.rejected.len(), letter.num_rows(), letter.schema()), (1, 1, dead_letter_schema()));
        let field = |index: usize| letter.column(index).as_string::<i32>().value(0).to_owned();
        assert_eq!((field(0).as_str(), field(2).as_str()), ("source", "line 2, byte 10"));
        assert!(field(1).ends_with("x.jsonl") && field(3).contains(expected), "{} {}", field(1), field(3));
        assert_eq!(&field(4), record);
    }
}

#[test]
fn a_record_that_is_too_long_is_a_bad_one_and_the_next_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.csv");
    let long = "x".repeat(17 << 20);
    let mut config = source_config(&path, FileFormat::Text(DecoderConfig::Csv(csv_format())));
    config.on_bad_record = OnBadRecord::DeadLetter;
    let source = FilesSource::new(config).unwrap();
    for (bad, rejected) in [(format!("2,{long},1,NA"), 1), (format!("2,\"never closed,1,NA\n3,x,1,NA\n{long}"), 2)] {
        fs::write(&path, format!("id,word,value,at\n1,a,1,NA\n{bad}\n9,b,1,NA\n")).unwrap();
        let read = read_to_end(&source).unwrap();
        let batch = read.batch();
        let ids = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
        assert_eq!((ids.first(), ids.last()), (Some(&1), Some(&9)));
        assert_eq!(read.rejected.iter().map(RecordBatch::num_rows).sum::<usize>(), rejected);
    }
}
