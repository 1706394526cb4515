//! Flink's spellings of functions, brought to those that the planner knows, on the parsed query: all places stay.

use datafusion_sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion_sql::sqlparser::ast::*;
use datafusion_sql::sqlparser::tokenizer::Span;
use std::ops::ControlFlow;

/// Functions that only go by another name.
const NAMES: &[(&str, &str)] =
    &[("sign", "signum"), ("truncate", "trunc"), ("ceiling", "ceil"), ("regexp", "regexp_like")];

/// YEAR(ts) is EXTRACT(YEAR FROM ts).
const PARTS: &[(&str, DateTimeField)] = &[
    ("year", DateTimeField::Year),
    ("quarter", DateTimeField::Quarter),
    ("month", DateTimeField::Month),
    ("dayofmonth", DateTimeField::Day),
    ("dayofyear", DateTimeField::Doy),
    ("hour", DateTimeField::Hour),
    ("minute", DateTimeField::Minute),
    ("second", DateTimeField::Second),
];

pub(crate) fn respell(query: &mut Query) {
    let _ = query.visit(&mut Spelling);
}

struct Spelling;

impl VisitorMut for Spelling {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        if let Some(respelt) = respelt(expression) {
            *expression = respelt;
        }
        ControlFlow::Continue(())
    }
}

fn respelt(expression: &mut Expr) -> Option<Expr> {
    // FLOOR(ts TO HOUR)
    if let Expr::Floor { expr, field: CeilFloorKind::DateTimeField(unit) } = expression
        && *unit != DateTimeField::NoDateTime
    {
        let span = expr.span();
        let unit = text(&unit.to_string().to_lowercase(), span);
        return Some(call("date_trunc", span, vec![unit, expr.as_ref().clone()]));
    }
    let Expr::Function(function) = expression else { return None };
    let [ObjectNamePart::Identifier(ident)] = function.name.0.as_mut_slice() else { return None };
    let name = ident.value.to_ascii_lowercase();
    if let Some((_, known)) = NAMES.iter().find(|(spelling, _)| *spelling == name) {
        ident.value = (*known).to_owned();
        return None;
    }
    let span = ident.span;
    let FunctionArguments::List(list) = &mut function.args else { return None };
    let arguments = list.args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => Some(argument.clone()),
        _ => None,
    });
    let arguments = arguments.collect::<Option<Vec<Expr>>>()?;
    match (name.as_str(), arguments.as_slice()) {
        // The unit is a word, which the planner would take for a column.
        ("timestampdiff" | "timestampadd", [Expr::Identifier(unit), ..]) => {
            let unit = text(&unit.value, unit.span);
            list.args[0] = FunctionArg::Unnamed(FunctionArgExpr::Expr(unit));
            None
        }
        ("mod", [dividend, divisor]) => Some(binary(dividend, BinaryOperator::Modulo, divisor)),
        ("if", [condition, then, otherwise]) => Some(Expr::Case {
            case_token: AttachedToken::empty(),
            end_token: AttachedToken::empty(),
            operand: None,
            conditions: vec![CaseWhen { condition: condition.clone(), result: then.clone() }],
            else_result: Some(Box::new(otherwise.clone())),
        }),
        ("locate", [part, whole]) => Some(call("strpos", span, vec![whole.clone(), part.clone()])),
        // SPLIT_INDEX counts from 0, split_part from 1.
        ("split_index", [whole, separator, index]) => {
            let one = Expr::Value(ValueWithSpan { value: Value::Number("1".into(), false), span: index.span() });
            let index = binary(index, BinaryOperator::Plus, &one);
            Some(call("split_part", span, vec![whole.clone(), separator.clone(), index]))
        }
        (name, [time]) => {
            let (_, field) = PARTS.iter().find(|(part, _)| *part == name)?;
            Some(Expr::Extract { field: field.clone(), syntax: ExtractSyntax::From, expr: Box::new(time.clone()) })
        }
        _ => None,
    }
}

fn text(value: &str, span: Span) -> Expr {
    Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(value.to_owned()), span })
}

fn binary(left: &Expr, op: BinaryOperator, right: &Expr) -> Expr {
    let operand = |expression: &Expr| match expression {
        Expr::BinaryOp { .. } => Box::new(Expr::Nested(Box::new(expression.clone()))),
        _ => Box::new(expression.clone()),
    };
    Expr::Nested(Box::new(Expr::BinaryOp { left: operand(left), op, right: operand(right) }))
}

fn call(name: &str, span: Span, arguments: Vec<Expr>) -> Expr {
    let arguments = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident { value: name.to_owned(), quote_style: None, span }]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: arguments.collect(),
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}
