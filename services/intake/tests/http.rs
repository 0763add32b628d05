//! Intake against a real broker: who gets in, what is refused and how, and what a good request
//! leaves behind, over HTTP and over the broker.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/world.rs"]
mod world;

use hotcell_intake::routes::ROUTES;
use hotcell_schemas::{
    BlobKey, Digest, EventKind, Job, JobId, KeyId, Role,
    job::Output,
    limits::{HTTP_BODY_BYTES_MAX, UPLOAD_BYTES_MAX},
    records::{IdempotencyRecord, KeyRecord},
    work::SignRequest,
};
use hotcell_stage::{Outgoing, clock};
use reqwest::Method;
use serde_json::{Value, json};
use std::{process::Command, time::Instant};
use world::{OVER_QUOTA, PROGRAM, World, answer, program, tenant, transcode, until};

fn upload(size: &Value) -> Value {
    json!({ "filename": "clip one.mp4", "contentType": "video/mp4", "fileSize": size })
}

/// API-02: the table makes the router, so a new route cannot miss this test.
#[tokio::test]
async fn api_02_03_04_nobody_gets_in_without_one_good_bearer() {
    let world = World::start().await;
    for route in ROUTES.iter().filter(|route| route.path.starts_with("/v1")) {
        let path = route.path.replace("{id}", JobId::new(1, [1; 10]).as_str());
        let response = world.send(route.method.clone(), &path, None, Some("{}")).await;
        assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"hotcell\"");
        assert_eq!(answer(response).await.0, 401, "{} {path}", route.method);
        // API-04: also beside a good header.
        for query in [format!("?api_key={}", world.acme), "?access_token=x".to_owned()] {
            let path = format!("{path}{query}");
            let response = world.send(route.method.clone(), &path, Some(&world.acme), None).await;
            assert_eq!(answer(response).await.0, 401, "{} {}", route.method, route.path);
        }
    }
    for path in ["/v1/nothing", "/v1/token", "/v1"] {
        let response = world.send(Method::GET, path, None, None).await;
        assert_eq!(answer(response).await.0, 401, "{path}");
    }
    assert_eq!(world.get("/v1/nothing", &world.acme).await.0, 404);
    assert_eq!(world.get("/v1/token", &world.acme).await.0, 405);

    // API-03.
    let job = format!("/v1/transcodes/{}", JobId::new(1, [1; 10]));
    assert_eq!(world.get(&job, &world.acme).await.0, 404);
    let (good, other) = (format!("Bearer {}", world.acme), world.acme.replace("hck_", "hck_f"));
    let wrong = format!("Bearer {}x", world.acme);
    for headers in [
        vec!["Basic dXNlcjpwYXNz"],
        vec![""],
        vec!["Bearer"],
        vec![&world.acme],
        vec![&other],
        vec![&wrong],
        vec![&good, &good],
    ] {
        let mut request = world.request(Method::GET, &job);
        for header in &headers {
            request = request.header("authorization", *header);
        }
        let (status, problem) = answer(request.send().await.unwrap()).await;
        assert_eq!(status, 401, "{headers:?}");
        assert!(!problem.to_string().contains("hck_0"), "the answer repeats a key");
    }
    until(async || (world.stored("JOBS", "audit._.refused").await > 0).then_some(())).await;
}

#[tokio::test]
async fn api_06_a_revoked_key_is_dead_within_its_cache_and_refusals_are_bounded() {
    let world = World::start().await;
    let job = format!("/v1/transcodes/{}", JobId::new(1, [1; 10]));
    assert_eq!(world.get(&job, &world.acme).await.0, 404);
    let id: KeyId = world.acme.split('_').nth(1).unwrap().parse().unwrap();
    let keys = world.bus(Role::Provisioner).await.bucket("keys");
    let entry = keys.get::<KeyRecord>(id.as_str()).await.unwrap().unwrap();
    assert_eq!(entry.value.sha256, Digest::of(world.acme.as_bytes()));
    let revoked = KeyRecord { revoked_at: Some(clock::now()), ..entry.value };
    keys.update(id.as_str(), &revoked, entry.revision).await.unwrap();
    // A second, and a busy machine: the last call that was served began before that.
    let began = Instant::now();
    until(async || {
        let asked = began.elapsed();
        let is_dead = world.get(&job, &world.acme).await.0 == 401;
        assert!(is_dead || asked.as_secs() < 3, "served {asked:?} after its end");
        is_dead.then_some(())
    })
    .await;

    let began = Instant::now();
    for _ in 0..300 {
        assert_eq!(world.get(&job, &world.acme).await.0, 401);
    }
    until(async || (world.stored("JOBS", "audit._.refused").await > 0).then_some(())).await;
    let recorded = world.stored("JOBS", "audit._.refused").await;
    let seconds = began.elapsed().as_secs() + 7;
    assert!(recorded <= 11 * seconds, "{recorded} records in {seconds} s");
}

