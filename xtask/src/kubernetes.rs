//! Weir on a cluster: the one that KUBECONFIG names, else the one on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::able;
use crate::build_env::BuildEnv;
use crate::cluster;
use crate::failure::{Failure, Result};
use crate::image::Profile;
use crate::layout::{Layout, variable};
use crate::process::{output_of, replace, run, run_aside, say, succeeds};
use crate::servers;

/// Where the operator is installed.
const NAMESPACE: &str = "weir-system";
/// The image of a cluster that is not ours: it has to get it from somewhere.
const IMAGE: &str = "WEIR_IMAGE";
const DEMO: &str = "examples/kubernetes/job.yaml";
const DEMO_JOB: &str = "orders";
const DEMO_NAMESPACE: &str = "weir-demo";

/// Of each group of tests, which, and how many at the same time. Those of one job go beside each other; what concerns the
/// whole cluster after them, alone.
struct Group {
    test: &'static str,
    threads: u32,
    /// What every run of all tests has: one for each thing that is done to a job, and the losses that happen most.
    chosen: &'static [&'static str],
}

const GROUPS: [Group; 2] = [
    Group {
        test: "cluster_jobs",
        threads: 5,
        chosen: &[
            "lifecycle::a_job_lives_through_what_is_done_to_it",
            "lifecycle::savepoints_clones_and_rescales",
            "failure_matrix::processes_are_killed",
        ],
    },
    Group { test: "cluster_alone", threads: 1, chosen: &["operators_are_killed"] },
];
/// How often the operator is killed where only the chosen tests run.
const CHOSEN_KILLS: (&str, &str) = ("WEIR_E2E_KILLS", "5");

/// `cargo xtask e2e [--chosen | FILTER]`: the tests against a real cluster.
pub fn e2e(layout: &Layout, arguments: &[String]) -> Result<()> {
    if arguments == ["--chosen"] {
        return e2e_chosen(layout, Duration::ZERO);
    }
    let access = install(layout, Profile::Debug)?;
    run_groups(layout, &access, |group, cargo| {
        cargo.args(["--", "--nocapture", &format!("--test-threads={}", group.threads)]).args(arguments);
    })
}

/// The chosen ones, as a part of all tests that began so long ago: on a cluster of this machine's own, where it can run
/// one. A cluster that was up stays so.
pub fn e2e_chosen(layout: &Layout, gone: Duration) -> Result<()> {
    let skipped = |why: &str| say(&format!("the tests on a cluster are skipped: {why}"));
    if let Some(obstacle) = able::obstacle(layout, gone) {
        skipped(&obstacle);
        return Ok(());
    }
    let was_up = cluster::is_up(layout);
    if let Err(failure) = cluster::up(layout) {
        let said = if let Failure::Message(reason) = failure { reason } else { "it does not come up".to_owned() };
        skipped(&format!("{said} (`cargo xtask cluster up` shows more)"));
        return Ok(());
    }
    let tested = install(layout, Profile::Debug).and_then(|access| {
        run_groups(layout, &access, |group, cargo| {
            cargo.env(CHOSEN_KILLS.0, CHOSEN_KILLS.1);
            cargo.args(["--", "--exact", &format!("--test-threads={}", group.threads)]).args(group.chosen);
        })
    });
    if !was_up {
        run_aside(&mut cluster::script(layout, &["down"]))?;
    }
    tested
}

/// `select`: what of a group is run, in arguments of its command.
fn run_groups(layout: &Layout, access: &Access, select: impl Fn(&Group, &mut Command)) -> Result<()> {
    let store = access.is_local.then(|| servers::light_for_tests(layout)).transpose()?.flatten();
    let env = BuildEnv::prepare(layout)?;
    run_aside(
        env.cargo(&["build", "--workspace", "--bin", "kubectl-weir", "--test", "cluster_jobs"])
            .current_dir(&layout.checkout),
    )?;
    for group in &GROUPS {
        let mut cargo = env.cargo(&["test", "--workspace", "--test", group.test]);
        select(group, &mut cargo);
        cargo.env("WEIR_E2E", "1");
        access.give(&mut cargo);
        if access.is_local {
            cargo.env("WEIR_E2E_CLUSTER", cluster::script_path(layout)).env("WEIR_E2E_NODE", cluster::NODE_ADDRESS);
            cargo.env("CLUSTER_DIR", cluster::work(layout));
        }
        if let Some(store) = &store {
            store.announce(&mut cargo);
        }
        // kubectl finds its plugins on the PATH.
        let path = access.path().unwrap_or_else(|| variable("PATH").unwrap_or_default());
        cargo.env("PATH", format!("{}:{path}", layout.target.join("debug").display()));
        run(cargo.current_dir(&layout.checkout))?;
    }
    Ok(())
}

/// `cargo xtask demo`: from a checkout to a StreamJob with completed checkpoints.
pub fn demo(layout: &Layout) -> Result<()> {
    let access = install(layout, Profile::Debug)?;
    let apply = |arguments: &[&str]| run_aside(access.command("kubectl").args(arguments).current_dir(&layout.checkout));
    if output_of(access.command("kubectl").args(["get", "namespace", DEMO_NAMESPACE])).is_none() {
        apply(&["create", "namespace", DEMO_NAMESPACE])?;
    }
    apply(&["-n", DEMO_NAMESPACE, "apply", "-f", DEMO])?;
    say("waiting until the job has completed a checkpoint");
    apply(&[
        "-n",
        DEMO_NAMESPACE,
        "wait",
        "--for=condition=Ready",
        &format!("streamjob/{DEMO_JOB}"),
        "--timeout=300s",
    ])?;
    apply(&["-n", DEMO_NAMESPACE, "get", "streamjobs"])?;
    apply(&["-n", DEMO_NAMESPACE, "get", "checkpoints"])?;
    if access.is_local {
        say("kubectl is on the PATH after: eval \"$(cargo xtask cluster env)\"");
        say("all of it goes with: cargo xtask cluster down --purge");
    }
    say(&format!(
        "it runs. Look: kubectl -n {DEMO_NAMESPACE} get sj,checkpoints,pods; kubectl -n {DEMO_NAMESPACE} describe sj {DEMO_JOB}"
    ));
    Ok(())
}

