//! What others see of a job that runs.

use super::Runner;
use crate::status::{CheckpointLine, UnderWay};
use weir_coordinator::{AttemptResult, CheckpointUnderWay, Outcome, Phase, Then};
use weir_snapshot::CheckpointSizes;

impl Runner {
    /// Brings what others see up to date.
    pub(super) fn show(&mut self) {
        let waits_for = self.control.rollout().waits_for();
        let coordinator = self.control.coordinator();
        let mut status = self.status.lock();
        status.waits_for = waits_for;
        status.parallelism = coordinator.parallelism().unwrap_or(self.own_parallelism);
        status.phase = phase_name(coordinator.phase()).to_owned();
        status.epoch = coordinator.fence().epoch.0;
        status.attempt = coordinator.fence().attempt.0;
        status.running_since_ms = coordinator.running_since_ms();
        if let Phase::Closed(outcome) = coordinator.phase() {
            status.outcome = Some(outcome_words(outcome));
        }
        if !status.workers.keys().eq(self.links.keys()) {
            let workers = self.links.keys().map(|worker| (*worker, self.addresses.get(worker).cloned()));
            status.workers = workers.collect();
        }
        let under_way = coordinator.under_way().map(|shown| {
            let CheckpointUnderWay { checkpoint, kind, triggered_ms, is_unaligned, turns_unaligned_ms, awaited } =
                shown;
            let awaited = awaited.into_iter().cloned().collect();
            UnderWay { checkpoint: checkpoint.0, kind, triggered_ms, is_unaligned, turns_unaligned_ms, awaited }
        });
        status.under_way = under_way.collect();
        status.checkpoints_failed_in_a_row = coordinator.failures_in_a_row();
        let history = coordinator.history();
        let restarts: Vec<_> = history.restarts().collect();
        let fresh = (history.restart_count - status.restarts) as usize;
        for restart in &restarts[restarts.len().saturating_sub(fresh)..] {
            tracing::warn!(reason = %restart.reason, delay_ms = restart.delay_ms, "the attempt failed and is restarted");
            status.restarted(restart);
        }
        status.restarts = history.restart_count;
        status.last_restart = restarts.last().map(|restart| restart.reason.clone());
        (status.completed_checkpoints, status.failed_checkpoints) = (history.completed, history.failed);
        let ended = history.completed + history.failed;
        let fresh = (ended - self.shown_attempts) as usize;
        let all: Vec<_> = history.attempts().collect();
        for attempt in &all[all.len().saturating_sub(fresh)..] {
            let CheckpointSizes { new_bytes, full_bytes, in_flight_bytes } =
                self.sizes.remove(&attempt.checkpoint).unwrap_or_default();
            let duration_ms = attempt.ended_ms.saturating_sub(attempt.triggered_ms);
            if attempt.result == AttemptResult::Completed {
                let checkpoint = attempt.checkpoint.0;
                let is_unaligned = attempt.is_unaligned;
                tracing::info!(checkpoint, kind = ?attempt.kind, is_unaligned, duration_ms, new_bytes, full_bytes, in_flight_bytes, "checkpoint completed");
            }
            status.checkpoint(CheckpointLine {
                checkpoint: attempt.checkpoint.0,
                kind: attempt.kind,
                is_unaligned: attempt.is_unaligned,
                triggered_ms: attempt.triggered_ms,
                duration_ms,
                new_bytes,
                full_bytes,
                in_flight_bytes,
                subtasks: self.figures.remove(&attempt.checkpoint).unwrap_or_default(),
                failure: match &attempt.result {
                    AttemptResult::Completed => None,
                    AttemptResult::Failed { reason } => Some(reason.clone()),
                },
            });
        }
        self.shown_attempts = ended;
        // Of a checkpoint that was decided before its last acknowledgement came.
        self.figures
            .retain(|checkpoint, _| status.under_way.iter().any(|under_way| under_way.checkpoint == checkpoint.0));
    }
}

fn phase_name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Created | Phase::Deploying => "Deploying",
        Phase::Running => "Running",
        Phase::Stopping(Then::Restart { .. }) | Phase::Stopped(Then::Restart { .. }) => "Restarting",
        Phase::Stopping(Then::Close(_)) | Phase::Stopped(Then::Close(_)) | Phase::Finishing(_) => "Ending",
        Phase::Closed(Outcome::Finished) => "Finished",
        Phase::Closed(Outcome::Stopped { .. }) => "Stopped",
        Phase::Closed(Outcome::Cancelled) => "Cancelled",
        Phase::Closed(Outcome::Failed { .. }) => "Failed",
        Phase::Closed(Outcome::Fenced { .. }) => "Fenced",
    }
}

fn outcome_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Finished => "finished: all input was read, and everything is committed".to_owned(),
        Outcome::Stopped { savepoint: Some(savepoint) } => format!("stopped with the savepoint {savepoint}"),
        Outcome::Stopped { savepoint: None } => "stopped after a last checkpoint".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Failed { reason } => format!("failed: {reason}"),
        Outcome::Fenced { by } => format!("taken over: {by}"),
    }
}
