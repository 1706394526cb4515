//! The pods that run a job.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    defaults,
    quantity::{ByteSize, ResourceQuantity},
};

/// The pods of the coordinator and the workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct PodPolicy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<CoordinatorPods>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkerPods>,
    /// A strategic merge patch over every pod that the operator makes: `{metadata, spec}` as in a PodTemplateSpec.
    #[schemars(schema_with = "crate::schema::any_object")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<serde_json::Value>,
}

/// The coordinator's pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorPods {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// A strategic merge patch over the coordinator's pod, after the common one.
    #[schemars(schema_with = "crate::schema::any_object")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<serde_json::Value>,
}

/// The workers' pods. Their number follows from parallelism and slots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPods {
    /// Subtasks of each step in one pod.
    #[schemars(extend("default" = defaults::WORKER_SLOTS))]
    #[schemars(range(min = 1, max = 1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Disk for RocksDB and local recovery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_storage: Option<LocalStorage>,
    /// A strategic merge patch over the workers' pods, after the common one.
    #[schemars(schema_with = "crate::schema::any_object")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<serde_json::Value>,
}

/// What a container asks for and may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub requests: BTreeMap<String, ResourceQuantity>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub limits: BTreeMap<String, ResourceQuantity>,
}

/// Disk for RocksDB and local recovery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalStorage {
    pub size: ByteSize,
    /// A volume that outlives the pod; an emptyDir of this size if nothing is said.
    #[schemars(length(min = 1, max = 253))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}
