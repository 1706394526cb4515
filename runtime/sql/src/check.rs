//! What SQL allows and a stream does not: refused by name before planning, all of it at once.

use crate::error::Problem;
use crate::functions::{self, PROCTIME, ROW_NUMBER};
use crate::names;
use crate::parse::PARTITION_BY;
use datafusion_sql::sqlparser::ast::*;
use std::collections::HashSet;
use std::ops::ControlFlow;

pub(crate) fn refusals(query: &Query) -> Vec<Problem> {
    let mut check = Check::default();
    let _ = query.visit(&mut check);
    check.problems
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
    /// Addresses of expressions that are calls of table functions.
    table_functions: HashSet<usize>,
    /// Addresses of expressions where PROCTIME() may stand.
    clocks: HashSet<usize>,
}

impl Check {
    fn refuse(&mut self, span: datafusion_sql::sqlparser::tokenizer::Span, reason: impl Into<String>, remedy: &str) {
        self.problems.push(Problem::new(reason, remedy).at_span(span));
    }
}

fn address(expression: &Expr) -> usize {
    std::ptr::from_ref(expression) as usize
}

impl Visitor for Check {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(with) = &query.with
            && with.recursive
        {
            self.refuse(
                with.with_token.0.span,
                "WITH RECURSIVE is not supported",
                "write out the levels, or use an operator of your own",
            );
        }
        if let Some(order) = &query.order_by
            && query.limit_clause.is_none()
        {
            let span = match &order.kind {
                OrderByKind::Expressions(keys) => keys.first().map_or(query.span(), |key| key.span()),
                OrderByKind::All(_) => query.span(),
            };
            self.refuse(
                span,
                "ORDER BY without LIMIT: an unbounded stream has no last row to sort up to",
                "leave ORDER BY out, or add LIMIT n",
            );
        }
        if query.order_by.is_none() && query.limit_clause.is_some() {
            self.refuse(
                query.body.span(),
                "LIMIT without ORDER BY: which rows it keeps would depend on their arrival",
                "add ORDER BY before it",
            );
        }
        if let Some(LimitClause::LimitOffset { limit_by, .. }) = &query.limit_clause
            && let Some(by) = limit_by.first()
        {
            self.refuse(by.span(), "LIMIT BY is not supported", "use ROW_NUMBER() OVER (PARTITION BY ..) <= n");
        }
        let clauses = [
            (query.fetch.is_some(), "FETCH", "use LIMIT n"),
            (!query.locks.is_empty(), "FOR UPDATE", "leave it out"),
            (
                query.for_clause.is_some(),
                "FOR XML and FOR JSON",
                "leave it out; a sink's format says how rows are written",
            ),
            (query.settings.is_some(), "SETTINGS", "leave it out"),
            (query.format_clause.is_some(), "FORMAT", "leave it out; a sink's format says how rows are written"),
            (!query.pipe_operators.is_empty(), "the pipe syntax |>", "write subqueries, or several transforms"),
        ];
        for (present, name, remedy) in clauses {
            if present {
                self.refuse(query.body.span(), format!("{name} is not supported"), remedy);
            }
        }
        self.check_set(&query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let place = select.select_token.0.span;
        if select.from.is_empty() {
            self.refuse(place, "a query without FROM", "read a step: SELECT .. FROM <step>");
        }
        if matches!(select.distinct, Some(Distinct::On(_))) {
            self.refuse(
                place,
                "DISTINCT ON is not supported",
                "use ROW_NUMBER() OVER (PARTITION BY .. ORDER BY ..) in a subquery, with WHERE row_num = 1 outside it",
            );
        }
        if let Some(qualify) = &select.qualify {
            self.refuse(
                qualify.span(),
                "QUALIFY is not supported",
                "select ROW_NUMBER() AS row_num in a subquery, and WHERE row_num <= n outside it",
            );
        }
        let grouped = match &select.group_by {
            GroupByExpr::All(_) => Some("GROUP BY ALL"),
            GroupByExpr::Expressions(_, modifiers) if !modifiers.is_empty() => Some("WITH ROLLUP, CUBE and TOTALS"),
            GroupByExpr::Expressions(..) => None,
        };
        if let Some(grouped) = grouped {
            self.refuse(place, format!("{grouped} is not supported"), "name the columns after GROUP BY");
        }
        let clauses = [
            (select.top.is_some(), "TOP", "use ORDER BY .. LIMIT n"),
            (select.into.is_some(), "SELECT INTO", "name a sink in the StreamJob"),
            (!select.lateral_views.is_empty(), "LATERAL VIEW", "use an operator of your own"),
            (select.prewhere.is_some(), "PREWHERE", "use WHERE"),
            (!select.connect_by.is_empty(), "CONNECT BY", "use an operator of your own"),
            (
                !select.cluster_by.is_empty() || !select.distribute_by.is_empty(),
                "CLUSTER BY and DISTRIBUTE BY",
                "leave it out; rows are exchanged as the query needs it",
            ),
            (!select.sort_by.is_empty(), "SORT BY", "leave it out"),
        ];
        for (present, name, remedy) in clauses {
            if present {
                self.refuse(place, format!("{name} is not supported"), remedy);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let place = factor.span();
        match factor {
            TableFactor::Table { version: Some(_), .. } => self.refuse(
                place,
                "FOR SYSTEM_TIME AS OF (a temporal join) is not supported",
                "use a regular join, or an interval join: a.ts BETWEEN b.ts AND b.ts + INTERVAL '1' HOUR",
            ),
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                self.refuse(place, "TABLESAMPLE is not supported", "filter by a hash of a column");
            }
            TableFactor::TableFunction { expr, .. } => {
                self.table_functions.insert(address(expr));
            }
            TableFactor::Derived { lateral: true, .. } | TableFactor::Function { lateral: true, .. } => {
                self.refuse(
                    place,
                    "LATERAL is not supported",
                    "use a regular join, or ROW_NUMBER() for the first rows of a key",
                );
            }
            TableFactor::UNNEST { .. } => {
                self.refuse(
                    place,
                    "UNNEST is not supported",
                    "use an operator of your own that emits a row for each element",
                );
            }
            TableFactor::Pivot { .. } | TableFactor::Unpivot { .. } => {
                self.refuse(
                    place,
                    "PIVOT and UNPIVOT are not supported",
                    "use SUM(..) FILTER (WHERE ..), or UNION ALL",
                );
            }
            TableFactor::MatchRecognize { .. } => {
                self.refuse(
                    place,
                    "MATCH_RECOGNIZE is not supported",
                    "use an operator of your own with keyed state and timers",
                );
            }
            TableFactor::JsonTable { .. } | TableFactor::OpenJsonTable { .. } | TableFactor::XmlTable { .. } => {
                self.refuse(place, "JSON_TABLE and XMLTABLE are not supported", "use JSON_VALUE(column, '$.path')");
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        let place = expression.span();
        match expression {
            Expr::Function(function) => self.check_function(expression, function),
            Expr::Subquery(query) if !self.is_table_argument(expression) => self.refuse(
                query.body.span(),
                "a subquery as a value (scalar subquery) is not supported",
                "join with it: FROM a JOIN (SELECT ..) b ON a.key = b.key",
            ),
            Expr::AnyOp { .. } | Expr::AllOp { .. } => {
                self.refuse(place, "ANY and ALL are not supported", "use IN (..), EXISTS or a join");
            }
            Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => self.refuse(
                place,
                "GROUPING SETS, CUBE and ROLLUP are not supported",
                "write one query for each set and join them with UNION ALL",
            ),
            Expr::AtTimeZone { .. } => self.refuse(
                place,
                "AT TIME ZONE is not supported: TIMESTAMP is UTC without a zone",
                "add or subtract an INTERVAL, or convert where the data is read",
            ),
            Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
                self.refuse(value.span, "a placeholder: nothing binds it", "write the value");
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Check {
    fn check_set(&mut self, body: &SetExpr) {
        match body {
            SetExpr::SetOperation { op, left, right, .. } => {
                if !matches!(op, SetOperator::Union) {
                    self.refuse(
                        right.span(),
                        format!("{op} is not supported"),
                        "use WHERE EXISTS (SELECT ..) or NOT EXISTS (SELECT ..)",
                    );
                }
                self.check_set(left);
                self.check_set(right);
            }
            SetExpr::Values(_) => {
                self.refuse(body.span(), "VALUES is not supported", "read a step: SELECT .. FROM <step>")
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                self.refuse(
                    body.span(),
                    "only SELECT is supported",
                    "name a sink in the StreamJob that reads this step",
                );
            }
            SetExpr::Table(_) => self.refuse(body.span(), "TABLE t is not supported", "write SELECT * FROM t"),
            SetExpr::Select(_) | SetExpr::Query(_) => {}
        }
    }

    /// The first argument of a table function may be a query.
    fn is_table_argument(&self, expression: &Expr) -> bool {
        self.table_functions.contains(&address(expression))
    }

    fn check_function(&mut self, expression: &Expr, function: &Function) {
        let place = function.name.span();
        let written = function.name.to_string();
        let name = written.to_ascii_lowercase();
        if self.table_functions.contains(&address(expression)) {
            let arguments = argument_expressions(function);
            self.table_functions.extend(arguments.iter().map(|argument| address(argument)));
            return;
        }
        let arguments = argument_expressions(function);
        if name == "descriptor" {
            self.clocks.extend(arguments.iter().map(|argument| address(argument)));
            return;
        }
        if name == PARTITION_BY {
            return;
        }
        if name == PROCTIME {
            if !self.clocks.contains(&address(expression)) {
                self.refuse(
                    place,
                    "PROCTIME() is the clock, which has no value that a replay would repeat",
                    "it stands in DESCRIPTOR(PROCTIME()) and ORDER BY PROCTIME() only; use a time column of the record",
                );
            }
            return;
        }
        if ["tumble", "hop", "session"].contains(&name.as_str()) {
            self.refuse(
                place,
                format!("{} is a table function", name.to_uppercase()),
                "write FROM TABLE(TUMBLE(t, DESCRIPTOR(ts), INTERVAL '1' HOUR)) and GROUP BY window_start, window_end",
            );
            return;
        }
        if let Some(refused) = functions::refused(&name) {
            self.refuse(place, format!("{name} {}", refused.reason), refused.remedy);
            return;
        }
        let known = functions::functions();
        let is_aggregate = known.aggregates.contains_key(&name);
        if !known.scalars.contains_key(&name) && !is_aggregate && name != ROW_NUMBER {
            let all = known.scalars.keys().chain(known.aggregates.keys()).map(String::as_str);
            let mut all: Vec<&str> = all.collect();
            all.sort_unstable();
            let remedy = match names::nearest(&name, all) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "see the functions in the SQL page of the documentation".to_owned(),
            };
            self.problems.push(Problem::new(format!("no function {written}"), remedy).at_span(place));
            return;
        }
        match &function.over {
            Some(WindowType::WindowSpec(window)) if name == ROW_NUMBER => {
                self.clocks.extend(window.order_by.iter().map(|key| address(&key.expr)));
            }
            Some(_) if name != ROW_NUMBER => self.refuse(
                place,
                format!("{} OVER (..) is not supported", written.to_uppercase()),
                "aggregate in a window: FROM TABLE(TUMBLE(..)) .. GROUP BY window_start, window_end",
            ),
            None if name == ROW_NUMBER => {
                self.refuse(
                    place,
                    "ROW_NUMBER() without OVER",
                    "write ROW_NUMBER() OVER (PARTITION BY .. ORDER BY ..)",
                );
            }
            _ => {}
        }
        let ordered = match &function.args {
            FunctionArguments::List(list) => !list.clauses.is_empty(),
            _ => false,
        };
        if ordered || function.null_treatment.is_some() || !function.within_group.is_empty() {
            self.refuse(
                place,
                format!(
                    "{} takes its arguments only: ORDER BY, WITHIN GROUP, IGNORE NULLS and the like are not supported",
                    written.to_uppercase()
                ),
                "to pick a row by order, use ROW_NUMBER() OVER (PARTITION BY .. ORDER BY ..) with row_num = 1",
            );
        }
    }
}

/// The arguments of a call that are expressions.
pub(crate) fn argument_expressions(function: &Function) -> Vec<&Expr> {
    let list = match &function.args {
        FunctionArguments::List(list) => list.args.as_slice(),
        _ => &[],
    };
    let expressions = list.iter().filter_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression))
        | FunctionArg::Named { arg: FunctionArgExpr::Expr(expression), .. } => Some(expression),
        _ => None,
    });
    expressions.collect()
}
