//! The generator: rows made by rule, the same in every run.

mod column;

use crate::api::{ConnectorError, Source, SourceContext, SourceReader, SplitState};
use crate::numbered::{NumberedReader, Numbering, RowMaker};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use column::Column;

pub use crate::numbered::DEFAULT_SPLITS;

/// Rows by rule.
#[derive(Clone, Debug)]
pub struct GeneratorConfig {
    pub schema: SchemaRef,
    /// One rule for each column of the schema, by name.
    pub columns: Vec<(String, ColumnRule)>,
    /// Rows after which the source ends; never if `None`.
    pub count: Option<u64>,
    /// Over all subtasks; as fast as they are taken if `None`.
    pub rows_per_second: Option<u64>,
    /// Another seed gives other random values and another mixed order.
    pub seed: u64,
    /// At most this many subtasks have rows to make (`DEFAULT_SPLITS`). A restored job keeps its number.
    pub splits: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ColumnRule {
    /// Row n gets `start + step * i`, where i is n or its place in a permutation, modulo the cardinality if there
    /// is one. Of numeric and text columns.
    Sequence { start: i64, step: i64, cardinality: Option<u64>, order: RowOrder },
    /// An evenly distributed value.
    Random(RandomRule),
    /// The same value in every row, as JSON.
    Constant(serde_json::Value),
    /// Row n gets `start + n * step`, moved back at random by at most `max_out_of_orderness_us`.
    Time { start_us: i64, step_ns: i64, max_out_of_orderness_us: i64 },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowOrder {
    #[default]
    Sequential,
    /// Each value once in each round of `cardinality` rows, in an order without pattern. Needs a cardinality.
    Mixed,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RandomRule {
    /// 0 if `None`.
    pub min: Option<f64>,
    /// Numbers are below this one; integers may reach it. Needed for numeric columns.
    pub max: Option<f64>,
    /// Characters of a text, bytes of BYTES.
    pub length: u32,
    /// Text columns take one of these if there are any.
    pub values: Vec<String>,
    /// The part of rows, 0 to 1, without a value.
    pub null_ratio: f64,
}

pub struct GeneratorSource {
    config: GeneratorConfig,
    columns: Vec<Column>,
}

impl GeneratorSource {
    /// Refuses columns without a rule, and rules that don't fit their columns.
    pub fn new(config: GeneratorConfig) -> Result<Self, ConnectorError> {
        for (name, _) in &config.columns {
            if config.schema.column_with_name(name).is_none() {
                return Err(ConnectorError::Permanent(format!(
                    "the generator has a rule for the column `{name}`, which the schema lacks"
                )));
            }
        }
        let column = |(index, field): (usize, &arrow::datatypes::FieldRef)| {
            let mut rules = config.columns.iter().filter(|(name, _)| name == field.name());
            match (rules.next(), rules.next()) {
                (Some((_, rule)), None) => Column::new(field, rule, index, config.seed, config.count),
                (found, _) => Err(ConnectorError::Permanent(format!(
                    "the generator has {} for the column `{}`; it needs one",
                    if found.is_some() { "two rules" } else { "no rule" },
                    field.name()
                ))),
            }
        };
        let columns = config.schema.fields().iter().enumerate().map(column).collect::<Result<_, _>>()?;
        Ok(GeneratorSource { config, columns })
    }
}

impl Source for GeneratorSource {
    fn schema(&self) -> SchemaRef {
        self.config.schema.clone()
    }

    fn is_replayable(&self) -> bool {
        true
    }

    fn is_bounded(&self) -> bool {
        self.config.count.is_some()
    }

    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        let GeneratorConfig { count, splits, rows_per_second, .. } = self.config;
        let rows = Rows { schema: self.config.schema.clone(), columns: self.columns.clone() };
        let numbering = Numbering { count, splits, rows_per_second };
        Ok(Box::new(NumberedReader::open(rows, numbering, &context, &restored)?))
    }
}

struct Rows {
    schema: SchemaRef,
    columns: Vec<Column>,
}

impl RowMaker for Rows {
    fn make(&mut self, first: u64, count: usize) -> Result<RecordBatch, ConnectorError> {
        let columns = self.columns.iter_mut().map(|column| column.make(first, count)).collect::<Result<_, _>>()?;
        Ok(RecordBatch::try_new(self.schema.clone(), columns).expect("each column is made for its field"))
    }
}

#[cfg(test)]
mod tests;
