//! Our own access tokens (RFC 9068): an API key, narrowed if its owner likes, for five minutes, and
//! with a second factor where one was shown.
//!
//! Promises: any replica verifies what another signed, by the keys of role intake in `trust.json`;
//! a token is worth no more than its key is at the moment of use. Refuses: a token for a token,
//! which would live on without its key; a life of more than [`TOKEN_SECS_MAX`].

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::{AuthError, Denied, Principal, judge_token},
    gate, json,
    jwt::{Algorithm, Object, PublicKey, Unverified, encoded},
    keys,
    problem::{Kind, Problem},
    totp::{self, Closed, Guesses, Shown},
};
use hotcell_schemas::{
    KeyId, Role, TenantId, Trust, UnixMs,
    identity::RoleName,
    job::Actor,
    records::{AuditAct, KeyRecord, TotpRecord},
};
use hotcell_stage::{
    clock,
    kv::{Entry, KvError},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

pub use hotcell_schemas::identity::ACR_MFA;

/// Longest life of a token, in seconds; the configuration may only lower it.
pub const TOKEN_SECS_MAX: u64 = 300;

/// Who issues our tokens: `iss`. No address, because nobody but intake has to look anything up.
pub const ISSUER: &str = "hotcell";

/// For whom they are: `aud`.
pub const AUDIENCE: &str = "hotcell-api";

/// Their kind (RFC 9068 §2.1).
pub const TYPE: &str = "at+jwt";

/// How far the clock of another replica may be ahead, in seconds.
const SKEW_SECS: u64 = 30;

/// Attempts to write a record that other replicas write, too.
pub(crate) const WRITES_MAX: u32 = 8;

/// Claims of our own token. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    iss: String,
    aud: String,
    /// The key.
    pub sub: KeyId,
    client_id: KeyId,
    /// Its tenant.
    pub tenant: TenantId,
    /// What of its roles the token is for.
    pub roles: BTreeSet<RoleName>,
    /// The token's id: the session.
    pub jti: String,
    iat: u64,
    /// When it ends.
    pub exp: u64,
    /// What was shown beside the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    amr: Vec<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<u64>,
}

/// The claims of one of our own tokens, when a key of intake has signed it and it is valid at `now`.
///
/// # Errors
/// [`Denied`].
pub fn verify(token: Unverified<'_>, trust: &Trust, now: UnixMs) -> Result<Claims, Denied> {
    if !token.is_type(TYPE) {
        return Err(Denied::TokenType);
    }
    let key = token.header().text("kid").filter(|kid| trust.role_of(kid) == Some(Role::Intake));
    let key = key.and_then(|kid| nkeys::from_public_key(kid).ok()).ok_or(Denied::TokenKey)?;
    let Object(claims) =
        token.verify(&PublicKey::ed25519(key.1), &[Algorithm::EdDsa]).map_err(Denied::Token)?;
    let claims: Claims =
        serde_json::from_value(Value::Object(claims)).map_err(|_| Denied::TokenClaims)?;
    let now_secs = now.0 / 1000;
    let good = claims.iss == ISSUER
        && claims.aud == AUDIENCE
        && claims.client_id == claims.sub
        && claims.iat <= now_secs.saturating_add(SKEW_SECS)
        && claims.exp.saturating_sub(claims.iat) <= TOKEN_SECS_MAX;
    if !good {
        return Err(Denied::TokenClaims);
    }
    if claims.exp <= now_secs {
        return Err(Denied::Expired);
    }
    Ok(claims)
}

/// Whether a key of these roles is good for a token of `role`: its own, and of who administers a
/// tenant those that do less of the same. Evidence is the auditor's.
#[must_use]
pub fn includes(own: &BTreeSet<RoleName>, role: RoleName) -> bool {
    use RoleName as R;
    let less = matches!(role, R::Viewer | R::Submitter | R::Publisher | R::WebhookAdmin);
    own.contains(&role) || less && own.contains(&R::TenantAdmin)
}

