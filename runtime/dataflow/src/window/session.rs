//! GROUP BY over session windows: a session grows with each row that comes within the gap, swallows its
//! neighbours when a row bridges them, and fires when the gap has passed without one.

use super::bounds::{is_complete, sessions_meet};
use super::plan::{check_append_only, check_lateness};
use super::progress::Progress;
use super::session_state::{ReadSessions, SessionState, leading_field, schemas};
use super::times::event_times;
use crate::aggregate::{AggregatePlan, AggregateSet, Batch, InputMode, RowBlock, Selection, Touched, key_fields};
use crate::keyed::BatchKeys;
use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::{ArrayRef, Int8Array, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{StreamSchema, TimeDomain, WindowAggregateSpec};
use weir_model::{ChangeKind, KeyGroup, StateField, StateSchema, Watermark};
use weir_state::{KeyBatch, KeyCodec, KeyEncoder, KeyedState};

/// Per batch: the rows become sessions among themselves, then those merge with the sessions of the same keys in
/// state, all in one block; what changed is written back.
pub struct SessionAggregate {
    keys: Vec<usize>,
    schema: SchemaRef,
    updating: bool,
    gap_us: i64,
    lateness_us: i64,
    time: TimeDomain,
    aggregates: AggregateSet,
    state: SessionState,
    progress: Progress,
    encoder: KeyEncoder,
    key_codec: KeyCodec,
    /// Processing time only: the earliest timer.
    next_time_us: Option<i64>,
    key_batch: KeyBatch,
    batch_keys: BatchKeys,
    touched: Touched,
}

/// A session of a batch's rows or of state, as long as it lies in the block.
#[derive(Clone, Copy, Debug)]
struct Session {
    /// Number of the key among the batch's.
    key: u32,
    start_us: i64,
    end_us: i64,
    /// Row of the block.
    row: u32,
    in_state: bool,
}

/// Sessions that became one.
struct Merged<'a> {
    members: &'a [Session],
    start_us: i64,
    end_us: i64,
}

/// Rows of output: block row, key number, window, change kind.
type Output = Vec<(u32, u32, i64, i64, ChangeKind)>;

/// Exactly the states that `SessionAggregate::new` registers.
pub fn state_schemas(spec: &WindowAggregateSpec, input: &StreamSchema) -> Result<Vec<StateSchema>, OperatorError> {
    let key = key_fields(input, &spec.keys);
    let mut all = schemas(&key, &plan(spec, input)?).to_vec();
    all.push(Progress::schema());
    Ok(all)
}

fn plan(spec: &WindowAggregateSpec, input: &StreamSchema) -> Result<AggregatePlan, OperatorError> {
    check_append_only(input)?;
    check_lateness(spec)?;
    if spec.assigned.is_some() {
        return Err(OperatorError::Failed(
            "a second aggregate over the windows of SESSION isn't supported: group by its window_start and \
             window_end as plain columns"
                .into(),
        ));
    }
    let plan = AggregatePlan::new(&spec.aggregates, input, InputMode::AppendOnly, vec![leading_field()])?;
    if !plan.is_mergeable() {
        return Err(OperatorError::Failed(
            "DISTINCT, FIRST_VALUE and LAST_VALUE aren't supported over SESSION windows: sessions merge, and these \
             can't be put together of parts"
                .into(),
        ));
    }
    Ok(plan)
}

