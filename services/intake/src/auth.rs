//! Who is asking. Promises: a [`Principal`] comes from an API key that is in the broker's records,
//! neither revoked nor at its end, and used from where it may be; from a token that intake signed
//! for such a key; or from a login that the broker itself states. Keys are compared by SHA-256 in
//! constant time, and kept nowhere. What is revoked opens nothing a second later, on any replica.
//!
//! Refuses: a credential anywhere but in one `Authorization` header; a tenant named by a message.

use crate::{
    app::Seen,
    cache::Cache,
    claims::Unmapped,
    credential::same,
    dpop::DpopFault,
    jwt::{JwtError, Unverified},
    oidc::{Identity, Oidc, OidcError, TokenFault},
    token,
};
use hotcell_policy::Keys;
use hotcell_schemas::{
    ApprovalId, KeyId, Subject, TenantId, UnixMs,
    identity::{Authority, RoleName},
    job::Actor,
    records::{KeyRecord, TenantRecord},
};
use hotcell_stage::{Bus, Incoming, clock, kv::Bucket, kv::KvError};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

pub use crate::credential::{Credential, KeyText, Scheme, credential};

/// Longest part of a login's name that records keep, in characters.
const LOGIN_NAME_CHARS_MAX: usize = 64;

/// What a login's tag begins with that gives it a role.
const ROLE_TAG: &str = "role:";

/// An identity that was checked. Only this module makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    tenant: TenantId,
    actor: Actor,
    authority: Authority,
    steps_up: bool,
    /// When its token ends.
    ends: Option<UnixMs>,
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
    /// At its end.
    #[error("a key or a token that has expired")]
    Expired,
    /// Good, but not from there. Said only to whoever holds the secret.
    #[error("an API key used from outside its networks")]
    Network,
    /// Not a token that we can believe.
    #[error("not believed: {0}")]
    Token(JwtError),
    /// Issued by nobody that is configured.
    #[error("a token of an issuer that is not configured")]
    TokenIssuer,
    /// An ID token, or something else that is not for us (RFC 9068 §4).
    #[error("a token that is no access token")]
    TokenType,
    /// Signed by a key that does not speak for its issuer.
    #[error("a token signed by a key that is not its issuer's")]
    TokenKey,
    /// Not the claims of its kind, or for somebody else.
    #[error("a token without the claims that it needs")]
    TokenClaims,
    /// An access token of an identity provider.
    #[error("not believed: {0}")]
    Oidc(TokenFault),
    /// The proof beside it (RFC 9449).
    #[error("not believed: {0}")]
    Proof(DpopFault),
    /// A good token of somebody who has no place here.
    #[error("{0}")]
    Unmapped(Unmapped),
    /// A one-time code that is not the one of now.
    #[error("a wrong one-time code")]
    WrongCode,
    /// No code is looked at.
    #[error("a one-time code after too many wrong ones")]
    TooManyCodes,
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
    /// The keys of the token's issuer are not known, and it does not answer.
    #[error("the issuer of the token does not answer")]
    IssuerAway,
}

/// Whether a key may be used now, from there.
fn usable(record: &KeyRecord, now: UnixMs, network: Option<IpAddr>) -> Result<(), Denied> {
    if record.revoked_at.is_some() {
        return Err(Denied::Revoked);
    }
    if record.expires_at.is_some_and(|end| end <= now) {
        return Err(Denied::Expired);
    }
    let inside = |address: IpAddr| record.networks.iter().any(|net| net.contains(address));
    // Where the door cannot tell, a key that is bound to networks opens nothing.
    if !record.networks.is_empty() && !network.is_some_and(inside) {
        return Err(Denied::Network);
    }
    Ok(())
}

fn judge(
    key: &KeyText,
    record: &KeyRecord,
    now: UnixMs,
    network: Option<IpAddr>,
) -> Result<Principal, Denied> {
    if !same(key.sha256.as_bytes(), record.sha256.as_bytes()) || key.id != record.id {
        return Err(Denied::WrongSecret);
    }
    usable(record, now, network)?;
    let authority = Authority { roles: record.roles.clone(), network, ..Authority::default() };
    Ok(principal_of(record, authority))
}

