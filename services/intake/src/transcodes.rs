//! Jobs: submit, read, fetch a result, read the evidence.
//!
//! Promises: a job is answered with 202 only after its event was acknowledged by the broker; an
//! input is a confirmed upload of the same tenant; another tenant's job looks like no job. Refuses:
//! to sign a URL for anything but an output of a completed job.
//! `submit` may be repeated with the same `Idempotency-Key`: one job comes of it.

use crate::{
    app::{App, Call, Reply, store_problem},
    approvals,
    auth::Principal,
    destinations,
    gate::{self, Ask},
    json, presets,
    problem::{Kind, Problem},
    quota,
    uploads::record_key,
    view,
};
use hotcell_policy::{Facts, Verdict, destination::location};
use hotcell_schemas::{
    Digest, EventKind, FileName, Job, JobId, Subject, TenantId,
    approval::{ApprovalRecord, job_digest},
    destination::DestinationRecord,
    identity::{Action, Decided},
    job::{Input, Output, Stamp},
    limits::IDEMPOTENCY_KEY_BYTES_MAX,
    plan::Sniffed,
    records::{IdempotencyRecord, TenantRecord, UploadRecord},
    reject::{Failure, RejectCode},
    request::TranscodeRequest,
    subject::SignVerb,
    work::SignRequest,
};
use hotcell_stage::{
    Outgoing, PublishError, clock,
    kv::{Entry, KvError},
    read::ReadError,
    retry::{Policy, retry},
    service::describe,
};
use hotcell_validator::{
    check::{RAW_FIELD, RAW_FORBIDDEN},
    check_request, compile,
};
use std::sync::Arc;
use tracing::{error, info, warn};

/// What records say of a submission, through whichever door.
const TARGET: &str = "POST /v1/transcodes";

/// The field that names where outputs go.
const FIELD: &str = "destination";

/// What a URL of an input begins with.
const UPLOAD_SCHEME: &str = "upload:";

/// A request that carried an `Idempotency-Key`.
struct Claim {
    key: String,
    body: Digest,
}

impl Claim {
    fn of(who: &Principal, call: &Call) -> Result<Option<Self>, Problem> {
        let Some(text) = &call.idempotency else { return Ok(None) };
        let good = !text.is_empty()
            && text.len() <= IDEMPOTENCY_KEY_BYTES_MAX
            && text.iter().all(|b| (0x20..0x7f).contains(b));
        if !good {
            let rule =
                format!("must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters");
            return Err(Problem::field(Kind::BadRequest, "Idempotency-Key", rule));
        }
        let key = format!("{}.{}", who.tenant(), Digest::of(text));
        Ok(Some(Self { key, body: Digest::of(&call.body) }))
    }

    /// The job that was claimed before under this key.
    async fn earlier(&self, app: &App) -> Result<Option<JobId>, Problem> {
        let entry = app.idempotency.get::<IdempotencyRecord>(&self.key).await;
        let Some(entry) = entry.map_err(|e| store_problem(&e))? else { return Ok(None) };
        if entry.value.body == self.body {
            return Ok(Some(entry.value.job));
        }
        let rule = "was used before with another body";
        Err(Problem::field(Kind::Unprocessable, "Idempotency-Key", rule))
    }

    /// Claims the key for `job`, or gives the job of the request that was quicker.
    async fn take(&self, app: &App, job: JobId) -> Result<JobId, Problem> {
        let record = IdempotencyRecord { body: self.body, job: job.clone() };
        match app.idempotency.create(&self.key, &record).await {
            Ok(_) => Ok(job),
            Err(KvError::Conflict) => {
                self.earlier(app).await?.ok_or_else(|| store_problem(&KvError::Conflict))
            }
            Err(error) => Err(store_problem(&error)),
        }
    }
}

