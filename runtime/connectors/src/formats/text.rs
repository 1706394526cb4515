//! Values as text: the same spellings in every text format.

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar.
fn days_of_date(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn date_of_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month as u32, day as u32)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads `count` digits off the front.
fn digits(text: &mut &[u8], count: usize) -> Option<i64> {
    let (front, rest) = text.split_at_checked(count)?;
    let mut value = 0;
    for byte in front {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    *text = rest;
    Some(value)
}

fn literal(text: &mut &[u8], byte: u8) -> Option<()> {
    let (first, rest) = text.split_first()?;
    (*first == byte).then(|| *text = rest)
}

fn date_prefix(text: &mut &[u8]) -> Option<i64> {
    let year = digits(text, 4)?;
    literal(text, b'-')?;
    let month = digits(text, 2)?;
    literal(text, b'-')?;
    let day = digits(text, 2)?;
    let valid = (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
    valid.then(|| days_of_date(year, month, day))
}

/// `HH:MM`, `HH:MM:SS` or `HH:MM:SS.f` with up to nine digits, of which six count.
fn time_prefix_us(text: &mut &[u8]) -> Option<i64> {
    let hour = digits(text, 2)?;
    literal(text, b':')?;
    let minute = digits(text, 2)?;
    let (mut second, mut micros) = (0, 0);
    if literal(text, b':').is_some() {
        second = digits(text, 2)?;
        if literal(text, b'.').or_else(|| literal(text, b',')).is_some() {
            let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&length) {
                return None;
            }
            let kept = length.min(6);
            micros = digits(text, kept)? * 10_i64.pow(6 - kept as u32);
            *text = &text[length - kept..];
        }
    }
    // 60 is a leap second: it counts as the next minute's first.
    (hour < 24 && minute < 60 && second <= 60).then_some((hour * 3600 + minute * 60 + second) * 1_000_000 + micros)
}

/// `YYYY-MM-DD` as days since 1970-01-01.
pub(crate) fn parse_date(mut text: &[u8]) -> Option<i32> {
    let days = date_prefix(&mut text)?;
    text.is_empty().then_some(days as i32)
}

pub(crate) fn parse_time_us(mut text: &[u8]) -> Option<i64> {
    let time = time_prefix_us(&mut text)?;
    text.is_empty().then_some(time)
}

/// ISO 8601 with `T` or a blank between date and time, an optional fraction and an optional `Z` or offset;
/// microseconds since 1970-01-01T00:00:00Z. Without an offset the time is UTC, without a time it is midnight.
pub(crate) fn parse_timestamp_us(mut text: &[u8]) -> Option<i64> {
    let text = &mut text;
    let midnight = date_prefix(text)? * 86_400_000_000;
    let Some((separator, rest)) = text.split_first() else { return Some(midnight) };
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    *text = rest;
    let time = time_prefix_us(text)?;
    if literal(text, b' ').is_some() && text.is_empty() {
        return None;
    }
    let offset_minutes = match text.split_first() {
        None => 0,
        Some((b'Z' | b'z', [])) => 0,
        Some((sign @ (b'+' | b'-'), rest)) => {
            let mut rest = rest;
            let hours = digits(&mut rest, 2)?;
            let _ = literal(&mut rest, b':');
            let minutes = if rest.is_empty() { 0 } else { digits(&mut rest, 2)? };
            if hours > 18 || minutes > 59 || !rest.is_empty() {
                return None;
            }
            let minutes = hours * 60 + minutes;
            if *sign == b'-' { -minutes } else { minutes }
        }
        Some(_) => return None,
    };
    Some(midnight + time - offset_minutes * 60_000_000)
}

/// An optional sign and decimal digits, nothing else.
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    // Counted downwards, because there is one more negative number than there are positive ones.
    let mut value = 0_i64;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// A decimal number, with an exponent or without, at `scale`: further digits round half away from zero.
/// `None` if it isn't one or needs more than `precision` digits.
pub(crate) fn parse_decimal(text: &[u8], precision: u8, scale: i8) -> Option<i128> {
    let (negative, mut rest) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let mut exponent = 0_i64;
    if let Some(at) = rest.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        exponent = parse_integer(&rest[at + 1..])?.clamp(-1_000, 1_000);
        rest = &rest[..at];
    }
    let point = rest.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = point.map_or((rest, &rest[..0]), |at| (&rest[..at], &rest[at + 1..]));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Digits at positions below `kept` count; the one at `kept` decides the rounding.
    let kept = whole.len() as i64 + exponent + i64::from(scale);
    let (mut value, mut round_up) = (0_i128, false);
    for (position, byte) in whole.iter().chain(fraction).enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        match (position as i64).cmp(&kept) {
            std::cmp::Ordering::Less => value = value.checked_mul(10)?.checked_add(i128::from(digit))?,
            std::cmp::Ordering::Equal => round_up = digit >= 5,
            std::cmp::Ordering::Greater => {}
        }
    }
    let missing = kept - (whole.len() + fraction.len()) as i64;
    if missing > 0 && value != 0 {
        value = value.checked_mul(10_i128.checked_pow(u32::try_from(missing).ok()?)?)?;
    }
    value += i128::from(round_up);
    let limit = 10_i128.checked_pow(u32::from(precision))?;
    (value < limit).then_some(if negative { -value } else { value })
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the standard base64 form, padded.
pub(crate) fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let group = u32::from_be_bytes([
            0,
            chunk[0],
            chunk.get(1).copied().unwrap_or_default(),
            chunk.get(2).copied().unwrap_or_default(),
        ]);
        for place in 0..4 {
            let digit = BASE64[(group >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { digit } else { b'=' });
        }
    }
}

