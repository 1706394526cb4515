//! Functions with a syntax of their own: EXTRACT(HOUR FROM ts), POSITION(a IN b), SUBSTRING(a FROM 1 FOR 2), OVERLAY.

use super::functions;
use datafusion_common::Result;
use datafusion_expr::Expr;
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::planner::{ExprPlanner, PlannerResult};
use std::sync::Arc;

/// Plans them as calls of the functions that they are.
#[derive(Debug)]
pub(crate) struct FunctionSyntax;

impl ExprPlanner for FunctionSyntax {
    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(call("date_part", args))
    }

    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(call("strpos", args))
    }

    fn plan_substring(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(call("substr", args))
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(call("overlay", args))
    }
}

fn call(name: &str, args: Vec<Expr>) -> PlannerResult<Vec<Expr>> {
    match functions().scalars.get(name) {
        Some(function) => {
            PlannerResult::Planned(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args)))
        }
        None => PlannerResult::Original(args),
    }
}
