//! The operator alone, without a job around it.

mod support;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use support::{HOUR, alerts_of, hours_of, random_flights};
use weir_example_delay_alerts::{Alert, Config, DelayAlerts};
use weir_sdk::testing::{Harness, HarnessBuilder};
use weir_sdk::{Result, RowSchema, Timestamp};

fn at(hour: i64) -> Timestamp {
    Timestamp::from_millis(hour * 3_600_000)
}

fn harness(windows: i64, clear_after_minutes: u64) -> HarnessBuilder {
    let input = RowSchema::new()
        .column::<Option<String>>("origin")
        .column::<Timestamp>("window_start")
        .column::<Timestamp>("window_end")
        .column::<Option<f64>>("delay");
    Harness::of::<DelayAlerts>()
        .config(json!({"threshold": 30, "windows": windows, "clearAfterMinutes": clear_after_minutes}))
        .input(input)
        .key_by(["origin"])
}

fn push(harness: &mut Harness, airport: &str, hour: i64, delay: f64) -> Result<()> {
    harness.push((airport, at(hour), at(hour + 1), delay))
}

fn printed(harness: &mut Harness) -> Vec<String> {
    let alerts = harness.take::<Alert>().unwrap();
    let hour = |time: Timestamp| time.as_micros() as f64 / HOUR.as_micros() as f64;
    alerts
        .iter()
        .map(|Alert { airport, event, at, since, windows, worst }| {
            format!("{airport} {event} at {} since {}: {windows} windows, {worst} minutes", hour(*at), hour(*since))
        })
        .collect()
}

#[test]
fn raised_after_three_late_windows_and_cleared_when_quiet() -> Result<()> {
    let mut harness = harness(3, 120).build()?;
    for (hour, delay) in [(0, 40.0), (1, 50.0), (2, 31.0), (3, 10.0), (4, 35.0)] {
        push(&mut harness, "JFK", hour, delay)?;
        push(&mut harness, "LGA", hour, 30.0)?;
        harness.watermark(at(hour + 1))?;
    }
    assert_eq!(printed(&mut harness), ["JFK RAISED at 3 since 0: 3 windows, 50 minutes"]);
    // The last late window ended at 5, just when two quiet hours would have been over: it comes before the timer.
    harness.watermark(at(6))?;
    assert_eq!(printed(&mut harness), [""; 0]);
    harness.watermark(at(7))?;
    assert_eq!(printed(&mut harness), ["JFK CLEARED at 7 since 0: 4 windows, 50 minutes"]);
    Ok(())
}

#[test]
fn a_gap_or_a_punctual_hour_ends_a_streak() -> Result<()> {
    let mut harness = harness(2, 60).build()?;
    for hour in [0, 2, 4, 6] {
        push(&mut harness, "JFK", hour, 40.0)?;
        push(&mut harness, "EWR", hour, 40.0)?;
        push(&mut harness, "EWR", hour + 1, 5.0)?;
    }
    harness.end()?;
    assert_eq!(printed(&mut harness), [""; 0]);
    Ok(())
}

/// All hours at once, and in any order: the alert between them is cleared and raised anew all the same.
#[test]
fn a_jump_of_the_watermark_changes_nothing() -> Result<()> {
    let mut harness = harness(1, 60).build()?;
    for hour in [8, 0, 9, 1] {
        push(&mut harness, "JFK", hour, 40.0)?;
    }
    harness.watermark(at(100))?;
    assert_eq!(
        printed(&mut harness),
        [
            "JFK RAISED at 1 since 0: 1 windows, 40 minutes",
            "JFK CLEARED at 3 since 0: 2 windows, 40 minutes",
            "JFK RAISED at 9 since 8: 1 windows, 40 minutes",
            "JFK CLEARED at 11 since 8: 2 windows, 40 minutes",
        ]
    );
    Ok(())
}

/// Random delays, watermarks, checkpoints, parallelisms: always what is computed over all flights at once.
#[test]
fn equals_the_batch_computation() -> Result<()> {
    for seed in 0..40 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let config = Config {
            threshold: 30.0,
            windows: random.random_range(1..5),
            clear_after_minutes: random.random_range(1..=4) * 30,
        };
        let hours = hours_of(&random_flights(3_000, 24 * 14, &mut random));
        let build = || harness(config.windows, config.clear_after_minutes);
        let mut harness = build().build()?;
        let mut alerts: Vec<Alert> = vec![];
        let mut rows: Vec<_> = hours.iter().collect();
        rows.sort_by_key(|((_, start), _)| *start);
        while !rows.is_empty() {
            let mut now: Vec<_> = rows.drain(..random.random_range(1..=80).min(rows.len())).collect();
            now.shuffle(&mut random);
            harness.push_all(
                now.into_iter().map(|((airport, start), delay)| (airport.clone(), *start, *start + HOUR, *delay)),
            )?;
            // An hour comes when it is over: the watermark is then before the end of the next one that comes.
            let passed = rows.first().map_or(Timestamp::MAX, |((_, start), _)| *start);
            harness.watermark(passed)?;
            if random.random_bool(0.3) {
                alerts.extend(harness.take::<Alert>()?);
                let snapshot = harness.snapshot()?;
                harness = build().parallelism(random.random_range(1..5)).restore(&snapshot).build()?;
            }
        }
        harness.end()?;
        alerts.extend(harness.take::<Alert>()?);
        alerts.sort_by_key(|alert| (alert.airport.clone(), alert.at));
        let expected = alerts_of(&hours, &config);
        assert!(!expected.is_empty(), "seed {seed}");
        assert_eq!(alerts, expected, "seed {seed}");
    }
    Ok(())
}
