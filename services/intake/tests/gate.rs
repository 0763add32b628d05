//! The gate against a real broker: what is refused and how, what a second factor and other people
//! open, and what each leaves in the audit log.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use hotcell_schemas::{
    Role,
    approval::{ApprovalRecord, check_job, job_digest},
    identity::{Outcome, RoleName},
    records::TenantRecord,
    tenancy::TenantState,
};
use reqwest::Method;
use serde_json::{Value, json};
use world::{World, answer, tenant, transcode, until};

fn own_arguments(filename: &str) -> Value {
    json!({ "inputs": [{ "url": format!("upload:{filename}") }], "outputs": [{ "format": "mp4",
        "ffmpegArgs": ["-i", "{in0}", "-c:v", "libx264", "-an", "-crf", "20", "{out0}"] }] })
}

impl World {
    async fn with_approval(&self, path: &str, key: &str, id: &str, body: &Value) -> (u16, Value) {
        let request = self.request(Method::POST, path).bearer_auth(key);
        let request = request.header("hotcell-approval", id).body(body.to_string());
        answer(request.send().await.unwrap()).await
    }

    async fn ask_approval(&self, key: &str, body: &Value) -> String {
        let (status, made) = self.post("/v1/approvals", key, body).await;
        assert_eq!(status, 201, "{made}");
        made["result"]["id"].as_str().unwrap().to_owned()
    }
}

fn kind(problem: &Value) -> &str {
    problem["type"].as_str().unwrap().rsplit(':').next().unwrap()
}

/// STEP-06 to STEP-08, STEP-10, STEP-15: the challenge, its header and its body.
#[tokio::test]
async fn step_08_a_sensitive_route_is_challenged_and_opens_to_the_second_factor() {
    let world = World::start().await;
    let key = world.enrolled("acme", &[RoleName::WebhookAdmin]).await;
    let body = json!({ "url": "https://hooks.example/in" }).to_string();
    let send = async |bearer: &str| {
        world.send(Method::POST, "/v1/webhooks", Some(bearer), Some(&body)).await
    };
    let response = send(&key).await;
    let header = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert_eq!(
        header,
        "Bearer error=\"insufficient_user_authentication\", \
         error_description=\"A different authentication level is required\", \
         acr_values=\"urn:hotcell:acr:mfa\", max_age=\"300\""
    );
    let (status, problem) = answer(response).await;
    assert_eq!((status, kind(&problem)), (401, "step-up-required"));
    assert_eq!(problem["acr_values"], "urn:hotcell:acr:mfa");
    assert_eq!(problem["max_age"], 300);
    assert_eq!(problem["policy"], json!(["step-up-webhooks"]));
    assert!(problem["instance"].as_str().unwrap().starts_with("urn:hotcell:decision:"));
    // The same token twice is the same answer, not a loop.
    let token = world.token(&key).await;
    for _ in 0..2 {
        assert_eq!(answer(send(&token).await).await.0, 401);
    }
    until(async || (world.audited("acme", "decision").await == 3).then_some(())).await;
    assert_eq!(world.audited("acme", "change").await, 0);
    // STEP-07. No webhook service answers here: the gate let it pass, and it was recorded first.
    let strong = world.stepped_up(&key).await;
    assert_eq!(answer(send(&strong).await).await.0, 503);
    assert_eq!(world.audited("acme", "change").await, 1);
    // The second factor itself is one record more.
    // A principal that policy permits nothing is not sent through a second factor for nothing.
    let viewer = world.enrolled("acme", &[RoleName::Viewer]).await;
    let (status, problem) = answer(send(&viewer).await).await;
    assert_eq!((status, kind(&problem)), (403, "forbidden"));
    assert_eq!(problem["policies"], json!([]));
    assert!(problem["detail"].as_str().unwrap().contains("viewer"), "{problem}");
    // One without a second factor cannot meet a challenge.
    let machine = world.key("acme", &[RoleName::WebhookAdmin]).await;
    let (status, problem) = answer(send(&machine).await).await;
    assert_eq!((status, kind(&problem)), (403, "approval-required"));
    until(async || (world.audited("acme", "decision").await == 6).then_some(())).await;
}

