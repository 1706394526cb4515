//! Speed of row state in front of RocksDB: count and sum by integer key on one thread, with a checkpoint every second
//! and without, for state that fits into its cache and for state ten times the memory given.
//!
//! `cargo run --release -p weir-state-rocksdb --example store_speed -- [seconds]`

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use rand::{Rng, SeedableRng};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use weir_model::{CheckpointId, KeyGroupRange, StateField, StateKind, StateSchema};
use weir_state::*;
use weir_state_rocksdb::{RocksDb, Settings};

const MAX_PARALLELISM: u32 = 128;
const BATCH: usize = 8192;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

fn schema() -> StateSchema {
    StateSchema {
        name: "aggregate".into(),
        kind: StateKind::Value,
        key: vec![StateField::new("k", DataType::Int64, false)],
        namespace: vec![],
        value: vec![StateField::new("count", DataType::Int64, false), StateField::new("sum", DataType::Int64, true)],
        semantics: vec![],
    }
}

/// Time that this thread was on a processor, so that other load doesn't count.
fn thread_time() -> Duration {
    processor_time("/proc/thread-self/schedstat").unwrap_or_default()
}

fn processor_time(path: &str) -> Option<Duration> {
    Some(Duration::from_nanos(std::fs::read_to_string(path).ok()?.split(' ').next()?.parse().ok()?))
}

/// That of all threads.
fn process_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    tasks.filter_map(|task| processor_time(task.ok()?.path().join("schedstat").to_str()?)).sum()
}

/// Segments in a file.
struct FileSink {
    file: File,
    offset: u64,
}

impl SegmentSink for FileSink {
    fn append(&mut self, bytes: &[u8]) -> Result<SegmentRef, StateError> {
        let failed = |source| StateError::Storage { action: "writing", object: "checkpoint".into(), source };
        self.file.write_all(bytes).map_err(failed)?;
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        let crc32c = 0;
        Ok(SegmentRef { object: "checkpoints".into(), offset, length: bytes.len() as u64, crc32c })
    }
}

struct Case {
    name: &'static str,
    keys: i64,
    memory_bytes: usize,
    mixed: bool,
    checkpoints: bool,
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(8);
    let only = std::env::args().nth(2).unwrap_or_default();
    let fits = 256 << 20;
    let cases = [
        Case { name: "1M in sequence", keys: 1_000_000, memory_bytes: fits, mixed: false, checkpoints: false },
        Case {
            name: "1M in sequence, checkpoints",
            keys: 1_000_000,
            memory_bytes: fits,
            mixed: false,
            checkpoints: true,
        },
        Case { name: "1M mixed", keys: 1_000_000, memory_bytes: fits, mixed: true, checkpoints: false },
        Case { name: "1M mixed, checkpoints", keys: 1_000_000, memory_bytes: fits, mixed: true, checkpoints: true },
        Case {
            name: "10M, ten times memory",
            keys: 10_000_000,
            memory_bytes: 38 << 20,
            mixed: true,
            checkpoints: true,
        },
    ];
    for case in cases.iter().filter(|case| case.name.contains(&only)) {
        run(case, Duration::from_secs(seconds));
    }
}

