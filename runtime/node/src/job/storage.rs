//! How a job reaches storage: its own, and what a user names for savepoints.

use super::Job;
use super::secrets::SECRETS_FOLDER;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use weir_crds::streamjob::{CheckpointStorage, ObjectStorage, StorageCredentials};
use weir_snapshot::storage::{Credentials, Storage, StorageError, StorageOptions};

/// Keys of credentials, and the ends of the environment variables that hold them.
const KEYS: [(&str, &str); 6] = [
    ("accessKeyId", "ACCESS_KEY_ID"),
    ("secretAccessKey", "SECRET_ACCESS_KEY"),
    ("sessionToken", "SESSION_TOKEN"),
    ("serviceAccountKey", "SERVICE_ACCOUNT_KEY"),
    ("accountName", "ACCOUNT_NAME"),
    ("accountKey", "ACCOUNT_KEY"),
];

impl Job {
    /// Opens the storage at an address. What the spec says of endpoint, region and credentials holds for every address
    /// of the same scheme as the job's own: savepoints may go to another bucket of the same service.
    pub(crate) async fn open_storage(&self, uri: &str) -> Result<Arc<dyn Storage>, StorageError> {
        let own = self.resource.spec.checkpoint.as_ref().and_then(|policy| policy.storage.as_ref());
        let own = own.filter(|own| scheme(&own.uri) == scheme(uri));
        let options = own.map_or_else(|| Ok(StorageOptions::default()), options);
        let options = options.map_err(|reason| StorageError::refused(uri, reason))?;
        self.registry.storages.open(uri, &options).await
    }
}

fn scheme(uri: &str) -> &str {
    uri.split("://").next().unwrap_or_default()
}

fn options(storage: &CheckpointStorage) -> Result<StorageOptions, String> {
    let CheckpointStorage { uri: _, endpoint, region, path_style, credentials } = storage;
    options_of(endpoint.as_ref(), region.as_ref(), *path_style, credentials.as_ref())
}

/// Of files in an object store.
pub(super) fn object_options(storage: Option<&ObjectStorage>) -> Result<StorageOptions, String> {
    let Some(ObjectStorage { endpoint, region, path_style, credentials }) = storage else {
        return Ok(StorageOptions::default());
    };
    options_of(endpoint.as_ref(), region.as_ref(), *path_style, credentials.as_ref())
}

/// Of another service of AWS.
pub(super) fn aws_options(
    endpoint: Option<&String>,
    region: Option<&String>,
    credentials: Option<&StorageCredentials>,
) -> Result<StorageOptions, String> {
    options_of(endpoint, region, None, credentials)
}

fn options_of(
    endpoint: Option<&String>,
    region: Option<&String>,
    path_style: Option<bool>,
    credentials: Option<&StorageCredentials>,
) -> Result<StorageOptions, String> {
    let credentials = credentials.map(read_credentials).transpose()?;
    Ok(StorageOptions { endpoint: endpoint.cloned(), region: region.cloned(), path_style, credentials })
}

fn read_credentials(credentials: &StorageCredentials) -> Result<Credentials, String> {
    match credentials {
        StorageCredentials { secret_ref: Some(secret), env: None } => {
            let folder = std::env::var_os(SECRETS_FOLDER).map(PathBuf::from).ok_or_else(|| {
                format!(
                    "the Secret `{}` is in the cluster. For a local run write `credentials: {{env: PREFIX}}`, or set \
                     {SECRETS_FOLDER} to a folder with `{}/accessKeyId` and the like",
                    secret.name, secret.name
                )
            })?;
            from_folder(&folder.join(&secret.name))
        }
        StorageCredentials { secret_ref: None, env: Some(prefix) } => {
            from_variables(prefix, |name| std::env::var(name).ok())
        }
        _ => Err("the credentials name neither a Secret nor environment variables, or both".to_owned()),
    }
}

fn from_folder(folder: &Path) -> Result<Credentials, String> {
    let mut found = BTreeMap::new();
    for (key, _) in KEYS {
        let file = folder.join(key);
        match std::fs::read_to_string(&file) {
            Ok(value) => found.insert(key.to_owned(), value.trim_end_matches('\n').to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("cannot read `{}`: {error}", file.display())),
        };
    }
    if found.is_empty() {
        let keys = KEYS.map(|(key, _)| key).join(", ");
        return Err(format!("`{}` holds no credentials; known are {keys}", folder.display()));
    }
    Ok(found.into_iter().collect())
}

fn from_variables(prefix: &str, read: impl Fn(&str) -> Option<String>) -> Result<Credentials, String> {
    let variable = |end: &str| format!("{prefix}_{end}");
    let found = KEYS.iter().filter_map(|(key, end)| Some(((*key).to_owned(), read(&variable(end))?)));
    let found: Credentials = found.collect();
    if found.is_empty() {
        let names = KEYS.map(|(_, end)| variable(end)).join(", ");
        return Err(format!("the environment holds no credentials; looked for {names}"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_variables_with_a_prefix() {
        let environment =
            [("BACKUP_ACCESS_KEY_ID", "id"), ("BACKUP_SECRET_ACCESS_KEY", "hush"), ("AWS_SESSION_TOKEN", "x")];
        let read = |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let credentials = from_variables("BACKUP", read).unwrap();
        assert_eq!(credentials.get("accessKeyId"), Some("id"));
        assert_eq!(credentials.get("sessionToken"), None);
        let error = from_variables("OTHER", read).unwrap_err();
        assert!(error.contains("OTHER_ACCESS_KEY_ID"), "{error}");
    }

    #[test]
    fn credentials_come_from_a_mounted_secret() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("accountKey"), "hush\n").unwrap();
        assert_eq!(from_folder(folder.path()).unwrap().get("accountKey"), Some("hush"));
        let error = from_folder(&folder.path().join("none")).unwrap_err();
        assert!(error.contains("none") && error.contains("accessKeyId"), "{error}");
    }
}
