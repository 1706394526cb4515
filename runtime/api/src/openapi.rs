//! The OpenAPI description, made of the operations and of the types' schemas.

use crate::view::*;
use crate::{Access, Operation, PROBLEM_MEDIA_TYPE, Problem};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

const JSON: &str = "application/json";

/// The description as JSON, the same bytes for the same types.
pub fn document() -> String {
    let mut schemas = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut paths = Map::new();
    for operation in Operation::ALL {
        let method = if operation.is_post() { "post" } else { "get" };
        let described = describe(operation, &mut schemas);
        let path = paths.entry(operation.path()).or_insert_with(|| json!({}));
        path[method] = described;
    }
    let schemas: Map<String, Value> = schemas.take_definitions(true).into_iter().collect();
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weir: a running job",
            "version": "v1",
            "description": "What the process that coordinates a job tells of it and takes for it. See docs/rest.md.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The content of the file that --http-token-file names.",
                },
                "certificate": {"type": "mutualTLS", "description": "Of the job, where HTTPS is served."},
            },
        },
    });
    let mut text = serde_json::to_string_pretty(&document).expect("a JSON value is text");
    text.push('\n');
    text
}

fn describe(operation: Operation, schemas: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    responses.insert(operation.success().to_string(), answer(operation, schemas));
    for (status, description) in problems(operation) {
        let problem = reference::<Problem>(schemas);
        responses.insert(
            status.to_string(),
            json!({"description": description, "content": {PROBLEM_MEDIA_TYPE: {"schema": problem}}}),
        );
    }
    let mut described = json!({
        "operationId": name(operation),
        "summary": operation.summary(),
        "responses": responses,
    });
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        described["parameters"] = Value::Array(parameters);
    }
    if let Some(body) = body(operation, schemas) {
        described["requestBody"] = body;
    }
    match operation.access() {
        Access::Open => {}
        // Reading may be open: on loopback, or where the coordinator was told so.
        Access::Read | Access::Metrics => described["security"] = json!([{}, {"token": []}, {"certificate": []}]),
        Access::Change => described["security"] = json!([{"token": []}, {"certificate": []}]),
    }
    described
}

fn answer(operation: Operation, schemas: &mut SchemaGenerator) -> Value {
    let schema = match operation {
        Operation::Job => reference::<JobView>(schemas),
        Operation::Graph => reference::<GraphView>(schemas),
        Operation::Subtasks => reference::<SubtasksView>(schemas),
        Operation::Checkpoints => reference::<CheckpointsView>(schemas),
        Operation::Checkpoint => reference::<CheckpointDetail>(schemas),
        Operation::RestorePoints => reference::<RestorePointsView>(schemas),
        Operation::Savepoints => reference::<SavepointsView>(schemas),
        Operation::Savepoint | Operation::TriggerSavepoint => reference::<SavepointView>(schemas),
        Operation::RemoveSavepoint => reference::<RemovedSavepoint>(schemas),
        Operation::PinCheckpoint => reference::<PinView>(schemas),
        Operation::Rescale | Operation::RescaleState => reference::<RescaleView>(schemas),
        Operation::Stop | Operation::Cancel => reference::<Accepted>(schemas),
        Operation::Plan => reference::<PlanView>(schemas),
        Operation::OpenApi => return json!({"description": "OpenAPI 3.1", "content": {JSON: {}}}),
        Operation::Metrics => {
            return json!({"description": "See docs/reference/metrics.md", "content": {"text/plain": {}}});
        }
        Operation::Healthy | Operation::Ready => {
            return json!({"description": operation.summary(), "content": {"text/plain": {}}});
        }
    };
    json!({"description": operation.summary(), "content": {JSON: {"schema": schema}}})
}

fn body(operation: Operation, schemas: &mut SchemaGenerator) -> Option<Value> {
    let content = match operation {
        Operation::TriggerSavepoint => json!({JSON: {"schema": reference::<SavepointRequest>(schemas)}}),
        Operation::RemoveSavepoint => json!({JSON: {"schema": reference::<RemoveSavepointRequest>(schemas)}}),
        Operation::PinCheckpoint => json!({JSON: {"schema": reference::<PinRequest>(schemas)}}),
        Operation::Rescale => json!({JSON: {"schema": reference::<RescaleRequest>(schemas)}}),
        Operation::Stop => json!({JSON: {"schema": reference::<StopRequest>(schemas)}}),
        Operation::Plan => {
            let text = json!({"type": "string", "description": "A StreamJob of the running job's name."});
            json!({"application/yaml": {"schema": text}, JSON: {"schema": {"type": "object"}}})
        }
        _ => return None,
    };
    Some(json!({"required": operation != Operation::Stop, "content": content}))
}

