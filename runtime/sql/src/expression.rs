//! Expressions that run: DataFusion's physical expressions behind `weir_model::Expression`.

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, IntervalMonthDayNano, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, Result, ScalarValue};
use datafusion_expr::Operator;
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NegativeExpr,
    NotExpr, TryCastExpr,
};
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr, create_physical_expr};
use std::sync::Arc;
use weir_model::graph::Expr;
use weir_model::types::sql_type_name;
use weir_model::{EvalError, Expression};

pub(crate) type Physical = Arc<dyn PhysicalExpr>;

/// The logical expression over the columns of `schema`, by their numbers.
pub(crate) fn physical(expression: &datafusion_expr::Expr, schema: &DFSchema) -> Result<Physical> {
    create_physical_expr(expression, schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
}

/// An expression over batches of this schema, with results of this type.
pub(crate) fn compile(expression: Physical, schema: &Schema, data_type: &DataType) -> Result<Expr> {
    let produced = expression.data_type(schema)?;
    let column = as_column(&expression).filter(|_| produced == *data_type);
    let sql = sql_of(&expression);
    Ok(Arc::new(Compiled { expression, data_type: data_type.clone(), sql, column }))
}

pub(crate) fn as_column(expression: &Physical) -> Option<usize> {
    expression.downcast_ref::<Column>().map(Column::index)
}

pub(crate) fn column(name: &str, index: usize) -> Physical {
    Arc::new(Column::new(name, index))
}

/// Replaces every column by what `of` gives for its number.
pub(crate) fn substitute(expression: Physical, of: &dyn Fn(usize) -> Physical) -> Result<Physical> {
    let replaced = expression.transform_up(|node| {
        Ok(match as_column(&node) {
            Some(index) => Transformed::yes(of(index)),
            None => Transformed::no(node),
        })
    });
    Ok(replaced?.data)
}

/// The numbers of the columns it reads, each as often as it stands there.
pub(crate) fn columns_of(expression: &Physical) -> Vec<usize> {
    let mut columns = vec![];
    let _ = expression.apply(|node| {
        columns.extend(as_column(node));
        Ok(TreeNodeRecursion::Continue)
    });
    columns
}

/// The conjuncts of a predicate.
pub(crate) fn conjuncts(predicate: Physical, out: &mut Vec<Physical>) {
    match predicate.downcast_ref::<BinaryExpr>() {
        Some(and) if *and.op() == Operator::And => {
            let (left, right) = (Arc::clone(and.left()), Arc::clone(and.right()));
            conjuncts(left, out);
            conjuncts(right, out);
        }
        _ => out.push(predicate),
    }
}

pub(crate) fn conjunction(predicates: impl IntoIterator<Item = Physical>) -> Option<Physical> {
    predicates.into_iter().reduce(|left, right| Arc::new(BinaryExpr::new(left, Operator::And, right)))
}

pub(crate) fn is_true(expression: &Physical) -> bool {
    let literal = expression.downcast_ref::<Literal>();
    literal.is_some_and(|literal| *literal.value() == ScalarValue::Boolean(Some(true)))
}

/// Costs next to nothing to compute twice.
pub(crate) fn is_trivial(expression: &Physical) -> bool {
    as_column(expression).is_some() || expression.is::<Literal>()
}

#[derive(Debug)]
struct Compiled {
    expression: Physical,
    data_type: DataType,
    sql: String,
    column: Option<usize>,
}

impl Expression for Compiled {
    fn evaluate(&self, batch: &RecordBatch) -> std::result::Result<ArrayRef, EvalError> {
        if let Some(column) = self.column {
            return Ok(Arc::clone(batch.column(column)));
        }
        self.try_evaluate(batch).map_err(|error| EvalError {
            expression: self.sql.clone(),
            reason: crate::error::first_sentence(&error.find_root().message()),
        })
    }

    fn data_type(&self) -> &DataType {
        &self.data_type
    }

    fn sql(&self) -> &str {
        &self.sql
    }

    fn as_column(&self) -> Option<usize> {
        self.column
    }
}

impl Compiled {
    fn try_evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let array = self.expression.evaluate(batch)?.into_array(batch.num_rows())?;
        if array.data_type() == &self.data_type {
            return Ok(array);
        }
        Ok(cast(&array, &self.data_type)?)
    }
}

