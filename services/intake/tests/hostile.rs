//! Attacks by whoever holds a key, a token or a session that has ended, against intake's own program.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/life.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod life;
#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use futures::future::join_all;
use hotcell_e2e::idp::{AUDIENCE, Idp, Login, ProofKey};
use hotcell_intake::{jwt::encoded, token};
use hotcell_nats_config::{Login as Broker, Terms, key_id_of, testing::NOW};
use hotcell_schemas::{
    Digest, JobId, KeyId, Role,
    identity::{Decided, Outcome, RoleName},
    records::{AuditAct, AuditRecord, KeyRecord, TenantRecord},
};
use hotcell_stage::{
    Shutdown, clock,
    feed::{Feed, envelope},
};
use life::job_of;
use reqwest::{Method, Response};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use world::{DEADLINE, World, answer, tenant, transcode, until};

/// The cache's life and one look at the job; what is left is for a busy machine.
const SOON: Duration = Duration::from_secs(3);

/// Measures of one wait: a machine that stood still spoils one of them, and not each.
const TRIES: usize = 3;

/// The shortest of some waits, of which one must be shorter than `most`.
async fn best(most: Duration, mut wait: impl AsyncFnMut() -> Duration) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        best = best.min(wait().await);
        if best < most {
            break;
        }
    }
    best
}

/// How long a stream goes on from now, at most [`DEADLINE`]; it must end by then.
async fn goes_on(mut stream: Response) -> Duration {
    let began = Instant::now();
    let end = async { while let Ok(Some(_)) = stream.chunk().await {} };
    timeout(DEADLINE, end).await.expect("the stream has no end");
    began.elapsed()
}

/// API-08, IAM-04: what is revoked hears nothing a second later, also where it listens already; nor
/// does a key that has lost a role, or a token at its end.
#[tokio::test]
async fn api_08_a_stream_ends_with_the_credential_that_opened_it() {
    let world = World::start().await;
    let (job, _) = job_of(&world, "acme", 1).await;
    let path = format!("/v1/transcodes/{}/events", job.id);
    let open = async |bearer: &str| {
        let mut stream = world.send(Method::GET, &path, Some(bearer), None).await;
        assert_eq!(stream.status(), 200);
        assert!(timeout(DEADLINE, stream.chunk()).await.unwrap().unwrap().is_some());
        stream
    };
    let store = world.bus(Role::Provisioner).await.bucket("keys");
    let change = async |key: &str, change: fn(&mut KeyRecord)| {
        let id = key_id_of(key).unwrap();
        let mut entry = store.get::<KeyRecord>(id.as_str()).await.unwrap().unwrap();
        change(&mut entry.value);
        store.update(id.as_str(), &entry.value, entry.revision).await.unwrap();
        entry.value
    };
    let went_on = best(SOON, async || {
        let revoked = world.key("acme", &[RoleName::Viewer]).await;
        let (own, token) = (open(&revoked).await, open(&world.token(&revoked).await).await);
        change(&revoked, |key| key.revoked_at = Some(clock::now())).await;
        let (own, token) = tokio::join!(goes_on(own), goes_on(token));
        own.max(token)
    });
    let went_on = went_on.await;
    assert!(went_on < SOON, "a revoked key listened on for {went_on:?}");

    let went_on = best(SOON, async || {
        let lessened = world.key("acme", &[RoleName::Viewer]).await;
        let stream = open(&lessened).await;
        change(&lessened, |key| key.roles = [RoleName::WebhookAdmin].into()).await;
        goes_on(stream).await
    });
    let went_on = went_on.await;
    assert!(went_on < SOON, "a key without its role listened on for {went_on:?}");

    let record = change(&world.key("acme", &[RoleName::Viewer]).await, |_| ()).await;
    let bus = world.bus(Role::Intake).await;
    // Long enough to be opened with it at all.
    const LIFE_SECS: u64 = 6;
    let most = Duration::from_secs(LIFE_SECS) + SOON;
    let went_on = best(most, async || {
        let life = (clock::now(), LIFE_SECS);
        let claims = token::claims(&record, record.roles.clone(), false, life, [1; 16]);
        let text = token::unsigned(&bus.public_key(), &claims);
        let text = format!("{text}.{}", encoded(&bus.sign_token(&text).unwrap()));
        goes_on(open(&text).await).await
    });
    let went_on = went_on.await;
    assert!(went_on < most, "a token of {LIFE_SECS} s listened on for {went_on:?}");
}

