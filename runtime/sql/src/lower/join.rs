//! Joins: regular, interval and window joins, told apart by their conditions.

use super::{Lowering, Needed, column_of, place_of};
use crate::error::{Planned, Position, Problem};
use crate::expression::{Physical, as_column, column, compile, conjunction, conjuncts, is_true, quoted, substitute};
use crate::graph::{Distribution, GraphBuilder, Operator, fields_of_stream};
use crate::relation::{Column, Relation, TimeAttribute};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::{JoinType, NullEquality, ScalarValue};
use datafusion_expr::Operator as BinaryOperator;
use datafusion_expr::logical_plan::Join;
use datafusion_physical_expr::expressions::{BinaryExpr, CastExpr, Literal};
use weir_model::graph::*;

/// One side: its columns, then key columns that are computed.
struct Side {
    relation: Relation,
    needed: Needed,
    visible: usize,
    keys: Vec<usize>,
}

impl Side {
    fn new(relation: Relation) -> Side {
        let columns = relation.columns.clone();
        Side { visible: columns.len(), needed: Needed { columns }, keys: vec![], relation }
    }

    fn position(&mut self, key: Physical, schema: &Schema) -> Planned<usize> {
        // A visible column keeps its own position even where another one is the same.
        if let Some(index) = as_column(&key) {
            return Ok(index);
        }
        let field = Field::new(crate::expression::sql_of(&key), key.data_type(schema)?, true);
        let expression = self.relation.over_base(key)?;
        Ok(self.needed.position(Column { expression, field, time: None }))
    }

    fn window(&self) -> Option<WindowColumns> {
        self.relation.window()
    }

    fn time(&self, column: usize) -> Option<TimeAttribute> {
        self.needed.columns.get(column).and_then(|column| column.time)
    }
}

/// What kind of join it is, with the keys that remain.
enum Shape {
    Regular,
    Interval { left_time: usize, right_time: usize, lower_us: i64, upper_us: i64 },
    Window { left: WindowColumns, right: WindowColumns },
}

impl Lowering<'_, '_> {
    pub(super) fn join(&mut self, join: &Join) -> Planned<Relation> {
        let place = join_place(join);
        let problem = |reason: &str, remedy: &str| Err(Problem::new(reason, remedy).at(place));
        let (kind, swapped) = match join.join_type {
            JoinType::Inner => (JoinKind::Inner, false),
            JoinType::Left => (JoinKind::Left, false),
            JoinType::Right => (JoinKind::Right, false),
            JoinType::Full => (JoinKind::Full, false),
            JoinType::LeftSemi => (JoinKind::Semi, false),
            JoinType::LeftAnti => (JoinKind::Anti, false),
            JoinType::RightSemi => (JoinKind::Semi, true),
            JoinType::RightAnti => (JoinKind::Anti, true),
            JoinType::LeftMark | JoinType::RightMark => {
                return problem(
                    "EXISTS or IN under OR, or selected as a value, is not supported",
                    "put it alone or under AND in WHERE, or join the queries with UNION ALL",
                );
            }
        };
        if join.null_aware {
            return problem(
                "NOT IN (SELECT ..): one NULL in the subquery would empty the whole result",
                "write WHERE NOT EXISTS (SELECT 1 FROM .. WHERE ..)",
            );
        }
        if join.null_equality == NullEquality::NullEqualsNull && !join.on.is_empty() {
            return problem("a join in which NULL equals NULL is not supported", "join on COALESCE(column, ..)");
        }
        let mut left = Side::new(self.lower(&join.left)?.settle(self.graph, self.step)?);
        let mut right = Side::new(self.lower(&join.right)?.settle(self.graph, self.step)?);
        let (left_schema, right_schema) = (join.left.schema(), join.right.schema());
        for (left_key, right_key) in &join.on {
            let (left_key, right_key) =
                (self.expression(left_key, left_schema)?, self.expression(right_key, right_schema)?);
            let (left_type, right_type) =
                (left_key.data_type(left_schema.as_arrow())?, right_key.data_type(right_schema.as_arrow())?);
            if left_type != right_type {
                // Rows meet by the hash of their keys, which types have part in.
                return problem(
                    &format!("the join compares {left_type} with {right_type}"),
                    "cast one side: CAST(.. AS BIGINT)",
                );
            }
            let left_position = left.position(left_key, left_schema.as_arrow())?;
            let right_position = right.position(right_key, right_schema.as_arrow())?;
            left.keys.push(left_position);
            right.keys.push(right_position);
        }
        let mut residual = vec![];
        if let Some(filter) = &join.filter {
            let both = left_schema.join(right_schema)?;
            conjuncts(self.expression(filter, &both)?, &mut residual);
            residual.retain(|part| !is_true(part));
        }
        if swapped {
            let (left_columns, right_columns) = (left.visible, right.visible);
            residual = residual
                .into_iter()
                .map(|part| {
                    substitute(part, &|index| match index < left_columns {
                        true => column("", index + right_columns),
                        false => column("", index - left_columns),
                    })
                })
                .collect::<Result<_, _>>()?;
            std::mem::swap(&mut left, &mut right);
        }
        let shape = shape_of(&mut left, &mut right, &mut residual, place)?;
        if left.keys.is_empty() && matches!(shape, Shape::Regular) {
            return problem(
                "a join without an equality between its inputs: every row would meet every other",
                "add one: ON a.key = b.key, or bound the time: a.ts BETWEEN b.ts - INTERVAL '1' HOUR AND b.ts",
            );
        }
        self.add_join(left, right, kind, shape, residual)
    }

