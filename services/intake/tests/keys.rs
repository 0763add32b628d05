//! API keys and tokens against a real broker: who may make which key, what a second factor opens,
//! and how fast a key that was revoked is dead on every replica.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/load.rs"]
mod load;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod world;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hotcell_intake::{
    token,
    totp::{self, STEP_SECS, WRONG_MAX},
};
use hotcell_nats_config::key_id_of;
use hotcell_schemas::{
    KeyId, Role, UnixMs,
    identity::RoleName,
    records::{KeyIndex, KeyRecord},
};
use hotcell_stage::{clock, kv::Bucket, vault::Vault};
use load::Load;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use world::{TOTP_KEY, World, answer, tenant, until};

const SECRET: [u8; totp::SECRET_BYTES] = *b"CANARY-second-factor";

/// Gives a key of the world a confirmed second factor, as `hotcell up` does for the first tenant.
async fn enroll(world: &World, key: &str) {
    let admin = world.server.admin().await.unwrap();
    let vault = Vault::new(&TOTP_KEY);
    let totp = |record: &KeyRecord| {
        let of = (&record.tenant, &record.id);
        totp::enrolled(&vault, &SECRET, of, clock::random(), (clock::now(), true))
    };
    let id = key_id_of(key).unwrap();
    let roles = [RoleName::TenantAdmin];
    assert!(admin.complete_key(&id, &roles, totp, clock::now()).await.unwrap());
    // The replica may have read the key without it.
    until(|| async {
        let answer = world.send(Method::POST, "/v1/keys", Some(key), Some("{\"roles\":[]}")).await;
        let challenged = answer.headers().get("www-authenticate")?.to_str().ok()?.to_owned();
        challenged.contains("insufficient_user_authentication").then_some(())
    })
    .await;
}

/// A token with the second factor; the code is that of a step which no test uses twice.
async fn stepped_up(world: &World, key: &str, secret: &[u8], ahead: i64) -> String {
    let step = totp::step_of(clock::now()).checked_add_signed(ahead).unwrap();
    let body = json!({ "totp": totp::code(secret, step) });
    let (status, body) = world.post("/v1/token", key, &body).await;
    assert_eq!(status, 200, "{body}");
    body["result"]["accessToken"].as_str().unwrap().to_owned()
}

/// Waits until the present step has at least 10 s left, so that its code is still it when sent.
async fn early_in_a_step() {
    until(|| async { (clock::now().0 / 1000 % STEP_SECS < STEP_SECS - 10).then_some(()) }).await;
}

async fn keys(world: &World) -> Bucket {
    world.bus(Role::Provisioner).await.bucket("keys")
}

async fn record(world: &World, id: &str) -> KeyRecord {
    keys(world).await.get::<KeyRecord>(id).await.unwrap().unwrap().value
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body["result"][name].as_str().unwrap()
}

fn status(found: &(u16, Value)) -> u16 {
    found.0
}

