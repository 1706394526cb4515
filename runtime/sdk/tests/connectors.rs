//! A source and a sink of one's own in a job that runs.

use serde::Deserialize;
use std::path::Path;
use std::sync::{Arc, Mutex};
use weir_node::{LocalJob, Outcome, StartFrom, job};
use weir_sdk::arrow::array::{AsArray, Int64Array};
use weir_sdk::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use weir_sdk::arrow::record_batch::RecordBatch;
use weir_sdk::connector::*;
use weir_sdk::{Column, Context, Inputs, Operator, Output, Result, Row, RowSchema, Setup, Weir};

#[derive(Deserialize)]
struct NumbersConfig {
    count: i64,
}

/// The numbers from 0 on, as one split.
struct Numbers {
    count: i64,
}

struct NumbersReader {
    next: i64,
    count: i64,
}

fn numbers_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

impl Source for Numbers {
    fn schema(&self) -> SchemaRef {
        numbers_schema()
    }

    fn is_replayable(&self) -> bool {
        true
    }

    fn is_bounded(&self) -> bool {
        true
    }

    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        let is_owner = context.subtask == 0;
        let next = restored.first().and_then(|split| split.position.as_i64()).unwrap_or(0);
        Ok(Box::new(NumbersReader { next, count: if is_owner { self.count } else { 0 } }))
    }
}

impl SourceReader for NumbersReader {
    fn poll(&mut self, max_rows: usize) -> Result<Poll, ConnectorError> {
        let end = self.count.min(self.next + max_rows.min(100) as i64);
        if self.next >= end {
            return Ok(Poll::End);
        }
        let column = Int64Array::from_iter_values(self.next..end);
        self.next = end;
        let batch = RecordBatch::try_new(numbers_schema(), vec![Arc::new(column)]);
        let batch = batch.map_err(|error| ConnectorError::Permanent(error.to_string()))?;
        Ok(Poll::Batch { batch, split: 0, rejected: None })
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        match self.count {
            0 => Ok(vec![]),
            _ => Ok(vec![SplitState { split: "all".into(), position: self.next.into() }]),
        }
    }
}

/// Rows become visible by the commit.
#[derive(Clone, Default)]
struct Shelf {
    visible: Arc<Mutex<Vec<i64>>>,
}

struct ShelfWriter {
    prepared: Vec<i64>,
}

impl Sink for Shelf {
    fn check(&self, _input: &SchemaRef) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn writer(
        &self,
        _context: SinkContext,
        _restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(ShelfWriter { prepared: vec![] }))
    }

    fn committer(&self, _context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        Ok(Some(Box::new(self.clone())))
    }
}

impl SinkWriter for ShelfWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.prepared.extend(batch.column(0).as_primitive::<Int64Type>().values());
        Ok(())
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        let committables = match std::mem::take(&mut self.prepared) {
            rows if rows.is_empty() => vec![],
            rows => vec![Committable(serde_json::json!(rows))],
        };
        Ok(SinkSnapshot { committables, writer: None })
    }
}

impl Committer for Shelf {
    fn commit(&mut self, _permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError> {
        let mut visible = self.visible.lock().unwrap();
        for committable in committables {
            let rows = committable.0.as_array().unwrap().iter().map(|row| row.as_i64().unwrap());
            visible.extend(rows);
        }
        Ok(())
    }

    fn abort_others(
        &mut self,
        _committed: &[Committable],
        _writers: &[serde_json::Value],
    ) -> Result<(), ConnectorError> {
        Ok(())
    }
}

struct Square(Column<i64>);

impl Operator for Square {
    type Config = ();

    fn output_schema(_: &(), _: Inputs<'_>) -> Result<RowSchema> {
        Ok(RowSchema::new().column::<i64>("square"))
    }

    fn new(_: (), setup: &mut Setup<'_>) -> Result<Self> {
        Ok(Square(setup.column("n")?))
    }

    fn process(&mut self, row: Row<'_>, _: &mut Context<'_>, out: &mut Output<'_>) -> Result<()> {
        let n = row.get(self.0)?;
        out.emit(n * n)
    }
}

const JOB: &str = "
apiVersion: weir.dev/v1alpha1
kind: StreamJob
metadata: {name: squares}
spec:
  parallelism: 2
  pipeline:
    sources:
    - name: numbers
      custom: {type: Numbers, config: {count: 1000}}
    transforms:
    - name: squares
      operator: {type: Square, input: numbers}
    sinks:
    - name: shelf
      from: squares
      custom: {type: Shelf}
  checkpoint: {interval: 10ms}
";

fn weir(shelf: &Shelf) -> Weir {
    let shelf = shelf.clone();
    Weir::new()
        .operator::<Square>("Square")
        .source("Numbers", |_, NumbersConfig { count }| Ok(Numbers { count }))
        .sink("Shelf", move |_, ()| Ok(shelf.clone()))
}

fn load(text: &str, folder: &Path, shelf: &Shelf) -> job::Loaded {
    let registry = Arc::new(weir(shelf).into_registry().unwrap());
    job::load_text(text.to_owned(), folder.to_owned(), registry, |_| Ok(()))
}

#[test]
fn a_job_of_ones_own_parts_runs_to_its_end() {
    let shelf = Shelf::default();
    let folder = tempfile::tempdir().unwrap();
    let loaded = load(JOB, folder.path(), &shelf);
    let job = Arc::new(loaded.job.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics)));
    let outcome = LocalJob::start(job, &StartFrom::Latest).unwrap().run();
    assert!(matches!(outcome, Outcome::Finished), "{outcome:?}");
    let mut visible = shelf.visible.lock().unwrap().clone();
    visible.sort_unstable();
    assert_eq!(visible, (0..1000).map(|n| n * n).collect::<Vec<_>>());
}

#[test]
fn mistakes_in_configs_of_connectors_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for (right, wrong, expected) in [
        ("count: 1000", "cout: 1000", "its config has no field `cout`; did you mean `count`?"),
        ("count: 1000", "count: many", "its config, field `count`: invalid type: string \"many\", expected i64"),
        ("type: Numbers", "type: Number", "no source of type `Number` is registered"),
        ("type: Shelf", "type: Shelve", "no sink of type `Shelve` is registered"),
        ("input: numbers", "input: numbers, config: {x: 1}", "its config has no field `x`"),
    ] {
        let loaded = load(&JOB.replace(right, wrong), folder.path(), &Shelf::default());
        assert!(loaded.job.is_none(), "{wrong}");
        let reasons: Vec<&str> = loaded.diagnostics.iter().map(|diagnostic| diagnostic.reason.as_str()).collect();
        assert!(reasons.iter().any(|reason| reason.contains(expected)), "{wrong}: {reasons:?}");
    }
}

#[test]
fn a_name_is_taken_once() {
    let error = Weir::new().operator::<Square>("Square").operator::<Square>("Square").into_registry().err().unwrap();
    assert_eq!(error.to_string(), "two operators are registered as `Square`");
    let twice = weir(&Shelf::default()).source("Numbers", |_, NumbersConfig { count }| Ok(Numbers { count }));
    assert_eq!(twice.into_registry().err().unwrap().to_string(), "two sources are registered as `Numbers`");
}
