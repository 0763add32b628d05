//! The route table holds together, and what it must never allow is absent from it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod samples;

use hotcell_schemas::{
    EventKind, Role, Subject,
    routes::{self, BUCKETS, CONSUMERS, Carrier, ROUTES, Route, StreamId, Token},
    subject::{AuditKind, LeaseVerb, SignVerb},
    tenancy::Priority,
};
use std::collections::BTreeSet;

/// Whether some subject has both shapes. A variable can be any word.
fn overlap(a: &Route, b: &Route) -> bool {
    a.tokens.len() == b.tokens.len()
        && a.tokens.iter().zip(b.tokens).all(|pair| match pair {
            (Token::Lit(a), Token::Lit(b)) => a == b,
            _ => true,
        })
}

/// Whether every subject of the filter `inner` is one of the filter `outer`.
fn covers(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('.'), inner.split('.'));
    loop {
        match (outer.next(), inner.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(word)) if word != ">" => {}
            (Some(expect), Some(word)) if expect == word => {}
            _ => return false,
        }
    }
}

fn publishes(role: Role) -> BTreeSet<&'static str> {
    let rows = ROUTES.iter().filter(|route| route.publishers.contains(&role));
    rows.map(|route| route.name).collect()
}

fn check_publishes(role: Role, expect: &[&str]) {
    assert_eq!(publishes(role), expect.iter().copied().collect(), "{role}");
}

fn all_distinct<T: Ord>(values: impl Iterator<Item = T>) -> bool {
    let values: Vec<T> = values.collect();
    let count = values.len();
    values.into_iter().collect::<BTreeSet<_>>().len() == count
}

#[test]
fn rows_are_named_once_and_never_overlap() {
    assert!(all_distinct(ROUTES.iter().map(|route| route.name)));
    assert!(all_distinct(ROUTES.iter().map(Route::filter)));
    for (index, a) in ROUTES.iter().enumerate() {
        for b in &ROUTES[index + 1..] {
            assert!(!overlap(a, b), "{} and {}", a.pattern(), b.pattern());
        }
        assert_eq!(routes::route(a.name).map(|route| route.name), Some(a.name));
        assert_eq!(routes::route_of(&samples::concrete(a)).map(|route| route.name), Some(a.name));
    }
}

#[test]
fn every_row_has_both_ends_named_once() {
    for route in ROUTES {
        for ends in [route.publishers, route.consumers] {
            assert!(!ends.is_empty(), "{}", route.name);
            assert!(all_distinct(ends.iter()), "{}", route.name);
        }
        assert!(matches!(route.tokens[0], Token::Lit(_)), "{} begins with a word", route.name);
        for token in route.tokens {
            if let Token::Lit(word) = token {
                let plain = word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                assert!(plain && !word.is_empty(), "{}: {word}", route.name);
            }
        }
    }
}

#[test]
fn stream_rows_are_kept_and_others_are_not() {
    for route in ROUTES {
        let kept_by = |stream: StreamId| {
            stream.subjects().iter().any(|subject| covers(subject, &route.filter()))
        };
        let kept: Vec<_> = StreamId::ALL.into_iter().filter(|stream| kept_by(*stream)).collect();
        match route.carrier {
            Carrier::Stream(stream) => assert_eq!(kept, [stream], "{}", route.name),
            Carrier::Request
            | Carrier::WorkerRequest
            | Carrier::TenantRequest
            | Carrier::TenantEvents => assert_eq!(kept, [], "{} is stored", route.name),
        }
    }
}

#[test]
fn consumers_read_rows_that_name_them_and_nobody_is_forgotten() {
    for row in CONSUMERS {
        let same = |other: &&routes::ConsumerRow| {
            other.durable == row.durable && other.stream == row.stream
        };
        assert_eq!(CONSUMERS.iter().filter(same).count(), 1, "{}", row.durable);
        assert!(!row.durable.starts_with("work_"), "{} is a signer's name", row.durable);
        assert!(row.ack_wait_secs > 0 && row.max_ack_pending > 0, "{}", row.durable);
        for route in reads(row) {
            assert_eq!(
                route.carrier,
                Carrier::Stream(row.stream),
                "{} {}",
                row.durable,
                route.name
            );
            assert!(route.consumers.contains(&row.role), "{} reads {}", row.durable, route.name);
        }
        let named = row.routes.iter().all(|name| routes::route(name).is_some());
        assert!(named, "{} reads a row that does not exist", row.durable);
    }
    // The signer's consumers are made for each pool and tenant, so they have no row.
    for route in ROUTES.iter().filter(|route| matches!(route.carrier, Carrier::Stream(_))) {
        for role in route.consumers.iter().filter(|role| **role != Role::Signer) {
            let read = |row: &&routes::ConsumerRow| {
                row.role == *role && reads(row).iter().any(|read| read.name == route.name)
            };
            assert_eq!(CONSUMERS.iter().filter(read).count(), 1, "{role} of {}", route.name);
        }
    }
}

