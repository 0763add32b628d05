//! What hostile bytes must not do, as three functions: the fuzz targets and the stable tests call
//! the same ones. Each returns when nothing is wrong, and panics when something is.

use hotcell_schemas::{
    Envelope, Message, Role, Subject, Trust, UnixMs,
    envelope::{HEADER_ID, HEADER_KEY, HEADER_SIG, HEADER_TIME},
    hook::Delivery,
    job::Job,
    lease::{Lease, LeaseKey},
    records::AuditRecord,
    trust::TrustedKey,
    work::{DoneReply, DoneRequest, NextReply, SignRequest},
};
use nkeys::{KeyPair, KeyPairType};

const TENANT: &str = "job.acme.0198e1d2c3c37c3c8c3c3c3c3c3c3c3c.submitted";

fn key(role: Role) -> KeyPair {
    let index = Role::ALL.iter().position(|other| *other == role).unwrap_or_default();
    let byte = u8::try_from(index).unwrap_or_default();
    KeyPair::new_from_raw(KeyPairType::User, [byte + 1; 32]).expect("any 32 bytes are a seed")
}

fn trust() -> Trust {
    let keys = Role::ALL.map(|role| TrustedKey { role, key: key(role).public_key() });
    Trust::new(keys.into()).expect("nine keys of nine roles")
}

/// Bytes up to the next newline, as text when they are text.
fn line<'a>(data: &mut &'a [u8]) -> Option<&'a str> {
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    let (line, rest) = data.split_at(end);
    *data = rest.get(1..).unwrap_or_default();
    std::str::from_utf8(line).ok()
}

/// An envelope from anywhere. An even first byte takes subject and headers from `data` as lines,
/// where an empty line stands for a good value; an odd one signs the rest of `data` as a body with
/// a trusted key, so that the parser behind the signature is reached.
pub(crate) fn open(data: &[u8]) {
    match data.split_first() {
        Some((mode, rest)) if mode % 2 == 0 => unsigned(rest),
        Some((mode, rest)) => match mode / 2 % 6 {
            0 => signed::<Job>(TENANT, rest),
            1 => signed::<AuditRecord>("audit._.admin", rest),
            2 => signed::<DoneRequest>("lease.w1.done", rest),
            3 => signed::<SignRequest>("sign.intake.upload", rest),
            4 => signed_reply::<NextReply>("next.cpu.w1", rest),
            _ => signed_reply::<DoneReply>("lease.w1.done", rest),
        },
        None => {}
    }
}

/// Nothing but a signature over exactly these bytes opens; no fuzzer guesses one.
fn unsigned(mut data: &[u8]) {
    let public = key(Role::Intake).public_key();
    let zero_sig = "A".repeat(86);
    let mut or = |good: &'static str| match line(&mut data) {
        Some("") => Some(good.to_owned()),
        other => other.map(str::to_owned),
    };
    let subject = or(TENANT).unwrap_or_default();
    let (id, time) = (or("id.1"), or("1779460245120"));
    let own_key = or("").map(|key| if key.is_empty() { public } else { key });
    let sig = or("").map(|sig| if sig.is_empty() { zero_sig } else { sig });
    let header = |name: &'static str| match name {
        HEADER_ID => id.as_deref(),
        HEADER_TIME => time.as_deref(),
        HEADER_KEY => own_key.as_deref(),
        HEADER_SIG => sig.as_deref(),
        _ => None,
    };
    let Ok(received) = Envelope::received(&subject, header, data) else { return };
    let trust = trust();
    assert!(received.open::<Job>(&trust).is_err(), "opened without a signature");
    assert!(received.open::<Delivery>(&trust).is_err(), "opened without a signature");
    assert!(received.check_signature(&trust).is_err(), "believed without a signature");
    let reply = received.open_reply::<NextReply>(&received.msg_id, &trust);
    assert!(reply.is_err(), "an answer opened without a signature");
}

fn envelope(subject: &str, role: Role, domain: &[u8], body: &[u8]) -> Envelope {
    let subject: Subject = subject.parse().expect("a subject of the table");
    let (time, hash, key) = (UnixMs(1), hotcell_schemas::Digest::of(body), key(role));
    let mut bytes = Vec::new();
    for field in
        [domain, subject.as_str().as_bytes(), b"id", &time.0.to_be_bytes(), hash.as_bytes()]
    {
        let length = u32::try_from(field.len()).expect("short");
        bytes.extend(length.to_be_bytes());
        bytes.extend(field);
    }
    let sig = key.sign(&bytes).expect("the key has its seed");
    let (msg_id, key) = ("id".to_owned(), key.public_key());
    Envelope { subject, msg_id, time, key, sig, body: body.to_vec() }
}

/// A body that opens seals again, and what was sealed opens to the same bytes.
fn signed<T: Message>(subject: &str, body: &[u8]) {
    let route = subject.parse::<Subject>().expect("a subject of the table").route();
    let role = *route.publishers.first().expect("every row has a publisher");
    let sent = envelope(subject, role, b"hotcell/message/v1", body);
    let Ok(opened) = sent.open::<T>(&trust()) else { return };
    let again = |value: &T| {
        let (subject, id) = (sent.subject.clone(), sent.msg_id.clone());
        Envelope::seal(subject, id, sent.time, &key(role), value).expect("it was a body")
    };
    let first = again(opened.get());
    let second = again(first.open::<T>(&trust()).expect("we sealed it").get());
    assert_eq!(first, second, "sealing is not stable");
}

fn signed_reply<T: Message>(subject: &str, body: &[u8]) {
    let sent = envelope(subject, Role::Signer, b"hotcell/reply/v1", body);
    let trust = trust();
    assert!(sent.open::<T>(&trust).is_err(), "an answer opened as a message");
    let Ok(opened) = sent.open_reply::<T>("id", &trust) else { return };
    let (subject, id) = (sent.subject.clone(), sent.msg_id.clone());
    Envelope::seal_reply(subject, id, sent.time, &key(Role::Signer), opened.get())
        .expect("it was a body");
}

/// A subject that parses is text that the table knows, and safe for the broker.
pub(crate) fn subject(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(subject) = text.parse::<Subject>() else { return };
    assert_eq!(subject.as_str(), text);
    assert!(subject.route().matches(text));
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    assert!(text.len() < 200 && text.bytes().all(safe), "{text:?} is no safe subject");
    assert!(text.split('.').all(|word| !word.is_empty()), "{text:?} has an empty word");
    let shape = (subject.tenant(), subject.job_id(), subject.worker(), subject.pool());
    let words: Vec<&str> = text.split('.').collect();
    let named = |word: Option<&str>| word.is_none_or(|word| words.contains(&word));
    assert!(named(shape.0.as_ref().map(|id| id.as_str())));
    assert!(named(shape.1.as_ref().map(|id| id.as_str())));
    assert!(named(shape.2.as_ref().map(|id| id.as_str())));
    assert!(named(shape.3.as_ref().map(|id| id.as_str())));
}

/// No token opens that was not made with the key; one whose body alone was chosen does not either.
pub(crate) fn lease(data: &[u8]) {
    let key = LeaseKey::new([7; 32]);
    let worker = "w1".parse().expect("a worker's slug");
    let text = String::from_utf8_lossy(data);
    for token in [text.to_string(), format!("{text}.{text}"), format!("{text}.")] {
        assert!(Lease::check(&token, &key, &worker, UnixMs(0)).is_err(), "forged: {token:?}");
    }
}
