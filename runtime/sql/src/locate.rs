//! Where exactly a query is wrong. The planner stops at its first error and often can't say where it is; so when it
//! has failed, every expression of the query is planned by itself, and the smallest ones that fail are reported.

use crate::catalog::Catalog;
use crate::error::{Problem, first_sentence, position, position_of};
use crate::names;
use crate::references::normalized;
use crate::window_tvf::unknown_column;
use arrow::datatypes::DataType;
use datafusion_common::tree_node::TreeNode;
use datafusion_common::{Column, DFSchemaRef, DataFusionError, SchemaError};
use datafusion_expr::ExprSchemable;
use datafusion_optimizer::analyzer::type_coercion::TypeCoercionRewriter;
use datafusion_sql::planner::PlannerContext;
use datafusion_sql::sqlparser::ast::*;
use std::collections::HashSet;
use std::ops::ControlFlow;
use weir_model::types::sql_type_name;

/// All problems of a query that the planner refused with `error`.
pub(crate) fn locate(query: &Query, catalog: &Catalog, error: &DataFusionError) -> Vec<Problem> {
    let problems = located(query, catalog);
    if problems.is_empty() {
        let mut problems: Vec<Problem> = error.iter().map(|error| describe(error, None)).collect();
        problems.dedup();
        return problems;
    }
    problems
}

/// Those of its problems that have a place.
pub(crate) fn located(query: &Query, catalog: &Catalog) -> Vec<Problem> {
    let mut locator = Locator { catalog, scopes: vec![], with: vec![], failed: vec![], skipping: 0, problems: vec![] };
    let _ = query.visit(&mut locator);
    locator.problems.dedup();
    locator.problems
}

struct Scope {
    /// The columns of FROM; None where they could not be planned.
    schema: Option<DFSchemaRef>,
    /// Names that the select list gives, which GROUP BY and HAVING may use.
    aliases: HashSet<String>,
    /// How many there were when it was opened.
    problems: usize,
}

struct Locator<'a> {
    catalog: &'a Catalog,
    scopes: Vec<Scope>,
    with: Vec<Option<With>>,
    /// For each open expression, the number of problems when it was opened.
    failed: Vec<usize>,
    /// Depth of table functions, whose arguments are no expressions over columns.
    skipping: usize,
    problems: Vec<Problem>,
}

impl Visitor for Locator<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.with.push(query.with.clone());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.with.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let mut aliases = HashSet::new();
        for item in &select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item
                && !aliases.insert(normalized(alias))
            {
                let name = &alias.value;
                let problem = Problem::new(format!("two columns are named `{name}`"), "give one of them another name");
                self.problems.push(problem.at(position(alias.span)));
            }
        }
        let scope = Scope { schema: self.columns_of_from(select), aliases, problems: self.problems.len() };
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if self.scopes.last().is_some_and(|scope| scope.problems == self.problems.len()) {
            self.check_condition(select.selection.as_ref(), "WHERE");
            self.check_condition(select.having.as_ref(), "HAVING");
        }
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.skipping += is_table_function(factor) as usize;
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.skipping -= is_table_function(factor) as usize;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.failed.push(self.problems.len());
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        let before = self.failed.pop().unwrap_or_default();
        let part_failed = self.problems.len() > before;
        if self.skipping == 0 && !part_failed && !matches!(expression, Expr::Wildcard(_)) {
            self.try_expression(expression);
        }
        ControlFlow::Continue(())
    }
}