impl SessionAggregate {
    pub fn new(
        spec: &WindowAggregateSpec,
        gap_us: i64,
        input: &StreamSchema,
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Self, OperatorError> {
        if gap_us <= 0 {
            return Err(OperatorError::Failed(format!("a session's gap must be positive, not {gap_us} us")));
        }
        let (plan, key): (_, Vec<StateField>) = (plan(spec, input)?, key_fields(input, &spec.keys));
        let aggregates = AggregateSet::open(&plan, &key, &[], state, None)?;
        let sessions = SessionState::open(schemas(&key, &plan), &aggregates, state)?;
        let progress = Progress::open(state)?;
        let mut operator = SessionAggregate {
            keys: spec.keys.clone(),
            schema: output.fields.clone(),
            updating: output.is_updating(),
            gap_us,
            lateness_us: spec.allowed_lateness_us,
            time: spec.time,
            aggregates,
            state: sessions,
            progress,
            encoder: KeyEncoder::for_ordered(&key),
            key_codec: KeyCodec::new(&key)?,
            next_time_us: None,
            key_batch: KeyBatch::new(),
            batch_keys: BatchKeys::default(),
            touched: Touched::default(),
        };
        operator.find_next_time(state);
        Ok(operator)
    }

    /// Whether a session with this end, of a key in this group, takes no more rows.
    fn is_over(&self, end_us: i64, group: KeyGroup) -> bool {
        is_complete(end_us, self.lateness_us, Watermark(self.progress.of_group(group)))
    }

    /// Whether a session with this end has been emitted.
    fn has_fired(&self, end_us: i64, group: KeyGroup) -> bool {
        is_complete(end_us, 0, Watermark(self.progress.of_group(group)))
    }

    /// Adds rows to sessions, of which none is late by itself, or only one row, which may be.
    fn process_piece(
        &mut self,
        batch: &RecordBatch,
        times: &[i64],
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let (columns, rows) = (batch.columns(), batch.num_rows());
        let keys: Vec<ArrayRef> = self.keys.iter().map(|key| columns[*key].clone()).collect();
        self.encoder.encode(&keys, rows, context.state.max_parallelism(), &mut self.key_batch)?;
        self.batch_keys.assign(&self.key_batch, None);

        let mut block = self.aggregates.new_block();
        let mut sessions = self.sessions_of_rows(times);
        block.reset(sessions.len());
        let piece = Batch { columns, rows, touched: &self.touched, keys: &self.key_batch, namespace: None };
        self.aggregates.update(&mut block, &piece, &Selection::All(rows), context.state)?;

        let (key_batch, first_rows) = (&self.key_batch, &self.batch_keys.first_row);
        let key = |number: u32| {
            let row = first_rows[number as usize] as usize;
            (key_batch.key_group(row), key_batch.key(row))
        };
        let first = block.rows() as u32;
        let wanted = (0..first_rows.len() as u32).map(key);
        let ReadSessions { key: of_key, start_us, end_us } =
            self.state.read(wanted, &self.aggregates, &mut block, context.state)?;
        sessions.extend((0..of_key.len()).map(|at| Session {
            key: of_key[at],
            start_us: start_us[at],
            end_us: end_us[at],
            row: first + at as u32,
            in_state: true,
        }));
        sessions.sort_by_key(|session| (session.key, session.start_us));

        let before = block.clone();
        let (mut output_before, mut output): (Output, Output) = (vec![], vec![]);
        let (mut written, mut written_keys, mut deleted, mut deleted_keys) = (vec![], vec![], vec![], vec![]);
        for Merged { members, start_us, end_us } in merged(&sessions) {
            if members.iter().all(|member| member.in_state) {
                continue;
            }
            let (group, key_bytes) = key(members[0].key);
            if self.is_over(end_us, group) {
                context.metrics.late_records_dropped += rows as u64;
                continue;
            }
            let row = members[0].row;
            for member in &members[1..] {
                self.aggregates.merge(&mut block, &[row], &before, &[member.row])?;
            }
            self.state.set_end(&mut block, row as usize, end_us);
            for old in members.iter().filter(|member| member.in_state) {
                if old.start_us != start_us {
                    deleted.push(old.start_us);
                    deleted_keys.push(old.key);
                }
                if self.has_fired(old.end_us, group) {
                    output_before.push((old.row, old.key, old.start_us, old.end_us, ChangeKind::Delete));
                }
            }
            if self.has_fired(end_us, group) {
                output.push((row, members[0].key, start_us, end_us, ChangeKind::Insert));
                // The same window with another result is an update.
                if let (Some(old), Some(new)) = (output_before.last_mut(), output.last_mut())
                    && (old.1, old.2, old.3) == (new.1, start_us, end_us)
                {
                    (old.4, new.4) = (ChangeKind::UpdateBefore, ChangeKind::UpdateAfter);
                }
            }
            if !members.iter().any(|member| member.in_state) {
                let deadline =
                    if self.has_fired(end_us, group) { end_us.saturating_add(self.lateness_us) } else { end_us };
                context.state.ordered(self.state.timers).put_timer(group, deadline, key_bytes, &[])?;
            }
            written.push((row, start_us));
            written_keys.push(members[0].key);
        }
        self.state.delete(&deleted, |at| key(deleted_keys[at]), context.state)?;
        if !written.is_empty() {
            self.state.write(&written, |at| key(written_keys[at]), &self.aggregates, &block, context.state)?;
        }
        // What was emitted of a session that has changed since is taken back before the new result.
        let key_rows = |number: u32| first_rows[number as usize];
        self.emit(&before, output_before, &keys, key_rows, out)?;
        self.emit(&block, output, &keys, key_rows, out)
    }

    /// The sessions of the batch's rows among themselves; `touched` says which row is in which.
    fn sessions_of_rows(&mut self, times: &[i64]) -> Vec<Session> {
        let of_key = &self.batch_keys.of_row;
        let mut order: Vec<u32> = (0..times.len() as u32).collect();
        order.sort_unstable_by_key(|row| (of_key[*row as usize], times[*row as usize], *row));
        let mut sessions: Vec<Session> = vec![];
        self.touched.of_row.clear();
        self.touched.of_row.resize(times.len(), 0);
        self.touched.first_rows.clear();
        for row in order {
            let (key, time) = (of_key[row as usize], times[row as usize]);
            let end_us = time.saturating_add(self.gap_us);
            match sessions.last_mut() {
                Some(last) if last.key == key && sessions_meet((last.start_us, last.end_us), (time, end_us)) => {
                    last.end_us = last.end_us.max(end_us);
                }
                _ => {
                    let number = sessions.len() as u32;
                    sessions.push(Session { key, start_us: time, end_us, row: number, in_state: false });
                    self.touched.first_rows.push(row);
                }
            }
            self.touched.of_row[row as usize] = sessions.len() as u32 - 1;
        }
        sessions
    }

    /// Emits results of block rows.
    fn emit(
        &self,
        block: &RowBlock,
        output: Output,
        keys: &[ArrayRef],
        key_row: impl Fn(u32) -> u32,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if output.is_empty() {
            return Ok(());
        }
        let results = self.aggregates.results(block)?;
        for output in output.chunks(BATCH_ROWS) {
            let key_rows = UInt32Array::from_iter_values(output.iter().map(|row| key_row(row.1)));
            let block_rows = UInt32Array::from_iter_values(output.iter().map(|row| row.0));
            let mut columns = Vec::with_capacity(self.schema.fields().len());
            for key in keys {
                columns.push(take(key, &key_rows, None)?);
            }
            let starts = TimestampMicrosecondArray::from_iter_values(output.iter().map(|row| row.2));
            let ends = TimestampMicrosecondArray::from_iter_values(output.iter().map(|row| row.3));
            columns.extend([Arc::new(starts) as ArrayRef, Arc::new(ends)]);
            for result in &results {
                columns.push(take(result, &block_rows, None)?);
            }
            if self.updating {
                columns.push(Arc::new(Int8Array::from_iter_values(output.iter().map(|row| row.4 as i8))));
            }
            out.emit(RecordBatch::try_new(self.schema.clone(), columns)?)?;
        }
        Ok(())
    }

    /// Fires and forgets sessions, now that time has come to `time_us`.
    fn advance(
        &mut self,
        time_us: i64,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if time_us <= self.progress.current() {
            return Ok(());
        }
        // All of them first: a key with several timers must not fire twice.
        let mut due: Vec<(KeyGroup, Vec<u8>)> = vec![];
        let timers = context.state.ordered(self.state.timers);
        timers.take_due(time_us, usize::MAX, |group, _, key, _| due.push((group, key.to_vec())))?;
        due.sort();
        due.dedup();
        for due in due.chunks(BATCH_ROWS) {
            self.fire(due, time_us, context.state, out)?;
        }
        self.progress.advance(time_us, context.state)
    }

    /// Fires what is complete of these keys' sessions and sets timers for what isn't over.
    fn fire(
        &mut self,
        due: &[(KeyGroup, Vec<u8>)],
        time_us: i64,
        state: &mut KeyedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if due.is_empty() {
            return Ok(());
        }
        let mut block = self.aggregates.new_block();
        let key = |number: u32| (due[number as usize].0, due[number as usize].1.as_slice());
        let ReadSessions { key: of_key, start_us, end_us } =
            self.state.read((0..due.len() as u32).map(key), &self.aggregates, &mut block, state)?;
        let (mut output, mut over, mut over_keys): (Output, _, _) = (vec![], vec![], vec![]);
        for at in 0..of_key.len() {
            let (group, key_bytes) = key(of_key[at]);
            let end = end_us[at];
            if end <= time_us && !self.has_fired(end, group) {
                output.push((at as u32, of_key[at], start_us[at], end, ChangeKind::Insert));
            }
            if is_complete(end, self.lateness_us, Watermark(time_us)) {
                over.push(start_us[at]);
                over_keys.push(of_key[at]);
                continue;
            }
            let deadline = if end <= time_us { end.saturating_add(self.lateness_us) } else { end };
            state.ordered(self.state.timers).put_timer(group, deadline, key_bytes, &[])?;
        }
        self.state.delete(&over, |at| key(over_keys[at]), state)?;
        let keys = match self.keys.is_empty() {
            true => vec![],
            false => self.key_codec.decode(due.iter().map(|(_, key)| key.as_slice()))?,
        };
        self.emit(&block, output, &keys, |number| number, out)
    }

    fn find_next_time(&mut self, state: &mut KeyedState) {
        if self.time == TimeDomain::ProcessingTime {
            self.next_time_us = state.ordered(self.state.timers).first_time();
        }
    }
}

/// Puts sessions, sorted by key and start, together where they meet.
fn merged(sessions: &[Session]) -> impl Iterator<Item = Merged<'_>> {
    let mut rest = sessions;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut end_us = first.end_us;
        let mut count = 1;
        while let Some(next) = rest.get(count)
            && next.key == first.key
            && sessions_meet((first.start_us, end_us), (next.start_us, next.end_us))
        {
            end_us = end_us.max(next.end_us);
            count += 1;
        }
        let (members, after) = rest.split_at(count);
        rest = after;
        Some(Merged { members, start_us: first.start_us, end_us })
    })
}

