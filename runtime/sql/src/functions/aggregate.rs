//! Aggregate functions as the planner sees them: names, argument types and result types. What computes them is
//! the dataflow's; these have the result types that it promises (`weir_model::graph::AggregateFunction`).

use arrow::datatypes::DataType;
use datafusion_common::{Result, not_impl_err, plan_err};
use datafusion_expr::expr::{AggregateFunction as AggregateExpr, NullTreatment};
use datafusion_expr::function::AccumulatorArgs;
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawAggregateExpr};
use datafusion_expr::utils::COUNT_STAR_EXPANSION;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility};
use weir_model::graph::AggregateFunction;
use weir_model::types::sql_type_name;

use AggregateFunction::*;

const ALL: &[(&str, &[&str], AggregateFunction)] = &[
    ("count", &[], Count),
    ("sum", &[], Sum),
    ("min", &[], Min),
    ("max", &[], Max),
    ("avg", &["mean"], Avg),
    ("stddev_pop", &[], StddevPop),
    ("stddev_samp", &["stddev"], StddevSamp),
    ("var_pop", &[], VarPop),
    ("var_samp", &["var", "variance"], VarSamp),
    ("bool_and", &["every"], BoolAnd),
    ("bool_or", &[], BoolOr),
    ("first_value", &[], FirstValue),
    ("last_value", &[], LastValue),
];

pub(crate) fn aggregates() -> impl Iterator<Item = AggregateUDF> {
    ALL.iter().map(|(name, aliases, function)| {
        AggregateUDF::from(Aggregate {
            name,
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            function: *function,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    })
}

pub(crate) fn function_of(udaf: &AggregateUDF) -> Option<AggregateFunction> {
    ALL.iter().find(|(name, ..)| *name == udaf.name()).map(|(.., function)| *function)
}

/// The function's name as SQL writes it.
pub(crate) fn sql_name(function: AggregateFunction) -> String {
    ALL.iter().find(|(.., known)| *known == function).map(|(name, ..)| name.to_uppercase()).unwrap_or_default()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Aggregate {
    name: &'static str,
    aliases: Vec<String>,
    function: AggregateFunction,
    signature: Signature,
}

impl AggregateUDFImpl for Aggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [argument] = arguments else {
            return plan_err!("{} takes one argument, not {}", self.name.to_uppercase(), arguments.len());
        };
        match argument_type(self.function, argument) {
            Some(data_type) => Ok(vec![data_type]),
            None => plan_err!("{} does not take {}", self.name.to_uppercase(), sql_type_name(argument)),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let argument = arguments.first().unwrap_or(&DataType::Null);
        Ok(match self.function {
            Count => DataType::Int64,
            Sum => match argument {
                DataType::Decimal128(_, scale) => DataType::Decimal128(38, *scale),
                DataType::Float32 | DataType::Float64 => DataType::Float64,
                _ => DataType::Int64,
            },
            Min | Max | FirstValue | LastValue => argument.clone(),
            Avg => match argument {
                DataType::Decimal128(_, scale) => DataType::Decimal128(38, (*scale).max(6)),
                _ => DataType::Float64,
            },
            StddevPop | StddevSamp | VarPop | VarSamp => DataType::Float64,
            BoolAnd | BoolOr => DataType::Boolean,
        })
    }

    fn is_nullable(&self) -> bool {
        self.function != Count
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("aggregates are computed by the dataflow")
    }
}

/// What the argument is cast to before it is aggregated; None where the function has no meaning for it.
fn argument_type(function: AggregateFunction, argument: &DataType) -> Option<DataType> {
    use DataType::*;
    // No cast where none is needed: state goes by the argument's name, which widening a column must not change.
    let numeric = match argument {
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | Float32 | Float64 | Decimal128(_, _) => {
            Some(argument.clone())
        }
        UInt64 | Null => Some(Int64),
        Float16 => Some(Float32),
        Decimal32(p, s) | Decimal64(p, s) => Some(Decimal128(*p, *s)),
        _ => None,
    };
    match function {
        Count | FirstValue | LastValue => Some(argument.clone()),
        Sum | Avg | StddevPop | StddevSamp | VarPop | VarSamp => numeric,
        Min | Max => match argument {
            Utf8View | LargeUtf8 => Some(Utf8),
            Boolean | Utf8 | Date32 | Time64(_) | Timestamp(_, _) | Decimal128(_, _) => Some(argument.clone()),
            Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32 | Float64 => {
                Some(argument.clone())
            }
            Null => Some(Int64),
            _ => None,
        },
        BoolAnd | BoolOr => matches!(argument, Boolean | Null).then_some(Boolean),
    }
}

/// COUNT(*), COUNT() and COUNT(1) are one thing, told by its literal argument.
#[derive(Debug)]
pub(crate) struct CountStar;

impl ExprPlanner for CountStar {
    fn plan_aggregate(&self, raw: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        #[expect(deprecated, reason = "the parser's `*` still arrives as a wildcard expression")]
        let star = matches!(raw.args.as_slice(), [] | [Expr::Wildcard { .. }]);
        if raw.func.name() != "count" || !star {
            return Ok(PlannerResult::Original(raw));
        }
        let RawAggregateExpr { func, args: _, distinct, filter, order_by, null_treatment } = raw;
        let arguments = vec![Expr::Literal(COUNT_STAR_EXPANSION, None)];
        let null_treatment: Option<NullTreatment> = null_treatment;
        let count = AggregateExpr::new_udf(func, arguments, distinct, filter, order_by, null_treatment);
        Ok(PlannerResult::Planned(Expr::AggregateFunction(count).alias("count(*)")))
    }
}
