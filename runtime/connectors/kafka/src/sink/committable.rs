//! A transaction as a checkpoint holds it.

use serde::{Deserialize, Serialize};
use weir_connectors::api::{Committable, ConnectorError};
use weir_kafka_client::{PartitionRange, ProducerIdentity, Transaction, TransactionVersion};

/// The stored form: fields are added, never renamed.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    transactional_id: String,
    producer_id: i64,
    producer_epoch: i16,
    /// 1 or 2.
    transaction_version: u8,
    ranges: Vec<StoredRange>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredRange {
    topic: String,
    partition: i32,
    first_offset: i64,
    last_offset: i64,
}

pub(super) fn store(transaction: &Transaction) -> Committable {
    let Transaction { transactional_id, identity, version, ranges } = transaction;
    let range = |range: &PartitionRange| {
        let PartitionRange { topic, partition, first_offset, last_offset } = range.clone();
        StoredRange { topic, partition, first_offset, last_offset }
    };
    let stored = Stored {
        transactional_id: transactional_id.clone(),
        producer_id: identity.producer_id,
        producer_epoch: identity.epoch,
        transaction_version: match version {
            TransactionVersion::V1 => 1,
            TransactionVersion::V2 => 2,
        },
        ranges: ranges.iter().map(range).collect(),
    };
    Committable(serde_json::to_value(stored).expect("text and numbers"))
}

pub(super) fn read(committable: &Committable) -> Result<Transaction, ConnectorError> {
    let unreadable = |reason: &dyn std::fmt::Display| {
        ConnectorError::Permanent(format!("a transaction in the checkpoint: {reason}"))
    };
    let stored: Stored = serde_json::from_value(committable.0.clone()).map_err(|error| unreadable(&error))?;
    let version = match stored.transaction_version {
        1 => TransactionVersion::V1,
        2 => TransactionVersion::V2,
        other => return Err(unreadable(&format!("version {other} is not known here"))),
    };
    let ranges = stored.ranges.into_iter().map(|range| {
        let StoredRange { topic, partition, first_offset, last_offset } = range;
        PartitionRange { topic, partition, first_offset, last_offset }
    });
    Ok(Transaction {
        transactional_id: stored.transactional_id,
        identity: ProducerIdentity { producer_id: stored.producer_id, epoch: stored.producer_epoch },
        version,
        ranges: ranges.collect(),
    })
}

/// For messages: the id, who wrote, and where.
pub(super) fn describe(transaction: &Transaction) -> String {
    let Transaction { transactional_id, identity, ranges, .. } = transaction;
    let places: Vec<String> = ranges
        .iter()
        .map(|range| {
            let PartitionRange { topic, partition, first_offset, last_offset } = range;
            format!("{topic} partition {partition} offsets {first_offset} to {last_offset}")
        })
        .collect();
    let (id, epoch) = (identity.producer_id, identity.epoch);
    format!("transaction `{transactional_id}` (producer {id}, epoch {epoch}; {})", places.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What earlier versions wrote must be read.
    #[test]
    fn the_stored_form_stays() {
        let golden = r#"{"transactionalId":"weir.job.out.1.0.0.0","producerId":4001,"producerEpoch":3,"transactionVersion":2,"ranges":[{"topic":"orders","partition":1,"firstOffset":10,"lastOffset":19}]}"#;
        let committable = Committable(serde_json::from_str(golden).unwrap());
        let transaction = read(&committable).unwrap();
        assert_eq!(serde_json::to_string(&store(&transaction)).unwrap(), golden);
        let text = "transaction `weir.job.out.1.0.0.0` (producer 4001, epoch 3; orders partition 1 offsets 10 to 19)";
        assert_eq!(describe(&transaction), text);
    }
}
