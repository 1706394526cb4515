//! What is asked of the service.

use crate::failure::Failure;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::describe_stream_summary::DescribeStreamSummaryOutput;
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use aws_sdk_kinesis::types::{Record, ShardFilter, ShardFilterType, ShardIteratorType};
use std::time::Duration;
use weir_aws::{Loaded, Service};
use weir_snapshot::storage::StorageOptions;

const KINESIS: Service = Service {
    endpoint_variable: "AWS_ENDPOINT_URL_KINESIS",
    // An answer of 10 MB over a link of 1 MB/s takes 10 s.
    attempt_timeout: Duration::from_secs(20),
    operation_timeout: Duration::from_secs(60),
    region_field: "kinesis.region",
};
/// Of one stream, open and closed: more than the service lets anybody have, and a bound nevertheless.
const MAX_SHARDS: usize = 200_000;

pub(crate) struct StreamClient {
    client: Client,
    stream: String,
}

/// A shard as the service describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) id: String,
    /// None, the one that was split, or the two that were merged.
    pub(crate) parents: Vec<String>,
    pub(crate) hash_keys: HashKeys,
}

/// First and last of the hash keys whose records go to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HashKeys {
    pub(crate) first: u128,
    pub(crate) last: u128,
}

/// Which shards are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing<'a> {
    All,
    /// Those that were open then or have been opened since (milliseconds since 1970).
    Since(i64),
    Open,
    /// Those made after this one.
    After(&'a str),
}

/// Where an iterator begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Beginning,
    Latest,
    /// Milliseconds since 1970.
    Timestamp(i64),
    At(String),
    After(String),
}

/// What one read gave.
pub(crate) struct Read {
    pub(crate) records: Vec<Record>,
    /// None: the shard is closed, and has no more records.
    pub(crate) next: Option<String>,
    pub(crate) behind_ms: i64,
}

impl StreamClient {
    pub(crate) async fn connect(stream: &str, options: &StorageOptions) -> Result<Self, String> {
        let Loaded { config, is_custom: _ } = weir_aws::load(options, &KINESIS).await?;
        Ok(StreamClient { client: Client::new(&config), stream: stream.to_owned() })
    }

    pub(crate) async fn describe(&self) -> Result<DescribeStreamSummaryOutput, Failure> {
        Ok(self.client.describe_stream_summary().stream_name(&self.stream).send().await?)
    }

    /// In the order in which they were made.
    pub(crate) async fn shards(&self, listing: Listing<'_>) -> Result<Vec<Shard>, Failure> {
        let mut request = self.client.list_shards().stream_name(&self.stream);
        if let Some(filter) = filter(listing)? {
            request = request.shard_filter(filter);
        }
        if let Listing::After(shard) = listing {
            request = request.exclusive_start_shard_id(shard);
        }
        let mut shards = vec![];
        loop {
            let page = request.send().await?;
            for shard in page.shards() {
                shards.push(Shard::of(shard)?);
            }
            if shards.len() > MAX_SHARDS {
                return Err(Failure::Permanent(format!("the stream has more than {MAX_SHARDS} shards")));
            }
            match page.next_token() {
                Some(token) => request = self.client.list_shards().next_token(token),
                None => break,
            }
        }
        shards.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(shards)
    }

    pub(crate) async fn iterator(&self, shard: &str, place: &Place) -> Result<String, Failure> {
        let request = self.client.get_shard_iterator().stream_name(&self.stream).shard_id(shard);
        let request = match place {
            Place::Beginning => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Place::Latest => request.shard_iterator_type(ShardIteratorType::Latest),
            Place::Timestamp(ms) => {
                request.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(*ms))
            }
            Place::At(number) => {
                request.shard_iterator_type(ShardIteratorType::AtSequenceNumber).starting_sequence_number(number)
            }
            Place::After(number) => {
                request.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).starting_sequence_number(number)
            }
        };
        let iterator = request.send().await?.shard_iterator;
        iterator.ok_or_else(|| Failure::Transient("the service gave no iterator".to_owned()))
    }

    pub(crate) async fn read(&self, iterator: &str, limit: i32) -> Result<Read, Failure> {
        let answer = self.client.get_records().shard_iterator(iterator).limit(limit).send().await?;
        let GetRecordsOutput { records, next_shard_iterator, millis_behind_latest, .. } = answer;
        Ok(Read { records, next: next_shard_iterator, behind_ms: millis_behind_latest.unwrap_or(0).max(0) })
    }
}

fn filter(listing: Listing<'_>) -> Result<Option<ShardFilter>, Failure> {
    let filter = match listing {
        Listing::All | Listing::After(_) => return Ok(None),
        Listing::Since(ms) => {
            ShardFilter::builder().r#type(ShardFilterType::FromTimestamp).timestamp(DateTime::from_millis(ms)).build()
        }
        Listing::Open => ShardFilter::builder().r#type(ShardFilterType::AtLatest).build(),
    };
    filter.map(Some).map_err(|error| Failure::Permanent(error.to_string()))
}

impl Shard {
    fn of(shard: &aws_sdk_kinesis::types::Shard) -> Result<Self, Failure> {
        let parents = [shard.parent_shard_id(), shard.adjacent_parent_shard_id()];
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u128>().ok());
        let keys = shard.hash_key_range();
        let first = number(keys.map(|keys| keys.starting_hash_key()));
        let last = number(keys.map(|keys| keys.ending_hash_key()));
        let (Some(first), Some(last)) = (first, last) else {
            return Err(Failure::Permanent(format!("{} has no range of hash keys that can be read", shard.shard_id())));
        };
        Ok(Shard {
            id: shard.shard_id().to_owned(),
            parents: parents.into_iter().flatten().map(str::to_owned).collect(),
            hash_keys: HashKeys { first, last },
        })
    }
}

impl HashKeys {
    pub(crate) fn contain(&self, key: u128) -> bool {
        (self.first..=self.last).contains(&key)
    }
}

/// When the service took the record, in milliseconds since 1970.
pub(crate) fn arrival_ms(record: &Record) -> Option<i64> {
    record.approximate_arrival_timestamp()?.to_millis().ok()
}

/// As people write it.
pub(crate) fn shown(ms: i64) -> String {
    DateTime::from_millis(ms).fmt(DateTimeFormat::DateTime).unwrap_or_else(|_| format!("{ms} ms"))
}
