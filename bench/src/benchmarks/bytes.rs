//! What a checkpoint writes, against the state that has changed since the one before.

use super::Bench;
use crate::report::{Table, bytes};
use crate::settings::{Benchmark, Order, name};
use crate::weir::WeirJob;
use anyhow::{Result, bail};
use std::time::Duration;

/// Key, count and sum, 8 bytes each.
const ROW_BYTES: f64 = 24.0;
/// Checkpoints over which the mean is taken.
const CHECKPOINTS: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(1);

/// Rows come at a fixed rate, each of another key until all have come: as many keys change per checkpoint as rows
/// come.
pub fn run(bench: &Bench) -> Result<()> {
    let mut table = Table::new(&["Case", "Changed per checkpoint", "Written per checkpoint", "Ratio", "Whole state"]);
    for backend in &bench.settings.backend {
        for rate in [20_000, 200_000] {
            let job = WeirJob {
                backend: *backend,
                order: Order::Mixed,
                interval: Some(INTERVAL),
                rows_per_second: Some(rate),
                retain: CHECKPOINTS + 1,
                ..bench.job()
            };
            let (written, whole) = bench.with_folder(|folder| {
                // First as fast as it goes, so that each key has a state.
                let fill = bench.weir.start(&WeirJob { rows_per_second: None, ..job.clone() }, folder)?;
                fill.wait_for_records(job.keys)?;
                fill.stop()?;
                let run = bench.weir.start(&job, folder)?;
                run.measure(INTERVAL * 2, INTERVAL * (CHECKPOINTS + 2))?;
                run.kill();
                let all = bench.weir.checkpoints(folder)?;
                let counted = &all[all.len().saturating_sub(CHECKPOINTS as usize)..];
                if counted.len() < CHECKPOINTS as usize {
                    bail!("only {} checkpoints are kept", counted.len());
                }
                let written: u64 = counted.iter().map(|(written, _)| written).sum();
                let whole = counted.iter().map(|(_, whole)| *whole).max().unwrap_or(0);
                Ok((written as f64 / f64::from(CHECKPOINTS), whole as f64))
            })?;
            let changed = (rate.min(job.keys) as f64) * ROW_BYTES * INTERVAL.as_secs_f64();
            table.rows.push(vec![
                format!("{}, {rate} of {} keys", name(*backend), job.keys),
                bytes(changed),
                bytes(written),
                format!("{:.2}", written / changed),
                bytes(whole),
            ]);
        }
    }
    let notes = vec![
        "Changed: keys that came, times the 24 bytes of a key with its count and sum. Written: the checkpoint's \
         objects, with the source's positions, checksums, index, and the key groups that are rewritten in full so \
         that a restore stays bounded."
            .to_owned(),
    ];
    bench.publish(Benchmark::CheckpointBytes, table, notes, vec![])
}
