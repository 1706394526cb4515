//! Schedules as cron writes them: minute, hour, day of month, month, day of week.

use std::ops::RangeInclusive;

/// What is wrong with a schedule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub reason: String,
    pub remedy: String,
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

/// Whether a text is a schedule.
pub(super) fn check(schedule: &str) -> Result<(), Mistake> {
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        return Err(Mistake {
            reason: format!("`{schedule}` has {} fields; a schedule has 5", parts.len()),
            remedy: "write minute, hour, day of month, month and day of week: \"0 3 * * *\" is every night at three"
                .to_owned(),
        });
    }
    for (part, field) in parts.iter().zip(&FIELDS) {
        for item in part.split(',') {
            if !item_fits(item, field) {
                return Err(Mistake {
                    reason: format!("`{part}` is no {}", field.name),
                    remedy: format!(
                        "write *, a number from {} to {}, a range a-b, a step */n, or several with commas",
                        field.range.start(),
                        field.range.end()
                    ),
                });
            }
        }
    }
    Ok(())
}

fn item_fits(item: &str, field: &Field) -> bool {
    let (span, step) = match item.split_once('/') {
        Some((span, step)) => (span, Some(step)),
        None => (item, None),
    };
    if step.is_some_and(|step| !matches!(step.parse::<u32>(), Ok(step) if step >= 1 && step <= *field.range.end())) {
        return false;
    }
    match span.split_once('-') {
        _ if span == "*" => true,
        Some((from, to)) => match (number(from, field), number(to, field)) {
            (Some(from), Some(to)) => from <= to,
            _ => false,
        },
        None => number(span, field).is_some(),
    }
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
            assert_eq!(check(good), Ok(()), "{good}");
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
            assert_eq!(check(bad).unwrap_err().reason, reason);
        }
    }
}
