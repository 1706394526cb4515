//! The aggregate functions: which fields of the state row each keeps, and its loops over a batch.
//!
//! All decisions (function, type, filter, nulls, signs) are taken outside the loops; a loop runs over the rows
//! that count, adds to numbers in a `RowBlock`, and neither allocates nor calls through a pointer.

use super::argument::{self, Argument, Shape, state_type};
use super::block::{BlockLayout, Cell, Place, RowBlock};
use super::selection::Selection;
use crate::operator::OperatorError;
use arrow::array::{Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{DataType, Decimal128Type, DecimalType};
use std::sync::Arc;
use weir_model::StateField;
use weir_model::graph::{AggregateCall, AggregateFunction};

/// What the input of an aggregate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputMode {
    AppendOnly,
    /// Rows may be taken back.
    Updating,
}

/// A field of the state row and how it is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct AggregateField {
    pub field: StateField,
    pub semantics: String,
    /// Starts at zero, not at null.
    pub is_counter: bool,
}

/// One aggregate call, bound to its fields in the state row.
///
/// What it counts is decided before: DISTINCT and the retraction of minima, maxima, first and last values are
/// kept beside the row (`values`, `arrivals`), which hand over the rows that still matter.
#[derive(Clone, Debug)]
pub struct Aggregate {
    pub call: AggregateCall,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Count {
        count: Place,
    },
    /// `count` (of non-null arguments) only where rows may be taken back: else the sum's null bit says it.
    Sum {
        sum: Place,
        count: Option<Place>,
    },
    Average {
        sum: Place,
        count: Place,
        /// Of the sum, when it is a decimal's.
        scale: i8,
    },
    Variance {
        count: Place,
        mean: Place,
        /// Sum of squared differences from the mean.
        m2: Place,
        sample: bool,
        root: bool,
    },
    /// MIN, MAX, FIRST_VALUE, LAST_VALUE: one value of the argument's.
    Pick {
        value: Place,
        pick: Pick,
    },
    Logical {
        trues: Place,
        falses: Place,
        all: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    Min,
    Max,
    First,
    Last,
}

/// The fields that the call keeps in the state row.
///
/// # Errors
/// If the function doesn't take an argument of this type.
pub fn fields(
    call: &AggregateCall,
    argument: Option<&DataType>,
    mode: InputMode,
) -> Result<Vec<AggregateField>, OperatorError> {
    use AggregateFunction::*;
    let name = call.output.name();
    let distinct = if call.distinct { "distinct " } else { "" };
    let of = argument.map_or("*".to_string(), |argument| state_type(argument).to_string());
    let field = |part: &str, data_type: DataType, semantics: String| AggregateField {
        // Nullable, so that an aggregate added to a job with state starts from null in the groups there are.
        field: StateField::new(format!("{name}.{part}"), data_type, true),
        semantics,
        is_counter: matches!(part, "count" | "mean" | "m2" | "true" | "false" | "next_arrival")
            || part == "sum" && (call.function == Avg || mode == InputMode::Updating),
    };
    if call.function == Count {
        return Ok(vec![field("count", DataType::Int64, format!("count({distinct}{of})"))]);
    }
    let Some(argument) = argument else {
        return Err(OperatorError::Failed(format!("aggregate `{name}`: {:?} needs an argument", call.function)));
    };
    let unsupported = || {
        let function = call.function;
        OperatorError::Failed(format!("aggregate `{name}`: {function:?} doesn't take an argument of type {argument}"))
    };
    let sum_type = || match argument {
        DataType::Decimal128(_, scale) => Ok(DataType::Decimal128(38, *scale)),
        number if number.is_integer() && *number != DataType::UInt64 => Ok(DataType::Int64),
        DataType::Float32 | DataType::Float64 => Ok(DataType::Float64),
        _ => Err(unsupported()),
    };
    let count = |of: &str| field("count", DataType::Int64, format!("count({distinct}{of})"));
    Ok(match call.function {
        Count => unreachable!("returned above"),
        Sum => {
            let sum = sum_type()?;
            // A plain sum has no count, so it must not be continued with retractions.
            let retractable = if mode == InputMode::Updating { "retractable " } else { "" };
            let mut fields = vec![field("sum", sum.clone(), format!("{retractable}sum({distinct}{sum})"))];
            if mode == InputMode::Updating {
                fields.push(count(&of));
            }
            fields
        }
        Avg => {
            let sum = match sum_type()? {
                DataType::Int64 => DataType::Decimal128(38, 0),
                other => other,
            };
            vec![field("sum", sum.clone(), format!("sum({distinct}{sum})")), count(&of)]
        }
        StddevPop | StddevSamp | VarPop | VarSamp => {
            sum_type()?;
            let f64_field = |part| field(part, DataType::Float64, format!("{part}({distinct}Float64)"));
            vec![count(&of), f64_field("mean"), f64_field("m2")]
        }
        Min | Max | FirstValue | LastValue => {
            Cell::of(argument).ok_or_else(unsupported)?;
            let function = match call.function {
                Min => "min",
                Max => "max",
                FirstValue => "first_value",
                _ => "last_value",
            };
            let mut fields = vec![field("value", state_type(argument), format!("{function}({of})"))];
            if mode == InputMode::Updating && matches!(call.function, FirstValue | LastValue) {
                fields.push(field("next_arrival", DataType::Int64, "next arrival".into()));
            }
            fields
        }
        BoolAnd | BoolOr => {
            if argument != &DataType::Boolean {
                return Err(unsupported());
            }
            vec![
                field("true", DataType::Int64, format!("count({distinct}true)")),
                field("false", DataType::Int64, format!("count({distinct}false)")),
            ]
        }
    })
}

impl Aggregate {
    /// Binds a call to the fields that `fields` gave for it, which begin at `first_field` of the row.
    pub fn new(call: &AggregateCall, mode: InputMode, first_field: usize, layout: &BlockLayout) -> Self {
        use AggregateFunction::*;
        let place = |part: usize| layout.places[first_field + part];
        let kind = match call.function {
            Count => Kind::Count { count: place(0) },
            Sum => Kind::Sum { sum: place(0), count: (mode == InputMode::Updating).then(|| place(1)) },
            Avg => Kind::Average { sum: place(0), count: place(1), scale: 0 },
            StddevPop | StddevSamp | VarPop | VarSamp => Kind::Variance {
                count: place(0),
                mean: place(1),
                m2: place(2),
                sample: matches!(call.function, StddevSamp | VarSamp),
                root: matches!(call.function, StddevPop | StddevSamp),
            },
            Min => Kind::Pick { value: place(0), pick: Pick::Min },
            Max => Kind::Pick { value: place(0), pick: Pick::Max },
            FirstValue => Kind::Pick { value: place(0), pick: Pick::First },
            LastValue => Kind::Pick { value: place(0), pick: Pick::Last },
            BoolAnd => Kind::Logical { trues: place(0), falses: place(1), all: true },
            BoolOr => Kind::Logical { trues: place(0), falses: place(1), all: false },
        };
        Aggregate { call: call.clone(), kind }
    }

