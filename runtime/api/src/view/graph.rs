//! The job graph as it runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What runs: tasks (chains of steps that share a thread per subtask) and the exchanges between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GraphView {
    /// What a task reads stands before it.
    pub tasks: Vec<TaskView>,
}

/// Steps that run chained: a row passes from one to the next by a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    /// The operator UID of its first operator; what tasks are named by everywhere.
    pub task: String,
    pub parallelism: u32,
    /// In the order in which a row passes them.
    pub operators: Vec<OperatorView>,
    pub inputs: Vec<InputView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorView {
    pub uid: String,
    /// The step of the StreamJob that it comes from.
    pub step: String,
    pub kind: OperatorKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperatorKind {
    Source,
    Operator,
    Sink,
}

/// An edge, seen from the task that reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InputView {
    /// The task that is read.
    pub from: String,
    pub exchange: ExchangeKind,
    /// What a hash exchange hashes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_columns: Vec<String>,
    /// It carries the records that the source could not decode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_dead_letters: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExchangeKind {
    /// Subtask i to subtask i.
    Forward,
    /// By the key group of each row.
    Hash,
    /// Round robin.
    Rebalance,
}