fn reads(row: &routes::ConsumerRow) -> Vec<&'static Route> {
    let mine = |route: &&Route| {
        row.routes.contains(&route.name)
            || row.routes.is_empty() && route.carrier == Carrier::Stream(row.stream)
    };
    ROUTES.iter().filter(mine).collect()
}

#[test]
fn every_event_has_exactly_one_row() {
    for kind in EventKind::ALL {
        let rows: Vec<_> = ROUTES.iter().filter(|route| route.event() == Some(kind)).collect();
        // Work that is ready has a second row for its priority class.
        assert_eq!(rows.len(), 1 + usize::from(kind == EventKind::Validated), "{kind}");
        assert_eq!(rows[0].name, format!("job.{kind}"));
        assert!(rows.iter().all(|row| row.message == "job"));
    }
    let job_rows = ROUTES.iter().filter(|route| route.tokens[0] == Token::Lit("job"));
    assert_eq!(job_rows.count(), EventKind::ALL.len() + 1);
}

#[test]
fn constructors_build_subjects_of_their_rows() {
    let (tenant, job, worker) = (samples::tenant(), samples::job_id(), samples::worker());
    let pool = "cpu".parse().unwrap();
    let mut built = vec![
        Subject::validated(&tenant, &job, &pool),
        Subject::ready(&tenant, &job, &pool, Priority::High),
        Subject::next(&pool, &worker),
        Subject::hooks_create(),
        Subject::hooks_ask(),
        Subject::usage_now(),
        Subject::evidence_export(),
        Subject::terminal(samples::ACCOUNT, &job).unwrap(),
        Subject::state(samples::ACCOUNT, &job).unwrap(),
        Subject::hook_out(&tenant, &samples::endpoint_id(), &samples::delivery_id()),
    ];
    built.extend(EventKind::ALL.iter().filter_map(|kind| Subject::job(&tenant, &job, *kind)));
    let verbs = [LeaseVerb::Inputs, LeaseVerb::Beat, LeaseVerb::Urls, LeaseVerb::Done];
    built.extend(verbs.map(|verb| Subject::lease(&worker, verb)));
    let verbs = [
        SignVerb::Upload,
        SignVerb::Confirm,
        SignVerb::Download,
        SignVerb::Input,
        SignVerb::Output,
    ];
    built.extend(verbs.map(Subject::sign));
    let kinds = [
        AuditKind::Grant,
        AuditKind::Refused,
        AuditKind::Upload,
        AuditKind::Webhook,
        AuditKind::Admin,
        AuditKind::Reaped,
        AuditKind::Violation,
        AuditKind::Decision,
        AuditKind::Change,
    ];
    built.extend(kinds.map(|kind| Subject::audit(Some(&tenant), kind)));
    for subject in &built {
        assert_eq!(samples::subject(subject.route().name), *subject);
    }
    // What a tenant asks is never built here: the broker puts the account's key into it.
    let rows: BTreeSet<_> = built.iter().map(|subject| subject.route().name).collect();
    for route in ROUTES {
        let built_here = route.carrier != Carrier::TenantRequest;
        assert_eq!(rows.contains(route.name), built_here, "{}", route.name);
    }
    for bad in
        ["", ">", "acme", &samples::ACCOUNT.to_lowercase(), &samples::ACCOUNT.replace('A', "")]
    {
        assert!(Subject::terminal(bad, &job).is_err(), "{bad}");
        assert!(Subject::state(bad, &job).is_err(), "{bad}");
    }
    for kind in kinds {
        let platform = Subject::audit(None, kind);
        assert_eq!(platform.as_str().parse(), Ok(platform.clone()));
        assert_eq!(platform.tenant(), None);
    }
}

