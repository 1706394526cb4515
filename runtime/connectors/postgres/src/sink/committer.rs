//! The second phase: rows that wait become visible, each batch once.

use super::names::{self, epoch_of_staging};
use super::prepared::Prepared;
use super::staged::{Staged, commits_table};
use super::statements;
use crate::table::{Table, TableName, literal};
use serde::Deserialize;
use std::collections::HashSet;
use tokio_postgres::types::Type;
use weir_connectors::api::{Committable, Committer, CommitterContext, ConnectorError};
use weir_model::CommitPermit;
use weir_postgres_client::{Connection, Lazy, while_doing};

/// Rows of `weir_commits` that a sink keeps: one for each subtask of each attempt. A restore from a checkpoint older than so
/// many writers can't tell any more whether its rows have been committed, and says so.
const KEPT_WRITERS: i64 = 10_000;
/// For a table that a process of ours, paused in the middle of a write, holds on to.
const ABORT_LOCK_TIMEOUT_MS: u32 = 5_000;

/// What checkpoints hold of this sink.
#[derive(Deserialize)]
#[serde(untagged)]
enum Waiting {
    Staged(Staged),
    Prepared(Prepared),
}

pub(super) struct PostgresCommitter {
    connection: Lazy,
    /// Of the staging tables. None: that in which the table is found.
    schema: Option<String>,
    into: TableName,
    context: CommitterContext,
    prefix: String,
}

impl PostgresCommitter {
    pub(super) fn new(connection: Lazy, schema: Option<String>, into: TableName, context: CommitterContext) -> Self {
        let prefix = names::prefix(&context.job_uid, &context.name);
        PostgresCommitter { connection, schema, into, context, prefix }
    }

    fn parse(&self, committable: &Committable) -> Result<Waiting, ConnectorError> {
        serde_json::from_value(committable.0.clone()).map_err(|error| {
            let (sink, held) = (&self.context.name, &committable.0);
            ConnectorError::Permanent(format!(
                "sink `{sink}`: the checkpoint holds {held}, which is not what a PostgreSQL sink wrote: {error}. Has the \
                 sink's connector been changed? Give the sink another name then"
            ))
        })
    }

    /// With the connection, which isn't used again after a failure.
    fn connected<T>(
        &mut self,
        act: impl FnOnce(&Connection, &CommitterContext) -> Result<T, ConnectorError>,
    ) -> Result<T, ConnectorError> {
        let result = match self.connection.get() {
            Ok(connection) => act(connection, &self.context),
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.connection.close();
        }
        result.map_err(while_doing(format!("sink `{}`", self.context.name)))
    }
}

impl Committer for PostgresCommitter {
    fn commit(&mut self, permit: CommitPermit, committables: &[Committable]) -> Result<(), ConnectorError> {
        let waiting = committables.iter().map(|committable| self.parse(committable)).collect::<Result<Vec<_>, _>>()?;
        self.connected(|connection, context| {
            waiting.iter().try_for_each(|waiting| match waiting {
                Waiting::Staged(staged) => {
                    connection.transaction(|connection| commit_staged(connection, context, permit, staged))
                }
                Waiting::Prepared(prepared) => commit_prepared(connection, permit, prepared),
            })
        })
    }

    fn abort_others(
        &mut self,
        committed: &[Committable],
        _writers: &[serde_json::Value],
    ) -> Result<(), ConnectorError> {
        let mut kept = HashSet::new();
        for committable in committed {
            kept.insert(match self.parse(committable)? {
                Waiting::Staged(staged) => staged.staging,
                Waiting::Prepared(prepared) => prepared.transaction,
            });
        }
        let (prefix, schema, into) = (self.prefix.clone(), self.schema.clone(), self.into.clone());
        self.connected(|connection, context| {
            let schema = match schema {
                Some(schema) => schema,
                None => Table::look_up(connection, &into)?.schema().to_owned(),
            };
            // First: they hold locks on tables.
            abort_prepared(connection, context, &prefix, &kept)?;
            let found = connection.query(
                "SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relkind = 'r' AND pg_catalog.starts_with(c.relname::text, $2)",
                &[(&schema, Type::TEXT), (&prefix, Type::TEXT)],
            )?;
            for name in found.iter().map(|row| row.get::<_, String>(0)) {
                if !kept.contains(&name) {
                    abort(connection, context, &prefix, TableName { schema: Some(schema.clone()), name })?;
                }
            }
            forget(connection, context, &schema)
        })
    }
}

