//! The canonical forms of SigV4: percent-encoding, dates, and the names and values that survive
//! canonicalisation unchanged. Refuses the others. Sources as in `presign.rs`.

use super::PresignError;
use hotcell_schemas::UnixMs;
use std::fmt::Write as _;

/// Longest object key, in bytes: "Creating object key names" in the Amazon S3 user guide.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest query value or header value that we sign, in bytes; a `Content-Type` has far fewer.
pub const VALUE_BYTES_MAX: usize = 512;
/// Seconds at the end of year 9999, after which the date no longer has eight digits.
const UNIX_SECS_MAX: u64 = 253_402_300_799;

/// Whether `/` is data (a query value) or structure (a path).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Slash {
    Keep,
    Encode,
}

/// SigV4 step 1, `UriEncode()`: every byte but RFC 3986 §2.3 unreserved, upper-case hex.
pub(super) fn encode(text: &str, slash: Slash) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let keep = byte.is_ascii_alphanumeric()
            || b"-._~".contains(&byte)
            || (byte == b'/' && slash == Slash::Keep);
        if keep {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    out
}

/// "Bucket naming rules" in the Amazon S3 user guide, without the reserved prefixes.
pub(super) fn check_bucket(bucket: &str) -> Result<(), PresignError> {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let good = (3..=63).contains(&bucket.len())
        && edge(bucket.bytes().next())
        && edge(bucket.bytes().last())
        && !bucket.contains("..")
        && bucket
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if good { Ok(()) } else { Err(PresignError::Bucket) }
}

/// RFC 3986 §5.2.4: clients remove `.` and `..` segments, so such a key would be signed as one
/// resource and requested as another.
pub(super) fn check_key(key: &str) -> Result<(), PresignError> {
    let bad_segment = key.split('/').any(|segment| matches!(segment, "" | "." | ".."));
    if key.len() > KEY_BYTES_MAX || bad_segment || key.chars().any(char::is_control) {
        return Err(PresignError::Key);
    }
    Ok(())
}

/// SigV4 step 1 trims values and folds inner runs of spaces; a value with either is refused rather
/// than signed in one form and sent in another.
pub(super) fn check_header_value(value: &str) -> Result<(), PresignError> {
    let printable = value.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let folded = value.trim() != value || value.contains("  ");
    if value.is_empty() || value.len() > VALUE_BYTES_MAX || !printable || folded {
        return Err(PresignError::Header);
    }
    Ok(())
}

/// A time as SigV4 writes it: `20130524` and `20130524T000000Z`.
pub(super) struct Stamp {
    pub(super) date: String,
    pub(super) date_time: String,
}

impl Stamp {
    pub(super) fn at(unix_secs: u64) -> Result<Self, PresignError> {
        if unix_secs > UNIX_SECS_MAX {
            return Err(PresignError::Time);
        }
        let date_time = UnixMs(unix_secs * 1000).amz();
        Ok(Self { date: date_time.chars().take(8).collect(), date_time })
    }
}

#[cfg(test)]
mod tests {
    use super::Stamp;

    #[test]
    fn dates() {
        let check = |secs, expect: &str| {
            assert_eq!(Stamp::at(secs).expect("in range").date_time, expect);
        };
        check(0, "19700101T000000Z");
        check(951_782_399, "20000228T235959Z");
        check(951_782_400, "20000229T000000Z");
        check(951_868_800, "20000301T000000Z");
        check(1_709_164_800, "20240229T000000Z");
        check(1_735_689_599, "20241231T235959Z");
        check(4_107_542_400, "21000301T000000Z");
        check(253_402_300_799, "99991231T235959Z");
        assert!(Stamp::at(253_402_300_800).is_err());
    }
}
