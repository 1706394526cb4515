//! What the server must have and allow, so that changes of a table can be read; each thing with what to do about it.

use crate::replication::Lsn;
use crate::source::columns::Columns;
use crate::table::{Table, TableName, literal, quoted};
use arrow::datatypes::SchemaRef;
use tokio_postgres::types::Type;
use weir_connectors::api::ConnectorError;
use weir_postgres_client::{Connection, while_doing};

/// Of what is looked up, with the names that the job gives or that are made for it.
pub(super) struct Wanted<'a> {
    pub(super) table: &'a TableName,
    pub(super) schema: &'a SchemaRef,
    pub(super) slot: &'a str,
    pub(super) publication: &'a str,
    /// Whether the job names the publication; it is made where it doesn't.
    pub(super) is_publication_given: bool,
    /// How our own sessions show to the server.
    pub(super) purpose: &'a str,
}

/// What was found.
pub(super) struct Found {
    pub(super) table: Table,
    pub(super) columns: Columns,
    pub(super) key: Vec<KeyColumn>,
    /// What tells the server's data from that of others.
    pub(super) system: String,
    pub(super) slot: Option<Slot>,
    pub(super) has_publication: bool,
    /// Why changes can't be read.
    pub(super) problems: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    /// As the server writes it.
    pub(super) type_name: String,
}

pub(super) struct Slot {
    /// What was committed before isn't sent any more.
    pub(super) confirmed: Lsn,
    /// The server has removed what the slot needs.
    pub(super) is_lost: bool,
}

