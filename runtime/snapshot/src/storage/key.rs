//! Names of objects in a store that has keys instead of folders.

use super::{InvalidPath, ObjectPath};

/// Longest prefix, bytes: with the longest `ObjectPath` a key stays within the 1024 bytes of S3, GCS and Azure.
const MAX_PREFIX_BYTES: usize = 200;

/// The part of all keys that stands in front of the paths of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPrefix(String);

impl KeyPrefix {
    /// `path` has no slashes at its ends; empty: the whole bucket.
    pub fn new(path: &str) -> Result<Self, String> {
        if path.is_empty() {
            return Ok(KeyPrefix(String::new()));
        }
        if path.len() > MAX_PREFIX_BYTES {
            return Err(format!("its prefix has {} bytes, and {MAX_PREFIX_BYTES} are the most", path.len()));
        }
        ObjectPath::parse(path).map_err(|error: InvalidPath| error.to_string())?;
        Ok(KeyPrefix(format!("{path}/")))
    }

    pub fn key(&self, path: &ObjectPath) -> String {
        format!("{}{path}", self.0)
    }

    /// What all keys inside `folder` begin with.
    pub fn folder(&self, folder: &ObjectPath) -> String {
        if folder.is_root() { self.0.clone() } else { format!("{}{folder}/", self.0) }
    }

    /// `None`: no object of this storage, but what somebody else put there.
    pub fn path(&self, key: &str) -> Option<ObjectPath> {
        ObjectPath::parse(key.strip_prefix(&self.0)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_back() {
        let path = ObjectPath::parse("a/b").unwrap();
        for (prefix, key, folder) in [("", "a/b", "a/b/"), ("x/y", "x/y/a/b", "x/y/a/b/")] {
            let prefix = KeyPrefix::new(prefix).unwrap();
            assert_eq!(prefix.key(&path), key);
            assert_eq!(prefix.folder(&path), folder);
            assert_eq!(prefix.path(key), Some(path.clone()));
        }
        let prefix = KeyPrefix::new("x").unwrap();
        assert_eq!(prefix.folder(&ObjectPath::root()), "x/");
        assert_eq!((prefix.path("xy/a"), prefix.path("x/a//b"), prefix.path("x/")), (None, None, None));
        for bad in ["x//y", "../y", &"x/".repeat(150)] {
            assert!(KeyPrefix::new(bad).is_err(), "{bad}");
        }
    }
}
