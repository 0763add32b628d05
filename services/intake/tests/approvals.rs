//! Approvals by the broker's door: a program asks there, people agree over HTTP, and exactly what
//! was asked is then taken there, once.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use async_nats::{Client, HeaderMap};
use hotcell_nats_config::{Login, Terms, testing::NOW};
use hotcell_schemas::{
    Role,
    approval::{ApprovalRecord, check_job},
    identity::RoleName,
    job::Actor,
};
use reqwest::Method;
use serde_json::{Value, json};
use world::{World, answer, tenant};

/// What is answered: the status, the header `location` and the body.
type Answer = (u16, Option<String>, Value);

impl World {
    /// A program of `of` with a login of its own.
    async fn program(&self, of: &str, user: &str, role: RoleName) -> Client {
        let (id, user) = (tenant(of), user.parse().unwrap());
        let terms = Terms::new([role], None).unwrap();
        let admin = self.server.admin().await.unwrap();
        admin.add_program(&id, &user, &terms, NOW).await.unwrap();
        self.server.connect(&Login::Tenant { tenant: id, user }).await.unwrap()
    }

    async fn approve(&self, id: &str, strong: &str) {
        let path = format!("/v1/approvals/{id}/approve");
        let (status, given) = self.post(&path, strong, &json!({ "reason": "seen" })).await;
        assert_eq!(status, 200, "{given}");
    }
}

async fn ask(client: &Client, verb: &str, body: &Value, approvals: &[&str]) -> Answer {
    let mut headers = HeaderMap::new();
    for approval in approvals {
        headers.append("Hotcell-Approval", *approval);
    }
    let (subject, body) = (format!("api.{verb}"), body.to_string().into());
    let answer = client.request_with_headers(subject, headers, body).await.unwrap();
    let headers = answer.headers.unwrap();
    let status = headers.get("Hotcell-Status").unwrap().as_str().parse().unwrap();
    let location = headers.get("location").map(ToString::to_string);
    (status, location, serde_json::from_slice(&answer.payload).unwrap())
}

fn kind(problem: &Value) -> &str {
    problem["type"].as_str().unwrap().rsplit(':').next().unwrap()
}

fn refused(answer: &Answer) -> (u16, &str) {
    (answer.0, kind(&answer.2))
}

fn own_arguments(filename: &str) -> Value {
    json!({ "inputs": [{ "url": format!("upload:{filename}") }], "outputs": [{ "format": "mp4",
        "ffmpegArgs": ["-i", "{in0}", "-c:v", "libx264", "-an", "-crf", "20", "{out0}"] }] })
}