impl World {
    /// A request that must be refused with `status`, naming `field` and a rule.
    async fn refused(&self, path: &str, body: Value, status: u16, field: &str) {
        let (found, problem) = self.post(path, &self.acme, &body).await;
        assert_eq!(found, status, "{path} {body:.200} {problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["errors"][0]["field"], field, "{path} {body:.200}");
        assert!(!problem["errors"][0]["rule"].as_str().unwrap().is_empty());
    }

    async fn nothing_was_stored_or_signed(&self) {
        assert_eq!(self.signings(), 0, "API-15: nothing is signed before validation");
        assert_eq!(self.stored("JOBS", "job.>").await, 0);
        for bucket in ["uploads", "idempotency"] {
            assert_eq!(self.stored(&format!("KV_{bucket}"), ">").await, 0, "{bucket}");
        }
    }
}

#[tokio::test]
async fn api_26_over_quota_is_said_to_the_tenant_as_413() {
    let world = World::start().await;
    let path = "/v1/upload/presigned-url";
    world.refused(path, upload(&json!(OVER_QUOTA)), 413, "fileSize").await;
}

/// Issue "Bad input": a 4xx problem that names the field and the rule; nothing stored or signed.
#[tokio::test]
async fn api_15_16_17_bad_uploads_name_field_and_rule_and_leave_nothing() {
    let world = World::start().await;
    let path = "/v1/upload/presigned-url";
    for bad in [json!(0), json!(-1), json!("7"), json!(1.5), json!(null), json!([1])] {
        world.refused(path, upload(&bad), 400, "fileSize").await;
    }
    world.refused(path, upload(&json!(UPLOAD_BYTES_MAX + 1)), 413, "fileSize").await;
    for bad in ["text/html", "application/x-mpegURL", "application/octet-stream", "video/../x", ""]
    {
        let mut body = upload(&json!(1));
        body["contentType"] = json!(bad);
        world.refused(path, body, 415, "contentType").await;
    }
    for (field, bad) in [
        ("filename", json!("x".repeat(256))),
        ("filename", json!("")),
        ("filename", json!(7)),
        ("contentType", json!(true)),
        ("extra", json!(1)),
    ] {
        let mut body = upload(&json!(1));
        body[field] = bad;
        world.refused(path, body, 400, field).await;
    }
    world.refused(path, json!({}), 400, "filename").await;
    world.refused(path, json!([]), 400, "body").await;

    let path = "/v1/upload/confirm";
    world.refused(path, json!({ "filename": "../x", "fileSize": 1 }), 400, "filename").await;
    world.refused(path, json!({ "filename": "x.mp4", "fileSize": 0 }), 400, "fileSize").await;
    let gone = json!({ "filename": "x.mp4", "fileSize": 1 });
    assert_eq!(world.post(path, &world.acme, &gone).await.0, 404);
    world.nothing_was_stored_or_signed().await;
}

/// NEW-07: FFmpeg's own arguments need a right of the tenant's record, and a place on the list.
#[tokio::test]
async fn new_07_own_arguments_need_a_right_and_each_a_rule() {
    let world = World::start().await;
    let path = "/v1/transcodes";
    let body = |last: &str| {
        json!({ "inputs": [{ "url": "upload:x.mp4" }], "outputs": [{ "format": "mp4",
            "ffmpegArgs": ["-i", "{in0}", "-c:v", "libx264", "-an", last, "20", "{out0}"] }] })
    };
    world.refused(path, body("-crf"), 403, "outputs[0].ffmpegArgs").await;
    let (_, problem) = world.post(path, &world.acme, &body("-crf")).await;
    assert_eq!(problem["code"], "request_forbidden");
    assert_eq!(problem["type"], "urn:hotcell:problem:forbidden");
    // With the right, the list is what is asked next, and then everything else.
    let (status, problem) = world.post(path, &world.bolt, &body("-passlogfile")).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("outputs[0].ffmpegArgs[5]")));
    let (status, problem) = world.post(path, &world.bolt, &body("-crf")).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("inputs[0].url")));
    let mut both = body("-crf");
    both["outputs"][0]["audio"] = json!({ "codec": "aac" });
    let (status, problem) = world.post(path, &world.bolt, &both).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("outputs[0].ffmpegArgs")));
    world.nothing_was_stored_or_signed().await;
}

