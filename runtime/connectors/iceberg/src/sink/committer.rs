//! The second phase: one snapshot for what all subtasks of a checkpoint have written, once.
//!
//! Before each try the table is read anew and asked what it holds. So a commit that is repeated, from this process or
//! another, one whose answer was lost, and one that somebody else's commit made void are all the same case: what the table
//! says it has is done, and the rest is added on top of the snapshot that was read, or not at all.

use super::IcebergSinkConfig;
use super::markers::{Marker, Markers};
use super::writer::{Added, Held};
use crate::catalog::{Append, Catalog, CommitOutcome, LoadedTable, TableName};
use crate::files::Files;
use crate::format::data_file::DataFile;
use crate::format::manifest::{self, ManifestEntry};
use crate::{now_ms, permanent};
use bytes::Bytes;
use rand::Rng;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use weir_connectors::api::*;
use weir_model::CommitPermit;

/// Tries of one commit while others commit to the same table, or answers are lost. Who calls tries again later.
const MAX_TRIES: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Totals of a table, which each snapshot carries on.
const TOTALS: [&str; 6] = [
    "total-data-files",
    "total-records",
    "total-files-size",
    "total-delete-files",
    "total-position-deletes",
    "total-equality-deletes",
];

pub(super) struct IcebergCommitter {
    config: Arc<IcebergSinkConfig>,
    table: TableName,
    context: CommitterContext,
    markers: Markers,
    catalog: Option<Catalog>,
}

/// Manifests of files, written and named by no snapshot yet.
struct Written {
    /// Whose files: attempt and checkpoint.
    of: Vec<(String, u64)>,
    snapshot: i64,
    manifests: Vec<ManifestEntry>,
}

impl IcebergCommitter {
    pub(super) fn new(config: Arc<IcebergSinkConfig>, table: TableName, context: CommitterContext) -> Self {
        IcebergCommitter { config, table, markers: Markers::of(&context), context, catalog: None }
    }

    fn parse(&self, committable: &Committable) -> Result<Added, ConnectorError> {
        serde_json::from_value(committable.0.clone()).map_err(|error| {
            let (sink, held) = (&self.context.name, &committable.0);
            ConnectorError::Permanent(format!(
                "sink `{sink}`: the checkpoint holds {held}, which is not what an Iceberg sink wrote: {error}. Has the \
                 sink's connector been changed? Give the sink another name then"
            ))
        })
    }

    fn load(&mut self) -> Result<LoadedTable, ConnectorError> {
        let catalog = match &mut self.catalog {
            Some(catalog) => catalog,
            none => none.insert(self.config.catalog()?),
        };
        match catalog.load(&self.table)? {
            Some(loaded) => Ok(loaded),
            None => permanent(format!("the table `{}` is gone, and the checkpoint holds files for it", self.table)),
        }
    }

    fn add(&mut self, checkpoint: u64, added: &[Added]) -> Result<(), ConnectorError> {
        let mut written: Option<Written> = None;
        let mut pause = FIRST_PAUSE;
        let mut last = String::new();
        for _ in 0..MAX_TRIES {
            let loaded = self.load()?;
            let uuid = loaded.metadata.uuid()?;
            if let Some(other) = added.iter().find(|added| added.table != uuid) {
                return Err(replaced(&self.config.table, &other.table, uuid));
            }
            let known = self.markers.read(&loaded.metadata);
            let is_missing = |added: &&Added| !known.holds(&added.attempt, added.checkpoint);
            let missing: Vec<&Added> = added.iter().filter(is_missing).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let mut files = self.config.files(&loaded.config)?;
            let of: Vec<_> = missing.iter().map(|added| (added.attempt.clone(), added.checkpoint)).collect();
            // Where another commit was first, it may have been ours, of a part of them.
            let manifests = match written.take().filter(|written| written.of == of) {
                Some(written) => written,
                None => write_manifests(&loaded, of, &missing, &mut files)?,
            };
            let (append, list) = self.append(&loaded, checkpoint, &missing, &manifests, &mut files)?;
            let catalog = self.catalog.as_mut().expect("it was loaded from");
            match catalog.commit(&self.table, &loaded, &append)? {
                CommitOutcome::Committed => return Ok(()),
                CommitOutcome::Conflict(reason) => {
                    tracing::debug!(table = %self.table, reason, "somebody else committed first");
                    files.forget(&list);
                    last = format!("others commit to the table all the time: {reason}");
                }
                // Its list of manifests must stay: the commit may have happened, or may yet. If it does after the next
                // try, one of the two finds that the table has gone on.
                CommitOutcome::Unknown(reason) => {
                    tracing::warn!(table = %self.table, reason, "it is not known whether a commit happened: the table will tell");
                    last = reason;
                }
            }
            written = Some(manifests);
            let jitter = rand::rng().random_range(0.5..1.0);
            std::thread::sleep(pause.mul_f64(jitter));
            pause = (pause * 2).min(MAX_PAUSE);
        }
        Err(ConnectorError::Transient(format!("{last} (tried {MAX_TRIES} times)")))
    }

