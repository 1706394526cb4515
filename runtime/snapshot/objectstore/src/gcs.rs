//! Google Cloud Storage.

use crate::{client_options, retries};
use object_store::StaticCredentialProvider;
use object_store::gcp::{GcpCredential, GoogleCloudStorage, GoogleCloudStorageBuilder};
use std::sync::Arc;
use weir_snapshot::storage::{StorageAddress, StorageOptions};

pub(crate) fn connect(address: &StorageAddress, options: &StorageOptions) -> Result<GoogleCloudStorage, String> {
    if address.authority.is_empty() {
        return Err("it names no bucket: `gs://bucket/prefix`".to_owned());
    }
    // From the environment come credentials (GOOGLE_APPLICATION_CREDENTIALS and others), never the bucket.
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&address.authority)
        .with_retry(retries())
        .with_client_options(client_options(options));
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        if endpoint.starts_with("http://") && options.credentials.is_none() {
            // A token is never sent in plain text; emulators take an empty one.
            let empty = GcpCredential { bearer: String::new() };
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(empty)));
        }
    }
    if let Some(secrets) = &options.credentials {
        builder = builder.with_service_account_key(secrets.require("serviceAccountKey")?);
    }
    builder.build().map_err(|error| error.to_string())
}
