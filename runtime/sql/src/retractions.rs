//! Which update-before rows somebody downstream reads. The others need not be made: they are half of what an
//! updating aggregate emits.

use std::collections::BTreeSet;
use weir_model::UpdateBeforeUse;
use weir_model::graph::*;

/// What the readers of a node do with update-before rows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    /// Nothing, unless one of these columns of the node's has changed.
    IfChanged(BTreeSet<usize>),
    Always,
}

impl Read {
    const NEVER: Read = Read::IfChanged(BTreeSet::new());

    fn and(&mut self, other: Read) {
        match (&mut *self, other) {
            (Read::IfChanged(columns), Read::IfChanged(others)) => columns.extend(others),
            _ => *self = Read::Always,
        }
    }

    /// The same, of the input of a projection.
    fn before(&self, projection: &[Expr]) -> Read {
        let Read::IfChanged(columns) = self else { return Read::Always };
        let columns = columns.iter().map(|column| projection.get(*column)?.as_column());
        columns.collect::<Option<_>>().map_or(Read::Always, Read::IfChanged)
    }
}

/// Tells each aggregate whether what its results were before they changed is read. `use_of` says it of a sink, by the
/// name of its step.
pub fn leave_out_unread_retractions(graph: &mut JobGraph, use_of: impl Fn(&str) -> UpdateBeforeUse) {
    let mut read = vec![Read::NEVER; graph.nodes.len()];
    // Readers stand behind what they read.
    for reader in (0..graph.nodes.len()).rev() {
        let node = &graph.nodes[reader];
        let of_input = match &node.kind {
            NodeKind::Source => Read::NEVER,
            NodeKind::Sink => of_sink(node, use_of(&node.step)),
            // A row that no longer passes a filter is taken back by its update-before row alone.
            NodeKind::Operator(OperatorSpec::Calc(calc)) if calc.filter.is_some() => Read::Always,
            NodeKind::Operator(OperatorSpec::Calc(calc)) => read[reader].before(&calc.projection),
            NodeKind::Operator(OperatorSpec::Union) => read[reader].clone(),
            NodeKind::Operator(_) => Read::Always,
        };
        node.inputs.iter().for_each(|edge| read[edge.from.0].and(of_input.clone()));
    }
    for (node, read) in graph.nodes.iter_mut().zip(read) {
        if let NodeKind::Operator(OperatorSpec::GroupAggregate(spec)) = &mut node.kind {
            // The keys of its groups, its first columns, are all that an update leaves as it is.
            spec.update_before = match read {
                Read::IfChanged(columns) => columns.iter().any(|column| *column >= spec.keys.len()),
                Read::Always => true,
            };
        }
    }
}

fn of_sink(node: &Node, used: UpdateBeforeUse) -> Read {
    match used {
        UpdateBeforeUse::None => Read::NEVER,
        UpdateBeforeUse::ByKey(key) => {
            let columns = key.iter().map(|name| node.schema.fields.index_of(name).ok());
            columns.collect::<Option<_>>().map_or(Read::Always, Read::IfChanged)
        }
        UpdateBeforeUse::All => Read::Always,
    }
}
