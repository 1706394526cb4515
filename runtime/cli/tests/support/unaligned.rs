//! Jobs whose barriers overtake records.

use serde_json::{Value, json};
use std::path::Path;

/// Lets the job's barriers overtake records. `aligned_ms`: how long a checkpoint is aligned before.
///
/// `slow` is a step and how many of its rows in a second a sink takes that is added: some wait for it at each barrier.
pub fn make_unaligned(job: &Path, aligned_ms: u64, slow: (&str, u64)) {
    let (from, rows_per_second) = slow;
    let text = std::fs::read_to_string(job).expect("read the job");
    let mut resource: Value = serde_json::from_str(&text).expect("the job is JSON");
    let spec = &mut resource["spec"];
    spec["checkpoint"]["unaligned"] = json!({"enabled": true, "alignedTimeout": format!("{aligned_ms}ms")});
    let sink = json!({"name": "slow", "from": from, "blackhole": {"rowsPerSecond": rows_per_second}});
    spec["pipeline"]["sinks"].as_array_mut().expect("sinks").push(sink);
    std::fs::write(job, serde_json::to_string_pretty(&resource).expect("JSON is written to memory")).expect("write");
}