    /// The snapshot on top of the table's current one; with the address of its list.
    fn append(
        &self,
        loaded: &LoadedTable,
        checkpoint: u64,
        added: &[&Added],
        written: &Written,
        files: &mut Files,
    ) -> Result<(Append, String), ConnectorError> {
        let metadata = &loaded.metadata;
        let sequence_number = metadata.last_sequence_number() + 1;
        let parent = metadata.current();
        let parent_id = parent.and_then(|parent| parent.id());
        let mut entries: Vec<ManifestEntry> = written.manifests.clone();
        for entry in &mut entries {
            (entry.sequence_number, entry.min_sequence_number) = (sequence_number, sequence_number);
        }
        if let Some(parent) = parent {
            let Some(list) = parent.manifest_list() else {
                return permanent(format!(
                    "the current snapshot of `{}` has no list of manifests, as very old writers made it; rewrite its \
                     manifests (CALL rewrite_manifests) first",
                    self.table
                ));
            };
            let read = manifest::read_list(&files.read(list)?);
            entries.extend(read.map_err(|reason| ConnectorError::Permanent(format!("{list}: {reason}")))?);
        }
        let content = manifest::list(written.snapshot, parent_id, sequence_number, &entries);
        let unique: u64 = rand::random();
        let list = format!("{}/snap-{}-weir-{unique:016x}.avro", metadata.metadata_folder()?, written.snapshot);
        files.write(&list, Bytes::from(content))?;
        let mut marker = Marker::default();
        for added in added {
            let highest = marker.0.entry(added.attempt.clone()).or_default();
            *highest = added.checkpoint.max(*highest);
        }
        let mut summary = figures(added.iter().flat_map(|added| &added.files), |total| {
            parent.map_or(Some("0"), |parent| parent.summary(total)).and_then(|text| text.parse().ok())
        });
        summary.extend(self.markers.summary(checkpoint, &marker).map(|(key, value)| (key.to_owned(), json!(value))));
        let mut snapshot = json!({
            "snapshot-id": written.snapshot,
            "sequence-number": sequence_number,
            // A table's history doesn't go backward, whatever clocks say.
            "timestamp-ms": now_ms().max(parent.map_or(0, |parent| parent.timestamp_ms())),
            "manifest-list": list,
            "summary": summary,
            "schema-id": metadata.schema()?.id,
        });
        if let Some(parent) = parent_id {
            snapshot["parent-snapshot-id"] = json!(parent);
        }
        Ok((Append { snapshot, parent: parent_id, properties: self.markers.properties(&marker) }, list))
    }
}

