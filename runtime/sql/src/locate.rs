//! Where exactly a query is wrong. The planner stops at its first error and often can't say where it is; so when it
//! has failed, every expression of the query is planned by itself, and the smallest ones that fail are reported.

use crate::catalog::Catalog;
use crate::error::{Problem, first_sentence, position};
use crate::references::normalized;
use crate::window_tvf::unknown_column;
use datafusion_common::tree_node::TreeNode;
use datafusion_common::{DFSchemaRef, DataFusionError, SchemaError};
use datafusion_expr::ExprSchemable;
use datafusion_optimizer::analyzer::type_coercion::TypeCoercionRewriter;
use datafusion_sql::planner::PlannerContext;
use datafusion_sql::sqlparser::ast::*;
use std::collections::HashSet;
use std::ops::ControlFlow;
use weir_model::types::sql_type_name;

/// All problems of a query that the planner refused with `error`.
pub(crate) fn locate(query: &Query, catalog: &Catalog, error: DataFusionError) -> Vec<Problem> {
    let mut locator = Locator { catalog, scopes: vec![], with: vec![], failed: vec![], skipping: 0, problems: vec![] };
    let _ = query.visit(&mut locator);
    let mut problems = locator.problems;
    if problems.is_empty() {
        problems = error.iter().map(|error| describe(error, None)).collect();
    }
    problems.dedup();
    problems
}

struct Scope {
    /// The columns of FROM; None where they could not be planned.
    schema: Option<DFSchemaRef>,
    /// Names that the select list gives, which GROUP BY and HAVING may use.
    aliases: HashSet<String>,
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
        let aliases = select.projection.iter().filter_map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(normalized(alias)),
            _ => None,
        });
        let scope = Scope { schema: self.columns_of_from(select), aliases: aliases.collect() };
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &Select) -> ControlFlow<()> {
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
        let has_subquery =
            matches!(expression, Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. }) || part_failed;
        if self.skipping == 0 && !has_subquery && !matches!(expression, Expr::Wildcard(_)) {
            self.try_expression(expression);
        }
        ControlFlow::Continue(())
    }
}

impl Locator<'_> {
    fn try_expression(&mut self, expression: &Expr) {
        let Some(scope) = self.scopes.last() else { return };
        let Some(schema) = &scope.schema else { return };
        if let Expr::Identifier(name) = expression
            && scope.aliases.contains(&normalized(name))
        {
            return;
        }
        let reads_alias = {
            let mut finder = Aliases { aliases: &scope.aliases, found: false };
            let _ = expression.visit(&mut finder);
            finder.found
        };
        if reads_alias {
            return;
        }
        let mut context = PlannerContext::new();
        for outer in &self.scopes[..self.scopes.len() - 1] {
            outer.schema.iter().for_each(|schema| context.append_outer_query_schema(schema.clone()));
        }
        let planned = self.catalog.planner().sql_to_expr(expression.clone(), schema, &mut context);
        let typed = planned.and_then(|planned| {
            let coerced = planned.rewrite(&mut TypeCoercionRewriter::new(schema))?.data;
            coerced.get_type(schema.as_ref())
        });
        if let Err(error) = typed {
            let columns = Some(schema);
            let problem = describe(&error, columns).at(position(expression.span()));
            self.problems.push(problem);
        }
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

struct Aliases<'a> {
    aliases: &'a HashSet<String>,
    found: bool,
}

impl Visitor for Aliases<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expression {
            self.found |= self.aliases.contains(&normalized(name));
        }
        ControlFlow::Continue(())
    }
}

fn is_table_function(factor: &TableFactor) -> bool {
    matches!(factor, TableFactor::TableFunction { .. } | TableFactor::Table { args: Some(_), .. })
}

/// A planner error in the user's words.
fn describe(error: &DataFusionError, scope: Option<&DFSchemaRef>) -> Problem {
    let root = error.find_root();
    if let DataFusionError::SchemaError(schema_error, _) = root {
        match schema_error.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let known: Vec<&str> = match scope {
                    Some(schema) => schema.fields().iter().map(|field| field.name().as_str()).collect(),
                    None => valid_fields.iter().map(|column| column.name.as_str()).collect(),
                };
                let place = crate::error::position_of(field.spans().first());
                let unknown = unknown_column(&field.name, known.into_iter());
                return match &field.relation {
                    Some(relation) => Problem::new(format!("no column `{relation}.{}`", field.name), unknown.remedy),
                    None => unknown,
                }
                .at(place)
                .at(Problem::place_in(error));
            }
            SchemaError::AmbiguousReference { field } => {
                let relations = scope.map(|schema| {
                    let columns = schema.columns_with_unqualified_name(&field.name);
                    columns.iter().map(|column| format!("`{}`", column.flat_name())).collect::<Vec<_>>().join(" or ")
                });
                return Problem::new(
                    format!("`{}` is a column of several inputs", field.name),
                    format!("write {}", relations.unwrap_or_else(|| "it with its table: t.column".to_owned())),
                )
                .at(Problem::place_in(error));
            }
            SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
                return Problem::new(
                    format!("two columns are named `{name}`"),
                    format!("give one of them another name: {name} AS .."),
                );
            }
        }
    }
    if let Some(problem) = Problem::hidden_in(error) {
        return problem;
    }
    let text = in_sql_types(&first_sentence(&root.message()));
    let place = Problem::place_in(error);
    if text.contains("GROUP BY") {
        let remedy = "name the column after GROUP BY, or aggregate it: MAX(column), FIRST_VALUE(column)";
        return Problem::new(text, remedy).at(place);
    }
    let about_types = ["coerce", "type", "Cannot", "cast", "signature", "does not take"];
    let remedy = match about_types.iter().any(|word| text.contains(word)) {
        true => {
            "make the types agree: CAST(column AS BIGINT), CAST(column AS VARCHAR), TIMESTAMP '2026-01-01 00:00:00'"
        }
        false => "rephrase the expression",
    };
    Problem::new(text, remedy).at(place)
}

/// Arrow's type names in a message, replaced by SQL's.
fn in_sql_types(message: &str) -> String {
    use arrow::datatypes::{DataType::*, TimeUnit};
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
