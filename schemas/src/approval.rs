//! Approvals: one person asks, others agree, and exactly what was asked may then be done.
//!
//! Promises: a request has one digest, whatever order or spacing its fields were sent in; every
//! node comes to the same answer from the record and the job. Refuses: an approval that another
//! asked for, of another request, that is not given, is at its end, or was used for something else.

use crate::{
    ApprovalId, Digest, Job, TenantId, UnixMs,
    destination::DestinationRecord,
    identity::{Action, RoleName},
    job::Actor,
    request::TranscodeRequest,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// What the digest of a request begins with: no other digest of ours can be mistaken for it.
const DOMAIN: &str = "hotcell-approval-v1";

/// Why an approval does not permit something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no record.
    #[error("there is no such approval")]
    Missing,
    /// Another asked for it.
    #[error("the approval was asked for by another principal")]
    NotYours,
    /// It is for another action.
    #[error("the approval is for another action")]
    Action,
    /// Another request was approved.
    #[error("another request was approved: this one was changed")]
    Changed,
    /// The name of its destination may have led elsewhere.
    #[error("the destination was entered after the approval was asked for")]
    Moved,
    /// Voices are missing.
    #[error("the approval is not given yet")]
    Waiting,
    /// An approver said no.
    #[error("the approval was rejected")]
    Rejected,
    /// Whose key agreed has ended since, or who agreed is blocked.
    #[error("a key that agreed was revoked since, or who agreed is blocked: ask anew")]
    Withdrawn,
    /// Too late.
    #[error("the approval has expired")]
    Expired,
    /// It was used.
    #[error("the approval was used")]
    Used,
}

/// How an approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Voices are missing.
    Waiting,
    /// It may be used.
    Given,
    /// An approver said no.
    Rejected,
    /// Its time is over.
    Expired,
    /// It was used.
    Used,
}

/// SHA-256 of a request in its one form: domain, action, and the JSON with sorted keys and without
/// spaces, each closed by a zero byte.
#[must_use]
pub fn request_digest(action: Action, request: &Value) -> Digest {
    let mut text = format!("{DOMAIN}\0{action}\0");
    canonical(request, &mut text);
    text.push('\0');
    Digest::of(text.as_bytes())
}

/// The digest of a job's request: what its submission, its source and its outputs are approved by.
#[must_use]
pub fn job_digest(request: &TranscodeRequest) -> Digest {
    let request = serde_json::to_value(request).expect("requests are strings, numbers and lists");
    request_digest(Action::SubmitTranscode, &request)
}

/// A request as it is digested, and as approvers are shown it.
#[must_use]
pub fn canonical_text(request: &Value) -> String {
    let mut text = String::new();
    canonical(request, &mut text);
    text
}

/// JSON with sorted keys and without spaces. Strings and numbers are written as serde_json does.
fn canonical(value: &Value, into: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            into.push('{');
            for (index, name) in names.into_iter().enumerate() {
                if index > 0 {
                    into.push(',');
                }
                into.push_str(&Value::from(name.as_str()).to_string());
                into.push(':');
                canonical(fields.get(name).unwrap_or(&Value::Null), into);
            }
            into.push('}');
        }
        Value::Array(items) => {
            into.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    into.push(',');
                }
                canonical(item, into);
            }
            into.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            into.push_str(&value.to_string());
        }
    }
}

/// `POST /v1/approvals`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ApprovalRequest {
    /// For what: `SubmitTranscode` covers a job with its source and its outputs.
    pub action: Action,
    /// For a job the body of `POST /v1/transcodes`; for anything else [`CallRequest`].
    pub request: Value,
    /// Voices needed; the installation's own minimum when absent or lower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvers_min: Option<u32>,
    /// Roles of which each must have spoken.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<RoleName>,
    /// Life, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_secs: Option<u64>,
}

/// A request that is to be approved, as it will be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CallRequest {
    /// `POST`, `PUT`, `DELETE`.
    pub method: String,
    /// Its path, with the query string where it has one.
    pub path: String,
    /// Its body; null where it has none.
    #[serde(default)]
    pub body: Value,
}

/// `POST /v1/approvals/{id}/approve` and `/reject`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VoiceRequest {
    /// Why, in one's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What one approver said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voice {
    /// Who.
    pub actor: Actor,
    /// Groups that it spoke for, of those that the approval names.
    pub groups: BTreeSet<String>,
    /// Whether it agreed.
    pub approves: bool,
    /// Why, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: UnixMs,
}

