//! The reader of one subtask.

use super::fetcher::{Chunk, Fetcher, News};
use super::lineage::Lineage;
use super::rows::{RowLayout, Rows};
use super::shards::{self, Position, owner};
use super::{KinesisSourceConfig, Start, connect, runtime};
use crate::aggregate::{is_aggregated, unpack};
use crate::client::{HashKeys, Listing, Place, Shard, arrival_ms};
use crate::failure::Failure;
use aws_sdk_kinesis::types::Record;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_connectors::api::{ConnectorError, Lag, Poll, SourceContext, SourceReader, SplitLag, SplitState};

const RETRY_AFTER: Duration = Duration::from_millis(4);

pub(super) struct KinesisReader {
    config: Arc<KinesisSourceConfig>,
    context: SourceContext,
    lineage: Lineage,
    splits: Vec<Split>,
    rows: Rows,
    fetcher: Fetcher,
    /// What is left of the answer that is being read.
    current: Option<Chunk>,
    /// What the watermark has to know before anything else is read.
    changes: VecDeque<Poll>,
    next_number: u32,
}

struct Split {
    shard: Shard,
    position: Position,
    stage: Stage,
    /// By which the watermark knows it; None while it holds nothing back.
    number: Option<u32>,
    has_rows: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// For its parents.
    Waiting,
    Reading,
    Ended,
}

impl KinesisReader {
    pub(super) fn open(
        config: &Arc<KinesisSourceConfig>,
        context: &SourceContext,
        restored: &[SplitState],
    ) -> Result<Self, ConnectorError> {
        let failed = |failure: Failure| failure.of(format!("source `{}`, stream `{}`", context.name, config.stream));
        let rows = Rows::new(&context.name, RowLayout::of(config)?, config)?;
        let runtime = runtime()?;
        let client = connect(config, &runtime)?;
        let positions = shards::restored(restored)?;
        let wanted = if positions.is_empty() { shards::listing(&config.start) } else { Listing::All };
        let listed = runtime.block_on(client.shards(wanted)).map_err(failed)?;
        if listed.is_empty() {
            return Err(failed(Failure::Transient("it has no shards yet".into())));
        }
        let mut lineage = Lineage::default();
        let begun = match positions.is_empty() {
            true => fresh(config, context, &listed, &mut lineage)?,
            false => resumed(config, context, &listed, positions, &mut lineage)?,
        };
        let latest = lineage.latest().map(str::to_owned).filter(|_| !config.bounded);
        let fetcher = Fetcher::start(runtime, client, config, &context.name, latest)?;
        let mut reader = KinesisReader {
            config: Arc::clone(config),
            context: context.clone(),
            lineage,
            splits: vec![],
            rows,
            fetcher,
            current: None,
            changes: VecDeque::new(),
            next_number: 0,
        };
        begun.into_iter().for_each(|(shard, position)| reader.add(shard, position));
        reader.begin_waiting(restored.is_empty());
        Ok(reader)
    }

    fn owns(&self, shard: &str) -> bool {
        owner(&self.config.stream, shard, self.context.parallelism) == self.context.subtask
    }

    fn add(&mut self, shard: Shard, position: Position) {
        let stage = if position.ended { Stage::Ended } else { Stage::Waiting };
        let mut split = Split { shard, position, stage, number: None, has_rows: false };
        if stage == Stage::Waiting {
            let number = self.next_number();
            split.number = Some(number);
            self.changes.push_back(Poll::SplitAdded { split: number });
        }
        self.splits.push(split);
    }

    fn next_number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Begins what no longer has to wait.
    fn begin_waiting(&mut self, is_fresh: bool) {
        for (number, split) in self.splits.iter_mut().enumerate() {
            if split.stage == Stage::Waiting && self.lineage.may_begin(&split.shard.parents) {
                split.stage = Stage::Reading;
                let place = match split.position.place() {
                    // Its own clock knows best what is the latest.
                    Place::Timestamp(_) if is_fresh && self.config.start == Start::Latest => Place::Latest,
                    place => place,
                };
                tracing::debug!(
                    source = self.context.name,
                    shard = split.shard.id,
                    from = split.position.described(),
                    "a shard is begun"
                );
                self.fetcher.begin(number, &split.shard.id, place);
            }
        }
    }

