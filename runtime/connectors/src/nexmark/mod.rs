//! Nexmark: the auction site of the published benchmark, its persons, auctions and bids.
//!
//! Of 50 events one is a person, three are auctions and 46 are bids, and event n is a function of n and the seed.
//! Proportions, value ranges and hot keys are those of the benchmark's public generator; the texts are our own.

mod events;

use crate::api::{ConnectorError, Source, SourceContext, SourceReader, SplitState};
use crate::numbered::{DEFAULT_SPLITS, NumberedReader, Numbering};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use events::Events;
use std::sync::Arc;
use weir_model::types::TIMESTAMP;

#[derive(Clone, Debug)]
pub struct NexmarkConfig {
    pub table: NexmarkTable,
    /// Events, of all three kinds together, after which the source ends; never if `None`.
    pub events: Option<u64>,
    /// Over all subtasks; as fast as they are taken if `None`.
    pub events_per_second: Option<u64>,
    pub seed: u64,
    /// Time of event 0, in microseconds since 1970.
    pub start_us: i64,
    /// Event time between two events, in nanoseconds.
    pub event_interval_ns: i64,
}

/// Which events become rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NexmarkTable {
    Person,
    Auction,
    Bid,
    /// All three, with the columns of each: those of the other kinds are NULL.
    #[default]
    All,
}

pub struct NexmarkSource {
    config: NexmarkConfig,
    schema: SchemaRef,
}

impl NexmarkSource {
    pub fn new(config: NexmarkConfig) -> Result<Self, ConnectorError> {
        if config.event_interval_ns < 0 {
            return Err(ConnectorError::Permanent("eventInterval must not be negative".into()));
        }
        Ok(NexmarkSource { schema: nexmark_schema(config.table), config })
    }
}

/// The columns of a table, named as in the benchmark's SQL queries, in lower case. `All` has `event_type`
/// (0 person, 1 auction, 2 bid) and `date_time` first, then each table's other columns as `person_name` and so on.
pub fn nexmark_schema(table: NexmarkTable) -> SchemaRef {
    use DataType::{Int32, Int64, Utf8};
    let person = [
        ("id", Int64),
        ("name", Utf8),
        ("email_address", Utf8),
        ("credit_card", Utf8),
        ("city", Utf8),
        ("state", Utf8),
        ("date_time", TIMESTAMP),
        ("extra", Utf8),
    ];
    let auction = [
        ("id", Int64),
        ("item_name", Utf8),
        ("description", Utf8),
        ("initial_bid", Int64),
        ("reserve", Int64),
        ("date_time", TIMESTAMP),
        ("expires", TIMESTAMP),
        ("seller", Int64),
        ("category", Int64),
        ("extra", Utf8),
    ];
    let bid = [
        ("auction", Int64),
        ("bidder", Int64),
        ("price", Int64),
        ("channel", Utf8),
        ("url", Utf8),
        ("date_time", TIMESTAMP),
        ("extra", Utf8),
    ];
    let flat = |columns: &[(&str, DataType)]| {
        columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), false)).collect::<Vec<_>>()
    };
    let prefixed = |prefix: &str, columns: &[(&str, DataType)]| {
        let own = columns.iter().filter(|(name, _)| *name != "date_time");
        own.map(|(name, data_type)| Field::new(format!("{prefix}_{name}"), data_type.clone(), true)).collect::<Vec<_>>()
    };
    let fields = match table {
        NexmarkTable::Person => flat(&person),
        NexmarkTable::Auction => flat(&auction),
        NexmarkTable::Bid => flat(&bid),
        NexmarkTable::All => [
            flat(&[("event_type", Int32), ("date_time", TIMESTAMP)]),
            prefixed("person", &person),
            prefixed("auction", &auction),
            prefixed("bid", &bid),
        ]
        .concat(),
    };
    Arc::new(Schema::new(fields))
}

impl Source for NexmarkSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn is_replayable(&self) -> bool {
        true
    }

    fn is_bounded(&self) -> bool {
        self.config.events.is_some()
    }

    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        let NexmarkConfig { events, events_per_second, .. } = self.config;
        let numbering = Numbering { count: events, splits: DEFAULT_SPLITS, rows_per_second: events_per_second };
        let events = Events::new(&self.config, self.schema.clone());
        Ok(Box::new(NumberedReader::open(events, numbering, &context, &restored)?))
    }
}

#[cfg(test)]
mod tests;
