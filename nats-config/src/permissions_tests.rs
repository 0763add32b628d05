//! What the rendered rights allow, and what nobody has.

use super::*;

fn service(role: Role) -> Permissions {
    allowed(&Login::Service(role))
}

fn worker(name: &str, pools: &[&str]) -> Permissions {
    allowed(&Login::Worker {
        name: name.parse().unwrap(),
        pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
    })
}

#[test]
fn covers_is_inclusion_of_filters() {
    let check = |outer, inner, expect| assert_eq!(covers(outer, inner), expect, "{outer} {inner}");
    check("a.b", "a.b", true);
    check("a.*", "a.b", true);
    check("a.*", "a.*", true);
    check("a.*", "a.>", false);
    check("a.>", "a.*.c", true);
    check("a.>", "a.>", true);
    check("a.>", "a", false);
    check("a.b", "a.*", false);
    check("*", "a.b", false);
    check("a.*.c", "a.b", false);
    check(">", "$JS.API.INFO", true);
}

// The broker reads an empty allow list as "everything".
#[test]
fn no_login_has_an_empty_allow_list() {
    for role in Role::ALL {
        let rights = role_permissions(role);
        assert!(!rights.publish.allow.is_empty() && !rights.subscribe.allow.is_empty());
    }
    assert!(!sys_permissions().publish.allow.is_empty());
}

// NEW-16: each event belongs to the roles that the table names, and to no other.
#[test]
fn job_events_are_published_by_their_row_only() {
    for route in ROUTES.iter().filter(|route| route.event().is_some()) {
        let subject = route.filter().replace('*', "x");
        for role in Role::PIPELINE {
            let expect = route.publishers.contains(&role);
            assert_eq!(service(role).may_publish(&subject), expect, "{role} {subject}");
        }
    }
}

#[test]
fn nobody_rewrites_history() {
    let logins = Role::PIPELINE.map(service);
    for verb in ["DELETE", "UPDATE", "PURGE", "MSG.DELETE", "RESTORE", "SNAPSHOT"] {
        for stream in ["JOBS", "HOOKS", "KV_audit"] {
            let subject = format!("$JS.API.STREAM.{verb}.{stream}");
            assert!(logins.iter().all(|login| !login.may_publish(&subject)), "{subject}");
        }
    }
    for subject in ["$JS.API.CONSUMER.DELETE.JOBS.auditor", "$JS.API.DIRECT.GET.JOBS"] {
        assert!(logins.iter().all(|login| !login.may_publish(subject)), "{subject}");
    }
}

// The body form of Direct Get reads a whole stream: never JOBS, and a bucket by its readers.
#[test]
fn whole_streams_are_read_by_a_buckets_readers_only() {
    for role in Role::PIPELINE {
        for stream in StreamId::ALL {
            assert!(!service(role).may_publish(&api::direct_scan(stream.as_str())), "{role}");
        }
        for bucket in BUCKETS {
            let subject = api::direct_scan(&api::bucket_stream(bucket.name));
            let expect = bucket.readers.contains(&role);
            assert_eq!(service(role).may_publish(&subject), expect, "{role} {subject}");
        }
    }
}

#[test]
fn only_the_provisioner_makes_streams_and_consumers() {
    for role in Role::PIPELINE {
        let expect = role == Role::Provisioner;
        for subject in ["$JS.API.STREAM.CREATE.JOBS", "$JS.API.CONSUMER.CREATE.JOBS.spy"] {
            assert_eq!(service(role).may_publish(subject), expect, "{role} {subject}");
        }
    }
}

#[test]
fn the_signer_pulls_work_but_not_from_other_services_durables() {
    let signer = service(Role::Signer);
    assert!(signer.may_publish("$JS.API.CONSUMER.MSG.NEXT.JOBS.work_cpu_acme"));
    assert!(signer.may_publish("$JS.ACK.JOBS.work_cpu_acme.1.2.3.4.5"));
    for row in CONSUMERS {
        for subject in pull_rights(row.stream, row.durable) {
            let subject = subject.replace('>', "1.2.3.4.5");
            for role in Role::PIPELINE {
                let info = subject.contains(".CONSUMER.INFO.") && role == Role::Provisioner;
                let expect = role == row.role || info;
                assert_eq!(service(role).may_publish(&subject), expect, "{role} {subject}");
            }
        }
    }
    assert!(!service(Role::Hasher).may_publish("$JS.ACK.JOBS.work_cpu_acme.1.2.3.4.5"));
}

// BRK-81: the API counts a tenant's waiting work; it takes none.
#[test]
fn brk_81_intake_counts_work_and_pulls_none() {
    let intake = service(Role::Intake);
    assert!(intake.may_publish("$JS.API.CONSUMER.INFO.JOBS.work_cpu_acme"));
    for row in CONSUMERS {
        assert!(!intake.may_publish(&api::consumer_info(row.stream.as_str(), row.durable)));
    }
    assert!(!intake.may_publish("$JS.API.CONSUMER.MSG.NEXT.JOBS.work_cpu_acme"));
    assert!(!intake.may_publish("$JS.ACK.JOBS.work_cpu_acme.1.2.3.4.5"));
    let others = Role::PIPELINE
        .into_iter()
        .filter(|role| !matches!(role, Role::Intake | Role::Signer | Role::Provisioner));
    for role in others {
        assert!(!service(role).may_publish("$JS.API.CONSUMER.INFO.JOBS.work_cpu_acme"));
    }
}

#[test]
fn only_the_signer_hears_events_live_and_only_its_own_rows() {
    let signer = service(Role::Signer);
    for heard in ["job.*.*.validated.*", "job.*.*.encoded", "job.*.*.cancelled"] {
        assert!(signer.may_subscribe(heard), "{heard}");
    }
    assert!(!signer.may_subscribe("job.*.*.submitted"));
    assert!(!signer.may_subscribe("job.>"));
    for role in Role::PIPELINE.into_iter().filter(|role| *role != Role::Signer) {
        assert!(!service(role).may_subscribe("job.*.*.encoded"), "{role}");
    }
}

// BRK-10: a worker's login opens its own two subjects.
#[test]
fn a_worker_asks_as_itself_in_its_pools() {
    let rights = worker("w1", &["cpu", "gpu"]);
    assert_eq!(
        rights.publish.allow,
        [
            "next.cpu.w1",
            "next.gpu.w1",
            "lease.w1.inputs",
            "lease.w1.beat",
            "lease.w1.urls",
            "lease.w1.done"
        ]
    );
    assert_eq!(rights.subscribe.allow, ["_INBOX_w1.>"]);
    assert_eq!(rights.resp, None);
}

#[test]
fn a_tenant_asks_the_api_and_hears_its_events() {
    let rights =
        allowed(&Login::Tenant { tenant: "acme".parse().unwrap(), user: "app".parse().unwrap() });
    let verbs = ["submit", "get", "list", "cancel", "ask", "asked", "approvals"];
    assert_eq!(rights.publish.allow, verbs.map(|verb| format!("api.{verb}")));
    assert_eq!(rights.subscribe.allow, ["_INBOX_app.>", "events.>"]);
}
