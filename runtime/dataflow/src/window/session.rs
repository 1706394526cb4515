//! GROUP BY over session windows: a session grows with each row that comes within the gap, swallows its
//! neighbours when a row bridges them, and fires when the gap has passed without one.

use super::bounds::{is_complete, sessions_meet};
use super::plan::{check_append_only, check_lateness};
use super::progress::Progress;
use super::session_state::{ReadSessions, SessionState, leading_field, schemas, start_field};
use super::times::event_times;
use crate::aggregate::{
    AggregatePlan, AggregateSet, Batch, InputMode, RowBlock, Selection, SessionKey, Touched, ValuesUse, key_fields,
};
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
use weir_state::{EncodedRows, KeyBatch, KeyCodec, KeyEncoder, KeyedState};

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

/// Sessions of one key that became one.
struct Merged<'a> {
    members: &'a [Session],
    key: u32,
    start_us: i64,
    end_us: i64,
}

impl Merged<'_> {
    /// The block row in which it comes together.
    fn row(&self) -> u32 {
        self.members[0].row
    }

    fn has_new_rows(&self) -> bool {
        self.members.iter().any(|member| !member.in_state)
    }

    /// Sessions in state that now begin earlier.
    fn moved(&self) -> impl Iterator<Item = &Session> {
        self.members.iter().filter(|member| member.in_state && member.start_us != self.start_us)
    }
}

/// A row of output: the result of a block row.
#[derive(Clone, Copy, Debug)]
struct OutputRow {
    row: u32,
    key: u32,
    start_us: i64,
    end_us: i64,
    kind: ChangeKind,
}

type Output = Vec<OutputRow>;

/// Where the values of these rows' sessions are filed; `starts` are encoded.
fn session_keys<'k: 's, 's>(
    output: &'s [OutputRow],
    starts: &'s EncodedRows,
    key: impl Fn(u32) -> (KeyGroup, &'k [u8]) + Clone,
) -> impl Iterator<Item = (u32, SessionKey<'s>)> + Clone {
    output.iter().zip(0..).map(move |(row, at)| {
        let (group, key) = key(row.key);
        (row.row, SessionKey { group, key, start: starts.row(at) })
    })
}

