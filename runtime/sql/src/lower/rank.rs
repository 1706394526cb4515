//! ROW_NUMBER with a bound, and ORDER BY .. LIMIT: Top-N and deduplication.

use super::{Lowering, Needed, is_proctime, place_of};
use crate::error::{Planned, Position, Problem};
use crate::expression::{Physical, as_column, columns_of, substitute};
use crate::functions::ROW_NUMBER;
use crate::graph::{Distribution, GraphBuilder, Operator, Step, fields_of_stream};
use crate::relation::{Base, Column, Pending, PendingRank, Relation};
use arrow::datatypes::{DataType, Field};
use datafusion_common::ScalarValue;
use datafusion_expr::expr::WindowFunction;
use datafusion_expr::logical_plan::{Sort, Window};
use datafusion_expr::{Expr, Operator as BinaryOperator, SortExpr, WindowFunctionDefinition};
use datafusion_physical_expr::expressions::{BinaryExpr, CastExpr, Literal};
use std::sync::Arc;
use weir_model::graph::*;

/// Ranks beyond this are not a Top-N any more, but a sorted copy of the stream in state.
const MAX_RANK: u64 = 100_000;

impl Lowering<'_, '_> {
    /// The rank is a column to come: what becomes of it is known when its filter is.
    pub(super) fn row_number(&mut self, window: &Window) -> Planned<Relation> {
        let place = window.window_expr.iter().find_map(place_of);
        let function = match window.window_expr.as_slice() {
            [expression] => row_number_of(expression),
            _ => None,
        };
        let Some(function) = function else {
            return Err(Problem::new(
                "only one ROW_NUMBER() OVER (PARTITION BY .. ORDER BY ..) in a query is supported as a window function",
                "for others aggregate in a window: FROM TABLE(TUMBLE(..)) .. GROUP BY window_start, window_end",
            )
            .at(place));
        };
        let input = self.lower(&window.input)?;
        let schema = window.input.schema();
        let partition = function
            .params
            .partition_by
            .iter()
            .map(|expression| self.expression(expression, schema))
            .collect::<Planned<Vec<_>>>()?;
        self.ranked(input, schema, partition, &function.params.order_by, place)
    }

    /// ORDER BY .. LIMIT.
    pub(super) fn first_rows(&mut self, sort: &Sort, skip: u64, fetch: u64) -> Planned<Relation> {
        let place = sort.expr.iter().find_map(|key| place_of(&key.expr));
        let input = self.lower(&sort.input)?;
        let mut ranked = self.ranked(input, sort.input.schema(), vec![], &sort.expr, place)?;
        ranked.columns.pop();
        if let Pending::Rank(rank) = &mut ranked.base.pending {
            rank.first = skip + 1;
            rank.last = Some(skip.saturating_add(fetch));
        }
        Ok(ranked)
    }

    fn ranked(
        &mut self,
        input: Relation,
        schema: &datafusion_common::DFSchema,
        partition: Vec<Physical>,
        order: &[SortExpr],
        position: Option<Position>,
    ) -> Planned<Relation> {
        let input = input.settle(self.graph, self.step)?;
        let visible = input.columns.len();
        // The visible columns keep their positions even where two of them are one.
        let mut needed = Needed { columns: input.columns.clone() };
        let computed = |needed: &mut Needed, expression: Physical| -> Planned<usize> {
            let data_type = expression.data_type(schema.as_arrow())?;
            let name = crate::expression::sql_of(&expression);
            let time = as_column(&expression).and_then(|index| input.columns[index].time);
            let expression = input.over_base(expression)?;
            Ok(needed.position(Column { expression, field: Field::new(name, data_type, true), time }))
        };
        let partition = partition.into_iter().map(|key| computed(&mut needed, key)).collect::<Planned<Vec<_>>>()?;
        let processing_time = match order {
            [key] if is_proctime(&key.expr) => Some(!key.asc),
            _ => None,
        };
        let mut keys = vec![];
        for key in order.iter().filter(|_| processing_time.is_none()) {
            let expression = self.expression(&key.expr, schema)?;
            let column = computed(&mut needed, expression)?;
            keys.push(SortKey { column, descending: !key.asc, nulls_first: key.nulls_first });
        }
        if order.is_empty() {
            return Err(Problem::new(
                "ROW_NUMBER() without ORDER BY: the ranks would depend on the arrival of rows",
                "add ORDER BY to its OVER (..), for instance by a time column or PROCTIME()",
            )
            .at(position));
        }
        let node = Relation { columns: needed.columns, ..input }.materialize(self.graph, self.step)?;
        let mut base = Base::of_node(self.graph, node);
        let updating = base.schema.is_updating();
        let own = base.schema.fields.fields()[..base.schema.value_columns()].iter();
        let rank = Field::new(ROW_NUMBER, DataType::Int64, false);
        let fields = own.map(|field| field.as_ref().clone()).chain([rank]);
        base.schema.fields = fields_of_stream(fields, updating);
        base.pending =
            Pending::Rank(PendingRank { partition, order: keys, processing_time, first: 1, last: None, position });
        let mut relation = Relation::of_base(base);
        let hidden = visible..relation.columns.len() - 1;
        relation.columns.drain(hidden);
        Ok(relation)
    }
}

