//! The worker processes of `weir run --workers`: started, started anew when they die, and ended with the job.

use crate::logs;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weir_node::tls::OwnCertificates;

/// How long a worker whose coordinator has died looks for it: the command that started both is gone with it.
const PATIENCE_SECONDS: u64 = 10;
/// From one look at a child to the next.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// From one look at the certificates' age to the next.
const RENEWAL_LOOK: Duration = Duration::from_secs(60);
/// From a death to the next start, so that a worker that cannot run is not started in a busy loop.
const RESTART_DELAY: Duration = Duration::from_millis(200);
/// A worker that has run so long can run: it is started again at once.
const LIVED: Duration = Duration::from_secs(5);
/// Starts of one worker; beyond, something is wrong that another start doesn't mend.
const STARTS: u32 = 100;
/// What a worker gets to leave by itself once the job is over.
const FAREWELL: Duration = Duration::from_secs(5);

/// What each worker is started with.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) coordinator: SocketAddr,
    pub(crate) slots: u32,
    /// Where it keeps copies of checkpoints, if the job wants that.
    pub(crate) local_dir: Option<PathBuf>,
    /// The folder of its certificates.
    pub(crate) tls_dir: PathBuf,
}

pub(crate) struct Children {
    is_over: Arc<AtomicBool>,
    guards: Vec<JoinHandle<()>>,
}

impl Children {
    /// `certificates`, which the workers read, are renewed as long as the job runs.
    pub(crate) fn start(workers: u32, worker: &Worker, certificates: OwnCertificates) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let start = |_| {
            let first = spawn(worker)?;
            let (worker, is_over) = (worker.clone(), Arc::clone(&is_over));
            Ok(std::thread::spawn(move || guard(first, &worker, &is_over)))
        };
        let mut guards = (0..workers).map(start).collect::<Result<Vec<_>>>()?;
        let job_is_over = Arc::clone(&is_over);
        guards.push(std::thread::spawn(move || renew(certificates, &job_is_over)));
        Ok(Children { is_over, guards })
    }

    /// The job is over: lets them leave, and ends those that don't.
    pub(crate) fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        for guard in self.guards {
            guard.join().ok();
        }
    }
}

fn spawn(worker: &Worker) -> Result<Child> {
    let Worker { coordinator, slots, local_dir, tls_dir } = worker;
    let program = std::env::current_exe().context("cannot find this program")?;
    Command::new(program)
        .args(["worker", "--coordinator", &coordinator.to_string(), "--slots", &slots.to_string()])
        // The command that started them coordinates them, and nobody takes over at its address.
        .args(["--patience", &PATIENCE_SECONDS.to_string(), "--hold", "0"])
        .args(local_dir.iter().flat_map(|folder| ["--local-dir".as_ref(), folder.as_os_str()]))
        .args(["--tls-dir".as_ref(), tls_dir.as_os_str()])
        .env(logs::FORMAT_VARIABLE, logs::format().name())
        .spawn()
        .context("cannot start a worker process")
}

/// Keeps the certificates, and removes them in the end.
fn renew(mut certificates: OwnCertificates, is_over: &AtomicBool) {
    let mut looked = Instant::now();
    while !is_over.load(Ordering::SeqCst) {
        std::thread::sleep(LOOK_EVERY);
        if looked.elapsed() < RENEWAL_LOOK {
            continue;
        }
        looked = Instant::now();
        if let Err(error) = certificates.renew_if_due() {
            tracing::warn!(%error, "the certificates of the workers cannot be renewed");
        }
    }
}

fn guard(mut child: Child, worker: &Worker, is_over: &AtomicBool) {
    let mut starts = 1;
    let mut since = Instant::now();
    while !is_over.load(Ordering::SeqCst) {
        std::thread::sleep(LOOK_EVERY);
        let Ok(Some(status)) = child.try_wait() else { continue };
        if is_over.load(Ordering::SeqCst) || status.success() {
            return;
        }
        tracing::warn!(%status, "a worker process has died");
        if starts == STARTS {
            tracing::error!("a worker process has died {STARTS} times; it is not started again");
            return;
        }
        if since.elapsed() < LIVED {
            std::thread::sleep(RESTART_DELAY);
        }
        since = Instant::now();
        match spawn(worker) {
            Ok(next) => child = next,
            Err(error) => tracing::error!("{error:#}"),
        }
        starts += 1;
    }
    let since = Instant::now();
    while since.elapsed() < FAREWELL {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    child.kill().ok();
    child.wait().ok();
}
