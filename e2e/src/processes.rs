//! The processes of pods, where this machine is their node: what a pod's deletion cannot do to them, signals can.

use std::process::Command;

use crate::Namespace;

/// A process in a pod's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    /// The one of Weir in the pod. `None`: it does not run on this machine, or not at all.
    pub fn of(cluster: &Namespace, pod: &str) -> Option<Process> {
        Process::of_pod(&cluster.get("pod", pod)?)
    }

    /// By the resource as the API server has it.
    pub fn of_pod(pod: &serde_json::Value) -> Option<Process> {
        let uid = pod["metadata"]["uid"].as_str()?;
        let processes =
            std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let is_of_pod = |pid: &u32| {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let command = read("comm");
            (command.starts_with("weir") || command.starts_with("coord")) && read("cgroup").contains(uid)
        };
        processes.into_iter().find(is_of_pod).map(Process)
    }

    pub fn lives(self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
    }

    /// `KILL`, `STOP`, `CONT`.
    pub fn signal(self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} reaches process {}", self.0);
    }
}
