//! All subtasks of one operator, with an exchange before them, that can be cut, and restored at any parallelism.

use crate::aggregate::key_fields;
use crate::operator::{Operator, OperatorContext, OperatorError, OperatorMetrics};
use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use weir_model::graph::StreamSchema;
use weir_model::{CheckpointId, KeyGroupRange, Watermark};
use weir_state::{KeyBatch, KeyEncoder, KeyedState, KeyedStateHandle, MemorySegments, StateConfig};

const MAX_PARALLELISM: u32 = 16;

type Create<'a> = Box<dyn Fn(&mut KeyedState) -> Result<Box<dyn Operator>, OperatorError> + 'a>;

pub(crate) struct Cluster<'a> {
    create: Create<'a>,
    input: StreamSchema,
    keys: Vec<usize>,
    subtasks: Vec<(Box<dyn Operator>, KeyedState)>,
    segments: MemorySegments,
    checkpoint: u64,
    pub(crate) metrics: OperatorMetrics,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(input: &StreamSchema, keys: &[usize], create: Create<'a>) -> Self {
        let mut cluster = Cluster {
            create,
            input: input.clone(),
            keys: keys.to_vec(),
            subtasks: vec![],
            segments: MemorySegments::default(),
            checkpoint: 0,
            metrics: OperatorMetrics::default(),
        };
        cluster.open(1, &[]);
        cluster
    }

    fn open(&mut self, parallelism: u32, handles: &[KeyedStateHandle]) {
        self.subtasks.clear();
        for subtask in 0..parallelism {
            let key_groups = KeyGroupRange::of_subtask(subtask, parallelism, MAX_PARALLELISM);
            let of_groups: Vec<KeyedStateHandle> =
                handles.iter().filter(|handle| handle.key_groups.intersect(&key_groups).is_some()).cloned().collect();
            let config = StateConfig { key_groups, max_parallelism: MAX_PARALLELISM };
            let mut state = KeyedState::open(config, &of_groups, &self.segments).unwrap();
            let operator = (self.create)(&mut state).unwrap();
            self.subtasks.push((operator, state));
        }
    }

    /// A checkpoint of all subtasks. Some aren't confirmed, as if they had been aborted, and after some the
    /// subtasks start anew from it, at another parallelism.
    pub(crate) fn checkpoint(&mut self, random: &mut ChaCha8Rng) {
        self.checkpoint += 1;
        let id = CheckpointId(self.checkpoint);
        self.segments.begin(format!("checkpoint-{}", self.checkpoint));
        let mut handles = vec![];
        for (_, state) in &mut self.subtasks {
            handles.push(state.cut(id).unwrap().write(&mut self.segments).unwrap());
        }
        if random.random_ratio(1, 4) {
            return;
        }
        if random.random() {
            self.subtasks.iter_mut().for_each(|(_, state)| state.confirm(id));
        } else {
            self.open(random.random_range(1..5), &handles);
        }
    }

    fn call(
        &mut self,
        subtask: usize,
        call: impl FnOnce(&mut dyn Operator, &mut OperatorContext<'_>, &mut Vec<RecordBatch>) -> Result<(), OperatorError>,
    ) -> Vec<RecordBatch> {
        let mut out = vec![];
        let (operator, state) = &mut self.subtasks[subtask];
        let mut context = OperatorContext { state, processing_time_us: 0, metrics: &mut self.metrics };
        call(operator.as_mut(), &mut context, &mut out).unwrap();
        out
    }

    pub(crate) fn process(&mut self, batch: RecordBatch) -> Vec<RecordBatch> {
        let columns: Vec<ArrayRef> = self.keys.iter().map(|key| batch.column(*key).clone()).collect();
        let mut keys = KeyBatch::new();
        let mut encoder = KeyEncoder::new(&key_fields(&self.input, &self.keys));
        encoder.encode(&columns, batch.num_rows(), MAX_PARALLELISM, &mut keys).unwrap();
        let parallelism = self.subtasks.len() as u32;
        let mut out = vec![];
        for subtask in 0..parallelism {
            let owner = |row: &u32| keys.key_group(*row as usize).subtask(parallelism, MAX_PARALLELISM);
            let rows: Vec<u32> = (0..batch.num_rows() as u32).filter(|row| owner(row) == subtask).collect();
            if !rows.is_empty() {
                let rows = take_record_batch(&batch, &UInt32Array::from(rows)).unwrap();
                out.extend(
                    self.call(subtask as usize, |operator, context, out| operator.process(0, rows, context, out)),
                );
            }
        }
        out
    }

    pub(crate) fn watermark(&mut self, watermark: i64) -> Vec<RecordBatch> {
        let subtasks = 0..self.subtasks.len();
        let advance = |subtask| {
            self.call(subtask, |operator, context, out| operator.on_watermark(Watermark(watermark), context, out))
        };
        subtasks.flat_map(advance).collect()
    }
}
