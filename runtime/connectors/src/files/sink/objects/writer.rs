//! The writer of one subtask: an upload per folder.

use super::super::FilesSinkConfig;
use super::super::body::Out;
use super::super::folders::{Folders, Target};
use super::names;
use super::store::{MultipartStore, ObjectName, ObjectUpload, PART_BYTES};
use crate::api::{Committable, ConnectorError, SinkContext, SinkSnapshot, SinkWriter};
use arrow::record_batch::RecordBatch;
use std::io::{self, Write};
use std::sync::Arc;
use weir_model::CheckpointId;

pub(super) struct ObjectsWriter {
    folders: Folders<Bucket>,
}

/// The sink's folder.
struct Bucket {
    folder: ObjectName,
    context: SinkContext,
    store: Arc<dyn MultipartStore>,
    /// Complete since the last checkpoint; their last parts may be under way.
    ended: Vec<Box<dyn ObjectUpload>>,
    counter: u64,
}

/// An object being written: parts are sent as they fill.
struct OpenObject {
    upload: Box<dyn ObjectUpload>,
    buffer: Vec<u8>,
    bytes: u64,
    failure: Option<ConnectorError>,
}

impl ObjectsWriter {
    pub fn new(
        config: Arc<FilesSinkConfig>,
        folder: ObjectName,
        context: SinkContext,
        store: Arc<dyn MultipartStore>,
    ) -> Result<Self, ConnectorError> {
        let input = context.input.clone();
        let bucket = Bucket { folder, context, store, ended: vec![], counter: 0 };
        Ok(ObjectsWriter { folders: Folders::new(config, &input, bucket)? })
    }
}

impl Target for Bucket {
    type Out = OpenObject;

    fn create(&mut self, folder: &str, extension: &str) -> Result<OpenObject, ConnectorError> {
        let name = names::file(&self.context, self.counter, extension);
        self.counter += 1;
        let upload = self.store.begin(&self.folder.join(folder).join(&name));
        Ok(OpenObject { upload, buffer: vec![], bytes: 0, failure: None })
    }

    fn seal(&mut self, object: OpenObject) -> Result<(), ConnectorError> {
        let OpenObject { mut upload, buffer, bytes: _, failure } = object;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if !buffer.is_empty() {
            upload.send(buffer)?;
        }
        upload.end();
        self.ended.push(upload);
        Ok(())
    }
}

impl SinkWriter for ObjectsWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.folders.write(batch)
    }

    fn pre_commit(&mut self, _checkpoint: CheckpointId) -> Result<SinkSnapshot, ConnectorError> {
        self.folders.seal_all()?;
        let ended = std::mem::take(&mut self.folders.target.ended);
        let uploaded = ended.into_iter().map(|upload| {
            let uploaded = upload.uploaded()?;
            let value = serde_json::to_value(&uploaded).expect("plain data");
            Ok(Committable(value))
        });
        let committables = uploaded.collect::<Result<_, ConnectorError>>()?;
        Ok(SinkSnapshot { committables, writer: None })
    }

    /// Uploads that no checkpoint holds are aborted when they are dropped. The committer of the next attempt finds the rest.
    fn abort(&mut self) {
        self.folders.abandon(|_| ());
        self.folders.target.ended.clear();
    }
}

impl Out for OpenObject {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn failure(&self) -> Option<ConnectorError> {
        self.failure.clone()
    }
}

/// Never fails: what goes wrong with a part is known later, and told by `failure`.
impl Write for OpenObject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART_BYTES - self.buffer.len());
        self.bytes += taken as u64;
        if self.failure.is_some() {
            return Ok(taken);
        }
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PART_BYTES {
            let part = std::mem::take(&mut self.buffer);
            self.failure = self.upload.send(part).err();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