impl Committer for IcebergCommitter {
    fn commit(&mut self, permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError> {
        let added = committables.iter().map(|one| self.parse(one)).collect::<Result<Vec<_>, _>>()?;
        if added.iter().all(|added| added.files.is_empty()) {
            return Ok(());
        }
        let what = format!("sink `{}`, table `{}`", self.context.name, self.table);
        let done = self.add(permit.checkpoint().0, &added).map_err(|error| error.during(what));
        if done.is_err() {
            // What it remembers may be what is wrong.
            self.catalog = None;
        }
        done
    }

    /// Files that no snapshot names are seen by no reader, and stay: a coordinator that was paused may yet commit what its
    /// last checkpoint holds, and a table must never name a file that is gone. Iceberg's own maintenance removes them.
    fn abort_others(&mut self, _committed: &[Committable], writers: &[Value]) -> Result<(), ConnectorError> {
        for writer in writers {
            serde_json::from_value::<Held>(writer.clone()).map_err(|error| {
                ConnectorError::Permanent(format!(
                    "sink `{}`: the checkpoint's state can't be read: {error}",
                    self.context.name
                ))
            })?;
        }
        Ok(())
    }
}

/// A manifest for each partition spec: a file is listed among those that are divided as it is.
fn write_manifests(
    loaded: &LoadedTable,
    of: Vec<(String, u64)>,
    added: &[&Added],
    files: &mut Files,
) -> Result<Written, ConnectorError> {
    let metadata = &loaded.metadata;
    // Positive, and not one that the table has.
    let snapshot = (rand::random::<u64>() >> 1) as i64;
    let mut by_spec: BTreeMap<i64, Vec<&DataFile>> = BTreeMap::new();
    for file in added.iter().flat_map(|added| &added.files) {
        by_spec.entry(file.spec).or_default().push(file);
    }
    let mut manifests = vec![];
    for (id, of_spec) in by_spec {
        let spec = metadata.spec(id)?;
        let content = manifest::manifest(metadata, snapshot, &spec, &of_spec)?;
        let path = format!("{}/weir-{snapshot}-m{id}.avro", metadata.metadata_folder()?);
        let length = content.len() as i64;
        files.write(&path, Bytes::from(content))?;
        let rows = of_spec.iter().map(|file| file.rows as i64).sum();
        manifests.push(ManifestEntry {
            path,
            length,
            spec: id,
            content: 0,
            sequence_number: 0,
            min_sequence_number: 0,
            added_snapshot: snapshot,
            files: [of_spec.len() as i64, 0, 0],
            rows: [rows, 0, 0],
            partitions: Some(manifest::summaries(&spec, &of_spec)),
            key_metadata: None,
        });
    }
    Ok(Written { of, snapshot, manifests })
}

/// What a snapshot's summary says of its files, and the table's totals as far as they are known.
fn figures<'a>(files: impl Iterator<Item = &'a DataFile>, before: impl Fn(&str) -> Option<i64>) -> Map<String, Value> {
    let (mut count, mut rows, mut bytes) = (0i64, 0i64, 0i64);
    let mut partitions = std::collections::BTreeSet::new();
    for file in files {
        (count, rows, bytes) = (count + 1, rows + file.rows as i64, bytes + file.bytes as i64);
        partitions.insert((file.spec, &file.partition));
    }
    let mut summary = Map::new();
    let mut say = |key: &str, value: String| drop(summary.insert(key.to_owned(), json!(value)));
    say("operation", "append".to_owned());
    say("added-data-files", count.to_string());
    say("added-records", rows.to_string());
    say("added-files-size", bytes.to_string());
    say("changed-partition-count", partitions.len().to_string());
    for (total, added) in TOTALS.iter().zip([count, rows, bytes, 0, 0, 0]) {
        if let Some(before) = before(total) {
            say(total, (before + added).to_string());
        }
    }
    summary
}

pub(super) fn replaced(table: &str, held: &str, found: &str) -> ConnectorError {
    ConnectorError::Permanent(format!(
        "the table `{table}` is not the one that the checkpoint holds files for: that had the UUID {held}, this one has \
         {found}. It was dropped and created anew; start the job from the beginning of its input, or bring the table back"
    ))
}