/// `POST /v1/transcodes`, and `api.submit` over the broker.
///
/// # Errors
/// 400 and 422 naming field and rule; 403 for FFmpeg's own arguments without the right to; those of
/// the gate for the compiled job; 503 when the broker is away.
pub async fn submit(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let claim = Claim::of(&who, &call)?;
    let own = JobId::new(clock::now().0, clock::random());
    let mut id = own.clone();
    if let Some(claim) = &claim
        && let Some(claimed) = claim.earlier(&app).await?
    {
        if let Some(job) = read(&app, &who, &claimed).await? {
            let (action, facts) = (Action::ReadJob, Facts::default());
            gate::pass(&app, &who, &Ask { action, target: TARGET, facts: &facts }).await?;
            return Ok(answer(200, &job));
        }
        // The first request took the key and died before its event: this one takes its place.
        id = claimed;
    }
    let request = presets::expand(&app, &who, json::parse(&call.body)?).await?;
    let tenant = gate::active(&app, &who).await?;
    check(&request, &tenant)?;
    let destination = destinations::find(&app, &who, FIELD, request.destination.as_ref()).await?;
    let (inputs, sniffed) = inputs(&app, &who, &request).await?;
    quota::job(&app, &tenant, &inputs).await?;
    let facts = facts(&request, &inputs, &sniffed, destination.as_ref())?;
    let pool = tenant.pools.into_iter().next().ok_or_else(|| {
        Problem::new(Kind::Unprocessable, "no pool of workers is open to this tenant")
    })?;
    let asked = Asked { request: &request, destination: destination.as_ref(), facts };
    let (who, decisions, approval) = permitted(&app, who, &call, asked, &id).await?;
    if let Some(claim) = &claim {
        id = claim.take(&app, id).await?;
    }
    enlist(&app, who.tenant(), &id, id == own).await?;
    if let Some(approval) = approval {
        approvals::take(&app, approval, id.as_str()).await?;
    }
    let job = Job {
        id,
        tenant: who.tenant().clone(),
        state: EventKind::Submitted,
        actor: who.actor().clone(),
        authority: who.authority().clone(),
        decisions,
        workflow: request.workflow.clone(),
        request,
        pool,
        inputs,
        plan: None,
        attempts: Vec::new(),
        outputs: Vec::new(),
        failure: None,
        stamps: vec![Stamp { event: EventKind::Submitted, at: clock::now() }],
    };
    publish(&app, &who, job).await
}

/// What policy is to know: the job as the validator will compile it.
pub(crate) fn facts(
    request: &TranscodeRequest,
    inputs: &[Input],
    sniffed: &Sniffed,
    destination: Option<&DestinationRecord>,
) -> Result<Facts, Problem> {
    let plan = compile(request, sniffed).map_err(|failure| {
        let field = if request.preset.is_some() { "preset" } else { "outputs[0]" };
        Problem::rejected(field, &failure)
    })?;
    let bytes = inputs.iter().map(|input| input.size).fold(0, u64::saturating_add);
    Ok(Facts {
        protected_source: sniffed.protected,
        source_bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        priority: request.priority,
        ..Facts::of_plan(&plan, Some(sniffed), &location(destination))
    })
}

/// A job as it is asked about.
struct Asked<'a> {
    /// The request.
    request: &'a TranscodeRequest,
    /// Where its outputs are to go; `None` is the store.
    destination: Option<&'a DestinationRecord>,
    /// What policy is to know.
    facts: Facts,
}

/// Asks policy for the job, for its source and for what is to be done with its outputs: nothing is
/// encoded that could not be stored. Gives what it said, and the approval that the job will use.
async fn permitted(
    app: &App,
    who: Principal,
    call: &Call,
    asked: Asked<'_>,
    id: &JobId,
) -> Result<(Principal, Vec<Decided>, Option<Entry<ApprovalRecord>>), Problem> {
    let Asked { request, destination, mut facts } = asked;
    let approval = match &call.approval {
        None => None,
        Some(shown) => {
            let (action, digest) = (Action::SubmitTranscode, job_digest(request));
            let shown =
                approvals::shown_for(app, &who, shown, action, &digest, id.as_str()).await?;
            shown.value.covers(destination).map_err(approvals::unusable)?;
            Some(shown)
        }
    };
    facts.approved = approval.is_some();
    let who = who.with_approval(approval.as_ref().map(|entry| entry.value.id.clone()));
    let ask = |action| Ask { action, target: TARGET, facts: &facts };
    let publish = ask(Action::PublishOutput);
    let foreseen = gate::foreseen(app, &who, &publish).await;
    if foreseen == Some(Verdict::Deny) {
        // Nobody is sent through a second factor, or other people, for what then is refused.
        gate::pass(app, &who, &publish).await?;
    }
    let mut decisions = Vec::new();
    for action in [Action::SubmitTranscode, Action::ReadSource] {
        decisions.push(gate::pass(app, &who, &ask(action)).await?);
    }
    // The signer decides, and records, what may be stored in the store.
    if destination.is_some() || foreseen != Some(Verdict::Allow) {
        decisions.push(gate::pass(app, &who, &publish).await?);
    }
    Ok((who, decisions, approval))
}

/// Whether `who` may submit the job in `call`, without submitting it: what policy said of the job
/// and of its source. Nothing is stored, and no approval is used.
///
/// # Errors
/// As [`submit`], but for what is stored.
pub async fn permitted_dry(app: &App, who: &Principal, call: &Call) -> Result<(), Problem> {
    let (request, destination, facts) = compiled(app, who, &call.body).await?;
    let id = JobId::new(clock::now().0, clock::random());
    let asked = Asked { request: &request, destination: destination.as_ref(), facts };
    permitted(app, who.clone(), call, asked, &id).await.map(|_| ())
}