/// API-06, API-07, API-39, IAM-04, STEP-04, STEP-06, STEP-15: the life of a key.
#[tokio::test]
async fn api_39_iam_04_keys_are_made_narrowed_listed_rotated_and_revoked() {
    let world = World::start().await;
    enroll(&world, &world.acme).await;
    early_in_a_step().await;
    let body = json!({ "roles": ["submitter"], "label": "ci" });

    // The key alone is challenged as RFC 9470 says; one without a second factor needs approval.
    let sent = body.to_string();
    let plain = world.send(Method::POST, "/v1/keys", Some(&world.acme), Some(&sent)).await;
    assert_eq!(plain.status(), 401);
    let challenge = plain.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert!(challenge.contains(token::ACR_MFA), "{challenge}");
    let bolt = world.post("/v1/keys", &world.bolt, &body).await;
    assert_eq!(
        (bolt.0, bolt.1["type"].as_str()),
        (403, Some("urn:hotcell:problem:approval-required"))
    );

    let admin = stepped_up(&world, &world.acme, &SECRET, 0).await;
    let made = world.post("/v1/keys", &admin, &body).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let (id, key) = (text(&made.1, "id").to_owned(), text(&made.1, "key").to_owned());
    assert!(key.starts_with(&format!("hck_{id}_")));
    assert_eq!(made.1["result"]["roles"], json!(["submitter"]));
    let own = key_id_of(&world.acme).unwrap();
    assert_eq!(made.1["result"]["createdBy"], json!({ "kind": "apiKey", "id": own }));

    // It does what its role is for, and nothing else.
    let job = "/v1/transcodes/0193a0f0c0de7000800000000000beef";
    assert_eq!(status(&world.get(job, &key).await), 404);
    assert_eq!(status(&world.get("/v1/keys", &key).await), 403);
    assert_eq!(status(&world.post("/v1/keys", &key, &body).await), 403);

    // Nobody can give what a tenant cannot have; no role is no key.
    for (roles, expect) in [(json!(["operator"]), 422), (json!([]), 422), (json!(["root"]), 400)] {
        let found = world.post("/v1/keys", &admin, &json!({ "roles": roles })).await;
        assert!([expect, 403].contains(&found.0) && found.0 != 201, "{roles} {}", found.1);
    }

    listed_to_its_own_tenant(&world, &admin, &id, &key).await;

    // Rotation: the same rights, another secret, and the old one is dead here at once.
    let rotated = world.post(&format!("/v1/keys/{id}/rotate"), &admin, &json!({})).await;
    assert_eq!(rotated.0, 201, "{}", rotated.1);
    let new = text(&rotated.1, "key");
    assert_eq!(rotated.1["result"]["rotatedFrom"], json!(id));
    assert_eq!(
        (&rotated.1["result"]["label"], &rotated.1["result"]["roles"]),
        (&json!("ci"), &json!(["submitter"]))
    );
    assert_eq!(status(&world.get(job, new).await), 404);
    assert_eq!(status(&world.get(job, &key).await), 401);
    assert_eq!(
        status(&world.post(&format!("/v1/keys/{id}/rotate"), &admin, &json!({})).await),
        409
    );

    // Revocation, which may be repeated, and which leaves one record of what was done.
    let new_id = text(&rotated.1, "id");
    for _ in 0..2 {
        let path = format!("/v1/keys/{new_id}");
        let gone = answer(world.send(Method::DELETE, &path, Some(&admin), None).await).await;
        assert_eq!((gone.0, text(&gone.1, "state")), (200, "revoked"));
    }
    assert_eq!(status(&world.get(job, new).await), 401);
    assert_eq!(world.stored("JOBS", "audit.acme.change").await, 3);
    // STEP-13: the second factor that was shown, and each challenge and denial.
    until(|| async { (world.stored("JOBS", "audit.acme.decision").await > 2).then_some(()) }).await;
    for at in [&id, new_id] {
        assert!(record(&world, at).await.revoked_at.is_some());
    }
    let index = keys(&world).await.get::<KeyIndex>("index.acme").await.unwrap().unwrap().value;
    assert_eq!(index.ids.len(), 3);
    no_secret_is_kept(&world, &[&world.acme, &key, new, &admin]).await;
}

