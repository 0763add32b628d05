//! One entry of the log as a line of exported evidence. Pure.
//!
//! Promises: a line is a function of the leaf, its record and the trust list, so an export can be
//! made again and compared. Refuses: to repeat what a message says that its publisher did not sign,
//! and anything that looks like a URL or a credential, whoever wrote it.

use hotcell_schemas::envelope::Envelope;
use hotcell_schemas::evidence::{EVIDENCE_TEXT_BYTES_MAX, EvidenceKind, EvidenceRow};
use hotcell_schemas::identity::Decided;
use hotcell_schemas::job::Grant;
use hotcell_schemas::records::{AuditAct, AuditRecord};
use hotcell_schemas::{Digest, EventKind, Job, JobId, Trust, UnixMs};

use crate::leaf::Leaf;
use crate::record::Record;
use crate::tree::TreeHash;

/// Decisions of one line: a submission has one for the job and one for each of its inputs.
const DECISIONS_MAX: usize = 4;
/// Policies of one decision that a line names; the record in the log has all.
const POLICIES_MAX: usize = 16;
/// Stands for a text that a line does not repeat.
const WITHHELD: &str = "[withheld]";
/// Ends a text that was cut.
const CUT: &str = " [cut]";
/// Beginnings of what opens something: a URL, an API key, a token, a secret of a webhook.
const SECRETS: [&str; 4] = ["://", "hck_", "eyJ", "whsec_"];

/// A line of a leaf and the record that it commits to; the caller has checked both.
#[must_use]
pub fn row(
    index: u64,
    hash: &TreeHash,
    leaf: &Leaf,
    record: &Record,
    trust: &Trust,
) -> EvidenceRow {
    let mut row = EvidenceRow {
        index,
        leaf: Digest::from_bytes(*hash.as_bytes()),
        seq: leaf.seq,
        at: UnixMs(leaf.ts),
        tenant: leaf.tenant.as_ref().and_then(|tenant| tenant.parse().ok()),
        kind: EvidenceKind::Unbelieved,
        event: text(&leaf.kind),
        by: None,
        actor: None,
        authority: None,
        worker: None,
        decided: Vec::new(),
        job: leaf.job.as_ref().and_then(|job| job.parse().ok()),
        target: None,
        note: None,
    };
    let envelope = Envelope::received(record.subject(), |name| record.header(name), record.body());
    let Ok(envelope) = envelope else { return row };
    if let Ok(job) = envelope.open::<Job>(trust) {
        row.kind = EvidenceKind::Job;
        row.by = Some(job.role());
        of_job(&mut row, job.into_inner());
    } else if let Ok(act) = envelope.open::<AuditRecord>(trust) {
        row.kind = EvidenceKind::Audit;
        row.by = Some(act.role());
        of_act(&mut row, act.into_inner().act);
    }
    row
}

fn of_job(row: &mut EvidenceRow, job: Job) {
    let by = row.by;
    row.event = job.state.as_str().to_owned();
    let mut of_node = job.decisions.into_iter().filter(|decided| Some(decided.node) == by);
    // Each event carries every decision so far; a line shows those that were made for it.
    let new = match job.state {
        EventKind::Submitted => of_node.take(DECISIONS_MAX).collect(),
        EventKind::Validated | EventKind::Rejected | EventKind::Assigned | EventKind::Cancelled => {
            of_node.next_back().into_iter().collect()
        }
        EventKind::AttemptFailed
        | EventKind::Encoded
        | EventKind::Completed
        | EventKind::Failed
        | EventKind::Expired => Vec::new(),
    };
    row.decided = new.into_iter().map(named).collect();
    if job.state == EventKind::Submitted {
        row.authority = Some(job.authority);
    }
    if job.state != EventKind::Cancelled {
        row.actor = Some(job.actor);
    }
    if matches!(job.state, EventKind::Assigned | EventKind::AttemptFailed | EventKind::Encoded) {
        row.worker = job.attempts.into_iter().next_back().map(|attempt| attempt.worker);
    }
    let inputs = job.inputs.iter().map(|input| format!("{} {}", input.name, input.sha256));
    let outputs = job.outputs.iter().map(|output| format!("{} {}", output.name, output.sha256));
    row.target = match job.state {
        EventKind::Submitted | EventKind::Validated => joined(inputs),
        EventKind::Encoded | EventKind::Completed => joined(outputs),
        EventKind::Rejected
        | EventKind::Assigned
        | EventKind::AttemptFailed
        | EventKind::Failed
        | EventKind::Cancelled
        | EventKind::Expired => None,
    };
    row.note = job.failure.map(|failure| failure.code.as_str().to_owned());
}

