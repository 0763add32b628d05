//! What a sealed message proves, and that nothing of a body is parsed before it is proven.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod samples;

use hotcell_schemas::{
    Envelope, Job, Message, Role, Subject, Trust, UnixMs,
    envelope::{HEADER_ID, HEADER_KEY, HEADER_SIG, HEADER_TIME, OpenError, SealError},
    limits::{BODY_BYTES_MAX, MESSAGE_ID_BYTES_MAX},
    routes::ROUTES,
    trust::TrustedKey,
    work::{DoneReply, DoneRequest, LeaseRequest, NextRequest, SignRequest},
};
use proptest::prelude::*;
use samples::See;

const SUBMITTED: &str = "job.submitted";

/// Not MessagePack (0xc1 is the one byte that the format never uses), so it can never be parsed.
const POISON: &[u8] = &[0xc1, 0xff, 0x00];

fn submitted() -> Envelope {
    samples::seal(SUBMITTED, &samples::jobs::submitted())
}

fn open_job(sealed: &Envelope) -> Result<Job, OpenError> {
    sealed.open::<Job>(&samples::trust()).map(|verified| verified.into_inner())
}

/// As on the wire: what the headers and the body say is all that arrives.
fn over_the_wire(sealed: &Envelope) -> Envelope {
    let headers = sealed.headers();
    let header = |name: &'static str| {
        headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str())
    };
    Envelope::received(sealed.subject.as_str(), header, &sealed.body).unwrap()
}

/// Opens the samples as their types say, over the wire, and as the other kind of message.
struct BothWays;

impl See for BothWays {
    fn see<T: Message + PartialEq + std::fmt::Debug>(&mut self, case: &str, row: &str, value: &T) {
        let sealed = samples::seal(row, value);
        let arrived = over_the_wire(&sealed);
        assert_eq!(arrived, sealed);
        assert_eq!(samples::open::<T>(&arrived).as_ref(), Ok(value), "{} {case}", T::TYPE);
        let trust = samples::trust();
        let swapped = if samples::is_reply::<T>() {
            assert!(sealed.check_signature(&trust).is_err());
            sealed.open::<T>(&trust).map(|verified| verified.into_inner())
        } else {
            assert!(sealed.check_signature(&trust).is_ok());
            sealed.open_reply::<T>(samples::ID, &trust).map(|verified| verified.into_inner())
        };
        let refused = matches!(swapped, Err(OpenError::RoleMayNot(_) | OpenError::BadSignature));
        assert!(refused, "{} {case}: {swapped:?}", T::TYPE);
    }
}

#[test]
fn every_sample_opens_as_what_it_is_and_as_nothing_else() {
    samples::each(&mut BothWays);
}

/// A service that went bad signs what it likes, but only about what it says it is about.
#[test]
fn a_job_on_another_job_s_subject_is_not_believed() {
    let sealed = |job: &Job| {
        let (subject, key) = (samples::subject(SUBMITTED), samples::key(Role::Intake));
        Envelope::seal(subject, samples::ID.to_owned(), samples::T0, &key, job).unwrap()
    };
    let job = samples::jobs::submitted();
    assert!(open_job(&sealed(&job)).is_ok());
    let others = [
        Job { tenant: "umbra".parse().unwrap(), ..job.clone() },
        Job { id: hotcell_schemas::JobId::new(9, [9; 10]), ..job.clone() },
        Job { state: hotcell_schemas::EventKind::Completed, ..job.clone() },
    ];
    for other in others {
        assert_eq!(open_job(&sealed(&other)), Err(OpenError::OtherSubject));
    }
}

/// A message id becomes a header: a line break in it would be a header of its own.
#[test]
fn a_message_id_is_one_header_value() {
    for bad in ["", "a b", "a\r\nNats-Rollup: all", "a\n", "é", "a\0"] {
        let (subject, key) = (samples::subject(SUBMITTED), samples::key(Role::Intake));
        let job = samples::jobs::submitted();
        let sealed = Envelope::seal(subject, bad.to_owned(), samples::T0, &key, &job);
        assert!(matches!(sealed, Err(SealError::Id)), "{bad:?}");
        let good = submitted();
        let headers = good.headers();
        let header = |name: &'static str| {
            let found = headers.iter().find(|(header, _)| *header == name);
            if name == HEADER_ID { Some(bad) } else { found.map(|(_, value)| value.as_str()) }
        };
        let received = Envelope::received(good.subject.as_str(), header, &good.body);
        assert_eq!(received.err(), Some(OpenError::Header(HEADER_ID)), "{bad:?}");
    }
}

