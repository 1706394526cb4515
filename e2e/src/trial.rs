//! One job, something that happens to it, and its output, which has to be the same as if it had not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use weir_crds::StreamJob;
use weir_crds::conditions::ConditionType;
use weir_crds::streamjob::{JobPhase, UpgradeRecord, UpgradeResult};

use crate::{Namespace, matrix};

const JOB: &str = include_str!("numbers.yaml");
const ROWS_PER_SECOND: u64 = 1_000;
/// Of event time, in rows; and of different remainders.
const WINDOW_ROWS: u64 = 30_000;
const REMAINDERS: u64 = 50;
/// A claim stands for a file system that all pods reach.
const CLAIM: &str = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: state}\n\
                     spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n";
/// How long a start may take on a machine that does much else.
const START: Duration = Duration::from_secs(180);

/// Where a job's checkpoints are, and what it needs to reach them.
pub struct Storage {
    pub uri: String,
    pub objects: String,
    /// The claim of the output.
    pub claim: String,
}

impl Default for Storage {
    fn default() -> Self {
        Storage { uri: "{uri: \"file:///state/checkpoints\"}".into(), objects: String::new(), claim: CLAIM.into() }
    }
}

pub struct Trial {
    pub cluster: Namespace,
    pub name: String,
    rows: u64,
    objects: String,
    /// As it was applied last.
    job: RefCell<String>,
}

impl Trial {
    /// A job that has `half_minutes` of input at its rate, and runs. `None`: there is no cluster.
    pub fn start(test: &str, half_minutes: u64) -> Option<Trial> {
        Trial::start_on(Namespace::create(test)?, "numbers", half_minutes, Storage::default())
    }

    pub fn start_on(cluster: Namespace, name: &str, half_minutes: u64, storage: Storage) -> Option<Trial> {
        let rows = half_minutes * WINDOW_ROWS;
        let job = JOB.replace("ROWS", &rows.to_string()).replace("NAME", name).replace("STORAGE", &storage.uri);
        let objects = format!("{}---\n{}", storage.claim, storage.objects);
        let trial = Trial { cluster, name: name.to_owned(), rows, objects, job: RefCell::new(job) };
        trial.apply();
        Some(trial)
    }

    /// What the job needs, and the job as it was last.
    pub fn apply(&self) {
        self.cluster.apply(&format!("{}\n---\n{}", self.objects, self.job.borrow())).unwrap();
    }

    /// The job as it was applied last.
    pub fn text(&self) -> String {
        self.job.borrow().clone()
    }

    /// Applies the job with another text in the place of one.
    pub fn change(&self, from: &str, to: &str) {
        let changed = self.job.borrow().replace(from, to);
        assert_ne!(*self.job.borrow(), changed, "there is no `{from}` in the job");
        *self.job.borrow_mut() = changed;
        self.cluster.apply(&self.job.borrow()).unwrap();
    }

    pub fn is_ready(&self) -> StreamJob {
        self.cluster.await_condition(&self.name, ConditionType::Ready, "True", START)
    }

    pub fn job(&self) -> StreamJob {
        self.cluster.job(&self.name).expect("the job is there")
    }

    /// Does it, and waits until the job runs and has completed a checkpoint that is younger: within the row's bound.
    pub fn recovers(&self, row: &str, happens: impl FnOnce()) {
        happens();
        self.goes_on(row, matrix::bound(row));
    }

    /// Waits for a checkpoint that is younger than now.
    pub fn goes_on(&self, what: &str, within: Duration) {
        let now = now_s();
        self.cluster.await_job(&self.name, &format!("{what}: it checkpoints again"), within, |job| {
            phase(job) == Some(JobPhase::Running) && completed_at_s(job).is_some_and(|at| at > now)
        });
    }

    /// The newest upgrade, once it is of this generation and has ended.
    pub fn upgraded(&self, generation: i64, within: Duration) -> UpgradeRecord {
        let is_decided =
            |upgrade: &UpgradeRecord| upgrade.generation == generation && upgrade.result != UpgradeResult::InProgress;
        let what = format!("the upgrade to generation {generation} is decided");
        let job = self.cluster.await_job(&self.name, &what, within, |job| {
            job.status.as_ref().and_then(|status| status.upgrades.first()).is_some_and(is_decided)
        });
        job.status.unwrap_or_default().upgrades.remove(0)
    }

    /// Which generation the resource is at.
    pub fn generation(&self) -> i64 {
        self.job().metadata.generation.unwrap_or_default()
    }

    pub fn has_upgraded(&self, within: Duration) {
        let upgrade = self.upgraded(self.generation(), within);
        assert_eq!(upgrade.result, UpgradeResult::Verified, "{upgrade:?}");
    }

    /// Waits until so many subtasks run, and nothing is under way.
    pub fn has_rescaled(&self, parallelism: u32, within: Duration) {
        self.cluster.await_job(&self.name, &format!("{parallelism} subtasks"), within, |job| {
            let status = job.status.clone().unwrap_or_default();
            let is_settled = status.intention.is_none() && status.phase == Some(JobPhase::Running);
            status.replicas == Some(parallelism) && is_settled && status.observed_generation == job.metadata.generation
        });
    }

    pub fn scale(&self, parallelism: u32) {
        let replicas = format!("--replicas={parallelism}");
        self.cluster.kubectl(&["scale", &format!("sj/{}", self.name), &replicas]).unwrap();
        let mut job = self.job.borrow_mut();
        let old = job.lines().find(|line| line.starts_with("  parallelism:")).map(str::to_owned);
        *job = job.replace(&old.expect("the job has one"), &format!("  parallelism: {parallelism}"));
    }