#[test]
fn buckets_are_named_once_and_closed_to_workers_and_tenants() {
    assert!(all_distinct(BUCKETS.iter().map(|bucket| bucket.name)));
    for bucket in BUCKETS {
        assert!(!bucket.writers.is_empty() && !bucket.readers.is_empty(), "{}", bucket.name);
        for outsider in [Role::Encoder, Role::Tenant] {
            let touches = bucket.writers.contains(&outsider) || bucket.readers.contains(&outsider);
            assert!(!touches, "{outsider} touches {}", bucket.name);
        }
        let reads_own = bucket.writers.iter().all(|role| bucket.readers.contains(role));
        assert!(reads_own, "{}: compare-and-set needs to read", bucket.name);
    }
    for name in ["tenants", "platform"] {
        assert_eq!(routes::bucket(name).unwrap().writers, [Role::Provisioner], "{name}");
    }
    assert_eq!(routes::bucket("audit").unwrap().writers, [Role::Auditor]);
}

/// Zero trust by absence: the whole right to publish of every role, written down a second time.
#[test]
fn brk_35_each_role_publishes_this_and_nothing_else() {
    check_publishes(
        Role::Intake,
        &[
            "job.submitted",
            "job.cancelled",
            "audit.refused",
            "audit.upload",
            "audit.decision",
            "audit.change",
            "sign.upload",
            "sign.confirm",
            "sign.download",
            "hooks.ask",
            "hooks.create",
            "usage.now",
            "evidence.export",
        ],
    );
    check_publishes(
        Role::Validator,
        &["job.validated", "job.prioritised", "job.rejected", "audit.refused", "sign.input"],
    );
    check_publishes(
        Role::Signer,
        &[
            "job.assigned",
            "job.attempt_failed",
            "job.encoded",
            "job.failed",
            "job.expired",
            "audit.grant",
            "audit.refused",
            "audit.reaped",
            "audit.violation",
        ],
    );
    check_publishes(
        Role::Encoder,
        &["next", "lease.inputs", "lease.beat", "lease.urls", "lease.done"],
    );
    check_publishes(Role::Hasher, &["job.completed", "job.failed", "audit.refused", "sign.output"]);
    check_publishes(Role::Auditor, &[]);
    let told = ["audit.refused", "audit.webhook", "hook.out", "events", "events.state"];
    check_publishes(Role::Webhook, &told);
    // What a removed tenant had open is cancelled by whoever removes it.
    check_publishes(Role::Provisioner, &["job.cancelled", "audit.admin"]);
    check_publishes(
        Role::Tenant,
        &[
            "tenant.submit",
            "tenant.get",
            "tenant.list",
            "tenant.cancel",
            "tenant.ask",
            "tenant.asked",
            "tenant.approvals",
        ],
    );
}

#[test]
fn only_one_role_can_say_each_thing_that_moves_a_job() {
    for (row, role) in [
        ("job.submitted", Role::Intake),
        ("job.validated", Role::Validator),
        ("job.assigned", Role::Signer),
        ("job.encoded", Role::Signer),
        ("job.completed", Role::Hasher),
        ("audit.grant", Role::Signer),
        ("audit.admin", Role::Provisioner),
    ] {
        assert_eq!(routes::route(row).unwrap().publishers, [role], "{row}");
    }
}

#[test]
fn workers_and_tenants_reach_nothing_but_their_own_doors() {
    for route in ROUTES {
        let asks = |role| route.publishers.contains(&role);
        assert_eq!(asks(Role::Encoder), route.carrier == Carrier::WorkerRequest, "{}", route.name);
        assert_eq!(asks(Role::Tenant), route.carrier == Carrier::TenantRequest, "{}", route.name);
        assert!(!route.consumers.contains(&Role::Encoder), "a worker reads {}", route.name);
        let told = route.consumers.contains(&Role::Tenant);
        assert_eq!(told, route.carrier == Carrier::TenantEvents, "{}", route.name);
        // Who they are is in the subject, where the broker's permissions can pin it.
        if asks(Role::Encoder) {
            assert!(route.tokens.contains(&Token::Worker), "{}", route.name);
        }
        if asks(Role::Tenant) || told {
            assert!(route.tokens.contains(&Token::Account), "{}", route.name);
        }
        if matches!(route.tokens[0], Token::Lit("sign" | "next" | "lease")) {
            assert_eq!(route.consumers, [Role::Signer], "{}", route.name);
        }
    }
}

#[test]
fn may_publish_is_the_table() {
    for route in ROUTES {
        let subject = samples::subject(route.name);
        for role in Role::ALL {
            let expect = route.publishers.contains(&role);
            assert_eq!(subject.may_publish(role), expect, "{role} on {subject}");
        }
    }
}
