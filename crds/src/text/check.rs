//! Walks a YAML tree along the schema of its type and finds every mistake that the schema can see.

use serde_json::Value;

use super::{
    Diagnostic, Position, Severity,
    tree::{Content, Entry, Meaning, Node, Scalar},
    value::{is_plainly, parsed_text_mistake, pattern_mistake, placeholder},
};
use crate::{
    schema::TYPE_MARKER,
    suggest::{list, nearest},
};

/// What the walk found, and the value without what was wrong.
pub(crate) struct Walked {
    /// The value for serde; fields with a mistake are left out.
    pub value: Value,
    pub diagnostics: Vec<Diagnostic>,
    pub tainted: Tainted,
}

/// Where fields were left out: a further complaint there would be about the same mistake.
#[derive(Debug, Default)]
pub(crate) struct Tainted {
    /// The fields that were left out.
    fields: Vec<String>,
    /// The mappings that lack them.
    containers: Vec<String>,
}

impl Tainted {
    fn add(&mut self, field: String, container: &str) {
        self.fields.push(field);
        self.containers.push(container.to_owned());
    }

    /// Whether a complaint about `path` may follow from a mistake already named.
    pub(crate) fn covers(&self, path: &str) -> bool {
        let inside = |field: &String| {
            path.strip_prefix(field.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.fields.iter().any(inside) || self.containers.iter().any(|container| container == path)
    }
}

/// Checks `node` against `schema`. `path` is where it stands, `root` the schema in which misplaced fields are sought.
pub(crate) fn check(node: &Node, schema: &Value, path: &str) -> Walked {
    let mut walk = Walk { root: schema, root_path: path, diagnostics: Vec::new(), tainted: Tainted::default() };
    let value = walk.value(node, schema, path, None).unwrap_or(Value::Null);
    Walked { value, diagnostics: walk.diagnostics, tainted: walk.tainted }
}

struct Walk<'a> {
    root: &'a Value,
    root_path: &'a str,
    diagnostics: Vec<Diagnostic>,
    tainted: Tainted,
}

impl Walk<'_> {
    /// The value as JSON, or `None` where it is wrong. `key` is where its key stands.
    fn value(&mut self, node: &Node, schema: &Value, path: &str, key: Option<&Entry>) -> Option<Value> {
        let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
        if schema["x-kubernetes-int-or-string"] == true {
            return self.int_or_string(node, schema, path);
        }
        match schema["type"].as_str() {
            Some("object") if open && schema.get("properties").is_none() => match &node.content {
                Content::Mapping(_) => Some(node.to_json()),
                Content::Scalar(_) | Content::Sequence(_) => self.wrong_type(node, "a mapping", path, key),
            },
            Some("object") => match &node.content {
                Content::Mapping(entries) => Some(self.object(node, entries, schema, path, key)),
                Content::Scalar(_) | Content::Sequence(_) => self.wrong_type(node, "a mapping", path, key),
            },
            Some("array") => match &node.content {
                Content::Sequence(items) => self.array(node, items, schema, path),
                Content::Scalar(_) | Content::Mapping(_) => self.wrong_type(node, "a list", path, key),
            },
            Some(scalar_type) => match &node.content {
                Content::Scalar(scalar) => self.scalar(node, scalar, scalar_type, schema, path),
                Content::Mapping(_) | Content::Sequence(_) => self.wrong_type(node, article(scalar_type), path, key),
            },
            None => Some(node.to_json()),
        }
    }

