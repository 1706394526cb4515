//! Whether a restore point is one of this job.

use super::DeployError;
use crate::job::Job;
use crate::restore::OperatorRestore;
use std::collections::BTreeMap;
use weir_model::OperatorUid;

/// Whether the restore point is one of this job, as far as that can be said before its states are read.
pub(crate) fn check_fit(
    job: &Job,
    max_parallelism: u32,
    operators: &BTreeMap<OperatorUid, OperatorRestore>,
) -> Result<(), DeployError> {
    refuse_other_max_parallelism(job, max_parallelism)?;
    refuse_unmatched(job, operators)
}

/// Key groups are what state is divided by: with another number of them, keys belong elsewhere.
fn refuse_other_max_parallelism(job: &Job, was: u32) -> Result<(), DeployError> {
    let is = job.graph.max_parallelism;
    if was == is {
        return Ok(());
    }
    Err(DeployError::fatal(format!(
        "the restore point was taken with maxParallelism {was}, and the job has {is}: state cannot be divided anew. Set \
         `maxParallelism: {was}`, or start empty with `--from none`"
    )))
}

/// State that no operator of this job would take is refused: it would be lost with the next checkpoint.
fn refuse_unmatched(job: &Job, operators: &BTreeMap<OperatorUid, OperatorRestore>) -> Result<(), DeployError> {
    if job.resource.spec.allow_non_restored_state() {
        return Ok(());
    }
    let has_state = |restored: &OperatorRestore| {
        let has_keyed = !restored.keyed.is_empty() || restored.saved.is_some();
        has_keyed || !restored.in_flight.is_empty() || !restored.splits.is_empty() || !restored.committables.is_empty()
    };
    let known = |uid: &OperatorUid| job.graph.nodes.iter().any(|node| node.uid == *uid);
    let unmatched = operators.iter().filter(|(uid, restored)| has_state(restored) && !known(uid));
    let names: Vec<String> = unmatched.map(|(uid, _)| format!("`{uid}`")).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(DeployError::fatal(format!(
        "the restore point holds state of {}, which this job doesn't have: was a step renamed or removed? Give it its \
         old name, or set `upgrade.allowNonRestoredState: true` to let that state go",
        names.join(", ")
    )))
}
