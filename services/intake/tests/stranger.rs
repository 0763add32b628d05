//! What a stranger tries who has a good credential: what is not there, and more than anybody needs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use futures::{StreamExt as _, stream};
use hotcell_nats_config::key_id_of;
use hotcell_policy::block::LINEAGE_MAX;
use hotcell_schemas::{
    KeyId, Role, UnixMs,
    identity::RoleName,
    records::{KeyRecord, TenantRecord},
    tenancy::TenantState,
};
use reqwest::Method;
use serde_json::json;
use world::{World, answer, until};

/// STEP-04, API-10: a set of policies costs a quarter of a second of a core; a tenant that sends two
/// hundred at once has thirty checked, and then one each two seconds.
#[tokio::test]
async fn api_10_a_tenant_cannot_keep_intake_busy_with_its_policies() {
    let world = World::start().await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let body = json!({ "text": "permit(" }).to_string();
    let puts = (0..200).map(|_| world.send(Method::PUT, "/v1/policy", Some(&strong), Some(&body)));
    let answers: Vec<_> = stream::iter(puts).buffer_unordered(32).collect().await;
    let (mut faulty, mut refused) = (0, 0);
    for answered in answers {
        let (status, problem) = answer(answered).await;
        faulty += u32::from(status == 422);
        refused += u32::from(problem["violated-policies"] == json!(["policy-checks"]));
    }
    assert!(faulty > 0 && refused > 0, "{faulty} checked, {refused} refused");
    assert_eq!(world.get("/v1/policy", &world.bolt).await.0, 200, "others are served");
}

/// API-10: who asks for what is not there asks, too. A plan of nothing makes the second request one
/// too many on any machine.
#[tokio::test]
async fn api_10_what_is_not_there_counts_against_the_rate() {
    let world = World::start().await;
    let tenants = world.bus(Role::Provisioner).await.bucket("tenants");
    let mut entry = tenants.get::<TenantRecord>("acme").await.unwrap().unwrap();
    entry.value.quotas.requests_per_sec = 0;
    tenants.update("acme", &entry.value, entry.revision).await.unwrap();
    let at = async |method: Method, path: &str| {
        let answered = world.send(method, path, Some(&world.acme), None).await;
        (answered.status().as_u16(), answered.headers().get("ratelimit-policy").is_some())
    };
    until(async || (at(Method::GET, "/v1/transcodes").await.0 == 429).then_some(())).await;
    assert_eq!(at(Method::GET, "/v1/nothing").await, (429, true));
    assert_eq!(at(Method::PATCH, "/v1/keys").await, (429, true));
    let other = world.send(Method::GET, "/v1/nothing", Some(&world.bolt), None).await;
    assert!(other.headers().contains_key("ratelimit-policy"));
    assert_eq!(other.status(), 404);
    // A tenant that is not served learns nothing else.
    entry = tenants.get::<TenantRecord>("bolt").await.unwrap().unwrap();
    entry.value.state = TenantState::Suspended;
    tenants.update("bolt", &entry.value, entry.revision).await.unwrap();
    until(async || {
        let (status, _) = world.get("/v1/nothing", &world.bolt).await;
        (status == 403).then_some(())
    })
    .await;
}

/// A parameter that is given twice is read by nobody, in any list.
#[tokio::test]
async fn a_parameter_of_a_list_is_given_once() {
    let world = World::start().await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    for path in ["/v1/keys?limit=1&limit=2", "/v1/transcodes?limit=1&limit=2"] {
        let (status, problem) = world.get(path, &admin).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("limit")), "{path}");
        assert_eq!(problem["errors"][0]["rule"], "must be given once", "{path}");
    }
}

