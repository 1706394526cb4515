use arrow::temporal_conversions::{date32_to_datetime, time64us_to_time, timestamp_us_to_datetime};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

/// A SQL `TIMESTAMP`: microseconds since the Unix epoch, UTC. Printed and parsed as `2013-01-31T17:05:00`, and so
/// it stands in a config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    micros: i64,
}

impl Timestamp {
    pub const MIN: Timestamp = Timestamp { micros: i64::MIN };
    pub const MAX: Timestamp = Timestamp { micros: i64::MAX };

    pub const fn from_micros(micros: i64) -> Self {
        Timestamp { micros }
    }

    pub const fn from_millis(millis: i64) -> Self {
        Timestamp { micros: millis.saturating_mul(1_000) }
    }

    pub const fn as_micros(self) -> i64 {
        self.micros
    }

    /// How long after `earlier` it is; zero if it isn't.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(earlier.micros).max(0) as u64)
    }
}

/// Stops at the ends of the range.
impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, duration: Duration) -> Timestamp {
        Timestamp { micros: self.micros.saturating_add(micros_of(duration)) }
    }
}

/// Stops at the ends of the range.
impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, duration: Duration) -> Timestamp {
        Timestamp { micros: self.micros.saturating_sub(micros_of(duration)) }
    }
}

fn micros_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match timestamp_us_to_datetime(self.micros) {
            Some(time) => write!(f, "{}", time.format("%Y-%m-%dT%H:%M:%S%.f")),
            None => write!(f, "{} µs", self.micros),
        }
    }
}

impl FromStr for Timestamp {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(text)
            .map(|nanos| Timestamp::from_micros(nanos.div_euclid(1_000)))
            .map_err(|_| crate::Error::new(format!("`{text}` is not a timestamp; write it as 2013-01-31T17:05:00")))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A SQL `DATE`: days since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    pub days: i32,
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match date32_to_datetime(self.days) {
            Some(time) => write!(f, "{}", time.format("%Y-%m-%d")),
            None => write!(f, "{} days", self.days),
        }
    }
}

/// A SQL `TIME`: microseconds since midnight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub micros: i64,
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match time64us_to_time(self.micros) {
            Some(time) => write!(f, "{time}"),
            None => write!(f, "{} µs", self.micros),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_there_and_back() {
        for text in ["2013-01-31T17:05:00", "1969-12-31T23:59:59.500", "1970-01-01T00:00:00"] {
            let time: Timestamp = text.parse().unwrap();
            assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time, "{text}");
        }
        assert_eq!("1969-12-31T23:59:59.999999".parse::<Timestamp>().unwrap().as_micros(), -1);
        assert_eq!("2013-01-31T17:05:00".parse::<Timestamp>().unwrap().to_string(), "2013-01-31T17:05:00");
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(Timestamp::MAX + Duration::from_secs(1), Timestamp::MAX);
        let hour = Duration::from_secs(3600);
        assert_eq!((Timestamp::from_micros(0) + hour).since(Timestamp::from_micros(0)), hour);
    }
}
