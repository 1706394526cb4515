//! What the sink needs of a store.

use crate::api::ConnectorError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Of every part but the last. The least that S3 takes, since each open file has one of it in memory.
pub const PART_BYTES: usize = 5 << 20;
/// The most that S3 takes.
pub const MAX_PARTS: u32 = 10_000;

/// A store where an object can be sent in parts and becomes visible by an act of its own, which another process may do.
pub trait MultipartStore: Send + Sync {
    /// Begins an object in the background.
    fn begin(&self, object: &ObjectName) -> Box<dyn ObjectUpload>;

    /// Makes an upload an object. Not an error: there is no such upload, because it was completed before, or aborted.
    fn complete(&self, upload: &Uploaded) -> Result<Completion, ConnectorError>;

    /// An object's length. None: there is none of this name.
    fn length(&self, object: &ObjectName) -> Result<Option<u64>, ConnectorError>;

    /// Gives an upload up; one that is gone already is none the worse.
    fn abort(&self, object: &ObjectName, upload: &str) -> Result<(), ConnectorError>;

    /// Objects below a folder that are being uploaded, each with its upload's id. None: the store can't tell.
    fn uploads(&self, folder: &ObjectName) -> Result<Option<Vec<(ObjectName, String)>>, ConnectorError>;

    /// Begins an upload and aborts it.
    fn try_upload(&self, object: &ObjectName) -> Result<(), ConnectorError>;
}

/// One object being sent. Dropped before its end, it is aborted, as far as the store can be reached.
pub trait ObjectUpload: Send {
    /// Takes a part of `PART_BYTES`, or the last one. Waits while too much is under way.
    fn send(&mut self, part: Vec<u8>) -> Result<(), ConnectorError>;

    /// No part follows. Does not wait.
    fn end(&mut self);

    /// Waits until all parts are there.
    fn uploaded(self: Box<Self>) -> Result<Uploaded, ConnectorError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    Completed,
    NoSuchUpload,
}

/// An object whose parts have all been sent; stands in checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uploaded {
    pub object: ObjectName,
    /// The upload's id.
    pub upload: String,
    /// In their order, from number 1 on.
    pub parts: Vec<SentPart>,
    /// Of all parts together, in bytes.
    pub length: u64,
}

/// What the store said of a part; it wants to hear it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SentPart {
    pub etag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64_nvme: Option<String>,
}

/// An object, or the folder of some.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectName {
    pub bucket: String,
    /// Of a folder: what the keys in it begin with, without the last `/`; empty for the whole bucket.
    pub key: String,
}

impl ObjectName {
    /// Reads `s3://bucket/prefix`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(address: &str) -> Result<Self, String> {
        let Some((_scheme, rest)) = address.split_once("://") else {
            return Err(format!("`{address}` is not an address: write s3://bucket/prefix"));
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let key = key.trim_end_matches('/');
        if bucket.is_empty() {
            return Err(format!("`{address}` names no bucket: write s3://bucket/prefix"));
        }
        if key.split('/').any(|segment| matches!(segment, "." | "..")) || (!key.is_empty() && key.contains("//")) {
            return Err(format!(
                "`{address}` has an empty segment, `.` or `..` in it, which are part of a key to a store"
            ));
        }
        Ok(ObjectName { bucket: bucket.to_owned(), key: key.trim_start_matches('/').to_owned() })
    }

    /// Something in this folder.
    pub fn join(&self, name: &str) -> Self {
        let key = match (self.key.as_str(), name) {
            ("", name) => name.to_owned(),
            (key, "") => key.to_owned(),
            (key, name) => format!("{key}/{name}"),
        };
        ObjectName { bucket: self.bucket.clone(), key }
    }

    /// What the keys in this folder begin with.
    pub fn as_prefix(&self) -> String {
        if self.key.is_empty() { String::new() } else { format!("{}/", self.key) }
    }

    pub(super) fn file_name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let name = |bucket: &str, key: &str| ObjectName { bucket: bucket.into(), key: key.into() };
        assert_eq!(ObjectName::parse("s3://b/a/c/"), Ok(name("b", "a/c")));
        assert_eq!(ObjectName::parse("s3://b"), Ok(name("b", "")));
        assert_eq!(name("b", "").join("x").join(""), name("b", "x"));
        assert_eq!(name("b", "a").join("x/y"), name("b", "a/x/y"));
        for wrong in ["out", "s3://", "s3:///x", "s3://b/a//c", "s3://b/../c"] {
            assert!(ObjectName::parse(wrong).is_err(), "{wrong}");
        }
    }
}
