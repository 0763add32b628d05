//! IAM-06, ZT-04 at the signer: what the stolen login of a validator can publish, and what policy
//! that changed since does to a job. Every event here is signed by the key that its subject asks
//! for: what refuses it is the submission, the record, or policy on the plan in the job.

mod blocked;

use crate::{
    job::{made, plan, report, submitted},
    rig::{Rig, eventually},
    worker::{Worker, request},
};
use hotcell_policy::store::LIFE_MS;
use hotcell_schemas::{
    Digest, EventKind, Job, RejectCode, Role, UnixMs,
    identity::{Action, Outcome, RoleName},
    job::Actor,
    plan::{Container, Sniffed},
    policy::PolicyRecord,
    records::{KeyRecord, Refusal, TenantRecord},
    report::{Probe, ProbedStream, Report},
    request::Format,
    tenancy::TenantState,
    work::{DoneReply, NextReply, Stop, UrlsReply, WorkOrder},
};
use hotcell_stage::{Outgoing, clock};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinSet};

const NEVER: &str = r#"@id("never") @about("x") forbid (principal, action == ACTION, resource);"#;

impl Rig {
    /// Publishes `first` as intake and `then` as the validator.
    async fn as_signed(&self, first: &Job, then: Job) -> Job {
        let seq = self.intake.publish(&Outgoing::job(first.clone(), 0)).await.unwrap().seq;
        self.as_validated(then, seq).await
    }

    async fn as_validated(&self, mut job: Job, after: u64) -> Job {
        job.plan = job.plan.or_else(|| Some(plan()));
        let job = job.moved(EventKind::Validated, clock::now());
        self.validator.publish(&Outgoing::job(job.clone(), after)).await.unwrap();
        job
    }

    /// Waits until the job has ended, and says how.
    async fn ended(&self, job: &Job) -> Job {
        eventually(|| async {
            let job = self.state(job).await;
            (job.state == EventKind::Failed).then_some(job)
        })
        .await
    }

    /// Sets the own policies of acme.
    pub(crate) async fn policies(&self, text: &str) {
        let policies = self.intake.bucket("policies");
        let (_, revision) = policies.look::<PolicyRecord>("acme").await.unwrap();
        policies.update("acme", &policy_record(text), revision).await.unwrap();
    }

    async fn tenant_state(&self, state: TenantState) {
        self.tenant_record(|record| record.state = state).await;
    }

    async fn tenant_record(&self, change: impl FnOnce(&mut TenantRecord)) {
        let tenants = self.service(Role::Provisioner).await.bucket("tenants");
        let mut entry = tenants.get::<TenantRecord>("acme").await.unwrap().unwrap();
        change(&mut entry.value);
        tenants.update("acme", &entry.value, entry.revision).await.unwrap();
    }
}

fn key_record(id: &str, roles: &[RoleName], revoked_at: Option<UnixMs>) -> KeyRecord {
    let new = KeyRecord::new(id.parse().unwrap(), "acme".parse().unwrap(), "key", UnixMs(0));
    KeyRecord { roles: roles.iter().copied().collect(), revoked_at, ..new }
}

/// A worker that takes every order that it is given.
struct Taker {
    orders: mpsc::Receiver<WorkOrder>,
    task: JoinSet<()>,
}

impl Taker {
    fn start(worker: &Worker) -> Self {
        let (give, orders) = mpsc::channel(16);
        let (worker, mut task) = (worker.clone(), JoinSet::new());
        task.spawn(async move {
            // However long the test takes: a worker that gave up would look like a signer that did.
            loop {
                match worker.next(&request()).await {
                    NextReply::Order { order } => {
                        if give.send(*order).await.is_err() {
                            return;
                        }
                    }
                    NextReply::Empty { .. } => {}
                    refused @ NextReply::Refused { .. } => panic!("{refused:?}"),
                }
            }
        });
        Self { orders, task }
    }

    async fn order(&mut self) -> WorkOrder {
        tokio::time::timeout(crate::rig::DEADLINE, self.orders.recv()).await.unwrap().unwrap()
    }

