//! Speed of row state on one core: count and sum by integer key, cuts, their encoding, and restore.
//!
//! `cargo run --release -p weir-state --example table_speed`

// The number of the checkpoint picks the batch.
#![allow(clippy::needless_range_loop)]

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::DataType;
use rand::{RngCore, SeedableRng};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_model::{CheckpointId, KeyGroupRange, StateField, StateKind, StateSchema};
use weir_state::*;

const MAX_PARALLELISM: u32 = 128;
const BATCH: usize = 8192;

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

/// Time that this thread was on a processor, where the system tells, so that other load doesn't count.
#[derive(Clone, Copy)]
struct Clock(Duration);

impl Clock {
    fn now() -> Self {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        let on_processor = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
        let nanos = on_processor.and_then(|text| text.split(' ').next()?.parse().ok());
        Clock(nanos.map_or_else(|| START.elapsed(), Duration::from_nanos))
    }

    fn elapsed(self) -> Duration {
        Clock::now().0 - self.0
    }
}

struct Job {
    state: KeyedState,
    id: RowStateId,
    encoder: KeyEncoder,
    keys: KeyBatch,
    slots: Vec<Slot>,
    new: Vec<u32>,
    /// Encoding, upsert and update.
    spent: [Duration; 3],
}

impl Job {
    fn new() -> Self {
        let mut state = KeyedState::new(KeyGroupRange { first: 0, last: MAX_PARALLELISM as u16 - 1 }, MAX_PARALLELISM);
        let id = state.register_rows(schema()).expect("registers");
        let encoder = KeyEncoder::new(&schema().key);
        Job { state, id, encoder, keys: KeyBatch::new(), slots: vec![], new: vec![], spent: Default::default() }
    }

    fn process(&mut self, batch: &ArrayRef) {
        let begin = Instant::now();
        self.encoder
            .encode(std::slice::from_ref(batch), batch.len(), MAX_PARALLELISM, &mut self.keys)
            .expect("encodes");
        let encoded = Instant::now();
        let rows = self.state.rows(self.id);
        rows.upsert(0, &self.keys, &mut self.slots, &mut self.new).expect("upserts");
        let upserted = Instant::now();
        let (count, sum) = (rows.layout().field(0), rows.layout().field(1));
        let values = batch.as_any().downcast_ref::<Int64Array>().expect("integers").values();
        rows.for_each_mut(&self.slots, |at, row| {
            count.set_i64(row, count.get_i64(row) + 1);
            sum.set_i64(row, sum.get_i64(row).wrapping_add(values[at]));
        });
        let updated = Instant::now();
        self.spent[0] += encoded - begin;
        self.spent[1] += upserted - encoded;
        self.spent[2] += updated - upserted;
    }
}

fn batches(rows: usize, keys: u64, mixed: bool) -> Vec<ArrayRef> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    (0..rows.div_ceil(BATCH))
        .map(|batch| {
            let key = |row: usize| if mixed { random.next_u64() % keys } else { (batch * BATCH + row) as u64 % keys };
            let values: Vec<i64> = (0..BATCH).map(key).map(|key| key as i64).collect();
            Arc::new(Int64Array::from(values)) as ArrayRef
        })
        .collect()
}

fn throughput() {
    println!("{:>10} {:>8} {:>10} {:>24}", "keys", "order", "M rows/s", "ns/row encode upsert update");
    let all = [(100, true), (10_000, true), (100_000, true), (1_000_000, true), (1_000_000, false), (10_000_000, true)];
    let wanted: Option<u64> = std::env::args().nth(2).and_then(|keys| keys.parse().ok());
    for (keys, mixed) in all.into_iter().filter(|(keys, _)| wanted.is_none_or(|wanted| wanted == *keys)) {
        let batches = batches(4_000_000.max(keys as usize * 2), keys, mixed);
        let mut job = Job::new();
        batches.iter().for_each(|batch| job.process(batch));
        let mut best = Duration::MAX;
        let mut spent = Default::default();
        for _ in 0..5 {
            job.spent = Default::default();
            let begin = Clock::now();
            batches.iter().for_each(|batch| job.process(batch));
            let took = begin.elapsed();
            if took < best {
                (best, spent) = (took, job.spent);
            }
        }
        let rows = (batches.len() * BATCH) as f64;
        let each = spent.map(|spent| format!("{:.1}", spent.as_nanos() as f64 / rows)).join(" ");
        let order = if mixed { "mixed" } else { "sequence" };
        println!("{keys:>10} {order:>8} {:>10.1} {each:>24}", rows / best.as_secs_f64() / 1e6);
    }
}

fn cuts() {
    let batches = batches(4_000_000, 1_000_000, true);
    let mut job = Job::new();
    println!("cut of 1 M changed rows of {} bytes:", 32);
    for checkpoint in 1..=6 {
        let begin = Clock::now();
        batches.iter().for_each(|batch| job.process(batch));
        let processed = begin.elapsed();
        let mut segments = MemorySegments::default();
        segments.begin(format!("chk-{checkpoint}"));
        let begin = Clock::now();
        let cut = job.state.cut(CheckpointId(checkpoint)).expect("cuts");
        let cut_took = begin.elapsed();
        let begin = Clock::now();
        let handle = cut.write(&mut segments).expect("writes");
        let wrote = begin.elapsed();
        job.state.confirm(CheckpointId(checkpoint));
        println!(
            "  4 M rows in {processed:?}, cut {cut_took:?}, encode {wrote:?}, {:.1} MB",
            handle.bytes() as f64 / 1e6
        );
    }
    // One key in a hundred changes: deltas and the rolling rebase.
    for checkpoint in 7..=9 {
        job.process(&batches[checkpoint]);
        let mut segments = MemorySegments::default();
        segments.begin(format!("chk-{checkpoint}"));
        let begin = Instant::now();
        let cut = job.state.cut(CheckpointId(checkpoint as u64)).expect("cuts");
        let cut_took = begin.elapsed();
        cut.write(&mut segments).expect("writes");
        job.state.confirm(CheckpointId(checkpoint as u64));
        let bytes = segments.with_objects(|objects| objects.values().map(Vec::len).sum::<usize>());
        println!("  8192 rows changed: cut {cut_took:?}, {:.2} MB", bytes as f64 / 1e6);
    }
}

fn restore() {
    let mut job = Job::new();
    batches(10_000_000, 10_000_000, false).iter().for_each(|batch| job.process(batch));
    let mut segments = MemorySegments::default();
    segments.begin("chk-1");
    let rows = job.state.rows(job.id).len();
    let handle = job.state.cut(CheckpointId(1)).expect("cuts").write(&mut segments).expect("writes");
    let memory = job.state.memory_bytes();
    drop(job);
    for _ in 0..3 {
        let config = StateConfig {
            key_groups: KeyGroupRange { first: 0, last: MAX_PARALLELISM as u16 - 1 },
            max_parallelism: MAX_PARALLELISM,
        };
        let begin = Instant::now();
        let mut state = KeyedState::open(config, std::slice::from_ref(&handle), &segments).expect("opens");
        let id = state.register_rows(schema()).expect("registers");
        let took = begin.elapsed();
        assert_eq!(state.rows(id).len(), rows);
        println!(
            "restore of {rows} rows in {took:?} from {:.1} MB; in memory {:.1} MB",
            handle.bytes() as f64 / 1e6,
            memory as f64 / 1e6
        );
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("throughput") => throughput(),
        Some("cuts") => cuts(),
        Some("restore") => restore(),
        _ => {
            throughput();
            cuts();
            restore();
        }
    }
}