    /// For an average of decimals: the scale of its sum.
    pub fn with_scale(mut self, argument: Option<&DataType>) -> Self {
        if let (Kind::Average { scale, .. }, Some(DataType::Decimal128(_, of_sum))) = (&mut self.kind, argument) {
            *scale = *of_sum;
        }
        self
    }

    /// How `update` wants its argument.
    pub fn argument_shape(&self) -> Shape {
        match self.kind {
            Kind::Count { .. } => Shape::Any,
            Kind::Variance { .. } => Shape::Float,
            _ => Shape::Own,
        }
    }

    /// COUNT(*) without a filter.
    pub fn counts_all_rows(&self) -> bool {
        matches!(self.kind, Kind::Count { .. }) && self.call.argument.is_none() && self.call.filter.is_none()
    }

    /// Where the value of a MIN, MAX, FIRST_VALUE or LAST_VALUE stands.
    pub fn pick(&self) -> Option<(Place, Pick)> {
        match self.kind {
            Kind::Pick { value, pick } => Some((value, pick)),
            _ => None,
        }
    }

    /// Adds the selected rows (which have no null argument) to the block row of each, `groups[row]`.
    ///
    /// # Errors
    /// If an integer or decimal sum overflows.
    pub fn update(
        &self,
        block: &mut RowBlock,
        groups: &[u32],
        argument: &Argument,
        rows: &Selection<'_>,
    ) -> Result<(), OperatorError> {
        let mut overflow = false;
        match (&self.kind, argument) {
            (Kind::Count { count }, _) => rows.each(|row, retract| add_count(block, groups[row], *count, retract)),
            (Kind::Sum { sum, count }, Argument::Words(values)) => {
                let values = values.values();
                rows.each(|row, retract| {
                    let group = groups[row] as usize;
                    let old = block.word(group, *sum);
                    let (new, wrapped) =
                        if retract { old.overflowing_sub(values[row]) } else { old.overflowing_add(values[row]) };
                    overflow |= wrapped;
                    block.set_word(group, *sum, new);
                });
                self.count_summands(block, groups, rows, *sum, *count);
            }
            (Kind::Sum { sum, count }, Argument::Floats(values)) => {
                add_floats(block, groups, *sum, values, rows);
                self.count_summands(block, groups, rows, *sum, *count);
            }
            (Kind::Sum { sum, count }, Argument::Wides(values)) => {
                let values = values.values();
                overflow = add_wides(block, groups, *sum, |row| values[row], rows);
                self.count_summands(block, groups, rows, *sum, *count);
            }
            (Kind::Average { sum, count, .. }, argument) => {
                match argument {
                    Argument::Words(values) => {
                        let values = values.values();
                        overflow = add_wides(block, groups, *sum, |row| values[row] as i128, rows);
                    }
                    Argument::Wides(values) => {
                        let values = values.values();
                        overflow = add_wides(block, groups, *sum, |row| values[row], rows);
                    }
                    Argument::Floats(values) => add_floats(block, groups, *sum, values, rows),
                    other => unreachable!("an average of {other:?}"),
                }
                rows.each(|row, retract| add_count(block, groups[row], *count, retract));
            }
            (Kind::Variance { count, mean, m2, .. }, Argument::Floats(values)) => {
                let values = values.values();
                rows.each(|row, retract| {
                    add_to_variance(block, groups[row] as usize, [*count, *mean, *m2], values[row], retract)
                });
            }
            (Kind::Pick { value, pick }, argument) => pick_values(block, groups, *value, *pick, argument, rows),
            (Kind::Logical { trues, falses, .. }, Argument::Words(values)) => {
                let values = values.values();
                rows.each(|row, retract| {
                    let place = if values[row] != 0 { *trues } else { *falses };
                    add_count(block, groups[row], place, retract);
                });
            }
            (kind, argument) => unreachable!("{kind:?} of {argument:?}"),
        }
        if overflow { Err(self.overflow()) } else { Ok(()) }
    }