    fn object(&mut self, node: &Node, entries: &[Entry], schema: &Value, path: &str, key: Option<&Entry>) -> Value {
        let mut fields = serde_json::Map::new();
        let properties = schema["properties"].as_object();
        let known = |name: &str| properties.and_then(|properties| properties.get_key_value(name));
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        for entry in entries {
            if let Some((name, field)) = known(&entry.key) {
                self.field(entry, name, field, &join(path, name), path, &mut fields);
            } else if let Some(others) = others {
                self.field(entry, &entry.key, others, &format!("{path}[{}]", entry.key), path, &mut fields);
            } else {
                let names = || properties.into_iter().flat_map(|fields| fields.keys()).map(String::as_str);
                let meant = nearest(&entry.key, names());
                self.unknown_field(entry, meant, &names().collect::<Vec<_>>(), path);
                self.tainted.add(join(path, &entry.key), path);
                // Read it as what was meant, so that mistakes inside of it, and none that follow from it, are told.
                if let Some((name, field)) = meant.filter(|meant| node.get(meant).is_none()).and_then(known) {
                    self.field(entry, name, field, &join(path, &entry.key), path, &mut fields);
                    self.tainted.containers.push(join(path, name));
                }
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let field = known(name).map_or(&Value::Null, |(_, field)| field);
            if !entries.iter().any(|entry| entry.key == name) && !fields.contains_key(name) {
                self.missing_field(node, name, field, path, key);
                self.tainted.add(join(path, name), path);
            }
            fields.entry(name).or_insert_with(|| placeholder(field));
        }
        if let Some(max) = schema["maxProperties"].as_u64().filter(|max| entries.len() as u64 > *max) {
            self.error(node, path, format!("{} entries; at most {max} are allowed", entries.len()), "remove some");
        }
        Value::Object(fields)
    }

    fn field(
        &mut self,
        entry: &Entry,
        name: &str,
        schema: &Value,
        field_path: &str,
        path: &str,
        fields: &mut serde_json::Map<String, Value>,
    ) {
        match self.value(&entry.value, schema, field_path, Some(entry)) {
            Some(value) => {
                fields.insert(name.to_owned(), value);
            }
            None => {
                self.tainted.add(field_path.to_owned(), path);
                // A text that breaks a rule is still the name that others refer to.
                if schema["type"] == "string"
                    && schema.get(TYPE_MARKER).is_none()
                    && schema.get("enum").is_none()
                    && let Some(text) = entry.value.text()
                {
                    fields.insert(name.to_owned(), Value::String(text.to_owned()));
                }
            }
        }
    }

    fn array(&mut self, node: &Node, items: &[Node], schema: &Value, path: &str) -> Option<Value> {
        let count = items.len() as u64;
        if let Some(max) = schema["maxItems"].as_u64().filter(|max| count > *max) {
            return self.error(node, path, format!("{count} items; at most {max} are allowed"), "remove some");
        }
        if let Some(min) = schema["minItems"].as_u64().filter(|min| count < *min) {
            return self.error(node, path, "the list is empty", format!("give at least {min}"));
        }
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let item_path = format!("{path}[{index}]");
            let value = self.value(item, &schema["items"], &item_path, None);
            // A list with a gap would shift every index after it.
            values.push(value.unwrap_or_else(|| {
                self.tainted.add(item_path, path);
                placeholder(&schema["items"])
            }));
        }
        Some(Value::Array(values))
    }

    fn scalar(&mut self, node: &Node, scalar: &Scalar, expected: &str, schema: &Value, path: &str) -> Option<Value> {
        let value = match (expected, scalar.meaning()) {
            ("string", Meaning::Text) => return self.text(node, &scalar.text, schema, path),
            ("string", Meaning::Integer(_) | Meaning::Float(_)) if schema.get(TYPE_MARKER).is_some() => {
                return self.text(node, &scalar.text, schema, path);
            }
            ("boolean", Meaning::Boolean(value)) => Value::Bool(value),
            ("integer", Meaning::Integer(number)) => Value::Number(number),
            ("number", Meaning::Integer(number)) => Value::Number(number),
            ("number", Meaning::Float(number)) if number.is_finite() => Value::from(number),
            ("integer", Meaning::Float(number))
                if number.is_finite() && number.fract() == 0.0 && number.abs() < 1e15 =>
            {
                Value::from(number as i64)
            }
            _ => return self.wrong_type(node, article(expected), path, None),
        };
        self.in_range(node, &value, schema, path).then_some(value)
    }

