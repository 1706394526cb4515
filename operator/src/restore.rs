//! From the names in `spec.restore` to the savepoint that a job begins with. Pure.

use kube::ResourceExt;
use weir_crds::streamjob::{IfMissing, LatestOf, RestoreFrom, RestoreOrigin, RestorePolicy};
use weir_crds::{Savepoint, SavepointPhase, StreamJobSpec};

use crate::world::Restore;

/// What the spec's restore point comes to. `savepoints`: those of the namespace.
pub fn resolve<'a>(spec: &StreamJobSpec, savepoints: impl Iterator<Item = &'a Savepoint>) -> Restore {
    let found = match spec.restore_from() {
        RestoreOrigin::Latest | RestoreOrigin::Path(_) => return Restore::AsWritten,
        RestoreOrigin::Savepoint(name) => by_name(name, savepoints),
        RestoreOrigin::LatestOf(job) => latest_of(job, savepoints),
        RestoreOrigin::Checkpoint(name) => Err(format!(
            "spec.restore.from.checkpoint: `{name}` can be gone on with by the job of that name alone, which does so \
             without being told; take a savepoint of that job, and name it in spec.restore.from.savepoint"
        )),
    };
    match found {
        Ok(path) => Restore::At { path },
        Err(_) if spec.restore_if_missing() == IfMissing::StartEmpty => Restore::AsWritten,
        Err(reason) => Restore::Missing { reason },
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
        Restore::AsWritten | Restore::Missing { .. } => match spec.restore_from() {
            RestoreOrigin::Path(_) | RestoreOrigin::Latest => return spec.clone(),
            _ => RestoreFrom { latest: Some(LatestOf::default()), ..RestoreFrom::default() },
        },
    };
    let policy = RestorePolicy { from: Some(from), ..spec.restore.clone().unwrap_or_default() };
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
            ("{checkpoint: orders-00000001}", "take a savepoint of that job"),
        ];
        for (from, expected) in rows {
            let text = format!("{{pipeline: {{sources: [], sinks: []}}, restore: {{from: {from}}}}}");
            let spec: StreamJobSpec = serde_yaml::from_str(&text).unwrap();
            let found = resolve(&spec, all.iter());
            let said = match &found {
                Restore::AsWritten => "AsWritten".to_owned(),
                Restore::At { path } => format!("At {path}"),
                Restore::Missing { reason } => reason.clone(),
            };
            assert!(said.contains(expected), "{from}: {said}");
            let given = resolved(&spec, &found);
            let is_understood = matches!(given.restore_from(), RestoreOrigin::Latest | RestoreOrigin::Path(_));
            assert!(is_understood, "{from}: a coordinator knows no names");
        }
    }
}
