//! `strftime_now` for an injected time, in UTC, with the fields chat templates use.

use minijinja::{Error, ErrorKind};

const SECONDS_PER_DAY: u64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
/// Last second of the year 9999: formats have four places for the year.
const MAX_UNIX_SECONDS: u64 = 253_402_300_799;

/// `unix_seconds` in the words of `format`.
pub(super) fn format_utc(unix_seconds: u64, format: &str) -> Result<String, Error> {
    let seconds = unix_seconds.min(MAX_UNIX_SECONDS);
    let days = seconds / SECONDS_PER_DAY;
    let second_of_day = seconds % SECONDS_PER_DAY;
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let Date { year, month, day, day_of_year } = Date::of(days);
    let month_name = MONTHS[month as usize - 1];
    let weekday = WEEKDAYS[(days % 7) as usize];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&format!("{year:04}")),
            Some('y') => out.push_str(&format!("{:02}", year % 100)),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('-') if chars.as_str().starts_with('d') => {
                chars.next();
                out.push_str(&day.to_string());
            }
            Some('j') => out.push_str(&format!("{day_of_year:03}")),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('H') => out.push_str(&format!("{hour:02}")),
            Some('M') => out.push_str(&format!("{minute:02}")),
            Some('S') => out.push_str(&format!("{second:02}")),
            Some('%') => out.push('%'),
            other => {
                let field = other.map(String::from).unwrap_or_default();
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: the field %{field} is not supported"),
                ));
            }
        }
    }
    Ok(out)
}

struct Date {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
}

impl Date {
    /// The date `days` after 1970-01-01, by walking years and months: at most 8 thousand steps.
    fn of(days: u64) -> Date {
        let is_leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let (mut year, mut rest) = (1970, days);
        while rest >= 365 + u64::from(is_leap(year)) {
            rest -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let day_of_year = rest + 1;
        let february = 28 + u64::from(is_leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if rest < length {
                break;
            }
            rest -= length;
            month += 1;
        }
        Date { year, month, day: rest + 1, day_of_year }
    }
}

#[cfg(test)]
mod tests {
    use super::format_utc;

    #[test]
    fn known_times_are_written_as_python_writes_them() {
        // From `datetime.fromtimestamp(t, UTC).strftime(format)`.
        for (seconds, format, expected) in [
            (0, "%A %d %B %Y %H:%M:%S", "Thursday 01 January 1970 00:00:00"),
            (951_782_400, "%d %b %Y", "29 Feb 2000"),
            (1_721_952_000, "%d %b %Y, %a %j", "26 Jul 2024, Fri 208"),
            (1_735_689_599, "%Y-%m-%d %y %-d 100%%", "2024-12-31 24 31 100%"),
            (4_107_542_400, "%Y-%m-%d", "2100-03-01"),
        ] {
            assert_eq!(format_utc(seconds, format).unwrap(), expected);
        }
    }

    #[test]
    fn unknown_fields_are_an_error_and_far_futures_are_not() {
        assert!(format_utc(0, "%Q").is_err());
        assert!(format_utc(0, "%").is_err());
        assert_eq!(format_utc(u64::MAX, "%Y-%m-%d").unwrap(), "9999-12-31");
    }
}
