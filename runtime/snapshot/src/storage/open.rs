//! From an address to a storage: who knows which scheme, and what a storage has to be told.

use super::{LocalStorage, MemoryStorage, Operation, Storage, StorageError, StorageErrorKind};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What an address alone doesn't say. Empty: the environment is asked.
#[derive(Clone, Debug, Default)]
pub struct StorageOptions {
    /// Another service address: `http://minio:9000`.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// The bucket as the path's first segment instead of the host's.
    pub path_style: Option<bool>,
    /// `None`: those of the environment and the machine.
    pub credentials: Option<Credentials>,
}

/// Named secrets, such as `accessKeyId`. Their values are never shown.
#[derive(Clone, Default)]
pub struct Credentials(BTreeMap<String, String>);

impl Credentials {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Err`: names what is missing and what is there.
    pub fn require(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| {
            let there = self.0.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>();
            let there = if there.is_empty() { "are empty".to_owned() } else { format!("hold {}", there.join(", ")) };
            format!("the credentials lack `{name}`; they {there}")
        })
    }
}

impl FromIterator<(String, String)> for Credentials {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(secrets: I) -> Self {
        Credentials(secrets.into_iter().collect())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// `scheme://authority/path`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageAddress {
    /// Without slashes at its end.
    pub uri: String,
    pub scheme: String,
    /// The bucket, container or name node; may be empty.
    pub authority: String,
    /// Without slashes at its ends.
    pub path: String,
}

impl StorageAddress {
    pub fn parse(uri: &str) -> Result<Self, StorageError> {
        let Some((scheme, rest)) = uri.split_once("://") else {
            let reason = "a storage address begins with its scheme, as in `s3://bucket/prefix`";
            return Err(StorageError::refused(uri, reason));
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        let uri =
            if path.is_empty() { format!("{scheme}://{authority}") } else { format!("{scheme}://{authority}/{path}") };
        Ok(StorageAddress { uri, scheme: scheme.to_owned(), authority: authority.to_owned(), path: path.to_owned() })
    }
}

/// Opens the storages of some schemes.
#[async_trait]
pub trait StorageProvider: Send + Sync + fmt::Debug {
    fn schemes(&self) -> &'static [&'static str];

    async fn open(&self, address: &StorageAddress, options: &StorageOptions) -> Result<Arc<dyn Storage>, StorageError>;
}

/// All storages that a process knows.
#[derive(Clone, Debug)]
pub struct StorageProviders(Vec<Arc<dyn StorageProvider>>);

impl Default for StorageProviders {
    /// `file` and `memory`, which need nothing.
    fn default() -> Self {
        StorageProviders(vec![Arc::new(BuiltIn)])
    }
}

impl StorageProviders {
    /// Adds one; of two for a scheme the earlier counts.
    pub fn with(mut self, provider: Arc<dyn StorageProvider>) -> Self {
        self.0.push(provider);
        self
    }

    pub fn schemes(&self) -> Vec<&'static str> {
        self.0.iter().flat_map(|provider| provider.schemes()).copied().collect()
    }

    pub async fn open(&self, uri: &str, options: &StorageOptions) -> Result<Arc<dyn Storage>, StorageError> {
        let scheme = uri.split("://").next().unwrap_or_default();
        let provider = self.0.iter().find(|provider| provider.schemes().contains(&scheme));
        match provider {
            Some(provider) => provider.open(&StorageAddress::parse(uri)?, options).await,
            None => Err(unknown_scheme(uri, &self.schemes())),
        }
    }
}

#[derive(Debug)]
struct BuiltIn;

const BUILT_IN: [&str; 2] = ["file", "memory"];

#[async_trait]
impl StorageProvider for BuiltIn {
    fn schemes(&self) -> &'static [&'static str] {
        &BUILT_IN
    }

    async fn open(&self, address: &StorageAddress, _: &StorageOptions) -> Result<Arc<dyn Storage>, StorageError> {
        open_storage(&address.uri)
    }
}

/// Opens the storage behind `file:///path` or `memory://` (a new, empty one, gone with the process).
pub fn open_storage(uri: &str) -> Result<Arc<dyn Storage>, StorageError> {
    match uri.split_once("://") {
        Some(("file", path)) if path.starts_with('/') => Ok(Arc::new(LocalStorage::open(path)?)),
        Some(("file", path)) => Err(StorageError::refused(
            uri,
            format!("a file address holds an absolute path: `file:///{path}` (three slashes), if that is meant"),
        )),
        Some(("memory", _)) => Ok(Arc::new(MemoryStorage::new())),
        _ => Err(unknown_scheme(uri, &BUILT_IN)),
    }
}

fn unknown_scheme(uri: &str, known: &[&str]) -> StorageError {
    let known = known.iter().map(|scheme| format!("`{scheme}://`")).collect::<Vec<_>>();
    let known = match known.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    };
    let reason = match uri.split_once("://") {
        None => format!("a storage address begins with its scheme: {known} are known"),
        Some((other, _)) => format!("`{other}` is not a scheme that this build knows; {known} are"),
    };
    StorageError::new(Operation::Open, uri, StorageErrorKind::Permanent, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_schemes_name_the_known_ones() {
        let refused = |uri| open_storage(uri).unwrap_err().to_string();
        assert_eq!(
            refused("ftp://x"),
            "opening `ftp://x`: `ftp` is not a scheme that this build knows; `file://` and `memory://` are"
        );
        assert!(refused("/tmp/x").contains("begins with its scheme"));
        assert!(refused("file://tmp/x").contains("`file:///tmp/x`"));
        assert!(open_storage("memory://").is_ok());
    }

    #[test]
    fn addresses_are_taken_apart() {
        let parsed = |uri| StorageAddress::parse(uri).map(|a| (a.uri, a.authority, a.path));
        let parts = |uri: &str, authority: &str, path: &str| (uri.to_owned(), authority.to_owned(), path.to_owned());
        assert_eq!(parsed("s3://b/x/y/").unwrap(), parts("s3://b/x/y", "b", "x/y"));
        assert_eq!(parsed("s3://b").unwrap(), parts("s3://b", "b", ""));
        assert_eq!(parsed("hdfs://nn:8020/a").unwrap(), parts("hdfs://nn:8020/a", "nn:8020", "a"));
        assert_eq!(parsed("file:///a b/c#").unwrap(), parts("file:///a b/c#", "", "a b/c#"));
        assert!(parsed("s3").is_err());
    }

    #[tokio::test]
    async fn providers_open_what_they_know() {
        let providers = StorageProviders::default();
        assert!(providers.open("memory://", &StorageOptions::default()).await.is_ok());
        let error = providers.open("s3://b", &StorageOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains("`file://` and `memory://` are"), "{error}");
    }

    #[test]
    fn credentials_name_what_is_missing_and_never_show_a_value() {
        let credentials: Credentials = [("accessKeyId".to_owned(), "hush".to_owned())].into_iter().collect();
        let missing = credentials.require("secretAccessKey").unwrap_err();
        assert_eq!(missing, "the credentials lack `secretAccessKey`; they hold `accessKeyId`");
        assert!(!format!("{credentials:?}").contains("hush"));
    }
}
