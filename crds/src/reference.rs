//! The StreamJob reference, generated from the types: every field with its type, default and meaning.

use std::fmt::Write;

use serde_json::Value;

use crate::{schema::TYPE_MARKER, streamjob::StreamJobSpec};

/// The sections of a spec, each a chapter of the reference; fields of the spec itself come first.
pub fn markdown() -> String {
    let schema = crate::schema::structural::<StreamJobSpec>();
    let mut out = String::from(
        "# StreamJob reference\n\n\
         Generated from the types (`cargo run -p weir-crds --bin crdgen -- --reference`).\n\
         Durations are written as `100ms`, `10s`, `5m`, `1h30m`, `30d`; sizes as Kubernetes quantities: `64Mi`, `1Gi`.\n",
    );
    chapter(&mut out, &schema, "spec");
    out
}

/// The table of an object's fields, then a chapter for each field that has fields itself.
fn chapter(out: &mut String, schema: &Value, path: &str) {
    let Some(fields) = schema["properties"].as_object().filter(|fields| !fields.is_empty()) else { return };
    // Writing into a String cannot fail.
    let _ = write!(out, "\n## `{path}`\n\n");
    if let Some(description) = schema["description"].as_str() {
        let _ = write!(out, "{}\n\n", one_line(description));
    }
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "- {}", rule["message"].as_str().unwrap_or_default());
    }
    if schema["x-kubernetes-validations"].is_array() {
        out.push('\n');
    }
    out.push_str("| Field | Type | Default | Meaning |\n| --- | --- | --- | --- |\n");
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in fields {
        let default = match field.get("default") {
            _ if required.contains(&name.as_str()) => "**required**".to_owned(),
            Some(Value::String(text)) => format!("`{}`", if text.is_empty() { "\"\"" } else { text }),
            Some(other) => format!("`{other}`"),
            None => String::new(),
        };
        let meaning = one_line(field["description"].as_str().unwrap_or_default());
        let _ = writeln!(out, "| `{name}` | {} | {default} | {meaning} |", type_name(field));
    }
    for (name, field) in fields {
        let (object, suffix) = match field["items"].is_object() {
            true => (&field["items"], "[]"),
            false => (field, ""),
        };
        chapter(out, object, &format!("{path}.{name}{suffix}"));
    }
}

fn type_name(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<String> = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    match (field[TYPE_MARKER].as_str(), field["type"].as_str()) {
        (Some("duration"), _) => "duration".to_owned(),
        (Some("byteSize"), _) => "size".to_owned(),
        (Some("columnType"), _) => "SQL type".to_owned(),
        (_, Some("string")) => "text".to_owned(),
        (_, Some("integer")) => match (field["minimum"].as_f64(), field["maximum"].as_f64()) {
            (Some(min), Some(max)) => format!("integer, {min} to {max}"),
            (Some(min), None) => format!("integer, {min} or more"),
            _ => "integer".to_owned(),
        },
        (_, Some("array")) => format!("list of {}", type_name(&field["items"])),
        (_, Some("object")) if field["additionalProperties"].is_object() => {
            format!("map of {}", type_name(&field["additionalProperties"]))
        }
        (_, Some("object")) => "object".to_owned(),
        (_, Some(other)) => other.to_owned(),
        (_, None) if field["x-kubernetes-int-or-string"] == true => "quantity".to_owned(),
        (_, None) => "any".to_owned(),
    }
}

/// Text for a table cell.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_section_has_a_chapter() {
        let reference = super::markdown();
        for chapter in ["spec", "spec.pipeline.sources[]", "spec.checkpoint.storage", "spec.restart.exponentialDelay"] {
            assert!(reference.contains(&format!("\n## `{chapter}`\n")), "{chapter}");
        }
        assert!(reference.contains("| `interval` | duration | `10s` | From one trigger to the next. |"));
    }
}