    fn listed(&mut self, listed: &[Shard]) {
        for shard in self.lineage.listed(listed) {
            tracing::info!(source = self.context.name, shard = shard.id, parents = ?shard.parents, "new shard");
            if self.owns(&shard.id) {
                self.add(shard, Position::default());
            }
        }
        self.begin_waiting(false);
    }

    fn ended(&mut self, number: usize) {
        let split = &mut self.splits[number];
        split.stage = Stage::Ended;
        split.position.ended = true;
        let (shard, finished) = (split.shard.id.clone(), split.number.take());
        tracing::debug!(source = self.context.name, shard, "a shard has been read to its end");
        self.lineage.ended(&shard);
        self.begin_waiting(false);
        // Behind its children's beginnings: they hold the watermark where it is.
        self.changes.extend(finished.map(|split| Poll::SplitFinished { split }));
    }

    /// Takes records of the answer, until the batch is full or the answer ends. Whether nothing of the shard follows, as far
    /// as this source reads it.
    fn read(&mut self, chunk: &mut Chunk, max_rows: usize) -> Result<bool, ConnectorError> {
        let Split { shard, position, .. } = &mut self.splits[chunk.split];
        while self.rows.taken() < max_rows {
            let Some(record) = chunk.records.next() else { break };
            let arrived_late = |end_ms: i64| arrival_ms(&record).is_some_and(|at| at > end_ms);
            if position.end_ms.is_some_and(arrived_late) {
                return Ok(true);
            }
            take(&mut self.rows, &record, &shard.id, shard.hash_keys)?;
            position.after = Some(record.sequence_number().to_owned());
        }
        Ok(false)
    }

    /// What a batch of the shard goes by.
    fn number_of_rows(&mut self, split: usize) -> u32 {
        let next = self.next_number;
        let split = &mut self.splits[split];
        split.has_rows = true;
        let number = *split.number.get_or_insert(next);
        self.next_number = self.next_number.max(number + 1);
        number
    }

    /// A shard without records holds nothing back.
    fn caught_up(&mut self, split: usize) {
        let split = &mut self.splits[split];
        if !split.has_rows {
            self.changes.extend(split.number.take().map(|split| Poll::SplitFinished { split }));
        }
    }
}

/// One of the stream's records, or those that are in it.
fn take(rows: &mut Rows, record: &Record, shard: &str, hash_keys: HashKeys) -> Result<(), ConnectorError> {
    if !is_aggregated(record) {
        return rows.take(record, shard, record.partition_key(), record.data().as_ref());
    }
    match unpack(record, hash_keys) {
        Ok(unpacked) => {
            unpacked.iter().try_for_each(|user| rows.take(record, shard, Some(&user.partition_key), &user.data))
        }
        Err(reason) => rows.reject(record, shard, reason),
    }
}

fn fresh(
    config: &KinesisSourceConfig,
    context: &SourceContext,
    listed: &[Shard],
    lineage: &mut Lineage,
) -> Result<Vec<(Shard, Position)>, ConnectorError> {
    if let Some(unusable) = shards::unusable_start(&config.start, listed).into_iter().next() {
        return Err(ConnectorError::Permanent(format!("source `{}`: {unusable}", context.name)));
    }
    let read = shards::begin(&config.start, listed, config.bounded, now_ms());
    read.iter().for_each(|(shard, _)| lineage.add(&shard.id, false));
    lineage.listed(listed);
    let is_own =
        |(shard, _): &(Shard, Position)| owner(&config.stream, &shard.id, context.parallelism) == context.subtask;
    Ok(read.into_iter().filter(is_own).collect())
}

