//! IAM-06, IAM-09 at the validator: what a stolen login of intake gets for a job whose outputs are to
//! go elsewhere than to the store. Every job here is signed by intake's own key; what refuses it is
//! the record of the destination, or policy on where it leads.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;
#[path = "support/rig.rs"]
mod rig;

use hotcell_nats_config::testing::{PLACES, destination as record};
use hotcell_policy::{PolicyStore, Put};
use hotcell_schemas::{
    EventKind, Job, RejectCode, Role,
    destination::DestinationRecord,
    identity::{Action, Outcome, RoleName},
    plan::Container,
};
use hotcell_stage::{Bus, Outgoing, Shutdown, clock};
use hotcell_validator::run;
use rig::{broker, config, job, nats, settled, signer, store, tenant};
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};

async fn enter(operator: &Bus, record: &DestinationRecord) {
    let key = DestinationRecord::key(&record.tenant, &record.name);
    operator.bucket("destinations").create(&key, record).await.unwrap();
}

/// A job of a login that may publish and claims a second factor of this moment.
fn to(number: u8, clip: &[u8], destination: &str) -> Job {
    let mut job = job(number, clip, "video/mp4");
    job.request.destination = Some(destination.parse().unwrap());
    job.authority.roles = [RoleName::Submitter, RoleName::Publisher].into();
    (job.authority.mfa, job.authority.auth_time) = (true, Some(job.stamps[0].at));
    job
}

/// What is published, and the code and words of its refusal; none for a job that must go on.
type Case = (&'static str, Job, Option<(RejectCode, &'static str)>);

fn cases(clip: &[u8]) -> Vec<Case> {
    use RejectCode::{DestinationUnknown, PolicyDenied};
    let mut cases: Vec<Case> = Vec::new();
    let mut add = |name: &'static str, destination, refusal, change: &dyn Fn(&mut Job)| {
        let number = u8::try_from(cases.len() + 1).unwrap();
        let mut job = to(number, clip, destination);
        change(&mut job);
        cases.push((name, job, refusal));
    };
    let same = |_: &mut Job| ();
    add("listed", "listed", None, &same);
    add("the store", "listed", None, &|job| job.request.destination = None);
    let unknown = Some((DestinationUnknown, "is not, or no longer, one of the tenant's"));
    add("nobody's", "none", unknown, &same);
    add("another tenant's", "theirs", unknown, &same);
    add("an address of two readings", "forged", Some((DestinationUnknown, "its endpoint")), &same);
    add("entered later", "late", Some((DestinationUnknown, "entered after")), &same);
    let listed = Some((PolicyDenied, "acme/places"));
    add("bucket", "bucket", listed, &same);
    add("prefix", "prefix", listed, &same);
    add("host", "host", listed, &same);
    let step = Some((PolicyDenied, "step-up-external"));
    add("no second factor", "listed", step, &|job| job.authority.mfa = false);
    let own = Some((PolicyDenied, "outputs that go to the store"));
    add("no publisher", "listed", own, &|job| {
        job.authority.roles.remove(&RoleName::Publisher);
    });
    let submits = Some((PolicyDenied, "ReadSource is refused"));
    add("no submitter", "listed", submits, &|job| {
        job.authority.roles.remove(&RoleName::Submitter);
    });
    cases
}

