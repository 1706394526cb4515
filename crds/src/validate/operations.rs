//! Restarts, upgrades, savepoints, restore, pods.

use std::time::Duration;

use serde_json::Value;

use super::{Findings, human, standing};
use crate::{
    ByteSize,
    cron::Schedule,
    streamjob::{EffectiveRestart, PodPolicy, Resources, RestartStrategy, RestoreOrigin, StreamJobSpec, UpgradeMode},
    suggest::nearest,
};

pub(super) fn check(spec: &StreamJobSpec, findings: &mut Findings) {
    if let Some(strategy) = &spec.restart {
        restart(spec, strategy, findings);
    }
    upgrade(spec, findings);
    savepoints(spec, findings);
    restore(spec, findings);
    if let Some(pods) = &spec.pods {
        self::pods(pods, findings);
    }
}

fn restart(spec: &StreamJobSpec, strategy: &RestartStrategy, findings: &mut Findings) {
    let RestartStrategy { exponential_delay, fixed_delay, failure_rate, none } = strategy;
    let named = standing(&[
        ("exponentialDelay", exponential_delay.is_some()),
        ("fixedDelay", fixed_delay.is_some()),
        ("failureRate", failure_rate.is_some()),
        ("none", none.is_some()),
    ]);
    if named.len() > 1 {
        findings.exactly_one("spec.restart", "restart strategy", &named, &[]);
    }
    let Some(effective) = strategy.effective() else { return };
    match effective {
        EffectiveRestart::ExponentialDelay {
            initial,
            max,
            multiplier,
            jitter,
            reset_after: _,
            max_attempts: _,
            max_same_failures,
        } => {
            let path = "spec.restart.exponentialDelay";
            if initial.is_zero() {
                findings.error(format!("{path}.initial"), "a delay of nothing never grows", "write 1ms or more");
            }
            if max < initial {
                findings.error(
                    format!("{path}.max"),
                    format!("max {} is below initial {}", human(max), human(initial)),
                    "raise it",
                );
            }
            if !(1.0..=100.0).contains(&multiplier) {
                findings.error(
                    format!("{path}.multiplier"),
                    format!("{multiplier} cannot be"),
                    "write a number from 1 to 100",
                );
            }
            if max_same_failures == 0 {
                findings.error(
                    format!("{path}.maxSameFailures"),
                    "0 would never let the job fail once",
                    "write 1 or more",
                );
            }
            if !(0.0..=1.0).contains(&jitter) {
                findings.error(
                    format!("{path}.jitter"),
                    format!("{jitter} is not a part of the delay"),
                    "write a number from 0 to 1",
                );
            }
        }
        EffectiveRestart::FailureRate { interval: Duration::ZERO, .. } => findings.error(
            "spec.restart.failureRate.interval",
            "no failure happens within no time",
            "write the time in which failures are counted",
        ),
        EffectiveRestart::FailureRate { .. } | EffectiveRestart::FixedDelay { .. } | EffectiveRestart::None => {}
    }
    if !spec.checkpointing_enabled() && effective != EffectiveRestart::None {
        findings.warning(
            "spec.restart",
            "without checkpoints a restart begins again: with empty state, and sources from their start",
            "add `checkpoint: {interval: 10s}` to the spec",
        );
    }
}

fn upgrade(spec: &StreamJobSpec, findings: &mut Findings) {
    let Some(upgrade) = &spec.upgrade else { return };
    if let Some(mode @ (UpgradeMode::Savepoint | UpgradeMode::LastCheckpoint)) = upgrade.mode
        && !spec.checkpointing_enabled()
    {
        findings.warning(
            "spec.upgrade.mode",
            format!("{mode:?} keeps state across upgrades, and the job takes no checkpoints"),
            "add `checkpoint` to the spec, or set mode: Stateless",
        );
    }
}

