//! Checkpoints, their storage, and the state backend.

use super::{Findings, human, standing};
use crate::{
    ByteSize, HumanDuration, defaults,
    streamjob::{CheckpointMode, CheckpointPolicy, CheckpointStorage, RocksDbOptions, STORAGE_SCHEMES, StreamJobSpec},
    suggest::nearest,
};

pub(super) fn check(spec: &StreamJobSpec, findings: &mut Findings) {
    if let Some(checkpoint) = &spec.checkpoint {
        policy(checkpoint, findings);
        if let Some(storage) = &checkpoint.storage {
            self::storage(storage, findings);
        }
    }
    if let Some(backend) = &spec.state_backend {
        let named = standing(&[("heap", backend.heap.is_some()), ("rocksdb", backend.rocksdb.is_some())]);
        if named.len() > 1 {
            findings.exactly_one("spec.stateBackend", "state backend", &named, &["heap", "rocksdb"]);
        }
        if let Some(rocksdb) = &backend.rocksdb {
            self::rocksdb(spec, rocksdb, findings);
        }
    }
}

fn policy(checkpoint: &CheckpointPolicy, findings: &mut Findings) {
    let minimum = defaults::CHECKPOINT_INTERVAL_MIN;
    if checkpoint.interval() < minimum.get() {
        findings.error(
            "spec.checkpoint.interval",
            format!("{} is shorter than {minimum}", human(checkpoint.interval())),
            format!("write {minimum} or more; to take no checkpoints remove spec.checkpoint"),
        );
    }
    if checkpoint.timeout().is_zero() {
        findings.error("spec.checkpoint.timeout", "no checkpoint could complete", "write how long one may take");
    }
    if checkpoint.max_concurrent() > 1 && !checkpoint.min_pause().is_zero() {
        findings.warning(
            "spec.checkpoint.maxConcurrent",
            format!("a minPause of {} lets only one checkpoint run at a time", human(checkpoint.min_pause())),
            "remove minPause or maxConcurrent",
        );
    }
    if checkpoint.aligned_timeout().is_some() {
        unaligned(checkpoint, findings);
    }
    if let Some(retain) = &checkpoint.retain {
        if retain.count == Some(0) {
            findings.error("spec.checkpoint.retain.count", "the latest checkpoint must stay", "write 1 or more");
        }
        if retain.max_age.is_some_and(HumanDuration::is_zero) {
            findings.error("spec.checkpoint.retain.maxAge", "nothing would stay", "remove it, or write an age");
        }
    }
}

fn unaligned(checkpoint: &CheckpointPolicy, findings: &mut Findings) {
    if checkpoint.mode() != CheckpointMode::ExactlyOnce {
        findings.error(
            "spec.checkpoint.unaligned.enabled",
            "checkpoints in mode AtLeastOnce are never aligned, so there is nothing to turn off",
            "set mode: ExactlyOnce, or remove `unaligned`",
        );
    }
    if checkpoint.max_concurrent() != 1 {
        findings.error(
            "spec.checkpoint.maxConcurrent",
            "with unaligned checkpoints only one can run at a time",
            "set maxConcurrent: 1, or remove `unaligned`",
        );
    }
}

