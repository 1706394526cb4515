//! From what the runner shows to the bodies of the API.

use super::rates::Rates;
use crate::job::Job;
use crate::physical::PhysicalPlan;
use crate::start::fingerprint;
use crate::status::{CheckpointLine, JobStatus, UnderWay};
use std::collections::BTreeMap;
use weir_api::view::*;
use weir_model::KeyGroup;
use weir_model::graph::{Exchange, JobGraph, NodeKind, Port};

/// Key groups that are named of each task.
const HOT_KEY_GROUPS: usize = 5;

pub(super) fn job(status: &JobStatus, started: &Job, now_ms: u64) -> JobView {
    let job = status.job.as_deref().unwrap_or(started);
    let mut slots_in_use = BTreeMap::new();
    status.slots.iter().for_each(|worker| *slots_in_use.entry(*worker).or_insert(0) += 1);
    let worker = |(id, address): (&weir_model::WorkerId, &Option<String>)| WorkerView {
        id: id.0,
        address: address.clone(),
        slots_in_use: slots_in_use.get(id).copied().unwrap_or(0),
    };
    JobView {
        name: job.name.clone(),
        uid: job.uid.clone(),
        phase: phase(status),
        epoch: status.epoch,
        attempt: status.attempt,
        started_at_ms: status.started_ms,
        running_since_ms: status.running_since_ms,
        uptime_ms: status.running_since_ms.map(|since_ms| now_ms.saturating_sub(since_ms)),
        waits_for: status.waits_for.clone(),
        restored_from: status.restored_from.clone(),
        parallelism: status.parallelism,
        max_parallelism: job.graph.max_parallelism,
        restarts: restarts(status),
        checkpoints: counts(status),
        workers: status.workers.iter().map(worker).collect(),
        storage: job.storage_uri(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        spec_hash: fingerprint(&job.resource.spec),
        outcome: status.outcome.clone(),
    }
}

pub(super) fn phase(status: &JobStatus) -> JobPhase {
    match status.phase.as_str() {
        "Running" => JobPhase::Running,
        "Restarting" => JobPhase::Restarting,
        "Ending" => JobPhase::Ending,
        "Finished" => JobPhase::Finished,
        "Stopped" => JobPhase::Stopped,
        "Cancelled" => JobPhase::Cancelled,
        "Failed" => JobPhase::Failed,
        "Fenced" => JobPhase::Fenced,
        // Also before the runner has said anything.
        _ => JobPhase::Deploying,
    }
}

fn restarts(status: &JobStatus) -> Restarts {
    let reasons = status.restart_reasons.iter().map(|counted| RestartReason {
        reason: counted.reason.clone(),
        count: counted.count,
        last_at_ms: counted.last_ms,
    });
    Restarts {
        count: status.restarts,
        reasons: reasons.collect(),
        last_failure: status.last_restart.clone(),
        last_at_ms: status.restart_reasons.first().map(|latest| latest.last_ms),
    }
}

fn counts(status: &JobStatus) -> CheckpointCounts {
    let latest = |completed: bool| {
        let mut ended = status.checkpoints.iter().rev();
        ended.find(|line| line.failure.is_none() == completed).map(checkpoint_view)
    };
    CheckpointCounts {
        completed: status.completed_checkpoints,
        failed: status.failed_checkpoints,
        failed_in_a_row: status.checkpoints_failed_in_a_row,
        under_way: status.under_way.len() as u32,
        last_completed: latest(true),
        last_failed: latest(false),
    }
}

fn checkpoint_view(line: &CheckpointLine) -> CheckpointView {
    CheckpointView {
        id: line.checkpoint,
        kind: checkpoint_kind(line.kind),
        state: if line.failure.is_none() { CheckpointState::Completed } else { CheckpointState::Failed },
        triggered_at_ms: line.triggered_ms,
        duration_ms: line.duration_ms,
        new_bytes: line.new_bytes,
        full_bytes: line.full_bytes,
        is_unaligned: line.is_unaligned,
        in_flight_bytes: line.in_flight_bytes,
        failure: line.failure.clone(),
    }
}

pub(super) fn checkpoint_kind(kind: weir_model::CheckpointKind) -> CheckpointKind {
    match kind {
        weir_model::CheckpointKind::Checkpoint => CheckpointKind::Checkpoint,
        weir_model::CheckpointKind::Savepoint => CheckpointKind::Savepoint,
        weir_model::CheckpointKind::Final => CheckpointKind::Final,
    }
}

pub(super) fn graph(graph: &JobGraph) -> GraphView {
    let plan = PhysicalPlan::of(graph);
    let name = |task: usize| graph.node(plan.tasks[task].nodes[0]).uid.to_string();
    let tasks = plan.tasks.iter().enumerate().map(|(index, task)| TaskView {
        task: name(index),
        parallelism: task.parallelism as u32,
        operators: task.nodes.iter().map(|node| operator(graph.node(*node))).collect(),
        inputs: (task.inputs.iter())
            .map(|input| {
                let sender = graph.node(*plan.tasks[input.from].nodes.last().expect("a task has a node"));
                let (exchange, key_columns) = match &input.exchange {
                    Exchange::Forward => (ExchangeKind::Forward, vec![]),
                    Exchange::Rebalance => (ExchangeKind::Rebalance, vec![]),
                    Exchange::Hash { key_columns } => {
                        let fields = &sender.schema.fields;
                        let column = |column: &usize| fields.field(*column).name().clone();
                        (ExchangeKind::Hash, key_columns.iter().map(column).collect())
                    }
                };
                let is_dead_letters = input.port == Port::DeadLetter;
                InputView { from: name(input.from), exchange, key_columns, is_dead_letters }
            })
            .collect(),
    });
    GraphView { tasks: tasks.collect() }
}

fn operator(node: &weir_model::graph::Node) -> OperatorView {
    OperatorView {
        uid: node.uid.to_string(),
        step: node.step.clone(),
        kind: match node.kind {
            NodeKind::Source => OperatorKind::Source,
            NodeKind::Operator(_) => OperatorKind::Operator,
            NodeKind::Sink => OperatorKind::Sink,
        },
    }
}

pub(super) fn subtasks(status: &JobStatus, rates: &Rates) -> SubtasksView {
    let Some(job) = &status.job else { return SubtasksView::default() };
    let plan = PhysicalPlan::of(&job.graph);
    let of_task = |task: &crate::physical::TaskPlan| {
        let head = task.nodes[0].0;
        let shown = status.nodes.get(head).map_or(0, |node| node.subtasks.len());
        let subtask = |index: usize| {
            let metrics = &status.nodes[head].subtasks[index].task;
            let figures = |node: &weir_model::graph::NodeId| figures(status, rates, node.0, index);
            SubtaskView {
                index: index as u32,
                worker: status.slots.get(index).map(|worker| worker.0),
                time: rates.of(head, index).time,
                bytes_in: metrics.bytes_in.get(),
                bytes_out: metrics.bytes_out.get(),
                operators: task.nodes.iter().filter_map(figures).collect(),
            }
        };
        TaskSubtasks {
            task: job.graph.node(task.nodes[0]).uid.to_string(),
            subtasks: (0..shown).map(subtask).collect(),
            hot_key_groups: hot_key_groups(status, head, task.parallelism as u32, job.graph.max_parallelism),
        }
    };
    SubtasksView { tasks: plan.tasks.iter().map(of_task).collect() }
}

/// Those that most rows go to on their way into this node, over all that write.
fn hot_key_groups(status: &JobStatus, node: usize, parallelism: u32, max_parallelism: u32) -> Vec<HotKeyGroup> {
    let writers = status.nodes.iter().flat_map(|node| &node.subtasks);
    let told = writers.flat_map(|writer| writer.task.hot_key_groups.hottest());
    let (mut rows, mut by_group) = (0, BTreeMap::new());
    for told in told.filter(|told| told.node as usize == node) {
        rows += told.rows;
        told.groups.iter().for_each(|(group, rows)| *by_group.entry(*group).or_insert(0) += rows);
    }
    let mut groups: Vec<(u32, u64)> = by_group.into_iter().collect();
    groups.sort_unstable_by_key(|(group, rows)| (std::cmp::Reverse(*rows), *group));
    groups.truncate(HOT_KEY_GROUPS);
    let view = |(key_group, of_group): (u32, u64)| HotKeyGroup {
        key_group,
        subtask: KeyGroup(key_group as u16).subtask(parallelism, max_parallelism),
        share: of_group as f64 / rows.max(1) as f64,
    };
    groups.into_iter().map(view).collect()
}

fn figures(status: &JobStatus, rates: &Rates, node: usize, subtask: usize) -> Option<OperatorFigures> {
    let shown = status.nodes.get(node)?;
    let metrics = shown.subtasks.get(subtask)?;
    let rate = rates.of(node, subtask);
    let watermark_us = metrics.watermark_us.get();
    Some(OperatorFigures {
        uid: shown.uid.clone(),
        records_in: metrics.records_in.get(),
        records_out: metrics.records_out.get(),
        records_in_per_second: rate.records_in,
        records_out_per_second: rate.records_out,
        late_records: metrics.late_records.get(),
        bad_records: metrics.bad_records.get(),
        pending_records: u64::try_from(metrics.pending_records.get()).ok(),
        pending_bytes: u64::try_from(metrics.pending_bytes.get()).ok(),
        watermark_us: (!matches!(watermark_us, i64::MIN | i64::MAX)).then_some(watermark_us),
        is_at_end: watermark_us == i64::MAX,
    })
}

pub(super) fn checkpoints(status: &JobStatus, rates: &Rates) -> CheckpointsView {
    CheckpointsView {
        counts: counts(status),
        under_way: status.under_way.iter().map(|under_way| checkpoint_under_way(status, rates, under_way)).collect(),
        percentiles: percentiles(status),
        history: status.checkpoints.iter().rev().map(checkpoint_view).collect(),
    }
}

fn checkpoint_under_way(status: &JobStatus, rates: &Rates, under_way: &UnderWay) -> CheckpointUnderWay {
    let UnderWay { checkpoint, kind, triggered_ms, is_unaligned, turns_unaligned_ms, awaited } = under_way;
    let subtasks = status.job.as_ref().map_or(0, |job| PhysicalPlan::of(&job.graph).subtasks(&job.graph).0.len());
    CheckpointUnderWay {
        id: *checkpoint,
        kind: checkpoint_kind(*kind),
        triggered_at_ms: *triggered_ms,
        acknowledged: subtasks.saturating_sub(awaited.len()) as u32,
        subtasks: subtasks as u32,
        is_completing: awaited.is_empty(),
        is_unaligned: *is_unaligned,
        turns_unaligned_at_ms: *turns_unaligned_ms,
        held_up_by: super::held_up::held_up_by(status, rates, under_way),
    }
}

fn percentiles(status: &JobStatus) -> CheckpointPercentiles {
    let over = |value: fn(&CheckpointLine) -> u64| {
        let completed = status.checkpoints.iter().filter(|line| line.failure.is_none());
        let mut values: Vec<u64> = completed.map(value).collect();
        values.sort_unstable();
        nearest_ranks(&values)
    };
    CheckpointPercentiles {
        duration_ms: over(|line| line.duration_ms),
        new_bytes: over(|line| line.new_bytes),
        full_bytes: over(|line| line.full_bytes),
    }
}

/// Of sorted values.
fn nearest_ranks(values: &[u64]) -> Percentiles {
    let rank = |percent: usize| {
        let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
        values.get(at).copied().unwrap_or(0)
    };
    Percentiles { min: rank(0), p50: rank(50), p90: rank(90), p99: rank(99), max: rank(100) }
}

pub(super) fn checkpoint(status: &JobStatus, id: u64) -> Option<CheckpointDetail> {
    // An id may be given to a second attempt after a failure to append: the later one counts.
    let line = status.checkpoints.iter().rev().find(|line| line.checkpoint == id)?;
    let mut told: Vec<_> = line.subtasks.iter().collect();
    told.sort_by(|(a, _), (b, _)| a.cmp(b));
    let subtasks = told.into_iter().map(|(task, figures)| SubtaskCheckpoint {
        task: task.operator.to_string(),
        subtask: task.index,
        start_delay_ms: figures.first_barrier_ms.saturating_sub(line.triggered_ms),
        alignment_us: figures.alignment_us,
        sync_us: figures.sync_us,
        async_us: figures.async_us,
        bytes: figures.bytes,
    });
    Some(CheckpointDetail { checkpoint: checkpoint_view(line), subtasks: subtasks.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let all = |values: &[u64]| {
            let Percentiles { min, p50, p90, p99, max } = nearest_ranks(values);
            [min, p50, p90, p99, max]
        };
        assert_eq!(all(&[]), [0; 5]);
        assert_eq!(all(&[7]), [7; 5]);
        assert_eq!(all(&[1, 2, 3, 4]), [1, 2, 4, 4, 4]);
        assert_eq!(all(&(1..=100).collect::<Vec<_>>()), [1, 50, 90, 99, 100]);
    }
}
