//! Savepoints by the clock: when one is due, and which of the automatic ones stay. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use k8s_openapi::jiff::Timestamp;
use weir_crds::cron::{Day, Schedule};
use weir_crds::streamjob::{SavepointPolicy, SavepointRetention};
use weir_crds::{SavepointTrigger, defaults};

/// How far back a time is looked for that the schedule names: 29 February comes every eight years at the rarest.
const DAYS_BACK: u64 = 8 * 366 + 2;

/// The latest time that the schedule names, after `after` and not after `now`. One, however many were missed.
pub fn due(policy: &SavepointPolicy, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let schedule = Schedule::parse(policy.schedule.as_deref()?).ok()?;
    let zone = zone(policy).ok()?;
    let now = DateTime::<Utc>::from_timestamp(now.as_second(), 0)?;
    let after = DateTime::<Utc>::from_timestamp(after.as_second(), 0)?;
    let (today, first) = (now.with_timezone(&zone).date_naive(), after.with_timezone(&zone).date_naive());
    let days = (0..DAYS_BACK).map_while(|back| today.checked_sub_days(Days::new(back)));
    // A day more than needed: where a clock is set back, its times come twice.
    let days = days.take_while(|day| day.checked_add_days(Days::new(1)).is_some_and(|next| next >= first));
    let named = days.filter(|day| schedule.names_day(of(*day)));
    let times = named.flat_map(|day| {
        schedule
            .minutes_backwards()
            .filter_map(move |(hour, minute)| instant(zone, day.and_time(NaiveTime::from_hms_opt(hour, minute, 0)?)))
    });
    let latest = times.take_while(|time| *time > after).find(|time| *time <= now)?;
    Timestamp::from_second(latest.timestamp()).ok()
}

/// What is wrong with the time zone, if anything is.
pub fn zone_problem(policy: &SavepointPolicy) -> Option<String> {
    let unknown = zone(policy).err()?;
    Some(format!(
        "spec.savepoints.timeZone: `{unknown}` is in no time zone database; write a name such as Europe/Berlin"
    ))
}

fn zone(policy: &SavepointPolicy) -> Result<Tz, &str> {
    let name = policy.time_zone.as_deref().unwrap_or(defaults::SAVEPOINT_TIME_ZONE);
    name.parse().map_err(|_| name)
}

fn of(day: NaiveDate) -> Day {
    Day { month: day.month(), day: day.day(), weekday: day.weekday().num_days_from_sunday() }
}

/// The first of two where the clock is set back; where it is set forward, what it then says an hour later.
fn instant(zone: Tz, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    let later = || zone.from_local_datetime(&(local + TimeDelta::hours(1))).earliest();
    zone.from_local_datetime(&local).earliest().or_else(later).map(|time| time.to_utc())
}

/// A complete savepoint, as the retention sees it.
#[derive(Clone, Debug)]
pub struct Retained {
    pub name: String,
    pub trigger: SavepointTrigger,
    pub path: String,
    pub created_at: Timestamp,
}

