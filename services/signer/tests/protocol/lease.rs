//! The verbs of a lease, by its holder and by everybody else.

use crate::{
    job::{made, report},
    order::query,
    rig::Rig,
    worker::{PATIENCE, Worker, ask_raw},
};
use hotcell_schemas::{
    BlobKey, Digest, Envelope, EventKind, Subject,
    limits::STDERR_BYTES_MAX,
    records::Refusal,
    report::ProducedFile,
    subject::LeaseVerb,
    work::{BeatReply, DoneReply, InputsReply, SignedUrl, Stop, UrlsReply, UrlsRequest},
};
use hotcell_stage::{Outgoing, clock};
use nkeys::KeyPair;
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beat_renews_the_lease_and_inputs_gives_the_urls_again() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    rig.validated("acme", "cpu").await;
    let order = worker.order().await;
    let BeatReply::GoOn { lease, lease_until } = worker.beat(&order.lease).await else {
        panic!("stopped")
    };
    assert!(lease_until >= order.lease_until && lease != order.lease);
    let InputsReply::Inputs { inputs } = worker.inputs(&lease).await else { panic!("refused") };
    assert_eq!(inputs.len(), 1);
    assert_eq!(inputs[0].sha256, order.inputs[0].sha256);
    // The old token still serves: a beat's answer may be lost.
    assert!(matches!(worker.beat(&order.lease).await, BeatReply::GoOn { .. }));
}

// BRK-22: the lease is the holder's. Forged and foreign ones are recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_or_forged_lease_opens_nothing_and_is_recorded() {
    let rig = Rig::start().await;
    let (w1, w2) = (rig.worker("w1", "cpu").await, rig.worker("w2", "cpu").await);
    let job = rig.validated("acme", "cpu").await;
    let order = w1.order().await;
    let mut forged = order.clone();
    forged.lease = order.lease.replacen(|c: char| c.is_ascii_digit(), "x", 1);
    let check = async |worker: &Worker, order: &hotcell_schemas::work::WorkOrder| {
        let refused = Stop::BadLease;
        let reply = worker.beat(&order.lease).await;
        assert_eq!(reply, BeatReply::Stop { reason: refused });
        let reply = worker.inputs(&order.lease).await;
        assert_eq!(reply, InputsReply::Refused { reason: refused });
        let reply = worker.planned_urls(&order.lease).await;
        assert_eq!(reply, UrlsReply::Refused { reason: refused });
        let reply = worker.done(order, report("stolen")).await;
        assert_eq!(reply, DoneReply::Refused { reason: refused });
    };
    check(&w2, &order).await;
    check(&w1, &forged).await;
    let mut other_attempt = order.clone();
    other_attempt.attempt = 2;
    let reply = w1.done(&other_attempt, report("x")).await;
    assert_eq!(reply, DoneReply::Refused { reason: Stop::BadLease });

    let refusals = rig.refusals().await;
    assert_eq!(refusals.iter().filter(|(what, _)| *what == Refusal::Lease).count(), 9);
    assert_eq!(rig.states(&job).await.last(), Some(&EventKind::Assigned));
    assert_eq!(w1.done(&order, report("own")).await, DoneReply::Accepted);
    // The lease ended with the report.
    let reply = w1.beat(&order.lease).await;
    assert_eq!(reply, BeatReply::Stop { reason: Stop::LeaseLost });
    let reply = w1.planned_urls(&order.lease).await;
    assert_eq!(reply, UrlsReply::Refused { reason: Stop::LeaseLost });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_stops_its_worker() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let job = rig.validated("acme", "cpu").await;
    let order = worker.order().await;
    let stored = rig.intake.job(&job.tenant, &job.id).await.unwrap().unwrap();
    let (seq, job) = (stored.seq, stored.message.into_inner());
    let cancelled = job.moved(EventKind::Cancelled, clock::now());
    rig.intake.publish(&Outgoing::job(cancelled, seq)).await.unwrap();
    let stop = Stop::Cancelled;
    assert_eq!(worker.beat(&order.lease).await, BeatReply::Stop { reason: stop });
    let reply = worker.done(&order, report("late")).await;
    assert_eq!(reply, DoneReply::Refused { reason: stop });
}