    fn text(&mut self, node: &Node, text: &str, schema: &Value, path: &str) -> Option<Value> {
        if let Some(allowed) = schema["enum"].as_array() {
            let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            if !allowed.contains(&text) {
                let remedy = match nearest(text, allowed.iter().copied()) {
                    Some(meant) => format!("did you mean `{meant}`? Allowed: {}", list(allowed)),
                    None => format!("write one of {}", list(allowed)),
                };
                return self.error(node, path, format!("`{text}` is not one of the allowed values"), remedy);
            }
        }
        if let Some((reason, remedy)) = parsed_text_mistake(text, schema) {
            return self.error(node, path, reason, remedy);
        }
        let length = text.chars().count() as u64;
        if let Some(max) = schema["maxLength"].as_u64().filter(|max| length > *max) {
            return self.error(
                node,
                path,
                format!("{length} characters long; at most {max} are allowed"),
                "shorten it",
            );
        }
        if schema["minLength"].as_u64().is_some_and(|min| length < min) {
            return self.error(
                node,
                path,
                "the text is empty",
                "write a value, or leave the field out if it is optional",
            );
        }
        if let Some((reason, remedy)) = pattern_mistake(text, schema) {
            return self.error(node, path, reason, remedy);
        }
        if let Content::Scalar(scalar) = &node.content
            && scalar.style == saphyr_parser::ScalarStyle::Plain
            && matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off")
        {
            // kubectl reads YAML 1.1, where these are booleans; the same file must mean the same everywhere.
            self.report(
                Severity::Warning,
                (node.start, length as usize),
                path,
                format!("kubectl takes {text} for a boolean"),
                format!("put it in quotes: \"{text}\""),
            );
        }
        Some(Value::String(text.to_owned()))
    }

    fn int_or_string(&mut self, node: &Node, schema: &Value, path: &str) -> Option<Value> {
        let Content::Scalar(scalar) = &node.content else {
            return self.wrong_type(node, "a quantity", path, None);
        };
        match scalar.meaning() {
            Meaning::Integer(number) if number.as_u64().is_some() => Some(Value::Number(number)),
            Meaning::Float(_) | Meaning::Text => {
                let mistake =
                    parsed_text_mistake(&scalar.text, schema).or_else(|| pattern_mistake(&scalar.text, schema));
                match mistake {
                    Some((reason, remedy)) => self.error(node, path, reason, remedy),
                    None => Some(Value::String(scalar.text.clone())),
                }
            }
            Meaning::Null | Meaning::Boolean(_) | Meaning::Integer(_) => {
                self.wrong_type(node, "a quantity", path, None)
            }
        }
    }

