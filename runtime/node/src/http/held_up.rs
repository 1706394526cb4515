//! Who holds a checkpoint up while it is under way.

use super::rates::Rates;
use crate::physical::PhysicalPlan;
use crate::status::{JobStatus, UnderWay};
use std::collections::BTreeSet;
use weir_api::view::{HeldUpBy, HoldUp};

/// Subtasks that are named; a checkpoint that waits for more is held up by something common to all.
const NAMED: usize = 16;
/// Share of its time above which a task is held up by those that read it.
const MOSTLY: f64 = 0.5;

/// A subtask holds the checkpoint up if all before it have sent their barriers and it has not, or if its part is
/// being written. Where it only waits for those that read it, they are named.
pub(super) fn held_up_by(status: &JobStatus, rates: &Rates, under_way: &UnderWay) -> Vec<HeldUpBy> {
    let Some(job) = &status.job else { return vec![] };
    let plan = PhysicalPlan::of(&job.graph);
    let look = Look { status, rates, plan: &plan, checkpoint: under_way.checkpoint };
    let mut found = vec![];
    let mut slow_readers = BTreeSet::new();
    for task in 0..plan.tasks.len() {
        let is_its_turn = plan.tasks[task].inputs.iter().all(|input| look.is_cut_everywhere(input.from));
        for subtask in 0..look.parallelism(task) {
            let Some(why) = look.hold_up(task, subtask, is_its_turn) else { continue };
            let is_held_up = why != HoldUp::Writing && look.backpressured(task, subtask) > MOSTLY;
            let readers = if is_held_up { look.slow_readers(task) } else { vec![] };
            if readers.is_empty() {
                found.push((task, subtask, why));
            }
            slow_readers.extend(readers);
        }
    }
    for (task, subtask) in slow_readers {
        if !found.iter().any(|(known, of, _)| (*known, *of) == (task, subtask)) {
            found.push((task, subtask, HoldUp::Backpressuring));
        }
    }
    let named = found.into_iter().take(NAMED).map(|(task, subtask, why)| HeldUpBy {
        task: job.graph.node(plan.tasks[task].nodes[0]).uid.to_string(),
        subtask: subtask as u32,
        why,
    });
    named.collect()
}

struct Look<'a> {
    status: &'a JobStatus,
    rates: &'a Rates,
    plan: &'a PhysicalPlan,
    checkpoint: u64,
}

impl Look<'_> {
    fn head(&self, task: usize) -> usize {
        self.plan.tasks[task].nodes[0].0
    }

    fn parallelism(&self, task: usize) -> usize {
        self.status.nodes.get(self.head(task)).map_or(0, |node| node.subtasks.len())
    }

    fn is_cut_everywhere(&self, task: usize) -> bool {
        let node = self.status.nodes.get(self.head(task));
        node.is_some_and(|node| node.subtasks.iter().all(|one| one.task.barrier_cut.get() >= self.checkpoint))
    }

    fn hold_up(&self, task: usize, subtask: usize, is_its_turn: bool) -> Option<HoldUp> {
        let metrics = &self.status.nodes[self.head(task)].subtasks[subtask].task;
        if metrics.barrier_cut.get() >= self.checkpoint {
            return (metrics.barrier_written.get() < self.checkpoint).then_some(HoldUp::Writing);
        }
        let has_seen = metrics.barrier_seen.get() >= self.checkpoint;
        is_its_turn.then_some(if has_seen { HoldUp::Aligning } else { HoldUp::Processing })
    }

    fn backpressured(&self, task: usize, subtask: usize) -> f64 {
        self.rates.of(self.head(task), subtask).time.backpressured
    }

    /// The nearest subtasks downstream that wait for nobody themselves: of each such task the busiest.
    fn slow_readers(&self, task: usize) -> Vec<(usize, usize)> {
        let mut found = vec![];
        let mut ahead: Vec<usize> = self.plan.readers(task).map(|(reader, _)| reader).collect();
        let mut seen = BTreeSet::new();
        while let Some(reader) = ahead.pop() {
            if !seen.insert(reader) {
                continue;
            }
            let subtasks = 0..self.parallelism(reader);
            if subtasks.clone().any(|subtask| self.backpressured(reader, subtask) > MOSTLY) {
                ahead.extend(self.plan.readers(reader).map(|(next, _)| next));
                continue;
            }
            let busy = |subtask: &usize| self.rates.of(self.head(reader), *subtask).time.busy;
            let busiest = subtasks.max_by(|a, b| busy(a).total_cmp(&busy(b)));
            // One that mostly waits for input makes nobody wait.
            found.extend(busiest.filter(|subtask| busy(subtask) > MOSTLY).map(|subtask| (reader, subtask)));
        }
        found
    }
}