/// Of automatic savepoints those that the policy lets go: each kind is counted by itself. Never the newest of its kind,
/// nor one that is needed.
pub fn surplus(
    policy: Option<&SavepointRetention>,
    mut all: Vec<Retained>,
    needed: &BTreeSet<String>,
    now: Timestamp,
) -> Vec<String> {
    let count = policy.and_then(|policy| policy.count).unwrap_or(defaults::SAVEPOINT_RETAIN_COUNT).max(1) as usize;
    let max_age = policy.and_then(|policy| policy.max_age).map(|age| age.get());
    all.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.name.cmp(&a.name)));
    let mut gone = Vec::new();
    for kind in [SavepointTrigger::Scheduled, SavepointTrigger::Upgrade] {
        for (rank, one) in all.iter().filter(|one| one.trigger == kind).enumerate() {
            let age = Duration::try_from(now.duration_since(one.created_at)).unwrap_or_default();
            let is_old = max_age.is_some_and(|limit| age > limit);
            if rank > 0 && (rank >= count || is_old) && !needed.contains(&one.path) {
                gone.push(one.name.clone());
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn policy(schedule: &str, zone: &str) -> SavepointPolicy {
        SavepointPolicy {
            schedule: Some(schedule.to_owned()),
            time_zone: Some(zone.to_owned()),
            ..SavepointPolicy::default()
        }
    }

    #[test]
    fn a_savepoint_is_due_once_for_what_was_missed() {
        let rows = [
            // schedule, zone, after, now, due
            ("0 3 * * *", "UTC", "2026-11-20T03:00:00Z", "2026-11-21T02:59:59Z", None),
            ("0 3 * * *", "UTC", "2026-11-20T03:00:00Z", "2026-11-21T03:00:00Z", Some("2026-11-21T03:00:00Z")),
            ("0 3 * * *", "UTC", "2026-11-01T03:00:00Z", "2026-11-21T05:00:00Z", Some("2026-11-21T03:00:00Z")),
            ("*/15 * * * *", "UTC", "2026-11-21T10:00:00Z", "2026-11-21T10:14:59Z", None),
            ("*/15 * * * *", "UTC", "2026-11-21T10:00:00Z", "2026-11-21T10:50:00Z", Some("2026-11-21T10:45:00Z")),
            ("0 0 29 2 *", "UTC", "2021-01-01T00:00:00Z", "2026-11-21T00:00:00Z", Some("2024-02-29T00:00:00Z")),
            (
                "30 1 * * *",
                "Asia/Kolkata",
                "2026-11-20T00:00:00Z",
                "2026-11-20T21:00:00Z",
                Some("2026-11-20T20:00:00Z"),
            ),
            // Clocks go from 2:00 to 3:00 that night, and back from 3:00 to 2:00 in autumn.
            (
                "30 2 * * *",
                "Europe/Berlin",
                "2026-03-28T12:00:00Z",
                "2026-03-29T12:00:00Z",
                Some("2026-03-29T01:30:00Z"),
            ),
            (
                "30 2 * * *",
                "Europe/Berlin",
                "2026-10-24T12:00:00Z",
                "2026-10-25T12:00:00Z",
                Some("2026-10-25T00:30:00Z"),
            ),
            ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T12:00:00Z", None),
        ];
        for (schedule, zone, after, now, expected) in rows {
            let found = due(&policy(schedule, zone), at(after), at(now));
            assert_eq!(found, expected.map(at), "{schedule} {zone} after {after} at {now}");
        }
        assert!(zone_problem(&policy("0 3 * * *", "Europe/Atlantis")).is_some());
    }

    #[test]
    fn retention_counts_each_kind_and_keeps_what_is_needed() {
        let one = |name: &str, trigger, day: i8| Retained {
            name: name.to_owned(),
            trigger,
            path: format!("s3://b/{name}"),
            created_at: at(&format!("2026-11-{day:02}T03:00:00Z")),
        };
        use SavepointTrigger::{Manual, Scheduled, Upgrade};
        let all = || {
            vec![
                one("m1", Manual, 1),
                one("s1", Scheduled, 1),
                one("s2", Scheduled, 2),
                one("s3", Scheduled, 3),
                one("u1", Upgrade, 1),
                one("u2", Upgrade, 2),
            ]
        };
        let retain = |count, days: Option<&str>| SavepointRetention {
            count: Some(count),
            max_age: days.map(|text| text.parse().unwrap()),
        };
        let rows = [
            (retain(2, None), &[][..], vec!["s1"]),
            (retain(1, None), &[], vec!["s2", "s1", "u1"]),
            (retain(1, None), &["s3://b/s1", "s3://b/u1"], vec!["s2"]),
            (retain(9, Some("19d")), &[], vec!["s1", "u1"]),
            // However old the newest is, it stays.
            (retain(9, Some("1d")), &[], vec!["s2", "s1", "u1"]),
        ];
        for (policy, needed, expected) in rows {
            let needed = needed.iter().map(|path| (*path).to_owned()).collect();
            assert_eq!(surplus(Some(&policy), all(), &needed, at("2026-11-21T00:00:00Z")), expected, "{policy:?}");
        }
        assert!(surplus(None, all(), &BTreeSet::new(), at("2026-11-21T00:00:00Z")).is_empty());
    }
}
