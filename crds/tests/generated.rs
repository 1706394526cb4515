//! The generated CustomResourceDefinitions: up to date, small, and bounded everywhere.

use std::{fs, path::PathBuf};

use serde_json::Value;
use weir_crds::crd;

#[test]
fn the_generated_files_are_what_the_types_say() {
    let folder = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("generated");
    for (name, text) in crd::rendered().unwrap() {
        let standing = fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(standing == text, "{name} is stale: cargo run -p weir-crds --bin crdgen -- --write");
    }
}

#[test]
fn client_side_apply_can_apply_them() {
    for definition in crd::all() {
        // Not as YAML, which is mostly indentation: the annotation holds compact JSON. It must fit with room to grow.
        let bytes = serde_json::to_string(&definition).unwrap().len();
        let name = definition.metadata.name.unwrap_or_default();
        assert!(bytes < crd::MAX_CRD_BYTES / 2, "{name} has {bytes} bytes of {}", crd::MAX_CRD_BYTES);
    }
}

#[test]
fn every_list_map_and_text_is_bounded() {
    // The API server multiplies what a rule costs by the largest list and the longest text there can be.
    for definition in crd::all() {
        let definition = serde_json::to_value(&definition).unwrap();
        let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut unbounded = Vec::new();
        find_unbounded(spec, "spec", &mut unbounded);
        assert!(unbounded.is_empty(), "unbounded: {unbounded:?}");
    }
}

fn find_unbounded(schema: &Value, path: &str, unbounded: &mut Vec<String>) {
    let bounded = match schema["type"].as_str() {
        Some("array") => schema["maxItems"].is_u64(),
        Some("string") => schema["maxLength"].is_u64() || schema["enum"].is_array(),
        Some("object") => schema["additionalProperties"].is_null() || schema["maxProperties"].is_u64(),
        _ => true,
    };
    if !bounded {
        unbounded.push(path.to_owned());
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        find_unbounded(field, &format!("{path}.{name}"), unbounded);
    }
    if schema["items"].is_object() {
        find_unbounded(&schema["items"], &format!("{path}[]"), unbounded);
    }
}

#[test]
fn kubectl_prints_the_columns_of_the_design() {
    let columns: Vec<Vec<String>> = crd::all()
        .into_iter()
        .map(|definition| {
            let columns = definition.spec.versions[0].additional_printer_columns.clone().unwrap_or_default();
            columns.into_iter().map(|column| column.name.to_uppercase()).collect()
        })
        .collect();
    assert_eq!(columns[0], ["STATE", "PARALLELISM", "LAST CHECKPOINT", "RESTARTS", "READY", "AGE"]);
    assert_eq!(columns[1], ["JOB", "ID", "TYPE", "PHASE", "SIZE", "DURATION", "AGE", "RESTORABLE"]);
}

#[test]
fn the_scale_subresource_reads_and_writes_the_parallelism() {
    let definition = &crd::all()[0];
    let scale =
        definition.spec.versions[0].subresources.as_ref().and_then(|resources| resources.scale.as_ref()).unwrap();
    assert_eq!(scale.spec_replicas_path, ".spec.parallelism");
    assert_eq!(scale.status_replicas_path, ".status.replicas");
    assert_eq!(scale.label_selector_path.as_deref(), Some(".status.selector"));
}
