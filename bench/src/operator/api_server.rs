//! etcd and kube-apiserver alone, with a state of their own: no controller makes pods, and no node is there.

use anyhow::{Context, Result, bail};
use kube::{Client, Config};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The script of `cargo xtask cluster`, and where the API server's state goes: `cargo xtask bench operator` sets both.
const SCRIPT: &str = "WEIR_BENCH_CLUSTER";
const FOLDER: &str = "WEIR_BENCH_CLUSTER_DIR";
/// The resources that the operator works with; others are the API server's own.
const RESOURCES: [&str; 10] = [
    "streamjobs",
    "checkpoints",
    "savepoints",
    "pods",
    "statefulsets",
    "configmaps",
    "services",
    "secrets",
    "poddisruptionbudgets",
    "networkpolicies",
];

/// Dropped, it is stopped, and its state goes.
pub struct ApiServer {
    script: PathBuf,
    folder: PathBuf,
}

impl ApiServer {
    pub fn start() -> Result<Self> {
        let (Some(script), Some(folder)) = (std::env::var_os(SCRIPT), std::env::var_os(FOLDER)) else {
            bail!("{SCRIPT} and {FOLDER} are not set; `cargo xtask bench operator` sets them");
        };
        let folder = PathBuf::from(folder);
        let pid = std::fs::read_to_string(folder.join("pids/apiserver")).unwrap_or_default();
        if !pid.is_empty() && PathBuf::from("/proc").join(pid.trim()).exists() {
            // Of a run that was interrupted.
            drop(ApiServer { script: script.clone().into(), folder: folder.clone() });
        }
        if std::net::TcpStream::connect("127.0.0.1:6443").is_ok() {
            bail!("something listens on port 6443: `cargo xtask cluster down` first");
        }
        // From here on: what has started when `up-api` fails is stopped, too.
        let server = ApiServer { script: script.into(), folder };
        server.script(&["up-api"])?;
        Ok(server)
    }

    fn script(&self, arguments: &[&str]) -> Result<()> {
        let mut script = Command::new(&self.script);
        script.arg("-C").arg(&self.folder).args(arguments).stdout(Stdio::null());
        match script.status().with_context(|| format!("cannot run {}", self.script.display()))?.success() {
            true => Ok(()),
            false => bail!("the cluster's `{}` failed; the lines above say why", arguments.join(" ")),
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("etc/admin.kubeconfig")
    }

    pub async fn client(&self) -> Result<Client> {
        let file = kube::config::Kubeconfig::read_from(self.kubeconfig()).context("the admin's KUBECONFIG")?;
        let config = Config::from_custom_kubeconfig(file, &Default::default()).await.context("KUBECONFIG")?;
        Ok(Client::try_from(config)?)
    }

    /// Brings Weir's own resources.
    pub fn define(&self) -> Result<()> {
        self.script(&["kubectl", "apply", "--server-side", "-f", "charts/weir/crds"])?;
        self.script(&["kubectl", "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])
    }

    /// All that was asked of it so far, but for watches.
    pub async fn requests(&self) -> Result<Requests> {
        let client = self.client().await?;
        let request = http::Request::get("/metrics").body(vec![]).context("a request")?;
        Ok(Requests::read(&client.request_text(request).await.context("the API server's metrics")?))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Err(error) = self.script(&["down", "--purge"]) {
            eprintln!("bench: {error:#}");
        }
    }
}

/// How often, by verb and resource: `PATCH streamjobs/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests(BTreeMap<String, u64>);

impl Requests {
    fn read(metrics: &str) -> Self {
        let mut all = BTreeMap::new();
        let lines = metrics.lines().filter_map(|line| line.strip_prefix("apiserver_request_total{"));
        for (labels, value) in lines.filter_map(|line| line.rsplit_once("} ")) {
            let label = |name: &str| {
                let found = labels.split(&format!("{name}=\"")).nth(1).filter(|_| labels.contains(name))?;
                found.split('"').next()
            };
            let (Some(verb), Some(resource)) = (label("verb"), label(",resource")) else { continue };
            let is_event = resource == "events";
            if verb == "WATCH" || !(RESOURCES.contains(&resource) || is_event) {
                continue;
            }
            let of = match label("subresource") {
                Some(sub) if !sub.is_empty() => format!("{verb} {resource}/{sub}"),
                _ => format!("{verb} {resource}"),
            };
            *all.entry(of).or_default() += value.parse::<f64>().unwrap_or(0.0) as u64;
        }
        Requests(all)
    }

    pub fn since(&self, before: &Requests) -> Requests {
        let less = |(what, count): (&String, &u64)| {
            let count = count.saturating_sub(before.0.get(what).copied().unwrap_or(0));
            (count > 0).then(|| (what.clone(), count))
        };
        Requests(self.0.iter().filter_map(less).collect())
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn largest(&self) -> Vec<(String, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(what, count)| (what.clone(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all.truncate(8);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::Requests;

    #[test]
    fn requests_are_counted_by_verb_and_resource() {
        let line = |code: u32, verb: &str, resource: &str, subresource: &str, count: &str| {
            format!(
                "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",group=\"weir.dev\",\
                 resource=\"{resource}\",scope=\"resource\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"v1\"}} {count}\n"
            )
        };
        let before = Requests::read(&line(200, "PUT", "streamjobs", "status", "2"));
        let text = [
            line(200, "PUT", "streamjobs", "status", "5"),
            line(409, "PUT", "streamjobs", "status", "1"),
            line(200, "LIST", "checkpoints", "", "1.5e+03"),
            line(0, "WATCH", "pods", "", "7"),
            line(200, "PUT", "leases", "", "9"),
        ];
        let since = Requests::read(&text.concat()).since(&before);
        let wanted = [("LIST checkpoints", 1_500), ("PUT streamjobs/status", 4)];
        assert_eq!(since.largest(), wanted.map(|(what, count)| (what.to_owned(), count)));
        assert_eq!(since.total(), 1_504);
    }
}