impl Wanted<'_> {
    /// # Errors
    /// No answer, or a table that isn't there or has other columns.
    pub(super) fn look_up(&self, connection: &Connection) -> Result<Found, ConnectorError> {
        let table = Table::look_up(connection, self.table)?;
        let columns = Columns::of(&table, self.schema)?;
        let mut problems = Vec::new();
        self.of_table(connection, &table, &mut problems)?;
        let key = key(connection, &table)?;
        if key.is_empty() {
            problems.push(format!(
                "`{}` has no primary key, by which its rows can be read piece by piece; add one, or read its rows once \
                 with `bounded: true`",
                table.name
            ));
        }
        of_server(connection, &mut problems)?;
        let has_publication = self.of_publication(connection, &table, &mut problems)?;
        let slot = self.of_slot(connection, &mut problems)?;
        let system = connection.query_one("SELECT system_identifier::text FROM pg_catalog.pg_control_system()", &[])?;
        Ok(Found { table, columns, key, system: system.get(0), slot, has_publication, problems })
    }

    fn of_table(
        &self,
        connection: &Connection,
        table: &Table,
        problems: &mut Vec<String>,
    ) -> Result<(), ConnectorError> {
        let name = &table.name;
        if table.missing_rights.contains(&"SELECT") {
            problems.push(format!("this user may not read `{name}`; GRANT SELECT ON {name} TO it"));
        }
        let row = connection.query_one(
            "SELECT relreplident::text, relkind::text, relpersistence::text, \
             ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = c.oid AND attgenerated <> '') \
             FROM pg_catalog.pg_class c WHERE oid = pg_catalog.to_regclass($1)",
            &[(&name.quoted(), Type::TEXT)],
        )?;
        let (identity, kind, persistence): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let generated: Vec<String> = row.get(3);
        if kind == "p" {
            problems.push(format!("`{name}` is partitioned, whose changes cannot be read as one; name a partition"));
        } else if identity != "f" {
            problems.push(format!(
                "the server logs of a changed row of `{name}` only its key, not what it was before, which an aggregate has \
                 to take back; ALTER TABLE {} REPLICA IDENTITY FULL",
                name.quoted()
            ));
        }
        if persistence != "p" {
            problems.push(format!("changes of `{name}` are not logged; ALTER TABLE {} SET LOGGED", name.quoted()));
        }
        for field in self.schema.fields().iter().filter(|field| generated.contains(field.name())) {
            problems.push(format!(
                "column `{}` is computed by the server, and is not part of a change; leave it out of `schema`, and compute \
                 it in a query",
                field.name()
            ));
        }
        Ok(())
    }

    fn of_publication(
        &self,
        connection: &Connection,
        table: &Table,
        problems: &mut Vec<String>,
    ) -> Result<bool, ConnectorError> {
        let name = self.publication;
        let found = connection.query(
            "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate FROM pg_catalog.pg_publication WHERE pubname = $1",
            &[(&name, Type::TEXT)],
        )?;
        let Some(found) = found.first() else {
            if self.is_publication_given {
                problems.push(format!(
                    "there is no publication `{name}`; CREATE PUBLICATION {} FOR TABLE {}, or leave `publication` out",
                    quoted(name),
                    table.name.quoted()
                ));
                return Ok(false);
            }
            let allowed = connection.query_one(
                "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') AND \
                 pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') \
                 FROM pg_catalog.pg_class c WHERE oid = pg_catalog.to_regclass($1)",
                &[(&table.name.quoted(), Type::TEXT)],
            )?;
            if !allowed.get::<_, bool>(0) {
                problems.push(format!(
                    "this user may not make a publication of `{0}` (its owner may, with CREATE on the database); let the \
                     owner CREATE PUBLICATION orders_changes FOR TABLE {1}, and name it in `publication`",
                    table.name,
                    table.name.quoted()
                ));
            }
            return Ok(false);
        };
        if !found.get::<_, bool>(0) {
            problems.push(format!(
                "the publication `{name}` leaves changes out; ALTER PUBLICATION {} SET (publish = 'insert, update, delete, \
                 truncate')",
                quoted(name)
            ));
        }
        // Row filters and lists of columns came with version 15.
        let version = connection.query_one("SELECT pg_catalog.current_setting('server_version_num')::int", &[])?;
        let more = if version.get::<_, i32>(0) >= 150_000 {
            "rowfilter, attnames::text[]"
        } else {
            "NULL::text, NULL::text[]"
        };
        let tables = connection.query(
            &format!(
                "SELECT {more} FROM pg_catalog.pg_publication_tables \
                 WHERE pubname = $1 AND schemaname = $2 AND tablename = $3"
            ),
            &[(&name, Type::TEXT), (&table.schema(), Type::TEXT), (&table.name.name, Type::TEXT)],
        )?;
        match tables.first() {
            // Its table was made anew: it is added.
            None if !self.is_publication_given => return Ok(false),
            None => problems.push(format!(
                "the publication `{name}` has no changes of `{}`; ALTER PUBLICATION {} ADD TABLE {}",
                table.name,
                quoted(name),
                table.name.quoted()
            )),
            Some(row) => {
                if let Some(filter) = row.get::<_, Option<String>>(0) {
                    problems.push(format!(
                        "the publication `{name}` gives only rows with {filter}, while all rows are read at first; take \
                         the filter out of it, and filter in a query"
                    ));
                }
                let given: Option<Vec<String>> = row.get(1);
                let is_missing =
                    |column: &&str| given.as_ref().is_some_and(|given| !given.iter().any(|one| one == column));
                for column in self.schema.fields().iter().map(|field| field.name().as_str()).filter(is_missing) {
                    problems.push(format!(
                        "the publication `{name}` leaves column `{column}` out; add it there, or leave it out of `schema`"
                    ));
                }
            }
        }
        Ok(true)
    }

    fn of_slot(&self, connection: &Connection, problems: &mut Vec<String>) -> Result<Option<Slot>, ConnectorError> {
        let name = self.slot;
        let found = connection.query(
            "SELECT coalesce(s.plugin::text, ''), coalesce(s.database = pg_catalog.current_database(), false), \
             s.confirmed_flush_lsn::text, s.wal_status = 'lost', s.active_pid, a.application_name \
             FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid \
             WHERE s.slot_name = $1",
            &[(&name, Type::TEXT)],
        )?;
        let Some(row) = found.first() else {
            let free = connection.query_one(
                "SELECT pg_catalog.current_setting('max_replication_slots')::bigint, count(*) \
                 FROM pg_catalog.pg_replication_slots",
                &[],
            )?;
            let (max, used): (i64, i64) = (free.get(0), free.get(1));
            if used >= max {
                problems.push(format!(
                    "all {max} replication slots of the server are in use (max_replication_slots); drop one that nobody \
                     reads, with pg_drop_replication_slot, or allow more"
                ));
            }
            return Ok(None);
        };
        let (plugin, is_ours): (String, bool) = (row.get(0), row.get(1));
        if plugin != "pgoutput" || !is_ours {
            problems.push(format!(
                "the replication slot `{name}` is of another kind or database (plugin `{plugin}`); name another `slot`"
            ));
            return Ok(None);
        }
        let by: Option<String> = row.get(5);
        if let (Some(pid), Some(by)) = (row.get::<_, Option<i32>>(4), by)
            && by != self.purpose
        {
            problems.push(format!(
                "the replication slot `{name}` is being read by another (`{by}`, process {pid}); stop that, or name another \
                 `slot`"
            ));
        }
        let confirmed = row.get::<_, Option<String>>(2).and_then(|lsn| lsn.parse().ok()).unwrap_or_default();
        Ok(Some(Slot { confirmed, is_lost: row.get::<_, Option<bool>>(3).unwrap_or(false) }))
    }
}

