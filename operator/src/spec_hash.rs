//! What of a spec the pods run with, as a hash: two specs with the same need no restart between them.

use ring::digest::{SHA256, digest};
use weir_crds::StreamJobSpec;

/// Characters of a hash: enough for a lifetime of one job's specs, and short in annotations.
const LENGTH: usize = 16;

/// The hashes of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecHashes {
    /// Of all that the pods run with.
    pub run: String,
    /// Of the same without the parallelism: where only `run` differs, a rescale is enough.
    pub rescale: String,
}

impl SpecHashes {
    pub fn of(spec: &StreamJobSpec) -> Self {
        let started_with = StreamJobSpec { state: None, ..spec.started_with() };
        let run = hash(&started_with.canonical());
        let rescale = hash(&StreamJobSpec { parallelism: None, ..started_with }.canonical());
        SpecHashes { run, rescale }
    }
}

/// The first characters of a text's SHA-256.
pub fn hash(value: &serde_json::Value) -> String {
    let digest = digest(&SHA256, value.to_string().as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..LENGTH].to_owned()
}
