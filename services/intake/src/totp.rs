//! One-time codes by time (RFC 6238 over RFC 4226), as common authenticators make them: SHA-1, six
//! digits, 30 seconds. SHA-1 is no weakness here: HMAC needs no resistance to collisions.
//!
//! Promises: a code is good once, and for its own step, the one before and the one after; nothing
//! here reads a clock. Refuses: a step that is not after the last one that was used; a guess once
//! [`Guesses`] has no room for it.

use crate::credential::same;
use hotcell_schemas::{KeyId, TenantId, UnixMs, records::TotpRecord};
use hotcell_stage::vault::Vault;
use ring::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use serde::{Deserialize, Serialize};

/// Life of a code, in seconds (RFC 6238 §5.2 recommends it).
pub const STEP_SECS: u64 = 30;

/// Steps before and after the present one that are accepted: clocks, and a person's typing.
pub const DRIFT_STEPS: u64 = 1;

/// Bytes of a secret: the length of the hash's output (RFC 4226 §4, R6).
pub const SECRET_BYTES: usize = 20;

/// Wrong codes within [`WINDOW_SECS`] after which none is looked at.
pub const WRONG_MAX: usize = 5;

/// That window, in seconds.
pub const WINDOW_SECS: u64 = 300;

/// Wrong codes without a good one in between after which only a new enrolment helps: at three good
/// codes of a million, 50 guesses find one with a chance of 1 in 6,667. NIST SP 800-63B §5.2.2
/// allows 100.
pub const WRONG_IN_A_ROW_MAX: u32 = 50;

const DIGITS: usize = 6;

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The step that `now` is in.
#[must_use]
pub fn step_of(now: UnixMs) -> u64 {
    now.0 / 1000 / STEP_SECS
}

/// The code of one step.
#[must_use]
pub fn code(secret: &[u8], step: u64) -> String {
    format!("{:0DIGITS$}", hotp(secret, step) % 1_000_000)
}

/// The number of RFC 4226 §5.3 before it is cut to its digits.
fn hotp(secret: &[u8], counter: u64) -> u32 {
    let key = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let hash = sign(&key, &counter.to_be_bytes());
    let offset = hash.as_ref().last().map_or(0, |last| usize::from(last & 0x0f));
    let bytes = hash.as_ref().get(offset..).and_then(|rest| rest.first_chunk::<4>());
    let bytes = bytes.expect("the offset is at most 15 and SHA-1 has 20 bytes");
    u32::from_be_bytes(*bytes) & 0x7fff_ffff
}

/// What a code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// That of this step, which must be recorded as used.
    Good(u64),
    /// That of a step that was used already, or of one before it.
    Used,
    /// None that could be shown now.
    Wrong,
}

/// What `text` is at `now`, when `last_step` was the last that was used. Every candidate is
/// compared, and each in constant time.
#[must_use]
pub fn check(secret: &[u8], text: &str, now: UnixMs, last_step: u64) -> Shown {
    let present = step_of(now);
    let steps = present.saturating_sub(DRIFT_STEPS)..=present.saturating_add(DRIFT_STEPS);
    let mut shown = Shown::Wrong;
    for step in steps {
        if same(code(secret, step).as_bytes(), text.as_bytes()) {
            shown = if step > last_step { Shown::Good(step) } else { Shown::Used };
        }
    }
    shown
}

/// Wrong codes of one key; bucket `keys`, key `guesses.<key id>`: one count for all replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guesses {
    /// When each recent one was made.
    pub recent: Vec<UnixMs>,
    /// Those since the last good one.
    pub in_a_row: u32,
}

/// Why no code is looked at now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// For this many seconds.
    For(u64),
    /// Until a new enrolment.
    ForGood,
}

impl Guesses {
    /// The same with one more guess at `now`. It is written before the code is looked at, so that
    /// guesses at the same moment, on any replica, count.
    ///
    /// # Errors
    /// [`Closed`] when there is no room for it.
    pub fn with(&self, now: UnixMs) -> Result<Self, Closed> {
        if self.in_a_row >= WRONG_IN_A_ROW_MAX {
            return Err(Closed::ForGood);
        }
        let ends = |at: &UnixMs| at.0.saturating_add(WINDOW_SECS * 1000);
        let mut recent: Vec<_> =
            self.recent.iter().filter(|at| ends(at) > now.0).copied().collect();
        if recent.len() >= WRONG_MAX {
            let first = recent.iter().map(ends).min().unwrap_or(now.0);
            return Err(Closed::For(first.saturating_sub(now.0).div_ceil(1000)));
        }
        recent.push(now);
        Ok(Self { recent, in_a_row: self.in_a_row + 1 })
    }

    /// The same without the guess at `at`: it was a code that had been used, which is no guess.
    #[must_use]
    pub fn without(&self, at: UnixMs) -> Self {
        let mut recent = self.recent.clone();
        if let Some(index) = recent.iter().rposition(|found| *found == at) {
            recent.remove(index);
        }
        Self { recent, in_a_row: self.in_a_row.saturating_sub(1) }
    }
}

/// A secret as people type it: base 32 without padding (RFC 4648 §6).
#[must_use]
pub fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for chunk in bytes.chunks(5) {
        let bits = chunk.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let bits = bits << (8 * (5 - chunk.len()));
        let chars = (chunk.len() * 8).div_ceil(5);
        text.extend((0..chars).filter_map(|index| {
            let value = usize::try_from(bits >> (35 - 5 * index) & 31).ok()?;
            BASE32.get(value).copied().map(char::from)
        }));
    }
    text
}

