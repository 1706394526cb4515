//! Which time attributes somebody downstream goes by. The others are forgotten: an operator that holds rows back
//! (an interval join) would otherwise hold the watermark back for a column that nobody looks at.

use std::collections::BTreeSet;
use weir_model::graph::*;

/// Leaves in each operator's output only those time columns that are read as such.
pub(crate) fn forget_unread_times(nodes: &mut [Node]) {
    let mut read: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); nodes.len()];
    // Readers stand behind what they read.
    for reader in (0..nodes.len()).rev() {
        let node = &nodes[reader];
        for (input, edge) in node.inputs.iter().enumerate() {
            let columns = times_read(node, input, &read[reader], nodes);
            read[edge.from.0].extend(columns);
        }
    }
    for (node, read) in nodes.iter_mut().zip(read) {
        if matches!(node.kind, NodeKind::Operator(_)) {
            node.schema.time_columns.retain(|column| read.contains(column));
        }
    }
}

/// Columns of an input that a node goes by as times, given those of its output that are read.
fn times_read(node: &Node, input: usize, read: &BTreeSet<usize>, nodes: &[Node]) -> Vec<usize> {
    let NodeKind::Operator(spec) = &node.kind else { return vec![] };
    let columns_of = |input: usize| nodes[node.inputs[input].from.0].schema.value_columns();
    let through = || read.iter().copied().filter(|column| *column < columns_of(input)).collect::<Vec<_>>();
    let by = |time: TimeDomain| match time {
        TimeDomain::EventTime { column } => Some(column),
        TimeDomain::ProcessingTime => None,
    };
    // Of a join's output, the columns that come from this input.
    let of_side = || {
        let before = if input == 0 { 0 } else { columns_of(0) };
        let side = before..before + columns_of(input);
        read.iter().filter(|column| side.contains(column)).map(|column| column - before).collect::<Vec<_>>()
    };
    match spec {
        OperatorSpec::Calc(spec) => read.iter().filter_map(|column| spec.projection[*column].as_column()).collect(),
        OperatorSpec::Union => read.iter().copied().collect(),
        OperatorSpec::WindowAssign(spec) => through().into_iter().chain(by(spec.time)).collect(),
        OperatorSpec::WindowAggregate(spec) if spec.assigned.is_none() => by(spec.time).into_iter().collect(),
        OperatorSpec::IntervalJoin(spec) => {
            let own = if input == 0 { spec.left_time } else { spec.right_time };
            of_side().into_iter().chain([own]).collect()
        }
        OperatorSpec::WindowJoin(_) => of_side(),
        OperatorSpec::TopN(_) => through(),
        OperatorSpec::Deduplicate(spec) => through().into_iter().chain(by(spec.time)).collect(),
        OperatorSpec::WindowAggregate(_) | OperatorSpec::GroupAggregate(_) | OperatorSpec::Join(_) => vec![],
        // What a user's operator goes by is its own affair.
        OperatorSpec::Custom(_) => nodes[node.inputs[input].from.0].schema.time_columns.clone(),
    }
}
