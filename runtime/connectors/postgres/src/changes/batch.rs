//! Changes on their way to a batch.

use super::position::Cut;
use super::server::{KeyColumn, compared};
use crate::replication::{Change, Lsn, Relation, Value};
use crate::source::columns::Columns;
use crate::table::{Table, quoted};
use arrow::array::{ArrayRef, BooleanArray, Int8Array, RecordBatch, StringArray, StringBuilder};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;
use tokio_postgres::types::Type;
use weir_connectors::api::ConnectorError;
use weir_model::ChangeKind;
use weir_postgres_client::Lazy;

/// Where the columns that are read stand among those of the relation that the server told last.
pub(super) struct Layout {
    pub(super) relation: u32,
    columns: Vec<usize>,
    key: Vec<usize>,
}

impl Layout {
    pub(super) fn of(relation: &Relation, schema: &SchemaRef, key: &[KeyColumn]) -> Result<Self, ConnectorError> {
        let place = |name: &str| {
            let found = relation.columns.iter().position(|(column, _)| column == name);
            found.ok_or_else(|| {
                let has: Vec<&str> = relation.columns.iter().map(|(name, _)| name.as_str()).collect();
                ConnectorError::Permanent(format!(
                    "changes of `{}.{}` have no column `{name}` (they have {}): it was dropped or renamed, or the changes \
                     are older than it; start the job afresh, with a `schema` that the table has",
                    relation.schema,
                    relation.table,
                    has.join(", ")
                ))
            })
        };
        Ok(Layout {
            relation: relation.id,
            columns: schema.fields().iter().map(|field| place(field.name())).collect::<Result<_, _>>()?,
            key: key.iter().map(|column| place(&column.name)).collect::<Result<_, _>>()?,
        })
    }
}

/// Rows of changes, column by column.
pub(super) struct Changes {
    texts: Vec<StringBuilder>,
    kinds: Vec<i8>,
    /// Of each row, while there are cuts to compare it with: its key's columns, and its transaction's commit.
    keys: Vec<Vec<String>>,
    commits: Vec<Lsn>,
}

impl Changes {
    pub(super) fn new(columns: usize) -> Self {
        let texts = (0..columns).map(|_| StringBuilder::new()).collect();
        Changes { texts, kinds: vec![], keys: vec![], commits: vec![] }
    }

    pub(super) fn rows(&self) -> usize {
        self.kinds.len()
    }

    /// `cuts`: how the rows were read, if changes may be older than that.
    pub(super) fn add(
        &mut self,
        change: &Change,
        layout: &Layout,
        commit: Lsn,
        cuts: &[Cut],
    ) -> Result<(), ConnectorError> {
        if change.is_before_partial {
            return Err(ConnectorError::Permanent(
                "the server did not log what a changed row was before: the table's REPLICA IDENTITY is not FULL, or was \
                 not when the change was made; set it, and start the job afresh"
                    .to_owned(),
            ));
        }
        let is_older = cuts.last().is_some_and(|last| commit < last.lsn);
        // Of an update that changes the key one half may be older than its row, and the other not.
        let (taken, put) = match (&change.before, &change.after) {
            (Some(_), Some(_)) if !is_older => (ChangeKind::UpdateBefore, ChangeKind::UpdateAfter),
            _ => (ChangeKind::Delete, ChangeKind::Insert),
        };
        let before = change.before.as_ref().map(|values| values.read());
        if let Some(before) = &before {
            self.row(before, None, layout, taken)?;
        }
        let after = change.after.as_ref().map(|values| values.read());
        if let Some(after) = &after {
            self.row(after, before.as_deref(), layout, put)?;
        }
        if is_older {
            for row in [before.as_ref(), after.as_ref()].into_iter().flatten() {
                let text =
                    |index: &usize| text(row, before.as_deref(), *index).map(|text| text.unwrap_or("").to_owned());
                self.keys.push(layout.key.iter().map(text).collect::<Result<_, _>>()?);
                self.commits.push(commit);
            }
        } else {
            // Later than all cuts: nothing to compare.
            while self.keys.len() < self.kinds.len() && !cuts.is_empty() {
                self.keys.push(vec![String::new(); layout.key.len()]);
                self.commits.push(commit);
            }
        }
        Ok(())
    }

    fn row(
        &mut self,
        values: &[Value],
        before: Option<&[Value]>,
        layout: &Layout,
        kind: ChangeKind,
    ) -> Result<(), ConnectorError> {
        for (texts, place) in self.texts.iter_mut().zip(&layout.columns) {
            texts.append_option(text(values, before, *place)?);
        }
        self.kinds.push(kind as i8);
        Ok(())
    }

