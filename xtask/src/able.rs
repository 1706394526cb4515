//! Whether this machine can run a cluster for the tests, and if not, why: in one line.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cluster;
use crate::layout::{Layout, variable};
use crate::process::succeeds;
use crate::system;

/// What continuous integration has for everything.
const LIMIT: Duration = Duration::from_secs(60 * 60);
/// Of the chosen tests with their image, and of the cluster's programs where they are not there yet: on 2 cores that do
/// something else, too.
const TESTS: Duration = Duration::from_secs(10 * 60);
const PROGRAMS: Duration = Duration::from_secs(12 * 60);
/// etcd, API server, kubelet, controllers, scheduler.
const PORTS: [u16; 7] = [2379, 2380, 6443, 10248, 10250, 10257, 10259];

/// What there is of what a cluster takes.
struct Machine {
    is_linux: bool,
    is_root: bool,
    /// The cluster that the user's commands go to.
    kubeconfig: Option<String>,
    missing: Vec<&'static str>,
    can_install: bool,
    is_built: bool,
    has_go: bool,
    makes_cgroups: bool,
    makes_namespaces: bool,
    taken_port: Option<u16>,
}

/// `None`: it can. `gone`: since the command began of which the tests are a part.
pub fn obstacle(layout: &Layout, gone: Duration) -> Option<String> {
    Machine::look(layout).obstacle(gone)
}

impl Machine {
    fn look(layout: &Layout) -> Self {
        let own = cluster::kubeconfig(layout);
        let is_taken = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_err();
        Machine {
            is_linux: cfg!(target_os = "linux"),
            is_root: system::is_root(),
            kubeconfig: variable("KUBECONFIG").filter(|path| Path::new(path) != own),
            missing: cluster::missing_packages(),
            can_install: variable("WEIR_NO_INSTALL").is_none() && succeeds(Command::new("apt-get").arg("--version")),
            is_built: cluster::is_built(layout),
            has_go: succeeds(Command::new("go").arg("version")),
            makes_cgroups: makes_cgroups(),
            makes_namespaces: succeeds(Command::new("unshare").args(["--mount", "--net", "--pid", "--fork", "true"])),
            taken_port: if cluster::is_up(layout) { None } else { PORTS.into_iter().find(is_taken) },
        }
    }

    fn obstacle(&self, gone: Duration) -> Option<String> {
        let Machine {
            is_linux,
            is_root,
            kubeconfig,
            missing,
            can_install,
            is_built,
            has_go,
            makes_cgroups,
            makes_namespaces,
            taken_port,
        } = self;
        let needed = if *is_built { TESTS } else { TESTS + PROGRAMS };
        Some(if !is_linux {
            "pods take Linux".to_owned()
        } else if let Some(kubeconfig) = kubeconfig {
            format!("KUBECONFIG is {kubeconfig}, a cluster that is not theirs; `cargo xtask e2e` uses it")
        } else if !is_root {
            "a cluster on this machine takes root, for containers, a bridge and nftables".to_owned()
        } else if !missing.is_empty() && !can_install {
            format!("{} is not installed, and may not be or cannot", missing.join(", "))
        } else if !is_built && !has_go {
            "the cluster's programs are built from Go modules, and there is no `go`".to_owned()
        } else if !makes_cgroups {
            "no cgroup can be made here (/sys/fs/cgroup is read-only, or not there)".to_owned()
        } else if !makes_namespaces {
            "no namespaces can be made here (`unshare --mount --net --pid` fails)".to_owned()
        } else if let Some(port) = taken_port {
            format!("something else listens on port {port}, which a part of the cluster needs")
        } else if gone + needed > LIMIT {
            let minutes = |duration: Duration| duration.as_secs().div_ceil(60);
            let (gone, needed, limit) = (minutes(gone), minutes(needed), minutes(LIMIT));
            format!(
                "{gone} minutes have gone, and {needed} more may be over the {limit} that all tests have; `cargo xtask \
                 e2e` runs them"
            )
        } else {
            return None;
        })
    }
}

fn makes_cgroups() -> bool {
    // Version 2, or the hierarchies of version 1.
    ["/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs"].iter().any(|root| {
        let Some(folder) = Path::new(root).parent().filter(|_| Path::new(root).exists()) else { return false };
        let probe = folder.join(format!("weir-probe-{}", std::process::id()));
        std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Machine {
        Machine {
            is_linux: true,
            is_root: true,
            kubeconfig: None,
            missing: vec![],
            can_install: false,
            is_built: true,
            has_go: false,
            makes_cgroups: true,
            makes_namespaces: true,
            taken_port: None,
        }
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let rows = [
            (able(), 0, None),
            (able(), 50, None),
            (able(), 51, Some("51 minutes have gone, and 10 more may be over the 60")),
            (Machine { is_built: false, has_go: true, ..able() }, 38, None),
            (Machine { is_built: false, has_go: true, ..able() }, 39, Some("22 more may be over")),
            (Machine { is_built: false, ..able() }, 0, Some("there is no `go`")),
            (Machine { is_linux: false, ..able() }, 0, Some("Linux")),
            (Machine { is_root: false, ..able() }, 0, Some("takes root")),
            (Machine { kubeconfig: Some("/k".to_owned()), ..able() }, 0, Some("KUBECONFIG is /k")),
            (Machine { missing: vec!["runc", "nftables"], ..able() }, 0, Some("runc, nftables is not installed")),
            (Machine { missing: vec!["runc"], can_install: true, ..able() }, 0, None),
            (Machine { makes_cgroups: false, ..able() }, 0, Some("cgroup")),
            (Machine { makes_namespaces: false, ..able() }, 0, Some("unshare")),
            (Machine { taken_port: Some(6443), ..able() }, 0, Some("port 6443")),
        ];
        for (index, (machine, minutes, expected)) in rows.into_iter().enumerate() {
            let said = machine.obstacle(Duration::from_secs(minutes * 60));
            match expected {
                None => assert_eq!(said, None, "row {index}"),
                Some(part) => assert!(said.as_ref().is_some_and(|said| said.contains(part)), "row {index}: {said:?}"),
            }
            assert!(!said.unwrap_or_default().contains('\n'), "one line");
        }
    }
}
