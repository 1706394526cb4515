//! What the process remembers of jobs between two looks: only when to look again. Lost with it, nothing is decided
//! otherwise.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use weir_crds::StreamJob;

const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How often each job's reconcile has failed in a row.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<String, u32>>);

impl Failures {
    /// How long to wait after another one.
    pub fn next(&self, job: &StreamJob) -> Duration {
        let mut failures = lock(&self.0);
        let count = failures.entry(key(job)).or_default();
        *count = count.saturating_add(1);
        BACKOFF_MAX.min(BACKOFF_MIN * 2_u32.saturating_pow((*count).min(10) - 1))
    }

    pub fn forget(&self, job: &StreamJob) {
        lock(&self.0).remove(&key(job));
    }
}

/// When each job's Checkpoints were last shown.
#[derive(Default)]
pub struct Views(Mutex<HashMap<String, Instant>>);

impl Views {
    /// Whether they are to be shown again. Of a job that was never shown by this process it is at some time within
    /// `every`: an operator that has just started would otherwise show all at once.
    pub fn is_due(&self, job: &StreamJob, every: Duration, now: Instant) -> bool {
        let mut shown = lock(&self.0);
        let last = shown.entry(key(job)).or_insert_with(|| now.checked_sub(share(job, every)).unwrap_or(now));
        let is_due = now.saturating_duration_since(*last) >= every;
        if is_due {
            *last = now;
        }
        is_due
    }

    pub fn forget(&self, job: &StreamJob) {
        lock(&self.0).remove(&key(job));
    }
}

/// Jobs of whose Checkpoints a pin was set or taken away, and not yet seen to.
#[derive(Default)]
pub struct Pins(Mutex<HashSet<String>>);

impl Pins {
    pub fn ask(&self, namespace: &str, job: &str) {
        lock(&self.0).insert(format!("{namespace}/{job}"));
    }

    pub fn are_asked(&self, job: &StreamJob) -> bool {
        lock(&self.0).contains(&key(job))
    }

    /// From here on: one that is asked meanwhile is asked anew.
    pub fn forget(&self, job: &StreamJob) {
        lock(&self.0).remove(&key(job));
    }
}

/// A part of the time, another for each job.
fn share(job: &StreamJob, of: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    key(job).hash(&mut hasher);
    of.mul_f64(hasher.finish() as f64 / u64::MAX as f64)
}

/// `namespace/name`.
pub fn key(job: &StreamJob) -> String {
    format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any())
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str) -> StreamJob {
        let text = format!("{{metadata: {{name: {name}}}, spec: {{pipeline: {{sources: [], sinks: []}}}}}}");
        serde_yaml::from_str(&format!("{{apiVersion: weir.dev/v1alpha1, kind: StreamJob, {}", &text[1..])).unwrap()
    }

    #[test]
    fn after_a_start_jobs_are_shown_one_after_the_other() {
        let (views, start, every) = (Views::default(), Instant::now(), Duration::from_secs(100));
        let jobs: Vec<StreamJob> = (0..1_000).map(|number| job(&format!("job-{number}"))).collect();
        let mut shown = vec![0; jobs.len()];
        for second in 0..300 {
            let now = start + Duration::from_secs(second);
            let due = jobs.iter().enumerate().filter(|(_, job)| views.is_due(job, every, now));
            let due: Vec<usize> = due.map(|(nth, _)| nth).collect();
            assert!(due.len() < 50, "{} at second {second}", due.len());
            due.into_iter().for_each(|nth| shown[nth] += 1);
        }
        assert!(shown.iter().all(|times| (2..=3).contains(times)), "{shown:?}");
    }

    #[test]
    fn failures_are_waited_after_ever_longer() {
        let (failures, job) = (Failures::default(), job("a"));
        let waits: Vec<u128> = (0..9).map(|_| failures.next(&job).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        failures.forget(&job);
        assert_eq!(failures.next(&job), BACKOFF_MIN);
    }
}
