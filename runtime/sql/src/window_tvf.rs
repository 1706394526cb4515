//! Windowing table functions: `FROM TABLE(TUMBLE(t, DESCRIPTOR(ts), INTERVAL '1' HOUR))`, HOP and SESSION.

use crate::error::{Planned, Position, Problem, position};
use crate::functions::PROCTIME;
use crate::names;
use crate::parse::PARTITION_BY;
use datafusion_common::{Column, DFSchema, DFSchemaRef, Result, ScalarValue, Span, Spans, TableReference};
use datafusion_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion_sql::sqlparser::ast::{
    Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Spanned,
    TableFactor, Value,
};
use datafusion_sql::sqlparser::tokenizer::Span as ParserSpan;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use weir_model::graph::WindowKind;
use weir_model::types::TIMESTAMP;

pub(crate) const WINDOW_START: &str = "window_start";
pub(crate) const WINDOW_END: &str = "window_end";
pub(crate) const WINDOW_TIME: &str = "window_time";

/// Rows of the input with the columns `window_start`, `window_end` and `window_time` of the window each falls into.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WindowTable {
    pub(crate) input: LogicalPlan,
    pub(crate) shape: Shape,
    /// None: processing time.
    pub(crate) time: Option<Column>,
    /// Of SESSION only.
    pub(crate) partition: Vec<Column>,
    schema: DFSchemaRef,
    place: Spans,
}

/// `WindowKind`, hashable as a plan node must be. Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    Tumble { size: i64, offset: i64 },
    Hop { size: i64, slide: i64, offset: i64 },
    Session { gap: i64 },
}

impl Shape {
    pub(crate) fn kind(self) -> WindowKind {
        match self {
            Shape::Tumble { size, offset } => WindowKind::Tumble { size_us: size, offset_us: offset },
            Shape::Hop { size, slide, offset } => WindowKind::Hop { size_us: size, slide_us: slide, offset_us: offset },
            Shape::Session { gap } => WindowKind::Session { gap_us: gap },
        }
    }
}

impl WindowTable {
    pub(crate) fn position(&self) -> Option<Position> {
        crate::error::position_of(self.place.first())
    }

    fn new(
        input: LogicalPlan,
        shape: Shape,
        time: Option<Column>,
        partition: Vec<Column>,
        place: Spans,
    ) -> Result<Self> {
        let added = [WINDOW_START, WINDOW_END, WINDOW_TIME]
            .map(|name| (None, Arc::new(arrow::datatypes::Field::new(name, TIMESTAMP, false))));
        let columns = input.schema().iter().map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)));
        let fields: Vec<(Option<TableReference>, _)> = columns.chain(added).collect();
        let schema = DFSchema::new_with_metadata(fields, HashMap::new())?;
        Ok(WindowTable { input, shape, time, partition, schema: Arc::new(schema), place })
    }
}

impl PartialOrd for WindowTable {
    fn partial_cmp(&self, _: &Self) -> Option<Ordering> {
        None
    }
}

impl UserDefinedLogicalNodeCore for WindowTable {
    fn name(&self) -> &str {
        "WindowTable"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.time.iter().chain(&self.partition).cloned().map(Expr::Column).collect()
    }

    /// A filter on other columns may run before the windows are assigned, except that fewer rows make other sessions.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let window_columns = [WINDOW_START, WINDOW_END, WINDOW_TIME].map(str::to_owned);
        match self.shape {
            Shape::Session { .. } => {
                let partition: HashSet<&str> = self.partition.iter().map(|column| column.name()).collect();
                let names = self.schema.fields().iter().map(|field| field.name().clone());
                names.filter(|name| !partition.contains(name.as_str())).collect()
            }
            _ => window_columns.into(),
        }
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "WindowTable: {:?}", self.shape)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let mut columns = exprs.into_iter().filter_map(|expr| match expr {
            Expr::Column(column) => Some(column),
            _ => None,
        });
        let time = self.time.as_ref().and_then(|_| columns.next());
        let input = inputs.pop().unwrap_or_else(|| self.input.clone());
        WindowTable::new(input, self.shape, time, columns.collect(), self.place.clone())
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let inputs = self.input.schema().fields().len();
        Some(vec![output_columns.iter().copied().filter(|column| *column < inputs).collect()])
    }
}

/// Plans the table functions.
#[derive(Debug)]
pub(crate) struct WindowFunctions;

