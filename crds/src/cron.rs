//! Schedules as cron writes them: minute, hour, day of month, month, day of week.

use std::ops::RangeInclusive;

/// What is wrong with a schedule.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistake {
    pub reason: String,
    pub remedy: String,
}

/// The minutes that a schedule names, as fields of a calendar and a clock; of which time zone is not its concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Where both are restricted, a day needs to be one of either: cron's oldest rule.
    any_day: bool,
    any_weekday: bool,
}

/// A date as a schedule sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    /// 1 to 12
    pub month: u32,
    /// 1 to 31
    pub day: u32,
    /// From Sunday, which is 0.
    pub weekday: u32,
}

struct Field {
    name: &'static str,
    range: RangeInclusive<u32>,
    /// Words for the numbers, from the range's start on.
    words: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { name: "minute", range: 0..=59, words: &[] },
    Field { name: "hour", range: 0..=23, words: &[] },
    Field { name: "day of month", range: 1..=31, words: &[] },
    Field { name: "month", range: 1..=12, words: &MONTHS },
    Field { name: "day of week", range: 0..=7, words: &DAYS },
];

impl Schedule {
    /// # Errors
    /// The text is no schedule.
    pub fn parse(schedule: &str) -> Result<Self, Mistake> {
        let parts: Vec<&str> = schedule.split_whitespace().collect();
        if parts.len() != FIELDS.len() {
            return Err(Mistake {
                reason: format!("`{schedule}` has {} fields; a schedule has 5", parts.len()),
                remedy:
                    "write minute, hour, day of month, month and day of week: \"0 3 * * *\" is every night at three"
                        .to_owned(),
            });
        }
        let mut sets = [0_u64; FIELDS.len()];
        for ((part, field), set) in parts.iter().zip(&FIELDS).zip(&mut sets) {
            for item in part.split(',') {
                *set |= numbers(item, field).ok_or_else(|| Mistake {
                    reason: format!("`{part}` is no {}", field.name),
                    remedy: format!(
                        "write *, a number from {} to {}, a range a-b, a step */n, or several with commas",
                        field.range.start(),
                        field.range.end()
                    ),
                })?;
            }
        }
        let [minutes, hours, days, months, weekdays] = sets;
        // Sunday has two numbers.
        let weekdays = weekdays | weekdays >> 7 & 1;
        let is_any = |index: usize| parts[index].starts_with('*');
        Ok(Schedule { minutes, hours, days, months, weekdays, any_day: is_any(2), any_weekday: is_any(4) })
    }

    /// Whether it names any minute of this day.
    pub fn names_day(&self, Day { month, day, weekday }: Day) -> bool {
        let (day, weekday) = (has(self.days, day), has(self.weekdays, weekday));
        let is_one = match (self.any_day, self.any_weekday) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        has(self.months, month) && is_one
    }

    /// The minutes that it names of each of its days, the latest first, as hour and minute.
    pub fn minutes_backwards(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let hours = (0..24).rev().filter(|hour| has(self.hours, *hour));
        hours.flat_map(|hour| {
            (0..60).rev().filter(|minute| has(self.minutes, *minute)).map(move |minute| (hour, minute))
        })
    }
}

fn has(set: u64, number: u32) -> bool {
    set >> number & 1 == 1
}

/// The numbers that an item stands for, as bits.
fn numbers(item: &str, field: &Field) -> Option<u64> {
    let (span, step) = match item.split_once('/') {
        Some((span, step)) => (span, Some(step)),
        None => (item, None),
    };
    let step = match step {
        Some(step) => step.parse::<u32>().ok().filter(|step| *step >= 1 && step <= field.range.end())?,
        None => 1,
    };
    let (from, to) = match span.split_once('-') {
        _ if span == "*" => (*field.range.start(), *field.range.end()),
        Some((from, to)) => (number(from, field)?, number(to, field)?),
        // With a step, a number begins a range that has no other end than the field's.
        None => match (number(span, field)?, item.contains('/')) {
            (from, true) => (from, *field.range.end()),
            (only, false) => (only, only),
        },
    };
    (from <= to).then(|| (from..=to).step_by(step as usize).fold(0, |set, number| set | 1 << number))
}

fn number(text: &str, field: &Field) -> Option<u32> {
    let word = field.words.iter().position(|word| text.eq_ignore_ascii_case(word));
    let number = match word {
        Some(index) => field.range.start() + index as u32,
        None => text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))?,
    };
    field.range.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_schedules() {
        for good in ["0 3 * * *", "*/15 0-6,22 1 jan-mar MON", "5 4 * * 7", "0 0 1,15 * 1-5/2"] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        for (bad, reason) in [
            ("0 3 * *", "`0 3 * *` has 4 fields; a schedule has 5"),
            ("60 3 * * *", "`60` is no minute"),
            ("0 3 0 * *", "`0` is no day of month"),
            ("0 3 * * fun", "`fun` is no day of week"),
            ("0 */0 * * *", "`*/0` is no hour"),
            ("0 5-3 * * *", "`5-3` is no hour"),
            ("@daily", "`@daily` has 1 fields; a schedule has 5"),
        ] {
            assert_eq!(Schedule::parse(bad).unwrap_err().reason, reason);
        }
    }

    #[test]
    fn names_days_and_minutes() {
        let day = |month, day, weekday| Day { month, day, weekday };
        let rows = [
            ("0 3 * * *", day(11, 21, 6), true, vec![(3, 0)]),
            ("*/30 1-2 * * *", day(1, 1, 0), true, vec![(2, 30), (2, 0), (1, 30), (1, 0)]),
            ("0 0 * * 7", day(1, 1, 0), true, vec![(0, 0)]),
            ("0 0 * * 1-5", day(1, 1, 0), false, vec![(0, 0)]),
            ("0 0 13 * fri", day(3, 13, 2), true, vec![(0, 0)]),
            ("0 0 13 * fri", day(3, 14, 5), true, vec![(0, 0)]),
            ("0 0 13 * fri", day(3, 14, 6), false, vec![(0, 0)]),
            ("5/20 6 * feb *", day(3, 14, 6), false, vec![(6, 45), (6, 25), (6, 5)]),
        ];
        for (schedule, day, is_named, minutes) in rows {
            let parsed = Schedule::parse(schedule).unwrap();
            assert_eq!(parsed.names_day(day), is_named, "{schedule} {day:?}");
            assert_eq!(parsed.minutes_backwards().collect::<Vec<_>>(), minutes, "{schedule}");
        }
    }
}
