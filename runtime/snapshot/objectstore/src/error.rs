//! What the client's errors mean to a caller.

use object_store::Error;
use weir_snapshot::StorageErrorKind;

/// How the client words the status of an answer; its own type for it is not public.
const STATUS: &str = "status code: ";

pub(crate) fn kind_of(error: &Error) -> StorageErrorKind {
    match error {
        Error::NotFound { .. } => StorageErrorKind::NotFound,
        // No answer, or one that the client has repeated the request for, in vain.
        Error::Generic { .. } | Error::JoinError { .. } => match status_of(error) {
            Some(408 | 429 | 500..) | None => StorageErrorKind::Transient,
            Some(_) => StorageErrorKind::Permanent,
        },
        // Another write of the same name was under way.
        Error::Precondition { .. } | Error::AlreadyExists { .. } => StorageErrorKind::Transient,
        _ => StorageErrorKind::Permanent,
    }
}

/// Of the answer, where the error tells it.
fn status_of(error: &Error) -> Option<u16> {
    let text = error.to_string();
    let digits = text.split_once(STATUS)?.1;
    digits.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "X", source: text.into() }
    }

    #[test]
    fn kinds() {
        for (text, expected) in [
            ("Error: Server returned non-2xx status code: 503 Service Unavailable: busy", StorageErrorKind::Transient),
            ("Error: Server returned non-2xx status code: 400 Bad Request: ", StorageErrorKind::Permanent),
            ("connection reset", StorageErrorKind::Transient),
        ] {
            assert_eq!(kind_of(&generic(text)), expected, "{text}");
        }
    }
}