fn row_number_of(expression: &Expr) -> Option<&WindowFunction> {
    match expression {
        Expr::Alias(alias) => row_number_of(&alias.expr),
        Expr::WindowFunction(function) => match &function.fun {
            WindowFunctionDefinition::WindowUDF(udf) if udf.name() == ROW_NUMBER => Some(function),
            _ => None,
        },
        _ => None,
    }
}

impl Relation {
    /// Takes those filters that bound a pending rank.
    pub(crate) fn bound_rank(&mut self) {
        let rank_column = self.base.schema.value_columns().wrapping_sub(1);
        let Pending::Rank(rank) = &mut self.base.pending else { return };
        self.filters.retain(|filter| {
            let Some((operator, number)) = comparison(filter, rank_column) else { return true };
            let (first, last) = match operator {
                BinaryOperator::Eq => (number, Some(number)),
                BinaryOperator::LtEq => (1, Some(number)),
                BinaryOperator::Lt => (1, Some(number - 1)),
                BinaryOperator::GtEq => (number, None),
                BinaryOperator::Gt => (number + 1, None),
                _ => return true,
            };
            rank.first = rank.first.max(u64::try_from(first).unwrap_or(1));
            if let Some(last) = last.map(|last| u64::try_from(last).unwrap_or(0)) {
                rank.last = Some(rank.last.map_or(last, |known| known.min(last)));
            }
            false
        });
    }

    /// Decides on a pending rank, if there is one; leaves windows pending.
    pub(crate) fn settle_rank(self, graph: &mut GraphBuilder, step: &mut Step<'_>) -> Planned<Relation> {
        match self.base.pending {
            Pending::Rank(_) => self.rank(graph, step),
            _ => Ok(self),
        }
    }

    /// Makes the node that ranks.
    pub(crate) fn rank(self, graph: &mut GraphBuilder, step: &mut Step<'_>) -> Planned<Relation> {
        let Pending::Rank(rank) = self.base.pending.clone() else { return Ok(self) };
        let problem = |reason: String, remedy: &str| Err(Problem::new(reason, remedy).at(rank.position));
        let Some(last) = rank.last else {
            return problem(
                "ROW_NUMBER() without an upper bound: every new row would change the rank of all others".to_owned(),
                "filter it in the query around it: WHERE row_num <= 10",
            );
        };
        if last < rank.first {
            return problem("the bounds of ROW_NUMBER() leave no rank".to_owned(), "ranks begin at 1");
        }
        if last > MAX_RANK {
            return problem(
                format!("ranks up to {last}, all of them kept in state for every key"),
                "bound ROW_NUMBER() by at most 100000",
            );
        }
        let input = graph.node(self.base.node).schema.clone();
        let rank_column = input.value_columns();
        let reads_rank = |expression: &Physical| columns_of(expression).contains(&rank_column);
        let emit_rank = self.columns.iter().map(|column| &column.expression).chain(&self.filters).any(reads_rank);
        let window = input.window.filter(|window| {
            !input.is_updating() && rank.partition.contains(&window.start) && rank.partition.contains(&window.end)
        });
        let by_time = match (rank.order.as_slice(), rank.processing_time) {
            (_, Some(descending)) => Some((TimeDomain::ProcessingTime, descending)),
            ([key], None) if input.time_columns.contains(&key.column) => {
                Some((TimeDomain::EventTime { column: key.column }, key.descending))
            }
            _ => None,
        };
        if let Some((time, descending)) = by_time
            && (rank.first, last) == (1, 1)
            && !input.is_updating()
            && window.is_none()
        {
            return self.deduplicate(rank.partition, time, descending, graph, step);
        }
        if rank.processing_time.is_some() {
            return problem(
                "ORDER BY PROCTIME() with more than the first row, or over an updating input".to_owned(),
                "keep one row (WHERE row_num = 1) of an append-only input, or order by a column",
            );
        }
        let updating = window.is_none();
        let own = input.fields.fields()[..input.value_columns()].iter().map(|field| field.as_ref().clone());
        let named = self.columns.iter().find(|column| as_column(&column.expression) == Some(rank_column));
        let rank_name = named.map_or(ROW_NUMBER.to_owned(), |column| column.field.name().clone());
        let rank_field = emit_rank.then(|| Field::new(&rank_name, DataType::Int64, false));
        let window_times = if window.is_some() { graph.window_times(self.base.node).to_vec() } else { vec![] };
        let schema = StreamSchema {
            fields: fields_of_stream(own.chain(rank_field), updating),
            time_columns: window_times.clone(),
            window,
        };
        let spec = TopNSpec {
            partition: rank.partition.clone(),
            order: rank.order,
            first_rank: rank.first,
            last_rank: last,
            emit_rank,
            rank_name,
            window,
            state_ttl_ms: step.state_ttl_ms,
        };
        let partitioning = if rank.partition.is_empty() { vec![] } else { vec![rank.partition.clone()] };
        let node = graph.add_operator(
            step,
            Operator {
                part: "top-n",
                spec: OperatorSpec::TopN(spec),
                inputs: vec![(self.base.node, Distribution::Keys(rank.partition))],
                schema,
                partitioning,
                window_times,
            },
        )?;
        self.over_ranked(node, graph)
    }

