//! A length of time as people write it: `100ms`, `10s`, `1h30m`, `30d`.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, written as one or more numbers with a unit, largest unit first.
///
/// Units: `d` (24 hours), `h`, `m`, `s`, `ms`, `us`, `ns`. A number may have a fraction (`1.5s`). Zero is `0s`.
/// The text form is not kept: `90s` is written back as `1m30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

/// What the API server lets through; [`HumanDuration::from_str`] decides the rest.
pub const DURATION_PATTERN: &str = r"^([0-9]+(\.[0-9]+)?(d|h|m|s|ms|us|ns))+$|^0$";

const NANOS_PER_SECOND: u128 = 1_000_000_000;
/// Unit names with their length in nanoseconds, largest first.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400 * NANOS_PER_SECOND),
    ("h", 3_600 * NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("s", NANOS_PER_SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
/// A bound that keeps every sum of two durations, in milliseconds, inside an `i64`: a hundred years.
const MAX_NANOS: u128 = 100 * 365 * 86_400 * NANOS_PER_SECOND;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error("`{0}` is not a duration: write numbers with a unit, such as 100ms, 10s, 5m, 1h30m or 30d")]
    Malformed(String),
    #[error("`{text}` has no unit: did you mean {text}s (seconds) or {text}ms (milliseconds)?")]
    NoUnit { text: String },
    #[error("`{text}` has the unknown unit `{unit}`: the units are d, h, m, s, ms, us and ns")]
    UnknownUnit { text: String, unit: String },
    #[error("`{0}` names its units out of order: write the largest first, each once, such as 1h30m")]
    OutOfOrder(String),
    #[error("`{0}` is longer than a hundred years")]
    TooLong(String),
}

impl HumanDuration {
    pub const ZERO: Self = Self(Duration::ZERO);

    pub const fn from_micros(micros: u64) -> Self {
        Self(Duration::from_micros(micros))
    }

    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub const fn from_mins(minutes: u64) -> Self {
        Self(Duration::from_secs(minutes * 60))
    }

    pub const fn from_hours(hours: u64) -> Self {
        Self(Duration::from_secs(hours * 3_600))
    }

    /// The length as the standard library's type.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The length in whole milliseconds, rounded down. Never overflows: a duration is at most a hundred years.
    pub const fn as_millis(self) -> u64 {
        self.0.as_millis() as u64
    }

    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl FromStr for HumanDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let malformed = || DurationError::Malformed(text.to_owned());
        if text == "0" {
            return Ok(Self::ZERO);
        }
        if text.is_empty() {
            return Err(malformed());
        }
        let mut rest = text;
        let mut total_nanos: u128 = 0;
        let mut next_unit = 0;
        while !rest.is_empty() {
            let number_len = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
            let (number, tail) = rest.split_at(number_len);
            let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            if number.is_empty() {
                return Err(malformed());
            }
            if unit.is_empty() {
                return Err(DurationError::NoUnit { text: text.to_owned() });
            }
            let index = UNITS
                .iter()
                .position(|(name, _)| *name == unit)
                .ok_or_else(|| DurationError::UnknownUnit { text: text.to_owned(), unit: unit.to_owned() })?;
            if index < next_unit {
                return Err(DurationError::OutOfOrder(text.to_owned()));
            }
            next_unit = index + 1;
            let nanos = scaled(number, UNITS[index].1).ok_or_else(malformed)?;
            total_nanos = total_nanos.saturating_add(nanos);
            if total_nanos > MAX_NANOS {
                return Err(DurationError::TooLong(text.to_owned()));
            }
            rest = tail;
        }
        let secs = (total_nanos / NANOS_PER_SECOND) as u64;
        Ok(Self(Duration::new(secs, (total_nanos % NANOS_PER_SECOND) as u32)))
    }
}

/// `number` (digits, possibly with a fraction) times `unit_nanos`, saturating; `None` where it is not a number.
fn scaled(number: &str, unit_nanos: u128) -> Option<u128> {
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    // A number of thirty digits is beyond the bound in every unit; it need not fit to be refused as too long.
    let whole = if whole.len() > 30 { u128::MAX } else { whole.parse::<u128>().ok()? };
    let mut total = whole.saturating_mul(unit_nanos);
    let mut digit_nanos = unit_nanos;
    for digit in fraction.chars() {
        digit_nanos /= 10;
        total = total.saturating_add(u128::from(digit.to_digit(10)?) * digit_nanos);
    }
    Some(total)
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        // Days are read but not written: 24h stays 24h, as people write it.
        for (unit, nanos) in &UNITS[1..] {
            if rest >= *nanos {
                write!(f, "{}{unit}", rest / nanos)?;
                rest %= nanos;
            }
        }
        Ok(())
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": DURATION_PATTERN,
            "x-weir-type": "duration",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let table = [
            ("100ms", 100),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("30d", 2_592_000_000),
            ("0", 0),
            ("0s", 0),
            ("1d12h", 129_600_000),
        ];
        for (text, millis) in table {
            assert_eq!(text.parse::<HumanDuration>().map(HumanDuration::as_millis), Ok(millis), "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads_back() {
        for (text, written) in
            [("24h", "24h"), ("90s", "1m30s"), ("30d", "720h"), ("84ms", "84ms"), ("1.5s", "1s500ms"), ("0", "0s")]
        {
            let duration: HumanDuration = text.parse().unwrap();
            assert_eq!(duration.to_string(), written);
            assert_eq!(written.parse::<HumanDuration>().unwrap(), duration);
        }
    }

    #[test]
    fn refuses_with_a_remedy() {
        let table = [
            ("", "`` is not a duration: write numbers with a unit, such as 100ms, 10s, 5m, 1h30m or 30d"),
            ("10", "`10` has no unit: did you mean 10s (seconds) or 10ms (milliseconds)?"),
            ("10 s", "`10 s` has the unknown unit ` s`: the units are d, h, m, s, ms, us and ns"),
            ("10sec", "`10sec` has the unknown unit `sec`: the units are d, h, m, s, ms, us and ns"),
            ("30m1h", "`30m1h` names its units out of order: write the largest first, each once, such as 1h30m"),
            ("-5s", "`-5s` is not a duration: write numbers with a unit, such as 100ms, 10s, 5m, 1h30m or 30d"),
            ("1.s", "`1.s` is not a duration: write numbers with a unit, such as 100ms, 10s, 5m, 1h30m or 30d"),
            (
                "99999999999999999999999999999999999999999d",
                "`99999999999999999999999999999999999999999d` is longer than a hundred years",
            ),
        ];
        for (text, message) in table {
            assert_eq!(text.parse::<HumanDuration>().unwrap_err().to_string(), message);
        }
    }
}
