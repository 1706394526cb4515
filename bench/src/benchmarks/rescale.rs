//! How long a job of two worker processes is silent while it is rescaled from 2 to 4 and back, and what the first
//! checkpoint after that writes.

use super::Bench;
use crate::measure::median;
use crate::report::{Table, bytes};
use crate::settings::{Backend, Benchmark, name};
use crate::weir::WeirRun;
use anyhow::{Context, Result, bail};
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::ChildStdout;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Changed keys, each second, while the job is rescaled.
const CHANGES_PER_SECOND: u64 = 50_000;
/// Each so many keys one is printed: a thousand lines a second.
const PRINTED: u64 = 50;
/// Undisturbed before the first rescale, and after each.
const CALM: Duration = Duration::from_secs(4);

#[derive(Default)]
struct Figures {
    silent_ms: Vec<f64>,
    asked_ms: Vec<f64>,
    written: Vec<f64>,
}

pub fn run(bench: &Bench) -> Result<()> {
    let keys = bench.settings.keys.unwrap_or(10_000_000);
    let header = ["Case", "Rescale", "Checkpoint", "Silent", "Until all tasks run", "Written by the next checkpoint"];
    let mut table = Table::new(&header);
    for backend in &bench.settings.backend {
        let case = format!("{}, {keys} keys, 2 workers", name(*backend));
        let (undisturbed, full, up, down) = bench.with_folder(|folder| measure(bench, *backend, keys, folder))?;
        let mut row = |what: &str, figures: &Figures| {
            table.rows.push(vec![
                case.clone(),
                what.to_owned(),
                bytes(full),
                format!("{:.0} ms", median(figures.silent_ms.iter().copied())),
                format!("{:.0} ms", median(figures.asked_ms.iter().copied())),
                bytes(median(figures.written.iter().copied())),
            ]);
        };
        row("none", &Figures { silent_ms: vec![undisturbed], ..Figures::default() });
        row("2 to 4", &up);
        row("4 to 2", &down);
    }
    let notes = vec![
        format!(
            "Silent: the longest time between two lines of output, at {CHANGES_PER_SECOND} changed keys a second, from \
             the request to {} s after its answer; `none`: the same without a request. A checkpoint each second, to the \
             local disk.",
            CALM.as_secs()
        ),
        "Checkpoint: what a restore reads, as it is stored.".to_owned(),
    ];
    bench.publish(Benchmark::Rescale, table, notes, vec![])
}

fn measure(bench: &Bench, backend: Backend, keys: u64, folder: &Path) -> Result<(f64, f64, Figures, Figures)> {
    let (run, output) = bench.weir.start_workers(&yaml(backend, keys, folder), folder, 2)?;
    let lines = Arc::new(Mutex::new(vec![]));
    listen(output, Arc::clone(&lines));
    run.wait_for_records(keys)?;
    let begin = Instant::now();
    checkpoint_after(&run, begin)?;
    let begin = Instant::now();
    std::thread::sleep(CALM);
    let undisturbed = longest_gap(&lines, begin)?;
    let full = bench.weir.checkpoints(folder)?.last().map_or(0, |(_, whole)| *whole) as f64;
    let (mut up, mut down) = (Figures::default(), Figures::default());
    for turn in 1..=bench.settings.repeat {
        for (parallelism, figures) in [(4, &mut up), (2, &mut down)] {
            let begin = Instant::now();
            bench.weir.rescale(folder, parallelism)?;
            let done = Instant::now();
            let written = checkpoint_after(&run, done)?;
            std::thread::sleep(CALM);
            let silent_ms = longest_gap(&lines, begin)?;
            eprintln!("bench: to {parallelism}, turn {turn}: silent {silent_ms:.0} ms, then {}", bytes(written));
            figures.silent_ms.push(silent_ms);
            figures.asked_ms.push((done - begin).as_secs_f64() * 1000.0);
            figures.written.push(written);
        }
    }
    run.kill();
    Ok((undisturbed, full, up, down))
}

/// Bytes that it wrote.
fn checkpoint_after(run: &WeirRun, after: Instant) -> Result<f64> {
    // Progress is shown some time after it was made.
    let shown = after + Duration::from_millis(200);
    run.wait_for_checkpoint(|checkpoint| checkpoint.at > shown).map(|checkpoint| checkpoint.written_bytes)
}

/// Notes when something was printed.
fn listen(output: ChildStdout, lines: Arc<Mutex<Vec<Instant>>>) {
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut text = [0; 1 << 16];
        while let Ok(1..) = output.read(&mut text) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        }
    });
}

/// Milliseconds.
fn longest_gap(lines: &Mutex<Vec<Instant>>, begin: Instant) -> Result<f64> {
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    let since: Vec<Instant> = [begin].into_iter().chain(lines.iter().copied().filter(|at| *at > begin)).collect();
    if since.len() < 3 {
        bail!("the job printed nothing");
    }
    let gaps = since.windows(2).map(|pair| pair[1] - pair[0]);
    Ok(gaps.max().context("there are two lines")?.as_secs_f64() * 1000.0)
}

/// First every key once, then changes at a fixed rate. Some hundred bytes for each key.
fn yaml(backend: Backend, keys: u64, folder: &Path) -> String {
    let sums: Vec<String> = (0..10).map(|sum| format!("SUM(k + {sum}) AS s{sum}")).collect();
    format!(
        "apiVersion: weir.dev/v1alpha1
kind: StreamJob
metadata: {{name: bench}}
spec:
  parallelism: 2
  pipeline:
    sources:
    - name: numbers
      schema: [{{name: k, type: BIGINT}}]
      generator: {{count: {keys}, columns: [{{name: k, sequence: {{}}}}]}}
    - name: changes
      schema: [{{name: k, type: BIGINT}}]
      generator:
        rowsPerSecond: {CHANGES_PER_SECOND}
        columns: [{{name: k, sequence: {{cardinality: {keys}, order: Mixed}}}}]
    transforms:
    - name: both
      sql: SELECT k FROM numbers UNION ALL SELECT k FROM changes
    - name: totals
      sql: SELECT k, COUNT(*) AS c, {sums} FROM both GROUP BY k
    - name: some
      sql: SELECT k, c FROM totals WHERE MOD(k, {PRINTED}) = 0
    sinks:
    - {{name: out, from: some, print: {{}}}}
  checkpoint:
    interval: 1s
    minPause: 0s
    storage: {{uri: \"file://{storage}\"}}
  stateBackend: {{{backend}: {{}}}}
  restart: {{none: {{}}}}
",
        sums = sums.join(", "),
        storage = folder.join("checkpoints").display(),
        backend = name(backend),
    )
}
