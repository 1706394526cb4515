//! Whether resident memory stays where it is at full load.

use super::Bench;
use crate::report::{Table, bytes};
use crate::settings::{Benchmark, Order, name};
use crate::weir::WeirJob;
use anyhow::Result;

/// Parts of the window that are compared.
const PARTS: usize = 5;

pub fn run(bench: &Bench) -> Result<()> {
    let header = ["Case", "1st fifth", "2nd", "3rd", "4th", "5th", "Last against 2nd"];
    let mut table = Table::new(&header);
    for backend in &bench.settings.backend {
        let job = WeirJob { backend: *backend, order: Order::Mixed, ..bench.job() };
        let samples = bench.with_folder(|folder| {
            let run = bench.weir.start(&job, folder)?;
            run.measure(bench.settings.warm_up(), bench.settings.window())?;
            let samples = run.samples();
            run.kill();
            Ok(samples)
        })?;
        let begin = samples[0].at + bench.settings.warm_up();
        let resident: Vec<f64> = samples
            .iter()
            .filter(|sample| sample.at >= begin)
            .map(|sample| sample.usage.resident_bytes as f64)
            .collect();
        let part = |index: usize| {
            let part = &resident[resident.len() * index / PARTS..resident.len() * (index + 1) / PARTS];
            part.iter().sum::<f64>() / part.len().max(1) as f64
        };
        let parts: Vec<f64> = (0..PARTS).map(part).collect();
        let mut row = vec![format!("{}, {} keys", name(*backend), job.keys)];
        row.extend(parts.iter().map(|part| bytes(*part)));
        row.push(format!("{:+.1} %", (parts[PARTS - 1] / parts[1] - 1.0) * 100.0));
        table.rows.push(row);
    }
    let notes = vec![format!(
        "Mean resident memory of the process in each fifth of {} s at full load, with a checkpoint each second.",
        bench.settings.seconds
    )];
    bench.publish(Benchmark::Memory, table, notes, vec![])
}
