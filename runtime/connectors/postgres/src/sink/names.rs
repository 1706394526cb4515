//! Names of staging tables: whose they are and of which epoch stands in them.

use weir_connectors::api::SinkContext;
use weir_model::Epoch;
use xxhash_rust::xxh3::xxh3_64;

/// The table of what has been committed, in the schema of the staging tables.
pub(super) const COMMITS: &str = "weir_commits";

/// Where the names of all staging tables of a job's sink begin. PostgreSQL's names have at most 63 bytes, so the job
/// and the sink stand in it as a hash.
pub(super) fn prefix(job_uid: &str, sink: &str) -> String {
    format!("weir_{:016x}_e", xxh3_64(format!("{job_uid}\0{sink}").as_bytes()))
}

/// What tells a writer from every other one, of this job and others.
pub(super) fn writer(context: &SinkContext) -> String {
    let prefix = prefix(&context.job_uid, &context.name);
    format!("{prefix}{}_{}_{}", context.epoch, context.attempt, context.subtask)
}

/// Of a staging table, or of a prepared transaction.
pub(super) fn staging(context: &SinkContext, batch: u64) -> String {
    let prefix = prefix(&context.job_uid, &context.name);
    format!("{prefix}{}_{:016x}_{batch}", context.epoch, xxh3_64(writer(context).as_bytes()))
}

/// The epoch of the coordinator whose tasks wrote a staging table of the sink with this prefix. None: it is none.
pub(super) fn epoch_of_staging(prefix: &str, table: &str) -> Option<Epoch> {
    let (epoch, _) = table.strip_prefix(prefix)?.split_once('_')?;
    epoch.parse().ok().map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;
    use std::sync::Arc;

    #[test]
    fn there_and_back() {
        let context = SinkContext {
            name: "orders".into(),
            job_uid: "u-1".into(),
            subtask: 32_767,
            parallelism: 32_768,
            attempt: "e12345-a678-deadbeef".into(),
            epoch: Epoch(12_345),
            attempt_number: weir_model::AttemptNumber(678),
            input: Arc::new(Schema::empty()),
        };
        let name = staging(&context, u64::MAX >> 20);
        assert!(name.len() <= 63, "{name}");
        assert_eq!(epoch_of_staging(&prefix("u-1", "orders"), &name), Some(Epoch(12_345)));
        assert_eq!(epoch_of_staging(&prefix("u-1", "order"), &name), None);
    }
}