/// `cargo xtask chart`: renders the chart and checks what comes of it.
pub fn chart(layout: &Layout) -> Result<()> {
    let helm = cluster::programs(layout).join("helm");
    if !helm.exists() {
        return Err(Failure::new("helm is built with the local cluster: cargo xtask cluster build"));
    }
    let chart = layout.checkout.join("charts/weir");
    run_aside(Command::new(&helm).arg("lint").arg("--strict").arg(&chart))?;
    let mut template = Command::new(&helm);
    template.args(["template", "weir"]).arg(&chart).args(["--namespace", NAMESPACE]);
    replace(template)
}

/// What of the chart can be checked here: that it renders, that Argo CD's scripts do what they say, and that alerts fire
/// when they should. Says what cannot.
pub fn check(layout: &Layout) -> Result<()> {
    let helm = cluster::programs(layout).join("helm");
    if helm.exists() {
        let chart = layout.checkout.join("charts/weir");
        run_aside(Command::new(&helm).args(["lint", "--strict", "--quiet"]).arg(&chart))
            .map_err(|_| Failure::new("the chart has mistakes; `cargo xtask chart` shows it rendered"))?;
        let one_namespace = ["--set", "watchNamespace=data"];
        let monitored = "monitoring.serviceMonitor.enabled=true,monitoring.podMonitor.enabled=true,\
                         monitoring.rules.enabled=true,monitoring.dashboard.enabled=true";
        for values in [&[][..], &one_namespace, &["--set", monitored]] {
            let mut template = Command::new(&helm);
            template.args(["template", "weir"]).arg(&chart).args(["--namespace", NAMESPACE]).args(values);
            output_of(&mut template).ok_or_else(|| Failure::new("the chart does not render: cargo xtask chart"))?;
        }
    } else {
        say("the chart is not rendered: helm comes with the local cluster (cargo xtask cluster build)");
    }
    if succeeds(Command::new("go").arg("version")) {
        for (folder, what) in [
            ("xtask/argocd", "the scripts for Argo CD fail their tests (charts/weir/argocd, xtask/argocd)"),
            ("xtask/alerts", "the alerts fail their tests (charts/weir/monitoring/alerts.yaml, xtask/alerts)"),
        ] {
            let mut go = Command::new("go");
            run_aside(go.args(["test", "./..."]).current_dir(layout.checkout.join(folder)))
                .map_err(|_| Failure::new(what))?;
        }
    } else {
        say("the scripts for Argo CD and the alerts are not tested: that takes Go");
    }
    Ok(())
}

/// How a cluster is reached.
struct Access {
    kubeconfig: Option<PathBuf>,
    programs: Option<PathBuf>,
    is_local: bool,
}

impl Access {
    fn command(&self, program: &str) -> Command {
        let own = self.programs.as_ref().map(|folder| folder.join(program)).filter(|own| own.exists());
        let mut command = Command::new(own.unwrap_or_else(|| PathBuf::from(program)));
        self.give(&mut command);
        command
    }

    fn give(&self, command: &mut Command) {
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        if let Some(path) = self.path() {
            command.env("PATH", path);
        }
    }

    /// With the cluster's own programs first.
    fn path(&self) -> Option<String> {
        let programs = self.programs.as_ref()?;
        Some(format!("{}:{}", programs.display(), variable("PATH").unwrap_or_default()))
    }
}

/// Brings the operator of this checkout onto the cluster.
fn install(layout: &Layout, profile: Profile) -> Result<Access> {
    let is_local = variable("KUBECONFIG").is_none_or(|path| Path::new(&path) == cluster::kubeconfig(layout));
    let (access, image) = if is_local {
        cluster::up(layout)?;
        let access = Access {
            kubeconfig: Some(cluster::kubeconfig(layout)),
            programs: Some(cluster::programs(layout)),
            is_local,
        };
        (access, cluster::load(layout, profile)?)
    } else {
        let image = variable(IMAGE).ok_or_else(|| {
            Failure::new(format!(
                "KUBECONFIG names a cluster that is not the local one; set {IMAGE} to an image that it can pull \
                 (`cargo xtask image` makes one), or unset KUBECONFIG"
            ))
        })?;
        (Access { kubeconfig: None, programs: None, is_local }, image)
    };
    let (repository, tag) = image
        .rsplit_once(':')
        .ok_or_else(|| Failure::new(format!("the image `{image}` has no tag; write REPOSITORY:TAG")))?;
    // helm installs definitions, and never upgrades them.
    let mut crds = access.command("kubectl");
    run_aside(
        crds.args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(layout.checkout.join("charts/weir/crds")),
    )?;
    let mut helm = access.command("helm");
    helm.args(["upgrade", "--install", "weir"]).arg(layout.checkout.join("charts/weir"));
    helm.args(["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s"]);
    helm.args(["--set", &format!("image.repository={repository}"), "--set", &format!("image.tag={tag}")]);
    helm.args(["--set", "pollInterval=1s", "--set", "statusInterval=2s"]);
    run_aside(&mut helm)?;
    say(&format!("the operator runs in the namespace {NAMESPACE}"));
    Ok(access)
}
