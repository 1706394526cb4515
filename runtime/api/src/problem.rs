//! Errors, as RFC 9457 has them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The HTTP status, once more.
    pub status: u16,
    /// What is wrong, in a few words; the same for each of its kind.
    pub title: String,
    /// What is wrong here, and what to do.
    pub detail: String,
}

impl Problem {
    pub fn new(status: u16, title: &str, detail: impl Into<String>) -> Self {
        Problem { status, title: title.to_owned(), detail: detail.into() }
    }
}
