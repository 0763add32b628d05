//! Names: what a constructor builds parses back, and what parses is safe where it is used.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod samples;

use hotcell_schemas::{
    BlobKey, DeliveryId, Digest, EndpointId, EventKind, FileName, JobId, KeyId, PoolId, RejectCode,
    Role, Subject, TenantId, UnixMs, UploadId, WorkerId,
    lease::{Lease, LeaseError, LeaseKey, TOKEN_BYTES_MAX},
    limits::FILENAME_BYTES_MAX,
    request::WebhookEvent,
    routes::{ROUTES, Route, Token},
    subject::{AuditKind, LeaseVerb},
    tenancy::Priority,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

const SLUG: &str = "[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?";

/// Whether `filter` (with `*` and `>`) takes in `subject`, as the broker reads it.
fn takes(filter: &str, subject: &str) -> bool {
    let mut words = subject.split('.');
    for part in filter.split('.') {
        match (part, words.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(word)) if part == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

prop_compose! {
    fn hex_id()(ms in 0..1_u64 << 48, random in any::<[u8; 10]>()) -> JobId {
        JobId::new(ms, random)
    }
}

prop_compose! {
    /// A row and a subject of its shape with any valid ids.
    fn row_and_subject()(
        route in prop::sample::select(ROUTES), slugs in prop::collection::vec(SLUG, 3),
        ids in prop::collection::vec(hex_id(), 3), account in "A[A-Z2-7]{55}",
    ) -> (Route, String) {
        let words = route.tokens.iter().map(|token| match token {
            Token::Lit(word) => (*word).to_owned(),
            Token::Tenant => slugs[0].clone(),
            Token::Pool => slugs[1].clone(),
            Token::Class => if ids[0] > ids[1] { "high" } else { "low" }.to_owned(),
            Token::Worker => slugs[2].clone(),
            Token::Job => ids[0].to_string(),
            Token::Endpoint => ids[1].to_string(),
            Token::Delivery => ids[2].to_string(),
            Token::Account => account.clone(),
        });
        let subject = words.collect::<Vec<_>>().join(".");
        (route, subject)
    }
}

fn no_dot_segments(key: &str) -> bool {
    let segments_are_real = key.split('/').all(|part| !matches!(part, "" | "." | ".."));
    segments_are_real && !key.contains("..") && !key.contains("//") && !key.starts_with('/')
}

proptest! {
    #[test]
    fn every_row_s_subjects_parse_and_name_their_row((route, text) in row_and_subject()) {
        let subject: Subject = text.parse().unwrap();
        prop_assert_eq!(subject.as_str(), text.as_str());
        prop_assert_eq!(subject.route().name, route.name);
        prop_assert!(takes(&route.filter(), &text));
        for role in Role::ALL {
            prop_assert_eq!(subject.may_publish(role), route.publishers.contains(&role));
        }
        let has = |token| route.tokens.contains(&token);
        prop_assert_eq!(subject.tenant().is_some(), has(Token::Tenant));
        prop_assert_eq!(subject.job_id().is_some(), has(Token::Job));
        prop_assert_eq!(subject.worker().is_some(), has(Token::Worker));
        prop_assert_eq!(subject.pool().is_some(), has(Token::Pool));
    }

    #[test]
    fn a_subject_with_one_bad_character_or_word_never_parses(
        (route, text) in row_and_subject(), at in any::<prop::sample::Index>(),
        bad in prop::sample::select(&["*", ">", ".", " ", "..", "\0", "\n", "é", "A*", "$"][..]),
    ) {
        let at = at.index(text.len() + 1);
        let (before, after) = text.split_at(at);
        let broken = format!("{before}{bad}{after}");
        prop_assert!(broken.parse::<Subject>().is_err(), "{}", broken);
        let mut words: Vec<&str> = text.split('.').collect();
        let index = at % words.len();
        words[index] = bad;
        let replaced = words.join(".");
        prop_assert!(replaced.parse::<Subject>().is_err(), "{}", replaced);
        // Without its class a subject of work is one of class `normal`.
        let shorter = text.rsplit_once('.').unwrap().0;
        let is_normal = route.name == "job.prioritised";
        prop_assert_eq!(shorter.parse::<Subject>().is_ok(), is_normal, "{}", shorter);
    }

    #[test]
    fn constructors_parse_back_and_lie_in_their_filters(
        (tenant, pool, worker) in (SLUG, SLUG, SLUG), job in hex_id(), other in hex_id(),
    ) {
        let tenant: TenantId = tenant.parse().unwrap();
        let (pool, worker): (PoolId, WorkerId) = (pool.parse().unwrap(), worker.parse().unwrap());
        let validated = Subject::validated(&tenant, &job, &pool);
        // The work of one class is in its own consumer and in no other (BRK-80).
        for class in Priority::ALL {
            let ready = Subject::ready(&tenant, &job, &pool, class);
            prop_assert_eq!(ready.class(), class);
            prop_assert_eq!(ready.as_str().parse(), Ok(ready.clone()));
            for other in Priority::ALL {
                let taken = takes(&Subject::work_filter(&pool, &tenant, other), ready.as_str());
                prop_assert_eq!(taken, other == class);
            }
        }
        let normal = format!("{validated}.normal");
        prop_assert!(normal.parse::<Subject>().is_err(), "{}", normal);
        let mut built = vec![validated, Subject::next(&pool, &worker)];
        built.extend(EventKind::ALL.iter().filter_map(|kind| Subject::job(&tenant, &job, *kind)));
        for subject in &built[2..] {
            prop_assert!(takes(&Subject::job_filter(&tenant, &job), subject.as_str()));
            prop_assert!(!takes(&Subject::job_filter(&tenant, &other), subject.as_str()));
            prop_assert_eq!(subject.tenant(), Some(tenant.clone()));
            prop_assert_eq!(subject.job_id(), Some(job.clone()));
        }
        built.push(Subject::lease(&worker, LeaseVerb::Beat));
        built.push(Subject::audit(Some(&tenant), AuditKind::Refused));
        for subject in built {
            prop_assert_eq!(subject.as_str().parse(), Ok(subject.clone()));
        }
    }

    #[test]
    fn api_25_any_client_name_becomes_a_safe_one(
        client in any::<String>(), ms in any::<u64>(), again in any::<u32>(),
    ) {
        let name = FileName::for_upload(&client, UnixMs(ms), again);
        prop_assert_eq!(name.as_str().parse::<FileName>(), Ok(name.clone()), "{:?}", client);
        prop_assert!(name.as_str().len() <= FILENAME_BYTES_MAX);
        prop_assert!(no_dot_segments(name.as_str()) && !name.as_str().contains(['/', '\\']));
    }

    #[test]
    fn api_25_path_tricks_become_safe_names(
        client in r"([./\\ a-zA-Z0-9_%-]|\.\.|\.\./|%2e|é|\x00){0,300}",
    ) {
        let name = FileName::for_upload(&client, samples::T0, 0);
        prop_assert_eq!(name.as_str().parse::<FileName>(), Ok(name.clone()), "{:?}", client);
    }

    #[test]
    fn built_keys_parse_back_and_stay_in_their_tenant(
        tenant in SLUG, job in hex_id(), attempt in any::<u32>(), client in any::<String>(),
        text in any::<String>(),
    ) {
        let tenant: TenantId = tenant.parse().unwrap();
        let name = FileName::for_upload(&client, samples::T0, 0);
        let upload: UploadId = job.as_str().parse().unwrap();
        for key in [
            BlobKey::upload(&tenant, &upload, &name),
            BlobKey::output(&tenant, &job, attempt, &name),
            BlobKey::stderr(&tenant, &job, attempt),
        ] {
            prop_assert_eq!(key.as_str().parse(), Ok(key.clone()));
            prop_assert!(no_dot_segments(key.as_str()), "{}", key);
            prop_assert!(key.belongs_to(&tenant));
            let other = if tenant.as_str() == "b" { "c" } else { "b" };
            prop_assert!(!key.belongs_to(&other.parse().unwrap()));
            let changed = key.as_str().replace(name.as_str(), &text);
            if let Ok(parsed) = changed.parse::<BlobKey>() {
                prop_assert!(no_dot_segments(parsed.as_str()) && parsed.belongs_to(&tenant));
            }
        }
    }

    #[test]
    fn a_file_name_that_parses_is_one_safe_segment(text in r"[A-Za-z0-9._\-/ ]{0,140}") {
        if let Ok(name) = text.parse::<FileName>() {
            prop_assert!(no_dot_segments(name.as_str()) && !name.as_str().contains(['/', ' ']));
            prop_assert!((1..=FILENAME_BYTES_MAX).contains(&name.as_str().len()));
        }
    }

    #[test]
    fn brk_42_a_lease_opens_for_its_worker_alone_and_until_it_lapses(
        (tenant, pool, worker) in (SLUG, SLUG, SLUG), job in hex_id(), attempt in any::<u32>(),
        (until, seq) in (1..u64::MAX, any::<u64>()), key in any::<[u8; 32]>(),
        bit in any::<prop::sample::Index>(),
    ) {
        let lease = Lease {
            ack: format!("$JS.ACK.JOBS.work_{pool}_{tenant}.1.{seq}.{seq}.{until}.0"),
            tenant: tenant.parse().unwrap(),
            job,
            pool: pool.parse().unwrap(),
            attempt,
            worker: worker.parse().unwrap(),
            until: UnixMs(until),
            assigned_seq: seq,
        };
        let (own, other_key) = (LeaseKey::new(key), LeaseKey::new(key.map(|byte| !byte)));
        let token = lease.token(&own);
        prop_assert!(token.len() <= TOKEN_BYTES_MAX, "{} bytes", token.len());
        let check = |token: &str, key, worker, now| Lease::check(token, key, worker, UnixMs(now));
        prop_assert_eq!(check(&token, &own, &lease.worker, until), Ok(lease.clone()));
        let late = check(&token, &own, &lease.worker, until + 1);
        prop_assert_eq!(late, Err(LeaseError::Lapsed));
        prop_assert_eq!(check(&token, &other_key, &lease.worker, 0), Err(LeaseError::Forged));
        let other: WorkerId = if worker == "w" { "v" } else { "w" }.parse().unwrap();
        prop_assert_eq!(check(&token, &own, &other, 0), Err(LeaseError::OtherWorker));
        let mut bytes = token.into_bytes();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let flipped = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(check(&flipped, &own, &lease.worker, 0), Err(LeaseError::Forged));
    }

    #[test]
    fn slugs_are_what_the_rule_says(good in SLUG, any_text in any::<String>(), close in "[a-z0-9.*>_ -]{0,42}") {
        let rule = |text: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            (1..=40).contains(&text.len())
                && text.bytes().all(inner)
                && !text.starts_with('-')
                && !text.ends_with('-')
        };
        prop_assert!(good.parse::<TenantId>().is_ok());
        for text in [any_text, close] {
            prop_assert_eq!(text.parse::<TenantId>().is_ok(), rule(&text), "{:?}", text);
            prop_assert_eq!(text.parse::<PoolId>().is_ok(), rule(&text), "{:?}", text);
            prop_assert_eq!(text.parse::<WorkerId>().is_ok(), rule(&text), "{:?}", text);
        }
    }

    #[test]
    fn generated_ids_parse_sort_by_time_and_round_trip_through_json(
        (a, b) in (0..1_u64 << 48, 0..1_u64 << 48), (x, y) in any::<([u8; 10], [u8; 10])>(),
    ) {
        let (first, second) = (JobId::new(a, x), JobId::new(b, y));
        if a != b {
            prop_assert_eq!(first < second, a < b);
        }
        prop_assert_eq!(first.as_str().parse::<JobId>(), Ok(first.clone()));
        let json = serde_json::to_string(&first).unwrap();
        prop_assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), first.clone());
        let upper = first.as_str().to_uppercase();
        prop_assert_eq!(upper.parse::<JobId>().is_ok(), upper == first.as_str());
        prop_assert!(EndpointId::new(a, x).as_str().parse::<DeliveryId>().is_ok());
        let longer = [first.as_str(), "0"].concat();
        prop_assert!(longer.parse::<KeyId>().is_err());
        prop_assert!(serde_json::from_str::<KeyId>("\"..\"").is_err());
    }

    #[test]
    fn digests_have_one_form(bytes in any::<[u8; 32]>(), text in "[0-9a-fA-F]{60,68}") {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        let one_form = text.parse::<Digest>().is_ok_and(|digest| digest.to_string() == text);
        prop_assert_eq!(text.parse::<Digest>().is_ok(), one_form);
    }
}

