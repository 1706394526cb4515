//! Records that the Kinesis Producer Library has packed into one: `F3 89 9A C2`, a message of protobuf, and its MD5.

use crate::client::HashKeys;
use aws_sdk_kinesis::types::Record;
use md5::{Digest, Md5};
use prost::Message;

const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
const DIGEST_BYTES: usize = 16;

/// What one user has put.
pub(crate) struct UserRecord {
    pub(crate) partition_key: String,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct AggregatedRecord {
    #[prost(string, repeated, tag = "1")]
    partition_keys: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    explicit_hash_keys: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    records: Vec<PackedRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct PackedRecord {
    #[prost(uint64, tag = "1")]
    partition_key: u64,
    #[prost(uint64, optional, tag = "2")]
    explicit_hash_key: Option<u64>,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

pub(crate) fn is_aggregated(record: &Record) -> bool {
    record.data().as_ref().starts_with(&MAGIC)
}

/// The records inside, in their order; none where the producer has put them again elsewhere. The error: what is wrong with
/// the bytes.
pub(crate) fn unpack(record: &Record, hash_keys: HashKeys) -> Result<Vec<UserRecord>, String> {
    let data = record.data().as_ref();
    let body = &data[MAGIC.len()..];
    let Some(at) = body.len().checked_sub(DIGEST_BYTES) else {
        return Err("it begins like an aggregated record (KPL) and is too short for one".into());
    };
    let (packed, digest) = body.split_at(at);
    if Md5::digest(packed).as_slice() != digest {
        return Err("it begins like an aggregated record (KPL), and its checksum is wrong".into());
    }
    let unreadable = |reason: String| format!("an aggregated record (KPL) that cannot be read: {reason}");
    let AggregatedRecord { partition_keys, explicit_hash_keys, records } =
        AggregatedRecord::decode(packed).map_err(|error| unreadable(error.to_string()))?;
    let mut unpacked = Vec::with_capacity(records.len());
    for PackedRecord { partition_key, explicit_hash_key, data } in records {
        let Some(partition_key) = partition_keys.get(partition_key as usize) else {
            return Err(unreadable(format!("it has no partition key {partition_key}")));
        };
        let hash_key = match explicit_hash_key {
            None => u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into()),
            Some(index) => match explicit_hash_keys.get(index as usize).and_then(|key| key.parse().ok()) {
                Some(key) => key,
                None => return Err(unreadable(format!("it has no hash key {index}"))),
            },
        };
        // Packed for a shard that was closed before the record came: the producer sees that it went to another one, and puts
        // all of it again.
        if !hash_keys.contain(hash_key) {
            return Ok(vec![]);
        }
        unpacked.push(UserRecord { partition_key: partition_key.clone(), data });
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_kinesis::primitives::Blob;

    const ALL: HashKeys = HashKeys { first: 0, last: u128::MAX };

    fn record(data: Vec<u8>) -> Record {
        let record = Record::builder().sequence_number("1").data(Blob::new(data)).partition_key("outer");
        record.build().unwrap()
    }

    fn packed() -> Vec<u8> {
        let records = [(0, None, "one"), (1, Some(0), "two"), (0, None, "three")];
        let records = records.map(|(partition_key, explicit_hash_key, data)| PackedRecord {
            partition_key,
            explicit_hash_key,
            data: data.into(),
        });
        let packed = AggregatedRecord {
            partition_keys: vec!["a".into(), "b".into()],
            explicit_hash_keys: vec!["7".into()],
            records: records.into(),
        };
        let packed = packed.encode_to_vec();
        [MAGIC.as_slice(), &packed, &Md5::digest(&packed)].concat()
    }

    #[test]
    fn records_come_out_in_their_order() {
        let record = record(packed());
        assert!(is_aggregated(&record));
        let unpacked = unpack(&record, ALL).unwrap();
        let shown: Vec<_> =
            unpacked.iter().map(|record| (record.partition_key.as_str(), record.data.as_slice())).collect();
        assert_eq!(shown, [("a", b"one".as_slice()), ("b", b"two"), ("a", b"three")]);
    }

    #[test]
    fn what_was_packed_for_another_shard_is_not_of_this_one() {
        let keys = HashKeys { first: 8, last: u128::MAX };
        assert_eq!(unpack(&record(packed()), keys).unwrap().len(), 0, "one has the hash key 7");
    }

    #[test]
    fn bytes_that_only_begin_so_are_an_error() {
        let mut broken = packed();
        broken[6] ^= 1;
        let error = unpack(&record(broken), ALL).err().unwrap();
        assert!(error.contains("checksum"), "{error}");
        let error = unpack(&record(MAGIC.to_vec()), ALL).err().unwrap();
        assert!(error.contains("too short"), "{error}");
    }
}
