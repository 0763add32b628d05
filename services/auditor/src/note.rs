//! Signed notes and their keys (C2SP signed-note, Ed25519, type 0x01). Pure.
//!
//! Promises: a note is accepted when a known key signed it and no known key's signature on it is
//! bad. Refuses: other algorithms, control characters, base64 with spare bits.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

/// Signature type of Ed25519 over the note's text.
const TYPE_ED25519: u8 = 0x01;
/// A note with sixteen post-quantum signatures of 5 kB, which verifiers must accept, is 107 kB.
pub const NOTE_BYTES_MAX: usize = 128 * 1024;
/// Twice the sixteen signatures that every verifier must accept.
pub const SIGNATURES_MAX: usize = 32;
/// A name is a schema-less URL; longer ones are mistakes.
pub const KEY_NAME_BYTES_MAX: usize = 256;

/// Why a key's text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Empty, too long, or with a space, a plus sign or a control character.
    #[error("the key name is not allowed in a signed note")]
    Name,
    /// Not `name+hash+base64`.
    #[error("the key is not of the form name+hash+base64")]
    Form,
    /// Not an Ed25519 key.
    #[error("the key is of another type than Ed25519")]
    Algorithm,
    /// The hash in the text is not the key's.
    #[error("the key's hash does not match its name and bytes")]
    Hash,
}

/// Why a note was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Too large, no blank line, a control character, or a line that is not a signature.
    #[error("the text is not a signed note")]
    Form,
    /// No known key signed it.
    #[error("no trusted key signed the note")]
    Unsigned,
    /// A known key's signature does not verify.
    #[error("a trusted key's signature on the note is wrong")]
    Signature,
}

/// A public key with a name; its text form is `name+hash+base64`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    public: [u8; 32],
}

impl VerifierKey {
    /// Names 32 bytes of public key.
    ///
    /// # Errors
    /// `Name`.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, KeyError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.len() > KEY_NAME_BYTES_MAX || name.contains(bad) {
            return Err(KeyError::Name);
        }
        let mut hasher = Sha256::new();
        hasher.update(name.as_bytes());
        hasher.update([b'\n', TYPE_ED25519]);
        hasher.update(public);
        let hash: [u8; 32] = hasher.finalize().into();
        let [a, b, c, d, ..] = hash;
        Ok(Self { name: name.to_owned(), id: u32::from_be_bytes([a, b, c, d]), public })
    }

    /// Reads `name+hash+base64`.
    ///
    /// # Errors
    /// Any `KeyError`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(hash), Some(data)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(KeyError::Form);
        };
        let key = Self::new(name, decode_key(data)?)?;
        if hash == format!("{:08x}", key.id) { Ok(key) } else { Err(KeyError::Hash) }
    }

    /// The key's name, which is the log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut data = vec![TYPE_ED25519];
        data.extend_from_slice(&self.public);
        write!(f, "{}+{:08x}+{}", self.name, self.id, STANDARD.encode(data))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Base64 of the type byte and 32 bytes.
fn decode_key(data: &str) -> Result<[u8; 32], KeyError> {
    let bytes = STANDARD.decode(data).map_err(|_| KeyError::Form)?;
    match bytes.split_first() {
        Some((&TYPE_ED25519, key)) => key.try_into().map_err(|_| KeyError::Form),
        Some(_) => Err(KeyError::Algorithm),
        None => Err(KeyError::Form),
    }
}

/// A private key with a name. Prints `[redacted]`.
pub struct Signer {
    verifier: VerifierKey,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// The key made from 32 random bytes.
    ///
    /// # Errors
    /// `Name`; `Form` if the seed is refused.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Form)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Form)?;
        Ok(Self { verifier: VerifierKey::new(name, public)?, pair })
    }

    /// Reads `PRIVATE+KEY+name+hash+base64`, the usual file form of a note key.
    ///
    /// # Errors
    /// Any `KeyError`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix("PRIVATE+KEY+").ok_or(KeyError::Form)?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(hash), Some(data)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(KeyError::Form);
        };
        let signer = Self::from_seed(name, &decode_key(data)?)?;
        let same = hash == format!("{:08x}", signer.verifier.id);
        if same { Ok(signer) } else { Err(KeyError::Hash) }
    }

    /// The private key file of a seed: `PRIVATE+KEY+name+hash+base64`.
    ///
    /// # Errors
    /// As `from_seed`.
    pub fn key_file(name: &str, seed: &[u8; 32]) -> Result<String, KeyError> {
        let signer = Self::from_seed(name, seed)?;
        let mut data = vec![TYPE_ED25519];
        data.extend_from_slice(seed);
        Ok(format!("PRIVATE+KEY+{name}+{:08x}+{}", signer.verifier.id, STANDARD.encode(data)))
    }

    /// The public half.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The note of a text: text, blank line, one signature line.
    ///
    /// # Errors
    /// `Form` if the text does not end in a newline or holds a control character.
    pub fn sign(&self, text: &str) -> Result<String, NoteError> {
        if !text.ends_with('\n') || !clean(text) {
            return Err(NoteError::Form);
        }
        let mut data = self.verifier.id.to_be_bytes().to_vec();
        data.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        Ok(format!("{text}\n\u{2014} {} {}\n", self.verifier.name, STANDARD.encode(data)))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, [redacted])", self.verifier)
    }
}