fn run(case: &Case, time: Duration) {
    let folder = std::env::temp_dir().join(format!("store-speed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let settings = Settings { folder: Some(folder.clone()), ..Settings::flash_ssd(case.memory_bytes) };
    let shared = RocksDb::new(&settings).expect("opens");
    let key_groups = KeyGroupRange { first: 0, last: MAX_PARALLELISM as u16 - 1 };
    let config = StateConfig { key_groups, max_parallelism: MAX_PARALLELISM };
    let mut state = shared.open("speed", config, &mut [], &[], &MemorySegments::default()).expect("opens");
    let id = state.register_rows(schema()).expect("registers");
    state.between_batches(1).expect("tidies");
    let mut work =
        Work { state, id, encoder: KeyEncoder::new(&schema().key), keys: KeyBatch::new(), slots: vec![], new: vec![] };

    // Every key once: what is measured then is updates.
    for first in (0..case.keys).step_by(BATCH) {
        work.batch(&(Arc::new(Int64Array::from_iter_values(first..(first + BATCH as i64).min(case.keys))) as ArrayRef));
    }
    let batches: Vec<ArrayRef> = batches(case);
    let (cuts, received) = channel::<StateCut>();
    let path = folder.join("checkpoints");
    let (acks, written) = channel();
    let writer = std::thread::spawn(move || write(received, &path, &acks));

    let (begin, begin_thread, begin_process) = (Instant::now(), thread_time(), process_time());
    let (mut records, mut next, mut checkpoint, mut is_writing) = (0u64, Instant::now() + CHECKPOINT_EVERY, 0, false);
    let (mut cut_time, mut bytes, mut write_time, mut longest) = (Duration::ZERO, 0, Duration::ZERO, Duration::ZERO);
    let mut at = 0;
    while begin.elapsed() < time {
        let started = Instant::now();
        records += work.batch(&batches[at]);
        at = (at + 1) % batches.len();
        longest = longest.max(started.elapsed());
        if let Ok((id, size, took)) = written.try_recv() {
            work.state.confirm(id);
            (bytes, write_time, is_writing) = (bytes + size, write_time + took, false);
        }
        if case.checkpoints && !is_writing && Instant::now() >= next {
            checkpoint += 1;
            let started = thread_time();
            cuts.send(work.state.cut(CheckpointId(checkpoint)).expect("cuts")).expect("the writer lives");
            cut_time += thread_time() - started;
            (next, is_writing) = (Instant::now() + CHECKPOINT_EVERY, true);
        }
    }
    let (wall, thread, process) = (begin.elapsed(), thread_time() - begin_thread, process_time() - begin_process);
    drop(cuts);
    writer.join().expect("the writer lives");
    let per = |total: f64| total / checkpoint.max(1) as f64;
    println!(
        "{:30} {:6.2} M/s of wall time, {:6.2} M/s of its thread's, process {:.2} s of {:.2} s; {} rows here; longest batch {:?}",
        case.name,
        records as f64 / wall.as_secs_f64() / 1e6,
        records as f64 / thread.as_secs_f64() / 1e6,
        process.as_secs_f64(),
        wall.as_secs_f64(),
        work.state.rows(id).len(),
        longest,
    );
    if checkpoint > 0 {
        println!(
            "{:30} {checkpoint} checkpoints: cut {:.1} ms, written in {:.0} ms, {:.1} MB each",
            "",
            per(cut_time.as_secs_f64() * 1e3),
            per(write_time.as_secs_f64() * 1e3),
            per(bytes as f64 / 1e6),
        );
    }
    println!("{:30} {:?}", "", shared.figures());
    drop((work, shared));
    std::fs::remove_dir_all(&folder).ok();
}

fn batches(case: &Case) -> Vec<ArrayRef> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let count = (case.keys as usize).div_ceil(BATCH).min(1500);
    let key = |at: usize, random: &mut rand_chacha::ChaCha8Rng| match case.mixed {
        true => random.random_range(0..case.keys),
        false => at as i64 % case.keys,
    };
    (0..count)
        .map(|batch| {
            let keys = (0..BATCH).map(|row| key(batch * BATCH + row, &mut random));
            Arc::new(Int64Array::from_iter_values(keys)) as ArrayRef
        })
        .collect()
}

fn write(
    cuts: Receiver<StateCut>,
    path: &std::path::Path,
    acks: &std::sync::mpsc::Sender<(CheckpointId, u64, Duration)>,
) {
    for cut in cuts {
        let begin = Instant::now();
        let id = cut.checkpoint();
        let mut sink = FileSink { file: File::create(path).expect("a file"), offset: 0 };
        cut.write(&mut sink).expect("writes");
        acks.send((id, sink.offset, begin.elapsed())).ok();
    }
}

struct Work {
    state: KeyedState,
    id: RowStateId,
    encoder: KeyEncoder,
    keys: KeyBatch,
    slots: Vec<Slot>,
    new: Vec<u32>,
}

impl Work {
    fn batch(&mut self, batch: &ArrayRef) -> u64 {
        let keys = std::slice::from_ref(batch);
        self.encoder.encode(keys, batch.len(), MAX_PARALLELISM, &mut self.keys).expect("encodes");
        let rows = self.state.rows(self.id);
        rows.upsert(0, &self.keys, &mut self.slots, &mut self.new).expect("upserts");
        let (count, sum) = (rows.layout().field(0), rows.layout().field(1));
        let values = batch.as_any().downcast_ref::<Int64Array>().expect("integers").values();
        rows.for_each_mut(&self.slots, |at, row| {
            count.set_i64(row, count.get_i64(row) + 1);
            sum.set_i64(row, sum.get_i64(row).wrapping_add(values[at]));
        });
        self.state.between_batches(1).expect("tidies");
        batch.len() as u64
    }
}
