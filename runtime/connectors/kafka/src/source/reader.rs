//! The reader of one subtask.

use super::fetcher::{Chunk, Fetcher, News};
use super::partitions::{self, Split, begin, owner, split_name};
use super::rows::{RowLayout, Rows};
use super::{KafkaSourceConfig, Start};
use crate::failure::connector_error;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use weir_connectors::api::{ConnectorError, Lag, Poll, SourceContext, SourceReader, SplitLag, SplitState};
use weir_kafka_client::records::RecordReader;
use weir_kafka_client::{ConsumerOptions, KafkaError};
use weir_model::CheckpointId;

/// How long `poll` waits for a fetch.
const WAIT: Duration = Duration::from_millis(2);
const RETRY_AFTER: Duration = Duration::from_millis(1);
/// Checkpoints whose offsets wait for their completion; of more the oldest are let go, which costs the group nothing.
const MAX_WAITING_CHECKPOINTS: usize = 16;

/// Topic, partition, and the offset of the next record.
type Offsets = Vec<(String, i32, i64)>;

pub(super) struct KafkaReader {
    source: String,
    splits: Vec<ReadSplit>,
    rows: Rows,
    check_crcs: bool,
    fetcher: Fetcher,
    /// The split that is being read, and what is left of its chunk.
    current: Option<(usize, RecordReader)>,
    /// What is yet to be said of splits.
    added: VecDeque<u32>,
    finished: VecDeque<u32>,
    is_bounded: bool,
    has_group: bool,
    /// Offsets at checkpoints, the oldest first.
    at_checkpoints: VecDeque<(CheckpointId, Offsets)>,
    begun: Option<CheckpointId>,
}

struct ReadSplit {
    split: Split,
    is_finished: bool,
}

impl KafkaReader {
    pub(super) fn open(
        config: &Arc<KafkaSourceConfig>,
        options: &ConsumerOptions,
        context: &SourceContext,
        restored: &[SplitState],
    ) -> Result<Self, ConnectorError> {
        let failed = |error: KafkaError| connector_error(&format!("source `{}`", context.name), &error);
        let mut cluster = config.cluster.client()?;
        let positions = partitions::restored(restored)?;
        // What a checkpoint doesn't know has come since: it is read from its beginning.
        let start = if restored.is_empty() { &config.start } else { &Start::Earliest };
        let mut splits = vec![];
        let topics = partitions::topics_at_start(&mut cluster, &config.topics).map_err(failed)?;
        if restored.is_empty()
            && let Some(unusable) =
                partitions::unusable_offsets(&mut cluster, config, &topics).map_err(failed)?.into_iter().next()
        {
            return Err(ConnectorError::Permanent(format!("source `{}`: {unusable}", context.name)));
        }
        for topic in topics {
            let mut new = vec![];
            for partition in topic.partitions.iter().map(|partition| partition.partition) {
                if owner(&topic.name, partition, context.parallelism) != context.subtask {
                    continue;
                }
                match positions.get(split_name(&topic.name, partition).as_str()) {
                    Some(position) => {
                        splits.push(Split { topic: topic.name.clone(), partition, position: *position });
                    }
                    // A bounded source reads what was there at its start.
                    None if config.bounded && !restored.is_empty() => {}
                    None => new.push(partition),
                }
            }
            let begun = begin(&mut cluster, config, options.isolation, &topic.name, &new, start);
            splits.extend(begun.map_err(failed)?);
        }
        let fetcher = Fetcher::start(cluster, Arc::clone(config), options.clone(), context.clone(), &splits)?;
        let mut reader = KafkaReader {
            source: context.name.clone(),
            splits: vec![],
            rows: Rows::new(&context.name, RowLayout::of(config)?, config)?,
            check_crcs: options.check_crcs,
            fetcher,
            current: None,
            added: VecDeque::new(),
            finished: VecDeque::new(),
            is_bounded: config.bounded,
            has_group: config.group_id.is_some(),
            at_checkpoints: VecDeque::new(),
            begun: None,
        };
        splits.into_iter().for_each(|split| reader.add(split));
        Ok(reader)
    }

    fn add(&mut self, split: Split) {
        self.splits.push(ReadSplit { split, is_finished: false });
        let number = self.splits.len() - 1;
        self.finish_if_at_end(number);
        if !self.splits[number].is_finished {
            self.added.push_back(number as u32);
        }
    }

    fn finish_if_at_end(&mut self, number: usize) {
        let read = &mut self.splits[number];
        if !read.is_finished && read.split.position.is_at_end() {
            read.is_finished = true;
            self.finished.push_back(number as u32);
        }
    }

