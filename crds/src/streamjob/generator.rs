//! Sources that make up their rows: the generator and Nexmark. Row n is a function of n and the seed alone, so that
//! both can be replayed from any row, at any parallelism.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    defaults,
    duration::HumanDuration,
    rules::{MAX_COLUMNS, MAX_NAMES, MAX_TEXT_LENGTH, exactly_one},
};

/// Rows made up by rule, column by column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct GeneratorSource {
    /// Rows per second over all subtasks; as fast as they are taken if nothing is said.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<u64>,
    /// The number of rows after which the source ends; never, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Another seed gives other random values.
    #[schemars(extend("default" = defaults::GENERATOR_SEED))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// One for each column of the schema.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = MAX_COLUMNS))]
    pub columns: Vec<ColumnGenerator>,
}

/// The fields of which exactly one says how a column is made.
pub const COLUMN_GENERATORS: [&str; 4] = ["sequence", "random", "constant", "time"];

/// How one column is made: exactly one of the rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one(&COLUMN_GENERATORS))]
pub struct ColumnGenerator {
    /// The column of the schema.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Numbers one after the other, or the same numbers in mixed order. For text columns their decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<SequenceGenerator>,
    /// A random value for each row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random: Option<RandomGenerator>,
    /// The same value in every row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<ConstantGenerator>,
    /// Timestamps that move on with the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<TimeGenerator>,
}

/// Row n gets `start + step * i`, where i is n (Sequential) or n's place in a fixed permutation (Mixed), modulo the
/// cardinality where there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SequenceGenerator {
    #[schemars(extend("default" = defaults::GENERATOR_SEQUENCE_START))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<i64>,
    #[schemars(extend("default" = defaults::GENERATOR_SEQUENCE_STEP))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// How many different values there are before they begin again. Without it they never do.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cardinality: Option<u64>,
    /// Mixed needs a cardinality: each value comes once in each round, in an order without pattern.
    #[schemars(extend("default" = defaults::GENERATOR_ORDER))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<RowOrder>,
}

/// The order in which a sequence's values come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RowOrder {
    Sequential,
    Mixed,
}

/// Uniformly distributed values of the column's type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct RandomGenerator {
    /// The smallest number; 0 if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Numbers below this one; for integers up to and including it. Required for numeric columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Characters of a text, bytes of BYTES.
    #[schemars(extend("default" = defaults::GENERATOR_RANDOM_LENGTH))]
    #[schemars(range(min = 1, max = 65536))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u32>,
    /// Pick one of these instead. For text columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_NAMES), inner(length(max = MAX_TEXT_LENGTH)))]
    pub values: Vec<String>,
    /// The part of rows, 0 to 1, in which the column is NULL.
    #[schemars(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub null_ratio: Option<f64>,
}

/// The same value in every row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct ConstantGenerator {
    /// A string, number or boolean that fits the column; NULL if nothing is said.
    #[schemars(schema_with = "crate::schema::any_value")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
}

/// Row n gets `start + n * step`, moved back at random by up to `maxOutOfOrderness`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct TimeGenerator {
    /// RFC 3339.
    #[schemars(extend("default" = defaults::GENERATOR_TIME_START))]
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    #[schemars(extend("default" = defaults::GENERATOR_TIME_STEP))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<HumanDuration>,
    /// How late a row may be. In order if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_out_of_orderness: Option<HumanDuration>,
}

/// The Nexmark benchmark's auction site, by its published proportions: of 50 events 1 person, 3 auctions, 46 bids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct NexmarkSource {
    /// The number of events (of all three kinds) after which the source ends; never, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// Events per second over all subtasks; as fast as they are taken if nothing is said.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<u64>,
    #[schemars(extend("default" = defaults::GENERATOR_SEED))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Which events become rows. `All` has one column of each kind's fields and `event_type`.
    pub table: NexmarkTable,
    /// The time of the first event, RFC 3339.
    #[schemars(extend("default" = defaults::NEXMARK_START))]
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The event time between two events; from eventsPerSecond, else 100 microseconds, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_interval: Option<HumanDuration>,
}

/// Which events of Nexmark become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
pub enum NexmarkTable {
    Person,
    Auction,
    Bid,
    #[default]
    All,
}

/// The rule that a column generator names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ColumnRule<'a> {
    Sequence(&'a SequenceGenerator),
    Random(&'a RandomGenerator),
    Constant(&'a ConstantGenerator),
    Time(&'a TimeGenerator),
}

impl ColumnGenerator {
    /// The rule. `None` unless exactly one is named, which validation refuses.
    pub fn rule(&self) -> Option<ColumnRule<'_>> {
        let Self { name: _, sequence, random, constant, time } = self;
        match (sequence, random, constant, time) {
            (Some(sequence), None, None, None) => Some(ColumnRule::Sequence(sequence)),
            (None, Some(random), None, None) => Some(ColumnRule::Random(random)),
            (None, None, Some(constant), None) => Some(ColumnRule::Constant(constant)),
            (None, None, None, Some(time)) => Some(ColumnRule::Time(time)),
            _ => None,
        }
    }
}

impl GeneratorSource {
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(defaults::GENERATOR_SEED)
    }
}

impl SequenceGenerator {
    pub fn start(&self) -> i64 {
        self.start.unwrap_or(defaults::GENERATOR_SEQUENCE_START)
    }

    pub fn step(&self) -> i64 {
        self.step.unwrap_or(defaults::GENERATOR_SEQUENCE_STEP)
    }

    pub fn order(&self) -> RowOrder {
        self.order.unwrap_or(defaults::GENERATOR_ORDER)
    }
}

impl RandomGenerator {
    pub fn length(&self) -> u32 {
        self.length.unwrap_or(defaults::GENERATOR_RANDOM_LENGTH)
    }

    pub fn null_ratio(&self) -> f64 {
        self.null_ratio.unwrap_or(0.0)
    }
}

impl TimeGenerator {
    pub fn start(&self) -> &str {
        self.start.as_deref().unwrap_or(defaults::GENERATOR_TIME_START)
    }

    pub fn step(&self) -> std::time::Duration {
        self.step.unwrap_or(defaults::GENERATOR_TIME_STEP).get()
    }

    pub fn max_out_of_orderness(&self) -> std::time::Duration {
        self.max_out_of_orderness.unwrap_or(HumanDuration::ZERO).get()
    }
}

impl NexmarkSource {
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(defaults::GENERATOR_SEED)
    }

    pub fn start(&self) -> &str {
        self.start.as_deref().unwrap_or(defaults::NEXMARK_START)
    }

    /// The event time between two events.
    pub fn event_interval(&self) -> std::time::Duration {
        match (self.event_interval, self.events_per_second) {
            (Some(interval), _) => interval.get(),
            (None, Some(rate)) => std::time::Duration::from_nanos(1_000_000_000 / rate.max(1)),
            (None, None) => defaults::NEXMARK_EVENT_INTERVAL.get(),
        }
    }
}