/// IAM-05, STEP-16: a tenant's own policy on what is granted holds for a key's successor, whose text
/// the caller gets, as for a new key.
#[tokio::test]
async fn step_16_rotation_gives_no_role_that_policy_forbids_to_give() {
    let world = World::start().await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let make = async |role: &str| {
        let (status, made) = world.post("/v1/keys", &strong, &json!({ "roles": [role] })).await;
        (status, made["result"]["id"].as_str().unwrap_or_default().to_owned(), made)
    };
    let (_, publisher, _) = make("publisher").await;
    let (_, viewer, _) = make("viewer").await;
    let text = "@id(\"no-publishers\")\n@allows(\"any role but publisher\")\nforbid (principal, \
                action == Hotcell::Action::\"ManageKeys\", resource)\n\
                when { context.granted_roles.contains(\"publisher\") };";
    let body = json!({ "text": text }).to_string();
    let put = world.send(Method::PUT, "/v1/policy", Some(&strong), Some(&body)).await;
    assert_eq!(put.status(), 200);
    until(async || (make("publisher").await.0 == 403).then_some(())).await;
    let rotate =
        async |id: &str| world.post(&format!("/v1/keys/{id}/rotate"), &strong, &json!({})).await;
    let (status, problem) = rotate(&publisher).await;
    assert_eq!((status, &problem["policies"]), (403, &json!(["acme/no-publishers"])), "{problem}");
    assert_eq!(rotate(&viewer).await.0, 201);
}

/// BRK-13: whoever asks the gateway's endpoint by itself is bounded as everywhere.
#[tokio::test]
async fn brk_13_decisions_for_gateways_are_counted() {
    let rate = "rate = { replicas = 1, principal_requests_per_sec = 5, failures_per_min = 60 }\n";
    let world = World::start_with(rate).await;
    let viewer = world.key("acme", &[RoleName::Viewer]).await;
    let mut statuses = Vec::new();
    // At once, so that a slow machine asks too often as well.
    for _ in 0..5 {
        let asks = (0..20).map(|_| world.get("/ext-authz/v1/transcodes", &viewer));
        statuses.extend(join_all(asks).await.into_iter().map(|(status, _)| status));
    }
    assert!(statuses.contains(&200) && statuses.contains(&429), "{statuses:?}");
}

const EXTERNAL: &str = "https://api.hotcell.test";

const RULES: &str = "[[rule]]\nclaim = \"groups\"\ncontains = \"video-editors\"\n\
                     tenant = \"acme\"\nroles = [\"viewer\"]\n";

