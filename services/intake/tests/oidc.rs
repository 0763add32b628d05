//! Access tokens of a real identity provider, and of one that tells lies, at the real intake.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use axum::{Json, Router, routing::get};
use hotcell_e2e::idp::{ACME_RULES, AUDIENCE, Idp, Login, OTHER_AUDIENCE, ProofKey, Tokens};
use hotcell_schemas::JobId;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::task::JoinSet;
use world::{World, answer, until};

/// Where clients see the API: a proxy's address, not the one that intake listens on.
const EXTERNAL: &str = "https://api.hotcell.test";

/// Beside those of acme's people.
const RULES: &str = r#"
[[rule]]
claim = "groups"
contains = "bolt-editors"
tenant = "bolt"
roles = ["submitter"]

[[rule]]
client = "ci"
tenant = "acme"
roles = ["viewer"]

[[rule]]
client = "ci-eddsa"
tenant = "acme"
roles = ["viewer"]

[[rule]]
client = "ci-ps256"
tenant = "acme"
roles = ["viewer"]

[[rule]]
client = "ci-rs256"
tenant = "acme"
roles = ["viewer"]
"#;

/// An issuer that signs whatever a test wants, under the name of a key that another one has.
struct Liar {
    key: ProofKey,
    issuer: String,
    _served: JoinSet<()>,
}

impl Liar {
    async fn start() -> Self {
        let key = ProofKey::new();
        let mut jwk = key.jwk();
        (jwk["kid"], jwk["alg"]) = (json!("ES256-1"), json!("ES256"));
        let keys = json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "oct" }, jwk] });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/keys", get(async || Json(keys)));
        let mut served = JoinSet::new();
        served.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { key, issuer, _served: served }
    }

    fn header() -> Value {
        json!({ "typ": "at+jwt", "alg": "ES256", "kid": "ES256-1" })
    }

    fn claims(&self) -> Value {
        let now = hotcell_stage::clock::now().0 / 1000;
        json!({
            "iss": self.issuer, "aud": AUDIENCE, "sub": "mallory", "client_id": "web", "jti": "j",
            "iat": now, "exp": now + 300, "auth_time": now, "groups": ["video-editors"],
        })
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        self.key.sign(header, &claims.to_string())
    }
}

struct Scene {
    world: World,
    idp: Idp,
    liar: Liar,
    rules: PathBuf,
    _dir: TempDir,
}

impl Scene {
    async fn start() -> Self {
        let (idp, liar, dir) =
            (Idp::start().unwrap(), Liar::start().await, TempDir::new().unwrap());
        let rules = dir.path().join("rules.toml");
        std::fs::write(&rules, [ACME_RULES, RULES].concat()).unwrap();
        let world = World::start_with(&configuration(&idp.issuer, &liar, &rules)).await;
        Self { world, idp, liar, rules, _dir: dir }
    }

    /// The status that a token gets for reading a job that is not there: 404 when it may.
    async fn bearer(&self, token: &str) -> u16 {
        answer(self.world.send(Method::GET, &job(), Some(token), None).await).await.0
    }

    async fn bound(&self, scheme: &str, token: &str, proofs: &[&str]) -> Response {
        let mut request = self.world.request(Method::GET, &job());
        request = request.header("authorization", format!("{scheme} {token}"));
        for proof in proofs {
            request = request.header("dpop", *proof);
        }
        request.send().await.unwrap()
    }
}

fn configuration(issuer: &str, liar: &Liar, rules: &PathBuf) -> String {
    format!(
        "external_urls = [{EXTERNAL:?}]\n\
         oidc = [{{ issuer = {issuer:?}, audience = {AUDIENCE:?}, rules = {rules:?} }}, \
         {{ issuer = {:?}, audience = {AUDIENCE:?}, rules = {rules:?}, jwks_uri = {:?} }}]",
        liar.issuer,
        format!("{}/keys", liar.issuer),
    )
}

fn job() -> String {
    format!("/v1/transcodes/{}", JobId::new(1, [1; 10]))
}

fn challenge(response: &Response) -> &str {
    response.headers()["www-authenticate"].to_str().unwrap()
}

