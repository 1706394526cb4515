//! How a command of xtask fails.

pub type Result<T> = std::result::Result<T, Failure>;

#[derive(Debug)]
pub enum Failure {
    /// Printed to the user: what is wrong, where, and what to do instead.
    Message(String),
    /// A command that was run failed and has said why; only its exit code is passed on.
    Exit(u8),
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Failure::Message(message.into())
    }

    /// For `map_err` on file operations: names the action and its subject.
    pub fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
        let action = action.into();
        move |error| Failure::Message(format!("cannot {action}: {error}"))
    }
}
