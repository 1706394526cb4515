//! Names of the objects that a sink writes. They are final from the begin: what is not completed is in no listing.

use super::super::names::escaped;
use crate::api::SinkContext;
use weir_model::Epoch;
use xxhash_rust::xxh3::xxh3_64;

/// What tells the uploads of one job's sink from those of others in the same folder.
pub(super) fn owner(job_uid: &str, sink: &str) -> String {
    // Neither part can hold the byte between them.
    format!("{:016x}", xxh3_64(format!("{job_uid}\0{sink}").as_bytes()))
}

/// Unique over all attempts, because the attempt is part of it.
pub(super) fn file(context: &SinkContext, counter: u64, extension: &str) -> String {
    let SinkContext { name, job_uid, subtask, attempt, epoch, .. } = context;
    let of_epoch = format!("e{epoch}-");
    let attempt = attempt.strip_prefix(&of_epoch).unwrap_or(attempt);
    format!("part-{subtask:05}-{}-{of_epoch}{}-{counter:05}.{extension}", owner(job_uid, name), escaped(attempt))
}

/// The epoch of the coordinator whose tasks began an object of this owner. None: it is none of those.
pub(super) fn epoch_of_file(owner: &str, file: &str) -> Option<Epoch> {
    let mut parts = file.strip_prefix("part-")?.splitn(4, '-');
    let (_subtask, found, epoch) = (parts.next()?, parts.next()?, parts.next()?);
    if found != owner {
        return None;
    }
    epoch.strip_prefix('e')?.parse().ok().map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;
    use std::sync::Arc;
    use weir_model::AttemptNumber;

    #[test]
    fn an_uploads_owner_and_epoch_are_told_from_its_name() {
        let context = SinkContext {
            name: "out".into(),
            job_uid: "uid-1".into(),
            subtask: 3,
            parallelism: 4,
            attempt: "e12-a1-00ff".into(),
            epoch: Epoch(12),
            attempt_number: AttemptNumber(1),
            input: Arc::new(Schema::empty()),
        };
        let own = owner("uid-1", "out");
        let name = file(&context, 7, "jsonl");
        assert_eq!(name, format!("part-00003-{own}-e12-a1-00ff-00007.jsonl"));
        assert_eq!(epoch_of_file(&own, &name), Some(Epoch(12)));
        assert_eq!(epoch_of_file(&owner("uid-1", "other"), &name), None);
        assert_eq!(epoch_of_file(&own, "part-00003-e1-a1-00001.jsonl"), None);
        assert_eq!(epoch_of_file(&own, "readme.txt"), None);
    }
}