impl Operator for SessionAggregate {
    fn process(
        &mut self,
        _input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let now = context.processing_time_us.max(self.progress.greatest());
        let times = match self.time {
            TimeDomain::EventTime { column } => event_times(&batch, column)?.to_vec(),
            TimeDomain::ProcessingTime => vec![now; batch.num_rows()],
        };
        let keys: Vec<ArrayRef> = self.keys.iter().map(|key| batch.column(*key).clone()).collect();
        self.encoder.encode(&keys, batch.num_rows(), context.state.max_parallelism(), &mut self.key_batch)?;
        // A row that is late by itself counts only if a session that is still open reaches it, so it depends on
        // the rows before it: it goes alone, and the result doesn't depend on how batches were cut.
        let is_late = |row: usize| self.is_over(times[row].saturating_add(self.gap_us), self.key_batch.key_group(row));
        let late: Vec<bool> = (0..times.len()).map(is_late).collect();
        let mut first = 0;
        while first < times.len() {
            let run = late[first..].iter().position(|late| *late).unwrap_or(times.len() - first);
            let rows = run.clamp(1, BATCH_ROWS);
            self.process_piece(&batch.slice(first, rows), &times[first..first + rows], context, out)?;
            first += rows;
        }
        self.find_next_time(context.state);
        Ok(())
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if self.time == TimeDomain::ProcessingTime && watermark != Watermark::MAX {
            return Ok(());
        }
        self.advance(watermark.0, context, out)?;
        self.find_next_time(context.state);
        Ok(())
    }

    fn on_processing_time(
        &mut self,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if self.time == TimeDomain::ProcessingTime {
            self.advance(context.processing_time_us, context, out)?;
            self.find_next_time(context.state);
        }
        Ok(())
    }

    fn next_processing_time_us(&self) -> Option<i64> {
        self.next_time_us
    }
}