/// Not within a transaction: the server wants it so.
fn commit_prepared(connection: &Connection, permit: CommitPermit, prepared: &Prepared) -> Result<(), ConnectorError> {
    let Prepared { transaction, schema, rows, writer, batch } = prepared;
    let (commits, batch) = (commits_table(schema), *batch as i64);
    let waits = connection.query(
        "SELECT 1 FROM pg_catalog.pg_prepared_xacts WHERE gid = $1 AND database = pg_catalog.current_database()",
        &[(transaction, Type::TEXT)],
    )?;
    if !waits.is_empty() {
        connection.execute(&format!("COMMIT PREPARED {}", literal(transaction)))?;
    } else {
        let committed = connection.query(
            &format!("SELECT 1 FROM {commits} WHERE writer = $1 AND batch >= $2 LIMIT 1"),
            &[(writer, Type::TEXT), (&batch, Type::INT8)],
        )?;
        if committed.is_empty() {
            return Err(ConnectorError::Permanent(format!(
                "{rows} rows of checkpoint {} cannot be committed: the prepared transaction {transaction} is gone, and \
                 {commits} does not say that batch {batch} of {writer} has been committed. Either somebody else rolled it \
                 back, or a restore went back behind this checkpoint before; start from another checkpoint",
                permit.checkpoint()
            )));
        }
    }
    let before = format!("DELETE FROM {commits} WHERE writer = $1 AND batch < $2");
    connection.query(&before, &[(writer, Type::TEXT), (&batch, Type::INT8)])?;
    Ok(())
}

fn abort_prepared(
    connection: &Connection,
    context: &CommitterContext,
    prefix: &str,
    kept: &HashSet<String>,
) -> Result<(), ConnectorError> {
    let found = connection.query(
        "SELECT gid FROM pg_catalog.pg_prepared_xacts \
         WHERE database = pg_catalog.current_database() AND pg_catalog.starts_with(gid, $1)",
        &[(&prefix, Type::TEXT)],
    )?;
    for transaction in found.iter().map(|row| row.get::<_, String>(0)) {
        let Some(epoch) = epoch_of_staging(prefix, &transaction).filter(|_| !kept.contains(&transaction)) else {
            continue;
        };
        if epoch > context.epoch {
            tracing::warn!(sink = context.name, transaction, %epoch, "output of a later coordinator is left alone");
            continue;
        }
        tracing::info!(sink = context.name, transaction, "rolling back what no checkpoint holds");
        connection.execute(&format!("ROLLBACK PREPARED {}", literal(&transaction)))?;
    }
    Ok(())
}

