//! Reads the states of a checkpoint, on several threads, the owned key groups only.

use crate::any_state::AnyState;
use crate::cold::ColdBatch;
use crate::handle::{KeyedStateHandle, Run, StateHandle};
use crate::rows::read::BlockError;
use crate::segment::index::RunIndex;
use crate::{SegmentRef, SegmentSource, StateError};
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use weir_model::{KeyGroup, KeyGroupRange, StateSchema};

/// One state as a checkpoint holds it.
pub(crate) struct RestoredState {
    pub(crate) schema: StateSchema,
    pub(crate) has_ttl: bool,
    /// Among those of the store, if there is one.
    pub(crate) number: Option<u16>,
    pub(crate) content: AnyState,
    /// Cut down to the owned key groups.
    pub(crate) runs: Vec<Run>,
    /// Sequence of the newest full copy of each owned key group; 0: none.
    pub(crate) base_sequences: Vec<u64>,
    /// Rows that are being imported, on their way into the store, if they go there by themselves.
    pub(crate) imported: Option<ColdBatch>,
}

impl RestoredState {
    /// Nothing of it is in memory, and nothing in runs.
    pub(crate) fn empty(
        schema: &StateSchema,
        has_ttl: bool,
        owned: KeyGroupRange,
        max_parallelism: u32,
    ) -> Result<Self, StateError> {
        Ok(RestoredState {
            schema: schema.clone(),
            has_ttl,
            number: None,
            content: AnyState::new(schema, has_ttl, owned, max_parallelism)?,
            runs: vec![],
            base_sequences: vec![0; owned.len()],
            imported: None,
        })
    }
}

/// Blocks that lie one behind the other are read at once, up to this.
const READ_BYTES: u64 = 1 << 23;
/// Key groups that are read at once where memory for them is limited.
const GROUPS_AT_ONCE: usize = 8;
/// Less than this is read faster by one thread than others are started.
const PARALLEL_FROM_BYTES: u64 = 1 << 20;

/// Reads all states in the handles.
///
/// # Errors
/// A key group that no handle, or more than one, stands for; another max parallelism; whatever reading says.
pub(crate) fn restore(
    handles: &[KeyedStateHandle],
    owned: KeyGroupRange,
    max_parallelism: u32,
    source: &dyn SegmentSource,
) -> Result<Vec<RestoredState>, StateError> {
    check_runs(handles, owned, max_parallelism)?;
    restore_runs(handles, owned, max_parallelism, source)
}

/// Reads some key groups of a handle, which has no cold store: each of them as a state of its own, state by state and
/// ascending.
///
/// # Errors
/// A key group that the handle doesn't hold; whatever reading says, and what `take` says.
pub(crate) fn restore_each<E: From<StateError>>(
    handle: &KeyedStateHandle,
    part: KeyGroupRange,
    source: &dyn SegmentSource,
    take: &mut impl FnMut(KeyGroup, AnyState) -> Result<(), E>,
) -> Result<(), E> {
    let handles = std::slice::from_ref(handle);
    check_runs(handles, part, handle.max_parallelism)?;
    for plan in plans(handles, part, source)? {
        for part in plan.parts(part, 1, part.len()) {
            let contents = part.iter().map(|group| {
                let own = KeyGroupRange { first: group.0, last: group.0 };
                plan.new_content(own, handle.max_parallelism)
            });
            let mut contents = contents.collect::<Result<Vec<_>, _>>()?;
            plan.load_into(&mut contents, 1, part, source)?;
            part.iter().zip(contents).try_for_each(|(group, content)| take(group, content))?;
        }
    }
    Ok(())
}

/// Reads all states in the handles that aren't in a cold store.
///
/// # Errors
/// Whatever reading says.
pub(crate) fn restore_runs(
    handles: &[KeyedStateHandle],
    owned: KeyGroupRange,
    max_parallelism: u32,
    source: &dyn SegmentSource,
) -> Result<Vec<RestoredState>, StateError> {
    let plans = plans(handles, owned, source)?;
    let threads = threads_for(&plans);
    let work = work(&plans, owned, threads, owned.len());
    let loaded = run_parallel(threads, &work, |(plan, part)| plans[*plan].load(*part, max_parallelism, source))?;
    join(plans, work, loaded, owned, max_parallelism)
}

