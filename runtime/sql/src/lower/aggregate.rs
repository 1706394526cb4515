//! GROUP BY and DISTINCT: a group aggregate, or a window aggregate where the groups are windows.

use super::{Lowering, Needed, column_of, place_of};
use crate::error::{Planned, Position, Problem};
use crate::expression::{Physical, as_column, column, columns_of, sql_of, substitute};
use crate::functions::{function_of, sql_name};
use crate::graph::{Distribution, GraphBuilder, Operator, fields_of_stream};
use crate::relation::{Column, Pending, PendingWindows, Relation, TimeAttribute};
use crate::window_tvf::{Shape, WINDOW_END, WINDOW_START};
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano};
use datafusion_common::ScalarValue;
use datafusion_expr::expr::AggregateFunction as AggregateExpr;
use datafusion_expr::logical_plan::Aggregate;
use datafusion_expr::{Expr, LogicalPlan, Operator as BinaryOperator};
use datafusion_physical_expr::expressions::{BinaryExpr, Literal};
use std::sync::Arc;
use weir_model::graph::*;
use weir_model::types::TIMESTAMP;

/// `window_time` lies this far before `window_end`.
const WINDOW_TIME_GAP_NS: i64 = 1_000_000;

/// One aggregate as the query wrote it, its expressions over the base's columns.
struct Call {
    function: AggregateFunction,
    argument: Option<Column>,
    distinct: bool,
    filter: Option<Column>,
    name: String,
    data_type: DataType,
}

/// One expression of GROUP BY.
enum Group {
    Key(Column),
    WindowStart,
    WindowEnd,
    WindowTime,
}

impl Lowering<'_, '_> {
    pub(super) fn aggregate(&mut self, aggregate: &Aggregate) -> Planned<Relation> {
        let input = self.lower(&aggregate.input)?.settle_rank(self.graph, self.step)?;
        if let Some(set) = aggregate.group_expr.iter().find(|group| matches!(group, Expr::GroupingSet(_))) {
            return Err(Problem::new(
                "GROUPING SETS, ROLLUP and CUBE are not supported",
                "write one query for each set and join them with UNION ALL",
            )
            .at(place_of(set)));
        }
        let input_schema = aggregate.input.schema();
        let keys = aggregate.group_expr.len();
        let names: Vec<&str> = aggregate.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let groups = self.columns(&aggregate.group_expr, input_schema, &aggregate.schema)?;
        let groups = groups.into_iter().map(|group| over_base(&input, group)).collect::<Planned<Vec<_>>>()?;
        let mut calls = vec![];
        for (expression, field) in aggregate.aggr_expr.iter().zip(&aggregate.schema.fields()[keys..]) {
            let call = self.call(expression, &input, &aggregate.input)?;
            calls.push(Call { data_type: field.data_type().clone(), ..call });
        }
        unique_names(&mut calls);
        let place = aggregate.group_expr.iter().chain(&aggregate.aggr_expr).find_map(place_of);
        self.group(input, groups, calls, &names, place)
    }

