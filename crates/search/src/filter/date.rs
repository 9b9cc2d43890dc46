//! Dates as spans of time.

/// What a date stands for: a year, a month, a day, a minute or a second, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// As it was written.
    pub text: String,
    /// Nanoseconds since 1970 at which it begins.
    pub from: i128,
    /// Nanoseconds since 1970 at which the next one begins.
    pub until: i128,
}

const SECOND: i128 = 1_000_000_000;

impl Span {
    /// Reads `YYYY`, `YYYY-MM`, `YYYY-MM-DD`, with `Thh:mm` or `Thh:mm:ss` behind it (a space may stand for the T, a Z may follow).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (day, time) = match text.split_once(['T', ' ']) {
            Some((day, time)) => (day, Some(time.strip_suffix('Z').unwrap_or(time))),
            None => (text, None),
        };
        let mut parts = day.split('-');
        let year = number(parts.next()?, 4)?;
        let month = parts.next().map(|m| number(m, 2).filter(|m| (1..=12).contains(m)));
        let day = parts.next().map(|d| number(d, 2).filter(|&d| d >= 1));
        if parts.next().is_some() {
            return None;
        }
        let (first, next) = match (month, day) {
            (None, _) => (days(year, 1), days(year + 1, 1)),
            (Some(month), None) => (days(year, month?), month_after(year, month?)),
            (Some(month), Some(day)) => {
                let (first, next) = (days(year, month?), month_after(year, month?));
                let at = first + day? - 1;
                (at < next).then_some((at, at + 1))?
            }
        };
        let (mut from, mut until) = (i128::from(first) * 86_400, i128::from(next) * 86_400);
        if let Some(time) = time {
            day?;
            let mut parts = time.split(':');
            let mut part = |limit| number(parts.next()?, 2).filter(|&p| p < limit);
            let minute = part(24)? * 60 + part(60)?;
            let second = match parts.clone().next() {
                Some(_) => Some(number(parts.next()?, 2).filter(|&s| s < 60)?),
                None => None,
            };
            if parts.next().is_some() {
                return None;
            }
            from += i128::from(minute * 60 + second.unwrap_or(0));
            until = from + if second.is_some() { 1 } else { 60 };
        }
        Some(Self {
            text: text.to_owned(),
            from: from * SECOND,
            until: until * SECOND,
        })
    }
}

/// Exactly so many digits.
fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn month_after(year: i64, month: i64) -> i64 {
    if month == 12 {
        days(year + 1, 1)
    } else {
        days(year, month + 1)
    }
}

/// Days from 1970 to the first of a month in the Gregorian calendar. Counted from March, a leap day is the last of its year.
fn days(year: i64, month: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 306 days from March to the end of December; months from March on have 31, 30, 31, 30, 31 days, and again.
    365 * year + leap_days + (153 * month + 2) / 5 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<(i128, i128)> {
        let span = Span::parse(text)?;
        Some((span.from / SECOND, span.until / SECOND))
    }

    #[test]
    fn spans_are_those_of_the_calendar() {
        // From `date -u -d … +%s`.
        assert_eq!(seconds("1970"), Some((0, 31_536_000)));
        assert_eq!(seconds("2024-02"), Some((1_706_745_600, 1_709_251_200)));
        assert_eq!(seconds("2024-02-29"), Some((1_709_164_800, 1_709_251_200)));
        assert_eq!(seconds("2023-12-31"), Some((1_703_980_800, 1_704_067_200)));
        assert_eq!(seconds("2000-03-01T10:30"), Some((951_906_600, 951_906_660)));
        assert_eq!(seconds("2000-03-01 10:30:59Z"), Some((951_906_659, 951_906_660)));
        assert_eq!(seconds("1969-12-31"), Some((-86_400, 0)));
        assert_eq!(seconds("1900-02-28").map(|s| s.1), seconds("1900-03-01").map(|s| s.0));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "24",
            "20245",
            "2024-5",
            "2024-13",
            "2024-00",
            "2024-02-30",
            "2023-02-29",
            "2024-01-00",
            "2024-01-01-01",
            "2024T10:00",
            "2024-01-01T",
            "2024-01-01T24:00",
            "2024-01-01T10",
            "2024-01-01T10:60",
            "2024-01-01T10:00:60",
            "2024-01-01T10:00:00:00",
            "+024",
            "٢٠٢٤",
        ] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }
}