#[tokio::test]
async fn api_24_bad_submissions_name_field_and_rule_and_leave_nothing() {
    let world = World::start().await;
    let path = "/v1/transcodes";
    world.refused(path, transcode("x.mp4"), 422, "inputs[0].url").await;
    for (pointer, bad, status, field) in [
        ("/preset/quality", json!("ultra"), 400, "preset.quality"),
        ("/preset/resolution", json!("481p"), 400, "preset.resolution"),
        ("/preset", json!("fast"), 400, "preset"),
        ("/outputFormat", json!("exe"), 400, "outputFormat"),
        ("/inputs", json!("x"), 400, "inputs"),
        ("/inputs", json!([]), 422, "inputs"),
        ("/inputs/0", json!({ "url": "upload:a", "start": 1 }), 400, "inputs[0].start"),
        ("/inputs/0/url", json!("https://example.com/a.mp4"), 422, "inputs[0].url"),
        ("/inputs/0/url", json!("upload:../../bolt/x"), 422, "inputs[0].url"),
        ("/inputs/0/url", json!("file:///etc/passwd"), 422, "inputs[0].url"),
    ] {
        let mut body = transcode("x.mp4");
        *body.pointer_mut(pointer).unwrap() = bad;
        world.refused(path, body, status, field).await;
    }
    let mut body = transcode("x.mp4");
    body["workflow"] = json!("x".repeat(129));
    world.refused(path, body, 422, "workflow").await;
    for bad in [json!("ftp://x/"), json!("nonsense"), json!("https://u:p@x/")] {
        world.refused("/v1/webhooks", json!({ "url": bad }), 422, "url").await;
    }
    let body = json!({ "url": "https://x/", "events": ["job.exploded"] });
    world.refused("/v1/webhooks", body, 400, "events[0]").await;

    let huge = " ".repeat(HTTP_BODY_BYTES_MAX + 1);
    let response = world.send(Method::POST, path, Some(&world.acme), Some(&huge)).await;
    assert_eq!(answer(response).await.0, 413);
    for key in ["x".repeat(256), String::new()] {
        let request = world.request(Method::POST, path).bearer_auth(&world.acme);
        let request = request.header("idempotency-key", key).body(transcode("x.mp4").to_string());
        assert_eq!(answer(request.send().await.unwrap()).await.0, 400);
    }
    world.nothing_was_stored_or_signed().await;
}

fn clip() -> Vec<u8> {
    hotcell_e2e::media::clip(1, 128, 72).unwrap()
}

impl World {
    /// Declares an upload and puts `bytes` where its URL points; gives the server's name.
    async fn put(&self, bytes: &[u8]) -> String {
        let (status, given) =
            self.post("/v1/upload/presigned-url", &self.acme, &upload(&json!(bytes.len()))).await;
        assert_eq!(status, 200, "{given}");
        let mut fields: Vec<&String> = given["result"].as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(fields, ["expiresAt", "filename", "headers", "uploadUrl"]);
        assert_eq!(given["success"], true);
        let SignRequest::Upload { key, size, .. } = self.asked.lock().unwrap().pop().unwrap()
        else {
            panic!("not a request for an upload")
        };
        assert_eq!(size, bytes.len() as u64);
        self.objects.lock().unwrap().insert(key.to_string(), bytes.to_vec());
        given["result"]["filename"].as_str().unwrap().to_owned()
    }