/// Standard base64, padded or not.
pub(crate) fn parse_base64(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    for chunk in text.chunks(4) {
        if chunk.len() == 1 {
            return None;
        }
        let mut group = 0_u32;
        for byte in chunk {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            group = group << 6 | u32::from(digit);
        }
        let group = group << (6 * (4 - chunk.len()));
        out.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(())
}

const TWO_DIGITS: &[u8; 200] = b"0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

pub(crate) fn write_integer(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    write_unsigned(value.unsigned_abs(), out);
}

pub(crate) fn write_unsigned(mut value: u64, out: &mut Vec<u8>) {
    let mut text = [0_u8; 20];
    let mut start = text.len();
    while value >= 100 {
        let pair = (value % 100) as usize * 2;
        value /= 100;
        start -= 2;
        text[start..start + 2].copy_from_slice(&TWO_DIGITS[pair..pair + 2]);
    }
    if value >= 10 {
        start -= 2;
        text[start..start + 2].copy_from_slice(&TWO_DIGITS[value as usize * 2..value as usize * 2 + 2]);
    } else {
        start -= 1;
        text[start] = b'0' + value as u8;
    }
    out.extend_from_slice(&text[start..]);
}

pub(crate) fn write_decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let digits = value.unsigned_abs().to_string();
    let scale = scale.max(0) as usize;
    if scale == 0 {
        out.extend_from_slice(digits.as_bytes());
        return;
    }
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
    out.extend_from_slice(if whole.is_empty() { b"0" } else { whole.as_bytes() });
    out.push(b'.');
    out.extend(std::iter::repeat_n(b'0', scale - fraction.len()));
    out.extend_from_slice(fraction.as_bytes());
}

fn write_padded(value: i64, width: u32, out: &mut Vec<u8>) {
    if value >= 10_i64.pow(width) {
        return write_integer(value, out);
    }
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_i64.pow(place) % 10) as u8);
    }
}

fn write_pair(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&TWO_DIGITS[value as usize * 2..value as usize * 2 + 2]);
}

/// `YYYY-MM-DD`.
pub(crate) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = date_of_days(days);
    if year < 0 {
        out.push(b'-');
    }
    write_padded(year.abs(), 4, out);
    out.push(b'-');
    write_pair(i64::from(month), out);
    out.push(b'-');
    write_pair(i64::from(day), out);
}

