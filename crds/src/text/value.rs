//! What single values look like: what is wrong with a text, and what could stand in its place.

use regex::Regex;
use serde_json::Value;

use crate::{
    ByteSize, ColumnType, HumanDuration,
    column_type::{ColumnTypeError, TYPE_NAMES},
    rules::{DNS_LABEL_PATTERN, DNS_SUBDOMAIN_PATTERN},
    schema::TYPE_MARKER,
    suggest::nearest,
};

/// What is wrong with a duration, a size or a column type, by its own parser, which explains best.
pub(super) fn parsed_text_mistake(text: &str, schema: &Value) -> Option<(String, String)> {
    let message = match schema[TYPE_MARKER].as_str()? {
        "duration" => text.parse::<HumanDuration>().err()?.to_string(),
        "byteSize" => text.parse::<ByteSize>().err()?.to_string(),
        "columnType" => match text.parse::<ColumnType>().err()? {
            ColumnTypeError::UnknownType(name) => {
                let all = format!("the types are {}", TYPE_NAMES.join(", "));
                let remedy = match nearest(&name, TYPE_NAMES) {
                    Some(meant) => format!("did you mean {meant}? {all}"),
                    None => all,
                };
                return Some((format!("unknown type `{name}`"), remedy));
            }
            malformed => malformed.to_string(),
        },
        _ => return None,
    };
    // The parsers write `reason: remedy`.
    let (reason, remedy) = message.split_once(": ")?;
    Some((reason.to_owned(), remedy.to_owned()))
}

pub(super) fn pattern_mistake(text: &str, schema: &Value) -> Option<(String, String)> {
    let pattern = schema["pattern"].as_str()?;
    if Regex::new(pattern).ok()?.is_match(text) {
        return None;
    }
    let mut reason = format!("`{text}` is not allowed here");
    let remedy = match pattern {
        DNS_LABEL_PATTERN => {
            reason = format!("`{text}` cannot be a name");
            match dns_label(text) {
                Some(label) => format!("use lower-case letters, digits and '-', such as `{label}`"),
                None => "use lower-case letters, digits and '-'; begin and end with a letter or digit".to_owned(),
            }
        }
        DNS_SUBDOMAIN_PATTERN => "use lower-case letters, digits, '-' and '.', as Kubernetes names are".to_owned(),
        _ if pattern.starts_with("^(file|s3") => {
            reason = format!("`{text}` is not a storage URI");
            "write a URI: file:///path, s3://bucket/prefix, gs://, az://, hdfs:// or memory://".to_owned()
        }
        _ if pattern.starts_with("^https?") => "write a URL: http://host:port or https://host:port".to_owned(),
        _ => format!("it must match {pattern}"),
    };
    Some((reason, remedy))
}

/// Whether a quoted text would be of the expected type without its quotes.
pub(super) fn is_plainly(expected: &str, text: &str) -> bool {
    match expected {
        "a whole number" => text.parse::<i64>().is_ok(),
        "a number" => text.parse::<f64>().is_ok(),
        _ => matches!(text, "true" | "false"),
    }
}

/// A value that fits where a required one is missing or wrong, so that the rest can be read.
pub(super) fn placeholder(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    match (schema["type"].as_str(), schema[TYPE_MARKER].as_str()) {
        (_, Some("duration")) => "1s".into(),
        (_, Some("byteSize")) => "1Mi".into(),
        (_, Some("columnType")) => "VARCHAR".into(),
        (Some("string"), _) => "".into(),
        (Some("boolean"), _) => false.into(),
        (Some("integer"), _) => schema["minimum"].as_f64().map_or(0, |minimum| minimum as u64).into(),
        (Some("number"), _) => schema["minimum"].as_f64().unwrap_or(0.0).into(),
        (Some("array"), _) => Value::Array(Vec::new()),
        (Some("object"), _) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.map(|name| (name.to_owned(), placeholder(&schema["properties"][name]))).collect()
        }
        _ => Value::Null,
    }
}

/// The DNS label nearest to a text: `Hourly_Delays` -> `hourly-delays`.
fn dns_label(text: &str) -> Option<String> {
    let mapped: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let label = mapped.trim_matches('-').to_owned();
    (!label.is_empty() && label.len() <= 63).then_some(label)
}
