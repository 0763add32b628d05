//! Approvals: a principal asks, other people agree, and exactly what was asked may then be done,
//! once.
//!
//! Promises: nobody approves a request of its own, of a key that it made, or of the key that made
//! its own; nobody speaks twice, under whatever key; one voice against ends it; each voice is
//! recorded before it counts. Refuses: an approval for approving.
//! Asking twice makes two approvals; a voice that was counted is refused the second time.

mod list;

pub use list::list;

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    blocks, destinations,
    ext_authz::is_plain,
    gate, json, presets,
    problem::{Kind, Problem},
    routes::{ROUTES, Route},
    token::WRITES_MAX,
    view,
};
use hotcell_policy::Lineage;
use hotcell_schemas::{
    ApprovalId, Digest, TenantId, UnixMs,
    approval::{
        ApprovalRecord, ApprovalRequest, CallRequest, Standing, Unusable, Voice, VoiceRequest,
        canonical_text, job_digest, request_digest,
    },
    identity::Action,
    job::Actor,
    limits::APPROVERS_MAX,
    records::KeyRecord,
    request::TranscodeRequest,
};
use hotcell_stage::{clock, kv::Bucket, kv::Entry, kv::KvError};
use hotcell_validator::check_request;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use tracing::debug;

/// Life of an approval whose requester names none, in seconds: a working hour.
const EXPIRES_SECS: u64 = 3600;

/// Longest reason of a voice, in characters.
const REASON_CHARS_MAX: usize = 500;

/// Approvals in one list, and so of one tenant that are open at once.
const LIST_MAX: usize = 100;

/// The same of one principal and of the keys that it made: whoever asks without end leaves room.
const REQUESTER_MAX: usize = 50;

/// Who asks for one more may ask again after so long, in seconds: people look at those before.
const RETRY_AFTER_SECS: &str = "60";

/// The last approvals that were asked for, every open one among them, the oldest first; key
/// `<tenant>.index`. A list reads what it shows, however many there were.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lately {
    ids: Vec<ApprovalId>,
}

/// Whether others can approve an action. A job is approved as a whole, by its submission.
fn approvable(action: Action) -> bool {
    !matches!(
        action,
        Action::ApproveRequest
            | Action::RequestApproval
            | Action::ReadSource
            | Action::PublishOutput
    )
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
        let gap = if self.query.is_empty() { "" } else { "?" };
        let request = CallRequest {
            method: self.method.to_string(),
            path: format!("{}{gap}{}", self.path, self.query),
            body,
        };
        Ok(call_digest(action, &request).1)
    }
}

fn call_digest(action: Action, request: &CallRequest) -> (Value, Digest) {
    let value = json!({ "method": request.method, "path": request.path, "body": request.body });
    let digest = request_digest(action, &value);
    (value, digest)
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
    standing_voices(app, &entry.value).await?;
    Ok(entry)
}

