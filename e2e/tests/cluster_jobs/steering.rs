//! What people, and an autoscaler, do with a job that runs: `kubectl weir`, approvals, HorizontalPodAutoscaler.

use std::time::Duration;

use weir_crds::conditions::{ConditionType, find_condition};
use weir_crds::streamjob::UpgradeResult;
use weir_e2e::trial::{Trial, completed};

const LONG: Duration = Duration::from_secs(180);
/// It needs no metrics to reach its lower bound.
const AUTOSCALER: &str = r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: numbers}
spec:
  scaleTargetRef: {apiVersion: weir.dev/v1alpha1, kind: StreamJob, name: numbers}
  minReplicas: 3
  maxReplicas: 4
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
"#;

#[test]
fn a_job_is_steered() {
    let Some(trial) = Trial::start("steered", 5) else { return };
    let weir = |arguments: &[&str]| {
        let said = trial.cluster.weir(arguments).unwrap_or_else(|why| panic!("kubectl weir {arguments:?}: {why}"));
        eprintln!("$ kubectl weir {}\n{said}", arguments.join(" "));
        said
    };
    let run = || trial.job().status.and_then(|status| status.run).map(|run| run.number);
    trial.is_ready();

    // A change of the query waits for somebody, and the job goes on meanwhile; an autoscaler waits for nobody.
    trial.change("upgrade: {", "upgrade: {approval: Manual, ");
    let before = run();
    trial.change("id % 50 AS remainder", "id % 50 + 0 AS remainder");
    let changed = std::env::temp_dir().join(format!("{}.yaml", trial.cluster.name()));
    std::fs::write(&changed, trial.text()).unwrap();
    let plan = weir(&["plan", "-f", &changed.to_string_lossy()]);
    let named: Vec<&str> = plan.lines().filter_map(|line| line.trim().strip_prefix("changes ")).collect();
    assert_eq!(named, ["spec.pipeline.transforms[0].sql", "spec.upgrade.approval"], "since the job was started");
    std::fs::remove_file(&changed).unwrap();
    trial.cluster.await_job(&trial.name, "it waits for an approval", LONG, |job| {
        let conditions = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        find_condition(conditions, ConditionType::Progressing).is_some_and(|found| found.reason == "AwaitingApproval")
    });
    trial.goes_on("while it waits", LONG);
    assert_eq!(run(), before, "nothing was begun");
    weir(&["approve", &trial.name]);
    trial.has_upgraded(LONG);
    assert!(run() > before, "and then it was");

    trial.cluster.apply(AUTOSCALER).unwrap();
    trial.has_rescaled(3, LONG);
    trial.cluster.kubectl(&["delete", "hpa", "numbers"]).unwrap();
    weir(&["rescale", &trial.name, "2"]);
    trial.has_rescaled(2, LONG);

    // What they look at.
    trial.is_ready();
    assert!(weir(&["status", &trial.name]).contains("Running"));
    assert!(weir(&["top", &trial.name]).contains("counted"), "each step has a line");
    let id = completed(&trial.job()).unwrap();
    assert!(weir(&["checkpoints", &trial.name]).contains(&id.to_string()), "the latest is listed");
    assert!(weir(&["savepoint", &trial.name, "--name", "by-hand"]).contains("file:///state/"), "it says where");
    let report = std::env::temp_dir().join(format!("{}.txt", trial.cluster.name()));
    weir(&["report", &trial.name, "-o", &report.to_string_lossy()]);
    let written = std::fs::read_to_string(&report).unwrap();
    assert!(written.contains("StreamJob") && written.contains("coordinator"), "{written}");
    std::fs::remove_file(&report).unwrap();

    // What they do.
    weir(&["suspend", &trial.name]);
    trial.cluster.await_condition(&trial.name, ConditionType::Suspended, "True", LONG);
    weir(&["resume", &trial.name]);
    trial.is_ready();
    let coordinator = || trial.cluster.get("pod", &trial.pod("coordinator")).map(|pod| pod["metadata"]["uid"].clone());
    let before = coordinator();
    weir(&["restart", &trial.name]);
    trial.cluster.await_true("another coordinator", LONG, || coordinator().is_some_and(|uid| Some(uid) != before));
    trial.goes_on("once restarted", LONG);
    let upgrades = trial.job().status.unwrap_or_default().upgrades;
    assert!(upgrades.iter().all(|upgrade| upgrade.result != UpgradeResult::RolledBack), "{upgrades:?}");
    trial.ends_exactly();
}