/// STEP-02, STEP-05: what the compiled job is decides, not what its text says.
#[tokio::test]
async fn step_02_05_protected_sources_and_own_arguments_are_sensitive() {
    let world = World::start().await;
    let key = world.enrolled("bolt", &[RoleName::Submitter]).await;
    let (plain, marked) =
        (world.upload("bolt", "a.mp4", false).await, world.upload("bolt", "b.mp4", true).await);
    let strong = world.stepped_up(&key).await;
    for (body, policy) in [
        (transcode(&marked), "step-up-protected-source"),
        (own_arguments(&plain), "step-up-raw-arguments"),
    ] {
        let (status, problem) = world.post("/v1/transcodes", &key, &body).await;
        assert_eq!((status, kind(&problem)), (401, "step-up-required"), "{problem}");
        assert_eq!(problem["policy"], json!([policy]));
        assert_eq!(world.post("/v1/transcodes", &strong, &body).await.0, 202, "{policy}");
    }
    let (status, made) = world.post("/v1/transcodes", &key, &transcode(&plain)).await;
    assert_eq!(status, 202, "{made}");
    let id = made["result"]["id"].as_str().unwrap().parse().unwrap();
    let job = world.bus(Role::Intake).await.job(&tenant("bolt"), &id).await.unwrap().unwrap();
    let job = job.message.into_inner();
    assert_eq!(job.authority.roles, [RoleName::Submitter].into());
    let said: Vec<_> =
        job.decisions.iter().map(|it| (it.action.as_str(), it.outcome, it.node)).collect();
    let allowed = Outcome::Allowed;
    let expect =
        [("SubmitTranscode", allowed, Role::Intake), ("ReadSource", allowed, Role::Intake)];
    assert_eq!(said, expect);
    assert!(job.authority.network.is_some(), "STEP-11: whence it came is in the record");
    // IAM-05: a publisher reads outputs, and submits nothing.
    let publisher = world.key("bolt", &[RoleName::Publisher]).await;
    let (status, problem) = world.post("/v1/transcodes", &publisher, &transcode(&plain)).await;
    assert_eq!((status, kind(&problem)), (403, "forbidden"));
    assert_eq!(world.stored("JOBS", "job.>").await, 3);
}

/// STEP-03: there are no live streams; how a file streams (fragments, what stands first in it) is said
/// by FFmpeg's own arguments alone, in a job or in a preset, and both are sensitive.
#[tokio::test]
async fn step_03_settings_of_streaming_are_sensitive() {
    let world = World::start().await;
    let file = world.upload("bolt", "a.mp4", false).await;
    let fragments = json!({ "outputs": [{ "format": "mp4", "ffmpegArgs": ["-i", "{in0}", "-c:v",
        "libx264", "-an", "-movflags", "frag_keyframe+empty_moov", "{out0}"] }] });
    let mut job = fragments.clone();
    job["inputs"] = json!([{ "url": format!("upload:{file}") }]);
    let submitter = world.enrolled("bolt", &[RoleName::Submitter]).await;
    let admin = world.enrolled("bolt", &[RoleName::TenantAdmin]).await;
    for (method, path, body, key, good) in [
        (Method::POST, "/v1/transcodes", &job, &submitter, 202),
        (Method::PUT, "/v1/presets/live", &fragments, &admin, 200),
    ] {
        let send = async |by: &str| {
            let body = body.to_string();
            answer(world.send(method.clone(), path, Some(by), Some(&body)).await).await
        };
        let (status, problem) = send(key).await;
        assert_eq!((status, kind(&problem)), (401, "step-up-required"), "{path} {problem}");
        let strong = world.stepped_up(key).await;
        let (status, made) = send(&strong).await;
        assert_eq!(status, good, "{path} {made}");
    }
}

