//! Checkpoints on S3, and on what speaks its protocol.
//!
//! `s3://bucket/prefix`. Everything rests on `If-None-Match: *` on PutObject, which a store must have; see
//! `weir_snapshot::storage::require_put_if_absent`.

mod client;
mod error;
mod storage;
mod upload;

pub use error::Failure;
pub use storage::S3Storage;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use std::sync::Arc;
use weir_snapshot::storage::{KeyPrefix, Storage, StorageAddress, StorageError, StorageOptions, StorageProvider};

/// Opens `s3://bucket/prefix`.
#[derive(Debug, Default)]
pub struct S3Provider;

#[async_trait]
impl StorageProvider for S3Provider {
    fn schemes(&self) -> &'static [&'static str] {
        &["s3"]
    }

    async fn open(&self, address: &StorageAddress, options: &StorageOptions) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(open(address, options).await?))
    }
}

/// A client, for what is no storage of checkpoints.
///
/// # Errors
/// What is missing: a region, a key.
pub async fn client(options: &StorageOptions) -> Result<Client, String> {
    client::connect(options).await
}

/// Opens a bucket. No request is sent to it yet.
pub async fn open(address: &StorageAddress, options: &StorageOptions) -> Result<S3Storage, StorageError> {
    let refuse = |reason: String| StorageError::refused(&address.uri, reason);
    let bucket = address.authority.as_str();
    if bucket.is_empty() {
        return Err(refuse("it names no bucket: `s3://bucket/prefix`".to_owned()));
    }
    if bucket.ends_with("--x-s3") {
        let reason = "a directory bucket lists its objects in no order, and the commit log is read by its order";
        return Err(refuse(format!("{reason}; use a general purpose bucket")));
    }
    let prefix = KeyPrefix::new(&address.path).map_err(refuse)?;
    let client = client::connect(options).await.map_err(refuse)?;
    Ok(S3Storage::new(client, bucket, prefix, &address.uri))
}
