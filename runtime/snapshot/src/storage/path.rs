//! Names of stored objects: relative, and valid on every storage.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// Longest path, bytes: the limit of S3 is 1024, and the storage root takes its part of it.
const MAX_PATH_BYTES: usize = 800;
/// Longest segment, bytes: file systems end at 255, and a temporary name adds to it.
const MAX_SEGMENT_BYTES: usize = 200;

/// What names of files in the making begin with (local storage); no object is called so.
pub const TEMPORARY_PREFIX: &str = ".weir-tmp-";

/// Path of an object, or of a folder of objects, relative to a storage's root: `a/b/c`.
///
/// Segments are not empty, not `.` or `..`, and hold no control character or backslash: a path that was read
/// from a manifest can't lead out of its folder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(Arc<str>);

#[derive(Debug, thiserror::Error)]
#[error("`{path}` is not a valid object path: {reason}")]
pub struct InvalidPath {
    path: String,
    reason: &'static str,
}

impl ObjectPath {
    /// The storage's root, a folder and never an object.
    pub fn root() -> Self {
        ObjectPath("".into())
    }

    pub fn parse(path: &str) -> Result<Self, InvalidPath> {
        let invalid = |reason| InvalidPath { path: path.to_owned(), reason };
        if path.len() > MAX_PATH_BYTES {
            return Err(invalid("longer than 800 bytes"));
        }
        for segment in path.split('/') {
            check_segment(segment).map_err(invalid)?;
        }
        Ok(ObjectPath(path.into()))
    }

    /// One segment out of any name: what is not a letter, digit, `-`, `_` or `.` becomes `%XX`, as in a URL.
    ///
    /// Different names give different segments, also where the file system ignores case only by convention of
    /// the names themselves.
    pub fn escape_segment(name: &str) -> String {
        let mut escaped = String::with_capacity(name.len());
        for (index, byte) in name.bytes().enumerate() {
            let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && index > 0);
            if plain {
                escaped.push(byte as char);
            } else {
                escaped.push_str(&format!("%{byte:02X}"));
            }
        }
        escaped
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// `self/relative`.
    pub fn join(&self, relative: &ObjectPath) -> Self {
        match (self.is_root(), relative.is_root()) {
            (true, _) => relative.clone(),
            (_, true) => self.clone(),
            _ => ObjectPath(format!("{}/{}", self.0, relative.0).into()),
        }
    }

    /// `self/relative`, checked.
    pub fn child(&self, relative: &str) -> Result<Self, InvalidPath> {
        Ok(self.join(&ObjectPath::parse(relative)?))
    }

    /// What stands behind `folder/`; `None` if the path isn't inside of it.
    pub fn relative_to(&self, folder: &ObjectPath) -> Option<ObjectPath> {
        if folder.is_root() {
            return Some(self.clone());
        }
        let rest = self.0.strip_prefix(folder.as_str())?.strip_prefix('/')?;
        Some(ObjectPath(rest.into()))
    }

    pub fn is_inside(&self, folder: &ObjectPath) -> bool {
        folder.is_root() || self.0.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }

    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|segment| !segment.is_empty())
    }

    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or("")
    }
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    match segment {
        "" => Err("it is empty, begins or ends with `/`, or holds `//`"),
        "." | ".." => Err("it holds `.` or `..`"),
        _ if segment.len() > MAX_SEGMENT_BYTES => Err("a segment is longer than 200 bytes"),
        _ if segment.chars().any(|c| c.is_control() || c == '\\') => Err("it holds a control character or a backslash"),
        _ if segment.starts_with(TEMPORARY_PREFIX) => Err("`.weir-tmp-` is for files in the making"),
        _ => Ok(()),
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for ObjectPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ObjectPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = String::deserialize(deserializer)?;
        ObjectPath::parse(&path).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_relative_paths_parse() {
        for good in ["a", "a/b", "chk-1/e1-a0-worker-0.data", "a b/ü", "a.b", ".hidden"] {
            assert_eq!(ObjectPath::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a\\b", "a\nb", "x/.weir-tmp-1", &"x".repeat(201)] {
            assert!(ObjectPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn escaped_names_are_one_segment() {
        assert_eq!(ObjectPath::escape_segment("hourly/window-aggregate"), "hourly%2Fwindow-aggregate");
        assert_eq!(ObjectPath::escape_segment(".."), "%2E.");
        assert_eq!(ObjectPath::escape_segment("a%b ü"), "a%25b%20%C3%BC");
    }

    #[test]
    fn folders() {
        let folder = ObjectPath::parse("a/b").unwrap();
        let inside = folder.child("c/d").unwrap();
        assert_eq!(inside.relative_to(&folder).unwrap().as_str(), "c/d");
        assert!(inside.is_inside(&folder) && inside.is_inside(&ObjectPath::root()));
        assert!(!ObjectPath::parse("a/bc").unwrap().is_inside(&folder));
    }
}