/// API-06: who may list keys sees no secret, and nothing of another tenant's.
async fn listed_to_its_own_tenant(world: &World, admin: &str, id: &str, key: &str) {
    let own = key_id_of(&world.acme).unwrap();
    // It is listed without its secret, to its own tenant.
    let (status_, list) = world.get("/v1/keys", admin).await;
    assert_eq!(status_, 200);
    let found: Vec<_> = list["result"]["keys"].as_array().unwrap().iter().collect();
    let ids: Vec<_> = found.iter().map(|key| key["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [own.as_str(), id]);
    assert!(!list.to_string().contains(key.rsplit_once('_').unwrap().1));
    let page = world.get("/v1/keys?limit=1", admin).await.1;
    assert_eq!(page["result"]["next"], json!(own));
    let page = world.get(&format!("/v1/keys?limit=1&after={own}"), admin).await.1;
    assert_eq!(
        (&page["result"]["keys"][0]["id"], &page["result"]["next"]),
        (&json!(id), &Value::Null)
    );
    assert_eq!(status(&world.get(&format!("/v1/keys/{id}"), admin).await), 200);

    // A key of another tenant is not there.
    let foreign = key_id_of(&world.bolt).unwrap();
    for (method, path) in [
        (Method::GET, format!("/v1/keys/{foreign}")),
        (Method::DELETE, format!("/v1/keys/{foreign}")),
        (Method::POST, format!("/v1/keys/{foreign}/rotate")),
        (Method::POST, format!("/v1/keys/{foreign}/totp")),
    ] {
        let found = answer(world.send(method.clone(), &path, Some(admin), None).await).await;
        assert_eq!(found.0, 404, "{method} {path} {}", found.1);
    }
    assert!(record(world, foreign.as_str()).await.revoked_at.is_none());
}

/// API-06: what opens something is in no record, no message and no file of intake, although each of
/// them was used. N's canary looks at a whole installation.
async fn no_secret_is_kept(world: &World, secrets: &[&str]) {
    let encoded = [totp::base32(&SECRET), hex::encode(SECRET), "CANARY".to_owned()];
    // A token's signature may hold a '_', and what is behind that may be one letter.
    let shown = |secret: &str| {
        let at = if secret.starts_with("hck_") { '_' } else { '.' };
        secret.rsplit_once(at).unwrap().1.to_owned()
    };
    let needles: Vec<String> = secrets.iter().map(|secret| shown(secret)).chain(encoded).collect();
    // The search itself is tried on what is kept: the ids of keys.
    let id = key_id_of(secrets[0]).unwrap();
    let mut ids = 0;
    let mut check = |place: &str, bytes: &[u8]| {
        let holds = |needle: &str| bytes.windows(needle.len()).any(|it| it == needle.as_bytes());
        ids += usize::from(holds(id.as_str()));
        for needle in &needles {
            assert!(!holds(needle), "a secret is in {place}");
        }
    };
    for dir in [world.dir(), world.server.dir()] {
        visit(dir, &mut check);
    }
    assert!(ids > 0, "the search finds nothing at all");
}

fn visit(dir: &Path, check: &mut impl FnMut(&str, &[u8])) {
    // What the broker removes meanwhile is gone.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            visit(&path, check);
        } else if let Ok(bytes) = std::fs::read(&path) {
            check(&path.display().to_string(), &bytes);
        }
    }
}