    fn deduplicate(
        self,
        keys: Vec<usize>,
        time: TimeDomain,
        descending: bool,
        graph: &mut GraphBuilder,
        step: &mut Step<'_>,
    ) -> Planned<Relation> {
        let input = graph.node(self.base.node).schema.clone();
        let keep = if descending { Keep::Last } else { Keep::First };
        let updating = !(keep == Keep::First && time == TimeDomain::ProcessingTime);
        let own = input.fields.fields().iter().map(|field| field.as_ref().clone());
        let schema = StreamSchema {
            fields: fields_of_stream(own, updating),
            time_columns: if updating { vec![] } else { input.time_columns.clone() },
            window: input.window,
        };
        let window_times = if updating { vec![] } else { graph.window_times(self.base.node).to_vec() };
        let partitioning = if keys.is_empty() { vec![] } else { vec![keys.clone()] };
        let spec = DeduplicateSpec { keys: keys.clone(), time, keep, state_ttl_ms: step.state_ttl_ms };
        let rank_column = input.value_columns();
        let node = graph.add_operator(
            step,
            Operator {
                part: "deduplicate",
                spec: OperatorSpec::Deduplicate(spec),
                inputs: vec![(self.base.node, Distribution::Keys(keys))],
                schema,
                partitioning,
                window_times,
            },
        )?;
        // The rank of the one row that is kept.
        let one: Physical = Arc::new(Literal::new(ScalarValue::Int64(Some(1))));
        let constant = |expression: Physical| {
            substitute(expression, &|index| match index == rank_column {
                true => Arc::clone(&one),
                false => crate::expression::column(input.fields.field(index).name(), index),
            })
        };
        let columns = self
            .columns
            .into_iter()
            .map(|column| Ok(Column { expression: constant(column.expression)?, ..column }))
            .collect::<Planned<_>>()?;
        let filters = self.filters.into_iter().map(|filter| Ok(constant(filter)?)).collect::<Planned<_>>()?;
        Relation { columns, filters, ..self }.over_ranked(node, graph)
    }

    /// The same columns over the node that ranks, with those times that still hold.
    fn over_ranked(mut self, node: NodeId, graph: &GraphBuilder) -> Planned<Relation> {
        let base = Base::of_node(graph, node);
        for column in &mut self.columns {
            let still = as_column(&column.expression).is_some_and(|index| base.schema.time_columns.contains(&index));
            column.time = column.time.filter(|_| still);
        }
        Ok(Relation { base, ..self })
    }
}

/// `rank operator number`, either way round.
fn comparison(filter: &Physical, rank: usize) -> Option<(BinaryOperator, i64)> {
    let binary = filter.downcast_ref::<BinaryExpr>()?;
    if is_rank(binary.left(), rank) {
        return Some((*binary.op(), number(binary.right())?));
    }
    if is_rank(binary.right(), rank) {
        return Some((binary.op().swap()?, number(binary.left())?));
    }
    None
}

fn is_rank(expression: &Physical, rank: usize) -> bool {
    match expression.downcast_ref::<CastExpr>() {
        Some(cast) => is_rank(cast.expr(), rank),
        None => as_column(expression) == Some(rank),
    }
}

fn number(expression: &Physical) -> Option<i64> {
    let value = expression.downcast_ref::<Literal>()?.value();
    match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(Some(number)) if value.data_type().is_integer() => Some(number),
        _ => None,
    }
}