/// NEW-08, BRK-84: four eyes on exactly one request.
#[tokio::test]
async fn new_08_an_approval_opens_one_job_once_and_no_other() {
    let world = World::start().await;
    let machine = world.key("bolt", &[RoleName::Submitter]).await;
    let admin = world.enrolled("bolt", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let file = world.upload("bolt", "a.mp4", false).await;
    let body = own_arguments(&file);
    let (status, problem) = world.post("/v1/transcodes", &machine, &body).await;
    assert_eq!((status, kind(&problem)), (403, "approval-required"));

    let asked = json!({ "action": "SubmitTranscode", "request": body, "expiresInSecs": 600 });
    let id = world.ask_approval(&machine, &asked).await;
    let submit =
        async |body: &Value| world.with_approval("/v1/transcodes", &machine, &id, body).await;
    let (status, problem) = submit(&body).await;
    assert_eq!((status, kind(&problem)), (403, "approval-unusable"), "nobody spoke yet");
    // Neither itself, nor an approver without a fresh second factor.
    let approve = format!("/v1/approvals/{id}/approve");
    assert_eq!(world.post(&approve, &machine, &json!({})).await.0, 403);
    assert_eq!(world.post(&approve, &admin, &json!({})).await.0, 401);
    let (status, given) = world.post(&approve, &strong, &json!({ "reason": "seen" })).await;
    assert_eq!((status, &given["result"]["state"]), (200, &json!("given")), "{given}");
    // A voice counts once.
    let (status, problem) = world.post(&approve, &strong, &json!({})).await;
    assert_eq!((status, kind(&problem)), (403, "self-approval"));

    // Another request, another principal, another action: not this one.
    let mut changed = body.clone();
    changed["outputs"][0]["ffmpegArgs"][6] = json!("21");
    let (status, problem) = submit(&changed).await;
    assert_eq!((status, kind(&problem)), (403, "approval-mismatch"), "{problem}");
    let thief = world.key("bolt", &[RoleName::Submitter]).await;
    let (status, problem) = world.with_approval("/v1/transcodes", &thief, &id, &body).await;
    assert_eq!((status, kind(&problem)), (403, "approval-unusable"));
    let keys = world.key("bolt", &[RoleName::TenantAdmin]).await;
    let (status, problem) = world
        .with_approval("/v1/webhooks", &keys, &id, &json!({ "url": "https://x.example" }))
        .await;
    assert_eq!((status, kind(&problem)), (403, "approval-unusable"));

    let (status, made) = submit(&body).await;
    assert_eq!(status, 202, "{made}");
    let (status, problem) = submit(&body).await;
    assert_eq!((status, kind(&problem)), (403, "approval-unusable"), "it is used once");

    // Its id is in the job's record, and every node comes to the same answer from both.
    let job = made["result"]["id"].as_str().unwrap().parse().unwrap();
    let bus = world.bus(Role::Intake).await;
    let job = bus.job(&tenant("bolt"), &job).await.unwrap().unwrap().message.into_inner();
    assert_eq!(job.authority.approval.as_ref().unwrap().as_str(), id);
    let record = bus.bucket("approvals").get::<ApprovalRecord>(&format!("bolt.{id}")).await;
    let record = record.unwrap().unwrap().value;
    assert_eq!(record.request, job_digest(&job.request));
    assert_eq!(check_job(Some(&record), &job), Ok(true));
    let (_, shown) = world.get(&format!("/v1/approvals/{id}"), &machine).await;
    assert_eq!(shown["result"]["usedFor"], json!(job.id));
    assert_eq!(shown["result"]["request"]["outputs"], body["outputs"]);
}

/// NEW-08: an idempotent repeat of the approved job is that job, not a second use.
#[tokio::test]
async fn new_08_a_repeat_of_the_approved_job_is_the_same_job() {
    let world = World::start().await;
    let machine = world.key("bolt", &[RoleName::Submitter]).await;
    let admin = world.enrolled("bolt", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let body = own_arguments(&world.upload("bolt", "a.mp4", false).await);
    let asked = json!({ "action": "SubmitTranscode", "request": body });
    let id = world.ask_approval(&machine, &asked).await;
    assert_eq!(
        world.post(&format!("/v1/approvals/{id}/approve"), &strong, &json!({})).await.0,
        200
    );
    let submit = async || {
        let request = world.request(Method::POST, "/v1/transcodes").bearer_auth(&machine);
        let request = request.header("hotcell-approval", &id).header("idempotency-key", "one");
        answer(request.body(body.to_string()).send().await.unwrap()).await
    };
    let (status, first) = submit().await;
    assert_eq!(status, 202, "{first}");
    let (status, again) = submit().await;
    assert_eq!((status, &again["result"]["id"]), (200, &first["result"]["id"]));
    assert_eq!(world.stored("JOBS", "job.>").await, 1);
}

/// BRK-84: whoever asks, made the asking key, or was made by it, does not approve; nor twice.
#[tokio::test]
async fn brk_84_nobody_approves_its_own_under_whatever_key() {
    let world = World::start().await;
    let alice = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let alice = world.stepped_up(&alice).await;
    let make = async |by: &str, roles: Value| {
        let (status, made) = world.post("/v1/keys", by, &json!({ "roles": roles })).await;
        assert_eq!(status, 201, "{made}");
        made["result"]["key"].as_str().unwrap().to_owned()
    };
    // A machine's key that Alice made asks; Alice herself asks as well.
    let machine = make(&alice, json!(["webhook-admin"])).await;
    let call = json!({ "method": "POST", "path": "/v1/webhooks",
        "body": { "url": "https://hooks.example/in" } });
    let asked = json!({ "action": "ManageWebhooks", "request": call, "approversMin": 2,
        "groups": ["tenant-admin"] });
    let by_machine = world.ask_approval(&machine, &asked).await;
    let by_alice = world.ask_approval(&alice, &asked).await;
    let speak = async |id: &str, who: &str, verb: &str| {
        let path = format!("/v1/approvals/{id}/{verb}");
        let (status, body) = world.post(&path, who, &json!({})).await;
        (status, body.get("type").map_or_else(String::new, |_| kind(&body).to_owned()))
    };
    let own = (403, "self-approval".to_owned());
    assert_eq!(speak(&by_machine, &alice, "approve").await, own);
    assert_eq!(speak(&by_alice, &alice, "approve").await, own);
    assert_eq!(speak(&by_alice, &alice, "reject").await, own);
    // Two people that the operator gave keys to: one is not enough where two are asked for.
    let good = |status: u16| (status, String::new());
    for (index, state) in ["waiting", "given"].into_iter().enumerate() {
        let key = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
        let strong = world.stepped_up(&key).await;
        assert_eq!(speak(&by_machine, &strong, "approve").await, good(200), "{index}");
        assert_eq!(speak(&by_machine, &strong, "approve").await, own);
        let (_, shown) = world.get(&format!("/v1/approvals/{by_machine}"), &machine).await;
        assert_eq!(shown["result"]["state"], state);
        // No says more than yes.
        assert_eq!(speak(&by_alice, &strong, ["approve", "reject"][index]).await, good(200));
    }
    let (_, shown) = world.get(&format!("/v1/approvals/{by_alice}"), &machine).await;
    assert_eq!(shown["result"]["state"], "rejected");
    // The approved call passes, changed it does not, and no approval stands in for approving.
    let body = json!({ "url": "https://hooks.example/in" });
    let other = json!({ "url": "https://hooks.example/other" });
    let send = async |path: &str, body: &Value| {
        world.with_approval(path, &machine, &by_machine, body).await
    };
    let (status, problem) = send("/v1/webhooks", &other).await;
    assert_eq!((status, kind(&problem)), (403, "approval-mismatch"));
    assert_eq!(send("/v1/webhooks", &body).await.0, 503, "no webhook service answers here");
    let (status, problem) = send("/v1/webhooks", &body).await;
    assert_eq!((status, kind(&problem)), (403, "approval-unusable"));
    let strong = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let path = format!("/v1/approvals/{by_alice}/approve");
    let (status, problem) = world.with_approval(&path, &strong, &by_machine, &json!({})).await;
    assert_eq!((status, kind(&problem)), (403, "approval-unusable"));
    for bad in [
        json!({ "action": "ApproveRequest", "request": call }),
        json!({ "action": "ManageKeys", "request": call }),
        json!({ "action": "ManageWebhooks", "request": { "method": "GET", "path": "/v1/webhooks" } }),
        json!({ "action": "SubmitTranscode", "request": {} }),
        json!({ "action": "ManageWebhooks", "request": call, "approversMin": 9 }),
        json!({ "action": "ManageWebhooks", "request": call, "expiresInSecs": 0 }),
    ] {
        assert_eq!(world.post("/v1/approvals", &machine, &bad).await.0, 422, "{bad}");
    }
}

/// A tenant that is suspended is told so, with its own type, at both doors' first step.
#[tokio::test]
async fn a_suspended_tenant_is_not_served() {
    let world = World::start().await;
    let tenants = world.bus(Role::Provisioner).await.bucket("tenants");
    let entry = tenants.get::<TenantRecord>("acme").await.unwrap().unwrap();
    let path = "/v1/transcodes";
    assert_eq!(world.get(path, &world.acme).await.0, 200);
    let suspended = TenantRecord { state: TenantState::Suspended, ..entry.value };
    tenants.update("acme", &suspended, entry.revision).await.unwrap();
    let problem = until(async || {
        let (status, problem) = world.get(path, &world.acme).await;
        (status == 403).then_some(problem)
    })
    .await;
    assert_eq!((kind(&problem), &problem["state"]), ("tenant-inactive", &json!("suspended")));
    assert_eq!(world.get(path, &world.bolt).await.0, 200);
}

/// STEP-16, API of policies: a set is checked, stored with its number, in force within a second.
#[tokio::test]
async fn step_16_a_tenant_s_own_policy_is_checked_stored_and_obeyed() {
    let world = World::start().await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let put = async |key: &str, body: Value| {
        let body = body.to_string();
        answer(world.send(Method::PUT, "/v1/policy", Some(key), Some(&body)).await).await
    };
    let text = "@id(\"no-480p\")\n@allows(\"any height but 480\")\nforbid (principal, action == \
                Hotcell::Action::\"SubmitTranscode\", resource) when { context.output.height == 480 };";
    assert_eq!(put(&admin, json!({ "text": text })).await.0, 401, "STEP-04");
    let (status, problem) = put(&strong, json!({ "text": text.replace("height", "hieght") })).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("text")), "{problem}");
    assert_eq!(problem["faults"][0]["line"], 3, "{problem}");
    assert_eq!(problem["faults"][0]["policy"], "no-480p");
    let (status, stored) = put(&strong, json!({ "text": text, "over": 0 })).await;
    assert_eq!((status, &stored["result"]["version"]), (200, &json!(1)), "{stored}");
    assert_eq!(put(&strong, json!({ "text": "", "over": 0 })).await.0, 409);
    let (_, shown) = world.get("/v1/policy", &world.acme).await;
    assert_eq!((&shown["result"]["version"], &shown["result"]["text"]), (&json!(1), &json!(text)));

    let file = world.upload("acme", "a.mp4", false).await;
    let problem = until(async || {
        let (status, problem) = world.post("/v1/transcodes", &world.acme, &transcode(&file)).await;
        (status == 403).then_some(problem)
    })
    .await;
    assert_eq!(problem["policies"], json!(["acme/no-480p"]), "{problem}");
    assert!(problem["allowed"][0].as_str().unwrap().contains("any height but 480"), "{problem}");
    // Asked beforehand, policy says the same, and nothing is done.
    let ask = json!({ "request": transcode(&file) });
    let (status, said) = world.post("/v1/policy/explain", &world.acme, &ask).await;
    assert_eq!(status, 200, "{said}");
    let first = &said["result"]["decisions"][0];
    assert_eq!((&first["outcome"], &first["policies"]), (&json!("denied"), &problem["policies"]));
    assert_eq!(said["result"]["facts"]["outputs"][0]["height"], 480);
    // Another tenant's is untouched, and an empty text takes the policy away.
    let other = world.upload("bolt", "a.mp4", false).await;
    assert_eq!(world.post("/v1/transcodes", &world.bolt, &transcode(&other)).await.0, 202);
    assert_eq!(put(&strong, json!({ "text": "" })).await.0, 200);
    until(async || {
        let (status, _) = world.post("/v1/transcodes", &world.acme, &transcode(&file)).await;
        (status == 202).then_some(())
    })
    .await;
    let (_, all) = world.get("/v1/policy/versions", &world.acme).await;
    let versions: Vec<_> =
        all["result"]["versions"].as_array().unwrap().iter().map(|it| &it["version"]).collect();
    assert_eq!(versions, [&json!(2), &json!(1)]);
    let (_, one) = world.get("/v1/policy/versions/1", &world.acme).await;
    assert_eq!(one["result"]["text"], text);
    assert_eq!(world.audited("acme", "change").await, 3, "each that was tried after its check");
}

