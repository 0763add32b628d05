//! NEW-13, NEW-09, ZT-16: what killed its cell is counted once for each attempt, told at once, and
//! given to nobody after the second time; a signer that dies in between loses nothing of it.

use crate::{
    job::{failed, report, submitted},
    rig::{Rig, eventually},
    worker::Worker,
};
use futures::future::join_all;
use hotcell_schemas::{
    Digest,
    EventKind::{Assigned, AttemptFailed, Encoded, Failed, Submitted, Validated},
    Job, RejectCode, Report, Role,
    poison::{PoisonRecord, Strike},
    records::AuditAct,
    report::{CellEnd, CellUse},
    request::{Format, OutputRequest},
    work::{DoneReply, WorkOrder},
};
use hotcell_stage::{Outgoing, clock};

/// A report of a cell that was killed for `socket`.
fn violated() -> Report {
    let end = CellEnd::Signaled(31);
    let used = CellUse { violation: Some("socket".to_owned()), ..CellUse::nothing(end) };
    Report { encode: Some(used), ..failed(RejectCode::CellViolation) }
}

/// A job of `tenant` whose input is `bytes`, ready for a worker.
async fn validated(rig: &Rig, tenant: &str, bytes: &[u8]) -> Job {
    planned(rig, unvalidated(tenant, bytes)).await
}

fn unvalidated(tenant: &str, bytes: &[u8]) -> Job {
    let mut job = submitted(tenant, "cpu");
    job.inputs[0].sha256 = Digest::of(bytes);
    job
}

async fn planned(rig: &Rig, mut job: Job) -> Job {
    let seq = rig.intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap().seq;
    job.plan = Some(crate::job::plan());
    let job = job.moved(Validated, clock::now());
    rig.validator.publish(&Outgoing::job(job.clone(), seq)).await.unwrap();
    job
}

async fn strikes(rig: &Rig, key: &str) -> Vec<Strike> {
    let bucket = rig.service(Role::Signer).await.bucket("poison");
    let entry = bucket.get::<PoisonRecord>(key).await.unwrap();
    entry.map_or_else(Vec::new, |entry| entry.value.strikes)
}

fn common(bytes: &[u8]) -> String {
    PoisonRecord::key(Digest::of(bytes), None)
}

async fn violations(rig: &Rig) -> Vec<(String, u32, String, Vec<Digest>)> {
    let acts = rig.audit().await.into_iter();
    acts.filter_map(|act| match act {
        AuditAct::Violation { job, attempt, call, inputs, worker, profile_digest } => {
            assert_eq!((worker.as_str(), profile_digest), ("w1", Digest::of(b"profile")));
            Some((job.to_string(), attempt, call, inputs))
        }
        _ => None,
    })
    .collect()
}

