//! The second phase: completing uploads, and aborting what no checkpoint knows.

use super::names;
use super::store::{Completion, MultipartStore, ObjectName, Uploaded};
use crate::api::{Committable, Committer, CommitterContext, ConnectorError};
use std::collections::HashSet;
use std::sync::Arc;
use weir_model::{CommitPermit, Epoch};

pub(super) struct ObjectsCommitter {
    sink: String,
    folder: ObjectName,
    owner: String,
    epoch: Epoch,
    store: Arc<dyn MultipartStore>,
}

impl ObjectsCommitter {
    pub fn new(folder: ObjectName, context: CommitterContext, store: Arc<dyn MultipartStore>) -> Self {
        let CommitterContext { name, job_uid, epoch } = context;
        ObjectsCommitter { owner: names::owner(&job_uid, &name), sink: name, folder, epoch, store }
    }

    fn parse(&self, committable: &Committable) -> Result<Uploaded, ConnectorError> {
        serde_json::from_value(committable.0.clone()).map_err(|error| {
            let (sink, value) = (&self.sink, &committable.0);
            ConnectorError::Permanent(format!("sink `{sink}`: the checkpoint holds {value}, unreadable: {error}"))
        })
    }

    fn complete(&self, uploaded: &Uploaded) -> Result<(), ConnectorError> {
        if self.store.complete(uploaded)? == Completion::Completed {
            return Ok(());
        }
        // Completed before, by a commit that was cut off or whose answer was lost: nobody else writes an object of this
        // name. Or aborted by somebody else, and then there is nothing of it.
        let Uploaded { object, upload, parts, length } = uploaded;
        let found = match self.store.length(object)? {
            Some(found) if found == *length => return Ok(()),
            Some(found) => format!("an object of {found} bytes stands there"),
            None => "there is no such object either".to_owned(),
        };
        Err(ConnectorError::Permanent(format!(
            "sink `{}` cannot commit {object} ({length} bytes in {} parts): its upload {upload} is gone, and {found}. Somebody \
             else has aborted it, a rule of the bucket for incomplete uploads perhaps, or removed the object; let that rule \
             wait for longer than the job may be away, and start from another checkpoint.",
            self.sink,
            parts.len()
        )))
    }
}

impl Committer for ObjectsCommitter {
    fn commit(&mut self, _permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError> {
        committables.iter().try_for_each(|committable| self.complete(&self.parse(committable)?))
    }

    fn abort_others(
        &mut self,
        committed: &[Committable],
        _writers: &[serde_json::Value],
    ) -> Result<(), ConnectorError> {
        let kept = committed.iter().map(|committable| Ok(self.parse(committable)?.upload));
        let kept = kept.collect::<Result<HashSet<String>, ConnectorError>>()?;
        for (object, upload) in self.store.uploads(&self.folder)?.unwrap_or_default() {
            let Some(epoch) = names::epoch_of_file(&self.owner, object.file_name()) else { continue };
            if kept.contains(&upload) {
                continue;
            }
            if epoch > self.epoch {
                tracing::warn!(sink = self.sink, %object, %epoch, "an upload of a later coordinator is left alone");
                continue;
            }
            tracing::info!(sink = self.sink, %object, "aborting an upload that no checkpoint holds");
            self.store.abort(&object, &upload)?;
        }
        Ok(())
    }
}