#[test]
fn a_verified_message_says_who_signed_what_where_and_when() {
    let verified = submitted().open::<Job>(&samples::trust()).unwrap();
    assert_eq!(verified.role(), Role::Intake);
    assert_eq!(verified.key(), samples::key(Role::Intake).public_key());
    assert_eq!(verified.subject(), &samples::subject(SUBMITTED));
    assert_eq!(verified.msg_id(), samples::ID);
    assert_eq!(verified.time(), samples::T0);
}

/// One role may both ask and answer (webhook on `hook.out`): only the domain tells them apart.
#[test]
fn a_reply_is_no_message_even_from_a_key_that_may_do_both() {
    let both = ROUTES.iter().find(|route| {
        route.publishers.iter().any(|role| route.consumers.contains(role)) && route.message == "job"
    });
    let route = both.unwrap();
    let role = *route.publishers.iter().find(|role| route.consumers.contains(role)).unwrap();
    let (subject, key) = (samples::subject(route.name), samples::key(role));
    let (id, job) = (samples::ID.to_owned(), samples::jobs::submitted());
    let job = Job { state: route.event().unwrap(), ..job };
    let trust = samples::trust();
    let reply = Envelope::seal_reply(subject.clone(), id.clone(), samples::T0, &key, &job).unwrap();
    assert_eq!(reply.open::<Job>(&trust).map(drop), Err(OpenError::BadSignature));
    assert!(reply.open_reply::<Job>(samples::ID, &trust).is_ok());
    let message = Envelope::seal(subject, id, samples::T0, &key, &job).unwrap();
    let passed_off = message.open_reply::<Job>(samples::ID, &trust);
    assert_eq!(passed_off.map(drop), Err(OpenError::BadSignature));
    assert!(message.open::<Job>(&trust).is_ok());
}

#[test]
fn a_reply_answers_one_request_of_one_subject_by_one_role() {
    let reply = samples::seal("lease.done", &DoneReply::Accepted);
    let open = |reply: &Envelope, id: &str| {
        reply.open_reply::<DoneReply>(id, &samples::trust()).map(|verified| verified.into_inner())
    };
    assert_eq!(open(&reply, samples::ID), Ok(DoneReply::Accepted));
    assert_eq!(open(&reply, "another"), Err(OpenError::OtherRequest));
    let renamed = Envelope { msg_id: "another".to_owned(), ..reply.clone() };
    assert_eq!(open(&renamed, "another"), Err(OpenError::BadSignature));
    let moved = Envelope { subject: samples::subject("lease.beat"), ..reply.clone() };
    assert_eq!(open(&moved, samples::ID), Err(OpenError::BadSignature));
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Signer) {
        let forged = samples::resigned(&reply, &reply.body, &samples::key(role), true);
        assert_eq!(open(&forged, samples::ID), Err(OpenError::RoleMayNot(role)));
    }
    let wrong_type =
        reply.open_reply::<hotcell_schemas::work::BeatReply>(samples::ID, &samples::trust());
    assert!(matches!(wrong_type.map(drop), Err(OpenError::Malformed | OpenError::WrongType)));
}

/// ZT-04, IAM-06: for every row and every role, who may not publish is refused before the body is
/// looked at, and who may is not.
#[test]
fn zt_04_roles_are_checked_before_the_body() {
    for route in ROUTES.iter().filter(|route| route.message == "job") {
        let sealed = Envelope { subject: samples::subject(route.name), ..submitted() };
        for role in Role::ALL {
            let poisoned = samples::resigned(&sealed, POISON, &samples::key(role), false);
            let expect = if route.publishers.contains(&role) {
                OpenError::Malformed
            } else {
                OpenError::RoleMayNot(role)
            };
            assert_eq!(open_job(&poisoned), Err(expect), "{role} on {}", route.name);
            let checked = poisoned.check_signature(&samples::trust());
            assert_eq!(checked.is_ok(), route.publishers.contains(&role), "{role} {}", route.name);
        }
    }
}

