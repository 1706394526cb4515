//! The CustomResourceDefinitions, generated from the types. `crds/generated` and the Helm chart carry them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{Checkpoint, Savepoint, StreamJob};

/// The limit of an annotation, and so of what client-side `kubectl apply` can apply.
pub const MAX_CRD_BYTES: usize = 256 * 1024;

/// The definitions of all resources.
pub fn all() -> Vec<CustomResourceDefinition> {
    [StreamJob::crd(), Checkpoint::crd(), Savepoint::crd()].into_iter().map(finished).collect()
}

/// A definition's file name and text, as `crds/generated` has it.
pub fn rendered() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    all()
        .iter()
        .map(|crd| {
            let text = serde_yaml::to_string(crd)?;
            let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
            Ok((
                name,
                format!("# Generated from the types by `cargo run -p weir-crds --bin crdgen -- --write`.\n{text}"),
            ))
        })
        .collect()
}

fn finished(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            finish(schema);
        }
    }
    crd
}

/// Optional fields are left out, never null: so a `print:` without a value is refused rather than taken for nothing.
/// Kubernetes knows no unsigned formats and warns of them; the bound that they stand for remains as `minimum: 0`.
fn finish(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(values) = &mut schema.enum_ {
        values.retain(|value| !value.0.is_null());
    }
    if let Some(format) = &schema.format
        && format.starts_with("uint")
    {
        schema.format = Some("int64".to_owned());
        schema.minimum = schema.minimum.or(Some(0.0));
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        finish(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => finish(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(finish),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        finish(values);
    }
}
