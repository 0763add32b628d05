//! Destinations at the edge, against a real broker: who may name one, where it leads, what policy and
//! approvals say of it, and what a tenant is shown.
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

use hotcell_nats_config::{
    Login, Terms,
    testing::{NOW, PLACES, destination as record},
};
use hotcell_schemas::{
    EventKind, Role,
    destination::DestinationRecord,
    identity::{Outcome, RoleName},
};
use hotcell_stage::{Outgoing, clock, kv::Bucket};
use reqwest::Method;
use serde_json::{Value, json};
use world::{World, answer, tenant, until};

const HOST: &str = "https://s3.example.com";

fn transcode(filename: &str, destination: Option<&str>) -> Value {
    let mut body = world::transcode(filename);
    if let Some(name) = destination {
        body["destination"] = json!(name);
    }
    body
}

fn kind(problem: &Value) -> &str {
    problem["type"].as_str().unwrap().rsplit(':').next().unwrap()
}

impl World {
    async fn places(&self) -> Bucket {
        self.bus(Role::Provisioner).await.bucket("destinations")
    }

    async fn enter(&self, record: &DestinationRecord) -> u64 {
        let key = DestinationRecord::key(&record.tenant, &record.name);
        self.places().await.create(&key, record).await.unwrap()
    }

    /// A token with a second factor of a new key of `acme`.
    async fn strong(&self, roles: &[RoleName]) -> String {
        self.stepped_up(&self.enrolled("acme", roles).await).await
    }

    async fn submit(&self, key: &str, body: &Value, approval: Option<&str>) -> (u16, Value) {
        let request = self.request(Method::POST, "/v1/transcodes").bearer_auth(key);
        let request = match approval {
            Some(id) => request.header("hotcell-approval", id),
            None => request,
        };
        answer(request.body(body.to_string()).send().await.unwrap()).await
    }
}

/// IAM-09: a name that is not the tenant's own is refused at the door, at every door alike.
#[tokio::test]
async fn iam_09_a_tenant_names_its_own_destinations_only() {
    let world = World::start().await;
    world.enter(&record("acme", "cdn", [HOST, "media", "video"])).await;
    world.enter(&record("bolt", "theirs", [HOST, "bolt-media", ""])).await;
    let bad = record("acme", "forged", ["https://s3.example.com@evil.org", "media", "video"]);
    world.enter(&bad).await;
    let strong = world.strong(&[RoleName::Submitter, RoleName::Publisher]).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let explained = |name| json!({ "request": transcode(&file, Some(name)) });
    let asked =
        |name| json!({ "action": "SubmitTranscode", "request": transcode(&file, Some(name)) });
    for name in ["none", "theirs", "forged", "store"] {
        let job = transcode(&file, Some(name));
        for (path, body, field) in [
            ("/v1/transcodes", &job, "destination"),
            ("/ext-authz/v1/transcodes", &job, "destination"),
            ("/v1/policy/explain", &explained(name), "destination"),
            ("/v1/approvals", &asked(name), "request.destination"),
        ] {
            let (status, problem) = world.post(path, &strong, body).await;
            assert_eq!((status, &problem["code"]), (422, &json!("destination_unknown")), "{path}");
            let told = &problem["errors"][0];
            assert_eq!(told["field"], field, "{path} {name}");
            let rule = told["rule"].as_str().unwrap();
            assert!(rule.contains("GET /v1/destinations lists them"), "{rule}");
            assert!(!rule.contains("evil"), "{rule}");
        }
    }
    // No name, but a path or a wildcard.
    for odd in ["../bolt", "acme.cdn", "*", ""] {
        let (status, _) = world.post("/v1/transcodes", &strong, &transcode(&file, Some(odd))).await;
        assert_eq!(status, 400, "{odd:?}");
    }
    assert_eq!(world.stored("JOBS", "job.>").await, 0);
    // What is there is listed, each tenant's to itself, and no more of it than its place.
    let viewer = world.key("acme", &[RoleName::Viewer]).await;
    let (status, listed) = world.get("/v1/destinations", &viewer).await;
    assert_eq!(status, 200, "{listed}");
    let expect = json!({ "destinations": [{ "name": "cdn",
        "location": "https://s3.example.com/media/video", "createdAt": "1970-01-01T00:00:00.001Z" }] });
    assert_eq!(listed["result"], expect);
    let (_, listed) = world.get("/v1/destinations", &world.bolt).await;
    assert_eq!(listed["result"]["destinations"][0]["name"], "theirs");
    assert!(!listed.to_string().contains("AKIA"), "{listed}");
    // Over the broker the door is the same.
    let (status, told) =
        by_login(&world, &[RoleName::TenantAdmin], &transcode(&file, Some("none"))).await;
    assert_eq!((status.as_str(), &told["code"]), ("422", &json!("destination_unknown")), "{told}");
}