impl RelationPlanner for WindowFunctions {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (name, arguments, alias) = match &relation {
            TableFactor::TableFunction { expr: SqlExpr::Function(function), alias } => {
                let FunctionArguments::List(list) = &function.args else {
                    return Ok(RelationPlanning::Original(Box::new(relation)));
                };
                (&function.name, &list.args, alias)
            }
            TableFactor::Table { name, args: Some(args), alias, .. } => (name, &args.args, alias),
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let place = name.span();
        let plan = plan_window(&name.to_string(), place, arguments, context)
            .map_err(|problem| problem.at_span(place).into_datafusion())?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

/// The arguments of a call, by the name that Flink gives them.
struct Arguments<'a> {
    by_name: HashMap<String, &'a SqlExpr>,
    function: String,
    usage: &'static str,
}

impl<'a> Arguments<'a> {
    fn of(function: &str, given: &'a [FunctionArg]) -> Planned<Arguments<'a>> {
        let (names, usage): (&[&str], &str) = match function.to_ascii_uppercase().as_str() {
            "TUMBLE" => (&["DATA", "TIMECOL", "SIZE", "OFFSET"], "TUMBLE(t, DESCRIPTOR(ts), INTERVAL '1' HOUR)"),
            "HOP" => (
                &["DATA", "TIMECOL", "SLIDE", "SIZE", "OFFSET"],
                "HOP(t, DESCRIPTOR(ts), INTERVAL '5' MINUTE, INTERVAL '1' HOUR): slide, then size",
            ),
            "SESSION" => (
                &["DATA", "PARTITION", "TIMECOL", "GAP"],
                "SESSION(t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '10' MINUTE)",
            ),
            _ => {
                return Err(Problem::new(
                    format!("no table function {function}"),
                    "the table functions are TUMBLE, HOP and SESSION",
                ));
            }
        };
        let mut arguments = Arguments { by_name: HashMap::new(), function: function.to_uppercase(), usage };
        let mut next = names.iter();
        for argument in given {
            let (name, expression) = match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => {
                    let mut name = next.next().copied();
                    if name == Some("PARTITION") && call(expression, PARTITION_BY).is_none() {
                        name = next.next().copied();
                    }
                    (name.map(str::to_owned), expression)
                }
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expression), .. } => {
                    let name = name.value.to_ascii_uppercase();
                    (names.contains(&name.as_str()).then_some(name), expression)
                }
                _ => return Err(arguments.misuse()),
            };
            match name {
                Some(name) => arguments.by_name.insert(name, expression),
                None => return Err(arguments.misuse().at_span(expression.span())),
            };
        }
        Ok(arguments)
    }

    fn misuse(&self) -> Problem {
        Problem::new(format!("{} does not take these arguments", self.function), format!("write {}", self.usage))
    }

    fn required(&self, name: &str) -> Planned<&'a SqlExpr> {
        self.by_name.get(name).copied().ok_or_else(|| self.misuse())
    }

    fn interval(&self, name: &str, context: &mut dyn RelationPlannerContext) -> Planned<i64> {
        let micros = constant_micros(self.required(name)?, context)?;
        if micros <= 0 {
            let reason = format!("the {} of {} is not positive", name.to_lowercase(), self.function);
            return Err(Problem::new(reason, format!("write {}", self.usage)).at_span(self.required(name)?.span()));
        }
        Ok(micros)
    }

    fn offset(&self, context: &mut dyn RelationPlannerContext) -> Planned<i64> {
        self.by_name.get("OFFSET").map_or(Ok(0), |expression| constant_micros(expression, context))
    }
}

fn plan_window(
    function: &str,
    place: ParserSpan,
    arguments: &[FunctionArg],
    context: &mut dyn RelationPlannerContext,
) -> Planned<LogicalPlan> {
    let arguments = Arguments::of(function, arguments)?;
    let input = plan_input(&arguments, context)?;
    let shape = match arguments.function.as_str() {
        "TUMBLE" => Shape::Tumble { size: arguments.interval("SIZE", context)?, offset: arguments.offset(context)? },
        "HOP" => {
            let (slide, size) = (arguments.interval("SLIDE", context)?, arguments.interval("SIZE", context)?);
            if size % slide != 0 {
                return Err(Problem::new(
                    "the size of HOP is not a multiple of its slide",
                    "write the slide first and then the size, a multiple of it",
                )
                .at_span(arguments.required("SIZE")?.span()));
            }
            Shape::Hop { size, slide, offset: arguments.offset(context)? }
        }
        _ => Shape::Session { gap: arguments.interval("GAP", context)? },
    };
    let time = descriptor(&arguments, &input, context)?;
    let partition = match arguments.by_name.get("PARTITION").and_then(|argument| call(argument, PARTITION_BY)) {
        None => vec![],
        Some(call) => call_arguments(call)
            .map(|argument| match argument {
                SqlExpr::Identifier(name) => column(name, &input, context),
                SqlExpr::CompoundIdentifier(names) if !names.is_empty() => {
                    column(&names[names.len() - 1], &input, context)
                }
                other => Err(Problem::new("PARTITION BY takes columns here", "compute the column in a subquery")
                    .at_span(other.span())),
            })
            .collect::<Planned<Vec<_>>>()?,
    };
    for name in [WINDOW_START, WINDOW_END, WINDOW_TIME] {
        if input.schema().has_column_with_unqualified_name(name) {
            return Err(Problem::new(
                format!("the input of {} already has a column {name}", arguments.function),
                format!("rename it where it is selected: SELECT {name} AS .."),
            ));
        }
    }
    let mut spans = Spans::new();
    Span::try_from_sqlparser_span(place).into_iter().for_each(|span| spans.add_span(span));
    let table = WindowTable::new(input, shape, time, partition, spans)?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(table) }))
}

