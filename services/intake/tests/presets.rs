//! STEP-04: tenants' own presets against a real broker: who changes them, what is kept of a change,
//! and that a job by a preset's name is decided, approved and recorded with what the preset settles.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/preset.rs"]
mod preset;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use hotcell_intake::presets::PRESETS_MAX;
use hotcell_nats_config::testing::destination;
use hotcell_schemas::{
    Role,
    approval::{ApprovalRecord, check_job},
    destination::DestinationRecord,
    identity::RoleName,
    preset::{PresetIndex, PresetMark, PresetRecord},
    records::TenantRecord,
};
use preset::{PATH, by_name, fault, kind, own_arguments, said, simple};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use world::{World, answer, program, tenant, until};

/// STEP-04, BRK-83: made, changed, shown, removed, made again: every change has its own number, and
/// one record before it.
#[tokio::test]
async fn step_04_a_preset_is_made_changed_removed_and_made_again_with_numbers_that_go_on() {
    let world = World::start().await;
    let strong = world.strong("acme").await;
    let viewer = world.key("acme", &[RoleName::Viewer]).await;
    assert!(world.names(&viewer).await.is_empty());
    let (status, made) = world.put(&strong, "web", &simple("480p")).await;
    assert_eq!((status, &made["result"]["version"]), (200, &json!(1)), "{made}");
    let (status, made) = world.put(&strong, "web", &simple("720p")).await;
    assert_eq!((status, &made["result"]["version"]), (200, &json!(2)), "{made}");
    assert_eq!(world.put(&strong, "audio", &simple("source")).await.0, 200);
    let (status, shown) = world.get("/v1/presets/web", &viewer).await;
    assert_eq!((status, &shown["result"]), (200, &made["result"]));
    assert_eq!(shown["result"]["settings"], simple("720p"));
    assert_eq!(shown["result"]["changedBy"]["kind"], "apiKey");
    assert_eq!(world.names(&viewer).await, ["audio", "web"]);

    // It is another tenant's no more than any name is.
    assert!(world.names(&world.bolt).await.is_empty());
    assert_eq!(world.get("/v1/presets/web", &world.bolt).await.0, 404);
    let other = world.strong("bolt").await;
    assert_eq!(world.remove(&other, "web").await.0, 404);
    let (_, theirs) = world.put(&other, "web", &simple("240p")).await;
    assert_eq!(theirs["result"]["version"], 1);
    assert_eq!(world.record("acme", "web").await.unwrap().version, 2);

    let (status, gone) = world.remove(&strong, "web").await;
    assert_eq!((status, &gone["result"]["version"]), (200, &json!(3)), "{gone}");
    assert_eq!(gone["result"]["settings"], Value::Null);
    assert_eq!(world.get("/v1/presets/web", &viewer).await.0, 404);
    assert_eq!(world.remove(&strong, "web").await.0, 404, "it is gone");
    assert_eq!(world.remove(&strong, "never").await.0, 404);
    assert_eq!(world.remove(&strong, "No.Name").await.0, 404);
    assert_eq!(world.names(&viewer).await, ["audio"]);
    // What is kept is its number.
    assert_eq!(world.record("acme", "web").await.unwrap().settings, None);
    let (_, again) = world.put(&strong, "web", &simple("480p")).await;
    assert_eq!(again["result"]["version"], 4);

    assert_eq!(world.audited("acme", "change").await, 5);
    assert_eq!(world.audited("bolt", "change").await, 1);
    let mut told = world.changes(6).await;
    told.remove(3);
    assert_eq!(
        told,
        [
            said("preset_put", "web version 1"),
            said("preset_put", "web version 2"),
            said("preset_put", "audio version 1"),
            said("preset_removed", "web version 3"),
            said("preset_put", "web version 4"),
        ]
    );
}

