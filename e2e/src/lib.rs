//! A real cluster, as a user has it: through kubectl, which KUBECONFIG points at it. `cargo xtask e2e` brings the
//! cluster, the operator and the variables; without them the tests say that they are skipped.

pub mod matrix;
pub mod operator;
pub mod processes;
pub mod second_node;
pub mod store;
pub mod trial;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_crds::StreamJob;
use weir_crds::conditions::{ConditionType, find_condition};

/// Set by `cargo xtask e2e`: the tests are meant to run.
const ENABLED: &str = "WEIR_E2E";
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Set with it where the cluster is that of `cargo xtask cluster`: the script that starts and stops its parts.
const SCRIPT: &str = "WEIR_E2E_CLUSTER";

/// A namespace of its own on the cluster, removed at the end.
pub struct Namespace {
    name: String,
}

/// What stops and starts the cluster's parts.
pub type ClusterScript = Box<dyn Fn(&[&str])>;

/// `None`: the cluster is not ours to stop, which has been said.
pub fn cluster_script(test: &str) -> Option<ClusterScript> {
    let Some(script) = std::env::var_os(SCRIPT) else {
        eprintln!("{test}: skipped; it takes a cluster on this machine (`cargo xtask e2e` without KUBECONFIG)");
        return None;
    };
    Some(Box::new(move |arguments: &[&str]| {
        let done = Command::new(&script).args(arguments).stdout(Stdio::null()).status();
        assert!(done.as_ref().is_ok_and(|status| status.success()), "cluster {}: {done:?}", arguments.join(" "));
    }))
}

impl Namespace {
    /// `None`: there is no cluster to test on, which has been said.
    pub fn create(test: &str) -> Option<Namespace> {
        if std::env::var_os(ENABLED).is_none() {
            eprintln!("{test}: skipped; `cargo xtask e2e` runs it on a cluster");
            return None;
        }
        let namespace = Namespace { name: format!("e2e-{test}-{}", std::process::id()) };
        namespace.make_again();
        Some(namespace)
    }

    /// After [`Namespace::delete_within`].
    pub fn make_again(&self) {
        let enforced = "pod-security.kubernetes.io/enforce=restricted";
        kubectl(&["create", "namespace", &self.name], None).expect("a namespace can be made");
        kubectl(&["label", "namespace", &self.name, enforced], None).expect("it can be labelled");
        // A volume that was kept belongs to the claim that is gone until somebody says otherwise.
        let released = r#"[{"op": "remove", "path": "/spec/claimRef"}]"#;
        let _ = kubectl(&["patch", "pv", &self.name, "--type=json", "-p", released], None);
    }

    /// With all that is in it. One that is still there by then hangs.
    pub fn delete_within(&self, bound: Duration) {
        let started = Instant::now();
        let timeout = format!("--timeout={}s", bound.as_secs());
        if let Err(why) = kubectl(&["delete", "namespace", &self.name, &timeout], None) {
            self.explain();
            panic!("the namespace {} is not gone within {bound:?}: {why}", self.name);
        }
        eprintln!("the namespace is gone after {:?}", started.elapsed());
    }