fn savepoints(spec: &StreamJobSpec, findings: &mut Findings) {
    let Some(savepoints) = &spec.savepoints else { return };
    if let Some(schedule) = &savepoints.schedule {
        if let Err(mistake) = Schedule::parse(schedule) {
            findings.error("spec.savepoints.schedule", mistake.reason, mistake.remedy);
        }
        if spec.storage_uri().is_none() {
            findings.warning(
                "spec.savepoints.schedule",
                "savepoints go to the job's storage, and the spec names none",
                "add checkpoint.storage.uri",
            );
        }
    }
    if let Some(zone) = &savepoints.time_zone
        && !zone.chars().all(|c| c.is_ascii_alphanumeric() || "/_+-".contains(c))
    {
        findings.error(
            "spec.savepoints.timeZone",
            format!("`{zone}` is not a time zone"),
            "write a name such as UTC or Europe/Berlin",
        );
    }
}

fn restore(spec: &StreamJobSpec, findings: &mut Findings) {
    let Some(restore) = &spec.restore else { return };
    if restore.nonce.is_some() && matches!(spec.restore_from(), RestoreOrigin::Latest) {
        findings.error(
            "spec.restore.nonce",
            "it says when to go back to `from`, which names nothing that a job could be set back to",
            "name it in `from`: {checkpoint: NAME}, {savepoint: NAME}, {path: URI} or {latest: {of: JOB}}; to only start it \
             again use `kubectl weir restart`",
        );
    }
    let Some(from) = &restore.from else { return };
    let named = standing(&[
        ("latest", from.latest.is_some()),
        ("checkpoint", from.checkpoint.is_some()),
        ("savepoint", from.savepoint.is_some()),
        ("path", from.path.is_some()),
    ]);
    let all = ["latest", "checkpoint", "savepoint", "path"];
    findings.exactly_one("spec.restore.from", "restore point", &named, &all);
}

fn pods(pods: &PodPolicy, findings: &mut Findings) {
    let PodPolicy { coordinator, workers, template } = pods;
    self::template(template.as_ref(), "spec.pods.template", findings);
    if let Some(coordinator) = coordinator {
        self::template(coordinator.template.as_ref(), "spec.pods.coordinator.template", findings);
        resources(coordinator.resources.as_ref(), "spec.pods.coordinator.resources", findings);
    }
    if let Some(workers) = workers {
        self::template(workers.template.as_ref(), "spec.pods.workers.template", findings);
        resources(workers.resources.as_ref(), "spec.pods.workers.resources", findings);
        if workers.slots == Some(0) {
            findings.error("spec.pods.workers.slots", "a worker without slots runs nothing", "write 1 or more");
        }
    }
}

/// The merge itself is the operator's; here only what every patch of a pod template looks like.
fn template(template: Option<&Value>, path: &str, findings: &mut Findings) {
    const FIELDS: [&str; 2] = ["metadata", "spec"];
    let Some(template) = template else { return };
    let Some(fields) = template.as_object() else {
        findings.error(path, "a pod template is a mapping", "write `metadata` and `spec` as in a pod");
        return;
    };
    for (field, value) in fields {
        let path = format!("{path}.{field}");
        if !FIELDS.contains(&field.as_str()) {
            let remedy = match nearest(field, FIELDS) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("put it under `spec`: spec.{field}"),
            };
            findings.error(path, format!("a pod template has no field `{field}`"), remedy);
        } else if !value.is_object() {
            findings.error(path, format!("`{field}` of a pod template is a mapping"), "write its fields below it");
        }
    }
}

fn resources(resources: Option<&Resources>, path: &str, findings: &mut Findings) {
    let Some(resources) = resources else { return };
    for (resource, request) in &resources.requests {
        let limit = resources.limits.get(resource);
        if let (Ok(request), Some(Ok(limit))) =
            (request.0.parse::<ByteSize>(), limit.map(|limit| limit.0.parse::<ByteSize>()))
            && request > limit
        {
            findings.error(
                format!("{path}.requests[{resource}]"),
                format!("requests {request}, which is more than the limit of {limit}"),
                "raise the limit, or lower the request",
            );
        }
    }
}
