//! Checkpoints on Google Cloud Storage and Azure Blob Storage.
//!
//! `gs://bucket/prefix`, `az://container/prefix` and `abfss://container@account.dfs.core.windows.net/prefix`. Creating
//! an object only if it is absent is `x-goog-if-generation-match: 0` here and `If-None-Match: *` there.

mod azure;
mod error;
mod gcs;
mod storage;
mod upload;

pub use storage::{ListOrder, ObjectStorage};

use async_trait::async_trait;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;
use weir_snapshot::StorageError;
use weir_snapshot::storage::{KeyPrefix, Storage, StorageAddress, StorageOptions, StorageProvider};

const MAX_RETRIES: usize = 5;
/// With all retries. Below the default timeout of a checkpoint.
const RETRY_TIMEOUT: Duration = Duration::from_secs(180);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A part of 8 MiB over a link of 200 kB/s takes 40 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens `gs://`, `az://` and `abfss://`.
#[derive(Debug, Default)]
pub struct ObjectStoreProvider;

#[async_trait]
impl StorageProvider for ObjectStoreProvider {
    fn schemes(&self) -> &'static [&'static str] {
        &["gs", "az", "abfss"]
    }

    async fn open(&self, address: &StorageAddress, options: &StorageOptions) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(open(address, options)?))
    }
}

/// Opens a bucket or container. No request is sent to it yet.
pub fn open(address: &StorageAddress, options: &StorageOptions) -> Result<ObjectStorage, StorageError> {
    let refuse = |reason: String| StorageError::refused(&address.uri, reason);
    // The HTTP client takes the process's crypto; whoever set one before keeps it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let prefix = KeyPrefix::new(&address.path).map_err(refuse)?;
    let (store, order): (Arc<dyn ObjectStore>, _) = match address.scheme.as_str() {
        "gs" => (Arc::new(gcs::connect(address, options).map_err(refuse)?), ListOrder::ByKey),
        // With a hierarchical namespace a folder's objects follow each other, whatever their neighbours are called.
        _ => (Arc::new(azure::connect(address, options).map_err(refuse)?), ListOrder::Any),
    };
    Ok(ObjectStorage::new(store, order, prefix, &address.uri))
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { max_backoff: MAX_BACKOFF, ..Default::default() },
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    }
}

/// Plain HTTP only where the user wrote it.
fn client_options(options: &StorageOptions) -> ClientOptions {
    let is_plain = options.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT).with_allow_http(is_plain)
}
