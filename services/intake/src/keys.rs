//! API keys: made, listed, rotated, revoked, and given a second factor.
//!
//! Promises: a key's text is shown once and stored nowhere; each change is recorded before it is
//! made; a key's id is in its tenant's list before its record is there, so that no key is ever
//! forgotten; a key of another tenant is not there. Refuses: to give, rotate or strengthen what the
//! caller could not be itself, or from where it could not call; the role `operator` to anyone.

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    gate::{self, Ask},
    heir, json,
    problem::{Kind, Problem},
    token::{WRITES_MAX, guesses_key},
    totp::{self, Guesses},
};
use hotcell_policy::Facts;
use hotcell_schemas::{
    KeyId, TenantId, UnixMs, api_key,
    identity::{Action, RoleName},
    job::Actor,
    network::Network,
    records::{KeyIndex, KeyRecord, TotpRecord},
};
use hotcell_stage::{
    clock,
    kv::{Bucket, Entry, KvError},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeSet, convert::Infallible, sync::Arc};

/// Keys of one tenant at most, with those that ended lately: one list of 33 KiB.
const KEYS_MAX: usize = 1000;

/// Keys in one answer at most: each is one read.
const PAGE_MAX: usize = 100;

/// Keys in one answer where nothing is said.
const PAGE_DEFAULT: usize = 50;

/// How long an ended key stays in the list when there is no room, in milliseconds: 30 days. What was
/// done with it stays in the evidence log.
const ENDED_KEPT_MS: u64 = 30 * 86_400_000;

/// Networks of one key at most: each is tried at each use.
const NETWORKS_MAX: usize = 32;

/// Longest label, in characters.
const LABEL_CHARS_MAX: usize = 100;

/// Shortest and longest life of a key that ends by itself, in seconds: a minute, ten years.
const EXPIRES_SECS: std::ops::RangeInclusive<u64> = 60..=315_360_000;

/// `POST /v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct KeyRequest {
    #[serde(default)]
    label: Option<String>,
    roles: BTreeSet<RoleName>,
    #[serde(default)]
    expires_in_secs: Option<u64>,
    #[serde(default)]
    networks: Vec<Network>,
}

/// What policy is told of a key to be made. A body that is none is the handler's to refuse: who may
/// not make keys learns that first.
///
/// # Errors
/// Never.
pub fn facts(call: &Call) -> Result<Facts, Problem> {
    let roles = json::parse::<KeyRequest>(&call.body).map(|request| request.roles);
    let granted_roles = roles.unwrap_or_default().into_iter().collect();
    Ok(Facts { granted_roles, ..Facts::default() })
}

fn check(request: &KeyRequest, who: &BTreeSet<RoleName>) -> Result<(), Problem> {
    let refuse = |field, rule: String| Err(Problem::field(Kind::Unprocessable, field, rule));
    let bad = |label: &String| {
        label.chars().count() > LABEL_CHARS_MAX || label.chars().any(char::is_control)
    };
    if request.label.as_ref().is_some_and(bad) {
        let rule = format!("must be at most {LABEL_CHARS_MAX} characters, none of control");
        return refuse("label", rule);
    }
    if request.roles.is_empty() {
        return refuse("roles", "must name at least one role".to_owned());
    }
    if let Some(role) = request.roles.iter().find(|role| !may_grant(who, **role)) {
        return refuse("roles", format!("{role} is not yours to give"));
    }
    if request.expires_in_secs.is_some_and(|secs| !EXPIRES_SECS.contains(&secs)) {
        let (least, most) = (EXPIRES_SECS.start(), EXPIRES_SECS.end());
        return refuse("expiresInSecs", format!("must be {least} to {most}"));
    }
    if request.networks.len() > NETWORKS_MAX {
        return refuse("networks", format!("must be at most {NETWORKS_MAX}"));
    }
    Ok(())
}

/// Nobody gives what it is not itself; who administers the tenant gives whatever a tenant can have.
fn may_grant(who: &BTreeSet<RoleName>, role: RoleName) -> bool {
    role != RoleName::Operator && (who.contains(&RoleName::TenantAdmin) || who.contains(&role))
}