fn clean(text: &str) -> bool {
    text.chars().all(|c| c >= ' ' || c == '\n')
}

/// A note taken apart; nothing in it is trusted before `verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    text: &'a str,
    signatures: Vec<(&'a str, u32, Vec<u8>)>,
}

impl<'a> Note<'a> {
    /// Takes a note apart.
    ///
    /// # Errors
    /// `Form`.
    pub fn parse(note: &'a [u8]) -> Result<Self, NoteError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Form);
        }
        let note = std::str::from_utf8(note).map_err(|_| NoteError::Form)?;
        let blank = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, rest) = note.split_at_checked(blank + 1).ok_or(NoteError::Form)?;
        let lines = rest.strip_prefix('\n').and_then(|r| r.strip_suffix('\n'));
        let mut signatures = Vec::new();
        for line in lines.ok_or(NoteError::Form)?.split('\n') {
            signatures.push(parse_signature(line).ok_or(NoteError::Form)?);
            if signatures.len() > SIGNATURES_MAX {
                return Err(NoteError::Form);
            }
        }
        if clean(note) { Ok(Self { text, signatures }) } else { Err(NoteError::Form) }
    }

    /// The text, once a key of `keys` is known to have signed it.
    ///
    /// # Errors
    /// `Unsigned` or `Signature`.
    pub fn verify(&self, keys: &[VerifierKey]) -> Result<&'a str, NoteError> {
        let mut signed = false;
        for (name, id, signature) in &self.signatures {
            for key in keys.iter().filter(|key| key.name == *name && key.id == *id) {
                UnparsedPublicKey::new(&ED25519, key.public)
                    .verify(self.text.as_bytes(), signature)
                    .map_err(|_| NoteError::Signature)?;
                signed = true;
            }
        }
        if signed { Ok(self.text) } else { Err(NoteError::Unsigned) }
    }
}

fn parse_signature(line: &str) -> Option<(&str, u32, Vec<u8>)> {
    let (name, data) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let data = STANDARD.decode(data).ok()?;
    let (id, signature) = data.split_first_chunk::<4>()?;
    let usable = !name.is_empty() && !signature.is_empty();
    usable.then(|| (name, u32::from_be_bytes(*id), signature.to_vec()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    // The key and note of golang.org/x/mod/sumdb/note's own documentation.
    const VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const SKEY: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg\
        KvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn signs_and_verifies_the_reference_note() {
        let signer = Signer::parse(SKEY).unwrap();
        assert_eq!(signer.verifier().to_string(), VKEY);
        let key = VerifierKey::parse(VKEY).unwrap();
        let note = Note::parse(NOTE.as_bytes()).unwrap();
        let text = note.verify(std::slice::from_ref(&key)).unwrap();
        assert_eq!(signer.sign(text).unwrap(), NOTE);
        assert_eq!(note.verify(&[]), Err(NoteError::Unsigned));
        assert!(format!("{signer:?}").contains("[redacted]"));
    }

    #[test]
    fn no_single_bit_can_change() {
        let key = [VerifierKey::parse(VKEY).unwrap()];
        let accepted = |bytes: &[u8]| Note::parse(bytes).is_ok_and(|n| n.verify(&key).is_ok());
        assert!(accepted(NOTE.as_bytes()));
        for bit in 0..NOTE.len() * 8 {
            let mut bytes = NOTE.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!accepted(&bytes), "bit {bit}");
        }
    }

    #[test]
    fn unknown_signatures_are_ignored_and_bad_known_ones_are_fatal() {
        let key = [VerifierKey::parse(VKEY).unwrap()];
        let other = Signer::from_seed("witness.example", &[7; 32]).unwrap();
        let note = Note::parse(NOTE.as_bytes()).unwrap();
        let cosigned = other.sign(note.text).unwrap();
        let line = cosigned.lines().last().unwrap();
        let both = format!("{NOTE}{line}\n");
        assert!(Note::parse(both.as_bytes()).unwrap().verify(&key).is_ok());
        let swapped = both.replace("problem is", "problem was");
        let refused = Note::parse(swapped.as_bytes()).unwrap().verify(&key);
        assert_eq!(refused, Err(NoteError::Signature));
    }

    #[test]
    fn keys_with_another_hash_name_or_type_are_refused() {
        assert_eq!(VerifierKey::parse(&VKEY.replace("c74", "c75")), Err(KeyError::Hash));
        assert_eq!(VerifierKey::parse(&VKEY.replace("Peter", "Pet r")), Err(KeyError::Name));
        assert_eq!(VerifierKey::parse(&VKEY.replace("+ARpc", "+AhpC")), Err(KeyError::Algorithm));
        assert_eq!(VerifierKey::parse("a+b"), Err(KeyError::Form));
    }
}
