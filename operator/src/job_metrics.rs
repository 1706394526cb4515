//! What Prometheus reads of all jobs in one place: their resources as the watches hold them, looked at when it asks. So
//! alerts need no job's token, and tell of jobs whose pods are not there at all.

use std::fmt;
use std::sync::{Arc, OnceLock};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use weir_crds::conditions::ConditionStatus;
use weir_crds::streamjob::JobPhase;
use weir_crds::{Savepoint, SavepointPhase, StreamJob};

/// Of the replica that acts; another one has no jobs to show.
#[derive(Clone, Default)]
pub struct JobMetrics {
    stores: Arc<OnceLock<(Store<StreamJob>, Store<Savepoint>)>>,
}

impl JobMetrics {
    pub fn show(&self, jobs: Store<StreamJob>, savepoints: Store<Savepoint>) {
        // Nobody else acts in this process: there is no second pair of stores.
        let _ = self.stores.set((jobs, savepoints));
    }
}

impl fmt::Debug for JobMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("JobMetrics").finish_non_exhaustive()
    }
}

impl Collector for JobMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some((jobs, savepoints)) = self.stores.get() else { return Ok(()) };
        encode(encoder, &jobs.state(), &savepoints.state())
    }
}

fn encode(mut encoder: DescriptorEncoder<'_>, jobs: &[Arc<StreamJob>], savepoints: &[Arc<Savepoint>]) -> fmt::Result {
    for family in FAMILIES {
        let mut samples = encoder.encode_descriptor(family.name, family.help, None, MetricType::Gauge)?;
        for job in jobs {
            let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
            for Sample { label, value } in (family.of)(job) {
                let own = [("namespace", namespace.as_str()), ("streamjob", name.as_str())];
                let label = label.as_ref().map(|(key, value)| (*key, value.as_str()));
                let labels: Vec<_> = own.into_iter().chain(label).collect();
                ConstGauge::new(value).encode(samples.encode_family(&labels)?)?;
            }
        }
    }
    let (name, help) = ("weir_savepoint_failed", "1 for each Savepoint that could not be taken");
    let mut samples = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for savepoint in savepoints {
        let phase = savepoint.status.as_ref().and_then(|status| status.phase);
        if phase != Some(SavepointPhase::Failed) {
            continue;
        }
        let (namespace, name) = (savepoint.namespace().unwrap_or_default(), savepoint.name_any());
        let job = savepoint.spec.job.as_str();
        let labels = [("namespace", namespace.as_str()), ("streamjob", job), ("savepoint", name.as_str())];
        ConstGauge::new(1.0).encode(samples.encode_family(&labels)?)?;
    }
    Ok(())
}

struct Sample {
    label: Option<(&'static str, String)>,
    value: f64,
}

/// One gauge, and what each job has of it.
struct Family {
    name: &'static str,
    help: &'static str,
    of: fn(&StreamJob) -> Vec<Sample>,
}

const FAMILIES: [Family; 6] = [
    Family {
        name: "weir_streamjob_phase",
        help: "1 for the phase that the job is in",
        of: |job| {
            let phase = job.status.as_ref().and_then(|status| status.phase).unwrap_or(JobPhase::Pending);
            vec![Sample { label: Some(("phase", format!("{phase:?}"))), value: 1.0 }]
        },
    },
    Family {
        name: "weir_streamjob_condition",
        help: "1 if the condition is true, 0 if it is not, absent while it is unknown",
        of: |job| {
            let conditions = job.status.iter().flat_map(|status| &status.conditions);
            let known = conditions.filter_map(|condition| {
                let value = match condition.status.as_str() {
                    status if status == ConditionStatus::True.name() => 1.0,
                    status if status == ConditionStatus::False.name() => 0.0,
                    _ => return None,
                };
                Some(Sample { label: Some(("type", condition.type_.clone())), value })
            });
            known.collect()
        },
    },
    Family {
        name: "weir_streamjob_last_checkpoint_timestamp_seconds",
        help: "When the last checkpoint completed, since the Unix epoch",
        of: |job| {
            let checkpoints = job.status.as_ref().and_then(|status| status.checkpoints.as_ref());
            let last = checkpoints.and_then(|checkpoints| checkpoints.last_completed.as_ref());
            plain(last.map(|last| seconds(&last.completed_at)))
        },
    },
    Family {
        name: "weir_streamjob_checkpoint_interval_seconds",
        help: "How often the spec asks for a checkpoint",
        of: |job| plain(job.spec.checkpoint.as_ref().map(|policy| policy.interval().as_secs_f64())),
    },
    Family {
        name: "weir_streamjob_checkpoints_failed_in_a_row",
        help: "Checkpoints given up since the last that completed",
        of: |job| {
            let checkpoints = job.status.as_ref().and_then(|status| status.checkpoints.as_ref());
            plain(checkpoints.map(|checkpoints| f64::from(checkpoints.failed_in_a_row)))
        },
    },
    Family {
        name: "weir_streamjob_restarts",
        help: "Restarts after failures under the coordinator that runs",
        of: |job| {
            let restarts = job.status.as_ref().and_then(|status| status.restarts.as_ref());
            plain(restarts.map(|restarts| restarts.count as f64))
        },
    },
];

fn plain(value: Option<f64>) -> Vec<Sample> {
    value.into_iter().map(|value| Sample { label: None, value }).collect()
}

fn seconds(time: &Time) -> f64 {
    time.0.as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;
    use serde_json::json;

    #[derive(Debug)]
    struct Fixed(Vec<Arc<StreamJob>>, Vec<Arc<Savepoint>>);

    impl Collector for Fixed {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            encode(encoder, &self.0, &self.1)
        }
    }

