//! The same alerts as a straightforward computation over all flights at once.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::time::Duration;
use weir_example_delay_alerts::{Alert, Config};
use weir_sdk::Timestamp;

pub const HOUR: Duration = Duration::from_secs(3600);
const AIRPORTS: [&str; 4] = ["EWR", "JFK", "LGA", "SWF"];

#[derive(Clone, Debug)]
pub struct Flight {
    pub scheduled_at: Timestamp,
    pub origin: &'static str,
    /// `None`: cancelled.
    pub delay: Option<i64>,
}

/// Average delay by airport and start of the hour.
pub type Hours = BTreeMap<(String, Timestamp), Option<f64>>;

/// Flights over some days, in order of time; delays come in waves.
pub fn random_flights(count: usize, hours: u64, random: &mut ChaCha8Rng) -> Vec<Flight> {
    let start: Timestamp = "2013-01-01T00:00:00".parse().unwrap();
    let mut flights: Vec<Flight> = (0..count)
        .map(|_| {
            let minute = random.random_range(0..hours * 60);
            let airport = random.random_range(0..AIRPORTS.len());
            let wave = ((minute as f64 / 60.0 / (3.0 + airport as f64)).sin() * 45.0) as i64;
            Flight {
                scheduled_at: start + Duration::from_secs(minute * 60),
                origin: AIRPORTS[airport],
                delay: random.random_bool(0.9).then(|| wave + random.random_range(-15..30)),
            }
        })
        .collect();
    flights.sort_by_key(|flight| flight.scheduled_at);
    flights
}

pub fn hours_of(flights: &[Flight]) -> Hours {
    let mut sums: BTreeMap<(String, Timestamp), (i64, i64)> = BTreeMap::new();
    for Flight { scheduled_at, origin, delay } in flights {
        let micros = scheduled_at.as_micros();
        let start = Timestamp::from_micros(micros - micros.rem_euclid(HOUR.as_micros() as i64));
        let (sum, count) = sums.entry(((*origin).to_owned(), start)).or_default();
        if let Some(delay) = delay {
            *sum += delay;
            *count += 1;
        }
    }
    sums.into_iter().map(|(hour, (sum, count))| (hour, (count > 0).then(|| sum as f64 / count as f64))).collect()
}

/// All alerts, sorted by airport and time.
pub fn alerts_of(hours: &Hours, config: &Config) -> Vec<Alert> {
    let clear_after = Duration::from_secs(config.clear_after_minutes * 60);
    let mut alerts = vec![];
    let mut airports: BTreeMap<&str, Vec<(Timestamp, Option<f64>)>> = BTreeMap::new();
    for ((airport, start), delay) in hours {
        airports.entry(airport).or_default().push((*start, *delay));
    }
    for (airport, hours) in airports {
        // Late hours so far, and the alert if it is raised.
        let mut late: Vec<(Timestamp, f64)> = vec![];
        let mut is_raised = false;
        let alert = |event: &str, at: Timestamp, late: &[(Timestamp, f64)]| Alert {
            airport: airport.to_owned(),
            event: event.to_owned(),
            at,
            since: late[0].0,
            windows: late.len() as i64,
            worst: late.iter().map(|(_, delay)| *delay).fold(f64::NEG_INFINITY, f64::max),
        };
        let end_of_quiet = |late: &[(Timestamp, f64)]| late[late.len() - 1].0 + HOUR + clear_after;
        for (start, delay) in hours {
            if is_raised && end_of_quiet(&late) < start + HOUR {
                alerts.push(alert("CLEARED", end_of_quiet(&late), &late));
                (late, is_raised) = (vec![], false);
            }
            match delay {
                Some(delay) if delay > config.threshold => {
                    if !is_raised && late.last().is_some_and(|(last, _)| *last + HOUR != start) {
                        late.clear();
                    }
                    late.push((start, delay));
                    if !is_raised && late.len() as i64 >= config.windows {
                        is_raised = true;
                        alerts.push(alert("RAISED", start + HOUR, &late));
                    }
                }
                _ if is_raised => {}
                _ => late.clear(),
            }
        }
        if is_raised {
            alerts.push(alert("CLEARED", end_of_quiet(&late), &late));
        }
    }
    alerts
}