async fn records(operator: &Bus, intake: &Bus) {
    let host = "https://s3.example.com";
    for (of, name, place) in [
        ("acme", "listed", [host, "media", "video/out"]),
        ("acme", "bucket", [host, "media-x", "video/out"]),
        ("acme", "prefix", [host, "media", "video-x"]),
        ("acme", "host", ["https://s3.example.com.evil.org", "media", "video/out"]),
        ("acme", "forged", ["https://s3.example.com@evil.org", "media", "video/out"]),
        ("bolt", "theirs", [host, "media", "video/out"]),
    ] {
        enter(operator, &record(of, name, place)).await;
    }
    let late = record("acme", "late", [host, "media", "video/out"]);
    let created_at = clock::now().plus_ms(3_600_000);
    enter(operator, &DestinationRecord { created_at, ..late }).await;
    let acme = "acme".parse().unwrap();
    let put = Put { tenant: Some(&acme), text: PLACES, by: None, at: clock::now(), over: None };
    PolicyStore::new(intake).put(put).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn iam_09_a_forged_job_goes_nowhere_that_records_and_policy_do_not_name() {
    let dir = clip::dir("destinations");
    let clip = clip::sample(&dir, Container::Mp4);
    let cases = cases(&clip);
    let server = broker().await;
    tenant(&server, "acme", false).await;
    tenant(&server, "bolt", false).await;
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let operator = Bus::connect(Role::Provisioner, &nats(&server, Role::Provisioner)).await;
    records(&operator.unwrap(), &intake).await;
    let objects = cases.iter().map(|(_, job, _)| (format!("/{}", job.inputs[0].key), clip.clone()));
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let url = store(Arc::new(objects.collect()), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    for (_, job, _) in &cases {
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
    }
    for (name, job, refusal) in &cases {
        let judged = settled(&intake, job).await;
        let failure = judged.failure.as_ref();
        let Some((code, words)) = refusal else {
            assert_eq!(judged.state, EventKind::Validated, "{name}: {failure:?}");
            let asked: Vec<_> = judged.decisions.iter().map(|decided| decided.action).collect();
            let all = [Action::ReadSource, Action::SubmitTranscode, Action::PublishOutput];
            let expect = if job.request.destination.is_some() { &all[..] } else { &all[..2] };
            assert_eq!(asked, expect, "{name}");
            assert!(judged.decisions.iter().all(|it| it.outcome == Outcome::Allowed), "{name}");
            continue;
        };
        let failure = failure.unwrap_or_else(|| panic!("{name} is {}", judged.state));
        assert_eq!(
            (judged.state, failure.code),
            (EventKind::Rejected, *code),
            "{name}: {failure:?}"
        );
        assert!(failure.message.contains(words), "{name}: {failure:?}");
        assert_eq!(judged.plan, None, "{name}");
        // A name that leads nowhere is found out before anything is opened.
        let read = asked.lock().unwrap().contains_key(&job.inputs[0].key);
        assert_eq!(read, *code != RejectCode::DestinationUnknown, "{name}");
    }
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}

/// A record that cannot be read is neither a destination nor none: the job waits for one that can.
#[tokio::test(flavor = "multi_thread")]
async fn iam_06_a_destination_that_cannot_be_read_keeps_a_job_waiting() {
    let dir = clip::dir("destinations-broken");
    let clip = clip::sample(&dir, Container::Mp4);
    let (first, second) = (to(1, &clip, "cdn"), to(2, &clip, "none"));
    let server = broker().await;
    tenant(&server, "acme", false).await;
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let operator =
        Bus::connect(Role::Provisioner, &nats(&server, Role::Provisioner)).await.unwrap();
    let bucket = operator.bucket("destinations");
    let revision = bucket.create("acme.cdn", &"not a record").await.unwrap();
    let objects = [(format!("/{}", first.inputs[0].key), clip.clone())];
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let url = store(Arc::new(objects.into()), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    intake.publish(&Outgoing::job(first.clone(), 0)).await.unwrap();
    intake.publish(&Outgoing::job(second.clone(), 0)).await.unwrap();
    // One that came later is judged; this one was looked at before it, and waits.
    assert_eq!(settled(&intake, &second).await.state, EventKind::Rejected);
    let looked = Instant::now() + Duration::from_secs(2);
    while Instant::now() < looked {
        let waits = intake.job(&first.tenant, &first.id).await.unwrap().unwrap();
        assert_eq!(waits.message.get().state, EventKind::Submitted);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(asked.lock().unwrap().is_empty(), "nothing was opened");
    let good = record("acme", "cdn", ["https://s3.example.com", "media", "video"]);
    bucket.update("acme.cdn", &good, revision).await.unwrap();
    let judged = settled(&intake, &first).await;
    assert_eq!(judged.state, EventKind::Validated, "{:?}", judged.failure);
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}
