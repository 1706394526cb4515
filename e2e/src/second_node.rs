//! A second node, for what one node cannot show: pods that move, and a node that is lost.

use std::time::Duration;

use crate::{ClusterScript, Namespace, POLL_INTERVAL, cluster_script, kubectl};

const FIRST: &str = "weir";
const SECOND: &str = "weir-2";
/// Pods that have been told to go by a kubelet that hears of it late.
const GONE: Duration = Duration::from_secs(90);

/// It goes with this.
pub struct SecondNode {
    script: ClusterScript,
}

impl SecondNode {
    /// `None`: the cluster is not ours to change, which has been said.
    pub fn add(test: &str) -> Option<SecondNode> {
        let node = SecondNode { script: cluster_script(test)? };
        (node.script)(&["node-up"]);
        Some(node)
    }

    /// What is made meanwhile comes to be on the second node.
    pub fn alone<T>(&self, make: impl FnOnce() -> T) -> T {
        kubectl(&["cordon", FIRST], None).expect("the first node can be cordoned");
        let made = make();
        kubectl(&["uncordon", FIRST], None).expect("and be uncordoned");
        made
    }

    pub fn name(&self) -> &str {
        SECOND
    }

    /// Nothing reaches it, and it reaches nobody: what runs there runs on.
    pub fn cut(&self) {
        (self.script)(&["node-cut"]);
    }

    pub fn join(&self) {
        (self.script)(&["node-join"]);
    }

    /// The nodes of a job's pods, by the pods' names.
    pub fn of_pods(&self, cluster: &Namespace, job: &str) -> Vec<(String, String)> {
        let columns = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{\"\\n\"}{end}";
        let listed = cluster.kubectl(&["get", "pods", "-l", &format!("weir.dev/job={job}"), "-o", columns]);
        let pairs = listed.expect("pods can be listed");
        pairs
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(pod, node)| (pod.to_owned(), node.to_owned()))
            .collect()
    }

    /// Waits until none of these runs any more.
    pub fn await_end(&self, what: &str, processes: &[crate::processes::Process]) {
        let started = std::time::Instant::now();
        while processes.iter().any(|process| process.lives()) {
            assert!(started.elapsed() < GONE, "not `{what}` within {GONE:?}");
            std::thread::sleep(POLL_INTERVAL);
        }
        eprintln!("{what} after {:?}", started.elapsed());
    }
}

impl Drop for SecondNode {
    fn drop(&mut self) {
        let _ = kubectl(&["uncordon", FIRST], None);
        // Not through the script's own check: that panics, and this may be a panic's end.
        let script = std::panic::AssertUnwindSafe(|| (self.script)(&["node-down"]));
        let _ = std::panic::catch_unwind(script);
    }
}
