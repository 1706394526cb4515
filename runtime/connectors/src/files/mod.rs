//! Files: a source that reads them, once or for ever, and a sink that writes them in two phases.

mod sink;
mod source;

pub use sink::*;
pub use source::*;

use crate::api::ConnectorError;
use std::path::Path;

/// An IO error with what was tried on which path. A missing file or a refused access stays as it is until
/// somebody does something about it.
pub(crate) fn io_error(action: &str, path: &Path, error: &std::io::Error) -> ConnectorError {
    use std::io::ErrorKind::*;
    let message = format!("cannot {action} {}: {error}", path.display());
    match error.kind() {
        NotFound | PermissionDenied | InvalidInput | InvalidData | IsADirectory | NotADirectory
        | ReadOnlyFilesystem => ConnectorError::Permanent(message),
        _ => ConnectorError::Transient(message),
    }
}
