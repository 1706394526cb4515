//! A relation under construction: the output of a node, filters and columns over it that no node computes yet,
//! and what is not decided yet about windows and ranks.

use crate::error::{Planned, Position, Problem};
use crate::expression::{
    Physical, as_column, column, columns_of, compile, conjunction, conjuncts, is_trivial, is_true, substitute,
};
use crate::graph::{Distribution, GraphBuilder, Operator, Step, fields_of_stream};
use crate::window_tvf::{Shape, WINDOW_END, WINDOW_START, WINDOW_TIME};
use arrow::datatypes::{DataType, Field};
use std::sync::Arc;
use weir_model::graph::*;
use weir_model::types::TIMESTAMP;

#[derive(Clone, Debug)]
pub(crate) struct Relation {
    pub(crate) base: Base,
    /// Over the base's columns; all must be true.
    pub(crate) filters: Vec<Physical>,
    /// Over the base's columns.
    pub(crate) columns: Vec<Column>,
}

#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) field: Field,
    pub(crate) expression: Physical,
    pub(crate) time: Option<TimeAttribute>,
}

/// A column that the watermark speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeAttribute {
    /// A record's own time.
    Row,
    /// The last moment of the record's window: still in time for rows that are held back until their window ends.
    Window,
}

#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) node: NodeId,
    /// What a batch of the base will look like: the node's columns, and behind them those that are still to come.
    pub(crate) schema: StreamSchema,
    /// Those of its time columns that are window times.
    pub(crate) window_times: Vec<usize>,
    pub(crate) pending: Pending,
}

impl Base {
    pub(crate) fn of_node(graph: &GraphBuilder, node: NodeId) -> Base {
        let schema = graph.node(node).schema.clone();
        Base { node, schema, window_times: graph.window_times(node).to_vec(), pending: Pending::Nothing }
    }

