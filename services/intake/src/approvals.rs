//! Approvals: a principal asks, other people agree, and exactly what was asked may then be done,
//! once.
//!
//! Promises: nobody approves a request of its own, of a key that it made, or of the key that made
//! its own; nobody speaks twice, under whatever key; one voice against ends it. Refuses: an
//! approval for approving.

use crate::{
    app::{App, Call, store_problem},
    auth::Principal,
    problem::{Kind, Problem},
};
use hotcell_schemas::{
    ApprovalId, Digest, TenantId,
    approval::{ApprovalRecord, Unusable, request_digest},
    identity::Action,
};
use hotcell_stage::{clock, kv::Bucket, kv::Entry, kv::KvError};
use serde_json::{Value, json};

/// Why an action cannot be approved by others.
fn approvable(action: Action) -> bool {
    !matches!(action, Action::ApproveRequest | Action::RequestApproval)
}

fn bucket(app: &App) -> Bucket {
    app.bus.bucket("approvals")
}

fn key(tenant: &TenantId, id: &ApprovalId) -> String {
    format!("{tenant}.{id}")
}

impl Call {
    /// The digest of what is asked, as an approval of it holds it.
    ///
    /// # Errors
    /// 400 for a body that is not JSON.
    pub fn digest(&self, action: Action) -> Result<Digest, Problem> {
        let body = if self.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&self.body)
                .map_err(|_| Problem::field(Kind::BadRequest, "body", "must be JSON"))?
        };
        let path = if self.query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, self.query)
        };
        let request = json!({ "method": self.method.as_str(), "path": path, "body": body });
        Ok(request_digest(action, &request))
    }
}

/// The approval that a request shows, when it permits `action` and the request of this digest.
/// Nothing is used yet.
///
/// # Errors
/// 403 `approval-unusable` or `approval-mismatch`; 503.
pub async fn shown(
    app: &App,
    who: &Principal,
    id: &str,
    action: Action,
    request: &Digest,
) -> Result<Entry<ApprovalRecord>, Problem> {
    shown_for(app, who, id, action, request, "").await
}

/// The same, where it may have been used for `purpose` before.
///
/// # Errors
/// As [`shown`].
pub async fn shown_for(
    app: &App,
    who: &Principal,
    id: &str,
    action: Action,
    request: &Digest,
    purpose: &str,
) -> Result<Entry<ApprovalRecord>, Problem> {
    if !approvable(action) {
        return Err(unusable(Unusable::Action));
    }
    let id: ApprovalId = id.parse().map_err(|_| unusable(Unusable::Missing))?;
    let found = bucket(app).get::<ApprovalRecord>(&key(who.tenant(), &id)).await;
    let entry = found.map_err(|e| store_problem(&e))?;
    let entry = entry.ok_or_else(|| unusable(Unusable::Missing))?;
    let permits =
        entry.value.permits(who.tenant(), who.actor(), action, *request, purpose, clock::now());
    permits.map_err(unusable)?;
    Ok(entry)
}

/// Uses the approval for `purpose`; nobody can use it for anything else from now on.
///
/// # Errors
/// 403 when another request was quicker; 503.
pub async fn take(app: &App, entry: Entry<ApprovalRecord>, purpose: &str) -> Result<(), Problem> {
    if entry.value.used_for.as_deref() == Some(purpose) {
        return Ok(());
    }
    let used = ApprovalRecord { used_for: Some(purpose.to_owned()), ..entry.value };
    match bucket(app).update(&entry.key, &used, entry.revision).await {
        Ok(_) => Ok(()),
        Err(KvError::Conflict) => Err(unusable(Unusable::Used)),
        Err(error) => Err(store_problem(&error)),
    }
}

fn unusable(why: Unusable) -> Problem {
    let kind = match why {
        Unusable::Changed => Kind::ApprovalMismatch,
        Unusable::Missing
        | Unusable::NotYours
        | Unusable::Action
        | Unusable::Waiting
        | Unusable::Rejected
        | Unusable::Expired
        | Unusable::Used => Kind::ApprovalUnusable,
    };
    Problem::field(kind, "Hotcell-Approval", why.to_string())
}