/// NEW-08, BRK-84, IAM-15: four eyes on one request of a program that has nothing but its login.
#[tokio::test]
async fn brk_84_a_program_asks_at_the_broker_and_people_approve() {
    let world = World::start().await;
    let program = world.program("bolt", "ci", RoleName::Submitter).await;
    let body = own_arguments(&world.upload("bolt", "a.mp4", false).await);
    let submit = async |body: &Value, shown: &[&str]| ask(&program, "submit", body, shown).await;
    let first = submit(&body, &[]).await;
    assert_eq!(refused(&first), (403, "approval-required"));
    assert!(first.2["detail"].as_str().unwrap().contains("api.ask"), "{}", first.2);

    let asked = json!({ "action": "SubmitTranscode", "request": body, "approversMin": 2 });
    let (status, location, made) = ask(&program, "ask", &asked, &[]).await;
    assert_eq!(status, 201, "{made}");
    let id = made["result"]["id"].as_str().unwrap().to_owned();
    assert_eq!(location, Some(format!("/v1/approvals/{id}")));
    assert_eq!(world.audited("bolt", "change").await, 1, "asking is recorded");
    let state = async || {
        let (status, _, read) = ask(&program, "asked", &json!({ "id": id }), &[]).await;
        (status, read["result"]["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(state().await, (200, "waiting".to_owned()));
    assert_eq!(refused(&submit(&body, &[&id]).await), (403, "approval-unusable"), "nobody spoke");
    for given in ["waiting", "given"] {
        let person = world.enrolled("bolt", &[RoleName::TenantAdmin]).await;
        world.approve(&id, &world.stepped_up(&person).await).await;
        assert_eq!(state().await, (200, given.to_owned()));
    }

    // Another job, another login, a key over HTTP, another tenant: not by this approval.
    let mut changed = body.clone();
    changed["outputs"][0]["ffmpegArgs"][6] = json!("21");
    assert_eq!(refused(&submit(&changed, &[&id]).await), (403, "approval-mismatch"));
    assert_eq!(refused(&submit(&body, &[&id, &id]).await), (400, "bad-request"));
    let other = world.program("bolt", "other", RoleName::Submitter).await;
    let stolen = ask(&other, "submit", &body, &[&id]).await;
    assert_eq!(refused(&stolen), (403, "approval-unusable"));
    let key = world.key("bolt", &[RoleName::Submitter]).await;
    let by_key = world.request(Method::POST, "/v1/transcodes").bearer_auth(&key);
    let by_key = by_key.header("hotcell-approval", &id).body(body.to_string());
    let (status, problem) = answer(by_key.send().await.unwrap()).await;
    assert_eq!((status, kind(&problem)), (403, "approval-unusable"));
    let foreign = world.program("acme", "ci", RoleName::TenantAdmin).await;
    let foreign = ask(&foreign, "asked", &json!({ "id": id }), &[]).await;
    assert_eq!(refused(&foreign), (404, "not-found"));

    let (status, _, taken) = submit(&body, &[&id]).await;
    assert_eq!(status, 202, "{taken}");
    assert_eq!(refused(&submit(&body, &[&id]).await), (403, "approval-unusable"), "used once");
    assert_eq!(world.stored("JOBS", "job.>").await, 1);
    // Validator and signer come to the same answer from the record.
    let (job, bus) = (taken["result"]["id"].as_str().unwrap(), world.bus(Role::Intake).await);
    let job = bus.job(&tenant("bolt"), &job.parse().unwrap()).await.unwrap().unwrap();
    let job = job.message.into_inner();
    assert!(matches!(&job.actor, Actor::NatsLogin { name, .. } if name == "ci"), "{:?}", job.actor);
    assert_eq!(job.authority.approval.as_ref().unwrap().as_str(), id);
    let record = bus.bucket("approvals").get::<ApprovalRecord>(&format!("bolt.{id}")).await;
    assert_eq!(check_job(Some(&record.unwrap().unwrap().value), &job), Ok(true));
}

/// NEW-08, BRK-84: a login that was revoked and made again under its name is another requester.
#[tokio::test]
async fn new_08_an_approval_is_not_for_the_namesake_of_a_revoked_login() {
    let world = World::start().await;
    let program = world.program("bolt", "ci", RoleName::Submitter).await;
    let body = own_arguments(&world.upload("bolt", "a.mp4", false).await);
    let asked = json!({ "action": "SubmitTranscode", "request": body });
    let (status, _, made) = ask(&program, "ask", &asked, &[]).await;
    assert_eq!(status, 201, "{made}");
    let id = made["result"]["id"].as_str().unwrap();
    let approve = async |id: &str| {
        let person = world.enrolled("bolt", &[RoleName::TenantAdmin]).await;
        world.approve(id, &world.stepped_up(&person).await).await;
    };
    approve(id).await;
    let admin = world.server.admin().await.unwrap();
    admin.revoke_program(&tenant("bolt"), &"ci".parse().unwrap(), NOW).await.unwrap();
    let namesake = world.program("bolt", "ci", RoleName::Submitter).await;
    let refusal = ask(&namesake, "submit", &body, &[id]).await;
    assert_eq!(refused(&refusal), (403, "approval-unusable"));
    // The same login by another scoped key is the same requester.
    let (_, _, made) = ask(&namesake, "ask", &asked, &[]).await;
    let id = made["result"]["id"].as_str().unwrap();
    approve(id).await;
    admin.rekey_tenant(&tenant("bolt"), NOW).await.unwrap();
    let login = Login::Tenant { tenant: tenant("bolt"), user: "ci".parse().unwrap() };
    let same = world.server.connect(&login).await.unwrap();
    assert_eq!(ask(&same, "submit", &body, &[id]).await.0, 202);
}

/// IAM-15: a client may write a header's name in any case, as over HTTP; the broker does not mind it.
#[tokio::test]
async fn iam_15_a_header_of_the_broker_s_door_is_known_in_any_case() {
    let world = World::start().await;
    let program = world.program("bolt", "ci", RoleName::Submitter).await;
    let body = world.upload("bolt", "a.mp4", false).await;
    let body = world::transcode(&body);
    let submit = async |names: &[&str]| {
        let mut headers = HeaderMap::new();
        names.iter().for_each(|name| headers.append(*name, "once"));
        let body = body.to_string().into();
        let answer = program.request_with_headers("api.submit", headers, body).await.unwrap();
        let status = answer.headers.unwrap().get("Hotcell-Status").unwrap().to_string();
        (status, serde_json::from_slice::<Value>(&answer.payload).unwrap())
    };
    let (status, first) = submit(&["Idempotency-Key"]).await;
    assert_eq!(status, "202", "{first}");
    for name in ["idempotency-key", "IDEMPOTENCY-KEY"] {
        let (status, again) = submit(&[name]).await;
        assert_eq!((status.as_str(), &again), ("200", &first), "{name}: another job");
    }
    for names in [["idempotency-key", "Idempotency-Key"], ["hotcell-approval", "Hotcell-Approval"]]
    {
        let (status, told) = submit(&names).await;
        assert_eq!((status.as_str(), kind(&told)), ("400", "bad-request"), "{names:?}");
    }
    assert_eq!(world.stored("JOBS", "job.>").await, 1);
}

/// IAM-15: what cannot be asked for is refused by both doors in the same words, and what was asked at
/// one is read at the other.
#[tokio::test]
async fn iam_15_both_doors_refuse_an_approval_alike() {
    let world = World::start().await;
    let program = world.program("bolt", "ci", RoleName::TenantAdmin).await;
    let key = world.key("bolt", &[RoleName::TenantAdmin]).await;
    let job = own_arguments(&world.upload("bolt", "a.mp4", false).await);
    let call = json!({ "method": "DELETE", "path": "/v1/nothing", "body": null });
    for (asked, status) in [
        (json!({ "action": "ApproveRequest", "request": job }), 422),
        (json!({ "action": "CancelJob", "request": call }), 422),
        (json!({ "action": "SubmitTranscode", "request": job, "approversMin": 1000 }), 422),
        (json!({ "action": "SubmitTranscode", "request": job, "expiresInSecs": 0 }), 422),
        (json!({ "action": "SubmitTranscode", "request": { "inputs": [] } }), 422),
        (json!({ "action": "SubmitTranscode", "request": job, "approved": true }), 400),
    ] {
        let by_broker = ask(&program, "ask", &asked, &[]).await;
        let by_http = world.post("/v1/approvals", &key, &asked).await;
        assert_eq!((by_broker.0, &by_broker.2), (by_http.0, &by_http.1), "{asked}");
        assert_eq!(by_broker.0, status, "{}", by_broker.2);
    }
    let (status, _, made) =
        ask(&program, "ask", &json!({ "action": "SubmitTranscode", "request": job }), &[]).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/v1/approvals/{}", made["result"]["id"].as_str().unwrap());
    let read = ask(&program, "asked", &json!({ "id": made["result"]["id"] }), &[]).await;
    let (status, shown) = world.get(&path, &key).await;
    assert_eq!((read.0, read.2), (status, shown), "one approval, read by both");
}

/// IAM-15, BRK-83: what a tenant asked for is listed alike by both doors, and by nobody else's.
#[tokio::test]
async fn iam_15_approvals_are_listed_alike_by_both_doors() {
    let world = World::start().await;
    let program = world.program("bolt", "ci", RoleName::Submitter).await;
    let key = world.key("bolt", &[RoleName::Submitter]).await;
    let job = own_arguments(&world.upload("bolt", "a.mp4", false).await);
    let wanted = json!({ "action": "SubmitTranscode", "request": job });
    let mut ids = Vec::new();
    for _ in 0..2 {
        let (status, _, made) = ask(&program, "ask", &wanted, &[]).await;
        assert_eq!(status, 201, "{made}");
        ids.insert(0, made["result"]["id"].clone());
        let (status, made) = world.post("/v1/approvals", &key, &wanted).await;
        assert_eq!(status, 201, "{made}");
        ids.insert(0, made["result"]["id"].clone());
    }
    let listed = ask(&program, "approvals", &json!({}), &[]).await;
    let (status, by_http) = world.get("/v1/approvals", &key).await;
    assert_eq!((listed.0, &listed.2), (200, &by_http), "{status}");
    let shown = listed.2["result"]["approvals"].as_array().unwrap();
    assert_eq!(shown.iter().map(|it| it["id"].clone()).collect::<Vec<_>>(), ids, "newest first");
    assert_eq!(listed.2["result"]["nextCursor"], Value::Null);
    // The rest of a list, and what no list takes.
    let cursor = ids[1].as_str().unwrap();
    for (body, query) in [
        (json!({ "cursor": cursor }), format!("cursor={cursor}")),
        (json!({ "cursor": "x" }), "cursor=x".to_owned()),
        (json!({ "limit": 1 }), "limit=1".to_owned()),
        (json!({ "state": "failed" }), "state=failed".to_owned()),
    ] {
        let by_broker = ask(&program, "approvals", &body, &[]).await;
        let by_http = world.get(&format!("/v1/approvals?{query}"), &key).await;
        assert_eq!((by_broker.0, by_broker.2), by_http, "{query}");
    }
    let rest = ask(&program, "approvals", &json!({ "cursor": cursor }), &[]).await.2;
    let rest = rest["result"]["approvals"].as_array().unwrap();
    assert_eq!(rest.iter().map(|it| it["id"].clone()).collect::<Vec<_>>(), ids[2..]);
    let unknown = ask(&program, "approvals", &json!({ "tenant": "acme" }), &[]).await;
    assert_eq!(refused(&unknown), (400, "bad-request"));

    // Another tenant sees its own, which are none; who may ask for nothing sees none either.
    let foreign = world.program("acme", "ci", RoleName::TenantAdmin).await;
    let foreign = ask(&foreign, "approvals", &json!({}), &[]).await;
    assert_eq!((foreign.0, &foreign.2["result"]["approvals"]), (200, &json!([])));
    let viewer = world.program("bolt", "looks", RoleName::Viewer).await;
    let mut by_broker = ask(&viewer, "approvals", &json!({}), &[]).await;
    let key = world.key("bolt", &[RoleName::Viewer]).await;
    let mut by_http = world.get("/v1/approvals", &key).await;
    // Each decision has an id of its own.
    for told in [&mut by_broker.2, &mut by_http.1] {
        assert!(told.as_object_mut().unwrap().remove("instance").is_some(), "{told}");
    }
    assert_eq!((by_broker.0, by_broker.2), by_http);
    assert_eq!(by_http.0, 403);
}

/// IAM-15, NEW-08: a message of the broker's is bounded, and no flood of long requests hides what else
/// is asked for: the list goes on.
#[tokio::test]
async fn iam_15_a_list_of_approvals_that_no_message_holds_goes_on_by_its_cursor() {
    let world = World::start().await;
    let program = world.program("bolt", "ci", RoleName::TenantAdmin).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        let body = json!({ "url": "x".repeat(60_000) });
        let call = json!({ "method": "POST", "path": "/v1/webhooks", "body": body });
        let wanted = json!({ "action": "ManageWebhooks", "request": call });
        let (status, _, made) = ask(&program, "ask", &wanted, &[]).await;
        assert_eq!(status, 201, "{made}");
        ids.insert(0, made["result"]["id"].clone());
    }
    let (mut seen, mut asked, mut pages) = (Vec::new(), json!({}), 0);
    loop {
        let (status, _, page) = ask(&program, "approvals", &asked, &[]).await;
        assert_eq!(status, 200, "{page}");
        pages += 1;
        let shown = page["result"]["approvals"].as_array().unwrap();
        assert!(shown.iter().all(|it| it["request"].is_object()), "a request is left out");
        seen.extend(shown.iter().map(|it| it["id"].clone()));
        let cursor = &page["result"]["nextCursor"];
        if cursor.is_null() {
            break;
        }
        asked = json!({ "cursor": cursor });
    }
    assert_eq!((seen, pages), (ids, 2));
    // Over HTTP it is one answer.
    let key = world.key("bolt", &[RoleName::TenantAdmin]).await;
    let (status, all) = world.get("/v1/approvals", &key).await;
    let shown = all["result"]["approvals"].as_array().unwrap();
    assert_eq!((status, shown.len(), &all["result"]["nextCursor"]), (200, 6, &Value::Null));
}
