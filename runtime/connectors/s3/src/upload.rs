//! One object in parts, sent while the next is filled.

use crate::store::{abort, connector_error, runtime};
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use std::sync::mpsc::{Receiver, sync_channel};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weir_connectors::api::ConnectorError;
use weir_connectors::files::{MAX_PARTS, ObjectName, ObjectUpload, SentPart, Uploaded};
use weir_snapshot::StorageErrorKind;
use weir_storage_s3::Failure;

/// Parts of one object that are sent at once; with the one that waits and the one being filled the bound of its memory.
const PARTS_IN_FLIGHT: usize = 2;
const PARTS_WAITING: usize = 1;

pub(crate) struct S3ObjectUpload {
    object: ObjectName,
    /// None: no part follows.
    sender: Option<mpsc::Sender<Message>>,
    result: Receiver<Result<Uploaded, Failure>>,
}

enum Message {
    Part(Vec<u8>),
    End,
}

impl S3ObjectUpload {
    pub(crate) fn begin(client: Client, object: ObjectName) -> Self {
        let (sender, received) = mpsc::channel(PARTS_WAITING);
        let (done, result) = sync_channel(1);
        let named = object.clone();
        // Without threads nobody takes a part, and the first one says so.
        if let Ok(runtime) = runtime() {
            runtime.spawn(async move {
                let _ = done.send(upload(&client, &object, received).await);
            });
        }
        S3ObjectUpload { object: named, sender: Some(sender), result }
    }

    fn failure(&self) -> ConnectorError {
        match self.result.recv() {
            Ok(Err(failure)) => connector_error("upload", &self.object, failure),
            Ok(Ok(_)) | Err(_) => {
                ConnectorError::Transient(format!("the upload of s3://{} ended by itself", self.object))
            }
        }
    }
}

impl ObjectUpload for S3ObjectUpload {
    fn send(&mut self, part: Vec<u8>) -> Result<(), ConnectorError> {
        let sent = self.sender.as_ref().is_some_and(|sender| sender.blocking_send(Message::Part(part)).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    fn end(&mut self) {
        if let Some(sender) = self.sender.take() {
            // Who doesn't take it has failed, which `uploaded` tells.
            let _ = sender.blocking_send(Message::End);
        }
    }

    fn uploaded(mut self: Box<Self>) -> Result<Uploaded, ConnectorError> {
        self.end();
        match self.result.recv() {
            Ok(Ok(uploaded)) => Ok(uploaded),
            Ok(Err(failure)) => Err(connector_error("upload", &self.object, failure)),
            Err(_) => Err(ConnectorError::Transient(format!("the upload of s3://{} ended by itself", self.object))),
        }
    }
}

async fn upload(client: &Client, object: &ObjectName, received: mpsc::Receiver<Message>) -> Result<Uploaded, Failure> {
    let created = client.create_multipart_upload().bucket(&object.bucket).key(&object.key).send().await?;
    let Some(id) = created.upload_id() else { return Err(transient("the store began an upload and gave it no id")) };
    let mut sending = JoinSet::new();
    let sent = send_parts(client, object, id, received, &mut sending).await;
    if !matches!(sent, Ok(Some(_))) {
        // A part that is under way could arrive after the abort, and stay.
        sending.shutdown().await;
        if let Err(failure) = abort(client, object, id).await {
            tracing::warn!(%object, reason = failure.message, "an upload that was given up could not be aborted");
        }
    }
    sent?.ok_or_else(|| transient("given up"))
}

/// None: it was given up.
async fn send_parts(
    client: &Client,
    object: &ObjectName,
    id: &str,
    mut received: mpsc::Receiver<Message>,
    sending: &mut JoinSet<Result<(usize, SentPart), Failure>>,
) -> Result<Option<Uploaded>, Failure> {
    let (mut sent, mut number, mut length) = (vec![], 0, 0);
    loop {
        match received.recv().await {
            None => return Ok(None),
            Some(Message::End) => break,
            Some(Message::Part(part)) => {
                if number >= MAX_PARTS {
                    let message = format!("the object has more than {MAX_PARTS} parts: lower rolling.maxSize");
                    return Err(Failure { kind: StorageErrorKind::Permanent, message, status: None, code: None });
                }
                if sending.len() >= PARTS_IN_FLIGHT {
                    sent.extend(next(sending).await?);
                }
                number += 1;
                length += part.len() as u64;
                let request = client.upload_part().bucket(&object.bucket).key(&object.key).upload_id(id);
                let request = request.part_number(number as i32).body(ByteStream::from(part));
                let place = number as usize;
                sending.spawn(async move {
                    let answer = request.send().await?;
                    let etag = answer.e_tag().ok_or_else(|| transient("the store took a part and gave no ETag"))?;
                    let part = SentPart {
                        etag: etag.to_owned(),
                        crc32: answer.checksum_crc32().map(str::to_owned),
                        crc64_nvme: answer.checksum_crc64_nvme().map(str::to_owned),
                    };
                    Ok((place, part))
                });
            }
        }
    }
    while let Some(part) = next(sending).await? {
        sent.push(part);
    }
    sent.sort_by_key(|(place, _)| *place);
    let parts = sent.into_iter().map(|(_, part)| part).collect();
    Ok(Some(Uploaded { object: object.clone(), upload: id.to_owned(), parts, length }))
}

async fn next(sending: &mut JoinSet<Result<(usize, SentPart), Failure>>) -> Result<Option<(usize, SentPart)>, Failure> {
    match sending.join_next().await {
        None => Ok(None),
        Some(Ok(sent)) => sent.map(Some),
        Some(Err(error)) => Err(transient(&format!("a part's task ended: {error}"))),
    }
}

fn transient(message: &str) -> Failure {
    Failure { kind: StorageErrorKind::Transient, message: message.to_owned(), status: None, code: None }
}