/// What is to be signed of a token with `claims`, by the key `kid`.
///
/// # Panics
/// Never: claims are strings, numbers and lists of them.
#[must_use]
pub fn unsigned(kid: &str, claims: &Claims) -> String {
    let header = json!({ "alg": Algorithm::EdDsa.as_str(), "typ": TYPE, "kid": kid });
    let claims = serde_json::to_vec(claims).expect("claims are strings, numbers and lists of them");
    format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(&claims))
}

/// Claims for `key`, from `now` on.
#[must_use]
pub fn claims(
    key: &KeyRecord,
    roles: BTreeSet<RoleName>,
    mfa: bool,
    (now, secs): (UnixMs, u64),
    jti: [u8; 16],
) -> Claims {
    let iat = now.0 / 1000;
    let ends = key.expires_at.map_or(u64::MAX, |at| at.0 / 1000);
    Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: key.id.clone(),
        client_id: key.id.clone(),
        tenant: key.tenant.clone(),
        roles,
        jti: hex::encode(jti),
        iat,
        exp: iat.saturating_add(secs.min(TOKEN_SECS_MAX)).min(ends),
        acr: mfa.then(|| ACR_MFA.to_owned()),
        // RFC 8176 §2: a secret, a one-time code, and that these are two factors.
        amr: if mfa { ["pwd", "otp", "mfa"].map(str::to_owned).to_vec() } else { Vec::new() },
        auth_time: mfa.then_some(iat),
    }
}

/// `POST /v1/token`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct TokenRequest {
    /// Only `api_key`.
    grant_type: Option<String>,
    /// What of the key's roles the token shall be for; all when absent.
    roles: Option<BTreeSet<RoleName>>,
    /// A one-time code.
    totp: Option<String>,
}

/// `POST /v1/token`: a token for the key in the header. Repeating it makes another token; a one-time
/// code is good once.
///
/// # Errors
/// 400, 422 naming the field; 403 for a token instead of a key, and for a wrong code; 409 for a
/// code that was used; 429 after too many wrong ones; 503.
pub async fn exchange(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let request: TokenRequest =
        if call.body.is_empty() { TokenRequest::default() } else { json::parse(&call.body)? };
    if request.grant_type.as_deref().is_some_and(|kind| kind != "api_key") {
        return Err(Problem::field(Kind::Unprocessable, "grantType", "must be api_key"));
    }
    let (Actor::ApiKey { id }, None) = (who.actor(), &who.authority().session) else {
        let detail = "only an API key is exchanged for a token; send the key itself";
        return Err(Problem::new(Kind::Forbidden, detail));
    };
    let own = &who.authority().roles;
    let roles = request.roles.unwrap_or_else(|| own.clone());
    if !roles.iter().all(|role| includes(own, *role)) {
        let rule = "must be among the roles of the key";
        return Err(Problem::field(Kind::Unprocessable, "roles", rule));
    }
    let mfa = request.totp.is_some();
    let key = match request.totp {
        Some(code) => shown(&app, id, &code, &call).await?,
        None => keys::find(&app, who.tenant(), id.as_str()).await?.value,
    };
    let now = clock::now();
    let life = (now, app.config.token_secs);
    let claims = claims(&key, roles, mfa, life, clock::random());
    let unsigned = unsigned(&app.bus.public_key(), &claims);
    let signature = app.bus.sign_token(&unsigned).ok_or_else(Problem::internal)?;
    if mfa {
        let stepped = judge_token(&claims, &key, now, call.network);
        let stepped =
            stepped.map_err(|reason| app.refuse("POST /v1/token", &AuthError::Denied(reason)))?;
        let (actor, authority) = (who.actor().clone(), stepped.authority().clone());
        gate::record(&app, &who, AuditAct::SteppedUp { actor, authority }).await?;
    }
    Ok(Reply::new(
        200,
        json!({
            "accessToken": format!("{unsigned}.{}", encoded(&signature)),
            "issuedTokenType": "urn:ietf:params:oauth:token-type:access_token",
            "tokenType": "Bearer",
            "expiresIn": claims.exp.saturating_sub(claims.iat),
            "roles": claims.roles,
            "acr": claims.acr,
        }),
    ))
}

