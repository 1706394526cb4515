//! A parsed query to a typed logical plan, brought into the few shapes that lowering knows.

use crate::catalog::Catalog;
use crate::error::{Planned, Problem};
use datafusion_expr::LogicalPlan;
use datafusion_optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion_optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion_optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion_optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion_optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion_optimizer::optimize_projections::OptimizeProjections;
use datafusion_optimizer::push_down_filter::PushDownFilter;
use datafusion_optimizer::simplify_expressions::SimplifyExpressions;
use datafusion_optimizer::{AnalyzerRule, Optimizer, OptimizerContext};
use datafusion_sql::sqlparser::ast::{Query, Statement};
use std::sync::Arc;

/// Names and types resolved, every cast explicit.
pub(crate) fn typed_plan(query: &Query, catalog: &Catalog) -> Result<LogicalPlan, datafusion_common::DataFusionError> {
    let plan = catalog.planner().sql_statement_to_plan(Statement::Query(Box::new(query.clone())))?;
    TypeCoercion::new().analyze(plan, catalog.options())
}

/// Filters as early as they can run and no column kept that nobody reads: less state and less to exchange.
/// Subqueries of IN and EXISTS become semi and anti joins, comma joins get their keys.
pub(crate) fn optimized_plan(plan: LogicalPlan, catalog: &Catalog) -> Planned<LogicalPlan> {
    let rules = Optimizer::with_rules(vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ]);
    let context = OptimizerContext::new_with_config_options(Arc::clone(catalog.options()))
        .without_query_execution_start_time()
        .with_skip_failing_rules(false)
        .with_max_passes(3);
    rules.optimize(plan, &context, |_, _| {}).map_err(Problem::from)
}