#[tokio::test]
async fn iam_14_access_tokens_of_a_real_provider_are_believed_and_nothing_else_of_it_is() {
    let scene = Scene::start().await;
    for client in ["ci", "ci-eddsa", "ci-ps256", "ci-rs256"] {
        let token = scene.idp.program(client, None).await.unwrap();
        assert_eq!(scene.bearer(&token.access).await, 404, "{client}");
    }
    let ana = scene.idp.person("ana", false).await.unwrap();
    assert_eq!((ana.kind.as_str(), scene.bearer(&ana.access).await), ("Bearer", 404));
    // What is signed by the same key, but is not for us.
    assert_eq!(scene.bearer(&ana.id.unwrap()).await, 401, "an ID token");
    let other = scene.idp.program_for("ci", None, OTHER_AUDIENCE).await.unwrap();
    assert_eq!(scene.bearer(&other.access).await, 401, "another audience");
    let tampered = ana.access.replacen(".ey", ".fy", 1);
    assert_eq!(scene.bearer(&tampered).await, 401);
    let response = scene.world.send(Method::GET, &job(), Some(&other.access), None).await;
    assert_eq!(challenge(&response), r#"Bearer realm="hotcell", error="invalid_token""#);
    // Known, and nobody here: not a question of who.
    let nobody = scene.idp.person("nob", true).await.unwrap();
    assert_eq!(scene.bearer(&nobody.access).await, 403);
    // API-04 holds for tokens, too.
    let path = format!("{}?access_token={}", job(), ana.access);
    let response = scene.world.send(Method::GET, &path, Some(&ana.access), None).await;
    assert_eq!(response.status().as_u16(), 401);
}

#[tokio::test]
async fn iam_16_another_group_is_another_role_at_the_next_token_with_no_step_of_an_administrator() {
    let scene = Scene::start().await;
    let policy = async |token: &str| scene.world.get("/v1/keys", token).await.0;
    let before = scene.idp.person("ana", false).await.unwrap();
    assert_eq!(policy(&before.access).await, 403, "an editor does not see keys");
    scene.idp.regroup("ana", &["video-leads"]).await.unwrap();
    let after = scene.idp.person("ana", false).await.unwrap();
    assert_eq!(policy(&after.access).await, 200);
    assert_eq!(policy(&before.access).await, 403, "the old token says what it said");
    // IAM-17: the same by the file, without a restart, and for tokens that are out already.
    let lowered = ACME_RULES.replace("tenant-admin", "viewer");
    std::fs::write(&scene.rules, [&lowered, RULES].concat()).unwrap();
    until(async || (policy(&after.access).await == 403).then_some(())).await;
    std::fs::write(&scene.rules, "[[rule").unwrap();
    until(async || {
        assert_eq!(scene.bearer(&after.access).await, 404, "a broken file changes nothing");
        scene.world.log().contains("rules of identities stay").then_some(())
    })
    .await;
}

#[tokio::test]
async fn zt_03_a_bound_token_is_of_no_use_without_its_key_and_a_proof_is_used_once() {
    let scene = Scene::start().await;
    let (key, thief) = (ProofKey::new(), ProofKey::new());
    let url = format!("{EXTERNAL}{}", job());
    // The attack, with the defence off: whoever has a plain token is its owner.
    let plain = scene.idp.person("ana", false).await.unwrap();
    assert_eq!(scene.bearer(&plain.access).await, 404);

    let login = Login { user: "ana", key: Some(&key), ..Login::default() };
    let Tokens { access, kind, .. } = scene.idp.browser().sign_in(&login).await.unwrap();
    assert_eq!(kind, "DPoP");
    let proof = key.proof("GET", &url, Some(&access));
    let good = scene.bound("DPoP", &access, &[&proof]).await;
    assert_eq!(good.status().as_u16(), 404);
    let replayed = scene.bound("DPoP", &access, &[&proof]).await;
    assert_eq!(replayed.status().as_u16(), 401);
    let expect = r#"DPoP error="invalid_dpop_proof", algs="ES256 EdDSA PS256 RS256""#;
    assert_eq!(challenge(&replayed), expect);

    let stolen = scene.bound("Bearer", &access, &[]).await;
    assert_eq!(stolen.status().as_u16(), 401);
    assert!(challenge(&stolen).contains(r#"error="invalid_token""#), "{}", challenge(&stolen));
    let fresh = || key.proof("GET", &url, Some(&access));
    let other_token = key.proof("GET", &url, Some(&plain.access));
    let wrong_url = key.proof("GET", &format!("https://evil.test{}", job()), Some(&access));
    let own_address = key.proof("GET", &format!("{}{}", scene.world.api(), job()), Some(&access));
    for (what, scheme, token, proofs) in [
        ("with the proof, as Bearer", "Bearer", &access, vec![fresh()]),
        ("without a proof", "DPoP", &access, vec![]),
        ("two proofs", "DPoP", &access, vec![fresh(), fresh()]),
        ("another's key", "DPoP", &access, vec![thief.proof("GET", &url, Some(&access))]),
        ("another method", "DPoP", &access, vec![key.proof("POST", &url, Some(&access))]),
        ("another server", "DPoP", &access, vec![wrong_url]),
        ("an address that is not configured", "DPoP", &access, vec![own_address]),
        ("another token", "DPoP", &access, vec![other_token]),
        ("no token", "DPoP", &access, vec![key.proof("GET", &url, None)]),
        ("a token that is not bound", "DPoP", &plain.access, vec![fresh()]),
    ] {
        let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
        let response = scene.bound(scheme, token, &proofs).await;
        assert_eq!(response.status().as_u16(), 401, "{what}");
        assert!(challenge(&response).starts_with("DPoP error="), "{what}");
    }
    // All of that has cost its owner nothing.
    let again = scene.bound("dpop", &access, &[&fresh()]).await;
    assert_eq!(again.status().as_u16(), 404);
    let program = scene.idp.program("ci", Some(&key)).await.unwrap();
    let proof = key.proof("GET", &url, Some(&program.access));
    let response = scene.bound("DPoP", &program.access, &[&proof]).await;
    assert_eq!(response.status().as_u16(), 404);
}

#[tokio::test]
async fn iam_14_keys_that_turn_over_and_an_issuer_that_is_away() {
    let scene = Scene::start().await;
    let first = scene.idp.program("ci", None).await.unwrap();
    assert_eq!(scene.bearer(&first.access).await, 404);
    scene.idp.rotate().await.unwrap();
    let second = scene.idp.program("ci", None).await.unwrap();
    assert_eq!(scene.bearer(&second.access).await, 404, "an unknown key is asked for at once");
    assert_eq!(scene.bearer(&first.access).await, 401, "a withdrawn key is forgotten then");
    scene.idp.rotate().await.unwrap();
    let third = scene.idp.program("ci", None).await.unwrap();
    assert_eq!(scene.bearer(&third.access).await, 401, "but not twice within 30 s");
    let Scene { world, idp, liar, rules, _dir } = scene;
    let (issuer, port) = (idp.issuer.clone(), idp.stop());
    let send = async |world: &World, token: &str| {
        let response = world.send(Method::GET, &job(), Some(token), None).await;
        response.status().as_u16()
    };
    assert_eq!(send(&world, &second.access).await, 404, "the last good keys serve on");
    // One that starts now knows no keys, and says so; it learns them when the issuer is back.
    let late = World::start_with(&configuration(&issuer, &liar, &rules)).await;
    assert_eq!(send(&late, &second.access).await, 503);
    let idp = Idp::start_on(port).unwrap();
    let fresh = idp.program("ci", None).await.unwrap();
    until(async || (send(&late, &fresh.access).await == 404).then_some(())).await;
    assert_eq!(send(&late, &second.access).await, 401);
}

/// One row is one attack; the first shows that what surrounds them is good.
#[tokio::test]
async fn iam_14_forged_tokens_are_refused() {
    let scene = Scene::start().await;
    let liar = &scene.liar;
    let (header, claims) = (Liar::header(), liar.claims());
    assert_eq!(scene.bearer(&liar.token(&header, &claims)).await, 404, "nothing is wrong with it");
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        liar.token(&header, &claims)
    };
    let headed = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        liar.token(&header, &claims)
    };
    let now = claims["iat"].as_u64().unwrap();
    let signed = liar.token(&header, &claims);
    let unsigned = |alg: &str, signature: &str| {
        let text = headed("alg", json!(alg));
        format!("{}.{signature}", text.rsplit_once('.').unwrap().0)
    };
    let doubled = claims.to_string().replacen('{', r#"{"aud":"https://elsewhere","#, 1);
    let mut other = claims.clone();
    other["iss"] = json!(scene.idp.issuer);
    let thief = ProofKey::new();
    let mut own = header.clone();
    own["jwk"] = thief.jwk();
    let keys = json!(format!("{}/keys", liar.issuer));
    for (what, token) in [
        ("alg none", unsigned("none", "")),
        ("alg none, with a signature", headed("alg", json!("none"))),
        ("HS256 by a public key's text", unsigned("HS256", &hs256(&signed, &liar.key))),
        ("no signature", format!("{}.", signed.rsplit_once('.').unwrap().0)),
        ("another issuer's name for the same kid", liar.token(&header, &other)),
        ("an issuer that nobody configured", with("iss", json!("https://evil.test"))),
        ("the issuer with a slash", with("iss", json!(format!("{}/", liar.issuer)))),
        ("expired", with("exp", json!(now - 31))),
        ("not before later", with("nbf", json!(now + 300))),
        ("a login in the future", with("auth_time", json!(now + 300))),
        ("for a year", with("exp", json!(now + 31_536_000))),
        ("a claim twice", liar.key.sign(&header, &doubled)),
        ("crit", headed("crit", json!(["exp"]))),
        ("an ID token", headed("typ", json!("JWT"))),
        ("no type", headed("typ", Value::Null)),
        ("an unknown kid", headed("kid", json!("x"))),
        ("a symmetric kid", headed("kid", json!("oct"))),
        ("a key in the header", thief.sign(&own, &claims.to_string())),
        ("another's key, with jku", {
            let header = json!({ "typ": "at+jwt", "alg": "ES256", "kid": "t", "jku": keys });
            thief.sign(&header, &claims.to_string())
        }),
        ("another's key, with x5u", {
            let header = json!({ "typ": "at+jwt", "alg": "ES256", "kid": "ES256-1", "x5u": keys });
            thief.sign(&header, &claims.to_string())
        }),
        ("bound to a certificate", with("cnf", json!({ "x5t#S256": "x" }))),
        ("longer than any", with("x", json!("x".repeat(9000)))),
    ] {
        assert_eq!(scene.bearer(&token).await, 401, "{what}");
    }
    // Neither addresses in tokens nor tokens themselves are written down.
    let log = scene.world.log();
    assert!(!log.contains(signed.split('.').nth(1).unwrap()) && !log.contains("evil.test"));
    until(async || (scene.world.stored("JOBS", "audit._.refused").await > 0).then_some(())).await;
}

/// The signature of `token` as HS256, by what an attacker knows of the key (RFC 8725 §2.1).
fn hs256(token: &str, key: &ProofKey) -> String {
    let secret = key.jwk().to_string();
    let header = json!({ "typ": "at+jwt", "alg": "HS256", "kid": "ES256-1" }).to_string();
    let claims = token.split('.').nth(1).unwrap();
    let text = format!("{}.{claims}", hotcell_intake::jwt::encoded(header.as_bytes()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    hotcell_intake::jwt::encoded(ring::hmac::sign(&key, text.as_bytes()).as_ref())
}

/// A tenant's own policy asks for bound tokens: a stolen plain one is then worth nothing there.
#[tokio::test]
async fn zt_03_a_policy_demands_tokens_that_are_bound() {
    let scene = Scene::start().await;
    let key = ProofKey::new();
    let login = Login { user: "ana", key: Some(&key), ..Login::default() };
    let bound = scene.idp.browser().sign_in(&login).await.unwrap().access;
    let plain = scene.idp.person("ana", false).await.unwrap().access;
    assert_eq!(scene.bearer(&plain).await, 404, "without the policy");

    let text = r#"@id("bound-only") @allows("a bound token") forbid (principal is Hotcell::User,
        action == Hotcell::Action::"ReadJob", resource) unless { context.bound };"#;
    let admin = scene.idp.person("ben", true).await.unwrap().access;
    let body = json!({ "text": text }).to_string();
    let put = scene.world.send(Method::PUT, "/v1/policy", Some(&admin), Some(&body)).await;
    let (status, said) = answer(put).await;
    assert_eq!(status, 200, "{said}");
    until(async || (scene.bearer(&plain).await == 403).then_some(())).await;
    let (_, said) = scene.world.get(&job(), &plain).await;
    assert!(said["policies"].to_string().contains("bound-only"), "{said}");
    let proof = key.proof("GET", &format!("{EXTERNAL}{}", job()), Some(&bound));
    assert_eq!(scene.bound("DPoP", &bound, &[&proof]).await.status().as_u16(), 404);
}
