//! The job graph under construction: nodes, their UIDs, and how rows travel between them.

use crate::error::{Planned, Problem};
use arrow::datatypes::{Field, Schema, SchemaRef};
use std::collections::HashMap;
use std::sync::Arc;
use weir_model::OperatorUid;
use weir_model::change::change_kind_field;
use weir_model::graph::*;
use weir_model::hash::is_hashable;
use weir_model::types::sql_type_name;

#[derive(Default)]
pub(crate) struct GraphBuilder {
    nodes: Vec<Node>,
    facts: Vec<Facts>,
}

/// What is known of a node's output beyond its schema.
#[derive(Default)]
struct Facts {
    /// Column lists by whose hash it already lies on its subtasks.
    partitioning: Vec<Vec<usize>>,
    /// The time columns that hold the time of a window.
    window_times: Vec<usize>,
}

/// The step whose nodes are made.
pub(crate) struct Step<'a> {
    pub(crate) name: &'a str,
    pub(crate) parallelism: u32,
    pub(crate) state_ttl_ms: Option<u64>,
    pub(crate) allowed_lateness_us: i64,
    parts: HashMap<&'static str, usize>,
}

impl<'a> Step<'a> {
    pub(crate) fn new(name: &'a str, parallelism: u32, state_ttl_ms: Option<u64>, allowed_lateness_us: i64) -> Self {
        Step { name, parallelism, state_ttl_ms, allowed_lateness_us, parts: HashMap::new() }
    }

    /// `name/part`, then `name/part-2` in plan order: it depends on what the user wrote and on nothing else.
    fn uid(&mut self, part: &'static str) -> OperatorUid {
        let count = self.parts.entry(part).or_default();
        *count += 1;
        let name = self.name;
        OperatorUid::new(if *count == 1 { format!("{name}/{part}") } else { format!("{name}/{part}-{count}") })
    }
}

/// Which rows must meet on one subtask.
#[derive(Clone, Debug)]
pub(crate) enum Distribution {
    Any,
    /// Rows equal in these columns; all rows if there are none.
    Keys(Vec<usize>),
}

/// An operator to be added.
pub(crate) struct Operator {
    pub(crate) part: &'static str,
    pub(crate) spec: OperatorSpec,
    pub(crate) inputs: Vec<(NodeId, Distribution)>,
    pub(crate) schema: StreamSchema,
    /// Column lists of the output by whose hash it lies on its subtasks.
    pub(crate) partitioning: Vec<Vec<usize>>,
    pub(crate) window_times: Vec<usize>,
}