fn plan_input(arguments: &Arguments<'_>, context: &mut dyn RelationPlannerContext) -> Planned<LogicalPlan> {
    let table = |names: Vec<Ident>| TableFactor::Table {
        name: ObjectName::from(names),
        alias: None,
        args: None,
        with_hints: vec![],
        version: None,
        with_ordinality: false,
        partitions: vec![],
        json_path: None,
        sample: None,
        index_hints: vec![],
    };
    let data = arguments.required("DATA")?;
    let factor = match data {
        SqlExpr::Identifier(name) => table(vec![name.clone()]),
        SqlExpr::CompoundIdentifier(names) => table(names.clone()),
        SqlExpr::Subquery(query) => {
            TableFactor::Derived { lateral: false, subquery: query.clone(), alias: None, sample: None }
        }
        other => return Err(arguments.misuse().at_span(other.span())),
    };
    context.plan(factor).map_err(|error| Problem::from(error).at_span(data.span()))
}

/// The time column of `DESCRIPTOR(ts)`; None for `DESCRIPTOR(PROCTIME())`.
fn descriptor(
    arguments: &Arguments<'_>,
    input: &LogicalPlan,
    context: &mut dyn RelationPlannerContext,
) -> Planned<Option<Column>> {
    let argument = arguments.required("TIMECOL")?;
    let misuse = || arguments.misuse().at_span(argument.span());
    let descriptor = call(argument, "DESCRIPTOR").ok_or_else(misuse)?;
    let mut named = call_arguments(descriptor);
    let (Some(time), None) = (named.next(), named.next()) else { return Err(misuse()) };
    match time {
        SqlExpr::Identifier(name) => column(name, input, context).map(Some),
        SqlExpr::CompoundIdentifier(names) if !names.is_empty() => {
            column(&names[names.len() - 1], input, context).map(Some)
        }
        time if call(time, PROCTIME).is_some() => Ok(None),
        _ => Err(misuse()),
    }
}

fn column(name: &Ident, input: &LogicalPlan, context: &dyn RelationPlannerContext) -> Planned<Column> {
    let normalized = context.normalize_ident(name.clone());
    let schema = input.schema();
    match schema.qualified_field_with_unqualified_name(&normalized) {
        Ok((qualifier, field)) => {
            let mut column = Column::new(qualifier.cloned(), field.name());
            Span::try_from_sqlparser_span(name.span).into_iter().for_each(|span| column.spans_mut().add_span(span));
            Ok(column)
        }
        Err(_) => {
            let columns = schema.fields().iter().map(|field| field.name().as_str());
            Err(unknown_column(&name.value, columns).at(position(name.span)))
        }
    }
}

/// A column that isn't there, with those that are.
pub(crate) fn unknown_column<'a>(name: &str, columns: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let differs_in_case = columns.clone().find(|column| column.eq_ignore_ascii_case(name));
    let remedy = match differs_in_case {
        Some(column) => format!("write \"{column}\" in double quotes: without them names are taken in lower case"),
        None => format!("the columns are {}", names::listed(name, columns)),
    };
    Problem::new(format!("no column `{name}`"), remedy)
}

/// A constant interval in microseconds.
fn constant_micros(expression: &SqlExpr, context: &mut dyn RelationPlannerContext) -> Planned<i64> {
    let problem = |reason: &str| {
        Problem::new(reason, "write a constant of days or less, for instance INTERVAL '1' HOUR")
            .at_span(expression.span())
    };
    if matches!(expression, SqlExpr::Value(value) if !matches!(value.value, Value::Placeholder(_))) {
        return Err(problem("a window's size is an interval"));
    }
    let planned = context
        .sql_to_expr(expression.clone(), &DFSchema::empty())
        .map_err(|error| Problem::from(error).at_span(expression.span()))?;
    interval_micros(&planned).ok_or_else(|| problem("a window's size is a constant interval without months or years"))
}

/// The microseconds of an interval literal without months.
pub(crate) fn interval_micros(expression: &Expr) -> Option<i64> {
    match expression {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) if interval.months == 0 => {
            let days = (interval.days as i64).checked_mul(86_400_000_000)?;
            days.checked_add(interval.nanoseconds / 1000)
        }
        Expr::Literal(ScalarValue::IntervalDayTime(Some(interval)), _) => {
            let days = (interval.days as i64).checked_mul(86_400_000_000)?;
            days.checked_add(interval.milliseconds as i64 * 1000)
        }
        Expr::Literal(ScalarValue::DurationMicrosecond(Some(micros)), _) => Some(*micros),
        Expr::Negative(inner) => interval_micros(inner)?.checked_neg(),
        _ => None,
    }
}

/// The call of this function, if that is what the expression is.
fn call<'a>(expression: &'a SqlExpr, name: &str) -> Option<&'a Function> {
    match expression {
        SqlExpr::Function(function) if function.name.to_string().eq_ignore_ascii_case(name) => Some(function),
        _ => None,
    }
}

fn call_arguments(function: &Function) -> impl Iterator<Item = &SqlExpr> {
    let list = match &function.args {
        FunctionArguments::List(list) => list.args.as_slice(),
        _ => &[],
    };
    list.iter().filter_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression),
        _ => None,
    })
}