/// STEP-09, STEP-15: a code opens once, on any replica; guesses are closed; the first code confirms.
#[tokio::test]
async fn step_09_a_code_is_good_once_and_guessing_is_closed() {
    let mut world = World::start().await;
    let second = world.replica().await;
    enroll(&world, &world.acme).await;
    early_in_a_step().await;
    let now = totp::step_of(clock::now());
    let code = json!({ "totp": totp::code(&SECRET, now) });

    // Both replicas are shown the same code at the same moment: one of them takes it.
    let url = format!("{second}/v1/token");
    let there = world.client.post(url).bearer_auth(&world.acme).body(code.to_string()).send();
    let (here, there) = tokio::join!(world.post("/v1/token", &world.acme, &code), there);
    let mut both = [here.0, there.unwrap().status().as_u16()];
    both.sort_unstable();
    assert_eq!(both, [200, 409]);
    assert_eq!(status(&world.post("/v1/token", &world.acme, &code).await), 409);
    let before = json!({ "totp": totp::code(&SECRET, now - 1) });
    assert_eq!(status(&world.post("/v1/token", &world.acme, &before).await), 409);

    // A new enrolment counts for nothing until its first code, and needs the second factor itself.
    let path = format!("/v1/keys/{}/totp", key_id_of(&world.acme).unwrap());
    assert_eq!(status(&world.post(&path, &world.acme, &json!({})).await), 401);
    let admin = stepped_up(&world, &world.acme, &SECRET, 1).await;
    let made = world.post("/v1/keys", &admin, &json!({ "roles": ["tenant-admin"] })).await.1;
    let (id, key) = (text(&made, "id").to_owned(), text(&made, "key").to_owned());
    let path = format!("/v1/keys/{id}/totp");
    let enrolled = world.post(&path, &admin, &json!({})).await;
    assert_eq!(enrolled.0, 201, "{}", enrolled.1);
    assert!(text(&enrolled.1, "uri").starts_with("otpauth://totp/hotcell:acme"));
    let secret = totp::from_base32(text(&enrolled.1, "secret")).unwrap();
    assert_eq!(secret.len(), totp::SECRET_BYTES);
    let body = json!({ "roles": ["viewer"] });
    let pending = world.post("/v1/keys", &key, &body).await;
    assert_eq!(pending.1["type"], "urn:hotcell:problem:approval-required");
    let token = stepped_up(&world, &key, &secret, 0).await;
    assert_eq!(status(&world.post("/v1/keys", &token, &body).await), 201);
    assert!(record(&world, &id).await.totp.unwrap().confirmed);

    // Five wrong codes over both replicas, and then not even the right one.
    let wrong = json!({ "totp": "000000" });
    for n in 0..WRONG_MAX {
        let base = if n % 2 == 0 { world.api() } else { &second };
        let url = format!("{base}/v1/token");
        let sent = world.client.post(url).bearer_auth(&key).body(wrong.to_string()).send().await;
        assert_eq!(sent.unwrap().status(), 403, "{n}");
    }
    let right = json!({ "totp": totp::code(&secret, totp::step_of(clock::now()) + 1) });
    let closed = world.send(Method::POST, "/v1/token", Some(&key), Some(&right.to_string())).await;
    assert_eq!(closed.status(), 429);
    let wait: u64 = closed.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=300).contains(&wait), "{wait}");
    // Without a code the key still is what it was.
    assert_eq!(status(&world.post("/v1/token", &key, &json!({})).await), 200);
    no_secret_is_kept(&world, &[&world.acme, &key, &token, &admin]).await;
}

