//! Zero trust, first form (NEW-16, ZT-04, BRK-10, IAM-06): every credential tries every subject on
//! a real broker, and what it may do is exactly what the route table says.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::print_stderr, reason = "differences are for the reader of the test")]

#[path = "zero_trust/inbox.rs"]
mod inbox;
#[path = "zero_trust/model.rs"]
mod model;
#[path = "zero_trust/world.rs"]
mod world;

use hotcell_e2e::raw::{Act, Identity, Raw, RawError};
use hotcell_nats_config::{Login, Permissions, Terms, allowed, jwt, testing::NOW};
use hotcell_schemas::{Role, TenantId, identity::RoleName};
use nkeys::KeyPair;
use serde_json::{Value, json};
use world::{Rights, World, job, logins, program, worker};

/// What the tables say that `login` may do of everything that is tried.
fn expected(world: &World, login: &Login) -> Rights {
    let acts = world.acts().into_iter();
    acts.filter(|(act, subject)| model::expected(login, *act, subject)).collect()
}

/// What `nats-config` says.
fn rendered(world: &World, login: &Login) -> Rights {
    let rights = allowed(login);
    let may = |act: &Act, subject: &str| match act {
        Act::Publish => rights.may_publish(subject),
        Act::Subscribe | Act::QueueSubscribe => rights.may_subscribe(subject),
    };
    world.acts().into_iter().filter(|(act, subject)| may(act, subject)).collect()
}

/// What only the left and what only the right has.
fn differences(left: &Rights, right: &Rights) -> (Rights, Rights) {
    (left - right, right - left)
}

#[tokio::test]
async fn new_16_every_login_may_do_exactly_what_the_route_table_says() {
    let world = World::start().await;
    let mut wrong = 0;
    for login in logins() {
        let found = world.rights(&mut world.connect(&login));
        assert!(!found.is_empty(), "{login:?} may do something");
        for (name, wanted) in
            [("the tables", expected(&world, &login)), ("nats-config", rendered(&world, &login))]
        {
            let (more, less) = differences(&found, &wanted);
            for (act, subject) in &more {
                eprintln!("{login:?} may {act:?} {subject}, {name} say it may not");
            }
            for (act, subject) in &less {
                eprintln!("{login:?} may not {act:?} {subject}, {name} say it may");
            }
            wrong += more.len() + less.len();
        }
    }
    assert_eq!(wrong, 0, "differences; see above");
}

// IAM-06: a tenant's login has the same rights on the broker whatever its roles, which are policy's
// to decide on; a suspended or removed tenant's has none, nor has one that somebody kept.
#[tokio::test]
async fn a_tenant_s_logins_of_every_role_and_those_of_one_that_is_not_served() {
    let world = World::start().await;
    let bolt: TenantId = "bolt".parse().unwrap();
    let roles = RoleName::ALL.into_iter().filter(|role| *role != RoleName::Operator);
    let mut kept = Vec::new();
    for role in roles {
        let terms = Terms::new([role], None).unwrap();
        let user = role.as_str().parse().unwrap();
        world.admin.add_program(&bolt, &user, &terms, NOW).await.unwrap();
        let login = program("bolt", role.as_str());
        let mut raw = world.connect(&login);
        let (more, less) = differences(&world.rights(&mut raw), &expected(&world, &login));
        assert!(more.is_empty() && less.is_empty(), "{role}: {more:?} {less:?}");
        kept.push((Identity::of(world.server.creds(&login).unwrap()), raw));
    }
    let refused = |identity: &Identity| {
        let connected = Raw::connect(&world.server.url(), Some(identity));
        assert!(matches!(connected, Err(RawError::Refused(_))), "a login is taken");
    };
    world.admin.suspend_tenant(&bolt, NOW).await.unwrap();
    for (identity, live) in &mut kept {
        assert!(live.may(Act::Publish, "api.get").is_err(), "a live connection is not cut");
        refused(identity);
    }
    world.admin.resume_tenant(&bolt, NOW).await.unwrap();
    for (identity, live) in &mut kept {
        *live = Raw::connect(&world.server.url(), Some(identity)).unwrap();
    }
    world.admin.remove_tenant(&bolt, NOW).await.unwrap();
    for (identity, live) in &mut kept {
        assert!(live.may(Act::Publish, "api.get").is_err(), "a live connection is not cut");
        refused(identity);
    }
    // The other tenant, and every service, as before.
    for login in logins().into_iter().filter(|login| *login != program("bolt", "ci")) {
        assert!(!world.rights(&mut world.connect(&login)).is_empty(), "{login:?}");
    }
}

/// That what is tried is worth trying: of each row there is a subject that somebody may publish,
/// and none that everybody may.
#[tokio::test]
async fn every_row_is_tried_by_one_who_may_and_one_who_may_not() {
    let world = World::start().await;
    let acts = world.acts();
    assert!(acts.len() > 2000, "{} acts", acts.len());
    for route in hotcell_schemas::routes::ROUTES {
        let mut may = 0;
        for (_, subject) in acts.iter().filter(|(act, subject)| {
            *act == Act::Publish && route.matches(subject) && !subject.contains('>')
        }) {
            let allowed = |login: &Login| model::expected(login, Act::Publish, subject);
            let count = logins().iter().filter(|login| allowed(login)).count();
            assert!(count < logins().len(), "{subject}");
            may += count;
        }
        // A tenant publishes under the row's name in its own account.
        assert_eq!(may == 0, route.publishers == [Role::Tenant], "{}", route.name);
    }
}

