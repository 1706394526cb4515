//! The print sink: a line on standard output for each row. At least once.

use crate::api::*;
use crate::formats::{Cells, check_encodable};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int8Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use weir_model::{CHANGE_KIND_COLUMN, ChangeKind, CheckpointId};

/// Prints `prefix> +I[AA, 12.5, 2013-01-01T05:15:00]`; with several subtasks `prefix:2> ...`, counted from 1.
pub struct PrintSink {
    /// `None`: the step's name.
    prefix: Option<String>,
    target: Target,
}

#[derive(Clone)]
enum Target {
    StandardOutput,
    Shared(Arc<Mutex<dyn Write + Send>>),
}

impl PrintSink {
    /// Without a prefix the lines begin with the step's name.
    pub fn new(prefix: Option<String>) -> Self {
        PrintSink { prefix, target: Target::StandardOutput }
    }

    /// Prints elsewhere than to standard output.
    pub fn to(prefix: Option<String>, target: Arc<Mutex<dyn Write + Send>>) -> Self {
        PrintSink { prefix, target: Target::Shared(target) }
    }
}

impl Sink for PrintSink {
    fn check(&self, input: &SchemaRef) -> Result<(), ConnectorError> {
        Ok(check_encodable(input)?)
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    fn writer(
        &self,
        context: SinkContext,
        _restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        check_encodable(&context.input)?;
        let prefix = self.prefix.as_ref().unwrap_or(&context.name);
        let prefix = match context.parallelism {
            1 => format!("{prefix}> "),
            _ => format!("{prefix}:{}> ", context.subtask + 1),
        };
        Ok(Box::new(PrintWriter { prefix: prefix.into_bytes(), target: self.target.clone(), lines: Vec::new() }))
    }

    fn committer(&self, _context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        Ok(None)
    }
}

struct PrintWriter {
    prefix: Vec<u8>,
    target: Target,
    lines: Vec<u8>,
}

impl SinkWriter for PrintWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let schema = batch.schema();
        let kinds = schema.index_of(CHANGE_KIND_COLUMN).ok();
        let kinds = kinds.map(|index| (index, batch.column(index).as_primitive::<Int8Type>()));
        let columns = batch.columns().iter().enumerate();
        let cells: Vec<_> = columns
            .filter(|(index, _)| kinds.is_none_or(|(kind, _)| kind != *index))
            .map(|(_, column)| (column, Cells::of(column)))
            .collect();
        self.lines.clear();
        for row in 0..batch.num_rows() {
            let kind = kinds.and_then(|(_, kinds)| ChangeKind::from_byte(kinds.value(row)));
            self.lines.extend_from_slice(&self.prefix);
            self.lines.extend_from_slice(kind.unwrap_or(ChangeKind::Insert).symbol().as_bytes());
            self.lines.push(b'[');
            for (index, (column, cells)) in cells.iter().enumerate() {
                if index > 0 {
                    self.lines.extend_from_slice(b", ");
                }
                match column.is_null(row) {
                    true => self.lines.extend_from_slice(b"null"),
                    false => cells.write(row, &mut self.lines),
                }
            }
            self.lines.extend_from_slice(b"]\n");
        }
        print(&self.target, &self.lines)
            .map_err(|error| ConnectorError::Transient(format!("cannot print to standard output: {error}")))
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        Ok(SinkSnapshot::default())
    }
}

/// A whole batch at once, so that the lines of different subtasks don't mix.
fn print(target: &Target, lines: &[u8]) -> io::Result<()> {
    match target {
        Target::StandardOutput => {
            let mut output = io::stdout().lock();
            output.write_all(lines)?;
            output.flush()
        }
        Target::Shared(target) => {
            let mut output = target.lock().map_err(|_| io::Error::other("another subtask panicked while printing"))?;
            output.write_all(lines)?;
            output.flush()
        }
    }
}