/// STEP-04, STEP-06, STEP-09: a plain key is challenged, a program needs approval of exactly this
/// change, and who may not is refused; nothing of it changes anything.
#[tokio::test]
async fn step_04_changing_a_preset_needs_a_second_factor_or_approval() {
    let world = World::start().await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let (status, problem) = world.put(&admin, "web", &simple("480p")).await;
    assert_eq!((status, kind(&problem)), (401, "step-up-required"), "{problem}");
    assert_eq!(problem["policy"], json!(["step-up-presets"]));
    assert_eq!(world.remove(&admin, "web").await.0, 401);
    let program = world.key("acme", &[RoleName::TenantAdmin]).await;
    let (status, problem) = world.put(&program, "web", &simple("480p")).await;
    assert_eq!((status, kind(&problem)), (403, "approval-required"), "{problem}");
    let submitter = world.key("acme", &[RoleName::Submitter]).await;
    let (status, problem) = world.put(&submitter, "web", &simple("480p")).await;
    assert_eq!((status, kind(&problem)), (403, "forbidden"), "{problem}");
    assert_eq!(
        (world.audited("acme", "change").await, world.index("acme").await.names.len()),
        (0, 0)
    );

    let asked = json!({ "action": "ManagePresets", "request": { "method": "PUT",
        "path": "/v1/presets/web", "body": simple("480p") } });
    let (status, made) = world.post("/v1/approvals", &program, &asked).await;
    assert_eq!(status, 201, "{made}");
    let id = made["result"]["id"].as_str().unwrap();
    let approve = format!("/v1/approvals/{id}/approve");
    assert_eq!(world.post(&approve, &strong, &json!({})).await.0, 200);
    let put = async |name: &str, body: Value| {
        let request = world.request(Method::PUT, &format!("{PATH}/{name}")).bearer_auth(&program);
        let request = request.header("hotcell-approval", id).body(body.to_string());
        answer(request.send().await.unwrap()).await
    };
    assert_eq!(put("web", simple("720p")).await.0, 403, "not these settings");
    assert_eq!(put("other", simple("480p")).await.0, 403, "not this preset");
    let (status, made) = put("web", simple("480p")).await;
    assert_eq!((status, &made["result"]["version"]), (200, &json!(1)), "{made}");
    assert_eq!(put("web", simple("480p")).await.0, 403, "it was used");
}

/// STEP-04, API-12: what is refused names the preset's own field and its rule, and changes nothing.
#[tokio::test]
async fn step_04_settings_are_checked_when_they_are_stored() {
    let world = World::start().await;
    let strong = world.strong("acme").await;
    assert_eq!(world.put(&strong, "web", &simple("480p")).await.0, 200);
    let video = |more: Value| json!({ "outputs": [{ "format": "mp4", "video": more }] });
    let both = json!({ "outputFormat": "mp4", "preset": simple("480p")["preset"],
        "outputs": [{ "format": "mp4", "video": { "codec": "h264" } }] });
    for (body, status, field, rule) in [
        (video(json!({ "codec": "h264", "bitrate": 1 })), 422, "outputs[0].video.bitrate", "50000"),
        (video(json!({ "codec": "vp9" })), 422, "outputs[0].video.codec", "mp4 holds"),
        (video(json!({ "codec": "av1" })), 400, "outputs[0].video.codec", "unknown variant"),
        (json!({}), 422, "outputFormat", "give outputFormat with preset, or outputs"),
        (json!({ "destination": "cdn" }), 422, "outputFormat", "or outputs"),
        (json!({ "outputFormat": "mp4" }), 422, "preset", "with outputFormat"),
        (both, 422, "outputs", "must not be given"),
        (json!({ "inputs": [] }), 400, "inputs", "unknown field"),
        (json!({ "presetName": "web" }), 400, "presetName", "unknown field"),
        (json!({ "workflow": "x" }), 400, "workflow", "unknown field"),
        (json!({ "destination": "../x" }), 400, "destination", "destination"),
        (json!([]), 400, "body", "must be an object"),
        (own_arguments("99"), 403, "outputs[0].ffmpegArgs", ""),
    ] {
        let (found, problem) = world.put(&strong, "web", &body).await;
        let (at, why) = fault(&problem);
        assert_eq!((found, at), (status, field), "{body} {problem}");
        assert!(why.contains(rule), "{body} {problem}");
    }
    let (status, problem) = world.put(&strong, "Web_1", &simple("480p")).await;
    assert_eq!((status, fault(&problem).0), (422, "name"), "{problem}");
    // The same arguments, where the tenant may give its own.
    let other = world.strong("bolt").await;
    let (status, problem) = world.put(&other, "raw", &own_arguments("99")).await;
    assert_eq!((status, fault(&problem).0), (422, "outputs[0].ffmpegArgs[6]"), "{problem}");
    assert_eq!(world.put(&other, "raw", &own_arguments("20")).await.0, 200);

    assert_eq!(world.record("acme", "web").await.unwrap().version, 1);
    assert_eq!(world.index("acme").await.names.len(), 1);
    assert_eq!(world.audited("acme", "change").await, 1);
}