    /// Takes records of the current chunk, until the batch is full or the chunk ends.
    fn read(&mut self, number: usize, records: &mut RecordReader, max_rows: usize) -> Result<bool, ConnectorError> {
        let Split { topic, partition, position } = &mut self.splits[number].split;
        let unreadable = |error: KafkaError, offset: i64| {
            let context = format!("source `{}`: {topic}, partition {partition}, after offset {offset}", self.source);
            connector_error(&context, &error)
        };
        while self.rows.taken() < max_rows {
            let offset = position.offset;
            let Some(record) = records.next_record().map_err(|error| unreadable(error, offset))? else {
                position.offset = position.offset.max(records.next_offset());
                return Ok(true);
            };
            if position.end.is_some_and(|end| record.offset >= end) {
                position.offset = position.offset.max(record.offset);
                return Ok(true);
            }
            self.rows.take(&record, topic, *partition)?;
            position.offset = record.offset + 1;
        }
        Ok(false)
    }

    fn behind(&self) -> Vec<Option<u64>> {
        self.fetcher.behind(self.splits.iter().map(|read| read.split.position))
    }

    fn positions(&self) -> Vec<(String, i32, i64)> {
        let position = |read: &ReadSplit| {
            let Split { topic, partition, position } = &read.split;
            (topic.clone(), *partition, position.offset)
        };
        self.splits.iter().map(position).collect()
    }
}

impl SourceReader for KafkaReader {
    fn poll(&mut self, max_rows: usize) -> Result<Poll, ConnectorError> {
        loop {
            // Before any record: each partition holds back the watermark until its first one.
            if let Some(split) = self.added.pop_front() {
                return Ok(Poll::SplitAdded { split });
            }
            if let Some(split) = self.finished.pop_front() {
                return Ok(Poll::SplitFinished { split });
            }
            if let Some((number, mut records)) = self.current.take() {
                let is_done = self.read(number, &mut records, max_rows)?;
                if !is_done {
                    self.current = Some((number, records));
                }
                self.finish_if_at_end(number);
                let (batch, rejected) = self.rows.finish()?;
                if batch.num_rows() > 0 || rejected.is_some() {
                    return Ok(Poll::Batch { batch, split: number as u32, rejected });
                }
                continue;
            }
            if self.is_bounded && self.splits.iter().all(|read| read.is_finished) {
                return Ok(Poll::End);
            }
            match self.fetcher.next(WAIT) {
                Some(News::Chunk(Chunk { split, records, aborted, offset })) => {
                    self.current = Some((split, RecordReader::new(records, offset, aborted, self.check_crcs)));
                }
                Some(News::NewSplit(split)) => self.add(split),
                Some(News::Failed(error)) => return Err(error),
                None => return Ok(Poll::Pending { retry_after: RETRY_AFTER }),
            }
        }
    }

    fn checkpoint_begins(&mut self, checkpoint: CheckpointId) {
        self.begun = Some(checkpoint);
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        if let Some(checkpoint) = self.begun.take().filter(|_| self.has_group) {
            self.at_checkpoints.push_back((checkpoint, self.positions()));
            if self.at_checkpoints.len() > MAX_WAITING_CHECKPOINTS {
                self.at_checkpoints.pop_front();
            }
        }
        let state = |read: &ReadSplit| {
            let Split { topic, partition, position } = &read.split;
            let position = serde_json::to_value(position).expect("numbers");
            SplitState { split: split_name(topic, *partition), position }
        };
        Ok(self.splits.iter().map(state).collect())
    }

    fn checkpoint_completed(&mut self, checkpoint: CheckpointId) {
        while let Some((_, offsets)) = self.at_checkpoints.pop_front_if(|(of, _)| *of <= checkpoint) {
            if self.at_checkpoints.front().is_none_or(|(of, _)| *of > checkpoint) {
                self.fetcher.commit(offsets);
            }
        }
    }

    fn has_splits(&self) -> bool {
        self.splits.iter().any(|read| !read.is_finished)
    }

    fn pending_records(&self) -> Option<u64> {
        self.behind().into_iter().sum()
    }

    fn split_lags(&self) -> Vec<SplitLag> {
        let lag = |(read, behind): (&ReadSplit, Option<u64>)| {
            let Split { topic, partition, .. } = &read.split;
            Some(SplitLag { split: split_name(topic, *partition), lag: Lag::Records(behind?) })
        };
        self.splits.iter().zip(self.behind()).filter_map(lag).collect()
    }

    fn skipped_records(&self) -> u64 {
        self.rows.skipped()
    }
}