/// As `restore_runs`, if it takes no more memory than this; a few key groups more are read before that is known.
pub(crate) fn restore_runs_within(
    max_bytes: usize,
    handles: &[KeyedStateHandle],
    owned: KeyGroupRange,
    max_parallelism: u32,
    source: &dyn SegmentSource,
) -> Result<Option<Vec<RestoredState>>, StateError> {
    let plans = plans(handles, owned, source)?;
    let threads = threads_for(&plans);
    let work = work(&plans, owned, threads, GROUPS_AT_ONCE);
    let bytes = AtomicUsize::new(0);
    let fits = || bytes.load(Ordering::Relaxed) <= max_bytes;
    let loaded = run_parallel(threads, &work, |(plan, part)| {
        if !fits() {
            return Ok(None);
        }
        let content = plans[*plan].load(*part, max_parallelism, source)?;
        bytes.fetch_add(content.live_bytes(), Ordering::Relaxed);
        Ok(Some(content))
    })?;
    match loaded.into_iter().collect::<Option<Vec<_>>>().filter(|_| fits()) {
        Some(loaded) => join(plans, work, loaded, owned, max_parallelism).map(Some),
        None => Ok(None),
    }
}

/// How the states in runs are read.
fn plans(
    handles: &[KeyedStateHandle],
    owned: KeyGroupRange,
    source: &dyn SegmentSource,
) -> Result<Vec<Plan>, StateError> {
    let mut plans: Vec<Plan> = vec![];
    for handle in handles.iter().filter(|handle| handle.cold.is_none()) {
        for state in &handle.states {
            add_to_plan(&mut plans, state, handle.key_groups, owned)?;
        }
    }
    plans.iter_mut().try_for_each(|plan| plan.finish(owned, source))?;
    Ok(plans)
}

fn threads_for(plans: &[Plan]) -> usize {
    let bytes: u64 = plans.iter().flat_map(|plan| &plan.runs).map(|run| run.segment.length).sum();
    if bytes < PARALLEL_FROM_BYTES { 1 } else { threads() }
}

/// What is read at once: the number of a plan, and key groups.
fn work(plans: &[Plan], owned: KeyGroupRange, threads: usize, max_groups: usize) -> Vec<(usize, KeyGroupRange)> {
    let parts = |plan: &Plan| plan.parts(owned, threads, max_groups);
    plans.iter().enumerate().flat_map(|(at, plan)| parts(plan).into_iter().map(move |part| (at, part))).collect()
}

fn join(
    plans: Vec<Plan>,
    work: Vec<(usize, KeyGroupRange)>,
    loaded: Vec<AnyState>,
    owned: KeyGroupRange,
    max_parallelism: u32,
) -> Result<Vec<RestoredState>, StateError> {
    let mut contents: Vec<Vec<(KeyGroupRange, AnyState)>> = plans.iter().map(|_| vec![]).collect();
    for ((plan, part), content) in work.into_iter().zip(loaded) {
        contents[plan].push((part, content));
    }
    plans.into_iter().zip(contents).map(|(plan, parts)| plan.join(parts, owned, max_parallelism)).collect()
}

/// As `check`, of handles that are read without a store.
fn check_runs(handles: &[KeyedStateHandle], owned: KeyGroupRange, max_parallelism: u32) -> Result<(), StateError> {
    check(handles, owned, max_parallelism)?;
    match handles.iter().find_map(|handle| handle.cold.as_ref()) {
        None => Ok(()),
        Some(cold) => {
            let reason = format!(
                "the checkpoint is one of the `{}` state backend, whose files must be opened first",
                cold.store
            );
            Err(StateError::Incompatible { state: "*".into(), reason })
        }
    }
}

pub(crate) fn check(
    handles: &[KeyedStateHandle],
    owned: KeyGroupRange,
    max_parallelism: u32,
) -> Result<(), StateError> {
    let refuse = |reason: String| StateError::Incompatible { state: "*".into(), reason };
    for handle in handles {
        handle.check_version()?;
        if handle.max_parallelism != max_parallelism {
            return Err(refuse(format!(
                "the checkpoint was taken with max parallelism {}, the job has {max_parallelism}; it cannot change",
                handle.max_parallelism
            )));
        }
    }
    for group in owned.iter().filter(|_| !handles.is_empty()) {
        let holders = handles.iter().filter(|handle| handle.key_groups.contains(group)).count();
        if holders != 1 {
            return Err(refuse(format!("{holders} subtasks of the checkpoint hold key group {}", group.0)));
        }
    }
    Ok(())
}

/// How one state is read.
struct Plan {
    schema: StateSchema,
    has_ttl: bool,
    runs: Vec<Run>,
    indexes: Vec<RunIndex>,
    base_sequences: Vec<u64>,
    first_group: u16,
}

