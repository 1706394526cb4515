//! How a coordinator says that its job has ended: a line of JSON in its container's termination message. A coordinator
//! that ends with one exits with 0, and is not started again by the kubelet; one that crashes leaves none, and is.

use serde::{Deserialize, Serialize};

/// As `weir coordinator --outcome FILE` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// All input was read.
    Finished,
    /// On request, after a last checkpoint or with a savepoint.
    Stopped {
        #[serde(default)]
        savepoint: Option<String>,
    },
    Cancelled,
    /// The restart strategy gave the job up.
    Failed {
        reason: String,
    },
    /// Not started: another try would end the same way.
    Refused {
        reason: String,
    },
    /// Another coordinator has the job.
    Fenced {
        reason: String,
    },
}

impl Outcome {
    /// From a termination message: its last line, as anything may stand before it.
    pub fn parse(message: &str) -> Option<Outcome> {
        message.lines().rev().find_map(|line| serde_json::from_str(line.trim()).ok())
    }
}
