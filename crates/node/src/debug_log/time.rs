//! Times as Bitcoin Core prints them: `2026-11-22T20:44:31.482544Z` (util/time.cpp `FormatISO8601DateTime`).

/// Length of a time without a fraction, bytes.
const SECONDS_LENGTH: usize = "2026-11-22T20:44:31Z".len();

/// The time that a text begins with, in us since the UNIX epoch, and what follows. Fractions have up to six digits.
pub(super) fn parse(text: &str) -> Option<(u64, &str)> {
    let bytes = text.as_bytes();
    if bytes.len() < SECONDS_LENGTH
        || [bytes[4], bytes[7], bytes[10], bytes[13], bytes[16]] != [b'-', b'-', b'T', b':', b':']
    {
        return None;
    }
    let year = digits(&bytes[0..4])?;
    let month = digits(&bytes[5..7])?;
    let day = digits(&bytes[8..10])?;
    let hour = digits(&bytes[11..13])?;
    let minute = digits(&bytes[14..16])?;
    let second = digits(&bytes[17..19])?;
    if year < 1970 || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let (micros, length) = fraction(&bytes[19..])?;
    let seconds = ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some((seconds * 1_000_000 + micros, &text[19 + length..]))
}

/// A fraction and the `Z` behind it: us, and its length.
fn fraction(bytes: &[u8]) -> Option<(u64, usize)> {
    if bytes[0] == b'Z' {
        return Some((0, 1));
    }
    let behind = bytes.strip_prefix(b".")?;
    let count = behind.iter().take(7).take_while(|b| b.is_ascii_digit()).count();
    if count == 0 || count > 6 || behind.get(count) != Some(&b'Z') {
        return None;
    }
    let scale = 10_u64.pow(6 - count as u32);
    Some((digits(&behind[..count])? * scale, count + 2))
}

fn digits(bytes: &[u8]) -> Option<u64> {
    bytes.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, in the Gregorian calendar.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let passed_leap_day = u64::from(month > 2 && is_leap(year));
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
        + BEFORE_MONTH[month as usize - 1]
        + passed_leap_day
        + day
        - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_up_to_six_digits_of_a_fraction_are_read() {
        // Seconds from `date -u -d ... +%s`.
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000001Z", 1),
            ("2000-02-29T12:30:15Z", 951_827_415_000_000),
            ("2000-03-01T00:00:00Z", 951_868_800_000_000),
            ("2025-10-02T02:31:14Z", 1_759_372_274_000_000),
            ("2025-10-02T02:31:14.5Z", 1_759_372_274_500_000),
            ("2025-10-02T02:31:14.12Z", 1_759_372_274_120_000),
            ("2025-10-02T02:31:14.123Z", 1_759_372_274_123_000),
            ("2025-10-02T02:31:14.1234Z", 1_759_372_274_123_400),
            ("2025-10-02T02:31:14.12345Z", 1_759_372_274_123_450),
            ("2025-10-02T02:31:14.123456Z", 1_759_372_274_123_456),
            ("2024-12-31T23:59:59Z", 1_735_689_599_000_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000_000),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ];
        for (text, us) in cases {
            assert_eq!(parse(text), Some((us, "")), "{text}");
            assert_eq!(parse(&format!("{text} and more")), Some((us, " and more")), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        let cases = [
            "",
            "2025-10-02T02:31:14",
            "2025-10-02 02:31:14Z",
            "2025-13-02T02:31:14Z",
            "2025-00-02T02:31:14Z",
            "2025-02-29T02:31:14Z",
            "2100-02-29T02:31:14Z",
            "2025-10-32T02:31:14Z",
            "2025-10-00T02:31:14Z",
            "2025-10-02T24:31:14Z",
            "2025-10-02T02:60:14Z",
            "2025-10-02T02:31:60Z",
            "2025-10-02T02:31:14.Z",
            "2025-10-02T02:31:14.1234567Z",
            "2025-10-02T02:31:14.12",
            "1969-12-31T23:59:59Z",
            "+025-10-02T02:31:14Z",
            "202\u{fffd}-10-02T02:31:14Z",
        ];
        for text in cases {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
