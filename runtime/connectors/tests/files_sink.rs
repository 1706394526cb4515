//! The files sink: what is visible is what was committed, whatever crashes in between.

mod support;

use arrow::array::Int8Array;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use support::*;
use weir_connectors::api::*;
use weir_connectors::files::*;
use weir_connectors::formats::*;
use weir_model::change::change_kind_field;
use weir_model::{ChangeKind, CheckpointId, Epoch};

fn writer(
    sink: &FilesSink,
    attempt: u32,
    subtask: u32,
    parallelism: u32,
    restored: &[(u32, serde_json::Value)],
) -> Box<dyn SinkWriter> {
    let context = SinkContext {
        name: "out".into(),
        job_uid: "uid-1".into(),
        subtask,
        parallelism,
        attempt: format!("1-{attempt}"),
        epoch: Epoch(1),
        attempt_number: weir_model::AttemptNumber(1),
        input: schema(),
    };
    sink.writer(context, restored.to_vec()).unwrap()
}

fn committer(sink: &FilesSink) -> Box<dyn Committer> {
    sink.committer(CommitterContext { name: "out".into(), job_uid: "uid-1".into(), epoch: Epoch(1) }).unwrap().unwrap()
}

/// Files below a directory, hidden ones or the others.
fn files(directory: &Path, hidden: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, hidden));
        } else if path.file_name().unwrap().to_str().unwrap().starts_with('.') == hidden {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn visible_rows(directory: &Path, format: FileFormat) -> RecordBatch {
    if files(directory, false).is_empty() {
        return RecordBatch::new_empty(schema());
    }
    let read = read_to_end(&FilesSource::new(source_config(directory, format)).unwrap()).unwrap();
    by_id(&read.batches.into_iter().map(|(_, batch)| batch).collect::<Vec<_>>())
}

/// Fails with the ids that differ rather than with two whole batches.
fn assert_visible(path: &Path, format: &FileFormat, rows_committed: i64, place: &str) {
    let (found, expected) = (visible_rows(path, format.clone()), rows(0, rows_committed as usize));
    assert!(found == expected, "{place}: expected {rows_committed} rows, found the ids {:?}", found.column(0));
}

/// A job with one sink, driven as a node drives it, and killed wherever the dice say.
struct Job {
    sink: FilesSink,
    attempt: u32,
    parallelism: u32,
    writers: Vec<Box<dyn SinkWriter>>,
    /// Per subtask: prepared, and not committed.
    pending: Vec<Vec<Committable>>,
    next_row: i64,
    checkpoint: u64,
    /// The last completed checkpoint.
    durable: Durable,
}

#[derive(Clone, Default)]
struct Durable {
    rows: i64,
    committables: Vec<Committable>,
    writers: Vec<(u32, serde_json::Value)>,
}

impl Job {
    fn new(config: FilesSinkConfig) -> Self {
        Job {
            sink: FilesSink::new(config).unwrap(),
            attempt: 0,
            parallelism: 1,
            writers: Vec::new(),
            pending: Vec::new(),
            next_row: 0,
            checkpoint: 0,
            durable: Durable::default(),
        }
    }

    /// What comes before the first record of an attempt; may be cut short after each step.
    fn restore(&mut self, parallelism: u32, steps: usize) {
        (self.attempt, self.parallelism) = (self.attempt + 1, parallelism);
        self.next_row = self.durable.rows;
        self.pending = vec![Vec::new(); parallelism as usize];
        self.writers = (0..parallelism)
            .map(|subtask| writer(&self.sink, self.attempt, subtask, parallelism, &self.durable.writers))
            .collect();
        if steps > 0 {
            self.commit(if steps > 1 { 1.0 } else { 0.5 });
        }
        if steps > 1 {
            let writers: Vec<_> = self.durable.writers.iter().map(|(_, state)| state.clone()).collect();
            committer(&self.sink).abort_others(&self.durable.committables, &writers).unwrap();
        }
    }

    fn write(&mut self, rows_per_batch: usize) {
        for writer in &mut self.writers {
            writer.write(&rows(self.next_row, rows_per_batch)).unwrap();
            self.next_row += rows_per_batch as i64;
        }
    }

    /// The second phase, up to some part of it.
    fn commit(&self, part: f64) {
        let committables = &self.durable.committables;
        let count = (committables.len() as f64 * part).round() as usize;
        committer(&self.sink).commit(permit(self.checkpoint), &committables[..count]).unwrap();
    }

    /// `steps`: 0 only prepares, 1 is durable too, 2 commits a part, 3 commits.
    fn checkpoint(&mut self, steps: usize) {
        self.checkpoint += 1;
        let mut durable = Durable { rows: self.next_row, ..Durable::default() };
        for (subtask, writer) in self.writers.iter_mut().enumerate() {
            let SinkSnapshot { committables, writer } = writer.pre_commit(CheckpointId(self.checkpoint)).unwrap();
            self.pending[subtask].extend(committables);
            durable.committables.extend(self.pending[subtask].clone());
            durable.writers.extend(writer.map(|state| (subtask as u32, state)));
        }
        if steps > 0 {
            self.durable = durable;
        }
        if steps == 2 {
            self.commit(0.5);
        }
        if steps > 2 {
            self.commit(1.0);
            self.pending.iter_mut().for_each(Vec::clear);
        }
    }
}

#[test]
fn killed_anywhere_exactly_the_committed_rows_are_visible() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    for round in 0..40 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let mut config = FilesSinkConfig::json(&path);
        config.rolling.max_size_bytes = random.random_range(1..4000);
        let mut format = FileFormat::Text(DecoderConfig::Json);
        match random.random_range(0..5) {
            0 | 1 => config.at_checkpoint = AtCheckpoint::Continue,
            2 => config.compression = SinkCompression::Gzip,
            3 => {
                config.at_checkpoint = AtCheckpoint::Continue;
                config.format = SinkFileFormat::Text(EncoderConfig::Csv(CsvFormat::default()));
                format = FileFormat::Text(DecoderConfig::Csv(CsvFormat::default()));
            }
            _ => {
                let parquet = ParquetFormat { compression: ParquetCompression::Snappy, row_group_rows: 8 };
                config.format = SinkFileFormat::Parquet(parquet);
                format = FileFormat::Parquet;
            }
        }
        let mut job = Job::new(config);
        let attempts = random.random_range(1..6);
        for attempt in 0..attempts {
            let is_last = attempt + 1 == attempts;
            let steps = if is_last { 2 } else { random.random_range(0..6) };
            job.restore(random.random_range(1..4), steps);
            if steps < 2 {
                continue;
            }
            for _ in 0..random.random_range(0..6) {
                job.write(random.random_range(1..12));
                if random.random_bool(0.6) {
                    job.checkpoint(random.random_range(0..5));
                }
            }
            if !is_last && random.random_bool(0.2) {
                job.writers.iter_mut().for_each(|writer| writer.abort());
            }
        }
        job.write(3);
        job.writers.iter_mut().for_each(|writer| writer.end_of_input());
        job.checkpoint(3);
        let place = format!("seed {seed}, round {round}");
        assert_visible(&path, &format, job.durable.rows, &place);
        // What the last attempt took over from its predecessor in a copy is gone with the commit; what a killed
        // attempt left is removed by the next.
        job.restore(1, 2);
        assert_visible(&path, &format, job.durable.rows, &place);
        assert_eq!(files(&path, true), Vec::<PathBuf>::new(), "{place}");
    }
}