fn storage(storage: &CheckpointStorage, findings: &mut Findings) {
    let path = "spec.checkpoint.storage.uri";
    let Some((scheme, rest)) = storage.uri.split_once("://") else {
        findings.error(path, format!("`{}` is not a URI", storage.uri), "write file:///path, s3://bucket/prefix, ...");
        return;
    };
    match scheme {
        "memory" => findings.warning(
            path,
            "memory:// is for development: its checkpoints are gone with the process",
            "use file:///path or an object store",
        ),
        "file" if rest.is_empty() => findings.error(path, "the URI has no path", "write file:///path"),
        "file" if !rest.starts_with(['/', '.']) => findings.error(
            path,
            format!("`{}` names a host, not a directory", storage.uri),
            format!("write file:///{rest}, or file://./{rest} from where the job is started"),
        ),
        "s3" | "gs" | "az" | "abfss" | "hdfs" if rest.split('/').next().unwrap_or_default().is_empty() => {
            findings.error(
                path,
                format!("the URI names no {}", place(scheme)),
                format!("write {scheme}://{}/prefix", place(scheme)),
            );
        }
        "abfss" if !rest.split('/').next().unwrap_or_default().contains('@') => findings.error(
            path,
            "an abfss URI names container and account",
            "write abfss://container@account.dfs.core.windows.net/prefix",
        ),
        scheme if STORAGE_SCHEMES.contains(&scheme) => {}
        scheme => {
            let remedy = match nearest(scheme, STORAGE_SCHEMES) {
                Some(meant) => format!("did you mean {meant}://?"),
                None => format!("the schemes are {}", STORAGE_SCHEMES.join(", ")),
            };
            findings.error(path, format!("the scheme `{scheme}` is unknown"), remedy);
        }
    }
    if storage.endpoint.is_some() && matches!(scheme, "file" | "memory" | "hdfs") {
        findings.warning("spec.checkpoint.storage.endpoint", format!("{scheme}:// has no endpoint"), "remove it");
    }
    if storage.credentials.is_some() && matches!(scheme, "file" | "memory" | "hdfs") {
        let remedy = "remove them; HDFS takes HADOOP_USER_NAME or a Kerberos ticket";
        findings.error("spec.checkpoint.storage.credentials", format!("{scheme}:// takes no credentials"), remedy);
    }
    if storage.path_style.is_some() && scheme != "s3" {
        findings.warning("spec.checkpoint.storage.pathStyle", "only s3:// knows it", "remove it");
    }
}

fn place(scheme: &str) -> &'static str {
    match scheme {
        "az" | "abfss" => "container",
        "hdfs" => "namenode",
        _ => "bucket",
    }
}

/// The least with which a RocksDB instance does useful work.
const ROCKSDB_MEMORY_MIN: ByteSize = ByteSize::from_mib(8);

fn rocksdb(spec: &StreamJobSpec, rocksdb: &RocksDbOptions, findings: &mut Findings) {
    let path = "spec.stateBackend.rocksdb";
    if rocksdb.memory() < ROCKSDB_MEMORY_MIN {
        findings.error(
            format!("{path}.memory"),
            format!("{} is too little for RocksDB", rocksdb.memory()),
            format!("write {ROCKSDB_MEMORY_MIN} or more"),
        );
    }
    for (field, ratio) in [
        ("writeBufferRatio", rocksdb.write_buffer_ratio()),
        ("highPriorityPoolRatio", rocksdb.high_priority_pool_ratio()),
    ] {
        if !(0.0..=1.0).contains(&ratio) {
            findings.error(
                format!("{path}.{field}"),
                format!("{ratio} is not a part of the whole"),
                "write a number from 0 to 1",
            );
        }
    }
    if rocksdb.write_buffer_ratio() + rocksdb.high_priority_pool_ratio() > 1.0 {
        findings.error(
            format!("{path}.writeBufferRatio"),
            "writeBufferRatio and highPriorityPoolRatio are more than the whole memory together",
            "lower one of them",
        );
    }
    let resources = spec.pods.as_ref().and_then(|pods| pods.workers.as_ref()?.resources.as_ref());
    let limit = resources.and_then(|resources| resources.limits.get("memory").or(resources.requests.get("memory")));
    if let Some(limit) = limit.and_then(|limit| limit.0.parse::<ByteSize>().ok())
        && rocksdb.memory() >= limit
    {
        findings.error(
            format!("{path}.memory"),
            format!("RocksDB may use {}, and a worker pod has {limit} for everything", rocksdb.memory()),
            "lower it to about half of the pod's memory, or raise spec.pods.workers.resources",
        );
    }
}