#[test]
fn the_platform_s_place_is_in_audit_subjects_alone() {
    for route in ROUTES.iter().filter(|route| route.tokens.contains(&Token::Tenant)) {
        let text = samples::concrete(route).replace(".acme", "._");
        assert_eq!(text.parse::<Subject>().is_ok(), route.message == "audit", "{text}");
    }
}

/// Names that are on the wire twice, once by serde and once by `as_str`, are the same name.
#[test]
fn wire_names_agree_and_are_stable() {
    let json = |value: serde_json::Value| value.as_str().unwrap().to_owned();
    for kind in EventKind::ALL {
        assert_eq!(json(serde_json::to_value(kind).unwrap()), kind.as_str());
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
    for role in Role::ALL {
        assert_eq!(json(serde_json::to_value(role).unwrap()), role.as_str());
    }
    for event in WebhookEvent::ALL {
        assert_eq!(json(serde_json::to_value(event).unwrap()), event.as_str());
    }
    for code in RejectCode::ALL {
        assert_eq!(json(serde_json::to_value(code).unwrap()), code.as_str());
        assert!(code.about().trim().ends_with('.'), "{code} has no paragraph");
    }
    let codes: BTreeSet<_> = RejectCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(codes.len(), RejectCode::ALL.len());
    assert!(Role::PIPELINE.iter().all(|role| !matches!(role, Role::Encoder | Role::Tenant)));
    assert_eq!(Role::PIPELINE.len() + 2, Role::ALL.len());
}
