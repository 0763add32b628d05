//! URLs for the trusted services, and what is never in a message.

use crate::{
    job::{made, report, submitted},
    rig::{Rig, eventually},
    worker::{SILENCE, Worker, ask, ask_raw},
};
use async_nats::client::RequestErrorKind;
use hotcell_nats_config::Login;
use hotcell_schemas::{
    BlobKey, EventKind, Job, Role, Subject, TenantId, UnixMs, UploadId,
    limits::{REQUEST_AGE_MS_MAX, UPLOAD_BYTES_MAX},
    records::Refusal,
    subject::SignVerb,
    work::{DoneReply, InputsReply, SignReply, SignRequest, UrlsReply},
};
use hotcell_stage::{Bus, Outgoing, clock};
use nkeys::KeyPair;

async fn signed(bus: &Bus, verb: SignVerb, request: &SignRequest) -> bool {
    match ask(bus, Subject::sign(verb), request).await {
        SignReply::Signed { signed } => {
            let expires = crate::order::query(signed.url.expose())["X-Amz-Expires"].clone();
            assert!(expires.parse::<u32>().unwrap() <= 3600);
            true
        }
        SignReply::Refused { .. } | SignReply::OverQuota { .. } => false,
        SignReply::Later { reason } => panic!("what is refused goes on record: {reason}"),
    }
}

fn read(tenant: &TenantId, key: &BlobKey, job: Option<&Job>) -> SignRequest {
    let job = job.map(|job| job.id.clone());
    SignRequest::Read { tenant: tenant.clone(), key: key.clone(), job }
}

fn upload(tenant: &TenantId, key: &BlobKey, size: u64) -> SignRequest {
    let content_type = "video/mp4".to_owned();
    SignRequest::Upload { tenant: tenant.clone(), key: key.clone(), size, content_type }
}

/// An attempt's whole conversation; returns the URLs handed out in it.
async fn encoded(worker: &Worker) -> usize {
    let order = worker.order().await;
    let InputsReply::Inputs { inputs } = worker.inputs(&order.lease).await else { panic!() };
    let UrlsReply::Urls { files, stderr, elsewhere: false } =
        worker.urls(&order.lease, vec![made()], Some((9, made().sha256))).await
    else {
        panic!("refused")
    };
    assert_eq!(worker.done(&order, report("ok")).await, DoneReply::Accepted);
    order.inputs.len() + inputs.len() + files.len() + usize::from(stderr.is_some())
}

