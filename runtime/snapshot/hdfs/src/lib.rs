//! Checkpoints on HDFS: `hdfs://namenode:port/path`, or `hdfs://nameservice/path` with HADOOP_CONF_DIR.
//!
//! A write goes to a temporary file in the target's folder, is synced, and gets its name by a rename, which HDFS makes
//! atomic: it fails if the name is taken, unless it is told to replace.

mod error;
mod storage;

pub use storage::HdfsStorage;

use async_trait::async_trait;
use hdfs_native::ClientBuilder;
use std::sync::Arc;
use tokio::runtime::Handle;
use weir_snapshot::storage::{Storage, StorageAddress, StorageOptions, StorageProvider};
use weir_snapshot::{ObjectPath, StorageError};

/// Unless the user's own configuration is there: the defaults try for more than three minutes to reach a name node that
/// nobody runs.
const RETRIES: [(&str, &str); 2] =
    [("dfs.client.failover.max.attempts", "5"), ("dfs.client.failover.sleep.max.millis", "5000")];

/// Opens `hdfs://`.
#[derive(Debug, Default)]
pub struct HdfsProvider;

#[async_trait]
impl StorageProvider for HdfsProvider {
    fn schemes(&self) -> &'static [&'static str] {
        &["hdfs"]
    }

    async fn open(&self, address: &StorageAddress, options: &StorageOptions) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(open(address, options).await?))
    }
}

/// Opens a folder. The user is that of HADOOP_USER_NAME or of the process, or the one of its Kerberos ticket.
pub async fn open(address: &StorageAddress, options: &StorageOptions) -> Result<HdfsStorage, StorageError> {
    let refuse = |reason: String| StorageError::refused(&address.uri, reason);
    if address.authority.is_empty() {
        return Err(refuse("it names no name node: `hdfs://namenode:8020/path`".to_owned()));
    }
    if options.credentials.is_some() {
        let reason = "HDFS takes no credentials from the job: set HADOOP_USER_NAME, or provide a Kerberos ticket";
        return Err(refuse(reason.to_owned()));
    }
    if !address.path.is_empty() {
        ObjectPath::parse(&address.path).map_err(|error| refuse(error.to_string()))?;
    }
    let url = format!("hdfs://{}", address.authority);
    // Its own runtime would be dropped inside ours, which tokio forbids.
    let mut client = ClientBuilder::new().with_url(url).with_io_runtime(Handle::current());
    if ["HADOOP_CONF_DIR", "HADOOP_HOME"].iter().all(|variable| std::env::var_os(variable).is_none()) {
        client = client.with_config(RETRIES);
    }
    let client = client.build();
    let client = client.map_err(|error| refuse(error.to_string()))?;
    Ok(HdfsStorage::new(client, &address.path, &address.uri))
}