/// Whether a key of `networks` would open from where `maker` does not. Its end is no such bound: who
/// rotates keys may end before them.
fn is_wider(maker: &[Network], networks: &[Network]) -> bool {
    let held = |one: &Network| maker.iter().any(|network| network.holds(one));
    !maker.is_empty() && (networks.is_empty() || !networks.iter().all(held))
}

/// [`is_wider`] than the key that calls; other principals have no networks.
async fn is_wider_than_caller(
    app: &App,
    who: &Principal,
    networks: &[Network],
) -> Result<bool, Problem> {
    let Actor::ApiKey { id } = who.actor() else { return Ok(false) };
    let maker = find(app, who.tenant(), id.as_str()).await?;
    Ok(is_wider(&maker.value.networks, networks))
}

/// 403 where the caller could not have made this key: then it cannot take it over, either.
async fn outranked(app: &App, who: &Principal, record: &KeyRecord) -> Result<(), Problem> {
    let refuse = |detail| Err(Problem::new(Kind::Forbidden, detail));
    if !record.roles.iter().all(|role| may_grant(&who.authority().roles, *role)) {
        return refuse("the key has roles that are not yours to give");
    }
    if is_wider_than_caller(app, who, &record.networks).await? {
        return refuse("the key opens from where yours does not");
    }
    Ok(())
}

/// `hck_<id>_<secret>`, and the record of it.
fn made(tenant: &TenantId, now: UnixMs) -> (String, KeyRecord) {
    let id = KeyId::new(now.0, clock::random());
    let Ok(text) = api_key::text(&id, || Ok::<_, Infallible>(clock::random()));
    let record = KeyRecord::new(id, tenant.clone(), &text, now);
    (text, record)
}

pub(crate) fn bucket(app: &App) -> Bucket {
    app.bus.bucket("keys")
}

fn index_key(tenant: &TenantId) -> String {
    format!("index.{tenant}")
}

/// The key `id` of `tenant`.
///
/// # Errors
/// 404, also for one of another tenant; 503.
pub(crate) async fn find(
    app: &App,
    tenant: &TenantId,
    id: &str,
) -> Result<Entry<KeyRecord>, Problem> {
    let gone = || Problem::not_found("there is no such key");
    let id: KeyId = id.parse().map_err(|_| gone())?;
    let found = bucket(app).get::<KeyRecord>(id.as_str()).await;
    let found = found.map_err(|error| store_problem(&error))?;
    found.filter(|entry| entry.value.tenant == *tenant).ok_or_else(gone)
}

fn state(record: &KeyRecord, now: UnixMs) -> &'static str {
    if record.revoked_at.is_some() {
        "revoked"
    } else if record.expires_at.is_some_and(|end| end <= now) {
        "expired"
    } else {
        "active"
    }
}

/// A key as its tenant sees it: nothing of its secret, and nothing of its second factor's.
fn view(record: &KeyRecord, now: UnixMs) -> Value {
    let totp = match &record.totp {
        None => "none",
        Some(totp) if totp.confirmed => "confirmed",
        Some(_) => "pending",
    };
    json!({
        "id": record.id,
        "state": state(record, now),
        "label": record.label,
        "roles": record.roles,
        "networks": record.networks,
        "createdAt": record.created_at.rfc3339(),
        "createdBy": record.created_by.as_ref().map(crate::view::actor),
        "expiresAt": record.expires_at.map(UnixMs::rfc3339),
        "revokedAt": record.revoked_at.map(UnixMs::rfc3339),
        "rotatedFrom": record.rotated_from,
        "totp": totp,
    })
}

/// The answer that shows a key this once.
fn shown(record: &KeyRecord, text: &str, now: UnixMs) -> Value {
    let mut view = view(record, now);
    if let Some(members) = view.as_object_mut() {
        members.insert("key".to_owned(), json!(text));
    }
    view
}