#[test]
fn nothing_is_left_behind_and_other_sinks_files_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let mut job = Job::new(FilesSinkConfig::json(&path));
    job.restore(2, 2);
    job.write(5);
    job.checkpoint(3);
    job.write(5);
    job.checkpoint(0);
    job.write(5);
    let foreign = [
        ".weir~uid-2~out~e1~part-00000-1-1-00000.jsonl.inprogress",
        ".weir~uid-1~out-2~e1~x.inprogress",
        // Of a coordinator that has taken the job over meanwhile.
        ".weir~uid-1~out~e2~part-00000-2-1-00000.jsonl.inprogress",
        ".x",
    ];
    foreign.iter().for_each(|name| fs::write(path.join(name), "not ours").unwrap());
    assert_eq!(files(&path, true).len(), 2 * 2 + foreign.len());
    job.restore(2, 2);
    let mut left: Vec<_> = foreign.iter().map(|name| path.join(name)).collect();
    left.sort();
    assert_eq!(files(&path, true), left);
    assert_eq!(visible_rows(&path, FileFormat::Text(DecoderConfig::Json)), rows(0, 10));
}

#[test]
fn a_commit_that_can_t_be_is_said_loudly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let mut job = Job::new(FilesSinkConfig::json(&path));
    job.restore(1, 2);
    job.write(5);
    job.checkpoint(1);
    let [pending] = files(&path, true).try_into().unwrap();
    let finished = path.join("part-00000-1-1-00000.jsonl");
    let commit = |job: &Job| match committer(&job.sink).commit(permit(1), &job.durable.committables) {
        Err(ConnectorError::Permanent(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let whole = fs::read(&pending).unwrap();
    fs::write(&pending, &whole[1..]).unwrap();
    assert!(commit(&job).contains(&format!("the pending file has {} bytes", whole.len() - 1)));
    fs::remove_file(&pending).unwrap();
    let reason = commit(&job);
    for part in [pending.to_str().unwrap(), finished.to_str().unwrap(), "neither exists", "sink `out`"] {
        assert!(reason.contains(part), "{reason}");
    }
    fs::write(&finished, "x").unwrap();
    assert!(commit(&job).contains("the finished file has 1 bytes"));
    fs::write(&finished, &whole).unwrap();
    committer(&job.sink).commit(permit(1), &job.durable.committables).unwrap();
    fs::write(&pending, &whole).unwrap();
    assert!(commit(&job).contains("both exist"));
}

#[test]
fn going_back_behind_a_file_that_was_in_progress_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    let config = FilesSinkConfig { at_checkpoint: AtCheckpoint::Continue, ..FilesSinkConfig::json(&path) };
    let sink = FilesSink::new(config).unwrap();
    let mut first = writer(&sink, 1, 0, 1, &[]);
    first.write(&rows(0, 5)).unwrap();
    let older = first.pre_commit(CheckpointId(1)).unwrap();
    assert!(older.committables.is_empty() && older.writer.is_some(), "{older:?}");
    first.write(&rows(5, 5)).unwrap();
    first.end_of_input();
    let newer = first.pre_commit(CheckpointId(2)).unwrap();
    committer(&sink).commit(permit(2), &newer.committables).unwrap();

    // The job goes back to checkpoint 1, whose file has been finished since, with what came after it.
    let kept = older.writer.clone().unwrap();
    committer(&sink).abort_others(&older.committables, std::slice::from_ref(&kept)).unwrap();
    let mut second = writer(&sink, 2, 0, 1, &[(0, kept.clone())]);
    second.write(&rows(5, 5)).unwrap();
    second.end_of_input();
    let last = second.pre_commit(CheckpointId(3)).unwrap();
    committer(&sink).commit(permit(3), &last.committables).unwrap();
    let visible: Vec<usize> =
        files(&path, false).iter().map(|file| fs::read_to_string(file).unwrap().lines().count()).collect();
    assert_eq!(visible, [10, 5], "all rows, and those after checkpoint 1 once more");

    // Where its rows are nowhere, nothing is removed and the error names the file.
    for file in files(&path, false) {
        fs::remove_file(file).unwrap();
    }
    let bystander = path.join(".weir~uid-1~out~e1~part-00000-9-9-00000.jsonl.inprogress");
    fs::write(&bystander, "{}").unwrap();
    let refused = committer(&sink).abort_others(&older.committables, std::slice::from_ref(&kept)).unwrap_err();
    assert!(matches!(refused, ConnectorError::Permanent(_)), "{refused}");
    for part in ["part-00000-1-1-00000.jsonl", "is gone", "start from another checkpoint"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
    assert!(bystander.exists(), "something was removed before the mistake was found");
}

#[test]
fn partitions_become_folders() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    for (format, max_open_files) in [(json(), 2), (EncoderConfig::Csv(CsvFormat::default()), 100)] {
        let mut config = FilesSinkConfig::json(&path);
        config.format = SinkFileFormat::Text(format);
        config.partition_by = vec!["word".into()];
        config.max_open_files = max_open_files;
        let mut job = Job::new(config);
        job.restore(1, 2);
        job.write(30);
        job.checkpoint(3);
        let mut by_folder: BTreeMap<String, usize> = BTreeMap::new();
        for file in files(&path, false) {
            let folder = file.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("word"), "the column stands in the folder's name: {text}");
            let header = usize::from(file.extension().unwrap() == "csv");
            *by_folder.entry(folder).or_default() += text.lines().count() - header;
        }
        assert_eq!(by_folder.values().sum::<usize>(), 30);
        assert_eq!(by_folder["word=__HIVE_DEFAULT_PARTITION__"], 5 + 5 + 1, "NULLs, empty texts and 0 repetitions");
        assert_eq!(by_folder["word=two%0Alines, %22quoted%22 9"], 1);
        assert_eq!(by_folder["word=word 4"], 1);
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn files_roll_by_size_and_age() {
    let directory = tempfile::tempdir().unwrap();
    let count = |config: FilesSinkConfig, checkpoints: usize| {
        let path = config.path.clone();
        let mut job = Job::new(config);
        job.restore(1, 2);
        for _ in 0..checkpoints {
            job.write(10);
            job.checkpoint(3);
        }
        let count = files(&path, false).len();
        fs::remove_dir_all(&path).unwrap();
        count
    };
    let rolling = |max_size_bytes, max_age, at_checkpoint| {
        let mut config = FilesSinkConfig::json(directory.path().join("out"));
        (config.rolling.max_size_bytes, config.rolling.max_age) = (max_size_bytes, max_age);
        config.at_checkpoint = at_checkpoint;
        config
    };
    let long = Duration::from_secs(1000);
    assert_eq!(count(rolling(1 << 20, long, AtCheckpoint::Roll), 6), 6);
    assert_eq!(count(rolling(1 << 20, long, AtCheckpoint::Continue), 6), 0);
    assert_eq!(count(rolling(1500, long, AtCheckpoint::Continue), 6), 3, "two checkpoints a file");
    assert_eq!(count(rolling(1 << 20, Duration::ZERO, AtCheckpoint::Continue), 6), 6);
}

#[test]
fn an_updating_input_is_refused_or_written_with_its_change_kinds() {
    let updating = {
        let mut fields = schema().fields().to_vec();
        fields.push(Arc::new(change_kind_field()));
        Arc::new(Schema::new(fields))
    };
    let directory = tempfile::tempdir().unwrap();
    let config = FilesSinkConfig::json(directory.path());
    let refused = |config: FilesSinkConfig, input: &SchemaRef| {
        FilesSink::new(config).unwrap().check(input).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refused(config.clone(), &updating).contains("set changeKindColumn"));
    let with = |name: &str| FilesSinkConfig { change_kind_column: Some(name.into()), ..config.clone() };
    assert!(refused(with("word"), &updating).contains("the name of another column"));
    assert_eq!(refused(with("op"), &updating), "");
    let partitioned = |columns: &[&str]| FilesSinkConfig {
        partition_by: columns.iter().map(|column| (*column).into()).collect(),
        ..config.clone()
    };
    assert!(refused(partitioned(&["wort"]), &schema()).contains("`wort`, which the input lacks; it has id, word"));
    assert!(refused(partitioned(&["id", "word", "value", "at"]), &schema()).contains("every column"));
    let lists = Arc::new(Schema::new(vec![Field::new_list("items", Field::new("item", DataType::Int64, true), true)]));
    assert!(refused(config.clone(), &lists).contains("column `items`"));

    let sink = FilesSink::new(with("op")).unwrap();
    let context = SinkContext {
        name: "out".into(),
        job_uid: "uid-1".into(),
        subtask: 0,
        parallelism: 1,
        attempt: "1".into(),
        epoch: Epoch(1),
        attempt_number: weir_model::AttemptNumber(1),
        input: updating.clone(),
    };
    let kinds = [ChangeKind::Insert, ChangeKind::UpdateBefore, ChangeKind::UpdateAfter, ChangeKind::Delete];
    let mut columns = rows(3, 4).columns().to_vec();
    columns.push(Arc::new(Int8Array::from_iter_values(kinds.iter().map(|kind| *kind as i8))));
    let mut writer = sink.writer(context, Vec::new()).unwrap();
    writer.write(&RecordBatch::try_new(updating, columns).unwrap()).unwrap();
    let snapshot = writer.pre_commit(CheckpointId(1)).unwrap();
    committer(&sink).commit(permit(1), &snapshot.committables).unwrap();
    let text = fs::read_to_string(&files(directory.path(), false)[0]).unwrap();
    let ends: Vec<_> = text.lines().map(|line| line.rsplit_once(',').unwrap().1).collect();
    assert_eq!(ends, ["\"op\":\"+I\"}", "\"op\":\"-U\"}", "\"op\":\"+U\"}", "\"op\":\"-D\"}"]);
}
