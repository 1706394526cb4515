use std::fmt;
use weir_dataflow::OperatorError;
use weir_model::error_chain;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operator, or what it is given, failed. Any standard error becomes one by `?`.
///
/// While a job is planned it is a mistake in the job file, told with the step; while it runs it fails the attempt,
/// and the restart strategy decides what follows.
pub struct Error(Box<dyn std::error::Error + Send + Sync>);

impl Error {
    pub fn new(message: impl fmt::Display) -> Self {
        Error(message.to_string().into())
    }

    pub(crate) fn into_operator_error(self) -> OperatorError {
        match self.0.downcast::<OperatorError>() {
            Ok(error) => *error,
            // It may have asked a service that was away.
            Err(error) => OperatorError::Outside(error_chain(&*error)),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Error(Box::new(error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&error_chain(&*self.0))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