/// A token is worth what its key is worth now: a role that the key has lost is lost here, too.
pub(crate) fn judge_token(
    claims: &token::Claims,
    record: &KeyRecord,
    now: UnixMs,
    network: Option<IpAddr>,
) -> Result<Principal, Denied> {
    if claims.sub != record.id || claims.tenant != record.tenant {
        return Err(Denied::TokenClaims);
    }
    usable(record, now, network)?;
    let held = |role: &RoleName| token::includes(&record.roles, *role);
    let roles: BTreeSet<RoleName> = claims.roles.iter().copied().filter(held).collect();
    let enrolled = record.totp.as_ref().is_some_and(|totp| totp.confirmed);
    // What a second factor opened that was replaced since stays shut when the new one is confirmed.
    let since = record.totp.as_ref().map(|totp| totp.enrolled_at.0 / 1000);
    let mfa =
        enrolled && claims.acr.as_deref() == Some(token::ACR_MFA) && claims.auth_time >= since;
    let authority = Authority {
        roles,
        mfa,
        acr: claims.acr.clone().filter(|_| mfa),
        auth_time: claims.auth_time.filter(|_| mfa).map(|secs| UnixMs(secs.saturating_mul(1000))),
        network,
        session: Some(claims.jti.clone()),
        ..Authority::default()
    };
    let ends = Some(UnixMs(claims.exp.saturating_mul(1000)));
    Ok(Principal { ends, ..principal_of(record, authority) })
}

fn principal_of(record: &KeyRecord, authority: Authority) -> Principal {
    let actor = Actor::ApiKey { id: record.id.clone() };
    let steps_up = record.totp.as_ref().is_some_and(|totp| totp.confirmed);
    Principal { tenant: record.tenant.clone(), actor, authority, steps_up, ends: None }
}

/// The records of identities, with what was read within the last half second.
#[derive(Debug)]
pub struct Auth {
    bus: Bus,
    keys: Bucket,
    tenants: Bucket,
    known: Cache<KeyId, Arc<KeyRecord>>,
    records: Cache<TenantId, TenantRecord>,
    accounts: Cache<String, TenantId>,
    issuers: Option<Oidc>,
}

