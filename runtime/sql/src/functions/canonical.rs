//! DataFusion's scalar functions, made to return Weir's types: VARCHAR is `Utf8` and never a view, TIMESTAMP is
//! microseconds, integers are signed.

use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion_common::Result;
use datafusion_expr::expr::Cast;
use datafusion_expr::interval_arithmetic::Interval;
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use std::sync::Arc;
use weir_model::types::TIMESTAMP;

/// The function itself if it returns such types anyway, or else one that casts its result.
pub(crate) fn canonical(inner: Arc<ScalarUDF>) -> ScalarUDF {
    ScalarUDF::from(Canonical { inner })
}

/// The type in which a value of `data_type` travels between operators.
pub(crate) fn canonical_type(data_type: &DataType) -> DataType {
    use DataType::*;
    match data_type {
        Utf8View | LargeUtf8 => Utf8,
        BinaryView | LargeBinary | FixedSizeBinary(_) => Binary,
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 | UInt64 => Int64,
        Float16 => Float32,
        Timestamp(_, None) => TIMESTAMP,
        Timestamp(_, Some(zone)) => Timestamp(TimeUnit::Microsecond, Some(Arc::clone(zone))),
        Date64 => TIMESTAMP,
        Time32(_) | Time64(_) => Time64(TimeUnit::Microsecond),
        Decimal32(p, s) | Decimal64(p, s) => Decimal128(*p, *s),
        Dictionary(_, values) => canonical_type(values),
        Null => Utf8,
        other => other.clone(),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Canonical {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Canonical {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, argument_types: &[DataType]) -> Result<DataType> {
        Ok(canonical_type(&self.inner.return_type(argument_types)?))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(args)?;
        Ok(Arc::new(Field::new(field.name(), canonical_type(field.data_type()), field.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ScalarFunctionArgs { args, arg_fields, number_rows, return_field, config_options } = args;
        let wanted = return_field.data_type().clone();
        // The inner function is told the type that it would have returned by itself.
        let scalars: Vec<_> = args
            .iter()
            .map(|value| match value {
                ColumnarValue::Scalar(scalar) => Some(scalar),
                ColumnarValue::Array(_) => None,
            })
            .collect();
        let inner_field = self
            .inner
            .return_field_from_args(ReturnFieldArgs { arg_fields: &arg_fields, scalar_arguments: &scalars })?;
        let result = self.inner.invoke_with_args(ScalarFunctionArgs {
            args,
            arg_fields,
            number_rows,
            return_field: inner_field,
            config_options,
        })?;
        if result.data_type() == wanted {
            return Ok(result);
        }
        match result {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(cast(&array, &wanted)?)),
            ColumnarValue::Scalar(scalar) => Ok(ColumnarValue::Scalar(scalar.cast_to(&wanted)?)),
        }
    }

    /// Some functions (COALESCE) exist only to be rewritten.
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let expression = match self.inner.simplify(args, info)? {
            ExprSimplifyResult::Simplified(expression) => expression,
            original => return Ok(original),
        };
        let produced = expression.get_type(info.schema().as_ref())?;
        let wanted = canonical_type(&produced);
        // An untyped NULL fits everywhere as it is.
        let fits = produced == wanted || produced == DataType::Null;
        let expression = if fits { expression } else { Expr::Cast(Cast::new(Box::new(expression), wanted)) };
        Ok(ExprSimplifyResult::Simplified(expression))
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }

    fn evaluate_bounds(&self, _: &[&Interval]) -> Result<Interval> {
        Interval::make_unbounded(&DataType::Null)
    }

    fn coerce_types(&self, argument_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(argument_types)
    }
}
