//! A table as the server's catalog describes it.

use tokio_postgres::types::Type;
use weir_connectors::api::ConnectorError;
use weir_postgres_client::{Connection, while_doing};

/// `schema.table`, unquoted as the user wrote it; quoted wherever it goes to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableName {
    /// None: where the server's search path finds it.
    pub schema: Option<String>,
    pub name: String,
}

impl TableName {
    pub(crate) fn parse(text: &str) -> Result<Self, ConnectorError> {
        let parts: Vec<&str> = text.split('.').collect();
        match parts.as_slice() {
            [name] if !name.is_empty() => Ok(TableName { schema: None, name: (*name).to_owned() }),
            [schema, name] if !schema.is_empty() && !name.is_empty() => {
                Ok(TableName { schema: Some((*schema).to_owned()), name: (*name).to_owned() })
            }
            _ => Err(ConnectorError::Permanent(format!("`{text}` is no table; write `table` or `schema.table`"))),
        }
    }

    pub(crate) fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.name)),
            None => quoted(&self.name),
        }
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct TableColumn {
    pub name: String,
    /// The type's oid; of a domain, that of the type below it.
    pub oid: u32,
    /// As the server writes it: `numeric(10,2)`.
    pub type_name: String,
    /// `e`: an enum.
    pub type_kind: char,
    /// Precision and scale of a numeric that has them.
    pub numeric: Option<(i32, i32)>,
    pub not_null: bool,
    pub has_default: bool,
    /// The server computes it, or takes no value for it.
    pub is_generated: bool,
}

/// What a sink needs to know of its table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub oid: u32,
    /// With its schema, as found.
    pub name: TableName,
    pub columns: Vec<TableColumn>,
    /// The columns of each unique index that ON CONFLICT can go by, sorted by name.
    pub unique: Vec<Vec<String>>,
    /// Of the rights that are asked for, those that this user lacks.
    pub missing_rights: Vec<&'static str>,
}

const RIGHTS: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

impl Table {
    pub(crate) fn look_up(connection: &Connection, name: &TableName) -> Result<Table, ConnectorError> {
        let at = || format!("looking up the table `{name}`");
        let found = connection
            .query(
                "SELECT c.oid, n.nspname::text, c.relkind::text FROM pg_catalog.pg_class c \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass($1)",
                &[(&name.quoted(), Type::TEXT)],
            )
            .map_err(while_doing(at()))?;
        let Some(found) = found.first() else {
            return Err(ConnectorError::Permanent(format!(
                "there is no table `{name}`; create it, or write `schema.table` if it is in a schema that is not on \
                 the search path (names are as in the catalog, so in lower case unless they were quoted)"
            )));
        };
        let oid: u32 = found.get(0);
        let kind: String = found.get(2);
        if !matches!(kind.as_str(), "r" | "p") {
            return Err(ConnectorError::Permanent(format!(
                "`{name}` is not a table but of kind `{kind}`; name a table"
            )));
        }
        let schema: String = found.get(1);
        let columns = columns(connection, oid).map_err(while_doing(at()))?;
        let unique = unique(connection, oid).map_err(while_doing(at()))?;
        let rights = connection
            .query(
                "SELECT pg_catalog.has_table_privilege($1, r) FROM unnest($2::text[]) WITH ORDINALITY AS a(r, i) ORDER BY i",
                &[(&oid, Type::OID), (&RIGHTS.as_slice(), Type::TEXT_ARRAY)],
            )
            .map_err(while_doing(at()))?;
        let missing = RIGHTS.into_iter().zip(&rights).filter(|(_, has)| !has.get::<_, bool>(0));
        Ok(Table {
            oid,
            name: TableName { schema: Some(schema), name: name.name.clone() },
            columns,
            unique,
            missing_rights: missing.map(|(right, _)| right).collect(),
        })
    }

    pub(crate) fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(crate) fn schema(&self) -> &str {
        self.name.schema.as_deref().unwrap_or("public")
    }
}

fn columns(connection: &Connection, table: u32) -> Result<Vec<TableColumn>, ConnectorError> {
    let rows = connection.query(
        "SELECT a.attname::text, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END, \
                pg_catalog.format_type(a.atttypid, a.atttypmod), \
                (SELECT b.typtype::text FROM pg_catalog.pg_type b \
                 WHERE b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END), \
                CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, a.attnotnull, a.atthasdef OR a.attidentity <> '', \
                a.attgenerated <> '' OR a.attidentity = 'a' \
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        &[(&table, Type::OID)],
    )?;
    let column = |row: &tokio_postgres::Row| {
        let (oid, modifier): (u32, i32) = (row.get(1), row.get(4));
        let numeric = (oid == Type::NUMERIC.oid() && modifier >= 4).then(|| {
            let digits = modifier - 4;
            // The scale has eleven bits, the highest its sign.
            let scale = digits & 0x7ff;
            (digits >> 16 & 0xffff, (scale ^ 1024) - 1024)
        });
        TableColumn {
            name: row.get(0),
            oid,
            type_name: row.get(2),
            type_kind: row.get::<_, Option<String>>(3).and_then(|kind| kind.chars().next()).unwrap_or('b'),
            numeric,
            not_null: row.get(5),
            has_default: row.get(6),
            is_generated: row.get(7),
        }
    };
    Ok(rows.iter().map(column).collect())
}

/// Whole, at once, over columns alone: what `ON CONFLICT (columns)` infers.
fn unique(connection: &Connection, table: u32) -> Result<Vec<Vec<String>>, ConnectorError> {
    let rows = connection.query(
        "SELECT ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a \
                      WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) ORDER BY 1) \
         FROM pg_catalog.pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid \
           AND i.indpred IS NULL AND i.indexprs IS NULL",
        &[(&table, Type::OID)],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// An identifier as SQL text.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as SQL text, whatever `standard_conforming_strings` is.
pub(crate) fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(TableName::parse("shop.orders").unwrap().quoted(), r#""shop"."orders""#);
        assert_eq!(TableName::parse("a\"b").unwrap().quoted(), r#""a""b""#);
        for wrong in ["", ".", "a.", ".b", "a.b.c"] {
            assert!(TableName::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'"), " E'a\\\\'''");
    }
}