#[test]
fn zt_04_a_bad_signature_is_found_before_a_bad_body() {
    let sealed = samples::resigned(&submitted(), POISON, &samples::key(Role::Intake), false);
    assert_eq!(open_job(&sealed), Err(OpenError::Malformed), "reached only when signed");
    let moved = [samples::concrete(ROUTES.iter().find(|r| r.name == "job.cancelled").unwrap())];
    let subject: Subject = moved[0].parse().unwrap();
    let replayed = Envelope { subject, ..sealed.clone() };
    assert_eq!(open_job(&replayed), Err(OpenError::BadSignature), "intake may publish there too");
    let later = Envelope { time: UnixMs(sealed.time.0 + 1), ..sealed.clone() };
    assert_eq!(open_job(&later), Err(OpenError::BadSignature));
    let renamed = Envelope { msg_id: "other".to_owned(), ..sealed.clone() };
    assert_eq!(open_job(&renamed), Err(OpenError::BadSignature));
    let other_body = Envelope { body: vec![0xc1], ..sealed.clone() };
    assert_eq!(open_job(&other_body), Err(OpenError::BadSignature));
    for length in [0, 1, 63, 65, 128] {
        let resized = Envelope { sig: vec![0; length], ..sealed.clone() };
        assert_eq!(open_job(&resized), Err(OpenError::BadSignature), "{length} bytes");
    }
}

#[test]
fn another_key_is_refused() {
    let sealed = submitted();
    let stranger = samples::seeded(99);
    let forged = samples::resigned(&sealed, &sealed.body, &stranger, false);
    assert_eq!(open_job(&forged), Err(OpenError::UnknownKey));
    let of_validator =
        Envelope { key: samples::key(Role::Validator).public_key(), ..sealed.clone() };
    assert_eq!(open_job(&of_validator), Err(OpenError::RoleMayNot(Role::Validator)));

    // While a key is rotated a role has two: each vouches for its own messages alone.
    let mut keys = samples::trust().keys().to_vec();
    keys.push(TrustedKey { role: Role::Intake, key: stranger.public_key() });
    let both = Trust::new(keys).unwrap();
    assert!(forged.open::<Job>(&both).is_ok());
    let crossed = Envelope { key: stranger.public_key(), ..sealed };
    assert_eq!(crossed.open::<Job>(&both).map(drop), Err(OpenError::BadSignature));
}

#[test]
fn a_worker_is_believed_for_the_key_that_the_broker_stated() {
    let done = samples::subject("lease.done");
    assert_eq!(done.worker(), Some(samples::worker()));
    let request = LeaseRequest { lease: "token".to_owned() };
    let sealed = samples::seal("lease.inputs", &request);
    let own = Trust::only(Role::Encoder, &samples::key(Role::Encoder).public_key()).unwrap();
    assert_eq!(sealed.open::<LeaseRequest>(&own).unwrap().get(), &request);
    let other = Trust::only(Role::Encoder, &samples::seeded(99).public_key()).unwrap();
    assert_eq!(sealed.open::<LeaseRequest>(&other).map(drop), Err(OpenError::UnknownKey));
}

#[test]
fn a_type_that_the_row_does_not_carry_is_neither_sealed_nor_opened() {
    let (subject, id) = (samples::subject("next"), samples::ID.to_owned());
    let request = LeaseRequest { lease: "token".to_owned() };
    let key = samples::key(Role::Encoder);
    let result = Envelope::seal(subject, id, samples::T0, &key, &request);
    assert!(matches!(result, Err(SealError::WrongType("next_request"))));
    let trust = samples::trust();
    assert_eq!(submitted().open::<NextRequest>(&trust).map(drop), Err(OpenError::WrongType));
    assert_eq!(submitted().open::<SignRequest>(&trust).map(drop), Err(OpenError::WrongType));
}

#[test]
fn sizes_are_limited_on_both_sides() {
    let mut job = samples::jobs::submitted();
    job.workflow = Some("x".repeat(BODY_BYTES_MAX));
    let key = samples::key(Role::Intake);
    let seal = |id: String, job: &Job| {
        Envelope::seal(samples::subject(SUBMITTED), id, samples::T0, &key, job)
    };
    assert!(matches!(seal(samples::ID.to_owned(), &job), Err(SealError::TooLarge)));
    let job = samples::jobs::submitted();
    assert!(seal("i".repeat(MESSAGE_ID_BYTES_MAX), &job).is_ok());
    let long = "i".repeat(MESSAGE_ID_BYTES_MAX + 1);
    assert!(matches!(seal(long.clone(), &job), Err(SealError::TooLarge)));

    let sealed = submitted();
    let sig = sealed.headers()[3].1.clone();
    let receive = |id: &str, time: &str, body: &[u8]| {
        let header = |name| match name {
            HEADER_ID => Some(id),
            HEADER_TIME => Some(time),
            HEADER_KEY => Some(sealed.key.as_str()),
            HEADER_SIG => Some(sig.as_str()),
            _ => None,
        };
        Envelope::received(sealed.subject.as_str(), header, body)
    };
    assert_eq!(receive(&long, "1", b""), Err(OpenError::TooLarge));
    assert_eq!(receive("i", "1", &vec![0; BODY_BYTES_MAX + 1]), Err(OpenError::TooLarge));
    for time in ["", "-1", "1.0", "x", "18446744073709551616"] {
        assert_eq!(receive("i", time, b""), Err(OpenError::Header(HEADER_TIME)), "{time}");
    }
}

