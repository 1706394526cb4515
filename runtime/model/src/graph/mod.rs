//! The job graph: what a StreamJob's steps and SQL become, and what the runtime runs.
//!
//! Planning is a pure function of the spec, so every process plans for itself and no plan travels.

mod operator;
mod time;

pub use operator::*;
pub use time::*;

use crate::change::CHANGE_KIND_COLUMN;
use crate::ids::OperatorUid;
use arrow::datatypes::SchemaRef;

/// Index of a node in `JobGraph::nodes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// Nodes in topological order: the inputs of a node stand before it.
#[derive(Clone, Debug)]
pub struct JobGraph {
    pub max_parallelism: u32,
    pub nodes: Vec<Node>,
}

impl JobGraph {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// The nodes that read `id`, with the index of the input by which they do.
    pub fn consumers(&self, id: NodeId) -> impl Iterator<Item = (NodeId, usize)> + '_ {
        self.ids().flat_map(move |consumer| {
            let inputs = self.node(consumer).inputs.iter().enumerate();
            inputs.filter(move |(_, edge)| edge.from == id).map(move |(index, _)| (consumer, index))
        })
    }

    /// Whether barriers of unaligned checkpoints may overtake rows on this edge.
    ///
    /// What they overtake has to come before all that its writers send later, after a restore at another parallelism,
    /// too. Rows with a key come to its owner, as what follows does. Where a writer's subtask is all that says where
    /// its rows belong, nobody knows at another parallelism: those keep their order only if nothing is in flight.
    pub fn may_be_overtaken(&self, edge: &Edge) -> bool {
        let is_updating = || self.node(edge.from).schema.is_updating();
        match (edge.port, &edge.key_columns, &edge.exchange) {
            (Port::DeadLetter, ..) | (_, Some(_), _) => true,
            (Port::Main, None, Exchange::Rebalance) => !is_updating(),
            (Port::Main, None, Exchange::Forward | Exchange::Hash { .. }) => false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub uid: OperatorUid,
    /// The StreamJob step that this node comes from.
    pub step: String,
    pub parallelism: u32,
    pub kind: NodeKind,
    pub inputs: Vec<Edge>,
    /// What the node emits; for a sink, what it takes.
    pub schema: StreamSchema,
}

#[derive(Clone, Debug)]
pub enum NodeKind {
    /// The source step of this node's `step` name.
    Source,
    Operator(OperatorSpec),
    /// The sink step of this node's `step` name.
    Sink,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    pub from: NodeId,
    pub port: Port,
    pub exchange: Exchange,
    /// By which rows belong to a subtask of the reader, where it matters which one reads a row; whatever the exchange.
    pub key_columns: Option<Vec<usize>>,
}

/// Which output of a node an edge carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    Main,
    /// Records that a source could not decode (`onBadRecord: DeadLetter`).
    DeadLetter,
}

/// How rows find the subtask of the reading node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Subtask i to subtask i; both sides have one parallelism. Such nodes run chained where they can.
    Forward,
    /// By key group of these columns; none of them means that one subtask reads everything.
    Hash { key_columns: Vec<usize> },
    /// Round robin by batch.
    Rebalance,
}

/// The shape of a stream between two nodes.
#[derive(Clone, Debug)]
pub struct StreamSchema {
    /// For an updating stream the last field is the change kind.
    pub fields: SchemaRef,
    /// Columns that the stream's watermark speaks of: no row below it is expected in them.
    pub time_columns: Vec<usize>,
    /// The window that rows were assigned to.
    pub window: Option<WindowColumns>,
}

impl StreamSchema {
    pub fn append_only(fields: SchemaRef) -> Self {
        StreamSchema { fields, time_columns: vec![], window: None }
    }

    pub fn is_updating(&self) -> bool {
        self.fields.fields().last().is_some_and(|field| field.name() == CHANGE_KIND_COLUMN)
    }

    /// Columns without the change kind.
    pub fn value_columns(&self) -> usize {
        self.fields.fields().len() - self.is_updating() as usize
    }
}

/// Where a window's bounds stand among the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowColumns {
    pub start: usize,
    pub end: usize,
}