fn add_to_plan(
    plans: &mut Vec<Plan>,
    state: &StateHandle,
    held: KeyGroupRange,
    owned: KeyGroupRange,
) -> Result<(), StateError> {
    let plan = match plans.iter_mut().find(|plan| plan.schema.name == state.schema.name) {
        Some(plan) if plan.schema == state.schema && plan.has_ttl == state.has_ttl => plan,
        Some(plan) => {
            let reason = "the subtasks of the checkpoint disagree about its schema".into();
            return Err(StateError::Incompatible { state: plan.schema.name.clone(), reason });
        }
        None => {
            plans.push(Plan {
                schema: state.schema.clone(),
                has_ttl: state.has_ttl,
                runs: vec![],
                indexes: vec![],
                base_sequences: vec![0; owned.len()],
                first_group: owned.first,
            });
            plans.last_mut().expect("just pushed")
        }
    };
    for run in &state.runs {
        let part = run.key_groups.intersect(&held).and_then(|part| part.intersect(&owned));
        if let Some(key_groups) = part {
            plan.runs.push(Run { key_groups, ..run.clone() });
        }
    }
    Ok(())
}

impl Plan {
    fn finish(&mut self, owned: KeyGroupRange, source: &dyn SegmentSource) -> Result<(), StateError> {
        self.runs.sort_by_key(|run| (run.sequence, run.key_groups.first));
        // Reading an index is waiting, mostly.
        let threads = self.runs.len() / 4;
        self.indexes = run_parallel(threads, &self.runs, |run| {
            let at = run.index()?;
            RunIndex::read(&source.read(&at)?, &at)
        })?;
        for (run, index) in self.runs.iter().zip(&self.indexes) {
            for entry in index.groups.iter().filter(|entry| entry.is_base && run.key_groups.contains(entry.group)) {
                let base = &mut self.base_sequences[(entry.group.0 - owned.first) as usize];
                *base = run.sequence.max(*base);
            }
        }
        Ok(())
    }

    /// Parts of the owned key groups, each with one history: a run counts for all of a part or none of it.
    fn parts(&self, owned: KeyGroupRange, threads: usize, max_groups: usize) -> Vec<KeyGroupRange> {
        // Enough parts for the threads to share the work evenly, few enough for large reads.
        let step = owned.len().div_ceil(if threads > 1 { threads * 4 } else { 1 }).clamp(1, max_groups.max(1));
        let mut begins: Vec<u16> = owned.iter().map(|group| group.0).step_by(step).collect();
        for run in &self.runs {
            begins.push(run.key_groups.first);
            if run.key_groups.last < owned.last {
                begins.push(run.key_groups.last + 1);
            }
        }
        begins.sort_unstable();
        begins.dedup();
        let ends = begins.iter().skip(1).map(|next| next - 1).chain([owned.last]);
        begins.iter().zip(ends).map(|(first, last)| KeyGroupRange { first: *first, last }).collect()
    }

    fn new_content(&self, owned: KeyGroupRange, max_parallelism: u32) -> Result<AnyState, StateError> {
        AnyState::new(&self.schema, self.has_ttl, owned, max_parallelism)
    }

    fn load(
        &self,
        part: KeyGroupRange,
        max_parallelism: u32,
        source: &dyn SegmentSource,
    ) -> Result<AnyState, StateError> {
        let mut contents = [self.new_content(part, max_parallelism)?];
        self.load_into(&mut contents, part.len(), part, source)?;
        let [content] = contents;
        Ok(content)
    }

    /// Loads the key groups of one of the plan's `parts`, so many of them into each of the contents.
    fn load_into(
        &self,
        contents: &mut [AnyState],
        groups_of_each: usize,
        part: KeyGroupRange,
        source: &dyn SegmentSource,
    ) -> Result<(), StateError> {
        for (run, index) in self.runs.iter().zip(&self.indexes) {
            match run.key_groups.intersect(&part) {
                None => continue,
                // Its segment may hold more key groups, as they were once, and what it dropped it dropped in its own.
                Some(counting) => assert!(counting == part, "a run counts for all of a part or none of it"),
            }
            for content in contents.iter_mut() {
                if let AnyState::Rows(rows) = content {
                    index.dropped_namespaces.iter().for_each(|namespace| rows.drop_namespace(*namespace));
                }
            }
            let blocks = self.blocks_of(run, index, part)?;
            for read in coalesce(&blocks) {
                let content_of = |group: KeyGroup| (group.0 - part.first) as usize / groups_of_each;
                self.apply(run, &blocks[read.clone()], contents, content_of, source)?;
            }
        }
        Ok(())
    }

