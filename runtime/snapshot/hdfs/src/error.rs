//! What HDFS's errors mean to a caller.

use hdfs_native::HdfsError;
use weir_snapshot::StorageErrorKind;

/// Exceptions of a name node that will do it later.
const TRANSIENT_EXCEPTIONS: [&str; 4] =
    ["StandbyException", "RetriableException", "SafeModeException", "NotReplicatedYetException"];

pub(crate) fn kind_of(error: &HdfsError) -> StorageErrorKind {
    match error {
        HdfsError::FileNotFound(_) => StorageErrorKind::NotFound,
        HdfsError::ChecksumError => StorageErrorKind::Corrupt,
        HdfsError::IOError(_)
        | HdfsError::DataTransferError(_)
        | HdfsError::OperationFailed(_)
        | HdfsError::BlocksNotFound(_)
        | HdfsError::InvalidRPCResponse(_) => StorageErrorKind::Transient,
        HdfsError::RPCError(exception, _) | HdfsError::FatalRPCError(exception, _) => {
            let is_transient = TRANSIENT_EXCEPTIONS.iter().any(|name| exception.ends_with(name));
            if is_transient { StorageErrorKind::Transient } else { StorageErrorKind::Permanent }
        }
        _ => StorageErrorKind::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let remote = |exception: &str| kind_of(&HdfsError::RPCError(exception.to_owned(), String::new()));
        assert_eq!(remote("org.apache.hadoop.ipc.StandbyException"), StorageErrorKind::Transient);
        assert_eq!(remote("org.apache.hadoop.security.AccessControlException"), StorageErrorKind::Permanent);
        assert_eq!(kind_of(&HdfsError::FileNotFound("a".to_owned())), StorageErrorKind::NotFound);
    }
}