    /// That the job ends by policy while a worker waits for work, and gets none.
    async fn refused(&mut self, rig: &Rig, job: &Job, words: &str) -> Job {
        let ended = tokio::select! {
            ended = rig.ended(job) => ended,
            gone = self.task.join_next() => panic!("the worker is gone: {gone:?}"),
        };
        assert!(self.orders.try_recv().is_err(), "{words}: an order was made");
        let failure = ended.failure.clone().unwrap();
        assert_eq!(failure.code, RejectCode::PolicyDenied, "{failure:?}");
        assert!(failure.message.contains(words), "{failure:?}");
        assert!(ended.attempts.is_empty(), "no attempt, no URL");
        ended
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_06_what_a_stolen_validator_login_publishes_reaches_no_worker() {
    let rig = Rig::start().await;
    let mut taker = Taker::start(&rig.worker("w1", "cpu").await);
    let viewer = |mut job: Job| {
        job.authority.roles = [RoleName::Viewer].into();
        job
    };

    // Intake submitted it for somebody who may not, as a stolen login of intake would; a validator
    // that does not look lets it pass.
    let weak = viewer(submitted("acme", "cpu"));
    let job = rig.as_signed(&weak, weak.clone()).await;
    let ended = taker.refused(&rig, &job, "no policy permits").await;
    let last = ended.decisions.last().unwrap();
    assert_eq!((last.node, last.outcome), (Role::Signer, Outcome::Denied));

    // The validator changes who asked, or what for.
    let own = "not the one that was submitted";
    let weak = viewer(submitted("acme", "cpu"));
    let job = rig.as_signed(&weak, submitted_as(&weak)).await;
    taker.refused(&rig, &job, own).await;
    for change in [
        (|job: &mut Job| {
            job.actor = Actor::ApiKey { id: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap() }
        }) as fn(&mut Job),
        |job| job.authority.mfa = true,
        |job| job.request.output_format = Some(Format::Mkv),
        |job| job.inputs[0].sha256 = Digest::of(b"other"),
        |job| job.stamps[0].at.0 -= 1,
    ] {
        let first = submitted("acme", "cpu");
        let mut then = first.clone();
        change(&mut then);
        let job = rig.as_signed(&first, then).await;
        taker.refused(&rig, &job, own).await;
    }

    // It makes one up.
    let job = rig.as_validated(submitted("acme", "cpu"), 0).await;
    taker.refused(&rig, &job, "nobody submitted").await;

    let lies = rig.refusals().await.into_iter().filter(|(what, _)| *what == Refusal::Scope);
    assert_eq!(lies.count(), 7, "each lie is in the log");
    assert_eq!(rig.grants().await, 0, "no URL was made for any of them");
    // The same without a lie is served.
    let honest = rig.validated("acme", "cpu").await;
    assert_eq!(taker.order().await.job, honest.id);
    let served = rig.state(&honest).await;
    let decided = served.decisions.iter().map(|decided| (decided.node, decided.action));
    let expect = [Action::ReadSource, Action::SubmitTranscode].map(|action| (Role::Signer, action));
    assert_eq!(decided.collect::<Vec<_>>(), expect);
}

/// The same job by somebody who may.
fn submitted_as(weak: &Job) -> Job {
    let mut job = weak.clone();
    job.authority = crate::job::submitter();
    job
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_06_keys_are_judged_as_of_the_submission() {
    let rig = Rig::start().await;
    let mut taker = Taker::start(&rig.worker("w1", "cpu").await);
    let keys = rig.intake.bucket("keys");
    let roles = [RoleName::Submitter];
    let (good, bad) = ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
    let past = UnixMs(clock::now().0 - 60_000);
    for record in [key_record(good, &roles, None), key_record(bad, &roles, Some(past))] {
        keys.create(record.id.as_str(), &record).await.unwrap();
    }
    let by = |id: &str| {
        let mut job = submitted("acme", "cpu");
        job.actor = Actor::ApiKey { id: id.parse().unwrap() };
        job
    };
    let first = by(bad);
    let job = rig.as_signed(&first, first.clone()).await;
    taker.refused(&rig, &job, "revoked before").await;
    // Revoked after the submission: what was asked for in time is done.
    let first = by(good);
    let (_, revision) = keys.look::<KeyRecord>(good).await.unwrap();
    let later = first.stamps[0].at.plus_ms(1);
    keys.update(good, &key_record(good, &roles, Some(later)), revision).await.unwrap();
    let job = rig.as_signed(&first, first.clone()).await;
    assert_eq!(taker.order().await.job, job.id);
}

/// Past the promised life of a set in a signer's memory: that it is in force then is what the tests
/// hold the signer to, however slow the machine is.
async fn known() {
    tokio::time::sleep(Duration::from_millis(LIFE_MS + 100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_that_changes_meets_a_job_at_each_step() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let mut taker = Taker::start(&worker);
    let never = |action: &str| NEVER.replace("ACTION", &format!("Hotcell::Action::\"{action}\""));

    // Between validation and assignment.
    rig.policies(&never("SubmitTranscode")).await;
    let job = rig.validated("acme", "cpu").await;
    let ended = taker.refused(&rig, &job, "never").await;
    assert_eq!(ended.decisions.last().unwrap().policies, ["acme/never"]);

    // Between assignment and the outputs' URLs, and between those and the report.
    for step in ["urls", "done"] {
        rig.policies("").await;
        known().await;
        let job = rig.validated("acme", "cpu").await;
        let order = taker.order().await;
        assert_eq!(order.job, job.id);
        if step == "done" {
            let urls = worker.planned_urls(&order.lease).await;
            assert!(matches!(urls, UrlsReply::Urls { .. }), "{urls:?}");
        }
        rig.policies(&never("PublishOutput")).await;
        known().await;
        let before = rig.grants().await;
        if step == "urls" {
            let urls = worker.urls(&order.lease, vec![made()], None).await;
            let stopped = matches!(urls, UrlsReply::Refused { reason: Stop::Cancelled });
            assert!(stopped, "{urls:?}");
        } else {
            assert_eq!(worker.done(&order, report("a")).await, DoneReply::Accepted);
        }
        assert_eq!(rig.grants().await, before, "{step}");
        let ended = rig.ended(&job).await;
        assert_eq!(ended.failure.unwrap().code, RejectCode::PolicyDenied, "{step}");
        assert!(ended.outputs.is_empty(), "{step}");
        let last = ended.decisions.last().unwrap();
        assert_eq!((last.action, last.outcome), (Action::PublishOutput, Outcome::Denied), "{step}");
        let states = rig.states(&job).await;
        assert!(!states.contains(&EventKind::Encoded), "{step}: {states:?}");
    }
}

/// What FFmpeg's prober says of a file of one picture track with so many frames a second.
fn probe(height: u32, duration_ms: u64, fps: u32) -> Probe {
    let picture = ProbedStream {
        kind: "video".to_owned(),
        codec: "h264".to_owned(),
        width: Some(320),
        height: Some(height),
        sample_rate: None,
        channels: None,
        duration_ms: Some(duration_ms),
        frames: None,
        fps: Some(fps),
        attached: false,
    };
    let format = "mov,mp4,m4a,3gp,3g2,mj2".to_owned();
    let duration_ms = Some(duration_ms);
    Probe { format, duration_ms, start_ms: None, bit_rate: None, streams: vec![picture] }
}

/// IAM-08: headers that understate the picture and its length, or that have it turned, and say nothing
/// of frames. By them the job is within the ceilings; what came of it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_08_what_an_inputs_header_hid_does_not_count_once_it_is_made() {
    let rig = Rig::start().await;
    let worker = rig.worker("w1", "cpu").await;
    let mut taker = Taker::start(&worker);
    let ceiling = |id: &str, fact: &str, most: u32| {
        let head = "forbid (principal, action == Hotcell::Action::\"SubmitTranscode\", resource)";
        let when = format!("when {{ context.output.{fact} > {most} }}");
        format!("@id(\"{id}\") @about(\"x\") {head} {when};\n")
    };
    let ceilings = ceiling("height", "height", 480)
        + &ceiling("length", "duration_s", 10)
        + &ceiling("rate", "fps", 30);
    for (made, policies, refused) in [
        // The attack works without the ceilings, and an honest header passes them.
        (probe(640, 60_000, 60), "", None),
        (probe(240, 3_000, 30), ceilings.as_str(), None),
        (probe(640, 1_000, 30), &ceilings, Some("acme/height")),
        (probe(240, 60_000, 30), &ceilings, Some("acme/length")),
        (probe(240, 1_000, 60), &ceilings, Some("acme/rate")),
    ] {
        rig.policies(policies).await;
        known().await;
        let (mut job, seq) = rig.submit("acme", "cpu").await;
        job.inputs[0].sniffed = Some(sniffed());
        let job = rig.as_validated(job, seq).await;
        let order = taker.order().await;
        worker.planned_urls(&order.lease).await;
        let report = Report { output: Some(made), ..report("a") };
        assert_eq!(worker.done(&order, report).await, DoneReply::Accepted);
        let last = rig.state(&job).await;
        let Some(policy) = refused else {
            assert_eq!(last.state, EventKind::Encoded, "{:?}", last.failure);
            continue;
        };
        assert_eq!(last.state, EventKind::Failed, "{policy}");
        assert!(last.outputs.is_empty() && last.failure.unwrap().message.contains(policy));
        let said = last.decisions.last().unwrap();
        assert_eq!((said.node, said.action), (Role::Signer, Action::SubmitTranscode));
        assert_eq!((said.outcome, &said.policies[..]), (Outcome::Denied, &[policy.to_owned()][..]));
    }
}

/// 240 lines and a second, as the header says.
fn sniffed() -> Sniffed {
    Sniffed {
        container: Container::Mp4,
        content_type: "video/mp4".to_owned(),
        width: Some(320),
        height: Some(240),
        has_video: Some(true),
        has_audio: Some(false),
        duration_ms: Some(1_000),
        protected: false,
    }
}

/// IAM-06: arguments of its own, or workers, that the tenant was never given: by a validator that
/// plans what nobody asked for, and by an edge that sends it to another pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iam_06_what_the_tenant_was_not_given_is_not_planned_for_it() {
    let rig = Rig::start().await;
    let mut taker = Taker::start(&rig.worker("b1", "gpu").await);
    let mut own = plan();
    own.outputs[0].raw = Some(own.outputs[0].tree());
    let planned = async || {
        let mut first = submitted("acme", "gpu");
        (first.authority.mfa, first.authority.auth_time) = (true, Some(clock::now()));
        let then = Job { plan: Some(own.clone()), ..first.clone() };
        rig.as_signed(&first, then).await
    };
    // The attack works for a tenant that may.
    let job = planned().await;
    assert_eq!(taker.order().await.job, job.id);
    rig.tenant_record(|record| record.raw_arguments = false).await;
    let failure = rig.ended(&planned().await).await.failure.unwrap();
    assert_eq!(failure.code, RejectCode::RequestForbidden, "{failure:?}");
    // The dispatcher's list of tenants, which it reads each second, no longer changes: by it the pool
    // still is the tenant's, and the job is looked at.
    rig.unlist_tenants().await;
    rig.tenant_record(|record| record.pools = vec!["cpu".parse().unwrap()]).await;
    let job = rig.validated("acme", "gpu").await;
    taker.refused(&rig, &job, "pool of workers").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_a_suspended_tenant_waits_for_its_return() {
    let rig = Rig::start().await;
    let mut taker = Taker::start(&rig.worker("w1", "cpu").await);
    rig.tenant_state(TenantState::Suspended).await;
    let (held, other) = (rig.validated("acme", "cpu").await, rig.validated("bolt", "cpu").await);
    assert_eq!(taker.order().await.job, other.id);
    assert!(taker.orders.try_recv().is_err(), "an order was made");
    assert_eq!(rig.state(&held).await.state, EventKind::Validated);
    rig.tenant_state(TenantState::Active).await;
    assert_eq!(taker.order().await.job, held.id);
}

fn policy_record(text: &str) -> PolicyRecord {
    let digest = Digest::of(text.as_bytes());
    PolicyRecord { version: 1, text: text.to_owned(), digest, by: None, at: clock::now() }
}