fn parameters(operation: Operation) -> Vec<Value> {
    let id = |schema: Value| json!({"name": "id", "in": "path", "required": true, "schema": schema});
    let number = json!({"type": "integer", "minimum": 0});
    let wait = json!({
        "name": "waitMs",
        "in": "query",
        "description": "Wait at most so long for its end before answering; 60000 at most.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 60_000},
    });
    match operation {
        Operation::Checkpoint => vec![id(number)],
        Operation::RescaleState => vec![id(number), wait],
        Operation::Savepoint => vec![id(json!({"type": "string"})), wait],
        _ => vec![],
    }
}

fn problems(operation: Operation) -> Vec<(u16, &'static str)> {
    let mut problems = vec![];
    if operation.access() != Access::Open {
        problems.push((401, "No token, or a wrong one"));
    }
    if operation.access() == Access::Change {
        problems.push((403, "No token is configured, so nothing may be changed"));
    }
    match operation {
        Operation::Checkpoint | Operation::Savepoint | Operation::RescaleState => {
            problems.push((404, "There is none, or it is too long ago"))
        }
        Operation::TriggerSavepoint | Operation::Stop => problems.extend([
            (400, "The body is not what it should be"),
            (409, "The id names another savepoint, or the job has ended"),
            (413, "The body is too long"),
            (429, "Too many savepoints are asked for"),
        ]),
        Operation::Rescale => problems.extend([
            (400, "The body is not what it should be"),
            (409, "It cannot be: more than maxParallelism, too few slots, or the job has ended"),
            (429, "Too many rescales are asked for"),
        ]),
        Operation::RemoveSavepoint => problems.extend([
            (400, "The body is not what it should be"),
            (409, "It is another job's, or what this job would start from"),
            (413, "The body is too long"),
        ]),
        Operation::PinCheckpoint => problems.extend([
            (400, "The body is not what it should be"),
            (409, "No such checkpoint is retained, the job builds on one to be unpinned, or it has ended"),
            (413, "The body is too long"),
        ]),
        Operation::Cancel => problems.push((409, "The job has ended")),
        Operation::Plan => problems.extend([
            (400, "The body is not text"),
            (409, "It is another job's"),
            (413, "The body is too long"),
        ]),
        Operation::Ready => problems.push((503, "The job does not run")),
        _ => {}
    }
    if operation.access() != Access::Open {
        problems.push((503, "Too many requests at once, or storage cannot be read"));
    }
    problems.sort_unstable();
    problems.dedup_by_key(|(status, _)| *status);
    problems
}

fn reference<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}

fn name(operation: Operation) -> &'static str {
    match operation {
        Operation::Job => "job",
        Operation::Graph => "graph",
        Operation::Subtasks => "subtasks",
        Operation::Checkpoints => "checkpoints",
        Operation::Checkpoint => "checkpoint",
        Operation::RestorePoints => "restorePoints",
        Operation::Savepoints => "savepoints",
        Operation::Savepoint => "savepoint",
        Operation::TriggerSavepoint => "triggerSavepoint",
        Operation::RemoveSavepoint => "removeSavepoint",
        Operation::PinCheckpoint => "pinCheckpoint",
        Operation::Rescale => "rescale",
        Operation::RescaleState => "rescaleState",
        Operation::Stop => "stop",
        Operation::Cancel => "cancel",
        Operation::Plan => "plan",
        Operation::OpenApi => "openApi",
        Operation::Metrics => "metrics",
        Operation::Healthy => "healthy",
        Operation::Ready => "ready",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference leads somewhere.
    #[test]
    fn the_description_is_whole() {
        let text = document();
        let parsed: Value = serde_json::from_str(&text).expect("JSON");
        let named = text.split("\"$ref\": \"#").skip(1).map(|rest| rest.split('"').next().expect("it ends"));
        let mut count = 0;
        for pointer in named {
            assert!(parsed.pointer(pointer).is_some(), "{pointer} leads nowhere");
            count += 1;
        }
        assert!(count > 20, "only {count} references");
        assert_eq!(text, document(), "the same types give other text");
    }
}