/// Within a transaction. A batch that is in the table already is a success.
fn commit_staged(
    connection: &Connection,
    context: &CommitterContext,
    permit: CommitPermit,
    staged: &Staged,
) -> Result<(), ConnectorError> {
    let (commits, staging, into) = (staged.commits(), staged.table(), staged.destination());
    let cannot = |reason: String| {
        ConnectorError::Permanent(format!(
            "{} rows of checkpoint {} for `{into}` cannot be committed: {reason}",
            staged.rows,
            permit.checkpoint()
        ))
    };
    let found = connection.query(
        "SELECT pg_catalog.to_regclass($1) IS NOT NULL, pg_catalog.to_regclass($2) IS NOT NULL",
        &[(&commits, Type::TEXT), (&staging.quoted(), Type::TEXT)],
    )?;
    let (has_commits, is_staged) = found.first().map_or((false, false), |row| (row.get(0), row.get(1)));
    if !has_commits {
        return Err(cannot(format!(
            "the table {commits}, which says what has been, is gone; somebody else removed it"
        )));
    }
    let batch = staged.batch as i64;
    let committed = connection.query(
        &format!("SELECT 1 FROM {commits} WHERE writer = $1 AND batch >= $2 LIMIT 1"),
        &[(&staged.writer, Type::TEXT), (&batch, Type::INT8)],
    )?;
    if !committed.is_empty() {
        return Ok(());
    }
    if !is_staged {
        return Err(cannot(format!(
            "the staging table `{staging}`, in which they waited, is gone, and {commits} does not say that batch {batch} \
             of {} has been committed. Either somebody else removed it, or a restore went back behind this checkpoint \
             before; start from another checkpoint",
            staged.writer
        )));
    }
    let merge = statements::merge(&staging.quoted(), &into.quoted(), &staged.columns, &staged.key);
    let moved = connection.execute(&merge);
    moved.map_err(|error| match error {
        ConnectorError::Transient(_) => error,
        ConnectorError::Permanent(reason) => cannot(format!(
            "{reason}. They wait in `{staging}`; let `{into}` take them (a unique index that they break can be made the \
             sink's `key`), and start the job again"
        )),
    })?;
    connection.execute(&format!("DROP TABLE {}", staging.quoted()))?;
    let (epoch, checkpoint) = (context.epoch.0 as i64, permit.checkpoint().0 as i64);
    connection.query(
        &format!("INSERT INTO {commits} (writer, batch, job, sink, epoch, checkpoint) VALUES ($1, $2, $3, $4, $5, $6)"),
        &[
            (&staged.writer, Type::TEXT),
            (&batch, Type::INT8),
            (&context.job_uid, Type::TEXT),
            (&context.name, Type::TEXT),
            (&epoch, Type::INT8),
            (&checkpoint, Type::INT8),
        ],
    )?;
    let before = format!("DELETE FROM {commits} WHERE writer = $1 AND batch < $2");
    connection.query(&before, &[(&staged.writer, Type::TEXT), (&batch, Type::INT8)])?;
    Ok(())
}

fn abort(
    connection: &Connection,
    context: &CommitterContext,
    prefix: &str,
    staging: TableName,
) -> Result<(), ConnectorError> {
    let Some(epoch) = epoch_of_staging(prefix, &staging.name) else { return Ok(()) };
    if epoch > context.epoch {
        tracing::warn!(sink = context.name, table = %staging, %epoch, "output of a later coordinator is left alone");
        return Ok(());
    }
    tracing::info!(sink = context.name, table = %staging, "removing output that no checkpoint holds");
    let dropped = connection.transaction(|connection| {
        connection.execute(&format!(
            "SET LOCAL lock_timeout = {ABORT_LOCK_TIMEOUT_MS}; DROP TABLE IF EXISTS {}",
            staging.quoted()
        ))
    });
    match dropped {
        // It can't become visible any more: nothing commits it.
        Err(ConnectorError::Transient(reason)) if !connection.is_closed() => {
            tracing::warn!(sink = context.name, table = %staging, reason, "in use; it stays until the next restore");
            Ok(())
        }
        other => other,
    }
}

/// Keeps `weir_commits` small.
fn forget(connection: &Connection, context: &CommitterContext, schema: &str) -> Result<(), ConnectorError> {
    let commits = commits_table(schema);
    let exists =
        connection.query("SELECT 1 WHERE pg_catalog.to_regclass($1) IS NOT NULL", &[(&commits, Type::TEXT)])?;
    if exists.is_empty() {
        return Ok(());
    }
    connection.query(
        &format!(
            "DELETE FROM {commits} WHERE writer IN (SELECT writer FROM {commits} WHERE job = $1 AND sink = $2 \
             ORDER BY committed_at DESC OFFSET $3)"
        ),
        &[(&context.job_uid, Type::TEXT), (&context.name, Type::TEXT), (&KEPT_WRITERS, Type::INT8)],
    )?;
    Ok(())
}
