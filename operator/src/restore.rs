//! From the names in `spec.restore` to the savepoint that a job begins with. Pure.

use kube::ResourceExt;
use weir_crds::streamjob::{IfMissing, LatestOf, RestoreFrom, RestoreOrigin, RestorePolicy};
use weir_crds::{Checkpoint, Savepoint, SavepointPhase, StreamJobSpec};

use crate::names;
use crate::world::Restore;

/// What the spec's restore point comes to. `savepoints`: those of the namespace.
pub fn resolve<'a>(
    job: &str,
    spec: &StreamJobSpec,
    savepoints: impl Iterator<Item = &'a Savepoint>,
    retained: Option<&Result<Retained, String>>,
    foreign: Option<&Checkpoint>,
) -> Restore {
    let found = match spec.restore_from() {
        RestoreOrigin::Latest | RestoreOrigin::Path(_) => return Restore::AsWritten,
        RestoreOrigin::Savepoint(name) => by_name(name, savepoints),
        RestoreOrigin::LatestOf(job) => latest_of(job, savepoints),
        RestoreOrigin::Checkpoint(name) => match names::checkpoint_of(job, name) {
            Some(id) => match retained {
                // Nothing runs that could be asked, or would let go of it.
                None => return Restore::Checkpoint { id },
                Some(Ok(retained)) => match retained.lasts(id) {
                    Ok(()) => return Restore::Checkpoint { id },
                    Err(reason) => return Restore::Missing { reason },
                },
                Some(Err(reason)) => {
                    let reason = format!("what checkpoints there are cannot be asked: {reason}");
                    return Restore::Missing { reason };
                }
            },
            // The job that begins with it makes a copy, and needs nothing of the other's from then on.
            None => match foreign {
                Some(Checkpoint { spec, .. }) => Ok(format!("{}/chk-{}", spec.path.trim_end_matches('/'), spec.id)),
                None => Err(format!(
                    "spec.restore.from.checkpoint: there is no Checkpoint `{name}` in this namespace; the job waits for it"
                )),
            },
        },
    };
    match found {
        Ok(path) => Restore::At { path },
        Err(_) if spec.restore_if_missing() == IfMissing::StartEmpty => Restore::AsWritten,
        Err(reason) => Restore::Missing { reason },
    }
}

/// The checkpoints that a job's storage retains, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    pub ids: Vec<u64>,
    /// Of these, those that stay whatever the retention says.
    pub pinned: Vec<u64>,
    /// Of the version that runs.
    pub count: usize,
}

impl Retained {
    /// Checkpoints that may complete until a job has stopped, the last one among them.
    const UNTIL_STOPPED: usize = 2;

    /// Whether the checkpoint will still be there when the job has stopped.
    fn lasts(&self, id: u64) -> Result<(), String> {
        let field = "spec.restore.from.checkpoint";
        let shown = || self.ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let Some(younger) = self.ids.iter().rev().position(|one| *one == id) else {
            return Err(format!("{field}: checkpoint {id} is not retained; there are {}", shown()));
        };
        match self.pinned.contains(&id) || younger + Self::UNTIL_STOPPED < self.count {
            true => Ok(()),
            false => Err(format!(
                "{field}: until the job has stopped, retention lets go of checkpoint {id}: {} of {} that are kept are \
                 younger. Name a younger one, pin it, or raise checkpoint.retain.count first",
                younger, self.count
            )),
        }
    }
}

fn by_name<'a>(name: &str, mut savepoints: impl Iterator<Item = &'a Savepoint>) -> Result<String, String> {
    let field = "spec.restore.from.savepoint";
    let Some(savepoint) = savepoints.find(|savepoint| savepoint.name_any() == name) else {
        return Err(format!("{field}: there is no Savepoint `{name}` in this namespace; the job waits for it"));
    };
    let status = savepoint.status.clone().unwrap_or_default();
    match (status.phase, status.path) {
        (Some(SavepointPhase::Completed), Some(path)) => Ok(path),
        (Some(SavepointPhase::Failed), _) => Err(format!(
            "{field}: the savepoint `{name}` failed: {}; name another one",
            status.message.unwrap_or_default()
        )),
        _ => Err(format!("{field}: the savepoint `{name}` is not complete yet; the job waits for it")),
    }
}

fn latest_of<'a>(job: &str, savepoints: impl Iterator<Item = &'a Savepoint>) -> Result<String, String> {
    let complete = savepoints.filter(|savepoint| savepoint.spec.job == job).filter_map(|savepoint| {
        let status = savepoint.status.as_ref().filter(|status| status.phase == Some(SavepointPhase::Completed))?;
        let completed_at = status.completed_at.as_ref().map(|time| time.0);
        Some((completed_at, savepoint.name_any(), status.path.clone()?))
    });
    let latest = complete.max().map(|(_, _, path)| path);
    latest.ok_or_else(|| {
        format!("spec.restore.from.latest.of: no Savepoint of the job `{job}` is complete; the job waits for one")
    })
}