/// Every header that must be sent is in the signature, and the other way round.
fn check_put(put: &SignedUrl, key: &BlobKey, file: (u64, &str, Digest)) {
    let (size, content_type, digest) = file;
    let query = query(put.url.expose());
    let url = url::Url::parse(put.url.expose()).unwrap();
    assert!(url.path().ends_with(&format!("/{key}")), "{}", url.path());
    assert!(query["X-Amz-Expires"].parse::<u32>().unwrap() <= 3600);
    let signed: BTreeSet<&str> = query["X-Amz-SignedHeaders"].split(';').collect();
    let sent: BTreeSet<&str> = put.headers.iter().map(|(name, _)| name.as_str()).collect();
    let bound = BTreeSet::from([
        "content-length",
        "content-type",
        "host",
        "if-none-match",
        "x-amz-checksum-sha256",
    ]);
    assert_eq!(signed, bound);
    assert!(sent.is_subset(&bound) && sent.len() >= bound.len() - 2, "{sent:?}");
    let value = |name: &str| {
        let found = put.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.clone())
    };
    use base64::Engine as _;
    let sum = base64::engine::general_purpose::STANDARD.encode(digest.as_bytes());
    assert_eq!(value("x-amz-checksum-sha256"), Some(sum));
    assert_eq!(value("content-type").as_deref(), Some(content_type));
    assert_eq!(value("if-none-match").as_deref(), Some("*"));
    assert_eq!(value("content-length").unwrap_or_else(|| size.to_string()), size.to_string());
}

// BRK-17: one PUT for each planned file, bound to what was made; nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn put_urls_are_bound_to_the_planned_files() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let job = rig.validated("acme", "cpu").await;
    let order = worker.order().await;
    let (file, log) = (made(), Digest::of(b"log"));
    let reply = worker.urls(&order.lease, vec![file.clone()], Some((77, log))).await;
    let UrlsReply::Urls { files, stderr, elsewhere: false } = reply else { panic!("refused") };
    assert_eq!((files.len(), &files[0].name), (1, &file.name));
    let key = BlobKey::output(&job.tenant, &job.id, 1, &file.name);
    check_put(&files[0].put, &key, (file.size, &file.content_type, file.sha256));
    let key = BlobKey::stderr(&job.tenant, &job.id, 1);
    check_put(&stderr.unwrap(), &key, (77, "application/zstd", log));

    let change = |change: fn(&mut ProducedFile)| {
        let mut file = made();
        change(&mut file);
        vec![file]
    };
    let unplanned = [
        change(|file| file.name = "other.mp4".parse().unwrap()),
        change(|file| file.content_type = "text/html".to_owned()),
        change(|file| file.size = 0),
        change(|file| file.size = (1 << 20) + 1),
        vec![made(), made()],
    ];
    let refused = UrlsReply::Refused { reason: Stop::NotPlanned };
    for files in unplanned {
        assert_eq!(worker.urls(&order.lease, files.clone(), None).await, refused, "{files:?}");
    }
    for size in [0, STDERR_BYTES_MAX + 1] {
        assert_eq!(worker.urls(&order.lease, Vec::new(), Some((size, log))).await, refused);
    }
}

/// Asks for URLs under the message id that it is told to use.
async fn urls_with_id(
    (worker, key): (&Worker, &KeyPair),
    lease: &str,
    id: &str,
    content: &[u8],
) -> usize {
    let subject = Subject::lease(&worker.name, LeaseVerb::Urls);
    let files = vec![ProducedFile { sha256: Digest::of(content), ..made() }];
    let body = UrlsRequest { lease: lease.to_owned(), files, stderr: None };
    let signed = (id, clock::now(), key);
    let answer = ask_raw(&worker.bus, &subject, signed, &body, PATIENCE).await.unwrap();
    let header = |name: &'static str| answer.headers.as_ref()?.get(name).map(|v| v.as_str());
    let answer = Envelope::received(subject.as_str(), header, &answer.payload).unwrap();
    match answer.open_reply::<UrlsReply>(id, worker.bus.trust()).unwrap().into_inner() {
        UrlsReply::Urls { files, .. } => files.len(),
        UrlsReply::Refused { .. } => 0,
    }
}

// BRK-71: a worker that uses one message id again gets no URL beside the record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_url_has_its_grant_whatever_ids_the_worker_uses() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    rig.validated("acme", "cpu").await;
    let order = worker.order().await;
    let key = rig.key(&rig.login("w1"));
    let mut handed = order.inputs.len();
    for content in [b"one", b"two", b"six"] {
        handed += urls_with_id((&worker, &key), &order.lease, "same", content).await;
    }
    let longest = "i".repeat(128);
    handed += urls_with_id((&worker, &key), &order.lease, &longest, b"long").await;
    let InputsReply::Inputs { inputs } = worker.inputs(&order.lease).await else { panic!() };
    handed += inputs.len();
    assert!(handed >= 3);
    assert_eq!(rig.grants().await, handed, "URLs handed out and grants recorded");
}