fn of_act(row: &mut EvidenceRow, act: AuditAct) {
    row.event = name(&act).to_owned();
    match act {
        AuditAct::Granted { to, worker, job, attempt: _, grants } => {
            (row.worker, row.job) = (worker, job);
            row.target = joined(grants.iter().map(granted));
            row.note = Some(format!("to {to}"));
        }
        AuditAct::Refused { by: _, what: _, subject, reason } => {
            (row.target, row.note) = (Some(text(&subject)), Some(text(&reason)));
        }
        AuditAct::Confirmed { actor, name, key_digest, size, sha256 } => {
            row.actor = Some(actor);
            row.target = Some(format!("{name} {sha256}"));
            row.note = Some(format!("{size} bytes at key {key_digest}"));
        }
        AuditAct::EndpointCreated { endpoint, host } => {
            row.target = Some(text(&format!("{endpoint} {host}")));
        }
        AuditAct::EndpointDisabled { endpoint, failures, status, error } => {
            row.target = Some(endpoint.to_string());
            let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
            let note = format!("{failures} failures, the last: {error}, status {status}");
            row.note = Some(text(&note));
        }
        AuditAct::Delivered { delivery, endpoint, job, state, attempts, status } => {
            row.job = Some(job);
            row.target = Some(format!("{endpoint} {delivery}"));
            let status = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
            row.note = Some(format!("{state:?}: attempt {attempts}, status {status}"));
        }
        AuditAct::Admin { action, target } => {
            (row.note, row.target) = (Some(text(&action)), Some(text(&target)));
        }
        AuditAct::Decision { actor, authority, target, decided } => {
            (row.actor, row.authority) = (Some(actor), Some(authority));
            row.job = job_in(&target);
            row.target = Some(text(&target));
            row.decided = vec![named(decided)];
        }
        AuditAct::SteppedUp { actor, authority } => {
            (row.actor, row.authority) = (Some(actor), Some(authority));
        }
        AuditAct::Blocked { actor, block, target } => {
            row.actor = Some(actor);
            (row.target, row.note) = (Some(text(&target)), Some(format!("block {block}")));
        }
        AuditAct::Changed { actor, authority, what, target, decided } => {
            (row.actor, row.authority) = (Some(actor), Some(authority));
            row.job = if what == "job_cancelled" { target.parse().ok() } else { None };
            (row.note, row.target) = (Some(text(&what)), Some(text(&target)));
            row.decided = vec![named(decided)];
        }
        AuditAct::Reaped { keys, why } => {
            row.target = joined(keys.iter().map(ToString::to_string));
            row.note = Some(text(&why));
        }
        AuditAct::Violation { job, attempt: _, worker, call, inputs, profile_digest: _ } => {
            (row.job, row.worker) = (Some(job), Some(worker));
            row.target = joined(inputs.iter().map(ToString::to_string));
            row.note = Some(text(&call));
        }
    }
}

/// The act's name on the wire.
const fn name(act: &AuditAct) -> &'static str {
    match act {
        AuditAct::Granted { .. } => "granted",
        AuditAct::Refused { .. } => "refused",
        AuditAct::Confirmed { .. } => "confirmed",
        AuditAct::EndpointCreated { .. } => "endpoint_created",
        AuditAct::EndpointDisabled { .. } => "endpoint_disabled",
        AuditAct::Delivered { .. } => "delivered",
        AuditAct::Admin { .. } => "admin",
        AuditAct::Decision { .. } => "decision",
        AuditAct::SteppedUp { .. } => "stepped_up",
        AuditAct::Blocked { .. } => "blocked",
        AuditAct::Changed { .. } => "changed",
        AuditAct::Reaped { .. } => "reaped",
        AuditAct::Violation { .. } => "violation",
    }
}

fn granted(grant: &Grant) -> String {
    let at = grant.destination.as_ref().map_or_else(String::new, |name| format!(" at {name}"));
    format!("{} {} {} s{at}", grant.method, grant.key_digest, grant.ttl_secs)
}

/// The job of a decision about a route: records name a route and then an id.
fn job_in(target: &str) -> Option<JobId> {
    let (route, id) = target.rsplit_once(' ')?;
    if !route.contains("/v1/transcodes/{id}") {
        return None;
    }
    id.parse().ok()
}

fn named(decided: Decided) -> Decided {
    let policies = decided.policies.iter().take(POLICIES_MAX);
    Decided { policies: policies.map(|policy| text(policy)).collect(), ..decided }
}

fn joined(parts: impl Iterator<Item = String>) -> Option<String> {
    let all = parts.collect::<Vec<_>>().join(", ");
    (!all.is_empty()).then(|| text(&all))
}

/// A text of bounded length without control characters, or a word that stands for it.
fn text(found: &str) -> String {
    if SECRETS.iter().any(|secret| found.contains(secret)) {
        return WITHHELD.to_owned();
    }
    let clean: String = found.chars().filter(|c| !c.is_control()).collect();
    if clean.len() <= EVIDENCE_TEXT_BYTES_MAX {
        return clean;
    }
    let end = clean.floor_char_boundary(EVIDENCE_TEXT_BYTES_MAX - CUT.len());
    format!("{}{CUT}", clean.get(..end).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn step_19_no_url_and_no_secret_becomes_a_text() {
        let check = |found: &str, expect: &str| assert_eq!(text(found), expect);
        check("GET /v1/transcodes/{id} x", "GET /v1/transcodes/{id} x");
        check("https://store/x?X-Amz-Signature=1", WITHHELD);
        check("key hck_abc_def", WITHHELD);
        check("Bearer eyJhbGciOi", WITHHELD);
        check("a\nb\u{1b}[0m", "ab[0m");
        let long = text(&"é".repeat(EVIDENCE_TEXT_BYTES_MAX));
        assert!(long.len() <= EVIDENCE_TEXT_BYTES_MAX && long.ends_with(CUT));
    }

    #[test]
    fn step_14_a_download_names_its_job() {
        let id = "0193a0f0c0de7000800000000000beef";
        let at = |route: &str| job_in(&format!("{route} {id}")).map(|job| job.to_string());
        assert_eq!(at("GET /v1/transcodes/{id}/download").as_deref(), Some(id));
        assert_eq!(at("DELETE /v1/keys/{id}"), None);
        assert_eq!(job_in("GET /v1/transcodes/{id}"), None);
    }
}
