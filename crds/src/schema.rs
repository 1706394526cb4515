//! The schema of the resources as JSON, and the schemas that no derive can say.

use kube::core::schema::{OptionalEnum, OptionalIntOrString, StructuralSchemaRewriter};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema, transform::AddNullable};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A marker in our schemas: the text is a `duration`, a `byteSize` or a `columnType`, and is parsed as such.
/// CustomResourceDefinitions leave it out.
pub const TYPE_MARKER: &str = "x-weir-type";

/// The schema of a type in the form that CustomResourceDefinitions have: no references, no variants, defaults in
/// place. The reference in the documentation and the check of job files walk it.
pub fn structural<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(AddNullable::default())
        .with_transform(StructuralSchemaRewriter)
        .with_transform(OptionalEnum)
        .with_transform(OptionalIntOrString)
        .into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    without_null(&mut schema);
    schema
}

/// Optional fields are left out, never null.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            // The keyword, and not a property of that name.
            if fields.get("nullable").is_some_and(Value::is_boolean) {
                fields.remove("nullable");
            }
            if let Some(Value::Array(values)) = fields.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            fields.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An object whose fields are somebody else's to check: an operator's configuration, a strategic merge patch.
pub(crate) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Any value at all.
pub(crate) fn any_value(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}

/// A choice that has nothing more to say: `latest: {}`, `none: {}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Nothing to configure: write {}.")]
pub struct NoOptions {}
