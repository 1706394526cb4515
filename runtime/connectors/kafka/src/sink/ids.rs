//! The names of transactional ids, which stay few however long a job runs.
//!
//! `PREFIX.EPOCH.ROUND.SUBTASK.NUMBER`. The coordinator's epoch is in them so that one that was paused can tell what a later
//! one's writers have prepared. The round goes from attempt to attempt, and around: a worker of an earlier attempt that does not
//! know yet that it was replaced cannot shut out the producers of the new one.

use weir_model::{AttemptNumber, Epoch};

/// Attempts until ids come again.
const ROUNDS: u64 = 8;

/// What the ids of this sink begin with, a dot at the end.
pub(super) fn prefix(configured: Option<&str>, job_uid: &str, step: &str) -> String {
    match configured {
        Some(prefix) => format!("{prefix}."),
        None => format!("weir.{job_uid}.{step}."),
    }
}

/// Whether a prefix that nobody has configured is that of a sink of another job.
pub(super) fn is_of_another_job(prefix: &str, job_uid: &str) -> bool {
    prefix
        .strip_prefix("weir.")
        .is_some_and(|rest| rest.strip_prefix(job_uid).is_none_or(|rest| !rest.starts_with('.')))
}

/// What the ids of one subtask and attempt begin with.
pub(super) fn of_subtask(prefix: &str, epoch: Epoch, attempt: AttemptNumber, subtask: u32) -> String {
    format!("{prefix}{epoch}.{}.{subtask}.", u64::from(attempt.0) % ROUNDS)
}

/// The epoch in an id of this prefix. None: it is not one of ours.
pub(super) fn epoch_of(prefix: &str, id: &str) -> Option<Epoch> {
    let mut parts = id.strip_prefix(prefix)?.split('.');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (epoch, _round, _subtask, _number) = (number()?, number()?, number()?, number()?);
    parts.next().is_none().then_some(Epoch(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_another_job_are_known() {
        for (prefix, is_of_another) in [
            ("weir.job.out.", false),
            ("weir.job.former.", false),
            ("weir.job2.out.", true),
            ("weir.jo.out.", true),
            ("shop.", false),
        ] {
            assert_eq!(is_of_another_job(prefix, "job"), is_of_another, "{prefix}");
        }
    }

    #[test]
    fn the_epoch_is_read_back_and_others_ids_are_not_ours() {
        let prefix = prefix(None, "job", "out");
        let id = format!("{}3", of_subtask(&prefix, Epoch(7), AttemptNumber(12), 5));
        assert_eq!(id, "weir.job.out.7.4.5.3");
        assert_eq!(epoch_of(&prefix, &id), Some(Epoch(7)));
        for other in [
            "weir.job.out",
            "weir.job.out.7.4.5",
            "weir.job.out.7.4.5.3.1",
            "weir.job.out.x.4.5.3",
            "weir.job.other.7.4.5.3",
        ] {
            assert_eq!(epoch_of(&prefix, other), None, "{other}");
        }
    }
}