/// An approval; bucket `approvals`, key `<tenant>.<approval id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRecord {
    /// Its id.
    pub id: ApprovalId,
    /// Whose.
    pub tenant: TenantId,
    /// Who asked.
    pub requester: Actor,
    /// Everyone whose voice does not count: the requester, who made the requester's key, and who
    /// has spoken, each with whoever made their keys.
    pub interested: Vec<Actor>,
    /// For what.
    pub action: Action,
    /// SHA-256 of the canonical request: any other request is not approved.
    pub request: Digest,
    /// The request, as approvers are shown it.
    pub shown: String,
    /// Voices needed.
    pub approvers_min: u32,
    /// Groups of which each must have spoken.
    pub groups: BTreeSet<String>,
    /// When it was asked.
    pub created_at: UnixMs,
    /// When it ends.
    pub expires_at: UnixMs,
    /// What was said, oldest first.
    pub voices: Vec<Voice>,
    /// What it was used for: a job's id, or the route. It is used once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_for: Option<String>,
}

impl ApprovalRecord {
    /// How it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: UnixMs) -> Standing {
        if self.used_for.is_some() {
            return Standing::Used;
        }
        if self.voices.iter().any(|voice| !voice.approves) {
            return Standing::Rejected;
        }
        if now >= self.expires_at {
            return Standing::Expired;
        }
        if self.is_given() { Standing::Given } else { Standing::Waiting }
    }

    /// Enough voices, one of each group, and nobody against it.
    fn is_given(&self) -> bool {
        let needed = usize::try_from(self.approvers_min.max(1)).unwrap_or(usize::MAX);
        let spoke = |group: &String| self.voices.iter().any(|voice| voice.groups.contains(group));
        self.voices.len() >= needed
            && self.voices.iter().all(|voice| voice.approves)
            && self.groups.iter().all(spoke)
    }

    /// Whether the destination that the approved request names is the one that it named: a record is
    /// never changed, but another may have taken its place.
    ///
    /// # Errors
    /// [`Unusable::Moved`].
    pub fn covers(&self, destination: Option<&DestinationRecord>) -> Result<(), Unusable> {
        let later = destination.is_some_and(|record| record.created_at > self.created_at);
        if later { Err(Unusable::Moved) } else { Ok(()) }
    }

    /// Whether `actor` of `tenant` may do, at `now`, the request of digest `request` for `purpose`:
    /// a job's id, or the route. Using it again for the same purpose is the same use.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn permits(
        &self,
        tenant: &TenantId,
        actor: &Actor,
        action: Action,
        request: Digest,
        purpose: &str,
        now: UnixMs,
    ) -> Result<(), Unusable> {
        if self.tenant != *tenant {
            return Err(Unusable::Missing);
        }
        if self.requester != *actor {
            return Err(Unusable::NotYours);
        }
        if self.action != action {
            return Err(Unusable::Action);
        }
        if self.request != request {
            return Err(Unusable::Changed);
        }
        match self.standing(now) {
            Standing::Given => Ok(()),
            Standing::Used if self.used_for.as_deref() == Some(purpose) && self.is_given() => {
                if now < self.expires_at { Ok(()) } else { Err(Unusable::Expired) }
            }
            Standing::Used => Err(Unusable::Used),
            Standing::Waiting => Err(Unusable::Waiting),
            Standing::Rejected => Err(Unusable::Rejected),
            Standing::Expired => Err(Unusable::Expired),
        }
    }
}

/// Whether the approval that `job` names permits exactly this job; `Ok(false)` when it names none.
/// For the nodes behind intake: `record` is what bucket `approvals` holds under the job's tenant
/// and the approval's id. The approval must have been good when the job was submitted; the job may
/// run later.
///
/// # Errors
/// [`Unusable`].
pub fn check_job(record: Option<&ApprovalRecord>, job: &Job) -> Result<bool, Unusable> {
    let Some(id) = &job.authority.approval else { return Ok(false) };
    let record = record.filter(|record| record.id == *id).ok_or(Unusable::Missing)?;
    let submitted = job.stamps.first().ok_or(Unusable::Expired)?.at;
    if record.used_for.as_deref() != Some(job.id.as_str()) {
        return Err(if record.used_for.is_some() { Unusable::Used } else { Unusable::Waiting });
    }
    let request = job_digest(&job.request);
    let (action, purpose) = (Action::SubmitTranscode, job.id.as_str());
    record.permits(&job.tenant, &job.actor, action, request, purpose, submitted)?;
    Ok(true)
}