    pub fn pod(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.name)
    }

    pub fn delete_pod(&self, suffix: &str) {
        self.cluster.kubectl(&["delete", "pod", &self.pod(suffix), "--grace-period=0", "--force"]).unwrap();
    }

    /// Reads to its end, and has written what anyone can work out from its input, each row once.
    pub fn ends_exactly(self) {
        let Some(Output { numbers, windows }) = self.ends() else { return };
        let wanted = (0..self.rows).map(|id| (id, 1)).collect();
        differ("numbers", &numbers, &wanted);
        let starts = starts(&windows);
        assert_eq!(starts.len() as u64, self.rows / WINDOW_ROWS, "windows: {starts:?}");
        let keys = starts.iter().flat_map(|start| (0..REMAINDERS).map(|one| ((*start).clone(), one)));
        let wanted = keys.map(|(start, one)| ((start, one, WINDOW_ROWS / REMAINDERS), 1)).collect();
        differ("windows", &windows, &wanted);
        eprintln!("{}: {} numbers and {} windows, each once", self.name, self.rows, windows.len());
    }

    /// As [`Trial::ends_exactly`], of a job that was set back so often: each row at least once, and no oftener than that;
    /// and no window counts another number than it did before.
    pub fn ends_after_going_back(self, times: u32) {
        let Some(Output { numbers, windows }) = self.ends() else { return };
        let missing: Vec<_> = (0..self.rows).filter(|id| !numbers.contains_key(id)).take(5).collect();
        let often: Vec<_> = numbers.iter().filter(|(_, count)| **count > times + 1).take(5).collect();
        assert!(missing.is_empty() && often.is_empty(), "missing: {missing:?}; too often: {often:?}");
        let wrong: Vec<_> = windows.keys().filter(|(_, _, n)| *n != WINDOW_ROWS / REMAINDERS).take(5).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        let groups = (self.rows / WINDOW_ROWS * REMAINDERS) as usize;
        assert_eq!((windows.len(), starts(&windows).len() as u64), (groups, self.rows / WINDOW_ROWS));
        let twice = numbers.values().filter(|count| **count > 1).count();
        eprintln!("{}: {} numbers, {twice} of them more than once", self.name, self.rows);
    }

    fn ends(&self) -> Option<Output> {
        let bound = Duration::from_secs(self.rows / ROWS_PER_SECOND) + START;
        self.cluster.await_job(&self.name, "finished", bound, |job| phase(job) == Some(JobPhase::Finished));
        let Some(folder) = self.cluster.folder_of_claim("state") else {
            eprintln!("the volume is on another machine: its content is not compared");
            return None;
        };
        let numbers = read(&folder.join("out"), |row| row["id"].as_u64());
        let windows = read(&folder.join("windows"), |row| {
            Some((row["window_start"].as_str()?.to_owned(), row["remainder"].as_u64()?, row["n"].as_u64()?))
        });
        Some(Output { numbers, windows })
    }

    /// Rows that are committed so far.
    pub fn committed(&self) -> Option<usize> {
        Some(committed_in(&self.cluster.folder_of_claim("state")?))
    }
}

/// As [`Trial::committed`], of the volume's folder: for when no API server can be asked where that is.
pub fn committed_in(folder: &Path) -> usize {
    read(&folder.join("out"), |row| row["id"].as_u64()).len()
}

/// How often each row was written.
struct Output {
    numbers: BTreeMap<u64, u32>,
    /// Start, remainder, and how many.
    windows: BTreeMap<(String, u64, u64), u32>,
}

fn starts(windows: &BTreeMap<(String, u64, u64), u32>) -> Vec<&String> {
    let mut starts: Vec<&String> = windows.keys().map(|(start, _, _)| start).collect();
    starts.dedup();
    starts
}

pub fn phase(job: &StreamJob) -> Option<JobPhase> {
    job.status.as_ref()?.phase
}

pub fn completed(job: &StreamJob) -> Option<u64> {
    Some(job.status.as_ref()?.checkpoints.as_ref()?.last_completed.as_ref()?.id)
}

fn completed_at_s(job: &StreamJob) -> Option<i64> {
    Some(job.status.as_ref()?.checkpoints.as_ref()?.last_completed.as_ref()?.completed_at.0.as_second())
}

fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

fn differ<K: Ord + std::fmt::Debug>(what: &str, is: &BTreeMap<K, u32>, wanted: &BTreeMap<K, u32>) {
    let more: Vec<_> = is.iter().filter(|(key, count)| wanted.get(key) != Some(count)).take(5).collect();
    let less: Vec<_> = wanted.keys().filter(|key| !is.contains_key(key)).take(5).collect();
    assert!(
        more.is_empty() && less.is_empty(),
        "{what}: wrong or not once: {more:?}; missing: {less:?}; of {}",
        is.len()
    );
}

/// How often each key stands in the files of a folder that are committed.
fn read<K: Ord>(folder: &Path, key: impl Fn(&Value) -> Option<K> + Copy) -> BTreeMap<K, u32> {
    let mut seen = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_'])) {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap_or_default().lines() {
            let row: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{}: `{line}`", path.display()));
            *seen.entry(key(&row).unwrap_or_else(|| panic!("{}: `{line}`", path.display()))).or_default() += 1;
        }
    }
    seen
}
