//! The files sink's store on S3, and on what speaks its protocol.

mod store;
mod upload;

pub use store::S3Multipart;

use std::sync::Arc;
use weir_connectors::api::ConnectorError;
use weir_connectors::files::MultipartStore;
use weir_snapshot::storage::StorageOptions;

/// Connects; nothing is sent yet.
///
/// # Errors
/// What is missing: a region, a key.
pub fn connect(options: &StorageOptions) -> Result<Arc<dyn MultipartStore>, ConnectorError> {
    Ok(Arc::new(S3Multipart::connect(options)?))
}