/// `POST /v1/keys`. Repeating it makes another key.
///
/// # Errors
/// 400 and 422 naming the field; 409 when the caller's own key was rotated too often; 503.
pub async fn create(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let request: KeyRequest = json::parse(&call.body)?;
    check(&request, &who.authority().roles)?;
    let now = clock::now();
    let (text, record) = made(who.tenant(), now);
    let ends = |secs: u64| now.plus_ms(secs.saturating_mul(1000));
    if is_wider_than_caller(&app, &who, &request.networks).await? {
        let rule = "must lie within the networks of the key that makes this one";
        return Err(Problem::field(Kind::Unprocessable, "networks", rule));
    }
    let record = KeyRecord {
        roles: request.roles,
        expires_at: request.expires_in_secs.map(ends),
        networks: request.networks,
        label: request.label,
        created_by: Some(who.actor().clone()),
        ..record
    };
    heir::can_be_followed(&app, &record).await?;
    gate::change(&app, &who, &call, "key_created", record.id.as_str()).await?;
    store(&app, &record).await?;
    let location = format!("/v1/keys/{}", record.id);
    Ok(Reply::new(201, shown(&record, &text, now)).at(location))
}

/// Writes a new key: first into its tenant's list, then its own record.
async fn store(app: &App, record: &KeyRecord) -> Result<(), Problem> {
    let key = index_key(&record.tenant);
    let mut listed = false;
    for _ in 0..WRITES_MAX {
        let (entry, revision) = look(app, &key).await?;
        let mut index = entry.map(|entry| entry.value).unwrap_or_default();
        if index.ids.len() >= KEYS_MAX {
            make_room(app, &mut index).await?;
        }
        index.ids.insert(record.id.clone());
        match bucket(app).update(&key, &index, revision).await {
            Ok(_) => {
                listed = true;
                break;
            }
            Err(KvError::Conflict) => {}
            Err(error) => return Err(store_problem(&error)),
        }
    }
    if !listed {
        return Err(store_problem(&KvError::Conflict));
    }
    let created = bucket(app).create(record.id.as_str(), record).await;
    created.map(|_| ()).map_err(|error| store_problem(&error))
}

async fn look(app: &App, key: &str) -> Result<(Option<Entry<KeyIndex>>, u64), Problem> {
    bucket(app).look::<KeyIndex>(key).await.map_err(|error| store_problem(&error))
}

/// Takes out of the list what ended long ago, and what was never given. A record stays where it is:
/// it opens nothing.
async fn make_room(app: &App, index: &mut KeyIndex) -> Result<(), Problem> {
    let now = clock::now();
    let mut kept = BTreeSet::new();
    for id in &index.ids {
        let found = bucket(app).get::<KeyRecord>(id.as_str()).await;
        let found = found.map_err(|error| store_problem(&error))?;
        let Some(record) = found.map(|entry| entry.value) else { continue };
        let ended = [record.revoked_at, record.expires_at].into_iter().flatten().min();
        let long_ago = |end: UnixMs| end.0.saturating_add(ENDED_KEPT_MS) < now.0;
        if !ended.is_some_and(long_ago) {
            kept.insert(id.clone());
        }
    }
    if kept.len() >= KEYS_MAX {
        let detail = format!(
            "a tenant has at most {KEYS_MAX} keys, those that ended within 30 days included"
        );
        return Err(Problem::new(Kind::Unprocessable, detail));
    }
    index.ids = kept;
    Ok(())
}

/// `GET /v1/keys?limit=50&after=<id>`: in order of their making. `next` is the `after` of the next
/// page.
///
/// # Errors
/// 400 for another query; 503.
pub async fn list(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let (limit, after) = page_of(&call.query)?;
    let (entry, _) = look(&app, &index_key(who.tenant())).await?;
    let ids = entry.map(|entry| entry.value.ids).unwrap_or_default();
    let mut rest = ids.into_iter().filter(|id| after.as_ref().is_none_or(|after| id > after));
    let page: Vec<KeyId> = rest.by_ref().take(limit).collect();
    let next = rest.next().and_then(|_| page.last().cloned());
    let (now, mut keys) = (clock::now(), Vec::with_capacity(page.len()));
    for id in &page {
        let found = bucket(&app).get::<KeyRecord>(id.as_str()).await;
        let found = found.map_err(|error| store_problem(&error))?;
        keys.extend(found.map(|entry| view(&entry.value, now)));
    }
    Ok(Reply::new(200, json!({ "keys": keys, "next": next })))
}