    /// The blocks of the run that count for the part: those of key groups without a newer base.
    fn blocks_of(
        &self,
        run: &Run,
        index: &RunIndex,
        part: KeyGroupRange,
    ) -> Result<Vec<(KeyGroup, SegmentRef)>, StateError> {
        let mut blocks = vec![];
        for group in part.iter() {
            let Some(entry) = index.get(group) else { continue };
            if self.base_sequences[(group.0 - self.first_group) as usize] > run.sequence {
                continue;
            }
            for block in &entry.blocks {
                blocks.push((group, run.segment.part(block.offset, block.length as u64, block.crc32c)?));
            }
        }
        Ok(blocks)
    }

    /// Reads blocks that lie one behind the other, and applies them.
    fn apply(
        &self,
        run: &Run,
        blocks: &[(KeyGroup, SegmentRef)],
        contents: &mut [AnyState],
        content_of: impl Fn(KeyGroup) -> usize,
        source: &dyn SegmentSource,
    ) -> Result<(), StateError> {
        let first = &blocks[0].1;
        let mut whole = first.clone();
        for (_, block) in &blocks[1..] {
            whole.length += block.length;
            whole.crc32c = crc32c::crc32c_combine(whole.crc32c, block.crc32c, block.length as usize);
        }
        let bytes: Bytes = source.read(&whole)?;
        for (group, block) in blocks {
            let begin = (block.offset - first.offset) as usize;
            let bytes = bytes
                .get(begin..begin + block.length as usize)
                .ok_or_else(|| block.corrupt(0, "the source gave fewer bytes than asked for"))?;
            let applied = match &mut contents[content_of(*group)] {
                AnyState::Rows(rows) => rows.apply_block(*group, bytes, self.is_base_of(*group, run)),
                AnyState::Ordered(entries) => entries.apply_block(*group, bytes),
            };
            applied.map_err(|error| match error {
                BlockError::Malformed(why) => {
                    block.corrupt(0, format!("a block of key group {}: {why} (run {})", group.0, run.sequence))
                }
                BlockError::State(StateError::Decode { what, reason }) => {
                    block.corrupt(0, format!("a block of key group {}: {what}: {reason}", group.0))
                }
                BlockError::State(error) => error,
            })?;
        }
        Ok(())
    }

    /// Whether the run is the newest full copy of the group, so that nothing of the group is there before it.
    fn is_base_of(&self, group: KeyGroup, run: &Run) -> bool {
        self.base_sequences[(group.0 - self.first_group) as usize] == run.sequence
    }

    fn join(
        self,
        mut parts: Vec<(KeyGroupRange, AnyState)>,
        owned: KeyGroupRange,
        max_parallelism: u32,
    ) -> Result<RestoredState, StateError> {
        let mut content = self.new_content(owned, max_parallelism)?;
        parts.sort_by_key(|(part, _)| part.first);
        for (_, part) in parts {
            match (&mut content, part) {
                (AnyState::Rows(all), AnyState::Rows(part)) => all.absorb(part)?,
                (AnyState::Ordered(all), AnyState::Ordered(part)) => all.absorb(part),
                _ => unreachable!("parts of one state are of one kind"),
            }
        }
        Ok(RestoredState {
            schema: self.schema,
            has_ttl: self.has_ttl,
            number: None,
            content,
            runs: self.runs,
            base_sequences: self.base_sequences,
            imported: None,
        })
    }
}

/// Ranges of blocks that lie one behind the other, each of about `READ_BYTES` at most.
fn coalesce(blocks: &[(KeyGroup, SegmentRef)]) -> Vec<std::ops::Range<usize>> {
    let mut reads: Vec<std::ops::Range<usize>> = vec![];
    for (at, (_, block)) in blocks.iter().enumerate() {
        if let Some(read) = reads.last_mut() {
            let (first, last) = (&blocks[read.start].1, &blocks[read.end - 1].1);
            let adjacent = last.offset + last.length == block.offset;
            if adjacent && block.offset + block.length - first.offset <= READ_BYTES {
                read.end = at + 1;
                continue;
            }
        }
        reads.push(at..at + 1);
    }
    reads
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get())
}

/// Runs `work` on each item, on so many threads; results in the order of the items.
fn run_parallel<I: Sync, O: Send>(
    threads: usize,
    items: &[I],
    work: impl Fn(&I) -> Result<O, StateError> + Sync,
) -> Result<Vec<O>, StateError> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, Result<O, StateError>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = vec![];
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(item) = items.get(at) else { return done };
                        let result = work(item);
                        let failed = result.is_err();
                        done.push((at, result));
                        if failed {
                            // The others needn't go on either.
                            next.store(items.len(), Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("restoring doesn't panic")).collect()
    });
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