/// The answer of `api.submit` to a new login of `acme` with these roles.
async fn by_login(world: &World, roles: &[RoleName], body: &Value) -> (String, Value) {
    let user = format!("app-{}", hex::encode(clock::random::<4>())).parse().unwrap();
    let terms = Terms::new(roles.iter().copied(), None).unwrap();
    let admin = world.server.admin().await.unwrap();
    admin.add_program(&tenant("acme"), &user, &terms, NOW).await.unwrap();
    let login = Login::Tenant { tenant: tenant("acme"), user };
    let client = world.server.connect(&login).await.unwrap();
    let answer = client.request("api.submit", body.to_string().into()).await.unwrap();
    let status = answer.headers.unwrap().get("Hotcell-Status").unwrap().to_string();
    (status, serde_json::from_slice(&answer.payload).unwrap())
}

/// IAM-09, STEP-15: who may not publish elsewhere is told so at the door, before an encode is wasted,
/// and before a second factor is asked for in vain.
#[tokio::test]
async fn step_15_outputs_leave_the_store_for_who_publishes_with_a_second_factor() {
    use RoleName::{Publisher, Submitter};
    let world = World::start().await;
    world.enter(&record("acme", "cdn", [HOST, "media", "video"])).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let (job, stays) = (transcode(&file, Some("cdn")), transcode(&file, None));
    let both = world.enrolled("acme", &[Submitter, Publisher]).await;
    let paths = ["/v1/transcodes", "/ext-authz/v1/transcodes"];
    let check = async |bearer: &str, expect: (u16, &str, Value)| {
        for path in paths {
            let (status, problem) = world.post(path, bearer, &job).await;
            let policies = problem.get("policies").or(problem.get("policy")).cloned();
            assert_eq!((status, kind(&problem), policies.unwrap()), expect, "{path} {problem}");
        }
    };
    let submitter = world.enrolled("acme", &[Submitter]).await;
    check(&submitter, (403, "forbidden", json!([]))).await;
    check(&world.stepped_up(&submitter).await, (403, "forbidden", json!([]))).await;
    let (_, problem) = world.post("/v1/transcodes", &submitter, &job).await;
    assert_eq!(problem["action"], "PublishOutput");
    assert!(problem["allowed"].to_string().contains("the role publisher"), "{problem}");
    assert_eq!(world.post("/v1/transcodes", &submitter, &stays).await.0, 202, "the store is open");
    // A publisher submits nothing.
    let publisher = world.strong(&[Publisher]).await;
    let (status, problem) = world.post("/v1/transcodes", &publisher, &job).await;
    assert_eq!((status, &problem["action"]), (403, &json!("SubmitTranscode")), "{problem}");
    // Both may, with a second factor, or other people's approval.
    check(&both, (401, "step-up-required", json!(["step-up-external"]))).await;
    let machine = world.key("acme", &[Submitter, Publisher]).await;
    check(&machine, (403, "approval-required", json!(["step-up-external"]))).await;
    let (status, told) = by_login(&world, &[Submitter, Publisher], &job).await;
    assert_eq!((status.as_str(), kind(&told)), ("403", "approval-required"), "{told}");
    let (status, told) = by_login(&world, &[Submitter], &job).await;
    assert_eq!((status.as_str(), kind(&told)), ("403", "forbidden"), "{told}");
    let strong = world.stepped_up(&both).await;
    assert_eq!(world.post(paths[1], &strong, &job).await.0, 200);
    let (status, made) = world.post("/v1/transcodes", &strong, &job).await;
    assert_eq!(status, 202, "{made}");
    let id = made["result"]["id"].as_str().unwrap().parse().unwrap();
    let kept = world.bus(Role::Intake).await.job(&tenant("acme"), &id).await.unwrap().unwrap();
    let kept = kept.message.into_inner();
    assert_eq!(kept.request.destination.as_ref().unwrap().as_str(), "cdn");
    let said: Vec<_> = kept.decisions.iter().map(|it| (it.action.as_str(), it.outcome)).collect();
    let all = ["SubmitTranscode", "ReadSource", "PublishOutput"];
    assert_eq!(said, all.map(|action| (action, Outcome::Allowed)));
    // Asked beforehand, policy says the same, and where it leads.
    let ask = json!({ "request": job, "as": ["submitter"], "mfa": true });
    let (_, told) = world.post("/v1/policy/explain", &strong, &ask).await;
    assert_eq!(told["result"]["facts"]["destination"], "https://s3.example.com/media/video");
    assert_eq!(told["result"]["decisions"][2]["outcome"], "denied", "{told}");
    let (_, told) = world.post("/v1/policy/explain", &strong, &json!({ "request": stays })).await;
    assert_eq!(told["result"]["facts"]["destination"], "store");
}