    /// A sum is not null when it has summands.
    fn count_summands(
        &self,
        block: &mut RowBlock,
        groups: &[u32],
        rows: &Selection<'_>,
        sum: Place,
        count: Option<Place>,
    ) {
        match (count, rows) {
            (Some(count), _) => rows.each(|row, retract| add_count(block, groups[row], count, retract)),
            (None, Selection::All(_)) if block.rows() <= groups.len() => block.set_all_valid(sum),
            (None, _) => rows.each(|row, _| block.set_valid(groups[row] as usize, sum)),
        }
    }

    /// Adds row `from_rows[i]` of `from` to row `into_rows[i]` of `into`: both blocks have the same layout.
    ///
    /// # Errors
    /// If a sum overflows.
    pub fn merge(
        &self,
        into: &mut RowBlock,
        into_rows: &[u32],
        from: &RowBlock,
        from_rows: &[u32],
    ) -> Result<(), OperatorError> {
        let mut overflow = false;
        for (&to, &source) in into_rows.iter().zip(from_rows) {
            let (to, source) = (to as usize, source as usize);
            match &self.kind {
                Kind::Count { count } => merge_count(into, to, from, source, *count),
                Kind::Sum { sum, count } => {
                    overflow |= merge_sum(into, to, from, source, *sum);
                    if let Some(count) = count {
                        merge_count(into, to, from, source, *count);
                    }
                }
                Kind::Average { sum, count, .. } => {
                    overflow |= merge_sum(into, to, from, source, *sum);
                    merge_count(into, to, from, source, *count);
                }
                Kind::Variance { count, mean, m2, .. } => merge_variance(into, to, from, source, [*count, *mean, *m2]),
                Kind::Pick { value, pick } => {
                    if from.is_valid(source, *value) && takes_over(into, to, from, source, *value, *pick) {
                        into.copy_field(to, *value, from, source);
                    }
                }
                Kind::Logical { trues, falses, .. } => {
                    merge_count(into, to, from, source, *trues);
                    merge_count(into, to, from, source, *falses);
                }
            }
        }
        if overflow { Err(self.overflow()) } else { Ok(()) }
    }