/// A tenant's approvals are as many as a list shows, so that nobody fills a store with them, and
/// nobody hides another's request from the people who look at it.
#[tokio::test]
async fn new_08_a_hundred_approvals_are_open_and_none_is_pushed_out() {
    let world = World::start().await;
    let machine = world.key("acme", &[RoleName::Submitter]).await;
    let greedy = world.key("acme", &[RoleName::Submitter]).await;
    let person = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let ask = |name: &str| json!({ "action": "SubmitTranscode", "request": transcode(name) });
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(world.ask_approval(&greedy, &ask(&format!("{n}-a.mp4"))).await);
    }
    // One asks for all that it may, and others ask as before.
    let (status, told) = world.post("/v1/approvals", &greedy, &ask("one-more.mp4")).await;
    assert_eq!((status, &told["limit"]), (429, &json!(50)), "{told}");
    for n in 50..100 {
        ids.push(world.ask_approval(&machine, &ask(&format!("{n}-a.mp4"))).await);
    }
    let machine = world.key("acme", &[RoleName::Submitter]).await;
    // One more that no list needs to read: it is not even a record.
    let bucket = world.bus(Role::Intake).await.bucket("approvals");
    bucket.create("acme.0", &"x").await.unwrap();
    let listed = async || {
        let (status, listed) = world.get("/v1/approvals", &machine).await;
        assert_eq!(status, 200, "{listed}");
        let listed = listed["result"]["approvals"].as_array().unwrap().clone();
        listed.iter().rev().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let changes = world.audited("acme", "change").await;
    let (status, told) = world.post("/v1/approvals", &machine, &ask("one-more.mp4")).await;
    assert_eq!((status, &told["quota"]), (429, &json!("open-approvals")), "{told}");
    assert_eq!(told["limit"], 100, "{told}");
    assert_eq!(world.audited("acme", "change").await, changes, "nothing was changed");
    assert_eq!(listed().await, ids, "the oldest is not hidden by the newest");

    // What has ended gives its place: 2 was rejected, and 1 used; only the oldest goes, and what was
    // used is kept for the nodes behind.
    let strong = world.stepped_up(&person).await;
    let (status, told) =
        world.post(&format!("/v1/approvals/{}/reject", ids[2]), &strong, &json!({})).await;
    assert_eq!(status, 200, "{told}");
    let used = format!("acme.{}", ids[1]);
    let entry = bucket.get::<ApprovalRecord>(&used).await.unwrap().unwrap();
    let record = ApprovalRecord { used_for: Some("job".to_owned()), ..entry.value };
    bucket.update(&used, &record, entry.revision).await.unwrap();
    let mut expect = ids.clone();
    for (gone, status) in [(1, 200), (2, 404)] {
        let made = world.ask_approval(&machine, &ask(&format!("more-{gone}.mp4"))).await;
        expect.retain(|id| *id != ids[gone]);
        expect.push(made);
        assert_eq!(listed().await, expect);
        let path = format!("/v1/approvals/{}", ids[gone]);
        assert_eq!(world.get(&path, &machine).await.0, status, "{gone}");
    }
    let (status, _) = world.post("/v1/approvals", &machine, &ask("one-more.mp4")).await;
    assert_eq!(status, 429);
}

/// STEP-01: the sensitive list is data.
#[tokio::test]
async fn step_01_the_sensitive_operations_are_one_list() {
    let world = World::start().await;
    let viewer = world.key("acme", &[RoleName::Viewer]).await;
    let (status, list) = world.get("/v1/policy/step-up", &viewer).await;
    assert_eq!(status, 200);
    let list = list["result"]["sensitive"].as_array().unwrap();
    let ids: Vec<_> = list.iter().map(|it| it["id"].as_str().unwrap()).collect();
    for id in [
        "step-up-protected-source",
        "step-up-raw-arguments",
        "step-up-external",
        "step-up-keys",
        "step-up-policies",
        "step-up-webhooks",
        "step-up-presets",
        "step-up-export",
        "step-up-unblock",
    ] {
        assert!(ids.contains(&id), "{id} {ids:?}");
    }
    assert!(list.iter().all(|it| it["maxAge"] == 300), "{list:?}");
}