// BRK-10, ZT-01, BRK-13: the first thing that a stranger meets, also one with a wrong key.
#[tokio::test]
async fn without_a_login_there_is_no_connection() {
    let world = World::start().await;
    let url = world.server.url();
    assert!(matches!(Raw::connect(&url, None), Err(RawError::Refused(_))));
    // Somebody else's JWT without its key, and a self-made operator's.
    let stolen = Identity::of(world.server.creds(&worker("w1", "cpu")).unwrap());
    assert!(Raw::connect(&url, Some(&stolen)).is_ok());
    let stolen = stolen.with_key(KeyPair::new_user());
    assert!(matches!(Raw::connect(&url, Some(&stolen)), Err(RawError::Refused(_))));
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let pipeline = world.admin.installation().keys().pipeline.public_key();
    let body = json!({"type": "user", "version": 2, "issuer_account": pipeline});
    let own = jwt::encode(&account, NOW, &user.public_key(), "signer", &body).unwrap();
    let own = Identity::new(own, user);
    assert!(matches!(Raw::connect(&url, Some(&own)), Err(RawError::Refused(_))));
}

// IAM-06 and BRK-10, spelt out.
#[tokio::test]
async fn neither_worker_nor_tenant_speaks_as_another() {
    let world = World::start().await;
    let mut w1 = world.connect(&worker("w1", "cpu"));
    let mut check = |subject: &str, may: bool| {
        assert_eq!(w1.may(Act::Publish, subject).unwrap(), may, "{subject}");
    };
    check("next.cpu.w1", true);
    check("next.gpu.w1", false);
    check("next.cpu.g1", false);
    check("lease.w1.done", true);
    check("lease.g1.done", false);
    check("lease.w1.release", false);
    check(&format!("job.acme.{}.encoded", job()), false);

    let (own, other) = (&world.accounts[0], &world.accounts[1]);
    let mut acme = world.connect(&program("acme", "app"));
    let mut check = |subject: &str, may: bool| {
        assert_eq!(acme.may(Act::Publish, subject).unwrap(), may, "{subject}");
    };
    check("api.submit", true);
    check(&format!("tenant.{own}.submit"), false);
    check(&format!("tenant.{other}.submit"), false);
    check(&format!("job.acme.{}.submitted", job()), false);

    // What the tenant submits arrives under its own account, which the broker puts there.
    let mut intake = world.connect(&Login::Service(Role::Intake));
    assert!(intake.subscribe("tenant.*.submit").unwrap());
    let forged = [("Nats-Request-Info", json!({"acc": other}).to_string())];
    assert!(acme.publish("api.submit", Some("_INBOX_app.1"), &forged, b"{}").unwrap());
    let heard = intake.next_message().unwrap();
    assert_eq!(heard.subject, format!("tenant.{own}.submit"));
    let info: Value = serde_json::from_str(heard.header("Nats-Request-Info").unwrap()).unwrap();
    assert_eq!(info["acc"], json!(own));

    // A tenant's events reach that tenant only.
    let mut bolt = world.connect(&program("bolt", "ci"));
    assert!(acme.subscribe("events.>").unwrap() && bolt.subscribe("events.>").unwrap());
    let mut webhook = world.connect(&Login::Service(Role::Webhook));
    for kind in ["state", "terminal"] {
        let event = format!("events.{own}.{}.{kind}", job());
        assert!(webhook.publish(&event, None, &[], b"acme's").unwrap());
        assert_eq!(acme.next_message().unwrap().subject, format!("events.{}.{kind}", job()));
    }
    assert_eq!(bolt.settled().unwrap(), []);
}

/// A login of PIPELINE with rights of its own, by the one key of the operator that can.
fn login_with(world: &World, name: &str, rights: &Permissions) -> Raw {
    let keys = world.admin.installation().keys();
    let user = KeyPair::new_user();
    let mut body = serde_json::to_value(rights).unwrap();
    let fields = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
        "issuer_account": keys.pipeline.public_key()});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let jwt = jwt::encode(&keys.pipeline_grants, NOW, &user.public_key(), name, &body).unwrap();
    Raw::connect(&world.server.url(), Some(&Identity::new(jwt, user))).unwrap()
}

// The comparison finds what it is made to find.
#[tokio::test]
async fn one_right_too_many_or_too_few_is_seen() {
    let world = World::start().await;
    let login = Login::Service(Role::Hasher);
    let wanted = expected(&world, &login);
    let seen = |rights: &Permissions| {
        let found = world.rights(&mut login_with(&world, "hasher", rights));
        differences(&found, &wanted)
    };
    let rights = allowed(&login);
    assert_eq!(seen(&rights), (Rights::new(), Rights::new()), "unchanged");

    let mut more = rights.clone();
    more.publish.allow.push("job.*.*.encoded".to_owned());
    more.subscribe.allow.push("_INBOX_signer.x".to_owned());
    let encoded = ["acme", "bolt"].map(|t| (Act::Publish, format!("job.{t}.{}.encoded", job())));
    let inbox =
        [Act::Subscribe, Act::QueueSubscribe].map(|act| (act, "_INBOX_signer.x".to_owned()));
    let extra = encoded.into_iter().chain(inbox).collect();
    assert_eq!(seen(&more), (extra, Rights::new()));

    let mut less = rights;
    less.publish.allow.retain(|filter| filter != "$JS.ACK.JOBS.hasher.>");
    let lost = (Act::Publish, "$JS.ACK.JOBS.hasher.1.2.3.4.5".to_owned());
    assert_eq!(seen(&less), (Rights::new(), Rights::from([lost])));
}