    /// The aggregate of every row of the block, of the call's output type.
    pub fn results(&self, block: &RowBlock) -> Result<ArrayRef, OperatorError> {
        let output = self.call.output.data_type();
        let rows = 0..block.rows();
        match &self.kind {
            Kind::Count { count } => {
                let counts = block.words(*count).map(|word| word as i64).collect();
                argument::from_words(argument::words(counts, None), output)
            }
            Kind::Sum { sum, count } => {
                let sums = argument::column(block, *sum, &state_type_of_sum(sum.cell, output))?;
                let sums = match count {
                    Some(count) => with_validity(&sums, validity(block, |row| block.word(row, *count) > 0))?,
                    None => sums,
                };
                if let DataType::Decimal128(precision, _) = output {
                    self.check_precision(&sums, *precision)?;
                }
                argument::converted(&sums, output)
            }
            Kind::Average { sum, count, scale } => self.averages(block, *sum, *count, *scale),
            Kind::Variance { count, m2, sample, root, .. } => {
                let least = *sample as i64;
                let values = rows.map(|row| {
                    // Rounding can leave a retracted m2 a little below zero.
                    let variance = block.float(row, *m2).max(0.0) / (block.word(row, *count) - least) as f64;
                    if *root { variance.sqrt() } else { variance }
                });
                let values: Vec<f64> = values.collect();
                let nulls = validity(block, |row| block.word(row, *count) > least);
                argument::converted(&(Arc::new(Float64Array::new(values.into(), nulls)) as ArrayRef), output)
            }
            Kind::Pick { value, .. } => argument::column(block, *value, output),
            Kind::Logical { trues, falses, all } => {
                let value = |row| if *all { block.word(row, *falses) <= 0 } else { block.word(row, *trues) > 0 };
                let nulls = validity(block, |row| block.word(row, *trues) > 0 || block.word(row, *falses) > 0);
                Ok(Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(block.rows(), value), nulls)))
            }
        }
    }

    fn averages(&self, block: &RowBlock, sum: Place, count: Place, scale: i8) -> Result<ArrayRef, OperatorError> {
        let output = self.call.output.data_type();
        let nulls = validity(block, |row| block.word(row, count) > 0);
        let rows = 0..block.rows();
        if let DataType::Decimal128(precision, result_scale) = output {
            let average = |row| match block.word(row, count) {
                ..=0 => Ok(0),
                count => {
                    rescaled_quotient(block.wide(row, sum), count, scale, *result_scale).ok_or_else(|| self.overflow())
                }
            };
            let values = rows.map(average).collect::<Result<Vec<i128>, _>>()?;
            let averages =
                Decimal128Array::new(values.into(), nulls).with_precision_and_scale(*precision, *result_scale)?;
            let averages: ArrayRef = Arc::new(averages);
            self.check_precision(&averages, *precision)?;
            return Ok(averages);
        }
        let divisor = 10f64.powi(scale as i32);
        let sum_of = |row| match sum.cell {
            Cell::Float => block.float(row, sum),
            _ => block.wide(row, sum) as f64 / divisor,
        };
        let values: Vec<f64> = rows.map(|row| sum_of(row) / block.word(row, count) as f64).collect();
        argument::converted(&(Arc::new(Float64Array::new(values.into(), nulls)) as ArrayRef), output)
    }

    fn check_precision(&self, decimals: &ArrayRef, precision: u8) -> Result<(), OperatorError> {
        use arrow::array::AsArray;
        let decimals = decimals.as_primitive::<Decimal128Type>();
        let fits = |value: i128| Decimal128Type::validate_decimal_precision(value, precision, decimals.scale()).is_ok();
        if decimals.iter().flatten().all(fits) { Ok(()) } else { Err(self.overflow()) }
    }

    fn overflow(&self) -> OperatorError {
        let AggregateCall { function, output, .. } = &self.call;
        OperatorError::Failed(format!(
            "aggregate `{}`: {} overflows {}; cast its argument to a wider type (DECIMAL or DOUBLE)",
            output.name(),
            format!("{function:?}").to_uppercase(),
            weir_model::types::sql_type_name(output.data_type())
        ))
    }
}