impl GraphBuilder {
    pub(crate) fn finish(mut self, max_parallelism: u32) -> JobGraph {
        crate::time_liveness::forget_unread_times(&mut self.nodes);
        JobGraph { max_parallelism, nodes: self.nodes }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Forgets nodes that a failed step left behind.
    pub(crate) fn truncate(&mut self, nodes: usize) {
        self.nodes.truncate(nodes);
        self.facts.truncate(nodes);
    }

    pub(crate) fn partitioning(&self, id: NodeId) -> &[Vec<usize>] {
        &self.facts[id.0].partitioning
    }

    pub(crate) fn window_times(&self, id: NodeId) -> &[usize] {
        &self.facts[id.0].window_times
    }

    pub(crate) fn add_source(&mut self, name: &str, parallelism: u32, schema: StreamSchema) -> NodeId {
        self.push(
            Node {
                uid: OperatorUid::new(name),
                step: name.to_owned(),
                parallelism,
                kind: NodeKind::Source,
                inputs: vec![],
                schema,
            },
            Facts::default(),
        )
    }

    /// A sink that reads the given port of `from`; `schema` is what it takes.
    pub(crate) fn add_sink(
        &mut self,
        name: &str,
        parallelism: u32,
        (from, distribution): (NodeId, &Distribution),
        schema: StreamSchema,
    ) -> Planned<()> {
        self.check_keys(from, distribution)?;
        let exchange = self.exchange(from, distribution, parallelism);
        let key_columns = self.key_columns(from, distribution, &exchange);
        self.push_sink(name, parallelism, vec![Edge { from, port: Port::Main, key_columns, exchange }], schema);
        Ok(())
    }

    pub(crate) fn add_dead_letter_sink(&mut self, name: &str, parallelism: u32, from: &[NodeId], schema: StreamSchema) {
        let edge = |from: &NodeId| {
            // They are too few to be worth more.
            let is_alike = self.node(*from).parallelism == parallelism;
            let exchange = if is_alike { Exchange::Forward } else { Exchange::Rebalance };
            Edge { from: *from, port: Port::DeadLetter, key_columns: None, exchange }
        };
        let inputs = from.iter().map(edge).collect();
        self.push_sink(name, parallelism, inputs, schema);
    }

    fn push_sink(&mut self, name: &str, parallelism: u32, inputs: Vec<Edge>, schema: StreamSchema) {
        let uid = OperatorUid::new(name);
        let node = Node { uid, step: name.to_owned(), parallelism, kind: NodeKind::Sink, inputs, schema };
        self.push(node, Facts::default());
    }

    pub(crate) fn add_operator(&mut self, step: &mut Step<'_>, operator: Operator) -> Planned<NodeId> {
        let uid = step.uid(operator.part);
        self.add_operator_as(step, uid, operator)
    }

    pub(crate) fn add_operator_as(&mut self, step: &Step<'_>, uid: OperatorUid, operator: Operator) -> Planned<NodeId> {
        let Operator { part: _, spec, inputs, schema, partitioning, window_times } = operator;
        for (from, distribution) in &inputs {
            self.check_keys(*from, distribution)?;
        }
        let parallelism = self.parallelism_of(step, &spec, &inputs);
        let edges = inputs
            .iter()
            .map(|(from, distribution)| {
                let exchange = self.exchange(*from, distribution, parallelism);
                let key_columns = self.key_columns(*from, distribution, &exchange);
                Edge { from: *from, port: Port::Main, exchange, key_columns }
            })
            .collect();
        let kind = NodeKind::Operator(spec);
        let node = Node { uid, step: step.name.to_owned(), parallelism, kind, inputs: edges, schema };
        Ok(self.push(node, Facts { partitioning, window_times }))
    }

    fn push(&mut self, node: Node, facts: Facts) -> NodeId {
        self.nodes.push(node);
        self.facts.push(facts);
        NodeId(self.nodes.len() - 1)
    }

    /// One where all rows must meet on one subtask (more would idle), and for what follows that in the same step.
    /// What only selects columns stays with its input: that is no work worth an exchange, in which rows would
    /// overtake others.
    fn parallelism_of(&self, step: &Step<'_>, spec: &OperatorSpec, inputs: &[(NodeId, Distribution)]) -> u32 {
        if let (OperatorSpec::Calc(calc), [(from, Distribution::Any)]) = (spec, inputs)
            && calc.filter.is_none()
            && calc.projection.iter().all(|expression| expression.as_column().is_some())
        {
            return self.node(*from).parallelism;
        }
        let singleton = |(from, distribution): &(NodeId, Distribution)| match distribution {
            Distribution::Keys(keys) => keys.is_empty(),
            Distribution::Any => {
                let node = self.node(*from);
                inputs.len() == 1
                    && node.step == step.name
                    && node.parallelism == 1
                    && matches!(node.kind, NodeKind::Operator(_))
            }
        };
        if inputs.iter().any(singleton) { 1 } else { step.parallelism }
    }

    fn exchange(&self, from: NodeId, distribution: &Distribution, parallelism: u32) -> Exchange {
        let node = self.node(from);
        let alike = node.parallelism == parallelism;
        match distribution {
            Distribution::Keys(_) if alike && parallelism == 1 => Exchange::Forward,
            Distribution::Keys(keys) if alike && self.partitioning(from).contains(keys) => Exchange::Forward,
            Distribution::Keys(keys) => Exchange::Hash { key_columns: keys.clone() },
            Distribution::Any if alike => Exchange::Forward,
            // One reader sees the rows of each writer in their order.
            Distribution::Any if parallelism == 1 || !node.schema.is_updating() => Exchange::Rebalance,
            // An update's two rows must not overtake each other: they stay together by the key they are computed
            // by, and where that is no longer among the columns, at least a row and its retraction do.
            Distribution::Any => {
                let keyed = self.partitioning(from).iter().find(|keys| !keys.is_empty()).cloned();
                let fields = node.schema.fields.fields();
                let whole = || {
                    let columns = 0..node.schema.value_columns();
                    columns.filter(|column| is_hashable(fields[*column].data_type())).collect()
                };
                Exchange::Hash { key_columns: keyed.unwrap_or_else(whole) }
            }
        }
    }

    /// Where the writer's subtasks have keys of their own, its rows keep to them on the way forward.
    fn key_columns(&self, from: NodeId, distribution: &Distribution, exchange: &Exchange) -> Option<Vec<usize>> {
        match (distribution, exchange) {
            (Distribution::Keys(keys), _) => Some(keys.clone()),
            // Also where they go by all their columns: those of a row that updates another are not the same.
            (Distribution::Any, Exchange::Hash { .. } | Exchange::Forward) => {
                self.partitioning(from).iter().find(|keys| !keys.is_empty()).cloned()
            }
            (Distribution::Any, Exchange::Rebalance) => None,
        }
    }

    fn check_keys(&self, from: NodeId, distribution: &Distribution) -> Planned<()> {
        let Distribution::Keys(keys) = distribution else { return Ok(()) };
        let fields = self.node(from).schema.fields.fields();
        for key in keys {
            let field = &fields[*key];
            if !is_hashable(field.data_type()) {
                return Err(Problem::new(
                    format!("`{}` is {} and cannot be a key", field.name(), sql_type_name(field.data_type())),
                    "cast it to VARCHAR, BIGINT, DOUBLE, DECIMAL, DATE or TIMESTAMP",
                ));
            }
        }
        Ok(())
    }
}

/// The schema of a stream with these columns, and the change kind behind them if it is updating.
pub(crate) fn fields_of_stream(columns: impl IntoIterator<Item = Field>, updating: bool) -> SchemaRef {
    let change_kind = updating.then(change_kind_field);
    Arc::new(Schema::new(columns.into_iter().chain(change_kind).collect::<Vec<_>>()))
}
