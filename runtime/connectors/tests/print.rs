//! The print sink's lines.

mod support;

use arrow::array::Int8Array;
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use std::io::Write;
use std::sync::{Arc, Mutex};
use weir_connectors::api::*;
use weir_connectors::print::PrintSink;
use weir_model::change::change_kind_field;

fn printed(prefix: Option<&str>, parallelism: u32, batch: &RecordBatch) -> String {
    let target = Arc::new(Mutex::new(Vec::new()));
    let shared: Arc<Mutex<dyn Write + Send>> = target.clone();
    let sink = PrintSink::to(prefix.map(str::to_owned), shared);
    let context = SinkContext {
        name: "out".into(),
        job_uid: "u".into(),
        subtask: 1,
        parallelism,
        attempt: "1".into(),
        epoch: weir_model::Epoch(1),
        attempt_number: weir_model::AttemptNumber(1),
        input: batch.schema(),
    };
    sink.check(&batch.schema()).unwrap();
    let mut writer = sink.writer(context, Vec::new()).unwrap();
    writer.write(batch).unwrap();
    assert_eq!(writer.pre_commit(weir_model::CheckpointId(1)).unwrap(), SinkSnapshot::default());
    String::from_utf8(target.lock().unwrap().clone()).unwrap()
}

#[test]
fn lines() {
    let rows = support::rows(4, 2);
    assert_eq!(
        printed(None, 2, &rows),
        "out:2> +I[4, word 4, 1.3333333333333333, 2013-01-01T05:15:04.938268]\n\
         out:2> +I[5, word 5, null, 2013-01-01T05:15:06.172835]\n"
    );
    let mut fields = support::schema().fields().to_vec();
    fields.push(Arc::new(change_kind_field()));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int8Array::from(vec![1, 3])));
    let updating = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let lines = printed(Some("x"), 1, &updating);
    assert!(lines.starts_with("x> -U[4, word 4, ") && lines.contains("\nx> -D[5, word 5, "), "{lines}");
}
