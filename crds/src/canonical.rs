//! A spec in one form, however it was written down.

use std::sync::LazyLock;

use serde_json::Value;

use crate::StreamJobSpec;
use crate::schema::structural;
use crate::streamjob::CheckpointPolicy;

static SCHEMA: LazyLock<Value> = LazyLock::new(structural::<StreamJobSpec>);

impl StreamJobSpec {
    /// As JSON, without what is so by default. An API server writes the defaults of the schema that it has into what it
    /// stores and into what it reads; so a file, the job that was made of it, and the same job after an upgrade of the
    /// definitions would differ else.
    pub fn canonical(&self) -> Value {
        let mut spec = serde_json::to_value(self).unwrap_or_default();
        without_defaults(&mut spec, &SCHEMA);
        spec
    }

    /// What its processes run with: without what is looked at only while it runs.
    pub fn started_with(&self) -> StreamJobSpec {
        // A field that is not named here takes a start.
        let checkpoint = self.checkpoint.clone().map(|policy| CheckpointPolicy { on_delete: None, ..policy });
        StreamJobSpec { checkpoint, upgrade: None, savepoints: None, restore: None, ..self.clone() }
    }
}

fn without_defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => fields.retain(|name, field| {
            let Some(schema) = schema["properties"].get(name).or(schema.get("additionalProperties")) else {
                return true;
            };
            without_defaults(field, schema);
            let mut default = schema.get("default").cloned();
            if let Some(default) = &mut default {
                without_defaults(default, schema);
            }
            default.as_ref() != Some(field)
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| without_defaults(item, &schema["items"])),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As an API server does.
    fn fill(value: &mut Value, schema: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                    if let (None, Some(default)) = (fields.get(name), schema.get("default")) {
                        fields.insert(name.clone(), default.clone());
                    }
                    if let Some(field) = fields.get_mut(name) {
                        fill(field, schema);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| fill(item, &schema["items"])),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn spec(text: &str) -> (Value, StreamJobSpec) {
        let value: Value = serde_yaml::from_str(text).unwrap();
        (value.clone(), serde_json::from_value(value).unwrap())
    }

    const JOB: &str = "
        parallelism: 4
        pipeline:
          sources:
          - name: numbers
            generator: {columns: [{name: id, sequence: {}}]}
            schema: [{name: id, type: BIGINT}]
          sinks: [{name: all, from: numbers, files: {path: out}, format: {json: {}}}]
        checkpoint: {interval: 60s, storage: {uri: \"file:///tmp/x\"}}
        restart: {exponentialDelay: {initial: 500ms}}";

    #[test]
    fn a_stored_job_is_the_file_that_it_was_made_of() {
        let (written, from_file) = spec(JOB);
        let mut stored = written.clone();
        fill(&mut stored, &SCHEMA);
        assert_ne!(stored, written, "the schema has defaults");
        let stored: StreamJobSpec = serde_json::from_value(stored).unwrap();
        assert_eq!(stored.canonical(), from_file.canonical());
        assert_eq!(from_file.canonical()["checkpoint"]["interval"], "1m", "each value has one spelling");
        assert_eq!(from_file.canonical()["restart"]["exponentialDelay"]["initial"], "500ms");
    }

    #[test]
    fn what_differs_stays_different() {
        let (_, one) = spec(JOB);
        let (_, other) = spec(&JOB.replace("interval: 60s", "interval: 61s"));
        assert_ne!(one.canonical(), other.canonical());
        let (_, looked_at) = spec(&format!("{JOB}\n        upgrade: {{approval: Manual}}"));
        assert_ne!(one.canonical(), looked_at.canonical());
        assert_eq!(one.started_with().canonical(), looked_at.started_with().canonical());
    }
}
