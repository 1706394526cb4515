//! Which update-before rows somebody downstream reads. The others need not be made: they are half of what an
//! updating aggregate emits.

use weir_model::graph::*;

/// Tells each aggregate whether what its results were before they changed is read. `reads` says it of a sink, by the
/// name of its step.
pub fn leave_out_unread_retractions(graph: &mut JobGraph, reads: impl Fn(&str) -> bool) {
    let mut read = vec![false; graph.nodes.len()];
    // Readers stand behind what they read.
    for reader in (0..graph.nodes.len()).rev() {
        let node = &graph.nodes[reader];
        let reads_input = match &node.kind {
            NodeKind::Source => false,
            NodeKind::Sink => reads(&node.step),
            // A row that no longer passes a filter is taken back by its update-before row alone.
            NodeKind::Operator(OperatorSpec::Calc(calc)) => calc.filter.is_some() || read[reader],
            NodeKind::Operator(OperatorSpec::Union) => read[reader],
            NodeKind::Operator(_) => true,
        };
        node.inputs.iter().for_each(|edge| read[edge.from.0] |= reads_input);
    }
    for (node, read) in graph.nodes.iter_mut().zip(read) {
        if let NodeKind::Operator(OperatorSpec::GroupAggregate(spec)) = &mut node.kind {
            spec.update_before = read;
        }
    }
}
