//! Iceberg, as a sink.

use super::{Fault, resolve, secrets};
use crate::job::storage::object_options;
use crate::registry::Registry;
use std::sync::Arc;
use weir_connectors::api::{ConnectorError, Sink};
use weir_connectors_iceberg::{
    CatalogConfig, CreateTable, IcebergSink, IcebergSinkConfig, RestConfig, SqlConfig, StorageSettings,
};
use weir_crds::streamjob::{self as crd, CheckpointPolicy, IcebergCatalogKind, SecretValue, StreamJobSpec};
use weir_postgres_client::ConnectionUrl;

pub(super) fn sink(
    sink: &crd::Sink,
    iceberg: &crd::IcebergSink,
    spec: &StreamJobSpec,
    registry: &Registry,
) -> Result<Result<Arc<dyn Sink>, ConnectorError>, Fault> {
    let catalog = match iceberg.catalog.kind() {
        Some(IcebergCatalogKind::Rest(rest)) => CatalogConfig::Rest(self::rest(rest)),
        Some(IcebergCatalogKind::Sql(sql)) => {
            CatalogConfig::Sql(Box::new(self::sql(sql, iceberg.create_table.is_some())?))
        }
        None => return Err(Fault::new("iceberg.catalog", "a catalog is of exactly one kind", "name one")),
    };
    let storage = iceberg.storage.clone().map(|storage| -> Arc<StorageSettings> {
        // A job is checked where its secrets need not be.
        Arc::new(move || object_options(Some(&storage)).map_err(ConnectorError::Permanent))
    });
    let config = IcebergSinkConfig {
        catalog,
        table: iceberg.table.clone(),
        create_table: iceberg
            .create_table
            .as_ref()
            .map(|create| CreateTable { partition_by: create.partition_by.clone() }),
        commit_every: spec
            .checkpoint
            .as_ref()
            .map_or(1, |policy: &CheckpointPolicy| iceberg.commit_every(policy.interval())),
        target_file_size_bytes: iceberg.target_file_size().bytes(),
        max_open_files: iceberg.max_open_files() as usize,
        change_kind_column: sink.change_kind_column.clone(),
        storages: registry.storages.clone(),
        storage,
    };
    Ok(IcebergSink::new(config).map(|sink| Arc::new(sink) as _))
}

fn rest(rest: &crd::IcebergRestCatalog) -> RestConfig {
    let mut missing_secrets = vec![];
    let mut secret = |name: &str, value: &Option<SecretValue>| {
        // A job is checked where its secrets need not be.
        let read = value.as_ref().map(secrets::value)?;
        read.map_err(|reason| missing_secrets.push(format!("catalog.rest.{name}: {reason}"))).ok()
    };
    let (token, credential) = (secret("token", &rest.token), secret("credential", &rest.credential));
    RestConfig {
        uri: rest.uri.clone(),
        warehouse: rest.warehouse.clone(),
        token,
        credential,
        oauth2_server_uri: rest.oauth2_server_uri.clone(),
        scope: rest.scope.clone(),
        missing_secrets,
        ca_file: rest.ca_file.as_deref().map(resolve),
    }
}

fn sql(sql: &crd::IcebergSqlCatalog, may_create: bool) -> Result<SqlConfig, Fault> {
    let crd::IcebergSqlCatalog { url, name, warehouse } = sql;
    let parsed = |text: String| {
        ConnectionUrl::parse(&text).map_err(|error| Fault::of_connector("iceberg.catalog.sql.url", &error))
    };
    // A job is checked where its secrets need not be.
    let url = match secrets::value(url).map_err(|reason| format!("catalog.sql.url: {reason}")) {
        Ok(text) => Ok(parsed(text)?),
        Err(missing) => Err(missing),
    };
    Ok(SqlConfig { url, name: name.clone(), warehouse: warehouse.clone(), may_create })
}
