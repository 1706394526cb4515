//! How to reach a cluster, with secrets that may be missing until a job runs.

use crate::failure::connector_error;
use std::collections::BTreeMap;
use std::time::Duration;
use weir_connectors::api::ConnectorError;
use weir_kafka_client::{Cluster, Options, SettingError};

/// How long a connector goes on trying before the attempt fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster's addresses and the client's settings.
#[derive(Clone, Default)]
pub struct KafkaCluster {
    pub bootstrap_servers: String,
    /// Secret ones among them.
    pub properties: BTreeMap<String, String>,
    /// Why secrets could not be read here; what `properties` has in their place is not used.
    pub missing_secrets: Vec<String>,
}

impl std::fmt::Debug for KafkaCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secret.
        f.debug_struct("KafkaCluster").field("bootstrap_servers", &self.bootstrap_servers).finish_non_exhaustive()
    }
}

impl KafkaCluster {
    pub(crate) fn options(&self) -> Result<Options, ConnectorError> {
        Options::new(&self.bootstrap_servers, &self.properties).map_err(setting_error)
    }

    /// Opens no connection yet.
    pub(crate) fn client(&self) -> Result<Cluster, ConnectorError> {
        if let Some(missing) = self.missing_secrets.first() {
            return Err(ConnectorError::Permanent(missing.clone()));
        }
        Cluster::new(self.options()?).map_err(|error| connector_error("kafka", &error))
    }
}

pub(crate) fn setting_error(SettingError { name, reason, remedy }: SettingError) -> ConnectorError {
    ConnectorError::Permanent(format!("the setting {name}: {reason}; {remedy}"))
}
