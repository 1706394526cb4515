//! Between the node's commands and events, and the messages of the control plane.

use crate::attempt::{DeployError, node_status};
use crate::job::Job;
use crate::metrics::{CheckpointFigures, HottestKeyGroups, TimeTotals};
use crate::task::{TaskEvent, TaskEventKind, TaskFailure};
use crate::worker::{Deployment, RestoreFrom, SubtaskMetrics, WorkerCommand, WorkerEvent};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_connectors::api::{Lag, SplitLag};
use weir_coordinator::{Adopted, RunningAttempt};
use weir_dataflow::alignment::AlignmentMode;
use weir_model::{
    AttemptNumber, Barrier, CheckpointId, CheckpointKind, CommitPermit, Epoch, Fence, OperatorUid, SubtaskId, WorkerId,
};
use weir_wire::v1;

/// A message that doesn't say what it has to: the peer is of another make, and not to be trusted with more.
#[derive(Debug, thiserror::Error)]
#[error("a message without or with a wrong {0}")]
pub(super) struct Malformed(&'static str);

type Converted<T> = Result<T, Malformed>;

pub(super) fn command_message(command: WorkerCommand) -> v1::CoordinatorMessage {
    use v1::coordinator_message::Message;
    let message = match command {
        WorkerCommand::Prepare(deployment) => Message::Prepare(prepare(*deployment)),
        WorkerCommand::Start { fence, opening } => Message::Start(v1::Start { fence: to_fence(fence), opening }),
        WorkerCommand::Adopt { from, fence, opening } => {
            Message::Adopt(v1::Adopt { from: to_fence(from), fence: to_fence(fence), opening })
        }
        WorkerCommand::Hold => unreachable!("a worker without a coordinator says it to itself"),
        WorkerCommand::Trigger { fence, barrier: Barrier { checkpoint, kind }, is_unaligned, hold } => {
            Message::Trigger(v1::Trigger {
                fence: to_fence(fence),
                checkpoint: checkpoint.0,
                kind: match kind {
                    CheckpointKind::Checkpoint => v1::CheckpointKind::Checkpoint,
                    CheckpointKind::Savepoint => v1::CheckpointKind::Savepoint,
                    CheckpointKind::Final => v1::CheckpointKind::Final,
                }
                .into(),
                hold,
                is_unaligned,
            })
        }
        WorkerCommand::TurnUnaligned { fence, checkpoint } => {
            Message::TurnUnaligned(v1::TurnUnaligned { fence: to_fence(fence), checkpoint: checkpoint.0 })
        }
        WorkerCommand::CancelCheckpoint { fence, checkpoint } => {
            Message::CancelCheckpoint(v1::CancelCheckpoint { fence: to_fence(fence), checkpoint: checkpoint.0 })
        }
        WorkerCommand::Commit { permit, ended } => Message::Commit(v1::Commit {
            fence: to_fence(permit.fence()),
            checkpoint: permit.checkpoint().0,
            ended: (ended.iter())
                .map(|(uid, splits)| v1::EndedSplits { operator: uid.to_string(), splits: splits.clone() })
                .collect(),
        }),
        WorkerCommand::Resume { fence } => Message::Resume(v1::Resume { fence: to_fence(fence) }),
        WorkerCommand::Finish { fence } => Message::Finish(v1::Finish { fence: to_fence(fence) }),
        WorkerCommand::Stop { fence } => Message::Stop(v1::Stop { fence: to_fence(fence) }),
        WorkerCommand::Goodbye => Message::Goodbye(v1::Goodbye {}),
    };
    v1::CoordinatorMessage { message: Some(message) }
}

fn prepare(deployment: Deployment) -> v1::Prepare {
    let Deployment { fence, job, worker: _, slots, peers, mode, restore, nodes: _ } = deployment;
    v1::Prepare {
        fence: to_fence(fence),
        slots: slots.iter().map(|worker| worker.0).collect(),
        peers: peers.into_iter().map(|(worker, data_address)| v1::Peer { worker: worker.0, data_address }).collect(),
        parallelism: job.parallelism(),
        at_least_once: mode == AlignmentMode::AtLeastOnce,
        restore: restore.map(|restore| match restore {
            RestoreFrom::Checkpoint(manifest) => {
                v1::prepare::Restore::Checkpoint(serde_json::to_vec(&*manifest).expect("it was written to the log"))
            }
            RestoreFrom::Savepoint(uri) => v1::prepare::Restore::Savepoint(uri),
        }),
    }
}

/// None: the message is no command (a heartbeat).
pub(super) fn command(
    message: v1::CoordinatorMessage,
    own: WorkerId,
    job: &mut Arc<Job>,
) -> Converted<Option<WorkerCommand>> {
    use v1::coordinator_message::Message;
    Ok(Some(match message.message.ok_or(Malformed("kind"))? {
        Message::Heartbeat(_) | Message::Registered(_) | Message::Refused(_) => return Ok(None),
        Message::Prepare(v1::Prepare { fence, slots, peers, at_least_once, restore, parallelism }) => {
            if parallelism != job.parallelism() {
                let rescaled = job.at_parallelism(parallelism).map_err(|_| Malformed("parallelism"))?;
                *job = Arc::new(rescaled);
            }
            let restore = match restore {
                None => None,
                Some(v1::prepare::Restore::Checkpoint(manifest)) => {
                    let manifest = serde_json::from_slice(&manifest).map_err(|_| Malformed("manifest"))?;
                    Some(RestoreFrom::Checkpoint(Arc::new(manifest)))
                }
                Some(v1::prepare::Restore::Savepoint(uri)) => Some(RestoreFrom::Savepoint(uri)),
            };
            WorkerCommand::Prepare(Box::new(Deployment {
                fence: from_fence(fence)?,
                job: Arc::clone(job),
                worker: own,
                slots: slots.into_iter().map(WorkerId).collect(),
                peers: peers.into_iter().map(|peer| (WorkerId(peer.worker), peer.data_address)).collect(),
                mode: if at_least_once { AlignmentMode::AtLeastOnce } else { AlignmentMode::ExactlyOnce },
                restore,
                nodes: job.graph.nodes.iter().map(node_status).collect(),
            }))
        }
        Message::Start(v1::Start { fence, opening }) => WorkerCommand::Start { fence: from_fence(fence)?, opening },
        Message::Adopt(v1::Adopt { from, fence, opening }) => {
            WorkerCommand::Adopt { from: from_fence(from)?, fence: from_fence(fence)?, opening }
        }
        Message::Trigger(v1::Trigger { fence, checkpoint, kind, hold, is_unaligned }) => {
            let kind = match v1::CheckpointKind::try_from(kind) {
                Ok(v1::CheckpointKind::Checkpoint) => CheckpointKind::Checkpoint,
                Ok(v1::CheckpointKind::Savepoint) => CheckpointKind::Savepoint,
                Ok(v1::CheckpointKind::Final) => CheckpointKind::Final,
                Ok(v1::CheckpointKind::Unspecified) | Err(_) => return Err(Malformed("kind of checkpoint")),
            };
            let barrier = Barrier { checkpoint: CheckpointId(checkpoint), kind };
            WorkerCommand::Trigger { fence: from_fence(fence)?, barrier, is_unaligned, hold }
        }
        Message::TurnUnaligned(v1::TurnUnaligned { fence, checkpoint }) => {
            WorkerCommand::TurnUnaligned { fence: from_fence(fence)?, checkpoint: CheckpointId(checkpoint) }
        }
        Message::CancelCheckpoint(v1::CancelCheckpoint { fence, checkpoint }) => {
            WorkerCommand::CancelCheckpoint { fence: from_fence(fence)?, checkpoint: CheckpointId(checkpoint) }
        }
        Message::Commit(v1::Commit { fence, checkpoint, ended }) => {
            let permit = CommitPermit::from_coordinator(CheckpointId(checkpoint), from_fence(fence)?);
            let of_source = |ended: v1::EndedSplits| (OperatorUid::new(ended.operator), ended.splits);
            WorkerCommand::Commit { permit, ended: Arc::new(ended.into_iter().map(of_source).collect()) }
        }
        Message::Resume(v1::Resume { fence }) => WorkerCommand::Resume { fence: from_fence(fence)? },
        Message::Finish(v1::Finish { fence }) => WorkerCommand::Finish { fence: from_fence(fence)? },
        Message::Stop(v1::Stop { fence }) => WorkerCommand::Stop { fence: from_fence(fence)? },
        Message::Goodbye(_) => WorkerCommand::Goodbye,
    }))
}

pub(super) fn event_message(event: WorkerEvent) -> v1::WorkerMessage {
    use v1::worker_message::Message;
    let message = match event {
        WorkerEvent::Prepared { fence, result } => Message::Prepared(v1::Prepared {
            fence: to_fence(fence),
            failure: result.err().map(|DeployError { reason, is_fatal }| v1::Failure { reason, is_fatal }),
        }),
        WorkerEvent::Acknowledged { fence, checkpoint, object, snapshots, figures } => {
            let json = |value| serde_json::to_vec(value).expect("a plain structure");
            let mut figures: BTreeMap<_, _> = figures.into_iter().collect();
            let snapshots = snapshots.iter().map(|(task, snapshot)| v1::TaskSnapshot {
                task: to_subtask(task),
                snapshot: serde_json::to_vec(snapshot).expect("a plain structure"),
                figures: figures.remove(task).map(to_figures),
            });
            Message::Acknowledged(v1::Acknowledged {
                fence: to_fence(fence),
                checkpoint: checkpoint.0,
                object: object.as_ref().map(json).unwrap_or_default(),
                snapshots: snapshots.collect(),
            })
        }
        WorkerEvent::Task(TaskEvent { fence, task, kind }) => {
            use v1::task_report::Report;
            let report = match kind {
                TaskEventKind::Declined { checkpoint, reason } => {
                    Some(Report::Declined(v1::Declined { checkpoint: checkpoint.0, reason }))
                }
                TaskEventKind::EndOfInput => Some(Report::EndOfInput(v1::EndOfInput {})),
                TaskEventKind::Committed { checkpoint } => {
                    Some(Report::Committed(v1::Committed { checkpoint: checkpoint.0 }))
                }
                TaskEventKind::Failed(TaskFailure { node, reason, is_fatal, is_of_data }) => {
                    Some(Report::Failed(v1::TaskFailed {
                        operator: node.map(|node| node.to_string()).unwrap_or_default(),
                        reason,
                        is_fatal,
                        is_of_data,
                    }))
                }
                // `Stopped` says it for all.
                TaskEventKind::Ended => None,
            };
            Message::Task(v1::TaskReport { fence: to_fence(fence), task: to_subtask(&task), report })
        }
        WorkerEvent::Stopped { fence } => Message::Stopped(v1::Stopped { fence: to_fence(fence) }),
        WorkerEvent::Adopted { fence, result: Err(failure) } => {
            Message::Adopted(v1::Adopted { fence: to_fence(fence), failure, ..v1::Adopted::default() })
        }
        WorkerEvent::Adopted { fence, result: Ok(Adopted { ended, under_way, highest }) } => {
            Message::Adopted(v1::Adopted {
                fence: to_fence(fence),
                failure: String::new(),
                ended: ended.iter().filter_map(to_subtask).collect(),
                under_way: under_way.into_iter().map(|checkpoint| checkpoint.0).collect(),
                highest: highest.map_or(0, |checkpoint| checkpoint.0),
            })
        }
        WorkerEvent::AttemptFailed { fence, reason } => {
            Message::AttemptFailed(v1::AttemptFailed { fence: to_fence(fence), reason })
        }
        WorkerEvent::Metrics { fence, subtasks } => Message::Metrics(v1::Metrics {
            fence: to_fence(fence),
            subtasks: subtasks
                .into_iter()
                .map(|own| v1::SubtaskMetrics {
                    node: own.node,
                    subtask: own.subtask,
                    records_in: own.records_in,
                    records_out: own.records_out,
                    late_records: own.late_records,
                    bad_records: own.bad_records,
                    pending_records: (own.pending_records != i64::MIN).then_some(own.pending_records as u64),
                    pending_bytes: (own.pending_bytes != i64::MIN).then_some(own.pending_bytes as u64),
                    split_lags: own.split_lags.into_iter().map(to_split_lag).collect(),
                    watermark_us: own.watermark_us,
                    bytes_in: own.bytes_in,
                    bytes_out: own.bytes_out,
                    time_us: own.time.total_us,
                    idle_us: own.time.idle_us,
                    backpressured_us: own.time.backpressured_us,
                    hot_key_groups: own.hot_key_groups.into_iter().map(to_hottest).collect(),
                    barrier_seen: own.barrier_seen,
                    barrier_cut: own.barrier_cut,
                    barrier_written: own.barrier_written,
                })
                .collect(),
        }),
    };
    v1::WorkerMessage { message: Some(message) }
}

/// None: the message is no event (a heartbeat).
pub(super) fn event(message: v1::WorkerMessage) -> Converted<Option<WorkerEvent>> {
    use v1::worker_message::Message;
    Ok(Some(match message.message.ok_or(Malformed("kind"))? {
        Message::Heartbeat(_) => return Ok(None),
        Message::Register(_) => return Err(Malformed("place: it has registered already")),
        Message::Prepared(v1::Prepared { fence, failure }) => {
            let failed = |v1::Failure { reason, is_fatal }| Err(DeployError { reason, is_fatal });
            WorkerEvent::Prepared { fence: from_fence(fence)?, result: failure.map_or(Ok(()), failed) }
        }
        Message::Acknowledged(v1::Acknowledged { fence, checkpoint, object, snapshots }) => {
            let object = match object.as_slice() {
                [] => None,
                json => Some(serde_json::from_slice(json).map_err(|_| Malformed("object"))?),
            };
            let mut told = vec![];
            let snapshot = |v1::TaskSnapshot { task, snapshot, figures }| {
                let snapshot = serde_json::from_slice(&snapshot).map_err(|_| Malformed("snapshot"))?;
                let task = from_subtask(task)?;
                // A worker of an older make doesn't measure.
                told.extend(figures.map(|figures| (task.clone(), from_figures(figures))));
                Ok((task, snapshot))
            };
            let snapshots = snapshots.into_iter().map(snapshot).collect::<Converted<_>>()?;
            WorkerEvent::Acknowledged {
                fence: from_fence(fence)?,
                checkpoint: CheckpointId(checkpoint),
                object,
                snapshots,
                figures: told,
            }
        }
        Message::Task(v1::TaskReport { fence, task, report }) => {
            use v1::task_report::Report;
            let kind = match report {
                None => TaskEventKind::Ended,
                Some(Report::Declined(v1::Declined { checkpoint, reason })) => {
                    TaskEventKind::Declined { checkpoint: CheckpointId(checkpoint), reason }
                }
                Some(Report::EndOfInput(_)) => TaskEventKind::EndOfInput,
                Some(Report::Committed(v1::Committed { checkpoint })) => {
                    TaskEventKind::Committed { checkpoint: CheckpointId(checkpoint) }
                }
                Some(Report::Failed(v1::TaskFailed { operator, reason, is_fatal, is_of_data })) => {
                    let node = (!operator.is_empty()).then(|| OperatorUid::new(operator));
                    TaskEventKind::Failed(TaskFailure { node, reason, is_fatal, is_of_data })
                }
            };
            WorkerEvent::Task(TaskEvent { fence: from_fence(fence)?, task: from_subtask(task)?, kind })
        }
        Message::Stopped(v1::Stopped { fence }) => WorkerEvent::Stopped { fence: from_fence(fence)? },
        Message::Adopted(v1::Adopted { fence, failure, ended, under_way, highest }) => {
            let adopted = Adopted {
                ended: ended.into_iter().map(|task| from_subtask(Some(task))).collect::<Converted<_>>()?,
                under_way: under_way.into_iter().map(CheckpointId).collect(),
                highest: (highest > 0).then_some(CheckpointId(highest)),
            };
            let result = if failure.is_empty() { Ok(adopted) } else { Err(failure) };
            WorkerEvent::Adopted { fence: from_fence(fence)?, result }
        }
        Message::AttemptFailed(v1::AttemptFailed { fence, reason }) => {
            WorkerEvent::AttemptFailed { fence: from_fence(fence)?, reason }
        }
        Message::Metrics(v1::Metrics { fence, subtasks }) => WorkerEvent::Metrics {
            fence: from_fence(fence)?,
            subtasks: subtasks
                .into_iter()
                .map(|own| SubtaskMetrics {
                    node: own.node,
                    subtask: own.subtask,
                    records_in: own.records_in,
                    records_out: own.records_out,
                    late_records: own.late_records,
                    bad_records: own.bad_records,
                    pending_records: own
                        .pending_records
                        .map_or(i64::MIN, |pending| i64::try_from(pending).unwrap_or(i64::MAX)),
                    pending_bytes: own
                        .pending_bytes
                        .map_or(i64::MIN, |pending| i64::try_from(pending).unwrap_or(i64::MAX)),
                    split_lags: own.split_lags.into_iter().filter_map(from_split_lag).collect(),
                    watermark_us: own.watermark_us,
                    bytes_in: own.bytes_in,
                    bytes_out: own.bytes_out,
                    time: TimeTotals {
                        total_us: own.time_us,
                        idle_us: own.idle_us,
                        backpressured_us: own.backpressured_us,
                    },
                    hot_key_groups: own.hot_key_groups.into_iter().map(from_hottest).collect(),
                    barrier_seen: own.barrier_seen,
                    barrier_cut: own.barrier_cut,
                    barrier_written: own.barrier_written,
                })
                .collect(),
        },
    }))
}

fn to_split_lag(SplitLag { split, lag }: SplitLag) -> v1::SplitLag {
    let lag = match lag {
        Lag::Records(records) => v1::split_lag::Lag::Records(records),
        Lag::Millis(behind_ms) => v1::split_lag::Lag::BehindMs(behind_ms),
    };
    v1::SplitLag { split, lag: Some(lag) }
}

/// None: of a kind that this version doesn't know.
fn from_split_lag(v1::SplitLag { split, lag }: v1::SplitLag) -> Option<SplitLag> {
    let lag = match lag? {
        v1::split_lag::Lag::Records(records) => Lag::Records(records),
        v1::split_lag::Lag::BehindMs(behind_ms) => Lag::Millis(behind_ms),
    };
    Some(SplitLag { split, lag })
}

fn to_hottest(hottest: HottestKeyGroups) -> v1::HotKeyGroups {
    let HottestKeyGroups { node, rows, groups } = hottest;
    let groups = groups.into_iter().map(|(key_group, rows)| v1::KeyGroupRows { key_group, rows });
    v1::HotKeyGroups { node, rows, groups: groups.collect() }
}

fn from_hottest(hottest: v1::HotKeyGroups) -> HottestKeyGroups {
    let v1::HotKeyGroups { node, rows, groups } = hottest;
    HottestKeyGroups { node, rows, groups: groups.into_iter().map(|one| (one.key_group, one.rows)).collect() }
}

fn to_figures(figures: CheckpointFigures) -> v1::CheckpointFigures {
    let CheckpointFigures { first_barrier_ms, alignment_us, sync_us, async_us, bytes } = figures;
    v1::CheckpointFigures { first_barrier_ms, alignment_us, sync_us, async_us, bytes }
}

fn from_figures(figures: v1::CheckpointFigures) -> CheckpointFigures {
    let v1::CheckpointFigures { first_barrier_ms, alignment_us, sync_us, async_us, bytes } = figures;
    CheckpointFigures { first_barrier_ms, alignment_us, sync_us, async_us, bytes }
}

pub(super) fn running_message(running: RunningAttempt) -> v1::RunningAttempt {
    let RunningAttempt { fence, opening, slots, own, parallelism } = running;
    let slots = slots.into_iter().map(|worker| worker.0).collect();
    v1::RunningAttempt { fence: to_fence(fence), opening, slots, own: own.0, parallelism }
}

pub(super) fn running(message: v1::RunningAttempt) -> Converted<RunningAttempt> {
    let v1::RunningAttempt { fence, opening, slots, own, parallelism } = message;
    let slots = slots.into_iter().map(WorkerId).collect();
    Ok(RunningAttempt { fence: from_fence(fence)?, opening, slots, own: WorkerId(own), parallelism })
}

fn to_fence(fence: Fence) -> Option<v1::Fence> {
    Some(v1::Fence { epoch: fence.epoch.0, attempt: fence.attempt.0 })
}

fn from_fence(fence: Option<v1::Fence>) -> Converted<Fence> {
    let v1::Fence { epoch, attempt } = fence.ok_or(Malformed("fence"))?;
    Ok(Fence { epoch: Epoch(epoch), attempt: AttemptNumber(attempt) })
}

fn to_subtask(task: &SubtaskId) -> Option<v1::Subtask> {
    Some(v1::Subtask { operator: task.operator.to_string(), index: task.index })
}

fn from_subtask(task: Option<v1::Subtask>) -> Converted<SubtaskId> {
    let v1::Subtask { operator, index } = task.ok_or(Malformed("task"))?;
    Ok(SubtaskId { operator: OperatorUid::new(operator), index })
}