impl Locator<'_> {
    fn try_expression(&mut self, expression: &Expr) {
        if let Some(Err(error)) = self.type_of(expression) {
            let scope = self.scopes.last().and_then(|scope| scope.schema.as_ref());
            self.problems.push(describe(&error, scope).at(position(expression.span())));
        }
    }

    fn check_condition(&mut self, condition: Option<&Expr>, clause: &str) {
        let Some(condition) = condition else { return };
        if let Some(Ok(data_type)) = self.type_of(condition)
            && !matches!(data_type, DataType::Boolean | DataType::Null)
        {
            let problem = Problem::new(
                format!("{clause} takes a condition, not {}", sql_type_name(&data_type)),
                "compare it with something: .. = .., .. IS NOT NULL",
            );
            self.problems.push(problem.at(position(condition.span())));
        }
    }

    /// The type of an expression in the innermost SELECT; None where that can't be told apart from the rest.
    fn type_of(&self, expression: &Expr) -> Option<Result<DataType, DataFusionError>> {
        let scope = self.scopes.last()?;
        let schema = scope.schema.as_ref()?;
        let mut finder = Aliases { aliases: &scope.aliases, schema, found: false };
        let _ = expression.visit(&mut finder);
        if finder.found {
            return None;
        }
        let mut context = PlannerContext::new();
        for outer in &self.scopes[..self.scopes.len() - 1] {
            outer.schema.iter().for_each(|schema| context.append_outer_query_schema(schema.clone()));
        }
        let planned = self.catalog.planner().sql_to_expr(expression.clone(), schema, &mut context);
        Some(planned.and_then(|planned| {
            let coerced = planned.rewrite(&mut TypeCoercionRewriter::new(schema))?.data;
            coerced.get_type(schema.as_ref())
        }))
    }

    fn columns_of_from(&self, select: &Select) -> Option<DFSchemaRef> {
        let mut probe = select.clone();
        probe.distinct = None;
        probe.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
        probe.selection = None;
        probe.group_by = GroupByExpr::Expressions(vec![], vec![]);
        probe.having = None;
        probe.named_window.clear();
        // A mistake in a join's condition must not hide the columns by which it can be found.
        for join in probe.from.iter_mut().flat_map(|from| &mut from.joins) {
            if let JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint)
            | JoinOperator::Right(constraint)
            | JoinOperator::RightOuter(constraint)
            | JoinOperator::FullOuter(constraint) = &mut join.join_operator
                && let JoinConstraint::On(condition) = constraint
            {
                *condition = Expr::Value(Value::Boolean(true).into());
            }
        }
        let mut tables = vec![];
        let mut outermost = None;
        for with in self.with.iter().flatten() {
            tables.extend(with.cte_tables.iter().cloned());
            outermost = Some(with.clone());
        }
        let with = outermost.map(|with| With { cte_tables: tables, ..with });
        let query = Query {
            with,
            body: Box::new(SetExpr::Select(Box::new(probe))),
            order_by: None,
            limit_clause: None,
            fetch: None,
            locks: vec![],
            for_clause: None,
            settings: None,
            format_clause: None,
            pipe_operators: vec![],
        };
        // Below the wildcard's projection stand the columns with their qualifiers.
        let plan = self.catalog.planner().sql_statement_to_plan(Statement::Query(Box::new(query))).ok()?;
        plan.inputs().first().map(|input| input.schema().clone())
    }
}

/// Looks for names of the select list that are no columns, and for subqueries.
struct Aliases<'a> {
    aliases: &'a HashSet<String>,
    schema: &'a DFSchemaRef,
    found: bool,
}

impl Visitor for Aliases<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        self.found |= match expression {
            Expr::Identifier(name) => {
                let name = normalized(name);
                self.aliases.contains(&name) && !self.schema.has_column_with_unqualified_name(&name)
            }
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => true,
            _ => false,
        };
        ControlFlow::Continue(())
    }
}

fn is_table_function(factor: &TableFactor) -> bool {
    matches!(factor, TableFactor::TableFunction { .. } | TableFactor::Table { args: Some(_), .. })
}

/// A planner error in the user's words.
fn describe(error: &DataFusionError, scope: Option<&DFSchemaRef>) -> Problem {
    let place = Problem::place_in(error);
    let problem = match error.find_root() {
        DataFusionError::SchemaError(error, _) => describe_name(error, scope),
        root => Problem::hidden_in(error).unwrap_or_else(|| describe_text(&root.message())),
    };
    problem.at(place)
}