    async fn confirm(&self, key: &str, filename: &str, size: usize) -> (u16, Value) {
        let body = json!({ "filename": filename, "fileSize": size });
        self.post("/v1/upload/confirm", key, &body).await
    }
}

#[tokio::test]
async fn api_22_23_24_25_only_what_landed_as_declared_is_confirmed() {
    let world = World::start().await;
    let bytes = clip();
    let name = world.put(&bytes).await;
    assert!(name.ends_with("-clip-one.mp4"), "API-25: {name}");
    assert_ne!(world.put(&bytes).await, name, "two equal names never collide");
    assert_eq!(world.stored("KV_uploads", ">").await, 2);
    // API-24: not confirmed, so no job may name it.
    assert_eq!(world.post("/v1/transcodes", &world.acme, &transcode(&name)).await.0, 422);
    // API-23: another size than declared; then another tenant.
    assert_eq!(world.confirm(&world.acme, &name, bytes.len() + 1).await.0, 409);
    assert_eq!(world.confirm(&world.bolt, &name, bytes.len()).await.0, 404);
    let (status, pinned) = world.confirm(&world.acme, &name, bytes.len()).await;
    let sha256 = Digest::of(&bytes).to_string();
    let expect = json!({
        "filename": name, "fileSize": bytes.len(), "sha256": sha256, "contentType": "video/mp4"
    });
    assert_eq!((status, &pinned["result"]), (200, &expect));
    assert_eq!(world.confirm(&world.acme, &name, bytes.len()).await, (200, pinned));
    assert_eq!(world.stored("JOBS", "audit.acme.upload").await, 1);

    // Never landed.
    let name = world.put(&bytes).await;
    world.objects.lock().unwrap().clear();
    assert_eq!(world.confirm(&world.acme, &name, bytes.len()).await.0, 404);
    // Another size landed than was declared.
    let name = world.put(&bytes).await;
    for object in world.objects.lock().unwrap().values_mut() {
        object.push(0);
    }
    assert_eq!(world.confirm(&world.acme, &name, bytes.len()).await.0, 409);
    for (hostile, code) in [
        (b"just some text, no film\n".to_vec(), "input_not_media"),
        (b"#EXTM3U\n#EXTINF:1,\n../bolt/x.ts\n".to_vec(), "input_playlist"),
        (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\0\0\0\0".to_vec(),
            "input_type_mismatch"),
    ] {
        let name = world.put(&hostile).await;
        let (status, problem) = world.confirm(&world.acme, &name, hostile.len()).await;
        assert_eq!((status, &problem["code"]), (422, &json!(code)), "{problem}");
        assert_eq!(world.post("/v1/transcodes", &world.acme, &transcode(&name)).await.0, 422);
    }
    assert_eq!(world.stored("JOBS", "job.>").await, 0);
}

