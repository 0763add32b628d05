//! The first verb: who gets work, which, and what is in the order.

use crate::{
    job::{image, plan, submitted},
    rig::{BUCKET, Rig, eventually},
    worker::{PATIENCE, SILENCE, ask_raw, request},
};
use async_nats::client::RequestErrorKind;
use hotcell_nats_config::Login;
use hotcell_schemas::{
    Digest, EventKind, Job, Role, Subject,
    records::Refusal,
    work::{NextReply, NextRequest},
};
use hotcell_stage::clock;
use std::collections::BTreeMap;

pub(crate) fn query(url: &str) -> BTreeMap<String, String> {
    url::Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

fn keys(value: &serde_json::Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

// BRK-15, BRK-16, BRK-18, BRK-20.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_one_attempt_at_one_job_and_nothing_else() {
    let rig = Rig::start().await;
    let (worker, other) = (rig.worker("w1", "cpu").await, rig.validated("bolt", "cpu").await);
    let _bolts = worker.order().await;
    let job = rig.validated("acme", "cpu").await;
    let asked = request();
    let NextReply::Order { order } = worker.next(&asked).await else { panic!("no order") };

    // `assigned` is in the stream before the answer, with the worker as the broker states it.
    let history = rig.history(&job).await;
    let last = history.last().unwrap();
    assert_eq!(last.state, EventKind::Assigned);
    let attempt = last.attempts.last().unwrap();
    assert_eq!((attempt.number, &attempt.worker), (1, &worker.name));
    assert_eq!(attempt.worker_key, worker.bus.public_key());

    assert_eq!((&order.nonce, &order.worker), (&asked.nonce, &worker.name));
    assert_eq!((&order.job, order.attempt, order.pool.as_str()), (&job.id, 1, "cpu"));
    assert_eq!(order.plan, plan());
    assert!(order.plan.argv.iter().all(|word| !word.contains("http")), "argv has placeholders");
    assert_eq!((order.inputs.len(), attempt.grants.len()), (job.inputs.len(), job.inputs.len()));
    let (input, pinned) = (&order.inputs[0], &job.inputs[0]);
    assert_eq!((input.size, input.sha256), (pinned.size, pinned.sha256));
    let url = url::Url::parse(input.get.url.expose()).unwrap();
    assert_eq!(url.path(), format!("/{BUCKET}/{}", pinned.key));
    let expires: u32 = query(url.as_str())["X-Amz-Expires"].parse().unwrap();
    assert!(expires <= 3600 && attempt.grants[0].ttl_secs == expires);
    assert_eq!(attempt.grants[0].method, "GET");
    assert_eq!(attempt.grants[0].key_digest, pinned.key.digest());

    let text = serde_json::to_value(&order).unwrap();
    assert_eq!(
        keys(&text),
        [
            "attempt",
            "inputs",
            "job",
            "lease",
            "lease_until",
            "nonce",
            "plan",
            "pool",
            "probe_limits",
            "worker"
        ]
    );
    assert_eq!(keys(&text["inputs"][0]), ["get", "sha256", "size"]);
    let text = text.to_string();
    assert!(!text.contains(other.inputs[0].key.as_str()), "another tenant's bytes");
    assert!(text.matches("X-Amz-Signature").count() == 1 && !text.contains("/out/"));
}

// BRK-11, and a nonce that is not one: neither costs a job its place in the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlisted_image_or_a_malformed_nonce_gets_no_work() {
    let rig = Rig::start().await;
    let (w1, w2) = (rig.worker("w1", "cpu").await, rig.worker("w2", "cpu").await);
    let job = rig.validated("acme", "cpu").await;
    let unlisted = NextRequest { image_digest: Digest::of(b"other image"), ..request() };
    let odd = ["", "x", "line\r\nNats-Rollup: all", &"0".repeat(100), &"A".repeat(32)]
        .map(|nonce| NextRequest { nonce: nonce.to_owned(), ..request() });
    for bad in odd.iter().chain([&unlisted]) {
        let reply = w1.next(bad).await;
        assert!(matches!(reply, NextReply::Refused { .. }), "{:?}: {reply:?}", bad.nonce);
    }
    let refusals = rig.refusals().await;
    assert_eq!(refusals.iter().filter(|(what, _)| *what == Refusal::Worker).count(), 6);
    assert!(refusals.iter().any(|(_, reason)| reason.contains("image")));
    let order = w2.order().await;
    assert_eq!((order.job, order.attempt), (job.id.clone(), 1));
    let listed = rig.states(&job).await;
    assert_eq!(listed, [EventKind::Submitted, EventKind::Validated, EventKind::Assigned]);
    assert_eq!(request().image_digest, image());
}

