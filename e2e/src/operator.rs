//! The operator's own pods, and how they are lost.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kubectl;
use crate::processes::Process;

const NAMESPACE: &str = "weir-system";
const LEASE: &str = "weir-operator";
/// How long another replica may take to lead.
const TAKEOVER: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

fn leader() -> Option<String> {
    let lease = kubectl(&["-n", NAMESPACE, "get", "lease", LEASE, "-o", "json"], None).ok()?;
    let lease: Value = serde_json::from_str(&lease).ok()?;
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
}

/// Waits until somebody leads, and so long, and removes that pod by force, with its process.
pub fn kill_the_leader(after: Duration) {
    let holder = await_some("a replica leads", || {
        let holder = leader()?;
        let pod = kubectl(&["-n", NAMESPACE, "get", "pod", &holder, "-o", "json"], None).ok()?;
        serde_json::from_str::<Value>(&pod).ok()
    });
    std::thread::sleep(after);
    let name = holder["metadata"]["name"].as_str().unwrap_or_default();
    let process = Process::of_pod(&holder);
    if let Some(process) = process.filter(|process| process.lives()) {
        process.signal("KILL");
    }
    let _ = kubectl(&["-n", NAMESPACE, "delete", "pod", name, "--grace-period=0", "--force"], None);
    let Some(process) = process else { return };
    await_some("its process is gone", || (!process.lives()).then_some(()));
}

fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < TAKEOVER, "not `{what}` within {TAKEOVER:?}");
        std::thread::sleep(POLL);
    }
}
