//! What a tenant sees of a job: JSON, camelCase, RFC 3339 times. Pure.
//!
//! Refuses: object keys, URLs, ETags and ack subjects. Hashes of keys are shown instead. Of outputs
//! at a tenant's own destination it is told where they are, so that it finds them; never with a
//! signature.

use hotcell_schemas::{
    EventKind, Job, UnixMs,
    destination::DestinationRecord,
    identity::Decided,
    job::{Actor, Attempt, Grant, Input, Output, ReportSeal, Stamp},
    report::{CellUse, ProducedFile, Report, Steps},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A job as `GET /v1/transcodes/{id}` shows it. Outputs appear when the hasher agreed to them.
#[must_use]
pub fn snapshot(job: &Job) -> Value {
    let known = if agreed(job) { job.outputs.as_slice() } else { &[] };
    json!({
        "id": job.id,
        "state": job.state,
        "workflow": job.workflow,
        "createdAt": job.stamps.first().map(|stamp| stamp.at.rfc3339()),
        "updatedAt": job.stamps.last().map(|stamp| stamp.at.rfc3339()),
        "timeline": timeline(&job.stamps),
        "attempts": job.attempts.len(),
        "priority": job.request.priority,
        "destination": job.request.destination,
        "presetName": job.request.preset_name,
        "presetVersion": job.request.preset_version,
        "cpuSecs": cpu_secs(job),
        "inputs": job.inputs.iter().map(input).collect::<Vec<_>>(),
        "outputs": known.iter().map(output).collect::<Vec<_>>(),
        "failure": job.failure,
    })
}

/// The same, with where the outputs are that were put at `destination`.
#[must_use]
pub fn located(job: &Job, destination: &DestinationRecord) -> Value {
    let mut view = snapshot(job);
    let shown = view.get_mut("outputs").and_then(Value::as_array_mut);
    for (shown, output) in shown.into_iter().flatten().zip(&job.outputs) {
        if let Some(fields) = shown.as_object_mut() {
            let location = json!(destination.object_location(&output.key));
            fields.insert("location".to_owned(), location);
        }
    }
    view
}

/// What its cells used, in seconds to the hundredth (NEW-14): of the attempts whose reports the
/// snapshot still carries, the last ones.
fn cpu_secs(job: &Job) -> f64 {
    let reports = job.attempts.iter().filter_map(|attempt| attempt.report.as_ref());
    seconds(reports.map(Report::cpu_ms).fold(0, u64::saturating_add))
}

/// Milliseconds as seconds, to the hundredth.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "2^53 hundredths are three million years")]
pub fn seconds(ms: u64) -> f64 {
    (ms / 10) as f64 / 100.0
}

/// The record of a job (BRK-55 to BRK-60, IAM-11): who, when, where, with what command, on which
/// programs, from which bytes to which.
#[must_use]
pub fn audit(job: &Job) -> Value {
    let plan = job.plan.as_ref();
    json!({
        "jobId": job.id,
        "orgId": job.tenant,
        "workflowId": job.workflow,
        "actor": actor(&job.actor),
        "authority": hotcell_schemas::evidence::authority(&job.authority),
        "decisions": job.decisions.iter().map(decided).collect::<Vec<_>>(),
        "state": job.state,
        "submittedAt": job.stamps.first().map(|stamp| stamp.at.rfc3339()),
        "timeline": timeline(&job.stamps),
        "request": job.request,
        "pool": job.pool,
        "command": plan.map(|plan| &plan.argv),
        "filters": plan.map(|plan| &plan.filters),
        "limits": plan.map(|plan| camel(&plan.limits)),
        "inputs": job.inputs.iter().map(audited_input).collect::<Vec<_>>(),
        "attempts": job.attempts.iter().map(|it| attempt(job, it)).collect::<Vec<_>>(),
        "outputs": job.outputs.iter().map(output).collect::<Vec<_>>(),
        "outputsVerified": agreed(job),
        "failure": job.failure,
    })
}

/// Whether the hasher agreed to the outputs.
fn agreed(job: &Job) -> bool {
    matches!(job.state, EventKind::Completed | EventKind::Expired)
}

fn timeline(stamps: &[Stamp]) -> Vec<Value> {
    let one =
        |stamp: &Stamp| json!({ "state": stamp.event, "at": stamp.at.rfc3339(), "atMs": stamp.at });
    stamps.iter().map(one).collect()
}

fn input(input: &Input) -> Value {
    json!({
        "filename": input.name,
        "fileSize": input.size,
        "contentType": input.content_type,
        "sha256": input.sha256,
    })
}

fn audited_input(it: &Input) -> Value {
    json!({
        "filename": it.name,
        "fileSize": it.size,
        "contentType": it.content_type,
        "sha256": it.sha256,
        "keyDigest": it.key.digest(),
        "sniffed": it.sniffed.as_ref().map(camel),
    })
}

fn output(output: &Output) -> Value {
    json!({
        "name": output.name,
        "fileSize": output.size,
        "contentType": output.content_type,
        "sha256": output.sha256,
    })
}

/// One decision.
pub(crate) fn decided(decided: &Decided) -> Value {
    json!({
        "node": decided.node,
        "action": decided.action,
        "outcome": decided.outcome,
        "policies": decided.policies,
        "digest": decided.digest,
        "at": decided.at.rfc3339(),
    })
}

/// Who asked.
pub(crate) fn actor(actor: &Actor) -> Value {
    match actor {
        Actor::ApiKey { id } => json!({ "kind": "apiKey", "id": id }),
        Actor::NatsLogin { user, name } => {
            json!({ "kind": "natsLogin", "user": user, "name": name })
        }
        Actor::User { issuer, subject } => {
            json!({ "kind": "user", "issuer": issuer, "subject": subject })
        }
        Actor::Service { issuer, client } => {
            json!({ "kind": "service", "issuer": issuer, "client": client })
        }
    }
}

fn attempt(job: &Job, attempt: &Attempt) -> Value {
    let plan = job.plan.as_ref();
    json!({
        "number": attempt.number,
        "assignedAt": attempt.assigned_at.rfc3339(),
        "endedAt": attempt.ended_at.map(UnixMs::rfc3339),
        "workerId": attempt.worker,
        "workerKey": attempt.worker_key,
        "pool": attempt.pool,
        "command": plan.map(|plan| &plan.argv),
        "filters": plan.map(|plan| &plan.filters),
        "grants": attempt.grants.iter().map(grant).collect::<Vec<_>>(),
        "report": attempt.report.as_ref().map(report),
        "reportSignature": attempt.seal.as_ref().map(seal),
        "failure": attempt.failure,
    })
}

fn grant(grant: &Grant) -> Value {
    json!({
        "method": grant.method,
        "keyDigest": grant.key_digest,
        "ttlSecs": grant.ttl_secs,
        "destination": grant.destination,
    })
}

fn report(report: &Report) -> Value {
    let provenance = &report.provenance;
    json!({
        "ffmpeg": provenance.ffmpeg,
        "configurationDigest": provenance.configuration_digest,
        "rootDigest": provenance.root_digest,
        "imageDigest": provenance.image_digest,
        "profileDigest": provenance.profile_digest,
        "degraded": provenance.degraded,
        "cell": provenance.cell,
        "steps": steps(&report.steps),
        "probeCell": report.probe.as_ref().map(cell),
        "encodeCell": report.encode.as_ref().map(cell),
        "verifyCell": report.verify.as_ref().map(cell),
        "inputProbe": report.input.as_ref().map(camel),
        "outputProbe": report.output.as_ref().map(camel),
        "files": report.files.iter().map(file).collect::<Vec<_>>(),
        "stderr": report.stderr.as_ref().map(camel),
        "failure": report.failure,
    })
}

fn cell(used: &CellUse) -> Value {
    camel(used)
}

fn file(file: &ProducedFile) -> Value {
    json!({
        "name": file.name,
        "fileSize": file.size,
        "contentType": file.content_type,
        "sha256": file.sha256,
    })
}

/// When each step began, by the worker's clock.
fn steps(steps: &Steps) -> Value {
    json!({
        "fetch": steps.fetch.map(UnixMs::rfc3339),
        "probe": steps.probe.map(UnixMs::rfc3339),
        "encode": steps.encode.map(UnixMs::rfc3339),
        "store": steps.store.map(UnixMs::rfc3339),
        "done": steps.done.map(UnixMs::rfc3339),
    })
}

/// What anyone needs, with the signed body, to check the worker's signature.
fn seal(seal: &ReportSeal) -> Value {
    json!({
        "key": seal.key,
        "msgId": seal.msg_id,
        "timeMs": seal.time,
        "bodyDigest": seal.body_digest,
        "sig": seal.sig,
    })
}

/// A record with its field names in camelCase. Records of the schemas hold no maps, so every key of
/// an object is a field name of ours.
fn camel(value: &impl Serialize) -> Value {
    rename(serde_json::to_value(value).expect("records encode as JSON"))
}

fn rename(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let renamed = fields.into_iter().map(|(name, value)| (to_camel(&name), rename(value)));
            Value::Object(renamed.collect::<Map<_, _>>())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(rename).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

fn to_camel(name: &str) -> String {
    let mut upper = false;
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match (c, upper) {
            ('_', _) => upper = true,
            (c, true) => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            (c, false) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
#[path = "view_tests.rs"]
pub(crate) mod tests;
