//! A job that runs on Flink: its counters, its checkpoints, and what it is asked for.

use super::cluster::{FlinkCluster, PATIENCE};
use crate::measure::{CheckpointSample, Measure, SLOWEST_RECORDS_PER_SECOND, Sample};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often the counters are read: the error at either end of the measured window.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A job on a cluster.
pub struct FlinkJob<'a> {
    pub(super) cluster: &'a FlinkCluster,
    pub(super) id: String,
    pub(super) submitted: Instant,
}

impl FlinkJob<'_> {
    /// Lets it run for as long as that, and measures what follows.
    pub fn measure(&self, warm_up: Duration, window: Duration) -> Result<Measure> {
        self.until_running()?;
        let begin = Instant::now() + warm_up;
        let mut samples = vec![];
        let mut last = 0;
        loop {
            let records = self.records()?;
            let now = Instant::now();
            // Flink brings the counter up to date from time to time: a sample is the moment at which it moved.
            if records != last && now >= begin {
                samples.push(Sample { at: now, records, usage: self.cluster.usage()? });
                if now >= begin + window {
                    break;
                }
            }
            if now > begin + window + PATIENCE {
                bail!("Flink's counters stand still; its logs: {}", self.cluster.last_log_lines());
            }
            last = records;
            std::thread::sleep(LOOK_EVERY);
        }
        Measure::of(&samples, &self.checkpoints_since(samples[0].at)?)
    }

    /// From the job's submission until all its tasks run.
    pub fn until_running(&self) -> Result<Duration> {
        self.cluster.wait("running all tasks", || {
            let job = self.job().ok()?;
            let vertices = job["vertices"].as_array()?;
            let runs = |vertex: &Value| vertex["status"] == "RUNNING" || vertex["status"] == "FINISHED";
            let all_run = !vertices.is_empty() && vertices.iter().all(runs);
            (all_run || job["state"] == "FAILED").then_some(())
        })?;
        self.records()?;
        Ok(self.submitted.elapsed())
    }

    /// From the cluster's start until a checkpoint has completed.
    pub fn until_checkpoint(&self) -> Result<Duration> {
        self.wait_for_checkpoints(1)?;
        Ok(self.cluster.started.elapsed())
    }

    pub fn wait_for_checkpoints(&self, count: u64) -> Result<()> {
        self.cluster.wait("a checkpoint", || (self.completed_checkpoints().ok()? >= count).then_some(()))
    }

    pub fn completed_checkpoints(&self) -> Result<u64> {
        let checkpoints = self.cluster.rest.get(&format!("/jobs/{}/checkpoints", self.id))?;
        checkpoints["counts"]["completed"].as_u64().context("Flink counts no checkpoints")
    }

    /// The first number of records that the aggregate reports to have read; waits for it.
    pub fn wait_for_records(&self, records: u64) -> Result<()> {
        let expected = Duration::from_secs(records / SLOWEST_RECORDS_PER_SECOND);
        self.cluster.wait_long("as many records", expected, || (self.records().ok()? >= records).then_some(()))
    }

    /// As `wait_for_records`, but no longer than so.
    pub fn wait_for_records_within(&self, time: Duration, records: u64) -> Result<()> {
        let began = Instant::now();
        self.cluster.wait_long("records", time, || {
            let seen = self.records().ok()?;
            if seen < records && began.elapsed() > time {
                eprintln!("bench: Flink has read {seen} of {records} records in {} s", time.as_secs());
            }
            (seen >= records || began.elapsed() > time).then_some(())
        })
    }

    /// Ends it, and says where its last checkpoint is.
    pub fn cancel(&self) -> Result<String> {
        let checkpoints = self.cluster.rest.get(&format!("/jobs/{}/checkpoints", self.id))?;
        let path = checkpoints["latest"]["completed"]["external_path"].as_str();
        let path = path.context("Flink has no checkpoint")?.to_owned();
        self.cluster.rest.patch(&format!("/jobs/{}?mode=cancel", self.id))?;
        self.cluster.wait("the end of a cancelled job", || {
            self.job().is_ok_and(|job| job["state"] == "CANCELED").then_some(())
        })?;
        Ok(path)
    }

    /// Records that the aggregate has read.
    fn records(&self) -> Result<u64> {
        let job = self.job()?;
        if job["state"] == "FAILED" {
            let exceptions = self.cluster.rest.get(&format!("/jobs/{}/exceptions", self.id))?;
            bail!("Flink's job failed: {}", exceptions["root-exception"].as_str().unwrap_or("it doesn't say why"));
        }
        let vertices = job["vertices"].as_array().context("a job without vertices")?;
        Ok(vertices.last().and_then(|vertex| vertex["metrics"]["read-records"].as_u64()).unwrap_or(0))
    }

    fn job(&self) -> Result<Value> {
        self.cluster.rest.get(&format!("/jobs/{}", self.id))
    }

    /// Those that completed after the moment, as far as Flink remembers them, oldest first.
    pub fn checkpoints_since(&self, from: Instant) -> Result<Vec<CheckpointSample>> {
        let sample = |entry: &Value| {
            let at = instant(entry["latest_ack_timestamp"].as_i64()?)?;
            Some(CheckpointSample {
                at,
                duration_ms: entry["end_to_end_duration"].as_f64()?,
                written_bytes: entry["checkpointed_size"].as_f64()?,
            })
        };
        let completed = self.completed()?;
        let mut samples: Vec<_> = completed.iter().filter_map(sample).filter(|done| done.at > from).collect();
        samples.sort_unstable_by_key(|done| done.at);
        Ok(samples)
    }

    /// The first that was triggered after the moment and has completed; waits for it.
    pub fn checkpoint_triggered_after(&self, from: Instant) -> Result<CheckpointSample> {
        self.cluster.wait("a checkpoint that was triggered since", || {
            let triggered_ms = |entry: &Value| entry["trigger_timestamp"].as_i64();
            let since = |entry: &&Value| triggered_ms(entry).and_then(instant).is_some_and(|at| at > from);
            let completed = self.completed().ok()?;
            let first = completed.iter().filter(since).min_by_key(|entry| triggered_ms(entry))?;
            Some(CheckpointSample {
                at: instant(first["latest_ack_timestamp"].as_i64()?)?,
                duration_ms: first["end_to_end_duration"].as_f64()?,
                written_bytes: first["checkpointed_size"].as_f64()?,
            })
        })
    }

    /// Checkpoints and no savepoints.
    fn completed(&self) -> Result<Vec<Value>> {
        let checkpoints = self.cluster.rest.get(&format!("/jobs/{}/checkpoints", self.id))?;
        let history = checkpoints["history"].as_array().cloned().unwrap_or_default();
        let is_one = |entry: &Value| entry["status"] == "COMPLETED" && entry["is_savepoint"] != true;
        Ok(history.into_iter().filter(is_one).collect())
    }

    /// What a restore reads of the last checkpoint.
    pub fn full_size(&self) -> Result<f64> {
        let checkpoints = self.cluster.rest.get(&format!("/jobs/{}/checkpoints", self.id))?;
        Ok(checkpoints["latest"]["completed"]["state_size"].as_f64().unwrap_or(0.0))
    }

    /// How often it was restarted, as Flink counts it.
    pub fn restarts(&self) -> Result<u64> {
        let ask = || self.cluster.rest.get(&format!("/jobs/{}/metrics?get=numRestarts", self.id));
        // The answer is as old as the question before, which makes Flink look.
        ask()?;
        std::thread::sleep(Duration::from_secs(1));
        let metrics = ask()?;
        let value = metrics[0]["value"].as_str().and_then(|value| value.parse().ok());
        value.context("Flink counts no restarts")
    }

    /// One that runs a part of the last step.
    pub fn task_manager(&self) -> Result<String> {
        let job = self.job()?;
        let vertex = job["vertices"].as_array().and_then(|vertices| vertices.last()?["id"].as_str().map(str::to_owned));
        let vertex = vertex.context("a job without vertices")?;
        let vertex = self.cluster.rest.get(&format!("/jobs/{}/vertices/{vertex}", self.id))?;
        let id = vertex["subtasks"][0]["taskmanager-id"].as_str();
        Ok(id.context("Flink does not say where the job runs")?.to_owned())
    }

    /// Asks the adaptive scheduler for another parallelism, and waits until all tasks run with it.
    pub fn rescale(&self, parallelism: u32) -> Result<()> {
        let job = self.job()?;
        let ids = job["vertices"].as_array().into_iter().flatten().filter_map(|vertex| vertex["id"].as_str());
        let bounds = json!({"parallelism": {"lowerBound": 1, "upperBound": parallelism}});
        let requirements: serde_json::Map<_, _> = ids.map(|id| (id.to_owned(), bounds.clone())).collect();
        self.cluster.rest.put(&format!("/jobs/{}/resource-requirements", self.id), &requirements.into())?;
        self.cluster.wait("the other parallelism", || {
            let job = self.job().ok()?;
            let has_it = |vertex: &Value| vertex["parallelism"] == parallelism && vertex["status"] == "RUNNING";
            let vertices = job["vertices"].as_array()?;
            (job["state"] == "RUNNING" && vertices.iter().all(has_it)).then_some(())
        })
    }

    /// In the format, `NATIVE` or `CANONICAL`; returns where the savepoint stands when the job has ended.
    pub fn stop_with_savepoint(&self, folder: &str, format: &str) -> Result<String> {
        let request = json!({"targetDirectory": folder, "drain": false, "formatType": format});
        let answer = self.cluster.rest.post(&format!("/jobs/{}/stop", self.id), &request)?;
        let trigger = answer["request-id"].as_str().context("Flink took no request for a savepoint")?;
        let path = format!("/jobs/{}/savepoints/{trigger}", self.id);
        let ended = self.cluster.wait("the end of a savepoint", || {
            let savepoint = self.cluster.rest.get(&path).ok()?;
            (savepoint["status"]["id"] == "COMPLETED").then(|| savepoint["operation"].clone())
        })?;
        let location = ended["location"].as_str();
        Ok(location.with_context(|| format!("Flink's savepoint failed: {ended}"))?.to_owned())
    }
}

/// Of Unix time.
fn instant(at_ms: i64) -> Option<Instant> {
    let (now, now_ms) = (Instant::now(), chrono::Utc::now().timestamp_millis());
    match now_ms - at_ms {
        ago @ 0.. => now.checked_sub(Duration::from_millis(ago as u64)),
        ahead => Some(now + Duration::from_millis(ahead.unsigned_abs())),
    }
}