/// The spec as the coordinator gets it: with an address where the user wrote a name. Later starts go on from the job's
/// own checkpoints, and do not ask.
pub fn resolved(spec: &StreamJobSpec, restore: &Restore) -> StreamJobSpec {
    let from = match restore {
        Restore::At { path } => RestoreFrom { path: Some(path.clone()), ..RestoreFrom::default() },
        Restore::AsWritten | Restore::Checkpoint { .. } | Restore::Missing { .. } => match spec.restore_from() {
            RestoreOrigin::Path(_) | RestoreOrigin::Latest => return spec.clone(),
            _ => RestoreFrom { latest: Some(LatestOf::default()), ..RestoreFrom::default() },
        },
    };
    // When to go back is said by the coordinator's arguments: with `latest` a nonce would be a mistake.
    let policy = RestorePolicy { from: Some(from), nonce: None, ..spec.restore.clone().unwrap_or_default() };
    StreamJobSpec { restore: Some(policy), ..spec.clone() }
}

#[cfg(test)]
mod tests {
    use weir_crds::{SavepointSpec, SavepointStatus};

    use super::*;

    fn savepoint(name: &str, job: &str, phase: SavepointPhase, second: i64) -> Savepoint {
        let spec = SavepointSpec { job: job.to_owned(), trigger: None, path: None, on_delete: None };
        let completed_at = k8s_openapi::jiff::Timestamp::from_second(second).unwrap();
        let status = SavepointStatus {
            phase: Some(phase),
            path: (phase == SavepointPhase::Completed).then(|| format!("s3://b/{name}")),
            message: (phase == SavepointPhase::Failed).then(|| "S3 refuses".to_owned()),
            completed_at: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(completed_at)),
            ..SavepointStatus::default()
        };
        Savepoint { status: Some(status), ..Savepoint::new(name, spec) }
    }

    #[test]
    fn names_become_addresses() {
        use SavepointPhase::{Completed, Failed, InProgress};
        let all = [
            savepoint("old", "orders", Completed, 1),
            savepoint("new", "orders", Completed, 2),
            savepoint("newer", "orders", InProgress, 3),
            savepoint("bad", "orders", Failed, 4),
            savepoint("other", "flights", Completed, 5),
        ];
        let rows = [
            ("{latest: {}}", "AsWritten"),
            ("{path: s3://x/y}", "AsWritten"),
            ("{savepoint: old}", "At s3://b/old"),
            ("{savepoint: other}", "At s3://b/other"),
            ("{latest: {of: orders}}", "At s3://b/new"),
            ("{savepoint: newer}", "the savepoint `newer` is not complete yet"),
            ("{savepoint: bad}", "failed: S3 refuses"),
            ("{savepoint: none}", "there is no Savepoint `none`"),
            ("{latest: {of: none}}", "no Savepoint of the job `none` is complete"),
            ("{checkpoint: orders-00000001}", "checkpoint 1 is not retained; there are 2, 4, 5, 6, 7, 8"),
            ("{checkpoint: orders-00000004}", "retention lets go of checkpoint 4: 4 of 5 that are kept are younger"),
            ("{checkpoint: orders-00000005}", "retention lets go of checkpoint 5"),
            ("{checkpoint: orders-00000006}", "Checkpoint 6"),
            ("{checkpoint: orders-00000008}", "Checkpoint 8"),
            ("{checkpoint: orders-00000002}", "Checkpoint 2"),
            ("{checkpoint: flights-00000008}", "At s3://b/weir/shop.flights/chk-8"),
            ("{checkpoint: flights-00000009}", "no Checkpoint `flights-00000009` in this namespace"),
        ];
        let retained = Ok(Retained { ids: [2].into_iter().chain(4..=8).collect(), pinned: vec![2], count: 5 });
        let flights: Checkpoint = serde_json::from_value(serde_json::json!({
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "Checkpoint",
            "metadata": {"name": "flights-00000008"},
            "spec": {"job": "flights", "jobUid": "u", "id": 8, "kind": "Aligned", "path": "s3://b/weir/shop.flights"},
        }))
        .unwrap();
        for (from, expected) in rows {
            let text = format!("{{pipeline: {{sources: [], sinks: []}}, restore: {{from: {from}, nonce: 1}}}}");
            let spec: StreamJobSpec = serde_yaml::from_str(&text).unwrap();
            let foreign = Some(&flights).filter(|_| from.contains("flights-00000008"));
            let found = resolve("orders", &spec, all.iter(), Some(&retained), foreign);
            let said = match &found {
                Restore::AsWritten => "AsWritten".to_owned(),
                Restore::At { path } => format!("At {path}"),
                Restore::Checkpoint { id } => format!("Checkpoint {id}"),
                Restore::Missing { reason } => reason.clone(),
            };
            assert!(said.contains(expected), "{from}: {said}");
            let given = resolved(&spec, &found);
            let is_understood = matches!(given.restore_from(), RestoreOrigin::Latest | RestoreOrigin::Path(_));
            assert!(is_understood, "{from}: a coordinator knows no names");
            let is_latest = given.restore_from() == RestoreOrigin::Latest && from != "{latest: {}}";
            let nonce = given.restore.and_then(|restore| restore.nonce);
            assert!(!is_latest || nonce.is_none(), "{from}: the coordinator would refuse it");
        }
    }
}
