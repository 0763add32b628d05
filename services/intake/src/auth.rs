//! Who is asking. Promises: a [`Principal`] comes from an API key that is in the broker's records
//! and not revoked, or from a login that the broker itself states; from nothing else. Keys are
//! compared by SHA-256 in constant time, and kept nowhere.
//!
//! Refuses: a key anywhere but in one `Authorization: Bearer` header; a tenant named by a message.

use crate::{app::Seen, cache::Cache};
use hotcell_schemas::{
    ApprovalId, Digest, KeyId, Subject, TenantId,
    identity::Authority,
    job::Actor,
    records::{KeyRecord, TenantRecord},
};
use hotcell_stage::{Bus, Incoming, kv::Bucket, kv::KvError};
use http::{HeaderMap, header::AUTHORIZATION};
use std::{hint::black_box, time::Instant};

/// Longest key, in bytes: prefix, id and up to 128 characters of secret.
const KEY_BYTES_MAX: usize = 192;

/// Shortest secret, in characters: 22 of base64url hold 128 bits.
const SECRET_CHARS_MIN: usize = 22;

/// Longest part of a login's name that records keep, in characters.
const LOGIN_NAME_CHARS_MAX: usize = 64;

/// What a login's tag begins with that gives it a role.
const ROLE_TAG: &str = "role:";

/// What every key begins with.
const PREFIX: &str = "hck_";

/// An identity that was checked. Only this module makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    tenant: TenantId,
    actor: Actor,
    authority: Authority,
    steps_up: bool,
}

impl Principal {
    /// Whose resources it may touch.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Who it is, for the records.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// How strongly that was shown, and for what it is entitled.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Whether it has a second factor that it could show: a challenge makes sense.
    #[must_use]
    pub fn can_step_up(&self) -> bool {
        self.steps_up
    }

    /// The same, with the approval that its request shows.
    #[must_use]
    pub fn with_approval(mut self, approval: Option<ApprovalId>) -> Self {
        self.authority.approval = approval;
        self
    }
}

/// Why a credential is not believed. Constant texts, for the audit log; the caller learns less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No credential at all.
    #[error("no Authorization header")]
    Missing,
    /// A credential in the URL, where logs and histories keep it.
    #[error("a credential in the query string")]
    InQuery,
    /// Two headers: someone in between and we could pick different ones.
    #[error("more than one Authorization header")]
    Several,
    /// Not `Bearer`.
    #[error("an authorization scheme other than Bearer")]
    Scheme,
    /// Not the form of a key.
    #[error("a malformed API key")]
    Malformed,
    /// No such key.
    #[error("an unknown API key")]
    Unknown,
    /// The id exists, the secret is another.
    #[error("an API key with a wrong secret")]
    WrongSecret,
    /// Revoked.
    #[error("a revoked API key")]
    Revoked,
    /// The tenant is gone.
    #[error("a credential of a tenant that is not there")]
    NoTenant,
    /// The broker does not say who is behind a request, or says another account.
    #[error("a login that the broker does not state")]
    NoLogin,
}

/// Why there is no principal.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The credential is not believed.
    #[error("the credential is not believed")]
    Denied(#[source] Denied),
    /// The records cannot be read now.
    #[error("the records of identities cannot be read")]
    Records(#[source] KvError),
}

/// A well-formed key: its id, and the SHA-256 of all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    id: KeyId,
    sha256: Digest,
}

/// The credential of a request, from its headers and its query string.
///
/// # Errors
/// [`Denied`]: the query string holds one; there is not exactly one header; it is no `Bearer` key.
pub fn credential(headers: &HeaderMap, query: Option<&str>) -> Result<Credential, Denied> {
    if query.is_some_and(holds_credential) {
        return Err(Denied::InQuery);
    }
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Denied::Missing)?;
    if values.next().is_some() {
        return Err(Denied::Several);
    }
    let text = value.to_str().map_err(|_| Denied::Malformed)?;
    let (scheme, key) = text.split_once(' ').unwrap_or((text, ""));
    // The scheme's case does not matter (RFC 9110 §11.1).
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::Scheme);
    }
    parse_key(key).ok_or(Denied::Malformed)
}

fn parse_key(key: &str) -> Option<Credential> {
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    let (id, secret) = key.strip_prefix(PREFIX)?.split_once('_')?;
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if secret.len() < SECRET_CHARS_MIN || !secret.bytes().all(safe) {
        return None;
    }
    Some(Credential { id: id.parse().ok()?, sha256: Digest::of(key.as_bytes()) })
}

fn holds_credential(query: &str) -> bool {
    url::form_urlencoded::parse(query.as_bytes()).any(|(name, value)| {
        let name = name.to_ascii_lowercase();
        matches!(name.as_str(), "api_key" | "apikey" | "access_token" | "authorization")
            || name.starts_with(PREFIX)
            || value.trim_start().to_ascii_lowercase().starts_with(PREFIX)
    })
}

