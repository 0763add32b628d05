//! Every route of the table, by every kind of principal, in every role: what is answered, from one
//! table that names neither Cedar nor a policy. A route without a row fails.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/issuer.rs"]
mod issuer;
#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use futures::{StreamExt as _, stream};
use hotcell_e2e::{
    idp::AUDIENCE,
    roles::{SENSITIVE, may},
};
use hotcell_intake::{
    broker::VERBS,
    routes::{ROUTES, find},
};
use hotcell_nats_config::{Login, Terms, testing::NOW};
use hotcell_schemas::{
    Message, Role, Subject,
    evidence::EvidenceReply,
    hook::{HookAsk, HookAskReply, HookReply, HookVerb},
    identity::{Action, RoleName},
    records::TenantRecord,
};
use hotcell_stage::{Incoming, Shutdown, clock};
use issuer::Issuer;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use world::{World, answer, tenant, until};

/// An id that nothing has.
const NONE: &str = "0193a0f0c0de7000800000000000beef";

/// Kinds of principals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A key without a second factor.
    Key,
    /// A key that has one, and its tokens without and with it.
    Enrolled,
    Token,
    SteppedUp,
    /// A person of an identity provider, without and with a second factor, and with an old one.
    User,
    UserMfa,
    UserStale,
    /// A program of an identity provider.
    Service,
    /// A login in the tenant's own broker account.
    Login,
}

impl Kind {
    /// What a sensitive action is answered with; nothing where it is permitted.
    fn refusal(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Key | Self::Service | Self::Login => Some((403, "approval-required")),
            Self::Enrolled | Self::Token | Self::User | Self::UserStale => {
                Some((401, "step-up-required"))
            }
            Self::SteppedUp | Self::UserMfa => None,
        }
    }
}

/// One route, with a request that is good but for who sends it, and what a principal that may is
/// answered. What names an id names one that is not there.
struct Row {
    method: &'static str,
    path: &'static str,
    body: Value,
    passes: u16,
}

fn rows(file: &str) -> Vec<Row> {
    let row = |method, path, body, passes| Row { method, path, body, passes };
    let none = Value::Null;
    let job = json!({ "inputs": [{ "url": format!("upload:{file}") }], "outputFormat": "mp4",
        "preset": { "quality": "low", "resolution": "480p" } });
    let preset = json!({ "outputFormat": "mp4", "preset": job["preset"] });
    let block = json!({ "principal": { "kind": "apiKey", "id": NONE }, "reason": "x" });
    let upload = json!({ "filename": "a.mp4", "contentType": "video/mp4", "fileSize": 1 });
    vec![
        row("POST", "/v1/upload/presigned-url", upload, 200),
        row("POST", "/v1/upload/confirm", json!({ "filename": "none.mp4", "fileSize": 1 }), 404),
        row("POST", "/v1/transcodes", job.clone(), 202),
        row("GET", "/v1/transcodes", none.clone(), 200),
        row("DELETE", "/v1/transcodes/{id}", none.clone(), 404),
        row("GET", "/v1/transcodes/{id}", none.clone(), 404),
        row("GET", "/v1/transcodes/{id}/events", none.clone(), 404),
        row("GET", "/v1/transcodes/{id}/download", none.clone(), 404),
        row("GET", "/v1/transcodes/{id}/audit", none.clone(), 404),
        row("GET", "/v1/audit/export", none.clone(), 200),
        row("POST", "/v1/webhooks", json!({ "url": "https://hooks.example/in" }), 422),
        row("GET", "/v1/webhooks", none.clone(), 200),
        row("GET", "/v1/webhooks/{id}", none.clone(), 404),
        row("PATCH", "/v1/webhooks/{id}", json!({ "enabled": true }), 404),
        row("DELETE", "/v1/webhooks/{id}", none.clone(), 404),
        row("POST", "/v1/webhooks/{id}/rotate", none.clone(), 404),
        row("POST", "/v1/webhooks/{id}/test", none.clone(), 404),
        row("GET", "/v1/webhooks/{id}/deliveries", none.clone(), 404),
        row("GET", "/v1/webhooks/{id}/deliveries/{delivery}", none.clone(), 404),
        row("POST", "/v1/webhooks/{id}/deliveries/{delivery}/replay", none.clone(), 404),
        row("POST", "/v1/approvals", json!({ "action": "SubmitTranscode", "request": job }), 201),
        row("GET", "/v1/approvals", none.clone(), 200),
        row("GET", "/v1/approvals/{id}", none.clone(), 404),
        row("POST", "/v1/approvals/{id}/approve", none.clone(), 404),
        row("POST", "/v1/approvals/{id}/reject", none.clone(), 404),
        row("GET", "/v1/blocks", none.clone(), 200),
        row("POST", "/v1/blocks", block, 404),
        row("DELETE", "/v1/blocks/{id}", none.clone(), 404),
        row("GET", "/v1/policy", none.clone(), 200),
        row("PUT", "/v1/policy", json!({ "text": "" }), 200),
        row("GET", "/v1/policy/versions", none.clone(), 200),
        row("GET", "/v1/policy/versions/{id}", none.clone(), 404),
        row("GET", "/v1/policy/step-up", none.clone(), 200),
        row("POST", "/v1/policy/explain", json!({ "request": job }), 200),
        row("POST", "/v1/keys", json!({ "roles": ["viewer"] }), 201),
        row("GET", "/v1/presets", none.clone(), 200),
        row("GET", "/v1/presets/{id}", none.clone(), 404),
        row("DELETE", "/v1/presets/{id}", none.clone(), 404),
        // The last of them, since it leaves one.
        row("PUT", "/v1/presets/{id}", preset, 200),
        row("GET", "/v1/usage", none.clone(), 200),
        row("GET", "/v1/destinations", none.clone(), 200),
        row("GET", "/v1/keys", none.clone(), 200),
        row("GET", "/v1/keys/{id}", none.clone(), 404),
        row("DELETE", "/v1/keys/{id}", none.clone(), 404),
        row("POST", "/v1/keys/{id}/rotate", none.clone(), 404),
        row("POST", "/v1/keys/{id}/totp", none, 404),
    ]
}