    fn text(jobs: Vec<StreamJob>, savepoints: Vec<Savepoint>) -> Vec<String> {
        let shared = |all: Vec<StreamJob>| all.into_iter().map(Arc::new).collect();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Fixed(shared(jobs), savepoints.into_iter().map(Arc::new).collect())));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn job(status: serde_json::Value) -> StreamJob {
        let pipeline = json!({"sources": [], "sinks": []});
        serde_json::from_value(json!({
            "apiVersion": "weir.dev/v1alpha1",
            "kind": "StreamJob",
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"pipeline": pipeline, "checkpoint": {"interval": "10s"}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn what_is_known_of_a_job() {
        let condition = |name, status| json!({"type": name, "status": status, "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let running = job(json!({
            "phase": "Running",
            "conditions": [condition("Ready", "True"), condition("Degraded", "False"), condition("CheckpointingHealthy", "Unknown")],
            "checkpoints": {
                "lastCompleted": {"id": 3, "completedAt": "2026-01-01T00:00:01.500000Z", "duration": "40ms", "size": 10, "stateSize": 20},
                "failedInARow": 2,
            },
            "restarts": {"count": 4},
        }));
        let own = r#"namespace="shop",streamjob="orders""#;
        let expected = [
            format!(r#"weir_streamjob_phase{{{own},phase="Running"}} 1.0"#),
            format!(r#"weir_streamjob_condition{{{own},type="Ready"}} 1.0"#),
            format!(r#"weir_streamjob_condition{{{own},type="Degraded"}} 0.0"#),
            format!("weir_streamjob_last_checkpoint_timestamp_seconds{{{own}}} 1767225601.5"),
            format!("weir_streamjob_checkpoint_interval_seconds{{{own}}} 10.0"),
            format!("weir_streamjob_checkpoints_failed_in_a_row{{{own}}} 2.0"),
            format!("weir_streamjob_restarts{{{own}}} 4.0"),
        ];
        assert_eq!(text(vec![running], vec![]), expected);
        let new = text(vec![job(json!({}))], vec![]);
        assert_eq!(new[0], format!(r#"weir_streamjob_phase{{{own},phase="Pending"}} 1.0"#));
        assert_eq!(new.len(), 2, "{new:?}");
    }

    #[test]
    fn savepoints_that_failed() {
        let savepoint = |name: &str, phase: &str| -> Savepoint {
            serde_json::from_value(json!({
                "apiVersion": "weir.dev/v1alpha1",
                "kind": "Savepoint",
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"job": "orders"},
                "status": {"phase": phase},
            }))
            .unwrap()
        };
        let lines = text(vec![], vec![savepoint("a", "Failed"), savepoint("b", "Completed")]);
        assert_eq!(lines, [r#"weir_savepoint_failed{namespace="shop",streamjob="orders",savepoint="a"} 1.0"#]);
    }
}