    fn in_range(&mut self, node: &Node, value: &Value, schema: &Value, path: &str) -> bool {
        let Some(number) = value.as_f64() else { return true };
        let (min, max) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        if min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max) {
            return true;
        }
        let remedy = match (min, max) {
            (Some(min), Some(max)) => format!("write a number from {min} to {max}"),
            (Some(min), None) => format!("write {min} or more"),
            (None, Some(max)) => format!("write {max} or less"),
            (None, None) => return true,
        };
        self.error(node, path, format!("{value} is out of range"), remedy);
        false
    }

    fn unknown_field(&mut self, entry: &Entry, meant: Option<&str>, names: &[&str], path: &str) {
        let remedy = if let Some(meant) = meant {
            format!("did you mean `{meant}`?")
        } else if let Some(home) = home_of(&entry.key, self.root, self.root_path) {
            format!("it belongs to {home}")
        } else if names.is_empty() {
            format!("{path} has no fields; write {{}}")
        } else {
            format!("the fields here are {}", list(names.iter().copied()))
        };
        let at = (entry.key_start, entry.key.chars().count());
        let field_path = join(path, &entry.key);
        self.report(Severity::Error, at, &field_path, format!("unknown field `{}`", entry.key), remedy);
    }

    fn missing_field(&mut self, node: &Node, name: &str, schema: &Value, path: &str, key: Option<&Entry>) {
        let at = match key {
            Some(entry) => (entry.key_start, entry.key.chars().count()),
            None => (node.start, 1),
        };
        let description = schema["description"].as_str().unwrap_or_default();
        let meaning = description.lines().next().unwrap_or_default().trim_end_matches('.');
        let remedy = if meaning.is_empty() { format!("add `{name}`") } else { format!("add `{name}`: {meaning}") };
        self.report(Severity::Error, at, &join(path, name), format!("required field `{name}` is missing"), remedy);
    }

    fn wrong_type(&mut self, node: &Node, expected: &str, path: &str, key: Option<&Entry>) -> Option<Value> {
        let remedy = match (expected, &node.content) {
            ("a text", Content::Scalar(scalar)) if !node.is_null() => format!("put it in quotes: \"{}\"", scalar.text),
            ("a mapping", Content::Scalar(_)) if node.is_null() => match key {
                Some(entry) => format!("write `{}: {{}}` for its defaults, or indent its fields below", entry.key),
                None => "write {} or indent its fields below".to_owned(),
            },
            ("a list", Content::Scalar(scalar)) if !node.is_null() => format!("write it as a list: [{}]", scalar.text),
            ("a whole number" | "a number" | "a boolean", Content::Scalar(scalar))
                if scalar.style != saphyr_parser::ScalarStyle::Plain && is_plainly(expected, &scalar.text) =>
            {
                format!("remove the quotes: {}", scalar.text)
            }
            ("a boolean", _) => "write true or false".to_owned(),
            (_, Content::Scalar(_)) if node.is_null() => "give a value, or leave the field out".to_owned(),
            _ => format!("write {expected}"),
        };
        let at = match (node.is_null(), key) {
            (true, Some(entry)) => (entry.key_start, entry.key.chars().count()),
            _ => (node.start, node_length(node)),
        };
        self.report(Severity::Error, at, path, format!("expected {expected}, found {}", node.describe()), remedy);
        None
    }

    fn error(
        &mut self,
        node: &Node,
        path: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Option<Value> {
        self.report(Severity::Error, (node.start, node_length(node)), path, reason.into(), remedy.into());
        None
    }

    fn report(&mut self, severity: Severity, at: (Position, usize), path: &str, reason: String, remedy: String) {
        let (position, length) = at;
        self.diagnostics.push(Diagnostic { severity, position, length, field_path: path.to_owned(), reason, remedy });
    }
}

/// How many characters to underline: the whole of a scalar on one line, else its beginning.
pub(crate) fn node_length(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(_) if node.end.line == node.start.line => (node.end.column - node.start.column).max(1),
        _ => 1,
    }
}

/// Where a field of this name has its place, if those are few.
fn home_of(name: &str, schema: &Value, path: &str) -> Option<String> {
    let mut homes = Vec::new();
    collect_homes(name, schema, path, &mut homes);
    (1..=3).contains(&homes.len()).then(|| homes.join(" or "))
}

fn collect_homes(name: &str, schema: &Value, path: &str, homes: &mut Vec<String>) {
    for (field, field_schema) in schema["properties"].as_object().into_iter().flatten() {
        if field == name {
            homes.push(path.to_owned());
        }
        collect_homes(name, field_schema, &join(path, field), homes);
    }
    if schema["items"].is_object() {
        collect_homes(name, &schema["items"], &format!("{path}[]"), homes);
    }
}

fn article(schema_type: &str) -> &'static str {
    match schema_type {
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "a boolean",
        _ => "another type",
    }
}

pub(crate) fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}
