//! Where the job's output goes: a store of transactions outside the job, as a sink in two phases has it. What was
//! prepared can't be read; what is committed stays.

use crate::job::{Row, Table, apply};
use std::collections::{BTreeMap, BTreeSet};
use weir_model::{CheckpointId, CommitPermit, Epoch};

#[derive(Default)]
pub(crate) struct External {
    prepared: BTreeMap<String, Prepared>,
    committed: BTreeSet<String>,
    /// As a reader sees it.
    pub(crate) table: Table,
    pub(crate) rows: u64,
    /// The checkpoints that stand in the log, as the checkers have seen it.
    pub(crate) durable: BTreeSet<CheckpointId>,
    /// What a checker finds, once.
    pub(crate) violation: Option<String>,
}

struct Prepared {
    epoch: Epoch,
    rows: Vec<Row>,
}

impl External {
    pub(crate) fn prepare(&mut self, transaction: String, epoch: Epoch, rows: Vec<Row>) {
        self.prepared.insert(transaction, Prepared { epoch, rows });
    }

    /// Makes a transaction visible. Again: nothing happens.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn commit(&mut self, transaction: &str, permit: CommitPermit) -> Result<(), String> {
        if !self.durable.contains(&permit.checkpoint()) {
            let early =
                format!("{transaction} was committed by checkpoint {}, which is not in the log", permit.checkpoint());
            self.violation.get_or_insert(early);
        }
        if self.committed.contains(transaction) {
            return Ok(());
        }
        let Some(Prepared { rows, .. }) = self.prepared.remove(transaction) else {
            return Err(format!("transaction {transaction} of checkpoint {} is gone", permit.checkpoint()));
        };
        self.committed.insert(transaction.to_owned());
        self.rows += rows.len() as u64;
        for row in &rows {
            if let Err(found) = apply(&mut self.table, row) {
                self.violation.get_or_insert(format!("transaction {transaction}: {found}"));
            }
        }
        Ok(())
    }

    /// Removes what was prepared up to this epoch and is not kept.
    pub(crate) fn abort_others(&mut self, kept: &[String], up_to: Epoch) -> usize {
        let before = self.prepared.len();
        self.prepared.retain(|name, prepared| prepared.epoch > up_to || kept.contains(name));
        before - self.prepared.len()
    }
}
