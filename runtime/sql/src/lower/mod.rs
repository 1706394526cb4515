//! A logical plan to nodes of the job graph, bottom up.

mod aggregate;
mod join;
mod rank;
mod union;

use crate::catalog::Catalog;
use crate::error::{Planned, Position, Problem, position_of};
use crate::expression::{Physical, column, physical};
use crate::functions::{PROCTIME, canonical_type};
use crate::graph::{GraphBuilder, Step};
use crate::relation::{Column, Relation};
use crate::window_tvf::WindowTable;
use arrow::datatypes::DataType;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::logical_plan::{Distinct, Limit, TableScan};
use datafusion_expr::{Expr, LogicalPlan};
use std::collections::HashSet;
use weir_model::graph::{NodeId, TimeDomain};

/// Adds the nodes of a step's query; returns the one that emits its result.
pub(crate) fn lower_query(
    plan: &LogicalPlan,
    catalog: &Catalog,
    graph: &mut GraphBuilder,
    step: &mut Step<'_>,
) -> Planned<NodeId> {
    let own_nodes = graph.len();
    let mut lowering = Lowering { catalog, graph, step, shared: vec![] };
    let mut relation = lowering.lower(plan)?;
    let mut names = HashSet::new();
    for result in &mut relation.columns {
        let name = result.field.name();
        if !names.insert(name.clone()) {
            return Err(Problem::new(
                format!("two result columns are named `{name}`"),
                format!("give one of them another name ({name} AS ..), and name the columns instead of *"),
            ));
        }
        let canonical = canonical_type(result.field.data_type());
        if matches!(canonical, DataType::Duration(_) | DataType::Interval(_)) {
            return Err(Problem::new(
                format!("the result column `{name}` is an interval, which no sink can write"),
                "use TIMESTAMPDIFF(SECOND, a, b), which is a BIGINT",
            ));
        }
        result.field.set_data_type(canonical);
    }
    let relation = relation.settle(graph, step)?;
    // A step has a node of its own even when it only passes rows on.
    let own = relation.base.node.0 >= own_nodes;
    if own { relation.materialize(graph, step) } else { relation.add_calc(graph, step) }
}

pub(crate) struct Lowering<'a, 'b> {
    catalog: &'a Catalog,
    graph: &'a mut GraphBuilder,
    step: &'a mut Step<'b>,
    /// Stateful parts that stand several times in the query (a WITH read twice) are computed once.
    shared: Vec<(LogicalPlan, Relation)>,
}

impl Lowering<'_, '_> {
    fn lower(&mut self, plan: &LogicalPlan) -> Planned<Relation> {
        let shareable = matches!(plan, LogicalPlan::Aggregate(_) | LogicalPlan::Join(_) | LogicalPlan::Distinct(_));
        if shareable && let Some((_, relation)) = self.shared.iter().find(|(known, _)| known == plan) {
            return Ok(relation.clone());
        }
        let relation = self.lower_new(plan)?;
        if shareable {
            self.shared.push((plan.clone(), relation.clone()));
        }
        Ok(relation)
    }

    fn lower_new(&mut self, plan: &LogicalPlan) -> Planned<Relation> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.lower(&alias.input),
            LogicalPlan::Projection(projection) => {
                let input = self.lower(&projection.input)?;
                let columns = self.columns(&projection.expr, projection.input.schema(), &projection.schema)?;
                input.project(columns, self.graph, self.step)
            }
            LogicalPlan::Filter(filter) => {
                let mut input = self.lower(&filter.input)?;
                let predicate = self.expression(&filter.predicate, filter.input.schema())?;
                input.filter(predicate)?;
                input.bound_rank();
                Ok(input)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => self.distinct(input),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Window(window) => self.row_number(window),
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<WindowTable>() {
                Some(windows) => self.window_table(windows),
                None => Err(Problem::new(format!("{} is not supported", extension.node.name()), "leave it out")),
            },
            LogicalPlan::Sort(_) => Err(Problem::new(
                "ORDER BY without LIMIT: an unbounded stream has no last row to sort up to",
                "leave ORDER BY out, or add LIMIT n",
            )),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
                Err(Problem::new("a query without FROM", "read a step: SELECT .. FROM <step>"))
            }
            other => Err(Problem::new(
                format!(
                    "{} is not supported",
                    other.display().to_string().split([':', '(']).next().unwrap_or_default()
                ),
                "see the supported queries in the SQL page of the documentation",
            )),
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Planned<Relation> {
        let name = scan.table_name.table();
        let table = self.catalog.table(name).ok_or_else(|| Problem::new(format!("no step `{name}`"), "name a step"))?;
        let mut relation = Relation::of_node(self.graph, table.node);
        if let Some(projection) = &scan.projection {
            relation.columns = projection.iter().map(|index| relation.columns[*index].clone()).collect();
        }
        Ok(relation)
    }

