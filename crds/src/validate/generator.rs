//! The generator: its columns and those of the schema are the same, and each rule fits its column's type.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Findings, standing};
use crate::{
    column_type::ColumnType,
    streamjob::{
        COLUMN_GENERATORS, ColumnGenerator, ColumnRule, GeneratorSource, RandomGenerator, RowOrder, SequenceGenerator,
        Source,
    },
    suggest::{list, nearest},
};

pub(super) fn check(generator: &GeneratorSource, source: &Source, path: &str, findings: &mut Findings) {
    let columns = source.columns();
    let path = format!("{path}.generator.columns");
    for (index, column) in generator.columns.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let ColumnGenerator { name, sequence, random, constant, time } = column;
        let named = standing(&[
            ("sequence", sequence.is_some()),
            ("random", random.is_some()),
            ("constant", constant.is_some()),
            ("time", time.is_some()),
        ]);
        findings.exactly_one(&path, "rule", &named, &COLUMN_GENERATORS);
        if generator.columns[..index].iter().any(|earlier| earlier.name == *name) {
            findings.error(format!("{path}.name"), format!("`{name}` is generated twice"), "remove one of the two");
        }
        match columns.iter().find(|declared| declared.name == *name) {
            Some(declared) => {
                if let Some(rule) = column.rule() {
                    self::rule(rule, &declared.column_type, declared.is_nullable(), &path, findings);
                }
            }
            None if columns.is_empty() => {}
            None => {
                let names = || columns.iter().map(|declared| declared.name.as_str());
                let remedy = match nearest(name, names()) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("the columns are {}", list(names())),
                };
                findings.error(format!("{path}.name"), format!("there is no column `{name}` in the schema"), remedy);
            }
        }
    }
    let missing: Vec<&str> = columns
        .iter()
        .map(|declared| declared.name.as_str())
        .filter(|name| !generator.columns.iter().any(|column| column.name == *name))
        .collect();
    if !missing.is_empty() {
        findings.error(
            path,
            format!("the schema has {}, which nothing generates", list(missing)),
            "add a rule for each; `constant: {}` is NULL",
        );
    }
}

fn rule(rule: ColumnRule<'_>, column_type: &ColumnType, nullable: bool, path: &str, findings: &mut Findings) {
    match rule {
        ColumnRule::Sequence(sequence) => self::sequence(sequence, column_type, path, findings),
        ColumnRule::Random(random) => self::random(random, column_type, nullable, path, findings),
        ColumnRule::Constant(constant) => {
            let value = constant.value.as_ref().unwrap_or(&Value::Null);
            if !constant_fits(value, column_type, nullable) {
                findings.error(
                    format!("{path}.constant.value"),
                    format!("{value} is no value of type {column_type}"),
                    "write a value of the column's type",
                );
            }
        }
        ColumnRule::Time(time) => {
            if !column_type.is_timestamp() && *column_type != ColumnType::Date {
                wrong_type("time", column_type, "TIMESTAMP or DATE", path, findings);
            }
            timestamp(time.start.as_deref(), &format!("{path}.time.start"), findings);
        }
    }
}

fn sequence(sequence: &SequenceGenerator, column_type: &ColumnType, path: &str, findings: &mut Findings) {
    if !column_type.is_numeric() && *column_type != ColumnType::Varchar {
        wrong_type("sequence", column_type, "a number or VARCHAR", path, findings);
    }
    if sequence.order() == RowOrder::Mixed && sequence.cardinality.is_none() {
        findings.error(
            format!("{path}.sequence.order"),
            "a mixed order needs to know how many values there are",
            "add `cardinality`",
        );
    }
    if sequence.cardinality == Some(0) {
        findings.error(format!("{path}.sequence.cardinality"), "no value at all", "write 1 or more");
    }
}

fn random(random: &RandomGenerator, column_type: &ColumnType, nullable: bool, path: &str, findings: &mut Findings) {
    let path = format!("{path}.random");
    let text = matches!(column_type, ColumnType::Varchar | ColumnType::Bytes);
    if !(text || column_type.is_numeric() || *column_type == ColumnType::Boolean) {
        wrong_type(
            "random",
            column_type,
            "a number, BOOLEAN, VARCHAR or BYTES",
            path.trim_end_matches(".random"),
            findings,
        );
        return;
    }
    if column_type.is_numeric() {
        match (random.min.unwrap_or(0.0), random.max) {
            (_, None) => findings.error(format!("{path}.max"), "a random number needs an upper bound", "add `max`"),
            (min, Some(max)) if min > max => {
                findings.error(format!("{path}.max"), format!("max {max} is below min {min}"), "exchange them");
            }
            (_, Some(_)) => {}
        }
    }
    if !random.values.is_empty() && *column_type != ColumnType::Varchar {
        findings.error(
            format!("{path}.values"),
            format!("values are texts, and the column is {column_type}"),
            "use min and max",
        );
    }
    if random.null_ratio() > 0.0 && !nullable {
        findings.error(
            format!("{path}.nullRatio"),
            "the column may not be NULL",
            "remove `nullRatio` or `nullable: false`",
        );
    }
}

fn constant_fits(value: &Value, column_type: &ColumnType, nullable: bool) -> bool {
    match (value, column_type) {
        (Value::Null, _) => nullable,
        (Value::Bool(_), ColumnType::Boolean) => true,
        (Value::Number(number), integer) if integer.is_integer() => {
            let range = match integer {
                ColumnType::TinyInt => i64::from(i8::MIN)..=i64::from(i8::MAX),
                ColumnType::SmallInt => i64::from(i16::MIN)..=i64::from(i16::MAX),
                ColumnType::Int => i64::from(i32::MIN)..=i64::from(i32::MAX),
                _ => i64::MIN..=i64::MAX,
            };
            number.as_i64().is_some_and(|number| range.contains(&number))
        }
        (Value::Number(_), ColumnType::Float | ColumnType::Double | ColumnType::Decimal { .. }) => true,
        (Value::String(text), ColumnType::Decimal { .. }) => text.parse::<f64>().is_ok(),
        (Value::String(_), ColumnType::Varchar | ColumnType::Bytes) => true,
        (Value::String(text), ColumnType::Date) => text.parse::<k8s_openapi::jiff::civil::Date>().is_ok(),
        (Value::String(text), ColumnType::Time) => text.parse::<k8s_openapi::jiff::civil::Time>().is_ok(),
        (Value::String(text), ColumnType::Timestamp { .. }) => {
            text.parse::<k8s_openapi::jiff::civil::DateTime>().is_ok() || text.parse::<Timestamp>().is_ok()
        }
        (Value::String(text), ColumnType::TimestampLtz { .. }) => text.parse::<Timestamp>().is_ok(),
        _ => false,
    }
}

/// Complains unless the text, where there is one, is a time by RFC 3339.
pub(super) fn timestamp(text: Option<&str>, path: &str, findings: &mut Findings) {
    if let Some(text) = text
        && text.parse::<Timestamp>().is_err()
    {
        findings.error(path, format!("`{text}` is not a time"), "write it as 2026-01-31T00:00:00Z");
    }
}

fn wrong_type(rule: &str, column_type: &ColumnType, expected: &str, path: &str, findings: &mut Findings) {
    findings.error(
        format!("{path}.{rule}"),
        format!("`{rule}` makes {expected}, and the column is {column_type}"),
        "use another rule, or declare the column so",
    );
}