/// STEP-04: two replicas change one preset at the same moment, again and again: every answer has a
/// number of its own, and what stands is the last.
#[tokio::test]
async fn step_04_changes_at_the_same_moment_lose_no_number() {
    let mut world = World::start().await;
    let second = world.replica().await;
    let strong = world.strong("acme").await;
    let mut versions = BTreeSet::new();
    for round in 0..10_u64 {
        let there = world.client.put(format!("{second}{PATH}/web")).bearer_auth(&strong);
        let there = there.body(simple("720p").to_string()).send();
        let here = simple("480p");
        let (here, there) = tokio::join!(world.put(&strong, "web", &here), there);
        for (status, made) in [here, answer(there.unwrap()).await] {
            assert_eq!(status, 200, "{made}");
            let version = made["result"]["version"].as_u64().unwrap();
            assert!(versions.insert(version), "{version} was given twice");
        }
        let stands = world.record("acme", "web").await.unwrap();
        assert_eq!((stands.version, versions.len() as u64), (2 * (round + 1), 2 * (round + 1)));
    }
    assert_eq!(world.audited("acme", "change").await, 20);

    // Put and removed at the same moment: whatever came last, index and record say the same.
    for _ in 0..10 {
        let there = world.client.put(format!("{second}{PATH}/web")).bearer_auth(&strong);
        let there = there.body(simple("720p").to_string()).send();
        let (here, there) = tokio::join!(world.remove(&strong, "web"), there);
        assert_eq!(answer(there.unwrap()).await.0, 200);
        assert!([200, 404].contains(&here.0), "{here:?}");
        let (record, index) =
            (world.record("acme", "web").await.unwrap(), world.index("acme").await);
        let mark = index.names[&record.name];
        assert_eq!((record.settings.is_some(), record.version), (mark.stands, mark.version));
        assert_eq!(!world.names(&strong).await.is_empty(), mark.stands);
    }
}

/// STEP-04: a tenant has so many presets and no more, also when they are made at the same moment.
#[tokio::test]
async fn step_04_the_bound_holds_when_presets_are_made_at_the_same_moment() {
    let mut world = World::start().await;
    let second = world.replica().await;
    let strong = world.strong("acme").await;
    let most = PRESETS_MAX;
    // All but one, made as the API makes them, but not within its limits on requests.
    assert_eq!(world.put(&strong, "p0", &simple("480p")).await.0, 200);
    let bucket = world.bus(Role::Intake).await.bucket("presets");
    let first = world.record("acme", "p0").await.unwrap();
    let (mut index, of) = (world.index("acme").await, tenant("acme"));
    for n in 1..most - 1 {
        let name = format!("p{n}").parse().unwrap();
        index.names.insert(name, PresetMark { version: 1, stands: true });
    }
    for name in index.names.keys().filter(|name| **name != first.name) {
        let record = PresetRecord { name: name.clone(), ..first.clone() };
        bucket.create(&PresetRecord::key(&of, name), &record).await.unwrap();
    }
    let (_, revision) = bucket.look::<PresetIndex>("acme").await.unwrap();
    bucket.update("acme", &index, revision).await.unwrap();
    assert_eq!(world.names(&strong).await.len(), most - 1);
    let send = async |base: &str, name: &str| {
        let request = world.client.put(format!("{base}{PATH}/{name}")).bearer_auth(&strong);
        answer(request.body(simple("480p").to_string()).send().await.unwrap()).await
    };
    let here = world.api().to_owned();
    let four =
        tokio::join!(send(&here, "a"), send(&second, "b"), send(&here, "c"), send(&second, "d"));
    let mut statuses = [four.0.0, four.1.0, four.2.0, four.3.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 422, 422, 422], "{four:?}");
    assert_eq!(world.names(&strong).await.len(), most);
    // Each change of one that stands is still taken, and a place that was left is free.
    assert_eq!(world.put(&strong, "p0", &simple("720p")).await.0, 200);
    assert_eq!(world.put(&strong, "more", &simple("720p")).await.0, 422);
    assert_eq!(world.remove(&strong, "p0").await.0, 200);
    assert_eq!(world.put(&strong, "more", &simple("720p")).await.0, 200);
    assert_eq!(world.put(&strong, "p0", &simple("720p")).await.0, 422);
    assert_eq!(world.names(&strong).await.len(), most);
    assert_eq!(world.audited("acme", "change").await, 5, "none for what was refused");
}