/// IAM-09: an output bucket, prefix or host that the tenant's own policy does not list is 403.
#[tokio::test]
async fn iam_09_a_bucket_a_prefix_or_a_host_that_is_not_listed_is_403() {
    let world = World::start().await;
    let host = "https://s3.example.com.evil.org";
    let places = [
        ("listed", [HOST, "media", "video/out"]),
        ("bucket", [HOST, "media-x", "video/out"]),
        ("prefix", [HOST, "media", "video-x"]),
        ("above", [HOST, "media", ""]),
        ("host", [host, "media", "video/out"]),
    ];
    for (name, place) in places {
        world.enter(&record("acme", name, place)).await;
    }
    let strong = world.strong(&[RoleName::TenantAdmin]).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let submit = async |name| world.submit(&strong, &transcode(&file, name), None).await;
    for (name, _) in places {
        assert_eq!(submit(Some(name)).await.0, 202, "{name}, while no policy is in force");
    }
    let body = json!({ "text": PLACES }).to_string();
    let put = world.send(Method::PUT, "/v1/policy", Some(&strong), Some(&body)).await;
    assert_eq!(answer(put).await.0, 200);
    until(async || (submit(Some("host")).await.0 == 403).then_some(())).await;
    let before = world.stored("JOBS", "job.>").await;
    for (name, _) in places {
        let (status, told) = submit(Some(name)).await;
        if name == "listed" {
            assert_eq!(status, 202, "{told}");
            continue;
        }
        assert_eq!((status, kind(&told)), (403, "forbidden"), "{name}");
        assert_eq!(told["policies"], json!(["acme/places"]), "{name}");
        assert!(told["allowed"][0].as_str().unwrap().contains("media/video/"), "{told}");
    }
    assert_eq!(submit(None).await.0, 202, "the store is listed");
    assert_eq!(world.stored("JOBS", "job.>").await, before + 2);
}

