//! A task's part of a checkpoint: cut in the task's thread, written in the background, acknowledged when written.

use super::{EndedCut, Reporter, TaskEventKind};
use crate::checkpoint_objects::CheckpointObjects;
use crate::metrics::CheckpointFigures;
use crate::worker::WorkerEvent;
use serde::{Deserialize, Serialize};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use weir_connectors::api::{SinkSnapshot, SplitState};
use weir_model::{CheckpointId, OperatorUid, SubtaskInFlight, Watermark};
use weir_state::{KeyedStateHandle, SegmentRef, SegmentSink, StateCut};

/// What one subtask of each node of a chain keeps for a checkpoint.
pub(crate) type TaskSnapshot = Vec<NodeSnapshot>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeSnapshot {
    pub(crate) uid: OperatorUid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keyed: Option<KeyedStateHandle>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) splits: Vec<SplitState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sink: Option<SinkSnapshot>,
    /// What a source last sent before the barrier, or (in a job with unaligned checkpoints) where event time was at the
    /// head of a task: rows that were late then are late after a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) watermark: Option<Watermark>,
    /// What an unaligned barrier overtook on its way into this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_flight: Option<InFlightHandle>,
}

/// Where the elements in flight stand, as `weir_snapshot::in_flight` writes them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InFlightHandle {
    pub(crate) segment: SegmentRef,
    pub(crate) rows: u64,
}

/// A node's part before its keyed state is written.
pub(crate) struct NodeCut {
    pub(crate) uid: OperatorUid,
    pub(crate) keyed: Option<StateCut>,
    pub(crate) splits: Vec<SplitState>,
    pub(crate) sink: Option<SinkSnapshot>,
    pub(crate) watermark: Option<Watermark>,
    pub(crate) in_flight: Option<SubtaskInFlight>,
}

impl NodeCut {
    pub(crate) fn of(uid: OperatorUid) -> Self {
        NodeCut { uid, keyed: None, splits: vec![], sink: None, watermark: None, in_flight: None }
    }
}

struct Request {
    checkpoint: CheckpointId,
    nodes: Vec<NodeCut>,
    cut: EndedCut,
    objects: Arc<CheckpointObjects>,
    reporter: Reporter,
}

/// Threads that write cuts into the object of their checkpoint.
pub(crate) struct SnapshotPool {
    requests: Option<Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
}

impl SnapshotPool {
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let (requests, received) = channel();
        let received = Arc::new(Mutex::new(received));
        let start = |index| {
            let received = Arc::clone(&received);
            std::thread::Builder::new().name(format!("snapshot {index}")).spawn(move || run(&received))
        };
        let threads = (0..threads).map(start).collect::<Result<_, _>>()?;
        Ok(SnapshotPool { requests: Some(requests), threads })
    }

    /// The way of one attempt's tasks to the pool, and to the objects that they write.
    pub(crate) fn handle(&self, objects: Arc<CheckpointObjects>) -> SnapshotHandle {
        let requests = self.requests.clone().expect("the pool is only stopped when it is dropped");
        SnapshotHandle { requests, objects }
    }
}

impl Drop for SnapshotPool {
    fn drop(&mut self) {
        self.requests = None;
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// A task's way to the pool. Bounded by the coordinator's max concurrent checkpoints: one request each.
#[derive(Clone)]
pub(crate) struct SnapshotHandle {
    requests: Sender<Request>,
    objects: Arc<CheckpointObjects>,
}

impl SnapshotHandle {
    pub(crate) fn write(&self, checkpoint: CheckpointId, nodes: Vec<NodeCut>, cut: EndedCut, reporter: Reporter) {
        let objects = Arc::clone(&self.objects);
        self.requests.send(Request { checkpoint, nodes, cut, objects, reporter }).ok();
    }
}

fn run(received: &Mutex<Receiver<Request>>) {
    loop {
        let request = match received.lock() {
            Ok(received) => received.recv(),
            Err(_) => return,
        };
        let Ok(request) = request else { return };
        let Request { checkpoint, nodes, cut, objects, reporter } = request;
        if let Err(reason) = take(checkpoint, nodes, cut, &objects, &reporter) {
            reporter.report(TaskEventKind::Declined { checkpoint, reason });
        }
    }
}

/// Writes one task's part; with the last one the worker's object is completed and the checkpoint acknowledged.
fn take(
    checkpoint: CheckpointId,
    nodes: Vec<NodeCut>,
    cut: EndedCut,
    objects: &CheckpointObjects,
    reporter: &Reporter,
) -> Result<(), String> {
    let mut bytes = 0;
    let written = nodes.into_iter().map(|node| write(node, checkpoint, objects, &mut bytes));
    let snapshot = written.collect::<Result<_, _>>()?;
    let figures: CheckpointFigures = cut.written(checkpoint, bytes);
    let Some(all) = objects.acknowledge(checkpoint, reporter.task.clone(), snapshot, figures) else { return Ok(()) };
    let (object, snapshots, figures) = objects.finish(all)?;
    reporter.events.send(WorkerEvent::Acknowledged { fence: reporter.fence, checkpoint, object, snapshots, figures });
    Ok(())
}

/// Adds what was written of the keyed state to `bytes`.
fn write(
    node: NodeCut,
    checkpoint: CheckpointId,
    objects: &CheckpointObjects,
    bytes: &mut u64,
) -> Result<NodeSnapshot, String> {
    let NodeCut { uid, keyed, splits, sink, watermark, in_flight } = node;
    const GIVEN_UP: &str = "the checkpoint was given up";
    let keyed = match keyed {
        None => None,
        Some(cut) => {
            let mut object = objects.segments(checkpoint).ok_or(GIVEN_UP)?;
            let handle = cut.write(&mut object).map_err(|error| format!("{uid}: {error}"))?;
            *bytes += object.written_bytes();
            // A stateless operator has nothing to say.
            (!handle.states.is_empty()).then_some(handle)
        }
    };
    let in_flight = match in_flight {
        None => None,
        Some(in_flight) => {
            let mut object = objects.segments(checkpoint).ok_or(GIVEN_UP)?;
            let failed = |error: &dyn std::fmt::Display| format!("{uid}: rows in flight: {error}");
            let encoded = weir_snapshot::in_flight::encode(&in_flight).map_err(|error| failed(&error))?;
            *bytes += encoded.len() as u64;
            let segment = object.append(&encoded).map_err(|error| failed(&error))?;
            Some(InFlightHandle { segment, rows: in_flight.rows() })
        }
    };
    Ok(NodeSnapshot { uid, keyed, splits, sink, watermark, in_flight })
}
