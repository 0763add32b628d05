//! The stage on a real broker, with a signer and a store of the test's own behind it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;
#[path = "support/rig.rs"]
mod rig;

use hotcell_schemas::{
    BlobKey, Digest, EventKind, JobId, RejectCode, Role, TenantId, UploadId,
    argv::agrees,
    plan::Container,
    poison::{PoisonRecord, Strike},
};
use hotcell_stage::{Bus, Outgoing, Shutdown, clock};
use hotcell_validator::run;
use rig::{broker, config, job, nats, settled, signer, store, tenant};
use std::{collections::BTreeMap, sync::Arc};
use tokio::task::JoinSet;

/// The whole list of verdicts, over the broker: each job ends in one clear state.
#[tokio::test(flavor = "multi_thread")]
async fn issue_2_every_submitted_job_is_judged_once_and_clearly() {
    let dir = clip::dir("stage");
    let good = clip::sample(&dir, Container::Mp4);
    let list = b"#EXTM3U\n#EXTINF:1,\n/work/other/secret.mp4\n".to_vec();
    let (good_job, list_job) = (job(1, &good, "video/mp4"), job(2, &list, "video/mp4"));
    let (missing, mut shorter) = (job(3, &good, "video/mp4"), job(4, &good, "video/mp4"));
    shorter.inputs[0].size -= 1;
    let (mut other_hash, mut other_etag) = (job(5, &good, "video/mp4"), job(6, &good, "video/mp4"));
    other_hash.inputs[0].sha256 = Digest::of(b"another file");
    other_etag.inputs[0].etag = "\"other\"".to_owned();
    // Cancelled before a validator sees it, as a repeat after a crash is validated before.
    let gone = job(9, &good, "video/mp4");
    let empty = job(7, b"", "video/mp4");
    let cut = job(8, &good[..good.len() - 9], "video/mp4");
    let path = |job: &hotcell_schemas::Job| format!("/{}", job.inputs[0].key);
    let objects = Arc::new(BTreeMap::from([
        (path(&good_job), good.clone()),
        (path(&list_job), list),
        (path(&shorter), good.clone()),
        (path(&other_hash), good.clone()),
        (path(&other_etag), good.clone()),
        (path(&empty), Vec::new()),
        (path(&cut), good[..good.len() - 9].to_vec()),
    ]));

    let server = broker().await;
    tenant(&server, "acme", false).await;
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let url = store(objects, &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let seq = intake.publish(&Outgoing::job(gone.clone(), 0)).await.unwrap().seq;
    let cancelled = gone.clone().moved(EventKind::Cancelled, clock::now());
    intake.publish(&Outgoing::job(cancelled, seq)).await.unwrap();
    let config = config(&server, &dir);
    let validators: JoinSet<_> =
        [run(config.clone(), shutdown.clone()), run(config, shutdown.clone())]
            .into_iter()
            .collect();

    let hostile = [
        (&list_job, RejectCode::InputPlaylist),
        (&missing, RejectCode::InputMissing),
        (&shorter, RejectCode::InputChanged),
        (&other_hash, RejectCode::InputChanged),
        (&other_etag, RejectCode::InputChanged),
        (&empty, RejectCode::InputEmpty),
        (&cut, RejectCode::InputMalformed),
    ];
    for (job, _) in hostile {
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    intake.publish(&Outgoing::job(good_job.clone(), 0)).await.unwrap();
    for (job, code) in hostile {
        let judged = settled(&intake, job).await;
        assert_eq!(judged.state, EventKind::Rejected);
        assert_eq!(judged.failure.unwrap().code, code);
        assert_eq!(judged.plan, None);
    }
    let judged = settled(&intake, &good_job).await;
    assert_eq!(judged.state, EventKind::Validated);
    assert!(agrees(judged.plan.as_ref().unwrap()));
    assert_eq!(judged.inputs[0].sniffed.as_ref().unwrap().container, Container::Mp4);
    assert_eq!(judged.stamps.last().unwrap().event, EventKind::Validated);

    let state = intake.job(&gone.tenant, &gone.id).await.unwrap().unwrap();
    assert_eq!(state.message.get().state, EventKind::Cancelled);
    let asked = asked.lock().unwrap().clone();
    assert!(!asked.contains_key(&gone.inputs[0].key), "a URL for a job that has moved on");
    assert_eq!(asked.len(), 8, "one object for each job that was judged");

    shutdown.begin();
    for ended in validators.join_all().await {
        ended.unwrap();
    }
}

/// NEW-07: the right to FFmpeg's own arguments is asked for again, of the tenant's record.
#[tokio::test(flavor = "multi_thread")]
async fn new_07_own_arguments_are_refused_without_the_tenant_s_right() {
    let dir = clip::dir("stage-arguments");
    let server = broker().await;
    let clip = clip::sample(&dir, Container::Mp4);
    let (mut with, mut without) = (job(1, &clip, "video/mp4"), job(2, &clip, "video/mp4"));
    let body = serde_json::json!({"inputs": [{"url": "upload:clip"}], "outputs": [{"format": "mp4",
        "ffmpegArgs": ["-i", "{in0}", "-c:v", "libx264", "-an", "-crf", "20", "{out0}"]}]});
    for job in [&mut with, &mut without] {
        job.request = serde_json::from_value(body.clone()).unwrap();
    }
    let bolt: TenantId = "bolt".parse().unwrap();
    with.inputs[0].key = BlobKey::upload(&bolt, &UploadId::new(1, [1; 10]), &with.inputs[0].name);
    with.tenant = bolt.clone();
    // The second factor that such arguments ask for was shown just now.
    for job in [&mut with, &mut without] {
        job.authority.mfa = true;
        job.authority.auth_time = Some(clock::now());
    }
    tenant(&server, "bolt", true).await;
    tenant(&server, "acme", false).await;
    let path = |job: &hotcell_schemas::Job| format!("/{}", job.inputs[0].key);
    let objects = BTreeMap::from([(path(&with), clip.clone()), (path(&without), clip)]);
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let url = store(Arc::new(objects), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    for job in [&with, &without] {
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    let judged = settled(&intake, &without).await;
    assert_eq!(judged.state, EventKind::Rejected);
    assert_eq!(judged.failure.unwrap().code, RejectCode::RequestForbidden);
    let judged = settled(&intake, &with).await;
    assert_eq!(judged.state, EventKind::Validated, "{:?}", judged.failure);
    assert!(agrees(judged.plan.as_ref().unwrap()));
    assert!(judged.plan.unwrap().outputs[0].raw.is_some());
    assert!(!asked.lock().unwrap().contains_key(&without.inputs[0].key), "nothing was opened");
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}

/// NEW-13: a file that killed its cell twice is refused before anybody opens it: everyone's when its
/// bytes did it, one tenant's own when its plan had a part in it. One strike refuses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn new_13_a_file_in_quarantine_is_refused_unread() {
    let dir = clip::dir("stage-poison");
    let server = broker().await;
    tenant(&server, "acme", false).await;
    let good = clip::sample(&dir, Container::Mp4);
    let [common, own, others, once] = [1, 2, 3, 4].map(|number| {
        let mut bytes = good.clone();
        // A box that nobody reads: other bytes of the same film.
        bytes.extend([0, 0, 0, 9, b'f', b'r', b'e', b'e', number]);
        (job(number, &bytes, "video/mp4"), bytes)
    });
    let cases = [
        (&common, None, 2, true),
        (&own, Some("acme"), 2, true),
        (&others, Some("bolt"), 2, false),
        (&once, None, 1, false),
    ];
    let writer = Bus::connect(Role::Signer, &nats(&server, Role::Signer)).await.unwrap();
    for ((job, _), tenant, strikes, _) in &cases {
        let tenant: Option<TenantId> = tenant.map(|tenant| tenant.parse().unwrap());
        let mut record = PoisonRecord::new(job.inputs[0].sha256, tenant.clone());
        for attempt in 1..=*strikes {
            assert!(record.strike(Strike {
                tenant: job.tenant.clone(),
                job: JobId::new(9, [9; 10]),
                attempt,
                worker: "w1".parse().unwrap(),
                code: RejectCode::CellCrashed,
                at: clock::now(),
            }));
        }
        let key = PoisonRecord::key(record.sha256, tenant.as_ref());
        writer.bucket("poison").create(&key, &record).await.unwrap();
    }
    let path = |job: &hotcell_schemas::Job| format!("/{}", job.inputs[0].key);
    let objects = cases.iter().map(|((job, bytes), ..)| (path(job), bytes.clone()));
    let objects: BTreeMap<_, _> = objects.collect();
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let url = store(Arc::new(objects), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    for ((job, _), ..) in &cases {
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    for ((job, _), _, _, refused) in &cases {
        let judged = settled(&intake, job).await;
        let code = judged.failure.map(|failure| failure.code);
        assert_eq!(code, refused.then_some(RejectCode::InputPoisoned));
        let state = if *refused { EventKind::Rejected } else { EventKind::Validated };
        assert_eq!(judged.state, state);
        let read = asked.lock().unwrap().contains_key(&job.inputs[0].key);
        assert_eq!(read, !refused, "a quarantined file is not opened");
    }
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}
