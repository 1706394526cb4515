//! GROUP BY over tumbling and hopping windows: one result per key and window, when the window is complete.

use super::bounds::{Grid, is_complete};
use super::fire::Firing;
use super::plan::{Layout, Placement, WindowPlan};
use super::progress::Progress;
use super::times::event_times;
use crate::aggregate::{AggregateSet, Batch, Changelog, ChangelogMode, Fate, RowBlock, Selection, Touched, ValuesUse};
use crate::operator::{Collector, Operator, OperatorContext, OperatorError};
use arrow::array::{ArrayRef, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_model::Watermark;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{StreamSchema, WindowAggregateSpec};
use weir_state::{KeyBatch, KeyEncoder, KeyedState, RowStateId, Slot};

/// Keeps a state row per window (or slice of hopping windows) and key.
pub struct WindowAggregate {
    keys: Vec<usize>,
    schema: SchemaRef,
    grid: Grid,
    placement: Placement,
    layout: Layout,
    lateness_us: i64,
    aggregates: AggregateSet,
    state: RowStateId,
    progress: Progress,
    encoder: KeyEncoder,
    byte_encoder: Option<KeyEncoder>,
    /// Processing time only: the end of the earliest window.
    next_end_us: Option<i64>,
    work: Work,
    firing: Firing,
}

/// Buffers that live from batch to batch.
struct Work {
    ends: Vec<i64>,
    all_keys: KeyBatch,
    keys: KeyBatch,
    key_bytes: KeyBatch,
    slots: Vec<Slot>,
    new: Vec<u32>,
    touched: Touched,
    block: RowBlock,
    fates: Vec<Fate>,
    changelog: Changelog,
}

impl WindowAggregate {
    pub fn new(
        spec: &WindowAggregateSpec,
        input: &StreamSchema,
        output: &StreamSchema,
        state: &mut KeyedState,
    ) -> Result<Self, OperatorError> {
        let WindowPlan { grid, placement, layout, aggregates: plan, row_schema, .. } = WindowPlan::new(spec, input)?;
        let (key, namespace) = (row_schema.key.clone(), row_schema.namespace.clone());
        let rows = state.register_rows(row_schema)?;
        let aggregates = AggregateSet::open(&plan, &key, &namespace, state, None, ValuesUse::AtOnce)?;
        let progress = Progress::open(state)?;
        let mut operator = WindowAggregate {
            keys: spec.keys.clone(),
            schema: output.fields.clone(),
            grid,
            placement,
            layout,
            lateness_us: spec.allowed_lateness_us,
            state: rows,
            progress,
            encoder: KeyEncoder::new(&key),
            byte_encoder: aggregates.needs_key_bytes().then(|| KeyEncoder::for_ordered(&key)),
            next_end_us: None,
            work: Work {
                ends: vec![],
                all_keys: KeyBatch::new(),
                keys: KeyBatch::new(),
                key_bytes: KeyBatch::new(),
                slots: vec![],
                new: vec![],
                touched: Touched::default(),
                block: aggregates.new_block(),
                fates: vec![],
                changelog: Changelog::default(),
            },
            firing: Firing::new(output, rows, &key, &aggregates),
            aggregates,
        };
        operator.find_next_end(state);
        Ok(operator)
    }

    /// The end of the window (or slice) of each row. Without time of its own in the input, it's the clock's.
    fn ends(&self, batch: &RecordBatch, now_us: i64, ends: &mut Vec<i64>) -> Result<(), OperatorError> {
        match self.placement {
            Placement::Assigned { end } => {
                ends.clear();
                ends.extend_from_slice(event_times(batch, end)?);
            }
            Placement::EventTime { column } => self.grid.slice_ends(event_times(batch, column)?, ends),
            Placement::ProcessingTime => {
                // A clock that went back (another machine's, after a restore) doesn't reopen windows.
                self.grid.slice_ends(&[now_us.max(self.progress.greatest())], ends);
                let end = ends[0];
                ends.resize(batch.num_rows(), end);
            }
        }
        Ok(())
    }

    /// The last window that a row of the window or slice with this end is in.
    fn last_window_end(&self, end_us: i64) -> i64 {
        match self.layout {
            Layout::Slices => end_us.saturating_add(self.grid.size_us - self.grid.slide_us),
            Layout::Windows { .. } => end_us,
        }
    }

    /// Adds rows to their windows' state; `work.ends` has the end for each.
    fn process_piece(
        &mut self,
        columns: Vec<ArrayRef>,
        rows: usize,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let Some((columns, rows)) = self.drop_late(columns, rows, context)? else { return Ok(()) };
        let keys: Vec<ArrayRef> = self.keys.iter().map(|key| columns[*key].clone()).collect();
        let state = &mut *context.state;
        let work = &mut self.work;
        if let Some(encoder) = &mut self.byte_encoder {
            encoder.encode(&keys, rows, state.max_parallelism(), &mut work.key_bytes)?;
        }
        let windows = state.rows(self.state);
        windows.upsert_each(&work.ends, &work.keys, &mut work.slots, &mut work.new)?;
        let ends = work.ends.iter().map(|end| (*end as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        work.touched.assign(&work.slots, work.keys.hashes().iter().zip(ends).map(|(hash, end)| hash ^ end));
        work.block.load(windows, &work.touched.slots);

        let window_ends: ArrayRef = Arc::new(TimestampMicrosecondArray::from(work.ends.clone()));
        let before = if self.find_fates() { Some(self.aggregates.results(&self.work.block)?) } else { None };
        let work = &mut self.work;
        let (touched, key_bytes) = (&work.touched, &work.key_bytes);
        let batch = Batch { columns: &columns, rows, touched, keys: key_bytes, namespace: Some(&window_ends) };
        self.aggregates.update(&mut work.block, &batch, &Selection::All(rows), state)?;
        work.block.store(state.rows(self.state), &work.touched.slots)?;
        match before {
            Some(before) => self.refine(keys, &window_ends, &before, out),
            None => Ok(()),
        }
    }

    /// Encodes the keys and takes out the rows whose last window takes no more. `None`: no row is left.
    fn drop_late(
        &mut self,
        columns: Vec<ArrayRef>,
        rows: usize,
        context: &mut OperatorContext<'_>,
    ) -> Result<Option<(Vec<ArrayRef>, usize)>, OperatorError> {
        let keys: Vec<ArrayRef> = self.keys.iter().map(|key| columns[*key].clone()).collect();
        let mut work = std::mem::replace(&mut self.work.all_keys, KeyBatch::new());
        self.encoder.encode(&keys, rows, context.state.max_parallelism(), &mut work)?;
        let is_late = |row: usize| {
            let reached = Watermark(self.progress.of_group(work.key_group(row)));
            is_complete(self.last_window_end(self.work.ends[row]), self.lateness_us, reached)
        };
        let kept: Vec<u32> = (0..rows).filter(|row| !is_late(*row)).map(|row| row as u32).collect();
        if kept.len() == rows {
            self.work.all_keys = std::mem::replace(&mut self.work.keys, work);
            return Ok(Some((columns, rows)));
        }
        // Of a row's copies for several windows, earliest first, only the last one says that all are gone.
        let copies = self.copies();
        let lost = (0..rows).filter(|row| row % copies == copies - 1 && is_late(*row)).count();
        context.metrics.late_records_dropped += lost as u64;
        work.take(&kept, &mut self.work.keys);
        self.work.all_keys = work;
        if kept.is_empty() {
            return Ok(None);
        }
        self.work.ends = kept.iter().map(|row| self.work.ends[*row as usize]).collect();
        let indices = UInt32Array::from(kept);
        let columns = columns.iter().map(|column| take(column, &indices, None)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some((columns, indices.len())))
    }

    /// How many times a row stands in a piece.
    fn copies(&self) -> usize {
        match self.layout {
            Layout::Windows { copies } => copies,
            Layout::Slices => 1,
        }
    }

    /// What the batch does to windows that have fired already; false if there are none among the touched.
    fn find_fates(&mut self) -> bool {
        let work = &mut self.work;
        work.fates.clear();
        if self.lateness_us == 0 {
            return false;
        }
        let (ends, keys, progress) = (&work.ends, &work.keys, &self.progress);
        work.fates.extend(work.touched.first_rows.iter().map(|row| {
            let row = *row as usize;
            let reached = Watermark(progress.of_group(keys.key_group(row)));
            if is_complete(ends[row], 0, reached) { Fate::Updated } else { Fate::Silent }
        }));
        for row in &work.new {
            let fate = &mut work.fates[work.touched.of_row[*row as usize] as usize];
            if *fate == Fate::Updated {
                *fate = Fate::Inserted;
            }
        }
        work.fates.iter().any(|fate| *fate != Fate::Silent)
    }

    /// Emits the results that late rows have changed.
    fn refine(
        &mut self,
        mut keys: Vec<ArrayRef>,
        window_ends: &ArrayRef,
        before: &[ArrayRef],
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let work = &mut self.work;
        let after = self.aggregates.results(&work.block)?;
        work.changelog.write(&work.fates, before, &after, ChangelogMode { update_before: true, unchanged: false })?;
        if work.changelog.is_empty() {
            return Ok(());
        }
        let starts = work.ends.iter().map(|end| end.saturating_sub(self.grid.size_us));
        keys.push(Arc::new(TimestampMicrosecondArray::from_iter_values(starts)));
        keys.push(window_ends.clone());
        out.emit(work.changelog.batch(&self.schema, &keys, &work.touched.first_rows, before, &after)?)
    }

    /// Fires what is complete now that time has come to `time_us`.
    fn advance(
        &mut self,
        time_us: i64,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if time_us <= self.progress.current() {
            return Ok(());
        }
        match self.layout {
            Layout::Slices => self.fire_slices(time_us, context.state, out)?,
            Layout::Windows { .. } => self.fire_windows(time_us, context.state, out)?,
        }
        // Only these two decide what has fired and what is late.
        let decides =
            |time: i64| (self.grid.last_start(time), self.grid.last_start(time.saturating_sub(self.lateness_us)));
        if self.progress.current() != i64::MIN && decides(time_us) == decides(self.progress.current()) {
            self.progress.advance_in_memory(time_us);
            return Ok(());
        }
        self.progress.advance(time_us, context.state)
    }

    fn fire_windows(
        &mut self,
        time_us: i64,
        state: &mut KeyedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let due: Vec<i64> = state.rows(self.state).namespaces().take_while(|end| *end <= time_us).collect();
        for end in due {
            // A window that is kept for late rows has fired for the groups that had come this far.
            if self.lateness_us == 0 || end > self.progress.current() {
                let bounds = (end.saturating_sub(self.grid.size_us), end);
                self.firing.emit(&self.aggregates, state, end, bounds, &self.progress, out)?;
            }
            if is_complete(end, self.lateness_us, Watermark(time_us)) {
                self.firing.forget(&mut self.aggregates, self.byte_encoder.as_mut(), state, end)?;
            }
        }
        Ok(())
    }

    fn fire_slices(
        &mut self,
        time_us: i64,
        state: &mut KeyedState,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let Grid { size_us, slide_us, .. } = self.grid;
        let mut fired = self.progress.current();
        // The windows of slices, not of time: time may come a long way at once, and past the last row at the end.
        while let Some(first) = first_namespace(state, self.state) {
            let mut end = first;
            if fired != i64::MIN && end <= fired {
                end = self.grid.last_start(fired).saturating_add(slide_us);
            }
            if end > time_us {
                break;
            }
            let from = end.saturating_sub(size_us);
            let namespaces = state.rows(self.state).namespaces();
            let slices = namespaces.skip_while(|slice| *slice <= from).take_while(|slice| *slice <= end);
            let slices: Vec<i64> = slices.collect();
            if !slices.is_empty() {
                self.firing.emit_slices(&self.aggregates, state, &slices, (from, end), &self.progress, out)?;
            }
            // No later window has a slice that ends at the end of this one's first slice, or before.
            let rows = state.rows(self.state);
            let over: Vec<i64> =
                rows.namespaces().take_while(|slice| *slice <= from.saturating_add(slide_us)).collect();
            over.into_iter().for_each(|slice| rows.drop_namespace(slice));
            fired = end;
        }
        Ok(())
    }

    fn find_next_end(&mut self, state: &mut KeyedState) {
        if self.placement != Placement::ProcessingTime {
            return;
        }
        let first = first_namespace(state, self.state);
        let reached = self.progress.current();
        self.next_end_us = first.map(|first| match first <= reached {
            true => self.grid.last_start(reached).saturating_add(self.grid.slide_us),
            false => first,
        });
    }
}

fn first_namespace(state: &mut KeyedState, id: RowStateId) -> Option<i64> {
    state.rows(id).namespaces().next()
}

impl Operator for WindowAggregate {
    fn process(
        &mut self,
        _input: usize,
        batch: RecordBatch,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        let copies = self.copies();
        let rows_at_once = (BATCH_ROWS / copies).max(1);
        for first in (0..batch.num_rows()).step_by(rows_at_once) {
            let piece = batch.slice(first, rows_at_once.min(batch.num_rows() - first));
            let mut ends = std::mem::take(&mut self.work.ends);
            self.ends(&piece, context.processing_time_us, &mut ends)?;
            if copies == 1 {
                self.work.ends = ends;
                self.process_piece(piece.columns().to_vec(), piece.num_rows(), context, out)?;
                continue;
            }
            let slide_us = self.grid.slide_us;
            let window_ends = |end: &i64| {
                let end = *end;
                (0..copies as i64).map(move |n| end.saturating_add(n * slide_us))
            };
            self.work.ends = ends.iter().flat_map(window_ends).collect();
            let rows = (0..piece.num_rows() as u32).flat_map(|row| std::iter::repeat_n(row, copies));
            let indices = UInt32Array::from_iter_values(rows);
            let columns = piece.columns().iter().map(|column| take(column, &indices, None));
            self.process_piece(columns.collect::<Result<Vec<_>, _>>()?, indices.len(), context, out)?;
        }
        if self.placement == Placement::ProcessingTime {
            self.find_next_end(context.state);
        }
        Ok(())
    }

    fn on_watermark(
        &mut self,
        watermark: Watermark,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        match self.placement {
            // Windows of the clock end with the input, as bounded input has no more of them.
            Placement::ProcessingTime if watermark == Watermark::MAX => {
                self.advance(i64::MAX, context, out)?;
                self.find_next_end(context.state);
                Ok(())
            }
            Placement::ProcessingTime => Ok(()),
            Placement::Assigned { .. } | Placement::EventTime { .. } => self.advance(watermark.0, context, out),
        }
    }

    fn on_processing_time(
        &mut self,
        context: &mut OperatorContext<'_>,
        out: &mut dyn Collector,
    ) -> Result<(), OperatorError> {
        if self.placement == Placement::ProcessingTime {
            self.advance(context.processing_time_us, context, out)?;
            self.find_next_end(context.state);
        }
        Ok(())
    }

    fn next_processing_time_us(&self) -> Option<i64> {
        self.next_end_us
    }
}
