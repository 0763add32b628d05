//! A principal whose risk is raised, against a real broker and two replicas: what it is asked for, by
//! every door, what opens to it, and who raises and lifts it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use hotcell_nats_config::{Login, Terms, key_id_of, testing::NOW};
use hotcell_policy::block::HEARD_MS;
use hotcell_schemas::{
    BlockId, KeyId, Role,
    block::{BlockList, BlockRecord, Risk, operators_key},
    identity::RoleName,
    job::Actor,
    records::KeyRecord,
};
use hotcell_stage::clock;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use world::{World, answer, tenant, transcode, until};

/// Forbids what only a risk of 1 tells apart.
const OWN: &str = "@id(\"no-risk\") @allows(\"jobs of principals without a risk\")
    forbid (principal, action == Hotcell::Action::\"SubmitTranscode\", resource)
    when { context.risk >= 1 };";

/// Past the second after which every replica has heard: that it is in force then is what is asked,
/// however slow the machine is.
async fn heard() {
    tokio::time::sleep(Duration::from_millis(HEARD_MS)).await;
}

fn kind(problem: &Value) -> &str {
    problem["type"].as_str().unwrap_or_default().rsplit(':').next().unwrap()
}

fn id_of(key: &str) -> KeyId {
    key_id_of(key).unwrap()
}

fn of_key(key: &str) -> Value {
    json!({ "kind": "apiKey", "id": id_of(key) })
}

async fn raise(world: &World, admin: &str, principal: &Value, risk: u8) -> (u16, Value) {
    let body = json!({ "principal": principal, "reason": "CANARY", "risk": risk });
    world.post("/v1/blocks", admin, &body).await
}

async fn raised(world: &World, admin: &str, principal: &Value, risk: u8) -> String {
    let (status, made) = raise(world, admin, principal, risk).await;
    assert_eq!((status, &made["result"]["risk"]), (201, &json!(risk)), "{made}");
    made["result"]["id"].as_str().unwrap().to_owned()
}

async fn lift(world: &World, strong: &str, id: &str) -> u16 {
    let path = format!("/v1/blocks/{id}");
    answer(world.send(Method::DELETE, &path, Some(strong), None).await).await.0
}

/// A key of `roles` that `maker` made.
async fn made_by(world: &World, maker: &str, roles: &[RoleName]) -> String {
    let key = world.enrolled("acme", roles).await;
    let keys = world.bus(Role::Provisioner).await.bucket("keys");
    let entry = keys.get::<KeyRecord>(id_of(&key).as_str()).await.unwrap().unwrap();
    let created_by = Some(Actor::ApiKey { id: id_of(maker) });
    let record = KeyRecord { created_by, ..entry.value };
    keys.update(id_of(&key).as_str(), &record, entry.revision).await.unwrap();
    key
}

/// What submitting a job comes to: the status, and the kind of problem.
async fn submit(world: &World, place: &str, bearer: &str, body: &Value) -> (u16, String) {
    let request = world.client.post(format!("{place}/v1/transcodes")).bearer_auth(bearer);
    let (status, told) = answer(request.body(body.to_string()).send().await.unwrap()).await;
    if status == 401 || kind(&told) == "approval-required" {
        assert_eq!(told["policy"], json!(["step-up-risk"]), "{told}");
    }
    assert!(!told.to_string().contains("CANARY"), "{told}");
    (status, kind(&told).to_owned())
}

/// Two replicas of intake, and everyone who comes to them.
struct Scene {
    world: World,
    /// Both replicas, and the first one's endpoint for gateways.
    places: [String; 3],
    job: Value,
    admin: String,
    /// A token of the administrator's, with its second factor.
    strong: String,
    login: async_nats::Client,
    nkey: String,
}

impl Scene {
    async fn start() -> Self {
        let mut world = World::start().await;
        let second = world.replica().await;
        let first = world.api().to_owned();
        let places = [first.clone(), second, format!("{first}/ext-authz")];
        let job = transcode(&world.upload("acme", "a.mp4", false).await);
        let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
        let strong = world.stepped_up(&admin).await;
        let (user, terms) =
            ("ci".parse().unwrap(), Terms::new([RoleName::Submitter], None).unwrap());
        let operator = world.server.admin().await.unwrap();
        operator.add_program(&tenant("acme"), &user, &terms, NOW).await.unwrap();
        let login = Login::Tenant { tenant: tenant("acme"), user };
        let nkey = world.server.installation().unwrap().creds(&login).unwrap().key.public_key();
        let login = world.server.connect(&login).await.unwrap();
        Self { world, places, job, admin, strong, login, nkey }
    }

    /// That submitting comes to this at every place.
    async fn comes_to(&self, bearer: &str, status: u16, kind: &str) {
        for place in &self.places {
            let permitted = if place.ends_with("/ext-authz") { 200 } else { 202 };
            let expect = (if status == 202 { permitted } else { status }, kind.to_owned());
            assert_eq!(submit(&self.world, place, bearer, &self.job).await, expect, "{place}");
        }
    }

    async fn over_the_broker(&self) -> (u16, String) {
        let body = self.job.to_string();
        let answer = self.login.request("api.submit", body.into()).await.unwrap();
        let status = answer.headers.unwrap().get("Hotcell-Status").unwrap().to_string();
        let told: Value = serde_json::from_slice(&answer.payload).unwrap();
        (status.parse().unwrap(), kind(&told).to_owned())
    }
}

/// IAM-21, STEP-06 to STEP-08: the same token that got 202 is challenged on both replicas once a second
/// is over, and gets 202 again once the risk is lifted.
#[tokio::test]
async fn iam_21_a_raised_risk_asks_for_a_second_factor_on_two_replicas_until_it_is_lifted() {
    let scene = Scene::start().await;
    let world = &scene.world;
    let key = world.enrolled("acme", &[RoleName::Submitter]).await;
    let token = world.token(&key).await;
    let child = made_by(world, &key, &[RoleName::Submitter]).await;
    let machine = world.key("acme", &[RoleName::Submitter]).await;
    let login = json!({ "kind": "natsLogin", "user": scene.nkey });

    // Nothing forbids it.
    for bearer in [&key, &token, &child, &machine] {
        scene.comes_to(bearer, 202, "").await;
    }
    assert_eq!(scene.over_the_broker().await.0, 202);

    let mut ids = Vec::new();
    for principal in [&of_key(&key), &of_key(&machine), &login] {
        ids.push(raised(world, &scene.admin, principal, 2).await);
    }
    heard().await;
    for bearer in [&key, &token, &child] {
        scene.comes_to(bearer, 401, "step-up-required").await;
    }
    let path = format!("{}/v1/transcodes", scene.places[1]);
    let request = world.client.post(path).bearer_auth(&token).body(scene.job.to_string());
    let response = request.send().await.unwrap();
    let header = response.headers()["www-authenticate"].to_str().unwrap();
    assert_eq!(
        header,
        "Bearer error=\"insufficient_user_authentication\", \
         error_description=\"A different authentication level is required\", \
         acr_values=\"urn:hotcell:acr:mfa\", max_age=\"300\""
    );
    // Every request of theirs, also what is not sensitive; not those of others.
    assert_eq!(kind(&world.get("/v1/transcodes", &token).await.1), "step-up-required");
    let other = world.key("acme", &[RoleName::Submitter]).await;
    scene.comes_to(&other, 202, "").await;
    // The second factor opens, the key's own and that of the key it made.
    for by in [&key, &child] {
        scene.comes_to(&world.stepped_up(by).await, 202, "").await;
    }
    // Who has none needs other people, over the broker, too.
    scene.comes_to(&machine, 403, "approval-required").await;
    assert_eq!(scene.over_the_broker().await, (403, "approval-required".to_owned()));

    // Lifting asks for a second factor, and then everything is as before.
    for id in &ids {
        assert_eq!(lift(world, &scene.admin, id).await, 401);
        assert_eq!(lift(world, &scene.strong, id).await, 200);
    }
    heard().await;
    for bearer in [&key, &token, &child, &machine] {
        scene.comes_to(bearer, 202, "").await;
    }
    assert_eq!(scene.over_the_broker().await.0, 202);
}

/// IAM-21, NEW-08: an approval opens a job to who has no second factor; asking for one is always open.
#[tokio::test]
async fn iam_21_whose_risk_is_raised_asks_for_an_approval_and_submits_with_it() {
    let scene = Scene::start().await;
    let world = &scene.world;
    let machine = world.key("acme", &[RoleName::Submitter]).await;
    raised(world, &scene.admin, &of_key(&machine), 3).await;
    heard().await;
    scene.comes_to(&machine, 403, "approval-required").await;
    let asked = json!({ "action": "SubmitTranscode", "request": scene.job });
    let (status, made) = world.post("/v1/approvals", &machine, &asked).await;
    assert_eq!(status, 201, "{made}");
    let id = made["result"]["id"].as_str().unwrap();
    let approve = format!("/v1/approvals/{id}/approve");
    assert_eq!(world.post(&approve, &scene.strong, &json!({})).await.0, 200);
    let request = world.request(Method::POST, "/v1/transcodes").bearer_auth(&machine);
    let request = request.header("hotcell-approval", id).body(scene.job.to_string());
    let (status, made) = answer(request.send().await.unwrap()).await;
    assert_eq!(status, 202, "{made}");
    // Once, for one job.
    scene.comes_to(&machine, 403, "approval-required").await;
}

/// IAM-21: 1 is seen by a tenant's own policies alone, and by who asks what they would say.
#[tokio::test]
async fn iam_21_a_risk_of_one_changes_nothing_unless_a_policy_says_so() {
    let scene = Scene::start().await;
    let world = &scene.world;
    let key = world.key("acme", &[RoleName::Submitter]).await;
    let explained = async || {
        let asked = json!({ "request": scene.job });
        let (status, told) = world.post("/v1/policy/explain", &key, &asked).await;
        assert_eq!(status, 200, "{told}");
        let said = &told["result"];
        (said["facts"]["risk"].clone(), said["decisions"][0]["outcome"].clone())
    };
    assert_eq!(explained().await, (json!(0), json!("allowed")));
    let id = raised(world, &scene.admin, &of_key(&key), 1).await;
    heard().await;
    scene.comes_to(&key, 202, "").await;
    assert_eq!(explained().await, (json!(1), json!("allowed")));
    let put = json!({ "text": OWN }).to_string();
    let put = world.send(Method::PUT, "/v1/policy", Some(&scene.strong), Some(&put)).await;
    assert_eq!(put.status(), 200);
    heard().await;
    scene.comes_to(&key, 403, "forbidden").await;
    assert_eq!(explained().await, (json!(1), json!("denied")));
    let other = world.key("acme", &[RoleName::Submitter]).await;
    scene.comes_to(&other, 202, "").await;
    assert_eq!(lift(world, &scene.strong, &id).await, 200);
    heard().await;
    scene.comes_to(&key, 202, "").await;
    // What is no risk is refused by its field.
    for bad in [0, 5] {
        let (status, told) = raise(world, &scene.admin, &of_key(&key), bad).await;
        assert_eq!((status, &told["errors"][0]["field"]), (422, &json!("risk")), "{told}");
    }
}

/// IAM-21: nobody raises or lifts its own; another's second factor lifts it, and of the operator's
/// only the operator.
#[tokio::test]
async fn iam_21_nobody_lifts_its_own_risk_and_another_administrator_does() {
    let scene = Scene::start().await;
    let world = &scene.world;
    let suspect = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let child = made_by(world, &suspect, &[RoleName::TenantAdmin]).await;
    let changes = world.audited("acme", "change").await;
    let id = raised(world, &scene.admin, &of_key(&suspect), 2).await;
    assert_eq!(world.audited("acme", "change").await, changes + 1, "on record before it was made");
    heard().await;
    // It is not locked out, only asked.
    let own = world.stepped_up(&suspect).await;
    let childs = world.stepped_up(&child).await;
    assert_eq!(world.get("/v1/blocks", &suspect).await.0, 401);
    let listed = world.get("/v1/blocks", &own).await.1;
    let shown = &listed["result"]["blocks"][0];
    assert_eq!((&shown["id"], &shown["risk"]), (&json!(id), &json!(2)), "{listed}");
    for by in [&own, &childs] {
        let (status, told) = raise(world, by, &of_key(&suspect), 1).await;
        assert_eq!(status, 403, "{told}");
        assert_eq!(lift(world, by, &id).await, 403);
    }
    let by_others = world.audited("acme", "change").await;
    assert_eq!(by_others, changes + 1, "nothing was changed");
    // A lower one lowers nothing.
    let lower = raised(world, &scene.admin, &of_key(&suspect), 1).await;
    heard().await;
    assert_eq!(world.get("/v1/blocks", &suspect).await.0, 401);
    assert_eq!(lift(world, &scene.strong, &id).await, 200);
    heard().await;
    assert_eq!(world.get("/v1/blocks", &suspect).await.0, 200);
    assert_eq!(lift(world, &scene.strong, &lower).await, 200);

    // The operator's counts beside the tenant's, and is the operator's to lift.
    let record = BlockRecord {
        id: BlockId::new(clock::now().0, clock::random()),
        tenant: tenant("acme"),
        principal: Actor::ApiKey { id: id_of(&suspect) },
        risk: Risk::HIGHEST,
        reason: "CANARY".to_owned(),
        by: None,
        by_operator: true,
        at: clock::now(),
        until: None,
    };
    let list = BlockList { blocks: vec![record.clone()] };
    let platform = world.bus(Role::Provisioner).await.bucket("platform");
    platform.create(&operators_key(&tenant("acme")), &list).await.unwrap();
    heard().await;
    assert_eq!(world.get("/v1/blocks", &suspect).await.0, 401);
    assert_eq!(lift(world, &scene.strong, record.id.as_str()).await, 403);
    // A stop is above every risk, and leaves it when it is over.
    let (status, stop) = raise(world, &scene.admin, &of_key(&suspect), 4).await;
    assert_eq!(status, 201, "{stop}");
    until(async || (world.get("/v1/blocks", &own).await.0 == 403).then_some(())).await;
    assert_eq!(lift(world, &scene.strong, stop["result"]["id"].as_str().unwrap()).await, 200);
    heard().await;
    assert_eq!(world.get("/v1/blocks", &suspect).await.0, 401);
}