/// ZT-03, STEP-18: a proof is used up where its request is served. The gateway's question before it
/// is no use of it; a request that is served elsewhere has no other place than the question.
#[tokio::test]
async fn zt_03_a_proof_passes_a_gateway_and_is_still_used_once() {
    let (idp, dir) = (Idp::start().unwrap(), tempfile::tempdir().unwrap());
    let rules = dir.path().join("rules.toml");
    std::fs::write(&rules, RULES).unwrap();
    let world = World::start_with(&format!(
        "external_urls = [{EXTERNAL:?}]\n\
         ext_authz = {{ rules = [{{ prefix = \"/studio/\", method = \"GET\", action = \"ReadJob\" }}] }}\n\
         oidc = [{{ issuer = {:?}, audience = {AUDIENCE:?}, rules = {rules:?} }}]",
        idp.issuer
    ))
    .await;
    let key = ProofKey::new();
    let login = Login { user: "ana", key: Some(&key), ..Login::default() };
    let access = idp.browser().sign_in(&login).await.unwrap().access;
    let send = async |path: &str, proof: &str| {
        let request = world.request(Method::GET, path).header("dpop", proof);
        let request = request.header("authorization", format!("DPoP {access}"));
        answer(request.send().await.unwrap()).await.0
    };
    let job = format!("/v1/transcodes/{}", JobId::new(1, [1; 10]));
    let proof = key.proof("GET", &format!("{EXTERNAL}{job}"), Some(&access));
    assert_eq!(send(&format!("/ext-authz{job}"), &proof).await, 200);
    assert_eq!(send(&job, &proof).await, 404, "served: it may, and there is no such job");
    assert_eq!(send(&job, &proof).await, 401, "used");
    let proof = key.proof("GET", &format!("{EXTERNAL}/studio/a"), Some(&access));
    assert_eq!(send("/ext-authz/studio/a", &proof).await, 200);
    assert_eq!(send("/ext-authz/studio/a", &proof).await, 401, "used");
}

/// ZT-13, IAM-15: who is behind a request over the broker, the broker says. What a client writes
/// under the same header is nobody's word, however often and in whatever case it writes it.
#[tokio::test]
async fn zt_13_a_login_cannot_state_itself() {
    let world = World::start().await;
    let (admin, user) = (world.server.admin().await.unwrap(), "viewer".parse().unwrap());
    let terms = Terms::new([RoleName::Viewer], None).unwrap();
    admin.add_program(&tenant("acme"), &user, &terms, NOW).await.unwrap();
    let login = Broker::Tenant { tenant: tenant("acme"), user };
    let client = world.server.connect(&login).await.unwrap();
    let tenants = world.bus(Role::Provisioner).await.bucket("tenants");
    let account = tenants.get::<TenantRecord>("acme").await.unwrap().unwrap().value.account;
    let lie = json!({ "acc": account, "user": "UBOSS", "tags": ["role:tenant-admin"] }).to_string();
    let cancel = async |names: &[&str]| {
        let mut headers = async_nats::HeaderMap::new();
        for name in names {
            headers.append(*name, lie.as_str());
        }
        let body = json!({ "id": JobId::new(1, [1; 10]) }).to_string();
        let answer = client.request_with_headers("api.cancel", headers, body.into()).await.unwrap();
        answer.headers.unwrap().get("Hotcell-Status").unwrap().to_string()
    };
    assert_eq!(cancel(&[]).await, "403", "a viewer cancels nothing");
    let exact = "Nats-Request-Info";
    for names in [
        &[exact][..],
        &[exact, exact],
        &[exact, exact, exact],
        &["nats-request-info"],
        &["nats-request-info", exact, "NATS-REQUEST-INFO"],
    ] {
        assert_eq!(cancel(names).await, "403", "{names:?}");
    }
}

/// BRK-84: the makers of a key are followed through its rotations, however long it was in use.
#[tokio::test]
async fn brk_84_a_key_that_was_rotated_for_years_still_asks_for_approval() {
    let world = World::start().await;
    let key = world.key("acme", &[RoleName::WebhookAdmin]).await;
    let store = world.bus(Role::Provisioner).await.bucket("keys");
    let id = key_id_of(&key).unwrap();
    let mut last = store.get::<KeyRecord>(id.as_str()).await.unwrap().unwrap();
    for month in 0..24 {
        let before = KeyId::new(month, [7; 10]);
        let rotated_from = last.value.rotated_from.replace(before.clone());
        let record = KeyRecord { id: before, rotated_from, ..last.value.clone() };
        store.create(record.id.as_str(), &record).await.unwrap();
    }
    store.update(id.as_str(), &last.value, last.revision).await.unwrap();
    let request = json!({ "method": "POST", "path": "/v1/webhooks",
        "body": { "url": "https://hooks.example/in" } });
    let asked = json!({ "action": "ManageWebhooks", "request": request });
    let (status, told) = world.post("/v1/approvals", &key, &asked).await;
    assert_eq!(status, 201, "{told}");
}