#[inline(always)]
fn add_count(block: &mut RowBlock, group: u32, count: Place, retract: bool) {
    let group = group as usize;
    block.set_word(group, count, block.word(group, count) + if retract { -1 } else { 1 });
}

fn add_floats(block: &mut RowBlock, groups: &[u32], sum: Place, values: &Float64Array, rows: &Selection<'_>) {
    let values = values.values();
    rows.each(|row, retract| {
        let group = groups[row] as usize;
        let value = if retract { -values[row] } else { values[row] };
        block.set_float(group, sum, block.float(group, sum) + value);
    });
}

/// Returns whether a sum overflowed.
#[inline(always)]
fn add_wides(
    block: &mut RowBlock,
    groups: &[u32],
    sum: Place,
    value: impl Fn(usize) -> i128,
    rows: &Selection<'_>,
) -> bool {
    let mut overflow = false;
    rows.each(|row, retract| {
        let group = groups[row] as usize;
        let old = block.wide(group, sum);
        let (new, wrapped) = if retract { old.overflowing_sub(value(row)) } else { old.overflowing_add(value(row)) };
        overflow |= wrapped;
        block.set_wide(group, sum, new);
    });
    overflow
}

/// Welford's recurrence, which doesn't cancel as sums of squares do; backwards for a retraction, where digits
/// that the retracted value had taken from the others do not come back.
#[inline(always)]
fn add_to_variance(block: &mut RowBlock, group: usize, [count, mean, m2]: [Place; 3], value: f64, retract: bool) {
    let old_count = block.word(group, count);
    let old_mean = block.float(group, mean);
    let new_count = if retract { old_count - 1 } else { old_count + 1 };
    block.set_word(group, count, new_count);
    if new_count <= 0 {
        block.set_float(group, mean, 0.0);
        block.set_float(group, m2, 0.0);
        return;
    }
    let off_old_mean = value - old_mean;
    let step = off_old_mean / new_count as f64;
    let new_mean = if retract { old_mean - step } else { old_mean + step };
    let change = off_old_mean * (value - new_mean);
    let old_m2 = block.float(group, m2);
    block.set_float(group, mean, new_mean);
    block.set_float(group, m2, if retract { old_m2 - change } else { old_m2 + change });
}

/// Order of doubles as arrow sorts them, but for -0.0, which equals 0.0: NaN is the greatest.
#[inline(always)]
fn float_less(a: f64, b: f64) -> bool {
    a < b || (!a.is_nan() && b.is_nan())
}

pub fn pick_values(
    block: &mut RowBlock,
    groups: &[u32],
    value: Place,
    pick: Pick,
    argument: &Argument,
    rows: &Selection<'_>,
) {
    macro_rules! pick_numbers {
        ($values:expr, $get:ident, $set:ident, $less:expr) => {{
            let values = $values;
            macro_rules! with {
                ($better:expr) => {
                    rows.each(|row, _| {
                        let (group, new) = (groups[row] as usize, values[row]);
                        if !block.is_valid(group, value) || $better(new, block.$get(group, value)) {
                            block.$set(group, value, new);
                            block.set_valid(group, value);
                        }
                    })
                };
            }
            match pick {
                Pick::Min => with!(|new, old| $less(new, old)),
                Pick::Max => with!(|new, old| $less(old, new)),
                Pick::First => with!(|_, _| false),
                Pick::Last => with!(|_, _| true),
            }
        }};
    }
    match argument {
        Argument::Words(values) => pick_numbers!(values.values(), word, set_word, |a: i64, b: i64| a < b),
        Argument::Floats(values) => pick_numbers!(values.values(), float, set_float, float_less),
        Argument::Wides(values) => pick_numbers!(values.values(), wide, set_wide, |a: i128, b: i128| a < b),
        text => rows.each(|row, _| {
            let (group, new) = (groups[row] as usize, text.bytes(row));
            let takes = match (block.bytes(group, value), pick) {
                (None, _) => true,
                (Some(old), Pick::Min) => new < old,
                (Some(old), Pick::Max) => new > old,
                (Some(_), Pick::First) => false,
                (Some(_), Pick::Last) => true,
            };
            if takes {
                block.set_bytes(group, value, new);
            }
        }),
    }
}