    /// The batch, with the change kind as its last column.
    pub(super) fn finish(
        &mut self,
        columns: &Columns,
        schema: &SchemaRef,
        filter: &mut CutFilter<'_>,
    ) -> Result<RecordBatch, ConnectorError> {
        let rows = self.rows();
        let texts: Vec<StringArray> = self.texts.iter_mut().map(StringBuilder::finish).collect();
        let batch = columns.batch_of_texts(rows, &texts)?;
        let batch = with_kinds(&batch, Int8Array::from(std::mem::take(&mut self.kinds)), schema)?;
        let (keys, commits) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.commits));
        if commits.iter().all(|commit| filter.cuts.last().is_none_or(|last| *commit >= last.lsn)) {
            return Ok(batch);
        }
        let counts = filter.counts(&keys, &commits)?;
        filter_record_batch(&batch, &counts).map_err(|error| ConnectorError::Permanent(error.to_string()))
    }
}

pub(super) fn with_kinds(
    batch: &RecordBatch,
    kinds: Int8Array,
    schema: &SchemaRef,
) -> Result<RecordBatch, ConnectorError> {
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(kinds) as ArrayRef);
    RecordBatch::try_new(schema.clone(), columns).map_err(|error| ConnectorError::Permanent(error.to_string()))
}

/// What an update left as it was, and the server did not send again, stands in the row before.
fn text<'a>(values: &'a [Value], before: Option<&'a [Value]>, place: usize) -> Result<Option<&'a str>, ConnectorError> {
    let unreadable = |what: &str| ConnectorError::Permanent(format!("a change cannot be read: {what}"));
    match values.get(place).ok_or_else(|| unreadable("it has fewer columns than were announced"))? {
        Value::Null => Ok(None),
        Value::Text(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|_| unreadable("a value is not in UTF-8")),
        Value::Unchanged => match before {
            Some(before) => text(before, None, place),
            None => Err(unreadable("a value that was left as it was is not in the row before")),
        },
    }
}

/// Decides which changes count where the rows were read in several cuts: those later than their row's.
pub(super) struct CutFilter<'a> {
    pub(super) cuts: &'a [Cut],
    pub(super) table: &'a Table,
    pub(super) key: &'a [KeyColumn],
    pub(super) connection: &'a mut Lazy,
}

impl CutFilter<'_> {
    /// The server compares keys: their order is that of the column's type and collation.
    fn counts(&mut self, keys: &[Vec<String>], commits: &[Lsn]) -> Result<BooleanArray, ConnectorError> {
        let names: Vec<String> = self.key.iter().map(|column| quoted(&column.name)).collect();
        let (names, table) = (names.join(", "), self.table.name.quoted());
        let typed = (self.key.iter().enumerate()).map(|(index, column)| format!("k{index}::{}", column.type_name));
        let aliases = (0..self.key.len()).map(|index| format!("k{index}"));
        let parameters = (1..=self.key.len()).map(|number| format!("${number}::text[]"));
        let whens = self.cuts.iter().enumerate().filter_map(|(index, cut)| {
            Some(format!("WHEN {} THEN {index}", compared(self.key, "<=", cut.upto.as_deref()?)))
        });
        // The columns' collations come from the table.
        let sql = format!(
            "SELECT CASE {} ELSE {} END FROM (SELECT {names}, 0::bigint AS weir_place FROM {table} WHERE false \
             UNION ALL SELECT {}, place FROM unnest({}) WITH ORDINALITY AS k({}, place)) keys ORDER BY weir_place",
            whens.collect::<Vec<_>>().join(" "),
            self.cuts.len() - 1,
            typed.collect::<Vec<_>>().join(", "),
            parameters.collect::<Vec<_>>().join(", "),
            aliases.collect::<Vec<_>>().join(", "),
        );
        // Rows that need no look stand with an empty key, which may be no value of the type.
        let last = self.cuts.last().map_or(Lsn::default(), |cut| cut.lsn);
        let older: Vec<usize> = (0..keys.len()).filter(|row| commits[*row] < last).collect();
        let columns: Vec<Vec<&str>> =
            (0..self.key.len()).map(|column| older.iter().map(|row| keys[*row][column].as_str()).collect()).collect();
        let parameters: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> =
            columns.iter().map(|column| (column as _, Type::TEXT_ARRAY)).collect();
        let connection = self.connection.get()?;
        connection.execute(&super::rows::settings())?;
        let found = connection.query(&sql, &parameters)?;
        if found.len() != older.len() {
            return Err(ConnectorError::Permanent("the server has lost rows while comparing them".to_owned()));
        }
        let mut counts = vec![true; keys.len()];
        for (row, found) in older.into_iter().zip(&found) {
            let cut = usize::try_from(found.get::<_, i32>(0)).unwrap_or(usize::MAX);
            counts[row] = self.cuts.get(cut).is_some_and(|cut| commits[row] >= cut.lsn);
        }
        Ok(BooleanArray::from(counts))
    }
}