/// Exactly the states that `SessionAggregate::new` registers.
pub fn state_schemas(spec: &WindowAggregateSpec, input: &StreamSchema) -> Result<Vec<StateSchema>, OperatorError> {
    let key = key_fields(input, &spec.keys);
    let plan = plan(spec, input)?;
    let mut all = schemas(&key, &plan).to_vec();
    all.push(Progress::schema());
    all.extend(plan.side_states(&key, &[start_field()]));
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
    if plan.depends_on_arrival() {
        return Err(OperatorError::Failed(
            "FIRST_VALUE and LAST_VALUE aren't supported over SESSION windows: sessions merge, and which of them \
             came first isn't known"
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
        let aggregates = AggregateSet::open(&plan, &key, &[start_field()], state, None, ValuesUse::WhenDue)?;
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

        let mut changed: Vec<Merged<'_>> = merged(&sessions).filter(|merged| merged.has_new_rows()).collect();
        changed.retain(|merged| !self.is_over(merged.end_us, key(merged.key).0));
        if changed.is_empty() {
            // A row that is late by itself comes alone, and meets nothing.
            context.metrics.late_records_dropped += rows as u64;
            return Ok(());
        }
        let (taken_back, refined) = self.corrections(&changed, |number| key(number).0);
        let key_rows = |number: u32| first_rows[number as usize];
        let has_values = self.aggregates.has_filed_values();
        let before = block.clone();
        if !taken_back.is_empty() {
            let mut old = block.clone();
            if has_values {
                let starts = self.state.encode_starts(taken_back.iter().map(|row| row.start_us))?;
                let sessions = session_keys(&taken_back, &starts, key);
                self.aggregates.aggregate_values(&mut old, sessions, context.state)?;
            }
            self.emit(&old, &taken_back, &keys, key_rows, out)?;
        }

        if has_values {
            self.file_values(&changed, columns, rows, context.state)?;
        }
        let key_batch = &self.key_batch;
        let key = |number: u32| {
            let row = self.batch_keys.first_row[number as usize] as usize;
            (key_batch.key_group(row), key_batch.key(row))
        };
        for merged in &changed {
            for member in &merged.members[1..] {
                self.aggregates.merge(&mut block, &[merged.row()], &before, &[member.row])?;
            }
            self.state.set_end(&mut block, merged.row() as usize, merged.end_us);
            let (group, key_bytes) = key(merged.key);
            // The timer of a session that has fired comes only when it's over, which may be past the new end.
            let has_timer = |member: &Session| member.in_state && !self.has_fired(member.end_us, group);
            if !merged.members.iter().any(has_timer) {
                let deadline = self.deadline(merged.end_us, self.has_fired(merged.end_us, group));
                context.state.ordered(self.state.timers).put_timer(group, deadline, key_bytes, &[])?;
            }
        }
        let moved = || changed.iter().flat_map(|merged| merged.moved().map(|old| old.start_us));
        let moved_keys: Vec<u32> = changed.iter().flat_map(|merged| merged.moved().map(|old| old.key)).collect();
        self.state.delete(&moved().collect::<Vec<_>>(), |at| key(moved_keys[at]), context.state)?;
        let written: Vec<(u32, i64)> = changed.iter().map(|merged| (merged.row(), merged.start_us)).collect();
        self.state.write(&written, |at| key(changed[at].key), &self.aggregates, &block, context.state)?;

        if has_values && !refined.is_empty() {
            let starts = self.state.encode_starts(refined.iter().map(|row| row.start_us))?;
            let sessions = session_keys(&refined, &starts, key);
            self.aggregates.aggregate_values(&mut block, sessions, context.state)?;
        }
        self.emit(&block, &refined, &keys, |number| self.batch_keys.first_row[number as usize], out)
    }

    /// What has been emitted of sessions that have changed since, to be taken back, and the results of those that
    /// are complete again or still, to be emitted anew.
    fn corrections(&self, changed: &[Merged<'_>], group: impl Fn(u32) -> KeyGroup) -> (Output, Output) {
        let (mut taken_back, mut refined): (Output, Output) = (vec![], vec![]);
        for merged in changed {
            let fired = |end_us: i64| self.has_fired(end_us, group(merged.key));
            let Merged { key, start_us, end_us, .. } = *merged;
            // The same window with another result is an update.
            let is_update = |old: &Session| fired(end_us) && (old.start_us, old.end_us) == (start_us, end_us);
            let mut updated = false;
            for old in merged.members.iter().filter(|member| member.in_state && fired(member.end_us)) {
                updated |= is_update(old);
                let kind = if is_update(old) { ChangeKind::UpdateBefore } else { ChangeKind::Delete };
                let Session { start_us, end_us, row, .. } = *old;
                taken_back.push(OutputRow { row, key, start_us, end_us, kind });
            }
            if fired(end_us) {
                let kind = if updated { ChangeKind::UpdateAfter } else { ChangeKind::Insert };
                refined.push(OutputRow { row: merged.row(), key, start_us, end_us, kind });
            }
        }
        (taken_back, refined)
    }

    /// Moves the values of sessions whose start has changed and files those of the batch's rows.
    fn file_values(
        &mut self,
        changed: &[Merged<'_>],
        columns: &[ArrayRef],
        rows: usize,
        state: &mut KeyedState,
    ) -> Result<(), OperatorError> {
        let mut starts_us = vec![0; self.touched.first_rows.len()];
        for merged in changed {
            let row = self.batch_keys.first_row[merged.key as usize] as usize;
            let (group, key) = (self.key_batch.key_group(row), self.key_batch.key(row));
            let to = self.state.encode_starts(std::iter::once(merged.start_us))?;
            let from = self.state.encode_starts(merged.moved().map(|old| old.start_us))?;
            for start in from.iter() {
                self.aggregates.move_values(SessionKey { group, key, start }, to.row(0), state)?;
            }
            for member in merged.members.iter().filter(|member| !member.in_state) {
                starts_us[member.row as usize] = merged.start_us;
            }
        }
        let starts = self.touched.of_row.iter().map(|session| starts_us[*session as usize]);
        let starts: ArrayRef = Arc::new(TimestampMicrosecondArray::from_iter_values(starts));
        let (touched, keys) = (&self.touched, &self.key_batch);
        let piece = Batch { columns, rows, touched, keys, namespace: Some(&starts) };
        self.aggregates.file_values(&piece, &Selection::All(rows), state)
    }

    /// When a session is looked at next.
    fn deadline(&self, end_us: i64, fired: bool) -> i64 {
        if fired { end_us.saturating_add(self.lateness_us) } else { end_us }
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
        output: &[OutputRow],
        keys: &[ArrayRef],
        key_row: impl Fn(u32) -> u32,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if output.is_empty() {
            return Ok(());
        }
        let results = self.aggregates.results(block)?;
        for output in output.chunks(BATCH_ROWS) {
            let key_rows = UInt32Array::from_iter_values(output.iter().map(|row| key_row(row.key)));
            let block_rows = UInt32Array::from_iter_values(output.iter().map(|row| row.row));
            let mut columns = Vec::with_capacity(self.schema.fields().len());
            for key in keys {
                columns.push(take(key, &key_rows, None)?);
            }
            let starts = TimestampMicrosecondArray::from_iter_values(output.iter().map(|row| row.start_us));
            let ends = TimestampMicrosecondArray::from_iter_values(output.iter().map(|row| row.end_us));
            columns.extend([Arc::new(starts) as ArrayRef, Arc::new(ends)]);
            for result in &results {
                columns.push(take(result, &block_rows, None)?);
            }
            if self.updating {
                columns.push(Arc::new(Int8Array::from_iter_values(output.iter().map(|row| row.kind as i8))));
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
        let (mut output, mut over, mut over_keys): (Output, Vec<i64>, Vec<u32>) = (vec![], vec![], vec![]);
        for at in 0..of_key.len() {
            let (group, key_bytes) = key(of_key[at]);
            let end = end_us[at];
            if end <= time_us && !self.has_fired(end, group) {
                let (row, key, start_us) = (at as u32, of_key[at], start_us[at]);
                output.push(OutputRow { row, key, start_us, end_us: end, kind: ChangeKind::Insert });
            }
            if is_complete(end, self.lateness_us, Watermark(time_us)) {
                over.push(start_us[at]);
                over_keys.push(of_key[at]);
                continue;
            }
            let deadline = self.deadline(end, end <= time_us);
            state.ordered(self.state.timers).put_timer(group, deadline, key_bytes, &[])?;
        }
        if self.aggregates.has_filed_values() {
            let starts = self.state.encode_starts(output.iter().map(|row| row.start_us))?;
            self.aggregates.aggregate_values(&mut block, session_keys(&output, &starts, key), state)?;
            for (start, number) in self.state.encode_starts(over.iter().copied())?.iter().zip(&over_keys) {
                let (group, key) = key(*number);
                self.aggregates.forget_session(SessionKey { group, key, start }, state)?;
            }
        }
        self.state.delete(&over, |at| key(over_keys[at]), state)?;
        let keys = match self.keys.is_empty() {
            true => vec![],
            false => self.key_codec.decode(due.iter().map(|(_, key)| key.as_slice()))?,
        };
        self.emit(&block, &output, &keys, |number| number, out)
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
        Some(Merged { members, key: first.key, start_us: first.start_us, end_us })
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
