//! What the restored checkpoint had in flight, for the subtasks that take it up.

use super::DeployError;
use super::builder::Builder;
use crate::task::*;
use arrow::datatypes::Schema;
use weir_dataflow::in_flight::{InputDivision, Replay, Taker, share};
use weir_model::graph::{Edge, Node, NodeId, Port};
use weir_model::{InFlightElement, SubtaskInFlight, Watermark};

impl Builder<'_> {
    /// What of the restored checkpoint's rows in flight each node of a chain takes.
    pub(super) fn replays(&mut self, chained: &[NodeId], subtask: u32) -> Result<Vec<NodeReplay>, DeployError> {
        let mut replays = vec![];
        for (position, id) in chained.iter().enumerate() {
            let node = self.around.job.graph.node(*id);
            let Some(restored) = self.restored(&node.uid) else { continue };
            let stays = restored.parallelism == node.parallelism;
            let old: Vec<u32> = if stays { vec![subtask] } else { (0..restored.parallelism).collect() };
            let parallelism = restored.parallelism;
            let waiting: Vec<_> = old
                .into_iter()
                .map(|old| {
                    let watermark = restored.watermarks.get(&old).copied().unwrap_or(Watermark::MIN);
                    (old, watermark, restored.in_flight.get(&old).cloned())
                })
                .collect();
            let mut in_flight = vec![];
            for (old, watermark, handle) in waiting {
                let Some(handle) = handle else {
                    in_flight.push(SubtaskInFlight { watermark, channels: vec![] });
                    continue;
                };
                let all = self.in_flight(node, old, &handle)?;
                let max_parallelism = self.around.job.graph.max_parallelism;
                let taker = Taker { subtask, parallelism: node.parallelism, max_parallelism };
                let divisions: Vec<_> = node.inputs.iter().map(division).collect();
                if !stays && self.has_lost_keys(node, &all) {
                    return Err(DeployError::fatal(format!(
                        "{}: the restored checkpoint has updates in flight whose key is not known; it can be restored at \
                         parallelism {parallelism}, and from the next checkpoint on at any other",
                        node.uid
                    )));
                }
                let own = share(&all, old, parallelism, taker, &divisions);
                in_flight.push(own.map_err(|error| DeployError::fatal(format!("{}: {error}", node.uid)))?);
            }
            replays.push(NodeReplay { position, replay: Replay::new(in_flight) });
        }
        Ok(replays)
    }

    /// Updates of which nobody knows to which subtask they belong at another parallelism. Barriers don't overtake them,
    /// but they did in the first versions.
    fn has_lost_keys(&self, node: &Node, in_flight: &SubtaskInFlight) -> bool {
        let is_updating = |edge: &Edge| self.around.job.graph.node(edge.from).schema.is_updating();
        let is_lost = |edge: &Edge| edge.port == Port::Main && edge.key_columns.is_none() && is_updating(edge);
        let is_batch = |element: &InFlightElement| matches!(element, InFlightElement::Batch(_));
        let mut channels = in_flight.channels.iter().filter(|channel| channel.elements.iter().any(is_batch));
        channels.any(|channel| node.inputs.get(channel.input).is_some_and(is_lost))
    }

    /// What the old subtask of a node had in flight.
    fn in_flight(&mut self, node: &Node, old: u32, handle: &InFlightHandle) -> Result<SubtaskInFlight, DeployError> {
        let key = (node.uid.clone(), old);
        if let Some(known) = self.in_flight.get(&key) {
            return Ok(known.clone());
        }
        let failed = |reason: &dyn std::fmt::Display| {
            DeployError::fatal(format!("{}: the rows in flight of the restored checkpoint: {reason}", node.uid))
        };
        let bytes = self.around.segments.read(&handle.segment).map_err(|error| failed(&error))?;
        let read = weir_snapshot::in_flight::decode(&bytes).map_err(|error| failed(&error))?;
        let inputs: Vec<_> = node.inputs.iter().map(|edge| self.fields(edge.from, edge.port)).collect();
        for channel in &read.channels {
            let is_other = |element: &InFlightElement| match element {
                InFlightElement::Batch(batch) => {
                    inputs.get(channel.input).is_none_or(|fields| !alike(fields, &batch.schema()))
                }
                InFlightElement::Watermark(_) | InFlightElement::Idle => false,
            };
            if channel.elements.iter().any(is_other) {
                return Err(failed(
                    &"their columns are not those that the step reads in this version of the job. Start it from a \
                      savepoint, which has nothing in flight, or from a checkpoint that is not unaligned",
                ));
            }
        }
        self.in_flight.insert(key, read.clone());
        Ok(read)
    }
}

/// Who takes the rows of an input.
fn division(edge: &Edge) -> InputDivision {
    match &edge.key_columns {
        Some(key_columns) => InputDivision::Keyed { key_columns: key_columns.clone() },
        None => InputDivision::Any,
    }
}

/// Whether batches of one schema can be read as of the other.
fn alike(one: &Schema, other: &Schema) -> bool {
    let columns = |schema: &Schema| {
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect::<Vec<_>>()
    };
    columns(one) == columns(other)
}