#[tokio::test]
async fn api_12_27_a_job_is_stored_before_it_is_answered_and_is_its_tenant_s_alone() {
    let world = World::start().await;
    let bytes = clip();
    let name = world.put(&bytes).await;
    assert_eq!(world.confirm(&world.acme, &name, bytes.len()).await.0, 200);
    let body = transcode(&name);
    // Another tenant's upload is no upload.
    assert_eq!(world.post("/v1/transcodes", &world.bolt, &body).await.0, 422);

    let submit = async |key: &str, body: &Value| {
        let request = world.request(Method::POST, "/v1/transcodes").bearer_auth(&world.acme);
        let request = request.header("idempotency-key", key).body(body.to_string());
        let response = request.send().await.unwrap();
        let location = response.headers().get("location").map(|v| v.to_str().unwrap().to_owned());
        let (status, answer) = answer(response).await;
        (status, location, answer["result"]["id"].as_str().unwrap_or_default().to_owned())
    };
    let (status, location, id) = submit("first", &body).await;
    assert_eq!((status, location.unwrap()), (202, format!("/v1/transcodes/{id}")));
    let stored = world.bus(Role::Intake).await;
    let job = stored.job(&tenant("acme"), &id.parse().unwrap()).await.unwrap().unwrap();
    let (after, job) = (job.seq, job.message.into_inner());
    assert_eq!((job.state, job.inputs[0].sha256), (EventKind::Submitted, Digest::of(&bytes)));
    let (status, _, again) = submit("first", &body).await;
    assert_eq!((status, again.as_str()), (200, id.as_str()));
    let mut other = body.clone();
    other["workflow"] = json!("wf");
    assert_eq!(submit("first", &other).await.0, 422);
    assert_ne!(submit("second", &body).await.2, id);
    assert_eq!(world.stored("JOBS", "job.>").await, 2);
    // A request that took its key and died before its event: the next one takes its place.
    let claimed = JobId::new(clock::now().0, clock::random());
    let record =
        IdempotencyRecord { body: Digest::of(body.to_string().as_bytes()), job: claimed.clone() };
    let key = format!("acme.{}", Digest::of(b"third"));
    stored.bucket("idempotency").create(&key, &record).await.unwrap();
    assert_eq!(submit("third", &body).await.2, claimed.to_string());
    assert_eq!(submit("third", &body).await.0, 200);
    assert_eq!(world.stored("JOBS", "job.>").await, 3);

    let path = format!("/v1/transcodes/{id}");
    let (status, seen) = world.get(&path, &world.acme).await;
    assert_eq!((status, &seen["result"]["state"]), (200, &json!("submitted")));
    for tail in ["", "/audit", "/download"] {
        assert_eq!(world.get(&format!("{path}{tail}"), &world.bolt).await.0, 404, "{tail}");
    }
    assert_eq!(world.get(&format!("{path}/download"), &world.acme).await.0, 409);
    complete(&world, job, after).await;
    let before = world.signings();
    let (status, given) = world.get(&format!("{path}/download"), &world.acme).await;
    assert_eq!((status, world.signings()), (200, before + 1));
    assert!(given["result"]["url"].as_str().unwrap().contains("/out/1/out.mp4?"));
    let (_, record) = world.get(&format!("{path}/audit"), &world.acme).await;
    assert_eq!(record["result"]["orgId"], "acme");
    assert_eq!(record["result"]["actor"]["kind"], "apiKey", "IAM-01");
    assert_eq!(record["result"]["inputs"][0]["sha256"], Digest::of(&bytes).to_string());
}

/// Moves a job to its end by the roles that may.
async fn complete(world: &World, job: Job, after: u64) {
    let mut at = after;
    let mut job = job;
    for (role, event) in [
        (Role::Validator, EventKind::Validated),
        (Role::Signer, EventKind::Assigned),
        (Role::Signer, EventKind::Encoded),
        (Role::Hasher, EventKind::Completed),
    ] {
        let name = "out.mp4".parse().unwrap();
        job = job.moved(event, clock::now());
        job.outputs = vec![Output {
            key: BlobKey::output(&job.tenant, &job.id, 1, &name),
            name,
            size: 1,
            content_type: "video/mp4".to_owned(),
            sha256: Digest::of(b"out"),
        }];
        let out = Outgoing::job(job.clone(), at);
        at = world.bus(role).await.publish(&out).await.unwrap().seq;
    }
}

