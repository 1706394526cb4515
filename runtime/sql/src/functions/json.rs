//! JSON access: JSON_VALUE, JSON_QUERY, JSON_EXISTS, and the operators `->` and `->>`.
//!
//! Text that is not JSON, and a path that leads nowhere, give NULL (JSON_EXISTS: false).

mod path;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringBuilder};
use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion_sql::sqlparser::ast::BinaryOperator;
use path::{Step, find, parse_path};
use serde_json::Value;
use std::sync::{Arc, LazyLock};
use weir_model::types::sql_type_name;

pub(super) fn functions() -> Vec<ScalarUDF> {
    [Kind::Value, Kind::Query, Kind::Exists, Kind::Get, Kind::GetText].map(json_function).into()
}

fn json_function(kind: Kind) -> ScalarUDF {
    ScalarUDF::from(Json { kind, signature: Signature::user_defined(Volatility::Immutable) })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The scalar at a path, as text.
    Value,
    /// The object or array at a path, as JSON text.
    Query,
    Exists,
    /// `json -> key`: whatever is there, as JSON text.
    Get,
    /// `json ->> key`: the same, but a string without its quotes.
    GetText,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Json {
    kind: Kind,
    signature: Signature,
}

impl ScalarUDFImpl for Json {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Value => "json_value",
            Kind::Query => "json_query",
            Kind::Exists => "json_exists",
            Kind::Get => "json_get",
            Kind::GetText => "json_get_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [json, path] = given else {
            return plan_err!("{} takes JSON text and a path, not {} arguments", self.name(), given.len());
        };
        let is_text =
            |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null);
        if !is_text(json) {
            return plan_err!("{} reads JSON text (VARCHAR), not {}", self.name(), sql_type_name(json));
        }
        let by_key = matches!(self.kind, Kind::Get | Kind::GetText);
        match path {
            path if is_text(path) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            path if by_key && path.is_integer() => Ok(vec![DataType::Utf8, DataType::Int64]),
            other => plan_err!("{} takes a path as text, not {}", self.name(), sql_type_name(other)),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(if self.kind == Kind::Exists { DataType::Boolean } else { DataType::Utf8 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [json, path] = args.args.as_slice() else { return exec_err!("{} takes two arguments", self.name()) };
        let constant = matches!((json, path), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let json = json.to_array(rows)?;
        let result = match path {
            ColumnarValue::Scalar(path) => {
                let steps = self.steps_of_scalar(path)?;
                self.evaluate(&json, rows, |_| Ok(steps.as_deref().map(<[Step]>::to_vec)))?
            }
            ColumnarValue::Array(paths) => {
                self.evaluate(&json, rows, |row| self.steps_of_scalar(&ScalarValue::try_from_array(paths, row)?))?
            }
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

impl Json {
    /// The path, parsed; None for NULL.
    fn steps_of_scalar(&self, path: &ScalarValue) -> Result<Option<Vec<Step>>> {
        match path {
            ScalarValue::Utf8(Some(key)) if matches!(self.kind, Kind::Get | Kind::GetText) => {
                Ok(Some(vec![Step::Key(key.clone())]))
            }
            ScalarValue::Int64(Some(index)) => Ok(Some(vec![Step::Index(*index)])),
            ScalarValue::Utf8(Some(path)) => match parse_path(path) {
                Ok(steps) => Ok(Some(steps)),
                Err(reason) => exec_err!("{path} is not a JSON path: {reason}"),
            },
            _ => Ok(None),
        }
    }

    fn evaluate(
        &self,
        json: &ArrayRef,
        rows: usize,
        mut steps: impl FnMut(usize) -> Result<Option<Vec<Step>>>,
    ) -> Result<ArrayRef> {
        let json = json.as_string::<i32>();
        let mut found = |row: usize| -> Result<Option<Value>> {
            if json.is_null(row) {
                return Ok(None);
            }
            Ok(steps(row)?.and_then(|steps| find(json.value(row), &steps)))
        };
        if self.kind == Kind::Exists {
            let exists = (0..rows).map(|row| Ok((!json.is_null(row)).then_some(found(row)?.is_some())));
            return Ok(Arc::new(exists.collect::<Result<BooleanArray>>()?));
        }
        let mut out = StringBuilder::with_capacity(rows, rows * 8);
        for row in 0..rows {
            out.append_option(found(row)?.and_then(|value| self.render(value)));
        }
        Ok(Arc::new(out.finish()))
    }

    fn render(&self, value: Value) -> Option<String> {
        let nested = value.is_object() || value.is_array();
        match (self.kind, value) {
            (Kind::Get, value) => Some(value.to_string()),
            (_, Value::Null) => None,
            (Kind::Value, _) if nested => None,
            (Kind::Query, _) if !nested => None,
            (_, Value::String(text)) => Some(text),
            (_, value) => Some(value.to_string()),
        }
    }
}

/// Plans `->` and `->>` on JSON text.
#[derive(Debug)]
pub(crate) struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(
        &self,
        raw: RawBinaryExpr,
        _: &datafusion_common::DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        static GET: LazyLock<[Arc<ScalarUDF>; 2]> =
            LazyLock::new(|| [Kind::Get, Kind::GetText].map(|kind| Arc::new(json_function(kind))));
        let function = match raw.op {
            BinaryOperator::Arrow => &GET[0],
            BinaryOperator::LongArrow => &GET[1],
            _ => return Ok(PlannerResult::Original(raw)),
        };
        let call = ScalarFunction::new_udf(Arc::clone(function), vec![raw.left, raw.right]);
        Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
    }
}
