//! Which documents of a file are StreamJobs, and what a whole one looks like.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::{
    Checked, Diagnostic, Position, Severity,
    check::node_length,
    tree::{Content, Node},
};
use crate::{
    API_VERSION, GROUP,
    rules::{DNS_LABEL_PATTERN, MAX_JOB_NAME_LENGTH, MAX_NAME_LENGTH},
    schema::structural,
    streamjob::StreamJobSpec,
    suggest::{list, nearest},
};

const KIND: &str = "StreamJob";
const KINDS: [&str; 3] = [KIND, "Checkpoint", "Savepoint"];

/// The schema of a whole StreamJob document, metadata included.
pub fn streamjob_schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
        json!({
            "type": "object",
            "required": ["apiVersion", "kind", "metadata", "spec"],
            "properties": {
                "apiVersion": {"type": "string", "description": API_VERSION},
                "kind": {"type": "string", "description": KIND},
                "metadata": {
                    "type": "object",
                    "description": "The job's name, and its namespace and labels in a cluster.",
                    "required": ["name"],
                    "properties": {
                        "name": {
                            "type": "string",
                            "description": "The job's name, unique in its namespace.",
                            "pattern": DNS_LABEL_PATTERN,
                            "maxLength": MAX_JOB_NAME_LENGTH,
                        },
                        "namespace": {"type": "string", "pattern": DNS_LABEL_PATTERN, "maxLength": MAX_NAME_LENGTH},
                        "labels": texts,
                        "annotations": texts,
                        "finalizers": {"type": "array", "items": {"type": "string"}},
                        // What the API server adds, so that the output of `kubectl get -o yaml` can be read.
                        "creationTimestamp": {}, "deletionGracePeriodSeconds": {}, "deletionTimestamp": {},
                        "generateName": {}, "generation": {}, "managedFields": {}, "ownerReferences": {},
                        "resourceVersion": {}, "selfLink": {}, "uid": {},
                    },
                },
                "spec": structural::<StreamJobSpec>(),
                "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            },
        })
    });
    &SCHEMA
}

/// The documents that are StreamJobs, or were meant to be, with what is wrong with their kind. `broken`: the file's
/// syntax is wrong, so that a missing StreamJob says nothing.
pub(super) fn streamjobs(documents: &[Node], broken: bool) -> (Vec<&Node>, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let mut jobs = Vec::new();
    let mut other_kinds = Vec::new();
    let documents: Vec<&Node> = documents.iter().filter(|document| !document.is_null()).collect();
    for document in &documents {
        let Content::Mapping(_) = &document.content else {
            diagnostics.push(wrong(
                document,
                "",
                format!("expected a resource, found {}", document.describe()),
                a_job(),
            ));
            continue;
        };
        let kind = document.get("kind").and_then(Node::text);
        let api_version = document.get("apiVersion").and_then(Node::text);
        let ours = api_version.is_some_and(|version| version.split('/').next() == Some(GROUP));
        match kind {
            Some(KIND) => {
                api_version_mistake(document, &mut diagnostics);
                jobs.push(*document);
            }
            Some(other) if ours && !KINDS.contains(&other) || nearest(other, [KIND]).is_some() => {
                let kind = document.get("kind").unwrap_or(document);
                let reason = format!("`{other}` is not a kind of {GROUP}");
                diagnostics.push(wrong(kind, "kind", reason, format!("did you mean `{KIND}`?")));
                api_version_mistake(document, &mut diagnostics);
                jobs.push(*document);
            }
            Some(other) => other_kinds.push(other),
            // The only document, without a kind: its missing fields are named with the others.
            None if documents.len() == 1 || document.get("spec").is_some_and(|spec| spec.get("pipeline").is_some()) => {
                jobs.push(*document);
            }
            None => {}
        }
    }
    if jobs.is_empty() && diagnostics.is_empty() && !broken {
        let reason = match other_kinds.as_slice() {
            [] => "there is no StreamJob in this file: it is empty".to_owned(),
            kinds => format!("there is no StreamJob in this file, only {}", list(kinds.iter().copied())),
        };
        diagnostics.push(Diagnostic {
            severity: Severity::Error,
            position: Position::START,
            length: 1,
            field_path: String::new(),
            reason,
            remedy: a_job(),
        });
    }
    (jobs, diagnostics)
}

fn api_version_mistake(document: &Node, diagnostics: &mut Vec<Diagnostic>) {
    if let Some(version) = document.get("apiVersion").filter(|version| version.text() != Some(API_VERSION)) {
        let reason = format!("expected apiVersion {API_VERSION}, found {}", version.describe());
        diagnostics.push(wrong(version, "apiVersion", reason, format!("write `apiVersion: {API_VERSION}`")));
    }
}

/// One result for a file with more than one StreamJob where one was wanted.
pub(super) fn several_jobs(all: Vec<Checked>) -> Checked {
    let names: Vec<String> =
        all.iter().filter_map(|checked| checked.parsed.as_ref()?.job.metadata.name.clone()).collect();
    let mut diagnostics: Vec<Diagnostic> = all.into_iter().flat_map(|checked| checked.diagnostics).collect();
    diagnostics.insert(
        0,
        Diagnostic {
            severity: Severity::Error,
            position: Position::START,
            length: 1,
            field_path: String::new(),
            reason: format!("more than one StreamJob in this file: {}", list(names.iter().map(String::as_str))),
            remedy: "put each into a file of its own".to_owned(),
        },
    );
    Checked { parsed: None, diagnostics }
}

fn a_job() -> String {
    format!("begin a document with `apiVersion: {API_VERSION}` and `kind: {KIND}`")
}

fn wrong(node: &Node, field_path: &str, reason: String, remedy: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        position: node.start,
        length: node_length(node),
        field_path: field_path.to_owned(),
        reason,
        remedy,
    }
}
