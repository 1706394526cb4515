//! What does not leave the cluster with a report: values that are, or may be, credentials.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

const HIDDEN: &str = "(hidden)";

/// Words in fields' names behind which a credential may stand.
const SECRET_WORDS: [&str; 10] = [
    "password",
    "passwd",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "credential",
    "privatekey",
    "basicauth",
    "authorization",
];
/// Fields of those names that only refer to something.
const REFERENCES: [&str; 8] = [
    "secretref",
    "secretkeyref",
    "secretname",
    "credentials",
    "secret",
    "imagepullsecrets",
    "secrets",
    "automountserviceaccounttoken",
];

static USER_INFO: LazyLock<Regex> = LazyLock::new(|| compiled(r"://[^/\s@]+@"));
static ASSIGNMENT: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r#"(?i)((?:password|passwd|secret|token|api[-_]?key|access[-_]?key|authorization)["']?\s*[=:]\s*)("[^"]+"|'[^']+'|(?:Bearer\s+)?[^\s,;&"'}]+)"#,
    )
});

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of this file")
}

/// An object without them, and without what only machines read.
pub fn redacted(object: Value) -> Value {
    match object {
        Value::Object(fields) => {
            let is_variable = fields.contains_key("name") && fields.contains_key("value") && fields.len() == 2;
            let kept = fields.into_iter().filter(|(name, _)| {
                !matches!(name.as_str(), "managedFields" | "kubectl.kubernetes.io/last-applied-configuration")
            });
            let shown = kept.map(|(name, field)| {
                let is_hidden = is_variable && name == "value" || may_be_secret(&name);
                (name, if is_hidden { hidden(field) } else { redacted(field) })
            });
            Value::Object(shown.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(redacted).collect()),
        Value::String(text) => Value::String(redacted_text(&text)),
        other => other,
    }
}

fn may_be_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    !REFERENCES.contains(&plain.as_str()) && SECRET_WORDS.iter().any(|word| plain.contains(word))
}

/// What a secret field holds, of which only what it refers to is shown: `{env: NAME}`, `{secretKeyRef: {name: ..., key: ...}}`.
fn hidden(field: Value) -> Value {
    match field {
        Value::Object(fields) => {
            let shown = fields.into_iter().map(|(name, field)| {
                let refers = match name.as_str() {
                    "env" | "secretName" => field.is_string(),
                    "secretKeyRef" | "secretRef" => true,
                    _ => false,
                };
                (name, if refers { redacted(field) } else { hidden(field) })
            });
            Value::Object(shown.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(hidden).collect()),
        Value::String(_) | Value::Number(_) => Value::from(HIDDEN),
        Value::Bool(_) | Value::Null => field,
    }
}

/// Text without users and passwords in addresses, and without what follows such words.
pub fn redacted_text(text: &str) -> String {
    let text = USER_INFO.replace_all(text, format!("://{HIDDEN}@"));
    ASSIGNMENT.replace_all(&text, format!("${{1}}{HIDDEN}")).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_stay() {
        let object = json!({
            "metadata": {"name": "orders", "managedFields": [1], "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "all of it", "team": "data",
            }},
            "spec": {
                "url": "postgres://ann:hunter2@db/orders",
                "password": "hunter2",
                "saslToken": "t0",
                "credentials": {"secretRef": {"name": "s3"}},
                "env": [{"name": "ANY", "value": "hunter2"}],
                "volumes": [{"name": "v", "secret": {"secretName": "s3"}}],
                "sql": "SELECT a FROM t",
            },
        });
        let text = redacted(object).to_string();
        assert!(!text.contains("hunter2") && !text.contains("t0") && !text.contains("all of it"), "{text}");
        for kept in ["orders", "\"name\":\"s3\"", "\"secretName\":\"s3\"", "SELECT a FROM t", "data"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        let log =
            "connect to kafka://u:p4ss@host failed; password=p4ss, token: \"p4ss\" Authorization: Bearer p4ss and on";
        let shown = redacted_text(log);
        assert!(!shown.contains("p4ss") && shown.contains("@host failed") && shown.ends_with("and on"), "{shown}");
    }

    #[test]
    fn credentials_within_a_secret_field_stay() {
        let object = json!({
            "token": {"value": "hunter2"},
            "basicAuth": {"value": "ann:hunter2"},
            "headers": {"Authorization": "Bearer hunter2"},
            "secretHeaders": {
                "X-Key": {"value": "hunter2"}, "env": {"value": "hunter2"}, "secret": {"value": "hunter2"},
            },
            "secretProperties": {"sasl": [{"deep": {"value": "hunter2", "pin": 2222}}]},
            "credential": {"secretKeyRef": {"name": "catalog", "key": "login"}},
            "password": {"env": "KAFKA_PASSWORD"},
            "imagePullSecrets": [{"name": "registry"}],
        });
        let text = redacted(object).to_string();
        assert!(!text.contains("hunter2") && !text.contains("2222"), "{text}");
        for kept in ["catalog", "login", "KAFKA_PASSWORD", "registry", "X-Key", "sasl"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
}
