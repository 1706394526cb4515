//! What a spec is made into.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use weir_crds::StreamJob;
use weir_crds::streamjob::{Beginning, BeginningFrom, RunStatus};
use weir_operator::build::{ObjectKind, Parts, spec_map, token_of};
use weir_operator::outcome::Outcome;
use weir_operator::spec_hash::SpecHashes;
use weir_operator::{Settings, names};

fn job(changes: Value) -> StreamJob {
    let mut job = json!({
        "apiVersion": "weir.dev/v1alpha1",
        "kind": "StreamJob",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1", "generation": 3},
        "spec": {
            "parallelism": 5,
            "pipeline": {
                "sources": [{"name": "in", "nexmark": {"table": "Bid"}}],
                "sinks": [{"name": "out", "from": "in", "blackhole": {}}],
            },
            "checkpoint": {"storage": {"uri": "s3://b/p", "credentials": {"secretRef": {"name": "s3-keys"}}}},
            "pods": {"workers": {"slots": 2}},
        },
    });
    merge(&mut job, changes);
    serde_json::from_value(job).expect("a StreamJob")
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(fields.entry(key).or_insert(Value::Null), change);
            }
        }
        (into, change) => *into = change,
    }
}

fn settings() -> Settings {
    Settings {
        image: "weir:1".to_owned(),
        image_pull_policy: None,
        namespace: None,
        poll_interval: Duration::from_secs(5),
        status_interval: Duration::from_secs(10),
        open_metrics: false,
        concurrency: 1,
        certificate_lifetime: Duration::from_secs(14 * 24 * 3600),
        token_key: vec![7; 32],
    }
}

fn run() -> RunStatus {
    RunStatus {
        restore_nonce: None,
        beginning: None,
        number: 4,
        generation: 3,
        hash: String::new(),
        rescale_hash: String::new(),
        storage_id: "shop.orders".to_owned(),
        since: Time(Timestamp::UNIX_EPOCH),
        verified: false,
        stopped: false,
        fallback: None,
    }
}

fn with<T>(job: &StreamJob, use_parts: impl FnOnce(&Parts<'_>) -> T) -> T {
    let (settings, run) = (settings(), run());
    use_parts(&Parts { job, spec: &job.spec, run: &run, settings: &settings })
}

#[test]
fn the_coordinator_is_a_pod_of_its_run() {
    let pod = with(&job(json!({})), |parts| parts.coordinator().unwrap());
    assert_eq!(pod["metadata"]["name"], "orders-coordinator");
    assert_eq!(pod["metadata"]["annotations"][names::RUN_ANNOTATION], "4");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(pod["spec"]["restartPolicy"], "OnFailure");
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["image"], "weir:1");
    let arguments: Vec<&str> = container["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(arguments.windows(2).any(|pair| pair == ["--workers", "3"]), "5 subtasks, 2 slots: {arguments:?}");
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    let mounts = container["volumeMounts"].to_string();
    assert!(mounts.contains("/etc/weir/secrets/s3-keys"), "{mounts}");
    let volumes = pod["spec"]["volumes"].to_string();
    for volume in ["orders-spec-3", "orders-weir-token", "orders-weir-tls"] {
        assert!(volumes.contains(volume), "{volume}: {volumes}");
    }
    assert!(arguments.contains(&"--tls-dir") && !arguments.contains(&"--insecure"), "{arguments:?}");
}

#[test]
fn a_run_that_begins_elsewhere_says_so_once() {
    let arguments = |from, checkpoint| {
        let beginning = Some(Beginning { once: "orders-u1-g3".to_owned(), from, checkpoint });
        let (job, settings, run) = (job(json!({})), settings(), RunStatus { beginning, ..run() });
        let pod = Parts { job: &job, spec: &job.spec, run: &run, settings: &settings }.coordinator().unwrap();
        let all = pod["spec"]["containers"][0]["args"].as_array().cloned().unwrap();
        let all: Vec<String> = all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
        all[all.iter().position(|one| one == "--quiet").unwrap() + 1..].join(" ")
    };
    assert_eq!(arguments(BeginningFrom::Nothing, None), "--from=none --once=orders-u1-g3");
    assert_eq!(arguments(BeginningFrom::Checkpoint, Some(12)), "--from=12 --once=orders-u1-g3");
    assert_eq!(arguments(BeginningFrom::Spec, None), "--once=orders-u1-g3");
}

#[test]
fn pods_leave_a_silent_node_unless_the_template_says_otherwise() {
    let tolerations = |changes: Value| {
        let pod = with(&job(changes), |parts| parts.coordinator().unwrap());
        let all = pod["spec"]["tolerations"].as_array().cloned().unwrap();
        all.iter().map(|one| format!("{} {}", one["key"].as_str().unwrap_or("all"), one["tolerationSeconds"])).collect()
    };
    let template = |toleration: Value| json!({"spec": {"pods": {"template": {"spec": {"tolerations": [toleration]}}}}});
    let rows: [(Value, &[&str]); 4] = [
        (json!({}), &["node.kubernetes.io/not-ready 30", "node.kubernetes.io/unreachable 30"]),
        (
            template(json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 600})),
            &["node.kubernetes.io/not-ready 600", "node.kubernetes.io/unreachable 30"],
        ),
        (
            template(json!({"key": "spot", "operator": "Exists", "effect": "NoSchedule"})),
            &["spot null", "node.kubernetes.io/not-ready 30", "node.kubernetes.io/unreachable 30"],
        ),
        (template(json!({"operator": "Exists"})), &["all null"]),
    ];
    for (changes, expected) in rows {
        let found: Vec<String> = tolerations(changes);
        assert_eq!(found, expected);
    }
}