fn of_server(connection: &Connection, problems: &mut Vec<String>) -> Result<(), ConnectorError> {
    let row = connection.query_one(
        "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.current_setting('max_wal_senders')::bigint, \
         pg_catalog.pg_is_in_recovery(), r.rolsuper OR r.rolreplication OR EXISTS \
           (SELECT 1 FROM pg_catalog.pg_roles h WHERE h.rolname IN ('rds_replication', 'cloudsqlreplica') \
            AND pg_catalog.pg_has_role(r.oid, h.oid, 'MEMBER')), r.rolname::text \
         FROM pg_catalog.pg_roles r WHERE r.rolname = current_user",
        &[],
    )?;
    let (level, senders): (String, i64) = (row.get(0), row.get(1));
    if level != "logical" {
        problems.push(format!(
            "the server's wal_level is {level}, which does not log enough; set wal_level = logical and restart it"
        ));
    }
    if senders == 0 {
        problems
            .push("the server lets nobody replicate (max_wal_senders is 0); set it to 10 and restart it".to_owned());
    }
    if row.get::<_, bool>(2) {
        problems.push("the server is a replica, where no slot can be made; name the primary".to_owned());
    }
    if !row.get::<_, bool>(3) {
        let user: String = row.get(4);
        problems.push(format!("the user `{user}` may not replicate; ALTER ROLE {} REPLICATION", quoted(&user)));
    }
    Ok(())
}

/// The columns of the primary key, in its order.
fn key(connection: &Connection, table: &Table) -> Result<Vec<KeyColumn>, ConnectorError> {
    let rows = connection.query(
        "SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_index i \
         CROSS JOIN LATERAL pg_catalog.unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(number, place) \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number \
         WHERE i.indrelid = pg_catalog.to_regclass($1) AND i.indisprimary ORDER BY k.place",
        &[(&table.name.quoted(), Type::TEXT)],
    )?;
    Ok(rows.iter().map(|row| KeyColumn { name: row.get(0), type_name: row.get(1) }).collect())
}

/// Whoever else makes it at the same time is another attempt of the same job. One that is there without the table gets it.
pub(super) fn make_publication(connection: &Connection, name: &str, table: &Table) -> Result<(), ConnectorError> {
    let (quoted, table) = (quoted(name), table.name.quoted());
    for statement in [
        format!("CREATE PUBLICATION {quoted} FOR TABLE {table}"),
        format!("ALTER PUBLICATION {quoted} ADD TABLE {table}"),
    ] {
        match connection.execute(&statement) {
            Ok(()) => return Ok(()),
            Err(error) if error.to_string().contains("(SQLSTATE 42710)") => {}
            Err(error) => return Err(while_doing(format!("making the publication `{name}`"))(error)),
        }
    }
    Ok(())
}

/// `("a", "b") > ('1'::bigint, 'x'::text)`; with columns as the server orders them.
pub(super) fn compared(key: &[KeyColumn], operator: &str, values: &[String]) -> String {
    let names: Vec<String> = key.iter().map(|column| quoted(&column.name)).collect();
    let values = key.iter().zip(values).map(|(column, value)| format!("{}::{}", literal(value), column.type_name));
    format!("({}) {operator} ({})", names.join(", "), values.collect::<Vec<_>>().join(", "))
}
