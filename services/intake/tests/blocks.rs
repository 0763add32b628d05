//! Blocking a principal against a real broker and two replicas: each kind of credential works, is dead
//! within a second of a block, and works again after it; who may block and release whom.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/issuer.rs"]
mod issuer;
#[path = "support/life.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod life;
#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hotcell_e2e::idp::{AUDIENCE, ProofKey};
use hotcell_nats_config::{Login, Terms, key_id_of, testing::NOW};
use hotcell_schemas::{
    BlockId, Digest, Role, UnixMs,
    block::{BlockList, BlockRecord, Risk, operators_key},
    identity::RoleName,
    job::Actor,
    records::{KeyRecord, TenantRecord},
};
use hotcell_stage::clock;
use issuer::Issuer;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use world::{World, answer, tenant, until};

/// Where clients find the API, as tokens' proofs say it.
const EXTERNAL: &str = "https://api.hotcell.test";

/// A job that is nobody's: whoever is believed and may read jobs is told so.
const JOB: &str = "/v1/transcodes/0193a0f0c0de7000800000000000beef";

/// After this long each replica has read anew who is blocked; more than the second that is promised.
const HEARD: Duration = Duration::from_millis(1500);

/// Everybody reads jobs.
const RULES: &str = "[[rule]]\nclaim = \"groups\"\ncontains = \"all\"\ntenant = \"acme\"\n\
                     roles = [\"viewer\"]\n[[rule]]\nclient = \"ci\"\ntenant = \"acme\"\n\
                     roles = [\"viewer\"]\n";

impl Issuer {
    async fn world(&self) -> World {
        let oidc = self.configuration();
        let world = World::start_with(&format!("external_urls = [{EXTERNAL:?}]\n{oidc}")).await;
        // Limits on requests are no part of what is asked here.
        let tenants = world.bus(Role::Provisioner).await.bucket("tenants");
        let entry = tenants.get::<TenantRecord>("acme").await.unwrap().unwrap();
        let mut record = entry.value;
        record.quotas.requests_per_sec = 100_000;
        tenants.update("acme", &record, entry.revision).await.unwrap();
        world
    }

    /// A token of the person `sub`, or of the program `client` itself.
    fn token(&self, sub: &str, client: &str, bound_to: Option<&ProofKey>) -> String {
        let now = clock::now().0 / 1000;
        let header = json!({ "typ": "at+jwt", "alg": "ES256", "kid": "1" });
        let mut claims = json!({ "iss": self.url, "aud": AUDIENCE, "iat": now, "exp": now + 900,
            "jti": format!("{sub}-{}", bound_to.is_some()), "sub": sub, "client_id": client });
        if sub != client {
            (claims["groups"], claims["auth_time"]) = (json!(["all"]), json!(now));
        }
        if let Some(key) = bound_to {
            claims["cnf"] = json!({ "jkt": thumbprint(key) });
        }
        self.key.sign(&header, &claims.to_string())
    }

    fn person(&self, sub: &str) -> Value {
        json!({ "kind": "user", "issuer": self.url, "subject": sub })
    }
}

/// RFC 7638 §3.
fn thumbprint(key: &ProofKey) -> String {
    let jwk = key.jwk();
    let (x, y) = (jwk["x"].as_str().unwrap(), jwk["y"].as_str().unwrap());
    let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(Digest::of(text.as_bytes()).as_bytes())
}

/// Something to show.
enum Shown<'a> {
    Bearer(String),
    Bound(String, &'a ProofKey),
    Login(async_nats::Client),
}

/// What came of one call.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Through,
    Blocked,
    Else(u16, String),
}

impl Shown<'_> {
    /// Asks once; `place` is a replica, or its endpoint for gateways.
    async fn ask(&self, world: &World, place: &str) -> Came {
        let (status, body) = match self {
            Self::Login(client) => {
                let answer = client.request("api.list", "{}".into()).await.unwrap();
                let status = answer.headers.unwrap().get("Hotcell-Status").unwrap().to_string();
                (status.parse().unwrap(), serde_json::from_slice(&answer.payload).unwrap())
            }
            Self::Bearer(text) => {
                let request = world.client.get(format!("{place}{JOB}")).bearer_auth(text);
                answer(request.send().await.unwrap()).await
            }
            Self::Bound(text, key) => {
                let proof = key.proof("GET", &format!("{EXTERNAL}{JOB}"), Some(text));
                let request = world.client.get(format!("{place}{JOB}")).header("dpop", proof);
                let request = request.header("authorization", format!("DPoP {text}"));
                answer(request.send().await.unwrap()).await
            }
        };
        match (status, body["type"].as_str()) {
            (200 | 404, _) => Came::Through,
            (403, Some("urn:hotcell:problem:identity-blocked")) => {
                // Which block, and not why.
                assert!(body["block"].as_str().unwrap().parse::<BlockId>().is_ok(), "{body}");
                assert!(!body.to_string().contains("CANARY"), "{body}");
                Came::Blocked
            }
            _ => Came::Else(status, body.to_string()),
        }
    }
}

