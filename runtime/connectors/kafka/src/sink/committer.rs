//! The second phase: ends the transactions that a checkpoint names, and those that none does.

use super::pool::Pool;
use super::{KafkaSinkConfig, committable, ids};
use crate::failure::connector_error;
use crate::settings::PATIENCE;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use weir_connectors::api::{Committable, Committer, CommitterContext, ConnectorError};
use weir_kafka_client::{Cluster, Confirmed, Listed, Outcome, ProducerIdentity, Transaction};
use weir_model::{CheckpointId, CommitPermit};

/// Of one try; the caller makes several.
const TRY_PATIENCE: Duration = Duration::from_secs(5);
/// To take an id over costs its coordinator a durable write, and it reads the requests of a connection one after the other.
/// Few ids are not worth another connection.
const IDS_OF_CONNECTION: usize = 8;
const CONNECTIONS: usize = 8;

pub(super) struct KafkaCommitter {
    config: Arc<KafkaSinkConfig>,
    context: CommitterContext,
    cluster: Cluster,
    pool: Arc<Pool>,
    /// Committed, and in a checkpoint that may still be the one to restore from.
    held: Vec<Held>,
}

struct Held {
    checkpoint: CheckpointId,
    transaction: Transaction,
    /// Who the producer is from the commit on.
    next: ProducerIdentity,
}

/// A transactional id that an earlier writer may still write by.
struct Earlier<'a> {
    id: &'a str,
    /// It has a transaction open, which holds readers up.
    is_open: bool,
}

/// What a sink keeps in each checkpoint beside its transactions: under which prefix to look for those of this job once the
/// step or the prefix has another name.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WriterState {
    pub(super) transactional_id_prefix: String,
}

impl KafkaCommitter {
    pub(super) fn new(
        config: Arc<KafkaSinkConfig>,
        context: CommitterContext,
        pool: Arc<Pool>,
    ) -> Result<Self, ConnectorError> {
        let cluster = config.cluster.client()?;
        Ok(KafkaCommitter { config, context, cluster, pool, held: vec![] })
    }

    fn commit_one(&mut self, transaction: &Transaction) -> Result<Option<ProducerIdentity>, ConnectorError> {
        let error = match self.cluster.end_transaction(transaction, true, TRY_PATIENCE) {
            Ok(identity) => return Ok(Some(identity)),
            Err(error) => error,
        };
        if !error.is_fenced() {
            return Err(connector_error("commit", &error));
        }
        // The id has moved on: by our own use after the commit, or because the broker gave up on the transaction. Its
        // coordinator can't say which; the partitions can.
        let outcome = self.cluster.outcome(transaction, TRY_PATIENCE);
        let described = committable::describe(transaction);
        match outcome.map_err(|error| connector_error("what became of a transaction", &error))? {
            Outcome::Committed => Ok(None),
            Outcome::Removed => {
                tracing::warn!(
                    transaction = described,
                    "its records are past the topic's retention: nothing to commit"
                );
                Ok(None)
            }
            Outcome::Open => {
                Err(ConnectorError::Transient(format!("{described} is being ended by someone else: {error}")))
            }
            Outcome::Aborted => Err(ConnectorError::Permanent(format!(
                "{described} was aborted before it could be committed, although a completed checkpoint counts on it: {error}. \
                 The job was away for longer than transactionTimeout ({} s), or another job uses the same transactional \
                 ids. These records are not in the topic. To write them again restore from a checkpoint before this one \
                 (`--from`), which repeats what was committed since; to go on without them, restore from this one with \
                 the sink renamed and upgrade.allowNonRestoredState: true",
                self.config.transaction_timeout.as_secs()
            ))),
        }
    }

    /// On several connections if they are many: a restore waits for it.
    fn take_all_over(&mut self, ids: &[Earlier<'_>]) -> Result<(), ConnectorError> {
        let KafkaCommitter { config, context, cluster, .. } = self;
        let next = AtomicUsize::new(0);
        let take_some = |cluster: &mut Cluster| {
            while let Some(earlier) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                take_over(cluster, earlier, &context.name, config.transaction_timeout)?;
            }
            Ok(())
        };
        let span = tracing::Span::current();
        let connections = ids.len().div_ceil(IDS_OF_CONNECTION).min(CONNECTIONS);
        std::thread::scope(|scope| {
            let take_beside = || span.in_scope(|| take_some(&mut config.cluster.client()?));
            let others: Vec<_> = (1..connections).map(|_| scope.spawn(take_beside)).collect();
            let own = take_some(cluster);
            others.into_iter().map(|other| other.join().expect("it does not panic")).fold(own, Result::and)
        })
    }