/// NEW-08: approvers are shown a path that can be sent, and that reads in one way.
#[tokio::test]
async fn new_08_an_approval_is_for_a_path_that_reads_in_one_way() {
    let world = World::start().await;
    let key = world.key("acme", &[RoleName::TenantAdmin]).await;
    for path in [
        "/v1/keys/%61bc",
        "/v1/keys/..",
        "/v1/keys/\u{202e}abc",
        "/v1/keys/a b",
        "/v1/keys/a?b#c",
        "/v1/keys/a;b",
        "/v1/keys/a\n",
    ] {
        let request = json!({ "method": "DELETE", "path": path });
        let ask = json!({ "action": "ManageKeys", "request": request });
        let (status, problem) = world.post("/v1/approvals", &key, &ask).await;
        let field = &problem["errors"][0]["field"];
        assert_eq!((status, field), (422, &json!("request.path")), "{path:?} {problem}");
    }
    let request = json!({ "method": "DELETE", "path": "/v1/keys/abc?why=a%20b" });
    let ask = json!({ "action": "ManageKeys", "request": request });
    assert_eq!(world.post("/v1/approvals", &key, &ask).await.0, 201);
}

/// NEW-08: who steals an approver's key has agreed to nothing once the key is revoked.
#[tokio::test]
async fn new_08_what_a_revoked_key_agreed_to_is_agreed_by_nobody() {
    let world = World::start().await;
    let asker = world.key("acme", &[RoleName::TenantAdmin]).await;
    let stolen = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let owner = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let (thief, owner) = (world.stepped_up(&stolen).await, world.stepped_up(&owner).await);
    let body = json!({ "roles": ["viewer"] });
    let request = json!({ "method": "POST", "path": "/v1/keys", "body": body });
    let ask = json!({ "action": "ManageKeys", "request": request });
    let mut given = Vec::new();
    for _ in 0..2 {
        let (status, made) = world.post("/v1/approvals", &asker, &ask).await;
        assert_eq!(status, 201, "{made}");
        let id = made["result"]["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/approvals/{id}/approve");
        assert_eq!(world.post(&path, &thief, &json!({})).await.0, 200);
        given.push(id);
    }
    let by = async |id: &str| {
        let request = world.request(Method::POST, "/v1/keys").bearer_auth(&asker);
        let request = request.header("hotcell-approval", id).body(body.to_string());
        answer(request.send().await.unwrap()).await
    };
    assert_eq!(by(&given[0]).await.0, 201, "while the key is one");
    let path = format!("/v1/keys/{}", stolen.split('_').nth(1).unwrap());
    let ended = world.send(Method::DELETE, &path, Some(&owner), None).await;
    assert_eq!(ended.status(), 200);
    let (status, problem) = by(&given[1]).await;
    assert_eq!(status, 403, "{problem}");
    assert_eq!(problem["type"], "urn:hotcell:problem:approval-unusable", "{problem}");
    assert!(problem["errors"][0]["rule"].as_str().unwrap().contains("revoked"), "{problem}");
}

/// NEW-08, IAM-21: what somebody agreed to who was blocked since is agreed by nobody.
#[tokio::test]
async fn new_08_what_a_blocked_person_agreed_to_is_agreed_by_nobody() {
    let world = World::start().await;
    let asker = world.key("acme", &[RoleName::TenantAdmin]).await;
    let suspect = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&suspect).await;
    let body = json!({ "roles": ["viewer"] });
    let request = json!({ "method": "POST", "path": "/v1/keys", "body": body });
    let ask = json!({ "action": "ManageKeys", "request": request });
    let (_, made) = world.post("/v1/approvals", &asker, &ask).await;
    let id = made["result"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/approvals/{id}/approve");
    assert_eq!(world.post(&path, &strong, &json!({})).await.0, 200);
    let principal = json!({ "kind": "apiKey", "id": suspect.split('_').nth(1).unwrap() });
    let block = json!({ "principal": principal, "reason": "looked at" });
    assert_eq!(world.post("/v1/blocks", &asker, &block).await.0, 201);
    let by = async || {
        let request = world.request(Method::POST, "/v1/keys").bearer_auth(&asker);
        let request = request.header("hotcell-approval", &id).body(body.to_string());
        answer(request.send().await.unwrap()).await
    };
    let (status, problem) = by().await;
    assert_eq!(status, 403, "{problem}");
    assert!(problem["errors"][0]["rule"].as_str().unwrap().contains("blocked"), "{problem}");
    // The block's end gives the approval back: it was only looked at.
    let path = format!("/v1/blocks/{}", block_id(&world, &asker).await);
    let other = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let other = world.stepped_up(&other).await;
    let ended = world.send(Method::DELETE, &path, Some(&other), None).await;
    assert_eq!(ended.status(), 200);
    until(async || (by().await.0 == 201).then_some(())).await;
}