/// IAM-02, IAM-10: what a token is worth, and to whom it is worth nothing.
#[tokio::test]
async fn iam_02_a_token_is_narrow_short_and_no_key() {
    let world = World::start().await;
    let (status_, body) =
        world.post("/v1/token", &world.acme, &json!({ "roles": ["viewer"] })).await;
    assert_eq!(status_, 200, "{body}");
    let viewer = text(&body, "accessToken");
    assert_eq!(status(&world.get("/v1/transcodes", viewer).await), 200);
    assert_eq!(status(&world.get("/v1/keys", viewer).await), 403);
    // Evidence is no part of administering a tenant.
    for role in ["auditor", "operator"] {
        let found = world.post("/v1/token", &world.acme, &json!({ "roles": [role] })).await;
        assert_eq!(found.0, 422, "{}", found.1);
    }
    let (status_, body) = world.post("/v1/token", &world.acme, &json!({})).await;
    assert_eq!(status_, 200, "{body}");
    assert_eq!(
        (&body["result"]["tokenType"], &body["result"]["expiresIn"]),
        (&json!("Bearer"), &json!(300))
    );
    let token = text(&body, "accessToken").to_owned();
    assert_eq!(status(&world.get("/v1/keys", &token).await), 200);
    // No token lives on by itself; nothing else is exchanged.
    assert_eq!(status(&world.post("/v1/token", &token, &json!({})).await), 403);
    let grant = json!({ "grantType": "password" });
    assert_eq!(status(&world.post("/v1/token", &world.acme, &grant).await), 422);
    let totp = json!({ "totp": "123456" });
    assert_eq!(status(&world.post("/v1/token", &world.acme, &totp).await), 422);
    let unknown = json!({ "scope": "all" });
    assert_eq!(status(&world.post("/v1/token", &world.acme, &unknown).await), 400);

    // Tampered with, unsigned, another's, expired: all the same to the caller.
    let parts: Vec<&str> = token.split('.').collect();
    let claims = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let stronger = json!({ "roles": ["operator"], "acr": token::ACR_MFA });
    let mut raised = claims.clone();
    raised.as_object_mut().unwrap().extend(stronger.as_object().unwrap().clone());
    let none = part(&json!({ "alg": "none", "typ": token::TYPE }));
    let stranger = nkeys::KeyPair::new_user();
    let signed = |pair: &nkeys::KeyPair, claims: &Value| {
        let header = json!({ "alg": "EdDSA", "typ": token::TYPE, "kid": pair.public_key() });
        let input = format!("{}.{}", part(&header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(input.as_bytes()).unwrap());
        format!("{input}.{signature}")
    };
    let intake = intake_key(&world);
    assert_eq!(status(&world.get("/v1/keys", &signed(&intake, &claims)).await), 200);
    let mut old = claims.clone();
    for name in ["iat", "exp"] {
        old[name] = json!(claims[name].as_u64().unwrap() - 301);
    }
    let mut other = claims.clone();
    other["tenant"] = json!("bolt");
    for bad in [
        format!("{}.{}.{}", parts[0], part(&raised), parts[2]),
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        signed(&stranger, &claims),
        signed(&intake, &old),
        signed(&intake, &other),
        format!("{token}x"),
    ] {
        let found = world.get("/v1/keys", &bad).await;
        assert_eq!(found.0, 401, "{bad}");
        assert_eq!(found.1["detail"], "the credential is not valid");
    }
    for query in [format!("?access_token={token}"), format!("?x={}", world.acme)] {
        assert_eq!(status(&world.get(&format!("/v1/keys{query}"), &token).await), 401);
    }
}

fn intake_key(world: &World) -> nkeys::KeyPair {
    let installation = world.server.installation().unwrap();
    let login = hotcell_nats_config::Login::Service(Role::Intake);
    let creds = std::fs::read_to_string(installation.creds_path(&login)).unwrap();
    let seed = creds.lines().find(|line| line.starts_with("SU")).unwrap();
    nkeys::KeyPair::from_seed(seed).unwrap()
}

/// API-39, IAM-02: expiry and networks, at the door.
#[tokio::test]
async fn api_39_a_key_ends_and_opens_only_from_its_networks() {
    let world = World::start().await;
    let store = keys(&world).await;
    let id = key_id_of(&world.acme).unwrap();
    let change = async |change: &dyn Fn(&mut KeyRecord), expect: u16| {
        let mut entry = store.get::<KeyRecord>(id.as_str()).await.unwrap().unwrap();
        change(&mut entry.value);
        store.update(id.as_str(), &entry.value, entry.revision).await.unwrap();
        until(|| async {
            (status(&world.get("/v1/keys", &world.acme).await) == expect).then_some(())
        })
        .await;
    };
    change(&|record| record.networks = vec!["10.0.0.0/8".parse().unwrap()], 403).await;
    let (_, problem) = world.get("/v1/keys", &world.acme).await;
    assert_eq!(problem["detail"], "the request comes from outside the key's networks");
    // Who does not hold the secret learns nothing of that.
    let wrong = format!("{}x", world.acme);
    assert_eq!(status(&world.get("/v1/keys", &wrong).await), 401);
    change(&|record| record.networks = vec!["127.0.0.0/8".parse().unwrap()], 200).await;
    let token = world.post("/v1/token", &world.acme, &json!({})).await.1;
    let token = text(&token, "accessToken").to_owned();
    change(&|record| record.networks = vec!["10.0.0.0/8".parse().unwrap()], 403).await;
    assert_eq!(status(&world.get("/v1/keys", &token).await), 403);
    change(&|record| record.networks.clear(), 200).await;
    change(&|record| record.roles.clear(), 403).await;
    change(&|record| record.roles = [RoleName::TenantAdmin].into(), 200).await;
    change(&|record| record.expires_at = Some(UnixMs(clock::now().0 - 1)), 401).await;
    assert_eq!(status(&world.get("/v1/keys", &token).await), 401);
}

/// API-08, API-09: under load on two replicas, not one call with the new key fails, and within a
/// second none with the old one, or with a token of it, succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_08_09_rotation_and_revocation_under_load_on_two_replicas() {
    let mut world = World::start().await;
    let replicas = [world.api().to_owned(), world.replica().await];
    enroll(&world, &world.acme).await;
    early_in_a_step().await;
    let admin = stepped_up(&world, &world.acme, &SECRET, 0).await;
    let made = world.post("/v1/keys", &admin, &json!({ "roles": ["viewer"] })).await.1;
    let mut id = text(&made, "id").to_owned();
    let mut key = text(&made, "key").to_owned();
    for round in 0..3 {
        let token = world.post("/v1/token", &key, &json!({})).await.1;
        let old = [key.clone(), text(&token, "accessToken").to_owned()];
        let load = Load::on(&world, &replicas, &old);
        load.until_calls(40).await;
        let rotated = world.post(&format!("/v1/keys/{id}/rotate"), &admin, &json!({})).await;
        assert_eq!(rotated.0, 201, "{}", rotated.1);
        let (at, before) = (Instant::now(), load);
        id = text(&rotated.1, "id").to_owned();
        key = text(&rotated.1, "key").to_owned();
        let after = Load::on(&world, &replicas, std::slice::from_ref(&key));
        let dead = before.until_dead(at).await;
        after.until_calls(40).await;
        let failed = after.stop().await;
        assert_eq!(failed, 0, "round {round}: calls with the new key failed");
        assert!(dead < Duration::from_secs(1), "round {round}: the old key lived for {dead:?}");
    }
    // Revocation alone.
    let load = Load::on(&world, &replicas, &[key]);
    load.until_calls(40).await;
    let path = format!("/v1/keys/{id}");
    let gone = answer(world.send(Method::DELETE, &path, Some(&admin), None).await).await;
    assert_eq!(gone.0, 200, "{}", gone.1);
    let dead = load.until_dead(Instant::now()).await;
    assert!(dead < Duration::from_secs(1), "the revoked key lived for {dead:?}");
}