/// Whether the valid value of `from` is picked rather than that of `into`.
fn takes_over(into: &RowBlock, to: usize, from: &RowBlock, source: usize, value: Place, pick: Pick) -> bool {
    if !into.is_valid(to, value) {
        return true;
    }
    let less = |a: (&RowBlock, usize), b: (&RowBlock, usize)| match value.cell {
        Cell::Word => a.0.word(a.1, value) < b.0.word(b.1, value),
        Cell::Float => float_less(a.0.float(a.1, value), b.0.float(b.1, value)),
        Cell::Wide => a.0.wide(a.1, value) < b.0.wide(b.1, value),
        Cell::Bytes => a.0.bytes(a.1, value) < b.0.bytes(b.1, value),
    };
    match pick {
        Pick::Min => less((from, source), (into, to)),
        Pick::Max => less((into, to), (from, source)),
        Pick::First => false,
        Pick::Last => true,
    }
}

fn merge_count(into: &mut RowBlock, to: usize, from: &RowBlock, source: usize, count: Place) {
    into.set_word(to, count, into.word(to, count) + from.word(source, count));
    into.set_valid(to, count);
}

/// Returns whether the sum overflowed.
fn merge_sum(into: &mut RowBlock, to: usize, from: &RowBlock, source: usize, sum: Place) -> bool {
    if !from.is_valid(source, sum) {
        return false;
    }
    into.set_valid(to, sum);
    match sum.cell {
        Cell::Word => {
            let (new, wrapped) = into.word(to, sum).overflowing_add(from.word(source, sum));
            into.set_word(to, sum, new);
            wrapped
        }
        Cell::Wide => {
            let (new, wrapped) = into.wide(to, sum).overflowing_add(from.wide(source, sum));
            into.set_wide(to, sum, new);
            wrapped
        }
        _ => {
            into.set_float(to, sum, into.float(to, sum) + from.float(source, sum));
            false
        }
    }
}

/// Two partial variances as one (Chan, Golub and LeVeque 1979).
fn merge_variance(into: &mut RowBlock, to: usize, from: &RowBlock, source: usize, places: [Place; 3]) {
    let [count, mean, m2] = places;
    let (left, right) = (into.word(to, count) as f64, from.word(source, count) as f64);
    if right > 0.0 {
        let apart = from.float(source, mean) - into.float(to, mean);
        let total = left + right;
        into.set_float(to, mean, into.float(to, mean) + apart * right / total);
        into.set_float(to, m2, into.float(to, m2) + from.float(source, m2) + apart * apart * left * right / total);
    }
    merge_count(into, to, from, source, count);
    into.set_valid(to, mean);
    into.set_valid(to, m2);
}

fn validity(block: &RowBlock, valid: impl Fn(usize) -> bool) -> Option<NullBuffer> {
    let nulls = NullBuffer::new(BooleanBuffer::collect_bool(block.rows(), valid));
    (nulls.null_count() > 0).then_some(nulls)
}

fn with_validity(column: &ArrayRef, nulls: Option<NullBuffer>) -> Result<ArrayRef, OperatorError> {
    let data = column.to_data().into_builder().nulls(nulls).build()?;
    Ok(arrow::array::make_array(data))
}

fn state_type_of_sum(cell: Cell, output: &DataType) -> DataType {
    match (cell, output) {
        (Cell::Word, _) => DataType::Int64,
        (Cell::Wide, DataType::Decimal128(_, scale)) => DataType::Decimal128(38, *scale),
        (Cell::Wide, _) => DataType::Decimal128(38, 0),
        _ => DataType::Float64,
    }
}

/// `sum / count`, a decimal of `scale`, as a decimal of `result_scale`, rounded half away from zero.
/// `None` if it doesn't fit.
fn rescaled_quotient(sum: i128, count: i64, scale: i8, result_scale: i8) -> Option<i128> {
    let (mut dividend, mut divisor) = (sum, count as i128);
    let shift = 10i128.checked_pow((result_scale - scale).unsigned_abs() as u32)?;
    if result_scale >= scale {
        dividend = dividend.checked_mul(shift)?;
    } else {
        divisor = divisor.checked_mul(shift)?;
    }
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    let away = if dividend < 0 { -1 } else { 1 };
    Some(if rest.unsigned_abs() * 2 >= divisor.unsigned_abs() { quotient + away } else { quotient })
}