/// Rules by which users and clients have the role of their name.
fn rules() -> String {
    let rule = |role| {
        format!(
            "[[rule]]\nclaim = \"groups\"\ncontains = \"{role}\"\ntenant = \"acme\"\n\
             roles = [\"{role}\"]\n[[rule]]\nclient = \"svc-{role}\"\ntenant = \"acme\"\n\
             roles = [\"{role}\"]\n"
        )
    };
    given().map(rule).collect()
}

impl Issuer {
    fn token(&self, kind: Kind, role: RoleName) -> String {
        let now = clock::now().0 / 1000;
        let header = json!({ "typ": "at+jwt", "alg": "ES256", "kid": "1" });
        let mut claims = json!({ "iss": self.url, "aud": AUDIENCE, "iat": now, "exp": now + 300,
            "jti": format!("{kind:?}-{role}") });
        if kind == Kind::Service {
            (claims["sub"], claims["client_id"]) =
                (json!(format!("svc-{role}")), json!(format!("svc-{role}")));
        } else {
            (claims["sub"], claims["client_id"]) = (json!("ana"), json!("web"));
            claims["groups"] = json!([role]);
            claims["auth_time"] = json!(now);
        }
        if matches!(kind, Kind::UserMfa | Kind::UserStale) {
            claims["acr"] = json!("urn:hotcell:acr:mfa");
        }
        if kind == Kind::UserStale {
            claims["auth_time"] = json!(now - 400);
        }
        self.key.sign(&header, &claims.to_string())
    }
}

/// Roles that a provider's token can have: an operator is made on the command line only.
fn given() -> impl Iterator<Item = RoleName> {
    RoleName::ALL.into_iter().filter(|role| *role != RoleName::Operator)
}

/// A neighbour that gives one answer to everything.
async fn neighbour<A>(world: &World, parts: &mut JoinSet<()>, of: (Role, Subject), answer: A)
where
    A: Message + Send + Sync + 'static,
{
    let ((role, subject), answer) = (of, Arc::new(answer));
    let bus = world.bus(role).await;
    let serving = bus.clone();
    parts.spawn(async move {
        let handle = move |incoming: Incoming| {
            let answer = Arc::clone(&answer);
            async move { incoming.answer(answer.as_ref()).await }
        };
        serving.serve(subject.as_str(), "all", 8, Shutdown::new(), handle).await.unwrap();
    });
    bus.flush().await;
}

