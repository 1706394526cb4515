//! What a checkpoint's manifest holds of a store.

use crate::{SegmentRef, StateError};
use serde::{Deserialize, Serialize};
use weir_model::KeyGroupRange;

/// The files of a store at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColdHandle {
    /// Which store reads it (`rocksdb`).
    pub store: String,
    pub files: Vec<ColdFile>,
    /// Whose the files are, one database's behind the other's, if the store is made of several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<ColdDatabase>,
}

/// One of several databases that are one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColdDatabase {
    /// No other database of the store holds any of them.
    pub key_groups: KeyGroupRange,
    /// The number of its files.
    pub files: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColdFile {
    /// As the store calls it; no other file of the same database is called so.
    pub name: String,
    /// A file that is larger than a segment may be is in several, one after the other.
    pub segments: Vec<SegmentRef>,
    /// The file's length in bytes if the segments are compressed, each by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Which keys are in it, if a restore may do without it where none of them is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<ColdKeys>,
}

/// The keys in a file, by their first four bytes: state and key group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColdKeys {
    /// Files of one level hold ranges of keys that don't overlap.
    pub level: u8,
    pub first: u32,
    pub last: u32,
}

impl ColdHandle {
    /// One handle for each database, with its key groups. `all` are those of the subtask.
    ///
    /// # Errors
    /// A key group that is in no database or in two, and files that are nobody's: the handle isn't what was written.
    pub fn by_database(&self, all: KeyGroupRange) -> Result<Vec<(KeyGroupRange, ColdHandle)>, StateError> {
        if self.databases.is_empty() {
            return Ok(vec![(all, self.clone())]);
        }
        let (mut parts, mut next_group, mut files) = (vec![], u32::from(all.first), &self.files[..]);
        for ColdDatabase { key_groups, files: count } in &self.databases {
            let is_next = u32::from(key_groups.first) == next_group && key_groups.first <= key_groups.last;
            let Some((own, rest)) = files.split_at_checked(*count as usize).filter(|_| is_next) else {
                return Err(self.disagrees(all));
            };
            parts.push((*key_groups, ColdHandle { store: self.store.clone(), files: own.to_vec(), databases: vec![] }));
            (next_group, files) = (u32::from(key_groups.last) + 1, rest);
        }
        match next_group == u32::from(all.last) + 1 && files.is_empty() {
            true => Ok(parts),
            false => Err(self.disagrees(all)),
        }
    }

    fn disagrees(&self, all: KeyGroupRange) -> StateError {
        let reason = format!(
            "the databases of the checkpoint ({:?}) are not those of its key groups {} to {} and {} files",
            self.databases,
            all.first,
            all.last,
            self.files.len()
        );
        StateError::Incompatible { state: "*".into(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: KeyGroupRange = KeyGroupRange { first: 10, last: 19 };

    fn handle(databases: &[(u16, u16, u32)]) -> ColdHandle {
        let file = |name: &str| ColdFile { name: name.into(), segments: vec![], length: None, keys: None };
        let database = |(first, last, files): &(u16, u16, u32)| ColdDatabase {
            key_groups: KeyGroupRange { first: *first, last: *last },
            files: *files,
        };
        ColdHandle {
            store: "rocksdb".into(),
            files: ["a", "b", "c"].map(file).to_vec(),
            databases: databases.iter().map(database).collect(),
        }
    }

    #[test]
    fn files_by_database() {
        let parts = |databases| -> String {
            let part = |(groups, part): (KeyGroupRange, ColdHandle)| {
                assert!(part.databases.is_empty());
                let files: String = part.files.iter().map(|file| &*file.name).collect();
                format!("{}-{} {files}", groups.first, groups.last)
            };
            match handle(databases).by_database(ALL) {
                Ok(parts) => parts.into_iter().map(part).collect::<Vec<_>>().join(", "),
                Err(_) => "refused".into(),
            }
        };
        assert_eq!(parts(&[]), "10-19 abc");
        assert_eq!(parts(&[(10, 19, 3)]), "10-19 abc");
        assert_eq!(parts(&[(10, 12, 2), (13, 13, 0), (14, 19, 1)]), "10-12 ab, 13-13 , 14-19 c");
        for wrong in [
            &[(10, 12, 2), (14, 19, 1)][..],
            &[(10, 12, 2), (12, 19, 1)],
            &[(10, 12, 2), (13, 18, 1)],
            &[(10, 12, 2), (13, 20, 1)],
            &[(9, 12, 2), (13, 19, 1)],
            &[(13, 19, 2), (10, 12, 1)],
            &[(10, 12, 2), (13, 19, 2)],
            &[(10, 12, 1), (13, 19, 1)],
            &[(10, 19, 3), (20, 19, 0)],
        ] {
            assert_eq!(parts(wrong), "refused", "{wrong:?}");
        }
    }
}
