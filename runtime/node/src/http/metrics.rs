//! What Prometheus reads: made of the runner's status when it asks, so that nothing is counted twice.

use super::view;
use crate::job::Job;
use crate::metrics::SplitLags;
use crate::physical::PhysicalPlan;
use crate::status::JobStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use std::fmt;
use weir_api::metrics::*;
use weir_connectors::api::{Lag, SplitLag};

pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PHASES: [&str; 9] =
    ["Deploying", "Running", "Restarting", "Ending", "Finished", "Stopped", "Cancelled", "Failed", "Fenced"];

#[derive(Debug)]
pub(super) struct Samples {
    job_name: String,
    all: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    metric: &'static Metric,
    /// As the metric's labels.
    labels: Vec<String>,
    value: f64,
}

impl Samples {
    pub(super) fn of(status: &JobStatus, started: &Job, now_ms: u64) -> Self {
        let job = status.job.as_deref().unwrap_or(started);
        let mut samples = Samples { job_name: job.name.clone(), all: vec![] };
        samples.job(status, now_ms);
        samples.checkpoints(status, now_ms);
        samples.tasks(status, job);
        samples.rocksdb(status);
        samples
    }

    pub(super) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a String takes everything");
        text
    }

    fn job(&mut self, status: &JobStatus, now_ms: u64) {
        self.add(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        let phase = format!("{:?}", view::phase(status));
        PHASES.iter().for_each(|other| self.add(&JOB_PHASE, &[other], f64::from(*other == phase)));
        let since_ms = status.running_since_ms.unwrap_or(now_ms);
        self.add(&JOB_UPTIME, &[], of_ms(now_ms.saturating_sub(since_ms)));
        self.add(&JOB_EPOCH, &[], status.epoch as f64);
        self.add(&JOB_ATTEMPT, &[], f64::from(status.attempt));
        self.add(&JOB_RESTARTS, &[], status.restarts as f64);
        self.add(&WORKERS, &[], status.workers.len() as f64);
    }

    fn checkpoints(&mut self, status: &JobStatus, now_ms: u64) {
        self.add(&CHECKPOINTS_COMPLETED, &[], status.completed_checkpoints as f64);
        self.add(&CHECKPOINTS_FAILED, &[], status.failed_checkpoints as f64);
        self.add(&CHECKPOINTS_FAILED_IN_A_ROW, &[], f64::from(status.checkpoints_failed_in_a_row));
        self.add(&CHECKPOINTS_UNDER_WAY, &[], status.under_way.len() as f64);
        let oldest_ms = status.under_way.iter().map(|under_way| under_way.triggered_ms).min().unwrap_or(now_ms);
        self.add(&CHECKPOINT_UNDER_WAY_SECONDS, &[], of_ms(now_ms.saturating_sub(oldest_ms)));
        let Some(last) = status.checkpoints.iter().rev().find(|line| line.failure.is_none()) else { return };
        self.add(&CHECKPOINT_LAST_ID, &[], last.checkpoint as f64);
        self.add(&CHECKPOINT_LAST_TIMESTAMP, &[], of_ms(last.triggered_ms + last.duration_ms));
        self.add(&CHECKPOINT_LAST_DURATION, &[], of_ms(last.duration_ms));
        self.add(&CHECKPOINT_LAST_SIZE, &[], last.new_bytes as f64);
        self.add(&CHECKPOINT_LAST_FULL_SIZE, &[], last.full_bytes as f64);
        self.add(&CHECKPOINT_LAST_IN_FLIGHT_SIZE, &[], last.in_flight_bytes as f64);
        for (task, figures) in &last.subtasks {
            let labels = [task.operator.as_str(), &task.index.to_string()];
            let start_delay_ms = figures.first_barrier_ms.saturating_sub(last.triggered_ms);
            self.add(&CHECKPOINT_START_DELAY, &labels, of_ms(start_delay_ms));
            self.add(&CHECKPOINT_ALIGNMENT, &labels, of_us(figures.alignment_us));
            self.add(&CHECKPOINT_SYNC, &labels, of_us(figures.sync_us));
            self.add(&CHECKPOINT_ASYNC, &labels, of_us(figures.async_us));
            self.add(&CHECKPOINT_BYTES, &labels, figures.bytes as f64);
        }
    }

    fn tasks(&mut self, status: &JobStatus, job: &Job) {
        for task in PhysicalPlan::of(&job.graph).tasks {
            let Some(head) = status.nodes.get(task.nodes[0].0) else { continue };
            for (index, metrics) in head.subtasks.iter().enumerate() {
                let labels = [head.uid.as_str(), &index.to_string()];
                let time = metrics.task.clock.totals();
                self.add(&TASK_BUSY, &labels, of_us(time.busy_us()));
                self.add(&TASK_IDLE, &labels, of_us(time.idle_us));
                self.add(&TASK_BACKPRESSURED, &labels, of_us(time.backpressured_us));
                self.add(&TASK_BYTES_IN, &labels, metrics.task.bytes_in.get() as f64);
                self.add(&TASK_BYTES_OUT, &labels, metrics.task.bytes_out.get() as f64);
            }
        }
        for node in &status.nodes {
            let lags = node.subtasks.iter().flat_map(|metrics| metrics.split_lags.get()).collect();
            for SplitLag { split, lag } in SplitLags::shown(lags) {
                let labels = [node.uid.as_str(), &split];
                match lag {
                    Lag::Records(records) => self.add(&SPLIT_PENDING_RECORDS, &labels, records as f64),
                    Lag::Millis(behind_ms) => self.add(&SPLIT_BEHIND, &labels, of_ms(behind_ms)),
                }
            }
            for (index, metrics) in node.subtasks.iter().enumerate() {
                let labels = [node.uid.as_str(), &index.to_string()];
                self.add(&OPERATOR_RECORDS_IN, &labels, metrics.records_in.get() as f64);
                self.add(&OPERATOR_RECORDS_OUT, &labels, metrics.records_out.get() as f64);
                self.add(&OPERATOR_LATE_RECORDS, &labels, metrics.late_records.get() as f64);
                self.add(&OPERATOR_BAD_RECORDS, &labels, metrics.bad_records.get() as f64);
                if let Ok(pending) = u64::try_from(metrics.pending_records.get()) {
                    self.add(&OPERATOR_PENDING_RECORDS, &labels, pending as f64);
                }
                if let Ok(pending) = u64::try_from(metrics.pending_bytes.get()) {
                    self.add(&OPERATOR_PENDING_BYTES, &labels, pending as f64);
                }
                let watermark_us = metrics.watermark_us.get();
                if !matches!(watermark_us, i64::MIN | i64::MAX) {
                    self.add(&OPERATOR_WATERMARK, &labels, watermark_us as f64 / 1e6);
                }
            }
        }
    }

    fn rocksdb(&mut self, status: &JobStatus) {
        let Some(figures) = status.rocksdb() else { return };
        self.add(&ROCKSDB_LIVE_FILES, &[], figures.live_file_bytes as f64);
        self.add(&ROCKSDB_PENDING_COMPACTION, &[], figures.pending_compaction_bytes as f64);
        self.add(&ROCKSDB_BLOCK_CACHE, &[], figures.block_cache_bytes as f64);
        self.add(&ROCKSDB_STOPPED_STORES, &[], figures.stopped_stores as f64);
    }

    fn add(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        assert_eq!(metric.labels.len(), labels.len(), "the labels of {}", metric.name);
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        self.all.push(Sample { metric, labels, value });
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for metric in ALL {
            let kind = match metric.kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge => MetricType::Gauge,
            };
            let of_metric = self.all.iter().filter(|sample| sample.metric.name == metric.name);
            let mut of_metric = of_metric.peekable();
            if of_metric.peek().is_none() {
                continue;
            }
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for sample in of_metric {
                let labels = Labels { job_name: &self.job_name, sample };
                let mut one = family.encode_family(&labels)?;
                match metric.kind {
                    MetricKind::Counter => one.encode_counter(&sample.value, None::<&Exemplar<NoLabels, f64>>)?,
                    MetricKind::Gauge => one.encode_gauge(&sample.value)?,
                }
            }
        }
        Ok(())
    }
}

type NoLabels = Vec<(String, String)>;

struct Labels<'a> {
    job_name: &'a str,
    sample: &'a Sample,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder) -> Result<(), fmt::Error> {
        let own = self.sample.metric.labels.iter().copied().zip(self.sample.labels.iter().map(String::as_str));
        let all: Vec<(&str, &str)> = [("job_name", self.job_name)].into_iter().chain(own).collect();
        all.as_slice().encode(encoder)
    }
}

fn of_ms(ms: u64) -> f64 {
    ms as f64 / 1e3
}

fn of_us(us: u64) -> f64 {
    us as f64 / 1e6
}
