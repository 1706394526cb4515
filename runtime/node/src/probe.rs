//! Asking the systems at both ends of a job what they say about it, before anything is started.

use crate::job::Job;
use weir_connectors::api::{ConnectorError, Probe, ProbeContext};
use weir_model::graph::NodeKind;

/// What came of asking for one step.
#[derive(Debug)]
pub struct Probed {
    pub step: String,
    pub result: Result<Probe, ConnectorError>,
}

/// Connects for every source and sink of the job, one after the other. Changes nothing.
pub fn probe(job: &Job) -> Vec<Probed> {
    let context = |step: &str| ProbeContext { name: step.to_owned(), job_uid: job.uid.clone() };
    let of_node = |kind: &NodeKind, step: &str| match kind {
        NodeKind::Sink => job.sinks.get(step).map(|sink| sink.probe(&context(step))),
        NodeKind::Operator(_) => None,
        NodeKind::Source => job.sources.get(step).map(|source| source.probe(&context(step))),
    };
    let steps = job.graph.nodes.iter().map(|node| (&node.kind, &node.step));
    steps.filter_map(|(kind, step)| Some(Probed { step: step.clone(), result: of_node(kind, step)? })).collect()
}