/// STEP-04, BRK-81: a job by a preset's name is the job with its settings, through both doors, and
/// says so; what a client may not say beside the name is refused with field and rule.
#[tokio::test]
async fn step_04_a_job_by_a_preset_s_name_is_recorded_with_version_and_settings() {
    let world = World::start().await;
    let strong = world.strong("acme").await;
    let submitter = world.key("acme", &[RoleName::Submitter]).await;
    for resolution in ["240p", "480p"] {
        assert_eq!(world.put(&strong, "web", &simple(resolution)).await.0, 200);
    }
    let file = world.upload("acme", "a.mp4", false).await;
    let body = by_name(&file, "web");
    let key = [("idempotency-key", "one")];
    let (status, made) = world.submit(&submitter, &body, &key).await;
    assert_eq!(status, 202, "{made}");
    let id = made["result"]["id"].as_str().unwrap();
    let expect = |version: u64, resolution: &str| {
        let mut request = body.clone();
        request["presetVersion"] = json!(version);
        request.as_object_mut().unwrap().extend(simple(resolution).as_object().unwrap().clone());
        request
    };
    let job = world.job(&tenant("acme"), &made).await;
    assert_eq!(json!(job.request), expect(2, "480p"));
    let (_, shown) = world.get(&format!("/v1/transcodes/{id}"), &submitter).await;
    assert_eq!(shown["result"]["presetName"], "web");
    assert_eq!(shown["result"]["presetVersion"], 2);
    let (_, shown) = world.get(&format!("/v1/transcodes/{id}/audit"), &world.acme).await;
    assert_eq!(shown["result"]["request"], expect(2, "480p"), "{shown}");

    // The preset changes; a repeat of the same request is still that job, a new one is another.
    assert_eq!(world.put(&strong, "web", &simple("720p")).await.0, 200);
    let (status, again) = world.submit(&submitter, &body, &key).await;
    assert_eq!((status, &again["result"]["id"]), (200, &json!(id)), "{again}");
    let (status, made) = world.submit(&submitter, &body, &[]).await;
    assert_eq!(status, 202, "{made}");
    assert_eq!(json!(world.job(&tenant("acme"), &made).await.request), expect(3, "720p"));

    for (more, field, rule) in [
        (json!({ "presetVersion": 2 }), "presetVersion", "is set by the server"),
        (json!({ "outputFormat": "mp4" }), "outputFormat", "with presetName"),
        (json!({ "preset": simple("480p")["preset"] }), "preset", "with presetName"),
        (json!({ "outputs": [{ "format": "mp4" }] }), "outputs", "with presetName"),
        (json!({ "presetName": "other" }), "presetName", "a preset of the tenant's"),
    ] {
        let mut bad = body.clone();
        bad.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let explain = json!({ "request": bad });
        let approval = json!({ "action": "SubmitTranscode", "request": bad });
        for (path, sent, prefix) in [
            ("/v1/transcodes", &bad, ""),
            ("/v1/policy/explain", &explain, ""),
            ("/v1/approvals", &approval, "request."),
        ] {
            let (status, problem) = world.post(path, &submitter, sent).await;
            let (at, why) = fault(&problem);
            assert_eq!((status, at), (422, format!("{prefix}{field}").as_str()), "{problem}");
            assert!(why.contains(rule), "{problem}");
        }
    }
    // A version without a name is no more a client's to say.
    let mut bad = simple("480p");
    (bad["inputs"], bad["presetVersion"]) = (body["inputs"].clone(), json!(1));
    let (status, problem) = world.submit(&submitter, &bad, &[]).await;
    assert_eq!((status, fault(&problem).0), (422, "presetVersion"));
    // Another tenant's preset of this name is none.
    let theirs = world.upload("bolt", "a.mp4", false).await;
    let (status, problem) = world.submit(&world.bolt, &by_name(&theirs, "web"), &[]).await;
    assert_eq!((status, fault(&problem).0), (422, "presetName"));

    over_the_broker(&world, &body, expect(3, "720p")).await;
    assert_eq!(world.remove(&strong, "web").await.0, 200);
    let (status, problem) = world.submit(&submitter, &body, &[]).await;
    assert_eq!((status, fault(&problem).0), (422, "presetName"), "{problem}");
}