fn page_of(query: &str) -> Result<(usize, Option<KeyId>), Problem> {
    let (mut limit, mut after) = (None, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let bad = |rule: String| Problem::field(Kind::BadRequest, name.to_string(), rule);
        let again = match name.as_ref() {
            "limit" => {
                let good = value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
                let good = good.ok_or_else(|| bad(format!("must be 1 to {PAGE_MAX}")))?;
                limit.replace(good).is_some()
            }
            "after" => {
                let id = value.parse().map_err(|_| bad("must be the id of a key".to_owned()))?;
                after.replace(id).is_some()
            }
            _ => return Err(bad("is not a parameter of this list".to_owned())),
        };
        if again {
            return Err(bad("must be given once".to_owned()));
        }
    }
    Ok((limit.unwrap_or(PAGE_DEFAULT), after))
}

/// `GET /v1/keys/{id}`.
///
/// # Errors
/// 404, 503.
pub async fn get(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let entry = find(&app, who.tenant(), &call.id).await?;
    Ok(Reply::new(200, view(&entry.value, clock::now())))
}

/// `POST /v1/keys/{id}/rotate`: a new key of the same rights, and the end of the old one. The new one
/// is written first: between the two writes both open, after the answer only the new one does. Two
/// at once, or a repeat after a crash, leave at worst a key whose text nobody was told; it is in the
/// list, and `rotatedFrom` names the same key.
///
/// # Errors
/// 403, 404; 409 when the key has ended, or was rotated too often; 503.
pub async fn rotate(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let old = find(&app, who.tenant(), &call.id).await?;
    outranked(&app, &who, &old.value).await?;
    let now = clock::now();
    if state(&old.value, now) != "active" {
        return Err(Problem::new(Kind::Conflict, "the key has ended; make a new one"));
    }
    let (text, record) = made(who.tenant(), now);
    let life = |end: UnixMs| end.0.saturating_sub(old.value.created_at.0);
    let record = KeyRecord {
        roles: old.value.roles.clone(),
        expires_at: old.value.expires_at.map(|end| now.plus_ms(life(end))),
        networks: old.value.networks.clone(),
        label: old.value.label.clone(),
        created_by: Some(who.actor().clone()),
        rotated_from: Some(old.value.id.clone()),
        totp: moved(&app, &old.value, &record.id)?,
        ..record
    };
    heir::can_be_followed(&app, &record).await?;
    // Whoever rotates gets the text of a key, so policy is told its roles, as of one to be made.
    let granted_roles = record.roles.iter().copied().collect();
    let approved = who.authority().approval.is_some();
    let facts = Facts { granted_roles, approved, ..Facts::default() };
    let target = format!("{} to {}", old.value.id, record.id);
    let ask = Ask { action: Action::ManageKeys, target: &target, facts: &facts };
    let decided = gate::pass(&app, &who, &ask).await?;
    let call = Call { decided: Some(decided), ..call };
    gate::change(&app, &who, &call, "key_rotated", &target).await?;
    store(&app, &record).await?;
    if !end(&app, old, now).await? {
        // Another one rotated or revoked it in the meantime: that one counts.
        let new = find(&app, who.tenant(), record.id.as_str()).await?;
        end(&app, new, now).await?;
        return Err(Problem::new(Kind::Conflict, "the key has ended; make a new one"));
    }
    Ok(Reply::new(201, shown(&record, &text, now)).at(format!("/v1/keys/{}", record.id)))
}