#[tokio::test]
async fn iam_01_a_tenant_s_program_submits_over_the_broker_as_itself() {
    let world = World::start().await;
    let bytes = clip();
    let name = world.put(&bytes).await;
    assert_eq!(world.confirm(&world.acme, &name, bytes.len()).await.0, 200);
    let acme = world.server.connect(&program("acme")).await.unwrap();
    let bolt = world.server.connect(&program("bolt")).await.unwrap();
    let ask = async |client: &async_nats::Client, verb: &str, body: Value| {
        let answer = client.request(format!("api.{verb}"), body.to_string().into()).await.unwrap();
        let status = answer.headers.unwrap().get("Hotcell-Status").unwrap().to_string();
        (status, serde_json::from_slice::<Value>(&answer.payload).unwrap())
    };
    let (status, made) = ask(&acme, "submit", transcode(&name)).await;
    assert_eq!(status, "202", "{made}");
    let id = made["result"]["id"].as_str().unwrap().to_owned();
    let (_, record) = world.get(&format!("/v1/transcodes/{id}/audit"), &world.acme).await;
    assert_eq!(record["result"]["actor"]["kind"], "natsLogin");
    assert_eq!(record["result"]["actor"]["name"], "app");
    let (status, seen) = ask(&acme, "get", json!({ "id": id })).await;
    assert_eq!((status.as_str(), &seen["result"]["state"]), ("200", &json!("submitted")));
    // The other tenant: its file is no file, its job no job, and no field names a tenant.
    assert_eq!(ask(&bolt, "submit", transcode(&name)).await.0, "422");
    assert_eq!(ask(&bolt, "get", json!({ "id": id })).await.0, "404");
    let (status, problem) = ask(&bolt, "get", json!({ "id": id, "tenant": "acme" })).await;
    assert_eq!((status.as_str(), &problem["errors"][0]["field"]), ("400", &json!("tenant")));
}

#[tokio::test]
async fn a_broker_that_is_away_is_a_503_and_the_process_lives() {
    let mut world = World::start().await;
    let job = format!("/v1/transcodes/{}", JobId::new(1, [1; 10]));
    world.server.kill().unwrap();
    until(async || {
        let ready = world.send(Method::GET, "/readyz", None, None).await;
        (ready.status() == 503).then_some(())
    })
    .await;
    let (status, problem) = world.post("/v1/transcodes", &world.acme, &transcode("x")).await;
    assert_eq!((status, &problem["status"]), (503, &json!(503)));
    assert_eq!(world.send(Method::GET, "/livez", None, None).await.status(), 200);
    assert_eq!(world.send(Method::GET, &job, None, None).await.status(), 401);
    world.server.start_again().await.unwrap();
    until(async || (world.get(&job, &world.acme).await.0 == 404).then_some(())).await;
}

/// The log of everything above, at its finest, holds no key, URL or query; SIGTERM ends the process.
#[tokio::test]
async fn api_04_11_the_log_holds_no_key_and_no_url() {
    let mut world = World::start().await;
    let bytes = clip();
    let name = world.put(&bytes).await;
    assert_eq!(world.confirm(&world.acme, &name, bytes.len()).await.0, 200);
    let (status, made) = world.post("/v1/transcodes", &world.acme, &transcode(&name)).await;
    assert_eq!(status, 202, "{made}");
    let path = format!("/v1/transcodes/{}", made["result"]["id"].as_str().unwrap());
    assert_eq!(world.get(&format!("{path}?api_key={}", world.acme), &world.acme).await.0, 401);
    assert_eq!(world.get(&format!("{path}?token=secret"), &world.acme).await.0, 200);
    let noted = async || world.log().contains("credential refused").then_some(());
    until(noted).await;
    assert!(world.stop().await.success());
    let log = world.log();
    assert!(
        log.contains("DEBUG")
            && log.contains("job submitted")
            && log.contains("/v1/transcodes/{id}"),
        "{log}"
    );
    let secret = world.acme.split('_').nth(2).unwrap();
    for leak in [secret, "hck_", "X-Amz", "http://", "token=", "api_key", "/uploads/"] {
        assert!(!log.contains(leak), "{leak} in the log:\n{log}");
    }
}

/// Issue "Bad input": exit 64 or 69 with one sentence saying what to do.
#[test]
fn a_bad_start_ends_with_its_code_and_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str, code: i32, says: &str| {
        let file = dir.path().join("intake.toml");
        std::fs::write(&file, text).unwrap();
        let ended = Command::new(PROGRAM).arg(&file).output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(ended.status.code(), Some(code), "{said}");
        assert!(last.contains(says), "{last}");
    };
    check("listne = \"x\"", 64, "listne");
    check("connections_max = 0", 64, "connections_max");
    check("[nats]\ncreds = \"/nonexistent.creds\"", 64, "/nonexistent.creds");
}
