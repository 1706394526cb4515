use super::*;
use crate::api::Poll;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;

fn rows(table: NexmarkTable, parallelisms: &[u32], stop: usize) -> RecordBatch {
    let config = NexmarkConfig {
        table,
        events: Some(50_000),
        events_per_second: None,
        seed: 3,
        start_us: 1_700_000_000_000_000,
        event_interval_ns: 100_000,
    };
    let source = NexmarkSource::new(config).unwrap();
    let (mut batches, mut restored) = (Vec::new(), Vec::new());
    for (run, &parallelism) in parallelisms.iter().enumerate() {
        let mut states = Vec::new();
        for subtask in 0..parallelism {
            let context = SourceContext { name: "n".into(), job_uid: "job".into(), subtask, parallelism };
            let mut reader = source.reader(context, restored.clone()).unwrap();
            let mut count = 0;
            while run + 1 == parallelisms.len() || count < stop {
                match reader.poll(1000).unwrap() {
                    Poll::Batch { batch, .. } => {
                        count += batch.num_rows();
                        batches.push(batch);
                    }
                    Poll::End => break,
                    other => panic!("{other:?}"),
                }
            }
            states.extend(reader.snapshot().unwrap());
        }
        restored = states;
    }
    let all = arrow::compute::concat_batches(&source.schema(), &batches).unwrap();
    let time = all.column_by_name("date_time").unwrap().clone();
    let order = arrow::compute::sort_to_indices(&time, None, None).unwrap();
    arrow::compute::take_record_batch(&all, &order).unwrap()
}

#[test]
fn proportions_and_references() {
    let (persons, auctions, bids) =
        (rows(NexmarkTable::Person, &[1], 0), rows(NexmarkTable::Auction, &[1], 0), rows(NexmarkTable::Bid, &[1], 0));
    assert_eq!((persons.num_rows(), auctions.num_rows(), bids.num_rows()), (1_000, 3_000, 46_000));
    let number = |batch: &RecordBatch, name: &str| {
        batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec()
    };
    assert!(number(&persons, "id").into_iter().eq(1000..2000));
    assert!(number(&auctions, "id").into_iter().eq(1000..4000));
    assert!(number(&auctions, "seller").iter().all(|seller| (1000..2010).contains(seller)));
    assert!(number(&bids, "auction").iter().all(|auction| (1000..4010).contains(auction)));
    assert!(number(&bids, "bidder").iter().all(|bidder| (1000..2010).contains(bidder)));
    assert!(number(&bids, "price").iter().all(|price| (100..=100_000_000).contains(price)));
    let hot = number(&bids, "auction").iter().filter(|auction| *auction % 100 == 0).count();
    assert!((22_000..25_000).contains(&hot), "about half of the bids are for hot auctions: {hot}");
    let times = bids.column_by_name("date_time").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.value(0), 1_700_000_000_000_000 + 4 * 100);
}

#[test]
fn one_table_of_all_agrees_with_the_single_ones() {
    let all = rows(NexmarkTable::All, &[1], 0);
    assert_eq!(all.num_rows(), 50_000);
    let kinds = all.column_by_name("event_type").unwrap().as_primitive::<Int32Type>().clone();
    assert_eq!(kinds.values()[..5], [0, 1, 1, 1, 2]);
    let bids = rows(NexmarkTable::Bid, &[1], 0);
    let are_bids = arrow::array::BooleanArray::from_iter(kinds.values().iter().map(|kind| Some(*kind == 2)));
    for (column, single) in [("bid_price", "price"), ("bid_url", "url"), ("date_time", "date_time")] {
        let found = arrow::compute::filter(all.column_by_name(column).unwrap(), &are_bids).unwrap();
        assert_eq!(&found, bids.column_by_name(single).unwrap(), "{column}");
    }
    assert_eq!(all.column_by_name("person_id").unwrap().null_count(), 49_000);
}

#[test]
fn events_are_the_same_at_any_parallelism_and_through_any_restore() {
    let expected = rows(NexmarkTable::Auction, &[1], 0);
    assert_eq!(rows(NexmarkTable::Auction, &[4], 0), expected);
    assert_eq!(rows(NexmarkTable::Auction, &[1, 3, 2], 500), expected);
}