/// The second factor of `old`, sealed for the key `id`. Codes that were used stay used.
fn moved(app: &App, old: &KeyRecord, id: &KeyId) -> Result<Option<TotpRecord>, Problem> {
    let (Some(totp), Some(vault)) = (&old.totp, &app.vault) else { return Ok(None) };
    let secret = vault.open(&totp.sealed, &totp::owner(&old.tenant, &old.id)).map_err(|error| {
        tracing::error!(%error, key = %old.id, "a second factor is unusable");
        Problem::internal()
    })?;
    let sealed = vault.seal(&secret, &totp::owner(&old.tenant, id), clock::random());
    Ok(Some(TotpRecord { sealed, ..totp.clone() }))
}

/// Revokes a key; `false` when it was revoked already. Its record may change at the same moment: a
/// code is used.
async fn end(app: &App, found: Entry<KeyRecord>, now: UnixMs) -> Result<bool, Problem> {
    let mut found = found;
    for _ in 0..WRITES_MAX {
        if found.value.revoked_at.is_some() {
            return Ok(false);
        }
        let revoked = KeyRecord { revoked_at: Some(now), ..found.value.clone() };
        let written = bucket(app).update(&found.key, &revoked, found.revision).await;
        match written {
            Ok(_) => {
                app.auth.forget(&revoked.id);
                return Ok(true);
            }
            Err(KvError::Conflict) => {}
            Err(error) => return Err(store_problem(&error)),
        }
        found = find(app, &revoked.tenant, revoked.id.as_str()).await?;
    }
    Err(store_problem(&KvError::Conflict))
}

/// `DELETE /v1/keys/{id}`: the end of a key, and of its tokens. Repeating it changes nothing.
///
/// # Errors
/// 404, 503.
pub async fn revoke(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let entry = find(&app, who.tenant(), &call.id).await?;
    if entry.value.revoked_at.is_none() {
        gate::change(&app, &who, &call, "key_revoked", entry.value.id.as_str()).await?;
        end(&app, entry, clock::now()).await?;
    }
    let entry = find(&app, who.tenant(), &call.id).await?;
    Ok(Reply::new(200, view(&entry.value, clock::now())))
}

/// `POST /v1/keys/{id}/totp`: a new second factor for a key, in the place of any before it. It counts
/// once its first code was shown with that very key, by `POST /v1/token`. For keys of people: a
/// program that keeps both has one factor, and asks for approvals instead.
///
/// # Errors
/// 403, 404; 409 when the key has ended; 422 without `totp_key_file`; 503.
pub async fn enroll(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let entry = find(&app, who.tenant(), &call.id).await?;
    outranked(&app, &who, &entry.value).await?;
    if state(&entry.value, clock::now()) != "active" {
        return Err(Problem::new(Kind::Conflict, "the key has ended; make a new one"));
    }
    let Some(vault) = &app.vault else {
        let detail = "this installation has no local second factor: totp_key_file is not set";
        return Err(Problem::new(Kind::Unprocessable, detail));
    };
    let secret = clock::random::<{ totp::SECRET_BYTES }>();
    let mut record = entry.value;
    let of = (&record.tenant, &record.id);
    let now = (clock::now(), false);
    record.totp = Some(totp::enrolled(vault, &secret, of, clock::random(), now));
    gate::change(&app, &who, &call, "key_second_factor", record.id.as_str()).await?;
    let written = bucket(&app).update(record.id.as_str(), &record, entry.revision).await;
    written.map_err(|error| store_problem(&error))?;
    app.auth.forget(&record.id);
    reopen(&app, &record.id).await?;
    let uri = totp::uri(&secret, &record.tenant, &record.id);
    Ok(Reply::new(201, json!({ "secret": totp::base32(&secret), "uri": uri })))
}

/// Wrong codes for another secret say nothing of this one.
async fn reopen(app: &App, id: &KeyId) -> Result<(), Problem> {
    let key = guesses_key(id);
    let found = bucket(app).look::<Guesses>(&key).await;
    let (entry, revision) = found.map_err(|error| store_problem(&error))?;
    if entry.is_none() {
        return Ok(());
    }
    let written = bucket(app).update(&key, &Guesses::default(), revision).await;
    written.map(|_| ()).map_err(|error| store_problem(&error))
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