impl Auth {
    /// Reads through `bus`.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self {
            bus: bus.clone(),
            keys: bus.bucket("keys"),
            tenants: bus.bucket("tenants"),
            known: Cache::default(),
            records: Cache::default(),
            accounts: Cache::default(),
            issuers: None,
        }
    }

    /// The same, believing tokens of identity providers, too.
    #[must_use]
    pub fn with_issuers(self, issuers: Oidc) -> Self {
        Self { issuers: Some(issuers), ..self }
    }

    /// Whether anybody comes with tokens of `issuer`, written exactly so.
    #[must_use]
    pub fn knows_issuer(&self, issuer: &str) -> bool {
        self.issuers.as_ref().is_some_and(|issuers| issuers.knows(issuer))
    }

    /// The principal of a request over HTTP.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn request(&self, seen: &Seen<'_>) -> Result<Principal, AuthError> {
        let credential = credential(seen.headers, seen.uri.query()).map_err(AuthError::Denied)?;
        match credential {
            Credential::Key(key) => self.key(&key, seen.network).await,
            Credential::Token(scheme, text) => {
                let token = Unverified::parse(text).map_err(Denied::Token);
                let token = token.map_err(AuthError::Denied)?;
                if token.issuer() == Some(token::ISSUER) && scheme == Scheme::Bearer {
                    return self.own_token(token, seen.network).await;
                }
                self.issued(scheme, text, token, seen).await
            }
        }
    }

    /// The principal of a token of an identity provider.
    async fn issued(
        &self,
        scheme: Scheme,
        text: &str,
        token: Unverified<'_>,
        seen: &Seen<'_>,
    ) -> Result<Principal, AuthError> {
        let issuers = self.issuers.as_ref().ok_or(AuthError::Denied(Denied::TokenIssuer))?;
        let Identity { tenant, actor, authority, ends } =
            issuers.identify(scheme, text, token, seen).await.map_err(|error| match error {
                OidcError::Token(TokenFault::Issuer) => AuthError::Denied(Denied::TokenIssuer),
                OidcError::Token(fault) => AuthError::Denied(Denied::Oidc(fault)),
                OidcError::Proof(fault) => AuthError::Denied(Denied::Proof(fault)),
                OidcError::Unmapped(why) => AuthError::Denied(Denied::Unmapped(why)),
                OidcError::Away => AuthError::IssuerAway,
                OidcError::Records(error) => AuthError::Records(error),
            })?;
        self.tenant(&tenant).await?;
        let authority = Authority { network: seen.network, ..authority };
        // Which factors a person has, the issuer knows; a program has none.
        let steps_up = matches!(actor, Actor::User { .. });
        Ok(Principal { tenant, actor, authority, steps_up, ends: Some(ends) })
    }

    /// The principal of an API key that is used from `network`.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn key(
        &self,
        key: &KeyText,
        network: Option<IpAddr>,
    ) -> Result<Principal, AuthError> {
        let record = self.record(&key.id).await?;
        let who = judge(key, &record, clock::now(), network).map_err(AuthError::Denied)?;
        self.tenant(who.tenant()).await?;
        Ok(who)
    }

    /// The principal of a token that intake has signed.
    async fn own_token(
        &self,
        token: Unverified<'_>,
        network: Option<IpAddr>,
    ) -> Result<Principal, AuthError> {
        let now = clock::now();
        let claims = token::verify(token, self.bus.trust(), now).map_err(AuthError::Denied)?;
        let record = self.record(&claims.sub).await?;
        let who = judge_token(&claims, &record, now, network).map_err(AuthError::Denied)?;
        self.tenant(who.tenant()).await?;
        Ok(who)
    }

    /// The record of a key. Only what is there is kept: a key that was just made is known at once.
    async fn record(&self, id: &KeyId) -> Result<Arc<KeyRecord>, AuthError> {
        let found = Keys::key(self, id).await.map_err(AuthError::Records)?;
        found.ok_or(AuthError::Denied(Denied::Unknown))
    }

    /// Whether a principal that was believed some time ago would be now, as far as its token and its
    /// key say, and with all of its roles: for answers that go on for minutes. What cannot be read
    /// is no.
    pub async fn still(&self, who: &Principal) -> bool {
        let now = clock::now();
        if who.ends.is_some_and(|end| end <= now) {
            return false;
        }
        let Actor::ApiKey { id } = &who.actor else { return true };
        let Ok(record) = self.record(id).await else { return false };
        usable(&record, now, who.authority.network).is_ok()
            && who.authority.roles.iter().all(|role| token::includes(&record.roles, *role))
    }

    /// Reads a key again at its next use here; the other replicas do within the cache's life.
    pub fn forget(&self, id: &KeyId) {
        self.known.remove(id);
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
        let authority = Authority { roles: tagged(&info.tags), ..Authority::default() };
        let actor = Actor::NatsLogin { user: info.user, name };
        Ok(Principal { tenant, actor, authority, steps_up: false, ends: None })
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

/// As they were a moment ago.
impl Keys for Auth {
    async fn key(&self, id: &KeyId) -> Result<Option<Arc<KeyRecord>>, KvError> {
        let now = Instant::now();
        if let Some(known) = self.known.get(id, now) {
            return Ok(Some(known));
        }
        let Some(entry) = self.keys.get::<KeyRecord>(id.as_str()).await? else { return Ok(None) };
        let record = Arc::new(entry.value);
        self.known.put(id.clone(), Arc::clone(&record), now);
        Ok(Some(record))
    }
}

/// The roles in a login's tags. Whoever has a tenant's scoped key writes tags; none makes an operator.
fn tagged(tags: &[String]) -> BTreeSet<RoleName> {
    let roles = tags.iter().filter_map(|tag| tag.strip_prefix(ROLE_TAG)?.parse().ok());
    roles.filter(|role| *role != RoleName::Operator).collect()
}

/// The account in `tenant.<account>.<verb>`.
fn account_of(subject: &str) -> Option<&str> {
    let checked: Subject = subject.parse().ok()?;
    checked.as_str().starts_with("tenant.").then_some(())?;
    subject.split('.').nth(1)
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
