//! What a new spec would mean for the running job.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The verdict on a new spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// The job would start with it. Else `mistakes` or `refusals` say why not.
    pub fits: bool,
    pub effect: PlanEffect,
    /// Fields of the spec that differ from the running one.
    pub changes: Vec<String>,
    /// What is wrong with the spec by itself, and warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<Mistake>,
    /// Why the state does not fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<String>,
    /// What it would start from. Absent: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub states: Vec<StateVerdict>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PlanEffect {
    /// It is the spec that runs, or differs in what is looked at only while it runs.
    #[default]
    Nothing,
    /// Another parallelism alone: `rescale` does it, and its processes stay.
    Rescale,
    /// It takes another start of the job.
    Restart,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mistake {
    /// It stops nothing.
    pub is_warning: bool,
    pub field_path: String,
    /// In the text that was sent, from 1.
    pub line: u64,
    pub column: u64,
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
}

/// One state of the restore point, or of the new job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StateVerdict {
    pub operator: String,
    pub state: String,
    pub fit: StateFit,
    /// The same for people.
    pub says: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StateFit {
    /// Taken as it is.
    Kept,
    /// Taken, and rewritten to the new schema.
    Migrated,
    /// It cannot be taken.
    Incompatible,
    /// Not in the restore point: it starts empty.
    New,
    /// No step takes it, as `upgrade.allowNonRestoredState` allows.
    LetGo,
    /// No step takes it, and nobody allowed that.
    Unmatched,
}