/// Compares without telling by its time where two digests differ.
fn same(a: &Digest, b: &Digest) -> bool {
    let pairs = a.as_bytes().iter().zip(b.as_bytes());
    black_box(pairs.fold(0_u8, |differs, (a, b)| differs | (a ^ b))) == 0
}

fn judge(credential: &Credential, record: &KeyRecord) -> Result<Principal, Denied> {
    if !same(&credential.sha256, &record.sha256) || credential.id != record.id {
        return Err(Denied::WrongSecret);
    }
    if record.revoked_at.is_some() {
        return Err(Denied::Revoked);
    }
    let actor = Actor::ApiKey { id: record.id.clone() };
    let authority = Authority { roles: record.roles.clone(), ..Authority::default() };
    let steps_up = record.totp.as_ref().is_some_and(|totp| totp.confirmed);
    Ok(Principal { tenant: record.tenant.clone(), actor, authority, steps_up })
}

/// The records of identities, with what was read within the last second.
#[derive(Debug)]
pub struct Auth {
    keys: Bucket,
    tenants: Bucket,
    principals: Cache<Digest, Principal>,
    records: Cache<TenantId, TenantRecord>,
    accounts: Cache<String, TenantId>,
}

impl Auth {
    /// Reads through `bus`.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self {
            keys: bus.bucket("keys"),
            tenants: bus.bucket("tenants"),
            principals: Cache::default(),
            records: Cache::default(),
            accounts: Cache::default(),
        }
    }

    /// The principal of a request over HTTP.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn request(&self, seen: &Seen<'_>) -> Result<Principal, AuthError> {
        let credential = credential(seen.headers, seen.uri.query()).map_err(AuthError::Denied)?;
        let mut who = self.key(&credential).await?;
        who.authority.network = seen.network;
        Ok(who)
    }

    /// The principal of an API key. Only good answers are cached.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn key(&self, credential: &Credential) -> Result<Principal, AuthError> {
        let now = Instant::now();
        if let Some(known) = self.principals.get(&credential.sha256, now) {
            return Ok(known);
        }
        let record = self.keys.get::<KeyRecord>(credential.id.as_str()).await;
        let record = record.map_err(AuthError::Records)?;
        let record = record.ok_or(AuthError::Denied(Denied::Unknown))?.value;
        let principal = judge(credential, &record).map_err(AuthError::Denied)?;
        self.tenant(principal.tenant()).await?;
        self.principals.put(credential.sha256, principal.clone(), now);
        Ok(principal)
    }

    /// The principal of a login in a tenant's own broker account. The account in the subject was
    /// put there by the broker; the broker's statement of the login must name the same one.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn login(&self, incoming: &Incoming) -> Result<Principal, AuthError> {
        let denied = AuthError::Denied(Denied::NoLogin);
        let Some(account) = account_of(incoming.subject()) else { return Err(denied) };
        let Some(info) = incoming.info() else { return Err(denied) };
        if info.acc != account || info.user.is_empty() {
            return Err(denied);
        }
        let tenant = self.tenant_of(account).await?;
        let name = info.name_tag.chars().take(LOGIN_NAME_CHARS_MAX).collect();
        let roles = info.tags.iter().filter_map(|tag| tag.strip_prefix(ROLE_TAG)?.parse().ok());
        let authority = Authority { roles: roles.collect(), ..Authority::default() };
        let actor = Actor::NatsLogin { user: info.user, name };
        Ok(Principal { tenant, actor, authority, steps_up: false })
    }

    async fn tenant_of(&self, account: &str) -> Result<TenantId, AuthError> {
        let now = Instant::now();
        let key = format!("account.{account}");
        if let Some(known) = self.accounts.get(&key, now) {
            return Ok(known);
        }
        let slug = self.tenants.get::<TenantId>(&key).await.map_err(AuthError::Records)?;
        let slug = slug.ok_or(AuthError::Denied(Denied::NoTenant))?.value;
        // The slug must point back: a stale entry of a removed tenant opens nothing.
        if self.tenant(&slug).await?.account != account {
            return Err(AuthError::Denied(Denied::NoTenant));
        }
        self.accounts.put(key, slug.clone(), now);
        Ok(slug)
    }

    /// The record of a tenant.
    ///
    /// # Errors
    /// `Denied(NoTenant)`, `Records`.
    pub async fn tenant(&self, tenant: &TenantId) -> Result<TenantRecord, AuthError> {
        let now = Instant::now();
        if let Some(known) = self.records.get(tenant, now) {
            return Ok(known);
        }
        let record = self.tenants.get::<TenantRecord>(tenant.as_str()).await;
        let record = record.map_err(AuthError::Records)?;
        let record = record.ok_or(AuthError::Denied(Denied::NoTenant))?.value;
        self.records.put(tenant.clone(), record.clone(), now);
        Ok(record)
    }
}