/// The first `count` refusals and challenges in the stream that were decided by the set of `digest`.
async fn decided(world: &World, digest: Digest, count: usize) -> Vec<Decided> {
    let bus = world.bus(Role::Auditor).await;
    let (mut feed, end) = (Feed::new(&bus, "auditor", 64), Shutdown::new());
    let mut found = Vec::new();
    while found.len() < count {
        let message = timeout(DEADLINE, feed.next(&end)).await;
        let message = message.expect("the record is in the stream").unwrap().unwrap();
        let opened = envelope(&message).unwrap().open::<AuditRecord>(bus.trust());
        let Ok(AuditAct::Decision { decided, .. }) = opened.map(|it| it.into_inner().act) else {
            continue;
        };
        found.extend(Some(decided).filter(|decided| decided.digest == digest));
    }
    found
}

/// NEW-07, IAM-17: a policy that cannot be evaluated refuses by its name, says what it allows, and
/// leaves a record of the set like every other refusal; asked beforehand, policy says the same.
#[tokio::test]
async fn iam_17_a_policy_that_fails_refuses_and_is_recorded_as_the_others_are() {
    let world = World::start().await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let text = "@id(\"over\") @allows(\"small sources\")
        forbid (principal, action == Hotcell::Action::\"SubmitTranscode\", resource)
        when { (context.source.bytes + 1) * 9223372036854775807 > 1 };";
    let body = json!({ "text": text }).to_string();
    let put = world.send(Method::PUT, "/v1/policy", Some(&strong), Some(&body)).await;
    assert_eq!(answer(put).await.0, 200);
    let (_, shown) = world.get("/v1/policy", &admin).await;
    let digest = &shown["result"]["digest"];

    let (status, told) = world.post("/v1/transcodes", &admin, &transcode(&file)).await;
    assert_eq!((status, &told["policies"]), (403, &json!(["acme/over"])), "{told}");
    assert_eq!(told["action"], "SubmitTranscode");
    let allowed = told["allowed"][0].as_str().unwrap();
    assert!(allowed.ends_with("allowed is small sources"), "{told}");
    let ask = json!({ "request": transcode(&file) });
    let (status, said) = world.post("/v1/policy/explain", &admin, &ask).await;
    assert_eq!(status, 200, "{said}");
    let first = &said["result"]["decisions"][0];
    for field in ["action", "policies", "allowed"] {
        assert_eq!(first[field], told[field], "{field}");
    }
    assert_eq!((&first["outcome"], &first["digest"]), (&json!("denied"), digest));
    assert_eq!(said["result"]["decisions"][1]["outcome"], "allowed");

    // A challenge and a plain denial beside it.
    let key = json!({ "roles": ["viewer"] });
    assert_eq!(world.post("/v1/keys", &admin, &key).await.0, 401);
    let viewer = world.key("acme", &[RoleName::Viewer]).await;
    assert_eq!(world.post("/v1/keys", &viewer, &key).await.0, 403);
    let digest = digest.as_str().unwrap().parse().unwrap();
    let kept = decided(&world, digest, 3).await;
    let mut kept: Vec<_> =
        kept.iter().map(|it| (it.outcome, it.policies.join(","), it.action.as_str())).collect();
    kept.sort_by_key(|(_, _, action)| *action != "SubmitTranscode");
    let submitted = (Outcome::Denied, "acme/over".to_owned(), "SubmitTranscode");
    let challenged = (Outcome::StepUp, "step-up-keys".to_owned(), "ManageKeys");
    assert_eq!(kept, [submitted, challenged, (Outcome::Denied, String::new(), "ManageKeys")]);
}