/// Runs one attempt at `job` and ends it with `report`.
async fn attempt(worker: &Worker, job: &Job, report: Report) -> WorkOrder {
    let order = worker.order().await;
    assert_eq!(order.job, job.id);
    assert_eq!(worker.done(&order, report).await, DoneReply::Accepted);
    order
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_13_a_third_job_with_a_file_that_killed_two_cells_is_given_to_nobody() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let mut told = Vec::new();
    // Two tenants hold the same bytes: it is the bytes that count.
    for (count, tenant) in [(1, "acme"), (2, "bolt")] {
        let job = validated(&rig, tenant, b"bad").await;
        attempt(&worker, &job, violated()).await;
        assert_eq!(rig.states(&job).await, [Submitted, Validated, Assigned, Failed]);
        let failure = rig.state(&job).await.failure.unwrap();
        assert_eq!(failure.code, RejectCode::CellViolation, "tenant and webhook see this");
        assert_eq!(strikes(&rig, &common(b"bad")).await.len(), count);
        told.push((job.id.to_string(), 1, "socket".to_owned(), vec![Digest::of(b"bad")]));
    }
    assert_eq!(violations(&rig).await, told);

    let third = validated(&rig, "acme", b"bad").await;
    let honest = validated(&rig, "acme", b"good").await;
    attempt(&worker, &honest, report("ok")).await;
    eventually(|| async { (rig.state(&third).await.state == Failed).then_some(()) }).await;
    assert_eq!(rig.states(&third).await, [Submitted, Validated, Failed], "no worker had it");
    let failure = rig.state(&third).await.failure.unwrap();
    assert_eq!(failure.code, RejectCode::InputPoisoned);
    assert!(failure.message.contains(&Digest::of(b"bad").to_string()), "{}", failure.message);
    eventually(|| async { (rig.ack_pending("acme", "cpu").await == 0).then_some(()) }).await;

    // The operator releases it: it runs, and counting begins anew.
    let bucket = rig.service(Role::Provisioner).await.bucket("poison");
    let key = common(b"bad");
    let (_, revision) = bucket.look::<PoisonRecord>(&key).await.unwrap();
    bucket.remove(&key, revision).await.unwrap();
    let again = validated(&rig, "acme", b"bad").await;
    attempt(&worker, &again, violated()).await;
    assert_eq!(strikes(&rig, &key).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_crash_ends_the_job_at_once_with_its_own_code() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let job = validated(&rig, "acme", b"bad").await;
    attempt(&worker, &job, failed(RejectCode::CellCrashed)).await;
    attempt(&worker, &job, failed(RejectCode::CellCrashed)).await;
    let states = rig.states(&job).await;
    assert_eq!(states, [Submitted, Validated, Assigned, AttemptFailed, Assigned, Failed]);
    assert_eq!(rig.state(&job).await.failure.unwrap().code, RejectCode::CellCrashed);
    let attempts: Vec<_> =
        strikes(&rig, &common(b"bad")).await.iter().map(|strike| strike.attempt).collect();
    assert_eq!(attempts, [1, 2]);
    assert!(violations(&rig).await.is_empty(), "a crash is no violation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_ran_out_of_memory_is_held_against_its_own_tenant_s_jobs() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    for _ in 0..2 {
        let job = validated(&rig, "acme", b"large").await;
        attempt(&worker, &job, failed(RejectCode::ResourceMemory)).await;
    }
    let own = validated(&rig, "acme", b"large").await;
    let other = validated(&rig, "bolt", b"large").await;
    attempt(&worker, &other, report("ok")).await;
    assert_eq!(rig.state(&other).await.state, Encoded, "a plan that needs less may go well");
    let honest = validated(&rig, "acme", b"small").await;
    attempt(&worker, &honest, report("ok")).await;
    eventually(|| async { (rig.state(&own).await.state == Failed).then_some(()) }).await;
    assert_eq!(rig.state(&own).await.failure.unwrap().code, RejectCode::InputPoisoned);
    assert!(strikes(&rig, &common(b"large")).await.is_empty());
    let acme = "acme".parse().unwrap();
    assert_eq!(strikes(&rig, &PoisonRecord::key(Digest::of(b"large"), Some(&acme))).await.len(), 2);
}

/// FFmpeg's own arguments may crash it on any file, also on one that others hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tenant_s_own_arguments_crash_is_held_against_its_own_jobs() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let mut job = unvalidated("acme", b"shared");
    job.request.output_format = None;
    job.request.outputs = vec![OutputRequest {
        format: Format::Mp4,
        video: None,
        audio: None,
        ffmpeg_args: vec!["-c:v".to_owned(), "libx264".to_owned()],
    }];
    let job = planned(&rig, job).await;
    attempt(&worker, &job, failed(RejectCode::CellCrashed)).await;
    attempt(&worker, &job, failed(RejectCode::CellCrashed)).await;
    assert_eq!(rig.state(&job).await.failure.unwrap().code, RejectCode::CellCrashed);
    let acme = "acme".parse().unwrap();
    let own = PoisonRecord::key(Digest::of(b"shared"), Some(&acme));
    assert_eq!(
        (strikes(&rig, &own).await.len(), strikes(&rig, &common(b"shared")).await.len()),
        (2, 0)
    );
    let other = validated(&rig, "bolt", b"shared").await;
    attempt(&worker, &other, report("ok")).await;
    assert_eq!(rig.state(&other).await.state, Encoded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_that_say_nothing_of_the_input_count_nothing() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    use RejectCode as C;
    let codes = [C::EncodeFailed, C::ResourceCpu, C::ResourceWall, C::Stalled, C::OutputInvalid];
    for code in codes {
        let job = validated(&rig, "acme", b"dull").await;
        attempt(&worker, &job, failed(code)).await;
        assert_eq!(rig.state(&job).await.failure.unwrap().code, code);
    }
    let job = validated(&rig, "acme", b"dull").await;
    attempt(&worker, &job, report("ok")).await;
    assert!(strikes(&rig, &common(b"dull")).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_reports_of_one_death_at_once_are_one_strike_and_one_event() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let job = validated(&rig, "acme", b"bad").await;
    let order = worker.order().await;
    let replies = join_all((0..8).map(|_| worker.done(&order, violated()))).await;
    assert!(replies.iter().all(|reply| *reply == DoneReply::Accepted), "{replies:?}");
    assert_eq!(rig.states(&job).await, [Submitted, Validated, Assigned, Failed]);
    assert_eq!(strikes(&rig, &common(b"bad")).await.len(), 1);
    assert_eq!(violations(&rig).await.len(), 1);
}

/// The text is a worker's, and ends on an operator's terminal: what is no name of a call is not
/// repeated, however it is dressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_a_call_is_a_name_or_is_not_told() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let long = "a".repeat(20_000);
    let texts =
        ["\u{1b}]0;owned\u{7}", "so\u{202e}tekc", "", "a b", "SOCKET", &long, "io_uring_setup"];
    for text in texts {
        let job = validated(&rig, "acme", text.as_bytes()).await;
        let mut lie = violated();
        lie.encode.as_mut().unwrap().violation = Some(text.to_owned());
        attempt(&worker, &job, lie).await;
    }
    let told: Vec<String> = violations(&rig).await.into_iter().map(|told| told.2).collect();
    let (last, dressed) = told.split_last().unwrap();
    assert_eq!((last.as_str(), dressed.len()), ("io_uring_setup", 6));
    assert!(dressed.iter().all(|call| call == "unknown"), "{told:?}");
}

/// The signer died after it had counted, and before the job's event: what it had written is there,
/// the worker says its report again, and the next signer comes to the same end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_that_dies_between_count_and_event_counts_once() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let dead = rig.service(Role::Signer).await;
    let bucket = dead.bucket("poison");
    for (attempt, state) in [(1, AttemptFailed), (2, Failed)] {
        let job = if attempt == 1 {
            validated(&rig, "acme", b"bad").await
        } else {
            let states = rig.job_states().await;
            let id = states.last().unwrap().0.clone();
            rig.intake
                .job(&"acme".parse().unwrap(), &id)
                .await
                .unwrap()
                .unwrap()
                .message
                .into_inner()
        };
        let order = worker.order().await;
        assert_eq!((&order.job, order.attempt), (&job.id, attempt));
        let (record, revision) = bucket.look::<PoisonRecord>(&common(b"bad")).await.unwrap();
        let new = || PoisonRecord::new(Digest::of(b"bad"), None);
        let mut record = record.map_or_else(new, |entry| entry.value);
        assert!(record.strike(Strike {
            tenant: job.tenant.clone(),
            job: job.id.clone(),
            attempt,
            worker: "w1".parse().unwrap(),
            code: RejectCode::CellCrashed,
            at: clock::now(),
        }));
        bucket.update(&common(b"bad"), &record, revision).await.unwrap();
        // Here it died.
        let reply = worker.done(&order, failed(RejectCode::CellCrashed)).await;
        assert_eq!(reply, DoneReply::Accepted);
        assert_eq!(rig.state(&job).await.state, state);
        assert_eq!(strikes(&rig, &common(b"bad")).await.len(), usize::try_from(attempt).unwrap());
    }
}
