//! What of a sink stands in its table: said by each snapshot of it, and by the table's properties for the last one.

use crate::format::metadata::Metadata;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use weir_connectors::api::CommitterContext;
use xxhash_rust::xxh3::xxh3_64;

/// In the summaries of snapshots: whose it is, for people ...
const JOB: &str = "weir.job";
const SINK: &str = "weir.sink";
const CHECKPOINT: &str = "weir.checkpoint";
const EPOCH: &str = "weir.epoch";
/// ... and the marker itself.
const COMMITTED: &str = "weir.committed";

/// Which checkpoint of which attempt is in the table. All that the attempt prepared up to there came with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Marker(pub BTreeMap<String, u64>);

/// The markers of one sink.
pub(super) struct Markers {
    job: String,
    sink: String,
    epoch: u64,
    property: String,
}

impl Markers {
    pub(super) fn of(context: &CommitterContext) -> Self {
        let CommitterContext { name, job_uid, epoch } = context;
        // Neither part can hold the byte between them.
        let owner = xxh3_64(format!("{job_uid}\0{name}").as_bytes());
        Markers {
            job: job_uid.clone(),
            sink: name.clone(),
            epoch: epoch.0,
            property: format!("weir.committed.{owner:016x}"),
        }
    }

    /// What has been committed, as far as the table remembers.
    pub(super) fn read(&self, metadata: &Metadata) -> Marker {
        let of_snapshots = metadata.snapshots().filter_map(|snapshot| {
            let is_ours = snapshot.summary(JOB) == Some(&self.job) && snapshot.summary(SINK) == Some(&self.sink);
            snapshot.summary(COMMITTED).filter(|_| is_ours)
        });
        // Snapshots expire; the last of ours is to be known nevertheless, which is the only one that is asked about.
        let texts = of_snapshots.chain(metadata.property(&self.property));
        let mut known = Marker::default();
        for text in texts {
            // Who changes it by hand is told nothing new.
            let Ok(Marker(marker)) = serde_json::from_str(text) else { continue };
            for (attempt, checkpoint) in marker {
                let highest = known.0.entry(attempt).or_default();
                *highest = checkpoint.max(*highest);
            }
        }
        known
    }

    /// For a snapshot's summary.
    pub(super) fn summary(&self, checkpoint: u64, marker: &Marker) -> [(&'static str, String); 5] {
        [
            (JOB, self.job.clone()),
            (SINK, self.sink.clone()),
            (EPOCH, self.epoch.to_string()),
            (CHECKPOINT, checkpoint.to_string()),
            (COMMITTED, marker.text()),
        ]
    }

    /// For the table's properties, in the same commit.
    pub(super) fn properties(&self, marker: &Marker) -> BTreeMap<String, String> {
        BTreeMap::from([(self.property.clone(), marker.text())])
    }
}

impl Marker {
    pub(super) fn holds(&self, attempt: &str, checkpoint: u64) -> bool {
        self.0.get(attempt).is_some_and(|committed| *committed >= checkpoint)
    }

    fn text(&self) -> String {
        serde_json::to_string(self).expect("names and numbers are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weir_model::Epoch;

    fn markers(job: &str) -> Markers {
        Markers::of(&CommitterContext { name: "out".to_owned(), job_uid: job.to_owned(), epoch: Epoch(2) })
    }

    fn marker(entries: &[(&str, u64)]) -> Marker {
        Marker(entries.iter().map(|(attempt, checkpoint)| ((*attempt).to_owned(), *checkpoint)).collect())
    }

    #[test]
    fn the_table_remembers_each_attempt() {
        let (own, other) = (markers("job"), markers("other"));
        let summary = |markers: &Markers, checkpoint, marker: &Marker| json!({"snapshot-id": 1, "summary": markers.summary(checkpoint, marker).into_iter().collect::<BTreeMap<_, _>>()});
        let metadata = Metadata(json!({
            "snapshots": [
                summary(&own, 3, &marker(&[("a", 3), ("b", 3)])),
                summary(&own, 5, &marker(&[("a", 5)])),
                summary(&other, 9, &marker(&[("a", 9)])),
                {"snapshot-id": 2, "summary": {"operation": "append"}},
            ],
            "properties": own.properties(&marker(&[("c", 7)])),
        }));
        let known = own.read(&metadata);
        assert_eq!(known, marker(&[("a", 5), ("b", 3), ("c", 7)]));
        assert!(known.holds("a", 5) && known.holds("a", 4) && !known.holds("a", 6) && !known.holds("d", 1));
        assert_eq!(other.read(&metadata), marker(&[("a", 9)]));
    }
}
