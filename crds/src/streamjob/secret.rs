//! Values that should not stand in a job's text.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::only;
use crate::rules::{DNS_SUBDOMAIN_PATTERN, MAX_TEXT_LENGTH, exactly_one};

/// A value that may be secret: exactly one way to come by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one(&["value", "env", "secretKeyRef"]))]
pub struct SecretValue {
    /// The value itself, for everyone to read.
    #[schemars(length(max = MAX_TEXT_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// An environment variable of the process, for local runs.
    #[schemars(length(min = 1, max = 128))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// A key of a Secret in the job's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A key of a Secret in the job's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub name: String,
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A Secret in the job's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub name: String,
}

/// The way to a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SecretOrigin<'a> {
    Value(&'a str),
    Env(&'a str),
    SecretKeyRef(&'a SecretKeyRef),
}

impl SecretValue {
    /// The way to the value. `None` unless exactly one is named, which validation refuses.
    pub fn origin(&self) -> Option<SecretOrigin<'_>> {
        let Self { value, env, secret_key_ref } = self;
        only(vec![
            value.as_deref().map(SecretOrigin::Value),
            env.as_deref().map(SecretOrigin::Env),
            secret_key_ref.as_ref().map(SecretOrigin::SecretKeyRef),
        ])
    }
}