    /// SELECT DISTINCT is GROUP BY all columns.
    pub(super) fn distinct(&mut self, plan: &LogicalPlan) -> Planned<Relation> {
        let input = self.lower(plan)?.settle_rank(self.graph, self.step)?;
        let names: Vec<String> = input.columns.iter().map(|column| column.field.name().clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let groups = input.columns.clone();
        self.group(input, groups, vec![], &names, None)
    }

    /// `groups` and `calls` are over the base of `input`; the result has a column for each, with these names.
    fn group(
        &mut self,
        mut input: Relation,
        groups: Vec<Column>,
        calls: Vec<Call>,
        names: &[&str],
        place: Option<Position>,
    ) -> Planned<Relation> {
        let mut by_window = None;
        if let Some(window) = input.base.schema.window {
            let grouped = |wanted: usize| groups.iter().any(|group| as_column(&group.expression) == Some(wanted));
            if grouped(window.start) || grouped(window.end) {
                by_window = Some(window);
            }
        }
        let Some(window) = by_window else {
            let input = input.settle(self.graph, self.step)?;
            return self.group_aggregate(input, groups, calls, names);
        };
        if input.is_updating() {
            return Err(Problem::new(
                "a window aggregate over an updating input: a row that is taken back may lie in a window already emitted",
                "aggregate the append-only input by window first, or group without the window columns",
            )
            .at(place));
        }
        let window_time = input.base.window_times.first().copied();
        let groups = groups
            .into_iter()
            .map(|group| match as_column(&group.expression) {
                Some(index) if index == window.start => Group::WindowStart,
                Some(index) if index == window.end => Group::WindowEnd,
                Some(index) if Some(index) == window_time => Group::WindowTime,
                _ => Group::Key(group),
            })
            .collect::<Vec<_>>();
        let late_filters = self.split_filters(&mut input, &groups, &calls)?;
        self.window_aggregate(input, window, &groups, calls, names, late_filters)
    }

    fn group_aggregate(
        &mut self,
        input: Relation,
        groups: Vec<Column>,
        calls: Vec<Call>,
        names: &[&str],
    ) -> Planned<Relation> {
        let mut needed = Needed::default();
        let positions: Vec<usize> = groups.into_iter().map(|group| needed.position(group)).collect();
        let mut keys = positions.clone();
        keys.sort_unstable();
        keys.dedup();
        let aggregates = aggregate_calls(calls, &mut needed);
        let node = self.compute(input, needed)?;
        let fields = self.graph.node(node).schema.fields.clone();
        let key_fields = keys.iter().map(|key| fields.field(*key).clone());
        let outputs = aggregates.iter().map(|aggregate| aggregate.output.as_ref().clone());
        let schema = StreamSchema::append_only(fields_of_stream(key_fields.chain(outputs), true));
        let spec = GroupAggregateSpec {
            keys: keys.clone(),
            aggregates,
            state_ttl_ms: self.step.state_ttl_ms,
            update_before: true,
        };
        let node = self.graph.add_operator(
            self.step,
            Operator {
                part: "aggregate",
                spec: OperatorSpec::GroupAggregate(spec),
                inputs: vec![(node, Distribution::Keys(keys.clone()))],
                schema,
                partitioning: vec![(0..keys.len()).collect()],
                window_times: vec![],
            },
        )?;
        let place_of_key = |position: &usize| keys.iter().position(|key| key == position).unwrap_or_default();
        let mut order: Vec<usize> = positions.iter().map(place_of_key).collect();
        order.extend((0..names.len() - positions.len()).map(|call| keys.len() + call));
        let columns = order.iter().zip(names).map(|(index, name)| column_of(self.graph, node, *index, name)).collect();
        Ok(Relation { columns, ..Relation::of_node(self.graph, node) })
    }

    fn window_aggregate(
        &mut self,
        input: Relation,
        window: WindowColumns,
        groups: &[Group],
        calls: Vec<Call>,
        names: &[&str],
        late_filters: Vec<Physical>,
    ) -> Planned<Relation> {
        let mut needed = Needed::default();
        let mut keys = vec![];
        let mut key_of_group = vec![];
        for group in groups {
            let Group::Key(key) = group else {
                key_of_group.push(None);
                continue;
            };
            let position = needed.position(key.clone());
            let key = keys.iter().position(|key| *key == position).unwrap_or_else(|| {
                keys.push(position);
                keys.len() - 1
            });
            key_of_group.push(Some(key));
        }
        let pending = match &input.base.pending {
            Pending::Windows(windows) => Some(windows.clone()),
            _ => None,
        };
        if let Some(windows) = &pending {
            check_session(windows, &keys, &needed)?;
        }
        let aggregates = aggregate_calls(calls, &mut needed);
        let base_column = |index: usize| {
            let field = input.base.schema.fields.field(index).clone();
            Column { expression: column(field.name(), index), field, time: None }
        };
        let (kind, time, assigned) = match &pending {
            Some(windows) => {
                let time = match windows.time {
                    TimeDomain::EventTime { column } => {
                        TimeDomain::EventTime { column: needed.position(base_column(column)) }
                    }
                    TimeDomain::ProcessingTime => TimeDomain::ProcessingTime,
                };
                (windows.shape.kind(), time, None)
            }
            None => {
                let start = needed.position(base_column(window.start));
                let end = needed.position(base_column(window.end));
                let kind = assigned_by(self.graph, input.base.node)?;
                (kind, TimeDomain::EventTime { column: end }, Some(WindowColumns { start, end }))
            }
        };
        let node = match pending {
            // The aggregate assigns the windows by itself, so what it reads is computed from the rows without them.
            Some(windows) => {
                let mut rows = *windows.input;
                input.filters.into_iter().try_for_each(|filter| rows.filter(filter))?;
                let rows = rows.project(needed.columns, self.graph, self.step)?;
                rows.materialize(self.graph, self.step)?
            }
            None => self.compute(input, needed)?,
        };
        let lateness = self.step.allowed_lateness_us;
        let updating = lateness > 0;
        let fields = self.graph.node(node).schema.fields.clone();
        let key_fields = keys.iter().map(|key| fields.field(*key).clone());
        let bounds = [WINDOW_START, WINDOW_END].map(|name| Field::new(name, TIMESTAMP, false));
        let outputs = aggregates.iter().map(|aggregate| aggregate.output.as_ref().clone());
        let (start, end) = (keys.len(), keys.len() + 1);
        let event_time = matches!(time, TimeDomain::EventTime { .. });
        let schema = StreamSchema {
            fields: fields_of_stream(key_fields.chain(bounds).chain(outputs), updating),
            time_columns: vec![],
            // No watermark says when the next aggregate over a window of the clock is complete.
            window: event_time.then_some(WindowColumns { start, end }),
        };
        let spec = WindowAggregateSpec {
            keys: keys.clone(),
            window: kind,
            time,
            assigned,
            aggregates,
            allowed_lateness_us: lateness,
        };
        let node = self.graph.add_operator(
            self.step,
            Operator {
                part: "window-aggregate",
                spec: OperatorSpec::WindowAggregate(spec),
                inputs: vec![(node, Distribution::Keys(keys.clone()))],
                schema,
                partitioning: vec![(0..keys.len()).collect()],
                window_times: vec![],
            },
        )?;
        let mut columns = vec![];
        for (group, name) in groups.iter().zip(names) {
            columns.push(match group {
                Group::Key(_) => {
                    let key = key_of_group[columns.len()].unwrap_or_default();
                    column_of(self.graph, node, key, name)
                }
                Group::WindowStart => column_of(self.graph, node, start, name),
                Group::WindowEnd => column_of(self.graph, node, end, name),
                Group::WindowTime => {
                    let time = (event_time && !updating).then_some(TimeAttribute::Window);
                    Column { expression: window_time(end), field: Field::new(*name, TIMESTAMP, false), time }
                }
            });
        }
        for (call, name) in names[groups.len()..].iter().enumerate() {
            columns.push(column_of(self.graph, node, end + 1 + call, name));
        }
        let filters = late_filters
            .into_iter()
            .map(|filter| after_window(filter, groups, &key_of_group, start, &window))
            .collect::<Planned<Vec<_>>>()?;
        Ok(Relation { columns, filters, ..Relation::of_node(self.graph, node) })
    }

    /// Filters on rows whose windows are not assigned yet: those on window columns and keys alone hold for whole groups
    /// and can wait until after the aggregate. If others read window columns, the windows are assigned before.
    fn split_filters(&mut self, input: &mut Relation, groups: &[Group], calls: &[Call]) -> Planned<Vec<Physical>> {
        let Pending::Windows(window_base) = &input.base.pending else { return Ok(vec![]) };
        let node_columns = window_base.input.columns.len();
        let reads_window = |expression: &Physical| columns_of(expression).iter().any(|column| *column >= node_columns);
        let constant_in_group = |expression: &Physical| {
            columns_of(expression).iter().all(|index| {
                *index >= node_columns
                    || groups.iter().any(|group| match group {
                        Group::Key(key) => as_column(&key.expression) == Some(*index),
                        _ => false,
                    })
            })
        };
        let (windowed, early): (Vec<_>, Vec<_>) = input.filters.drain(..).partition(reads_window);
        let keys = groups.iter().filter_map(|group| match group {
            Group::Key(key) => Some(key),
            _ => None,
        });
        let inputs = calls.iter().flat_map(|call| call.argument.iter().chain(&call.filter)).chain(keys);
        let mut inputs_read_window = inputs.map(|input| &input.expression).filter(|input| reads_window(input));
        if inputs_read_window.next().is_none() && windowed.iter().all(constant_in_group) {
            input.filters = early;
            return Ok(windowed);
        }
        input.filters = early.into_iter().chain(windowed).collect();
        *input = input.clone().settle(self.graph, self.step)?;
        Ok(vec![])
    }

    /// A node that emits exactly these columns over the base of `input`, after its filters.
    fn compute(&mut self, input: Relation, needed: Needed) -> Planned<NodeId> {
        Relation { columns: needed.columns, ..input }.materialize(self.graph, self.step)
    }

    fn call(&self, expression: &Expr, input: &Relation, plan: &LogicalPlan) -> Planned<Call> {
        let refused = |reason: String, remedy: &str| Err(Problem::new(reason, remedy).at(place_of(expression)));
        let inner = match expression {
            Expr::Alias(alias) => alias.expr.as_ref(),
            other => other,
        };
        let Expr::AggregateFunction(AggregateExpr { func, params }) = inner else {
            return refused(format!("`{inner}` is not an aggregate"), "use COUNT, SUM, MIN, MAX, AVG or another one");
        };
        let Some(function) = function_of(func) else {
            return refused(format!("{} is not supported", func.name()), "use COUNT, SUM, MIN, MAX or AVG");
        };
        if !params.order_by.is_empty() || params.null_treatment.is_some() {
            return refused(
                format!(
                    "{} takes rows as they arrive: ORDER BY and IGNORE NULLS are not supported",
                    sql_name(function)
                ),
                "to pick a row by order, use ROW_NUMBER() OVER (PARTITION BY .. ORDER BY ..) = 1",
            );
        }
        let computed = |expression: &Expr| -> Planned<Column> {
            let physical = self.expression(expression, plan.schema())?;
            let data_type = physical.data_type(plan.schema().as_arrow())?;
            let physical = input.over_base(physical)?;
            let name = sql_of(&physical);
            Ok(Column { expression: physical, field: Field::new(name, data_type, true), time: None })
        };
        let argument = match (function, params.args.as_slice()) {
            (AggregateFunction::Count, [Expr::Literal(value, _)]) if !value.is_null() && !params.distinct => None,
            (_, [argument]) => Some(computed(argument)?),
            _ => return refused(format!("{} takes one argument", sql_name(function)), "pass one column or expression"),
        };
        let filter = params.filter.as_deref().map(computed).transpose()?;
        let distinct = if params.distinct { "DISTINCT " } else { "" };
        let of = argument.as_ref().map_or("*".to_owned(), |argument| argument.field.name().clone());
        let mut name = format!("{}({distinct}{of})", sql_name(function));
        if let Some(filter) = &filter {
            name += &format!(" FILTER (WHERE {})", filter.field.name());
        }
        Ok(Call { function, argument, distinct: params.distinct, filter, name, data_type: DataType::Null })
    }
}

/// A session is one key's, so the groups must be the sessions' keys.
fn check_session(windows: &PendingWindows, keys: &[usize], needed: &Needed) -> Planned<()> {
    if !matches!(windows.shape, Shape::Session { .. }) {
        return Ok(());
    }
    let mut keys: Vec<Option<usize>> = keys.iter().map(|key| as_column(&needed.columns[*key].expression)).collect();
    let mut partition: Vec<Option<usize>> = windows.partition.iter().copied().map(Some).collect();
    keys.sort_unstable();
    partition.sort_unstable();
    partition.dedup();
    if keys == partition {
        return Ok(());
    }
    let names: Vec<&str> =
        windows.partition.iter().map(|column| windows.input.columns[*column].field.name().as_str()).collect();
    let stated =
        if names.is_empty() { "no PARTITION BY".to_owned() } else { format!("PARTITION BY {}", names.join(", ")) };
    Err(Problem::new(
        format!("SESSION has {stated}, but the query groups by other columns"),
        "write the same columns in SESSION(t PARTITION BY .., ..) and in GROUP BY, beside window_start and window_end",
    )
    .at(windows.position))
}

/// A key that is computed goes by its text: state is matched by it.
fn over_base(input: &Relation, group: Column) -> Planned<Column> {
    let expression = input.over_base(group.expression)?;
    let field = match as_column(&expression) {
        Some(_) => group.field,
        None => group.field.with_name(sql_of(&expression)),
    };
    Ok(Column { expression, field, ..group })
}

fn aggregate_calls(calls: Vec<Call>, needed: &mut Needed) -> Vec<AggregateCall> {
    let calls = calls.into_iter().map(|call| AggregateCall {
        function: call.function,
        argument: call.argument.map(|argument| needed.position(argument)),
        distinct: call.distinct,
        filter: call.filter.map(|filter| needed.position(filter)),
        output: Arc::new(Field::new(call.name, call.data_type, call.function != AggregateFunction::Count)),
    });
    calls.collect()
}

/// State is matched by these names: two aggregates must not share one.
fn unique_names(calls: &mut [Call]) {
    for index in 1..calls.len() {
        let name = calls[index].name.clone();
        let before = calls[..index].iter().filter(|call| call.name == name).count();
        if before > 0 {
            calls[index].name = format!("{name}#{}", before + 1);
        }
    }
}

/// `window_end` less a millisecond.
fn window_time(end: usize) -> Physical {
    let gap = ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, WINDOW_TIME_GAP_NS)));
    Arc::new(BinaryExpr::new(column(WINDOW_END, end), BinaryOperator::Minus, Arc::new(Literal::new(gap))))
}

