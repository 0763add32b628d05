//! The text of an API key: `hck_<id>_<secret>`. Pure: randomness is the caller's.

use crate::KeyId;

/// Characters of a secret: 43 of 62 are 256 bits.
pub const SECRET_CHARS: usize = 43;

/// What every key begins with.
pub const PREFIX: &str = "hck_";

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new key's text, each character of its secret equally likely.
///
/// # Errors
/// What `random` says.
pub fn text<E>(id: &KeyId, mut random: impl FnMut() -> Result<[u8; 64], E>) -> Result<String, E> {
    let mut text = format!("{PREFIX}{id}_");
    let mut left = SECRET_CHARS;
    while left > 0 {
        // 248 is the largest multiple of 62 in a byte; above it the first letters would gain.
        let even = random()?.into_iter().filter(|byte| *byte < 248);
        let chars = even.filter_map(|byte| BASE62.get(usize::from(byte % 62)).copied());
        let before = text.len();
        text.extend(chars.map(char::from).take(left));
        left -= text.len() - before;
    }
    Ok(text)
}

/// The public half of a key's text; `None` when it is none.
#[must_use]
pub fn id_of(text: &str) -> Option<KeyId> {
    text.strip_prefix(PREFIX)?.split_once('_')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn a_secret_is_43_of_base_62_and_no_byte_above_247_counts() {
        let id = KeyId::new(0, [0; 10]);
        let mut next = 0_u8;
        let counting = || {
            let mut bytes = [0_u8; 64];
            bytes.fill_with(|| {
                next = next.wrapping_add(1);
                next
            });
            Ok::<_, Infallible>(bytes)
        };
        let Ok(made) = text(&id, counting);
        let secret = made.strip_prefix(&format!("hck_{id}_")).unwrap();
        assert_eq!(secret, "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefgh");
        assert_eq!(id_of(&made), Some(id.clone()));
        // 255 alone never ends a key: what follows it does.
        let mut rounds = 0_u8;
        let Ok(made) = text(&id, || {
            rounds += 1;
            Ok::<_, Infallible>(if rounds == 1 { [255; 64] } else { [61; 64] })
        });
        assert!(made.ends_with(&"z".repeat(SECRET_CHARS)) && rounds == 2);
        assert_eq!(id_of("hck_x_y"), None);
    }
}