    /// A claim whose volume outlives the namespace: it is found again by its name.
    pub fn kept_claim(&self) -> String {
        let name = &self.name;
        format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}, labels: {{weir-e2e: kept}}}}\nspec:\n  \
             capacity: {{storage: 1Gi}}\n  accessModes: [ReadWriteMany]\n  storageClassName: \"\"\n  \
             hostPath: {{path: /tmp/hostpath_pv/{name}, type: DirectoryOrCreate}}\n---\n\
             apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: state}}\nspec:\n  \
             accessModes: [ReadWriteMany]\n  storageClassName: \"\"\n  volumeName: {name}\n  \
             resources: {{requests: {{storage: 1Gi}}}}\n"
        )
    }

    /// As a drain does it: what a budget holds back is refused.
    pub fn evict(&self, pod: &str) -> Result<String, String> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", self.name);
        let eviction = format!(
            r#"{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{pod}", "namespace": "{}"}}}}"#,
            self.name
        );
        kubectl(&["create", "--raw", &path, "-f", "-"], Some(&eviction))
    }

    /// The folder of a pod's scratch files, where this machine is the node.
    pub fn scratch_of(&self, pod: &str) -> Option<PathBuf> {
        let pod = self.get("pod", pod)?;
        let cluster = PathBuf::from(std::env::var_os("CLUSTER_DIR")?);
        let volumes = cluster.join("kubelet/pods").join(pod["metadata"]["uid"].as_str()?).join("volumes");
        Some(volumes.join("kubernetes.io~empty-dir/scratch")).filter(|folder| folder.is_dir())
    }

    /// `kubectl weir`.
    pub fn weir(&self, arguments: &[&str]) -> Result<String, String> {
        kubectl(&[&["weir", "-n", &self.name], arguments].concat(), None)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kubectl says, or its error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        kubectl(&[&["-n", &self.name], arguments].concat(), None)
    }

    pub fn apply(&self, yaml: &str) -> Result<String, String> {
        kubectl(&["-n", &self.name, "apply", "-f", "-"], Some(yaml))
    }

    pub fn job(&self, name: &str) -> Option<StreamJob> {
        let text = self.kubectl(&["get", "streamjob", name, "-o", "json"]).ok()?;
        serde_json::from_str(&text).ok()
    }

    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let text = self.kubectl(&["get", kind, name, "-o", "json"]).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Waits until the job's condition has the status.
    pub fn await_condition(&self, job: &str, condition: ConditionType, status: &str, within: Duration) -> StreamJob {
        self.await_job(job, &format!("{} = {status}", condition.name()), within, |job| {
            let conditions = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let observed = job.status.as_ref().and_then(|status| status.observed_generation);
            observed == job.metadata.generation
                && find_condition(conditions, condition).is_some_and(|found| found.status == status)
        })
    }

    /// Waits until the job is as wanted. The bound is there for a job that never will be.
    pub fn await_job(
        &self,
        name: &str,
        what: &str,
        within: Duration,
        is_wanted: impl Fn(&StreamJob) -> bool,
    ) -> StreamJob {
        let started = Instant::now();
        loop {
            let job = self.job(name);
            if let Some(job) = job.as_ref().filter(|job| is_wanted(job)) {
                eprintln!("{name}: {what} after {:?}", started.elapsed());
                return job.clone();
            }
            if started.elapsed() > within {
                self.explain();
                panic!("{name}: not `{what}` within {within:?}; its status: {:#?}", job.and_then(|job| job.status));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    pub fn await_true(&self, what: &str, within: Duration, is_true: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_true() {
            if started.elapsed() > within {
                self.explain();
                panic!("not `{what}` within {within:?}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        eprintln!("{what} after {:?}", started.elapsed());
    }

    /// What a person would look at next.
    fn explain(&self) {
        for arguments in [
            &["get", "pods,streamjobs,checkpoints", "-o", "wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "--prefix", "--tail=30", "-l", "weir.dev/component", "--all-containers"],
        ] {
            match self.kubectl(arguments) {
                Ok(text) | Err(text) => eprintln!("--- kubectl {}\n{text}", arguments.join(" ")),
            }
        }
    }

    /// The folder of a claim's volume, where this machine is the node.
    pub fn folder_of_claim(&self, claim: &str) -> Option<PathBuf> {
        let claim = self.get("pvc", claim)?;
        let volume = claim["spec"]["volumeName"].as_str()?;
        let volume: Value = serde_json::from_str(&kubectl(&["get", "pv", volume, "-o", "json"], None).ok()?).ok()?;
        Some(PathBuf::from(volume["spec"]["hostPath"]["path"].as_str()?)).filter(|folder| folder.is_dir())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("WEIR_E2E_KEEP").is_some() {
            eprintln!("the namespace {} is kept", self.name);
            return;
        }
        // That it goes is a test of its own; here it takes its time.
        let _ = kubectl(&["delete", "namespace", &self.name, "--wait=false"], None);
        let kept = kubectl(&["get", "pv", &self.name, "-o", "jsonpath={.spec.hostPath.path}"], None);
        if let Ok(folder) = kept {
            let _ = kubectl(&["delete", "pv", &self.name, "--wait=false"], None);
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn kubectl(arguments: &[&str], input: Option<&str>) -> Result<String, String> {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("kubectl: {error}"))?;
    if let (Some(text), Some(stdin)) = (input, child.stdin.as_mut()) {
        stdin.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    }
    drop(child.stdin.take());
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}