// Each stage gets a URL for what it has business with, when it has, and for nothing else; every
// refusal is recorded, every URL has its grant (BRK-71), and none is in a message (API-11).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_urls_for_their_own_step_only() {
    let rig = Rig::start().await;
    let (intake, validator) = (rig.intake.clone(), rig.validator.clone());
    let hasher = rig.service(Role::Hasher).await;
    let worker = rig.worker("w1", "cpu").await;
    let (mut handed, mut refused) = (0, 0);
    let mut check = |got: bool, wanted: bool, what: &str| {
        assert_eq!(got, wanted, "{what}");
        handed += usize::from(got);
        refused += usize::from(!got);
    };
    let bolt: TenantId = "bolt".parse().unwrap();
    let (job, _) = rig.submit("acme", "cpu").await;
    let (acme, input) = (job.tenant.clone(), job.inputs[0].key.clone());
    let other = submitted("acme", "cpu").inputs[0].key.clone();
    let output = BlobKey::output(&acme, &job.id, 1, &made().name);
    let theirs = BlobKey::upload(&bolt, &UploadId::new(1, [1; 10]), &made().name);

    use SignVerb::{Confirm, Download, Input, Output, Upload};
    check(signed(&intake, Upload, &upload(&acme, &input, 10)).await, true, "own upload");
    check(signed(&intake, Upload, &upload(&acme, &theirs, 10)).await, false, "bolt's upload");
    check(signed(&intake, Upload, &upload(&acme, &output, 10)).await, false, "an output");
    check(signed(&intake, Upload, &upload(&acme, &input, 0)).await, false, "empty");
    let huge = upload(&acme, &input, UPLOAD_BYTES_MAX + 1);
    check(signed(&intake, Upload, &huge).await, false, "too large");
    let nobody: TenantId = "nobody".parse().unwrap();
    let key = BlobKey::upload(&nobody, &UploadId::new(1, [1; 10]), &made().name);
    check(signed(&intake, Upload, &upload(&nobody, &key, 1)).await, false, "no such tenant");
    check(signed(&intake, Confirm, &read(&acme, &input, None)).await, true, "confirm");
    check(signed(&intake, Confirm, &read(&acme, &theirs, None)).await, false, "bolt's");
    check(signed(&intake, Confirm, &read(&acme, &output, None)).await, false, "no upload");
    check(signed(&intake, Confirm, &upload(&acme, &input, 1)).await, false, "another verb's");

    let own = read(&acme, &input, Some(&job));
    check(signed(&validator, Input, &own).await, true, "the input");
    let not_its = read(&acme, &other, Some(&job));
    check(signed(&validator, Input, &not_its).await, false, "an input that the job has not");
    let bolts = read(&bolt, &input, Some(&job));
    check(signed(&validator, Input, &bolts).await, false, "bolt's job of that id");
    check(signed(&validator, Input, &read(&acme, &input, None)).await, false, "no job");
    let made_key = read(&acme, &output, Some(&job));
    check(signed(&hasher, Output, &made_key).await, false, "not encoded yet");
    check(signed(&intake, Download, &made_key).await, false, "not completed yet");

    // A job that names another tenant's bytes: intake would not make it, and it opens nothing.
    let mut greedy = submitted("acme", "cpu");
    greedy.inputs[0].key = theirs.clone();
    intake.publish(&Outgoing::job(greedy.clone(), 0)).await.unwrap();
    let bolts = read(&acme, &theirs, Some(&greedy));
    check(signed(&validator, Input, &bolts).await, false, "bolt's bytes in acme's job");

    let plan = Some(crate::job::plan());
    let stored = rig.intake.job(&acme, &job.id).await.unwrap().unwrap();
    let next = Job { plan, ..job.clone() }.moved(EventKind::Validated, clock::now());
    rig.validator.publish(&Outgoing::job(next, stored.seq)).await.unwrap();
    check(signed(&validator, Input, &own).await, false, "validated already");
    let in_attempt = encoded(&worker).await;
    check(signed(&hasher, Output, &made_key).await, true, "the output");
    check(signed(&hasher, Output, &own).await, false, "the input");
    check(signed(&intake, Download, &made_key).await, false, "not completed yet");
    let stored = rig.intake.job(&acme, &job.id).await.unwrap().unwrap();
    let seq = stored.seq;
    let done = stored.message.into_inner().moved(EventKind::Completed, clock::now());
    hasher.publish(&Outgoing::job(done, seq)).await.unwrap();
    check(signed(&intake, Download, &made_key).await, true, "the output");
    check(signed(&intake, Download, &own).await, false, "the input");
    check(signed(&hasher, Output, &made_key).await, false, "completed already");

    let refusals = rig.refusals().await;
    let scope = refusals.iter().filter(|(what, _)| *what == Refusal::Scope).count();
    assert_eq!(scope, refused, "refusals recorded: {refusals:?}");
    assert_eq!(rig.grants().await, handed + in_attempt, "URLs handed out and grants recorded");
    no_url_in_any_message(&rig).await;
}

async fn no_url_in_any_message(rig: &Rig) {
    for message in rig.messages().await {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        let headers = format!("{:?}", message.headers);
        for part in ["X-Amz-Signature", "X-Amz-Credential", "http://", "https://"] {
            let found = text.contains(part) || headers.contains(part);
            assert!(!found, "{part} in {}", message.subject);
        }
    }
}

// ZT-04: the broker's permissions are not the only wall. A request that a service may publish but
// did not sign, or that another role signed, gets no answer and is recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_signed_by_another_key_is_dropped_and_recorded() {
    let rig = Rig::start().await;
    let (job, _) = rig.submit("acme", "cpu").await;
    let own = read(&job.tenant, &job.inputs[0].key, Some(&job));
    assert!(signed(&rig.validator, SignVerb::Input, &own).await);
    let subject = Subject::sign(SignVerb::Input);
    let hasher = rig.key(&Login::Service(Role::Hasher));
    let right = rig.key(&Login::Service(Role::Validator));
    let now = clock::now();
    let old = UnixMs(now.0 - REQUEST_AGE_MS_MAX - 1000);
    let bad = [(KeyPair::new_user(), now), (hasher, now), (right, old)];
    for (key, time) in &bad {
        let signed = ("id", *time, key);
        let answer = ask_raw(&rig.validator, &subject, signed, &own, SILENCE).await;
        assert_eq!(answer.map(|_| ()), Err(RequestErrorKind::TimedOut));
    }
    // A question may have timed out before the signer came to it.
    let dropped = eventually(|| async {
        let refusals = rig.refusals().await.into_iter();
        let dropped = refusals.filter(|(what, _)| *what == Refusal::Envelope).count();
        (dropped >= bad.len()).then_some(dropped)
    });
    assert_eq!(dropped.await, bad.len());
}