/// Webhooks are refused by who owns their rules, so that nothing is left behind.
async fn webhook_service(world: &World, parts: &mut JoinSet<()>) {
    let refused = HookReply::Refused { field: "url".to_owned(), rule: "refused".to_owned() };
    neighbour(world, parts, (Role::Webhook, Subject::hooks_create()), refused).await;
    // A list of none, and so nothing by any id.
    let bus = world.bus(Role::Webhook).await;
    let serving = bus.clone();
    parts.spawn(async move {
        let handle = async |incoming: Incoming| {
            let verb = incoming.open::<HookAsk>().unwrap().into_inner().verb;
            let list = HookAskReply::Endpoints { endpoints: Vec::new() };
            let none = HookAskReply::Missing {};
            incoming.answer(if verb == (HookVerb::List {}) { &list } else { &none }).await;
        };
        let subject = Subject::hooks_ask();
        serving.serve(subject.as_str(), "all", 8, Shutdown::new(), handle).await.unwrap();
    });
    bus.flush().await;
}

/// An auditor whose log has nothing of the tenant; `tests/evidence.rs` has one that is real.
async fn auditor(world: &World, parts: &mut JoinSet<()>) {
    let page = EvidenceReply::Page { rows: Vec::new(), next: None, checkpoint: None };
    neighbour(world, parts, (Role::Auditor, Subject::evidence_export()), page).await;
}

/// A plan whose limits on requests are no part of what is asked here.
async fn unhurried(world: &World) {
    let tenants = world.bus(Role::Provisioner).await.bucket("tenants");
    let entry = tenants.get::<TenantRecord>("acme").await.unwrap().unwrap();
    let mut record = entry.value;
    (record.quotas.requests_per_sec, record.quotas.jobs_per_min) = (100_000, 100_000);
    tenants.update("acme", &record, entry.revision).await.unwrap();
}

/// Tokens and second factors are good for five minutes; what is older than this is made anew.
const FRESH: Duration = Duration::from_secs(100);

async fn principals(world: &World, issuer: &Issuer) -> BTreeMap<(Kind, RoleName), String> {
    let mut all = BTreeMap::new();
    for role in RoleName::ALL {
        let enrolled = world.enrolled("acme", &[role]).await;
        all.insert((Kind::Key, role), world.key("acme", &[role]).await);
        all.insert((Kind::Token, role), world.token(&enrolled).await);
        all.insert((Kind::SteppedUp, role), world.stepped_up(&enrolled).await);
        all.insert((Kind::Enrolled, role), enrolled);
    }
    for role in given() {
        for kind in [Kind::User, Kind::UserMfa, Kind::UserStale, Kind::Service] {
            all.insert((kind, role), issuer.token(kind, role));
        }
    }
    all
}

fn expected(row: &Row, action: Option<Action>, kind: Kind, role: RoleName) -> (u16, &'static str) {
    let Some(action) = action else {
        return (row.passes, "");
    };
    if !may(role).contains(&action) {
        return (403, "forbidden");
    }
    match kind.refusal() {
        Some(refusal) if SENSITIVE.contains(&action) => refusal,
        _ => (row.passes, ""),
    }
}