/// NEW-08: what was approved is one destination, as it was when approval was asked for.
#[tokio::test]
async fn new_08_an_approval_of_one_destination_is_of_no_other() {
    let world = World::start().await;
    let cdn = record("acme", "cdn", [HOST, "media", "video"]);
    let revision = world.enter(&cdn).await;
    world.enter(&record("acme", "archive", [HOST, "archive", ""])).await;
    let machine = world.key("acme", &[RoleName::Submitter, RoleName::Publisher]).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let job = transcode(&file, Some("cdn"));
    let approved = async || {
        let asked = json!({ "action": "SubmitTranscode", "request": job });
        let (status, made) = world.post("/v1/approvals", &machine, &asked).await;
        assert_eq!(status, 201, "{made}");
        let id = made["result"]["id"].as_str().unwrap().to_owned();
        let admin = world.strong(&[RoleName::TenantAdmin]).await;
        let path = format!("/v1/approvals/{id}/approve");
        let (status, given) = world.post(&path, &admin, &json!({})).await;
        assert_eq!((status, &given["result"]["state"]), (200, &json!("given")), "{given}");
        assert_eq!(given["result"]["request"]["destination"], "cdn", "approvers see it");
        id
    };
    let (first, second) = (approved().await, approved().await);
    for other in [Some("archive"), None] {
        let body = transcode(&file, other);
        let (status, problem) = world.submit(&machine, &body, Some(&first)).await;
        assert_eq!((status, kind(&problem)), (403, "approval-mismatch"), "{other:?}");
    }
    let (status, made) = world.submit(&machine, &job, Some(&first)).await;
    assert_eq!(status, 202, "{made}");
    // Removed after it was approved, then entered again with another address.
    let places = world.places().await;
    let revision = places.remove("acme.cdn", revision).await.unwrap();
    let (status, problem) = world.submit(&machine, &job, Some(&second)).await;
    assert_eq!((status, &problem["code"]), (422, &json!("destination_unknown")), "{problem}");
    let place = ["https://s3.example.org", "media", "video"];
    let moved = DestinationRecord { created_at: clock::now(), ..record("acme", "cdn", place) };
    let revision = places.update("acme.cdn", &moved, revision).await.unwrap();
    let (status, problem) = world.submit(&machine, &job, Some(&second)).await;
    assert_eq!((status, kind(&problem)), (403, "approval-mismatch"), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("entered after"), "{problem}");
    // It is the record's time that refuses it: the very one that was approved is not refused.
    places.update("acme.cdn", &cdn, revision).await.unwrap();
    assert_eq!(world.submit(&machine, &job, Some(&second)).await.0, 202);
}

/// IAM-09: a tenant finds its outputs where they were put; API-11: without a signature, and no key
/// of hotcell's own store.
#[tokio::test]
async fn iam_09_a_job_says_where_its_outputs_are() {
    let world = World::start().await;
    let cdn = record("acme", "cdn", [HOST, "media", "video"]);
    let revision = world.enter(&cdn).await;
    let path =
        [EventKind::Validated, EventKind::Assigned, EventKind::Encoded, EventKind::Completed];
    let mut made = Vec::new();
    for destination in [Some("cdn"), None] {
        let mut job = life::submitted("acme", made.len());
        job.request.destination = destination.map(|name| name.parse().unwrap());
        let bus = world.bus(Role::Intake).await;
        let at = bus.publish(&Outgoing::job(job.clone(), 0)).await.unwrap().seq;
        made.push(life::moved(&world, job, at, &path).await.0);
    }
    let show = async |index: usize| {
        let path = format!("/v1/transcodes/{}", made[index].id);
        let (status, shown) = world.get(&path, &world.acme).await;
        assert_eq!(status, 200, "{shown}");
        shown["result"].clone()
    };
    let out = show(0).await;
    let expect = format!("https://s3.example.com/media/video/{}", made[0].outputs[0].key);
    assert_eq!(
        (&out["destination"], &out["outputs"][0]["location"]),
        (&json!("cdn"), &json!(expect))
    );
    let stays = show(1).await;
    assert_eq!((&stays["destination"], stays["outputs"][0].get("location")), (&Value::Null, None));
    assert!(!stays.to_string().contains(made[1].outputs[0].key.as_str()));
    // Another place under the same name is not where they are, nor is one that is gone.
    let places = world.places().await;
    let revision = places.remove("acme.cdn", revision).await.unwrap();
    assert_eq!(show(0).await["outputs"][0].get("location"), None);
    let later = DestinationRecord { created_at: clock::now(), ..cdn };
    places.update("acme.cdn", &later, revision).await.unwrap();
    let out = show(0).await;
    assert_eq!((&out["destination"], out["outputs"][0].get("location")), (&json!("cdn"), None));
}
