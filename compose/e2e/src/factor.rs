//! A second factor as an authenticator makes it: RFC 6238 over HMAC-SHA-1, six digits, thirty
//! seconds. By the text of the RFC, with none of hotcell's own code.

use crate::{
    api::{Api, text},
    up::Up,
};
use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use ring::hmac;
use serde_json::json;
use std::fs;

/// Length of a time step, in seconds (RFC 6238 §5.2).
const STEP_SECS: u64 = 30;

/// The code of one time step.
#[must_use]
pub fn code(secret: &[u8], step: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let mac = hmac::sign(&key, &step.to_be_bytes());
    // RFC 4226 §5.3: four bytes from where the last nibble says, without their sign.
    let at = usize::from(mac.as_ref().last().copied().unwrap_or_default() & 0x0f);
    let four = mac.as_ref().iter().skip(at).take(4);
    let number = four.fold(0_u32, |number, byte| (number << 8) | u32::from(*byte)) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

/// The bytes of a base 32 text (RFC 4648 §6).
///
/// # Errors
/// When it is none.
pub fn base32(text: &str) -> Result<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for char in text.trim().trim_end_matches('=').bytes() {
        let value = match char {
            b'A'..=b'Z' => char - b'A',
            b'2'..=b'7' => char - b'2' + 26,
            _ => bail!("not base 32"),
        };
        (held, bits) = ((held << 5) | u32::from(value), bits + 5);
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff)?);
        }
    }
    Ok(bytes)
}

impl Api {
    /// The same tenant with a token that carries the second factor, whose secret is in base 32. A
    /// code is good once; three in one minute and a half is what there is.
    ///
    /// # Errors
    /// When no code is taken.
    pub async fn stepped_up(&self, secret: &str) -> Result<Self> {
        let secret = base32(secret)?;
        let now = hotcell_stage::clock::now().secs() / STEP_SECS;
        let mut said = None;
        for step in now.saturating_sub(1)..=now + 1 {
            let body = json!({ "totp": code(&secret, step) });
            let (status, answer) = self.call(Method::POST, "/v1/token", Some(&body)).await?;
            if status == 200 {
                let token = answer.get("result").context("a token")?;
                return Ok(Self { key: text(token, "accessToken")?, ..self.clone() });
            }
            said = Some((status, answer));
        }
        bail!("no one-time code is taken: {said:?}")
    }
}

impl Up {
    /// Secret of the second factor of the tenant that `hotcell up` made, in base 32.
    ///
    /// # Errors
    /// When there is none.
    pub fn totp(&self) -> Result<String> {
        let secrets = fs::read_dir(self.dir().join("secrets"))?;
        let found = secrets.flatten().map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("totp-"))
        });
        Ok(fs::read_to_string(found.context("a secret of a second factor")?)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_codes_are_those_of_rfc_6238() {
        // Appendix B, its last six digits.
        let secret = b"12345678901234567890";
        for (secs, expect) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_234_567_890, "005924"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code(secret, secs / STEP_SECS), expect);
        }
        assert_eq!(base32("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").unwrap(), secret);
        base32("gez").unwrap_err();
    }
}