/// The account in `tenant.<account>.<verb>`.
fn account_of(subject: &str) -> Option<&str> {
    let checked: Subject = subject.parse().ok()?;
    checked.as_str().starts_with("tenant.").then_some(())?;
    subject.split('.').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::UnixMs;
    use http::HeaderValue;

    const ID: &str = "0193a0f0c0de7000800000000000beef";
    const SECRET: &str = "c2VjcmV0LW9mLTE2LWJ5dGVzLi4";

    fn key() -> String {
        format!("hck_{ID}_{SECRET}")
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn check(values: &[&str], query: Option<&str>, expect: Option<Denied>) {
        let found = credential(&headers(values), query).err();
        assert_eq!(found, expect, "{values:?} {query:?}");
    }

    #[test]
    fn api_03_exactly_one_bearer_header_is_a_credential() {
        let good = format!("Bearer {}", key());
        check(&[&good], None, None);
        check(&[&format!("bearer {}", key())], None, None);
        check(&[], None, Some(Denied::Missing));
        check(&[&good, &good], None, Some(Denied::Several));
        check(&["Basic dXNlcjpwYXNz"], None, Some(Denied::Scheme));
        check(&[""], None, Some(Denied::Scheme));
        check(&[&key()], None, Some(Denied::Scheme));
        for bad in [
            "Bearer",
            "Bearer ",
            "Bearer x",
            &format!("Bearer  {}", key()),
            &format!("Bearer {} ", key()),
            &format!("Bearer hck_{ID}"),
            &format!("Bearer hck_{ID}_short"),
            &format!("Bearer hck_*_{SECRET}"),
            &format!("Bearer hck_{ID}_{}", "x".repeat(500)),
            &format!("Bearer {},{}", key(), key()),
        ] {
            check(&[bad], None, Some(Denied::Malformed));
        }
    }

    #[test]
    fn api_04_a_key_in_the_query_string_is_refused_even_beside_a_good_header() {
        let good = format!("Bearer {}", key());
        for query in [
            format!("api_key={}", key()),
            "access_token=x".to_owned(),
            "API_KEY=x".to_owned(),
            "%61pi_key=x".to_owned(),
            format!("output=a&{}", key()),
            format!("output={}", key()),
            format!("k=hck%5F{ID}_{SECRET}"),
        ] {
            check(&[&good], Some(&query), Some(Denied::InQuery));
            check(&[], Some(&query), Some(Denied::InQuery));
        }
        check(&[&good], Some("output=out.mp4"), None);
    }

    #[test]
    fn api_06_07_the_record_decides_by_the_whole_key_s_hash() {
        let credential = parse_key(&key()).unwrap();
        let record = KeyRecord {
            roles: std::iter::once(hotcell_schemas::identity::RoleName::Submitter).collect(),
            expires_at: None,
            networks: Vec::new(),
            label: None,
            created_by: None,
            rotated_from: None,
            totp: None,
            id: ID.parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            sha256: Digest::of(key().as_bytes()),
            created_at: UnixMs(1),
            revoked_at: None,
        };
        let principal = judge(&credential, &record).unwrap();
        assert_eq!(principal.tenant().as_str(), "acme");
        assert_eq!(principal.actor(), &Actor::ApiKey { id: ID.parse().unwrap() });
        let other = KeyRecord { sha256: Digest::of(SECRET.as_bytes()), ..record.clone() };
        assert_eq!(judge(&credential, &other), Err(Denied::WrongSecret));
        let other = KeyRecord { id: ID.replace("beef", "dead").parse().unwrap(), ..record.clone() };
        assert_eq!(judge(&credential, &other), Err(Denied::WrongSecret));
        let revoked = KeyRecord { revoked_at: Some(UnixMs(2)), ..record };
        assert_eq!(judge(&credential, &revoked), Err(Denied::Revoked));
    }

    #[test]
    fn digests_compare_over_all_bytes() {
        let digest = Digest::of(b"a");
        assert!(same(&digest, &Digest::of(b"a")));
        for index in 0..32 {
            let mut bytes = *digest.as_bytes();
            bytes[index] ^= 1;
            assert!(!same(&digest, &Digest::from_bytes(bytes)), "byte {index}");
        }
    }

    #[test]
    fn the_account_is_read_from_the_subject_only() {
        let account = format!("A{}", "B".repeat(55));
        assert_eq!(account_of(&format!("tenant.{account}.submit")), Some(account.as_str()));
        for bad in ["tenant.acme.submit", "tenant.*.submit", "tenant..submit", "job.a.b.submitted"]
        {
            assert_eq!(account_of(bad), None, "{bad}");
        }
    }
}