/// The expression as SQL, with names of columns only (an expression stands over one input).
pub(crate) fn sql_of(expression: &Physical) -> String {
    let nested = |inner: &Physical| match inner.is::<BinaryExpr>() {
        true => format!("({})", sql_of(inner)),
        false => sql_of(inner),
    };
    let list = |all: &[Physical]| all.iter().map(sql_of).collect::<Vec<_>>().join(", ");
    let any = expression.as_ref();
    if let Some(column) = any.downcast_ref::<Column>() {
        return quoted(column.name());
    }
    if let Some(literal) = any.downcast_ref::<Literal>() {
        return sql_literal(literal.value());
    }
    if let Some(binary) = any.downcast_ref::<BinaryExpr>() {
        // AND chains read better without parentheses.
        let side = |inner: &Physical| {
            let same = inner.downcast_ref::<BinaryExpr>().is_some_and(|inner| inner.op() == binary.op());
            let chains = matches!(binary.op(), Operator::And | Operator::Or);
            let binds = matches!(binary.op(), Operator::And)
                && inner.downcast_ref::<BinaryExpr>().is_some_and(|inner| *inner.op() != Operator::Or);
            if (same && chains) || binds { sql_of(inner) } else { nested(inner) }
        };
        return format!("{} {} {}", side(binary.left()), binary.op(), side(binary.right()));
    }
    if let Some(cast) = any.downcast_ref::<CastExpr>() {
        return format!("CAST({} AS {})", sql_of(cast.expr()), sql_type_name(cast.cast_type()));
    }
    if let Some(cast) = any.downcast_ref::<TryCastExpr>() {
        return format!("TRY_CAST({} AS {})", sql_of(cast.expr()), sql_type_name(cast.cast_type()));
    }
    if let Some(function) = any.downcast_ref::<ScalarFunctionExpr>() {
        return format!("{}({})", function.name(), list(function.args()));
    }
    if let Some(case) = any.downcast_ref::<CaseExpr>() {
        let mut text = "CASE".to_owned();
        if let Some(operand) = case.expr() {
            text += &format!(" {}", sql_of(operand));
        }
        for (when, then) in case.when_then_expr() {
            text += &format!(" WHEN {} THEN {}", sql_of(when), sql_of(then));
        }
        if let Some(otherwise) = case.else_expr() {
            text += &format!(" ELSE {}", sql_of(otherwise));
        }
        return text + " END";
    }
    if let Some(is) = any.downcast_ref::<IsNullExpr>() {
        return format!("{} IS NULL", nested(is.arg()));
    }
    if let Some(is) = any.downcast_ref::<IsNotNullExpr>() {
        return format!("{} IS NOT NULL", nested(is.arg()));
    }
    if let Some(not) = any.downcast_ref::<NotExpr>() {
        return format!("NOT {}", nested(not.arg()));
    }
    if let Some(negative) = any.downcast_ref::<NegativeExpr>() {
        return format!("-{}", nested(negative.arg()));
    }
    if let Some(like) = any.downcast_ref::<LikeExpr>() {
        let operator = match (like.negated(), like.case_insensitive()) {
            (false, false) => "LIKE",
            (true, false) => "NOT LIKE",
            (false, true) => "ILIKE",
            (true, true) => "NOT ILIKE",
        };
        return format!("{} {operator} {}", nested(like.expr()), sql_of(like.pattern()));
    }
    if let Some(in_list) = any.downcast_ref::<InListExpr>() {
        let not = if in_list.negated() { "NOT " } else { "" };
        return format!("{} {not}IN ({})", nested(in_list.expr()), list(in_list.list()));
    }
    expression.to_string()
}

/// A name as SQL would have to write it.
pub(crate) fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    // Computed columns go by their text, and a join's by their side, which nobody would write in quotes.
    let computed = name.contains(['(', '*', ' ']) || name.starts_with("left.") || name.starts_with("right.");
    if plain || computed { name.to_owned() } else { format!("\"{name}\"") }
}

fn sql_literal(value: &ScalarValue) -> String {
    match value {
        value if value.is_null() => "NULL".to_owned(),
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
            format!("'{}'", text.replace('\'', "''"))
        }
        ScalarValue::IntervalMonthDayNano(Some(interval)) => sql_interval(interval),
        ScalarValue::TimestampMicrosecond(Some(_), None) => {
            match value.to_array().map(|array| arrow::util::display::array_value_to_string(&array, 0)) {
                Ok(Ok(text)) => format!("TIMESTAMP '{}'", text.replace('T', " ")),
                _ => value.to_string(),
            }
        }
        other => other.to_string(),
    }
}

/// In the largest unit that is exact; months apart.
fn sql_interval(interval: &IntervalMonthDayNano) -> String {
    let nanos = interval.days as i128 * 86_400_000_000_000 + interval.nanoseconds as i128;
    let mut parts = vec![];
    if interval.months != 0 || nanos == 0 {
        parts.push(format!("INTERVAL '{}' MONTH", interval.months));
    }
    let units = [
        ("DAY", 86_400_000_000_000),
        ("HOUR", 3_600_000_000_000),
        ("MINUTE", 60_000_000_000),
        ("SECOND", 1_000_000_000),
    ];
    match units.iter().find(|(_, size)| nanos % size == 0) {
        _ if nanos == 0 => {}
        Some((unit, size)) => parts.push(format!("INTERVAL '{}' {unit}", nanos / size)),
        None => {
            let sign = if nanos < 0 { "-" } else { "" };
            let (seconds, rest) = (nanos.abs() / 1_000_000_000, nanos.abs() % 1_000_000_000);
            let fraction = format!("{rest:09}");
            parts.push(format!("INTERVAL '{sign}{seconds}.{}' SECOND", fraction.trim_end_matches('0')));
        }
    }
    parts.join(" + ")
}
