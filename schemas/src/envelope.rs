//! The signed envelope. Promises: a `Verified<T>` was signed by a key that the trust list gives a
//! role which the route table lets publish on this very subject; nothing of the body is parsed
//! before that is known. Refuses: everything else, with an error that holds no payload.
//!
//! What is signed (Ed25519, RFC 8032): a domain string, then each field as a big-endian `u32`
//! length and its bytes: subject, message id, issue time (8 bytes), SHA-256 of the body.

use crate::{
    Digest, Role, Subject, Trust, UnixMs,
    limits::{BODY_BYTES_MAX, BODY_DEPTH_MAX, MESSAGE_ID_BYTES_MAX},
};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::Cursor;

/// Header of the message id; the broker drops repeats of one id.
pub const HEADER_ID: &str = "Nats-Msg-Id";
/// Header of the issuer's public nkey.
pub const HEADER_KEY: &str = "Hotcell-Key";
/// Header of the signature, base64 without padding.
pub const HEADER_SIG: &str = "Hotcell-Sig";
/// Header of the issue time, Unix milliseconds in decimal.
pub const HEADER_TIME: &str = "Hotcell-Time";

/// Separates these signatures from every other use of the same key.
const DOMAIN_MESSAGE: &[u8] = b"hotcell/message/v1";
/// Replies are another domain: an answer can never be passed off as a message.
const DOMAIN_REPLY: &[u8] = b"hotcell/reply/v1";

/// A message body: MessagePack with named fields, unknown fields refused.
pub trait Message: Serialize + DeserializeOwned {
    /// The type's wire name, as the route table has it; replies have names of their own.
    const TYPE: &'static str;
    /// The version written; a change of the golden file is a new version.
    const VERSION: u16;

    /// Whether the body is about what its subject names. A message of one job, tenant or endpoint
    /// that speaks of another is not believed, whoever signed it.
    fn is_about(&self, _subject: &Subject) -> bool {
        true
    }
}

/// Version 1 of messages that any subject may carry.
macro_rules! messages {
    ($($name:ty = $text:literal;)*) => {$(
        impl $crate::envelope::Message for $name {
            const TYPE: &'static str = $text;
            const VERSION: u16 = 1;
        }
    )*};
}
pub(crate) use messages;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Framed<T> {
    #[serde(rename = "type")]
    kind: String,
    v: u16,
    body: T,
}

/// A signed message, as sent or as received; nothing about it is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Where it was published.
    pub subject: Subject,
    /// Unique per job, event and attempt.
    pub msg_id: String,
    /// When it was signed.
    pub time: UnixMs,
    /// The issuer's public nkey.
    pub key: String,
    /// Ed25519 signature.
    pub sig: Vec<u8>,
    /// The framed body, exactly as signed.
    pub body: Vec<u8>,
}

/// A message that was checked. The only constructors are [`Envelope::open`] and
/// [`Envelope::open_reply`].
#[derive(Debug, Clone)]
pub struct Verified<T> {
    body: T,
    subject: Subject,
    role: Role,
    key: String,
    msg_id: String,
    time: UnixMs,
}

impl<T> Verified<T> {
    /// The body.
    pub fn get(&self) -> &T {
        &self.body
    }
    /// The body, owned.
    pub fn into_inner(self) -> T {
        self.body
    }
    /// The subject that was signed and received on.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }
    /// The role of the signer of this message.
    pub fn role(&self) -> Role {
        self.role
    }
    /// The public nkey of the signer of this message.
    pub fn key(&self) -> &str {
        &self.key
    }
    /// The message id.
    pub fn msg_id(&self) -> &str {
        &self.msg_id
    }
    /// When it was signed.
    pub fn time(&self) -> UnixMs {
        self.time
    }
}