fn describe_name(error: &SchemaError, scope: Option<&DFSchemaRef>) -> Problem {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let known: Vec<Column> = match scope {
                Some(schema) => schema.columns(),
                None => valid_fields.clone(),
            };
            let place = position_of(field.spans().first());
            let Some(relation) = &field.relation else {
                return unknown_column(&field.name, known.iter().map(|column| column.name.as_str())).at(place);
            };
            let of_relation = || known.iter().filter(|column| column.relation.as_ref() == Some(relation));
            if of_relation().next().is_none() {
                let relations = known.iter().filter_map(|column| column.relation.as_ref()).map(|known| known.table());
                let relations = names::listed(relation.table(), relations);
                return Problem::new(
                    format!("`{relation}` is no table of this query"),
                    format!("its tables are {relations} (where it has an alias, a table goes by that)"),
                )
                .at(place);
            }
            let unknown = unknown_column(&field.name, of_relation().map(|column| column.name.as_str()));
            Problem::new(format!("no column `{relation}.{}`", field.name), unknown.remedy).at(place)
        }
        SchemaError::AmbiguousReference { field } => {
            let columns = scope.map(|schema| schema.columns_with_unqualified_name(&field.name)).unwrap_or_default();
            let columns: Vec<String> = columns.iter().map(|column| format!("`{}`", column.flat_name())).collect();
            let remedy = match columns.is_empty() {
                true => "write it with its table: t.column".to_owned(),
                false => format!("write {}", columns.join(" or ")),
            };
            Problem::new(format!("`{}` is a column of several inputs", field.name), remedy)
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Problem::new(
                format!("two columns are named `{name}`"),
                format!("give one of them another name: {name} AS .."),
            )
        }
    }
}

fn describe_text(message: &str) -> Problem {
    const TYPES: &str =
        "make the types agree: CAST(.. AS DOUBLE), CAST(.. AS VARCHAR), TIMESTAMP '2026-01-01 00:00:00'";
    let text = in_sql_types(&first_sentence(message));
    // Our own functions say what is wrong; the planner wraps that.
    let text = text.rsplit_once("Error during planning: ").map_or(text.as_str(), |(_, inner)| inner);
    // Some messages go on with the syntax tree.
    let text = [" { expr: ", " (DataType: "].iter().fold(text, |text, tail| text.split(tail).next().unwrap_or(text));
    if let Some(rest) = text.strip_prefix("Cannot coerce arithmetic expression ") {
        let operation = rest.strip_suffix(" to valid types").unwrap_or(rest);
        return Problem::new(format!("there is no {operation}"), TYPES);
    }
    if let Some(operation) = text.strip_prefix("Cannot infer common argument type for comparison operation ") {
        return Problem::new(format!("cannot compare {operation}"), TYPES);
    }
    if text.contains("must appear in the GROUP BY clause") {
        let column = text.split("column \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("a column");
        let column = column.rsplit('.').next().unwrap_or(column);
        return Problem::new(
            format!("`{column}` is neither in GROUP BY nor aggregated"),
            format!("name it after GROUP BY, or aggregate it: MAX({column}), FIRST_VALUE({column})"),
        );
    }
    let about_types = ["coerce", "type", "Cannot", "cast", "signature", "does not take", "requires"];
    let remedy = if about_types.iter().any(|word| text.contains(word)) { TYPES } else { "rephrase the expression" };
    Problem::new(text, remedy)
}

/// Arrow's type names in a message, replaced by SQL's.
pub(crate) fn in_sql_types(message: &str) -> String {
    use DataType::*;
    use arrow::datatypes::TimeUnit;
    let names = [
        ("Timestamp(Microsecond, None)", Timestamp(TimeUnit::Microsecond, None)),
        ("Timestamp(µs)", Timestamp(TimeUnit::Microsecond, None)),
        ("Timestamp(Nanosecond, None)", Timestamp(TimeUnit::Nanosecond, None)),
        ("Timestamp(ns)", Timestamp(TimeUnit::Nanosecond, None)),
        ("LargeUtf8", Utf8),
        ("Utf8View", Utf8),
        ("Utf8", Utf8),
        ("Boolean", Boolean),
        ("Float64", Float64),
        ("Float32", Float32),
        ("Int64", Int64),
        ("Int32", Int32),
        ("Int16", Int16),
        ("Int8", Int8),
        ("Date32", Date32),
    ];
    let mut message = message.to_owned();
    for (arrow, data_type) in names {
        message = message.replace(arrow, &sql_type_name(&data_type));
    }
    message
}