    /// All partitions have heard of the commits. A broker that died may have left one out of what its coordinator had decided.
    fn confirm_held(&mut self) -> Result<(), ConnectorError> {
        for held in &self.held {
            let described = || committable::describe(&held.transaction);
            match self.cluster.confirm_committed(&held.transaction, TRY_PATIENCE) {
                Ok(Confirmed::Visible) => {}
                Ok(Confirmed::Unknown(error)) => tracing::debug!(%error, "whether a commit can be read is not known"),
                Ok(Confirmed::Mended { partitions }) => tracing::warn!(
                    transaction = described(),
                    partitions,
                    "it was committed, and a broker that died had not told these partitions: done now"
                ),
                Err(error) if error.is_retriable() => return Err(connector_error("the end of a transaction", &error)),
                Err(error) => {
                    return Err(ConnectorError::Permanent(format!(
                        "{} is committed, but a broker died before the partition heard of it, and nothing from there on can \
                         be read by consumers of what is committed. Weir could not write the marker that is missing: \
                         {error}. Allow the job's principal ALTER on the cluster, and restart the job",
                        described()
                    )));
                }
            }
        }
        Ok(())
    }
}

/// By taking the id over rather than by ending its transaction: who wrote in it can't go on. Nor can who is between two
/// transactions, and does not know yet that it was replaced: its next would hold readers up until it expires.
fn take_over(
    cluster: &mut Cluster,
    earlier: &Earlier<'_>,
    sink: &str,
    timeout: Duration,
) -> Result<(), ConnectorError> {
    let &Earlier { id, is_open } = earlier;
    let patience = if is_open { PATIENCE } else { TRY_PATIENCE };
    match cluster.init_producer(Some(id), timeout, patience) {
        Ok(_) if is_open => tracing::info!(sink, transaction = id, "aborted: no checkpoint names it"),
        Ok(_) => {}
        Err(error) if !is_open && error.is_retriable() => {
            tracing::warn!(sink, transaction = id, %error, "an earlier writer may still write");
        }
        Err(error) => return Err(connector_error("aborting what no checkpoint names", &error)),
    }
    Ok(())
}

impl Committer for KafkaCommitter {
    fn commit(&mut self, permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError> {
        let checkpoint = permit.checkpoint();
        for stored in committables {
            let transaction = committable::read(stored)?;
            let id = &transaction.transactional_id;
            if let Some(next) = self.commit_one(&transaction)?
                && !self.held.iter().any(|held| held.transaction.transactional_id == *id)
            {
                self.held.push(Held { checkpoint, transaction, next });
            }
        }
        // The coordinator's word is only that they will hear of it: a broker that dies now may leave partitions out, and after
        // the last commit of a job nobody asks again.
        self.confirm_held()
    }

    /// Their ids may be used again. Not as soon as a later checkpoint is complete: one that was cut while a commit was under
    /// way holds it, too, and what it holds is not looked for after a restore.
    fn settled_before(&mut self, checkpoint: CheckpointId) {
        for held in self.held.extract_if(.., |held| held.checkpoint < checkpoint) {
            self.pool.release(&held.transaction.transactional_id, held.next);
        }
    }

    fn abort_others(&mut self, committed: &[Committable], writers: &[serde_json::Value]) -> Result<(), ConnectorError> {
        let committed: Vec<Transaction> = committed.iter().map(committable::read).collect::<Result<_, _>>()?;
        let is_committed = |id: &str| committed.iter().any(|transaction| transaction.transactional_id == id);
        let CommitterContext { name, job_uid, epoch } = self.context.clone();
        let mut prefixes =
            BTreeSet::from([ids::prefix(self.config.transactional_id_prefix.as_deref(), &job_uid, &name)]);
        for writer in writers {
            let state: WriterState = serde_json::from_value(writer.clone())
                .map_err(|error| ConnectorError::Permanent(format!("the sink's state in the checkpoint: {error}")))?;
            // Of a job that this one was begun from, which may still run, it only commits what the checkpoint names.
            if !ids::is_of_another_job(&state.transactional_id_prefix, &job_uid) {
                prefixes.insert(state.transactional_id_prefix);
            }
        }
        for prefix in prefixes {
            let known = self.cluster.known_transactions(&prefix, PATIENCE);
            let known = known.map_err(|error| connector_error("known transactions", &error))?;
            let earlier = |listed: &Listed| ids::epoch_of(&prefix, &listed.transactional_id).filter(|of| *of <= epoch);
            // Where nobody writes yet, these are the last who did. Who was before them is shut out since they began.
            let last = known.iter().filter_map(earlier).max();
            let to_take = known.iter().filter_map(|listed| {
                let (id, is_open) = (listed.transactional_id.as_str(), listed.is_open());
                let is_of_last = earlier(listed).map(|of| Some(of) == last)?;
                // What is committed has ended by now: where one is open it is the id's next.
                (is_open || is_of_last && !is_committed(id)).then_some(Earlier { id, is_open })
            });
            self.take_all_over(&to_take.collect::<Vec<_>>())?;
        }
        Ok(())
    }
}