/// Whether every key that agreed is still one, and nobody who agreed is blocked: what a thief agreed
/// to ends with the key.
async fn standing_voices(app: &App, record: &ApprovalRecord) -> Result<(), Problem> {
    let keys = app.bus.bucket("keys");
    for voice in &record.voices {
        let standing = blocks::standing_of(app, &record.tenant, &voice.actor).await;
        if !matches!(standing.map_err(|e| store_problem(&e))?, blocks::Standing::Open) {
            return Err(unusable(Unusable::Withdrawn));
        }
        let Actor::ApiKey { id } = &voice.actor else { continue };
        let found = keys.get::<KeyRecord>(id.as_str()).await.map_err(|e| store_problem(&e))?;
        if found.is_none_or(|entry| entry.value.revoked_at.is_some()) {
            return Err(unusable(Unusable::Withdrawn));
        }
    }
    Ok(())
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

pub(crate) fn unusable(why: Unusable) -> Problem {
    let kind = match why {
        Unusable::Changed | Unusable::Moved => Kind::ApprovalMismatch,
        Unusable::Missing
        | Unusable::NotYours
        | Unusable::Action
        | Unusable::Waiting
        | Unusable::Rejected
        | Unusable::Withdrawn
        | Unusable::Expired
        | Unusable::Used => Kind::ApprovalUnusable,
    };
    Problem::field(kind, "Hotcell-Approval", why.to_string())
}

/// A principal with everyone who made its key, and whose key that one was before.
async fn lineage(app: &App, actor: &Actor) -> Result<Vec<Actor>, Problem> {
    let found = hotcell_policy::lineage(actor, &app.bus.bucket("keys")).await;
    match found.map_err(|e| store_problem(&e))? {
        Lineage::All(all) => Ok(all),
        Lineage::TooLong => {
            let detail = "the makers of this key cannot be followed that far";
            Err(Problem::new(Kind::SelfApproval, detail))
        }
    }
}

fn lately_key(tenant: &TenantId) -> String {
    format!("{tenant}.index")
}

/// Puts an approval into its tenant's list, before there is one: what the list names in vain is
/// passed over.
async fn enlist(app: &App, record: &ApprovalRecord) -> Result<(), Problem> {
    let (tenant, id) = (&record.tenant, &record.id);
    let key = lately_key(tenant);
    for _ in 0..WRITES_MAX {
        let found = bucket(app).look::<Lately>(&key).await;
        let (entry, revision) = found.map_err(|e| store_problem(&e))?;
        let mut lately = entry.map(|entry| entry.value).unwrap_or_default();
        let gone = if lately.ids.len() < REQUESTER_MAX {
            None
        } else {
            give_place(app, record, &mut lately).await?
        };
        lately.ids.push(id.clone());
        match bucket(app).update(&key, &lately, revision).await {
            Ok(_) => {
                forget(app, gone).await;
                return Ok(());
            }
            Err(KvError::Conflict) => {}
            Err(error) => return Err(store_problem(&error)),
        }
    }
    Err(store_problem(&KvError::Conflict))
}

/// Where the list is full, takes the oldest approval that has ended out of it, and returns its record,
/// if there is one.
///
/// # Errors
/// 429 where each of them waits or may be used, and where the requester has its part of them: who
/// asks without end hides nobody's request, and stops nobody else's.
async fn give_place(
    app: &App,
    new: &ApprovalRecord,
    lately: &mut Lately,
) -> Result<Option<Entry<ApprovalRecord>>, Problem> {
    let (now, mut ended, mut own) = (clock::now(), None, 0);
    for (index, id) in lately.ids.iter().enumerate() {
        let found = bucket(app).get::<ApprovalRecord>(&key(&new.tenant, id)).await;
        let found = found.map_err(|e| store_problem(&e))?;
        let open = |entry: &&Entry<ApprovalRecord>| {
            matches!(entry.value.standing(now), Standing::Waiting | Standing::Given)
        };
        match found.as_ref().filter(open) {
            Some(entry) => own += usize::from(list::is_asked_by(&entry.value, &new.requester)),
            None if ended.is_none() => ended = Some((index, found)),
            None => {}
        }
    }
    if own >= REQUESTER_MAX {
        let detail = format!("{REQUESTER_MAX} approvals of yours are open: use them");
        return Err(too_many(detail, REQUESTER_MAX, own));
    }
    if lately.ids.len() < LIST_MAX {
        return Ok(None);
    }
    let Some((index, found)) = ended else {
        let detail = format!("{LIST_MAX} approvals of the tenant are open: use or reject some");
        return Err(too_many(detail, LIST_MAX, lately.ids.len()));
    };
    lately.ids.remove(index);
    Ok(found)
}

fn too_many(detail: String, limit: usize, used: usize) -> Problem {
    Problem::new(Kind::QuotaExceeded, detail)
        .with("quota", "open-approvals")
        .with("limit", limit)
        .with("used", used)
        .with("violated-policies", json!(["open-approvals"]))
        .header("retry-after", RETRY_AFTER_SECS)
}

/// Removes what ended unused and is in no list any more; what was used is looked at again by the
/// nodes behind. What is not removed ends with the bucket's age.
async fn forget(app: &App, gone: Option<Entry<ApprovalRecord>>) {
    let Some(entry) = gone.filter(|entry| entry.value.used_for.is_none()) else { return };
    if let Err(error) = bucket(app).remove(&entry.key, entry.revision).await {
        debug!(%error, "an approval that ended is not removed");
    }
}

/// The one form of a request, and its digest.
async fn canonical(
    app: &App,
    who: &Principal,
    asked: &ApprovalRequest,
) -> Result<(Value, Digest), Problem> {
    let refuse = |field: &str, rule: &str| Problem::field(Kind::Unprocessable, field, rule);
    if !approvable(asked.action) {
        let rule = "cannot be approved; a job is approved as a whole, as SubmitTranscode";
        return Err(refuse("action", rule));
    }
    let body = asked.request.to_string();
    let within = |problem: Problem| match problem.errors().first() {
        Some(fault) => refuse(&format!("request.{}", fault.field), &fault.rule),
        None => problem,
    };
    if asked.action == Action::SubmitTranscode {
        let request: TranscodeRequest = json::parse(body.as_bytes()).map_err(within)?;
        let request = presets::expand(app, who, request).await.map_err(within)?;
        check_request(&request)
            .map_err(|error| refuse(&format!("request.{}", error.field), &error.rule))?;
        // What leads nowhere now is not what it will lead to: see `ApprovalRecord::covers`.
        let named = request.destination.as_ref();
        destinations::find(app, who, "request.destination", named).await?;
        let value = serde_json::to_value(&request).map_err(|_| Problem::internal())?;
        return Ok((value, job_digest(&request)));
    }
    let request: CallRequest = json::parse(body.as_bytes()).map_err(within)?;
    let path = request.path.split('?').next().unwrap_or_default();
    // What approvers are shown must be what is sent, and what was meant.
    let visible = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !is_plain(path) || !request.path.bytes().all(visible) {
        let rule = "must be a path as it is sent, of visible ASCII, without %, //, ;, \\ or dots";
        return Err(refuse("request.path", rule));
    }
    let is = |route: &&Route| {
        route.action == Some(asked.action)
            && route.method.as_str() == request.method
            && route.fits(path)
    };
    if !ROUTES.iter().any(|route| is(&route)) {
        return Err(refuse("request", "no route of this method and path asks for this action"));
    }
    Ok(call_digest(asked.action, &request))
}

/// `POST /v1/approvals`.
///
/// # Errors
/// 400 and 422 naming the field; 429 when as many are open as may be; 503.
pub async fn create(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let asked: ApprovalRequest = json::parse(&call.body)?;
    let (value, digest) = canonical(&app, &who, &asked).await?;
    let rules = &app.config.approvals;
    let most = rules.expires_secs_max;
    let life = asked.expires_in_secs.unwrap_or(EXPIRES_SECS.min(most));
    if life == 0 || life > most {
        let rule = format!("must be 1 to {most}");
        return Err(Problem::field(Kind::Unprocessable, "expiresInSecs", rule));
    }
    let voices = asked.approvers_min.unwrap_or_default();
    if voices > APPROVERS_MAX {
        let rule = format!("must be at most {APPROVERS_MAX}");
        return Err(Problem::field(Kind::Unprocessable, "approversMin", rule));
    }
    let now = clock::now();
    let record = ApprovalRecord {
        id: ApprovalId::new(now.0, clock::random()),
        tenant: who.tenant().clone(),
        requester: who.actor().clone(),
        interested: lineage(&app, who.actor()).await?,
        action: asked.action,
        request: digest,
        shown: canonical_text(&value),
        approvers_min: voices.max(rules.approvers_min),
        groups: asked.groups.iter().map(ToString::to_string).collect(),
        created_at: now,
        expires_at: now.plus_ms(life.saturating_mul(1000)),
        voices: Vec::new(),
        used_for: None,
    };
    enlist(&app, &record).await?;
    gate::change(&app, &who, &call, "approval_requested", record.id.as_str()).await?;
    let created = bucket(&app).create(&key(&record.tenant, &record.id), &record).await;
    created.map_err(|e| store_problem(&e))?;
    let location = format!("/v1/approvals/{}", record.id);
    Ok(Reply::new(201, show(&record, now)).at(location))
}

/// What people see of an approval.
fn show(record: &ApprovalRecord, now: UnixMs) -> Value {
    let voice = |voice: &Voice| {
        json!({
            "actor": view::actor(&voice.actor),
            "groups": voice.groups,
            "approves": voice.approves,
            "reason": voice.reason,
            "at": voice.at.rfc3339(),
        })
    };
    json!({
        "id": record.id,
        "state": record.standing(now),
        "action": record.action,
        "digest": record.request,
        "request": serde_json::from_str::<Value>(&record.shown).unwrap_or_default(),
        "requester": view::actor(&record.requester),
        "approversMin": record.approvers_min,
        "groups": record.groups,
        "createdAt": record.created_at.rfc3339(),
        "expiresAt": record.expires_at.rfc3339(),
        "voices": record.voices.iter().map(voice).collect::<Vec<_>>(),
        "usedFor": record.used_for,
    })
}

async fn found(app: &App, who: &Principal, id: &str) -> Result<Entry<ApprovalRecord>, Problem> {
    let none = || Problem::not_found("there is no approval of this id");
    let id: ApprovalId = id.parse().map_err(|_| none())?;
    let entry = bucket(app).get::<ApprovalRecord>(&key(who.tenant(), &id)).await;
    let entry = entry.map_err(|e| store_problem(&e))?;
    entry.filter(|entry| entry.value.tenant == *who.tenant()).ok_or_else(none)
}

/// `GET /v1/approvals/{id}`.
///
/// # Errors
/// 404, 503.
pub async fn get(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let entry = found(&app, &who, &call.id).await?;
    let (view, _) = list::carried(show(&entry.value, clock::now()), call.reply_bytes_max);
    Ok(Reply::new(200, view))
}

/// `POST /v1/approvals/{id}/approve`.
///
/// # Errors
/// 403 `self-approval`; 404; 409 when it waits for no voice, or another spoke at the same moment;
/// 503.
pub async fn approve(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    speak(&app, &who, &call, true).await
}

/// `POST /v1/approvals/{id}/reject`.
///
/// # Errors
/// As [`approve`].
pub async fn reject(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    speak(&app, &who, &call, false).await
}

async fn speak(app: &App, who: &Principal, call: &Call, approves: bool) -> Result<Reply, Problem> {
    let request: VoiceRequest =
        if call.body.is_empty() { VoiceRequest::default() } else { json::parse(&call.body)? };
    let long = request.reason.as_ref().is_some_and(|text| text.chars().count() > REASON_CHARS_MAX);
    if long {
        let rule = format!("must be at most {REASON_CHARS_MAX} characters");
        return Err(Problem::field(Kind::Unprocessable, "reason", rule));
    }
    let entry = found(app, who, &call.id).await?;
    let (mut record, now) = (entry.value, clock::now());
    let lineage = lineage(app, who.actor()).await?;
    if lineage.iter().any(|actor| record.interested.contains(actor)) {
        gate::overruled(app, who, call, "four-eyes");
        let detail = "whoever asked, who made its key, and who has spoken cannot speak for this";
        return Err(Problem::new(Kind::SelfApproval, detail));
    }
    let standing = record.standing(now);
    if !matches!(standing, Standing::Waiting | Standing::Given) {
        let state = serde_json::to_value(standing).unwrap_or_default();
        let detail = "the approval waits for no voice";
        return Err(Problem::new(Kind::Conflict, detail).with("state", state));
    }
    let own = |group: &&String| who.authority().roles.iter().any(|role| role.as_str() == **group);
    record.voices.push(Voice {
        actor: who.actor().clone(),
        groups: record.groups.iter().filter(own).cloned().collect(),
        approves,
        reason: request.reason,
        at: now,
    });
    record.interested.extend(lineage);
    let what = if approves { "approval_given" } else { "approval_rejected" };
    gate::change(app, who, call, what, record.id.as_str()).await?;
    let written = bucket(app).update(&entry.key, &record, entry.revision).await;
    written.map_err(|e| store_problem(&e))?;
    Ok(Reply::new(200, show(&record, now)))
}