/// IAM-05, STEP-06, STEP-15, ZT-13: the whole table.
#[tokio::test]
async fn iam_05_every_route_by_every_principal_in_every_role() {
    let issuer = Issuer::start(&rules()).await;
    let world = World::start_with(&issuer.configuration()).await;
    let mut parts = JoinSet::new();
    webhook_service(&world, &mut parts).await;
    auditor(&world, &mut parts).await;
    unhurried(&world).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let rows = rows(&file);
    let (mut since, mut everyone) = (Instant::now(), principals(&world, &issuer).await);
    let mut wrong = Vec::new();
    for route in ROUTES.iter().filter(|route| route.needs_auth() && route.action.is_some()) {
        let row = rows.iter().find(|row| row.path == route.path && route.method == row.method);
        let row = row.unwrap_or_else(|| panic!("no row for {} {}", route.method, route.path));
        let path = row.path.replace("{id}", NONE).replace("{delivery}", NONE);
        let body = if row.body.is_null() { String::new() } else { row.body.to_string() };
        let send = async |bearer: Option<&str>| {
            answer(world.send(route.method.clone(), &path, bearer, Some(&body)).await).await
        };
        assert_eq!(send(None).await.0, 401, "{} {path}", route.method);
        if since.elapsed() > FRESH {
            (since, everyone) = (Instant::now(), principals(&world, &issuer).await);
        }
        for ((kind, role), bearer) in &everyone {
            let (status, told) = send(Some(bearer)).await;
            let told = told["type"].as_str().unwrap_or_default();
            let (want, problem) = expected(row, route.action, *kind, *role);
            let type_fits = problem.is_empty() || told.ends_with(&format!(":{problem}"));
            if status != want || !type_fits {
                wrong.push(format!(
                    "{} {} {kind:?} {role}: {status} {told}, not {want} {problem}",
                    route.method, route.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    let known: BTreeSet<_> = ROUTES.iter().map(|it| (it.method.as_str(), it.path)).collect();
    for row in &rows {
        assert!(known.contains(&(row.method, row.path)), "no route {} {}", row.method, row.path);
    }
}

/// BRK-81, IAM-15: the broker's door answers a login of a role as HTTP answers a key of it.
#[tokio::test]
async fn iam_15_every_verb_by_a_login_of_every_role() {
    let world = World::start().await;
    unhurried(&world).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let (rows, admin) = (rows(&file), world.server.admin().await.unwrap());
    for role in given() {
        let user = role.as_str().parse().unwrap();
        let terms = Terms::new([role], None).unwrap();
        admin.add_program(&tenant("acme"), &user, &terms, NOW).await.unwrap();
        let login = Login::Tenant { tenant: tenant("acme"), user };
        let client = world.server.connect(&login).await.unwrap();
        for verb in VERBS {
            let (method, path) = &verb.twin;
            let fits = |row: &&Row| row.path == *path && row.method == *method;
            let row = rows.iter().find(fits).unwrap();
            let body = match (row.body.is_null(), path.contains("{id}")) {
                (false, _) => row.body.clone(),
                (true, true) => json!({ "id": NONE }),
                (true, false) => json!({}),
            };
            let api = verb.name.replacen("tenant.", "api.", 1);
            let answer = client.request(api, body.to_string().into()).await.unwrap();
            let status = answer.headers.unwrap().get("Hotcell-Status").unwrap().to_string();
            let action = find(method, path).unwrap().action;
            let (want, _) = expected(row, action, Kind::Login, role);
            assert_eq!(status, want.to_string(), "{} {role}", verb.name);
        }
    }
}

/// BRK-83, STEP-13: every route that is no GET leaves exactly one row when it is refused, and when
/// it passes the gate exactly one of its own kind.
#[tokio::test]
async fn brk_83_every_changing_route_leaves_one_row_when_refused_and_one_when_done() {
    let world = World::start().await;
    let mut parts = JoinSet::new();
    webhook_service(&world, &mut parts).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let rows = rows(&file);
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    // Nobody waits for the row of a decision, so that of the second factor may be on its way.
    until(async || (world.audited("acme", "decision").await > 0).then_some(())).await;
    // A submission is its own record.
    let total = async || {
        world.audited("acme", ">").await + world.stored("JOBS", "job.acme.*.submitted").await
    };
    for row in rows.iter().filter(|row| row.method != "GET") {
        let route = ROUTES.iter().find(|it| it.path == row.path && it.method == row.method);
        let action = route.unwrap().action.unwrap();
        let reads = matches!(action, Action::ReadPolicy);
        let method: Method = row.method.parse().unwrap();
        let send = async |bearer: &str| {
            let path = row.path.replace("{id}", NONE).replace("{delivery}", NONE);
            let body = if row.body.is_null() { String::new() } else { row.body.to_string() };
            answer(world.send(method.clone(), &path, Some(bearer), Some(&body)).await).await.0
        };
        // A publisher may ask for approvals; everything else here it may not.
        if action != Action::RequestApproval {
            // A key of its own for each: of one that is refused often in a second not all is recorded.
            let nobody = world.key("acme", &[RoleName::Publisher]).await;
            let before = (total().await, world.audited("acme", "decision").await);
            assert_eq!(send(&nobody).await, 403, "{}", row.path);
            until(async || (world.audited("acme", "decision").await == before.1 + 1).then_some(()))
                .await;
            assert_eq!(total().await, before.0 + 1, "refused: {} {}", row.method, row.path);
        }
        // What ends at 404 has changed nothing, and says nothing; the rest says one thing. An upload's
        // URL is recorded by the signer, which signs it.
        let quiet = row.passes == 404 || reads || row.path == "/v1/upload/presigned-url";
        let before = total().await;
        assert_eq!(send(&strong).await, row.passes, "{}", row.path);
        let after = before + u64::from(!quiet);
        assert_eq!(total().await, after, "done: {} {}", row.method, row.path);
    }
    // What changes by id, on ids that are there.
    let mut keys = Vec::new();
    for _ in 0..3 {
        let (_, made) = world.post("/v1/keys", &strong, &json!({ "roles": ["viewer"] })).await;
        keys.push(made["result"]["id"].as_str().unwrap().to_owned());
    }
    let machine = world.key("acme", &[RoleName::Submitter]).await;
    let asked = json!({ "action": "SubmitTranscode", "request": rows[2].body });
    let mut approvals = Vec::new();
    for _ in 0..2 {
        let (_, made) = world.post("/v1/approvals", &machine, &asked).await;
        approvals.push(made["result"]["id"].as_str().unwrap().to_owned());
    }
    let stopped = json!({ "principal": { "kind": "apiKey", "id": keys[0] }, "reason": "x" });
    let before = total().await;
    let (_, made) = world.post("/v1/blocks", &strong, &stopped).await;
    let block = made["result"]["id"].as_str().unwrap().to_owned();
    assert_eq!(total().await, before + 1, "{made}");
    let (_, made) = world.post("/v1/transcodes", &strong, &rows[2].body).await;
    let job = made["result"]["id"].as_str().unwrap().to_owned();
    for (method, path, status) in [
        (Method::POST, format!("/v1/keys/{}/totp", keys[0]), 201),
        (Method::POST, format!("/v1/keys/{}/rotate", keys[1]), 201),
        (Method::DELETE, format!("/v1/keys/{}", keys[2]), 200),
        (Method::POST, format!("/v1/approvals/{}/approve", approvals[0]), 200),
        (Method::POST, format!("/v1/approvals/{}/reject", approvals[1]), 200),
        (Method::DELETE, format!("/v1/blocks/{block}"), 200),
        (Method::DELETE, format!("/v1/transcodes/{job}"), 200),
    ] {
        let before = total().await;
        let (found, body) =
            answer(world.send(method, &path, Some(&strong), Some("{}")).await).await;
        assert_eq!(found, status, "{path} {body}");
        assert_eq!(total().await, before + 1, "{path}");
    }
}

/// STEP-13: a flood of refusals does not make the log grow with it, and another's is still there.
#[tokio::test]
async fn step_13_a_flood_of_refusals_is_counted_not_recorded() {
    let world = World::start().await;
    let (loud, quiet) = (
        world.key("acme", &[RoleName::Viewer]).await,
        world.key("bolt", &[RoleName::Viewer]).await,
    );
    let body = json!({ "roles": ["viewer"] });
    let began = Instant::now();
    // Many at once: one after the other they are no flood where each takes its time.
    let flood = async || {
        let posts = (0..300).map(|_| world.post("/v1/keys", &loud, &body));
        let answers: Vec<_> = stream::iter(posts).buffer_unordered(32).collect().await;
        assert!(answers.iter().all(|(status, _)| [403, 429].contains(status)), "{answers:?}");
    };
    flood().await;
    assert_eq!(world.post("/v1/keys", &quiet, &body).await.0, 403);
    until(async || (world.audited("bolt", "decision").await == 1).then_some(())).await;
    let seconds = began.elapsed().as_secs() + 2;
    let recorded = world.audited("acme", "decision").await;
    assert!(recorded <= 16 * seconds, "{recorded} records in {seconds} s");
    until(async || (world.audited("_", "refused").await > 0).then_some(())).await;
}
