//! The files sink on a store of objects: exactly once by multipart uploads.
//!
//! A file is an upload from its first record on, whose parts are sent while it is written. At the barrier the last part is
//! sent, and the checkpoint holds the upload's id and its parts. The commit completes the upload; only then does the object
//! exist. What no checkpoint holds is aborted.

mod committer;
mod names;
mod store;
mod writer;

pub use store::*;

use super::layout::Layout;
use super::{FilesSinkConfig, check_compression};
use crate::api::*;
use arrow::datatypes::SchemaRef;
use std::path::PathBuf;
use std::sync::Arc;

/// Connects to the store; called when there is something to do there, and where secrets are at hand.
pub type Connect = dyn Fn() -> Result<Arc<dyn MultipartStore>, ConnectorError> + Send + Sync;

/// What a store takes as an upload at most.
const MAX_OBJECT_BYTES: u64 = PART_BYTES as u64 * MAX_PARTS as u64;
/// A batch of rows may come on top of `rolling.max_size_bytes`, and compression is looked at from behind.
const MAX_ROLLING_BYTES: u64 = MAX_OBJECT_BYTES / 2;

pub struct ObjectFilesSink {
    config: Arc<FilesSinkConfig>,
    /// `s3://bucket/prefix`, parsed.
    folder: ObjectName,
    connect: Arc<Connect>,
}

impl ObjectFilesSink {
    /// `config.path` is the address, `s3://bucket/prefix`.
    ///
    /// # Errors
    /// An address or settings that can't be used.
    pub fn new(config: FilesSinkConfig, connect: Arc<Connect>) -> Result<Self, ConnectorError> {
        check_compression(&config)?;
        let address = config.path.to_string_lossy().into_owned();
        let folder = ObjectName::parse(&address).map_err(ConnectorError::Permanent)?;
        if config.rolling.max_size_bytes > MAX_ROLLING_BYTES {
            return Err(ConnectorError::Permanent(format!(
                "rolling.maxSize is {} bytes, and an object sent in parts of {PART_BYTES} has at most {MAX_OBJECT_BYTES}: \
                 write {MAX_ROLLING_BYTES} or less",
                config.rolling.max_size_bytes
            )));
        }
        let config = FilesSinkConfig { path: PathBuf::from(address), ..config };
        Ok(ObjectFilesSink { config: Arc::new(config), folder, connect })
    }
}

impl Sink for ObjectFilesSink {
    fn check(&self, input: &SchemaRef) -> Result<(), ConnectorError> {
        Layout::of(&self.config, input).map(|_| ())
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    /// No file goes on over a checkpoint, so that writers have no state of their own.
    fn writer(
        &self,
        context: SinkContext,
        _restored: Vec<(u32, serde_json::Value)>,
    ) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        let store = (self.connect)()?;
        Ok(Box::new(writer::ObjectsWriter::new(self.config.clone(), self.folder.clone(), context, store)?))
    }

    fn committer(&self, context: CommitterContext) -> Result<Option<Box<dyn Committer>>, ConnectorError> {
        let store = (self.connect)()?;
        Ok(Some(Box::new(committer::ObjectsCommitter::new(self.folder.clone(), context, store))))
    }

    /// Begins an upload and aborts it, which leaves nothing, and asks for those that are under way.
    fn probe(&self, context: &ProbeContext) -> Result<Probe, ConnectorError> {
        let store = (self.connect)()?;
        let mut probe = Probe::default();
        let object = self.folder.join(&format!("weir-plan-{}", names::owner(&context.job_uid, &context.name)));
        match store.try_upload(&object) {
            Ok(()) => probe.found.push(format!("objects can be written below {}", self.config.path.display())),
            Err(ConnectorError::Permanent(reason)) => probe.problems.push(reason),
            Err(transient) => return Err(transient),
        }
        if probe.problems.is_empty() {
            match store.uploads(&self.folder) {
                Ok(Some(_)) => {}
                Ok(None) => probe.found.push(
                    "the store doesn't list uploads: what a failure leaves of them stays until the store removes it"
                        .into(),
                ),
                Err(ConnectorError::Permanent(reason)) => probe.problems.push(reason),
                Err(transient) => return Err(transient),
            }
        }
        Ok(probe)
    }
}
