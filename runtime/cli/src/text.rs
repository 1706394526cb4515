//! Numbers, times and tables for people.

use chrono::{DateTime, Utc};
use weir_api::view::CheckpointUnderWay;

/// `1.2 MiB`
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// What a line says of a checkpoint whose barriers overtook records; nothing of another.
pub(crate) fn unaligned(is_unaligned: bool, in_flight_bytes: u64) -> String {
    if is_unaligned { format!(", unaligned with {} in flight", bytes(in_flight_bytes)) } else { String::new() }
}

/// What a line says of a checkpoint under way whose barriers overtake records, or will.
pub(crate) fn turning_unaligned(under_way: &CheckpointUnderWay) -> String {
    match under_way.turns_unaligned_at_ms {
        _ if under_way.is_unaligned => ", unaligned".to_owned(),
        Some(at_ms) => format!(", unaligned from {} UTC on", time_of_ms(at_ms)),
        None => String::new(),
    }
}

/// `336,776`
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1.4 M/s`
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 1e6 => format!("{:.1} M/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} k/s", rate / 1e3),
        rate => format!("{rate:.0} /s"),
    }
}

/// `84 ms`, `2.3 s`
pub(crate) fn duration(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1000.0) }
}

/// `3d 4h`, `12m 5s`, `8s`
pub(crate) fn long_duration(ms: u64) -> String {
    let (days, hours, minutes, seconds) = (ms / 86_400_000, ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Of a share, 0 to 1: `84%`
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// One line of at most so many characters.
pub(crate) fn shortened(text: &str, chars: usize) -> String {
    let line = text.replace('\n', " ");
    if line.chars().count() <= chars {
        return line;
    }
    line.chars().take(chars.saturating_sub(1)).chain(['…']).collect()
}

/// Seconds since the epoch as UTC.
pub(crate) fn time_of_ms(ms: u64) -> String {
    match DateTime::<Utc>::from_timestamp_millis(ms as i64) {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
        None => format!("{ms} ms"),
    }
}

/// An event time; `-` before the first and `end` after the last.
pub(crate) fn event_time(us: i64) -> String {
    match us {
        i64::MIN => "-".to_owned(),
        i64::MAX => "end".to_owned(),
        us => match DateTime::<Utc>::from_timestamp_micros(us) {
            Some(time) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
            None => format!("{us} us"),
        },
    }
}

/// Columns padded to their widest cell, two blanks between.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    let mut out = line(header.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 1023, 1024, 1_258_291].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.2 MiB"]);
        assert_eq!([0, 999, 1000, 336_776, 1_000_000].map(count), ["0", "999", "1,000", "336,776", "1,000,000"]);
        assert_eq!([0.0, 1500.0, 2.34e6].map(rate), ["0 /s", "1.5 k/s", "2.3 M/s"]);
        assert_eq!([84, 2345].map(duration), ["84 ms", "2.3 s"]);
        assert_eq!([8_999, 725_000, 7_260_000, 273_600_000].map(long_duration), ["8s", "12m 5s", "2h 1m", "3d 4h"]);
        assert_eq!([0.0, 0.126, 1.0].map(percent), ["0%", "13%", "100%"]);
        assert_eq!([shortened("a\nb", 3), shortened("abcd", 3)], ["a b", "ab…"]);
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME   N\na      1\nlong\n");
    }
}