/// The job in `body`, where its outputs are to go, and what policy is to know of it.
///
/// # Errors
/// 400 and 422 naming field and rule; 403 for FFmpeg's own arguments without the right to; 503.
pub(crate) async fn compiled(
    app: &App,
    who: &Principal,
    body: &[u8],
) -> Result<(TranscodeRequest, Option<DestinationRecord>, Facts), Problem> {
    let request = presets::expand(app, who, json::parse(body)?).await?;
    let tenant = gate::active(app, who).await?;
    check(&request, &tenant)?;
    let destination = destinations::find(app, who, FIELD, request.destination.as_ref()).await?;
    let (inputs, sniffed) = inputs(app, who, &request).await?;
    let facts = facts(&request, &inputs, &sniffed, destination.as_ref())?;
    Ok((request, destination, facts))
}

/// What needs no upload: the tenant's right to FFmpeg's own arguments, and the request's rules.
pub(crate) fn check(request: &TranscodeRequest, tenant: &TenantRecord) -> Result<(), Problem> {
    if request.has_raw_arguments() && !tenant.raw_arguments {
        let failure = Failure::new(RejectCode::RequestForbidden, RAW_FORBIDDEN);
        return Err(Problem::forbidden(RAW_FIELD, &failure));
    }
    check_request(request)
        .map_err(|error| Problem::field(Kind::Unprocessable, error.field, error.rule))
}

/// The confirmed uploads that a request names.
pub(crate) async fn inputs(
    app: &App,
    who: &Principal,
    request: &TranscodeRequest,
) -> Result<(Vec<Input>, Sniffed), Problem> {
    let mut inputs = Vec::with_capacity(request.inputs.len());
    let mut seen = None;
    for (index, input) in request.inputs.iter().enumerate() {
        let refuse = || {
            let rule = "must be `upload:` and the file name of a confirmed upload";
            Problem::field(Kind::Unprocessable, format!("inputs[{index}].url"), rule)
        };
        let name = input.url.strip_prefix(UPLOAD_SCHEME).ok_or_else(refuse)?;
        let name: FileName = name.parse().map_err(|_| refuse())?;
        let entry = app.uploads.get::<UploadRecord>(&record_key(who.tenant(), &name)).await;
        let record = entry.map_err(|e| store_problem(&e))?.ok_or_else(refuse)?.value;
        let pinned = record.pinned.ok_or_else(refuse)?;
        seen = Some(pinned.sniffed.ok_or_else(|| {
            let rule = "was confirmed by an earlier version of hotcell: upload it again";
            Problem::field(Kind::Unprocessable, format!("inputs[{index}].url"), rule)
        })?);
        inputs.push(Input {
            key: record.key,
            name: record.name,
            size: record.size,
            content_type: record.content_type,
            sha256: pinned.sha256,
            etag: pinned.etag,
            sniffed: None,
        });
    }
    let sniffed = seen.ok_or_else(Problem::internal)?;
    Ok((inputs, sniffed))
}

fn answer(status: u16, job: &Job) -> Reply {
    let result = serde_json::json!({ "id": job.id, "state": job.state });
    Reply::new(status, result).at(format!("/v1/transcodes/{}", job.id))
}

/// The job's place in the list, before it has an event: an id without a job is passed over, a job
/// without an id would be lost.
async fn enlist(app: &App, tenant: &TenantId, id: &JobId, is_new: bool) -> Result<(), Problem> {
    let transient = |error: &KvError| matches!(error, KvError::Unread(_) | KvError::Unwritten(_));
    let listed = retry(Policy::REQUEST, transient, || app.listing.add(tenant, id, is_new)).await;
    listed.map_err(|error| store_problem(&error))
}

async fn publish(app: &App, who: &Principal, job: Job) -> Result<Reply, Problem> {
    let out = Outgoing::job(job.clone(), 0);
    let transient = |error: &PublishError| matches!(error, PublishError::Unacknowledged(_));
    match retry(Policy::REQUEST, transient, || app.bus.publish(&out)).await {
        Ok(_) => {
            app.book.accepted(&job.tenant, &job.id);
            info!(tenant = %job.tenant, job = %job.id, "job submitted");
            Ok(answer(202, &job))
        }
        // The id is ours alone: an earlier try, or a request with the same key, stored it.
        Err(PublishError::Conflict) => {
            let stored = read(app, who, &job.id).await?;
            stored.map(|job| answer(200, &job)).ok_or_else(Problem::internal)
        }
        Err(PublishError::Unacknowledged(_)) => {
            warn!(job = %job.id, "the broker did not acknowledge a submission");
            Err(Problem::unavailable(
                "the broker did not acknowledge; repeat with the same Idempotency-Key to be sure",
            ))
        }
        Err(cause @ (PublishError::Seal(_) | PublishError::NotRouted)) => {
            error!(error = %describe(&cause), "a submission cannot be published");
            Err(Problem::internal())
        }
    }
}

