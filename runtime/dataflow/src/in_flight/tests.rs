use super::*;
use arrow::array::{Array, Int64Array};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_model::hash::hash_rows;
use weir_model::{ChannelProgress, KeyGroup};

const MAX_PARALLELISM: u32 = 8;

fn batch(keys: &[i64]) -> RecordBatch {
    RecordBatch::try_from_iter([("k", Arc::new(Int64Array::from(keys.to_vec())) as _)]).unwrap()
}

fn keys(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
}

fn owner(key: i64, parallelism: u32) -> u32 {
    let mut hashes = vec![];
    hash_rows(&[Arc::new(Int64Array::from(vec![key])) as _], 1, &mut hashes).unwrap();
    KeyGroup::of_hash(hashes[0], MAX_PARALLELISM).subtask(parallelism, MAX_PARALLELISM)
}

/// One subtask from words, by channel: `r5` a batch with the key 5, `w5` a watermark, `i` idle.
fn old(watermark: i64, channels: &[(i64, &str)]) -> SubtaskInFlight {
    let element = |word: &str| match word.split_at(1) {
        ("r", key) => InFlightElement::Batch(batch(&[key.parse().unwrap()])),
        ("w", watermark) => InFlightElement::Watermark(Watermark(watermark.parse().unwrap())),
        _ => InFlightElement::Idle,
    };
    let channels = channels.iter().enumerate().map(|(from, (watermark, words))| ChannelInFlight {
        input: 0,
        from: from as u32,
        progress: ChannelProgress { watermark: Watermark(*watermark), ..ChannelProgress::START },
        elements: words.split_whitespace().map(element).collect(),
    });
    SubtaskInFlight { watermark: Watermark(watermark), channels: channels.collect() }
}

fn replayed(olds: Vec<SubtaskInFlight>) -> String {
    let mut replay = Replay::new(olds);
    let mut words = vec![];
    while let Some(step) = replay.next_step() {
        words.push(match step {
            ReplayStep::Batch { batch, .. } => format!("r{}", keys(&batch)[0]),
            ReplayStep::Watermark(watermark) => format!("w{}", watermark.0),
        });
    }
    words.join(" ")
}

#[test]
fn rows_keep_their_place_between_watermarks() {
    assert_eq!(replayed(vec![old(10, &[(10, "r1 w20 r2"), (15, "r3 w30 r4")])]), "w10 r1 r3 w15 w20 r2 r4");
    // The slower channel's watermark holds; idle, it holds nothing.
    assert_eq!(replayed(vec![old(5, &[(5, "i r1"), (5, "w40 r2")])]), "w5 w40 r1 r2");
    assert_eq!(replayed(vec![]), "");
    assert_eq!(replayed(vec![old(7, &[])]), "w7");
}

#[test]
fn the_subtask_furthest_behind_goes_first() {
    let olds = || vec![old(30, &[(30, "r1 w50 r2")]), old(10, &[(10, "r3 w30 r4 w50 r5")])];
    assert_eq!(replayed(olds()), "w10 r3 w30 r1 r4 w50 r2 r5");
    // One without rows has nothing that could be late.
    assert_eq!(replayed(vec![old(10, &[(10, "w50")]), old(30, &[(30, "r1 w50 r2")])]), "w10 w30 r1 w50 r2");
}

#[test]
fn none_is_left_behind() {
    // Each had its own source: what the slower one sends next is older than all that the other has seen.
    let olds = || vec![old(10, &[(10, "r1 w20")]), old(30, &[(30, "r2 w50 r3")])];
    assert_eq!(replayed(olds()), "w10 r1 w20 r2 r3");
    let without_rows = |words| vec![old(10, &[(10, words)]), old(30, &[(30, "r1 w50 r2")])];
    assert_eq!(replayed(without_rows("w40")), "w10 w30 r1 w40 r2");
    assert_eq!(replayed(without_rows("")), "w10 r1 r2");
    assert_eq!(replayed(vec![old(10, &[]), old(30, &[(30, "r1 w50 r2")])]), "w10 r1 r2");
}

#[test]
fn the_end_of_event_time_is_the_sources_to_say() {
    let text = format!("r1 w{} r2", i64::MAX);
    assert_eq!(replayed(vec![old(3, &[(3, &text)])]), "w3 r1 r2");
}

/// What old subtasks had: rows with keys, in channels of either kind of input.
fn olds() -> impl Strategy<Value = Vec<SubtaskInFlight>> {
    let element = prop_oneof![
        3 => proptest::collection::vec(0..50i64, 1..6).prop_map(|keys| InFlightElement::Batch(batch(&keys))),
        1 => (0..100i64).prop_map(|watermark| InFlightElement::Watermark(Watermark(watermark))),
        1 => Just(InFlightElement::Idle),
    ];
    let channel = (0..2usize, proptest::collection::vec(element, 0..5)).prop_map(|(input, elements)| ChannelInFlight {
        input,
        from: 0,
        progress: ChannelProgress::START,
        elements,
    });
    let old = proptest::collection::vec(channel, 1..4)
        .prop_map(|channels| SubtaskInFlight { watermark: Watermark::MIN, channels });
    proptest::collection::vec(old, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// Input 0 is keyed, input 1 is not.
    #[test]
    fn each_row_has_one_taker(olds in olds(), parallelism in 1..=MAX_PARALLELISM) {
        let divisions = [InputDivision::Keyed { key_columns: vec![0] }, InputDivision::Any];
        let old_parallelism = olds.len() as u32;
        let mut expected: BTreeMap<(usize, i64), usize> = BTreeMap::new();
        let mut found = expected.clone();
        for channel in olds.iter().flat_map(|old| &old.channels) {
            for element in &channel.elements {
                if let InFlightElement::Batch(batch) = element {
                    keys(batch).into_iter().for_each(|key| *expected.entry((channel.input, key)).or_default() += 1);
                }
            }
        }
        for subtask in 0..parallelism {
            let taker = Taker { subtask, parallelism, max_parallelism: MAX_PARALLELISM };
            let shares = olds.iter().enumerate();
            let shares = shares.map(|(index, old)| share(old, index as u32, old_parallelism, taker, &divisions).unwrap());
            let mut replay = Replay::new(shares.collect());
            let mut last = Watermark::MIN;
            while let Some(step) = replay.next_step() {
                match step {
                    ReplayStep::Watermark(watermark) => {
                        prop_assert!(watermark > last, "event time goes back");
                        last = watermark;
                    }
                    ReplayStep::Batch { input, batch } => {
                        for key in keys(&batch) {
                            *found.entry((input, key)).or_default() += 1;
                            if input == 0 && parallelism != old_parallelism {
                                prop_assert_eq!(owner(key, parallelism), subtask);
                            }
                        }
                    }
                }
            }
        }
        prop_assert_eq!(found, expected);
    }
}
