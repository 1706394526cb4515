use std::path::Path;
use weir_state::StateError;

/// What RocksDB says, with what it was asked for.
pub(crate) fn failed(action: &'static str) -> impl Fn(rocksdb::Error) -> StateError {
    move |error| StateError::ColdStore { action, reason: error.to_string() }
}

/// What the file system says of a file or folder.
pub(crate) fn file_error(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> StateError {
    move |source| StateError::Storage { action, object: path.display().to_string(), source }
}