/// Takes a one-time code: counts the guess, then looks, then records the code as used. Only what
/// all replicas agree on, by compare-and-set, counts.
async fn shown(app: &App, id: &KeyId, code: &str, call: &Call) -> Result<KeyRecord, Problem> {
    let Some(vault) = &app.vault else {
        let detail = "this installation has no local second factor: totp_key_file is not set";
        return Err(Problem::new(Kind::Unprocessable, detail));
    };
    let at = clock::now();
    count(app, id, |guesses| guesses.with(at)).await?;
    for _ in 0..WRITES_MAX {
        let entry = keys::bucket(app).get::<KeyRecord>(id.as_str()).await;
        let Entry { mut value, revision, .. } =
            entry.map_err(|error| store_problem(&error))?.ok_or_else(Problem::internal)?;
        if value.revoked_at.is_some() {
            return Err(Problem::new(Kind::Unauthorized, "the credential is not valid"));
        }
        let Some(totp) = &value.totp else {
            return Err(Problem::field(
                Kind::Unprocessable,
                "totp",
                "this key has no second factor",
            ));
        };
        let secret =
            vault.open(&totp.sealed, &totp::owner(&value.tenant, id)).map_err(|error| {
                tracing::error!(%error, key = %id, "a second factor is unusable");
                Problem::internal()
            })?;
        match totp::check(&secret, code, clock::now(), totp.last_step) {
            Shown::Wrong => {
                let what = format!("{} {}", call.method, call.route);
                app.refusals.note(&what, Denied::WrongCode);
                return Err(Problem::field(Kind::Forbidden, "totp", "is not the code of now"));
            }
            Shown::Used => {
                count(app, id, |guesses| Ok(guesses.without(at))).await?;
                let rule = "was used already; wait for the next one";
                return Err(Problem::field(Kind::Conflict, "totp", rule));
            }
            Shown::Good(step) => {
                value.totp = Some(TotpRecord { last_step: step, confirmed: true, ..totp.clone() });
            }
        }
        match keys::bucket(app).update(id.as_str(), &value, revision).await {
            Ok(_) => {
                count(app, id, |_| Ok(Guesses::default())).await?;
                app.auth.forget(id);
                return Ok(value);
            }
            Err(KvError::Conflict) => {}
            Err(error) => return Err(store_problem(&error)),
        }
    }
    Err(store_problem(&KvError::Conflict))
}

/// Changes the count of a key's wrong codes.
async fn count(
    app: &App,
    id: &KeyId,
    change: impl Fn(&Guesses) -> Result<Guesses, Closed>,
) -> Result<(), Problem> {
    let key = guesses_key(id);
    for _ in 0..WRITES_MAX {
        let found = keys::bucket(app).look::<Guesses>(&key).await;
        let (entry, revision) = found.map_err(|error| store_problem(&error))?;
        let before = entry.map(|entry| entry.value).unwrap_or_default();
        let after = change(&before).map_err(|closed| too_many(app, closed))?;
        if after == before {
            return Ok(());
        }
        match keys::bucket(app).update(&key, &after, revision).await {
            Ok(_) => return Ok(()),
            Err(KvError::Conflict) => {}
            Err(error) => return Err(store_problem(&error)),
        }
    }
    Err(store_problem(&KvError::Conflict))
}

/// Where a key's wrong codes are counted.
pub(crate) fn guesses_key(id: &KeyId) -> String {
    format!("guesses.{id}")
}

fn too_many(app: &App, closed: Closed) -> Problem {
    app.refusals.note("POST /v1/token", Denied::TooManyCodes);
    match closed {
        Closed::For(secs) => Problem::field(
            Kind::QuotaExceeded,
            "totp",
            format!("too many wrong codes; none is looked at for {secs} s"),
        )
        .header("retry-after", secs.to_string()),
        Closed::ForGood => Problem::field(
            Kind::QuotaExceeded,
            "totp",
            "too many wrong codes in a row; the second factor must be enrolled again",
        ),
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
