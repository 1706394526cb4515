//! Whether the coordinators of transactions know all that they are to know.
//!
//! A broker that has just started lists no transaction of a partition of its log that it has not begun to read, and says
//! nothing of it. Asked for the state of one id it says that it can't tell yet: so one id of each partition is asked for.

use crate::cluster::{Cluster, Topic, retry, topic_name};
use crate::error::{KafkaError, Result, check};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{DescribeTransactionsRequest, TransactionalId};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// What coordinators keep, in a topic of the cluster's own.
const LOG: &str = "__transaction_state";

impl Cluster {
    /// Until each partition of the transactions' log has a coordinator that has read it. `prefix`: of ids that we may ask for.
    pub(crate) fn await_coordinators(&mut self, prefix: &str, patience: Duration) -> Result<()> {
        let log = match self.existing_topic(LOG, patience) {
            Ok(log) => log,
            // There never was a transaction.
            Err(KafkaError::NoTopic(_)) => return Ok(()),
            // Users need no right to see it: then nothing can be known of it.
            Err(error) if error.code() == Some(ResponseError::TopicAuthorizationFailed) => return Ok(()),
            Err(error) => return Err(error),
        };
        let ids = ids_of_partitions(prefix, log.partitions.len());
        retry(patience, || self.ask_coordinators(&ids))
    }

    fn ask_coordinators(&mut self, ids: &[String]) -> Result<()> {
        let Topic { partitions, .. } = self.topic(LOG)?;
        let mut of_leaders: BTreeMap<i32, Vec<TransactionalId>> = BTreeMap::new();
        for (partition, id) in partitions.iter().zip(ids) {
            let electing = || KafkaError::broker(ResponseError::LeaderNotAvailable, topic_name(LOG).0.to_string());
            let leader = partition.leader.ok_or_else(electing)?;
            of_leaders.entry(leader).or_default().push(TransactionalId(StrBytes::from_string(id.clone())));
        }
        for (leader, ids) in of_leaders {
            let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
            for state in self.call(leader, 0, &request)?.transaction_states {
                let code = ResponseError::try_from_code(state.error_code);
                // The id is none that anybody uses: not to be found is the answer of one who knows.
                if code != Some(ResponseError::TransactionalIdNotFound) {
                    check(state.error_code, || format!("the transactions that broker {leader} coordinates"))?;
                }
            }
        }
        Ok(())
    }
}

/// One id that begins so for each partition of the log.
fn ids_of_partitions(prefix: &str, partitions: usize) -> Vec<String> {
    let mut ids = vec![None; partitions];
    let mut missing = partitions;
    for number in 0_u64.. {
        if missing == 0 {
            break;
        }
        let id = format!("{prefix}?{number}");
        let of = &mut ids[partition_of_id(&id, partitions)];
        if of.is_none() {
            *of = Some(id);
            missing -= 1;
        }
    }
    ids.into_iter().flatten().collect()
}

/// As brokers find it: by Java's hash of the text.
fn partition_of_id(id: &str, partitions: usize) -> usize {
    let hash = id.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) as usize % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_an_id_of_the_prefix() {
        for partitions in [1, 4, 50] {
            let ids = ids_of_partitions("weir.job.out.", partitions);
            let of = ids.iter().map(|id| partition_of_id(id, partitions)).collect::<Vec<_>>();
            assert_eq!(of, Vec::from_iter(0..partitions));
            assert!(ids.iter().all(|id| id.starts_with("weir.job.out.")));
        }
    }

    /// Hashes as Java has them: of "Aa" and of "BB" they are the same, 2112.
    #[test]
    fn ids_are_found_where_brokers_have_them() {
        assert_eq!([partition_of_id("Aa", 50), partition_of_id("BB", 50)], [12, 12]);
        // Integer.MIN_VALUE, which has no positive counterpart.
        assert_eq!(partition_of_id("polygenelubricants", 50), 0);
    }
}