// BRK-13: the broker's word and the login's own signature, or no answer and a record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_believed_only_by_its_own_signature() {
    let rig = Rig::start().await;
    let w1 = rig.worker("w1", "cpu").await;
    let job = rig.validated("acme", "cpu").await;
    let subject = Subject::next(&"cpu".parse().unwrap(), &w1.name);
    let foreign = nkeys::KeyPair::new_user();
    let mut asked = Err(RequestErrorKind::NoResponders);
    while asked.as_ref().is_err_and(|kind| *kind == RequestErrorKind::NoResponders) {
        let signed = ("a", clock::now(), &foreign);
        asked = ask_raw(&w1.bus, &subject, signed, &request(), SILENCE).await;
    }
    assert!(asked.is_err(), "another key's signature got an answer");
    let recorded = async || {
        let refusals = rig.refusals().await;
        refusals.iter().filter(|(what, _)| *what == Refusal::Worker).count()
    };
    // The question may have timed out before the signer came to it.
    eventually(|| async { (recorded().await > 0).then_some(()) }).await;
    assert_eq!(w1.order().await.job, job.id);
    assert_eq!(recorded().await, 1);
}

// BRK-14.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pools_worker_never_gets_another_pools_job() {
    const JOBS: usize = 300;
    let rig = Rig::start().await;
    for tenant in ["acme", "bolt"] {
        rig.tenant(tenant, u32::try_from(JOBS).unwrap()).await;
    }
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    for index in 0..JOBS {
        // Seven and three share no factor: every mixture of tenants and pools occurs.
        let tenant = if index % 7 < 4 { "acme" } else { "bolt" };
        let pool = if index % 3 == 0 { "gpu" } else { "cpu" };
        let job = rig.validated(tenant, pool).await;
        wanted.insert(job.id.to_string(), pool.to_owned());
    }
    let share = |pool: &str| wanted.values().filter(|other| *other == pool).count();
    let (cpu, gpu) = (rig.worker("w1", "cpu").await, rig.worker("g1", "gpu").await);
    let both = rig.worker("b1", "gpu").await;
    let got = |worker: crate::worker::Worker, count: usize| async move {
        let mut got = Vec::new();
        for _ in 0..count {
            let order = worker.order().await;
            got.push((order.job.to_string(), order.pool.to_string()));
        }
        got
    };
    let half = share("gpu") / 2;
    let (cpus, gpus, boths) =
        tokio::join!(got(cpu, share("cpu")), got(gpu, share("gpu") - half), got(both, half));
    assert!(cpus.iter().all(|(_, pool)| pool == "cpu"));
    let found: BTreeMap<String, String> = cpus.into_iter().chain(gpus).chain(boths).collect();
    assert_eq!(found, wanted);
}

// What a validator gone bad could sign: a job under another pool's subject, another tenant's, or
// with another tenant's bytes. No worker gets it; the honest job after it is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_contradicts_its_subject_is_recorded_and_never_given() {
    let rig = Rig::start().await;
    let worker = rig.worker("g1", "gpu").await;
    let ready = |mut job: Job| {
        job.plan = Some(plan());
        job.moved(EventKind::Validated, clock::now())
    };
    let (other_pool, honest) = (ready(submitted("acme", "cpu")), ready(submitted("acme", "gpu")));
    let other_tenant = Job { tenant: "bolt".parse().unwrap(), ..honest.clone() };
    let mut other_bytes = ready(submitted("acme", "gpu"));
    other_bytes.inputs[0].key = submitted("bolt", "gpu").inputs[0].key.clone();
    let (acme, gpu) = (honest.tenant.clone(), honest.pool.clone());
    let key = rig.key(&Login::Service(Role::Validator));
    for (index, bad) in [&other_pool, &other_tenant, &other_bytes].into_iter().enumerate() {
        let subject = Subject::validated(&acme, &bad.id, &gpu);
        let signed = (&*format!("bad{index}"), clock::now(), &key);
        let ack = ask_raw(&rig.validator, &subject, signed, bad, PATIENCE).await.unwrap();
        assert!(String::from_utf8_lossy(&ack.payload).contains("JOBS"), "it is in the stream");
    }
    let served = rig.validated("acme", "gpu").await;
    assert_eq!(worker.order().await.job, served.id);
    let scope = async || {
        let refusals = rig.refusals().await;
        refusals.iter().filter(|(what, _)| *what == Refusal::Scope).count()
    };
    // Each was taken and refused before or after the honest one; none is ever assigned.
    let asked = request();
    tokio::select! {
        reply = worker.next(&asked) => panic!("{reply:?}"),
        () = eventually(|| async { (scope().await == 3).then_some(()) }) => {}
    }
    let assigned = rig.job_states().await.into_iter();
    let assigned = assigned.filter(|(_, state)| *state == EventKind::Assigned);
    assert_eq!(assigned.map(|(id, _)| id).collect::<Vec<_>>(), [served.id]);
}

// A signer that starts while work waits and nobody publishes finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_from_before_the_signers_start_is_found() {
    let mut rig = Rig::without_signer().await;
    rig.tenant("acme", 16).await;
    let job = rig.validated("acme", "cpu").await;
    rig.signer();
    assert_eq!(rig.worker("w1", "cpu").await.order().await.job, job.id);
    eventually(|| async { (rig.ack_pending("acme", "cpu").await == 1).then_some(()) }).await;
}
