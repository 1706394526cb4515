//! How many rows a second one core aggregates: count and sum by an integer key, updates emitted and dropped.
//!
//! `cargo run --release -p weir-dataflow --example aggregate_speed [keys] [rows]`

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_dataflow::factory;
use weir_dataflow::{Collector, NoCustomOperators, OperatorContext, OperatorError, OperatorMetrics};
use weir_model::KeyGroupRange;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::{AggregateCall, AggregateFunction, GroupAggregateSpec, OperatorSpec, StreamSchema};
use weir_state::KeyedState;

/// Time that this thread was on a processor, where the system tells, so that other load doesn't count.
fn time_on_processor(start: Instant) -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = times.and_then(|text| text.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

struct Blackhole {
    rows: usize,
}

impl Collector for Blackhole {
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        self.rows += batch.num_rows();
        Ok(())
    }
}

/// Twenty million rows.
const ROUND_BATCHES: usize = 2441;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.replace('_', "").parse::<usize>());
    let only_keys = arguments.next().transpose()?;
    let rows = arguments.next().transpose()?.unwrap_or(40_000_000);
    let keys = only_keys.map_or(vec![100, 10_000, 100_000, 1_000_000, 10_000_000], |keys| vec![keys]);
    for keys in keys {
        for order in ["sequence", "mixed"] {
            let rate = |update_before| -> Result<f64, Box<dyn std::error::Error>> {
                Ok(rows as f64 / measure(keys as u64, rows, order == "mixed", update_before)? / 1e6)
            };
            let (both, after) = (rate(true)?, rate(false)?);
            println!("{keys:>9} keys in {order:<8} {both:6.1} M rows/s, {after:6.1} without update-before");
        }
    }
    Ok(())
}

/// Seconds for `rows` rows, after each key was there once.
fn measure(keys: u64, rows: usize, mixed: bool, update_before: bool) -> Result<f64, Box<dyn std::error::Error>> {
    let input =
        Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false), Field::new("v", DataType::Int64, false)]));
    let call = |name: &str, function, argument| AggregateCall {
        function,
        argument,
        distinct: false,
        filter: None,
        output: Arc::new(Field::new(name, DataType::Int64, true)),
    };
    let aggregates = vec![call("n", AggregateFunction::Count, None), call("total", AggregateFunction::Sum, Some(1))];
    let output = Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, false),
        Field::new("n", DataType::Int64, true),
        Field::new("total", DataType::Int64, true),
        weir_model::change::change_kind_field(),
    ]));
    let spec = GroupAggregateSpec { keys: vec![0], aggregates, state_ttl_ms: None, update_before };
    let spec = OperatorSpec::GroupAggregate(spec);
    let (inputs, output) = ([StreamSchema::append_only(input.clone())], StreamSchema::append_only(output));
    let mut state = KeyedState::new(KeyGroupRange { first: 0, last: 127 }, 128);
    let mut operator = factory::create(&spec, &inputs, &output, &mut state, &NoCustomOperators)?;
    let mut metrics = OperatorMetrics::default();
    let mut out = Blackhole { rows: 0 };

    let batch = |first: usize, mixed: bool| {
        let numbers = first as u64..(first + BATCH_ROWS) as u64;
        let key = |number: u64| if mixed { number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11 } else { number } % keys;
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.map(|number| key(number) as i64)));
        let values: ArrayRef =
            Arc::new(Int64Array::from_iter_values((first as i64..).take(BATCH_ROWS).map(|number| number % 1000)));
        RecordBatch::try_new(input.clone(), vec![column, values])
    };
    let mut process = |batch: RecordBatch| {
        let mut context = OperatorContext { state: &mut state, processing_time_us: 0, metrics: &mut metrics };
        operator.process(0, batch, &mut context, &mut out)
    };
    for first in (0..keys as usize).step_by(BATCH_ROWS) {
        process(batch(first, false)?)?;
    }
    // A few batches over and over: making them costs about as much as aggregating them.
    let batches = (0..ROUND_BATCHES).map(|number| batch(number * BATCH_ROWS, mixed)).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let begin = time_on_processor(start);
    for batch in batches.iter().cycle().take(rows.div_ceil(BATCH_ROWS)) {
        process(batch.clone())?;
    }
    let seconds = (time_on_processor(start) - begin).as_secs_f64();
    assert!(out.rows >= keys as usize, "each key was emitted");
    Ok(seconds)
}
