use super::*;
use crate::api::Poll;
use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use std::sync::Arc;

fn source(count: u64) -> GeneratorSource {
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    GeneratorSource::new(GeneratorConfig {
        schema: Arc::new(Schema::new(vec![number("n"), number("key")])),
        columns: vec![
            (
                "key".into(),
                ColumnRule::Sequence { start: 100, step: 1, cardinality: Some(1000), order: RowOrder::Mixed },
            ),
            ("n".into(), ColumnRule::Sequence { start: 0, step: 2, cardinality: None, order: RowOrder::Sequential }),
        ],
        count: Some(count),
        rows_per_second: None,
        seed: 7,
        splits: DEFAULT_SPLITS,
    })
    .unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<(i64, i64)> {
    let column = |index| batch.column(index).as_primitive::<Int64Type>().values().to_vec();
    column(0).into_iter().zip(column(1)).collect()
}

/// Reads up to `stop` rows on each subtask, snapshots, and goes on at another parallelism.
fn read(source: &GeneratorSource, parallelisms: &[u32], stop: usize, max_rows: usize) -> Vec<(i64, i64)> {
    let mut all = Vec::new();
    let mut restored = Vec::new();
    for (run, &parallelism) in parallelisms.iter().enumerate() {
        let is_last = run + 1 == parallelisms.len();
        let mut states = Vec::new();
        for subtask in 0..parallelism {
            let context = SourceContext { name: "g".into(), job_uid: "job".into(), subtask, parallelism };
            let mut reader = source.reader(context, restored.clone()).unwrap();
            let mut count = 0;
            while is_last || count < stop {
                match reader.poll(max_rows).unwrap() {
                    Poll::Batch { batch, .. } => {
                        count += batch.num_rows();
                        all.extend(rows(&batch));
                    }
                    Poll::End => break,
                    other => panic!("{other:?}"),
                }
            }
            states.extend(reader.snapshot().unwrap());
        }
        restored = states;
    }
    all
}

#[test]
fn the_rows_are_the_same_at_any_parallelism_and_through_any_restore() {
    let source = source(100_000);
    let expected = read(&source, &[1], 0, 8192);
    assert!(expected.iter().enumerate().all(|(row, (n, _))| *n == 2 * row as i64), "in order at parallelism 1");
    let mut round: Vec<_> = expected[..1000].iter().map(|(_, key)| *key).collect();
    assert!(!round.is_sorted());
    round.sort_unstable();
    assert!(round.into_iter().eq(100..1100), "each key once in a round");
    for (parallelisms, stop, max_rows) in
        [(&[3][..], 0, 1000), (&[1, 8], 12_345, 777), (&[8, 3, 1, 70], 5_000, 4096), (&[2, 2, 2], 1, 1)]
    {
        let mut found = read(&source, parallelisms, stop, max_rows);
        found.sort_unstable();
        assert!(found == expected, "{parallelisms:?}");
    }
}