fn resumed(
    config: &KinesisSourceConfig,
    context: &SourceContext,
    listed: &[Shard],
    mut positions: BTreeMap<String, Position>,
    lineage: &mut Lineage,
) -> Result<Vec<(Shard, Position)>, ConnectorError> {
    positions.iter().for_each(|(shard, position)| lineage.add(shard, position.ended));
    let new = lineage.listed(listed);
    let mut begun = vec![];
    let is_own = |shard: &str| owner(&config.stream, shard, context.parallelism) == context.subtask;
    for shard in listed.iter().filter(|shard| is_own(&shard.id)) {
        match positions.remove(&shard.id) {
            Some(position) => begun.push((shard.clone(), position)),
            // What a bounded source doesn't know has come after its end.
            None if !config.bounded && new.contains(shard) => begun.push((shard.clone(), Position::default())),
            None => {}
        }
    }
    // What has ended and is no longer there is forgotten: its children stand in the same checkpoint.
    let lost = positions.iter().find(|(shard, position)| !position.ended && is_own(shard));
    match lost {
        None => Ok(begun),
        Some((shard, position)) => Err(ConnectorError::Permanent(format!(
            "source `{}`: stream `{}` no longer has {shard}, which was to be read {}: retention has removed records that were \
             not read, or the stream was made anew. Start with `--from none` and another startFrom, or from a checkpoint \
             that fits",
            context.name,
            config.stream,
            position.described()
        ))),
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl SourceReader for KinesisReader {
    fn poll(&mut self, max_rows: usize) -> Result<Poll, ConnectorError> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(change);
            }
            if let Some(mut chunk) = self.current.take() {
                let split = chunk.split;
                let is_past_end = self.read(&mut chunk, max_rows)?;
                let is_read = is_past_end || chunk.records.len() == 0;
                let position = &self.splits[split].position;
                let is_over =
                    is_past_end || (is_read && (chunk.is_last || (chunk.is_caught_up && position.end_ms.is_some())));
                if is_read && chunk.is_caught_up {
                    self.caught_up(split);
                }
                let (batch, rejected) = self.rows.finish()?;
                let has_batch = batch.num_rows() > 0 || rejected.is_some();
                let number = if has_batch { self.number_of_rows(split) } else { 0 };
                if !is_read {
                    self.current = Some(chunk);
                } else if is_over && self.splits[split].stage == Stage::Reading {
                    self.ended(split);
                }
                if has_batch {
                    return Ok(Poll::Batch { batch, split: number, rejected });
                }
                continue;
            }
            if self.config.bounded && self.splits.iter().all(|split| split.stage == Stage::Ended) {
                return Ok(Poll::End);
            }
            match self.fetcher.next() {
                // A bounded source reads on until it is told that nobody takes it.
                Some(News::Chunk(chunk)) if self.splits[chunk.split].stage == Stage::Ended => {}
                Some(News::Chunk(chunk)) => self.current = Some(chunk),
                Some(News::Listed(shards)) => self.listed(&shards),
                Some(News::Failed(error)) => return Err(error),
                None => return Ok(Poll::Pending { retry_after: RETRY_AFTER }),
            }
        }
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        let state = |split: &Split| {
            let position = serde_json::to_value(&split.position).expect("texts and numbers");
            SplitState { split: split.shard.id.clone(), position }
        };
        Ok(self.splits.iter().map(state).collect())
    }

    fn splits_ended(&mut self, splits: &[String]) {
        splits.iter().for_each(|shard| self.lineage.ended(shard));
        self.begin_waiting(false);
    }

    fn announces_splits(&self) -> bool {
        true
    }

    /// A shard that has been read as far as it goes, and gave nothing, is none that anybody waits for.
    fn has_splits(&self) -> bool {
        self.splits.iter().any(|split| split.number.is_some())
    }

    /// Of what is read: a shard that waits for others is theirs.
    fn split_lags(&self) -> Vec<SplitLag> {
        let reading = self.splits.iter().enumerate().filter(|(_, split)| split.stage == Stage::Reading);
        let lag = |(number, split): (usize, &Split)| {
            let lag = Lag::Millis(self.fetcher.behind_ms(number)?);
            Some(SplitLag { split: split.shard.id.clone(), lag })
        };
        reading.filter_map(lag).collect()
    }

    fn skipped_records(&self) -> u64 {
        self.rows.skipped()
    }
}