async fn block_id(world: &World, key: &str) -> String {
    let (_, listed) = world.get("/v1/blocks", key).await;
    listed["result"]["blocks"][0]["id"].as_str().unwrap().to_owned()
}

/// API-39, IAM-10: a stolen key that opens from one network makes, and takes over, none that opens
/// from others.
#[tokio::test]
async fn api_39_a_bound_key_makes_and_rotates_no_unbound_one() {
    let world = World::start().await;
    let bound = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&bound).await;
    let create = async |networks: serde_json::Value| {
        let body = json!({ "roles": ["viewer"], "networks": networks });
        world.post("/v1/keys", &strong, &body).await
    };
    let rotate = async |made: &serde_json::Value| {
        let path = format!("/v1/keys/{}/rotate", made["result"]["id"].as_str().unwrap());
        world.post(&path, &strong, &json!({})).await
    };
    let (status, free) = create(json!([])).await;
    assert_eq!(status, 201, "{free}");
    let store = world.bus(Role::Intake).await.bucket("keys");
    let id = bound.split('_').nth(1).unwrap();
    let mut entry = store.get::<KeyRecord>(id).await.unwrap().unwrap();
    entry.value.networks = vec!["127.0.0.0/8".parse().unwrap()];
    store.update(id, &entry.value, entry.revision).await.unwrap();
    for networks in [json!([]), json!(["0.0.0.0/0"]), json!(["127.0.0.1/32", "10.0.0.0/8"])] {
        let (status, problem) = create(networks).await;
        let field = &problem["errors"][0]["field"];
        assert_eq!((status, field), (422, &json!("networks")), "{problem}");
    }
    let (status, problem) = rotate(&free).await;
    assert_eq!(status, 403, "{problem}");
    assert_eq!(problem["detail"], "the key opens from where yours does not");
    let (status, made) = create(json!(["127.0.0.1/32"])).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(rotate(&made).await.0, 201);
}

/// API-08, IAM-21: a key that was rotated 256 times could not be followed to its makers, and any
/// block in its tenant would have stopped it. So the last rotation is refused, and the key lives.
#[tokio::test]
async fn api_08_no_key_is_rotated_beyond_where_its_makers_can_be_followed() {
    let world = World::start().await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let keys = world.bus(Role::Provisioner).await.bucket("keys");
    let key = world.key("acme", &[RoleName::Viewer]).await;
    let id = key_id_of(&key).unwrap();
    let entry = keys.get::<KeyRecord>(id.as_str()).await.unwrap().unwrap();
    let before = |n: usize| KeyId::new(n as u64, [7; 10]);
    // Of the 256: the key, the next, whoever rotates, and these.
    let many = LINEAGE_MAX - 3;
    for n in 0..many {
        let record = KeyRecord::new(before(n), entry.value.tenant.clone(), "gone", UnixMs(1));
        let record = KeyRecord { rotated_from: n.checked_sub(1).map(before), ..record };
        keys.create(record.id.as_str(), &record).await.unwrap();
    }
    let record = KeyRecord { rotated_from: Some(before(many - 1)), ..entry.value };
    keys.update(id.as_str(), &record, entry.revision).await.unwrap();

    let rotate = |id: &str| {
        let path = format!("/v1/keys/{id}/rotate");
        let (world, strong) = (&world, &strong);
        async move { world.post(&path, strong, &json!({})).await }
    };
    let (status, body) = until(|| async {
        // The record that intake read a moment ago is of before the update.
        let found = world.get(&format!("/v1/keys/{id}"), &strong).await;
        (found.1["result"]["rotatedFrom"].is_string()).then_some(found)
    })
    .await;
    assert_eq!(status, 200, "{body}");
    let (status, last) = rotate(id.as_str()).await;
    assert_eq!(status, 201, "{last}");
    let (status, body) = rotate(last["result"]["id"].as_str().unwrap()).await;
    assert_eq!(status, 409, "{body}");
    assert!(body["detail"].as_str().unwrap().contains("make a new key"), "{body}");
    let last = last["result"]["key"].as_str().unwrap();
    assert_eq!(world.get("/v1/transcodes", last).await.0, 200, "it lives");
}
