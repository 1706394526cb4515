//! How far a table's rows and changes have been read, as it stands in checkpoints.

use super::server::Slot;
use crate::replication::Lsn;
use serde::{Deserialize, Serialize};
use weir_connectors::api::{ConnectorError, SplitState};

/// The only split: changes have one order.
pub(super) const SPLIT: &str = "changes";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Position {
    /// What tells the server's data from that of others; its replicas have the same.
    pub(super) system: String,
    pub(super) slot: String,
    /// That have been read of every row so far.
    pub(super) columns: Vec<String>,
    pub(super) at: At,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum At {
    /// The rows are being read; the last cut is as far as that has come.
    Rows { cuts: Vec<Cut> },
    Changes {
        /// Changes of all transactions that were committed before have been read.
        lsn: Lsn,
        /// And so many of the first one behind.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within: Option<Within>,
        /// How the rows were read, until all changes since have been.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cuts: Vec<Cut>,
    },
}

/// Rows with keys behind those of the cut before, up to `upto`, were read as they were at `lsn`.
///
/// An undisturbed start makes one. A snapshot that breaks off can't be had again: the rows that are left are read from a
/// later one, which is the next cut, and of the changes in between those count whose keys had been read before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Cut {
    pub(super) lsn: Lsn,
    /// The last row's key, as the server writes it. None: all the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upto: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Within {
    /// Of the transaction.
    pub(super) commit: Lsn,
    pub(super) changes: u64,
}

impl Position {
    /// None: there is none, so nothing has been read.
    pub(super) fn restored(splits: &[SplitState]) -> Result<Option<Position>, ConnectorError> {
        let [SplitState { split, position }, others @ ..] = splits else { return Ok(None) };
        if split != SPLIT || !others.is_empty() {
            return Err(ConnectorError::Permanent(format!(
                "the checkpoint has positions of rows that were read once (`bounded: true`), the first of them `{split}`; \
                 changes cannot go on from there: start the job afresh"
            )));
        }
        let read = serde_json::from_value(position.clone());
        let read = read.map_err(|error| {
            ConnectorError::Permanent(format!("the checkpoint's position {position} cannot be read: {error}"))
        });
        read.map(Some)
    }

    /// Whether changes can go on from here: the slot has all that comes behind, and each row all columns.
    pub(super) fn check(
        &self,
        slot_name: &str,
        slot: Option<&Slot>,
        system: &str,
        columns: &[String],
    ) -> Result<(), ConnectorError> {
        let refused = |reason: String| {
            Err(ConnectorError::Permanent(format!(
                "{reason}; start the job afresh (`--from none`), with an empty sink"
            )))
        };
        if self.system != system {
            return refused(format!(
                "the checkpoint is of another server's data (system identifier {}, here it is {system})",
                self.system
            ));
        }
        if self.slot != slot_name {
            return refused(format!(
                "the checkpoint goes on from the replication slot `{}`, and the job names `{slot_name}`",
                self.slot
            ));
        }
        let lsn = self.flushed();
        match slot {
            None => {
                return refused(format!("the replication slot `{slot_name}` is gone, and with it changes since {lsn}"));
            }
            Some(slot) if slot.is_lost => {
                return refused(format!(
                    "the server has removed what the replication slot `{slot_name}` needed (max_slot_wal_keep_size), and \
                     with it changes since {lsn}"
                ));
            }
            Some(slot) if slot.confirmed > lsn => {
                return refused(format!(
                    "the checkpoint goes on at {lsn}, and the replication slot `{slot_name}` has been read up to {}: a later \
                     checkpoint has been completed, or somebody else has read it",
                    slot.confirmed
                ));
            }
            Some(_) => {}
        }
        match columns.iter().find(|column| !self.columns.contains(column)) {
            Some(new) => {
                refused(format!("rows were read without the column `{new}` (with {})", self.columns.join(", ")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn state(&self) -> SplitState {
        let position = serde_json::to_value(self).expect("texts and numbers");
        SplitState { split: SPLIT.to_owned(), position }
    }

    /// What the server need not keep for us.
    pub(super) fn flushed(&self) -> Lsn {
        match &self.at {
            At::Rows { cuts } => cuts.first().map_or(Lsn::default(), |cut| cut.lsn),
            At::Changes { lsn, .. } => *lsn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is a stored format: what old checkpoints hold must stay readable.
    #[test]
    fn as_it_stands_in_checkpoints() {
        let at = |at| Position { system: "7".into(), slot: "s".into(), columns: vec!["id".into()], at };
        let cut = |lsn, upto: Option<&str>| Cut { lsn: Lsn(lsn), upto: upto.map(|key| vec![key.to_owned()]) };
        for (position, json) in [
            (
                at(At::Rows { cuts: vec![cut(16, Some("9"))] }),
                r#"{"system":"7","slot":"s","columns":["id"],"at":{"rows":{"cuts":[{"lsn":"0/10","upto":["9"]}]}}}"#,
            ),
            (
                at(At::Changes {
                    lsn: Lsn(255),
                    within: Some(Within { commit: Lsn(256), changes: 3 }),
                    cuts: vec![cut(16, Some("9")), cut(32, None)],
                }),
                r#"{"system":"7","slot":"s","columns":["id"],"at":{"changes":{"lsn":"0/FF","within":{"commit":"0/100","changes":3},"cuts":[{"lsn":"0/10","upto":["9"]},{"lsn":"0/20"}]}}}"#,
            ),
            (
                at(At::Changes { lsn: Lsn(255), within: None, cuts: vec![] }),
                r#"{"system":"7","slot":"s","columns":["id"],"at":{"changes":{"lsn":"0/FF"}}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&position).unwrap(), json);
            assert_eq!(Position::restored(&[position.state()]).unwrap(), Some(position));
        }
        let other = SplitState { split: "pages-0".into(), position: serde_json::json!({"page": 1, "rows": 2}) };
        assert!(Position::restored(&[other]).unwrap_err().to_string().contains("bounded: true"));
    }
}
