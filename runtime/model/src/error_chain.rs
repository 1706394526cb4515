//! What an error says, and what those say that it came from.

use std::error::Error;

/// On one line. Many libraries' own texts say little more than that something failed.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Some say what their cause says.
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Layer {
        words: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_are_told_once() {
        let inner = Layer { words: "refused", source: None };
        let middle = Layer { words: "connect: refused", source: Some(Box::new(inner)) };
        let outer = Layer { words: "sending", source: Some(Box::new(middle)) };
        assert_eq!(error_chain(&outer), "sending: connect: refused");
    }
}