/// Shows everything everywhere until all of it comes to `end`; how long after `since` the last call
/// began that came to something else.
async fn all_come_to(
    world: &World,
    places: &[String],
    shown: &[(&str, Shown<'_>)],
    end: &Came,
    since: Instant,
) -> Duration {
    let (mut last, deadline) = (Duration::ZERO, Instant::now() + world::DEADLINE);
    loop {
        let mut others = Vec::new();
        for (name, shown) in shown {
            for place in places {
                let at = since.elapsed();
                let came = shown.ask(world, place).await;
                if came != *end {
                    last = at;
                    others.push((*name, came));
                }
            }
        }
        // One of the replicas answers a login: that all have heard of it, only their caches' life says.
        let heard = *end != Came::Blocked || since.elapsed() > HEARD;
        if others.is_empty() && heard {
            return last;
        }
        assert!(Instant::now() < deadline, "not {end:?}: {others:?}");
    }
}

async fn block(world: &World, admin: &str, principal: &Value) -> String {
    let body = json!({ "principal": principal, "reason": "CANARY stolen" });
    let (status, made) = world.post("/v1/blocks", admin, &body).await;
    assert_eq!(status, 201, "{made}");
    made["result"]["id"].as_str().unwrap().to_owned()
}

async fn release(world: &World, strong: &str, id: &str) -> (u16, Value) {
    let path = format!("/v1/blocks/{id}");
    answer(world.send(Method::DELETE, &path, Some(strong), None).await).await
}

/// A key of `roles` that `by` made, or that was rotated from another; its text.
async fn made(world: &World, by: Option<Actor>, from: Option<&str>) -> String {
    let key = world.key("acme", &[RoleName::Viewer]).await;
    let keys = world.bus(Role::Provisioner).await.bucket("keys");
    let id = key_id_of(&key).unwrap();
    let entry = keys.get::<KeyRecord>(id.as_str()).await.unwrap().unwrap();
    let rotated_from = from.and_then(key_id_of);
    let record = KeyRecord { created_by: by, rotated_from, ..entry.value };
    keys.update(id.as_str(), &record, entry.revision).await.unwrap();
    key
}

fn of_key(key: &str) -> Value {
    json!({ "kind": "apiKey", "id": key_id_of(key).unwrap() })
}

/// Where and by whom principals are stopped.
struct Scene<'a> {
    world: &'a World,
    places: &'a [String],
    admin: &'a str,
    strong: &'a str,
}

impl Scene<'_> {
    /// That what `principal` shows works, is dead within a second of its block, of three times once at
    /// least, and works again; and that what `others` show always does.
    async fn stopped_and_back(
        &self,
        principal: &Value,
        shown: &[(&str, Shown<'_>)],
        others: &[(&str, Shown<'_>)],
    ) {
        let come_to = async |shown: &[(&str, Shown<'_>)], end: Came| {
            all_come_to(self.world, self.places, shown, &end, Instant::now()).await
        };
        let mut slow = Vec::new();
        for _ in 0..3 {
            // Nothing forbids it: the credential works everywhere.
            come_to(shown, Came::Through).await;
            // Stopping needs no second factor; going on does.
            let id = block(self.world, self.admin, principal).await;
            let dead = come_to(shown, Came::Blocked).await;
            come_to(others, Came::Through).await;
            assert_eq!(release(self.world, self.admin, &id).await.0, 401, "no second factor");
            assert_eq!(shown[0].1.ask(self.world, &self.places[1]).await, Came::Blocked);
            assert_eq!(release(self.world, self.strong, &id).await.0, 200);
            come_to(shown, Came::Through).await;
            if dead < Duration::from_secs(1) {
                return;
            }
            slow.push(dead);
        }
        panic!("{principal}: alive for {slow:?}");
    }
}

/// IAM-21, IAM-10: whatever a principal shows, on two replicas and at the endpoint for gateways.
#[tokio::test]
async fn iam_21_every_credential_of_a_blocked_principal_is_dead_within_a_second_on_two_replicas() {
    let issuer = Issuer::start(RULES).await;
    let mut world = issuer.world().await;
    let second = world.replica().await;
    let first = world.api().to_owned();
    let places = [first.clone(), second, format!("{first}/ext-authz")];
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let (user, proof_key) = ("ci".parse().unwrap(), ProofKey::new());
    let terms = Terms::new([RoleName::Viewer], None).unwrap();
    world
        .server
        .admin()
        .await
        .unwrap()
        .add_program(&tenant("acme"), &user, &terms, NOW)
        .await
        .unwrap();
    let login = Login::Tenant { tenant: tenant("acme"), user };
    let nkey = world.server.installation().unwrap().creds(&login).unwrap().key.public_key();
    let client = async || Shown::Login(world.server.connect(&login).await.unwrap());
    let bearer = |text: &str| Shown::Bearer(text.to_owned());

    let ana = Actor::User { issuer: issuer.url.clone(), subject: "ana".to_owned() };
    let hers = made(&world, Some(ana), None).await;
    let rotated = made(&world, None, Some(&hers)).await;
    let key = made(&world, None, None).await;
    let people = [
        ("her token", bearer(&issuer.token("ana", "web", None))),
        ("her bound token", Shown::Bound(issuer.token("ana", "web", Some(&proof_key)), &proof_key)),
        ("a key that she made", bearer(&hers)),
        ("a token of it from before", bearer(&world.token(&hers).await)),
        ("a key that was rotated from it", bearer(&rotated)),
    ];
    let keys =
        [("the key", bearer(&key)), ("its token from before", bearer(&world.token(&key).await))];
    let program = [("its token", bearer(&issuer.token("ci", "ci", None)))];
    let logins = [("the login", client().await)];
    let others = [
        ("another person", bearer(&issuer.token("bob", "web", None))),
        ("another key", bearer(&made(&world, None, None).await)),
        ("her namesake of the programs", bearer(&issuer.token("ci", "web", None))),
    ];
    let service = json!({ "kind": "service", "issuer": issuer.url, "client": "ci" });
    let login = json!({ "kind": "natsLogin", "user": nkey, "name": "another name" });
    for (principal, shown) in [
        (issuer.person("ana"), &people[..]),
        (of_key(&key), &keys[..]),
        (service, &program[..]),
        (login, &logins[..]),
    ] {
        let scene = Scene { world: &world, places: &places, admin: &admin, strong: &strong };
        scene.stopped_and_back(&principal, shown, &others).await;
    }
    // A key that is blocked is exchanged for nothing, and learns of no path whether it is there.
    block(&world, &admin, &of_key(&key)).await;
    let told = world.get("/v1/nothing", &key).await;
    assert_eq!((told.0, &told.1["type"]), (403, &json!("urn:hotcell:problem:identity-blocked")));
    let told = world.post("/v1/token", &key, &json!({})).await;
    assert_eq!((told.0, &told.1["type"]), (403, &json!("urn:hotcell:problem:identity-blocked")));
}

/// IAM-21, STEP-13: what a blocked principal asks for is in the evidence, what was done to it, too,
/// and its stream of events ends.
#[tokio::test]
async fn iam_21_a_blocked_caller_s_stream_ends_and_its_calls_are_recorded() {
    let issuer = Issuer::start(RULES).await;
    let world = issuer.world().await;
    let (job, _) = life::job_of(&world, "acme", 1).await;
    let key = made(&world, None, None).await;
    let open = async || {
        let path = format!("/v1/transcodes/{}/events", job.id);
        let mut stream = world.send(Method::GET, &path, Some(&key), None).await;
        assert_eq!(stream.status(), 200);
        assert!(stream.chunk().await.unwrap().is_some(), "the job's first state");
        stream
    };
    let strong = world.stepped_up(&world.enrolled("acme", &[RoleName::TenantAdmin]).await).await;
    let mut slow = Vec::new();
    for round in 0..3 {
        let mut stream = open().await;
        let changes = world.audited("acme", "change").await;
        let id = block(&world, &strong, &of_key(&key)).await;
        assert_eq!(world.audited("acme", "change").await, changes + 1, "{round}");
        let since = Instant::now();
        let rest = async { while stream.chunk().await.unwrap().is_some() {} };
        tokio::time::timeout(world::DEADLINE, rest).await.expect("the stream goes on");
        let ended = since.elapsed();
        let rows = world.audited("acme", "decision").await;
        until(async || (world.get(JOB, &key).await.0 == 403).then_some(())).await;
        until(async || (world.audited("acme", "decision").await > rows).then_some(())).await;
        assert_eq!(release(&world, &strong, &id).await.0, 200);
        assert_eq!(release(&world, &strong, &id).await.0, 404, "it is gone");
        assert_eq!(world.audited("acme", "change").await, changes + 2, "{round}");
        until(async || (world.get(JOB, &key).await.0 == 404).then_some(())).await;
        // Up to half a second each until the stream looks and until the list is read again.
        if ended < Duration::from_millis(1500) {
            return;
        }
        slow.push(ended);
    }
    panic!("the stream went on for {slow:?}");
}

/// IAM-21: who may stop and release whom.
#[tokio::test]
async fn iam_21_nobody_blocks_itself_and_an_operator_s_block_is_the_operator_s_to_lift() {
    let issuer = Issuer::start(RULES).await;
    let world = issuer.world().await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let actor = Actor::ApiKey { id: key_id_of(&admin).unwrap() };
    let child = made(&world, Some(actor), None).await;
    let operator = world.enrolled("acme", &[RoleName::Operator]).await;
    let strong_operator = world.stepped_up(&operator).await;
    let ask = async |who: &str, principal: &Value| {
        let body = json!({ "principal": principal, "reason": "CANARY" });
        let (status, told) = world.post("/v1/blocks", who, &body).await;
        (status, told)
    };
    // Itself, by its key and by a token of it; a key of another tenant, and one of the operator's.
    for who in [&admin, &strong] {
        assert_eq!(ask(who, &of_key(&admin)).await.0, 403);
    }
    assert_eq!(ask(&admin, &of_key(&world.bolt)).await.0, 404);
    assert_eq!(ask(&admin, &of_key(&operator)).await.0, 403);
    assert_eq!(world.get(JOB, &world.bolt).await.0, 404, "another tenant's");
    // Whoever made its key: it would stop itself with it.
    let keys = world.bus(Role::Provisioner).await.bucket("keys");
    let id = key_id_of(&child).unwrap();
    let entry = keys.get::<KeyRecord>(id.as_str()).await.unwrap().unwrap();
    let record = KeyRecord { roles: [RoleName::TenantAdmin].into(), ..entry.value };
    keys.update(id.as_str(), &record, entry.revision).await.unwrap();
    until(async || {
        (ask(&child, &of_key(&admin)).await.1["detail"].as_str()?.contains("itself")).then_some(())
    })
    .await;
    // A tenant's own is the tenant's to lift, another tenant's is not there.
    let person = issuer.person("ana");
    let id = block(&world, &admin, &person).await;
    let bolt = world.stepped_up(&world.enrolled("bolt", &[RoleName::TenantAdmin]).await).await;
    assert_eq!(release(&world, &bolt, &id).await.0, 404);
    assert_eq!(world.get("/v1/blocks", &bolt).await.1["result"]["blocks"], json!([]));
    let listed = world.get("/v1/blocks", &admin).await.1;
    let shown = &listed["result"]["blocks"][0];
    assert_eq!((&shown["id"], &shown["reason"]), (&json!(id), &json!("CANARY stolen")), "{listed}");
    assert_eq!((&shown["principal"], &shown["byOperator"]), (&person, &json!(false)));
    assert_eq!(release(&world, &strong, &id).await.0, 200);
    // An operator's is the operator's.
    let id = ask(&operator, &person).await.1["result"]["id"].as_str().unwrap().to_owned();
    assert_eq!(release(&world, &strong, &id).await.0, 403);
    assert_eq!(release(&world, &strong_operator, &id).await.0, 200);
    // Made on the command line, it is lifted there, by nobody over the API.
    let block = BlockRecord {
        id: BlockId::new(clock::now().0, clock::random()),
        tenant: tenant("acme"),
        principal: Actor::User { issuer: issuer.url.clone(), subject: "ana".to_owned() },
        risk: Risk::STOP,
        reason: "CANARY".to_owned(),
        by: None,
        by_operator: true,
        at: clock::now(),
        until: None,
    };
    let platform = world.bus(Role::Provisioner).await.bucket("platform");
    let list = BlockList { blocks: vec![block.clone()] };
    platform.create(&operators_key(&tenant("acme")), &list).await.unwrap();
    let token = issuer.token("ana", "web", None);
    until(async || (world.get(JOB, &token).await.0 == 403).then_some(())).await;
    for who in [&strong, &strong_operator] {
        assert_eq!(release(&world, who, block.id.as_str()).await.0, 403);
    }
    let told = world.get(JOB, &token).await;
    assert_eq!((told.0, &told.1["block"]), (403, &json!(block.id)));
}

/// IAM-21: a block ends by itself, and repeating one cannot make it end sooner, which would be a
/// release without a second factor. A list that is no list lets nobody in.
#[tokio::test]
async fn iam_21_a_block_ends_at_its_end_and_an_unreadable_list_lets_nobody_in() {
    let issuer = Issuer::start(RULES).await;
    let world = issuer.world().await;
    let admin = world.key("acme", &[RoleName::TenantAdmin]).await;
    let key = made(&world, None, None).await;
    let ask = async |secs: Option<u64>| {
        let mut body = json!({ "principal": of_key(&key), "reason": "CANARY" });
        if let Some(secs) = secs {
            body["expiresInSecs"] = json!(secs);
        }
        let (status, told) = world.post("/v1/blocks", &admin, &body).await;
        (status, told["result"].clone())
    };
    let (status, short) = ask(Some(2)).await;
    assert_eq!(status, 201);
    until(async || (world.get(JOB, &key).await.0 == 404).then_some(())).await;
    let ended: UnixMs = clock::now();
    let made_at = short["at"].as_str().unwrap();
    assert!(UnixMs(ended.0 - 2000).rfc3339().as_str() >= made_at, "it ended before its end");
    assert_eq!(world.get("/v1/blocks", &admin).await.1["result"]["blocks"], json!([]));
    let (status, long) = ask(Some(3600)).await;
    assert_eq!(status, 201);
    assert_ne!(long["id"], short["id"]);
    let changes = world.audited("acme", "change").await;
    let (status, same) = ask(Some(1)).await;
    assert_eq!((status, &same["id"], &same["until"]), (200, &long["id"], &long["until"]));
    assert_eq!(world.audited("acme", "change").await, changes, "nothing was changed");
    let (status, forever) = ask(None).await;
    assert_eq!((status, &forever["id"], &forever["until"]), (200, &long["id"], &Value::Null));
    until(async || (world.get(JOB, &key).await.0 == 403).then_some(())).await;

    // Another key of the tenant, whom nobody has blocked.
    let other = made(&world, None, None).await;
    assert_eq!(world.get(JOB, &other).await.0, 404);
    let blocks = world.bus(Role::Intake).await.bucket("blocks");
    let (_, revision) = blocks.look::<BlockList>("acme").await.unwrap();
    blocks.update("acme", &"no list", revision).await.unwrap();
    until(async || (world.get(JOB, &other).await.0 == 500).then_some(())).await;
    assert_eq!(world.get(JOB, &world.bolt).await.0, 404, "another tenant's list is another");
    let slashed = json!({ "kind": "user", "issuer": format!("{}/", issuer.url), "subject": "ana" });
    let shouted =
        json!({ "kind": "service", "issuer": issuer.url.to_ascii_uppercase(), "client": "ci" });
    for (field, body) in [
        ("reason", json!({ "principal": of_key(&key), "reason": "" })),
        ("principal.subject", json!({ "principal": issuer.person(""), "reason": "x" })),
        // Nobody comes by such a name, so a block of it would stop nobody, and say that it does.
        ("principal.issuer", json!({ "principal": slashed, "reason": "x" })),
        ("principal.issuer", json!({ "principal": shouted, "reason": "x" })),
        ("expiresInSecs", json!({ "principal": of_key(&key), "reason": "x", "expiresInSecs": 0 })),
    ] {
        let (status, told) = world.post("/v1/blocks", &world.bolt, &body).await;
        assert_eq!((status, &told["errors"][0]["field"]), (422, &json!(field)), "{told}");
    }
}