/// Why a message was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The body does not encode.
    #[error("the body does not encode as MessagePack")]
    Encode(#[source] rmp_serde::encode::Error),
    /// The body or the id is over its limit.
    #[error("the message is over its size limit")]
    TooLarge,
    /// The id is empty, or no printable ASCII without spaces: it becomes a header.
    #[error("the message id cannot be a header")]
    Id,
    /// The key has no private half.
    #[error("the key cannot sign")]
    Sign(#[source] nkeys::error::Error),
    /// The row of this subject carries another type.
    #[error("the route of this subject carries {0}")]
    WrongType(&'static str),
}

/// Why a message is not believed. Safe to log: no variant holds payload bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Over [`BODY_BYTES_MAX`] or [`MESSAGE_ID_BYTES_MAX`].
    #[error("the message is over its size limit")]
    TooLarge,
    /// No row of the route table.
    #[error("the subject has no row in the route table")]
    UnknownSubject,
    /// A header is absent or malformed.
    #[error("header {0} is missing or malformed")]
    Header(&'static str),
    /// The key is in no trust list.
    #[error("the signing key is not trusted")]
    UnknownKey,
    /// The key's role has no business on this subject.
    #[error("{0} may not publish on this subject")]
    RoleMayNot(Role),
    /// The signature does not fit subject, id, time and body.
    #[error("the signature does not verify")]
    BadSignature,
    /// The subject's row carries another type, or the body says so.
    #[error("the message type or version is not the expected one")]
    WrongType,
    /// Signed, but not of the declared shape.
    #[error("the body is not of the declared shape")]
    Malformed,
    /// Signed, but about another job, tenant or endpoint than its subject names.
    #[error("the body is not about what its subject names")]
    OtherSubject,
    /// The reply answers another request.
    #[error("the reply answers another request")]
    OtherRequest,
}

fn signed_bytes(
    domain: &[u8],
    subject: &Subject,
    msg_id: &str,
    time: UnixMs,
    body: &[u8],
) -> Vec<u8> {
    let time = time.0.to_be_bytes();
    let hash = Digest::of(body);
    let fields: [&[u8]; 5] =
        [domain, subject.as_str().as_bytes(), msg_id.as_bytes(), &time, hash.as_bytes()];
    let mut out = Vec::with_capacity(256);
    for field in fields {
        let length = u32::try_from(field.len()).expect("fields are bounded by the limits above");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(field);
    }
    out
}

/// Whether a text may be a message id. A line break in it would be a header of its own.
fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

fn seal_in<T: Message>(
    domain: &[u8],
    subject: Subject,
    msg_id: String,
    time: UnixMs,
    key: &KeyPair,
    body: &T,
) -> Result<Envelope, SealError> {
    let framed = Framed { kind: T::TYPE.to_owned(), v: T::VERSION, body };
    let body = rmp_serde::to_vec_named(&framed).map_err(SealError::Encode)?;
    if body.len() > BODY_BYTES_MAX || msg_id.len() > MESSAGE_ID_BYTES_MAX {
        return Err(SealError::TooLarge);
    }
    if !is_id(&msg_id) {
        return Err(SealError::Id);
    }
    let sig =
        key.sign(&signed_bytes(domain, &subject, &msg_id, time, &body)).map_err(SealError::Sign)?;
    Ok(Envelope { subject, msg_id, time, key: key.public_key(), sig, body })
}

impl Envelope {
    /// Signs `body` for `subject`.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal<T: Message>(
        subject: Subject,
        msg_id: String,
        time: UnixMs,
        key: &KeyPair,
        body: &T,
    ) -> Result<Self, SealError> {
        let carried = subject.route().message;
        if carried != T::TYPE {
            return Err(SealError::WrongType(carried));
        }
        seal_in(DOMAIN_MESSAGE, subject, msg_id, time, key, body)
    }

    /// Signs `body` as the answer to the request `msg_id` on `subject`.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal_reply<T: Message>(
        subject: Subject,
        msg_id: String,
        time: UnixMs,
        key: &KeyPair,
        body: &T,
    ) -> Result<Self, SealError> {
        seal_in(DOMAIN_REPLY, subject, msg_id, time, key, body)
    }

    /// The four headers, in wire order.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, String); 4] {
        [
            (HEADER_ID, self.msg_id.clone()),
            (HEADER_KEY, self.key.clone()),
            (HEADER_TIME, self.time.0.to_string()),
            (HEADER_SIG, BASE64.encode(&self.sig)),
        ]
    }

    /// An envelope from what arrived; checks sizes and form, proves nothing.
    ///
    /// # Errors
    /// `TooLarge`, `UnknownSubject`, `Header`.
    pub fn received<'a>(
        subject: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
        body: &[u8],
    ) -> Result<Self, OpenError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(OpenError::TooLarge);
        }
        let subject = subject.parse().map_err(|_| OpenError::UnknownSubject)?;
        let need = |name: &'static str| header(name).ok_or(OpenError::Header(name));
        let msg_id = need(HEADER_ID)?.to_owned();
        if msg_id.len() > MESSAGE_ID_BYTES_MAX {
            return Err(OpenError::TooLarge);
        }
        if !is_id(&msg_id) {
            return Err(OpenError::Header(HEADER_ID));
        }
        let time = need(HEADER_TIME)?.parse().map_err(|_| OpenError::Header(HEADER_TIME))?;
        let sig = BASE64.decode(need(HEADER_SIG)?).map_err(|_| OpenError::Header(HEADER_SIG))?;
        let key = need(HEADER_KEY)?.to_owned();
        Ok(Self { subject, msg_id, time: UnixMs(time), key, sig, body: body.to_vec() })
    }

    /// Checks key, role, signature and type, in this order, then parses the body.
    ///
    /// # Errors
    /// `UnknownKey`; `RoleMayNot`; `BadSignature` (also when the subject signed is another one:
    /// replay across subjects); `WrongType`; `Malformed`; `OtherSubject`.
    pub fn open<T: Message>(&self, trust: &Trust) -> Result<Verified<T>, OpenError> {
        let role = trust.role_of(&self.key).ok_or(OpenError::UnknownKey)?;
        if !self.subject.may_publish(role) {
            return Err(OpenError::RoleMayNot(role));
        }
        self.check(DOMAIN_MESSAGE)?;
        if self.subject.route().message != T::TYPE {
            return Err(OpenError::WrongType);
        }
        let opened: Verified<T> = self.parse(role)?;
        if opened.body.is_about(&self.subject) { Ok(opened) } else { Err(OpenError::OtherSubject) }
    }

    /// Checks everything that [`Self::open`] does, but not the body's shape: what the auditor and
    /// `hotcell audit verify` need for any message.
    ///
    /// # Errors
    /// `UnknownKey`, `RoleMayNot`, `BadSignature`.
    pub fn check_signature(&self, trust: &Trust) -> Result<Role, OpenError> {
        let role = trust.role_of(&self.key).ok_or(OpenError::UnknownKey)?;
        if !self.subject.may_publish(role) {
            return Err(OpenError::RoleMayNot(role));
        }
        self.check(DOMAIN_MESSAGE)?;
        Ok(role)
    }

    /// Checks an answer to the request `request_id`: its signer's role must be one that the
    /// request's row names as consumer.
    ///
    /// # Errors
    /// As [`Self::open`], and `OtherRequest`.
    pub fn open_reply<T: Message>(
        &self,
        request_id: &str,
        trust: &Trust,
    ) -> Result<Verified<T>, OpenError> {
        if self.msg_id != request_id {
            return Err(OpenError::OtherRequest);
        }
        let role = trust.role_of(&self.key).ok_or(OpenError::UnknownKey)?;
        if !self.subject.route().consumers.contains(&role) {
            return Err(OpenError::RoleMayNot(role));
        }
        self.check(DOMAIN_REPLY)?;
        self.parse(role)
    }

    fn check(&self, domain: &[u8]) -> Result<(), OpenError> {
        let key = KeyPair::from_public_key(&self.key).map_err(|_| OpenError::UnknownKey)?;
        let signed = signed_bytes(domain, &self.subject, &self.msg_id, self.time, &self.body);
        key.verify(&signed, &self.sig).map_err(|_| OpenError::BadSignature)
    }

    fn parse<T: Message>(&self, role: Role) -> Result<Verified<T>, OpenError> {
        let mut body = rmp_serde::Deserializer::new(Cursor::new(self.body.as_slice()));
        body.set_max_depth(BODY_DEPTH_MAX);
        let framed = Framed::<T>::deserialize(&mut body).map_err(|_| OpenError::Malformed)?;
        if usize::try_from(body.position()) != Ok(self.body.len()) {
            return Err(OpenError::Malformed);
        }
        if framed.kind != T::TYPE || framed.v != T::VERSION {
            return Err(OpenError::WrongType);
        }
        Ok(Verified {
            body: framed.body,
            subject: self.subject.clone(),
            role,
            key: self.key.clone(),
            msg_id: self.msg_id.clone(),
            time: self.time,
        })
    }
}
