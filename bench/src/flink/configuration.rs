//! What Flink's processes are told, beside its defaults.

use crate::settings::Backend;
use anyhow::{Context, Result};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct FlinkSettings {
    pub parallelism: u32,
    pub backend: Backend,
    pub interval: Option<Duration>,
    /// Of a TaskManager's process, as Flink writes it: `4g`.
    pub memory: String,
    /// Of that, for RocksDB; by Flink's default four tenths.
    pub managed_memory: Option<String>,
    pub task_managers: u32,
    /// Of each TaskManager.
    pub slots: u32,
    /// More of Flink's settings, by its names.
    pub more: Vec<(&'static str, String)>,
}

impl FlinkSettings {
    /// One TaskManager with as many slots as are needed.
    pub fn new(parallelism: u32, backend: Backend, interval: Option<Duration>, memory: &str) -> Self {
        FlinkSettings {
            parallelism,
            backend,
            interval,
            memory: memory.to_owned(),
            managed_memory: None,
            task_managers: 1,
            slots: parallelism,
            more: vec![],
        }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.more.push((name, value.to_string()));
        self
    }
}

pub const LOGGING: &str = "rootLogger.level=INFO
rootLogger.appenderRef.f.ref=F
appender.f.type=File
appender.f.name=F
appender.f.fileName=${sys:log.file}
appender.f.layout.type=PatternLayout
appender.f.layout.pattern=%d %p %c{1} %m%n
";

pub fn configuration(settings: &FlinkSettings, folder: &Path, rest_port: u16) -> Result<String> {
    let FlinkSettings { parallelism, backend, interval, memory, managed_memory, task_managers: _, slots, more } =
        settings;
    let backend_type = match backend {
        Backend::Heap => "hashmap",
        Backend::Rocksdb => "rocksdb",
    };
    // What RocksDB doesn't use goes to the heap.
    let managed = match (backend, managed_memory) {
        (Backend::Heap, _) => "taskmanager.memory.managed.size: 0m".to_owned(),
        (Backend::Rocksdb, Some(size)) => format!("taskmanager.memory.managed.size: {size}"),
        (Backend::Rocksdb, None) => "taskmanager.memory.managed.fraction: 0.4".to_owned(),
    };
    let checkpointing = match interval {
        Some(interval) => format!("execution.checkpointing.interval: {}ms", interval.as_millis()),
        None => String::new(),
    };
    // A name that stands twice is refused: what is asked for replaces what is set here.
    let restart = match more.iter().any(|(name, _)| name.starts_with("restart-strategy")) {
        true => "",
        false => "restart-strategy.type: none",
    };
    let more: String = more.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    Ok(format!(
        "jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc_port}
jobmanager.bind-host: 127.0.0.1
jobmanager.memory.process.size: 1600m
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: {slots}
taskmanager.memory.process.size: {memory}
{managed}
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {rest_port}
blob.server.port: {blob_port}
web.upload.dir: {folder}/upload
parallelism.default: {parallelism}
io.tmp.dirs: {folder}/tmp
metrics.fetcher.update-interval: 100
web.refresh-interval: 100
web.checkpoints.history: 100
{restart}
state.backend.type: {backend_type}
{checkpointing}
execution.checkpointing.mode: EXACTLY_ONCE
execution.checkpointing.incremental: true
execution.checkpointing.dir: file://{folder}/checkpoints
execution.checkpointing.externalized-checkpoint-retention: RETAIN_ON_CANCELLATION
{more}",
        rpc_port = free_port()?,
        blob_port = free_port()?,
        folder = folder.display(),
    ))
}

/// One that nobody listens on now.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("there is no free port")?;
    Ok(listener.local_addr()?.port())
}