    fn add_join(
        &mut self,
        left: Side,
        right: Side,
        kind: JoinKind,
        shape: Shape,
        residual: Vec<Physical>,
    ) -> Planned<Relation> {
        let times: Vec<Option<TimeAttribute>> =
            left.needed.columns.iter().chain(&right.needed.columns).map(|column| column.time).collect();
        let append_only = !left.relation.is_updating() && !right.relation.is_updating();
        let Side { relation, needed, visible: left_visible, keys: left_keys } = left;
        let left_node = Relation { columns: needed.columns, ..relation }.materialize(self.graph, self.step)?;
        let Side { relation, needed, visible: right_visible, keys: right_keys } = right;
        let right_node = Relation { columns: needed.columns, ..relation }.materialize(self.graph, self.step)?;

        let left_fields = value_fields(self.graph, left_node);
        let right_fields = value_fields(self.graph, right_node);
        let left_columns = left_fields.len();
        let with_right = !matches!(kind, JoinKind::Semi | JoinKind::Anti);
        let both = Schema::new([left_fields.clone(), right_fields.clone()].concat());
        // The condition speaks of visible columns; the right side begins behind the left side's key columns.
        let name = |index: usize| {
            let side = if index < left_columns { "left" } else { "right" };
            format!("{side}.{}", quoted(both.field(index).name()))
        };
        let place = |index: usize| if index < left_visible { index } else { index - left_visible + left_columns };
        let residual = residual
            .into_iter()
            .map(|part| substitute(part, &|index| column(&name(place(index)), place(index))))
            .collect::<Result<Vec<_>, _>>()?;
        let residual = conjunction(residual);
        let residual = residual.map(|residual| compile(residual, &both, &DataType::Boolean)).transpose()?;

        let updating = match shape {
            Shape::Regular => !(kind == JoinKind::Inner && append_only),
            Shape::Interval { .. } | Shape::Window { .. } => false,
        };
        let left_nulls = matches!(kind, JoinKind::Right | JoinKind::Full);
        let right_nulls = matches!(kind, JoinKind::Left | JoinKind::Full);
        let nullable = |fields: Vec<Field>, nulls: bool| {
            fields.into_iter().map(move |field| {
                let nullable = field.is_nullable() || nulls;
                field.with_nullable(nullable)
            })
        };
        let mut fields: Vec<Field> = nullable(left_fields, left_nulls).collect();
        if with_right {
            fields.extend(nullable(right_fields, right_nulls));
        }
        let mut partitioning = vec![];
        if !left_keys.is_empty() && !left_nulls {
            partitioning.push(left_keys.clone());
        }
        if !right_keys.is_empty() && !right_nulls && with_right {
            partitioning.push(right_keys.iter().map(|key| key + left_columns).collect());
        }
        // Which of the times still hold behind the join.
        let holds = |index: usize| match shape {
            Shape::Regular => false,
            Shape::Interval { left_time, right_time, .. } => index == left_time || index == left_columns + right_time,
            Shape::Window { .. } => times[index] == Some(TimeAttribute::Window),
        };
        // Nor is a time that may be null one to go by.
        let padded = |index: usize| if index < left_columns { left_nulls } else { right_nulls };
        let time_columns: Vec<usize> =
            (0..fields.len()).filter(|index| times[*index].is_some() && holds(*index) && !padded(*index)).collect();
        let is_window_time = |index: &usize| times[*index] == Some(TimeAttribute::Window);
        let window_times = time_columns.iter().copied().filter(is_window_time).collect();
        let window = match &shape {
            Shape::Window { left, .. } if !left_nulls => Some(*left),
            Shape::Window { right, .. } if !right_nulls => {
                Some(WindowColumns { start: right.start + left_columns, end: right.end + left_columns })
            }
            _ => None,
        };
        let inputs = vec![
            (left_node, Distribution::Keys(left_keys.clone())),
            (right_node, Distribution::Keys(right_keys.clone())),
        ];
        let (part, spec) = match shape {
            Shape::Regular => {
                let state_ttl_ms = self.step.state_ttl_ms;
                ("join", OperatorSpec::Join(JoinSpec { kind, left_keys, right_keys, residual, state_ttl_ms }))
            }
            Shape::Interval { left_time, right_time, lower_us, upper_us } => (
                "interval-join",
                OperatorSpec::IntervalJoin(IntervalJoinSpec {
                    kind,
                    left_keys,
                    right_keys,
                    left_time,
                    right_time,
                    lower_us,
                    upper_us,
                    residual,
                }),
            ),
            Shape::Window { left: left_window, right: right_window } => (
                "window-join",
                OperatorSpec::WindowJoin(WindowJoinSpec {
                    kind,
                    left_keys,
                    right_keys,
                    left_window,
                    right_window,
                    residual,
                }),
            ),
        };
        let schema = StreamSchema { fields: fields_of_stream(fields, updating), time_columns, window };
        let node =
            self.graph.add_operator(self.step, Operator { part, spec, inputs, schema, partitioning, window_times })?;
        let mut visible: Vec<usize> = (0..left_visible).collect();
        if with_right {
            visible.extend((0..right_visible).map(|index| index + left_columns));
        }
        let relation = Relation::of_node(self.graph, node);
        let columns = visible.into_iter().map(|index| {
            let time = relation.columns[index].time;
            let name = relation.columns[index].field.name();
            Column { time, ..column_of(self.graph, node, index, name) }
        });
        Ok(Relation { columns: columns.collect(), ..relation })
    }
}

