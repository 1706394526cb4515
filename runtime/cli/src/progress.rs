//! What `weir run` shows: a line for each checkpoint as it ends, and a table of the steps every few seconds.

use crate::text;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weir_node::{Job, NodeStatus, RocksDbFigures, StatusHandle};

/// From one table of the steps to the next.
const TABLE_EVERY: Duration = Duration::from_secs(2);
/// How soon a checkpoint or restart is shown.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The thread that shows progress on standard error; standard output is the sinks' and the result's.
pub(crate) struct Progress {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn start(job: &Job, status: StatusHandle, quiet: bool) -> Self {
        if quiet {
            return Progress { end: None, thread: None };
        }
        let (end, ended) = channel();
        let mut view = View::new(job.name.clone(), status);
        let thread = std::thread::spawn(move || {
            loop {
                let waited = ended.recv_timeout(LOOK_EVERY);
                let is_last = !matches!(waited, Err(RecvTimeoutError::Timeout));
                eprint!("{}", view.news(is_last));
                if is_last {
                    return;
                }
            }
        });
        Progress { end: Some(end), thread: Some(thread) }
    }

    /// Shows the rest.
    pub(crate) fn end(self) {
        drop(self.end);
        if let Some(thread) = self.thread {
            thread.join().ok();
        }
    }
}

struct View {
    job: String,
    status: StatusHandle,
    started: Instant,
    shown_phase: String,
    shown_checkpoints: usize,
    shown_restarts: u64,
    shown_parallelism: u32,
    shown_wait: Option<String>,
    table_at: Instant,
    /// Records in and out of each node at the last table.
    before: BTreeMap<String, u64>,
    before_at: Instant,
}

impl View {
    fn new(job: String, status: StatusHandle) -> Self {
        let now = Instant::now();
        View {
            job,
            status,
            started: now,
            shown_phase: String::new(),
            shown_checkpoints: 0,
            shown_restarts: 0,
            shown_parallelism: 0,
            shown_wait: None,
            table_at: now + TABLE_EVERY,
            before: BTreeMap::new(),
            before_at: now,
        }
    }

    /// What is new since the last call, as text.
    fn news(&mut self, is_last: bool) -> String {
        let mut out = String::new();
        let status = self.status.clone();
        let status = status.lock();
        if status.phase != self.shown_phase {
            let from = match &status.restored_from {
                Some(from) if status.phase == "Running" => format!(" from {from}"),
                _ => String::new(),
            };
            writeln!(out, "{}  {}{from} (epoch {}, attempt {})", self.job, status.phase, status.epoch, status.attempt)
                .ok();
            self.shown_phase = status.phase.clone();
        }
        // Not told from the phase, which is over before anybody looks when the delay is short.
        if status.restarts > self.shown_restarts {
            let why = status.last_restart.as_deref().unwrap_or("of an unknown failure");
            writeln!(out, "{}  restart {} after {why}", self.job, status.restarts).ok();
            self.shown_restarts = status.restarts;
        }
        if status.parallelism != self.shown_parallelism {
            if self.shown_parallelism != 0 {
                writeln!(out, "{}  is rescaled to parallelism {}", self.job, status.parallelism).ok();
            }
            self.shown_parallelism = status.parallelism;
        }
        if status.waits_for != self.shown_wait {
            if let Some(wait) = &status.waits_for {
                writeln!(out, "{}  has {wait}", self.job).ok();
            }
            self.shown_wait = status.waits_for.clone();
        }
        let skip = self.shown_checkpoints.saturating_sub(status.checkpoints_before);
        for line in status.checkpoints.iter().skip(skip) {
            match &line.failure {
                None => writeln!(
                    out,
                    "{}  checkpoint {} {:?} in {}, {} new of {}{}",
                    self.job,
                    line.checkpoint,
                    line.kind,
                    text::duration(line.duration_ms),
                    text::bytes(line.new_bytes),
                    text::bytes(line.full_bytes),
                    text::unaligned(line.is_unaligned, line.in_flight_bytes)
                ),
                Some(reason) => writeln!(out, "{}  checkpoint {} failed: {reason}", self.job, line.checkpoint),
            }
            .ok();
        }
        self.shown_checkpoints = status.checkpoints_before + status.checkpoints.len();
        let now = Instant::now();
        if now >= self.table_at || is_last {
            self.table_at = now + TABLE_EVERY;
            out.push_str(&self.table(&status.nodes, now));
            if let Some(figures) = status.rocksdb().filter(|figures| figures.stores > 0) {
                writeln!(out, "{}", rocksdb(&figures)).ok();
            }
        }
        out
    }

    fn table(&mut self, nodes: &[NodeStatus], now: Instant) -> String {
        let seconds = (now - self.before_at).as_secs_f64().max(1e-3);
        let mut rows = vec![];
        for node in nodes {
            let seen = if node.is_source { node.records_out() } else { node.records_in() };
            let before = self.before.insert(node.uid.clone(), seen).unwrap_or(0);
            // A restart counts anew.
            let rate = seen.saturating_sub(before) as f64 / seconds;
            rows.push(vec![
                node.uid.clone(),
                if node.is_source { String::new() } else { text::count(node.records_in()) },
                if node.is_sink { String::new() } else { text::count(node.records_out()) },
                text::rate(rate),
                if node.watermark_us() == i64::MIN { String::new() } else { text::event_time(node.watermark_us()) },
                notes(node),
            ]);
        }
        self.before_at = now;
        let elapsed = text::duration((now - self.started).as_millis() as u64);
        format!(
            "\n{}  after {elapsed}\n{}\n",
            self.job,
            text::table(&["STEP", "IN", "OUT", "RATE", "WATERMARK", ""], &rows)
        )
    }
}

fn notes(node: &NodeStatus) -> String {
    let late = node.late_records();
    let bad = node.bad_records();
    let late = (late > 0).then(|| format!("{} late", text::count(late)));
    let bad = (bad > 0).then(|| format!("{} bad", text::count(bad)));
    [late, bad].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn rocksdb(figures: &RocksDbFigures) -> String {
    let levels: Vec<String> = figures.files_by_level.iter().map(u64::to_string).collect();
    let writes = match (figures.stopped_stores, figures.delayed_write_bytes_per_second) {
        (0, 0) => String::new(),
        (0, rate) => format!("; writes held back to {}/s", text::bytes(rate)),
        (stopped, _) => format!("; {stopped} of {} stores take no writes", figures.stores),
    };
    format!(
        "rocksdb: {} in files ({} by level), {} to compact, {} compactions and {} flushes running, block cache {} of \
         {}{writes}",
        text::bytes(figures.live_file_bytes),
        levels.join(" "),
        text::bytes(figures.pending_compaction_bytes),
        figures.running_compactions,
        figures.running_flushes,
        text::bytes(figures.block_cache_bytes),
        text::bytes(figures.block_cache_capacity_bytes),
    )
}
