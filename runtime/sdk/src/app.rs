use crate::connector::{ConnectorError, Sink, Source};
use crate::operator::{BatchOperator, Operator};
use crate::{Error, Operators, config};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::Registry;
use weir_node::registry::{SinkFactory, SourceFactory};

/// A `weir` of one's own: all commands of the plain one, for jobs that use the operators, sources and sinks
/// registered here.
#[derive(Default)]
pub struct Weir {
    operators: Operators,
    sources: BTreeMap<String, Arc<SourceFactory>>,
    sinks: BTreeMap<String, Arc<SinkFactory>>,
    /// The first mistake, told by `main`.
    mistake: Option<Error>,
}

impl Weir {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers an operator under the name that a step's `operator.type` says.
    pub fn operator<O: Operator>(mut self, name: &str) -> Self {
        let registered = self.operators.register::<O>(name);
        self.note(registered)
    }

    /// As `operator`, for one that takes batches.
    pub fn batch_operator<O: BatchOperator>(mut self, name: &str) -> Self {
        let registered = self.operators.register_batch::<O>(name);
        self.note(registered)
    }

    /// Registers a source under the name that `custom.type` of a source says. `make` is given the step's name and
    /// its `config`.
    pub fn source<C, S>(
        mut self,
        name: &str,
        make: impl Fn(&str, C) -> Result<S, ConnectorError> + Send + Sync + 'static,
    ) -> Self
    where
        C: DeserializeOwned,
        S: Source + 'static,
    {
        let factory = move |step: &str, value: &serde_json::Value| {
            let source = make(step, config::from_value(value).map_err(bad_config)?)?;
            Ok(Arc::new(source) as Arc<dyn Source>)
        };
        let registered = insert(&mut self.sources, "source", name, Arc::new(factory));
        self.note(registered)
    }

    /// As `source`, for sinks.
    pub fn sink<C, S>(
        mut self,
        name: &str,
        make: impl Fn(&str, C) -> Result<S, ConnectorError> + Send + Sync + 'static,
    ) -> Self
    where
        C: DeserializeOwned,
        S: Sink + 'static,
    {
        let factory = move |step: &str, value: &serde_json::Value| {
            let sink = make(step, config::from_value(value).map_err(bad_config)?)?;
            Ok(Arc::new(sink) as Arc<dyn Sink>)
        };
        let registered = insert(&mut self.sinks, "sink", name, Arc::new(factory));
        self.note(registered)
    }

    /// Runs the command that the process's arguments name.
    pub fn main(self) -> ExitCode {
        match self.into_registry() {
            Ok(registry) => weir_cli::main(registry),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// What a node is given to run jobs with these operators and connectors, without the command line around it.
    ///
    /// # Errors
    /// A name that is registered twice.
    pub fn into_registry(self) -> Result<Registry, Error> {
        let Weir { operators, sources, sinks, mistake } = self;
        match mistake {
            Some(mistake) => Err(mistake),
            None => Ok(Registry { operators: Arc::new(operators), sources, sinks, ..Registry::default() }),
        }
    }

    fn note(mut self, registered: Result<(), Error>) -> Self {
        if let Err(mistake) = registered {
            self.mistake.get_or_insert(mistake);
        }
        self
    }
}

fn insert<F: ?Sized>(
    factories: &mut BTreeMap<String, Arc<F>>,
    what: &str,
    name: &str,
    factory: Arc<F>,
) -> Result<(), Error> {
    match factories.insert(name.to_owned(), factory) {
        None => Ok(()),
        Some(_) => Err(Error::new(format!("two {what}s are registered as `{name}`"))),
    }
}

fn bad_config(error: Error) -> ConnectorError {
    ConnectorError::Permanent(error.to_string())
}
