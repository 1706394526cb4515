//! A real cluster, as a user has it: through kubectl, which KUBECONFIG points at it. `cargo xtask e2e` brings the
//! cluster, the operator and the variables; without them the tests say that they are skipped.

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

/// A namespace of its own on the cluster, removed at the end.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// `None`: there is no cluster to test on, which has been said.
    pub fn create(test: &str) -> Option<Namespace> {
        if std::env::var_os(ENABLED).is_none() {
            eprintln!("{test}: skipped; `cargo xtask e2e` runs it on a cluster");
            return None;
        }
        let name = format!("e2e-{test}-{}", std::process::id());
        kubectl(&["create", "namespace", &name], None).expect("a namespace can be made");
        kubectl(&["label", "namespace", &name, "pod-security.kubernetes.io/enforce=restricted"], None)
            .expect("it can be labelled");
        Some(Namespace { name })
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
        let _ = kubectl(&["delete", "namespace", &self.name, "--timeout=120s"], None);
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