/// `HH:MM:SS`, with three or six digits of fraction where there is one.
pub(crate) fn write_time_us(time_us: i64, out: &mut Vec<u8>) {
    let (seconds, micros) = (time_us / 1_000_000, time_us % 1_000_000);
    write_pair(seconds / 3600 % 100, out);
    out.push(b':');
    write_pair(seconds / 60 % 60, out);
    out.push(b':');
    write_pair(seconds % 60, out);
    if micros != 0 {
        out.push(b'.');
        if micros % 1_000 == 0 { write_padded(micros / 1_000, 3, out) } else { write_padded(micros, 6, out) }
    }
}

/// `YYYY-MM-DDTHH:MM:SS`, with three or six digits of fraction where there is one; UTC.
pub(crate) fn write_timestamp_us(timestamp_us: i64, out: &mut Vec<u8>) {
    write_date(timestamp_us.div_euclid(86_400_000_000), out);
    out.push(b'T');
    write_time_us(timestamp_us.rem_euclid(86_400_000_000), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn timestamps() {
        let base = 1_357_017_300_000_000; // 2013-01-01T05:15:00Z
        for (text, expected) in [
            ("2013-01-01T05:15:00Z", Some(base)),
            ("2013-01-01 05:15:00", Some(base)),
            ("2013-01-01T05:15", Some(base)),
            ("2013-01-01T05:15:00.5", Some(base + 500_000)),
            ("2013-01-01T05:15:00.123456789Z", Some(base + 123_456)),
            ("2013-01-01T05:15:00+01:00", Some(base - 3_600_000_000)),
            ("2013-01-01T05:15:00 -0130", Some(base + 5_400_000_000)),
            ("2013-01-01T05:15:00+02", Some(base - 7_200_000_000)),
            ("2013-01-01", Some(base - 18_900_000_000)),
            ("1969-12-31T23:59:59.999999", Some(-1)),
            ("2012-02-29", Some(1_330_473_600_000_000)),
            ("2013-02-29", None),
            ("2013-13-01", None),
            ("2013-01-01T24:00:00", None),
            ("2013-01-01T05:15:00.", None),
            ("2013-01-01T05:15:00Zx", None),
            ("2013-01-01T05:15:00 ", None),
            ("2013-01-01X05:15:00", None),
            ("1357017300", None),
            ("", None),
        ] {
            assert_eq!(parse_timestamp_us(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(written(|out| write_timestamp_us(base + 500_000, out)), "2013-01-01T05:15:00.500");
    }

    #[test]
    fn decimals() {
        for (text, expected) in [
            ("1.5", Some(150)),
            ("-1.005", Some(-101)),
            ("1.004", Some(100)),
            ("0.995", Some(100)),
            ("12e-1", Some(120)),
            ("1.2E1", Some(1200)),
            ("999.99", Some(99_999)),
            ("1000", None),
            ("1e30", None),
            ("1e-30", Some(0)),
            (".5", Some(50)),
            (".", None),
            ("1.x", None),
            ("", None),
        ] {
            assert_eq!(parse_decimal(text.as_bytes(), 5, 2), expected, "{text}");
        }
        assert_eq!(written(|out| write_decimal(-5, 2, out)), "-0.05");
        assert_eq!(written(|out| write_decimal(12_345, 2, out)), "123.45");
    }

    proptest! {
        #[test]
        fn there_and_back(
            integer in any::<i64>(),
            timestamp in -62_135_596_800_000_000_i64..253_402_300_800_000_000,
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            decimal in -99_999_999_i64..=99_999_999,
        ) {
            prop_assert_eq!(parse_integer(written(|out| write_integer(integer, out)).as_bytes()), Some(integer));
            prop_assert_eq!(written(|out| write_integer(integer, out)), integer.to_string());
            let text = written(|out| write_timestamp_us(timestamp, out));
            prop_assert_eq!(parse_timestamp_us(text.as_bytes()), Some(timestamp));
            let text = written(|out| write_base64(&bytes, out));
            let mut back = Vec::new();
            prop_assert_eq!(parse_base64(text.as_bytes(), &mut back), Some(()));
            prop_assert_eq!(back, bytes);
            let text = written(|out| write_decimal(i128::from(decimal), 3, out));
            prop_assert_eq!(parse_decimal(text.as_bytes(), 8, 3), Some(i128::from(decimal)));
        }
    }
}
