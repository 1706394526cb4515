//! Transforms: what is computed.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{
    defaults,
    duration::HumanDuration,
    rules::{DNS_LABEL_PATTERN, MAX_NAME_LENGTH, MAX_NAMES, MAX_SQL_LENGTH, exactly_one},
};

/// A transform: a name, and either SQL or an operator of one's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one(&["sql", "operator"]))]
pub struct Transform {
    /// The operator UID and the table's name in SQL.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = DNS_LABEL_PATTERN))]
    pub name: String,
    /// A query over sources and other transforms, each a table under its name.
    #[schemars(length(min = 1, max = MAX_SQL_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// An operator written with the SDK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<OperatorTransform>,
    /// Subtasks of this step; the job's parallelism if nothing is said.
    #[schemars(range(min = 1, max = 32768))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
    /// How long state that nothing writes is kept. For ever if nothing is said; windows clean up by themselves. Of an
    /// operator: of those of its states that name no time themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_ttl: Option<HumanDuration>,
    /// How long after a window's end late records still correct its result. Later ones are dropped and counted.
    #[schemars(extend("default" = defaults::ALLOWED_LATENESS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_lateness: Option<HumanDuration>,
}

/// An operator of one's own, written with the SDK and shipped in the job's image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one(&["input", "inputs"]))]
pub struct OperatorTransform {
    /// The name under which it is registered.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 128))]
    pub operator_type: String,
    /// The step it reads.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The steps it reads, in the operator's order.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = MAX_NAME_LENGTH)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<String>>,
    /// The columns by whose values records and state are partitioned. Required for keyed state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_NAMES), inner(length(min = 1, max = 128)))]
    pub key_by: Vec<String>,
    /// Handed to it as it stands.
    #[schemars(schema_with = "crate::schema::any_object")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
}

/// What a transform does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TransformKind<'a> {
    Sql(&'a str),
    Operator(&'a OperatorTransform),
}

impl Transform {
    /// What it does. `None` unless exactly one of `sql` and `operator` stands, which validation refuses.
    pub fn kind(&self) -> Option<TransformKind<'_>> {
        match (&self.sql, &self.operator) {
            (Some(sql), None) => Some(TransformKind::Sql(sql)),
            (None, Some(operator)) => Some(TransformKind::Operator(operator)),
            _ => None,
        }
    }

    pub fn state_ttl(&self) -> Option<std::time::Duration> {
        self.state_ttl.map(HumanDuration::get).filter(|ttl| !ttl.is_zero())
    }

    pub fn allowed_lateness(&self) -> std::time::Duration {
        self.allowed_lateness.unwrap_or(defaults::ALLOWED_LATENESS).get()
    }
}

impl OperatorTransform {
    /// The steps it reads, whether written as `input` or `inputs`.
    pub fn inputs(&self) -> Vec<&str> {
        self.input.iter().chain(self.inputs.iter().flatten()).map(String::as_str).collect()
    }
}
