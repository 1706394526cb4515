//! Pods that were told to go. A node confirms that a pod is gone; one that is lost never will, and until somebody takes the
//! pod off the API server, a StatefulSet puts no other in its place and the coordinator's name stays taken.
//!
//! Kubernetes leaves that to people, since what runs there may write on. Of a job nothing that still runs can commit: its
//! coordinator is fenced by the commit log as soon as another one opens it, and workers by their coordinator.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::world::Leaving;

pub const READY: &str = "Ready";
/// Why a pod has to go, where it was not its owner who said so.
pub const DISRUPTED: &str = "DisruptionTarget";
/// Its node was tainted: by the control plane as it went silent, or by a person.
const BY_TAINT: &str = "DeletionByTaintManager";

/// A kubelet that lives kills what outlasts its grace period, and says so, within a few seconds.
const CONFIRMATION: Duration = Duration::from_secs(30);
/// After an eviction from a node that had gone silent before: time for one that comes back just then.
const SILENCE: Duration = Duration::from_secs(5);

pub fn of<'a>(pods: impl Iterator<Item = &'a Pod>, now: Timestamp) -> Leaving {
    let leaving: Vec<&Pod> = pods.filter(|pod| pod.metadata.deletion_timestamp.is_some()).collect();
    Leaving {
        pods: u32::try_from(leaving.len()).unwrap_or(u32::MAX),
        lost: leaving.into_iter().filter(|pod| is_lost(pod, now)).map(|pod| pod.name_any()).collect(),
    }
}

fn is_lost(pod: &Pod, now: Timestamp) -> bool {
    // Of a pod that is given time to end, its end.
    let Some(end) = &pod.metadata.deletion_timestamp else { return false };
    let is_over = |since: Timestamp, bound: Duration| since.checked_add(bound).is_ok_and(|end| now >= end);
    is_over(end.0, CONFIRMATION) || evicted_from_silence(pod).is_some_and(|since| is_over(since, SILENCE))
}

/// Since when, of a pod that its node's taint drove out. When a node goes silent, the control plane says of its pods that
/// they are not ready, as nobody else can; one that a person has tainted goes on with its pods, and ends them.
fn evicted_from_silence(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let since = |condition: &PodCondition| Some(condition.last_transition_time.as_ref()?.0);
    let evicted =
        find(DISRUPTED).filter(|found| found.status == "True" && found.reason.as_deref() == Some(BY_TAINT))?;
    let silent = find(READY).filter(|found| found.status == "False")?;
    let evicted_at = since(evicted)?;
    (since(silent)? < evicted_at).then_some(evicted_at)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kept::Kept;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str, since: i64) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "lastTransitionTime": at(since).to_string()})
    }

    #[test]
    fn a_pod_is_lost_when_nobody_will_say_that_it_is_gone() {
        let silent = |since| condition("Ready", "False", "", since);
        let evicted = |reason| condition("DisruptionTarget", "True", reason, 100);
        let none = || json!([]);
        let rows = [
            ("it was not told to go", None, none(), false),
            ("it may still end", Some(200), none(), false),
            ("its time is over, just so", Some(76), none(), false),
            ("nobody confirms it", Some(75), none(), true),
            ("evicted, its node silent before", Some(700), json!([silent(70), evicted(BY_TAINT)]), true),
            ("evicted while it was ready", Some(700), json!([silent(101), evicted(BY_TAINT)]), false),
            ("drained", Some(700), json!([silent(70), evicted("EvictionByEvictionAPI")]), false),
            ("ready", Some(700), json!([condition("Ready", "True", "", 10), evicted(BY_TAINT)]), false),
        ];
        for (what, end, conditions, expected) in rows {
            let deletion = end.map(|end: i64| at(end).to_string());
            let pod = json!({
                "metadata": {"name": "p", "deletionTimestamp": deletion},
                "status": {"conditions": conditions},
            });
            let mut pod: Pod = serde_json::from_value(pod).unwrap();
            pod.keep_what_is_read();
            let lost = of([&pod].into_iter(), at(105)).lost;
            assert_eq!(!lost.is_empty(), expected, "{what}");
        }
        let pod = json!({
            "metadata": {"name": "p", "deletionTimestamp": at(700).to_string()},
            "status": {"conditions": [silent(70), evicted(BY_TAINT)]},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(of([&pod].into_iter(), at(104)), Leaving { pods: 1, lost: vec![] }, "it may come back just then");
    }
}