/// A crash between the writes of a rotation or of a new key leaves nothing that opens unseen.
#[tokio::test]
async fn api_09_what_a_crash_leaves_of_a_new_key_opens_nothing_and_hides_nothing() {
    let world = World::start().await;
    enroll(&world, &world.acme).await;
    early_in_a_step().await;
    let admin = stepped_up(&world, &world.acme, &SECRET, 0).await;
    // In the list, and no record: the process ended between the two.
    let store = world.bus(Role::Intake).await.bucket("keys");
    let index = store.get::<KeyIndex>("index.acme").await.unwrap().unwrap();
    let mut value = index.value;
    let lost = KeyId::new(clock::now().0, [9; 10]);
    value.ids.insert(lost.clone());
    store.update("index.acme", &value, index.revision).await.unwrap();
    let (status_, list) = world.get("/v1/keys", &admin).await;
    assert_eq!((status_, list["result"]["keys"].as_array().unwrap().len()), (200, 1), "{list}");
    assert_eq!(status(&world.get(&format!("/v1/keys/{lost}"), &admin).await), 404);
    // Both records, the old one not yet revoked: both are listed, and rotating again ends the old.
    let made = world.post("/v1/keys", &admin, &json!({ "roles": ["viewer"] })).await.1;
    let (id, key) = (text(&made, "id").to_owned(), text(&made, "key").to_owned());
    let mut twin = record(&world, &id).await;
    twin.id = KeyId::new(clock::now().0, [8; 10]);
    twin.rotated_from = Some(id.parse().unwrap());
    let index = store.get::<KeyIndex>("index.acme").await.unwrap().unwrap();
    let mut value = index.value;
    value.ids.insert(twin.id.clone());
    store.update("index.acme", &value, index.revision).await.unwrap();
    store.create(twin.id.as_str(), &twin).await.unwrap();
    let (_, list) = world.get("/v1/keys", &admin).await;
    assert_eq!(list["result"]["keys"].as_array().unwrap().len(), 3, "{list}");
    let rotated = world.post(&format!("/v1/keys/{id}/rotate"), &admin, &json!({})).await;
    assert_eq!(rotated.0, 201, "{}", rotated.1);
    assert_eq!(status(&world.get("/v1/transcodes/x", &key).await), 401);
    assert_eq!(tenant("acme"), twin.tenant);
}