fn value_fields(graph: &GraphBuilder, node: NodeId) -> Vec<Field> {
    let schema = &graph.node(node).schema;
    schema.fields.fields()[..schema.value_columns()].iter().map(|field| field.as_ref().clone()).collect()
}

/// Tells the join's kind, and takes the conditions that make it so out of the keys and the residual.
fn shape_of(
    left: &mut Side,
    right: &mut Side,
    residual: &mut Vec<Physical>,
    place: Option<Position>,
) -> Planned<Shape> {
    if left.relation.is_updating() || right.relation.is_updating() {
        return Ok(Shape::Regular);
    }
    if let (Some(left_window), Some(right_window)) = (left.window(), right.window()) {
        let pairs: Vec<(usize, usize)> = left.keys.iter().copied().zip(right.keys.iter().copied()).collect();
        let bounds = [(left_window.start, right_window.start), (left_window.end, right_window.end)];
        match bounds.iter().filter(|bound| pairs.contains(bound)).count() {
            2 => {
                let rest: Vec<_> = pairs.into_iter().filter(|pair| !bounds.contains(pair)).collect();
                (left.keys, right.keys) = rest.into_iter().unzip();
                return Ok(Shape::Window { left: left_window, right: right_window });
            }
            1 => {
                return Err(Problem::new(
                    "a join of windows on one of their bounds only",
                    "join on both: a.window_start = b.window_start AND a.window_end = b.window_end",
                )
                .at(place));
            }
            _ => {}
        }
    }
    interval(left, right, residual, place).map(|interval| interval.unwrap_or(Shape::Regular))
}