    fn time_of(&self, column: usize) -> Option<TimeAttribute> {
        if self.window_times.contains(&column) {
            return Some(TimeAttribute::Window);
        }
        self.schema.time_columns.contains(&column).then_some(TimeAttribute::Row)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Pending {
    Nothing,
    /// The last three columns are `window_start`, `window_end` and `window_time`.
    Windows(PendingWindows),
    /// The last column is the rank.
    Rank(PendingRank),
}

#[derive(Clone, Debug)]
pub(crate) struct PendingWindows {
    /// The rows to assign: its columns are the first ones of the base.
    pub(crate) input: Box<Relation>,
    pub(crate) shape: Shape,
    /// By a column of `input`.
    pub(crate) time: TimeDomain,
    /// Columns of `input`, for sessions.
    pub(crate) partition: Vec<usize>,
    pub(crate) position: Option<Position>,
}

#[derive(Clone, Debug)]
pub(crate) struct PendingRank {
    pub(crate) partition: Vec<usize>,
    pub(crate) order: Vec<SortKey>,
    /// ORDER BY PROCTIME() and nothing else; descending or not.
    pub(crate) processing_time: Option<bool>,
    pub(crate) first: u64,
    pub(crate) last: Option<u64>,
    pub(crate) position: Option<Position>,
}

impl Relation {
    /// All columns of a node.
    pub(crate) fn of_node(graph: &GraphBuilder, node: NodeId) -> Relation {
        Relation::of_base(Base::of_node(graph, node))
    }

    pub(crate) fn of_base(base: Base) -> Relation {
        let fields = base.schema.fields.fields();
        let columns = fields[..base.schema.value_columns()].iter().enumerate().map(|(index, field)| Column {
            field: field.as_ref().clone(),
            expression: column(field.name(), index),
            time: base.time_of(index),
        });
        Relation { columns: columns.collect(), filters: vec![], base }
    }

    pub(crate) fn is_updating(&self) -> bool {
        self.base.schema.is_updating()
    }

    /// Whether the base's output passes through unchanged.
    fn is_identity(&self) -> bool {
        self.filters.is_empty()
            && self.columns.len() == self.base.schema.value_columns()
            && self.columns.iter().enumerate().all(|(index, column)| {
                as_column(&column.expression) == Some(index)
                    && column.field.name() == self.base.schema.fields.field(index).name()
            })
    }

    /// An expression over the relation's columns, as one over the base's.
    pub(crate) fn over_base(&self, expression: Physical) -> Planned<Physical> {
        Ok(substitute(expression, &|index| Arc::clone(&self.columns[index].expression))?)
    }

    pub(crate) fn is_time(&self, index: usize) -> bool {
        self.columns[index].time.is_some()
    }

    /// Where the base's window columns stand among the relation's.
    pub(crate) fn window(&self) -> Option<WindowColumns> {
        window_among(&self.base.schema, &self.columns)
    }

    /// Names of the time attributes, for messages.
    pub(crate) fn time_names(&self) -> Vec<&str> {
        let times = (0..self.columns.len()).filter(|index| self.is_time(*index));
        times.map(|index| self.columns[index].field.name().as_str()).collect()
    }

    /// Puts a filter over the relation's columns.
    pub(crate) fn filter(&mut self, predicate: Physical) -> Planned<()> {
        let predicate = self.over_base(predicate)?;
        let mut parts = vec![];
        conjuncts(predicate, &mut parts);
        self.filters.extend(parts.into_iter().filter(|part| !is_true(part)));
        Ok(())
    }

    /// Replaces the columns by expressions over them. What is computed already stays computed once: a node is made
    /// for it where the new columns would read it several times.
    pub(crate) fn project(
        mut self,
        columns: Vec<Column>,
        graph: &mut GraphBuilder,
        step: &mut Step<'_>,
    ) -> Planned<Relation> {
        let mut reads = vec![0; self.columns.len()];
        columns.iter().flat_map(|column| columns_of(&column.expression)).for_each(|index| reads[index] += 1);
        let repeated = |(reads, column): (&usize, &Column)| *reads > 1 && !is_trivial(&column.expression);
        if reads.iter().zip(&self.columns).any(repeated) {
            let node = self.materialize(graph, step)?;
            self = Relation::of_node(graph, node);
        }
        let columns = columns
            .into_iter()
            .map(|column| {
                let time = as_column(&column.expression).and_then(|index| self.columns[index].time);
                Ok(Column { expression: self.over_base(column.expression)?, time, ..column })
            })
            .collect::<Planned<_>>()?;
        Ok(Relation { columns, ..self })
    }

    /// The node that emits exactly this relation.
    pub(crate) fn materialize(self, graph: &mut GraphBuilder, step: &mut Step<'_>) -> Planned<NodeId> {
        let relation = self.settle(graph, step)?;
        if relation.is_identity() { Ok(relation.base.node) } else { relation.add_calc(graph, step) }
    }

    /// The same relation over a node that has all columns of the base.
    pub(crate) fn settle(self, graph: &mut GraphBuilder, step: &mut Step<'_>) -> Planned<Relation> {
        match &self.base.pending {
            Pending::Nothing => Ok(self),
            Pending::Windows(_) => self.assign_windows(graph, step),
            Pending::Rank(_) => self.rank(graph, step),
        }
    }

    /// A node that computes the filters and columns, even if there is nothing to compute.
    pub(crate) fn add_calc(mut self, graph: &mut GraphBuilder, step: &mut Step<'_>) -> Planned<NodeId> {
        // COUNT(*) reads no column, but a batch without any is nothing to exchange.
        if self.columns.is_empty() {
            self.columns = Relation::of_base(self.base.clone()).columns.into_iter().take(1).collect();
        }
        let input = &graph.node(self.base.node).schema;
        let updating = input.is_updating();
        let change_kind = updating.then(|| input.value_columns());
        let filter = conjunction(self.filters.iter().cloned());
        let filter = filter.map(|filter| compile(filter, &input.fields, &DataType::Boolean)).transpose()?;
        let mut projection = self
            .columns
            .iter()
            .map(|column| compile(Arc::clone(&column.expression), &input.fields, column.field.data_type()))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(change_kind) = change_kind {
            let field = input.fields.field(change_kind);
            projection.push(compile(column(field.name(), change_kind), &input.fields, field.data_type())?);
        }
        let schema = StreamSchema {
            fields: fields_of_stream(self.columns.iter().map(|column| column.field.clone()), updating),
            time_columns: (0..self.columns.len()).filter(|index| self.is_time(*index)).collect(),
            window: self.window(),
        };
        let partitioning = self.partitioning_through(graph.partitioning(self.base.node));
        let window_times = self.window_times();
        graph.add_operator(
            step,
            Operator {
                part: "calc",
                spec: OperatorSpec::Calc(CalcSpec { filter, projection }),
                inputs: vec![(self.base.node, Distribution::Any)],
                schema,
                partitioning,
                window_times,
            },
        )
    }

    /// The column lists of the base that all stand among the columns unchanged.
    fn partitioning_through(&self, partitioning: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let position =
            |wanted: &usize| self.columns.iter().position(|column| as_column(&column.expression) == Some(*wanted));
        partitioning.iter().filter_map(|keys| keys.iter().map(position).collect()).collect()
    }

    /// Makes the node that assigns windows.
    fn assign_windows(self, graph: &mut GraphBuilder, step: &mut Step<'_>) -> Planned<Relation> {
        let Pending::Windows(windows) = self.base.pending else { return Ok(self) };
        if let Shape::Session { .. } = windows.shape {
            return Err(Problem::new(
                "rows of SESSION are used before they are aggregated, when their session isn't known yet",
                "aggregate right over it: GROUP BY the PARTITION BY columns, window_start, window_end",
            )
            .at(windows.position));
        }
        let spec = WindowAssignSpec { window: windows.shape.kind(), time: windows.time };
        let input = windows.input.materialize(graph, step)?;
        let Base { mut schema, window_times, .. } = self.base;
        // No watermark says when such a window is complete, so it is no window to those who would wait for its end.
        if windows.time == TimeDomain::ProcessingTime {
            schema.window = None;
        }
        let node = graph.add_operator(
            step,
            Operator {
                part: "window",
                spec: OperatorSpec::WindowAssign(spec),
                inputs: vec![(input, Distribution::Any)],
                partitioning: graph.partitioning(input).to_vec(),
                schema: schema.clone(),
                window_times: window_times.clone(),
            },
        )?;
        let base = Base { node, schema, window_times, pending: Pending::Nothing };
        Ok(Relation { base, filters: self.filters, columns: self.columns })
    }

    /// With window columns to come behind its own.
    pub(crate) fn with_windows(
        self,
        shape: Shape,
        time: TimeDomain,
        partition: Vec<usize>,
        position: Option<Position>,
    ) -> Relation {
        let own = self.columns.len();
        let added = [WINDOW_START, WINDOW_END, WINDOW_TIME].map(|name| Field::new(name, TIMESTAMP, false));
        let fields = self.columns.iter().map(|column| column.field.clone()).chain(added);
        let mut time_columns: Vec<usize> = (0..own).filter(|index| self.is_time(*index)).collect();
        let mut window_times = self.window_times();
        // Assigning a window doesn't hold a row back, so `window_time`, ahead of the row's time, is in time too.
        if matches!(time, TimeDomain::EventTime { .. }) {
            time_columns.push(own + 2);
            window_times = vec![own + 2];
        }
        let window = Some(WindowColumns { start: own, end: own + 1 });
        let schema = StreamSchema { fields: fields_of_stream(fields, false), time_columns, window };
        let node = self.base.node;
        let pending = Pending::Windows(PendingWindows { input: Box::new(self), shape, time, partition, position });
        Relation::of_base(Base { node, schema, window_times, pending })
    }

    /// Columns that hold the time of a window.
    fn window_times(&self) -> Vec<usize> {
        let columns = self.columns.iter().enumerate();
        let columns = columns.filter(|(_, column)| column.time == Some(TimeAttribute::Window));
        columns.map(|(index, _)| index).collect()
    }
}

fn window_among(base: &StreamSchema, columns: &[Column]) -> Option<WindowColumns> {
    let position = |wanted: usize| columns.iter().position(|column| as_column(&column.expression) == Some(wanted));
    let window = base.window?;
    Some(WindowColumns { start: position(window.start)?, end: position(window.end)? })
}