    fn window_table(&mut self, windows: &WindowTable) -> Planned<Relation> {
        let input = self.lower(&windows.input)?;
        let position = windows.position();
        if input.is_updating() {
            return Err(Problem::new(
                "a window over an updating input: a row that is taken back may lie in a window already emitted",
                "window the append-only input, before the aggregate or join that makes it updating",
            )
            .at(position));
        }
        let schema = windows.input.schema();
        let index_of = |column: &datafusion_common::Column| schema.index_of_column(column);
        let time = match &windows.time {
            None => None,
            Some(time) => {
                let index = index_of(time)?;
                if !input.is_time(index) {
                    return Err(not_a_time(&time.name, &input).at(position_of(time.spans().first())).at(position));
                }
                Some(index)
            }
        };
        let partition = windows.partition.iter().map(index_of).collect::<Result<Vec<_>, _>>()?;
        let time = time.map_or(TimeDomain::ProcessingTime, |column| TimeDomain::EventTime { column });
        let input = input.settle(self.graph, self.step)?;
        Ok(input.with_windows(windows.shape, time, partition, position))
    }

    /// ORDER BY .. LIMIT n: the n first rows of all there ever were.
    fn limit(&mut self, limit: &Limit) -> Planned<Relation> {
        let LogicalPlan::Sort(sort) = limit.input.as_ref() else {
            return Err(Problem::new(
                "LIMIT without ORDER BY: which rows it keeps would depend on their arrival",
                "add ORDER BY before it",
            ));
        };
        let number = |expression: &Option<Box<Expr>>| match expression.as_deref() {
            None => Ok(None),
            Some(Expr::Literal(ScalarValue::Int64(Some(number)), _)) => Ok(u64::try_from(*number).ok()),
            Some(_) => Err(Problem::new("LIMIT and OFFSET that are not numbers", "write a number")),
        };
        let (skip, fetch) = (number(&limit.skip)?.unwrap_or(0), number(&limit.fetch)?);
        let Some(fetch) = fetch.filter(|fetch| *fetch > 0) else {
            return Err(Problem::new("OFFSET without LIMIT, or LIMIT 0", "add LIMIT n"));
        };
        self.first_rows(sort, skip, fetch)
    }

    /// Columns for these expressions over `input`, named as in `output`.
    fn columns(&self, expressions: &[Expr], input: &DFSchema, output: &DFSchema) -> Planned<Vec<Column>> {
        let columns = expressions.iter().zip(output.fields()).map(|(expression, field)| {
            let computed = self.expression(expression, input)?;
            // What the planner says about nulls is not relied upon.
            let nullable = match expression {
                Expr::Column(_) => field.is_nullable(),
                _ => true,
            };
            let data_type = computed.data_type(input.as_arrow())?;
            let field = arrow::datatypes::Field::new(field.name(), data_type, nullable);
            Ok(Column { field, expression: computed, time: None })
        });
        columns.collect()
    }

    /// An expression over the columns of `schema`.
    fn expression(&self, expression: &Expr, schema: &DFSchema) -> Planned<Physical> {
        refuse_proctime(expression)?;
        physical(expression, schema).map_err(|error| Problem::from(error).at(place_of(expression)))
    }
}

/// Where the first column of an expression stands.
fn place_of(expression: &Expr) -> Option<Position> {
    let mut place = None;
    let _ = expression.apply(|node| {
        if let Expr::Column(column) = node
            && let Some(position) = position_of(column.spans().first())
        {
            place = Some(position);
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    place
}

fn is_proctime(expression: &Expr) -> bool {
    matches!(expression, Expr::ScalarFunction(call) if call.func.name() == PROCTIME)
}

fn refuse_proctime(expression: &Expr) -> Planned<()> {
    let mut found = false;
    let _ = expression.apply(|node| {
        found |= is_proctime(node);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    if found {
        return Err(Problem::new(
            "PROCTIME() is the clock, which has no value that a replay would repeat",
            "it stands in DESCRIPTOR(PROCTIME()) and ORDER BY PROCTIME() only; use a time column of the record",
        ));
    }
    Ok(())
}

/// A column used as a time attribute that is none.
fn not_a_time(name: &str, relation: &Relation) -> Problem {
    let times = relation.time_names();
    let remedy = if times.is_empty() {
        "none of its columns is: declare `watermark` on the source and pass its column on unchanged, \
         or use DESCRIPTOR(PROCTIME())"
            .to_owned()
    } else {
        let times: Vec<String> = times.into_iter().map(|time| format!("`{time}`")).collect();
        format!("use {}", times.join(" or "))
    };
    Problem::new(format!("`{name}` is not a time attribute: no watermark speaks of it"), remedy)
}

/// Columns that an operator needs, each once.
#[derive(Default)]
struct Needed {
    columns: Vec<Column>,
}

impl Needed {
    /// The position of the column, added if it isn't there yet.
    fn position(&mut self, wanted: Column) -> usize {
        if let Some(known) = self.columns.iter().position(|column| column.expression.eq(&wanted.expression)) {
            return known;
        }
        self.columns.push(wanted);
        self.columns.len() - 1
    }
}

/// Column `index` of a node, as a column of a relation over it.
fn column_of(graph: &GraphBuilder, node: NodeId, index: usize, name: &str) -> Column {
    let field = graph.node(node).schema.fields.field(index).clone();
    Column { expression: column(field.name(), index), field: field.with_name(name), time: None }
}