/// The bytes of a secret as people type it; spaces, padding and case do not matter. `None` for any
/// other character.
#[must_use]
pub fn from_base32(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for c in text.bytes().filter(|c| !matches!(c, b' ' | b'=' | b'-')) {
        let value = BASE32.iter().position(|known| *known == c.to_ascii_uppercase())?;
        bits = bits << 5 | u32::try_from(value).ok()?;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

/// The owner of a sealed secret: the record that it stands in.
#[must_use]
pub fn owner(tenant: &TenantId, key: &KeyId) -> String {
    // Neither holds a dot, so the text has one reading.
    format!("hotcell/totp-secret/v1.{tenant}.{key}")
}

/// A second factor of the key `id`, enrolled at `at`; whoever enrols it says whether its owner has
/// shown a code.
#[must_use]
pub fn enrolled(
    vault: &Vault,
    secret: &[u8],
    (tenant, id): (&TenantId, &KeyId),
    nonce: [u8; 12],
    (at, confirmed): (UnixMs, bool),
) -> TotpRecord {
    let sealed = vault.seal(secret, &owner(tenant, id), nonce);
    TotpRecord { sealed, last_step: 0, enrolled_at: at, confirmed }
}

/// What an authenticator reads from a QR code (the Key Uri Format of Google Authenticator).
/// Tenants and key ids need no escape.
#[must_use]
pub fn uri(secret: &[u8], tenant: &TenantId, key: &KeyId) -> String {
    format!(
        "otpauth://totp/hotcell:{tenant}%2F{key}?secret={}&issuer=hotcell&algorithm=SHA1&digits={DIGITS}\
         &period={STEP_SECS}",
        base32(secret)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"12345678901234567890";

    fn at(secs: u64) -> UnixMs {
        UnixMs(secs * 1000)
    }

    /// RFC 6238 appendix B, its SHA-1 rows, eight digits; ours are the last six of them.
    #[test]
    fn step_09_the_vectors_of_rfc_6238() {
        for (secs, expect) in [
            (59, 94_287_082),
            (1_111_111_109, 7_081_804),
            (1_111_111_111, 14_050_471),
            (1_234_567_890, 89_005_924),
            (2_000_000_000, 69_279_037),
            (20_000_000_000, 65_353_130),
        ] {
            assert_eq!(hotp(SECRET, step_of(at(secs))) % 100_000_000, expect, "{secs}");
            let digits = format!("{:06}", expect % 1_000_000);
            assert_eq!(code(SECRET, step_of(at(secs))), digits);
        }
    }

    /// RFC 4226 appendix D.
    #[test]
    fn step_09_the_vectors_of_rfc_4226() {
        let expect = ["755224", "287082", "359152", "969429", "338314", "254676", "287922"];
        for (counter, expect) in (0..).zip(expect) {
            assert_eq!(code(SECRET, counter), expect);
        }
    }

    #[test]
    fn step_09_a_code_is_good_once_and_for_three_steps() {
        let now = at(10_000 * STEP_SECS + 5);
        let shown = |step, last| check(SECRET, &code(SECRET, step), now, last);
        assert_eq!(shown(9_998, 0), Shown::Wrong);
        assert_eq!(shown(9_999, 0), Shown::Good(9_999));
        assert_eq!(shown(10_000, 9_999), Shown::Good(10_000));
        assert_eq!(shown(10_001, 10_000), Shown::Good(10_001));
        assert_eq!(shown(10_002, 0), Shown::Wrong);
        assert_eq!(shown(10_000, 10_000), Shown::Used);
        assert_eq!(shown(10_000, 10_001), Shown::Used);
        for bad in ["", "1", "abcdef", "０１２３４５", &format!("{} ", code(SECRET, 10_000))]
        {
            assert_eq!(check(SECRET, bad, now, 0), Shown::Wrong, "{bad}");
        }
        assert_eq!(check(b"another secret of 20", &code(SECRET, 10_000), now, 0), Shown::Wrong);
    }

    #[test]
    fn step_09_guessing_is_closed_after_five_and_for_good_after_fifty() {
        let (mut guesses, start) = (Guesses::default(), 1_000_000);
        for n in 0..5 {
            guesses = guesses.with(at(start + n)).unwrap();
        }
        assert_eq!(guesses.with(at(start + 5)), Err(Closed::For(295)));
        assert_eq!(guesses.with(at(start + 299)), Err(Closed::For(1)));
        let later = guesses.with(at(start + 300)).unwrap();
        assert_eq!(later.with(at(start + 300)), Err(Closed::For(1)));
        assert_eq!(later.without(at(start + 300)).recent.len(), 4);
        assert_eq!(later.without(at(start + 300)).in_a_row, 5);
        let mut guesses = Guesses::default();
        for n in 0..50 {
            guesses = guesses.with(at(start + n * 100)).unwrap();
        }
        assert_eq!(guesses.with(at(start + 1_000_000)), Err(Closed::ForGood));
    }

    /// RFC 4648 §10, without padding.
    #[test]
    fn secrets_are_written_in_base_32() {
        for (bytes, text) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes.as_bytes()), text);
            assert_eq!(from_base32(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(from_base32("mzxw 6ytb-oi======").as_deref(), Some(b"foobar".as_slice()));
        for bad in ["0", "1", "MZXW6!", "é"] {
            assert_eq!(from_base32(bad), None, "{bad}");
        }
        let (tenant, key) = ("acme".parse().unwrap(), KeyId::new(0, [0; 10]));
        let text = uri(SECRET, &tenant, &key);
        assert!(text.contains("secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=hotcell"), "{text}");
        assert!(url::Url::parse(&text).is_ok());
    }
}
