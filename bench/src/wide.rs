//! The job with which failures and rescales are measured, for both engines: a count and ten sums by key. First each key
//! comes once, then keys change at a fixed rate, far below what either engine can do: what is measured is the
//! interruption, not the backlog. Of each so many keys one is printed: a thousand lines a second.

use crate::flink::{FlinkCluster, FlinkJob, FlinkSettings};
use crate::settings::{Backend, name};
use crate::weir::job_head;
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// A gigabyte, in rows of a key, a count and ten sums.
pub const KEYS: u64 = 10_000_000;
/// Changed keys, each second.
pub const CHANGES_PER_SECOND: u64 = 50_000;
const PRINTED: u64 = 50;
const SUMS: u32 = 10;
pub const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct WideJob {
    pub keys: u64,
    pub backend: Backend,
    pub parallelism: u32,
    /// Whether workers keep copies of checkpoints.
    pub local_recovery: bool,
    /// Whether it restarts after a failure, as by default; else the first one ends it.
    pub restarts: bool,
}

impl WideJob {
    pub fn yaml(&self, folder: &Path) -> String {
        let WideJob { keys, backend, parallelism, local_recovery, restarts } = self;
        let sums: Vec<String> = (0..SUMS).map(|sum| format!("SUM(k + {sum}) AS s{sum}")).collect();
        format!(
            "{head}    - name: numbers
      schema: [{{name: k, type: BIGINT}}]
      generator: {{count: {keys}, columns: [{{name: k, sequence: {{}}}}]}}
    - name: changes
      schema: [{{name: k, type: BIGINT}}]
      generator:
        rowsPerSecond: {CHANGES_PER_SECOND}
        columns: [{{name: k, sequence: {{cardinality: {keys}, order: Mixed}}}}]
    transforms:
    - name: both
      sql: SELECT k FROM numbers UNION ALL SELECT k FROM changes
    - name: totals
      sql: SELECT k, COUNT(*) AS c, {sums} FROM both GROUP BY k
    - name: some
      sql: SELECT k, c FROM totals WHERE MOD(k, {PRINTED}) = 0
    sinks:
    - {{name: out, from: some, print: {{}}}}
  checkpoint:
    interval: {interval_ms}ms
    minPause: 0s
    storage: {{uri: \"file://{storage}\"}}
  stateBackend: {{{backend}: {{localRecovery: {local_recovery}}}}}
{restart}",
            head = job_head("bench", *parallelism),
            sums = sums.join(", "),
            storage = folder.join("checkpoints").display(),
            backend = name(*backend),
            interval_ms = INTERVAL.as_millis(),
            restart = if *restarts { "" } else { "  restart: {none: {}}\n" },
        )
    }

    /// As Flink runs it best on two TaskManagers.
    pub fn flink_settings(&self, memory: &str) -> FlinkSettings {
        let settings = FlinkSettings::new(self.parallelism, self.backend, Some(INTERVAL), memory);
        FlinkSettings { task_managers: self.parallelism, slots: 1, ..settings }
    }

    /// The DataStream program, from where it stands in `restore`.
    pub fn run_on_flink<'a>(
        &self,
        cluster: &'a FlinkCluster,
        parallelism: u32,
        restore: Option<&str>,
    ) -> Result<FlinkJob<'a>> {
        let arguments = [self.keys, u64::from(SUMS), CHANGES_PER_SECOND, PRINTED].map(|number| number.to_string());
        cluster.run_jar("WideAggregate", &arguments, parallelism, restore)
    }
}
