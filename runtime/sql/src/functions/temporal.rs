//! Time functions that people know from Flink.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Months, NaiveDateTime, Timelike};
use datafusion_common::{Result, ScalarValue, exec_err, plan_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::fmt::Write;
use std::sync::Arc;
use weir_model::types::{TIMESTAMP, sql_type_name};

/// Stands for the clock in `DESCRIPTOR(PROCTIME())` and `ORDER BY PROCTIME()`, and is refused elsewhere.
pub(crate) const PROCTIME: &str = "proctime";

pub(super) fn functions() -> Vec<ScalarUDF> {
    let function = |name, kind, arguments| {
        ScalarUDF::from(Temporal { name, kind, arguments, signature: Signature::user_defined(kind.volatility()) })
    };
    vec![
        function(PROCTIME, Kind::Proctime, &[]),
        function("date_format", Kind::DateFormat, &[Argument::Timestamp, Argument::Text]),
        function("timestampdiff", Kind::Difference, &[Argument::Text, Argument::Timestamp, Argument::Timestamp]),
        function("timestampadd", Kind::Add, &[Argument::Text, Argument::Integer, Argument::Timestamp]),
        function("to_timestamp_ltz", Kind::FromEpoch, &[Argument::Integer, Argument::Integer]),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Proctime,
    DateFormat,
    Difference,
    Add,
    FromEpoch,
}

impl Kind {
    /// The planner must not fold PROCTIME() into a constant.
    fn volatility(self) -> Volatility {
        if self == Kind::Proctime { Volatility::Volatile } else { Volatility::Immutable }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Argument {
    Text,
    Integer,
    Timestamp,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Temporal {
    name: &'static str,
    kind: Kind,
    arguments: &'static [Argument],
    signature: Signature,
}

impl ScalarUDFImpl for Temporal {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        if given.len() != self.arguments.len() {
            return plan_err!("{} takes {} arguments, not {}", self.name, self.arguments.len(), given.len());
        }
        let coerced = self.arguments.iter().zip(given).map(|(argument, given)| {
            let text = matches!(given, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null);
            match argument {
                Argument::Text if text => Ok(DataType::Utf8),
                Argument::Integer if given.is_integer() || given.is_null() => Ok(DataType::Int64),
                Argument::Timestamp if text || given.is_temporal() => Ok(TIMESTAMP),
                _ => plan_err!("{} does not take {} there", self.name, sql_type_name(given)),
            }
        });
        coerced.collect()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::DateFormat => DataType::Utf8,
            Kind::Difference => DataType::Int64,
            Kind::Proctime | Kind::Add | Kind::FromEpoch => TIMESTAMP,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        // A batch whose arguments are all constants has one row here.
        let rows = arrays.iter().map(|array| array.len()).max().unwrap_or(args.number_rows);
        let result: ArrayRef = match self.kind {
            Kind::Proctime => return exec_err!("PROCTIME() stands for the clock and has no value of its own"),
            Kind::DateFormat => Arc::new(format_rows(&arrays[0], &arrays[1], rows)?),
            Kind::Difference => Arc::new(difference_rows(&arrays[0], &arrays[1], &arrays[2], rows)?),
            Kind::Add => Arc::new(add_rows(&arrays[0], &arrays[1], &arrays[2], rows)?),
            Kind::FromEpoch => epoch_rows(&arrays[0], &arrays[1])?,
        };
        if args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_))) {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

fn format_rows(times: &ArrayRef, patterns: &ArrayRef, rows: usize) -> Result<StringArray> {
    let (times, patterns) = (times.as_primitive::<TimestampMicrosecondType>(), patterns.as_string::<i32>());
    let mut text = String::new();
    let formatted = (0..rows).map(|row| {
        if times.is_null(row) || patterns.is_null(row) {
            return Ok(None);
        }
        let Some(time) = naive(times.value(row)) else { return Ok(None) };
        text.clear();
        format_java(time, patterns.value(row), &mut text)?;
        Ok(Some(text.clone()))
    });
    formatted.collect()
}

/// The letters of Java's `DateTimeFormatter` that make sense without a zone.
fn format_java(time: NaiveDateTime, pattern: &str, out: &mut String) -> Result<()> {
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\'' {
            if letters.peek() == Some(&'\'') {
                letters.next();
                out.push('\'');
            } else {
                out.extend(letters.by_ref().take_while(|quoted| *quoted != '\''));
            }
            continue;
        }
        if !letter.is_ascii_alphabetic() {
            out.push(letter);
            continue;
        }
        let mut width = 1;
        while letters.next_if_eq(&letter).is_some() {
            width += 1;
        }
        let number = match letter {
            'y' | 'u' if width == 2 => (time.year() % 100) as u32,
            'y' | 'u' => time.year().unsigned_abs(),
            'M' | 'L' if width == 3 => {
                write!(out, "{}", time.format("%b"))?;
                continue;
            }
            'M' | 'L' if width > 3 => {
                write!(out, "{}", time.format("%B"))?;
                continue;
            }
            'M' | 'L' => time.month(),
            'd' => time.day(),
            'D' => time.ordinal(),
            'E' => {
                write!(out, "{}", time.format(if width > 3 { "%A" } else { "%a" }))?;
                continue;
            }
            'H' => time.hour(),
            'h' => time.hour12().1,
            'a' => {
                out.push_str(if time.hour12().0 { "PM" } else { "AM" });
                continue;
            }
            'm' => time.minute(),
            's' => time.second(),
            'S' => {
                let fraction = format!("{:09}", time.nanosecond());
                out.push_str(&fraction[..width.min(9)]);
                continue;
            }
            other => return exec_err!("DATE_FORMAT knows no letter {other}; quote text like 'this' in its pattern"),
        };
        write!(out, "{number:0width$}")?;
    }
    Ok(())
}

fn difference_rows(units: &ArrayRef, from: &ArrayRef, to: &ArrayRef, rows: usize) -> Result<Int64Array> {
    let units = units.as_string::<i32>();
    let from = from.as_primitive::<TimestampMicrosecondType>();
    let to = to.as_primitive::<TimestampMicrosecondType>();
    let differences = (0..rows).map(|row| {
        if units.is_null(row) || from.is_null(row) || to.is_null(row) {
            return Ok(None);
        }
        difference(Unit::parse(units.value(row))?, from.value(row), to.value(row))
    });
    differences.collect()
}

/// Whole units from `from` to `to`, cut towards zero as Flink does.
fn difference(unit: Unit, from: i64, to: i64) -> Result<Option<i64>> {
    match unit {
        Unit::Micros(size) => Ok(to.checked_sub(from).map(|micros| micros / size)),
        Unit::Months(size) => {
            let (Some(start), Some(end)) = (naive(from), naive(to)) else { return Ok(None) };
            let months = |time: NaiveDateTime| time.year() as i64 * 12 + time.month0() as i64;
            let rest = |time: NaiveDateTime| (time.day(), time.time());
            let mut whole = months(end) - months(start);
            if whole > 0 && rest(end) < rest(start) {
                whole -= 1;
            } else if whole < 0 && rest(end) > rest(start) {
                whole += 1;
            }
            Ok(Some(whole / size))
        }
    }
}

fn add_rows(
    units: &ArrayRef,
    counts: &ArrayRef,
    times: &ArrayRef,
    rows: usize,
) -> Result<arrow::array::TimestampMicrosecondArray> {
    let units = units.as_string::<i32>();
    let counts = counts.as_primitive::<arrow::datatypes::Int64Type>();
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let sums = (0..rows).map(|row| {
        if units.is_null(row) || counts.is_null(row) || times.is_null(row) {
            return Ok(None);
        }
        let (count, time) = (counts.value(row), times.value(row));
        let sum = match Unit::parse(units.value(row))? {
            Unit::Micros(size) => count.checked_mul(size).and_then(|micros| time.checked_add(micros)),
            Unit::Months(size) => add_months(time, count.saturating_mul(size)),
        };
        match sum {
            Some(sum) => Ok(Some(sum)),
            None => exec_err!("TIMESTAMPADD of {count} goes beyond the range of TIMESTAMP"),
        }
    });
    sums.collect()
}

fn add_months(time: i64, count: i64) -> Option<i64> {
    let months = Months::new(u32::try_from(count.unsigned_abs()).ok()?);
    let time = naive(time)?;
    let sum = if count < 0 { time.checked_sub_months(months)? } else { time.checked_add_months(months)? };
    Some(sum.and_utc().timestamp_micros())
}

/// TO_TIMESTAMP_LTZ(n, 0 | 3 | 6): seconds, milliseconds or microseconds since the epoch.
fn epoch_rows(numbers: &ArrayRef, precisions: &ArrayRef) -> Result<ArrayRef> {
    let precision = precisions.as_primitive::<arrow::datatypes::Int64Type>();
    let unit = match precision.iter().flatten().next() {
        Some(0) => TimeUnit::Second,
        Some(3) | None => TimeUnit::Millisecond,
        Some(6) => TimeUnit::Microsecond,
        Some(other) => return exec_err!("TO_TIMESTAMP_LTZ takes a precision of 0, 3 or 6, not {other}"),
    };
    Ok(cast(&cast(numbers, &DataType::Timestamp(unit, None))?, &TIMESTAMP)?)
}

#[derive(Clone, Copy)]
enum Unit {
    Micros(i64),
    Months(i64),
}

impl Unit {
    fn parse(name: &str) -> Result<Unit> {
        const SECOND: i64 = 1_000_000;
        Ok(match name.to_ascii_uppercase().trim_end_matches('S') {
            "MICROSECOND" => Unit::Micros(1),
            "MILLISECOND" => Unit::Micros(1000),
            "SECOND" => Unit::Micros(SECOND),
            "MINUTE" => Unit::Micros(60 * SECOND),
            "HOUR" => Unit::Micros(3600 * SECOND),
            "DAY" => Unit::Micros(86_400 * SECOND),
            "WEEK" => Unit::Micros(7 * 86_400 * SECOND),
            "MONTH" => Unit::Months(1),
            "QUARTER" => Unit::Months(3),
            "YEAR" => Unit::Months(12),
            _ => {
                return exec_err!(
                    "{name} is not a unit of time; there are SECOND, MINUTE, HOUR, DAY, WEEK, MONTH, YEAR"
                );
            }
        })
    }
}

fn naive(micros: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_micros(micros).map(|time| time.naive_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap().and_utc().timestamp_micros()
    }

    #[test]
    fn java_patterns() {
        let time = naive(micros("2013-01-09 17:05:03.250")).unwrap();
        for (pattern, expected) in [
            ("yyyy-MM-dd HH:mm:ss", "2013-01-09 17:05:03"),
            ("yyyy-MM-dd'T'HH:mm:ss.SSS", "2013-01-09T17:05:03.250"),
            ("d MMM yy, h:mm a", "9 Jan 13, 5:05 PM"),
            ("EEEE 'o''clock'", "Wednesday oclock"),
        ] {
            let mut text = String::new();
            format_java(time, pattern, &mut text).unwrap();
            assert_eq!(text, expected, "{pattern}");
        }
        assert!(format_java(time, "VV", &mut String::new()).is_err());
    }

    #[test]
    fn differences() {
        let between = |unit: &str, from: &str, to: &str| {
            difference(Unit::parse(unit).unwrap(), micros(from), micros(to)).unwrap().unwrap()
        };
        assert_eq!(between("MINUTE", "2013-01-01 00:00:00", "2013-01-01 01:59:59"), 119);
        assert_eq!(between("DAYS", "2013-01-03 00:00:00", "2013-01-01 12:00:00"), -1);
        assert_eq!(between("MONTH", "2013-01-31 00:00:00", "2013-02-28 00:00:00"), 0);
        assert_eq!(between("YEAR", "2012-02-29 00:00:00", "2014-02-28 23:00:00"), 1);
        assert_eq!(add_months(micros("2013-01-31 00:00:00"), 1), Some(micros("2013-02-28 00:00:00")));
    }
}
