//! Time as a value. The clock lives in the services; here it is always an argument.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// This instant plus `ms`, saturating.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this instant; 0 when `earlier` is later.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in UTC with milliseconds, as `2026-11-21T20:15:00.123Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let (year, month, day) = civil_from_days(self.0 / 86_400_000);
        let ms = self.0 % 86_400_000;
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
    }

    /// The instant that an RFC 3339 text names, leap seconds and years before 1970 left out; a bare
    /// date is its first moment in UTC.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (day, rest) = (day_ms(text.get(..10)?)?, text.get(10..)?);
        if rest.is_empty() {
            return Some(Self(day));
        }
        let rest = rest.strip_prefix(['T', 't', ' '])?;
        let (clock, rest) = (rest.get(..8)?, rest.get(8..)?);
        let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (fraction, zone) = match rest.strip_prefix('.') {
            None => (0, rest),
            Some(rest) => {
                let end = rest.find(|c: char| !c.is_ascii_digit())?;
                let (digits, zone) = rest.split_at_checked(end)?;
                let padded = format!("{digits}000");
                (padded.get(..3).filter(|_| !digits.is_empty())?.parse().ok()?, zone)
            }
        };
        let at = day + hour * 3_600_000 + minute * 60_000 + second * 1000 + fraction;
        if matches!(zone, "Z" | "z") {
            return Some(Self(at));
        }
        let [hours, minutes] = numbers(zone.get(1..)?, ':', [2, 2])?;
        let ahead = (hours * 60 + minutes) * 60_000;
        match zone.get(..1)? {
            _ if hours > 23 || minutes > 59 => None,
            "+" => at.checked_sub(ahead).map(Self),
            "-" => Some(Self(at + ahead)),
            _ => None,
        }
    }

    /// `YYYYMMDD-HHMMSS` in UTC: the prefix that the server puts before an upload's name.
    #[must_use]
    pub fn compact(self) -> String {
        let text = self.rfc3339();
        let digits: String = text.chars().filter(char::is_ascii_digit).take(14).collect();
        let (day, time) = digits.split_at(8);
        format!("{day}-{time}")
    }

    /// `YYYYMMDDTHHMMSSZ` in UTC: the form of `X-Amz-Date` (AWS SigV4).
    #[must_use]
    pub fn amz(self) -> String {
        format!("{}Z", self.compact().replace('-', "T"))
    }
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// Year, month and day of a day count since 1970-01-01 in the proleptic Gregorian calendar.
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Whole numbers of exactly so many digits, between separators.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[u64; N]> {
    let parts: Vec<&str> = text.split(between).collect();
    let fits = |(part, digits): (&&str, &usize)| {
        part.len() == *digits && part.bytes().all(|b| b.is_ascii_digit())
    };
    if parts.len() != N || !parts.iter().zip(&digits).all(fits) {
        return None;
    }
    let numbers: Option<Vec<u64>> = parts.iter().map(|part| part.parse().ok()).collect();
    numbers?.try_into().ok()
}

/// The first moment of `YYYY-MM-DD` from 1970 on. A date that is none does not come out of
/// [`civil_from_days`] again.
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn day_ms(text: &str) -> Option<u64> {
    let [year, month, day] = numbers(text, '-', [4, 2, 2])?;
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted_year = year - u64::from(month <= 2);
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    (civil_from_days(days) == (year, month, day)).then_some(days * 86_400_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_what_rfc_3339_allows() {
        for ms in [0, 951_782_400_000, 1_709_251_199_999, 1_779_460_245_120, 4_102_444_800_000] {
            assert_eq!(UnixMs::parse(&UnixMs(ms).rfc3339()), Some(UnixMs(ms)));
        }
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(UnixMs::parse(text), expect.map(UnixMs), "{text}");
        };
        check("2026-05-22", Some(1_779_408_000_000));
        check("2026-05-22T14:30:45Z", Some(1_779_460_245_000));
        check("2026-05-22 14:30:45.1z", Some(1_779_460_245_100));
        check("2026-05-22T14:30:45.123456Z", Some(1_779_460_245_123));
        check("2026-05-22T16:30:45+02:00", Some(1_779_460_245_000));
        check("2026-05-22T09:00:45-05:30", Some(1_779_460_245_000));
        for bad in [
            "",
            "now",
            "2026-5-22",
            "2026-02-30",
            "2026-13-01",
            "1969-12-31",
            "2026-05-22T",
            "2026-05-22T24:00:00Z",
            "2026-05-22T14:30:60Z",
            "2026-05-22T14:30:45",
            "2026-05-22T14:30:45.Z",
            "2026-05-22T14:30:45+2:00",
            "2026-05-22T14:30:45+24:00",
            "1970-01-01T00:00:00+01:00",
            "2026-05-22T14:30:45Zx",
            "\u{660}026-05-22",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn formats_known_instants() {
        let check = |ms, expect: &str| assert_eq!(UnixMs(ms).rfc3339(), expect);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(1_709_251_199_999, "2024-02-29T23:59:59.999Z");
        check(1_779_460_245_120, "2026-05-22T14:30:45.120Z");
        assert_eq!(UnixMs(1_779_460_245_120).compact(), "20260522-143045");
        assert_eq!(UnixMs(1_779_460_245_120).amz(), "20260522T143045Z");
    }
}
