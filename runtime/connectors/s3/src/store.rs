//! Multipart uploads of a bucket.

use crate::upload::S3ObjectUpload;
use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use std::future::Future;
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use tokio::runtime::Runtime;
use weir_connectors::api::ConnectorError;
use weir_connectors::files::{Completion, MultipartStore, ObjectName, ObjectUpload, SentPart, Uploaded};
use weir_snapshot::StorageErrorKind;
use weir_snapshot::storage::StorageOptions;
use weir_storage_s3::Failure;

/// Threads that send for all sinks of a process.
const THREADS: usize = 2;
/// Uploads under way that are looked through for left-over ones: more than a job can leave, and a bound nevertheless.
const MAX_LISTED: usize = 1_000_000;

pub struct S3Multipart {
    client: Client,
}

impl S3Multipart {
    /// # Errors
    /// What is missing: a region, a key.
    pub fn connect(options: &StorageOptions) -> Result<Self, ConnectorError> {
        let options = options.clone();
        let connected = wait(async move { weir_storage_s3::client(&options).await })?;
        Ok(S3Multipart { client: connected.map_err(ConnectorError::Permanent)? })
    }
}

impl MultipartStore for S3Multipart {
    fn begin(&self, object: &ObjectName) -> Box<dyn ObjectUpload> {
        Box::new(S3ObjectUpload::begin(self.client.clone(), object.clone()))
    }

    fn complete(&self, uploaded: &Uploaded) -> Result<Completion, ConnectorError> {
        let Uploaded { object, upload, parts, length: _ } = uploaded;
        let parts = (1..).zip(parts).map(|(number, part)| {
            let SentPart { etag, crc32, crc64_nvme } = part;
            let completed = CompletedPart::builder().part_number(number).e_tag(etag);
            completed.set_checksum_crc32(crc32.clone()).set_checksum_crc64_nvme(crc64_nvme.clone()).build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let complete = self.client.complete_multipart_upload().bucket(&object.bucket).key(&object.key);
        let complete = complete.upload_id(upload).multipart_upload(parts);
        let known = self.client.list_parts().bucket(&object.bucket).key(&object.key).upload_id(upload).max_parts(1);
        let completed = wait(async move {
            let Err(failure) = complete.send().await.map_err(Failure::from) else { return Ok(Completion::Completed) };
            let is_gone = match failure.kind {
                StorageErrorKind::NotFound => true,
                StorageErrorKind::Permanent | StorageErrorKind::Corrupt => false,
                // Some stores stumble over an upload that they don't know, and are to be asked in another way.
                StorageErrorKind::Transient => {
                    let known = known.send().await.map_err(Failure::from);
                    known.is_err_and(|failure| failure.kind == StorageErrorKind::NotFound)
                }
            };
            if is_gone { Ok(Completion::NoSuchUpload) } else { Err(failure) }
        })?;
        completed.map_err(|failure| connector_error("complete the upload of", object, failure))
    }

    fn length(&self, object: &ObjectName) -> Result<Option<u64>, ConnectorError> {
        let head = self.client.head_object().bucket(&object.bucket).key(&object.key);
        match wait(async move { head.send().await.map_err(Failure::from) })? {
            Ok(head) => Ok(Some(head.content_length().unwrap_or_default().max(0) as u64)),
            Err(failure) if failure.kind == StorageErrorKind::NotFound => Ok(None),
            Err(failure) => Err(connector_error("look for", object, failure)),
        }
    }

    fn abort(&self, object: &ObjectName, upload: &str) -> Result<(), ConnectorError> {
        let (client, name, upload) = (self.client.clone(), object.clone(), upload.to_owned());
        let aborted = wait(async move { abort(&client, &name, &upload).await })?;
        aborted.map_err(|failure| connector_error("abort the upload of", object, failure))
    }

    fn uploads(&self, folder: &ObjectName) -> Result<Option<Vec<(ObjectName, String)>>, ConnectorError> {
        let (client, name) = (self.client.clone(), folder.clone());
        match wait(async move { list(&client, &name).await })? {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.status == Some(501) => Ok(None),
            Err(failure) => Err(connector_error("list the uploads below", folder, failure)),
        }
    }

    fn try_upload(&self, object: &ObjectName) -> Result<(), ConnectorError> {
        let (client, name) = (self.client.clone(), object.clone());
        let tried = wait(async move {
            let begun = client.create_multipart_upload().bucket(&name.bucket).key(&name.key).send().await?;
            abort(&client, &name, begun.upload_id().unwrap_or_default()).await
        })?;
        tried.map_err(|failure| connector_error("begin an upload of", object, failure))
    }
}

pub(crate) async fn abort(client: &Client, object: &ObjectName, upload: &str) -> Result<(), Failure> {
    let abort = client.abort_multipart_upload().bucket(&object.bucket).key(&object.key).upload_id(upload);
    match abort.send().await.map_err(Failure::from) {
        Ok(_) => Ok(()),
        Err(failure) if failure.kind == StorageErrorKind::NotFound => Ok(()),
        Err(failure) => Err(failure),
    }
}

async fn list(client: &Client, folder: &ObjectName) -> Result<Vec<(ObjectName, String)>, Failure> {
    let (mut found, mut key_marker, mut id_marker) = (vec![], None, None);
    loop {
        let list = client.list_multipart_uploads().bucket(&folder.bucket).prefix(folder.as_prefix());
        let page = list.set_key_marker(key_marker).set_upload_id_marker(id_marker).send().await?;
        let named = page.uploads().iter().filter_map(|upload| {
            let object = ObjectName { bucket: folder.bucket.clone(), key: upload.key()?.to_owned() };
            Some((object, upload.upload_id()?.to_owned()))
        });
        found.extend(named);
        if !page.is_truncated().unwrap_or(false) || page.next_key_marker().is_none() || found.len() >= MAX_LISTED {
            return Ok(found);
        }
        key_marker = page.next_key_marker().map(str::to_owned);
        id_marker = page.next_upload_id_marker().map(str::to_owned);
    }
}

pub(crate) fn connector_error(action: &str, object: &ObjectName, failure: Failure) -> ConnectorError {
    let message = format!("cannot {action} s3://{object}: {}", failure.message);
    match failure.kind {
        StorageErrorKind::Transient => ConnectorError::Transient(message),
        _ => ConnectorError::Permanent(message),
    }
}

/// The threads that send. Sinks are called by threads that belong to no runtime.
pub(crate) fn runtime() -> Result<&'static Runtime, ConnectorError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let built = builder.worker_threads(THREADS).thread_name("s3-files").enable_all().build();
        built.map_err(|error| format!("cannot start the threads that send to S3: {error}"))
    });
    made.as_ref().map_err(|reason| ConnectorError::Transient(reason.clone()))
}

fn wait<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, ConnectorError> {
    let (sender, receiver) = sync_channel(1);
    runtime()?.spawn(async move {
        let _ = sender.send(work.await);
    });
    receiver.recv().map_err(|_| ConnectorError::Transient("a request to S3 ended without an answer".to_owned()))
}
