//! A second node, for what one node cannot show: pods that move, and a node that is lost.

use crate::trial::Trial;
use crate::{ClusterScript, cluster_script, kubectl};

const FIRST: &str = "weir";
const SECOND: &str = "weir-2";
/// A coordinator and two workers.
const PODS: usize = 3;

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

    /// A job that runs on the second node alone, and could run on either.
    pub fn start(&self, test: &str, half_minutes: u64) -> Option<Trial> {
        kubectl(&["cordon", FIRST], None).expect("the first node can be cordoned");
        let trial = Trial::start(test, half_minutes)?;
        trial.is_ready();
        kubectl(&["uncordon", FIRST], None).expect("and be uncordoned");
        let pods = self.of_pods(&trial);
        assert!(pods.len() == PODS && pods.iter().all(|(_, on)| on == SECOND), "{pods:?}");
        Some(trial)
    }

    /// None of the job's pods is on the second node any more, and all are there.
    pub fn is_left(&self, trial: &Trial) {
        let pods = self.of_pods(trial);
        assert!(pods.len() == PODS && pods.iter().all(|(_, on)| on != SECOND), "{pods:?}");
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
    pub fn of_pods(&self, trial: &Trial) -> Vec<(String, String)> {
        let columns = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{\"\\n\"}{end}";
        let all = format!("weir.dev/job={}", trial.name);
        let listed = trial.cluster.kubectl(&["get", "pods", "-l", &all, "-o", columns]);
        let pairs = listed.expect("pods can be listed");
        pairs
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(pod, node)| (pod.to_owned(), node.to_owned()))
            .collect()
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
