//! What a tenant does with its jobs after they are submitted: lists and cancels them, through both
//! doors, within its limits.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/life.rs"]
mod life;
#[path = "support/world.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod world;

use futures::{StreamExt as _, stream};
use hotcell_intake::{
    listing::Listing,
    quota,
    rate::{RateConfig, Rates},
};
use hotcell_nats_config::Plan;
use hotcell_schemas::{
    EventKind, JobId, Role,
    listing::{JobPage, PAGE_JOBS_MAX},
    records::TenantRecord,
    tenancy::{Quotas, UsageRecord},
};
use hotcell_stage::{Outgoing, clock};
use life::{job_of, moved, submitted};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use world::{World, answer, program, tenant, until};

fn ids(answer: &Value) -> Vec<String> {
    let jobs = answer["result"]["jobs"].as_array().unwrap();
    jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
}

impl World {
    /// Every page from `query` on.
    async fn walk(&self, query: &str) -> Vec<String> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/transcodes?{query}{cursor}");
            let (status, answer) = self.get(&path, &self.acme).await;
            assert_eq!(status, 200, "{answer}");
            all.extend(ids(&answer));
            match answer["result"]["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }

    /// Changes the record of a tenant, as the operator would; waits until intake has seen it.
    async fn change(&self, name: &str, change: impl Fn(&mut Quotas)) {
        let tenants = self.bus(Role::Provisioner).await.bucket("tenants");
        let mut entry = tenants.get::<TenantRecord>(name).await.unwrap().unwrap();
        change(&mut entry.value.quotas);
        tenants.update(name, &entry.value, entry.revision).await.unwrap();
        // And until what was used of the plan before is given back, which no answer would show.
        let window = Duration::from_secs(1);
        tokio::time::sleep(window + Duration::from_millis(hotcell_intake::cache::LIFE_MS)).await;
    }
}

#[tokio::test]
async fn api_26_jobs_are_listed_newest_first_by_pages_that_stay_where_they_are() {
    let world = World::start().await;
    let bus = world.bus(Role::Intake).await;
    let listing = Listing::new(&bus);
    assert_eq!(world.walk("").await, Vec::<String>::new());
    let mut made = Vec::new();
    for n in 0..PAGE_JOBS_MAX * 2 + 10 {
        let job = submitted("acme", n);
        listing.add(&job.tenant, &job.id, true).await.unwrap();
        // Every seventh died between its place in the list and its event.
        if n % 7 != 0 {
            bus.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
            made.push(job.id.to_string());
        }
    }
    made.reverse();
    for limit in [1, 20, 64, 100] {
        if limit > 1 {
            assert_eq!(world.walk(&format!("limit={limit}")).await, made, "{limit}");
        }
    }
    // A job that comes while one pages moves nothing.
    let (_, first) = world.get("/v1/transcodes?limit=5", &world.acme).await;
    assert_eq!(ids(&first), made[..5]);
    let job = submitted("acme", 9999);
    listing.add(&job.tenant, &job.id, true).await.unwrap();
    bus.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    let cursor = first["result"]["nextCursor"].as_str().unwrap();
    let (_, second) =
        world.get(&format!("/v1/transcodes?limit=5&cursor={cursor}"), &world.acme).await;
    assert_eq!(ids(&second), made[5..10]);
    assert_eq!(world.walk("limit=100").await[0], job.id.to_string());
    // By state, over pages in which nothing matches.
    let oldest = &made[made.len() - 1];
    let at = bus.job(&tenant("acme"), &oldest.parse().unwrap()).await.unwrap().unwrap();
    moved(&world, at.message.into_inner(), at.seq, &[EventKind::Rejected]).await;
    assert_eq!(world.walk("state=rejected").await, std::slice::from_ref(oldest));
    assert_eq!(world.walk("state=submitted&limit=100").await.len(), made.len());
    // A cursor opens the caller's own list and nothing else.
    let (_, other) = world.get(&format!("/v1/transcodes?cursor={cursor}"), &world.bolt).await;
    assert_eq!(ids(&other), Vec::<String>::new());
    for bad in ["limit=0", "limit=101", "cursor=x", "state=gone", "tenant=bolt"] {
        let (status, problem) = world.get(&format!("/v1/transcodes?{bad}"), &world.acme).await;
        assert_eq!((status, &problem["status"]), (400, &json!(400)), "{bad}");
    }
}

/// Two intakes, many submissions at once: each id once, in pages of the bound.
#[tokio::test]
async fn api_26_rivals_write_one_order() {
    let world = World::start().await;
    let lists = [
        Listing::new(&world.bus(Role::Intake).await),
        Listing::new(&world.bus(Role::Intake).await),
    ];
    let acme = tenant("acme");
    let jobs: Vec<JobId> = (0..600).map(|n| submitted("acme", n).id).collect();
    let began = Instant::now();
    let adds = jobs.iter().enumerate().map(|(n, id)| lists[n % 2].add(&acme, id, true));
    let done: Vec<_> = stream::iter(adds).buffer_unordered(64).collect().await;
    assert!(done.iter().all(Result::is_ok));
    eprintln!("600 submissions listed in {:?}", began.elapsed());
    // A repeat of a request whose first try died stands where it stood.
    lists[0].add(&acme, &jobs[17], false).await.unwrap();
    let (newest, _) = lists[1].newest(&acme).await.unwrap().unwrap();
    let mut seen = Vec::new();
    for page in 1..=newest {
        let page = lists[1].page(&acme, page).await.unwrap().unwrap();
        assert!(page.jobs.len() <= PAGE_JOBS_MAX);
        seen.extend(page.jobs);
    }
    assert_eq!(seen.len(), jobs.len());
    assert_eq!(BTreeSet::from_iter(&seen), BTreeSet::from_iter(&jobs));
}

/// A list of a million is as quick as one of a hundred: what it reads is the page asked for.
#[tokio::test]
async fn api_26_a_million_jobs_are_listed_as_quickly_as_a_hundred() {
    let world = World::start().await;
    let bus = world.bus(Role::Intake).await;
    let (listing, bucket) = (Listing::new(&bus), bus.bucket("listing"));
    let pages = 1_000_000 / PAGE_JOBS_MAX;
    let fill = (1..=pages).map(|page| {
        let jobs = (0..PAGE_JOBS_MAX).map(|n| submitted("acme", n).id).collect();
        let (bucket, key) = (bucket.clone(), format!("acme.{page}"));
        async move { bucket.create(&key, &JobPage { jobs }).await.unwrap() }
    });
    // In order: the last page is the one that was written last.
    let written: Vec<u64> = stream::iter(fill).buffered(1).collect().await;
    assert_eq!(written.len(), pages);
    for (name, count) in [("acme", 110), ("bolt", 110)] {
        for n in 0..count {
            let job = submitted(name, n);
            listing.add(&job.tenant, &job.id, true).await.unwrap();
            bus.publish(&Outgoing::job(job, 0)).await.unwrap();
        }
    }
    let mut times = [Vec::new(), Vec::new()];
    // In turns, so that what slows the machine slows both.
    for _ in 0..21 {
        for (key, times) in [&world.bolt, &world.acme].into_iter().zip(&mut times) {
            let began = Instant::now();
            let (status, answer) = world.get("/v1/transcodes?limit=100", key).await;
            times.push(began.elapsed());
            assert_eq!((status, ids(&answer).len()), (200, 100));
        }
    }
    let median = times.map(|mut times| {
        times.sort();
        times[10]
    });
    eprintln!("100 of 110 jobs: {:?}; 100 of 1,000,000: {:?}", median[0], median[1]);
    // Reading all of it would take some thousand times as long.
    let slack = Duration::from_millis(200);
    assert!(median[1] < median[0] * 4 + slack, "{median:?}");
    // In the middle of it, too.
    let (status, _) = world.get("/v1/transcodes?limit=100&cursor=NDAwMC4xMjg", &world.acme).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn api_26_a_job_is_cancelled_in_each_state_that_has_not_ended() {
    use EventKind as E;
    let world = World::start().await;
    let paths: [(&[E], u16); 9] = [
        (&[], 200),
        (&[E::Validated], 200),
        (&[E::Validated, E::Assigned], 200),
        (&[E::Validated, E::Assigned, E::AttemptFailed], 200),
        (&[E::Validated, E::Assigned, E::Encoded], 200),
        (&[E::Rejected], 409),
        (&[E::Validated, E::Assigned, E::Encoded, E::Completed], 409),
        (&[E::Validated, E::Failed], 409),
        (&[E::Validated, E::Assigned, E::Encoded, E::Completed, E::Expired], 409),
    ];
    for (n, (path, expect)) in paths.into_iter().enumerate() {
        let job = job_of(&world, "acme", n).await;
        let url = format!("/v1/transcodes/{}", job.0.id);
        moved(&world, job.0, job.1, path).await;
        let foreign = world.send(Method::DELETE, &url, Some(&world.bolt), None).await;
        assert_eq!(answer(foreign).await.0, 404);
        let response = world.send(Method::DELETE, &url, Some(&world.acme), None).await;
        let (status, body) = answer(response).await;
        assert_eq!(status, expect, "{path:?} {body}");
        let (_, after) = world.get(&url, &world.acme).await;
        if expect == 409 {
            assert_eq!(body["state"], json!(path[path.len() - 1]));
            assert_eq!(after["result"]["state"], body["state"]);
            continue;
        }
        assert_eq!(body["result"]["state"], "cancelled");
        assert_eq!(after["result"]["state"], "cancelled");
        let again = world.send(Method::DELETE, &url, Some(&world.acme), None).await;
        assert_eq!(answer(again).await, (200, body), "twice is once");
    }
    // One record of each act, before it.
    assert_eq!(world.stored("JOBS", "audit.acme.change").await, 5);
    assert_eq!(world.stored("JOBS", "job.acme.*.cancelled").await, 5);
    let none = format!("/v1/transcodes/{}", JobId::new(1, [9; 10]));
    for path in [none.as_str(), "/v1/transcodes/x"] {
        let response = world.send(Method::DELETE, path, Some(&world.acme), None).await;
        assert_eq!(answer(response).await.0, 404, "{path}");
    }
}

/// A completion and a cancellation at the same moment: one of them is the job's end, and both sides
/// know which.
#[tokio::test]
async fn api_26_of_a_cancellation_and_a_completion_one_wins() {
    use EventKind as E;
    let world = World::start().await;
    let hasher = world.bus(Role::Hasher).await;
    for n in 0..20 {
        let (job, at) = job_of(&world, "acme", n).await;
        let (job, at) = moved(&world, job, at, &[E::Validated, E::Assigned, E::Encoded]).await;
        let url = format!("/v1/transcodes/{}", job.id);
        let done = Outgoing::job(job.clone().moved(E::Completed, clock::now()), at);
        let cancel = world.send(Method::DELETE, &url, Some(&world.acme), None);
        let (completed, cancelled) = tokio::join!(hasher.publish(&done), cancel);
        let (status, _) = answer(cancelled).await;
        let (_, after) = world.get(&url, &world.acme).await;
        let expect = if completed.is_ok() { ("completed", 409) } else { ("cancelled", 200) };
        assert_eq!((after["result"]["state"].as_str().unwrap(), status), expect);
    }
}

/// One table of requests through both doors: the same status and the same body.
#[tokio::test]
async fn iam_01_brk_83_both_doors_answer_alike() {
    let world = World::start().await;
    let client = world.server.connect(&program("acme")).await.unwrap();
    let (job, at) = job_of(&world, "acme", 1).await;
    let (own, _) = moved(&world, job, at, &[EventKind::Rejected]).await;
    let (foreign, _) = job_of(&world, "bolt", 2).await;
    let id = |id: &str| json!({ "id": id }).to_string();
    let path = |id: &str| format!("/v1/transcodes/{id}");
    let none = JobId::new(1, [9; 10]);
    let bad = json!({ "inputs": [{ "url": "upload:x.mp4" }], "outputFormat": "mp4",
        "preset": { "quality": "medium", "resolution": "480p" } });
    let mut table = vec![
        ("list", Method::GET, "/v1/transcodes".to_owned(), String::new()),
        ("list", Method::GET, "/v1/transcodes?limit=1".to_owned(), json!({"limit": 1}).to_string()),
        ("list", Method::GET, "/v1/transcodes?limit=0".to_owned(), json!({"limit": 0}).to_string()),
        (
            "list",
            Method::GET,
            "/v1/transcodes?cursor=x".to_owned(),
            json!({"cursor": "x"}).to_string(),
        ),
        (
            "list",
            Method::GET,
            "/v1/transcodes?state=failed".to_owned(),
            json!({"state": "failed"}).to_string(),
        ),
    ];
    for one in [own.id.as_str(), foreign.id.as_str(), none.as_str(), "x"] {
        table.push(("get", Method::GET, path(one), id(one)));
        table.push(("cancel", Method::DELETE, path(one), id(one)));
    }
    for body in
        [bad.to_string(), "{}".to_owned(), "[]".to_owned(), "nonsense".to_owned(), String::new()]
    {
        table.push(("submit", Method::POST, "/v1/transcodes".to_owned(), body));
    }
    for (verb, method, path, body) in table {
        let http_body = (verb == "submit").then_some(body.as_str());
        let (status, over_http) =
            answer(world.send(method, &path, Some(&world.acme), http_body).await).await;
        let over_nats = client.request(format!("api.{verb}"), body.into()).await.unwrap();
        let headers = over_nats.headers.unwrap();
        assert_eq!(
            headers.get("Hotcell-Status").unwrap().as_str(),
            status.to_string(),
            "{verb} {path}"
        );
        assert!(
            headers.get("ratelimit").unwrap().as_str().starts_with("\"requests\";r="),
            "{verb}"
        );
        let same: Value = serde_json::from_slice(&over_nats.payload).unwrap();
        assert_eq!(same, over_http, "{verb} {path}");
    }
}

fn of_plan(plan: &Plan) -> Quotas {
    plan.spec(tenant("acme")).quotas
}

/// Each plan at the edge of each of its quotas.
#[test]
fn brk_81_each_plan_holds_to_its_numbers() {
    let plans = Plan::built_in();
    assert_eq!(
        plans.iter().map(|plan| plan.name.as_str()).collect::<Vec<_>>(),
        ["free", "starter", "pro"]
    );
    for plan in plans {
        let quotas = of_plan(&plan);
        let (cpu, minutes) = (quotas.cpu_secs_per_month, quotas.output_minutes_per_month);
        let month = |cpu_ms, output_ms| {
            let used = UsageRecord { cpu_ms, output_ms, ..UsageRecord::default() };
            quota::within(&quotas, &used, clock::now()).map_err(|problem| problem.status())
        };
        assert_eq!(month(cpu * 1000 - 1, minutes * 60_000 - 1), Ok(()), "{}", plan.name);
        assert_eq!(month(cpu * 1000, 0), Err(402), "{}", plan.name);
        assert_eq!(month(0, minutes * 60_000), Err(402), "{}", plan.name);
        let largest = quotas.input_bytes_max;
        assert!(quota::input(&quotas, "fileSize", largest).is_ok());
        let over = quota::input(&quotas, "fileSize", largest + 1).unwrap_err();
        assert_eq!(over.status(), 413, "{}", plan.name);
        let config =
            RateConfig { replicas: 1, principal_requests_per_sec: 1_000_000, failures_per_min: 1 };
        let (rates, now, who) = (Rates::new(config), Instant::now(), submitted("acme", 1));
        let given = |is_job, now| {
            let taken =
                |_: &u32| rates.take((&who.tenant, &who.actor), &quotas, is_job, now).is_ok();
            (0..200_000).take_while(taken).count()
        };
        let jobs = quotas.jobs_per_min.min(quotas.requests_per_sec) as usize;
        assert_eq!(given(true, now), jobs, "{}", plan.name);
        let later = now + Duration::from_secs(60);
        assert_eq!(given(false, later), quotas.requests_per_sec as usize, "{}", plan.name);
    }
}

#[tokio::test]
async fn brk_81_each_plan_has_its_rate_and_another_tenant_is_not_touched() {
    let world = World::start().await;
    for plan in Plan::built_in() {
        let granted = of_plan(&plan);
        world.change("acme", |quotas| *quotas = granted.clone()).await;
        let (plan, requests_per_sec) = (plan.name.as_str(), granted.requests_per_sec);
        let asked = (3 * requests_per_sec).min(1500);
        let mut refused = None;
        // A machine that stood still meanwhile was given what it waited for: it asks again.
        for _ in 0..5 {
            let began = Instant::now();
            let asks = (0..asked)
                .map(|_| world.send(Method::GET, "/v1/transcodes", Some(&world.acme), None));
            let answers: Vec<_> = stream::iter(asks).buffer_unordered(32).collect().await;
            let secs = began.elapsed().as_secs_f64();
            let served = answers.iter().filter(|answer| answer.status() == 200).count();
            let most = f64::from(requests_per_sec) * (1.0 + secs) + 1.0;
            assert!(served as f64 <= most, "{plan}: {served} in {secs} s");
            let mut statuses = std::collections::BTreeMap::new();
            answers.iter().for_each(|answer| *statuses.entry(answer.status()).or_insert(0) += 1);
            assert!(served >= requests_per_sec as usize, "{plan}: {statuses:?} in {secs} s");
            refused = answers.into_iter().find(|answer| answer.status() == 429);
            if refused.is_some() || f64::from(asked) <= most {
                break;
            }
        }
        // A slow machine does not come to more than a large plan grants; it comes to five a second.
        assert!(refused.is_some() || plan != "free", "{plan}: nothing was refused");
        if let Some(refused) = refused {
            assert_eq!(refused.headers()["retry-after"], "1");
            let policy = refused.headers()["ratelimit-policy"].to_str().unwrap().to_owned();
            assert!(
                policy.starts_with(&format!("\"requests\";q={requests_per_sec};w=1")),
                "{policy}"
            );
            let (_, problem) = answer(refused).await;
            assert_eq!(problem["type"], "urn:hotcell:problem:quota-exceeded");
            assert_eq!(problem["violated-policies"], json!(["requests"]));
        }
        let other = world.send(Method::GET, "/v1/transcodes", Some(&world.bolt), None).await;
        assert_eq!(other.status(), 200);
        assert!(
            other.headers()["ratelimit"].to_str().unwrap().starts_with("\"requests\";r=199;t=1")
        );
    }
}

#[tokio::test]
async fn brk_81_month_and_queue_are_refused_at_the_edge_with_their_numbers() {
    let world = World::start().await;
    let name = world.confirmed().await;
    let body = json!({ "inputs": [{ "url": format!("upload:{name}") }], "outputFormat": "mp4",
        "preset": { "quality": "low", "resolution": "240p" } });
    let submit = async || world.post("/v1/transcodes", &world.acme, &body).await;

    // The queue: no validator runs here, so what is accepted waits.
    world.change("acme", |quotas| quotas.queue_depth = 3).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let (status, made) = submit().await;
        assert_eq!(status, 202, "{made}");
        waiting.push(made["result"]["id"].as_str().unwrap().to_owned());
    }
    let (status, problem) = submit().await;
    assert_eq!(status, 429, "{problem}");
    let said = json!([problem["quota"], problem["limit"], problem["used"]]);
    assert_eq!(said, json!(["queue-depth", 3, 3]));
    // One that is cancelled makes room.
    let path = format!("/v1/transcodes/{}", waiting[0]);
    assert_eq!(
        answer(world.send(Method::DELETE, &path, Some(&world.acme), None).await).await.0,
        200
    );
    assert_eq!(submit().await.0, 202);
    assert_eq!(submit().await.0, 429);
    // What a validator passed on waits for a worker: the broker counts it.
    let bus = world.bus(Role::Intake).await;
    for id in &waiting[1..] {
        let at = bus.job(&tenant("acme"), &id.parse().unwrap()).await.unwrap().unwrap();
        moved(&world, at.message.into_inner(), at.seq, &[EventKind::Validated]).await;
    }
    assert_eq!(submit().await.0, 429);
    world.change("acme", |quotas| quotas.queue_depth = 4).await;
    assert_eq!(submit().await.0, 202);
    assert_eq!(submit().await.0, 429);

    // The month.
    world.change("acme", |quotas| quotas.queue_depth = 1000).await;
    // Another may begin until it is looked at.
    let months = [0, 300_000].map(|ms| clock::now().plus_ms(ms).rfc3339());
    let months: BTreeSet<String> = months.map(|at| at.chars().take(7).collect()).into();
    let usage = world.bus(Role::Signer).await.bucket("usage");
    let used = UsageRecord { cpu_ms: 10_000_000_000, ..UsageRecord::default() };
    for month in months {
        usage.create(&format!("acme.{month}"), &used).await.unwrap();
    }
    let (status, problem) = until(async || {
        let answer = submit().await;
        (answer.0 == 402).then_some(answer)
    })
    .await;
    assert_eq!(status, 402, "{problem}");
    assert_eq!((&problem["quota"], &problem["limit"]), (&json!("cpu-secs"), &json!(10_000_000)));
    assert!(problem["resetsAt"].as_str().unwrap().ends_with("-01T00:00:00.000Z"));
    // Reading is not metered.
    assert_eq!(world.get("/v1/transcodes", &world.acme).await.0, 200);

    // Inputs.
    world.change("acme", |quotas| quotas.input_bytes_max = 100).await;
    let upload = json!({ "filename": "a.mp4", "contentType": "video/mp4", "fileSize": 101 });
    let (status, problem) = world.post("/v1/upload/presigned-url", &world.acme, &upload).await;
    assert_eq!((status, &problem["quota"]), (413, &json!("input-bytes")));
    assert_eq!(submit().await.0, 413, "confirmed when the plan was larger");
}