async fn over_the_broker(world: &World, body: &Value, expect: Value) {
    let client = world.server.connect(&program("acme")).await.unwrap();
    let ask = async |body: Value| {
        let answer = client.request("api.submit", body.to_string().into()).await.unwrap();
        let status = answer.headers.unwrap().get("Hotcell-Status").unwrap().to_string();
        (status, serde_json::from_slice::<Value>(&answer.payload).unwrap())
    };
    let (status, made) = ask(body.clone()).await;
    assert_eq!(status, "202", "{made}");
    assert_eq!(json!(world.job(&tenant("acme"), &made).await.request), expect);
    let mut bad = body.clone();
    bad["presetName"] = json!("other");
    let (status, problem) = ask(bad).await;
    assert_eq!((status.as_str(), fault(&problem).0), ("422", "presetName"), "{problem}");
}

/// STEP-04, IAM-17: policy is asked about what the preset settles, before and at submission; a right
/// that the tenant lost is lost for its presets, too.
#[tokio::test]
async fn step_04_policy_and_rights_are_asked_about_what_the_preset_settles() {
    let world = World::start().await;
    let strong = world.strong("bolt").await;
    let submitter = world.enrolled("bolt", &[RoleName::Submitter]).await;
    assert_eq!(world.put(&strong, "raw", &own_arguments("20")).await.0, 200);
    assert_eq!(world.put(&strong, "web", &simple("480p")).await.0, 200);
    let file = world.upload("bolt", "a.mp4", false).await;
    let explain = async |preset: &str| {
        let ask = json!({ "request": by_name(&file, preset) });
        let (status, told) = world.post("/v1/policy/explain", &submitter, &ask).await;
        assert_eq!(status, 200, "{told}");
        let first = told["result"]["decisions"][0]["outcome"].as_str().unwrap().to_owned();
        (first, told["result"]["facts"]["outputs"][0].clone())
    };
    let (outcome, facts) = explain("web").await;
    assert_eq!((outcome.as_str(), &facts["height"]), ("allowed", &json!(480)));
    let (outcome, facts) = explain("raw").await;
    assert_eq!((outcome.as_str(), &facts["rawArguments"]), ("step_up", &json!(true)));
    let (status, problem) = world.submit(&submitter, &by_name(&file, "raw"), &[]).await;
    assert_eq!((status, kind(&problem)), (401, "step-up-required"), "{problem}");
    assert_eq!(problem["policy"], json!(["step-up-raw-arguments"]));
    let token = world.stepped_up(&submitter).await;
    assert_eq!(world.submit(&token, &by_name(&file, "raw"), &[]).await.0, 202);

    let tenants = world.bus(Role::Provisioner).await.bucket("tenants");
    let entry = tenants.get::<TenantRecord>("bolt").await.unwrap().unwrap();
    let record = TenantRecord { raw_arguments: false, ..entry.value };
    tenants.update("bolt", &record, entry.revision).await.unwrap();
    let problem = until(async || {
        let (status, problem) = world.submit(&token, &by_name(&file, "raw"), &[]).await;
        (status == 403).then_some(problem)
    })
    .await;
    assert_eq!(fault(&problem).0, "outputs[0].ffmpegArgs", "{problem}");
    assert_eq!(world.submit(&token, &by_name(&file, "web"), &[]).await.0, 202);
}

