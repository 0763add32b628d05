//! One fixed value of every message, record and HTTP body, in every shape that the wire knows.
//! The golden files, the strictness tests, the benchmark and the fuzz twin all draw from here.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod approval;
pub(crate) mod block;
pub(crate) mod hook;
pub(crate) mod jobs;
mod own;
pub(crate) mod preset;
pub(crate) mod rest;
pub(crate) mod worker;

use hotcell_schemas::{
    BlobKey, DeliveryId, Digest, EndpointId, FileName, JobId, KeyId, Message, Role, Subject,
    TenantId, Trust, UnixMs, UploadId, WorkerId,
    envelope::Envelope,
    routes::{ROUTES, Route, Token},
    trust::TrustedKey,
};
use nkeys::{KeyPair, KeyPairType};

/// The time of every sample.
pub(crate) const T0: UnixMs = UnixMs(1_779_460_245_120);

/// The message id of every sealed sample.
pub(crate) const ID: &str = "0198e1d2c3.submitted.1";

/// A public account nkey, of the form that the broker inserts.
pub(crate) const ACCOUNT: &str = "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA";

/// The key of `role`: its seed is one repeated byte, so signatures never change.
pub(crate) fn key(role: Role) -> KeyPair {
    let index = Role::ALL.iter().position(|other| *other == role).unwrap();
    seeded(u8::try_from(index).unwrap() + 1)
}

/// The user key whose seed is `byte`, 32 times.
pub(crate) fn seeded(byte: u8) -> KeyPair {
    KeyPair::new_from_raw(KeyPairType::User, [byte; 32]).unwrap()
}

/// Every role's key.
pub(crate) fn trust() -> Trust {
    let keys = Role::ALL.map(|role| TrustedKey { role, key: key(role).public_key() });
    Trust::new(keys.into()).unwrap()
}

pub(crate) fn tenant() -> TenantId {
    "acme".parse().unwrap()
}
pub(crate) fn worker() -> WorkerId {
    "w1".parse().unwrap()
}
pub(crate) fn job_id() -> JobId {
    JobId::new(T0.0, [1; 10])
}
pub(crate) fn upload_id() -> UploadId {
    UploadId::new(T0.0, [2; 10])
}
pub(crate) fn endpoint_id() -> EndpointId {
    EndpointId::new(T0.0, [3; 10])
}
pub(crate) fn delivery_id() -> DeliveryId {
    DeliveryId::new(T0.0, [4; 10])
}
pub(crate) fn key_id() -> KeyId {
    KeyId::new(T0.0, [5; 10])
}
pub(crate) fn file(name: &str) -> FileName {
    name.parse().unwrap()
}
pub(crate) fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}
pub(crate) fn upload_key() -> BlobKey {
    BlobKey::upload(&tenant(), &upload_id(), &upload_name())
}
pub(crate) fn upload_name() -> FileName {
    FileName::for_upload("interview raw.mp4", T0, 0)
}

/// A subject of the row's shape, with the samples' ids in it.
pub(crate) fn concrete(route: &Route) -> String {
    let words = route.tokens.iter().map(|token| match token {
        Token::Lit(word) => (*word).to_owned(),
        Token::Tenant => tenant().to_string(),
        Token::Job => job_id().to_string(),
        Token::Pool => "cpu".to_owned(),
        Token::Class => "high".to_owned(),
        Token::Worker => worker().to_string(),
        Token::Account => ACCOUNT.to_owned(),
        Token::Endpoint => endpoint_id().to_string(),
        Token::Delivery => delivery_id().to_string(),
    });
    words.collect::<Vec<_>>().join(".")
}

/// The subject of the row called `name`.
pub(crate) fn subject(name: &str) -> Subject {
    let route = ROUTES.iter().find(|route| route.name == name).unwrap();
    concrete(route).parse().unwrap()
}

/// What [`each`] calls with every sample message.
pub(crate) trait See {
    /// `case` names the shape; `row` is a row that carries the type, or whose request it answers.
    fn see<T: Message + PartialEq + std::fmt::Debug>(&mut self, case: &str, row: &str, value: &T);
}

/// Every sample message.
pub(crate) fn each(eye: &mut impl See) {
    jobs::each(eye);
    worker::each(eye);
    rest::each(eye);
    hook::each(eye);
}

/// Whether messages of this type are answers.
pub(crate) fn is_reply<T: Message>() -> bool {
    T::TYPE.ends_with("_reply")
}

/// Signs `value` as the row says: by a publisher, or, for an answer, by a consumer.
pub(crate) fn seal<T: Message>(row: &str, value: &T) -> Envelope {
    let subject = subject(row);
    let (id, route) = (ID.to_owned(), subject.route());
    if is_reply::<T>() {
        let key = key(*route.consumers.first().unwrap());
        Envelope::seal_reply(subject, id, T0, &key, value).unwrap()
    } else {
        let key = key(*route.publishers.first().unwrap());
        Envelope::seal(subject, id, T0, &key, value).unwrap()
    }
}

/// Opens what [`seal`] made.
pub(crate) fn open<T: Message>(
    sealed: &Envelope,
) -> Result<T, hotcell_schemas::envelope::OpenError> {
    let opened =
        if is_reply::<T>() { sealed.open_reply(ID, &trust()) } else { sealed.open(&trust()) };
    opened.map(|verified| verified.into_inner())
}

/// The same envelope around `body`, signed by `key`: the format written down a second time, from
/// its description alone, so that a change of either is seen.
pub(crate) fn resigned(sealed: &Envelope, body: &[u8], key: &KeyPair, reply: bool) -> Envelope {
    let domain: &[u8] = if reply { b"hotcell/reply/v1" } else { b"hotcell/message/v1" };
    let hash = Digest::of(body);
    let mut signed = Vec::new();
    for field in [
        domain,
        sealed.subject.as_str().as_bytes(),
        sealed.msg_id.as_bytes(),
        &sealed.time.0.to_be_bytes(),
        hash.as_bytes(),
    ] {
        signed.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
        signed.extend(field);
    }
    let sig = key.sign(&signed).unwrap();
    Envelope { key: key.public_key(), sig, body: body.to_vec(), ..sealed.clone() }
}