/// Both bounds between a time attribute of each side, if they are there.
fn interval(
    left: &mut Side,
    right: &mut Side,
    residual: &mut Vec<Physical>,
    place: Option<Position>,
) -> Planned<Option<Shape>> {
    // Equal times: an interval of no length.
    let equal =
        left.keys.iter().zip(&right.keys).position(|(l, r)| left.time(*l).is_some() && right.time(*r).is_some());
    if let Some(pair) = equal {
        let (left_time, right_time) = (left.keys[pair], right.keys[pair]);
        if left.keys.len() > 1 {
            left.keys.remove(pair);
            right.keys.remove(pair);
        }
        return Ok(Some(Shape::Interval { left_time, right_time, lower_us: 0, upper_us: 0 }));
    }
    let bounds: Vec<(usize, Bound)> =
        residual.iter().enumerate().filter_map(|(index, part)| Some((index, bound(part, left, right)?))).collect();
    for (_, first) in &bounds {
        let of_pair = || bounds.iter().filter(|(_, bound)| (bound.left, bound.right) == (first.left, first.right));
        let lower = of_pair().filter_map(|(_, bound)| bound.lower).max();
        let upper = of_pair().filter_map(|(_, bound)| bound.upper).min();
        let (Some(lower_us), Some(upper_us)) = (lower, upper) else { continue };
        if lower_us > upper_us {
            return Err(Problem::new("the time bounds of the join exclude each other", "swap them").at(place));
        }
        let taken: Vec<usize> = of_pair().map(|(index, _)| *index).collect();
        let (left_time, right_time) = (first.left, first.right);
        let mut index = 0;
        residual.retain(|_| {
            index += 1;
            !taken.contains(&(index - 1))
        });
        return Ok(Some(Shape::Interval { left_time, right_time, lower_us, upper_us }));
    }
    Ok(None)
}

/// `lower <= left - right <= upper`, in microseconds; one or both of them.
struct Bound {
    left: usize,
    right: usize,
    lower: Option<i64>,
    upper: Option<i64>,
}

fn bound(condition: &Physical, left: &Side, right: &Side) -> Option<Bound> {
    let binary = condition.downcast_ref::<BinaryExpr>()?;
    let (mut first, mut second) = (linear(binary.left())?, linear(binary.right())?);
    let mut operator = *binary.op();
    if first.0 >= left.visible {
        std::mem::swap(&mut first, &mut second);
        operator = operator.swap()?;
    }
    let (left_time, right_time) = (first.0, second.0.checked_sub(left.visible)?);
    if left_time >= left.visible || left.time(left_time).is_none() || right.time(right_time).is_none() {
        return None;
    }
    let distance = second.1.checked_sub(first.1)?;
    let (lower, upper) = match operator {
        BinaryOperator::GtEq => (Some(distance), None),
        BinaryOperator::Gt => (Some(distance.checked_add(1)?), None),
        BinaryOperator::LtEq => (None, Some(distance)),
        BinaryOperator::Lt => (None, Some(distance.checked_sub(1)?)),
        BinaryOperator::Eq => (Some(distance), Some(distance)),
        _ => return None,
    };
    Some(Bound { left: left_time, right: right_time, lower, upper })
}

/// A column plus a constant number of microseconds.
fn linear(expression: &Physical) -> Option<(usize, i64)> {
    if let Some(index) = as_column(expression) {
        return Some((index, 0));
    }
    if let Some(cast) = expression.downcast_ref::<CastExpr>() {
        return matches!(cast.cast_type(), DataType::Timestamp(_, None)).then(|| linear(cast.expr())).flatten();
    }
    let binary = expression.downcast_ref::<BinaryExpr>()?;
    match binary.op() {
        BinaryOperator::Plus => {
            let (time, interval) = match literal_micros(binary.right()) {
                Some(interval) => (binary.left(), interval),
                None => (binary.right(), literal_micros(binary.left())?),
            };
            let (index, offset) = linear(time)?;
            Some((index, offset.checked_add(interval)?))
        }
        BinaryOperator::Minus => {
            let (index, offset) = linear(binary.left())?;
            Some((index, offset.checked_sub(literal_micros(binary.right())?)?))
        }
        _ => None,
    }
}

fn literal_micros(expression: &Physical) -> Option<i64> {
    let value: &ScalarValue = expression.downcast_ref::<Literal>()?.value();
    crate::window_tvf::interval_micros(&datafusion_expr::Expr::Literal(value.clone(), None))
}

fn join_place(join: &Join) -> Option<Position> {
    let keys = join.on.iter().flat_map(|(left, right)| [left, right]);
    keys.chain(&join.filter).find_map(place_of)
}
