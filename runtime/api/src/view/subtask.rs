//! What the subtasks of a job do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Every subtask of every task. Rates and shares are those of the last second or so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubtasksView {
    pub tasks: Vec<TaskSubtasks>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskSubtasks {
    /// The operator UID of the task's first operator.
    pub task: String,
    pub subtasks: Vec<SubtaskView>,
    /// The key groups that most rows go to, of a sample of what arrived lately; most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hot_key_groups: Vec<HotKeyGroup>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubtaskView {
    pub index: u32,
    /// Absent while it is placed nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    pub time: TimeShares,
    /// Of batches, as they lay in the channels; since the attempt began.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub operators: Vec<OperatorFigures>,
}

/// How a subtask's thread spent its time; the three add up to 1, or to 0 before there is anything to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimeShares {
    pub busy: f64,
    /// Nothing to read.
    pub idle: f64,
    /// A reader's channel was full.
    pub backpressured: f64,
}

/// One operator of the chain, since the attempt began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorFigures {
    pub uid: String,
    pub records_in: u64,
    pub records_out: u64,
    pub records_in_per_second: f64,
    pub records_out_per_second: f64,
    /// Dropped because they came after the watermark.
    pub late_records: u64,
    /// Could not be decoded.
    pub bad_records: u64,
    /// Of a source that can tell: records on the other side that it has yet to read, such as the lag of its Kafka partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_records: Option<u64>,
    /// Of a source that can tell: bytes that the other side keeps for it, such as a PostgreSQL server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_bytes: Option<u64>,
    /// Event time, microseconds since the Unix epoch. Absent before the first watermark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_us: Option<i64>,
    /// All input has been read: time has come to its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_at_end: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HotKeyGroup {
    pub key_group: u32,
    /// The subtask that owns it.
    pub subtask: u32,
    /// Of the rows in the sample, 0 to 1.
    pub share: f64,
}
