//! Asking the systems at both ends of a job what they say about it, before anything is started.

use crate::job::Job;
use weir_connectors::api::{ConnectorError, Probe, ProbeContext};
use weir_model::graph::{Node, NodeKind};

/// What came of asking for one step.
#[derive(Debug)]
pub struct Probed {
    pub step: String,
    pub result: Result<Probe, ConnectorError>,
}

/// Connects for every source and sink of the job, one after the other. Changes nothing.
pub fn probe(job: &Job) -> Vec<Probed> {
    let of_node = |node: &Node| {
        let schema = node.schema.fields.clone();
        let context = ProbeContext { name: node.step.clone(), job_uid: job.uid.clone(), schema };
        match node.kind {
            NodeKind::Sink => job.sinks.get(&node.step).map(|sink| sink.probe(&context)),
            NodeKind::Operator(_) => None,
            NodeKind::Source => job.sources.get(&node.step).map(|source| source.probe(&context)),
        }
    };
    let nodes = job.graph.nodes.iter();
    nodes.filter_map(|node| Some(Probed { step: node.step.clone(), result: of_node(node)? })).collect()
}
