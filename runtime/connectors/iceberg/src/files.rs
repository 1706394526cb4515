//! Objects by their whole address, as Iceberg names them.

use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Runtime;
use weir_connectors::api::ConnectorError;
use weir_snapshot::storage::{
    Credentials, ObjectPath, PutOutcome, Storage, StorageError, StorageErrorKind, StorageOptions, StorageProviders,
    Upload,
};

/// Threads that send for all Iceberg sinks of a process.
const THREADS: usize = 2;

pub(crate) struct Files {
    providers: StorageProviders,
    options: StorageOptions,
    /// By folder.
    open: HashMap<String, Arc<dyn Storage>>,
}

impl Files {
    pub(crate) fn new(providers: StorageProviders, options: StorageOptions) -> Self {
        Files { providers, options, open: HashMap::new() }
    }

    /// # Errors
    /// `NotFound` among the permanent ones: what metadata names must be there.
    pub(crate) fn read(&mut self, address: &str) -> Result<Bytes, ConnectorError> {
        let (storage, path) = self.at(address)?;
        block_on(async { storage.get(&path).await })?.map_err(connector_error)
    }

    pub(crate) fn write(&mut self, address: &str, content: Bytes) -> Result<(), ConnectorError> {
        let (storage, path) = self.at(address)?;
        block_on(async { storage.put(&path, content).await })?.map_err(connector_error)
    }

    /// An object that isn't there yet. One that is, is somebody else's.
    pub(crate) fn write_new(&mut self, address: &str, content: Bytes) -> Result<(), ConnectorError> {
        let (storage, path) = self.at(address)?;
        match block_on(async { storage.put_if_absent(&path, content).await })?.map_err(connector_error)? {
            PutOutcome::Created => Ok(()),
            PutOutcome::Exists => Err(ConnectorError::Transient(format!("{address} is there already"))),
        }
    }

    /// Begins an object that is too large to be held in memory.
    pub(crate) fn upload(&mut self, address: &str) -> Result<PartedUpload, ConnectorError> {
        let (storage, path) = self.at(address)?;
        let upload = block_on(async { storage.upload(&path).await })?.map_err(connector_error)?;
        Ok(PartedUpload(upload))
    }

    /// Best effort: what nothing names may go.
    pub(crate) fn forget(&mut self, address: &str) {
        let Ok((storage, path)) = self.at(address) else { return };
        if let Ok(Err(error)) = block_on(async { storage.delete(&path).await }) {
            tracing::debug!(%error, "a file that no snapshot names could not be deleted");
        }
    }

    fn at(&mut self, address: &str) -> Result<(Arc<dyn Storage>, ObjectPath), ConnectorError> {
        let unusable = |reason: &dyn std::fmt::Display| {
            ConnectorError::Permanent(format!(
                "the address `{address}`, which the table's metadata gives, can't be used: {reason}"
            ))
        };
        let address = canonical(address);
        let (folder, name) = address.rsplit_once('/').ok_or_else(|| unusable(&"it has no folder"))?;
        let path = ObjectPath::parse(name).map_err(|error| unusable(&error))?;
        if let Some(storage) = self.open.get(folder) {
            return Ok((Arc::clone(storage), path));
        }
        let opened = block_on(async { self.providers.open(folder, &self.options).await })?;
        let storage = opened.map_err(connector_error)?;
        self.open.insert(folder.to_owned(), Arc::clone(&storage));
        Ok((storage, path))
    }
}

/// An object in the making. Dropped without `finish`: it never appears.
pub(crate) struct PartedUpload(Box<dyn Upload>);

impl PartedUpload {
    pub(crate) fn write(&mut self, part: Bytes) -> Result<(), ConnectorError> {
        let upload = &mut self.0;
        block_on(async { upload.write(part).await })?.map_err(connector_error)
    }

    pub(crate) fn finish(self) -> Result<(), ConnectorError> {
        block_on(async { self.0.finish().await })?.map_err(connector_error)
    }
}

/// Spellings of Hadoop's, which mean the same places.
pub(crate) fn canonical(address: &str) -> String {
    for (theirs, ours) in [("s3a://", "s3://"), ("s3n://", "s3://")] {
        if let Some(rest) = address.strip_prefix(theirs) {
            return format!("{ours}{rest}");
        }
    }
    match address.strip_prefix("file:") {
        Some(rest) if !rest.starts_with("//") => format!("file://{rest}"),
        _ if address.starts_with('/') => format!("file://{address}"),
        _ => address.to_owned(),
    }
}

/// What a catalog says of the storage of its tables.
pub(crate) fn options_of_catalog(config: &BTreeMap<String, String>) -> StorageOptions {
    let get = |name: &str| config.get(name).cloned();
    let named = [
        ("accessKeyId", "s3.access-key-id"),
        ("secretAccessKey", "s3.secret-access-key"),
        ("sessionToken", "s3.session-token"),
    ];
    let credentials: Credentials =
        named.iter().filter_map(|(ours, theirs)| Some(((*ours).to_owned(), get(theirs)?))).collect();
    StorageOptions {
        endpoint: get("s3.endpoint"),
        region: get("s3.region").or_else(|| get("client.region")),
        path_style: get("s3.path-style-access").map(|value| value == "true"),
        credentials: (!credentials.is_empty()).then_some(credentials),
    }
}

fn connector_error(error: StorageError) -> ConnectorError {
    match error.kind {
        StorageErrorKind::Transient => ConnectorError::Transient(error.to_string()),
        StorageErrorKind::NotFound | StorageErrorKind::Permanent | StorageErrorKind::Corrupt => {
            ConnectorError::Permanent(error.to_string())
        }
    }
}

/// Sinks are called by threads that belong to no runtime.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, ConnectorError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let built = builder.worker_threads(THREADS).thread_name("iceberg").enable_all().build();
        built.map_err(|error| format!("cannot start the threads that send to Iceberg tables: {error}"))
    });
    let runtime = made.as_ref().map_err(|reason| ConnectorError::Transient(reason.clone()))?;
    Ok(runtime.block_on(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_others_are_understood() {
        assert_eq!(canonical("s3a://b/x"), "s3://b/x");
        assert_eq!(canonical("file:/tmp/x"), "file:///tmp/x");
        assert_eq!(canonical("file:///tmp/x"), "file:///tmp/x");
        assert_eq!(canonical("/tmp/x"), "file:///tmp/x");
        assert_eq!(canonical("gs://b/x"), "gs://b/x");
    }
}