/// A filter over keys and window columns of the aggregate's input, as one over its output.
fn after_window(
    filter: Physical,
    groups: &[Group],
    key_of_group: &[Option<usize>],
    start: usize,
    window: &WindowColumns,
) -> Planned<Physical> {
    Ok(substitute(filter, &|index| {
        if index == window.start {
            return column(WINDOW_START, start);
        }
        if index == window.end {
            return column(WINDOW_END, start + 1);
        }
        let key = groups.iter().zip(key_of_group).find_map(|(group, key)| match group {
            Group::Key(column) if as_column(&column.expression) == Some(index) => Some((column.field.name(), (*key)?)),
            _ => None,
        });
        match key {
            Some((name, key)) => column(name, key),
            None => window_time(start + 1),
        }
    })?)
}

/// The windows that the rows of a node were assigned to, somewhere before it.
fn assigned_by(graph: &GraphBuilder, node: NodeId) -> Planned<WindowKind> {
    let mut node = node;
    loop {
        let kind = match &graph.node(node).kind {
            NodeKind::Operator(OperatorSpec::WindowAssign(spec)) => Some(spec.window),
            NodeKind::Operator(OperatorSpec::WindowAggregate(spec)) => Some(spec.window),
            _ => None,
        };
        match (kind, graph.node(node).inputs.first()) {
            (Some(WindowKind::Session { .. }), _) => {
                return Err(Problem::new(
                    "a second aggregate over the windows of SESSION is not supported",
                    "put TUMBLE over window_time, or group without the window columns",
                ));
            }
            (Some(kind), _) => return Ok(kind),
            (None, Some(edge)) => node = edge.from,
            (None, None) => {
                return Err(Problem::new(
                    "an aggregate over windows that an operator of your own has made",
                    "assign windows in SQL: FROM TABLE(TUMBLE(..))",
                ));
            }
        }
    }
}
