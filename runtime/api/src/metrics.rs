//! The names of the metrics, in one place: what is served, what is documented and what alerts are written against.

use std::fmt::Write;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Served with `_total` behind its name. Starts anew with each attempt where it is of tasks or operators.
    Counter,
    Gauge,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricKind,
    /// Beside `job_name`, which all have. None of them grows without bound.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const OF_JOB: &[&str] = &[];
const OF_TASK: &[&str] = &["task", "subtask"];
const OF_OPERATOR: &[&str] = &["operator", "subtask"];

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal $labels:ident $help:literal;)*) => {
        $(pub const $id: Metric = Metric { name: $name, kind: MetricKind::$kind, labels: $labels, help: $help };)*
        /// Every metric, in the order in which they are served.
        pub const ALL: &[&Metric] = &[$(&$id),*];
    };
}

const OF_SPLIT: &[&str] = &["operator", "split"];
const OF_BUILD: &[&str] = &["version"];
const OF_PHASE: &[&str] = &["phase"];

metrics! {
    BUILD_INFO = Gauge "weir_build_info" OF_BUILD "1, with the version of the program that coordinates";
    JOB_PHASE = Gauge "weir_job_phase" OF_PHASE "1 for the phase that the job is in, 0 for the others";
    JOB_UPTIME = Gauge "weir_job_uptime_seconds" OF_JOB "Since when the tasks of this attempt run; 0 while they don't";
    JOB_EPOCH = Gauge "weir_job_epoch" OF_JOB "The term of the coordinator";
    JOB_ATTEMPT = Gauge "weir_job_attempt" OF_JOB "Starts of the tasks within the epoch";
    JOB_RESTARTS = Counter "weir_job_restarts" OF_JOB "Restarts after failures under this coordinator";
    WORKERS = Gauge "weir_workers" OF_JOB "Workers that are registered";
    CHECKPOINTS_COMPLETED = Counter "weir_checkpoints_completed" OF_JOB "Checkpoints completed under this coordinator";
    CHECKPOINTS_FAILED = Counter "weir_checkpoints_failed" OF_JOB "Checkpoints given up under this coordinator";
    CHECKPOINTS_FAILED_IN_A_ROW = Gauge "weir_checkpoints_failed_in_a_row" OF_JOB
        "Checkpoints given up since the last that completed";
    CHECKPOINTS_UNDER_WAY = Gauge "weir_checkpoints_under_way" OF_JOB "Checkpoints that are triggered and not decided";
    CHECKPOINT_UNDER_WAY_SECONDS = Gauge "weir_checkpoint_under_way_seconds" OF_JOB
        "How long the oldest checkpoint under way has been so; 0 without one";
    CHECKPOINT_LAST_ID = Gauge "weir_checkpoint_last_id" OF_JOB "Number of the last completed checkpoint";
    CHECKPOINT_LAST_TIMESTAMP = Gauge "weir_checkpoint_last_completed_timestamp_seconds" OF_JOB
        "When the last checkpoint completed, since the Unix epoch";
    CHECKPOINT_LAST_DURATION = Gauge "weir_checkpoint_last_duration_seconds" OF_JOB
        "From trigger to log entry of the last completed checkpoint";
    CHECKPOINT_LAST_SIZE = Gauge "weir_checkpoint_last_size_bytes" OF_JOB "Written for the last completed checkpoint";
    CHECKPOINT_LAST_FULL_SIZE = Gauge "weir_checkpoint_last_full_size_bytes" OF_JOB
        "Read by a restore from the last completed checkpoint";
    CHECKPOINT_LAST_IN_FLIGHT_SIZE = Gauge "weir_checkpoint_last_in_flight_size_bytes" OF_JOB
        "Of the last completed checkpoint, what its barriers overtook; 0 if it was aligned";
    CHECKPOINT_START_DELAY = Gauge "weir_checkpoint_start_delay_seconds" OF_TASK
        "From the trigger to the first barrier, of the last completed checkpoint";
    CHECKPOINT_ALIGNMENT = Gauge "weir_checkpoint_alignment_seconds" OF_TASK
        "From the first barrier to the last, of the last completed checkpoint";
    CHECKPOINT_SYNC = Gauge "weir_checkpoint_sync_seconds" OF_TASK
        "The cut, while nothing is processed, of the last completed checkpoint";
    CHECKPOINT_ASYNC = Gauge "weir_checkpoint_async_seconds" OF_TASK
        "From the cut until its part was written, of the last completed checkpoint";
    CHECKPOINT_BYTES = Gauge "weir_checkpoint_subtask_bytes" OF_TASK
        "Written of its state for the last completed checkpoint";
    TASK_BUSY = Counter "weir_task_busy_seconds" OF_TASK "Time in which the subtask worked";
    TASK_IDLE = Counter "weir_task_idle_seconds" OF_TASK "Time in which it had nothing to read";
    TASK_BACKPRESSURED = Counter "weir_task_backpressured_seconds" OF_TASK
        "Time in which it waited for room in a reader's channel";
    TASK_BYTES_IN = Counter "weir_task_bytes_in" OF_TASK "Bytes of batches taken from channels";
    TASK_BYTES_OUT = Counter "weir_task_bytes_out" OF_TASK "Bytes of batches put into channels";
    OPERATOR_RECORDS_IN = Counter "weir_operator_records_in" OF_OPERATOR "Records that the operator got";
    OPERATOR_RECORDS_OUT = Counter "weir_operator_records_out" OF_OPERATOR "Records that it emitted";
    OPERATOR_LATE_RECORDS = Counter "weir_operator_late_records" OF_OPERATOR
        "Records dropped because they came after the watermark";
    OPERATOR_BAD_RECORDS = Counter "weir_operator_bad_records" OF_OPERATOR
        "Records that could not be decoded, and were skipped or sent to the dead-letter sink";
    OPERATOR_PENDING_RECORDS = Gauge "weir_operator_pending_records" OF_OPERATOR
        "Records that wait outside to be read by a source: the lag of its Kafka partitions; absent where a source can't tell";
    OPERATOR_PENDING_BYTES = Gauge "weir_operator_pending_bytes" OF_OPERATOR
        "Bytes that the other side keeps for a source: the write-ahead log behind its PostgreSQL slot; absent where a source can't tell";
    SPLIT_PENDING_RECORDS = Gauge "weir_split_pending_records" OF_SPLIT
        "Records of a split that wait to be read: the lag of a Kafka partition. Of the first 200 splits of a source by their names";
    SPLIT_BEHIND = Gauge "weir_split_behind_seconds" OF_SPLIT
        "Between the newest record of a split and the last one that was read: the lag of a Kinesis shard. Of the first 200 splits of a source by their names";
    OPERATOR_WATERMARK = Gauge "weir_operator_watermark_timestamp_seconds" OF_OPERATOR
        "Event time of the operator's watermark, since the Unix epoch; absent before the first and after the end of input";
    ROCKSDB_LIVE_FILES = Gauge "weir_rocksdb_live_file_bytes" OF_JOB
        "RocksDB's files, where state is kept there by this process";
    ROCKSDB_PENDING_COMPACTION = Gauge "weir_rocksdb_pending_compaction_bytes" OF_JOB "What RocksDB has yet to compact";
    ROCKSDB_BLOCK_CACHE = Gauge "weir_rocksdb_block_cache_bytes" OF_JOB "What RocksDB's block cache holds";
    ROCKSDB_STOPPED_STORES = Gauge "weir_rocksdb_stopped_stores" OF_JOB "Stores that take no writes until they compacted";
}

/// The table in `docs/reference/metrics.md`.
pub fn markdown() -> String {
    let mut text = "\
# Metrics
<!-- Generated: cargo xtask api -->
What `/metrics` of the process that coordinates a job serves, in the OpenMetrics text format. All have the label
`job_name`. How to collect and read them is in [monitoring](../monitoring.md).

| Metric | Type | Labels | |
|---|---|---|---|
"
    .to_owned();
    for metric in ALL {
        let (suffix, kind) = match metric.kind {
            MetricKind::Counter => ("_total", "counter"),
            MetricKind::Gauge => ("", "gauge"),
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(text, "| `{}{suffix}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help).ok();
    }
    text.push_str(
        "\n`task` is the operator UID of the first operator of a chain, `operator` that of any, `subtask` counts from \
         0. Counters of\ntasks and operators begin anew with each attempt, as `rate()` expects of a process that \
         restarts.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_as_prometheus_has_them() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for Metric { name, help, .. } in ALL {
            assert!(name.starts_with("weir_") && !name.ends_with("_total"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}: {help}");
        }
    }
}