/// NEW-08, STEP-04: what is approved is what the preset settled then; changed, it is refused, and
/// every node comes to the same digest from the job's record.
#[tokio::test]
async fn new_08_an_approval_of_a_job_by_preset_is_for_the_preset_as_it_was() {
    let world = World::start().await;
    let strong = world.strong("bolt").await;
    let machine = world.key("bolt", &[RoleName::Submitter]).await;
    let file = world.upload("bolt", "a.mp4", false).await;
    let body = by_name(&file, "raw");
    assert_eq!(world.put(&strong, "raw", &own_arguments("20")).await.0, 200);
    let approved = async || {
        let asked = json!({ "action": "SubmitTranscode", "request": body });
        let (status, made) = world.post("/v1/approvals", &machine, &asked).await;
        assert_eq!(status, 201, "{made}");
        let id = made["result"]["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/approvals/{id}/approve");
        assert_eq!(world.post(&path, &strong, &json!({})).await.0, 200);
        (id, made["result"]["request"].clone())
    };
    let (first, shown) = approved().await;
    assert_eq!(shown["presetVersion"], 1, "approvers see what they approve: {shown}");
    assert_eq!(shown["outputs"], own_arguments("20")["outputs"]);
    let use_ = async |id: &str| world.submit(&machine, &body, &[("hotcell-approval", id)]).await;

    assert_eq!(world.put(&strong, "raw", &own_arguments("51")).await.0, 200);
    let (status, problem) = use_(&first).await;
    assert_eq!((status, kind(&problem)), (403, "approval-mismatch"), "{problem}");
    // Put back it is still another version, which nobody approved.
    assert_eq!(world.put(&strong, "raw", &own_arguments("20")).await.0, 200);
    let (status, problem) = use_(&first).await;
    assert_eq!((status, kind(&problem)), (403, "approval-mismatch"), "{problem}");
    // Nor does the approval stand for the same settings without the name.
    let mut plain = own_arguments("20");
    plain["inputs"] = body["inputs"].clone();
    let (status, problem) = world.submit(&machine, &plain, &[("hotcell-approval", &first)]).await;
    assert_eq!((status, kind(&problem)), (403, "approval-mismatch"), "{problem}");

    let (second, _) = approved().await;
    let (status, made) = use_(&second).await;
    assert_eq!(status, 202, "{made}");
    let job = world.job(&tenant("bolt"), &made).await;
    assert_eq!((job.request.preset_version, job.request.has_raw_arguments()), (Some(3), true));
    let approvals = world.bus(Role::Intake).await.bucket("approvals");
    let record = approvals.get::<ApprovalRecord>(&format!("bolt.{second}")).await;
    assert_eq!(check_job(Some(&record.unwrap().unwrap().value), &job), Ok(true));
}

/// STEP-04, IAM-09: where a preset puts outputs is looked up and asked about at each use; a request's
/// own destination goes before it.
#[tokio::test]
async fn step_04_a_preset_s_destination_is_looked_up_at_each_use() {
    let world = World::start().await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let submitter = world.strong_as("acme", RoleName::Submitter).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let mut settings = simple("480p");
    settings["destination"] = json!("cdn");
    assert_eq!(world.put(&strong, "web", &settings).await.0, 200, "it may be entered later");
    let body = by_name(&file, "web");
    let (status, problem) = world.submit(&strong, &body, &[]).await;
    assert_eq!((status, &problem["code"]), (422, &json!("destination_unknown")), "{problem}");

    let cdn = destination("acme", "cdn", ["https://s3.example.com", "media", "video"]);
    let own = DestinationRecord { name: "own".parse().unwrap(), ..cdn.clone() };
    let places = world.bus(Role::Provisioner).await.bucket("destinations");
    for record in [&cdn, &own] {
        let key = DestinationRecord::key(&record.tenant, &record.name);
        places.create(&key, record).await.unwrap();
    }
    let (status, problem) = world.submit(&submitter, &body, &[]).await;
    assert_eq!((status, kind(&problem)), (403, "forbidden"), "a submitter's go to the store");
    let (status, problem) = world.submit(&admin, &body, &[]).await;
    assert_eq!((status, kind(&problem)), (401, "step-up-required"), "{problem}");
    assert_eq!(problem["policy"], json!(["step-up-external"]));
    let mut with_own = body.clone();
    with_own["destination"] = json!("own");
    for (body, expect) in [(&body, "cdn"), (&with_own, "own")] {
        let (status, made) = world.submit(&strong, body, &[]).await;
        assert_eq!(status, 202, "{made}");
        let job = world.job(&tenant("acme"), &made).await;
        assert_eq!(job.request.destination.unwrap().as_str(), expect);
    }
}