/// The job of this tenant with this id, as of its last event.
pub(crate) async fn read(app: &App, who: &Principal, id: &JobId) -> Result<Option<Job>, Problem> {
    Ok(read_at(app, who, id).await?.map(|(job, _)| job))
}

/// The same, with the sequence that its next event must follow.
pub(crate) async fn read_at(
    app: &App,
    who: &Principal,
    id: &JobId,
) -> Result<Option<(Job, u64)>, Problem> {
    match app.bus.job(who.tenant(), id).await {
        Ok(stored) => Ok(stored
            .map(|stored| (stored.seq, stored.message.into_inner()))
            .filter(|(_, job)| job.tenant == *who.tenant() && job.id == *id)
            .map(|(seq, job)| (job, seq))),
        Err(cause @ ReadError::Unanswered(_)) => {
            warn!(error = %describe(&cause), "a job cannot be read");
            Err(Problem::unavailable("the message broker does not answer"))
        }
        Err(cause @ ReadError::NotBelieved(_)) => {
            error!(job = %id, error = %describe(&cause), "a stored job does not verify");
            Err(Problem::internal())
        }
    }
}

/// The answer to an id that is no job of the caller's.
pub(crate) fn none() -> Problem {
    Problem::not_found("there is no job of this id")
}

/// The job that the caller names, if it is the caller's.
pub(crate) async fn found(app: &App, who: &Principal, id: &str) -> Result<Job, Problem> {
    let id: JobId = id.parse().map_err(|_| none())?;
    read(app, who, &id).await?.ok_or_else(none)
}

/// `GET /v1/transcodes/{id}`.
///
/// # Errors
/// 404 for an unknown id and for another tenant's; 503.
pub async fn get(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let job = found(&app, &who, &call.id).await?;
    let destination = destinations::of_job(&app, &job).await?;
    let shown = match &destination {
        None => view::snapshot(&job),
        Some(destination) => view::located(&job, destination),
    };
    Ok(Reply::new(200, shown))
}

/// `GET /v1/transcodes/{id}/audit`.
///
/// # Errors
/// As [`get`].
pub async fn audit(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let job = found(&app, &who, &call.id).await?;
    Ok(Reply::new(200, view::audit(&job)))
}

/// `GET /v1/transcodes/{id}/download?output=NAME`: a fresh URL, dead after 600 s. Without a name the
/// only output is meant.
///
/// # Errors
/// 404 for the job or the output; 409 unless the job is completed, and where its destination was
/// removed; 503.
pub async fn download(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let job = found(&app, &who, &call.id).await?;
    if job.state != EventKind::Completed {
        let detail = format!("the job is {}; there is nothing to download", job.state);
        return Err(Problem::new(Kind::Conflict, detail));
    }
    let output = pick(&job, &call.query)?;
    if job.request.destination.is_some() && destinations::of_job(&app, &job).await?.is_none() {
        let detail = "the job's destination was removed since; its outputs are in the bucket";
        return Err(Problem::new(Kind::Conflict, detail));
    }
    let sign = SignRequest::Read {
        tenant: who.tenant().clone(),
        key: output.key.clone(),
        job: Some(job.id.clone()),
    };
    let signed = app.sign(Subject::sign(SignVerb::Download), &sign).await?;
    Ok(Reply::new(200, serde_json::json!({ "url": signed.url.expose() })))
}

fn pick<'a>(job: &'a Job, query: &str) -> Result<&'a Output, Problem> {
    let mut names = Vec::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name != "output" {
            return Err(Problem::field(Kind::BadRequest, name, "unknown parameter"));
        }
        names.push(value);
    }
    match (names.as_slice(), job.outputs.as_slice()) {
        ([], [only]) => Ok(only),
        ([name], outputs) => outputs
            .iter()
            .find(|output| output.name.as_str() == name)
            .ok_or_else(|| Problem::not_found("the job has no output of this name")),
        _ => Err(Problem::field(Kind::BadRequest, "output", "must be given once: name one output")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::completed;

    #[test]
    fn api_27_the_output_is_named_or_the_only_one() {
        let job = completed();
        let check = |query: &str, expect: Result<&str, u16>| {
            let found = pick(&job, query);
            let found = found.map(|output| output.name.as_str()).map_err(|p| p.status());
            assert_eq!(found, expect, "{query}");
        };
        check("", Ok("out.mp4"));
        check("output=out.mp4", Ok("out.mp4"));
        check("output=other.mp4", Err(404));
        check("output=..%2Fx", Err(404));
        check("output=out.mp4&output=out.mp4", Err(400));
        check("file=out.mp4", Err(400));
        let none = Job { outputs: Vec::new(), ..job.clone() };
        assert_eq!(pick(&none, "").unwrap_err().status(), 400);
    }
}
