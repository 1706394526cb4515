//! What each operator of a job graph is told; column numbers refer to its input's schema.

use super::{TimeDomain, WindowColumns, WindowKind};
use crate::expression::Expression;
use arrow::datatypes::{DataType, FieldRef};
use std::sync::Arc;

pub type Expr = Arc<dyn Expression>;

#[derive(Clone, Debug)]
pub enum OperatorSpec {
    Calc(CalcSpec),
    /// All inputs have one schema (and are all updating or all append-only).
    Union,
    WindowAssign(WindowAssignSpec),
    GroupAggregate(GroupAggregateSpec),
    WindowAggregate(WindowAggregateSpec),
    Join(JoinSpec),
    IntervalJoin(IntervalJoinSpec),
    WindowJoin(WindowJoinSpec),
    TopN(TopNSpec),
    Deduplicate(DeduplicateSpec),
    /// An operator of the user's own, found by its type name in the SDK's registry.
    Custom(CustomSpec),
}

/// Filter, then project. Stateless. An updating input's change kind is passed on by the last projection.
#[derive(Clone, Debug)]
pub struct CalcSpec {
    pub filter: Option<Expr>,
    pub projection: Vec<Expr>,
}

/// Appends `window_start`, `window_end` and `window_time` (`end` - 1 ms, as Flink has it), one row per window; tumbling and hopping only.
#[derive(Clone, Debug)]
pub struct WindowAssignSpec {
    pub window: WindowKind,
    pub time: TimeDomain,
}

/// GROUP BY without a window. Emits keys, aggregates, change kind. The input may be updating.
#[derive(Clone, Debug)]
pub struct GroupAggregateSpec {
    /// None: one global group.
    pub keys: Vec<usize>,
    pub aggregates: Vec<AggregateCall>,
    /// Idle state may be dropped after this long (processing time).
    pub state_ttl_ms: Option<u64>,
    /// Whether somebody downstream reads what a result was before it changed.
    pub update_before: bool,
}

/// Emits keys, `window_start`, `window_end`, aggregates, once when the watermark passes the window's end;
/// with `allowed_lateness_us > 0` late rows refine it and the output is updating.
#[derive(Clone, Debug)]
pub struct WindowAggregateSpec {
    pub keys: Vec<usize>,
    pub window: WindowKind,
    pub time: TimeDomain,
    /// `Some` when the input is already assigned to windows (a second aggregate over a window's rows);
    /// `window` and `time` then only describe what it was assigned by.
    pub assigned: Option<WindowColumns>,
    pub aggregates: Vec<AggregateCall>,
    pub allowed_lateness_us: i64,
}

#[derive(Clone, Debug)]
pub struct AggregateCall {
    pub function: AggregateFunction,
    /// `None` for COUNT(*).
    pub argument: Option<usize>,
    pub distinct: bool,
    /// A Boolean column: only rows where it is true count (FILTER (WHERE ..)).
    pub filter: Option<usize>,
    /// Name, type and nullability of the result column.
    pub output: FieldRef,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateFunction {
    Count,
    /// Integers sum into BIGINT, decimals into DECIMAL(38, s), floats into DOUBLE; overflow is an error.
    Sum,
    Min,
    Max,
    /// DOUBLE for integers and floats.
    Avg,
    StddevPop,
    StddevSamp,
    VarPop,
    VarSamp,
    BoolAnd,
    BoolOr,
    /// First and last by arrival.
    FirstValue,
    LastValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
    /// Left rows that have a match, each once.
    Semi,
    /// Left rows that have none.
    Anti,
}

/// A regular join: both sides kept in state. Emits left columns then right columns (Semi and Anti: left only),
/// and a change kind unless the join is inner over append-only inputs.
#[derive(Clone, Debug)]
pub struct JoinSpec {
    pub kind: JoinKind,
    pub left_keys: Vec<usize>,
    pub right_keys: Vec<usize>,
    /// Over left columns then right columns (both without change kind).
    pub residual: Option<Expr>,
    pub state_ttl_ms: Option<u64>,
}

/// `left.time BETWEEN right.time + lower_us AND right.time + upper_us`, equal keys, both inputs append-only.
/// A row leaves the state when the watermark says that no partner can come; outer rows are emitted then.
#[derive(Clone, Debug)]
pub struct IntervalJoinSpec {
    pub kind: JoinKind,
    pub left_keys: Vec<usize>,
    pub right_keys: Vec<usize>,
    pub left_time: usize,
    pub right_time: usize,
    pub lower_us: i64,
    pub upper_us: i64,
    pub residual: Option<Expr>,
}

/// Joins rows of equal keys and equal windows when the watermark passes the window's end.
#[derive(Clone, Debug)]
pub struct WindowJoinSpec {
    pub kind: JoinKind,
    /// Without the window columns.
    pub left_keys: Vec<usize>,
    pub right_keys: Vec<usize>,
    pub left_window: WindowColumns,
    pub right_window: WindowColumns,
    pub residual: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SortKey {
    pub column: usize,
    pub descending: bool,
    pub nulls_first: bool,
}

/// `ROW_NUMBER() OVER (PARTITION BY .. ORDER BY ..)` with `first_rank <= rank <= last_rank`.
/// Emits the input's columns, the rank if `emit_rank` (BIGINT, named `rank_name`), then the change kind;
/// with `window`, emits once per window at its end and is append-only.
#[derive(Clone, Debug)]
pub struct TopNSpec {
    pub partition: Vec<usize>,
    pub order: Vec<SortKey>,
    /// From 1.
    pub first_rank: u64,
    pub last_rank: u64,
    pub emit_rank: bool,
    pub rank_name: String,
    /// The partition is within a window: state goes when the window ends.
    pub window: Option<WindowColumns>,
    pub state_ttl_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keep {
    First,
    Last,
}

/// ROW_NUMBER = 1 ordered by a time attribute over an append-only input, at the cost of one row per key.
/// `Keep::First` in processing time is append-only; everything else is updating.
#[derive(Clone, Debug)]
pub struct DeduplicateSpec {
    pub keys: Vec<usize>,
    pub time: TimeDomain,
    pub keep: Keep,
    pub state_ttl_ms: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct CustomSpec {
    pub operator_type: String,
    /// The step's `config`, as JSON text.
    pub config: String,
    /// Key columns of each input.
    pub keys: Vec<Vec<usize>>,
    /// The key's types, for checking inputs against each other.
    pub key_types: Vec<DataType>,
    /// Of states for which the operator says nothing else.
    pub state_ttl_ms: Option<u64>,
}
