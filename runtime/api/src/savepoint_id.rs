//! The name by which a caller knows its savepoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// It becomes part of a path on storage.
const MAX_LENGTH: usize = 128;

/// 1 to 128 letters, digits, `-`, `_` and `.`; the first is a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"))]
pub struct SavepointId(String);

impl SavepointId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SavepointId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let begins = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if begins && text.len() <= MAX_LENGTH && text.chars().all(is_inside) {
            return Ok(SavepointId(text));
        }
        let shown: String = text.chars().take(40).collect();
        Err(format!(
            "`{shown}` is no id of a savepoint: write 1 to {MAX_LENGTH} letters, digits, `-`, `_` and `.`, a letter or \
             a digit first"
        ))
    }
}

impl From<SavepointId> for String {
    fn from(id: SavepointId) -> String {
        id.0
    }
}

impl fmt::Display for SavepointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_within_its_folder() {
        for good in ["a", "upgrade-7", "3f9a.b_c", &"x".repeat(128)] {
            assert!(SavepointId::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../a", "a/b", "-a", "a b", "ä", &"x".repeat(129)] {
            assert!(SavepointId::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