#[test]
fn a_missing_header_is_named() {
    let sealed = submitted();
    let headers = sealed.headers();
    for (missing, _) in &headers {
        let header = |name: &'static str| {
            let found = headers.iter().find(|(header, _)| *header == name && name != *missing);
            found.map(|(_, value)| value.as_str())
        };
        let result = Envelope::received(sealed.subject.as_str(), header, &sealed.body);
        assert_eq!(result, Err(OpenError::Header(missing)));
    }
    let nowhere = Envelope::received("job.acme.x", |_| None, b"");
    assert_eq!(nowhere, Err(OpenError::UnknownSubject));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_job_that_seals_opens_to_the_same_value(
        workflow in proptest::option::of(".{0,128}"),
        content_type in ".{0,64}",
        (size, time) in (any::<u64>(), any::<u64>()),
        id in "[!-~]{1,128}",
    ) {
        let mut job = samples::jobs::completed();
        job.workflow = workflow;
        job.inputs[0].content_type = content_type;
        job.inputs[0].size = size;
        let (subject, key) = (samples::subject("job.completed"), samples::key(Role::Hasher));
        let sealed = Envelope::seal(subject, id.clone(), UnixMs(time), &key, &job).unwrap();
        let opened = over_the_wire(&sealed).open::<Job>(&samples::trust()).unwrap();
        prop_assert_eq!(opened.get(), &job);
        prop_assert_eq!((opened.msg_id(), opened.time()), (id.as_str(), UnixMs(time)));
    }

    #[test]
    fn any_report_that_seals_opens_to_the_same_value(
        ffmpeg in ".{0,200}", degraded in proptest::collection::vec(".{0,20}", 0..8),
    ) {
        let mut report = samples::jobs::report();
        report.provenance.ffmpeg = ffmpeg;
        report.provenance.degraded = degraded;
        let (lease, job) = ("t".to_owned(), samples::job_id());
        let done = DoneRequest { lease, job, attempt: 1, report };
        let sealed = samples::seal("lease.done", &done);
        prop_assert_eq!(samples::open::<DoneRequest>(&over_the_wire(&sealed)), Ok(done));
    }

    #[test]
    fn any_flipped_bit_is_refused(part in 0..6_usize, bit in any::<prop::sample::Index>()) {
        let sealed = submitted();
        let flip = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        };
        let text = |bytes: &[u8]| String::from_utf8(flip(bytes)).ok();
        let changed = match part {
            0 => text(sealed.subject.as_str().as_bytes())
                .and_then(|subject| subject.parse().ok())
                .map(|subject| Envelope { subject, ..sealed.clone() }),
            1 => text(sealed.msg_id.as_bytes())
                .map(|msg_id| Envelope { msg_id, ..sealed.clone() }),
            2 => {
                let time: [u8; 8] = flip(&sealed.time.0.to_be_bytes()).try_into().unwrap();
                Some(Envelope { time: UnixMs(u64::from_be_bytes(time)), ..sealed.clone() })
            }
            3 => text(sealed.key.as_bytes()).map(|key| Envelope { key, ..sealed.clone() }),
            4 => Some(Envelope { sig: flip(&sealed.sig), ..sealed.clone() }),
            _ => Some(Envelope { body: flip(&sealed.body), ..sealed.clone() }),
        };
        // A subject that no longer parses never becomes an envelope: refused even earlier.
        if let Some(changed) = changed {
            let expect = if part == 3 { OpenError::UnknownKey } else { OpenError::BadSignature };
            prop_assert_eq!(open_job(&changed), Err(expect), "part {}", part);
            prop_assert!(changed.check_signature(&samples::trust()).is_err());
        }
    }

    #[test]
    fn every_other_subject_is_refused(row in prop::sample::select(ROUTES)) {
        let other: Subject = samples::concrete(&row).parse().unwrap();
        prop_assume!(other.as_str() != samples::subject(SUBMITTED).as_str());
        let moved = Envelope { subject: other.clone(), ..submitted() };
        let expect = if other.may_publish(Role::Intake) {
            OpenError::BadSignature
        } else {
            OpenError::RoleMayNot(Role::Intake)
        };
        prop_assert_eq!(open_job(&moved), Err(expect));
    }
}
