//! A Kubernetes cluster on this machine (`xtask/cluster`), and Weir's image in it.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::layout::Layout;
use crate::process::{create_folder, output_of, replace, run_aside, say, succeeds};
use crate::{image, system};

/// The node, and this machine, as pods reach it.
pub const NODE_ADDRESS: &str = "10.244.0.1";

const USAGE: &str = "usage: cargo xtask cluster build | up | down [--purge] | load [--release] | node up|cut|join|down | status | env | smoke | images";

/// What `up` cannot do without, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("sysctl", "procps"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// What the build's result depends on.
const SOURCES: [&str; 8] = [
    "cluster",
    "go.mod",
    "go.sum",
    "cmd/kube/main.go",
    "cmd/kube/sweep.go",
    "cmd/dns/main.go",
    "cmd/echo/main.go",
    "cmd/pause/main.go",
];

pub fn command(layout: &Layout, arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["up"] => up(layout),
        ["down"] => replace(script(layout, &["down"])),
        ["down", "--purge"] => replace(script(layout, &["down", "--purge"])),
        ["build"] => ensure_built(layout),
        ["load"] => load(layout, image::Profile::Debug).map(|_| ()),
        ["load", "--release"] => load(layout, image::Profile::Release).map(|_| ()),
        ["status"] => replace(script(layout, &["status"])),
        ["node", act @ ("up" | "cut" | "join" | "down")] => replace(script(layout, &[&format!("node-{act}")])),
        ["images"] => replace(script(layout, &["images"])),
        ["env"] => replace(script(layout, &["env"])),
        ["smoke"] => {
            let mut smoke = Command::new(folder(layout).join("smoke/run"));
            smoke.arg(work(layout));
            replace(smoke)
        }
        _ => Err(Failure::new(USAGE)),
    }
}

/// Installs and builds what is missing. Returns the folder of its programs.
pub fn prepare(layout: &Layout) -> Result<PathBuf> {
    ensure_programs()?;
    ensure_built(layout)?;
    Ok(programs(layout))
}

/// Installs and builds what is missing, and starts what does not run.
pub fn up(layout: &Layout) -> Result<()> {
    prepare(layout)?;
    // On stderr: what it prints last is for people, and `up` may stand in a pipe.
    run_aside(&mut script(layout, &["up"]))?;
    say("the cluster is up; `eval \"$(cargo xtask cluster env)\"` points kubectl and helm at it");
    Ok(())
}

/// Builds Weir's image and makes it known to the node. Returns its name.
pub fn load(layout: &Layout, profile: image::Profile) -> Result<String> {
    let image = image::build(layout, profile)?;
    run_aside(script(layout, &["load-image"]).arg(&image.tar))?;
    say(&format!("the node knows {}", image.name));
    println!("{}", image.name);
    Ok(image.name)
}

/// The admin's KUBECONFIG of the local cluster.
pub fn kubeconfig(layout: &Layout) -> PathBuf {
    work(layout).join("etc/admin.kubeconfig")
}

/// Where its programs are: kubectl, helm.
pub fn programs(layout: &Layout) -> PathBuf {
    work(layout).join("bin")
}

/// The script that everything is done by.
pub fn script(layout: &Layout, arguments: &[&str]) -> Command {
    let mut command = Command::new(script_path(layout));
    command.args(arguments).env("CLUSTER_DIR", work(layout));
    command
}

pub fn script_path(layout: &Layout) -> PathBuf {
    folder(layout).join("cluster")
}

fn folder(layout: &Layout) -> PathBuf {
    layout.checkout.join("xtask/cluster")
}

/// Its CLUSTER_DIR.
pub fn work(layout: &Layout) -> PathBuf {
    crate::layout::variable("CLUSTER_DIR").map_or_else(|| layout.cache.join("cluster"), PathBuf::from)
}

fn ensure_programs() -> Result<()> {
    let packages = missing_packages();
    if packages.is_empty()
        || (system::install(&packages, "the cluster's container runtime")? && missing_packages().is_empty())
    {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the local cluster lacks {}. Install them (Debian, Ubuntu, as root: apt-get install {}), or point KUBECONFIG at \
         another cluster",
        packages.join(", "),
        packages.join(" ")
    )))
}

fn is_there(program: &str) -> bool {
    match program.starts_with('/') {
        true => Path::new(program).exists(),
        false => output_of(Command::new("sh").args(["-c", &format!("command -v {program}")])).is_some(),
    }
}

/// Of the packages that it cannot do without.
pub fn missing_packages() -> Vec<&'static str> {
    PROGRAMS.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect()
}

/// Its programs are there, and were built from these sources.
pub fn is_built(layout: &Layout) -> bool {
    std::fs::read_to_string(stamp(layout)).is_ok_and(|built| fingerprint(layout).is_ok_and(|wanted| built == wanted))
}

/// Its API server runs.
pub fn is_up(layout: &Layout) -> bool {
    let pid = std::fs::read_to_string(work(layout).join("pids/apiserver")).unwrap_or_default();
    !pid.trim().is_empty() && Path::new("/proc").join(pid.trim()).exists()
}

fn stamp(layout: &Layout) -> PathBuf {
    work(layout).join("built-from")
}

/// Builds the cluster's programs, unless they are there.
fn ensure_built(layout: &Layout) -> Result<()> {
    if is_built(layout) {
        return Ok(());
    }
    let wanted = fingerprint(layout)?;
    if !succeeds(Command::new("go").arg("version")) {
        return Err(Failure::new(
            "the cluster's programs are built from Go modules, and `go` is not here. Install Go 1.24 or newer, or point \
             KUBECONFIG at another cluster",
        ));
    }
    say("building the local cluster's programs (6 to 11 minutes on 2 cores, once)");
    create_folder(&work(layout))?;
    run_aside(&mut script(layout, &["build"]))
        .map_err(|_| Failure::new("the cluster's programs could not be built; the lines above say why"))?;
    let stamp = stamp(layout);
    std::fs::write(&stamp, wanted).map_err(Failure::io(format!("write {}", stamp.display())))
}

/// Of the sources. A hash that changes with the toolchain costs a build that finds everything in Go's own cache.
fn fingerprint(layout: &Layout) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for source in SOURCES {
        let path = folder(layout).join(source);
        std::fs::read(&path).map_err(Failure::io(format!("read {}", path.display())))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
