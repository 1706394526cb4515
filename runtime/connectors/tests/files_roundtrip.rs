//! From files to files: what the two-phase sink commits is what the source read, and no more.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use weir_connectors::api::*;
use weir_connectors::files::*;
use weir_connectors::formats::*;
use weir_model::types::TIMESTAMP;
use weir_model::{AttemptNumber, CheckpointId, CommitPermit, Durable, Epoch, Fence};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("carrier", DataType::Utf8, false),
        Field::new("delay", DataType::Float64, true),
        Field::new("at", TIMESTAMP, true),
    ]))
}

fn source(path: &Path, format: DecoderConfig) -> FilesSource {
    FilesSource::new(FilesSourceConfig {
        path: path.to_str().unwrap().into(),
        format: FileFormat::Text(format),
        schema: schema(),
        compression: SourceCompression::Auto,
        on_bad_record: OnBadRecord::Fail,
        follow: false,
        poll_interval: Duration::from_millis(10),
        split_size_bytes: None,
    })
    .unwrap()
}

fn read_all(source: &FilesSource) -> Vec<RecordBatch> {
    let context = SourceContext { name: "flights".into(), job_uid: "job".into(), subtask: 0, parallelism: 1 };
    let mut reader = source.reader(context, Vec::new()).unwrap();
    let mut batches = Vec::new();
    loop {
        match reader.poll(2).unwrap() {
            Poll::Batch { batch, .. } => batches.push(batch),
            Poll::End => return batches,
            Poll::SplitAdded { .. } | Poll::SplitFinished { .. } | Poll::Pending { .. } => {}
        }
    }
}

fn permit() -> CommitPermit {
    let fence = Fence { epoch: Epoch(1), attempt: AttemptNumber(1) };
    CommitPermit::for_durable(&Durable::attest(CheckpointId(1)), fence)
}

#[test]
fn csv_in_json_out() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("flights.csv");
    let csv = "at,carrier,delay,unused\r\n\
        2013-01-01T05:15:00Z,AA,2.5,x\n\
        2013-01-01 05:16:00.25,\"B,\"\"6\",NA,\"two\nlines\"\n\
        \n\
        NA,UA,-3,z";
    fs::write(&input, csv).unwrap();
    let format = CsvFormat { null_value: "NA".into(), ..CsvFormat::default() };
    let batches = read_all(&source(&input, DecoderConfig::Csv(format)));
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 1]);

    let output = directory.path().join("out");
    let sink = FilesSink::new(FilesSinkConfig::json(&output)).unwrap();
    let context = SinkContext {
        name: "out".into(),
        job_uid: "u".into(),
        subtask: 0,
        parallelism: 1,
        attempt: "1-1".into(),
        epoch: Epoch(1),
        attempt_number: weir_model::AttemptNumber(1),
        input: schema(),
    };
    sink.check(&schema()).unwrap();
    let mut writer = sink.writer(context, Vec::new()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    let snapshot = writer.pre_commit(CheckpointId(1)).unwrap();
    let visible = || {
        let names = fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.starts_with('.')).collect::<Vec<_>>()
    };
    assert_eq!(visible(), Vec::<String>::new());
    let committer = CommitterContext { name: "out".into(), job_uid: "u".into(), epoch: Epoch(1) };
    let mut committer = sink.committer(committer).unwrap().unwrap();
    committer.commit(permit(), &snapshot.committables).unwrap();
    committer.commit(permit(), &snapshot.committables).unwrap();
    assert_eq!(visible(), ["part-00000-1-1-00000.jsonl"]);
    let written = fs::read_to_string(output.join("part-00000-1-1-00000.jsonl")).unwrap();
    assert_eq!(
        written,
        r#"{"carrier":"AA","delay":2.5,"at":"2013-01-01T05:15:00"}
{"carrier":"B,\"6","delay":null,"at":"2013-01-01T05:16:00.250"}
{"carrier":"UA","delay":-3.0,"at":null}
"#
    );
    let again = read_all(&source(&output, DecoderConfig::Json));
    let whole = |batches: &[RecordBatch]| arrow::compute::concat_batches(&schema(), batches).unwrap();
    assert_eq!(whole(&again), whole(&batches));
}
