//! The rows as a snapshot has them, in the order of their keys.

use super::server::{KeyColumn, compared};
use crate::replication::{Lsn, SETTINGS};
use crate::source::columns::Columns;
use crate::table::{Table, literal, quoted};
use arrow::record_batch::RecordBatch;
use weir_connectors::api::ConnectorError;
use weir_postgres_client::{Connection, ConnectionUrl, while_doing};

/// A transaction that sees what was committed before a position in the server's log, and nothing else.
pub(super) struct SnapshotRows {
    connection: Connection,
    pub(super) at: Lsn,
}

/// Rows that follow each other.
pub(super) struct Piece {
    pub(super) batch: RecordBatch,
    /// Of the last row.
    pub(super) key: Option<Vec<String>>,
}

impl SnapshotRows {
    /// Imports a snapshot that another session holds.
    pub(super) fn open(url: &ConnectionUrl, purpose: &str, at: Lsn, name: &str) -> Result<Self, ConnectorError> {
        let connection = Connection::open(url, purpose)?;
        connection.execute(&settings())?;
        // It is open for as long as the rows take to be processed, and longer than a server may want.
        connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")?;
        let import = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            literal(name).trim_start()
        );
        connection.execute(&import).map_err(while_doing("importing the slot's snapshot"))?;
        Ok(SnapshotRows { connection, at })
    }

    /// At most `limit` rows whose keys come after `after`; fewer: they are the last.
    pub(super) fn read(
        &self,
        table: &Table,
        columns: &Columns,
        key: &[KeyColumn],
        after: Option<&[String]>,
        limit: usize,
    ) -> Result<Piece, ConnectorError> {
        let names: Vec<String> = key.iter().map(|column| quoted(&column.name)).collect();
        let texts: Vec<String> = names.iter().map(|name| format!("{name}::text")).collect();
        // Columns of the table, not those of the result, which may have the same names.
        let order: Vec<String> = names.iter().map(|name| format!("rows.{name}")).collect();
        let (expressions, texts, order) = (columns.expressions(), texts.join(", "), order.join(", "));
        let condition = after.map_or_else(String::new, |after| format!(" WHERE {}", compared(key, ">", after)));
        let rows = self.connection.query(
            &format!(
                "SELECT {expressions}, {texts} FROM {} AS rows{condition} ORDER BY {order} LIMIT {limit}",
                table.name.quoted()
            ),
            &[],
        )?;
        let key = rows.last().map(|row| (row.len() - key.len()..row.len()).map(|index| row.get(index)).collect());
        Ok(Piece { batch: columns.batch(&rows)?, key })
    }
}

/// Values as text are to look as they do in the stream.
pub(super) fn settings() -> String {
    SETTINGS.map(|(name, value)| format!("SET {name} = '{value}'")).join("; ")
}