#[test]
fn templates_are_merged_by_name() {
    let template = json!({"spec": {
        "containers": [{"name": "weir", "env": [{"name": "AWS_REGION", "value": "x"}]}],
        "serviceAccountName": "writer",
    }});
    let own = json!({"metadata": {"labels": {"team": "a"}}});
    let changes =
        json!({"spec": {"image": "mine:2", "pods": {"template": template, "coordinator": {"template": own}}}});
    let pod = with(&job(changes), |parts| parts.coordinator().unwrap());
    let containers = pod["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    assert_eq!(containers[0]["image"], "mine:2");
    let variables = containers[0]["env"].to_string();
    assert!(variables.contains("AWS_REGION") && variables.contains("WEIR_SECRETS_DIR"), "{variables}");
    assert_eq!(pod["spec"]["serviceAccountName"], "writer");
    assert_eq!(pod["metadata"]["labels"]["team"], "a");
    assert_eq!(pod["metadata"]["labels"][names::JOB_LABEL], "orders");
}

#[test]
fn a_template_of_another_shape_is_named() {
    let wrong = job(json!({"spec": {"pods": {"workers": {"template": {"spec": {"containers": "weir"}}}}}}));
    let problem = weir_operator::build::template_problems(&wrong.spec).unwrap();
    assert!(problem.starts_with("spec.pods.workers.template: not a piece of a PodTemplateSpec"), "{problem}");
}

#[test]
fn workers_keep_a_disk_where_a_class_is_named() {
    let set = |changes| {
        with(&job(changes), |parts| {
            let objects = parts.objects(3).unwrap();
            objects.into_iter().find(|object| object.kind == ObjectKind::StatefulSet).unwrap().value
        })
    };
    let without = set(json!({}));
    assert_eq!(without["spec"]["replicas"], 3);
    assert!(without["spec"].get("volumeClaimTemplates").is_none());
    let disk = json!({"spec": {"pods": {"workers": {"localStorage": {"size": "20Gi", "storageClassName": "fast"}}}}});
    let with_disk = set(disk);
    assert_eq!(with_disk["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"], "fast");
    let made_from = |set: &Value| set["metadata"]["annotations"][names::MADE_FROM_ANNOTATION].clone();
    assert_ne!(made_from(&without), made_from(&with_disk));
    assert_eq!(made_from(&without), with(&job(json!({})), |parts| parts.made_from().unwrap()), "whatever the number");
}

#[test]
fn the_spec_is_written_as_a_job_file() {
    let map = with(&job(json!({})), |parts| spec_map(parts).unwrap());
    let text = map["data"]["job.yaml"].as_str().unwrap();
    let parsed = weir_crds::text::parse_streamjob(text).unwrap();
    assert_eq!(parsed.job.metadata.uid.as_deref(), Some("shop.orders"));
    assert_eq!(parsed.job.spec, job(json!({})).spec);
}

#[test]
fn what_needs_no_restart_has_the_same_hash() {
    let of = |changes: Value| SpecHashes::of(&job(json!({"spec": changes})).spec);
    let base = of(json!({}));
    for same in [
        json!({"upgrade": {"approval": "Manual"}}),
        json!({"state": "Suspended"}),
        json!({"checkpoint": {"onDelete": "Delete"}}),
        json!({"savepoints": {"schedule": "0 3 * * *"}}),
    ] {
        assert_eq!(of(same.clone()), base, "{same}");
    }
    let wider = of(json!({"parallelism": 8}));
    assert_eq!(wider.rescale, base.rescale);
    assert_ne!(wider.run, base.run);
    for other in
        [json!({"image": "x"}), json!({"checkpoint": {"interval": "1s"}}), json!({"pods": {"workers": {"slots": 3}}})]
    {
        assert_ne!(of(other.clone()).rescale, base.rescale, "{other}");
    }
}

#[test]
fn tokens_differ_by_job_and_key() {
    let token = token_of(&[7; 32], "shop", "orders");
    assert_eq!(token.len(), 64);
    assert_eq!(token, token_of(&[7; 32], "shop", "orders"));
    assert_ne!(token, token_of(&[7; 32], "shop", "other"));
    assert_ne!(token, token_of(&[8; 32], "shop", "orders"));
}

#[test]
fn an_outcome_is_the_last_line_that_is_one() {
    let stopped = Outcome::Stopped { savepoint: Some("s3://b/sp".to_owned()) };
    assert_eq!(Outcome::parse(r#"{"outcome":"stopped","savepoint":"s3://b/sp"}"#), Some(stopped));
    assert_eq!(Outcome::parse("some words\n{\"outcome\":\"finished\"}\n"), Some(Outcome::Finished));
    assert_eq!(Outcome::parse("thread panicked"), None);
}
