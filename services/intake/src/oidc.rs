//! Access tokens of identity providers, by the profile of RFC 9068.
//!
//! Promises: a token is believed only of a configured issuer, by a key that this issuer publishes,
//! for our audience, by a listed algorithm, within its time; a token that is bound to a key, only
//! with a fresh proof of that key (RFC 9449). What it may do is said by rules ([`crate::claims`]).
//! Refuses: ID tokens, `none`, symmetric algorithms, and every address of keys that a token names.

pub mod keys;
pub mod token;

use crate::{
    app::Seen,
    auth::Denied,
    claims::{RulesError, RulesFile, Unmapped},
    credential::Scheme,
    dpop::{self, Counts, DpopFault, Expect, Proof},
    jwt::{Algorithm, JwtError, Unverified},
    problem::{Kind, Problem},
};
use hotcell_schemas::{TenantId, UnixMs, identity::Authority, job::Actor};
use hotcell_stage::{
    Bus,
    blob::install_tls,
    clock,
    kv::{Bucket, KvError},
};
use keys::{Keys, Lookup, allowed};
use reqwest::{Certificate, Client, redirect};
use serde::Deserialize;
use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};
use token::{AccessToken, Profile, TYPE};
use url::Url;

/// Issuers at most: each is compared with each token.
const ISSUERS_MAX: usize = 16;

/// Largest difference of clocks that may be configured, in seconds.
const CLOCK_SKEW_SECS_MAX: u64 = 30;

/// Longest life of a token that may be configured, in seconds: a token cannot be revoked here.
const LIFETIME_SECS_MAX: u64 = 86_400;

/// Time to connect to an issuer, in seconds.
const CONNECT_SECS: u64 = 2;

/// One identity provider.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// `iss` of its tokens, exactly, and the base of its metadata.
    pub issuer: String,
    /// What `aud` of its tokens must contain.
    pub audience: String,
    /// The file of rules that give its tokens a tenant and roles.
    pub rules: PathBuf,
    /// The algorithms of its signatures.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are; where its metadata say, when absent.
    pub jwks_uri: Option<String>,
    /// PEM file of further authorities for TLS to it.
    pub ca: Option<PathBuf>,
    /// By how much clocks may differ, in seconds.
    #[serde(default = "clock_skew_secs")]
    pub clock_skew_secs: u64,
    /// Longest life of its tokens, in seconds.
    #[serde(default = "lifetime_secs_max")]
    pub lifetime_secs_max: u64,
    /// Values of `acr` that mean a second factor.
    #[serde(default = "mfa_acr")]
    pub mfa_acr: Vec<String>,
    /// Values of `amr` that mean a second factor.
    #[serde(default)]
    pub mfa_amr: Vec<String>,
}

fn algorithms() -> Vec<Algorithm> {
    Algorithm::ALL.to_vec()
}

const fn clock_skew_secs() -> u64 {
    CLOCK_SKEW_SECS_MAX
}

const fn lifetime_secs_max() -> u64 {
    3600
}

fn mfa_acr() -> Vec<String> {
    vec!["urn:hotcell:acr:mfa".to_owned()]
}

/// Why issuers cannot be used as they are configured. The process does not start.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// A value breaks a rule.
    #[error("oidc.{key}: {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// The rule.
        rule: &'static str,
    },
    /// The rules cannot be used.
    #[error("oidc.rules")]
    Rules(#[source] RulesError),
    /// The authorities cannot be read.
    #[error("oidc.ca cannot be read")]
    Ca(#[source] io::Error),
    /// The authorities are no PEM, or TLS cannot be set up.
    #[error("oidc.ca is no list of certificates")]
    Tls(#[source] reqwest::Error),
}

/// Why a token is not believed. Constant texts, for the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Its form, its algorithm or its signature.
    #[error("an access token: {0}")]
    Jwt(JwtError),
    /// An ID token, or another thing that its issuer signs.
    #[error("a token that is not an access token")]
    NotAccessToken,
    /// The issuer has no such key.
    #[error("an access token by a key that its issuer does not publish")]
    UnknownKey,
    /// `iss`.
    #[error("a token of an issuer that is not configured")]
    Issuer,
    /// `aud`.
    #[error("an access token for another audience")]
    Audience,
    /// A required claim is missing, or one is of the wrong type.
    #[error("an access token that lacks a required claim, or whose claims are malformed")]
    Malformed,
    /// `exp`.
    #[error("an access token that has expired")]
    Expired,
    /// `nbf`, `iat` or `auth_time` is in the future.
    #[error("an access token from the future")]
    NotYet,
    /// From `iat` to `exp` is too long.
    #[error("an access token that lives too long")]
    Lifetime,
    /// Bound by a means that is not checked here (RFC 8705).
    #[error("an access token that is bound by other means than DPoP")]
    OtherBinding,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The token is not believed: 401.
    #[error("the access token is not believed")]
    Token(#[source] TokenFault),
    /// The proof is not believed: 401.
    #[error("the proof of possession is not believed")]
    Proof(#[source] DpopFault),
    /// The token is good, and its bearer has no place here: 403.
    #[error("the rules give the token nothing")]
    Unmapped(#[source] Unmapped),
    /// The issuer's keys are not known, and it does not answer: 503.
    #[error("the issuer's keys are not known")]
    Away,
    /// A proof cannot be remembered: 503.
    #[error("the proof of possession cannot be remembered")]
    Records(#[source] KvError),
}

/// What the sender is told of a token that is not believed, or that has no place here: its own
/// scheme's challenge (RFC 6750 §3, RFC 9449 §7.1), and no more of the reason than a client needs.
/// `None` for credentials of other kinds.
#[must_use]
pub fn problem(reason: Denied) -> Option<Problem> {
    let unauthorized = |detail, challenge: String| {
        Problem::new(Kind::Unauthorized, detail).header("www-authenticate", challenge)
    };
    if let Denied::Oidc(fault) = reason {
        let detail = match fault == TokenFault::Expired {
            true => "the access token has expired",
            false => "the access token is not valid",
        };
        let challenge = r#"Bearer realm="hotcell", error="invalid_token""#;
        return Some(unauthorized(detail, challenge.to_owned()));
    }
    if let Denied::Proof(fault) = reason {
        let of_token =
            matches!(fault, DpopFault::BoundAsBearer | DpopFault::Unbound | DpopFault::OtherKey);
        let error = if of_token { "invalid_token" } else { "invalid_dpop_proof" };
        let challenge = format!(r#"DPoP error="{error}", algs="{}""#, dpop::ALGORITHMS);
        let detail = "the token needs a fresh proof of the key that it is bound to";
        return Some(unauthorized(detail, challenge));
    }
    let Denied::Unmapped(why) = reason else { return None };
    let detail = match why {
        Unmapped::NoRule => "the token is good, but nothing here is open to it",
        Unmapped::SeveralTenants => "the token's claims lead to more than one tenant",
    };
    Some(Problem::new(Kind::Forbidden, detail))
}

/// Who a token is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// By the rules.
    pub tenant: TenantId,
    /// A person, or a program.
    pub actor: Actor,
    /// By the token.
    pub authority: Authority,
    /// When the token ends.
    pub ends: UnixMs,
}

#[derive(Debug)]
struct Issuer {
    profile: Profile,
    algorithms: Vec<Algorithm>,
    keys: Keys,
    rules: RulesFile,
}

/// The configured identity providers.
#[derive(Debug)]
pub struct Oidc {
    issuers: Vec<Issuer>,
    bases: Vec<Url>,
    proofs: Bucket,
    counts: Counts,
}

impl Oidc {
    /// Prepares the issuers; none is asked yet. `external_urls` are the base URLs at which clients
    /// see this API: without one, tokens that are bound to keys are refused.
    ///
    /// # Errors
    /// [`IssuersError`].
    pub fn new(
        bus: &Bus,
        configs: &[IssuerConfig],
        external_urls: &[String],
    ) -> Result<Self, IssuersError> {
        let bases = external_urls.iter().map(|url| base(url)).collect::<Result<_, _>>()?;
        if configs.len() > ISSUERS_MAX {
            return Err(IssuersError::Value { key: "issuer", rule: "at most 16 issuers" });
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        for config in configs {
            if issuers.iter().any(|it| it.profile.issuer == config.issuer) {
                let rule = "is configured twice";
                return Err(IssuersError::Value { key: "issuer", rule });
            }
            issuers.push(Issuer::new(config)?);
        }
        Ok(Self { issuers, bases, proofs: bus.bucket("proofs"), counts: Counts::default() })
    }

    /// Whether `issuer`, as tokens write it, is one of these.
    #[must_use]
    pub fn knows(&self, issuer: &str) -> bool {
        self.issuers.iter().any(|it| it.profile.issuer == issuer)
    }

    /// Whose token `text` is; `token` is `text`, parsed.
    ///
    /// # Errors
    /// [`OidcError`].
    pub async fn identify(
        &self,
        scheme: Scheme,
        text: &str,
        token: Unverified<'_>,
        seen: &Seen<'_>,
    ) -> Result<Identity, OidcError> {
        let issuer = self.issuers.iter().find(|it| token.issuer() == Some(&it.profile.issuer));
        let issuer = issuer.ok_or(OidcError::Token(TokenFault::Issuer))?;
        let token = issuer.verify(token).await?;
        let proof = self.possession(scheme, text, &token, seen)?;
        let identity = issuer.identity(token, proof.is_some())?;
        // Last: nothing is remembered of whom nobody knows here.
        if let Some(proof) = proof.filter(|_| seen.is_served) {
            self.used(&proof, &identity.tenant).await?;
        }
        Ok(identity)
    }

    /// Remembers a proof, which must be new.
    async fn used(&self, proof: &Proof, tenant: &TenantId) -> Result<(), OidcError> {
        if !self.counts.takes(tenant, Instant::now()) {
            return Err(OidcError::Proof(DpopFault::TooMany));
        }
        let taken = dpop::remember(&self.proofs, proof, clock::now()).await;
        taken.map_err(OidcError::Records)?.map_err(OidcError::Proof)
    }

    /// The proof by which the sender has shown the key that the token is bound to; `None` for a token
    /// that is bound to none.
    fn possession(
        &self,
        scheme: Scheme,
        text: &str,
        token: &AccessToken,
        seen: &Seen<'_>,
    ) -> Result<Option<Proof>, OidcError> {
        let jkt = match (&token.jkt, scheme) {
            (None, Scheme::Bearer) => return Ok(None),
            (None, Scheme::Dpop) => return Err(OidcError::Proof(DpopFault::Unbound)),
            (Some(_), Scheme::Bearer) => return Err(OidcError::Proof(DpopFault::BoundAsBearer)),
            (Some(jkt), Scheme::Dpop) => jkt,
        };
        if self.bases.is_empty() {
            return Err(OidcError::Proof(DpopFault::NotConfigured));
        }
        let expect = Expect {
            method: seen.method.as_str(),
            path: seen.uri.path(),
            bases: &self.bases,
            token: text,
            jkt,
            now: clock::now(),
        };
        let proof = dpop::header(seen.headers).and_then(|proof| dpop::check(proof, expect));
        proof.map(Some).map_err(OidcError::Proof)
    }
}

impl Issuer {
    fn new(config: &IssuerConfig) -> Result<Self, IssuersError> {
        let value = |key, rule| Err(IssuersError::Value { key, rule });
        let at = |text: &str| Url::parse(text).ok().filter(allowed);
        if at(&config.issuer).is_none() {
            return value("issuer", "must be an https URL, or http on loopback");
        }
        if config.audience.is_empty() {
            return value("audience", "must not be empty");
        }
        if config.algorithms.is_empty() {
            return value("algorithms", "must not be empty");
        }
        if config.clock_skew_secs > CLOCK_SKEW_SECS_MAX {
            return value("clock_skew_secs", "must be at most 30");
        }
        if config.lifetime_secs_max == 0 || config.lifetime_secs_max > LIFETIME_SECS_MAX {
            return value("lifetime_secs_max", "must be 1 to 86400");
        }
        let jwks = match &config.jwks_uri {
            None => None,
            Some(text) => match at(text) {
                None => return value("jwks_uri", "must be an https URL, or http on loopback"),
                some => some,
            },
        };
        let rules = RulesFile::open(&config.rules, Instant::now()).map_err(IssuersError::Rules)?;
        Ok(Self {
            profile: Profile {
                issuer: config.issuer.clone(),
                audience: config.audience.clone(),
                clock_skew_secs: config.clock_skew_secs,
                lifetime_secs_max: config.lifetime_secs_max,
                mfa_acr: config.mfa_acr.clone(),
                mfa_amr: config.mfa_amr.clone(),
            },
            algorithms: config.algorithms.clone(),
            keys: Keys::new(&config.issuer, jwks, client(config)?),
            rules,
        })
    }

    /// Checks a token that names this issuer. `kid` is looked up among this issuer's keys only.
    async fn verify(&self, token: Unverified<'_>) -> Result<AccessToken, OidcError> {
        let fault = |fault| Err(OidcError::Token(fault));
        if !token.is_type(TYPE) {
            return fault(TokenFault::NotAccessToken);
        }
        // Before the issuer is asked because of it.
        if !self.algorithms.contains(&token.algorithm()) {
            return fault(TokenFault::Jwt(JwtError::Algorithm));
        }
        let key = match self.keys.get(token.header().text("kid"), token.algorithm()).await {
            Lookup::Known(key) => key,
            Lookup::Unknown => return fault(TokenFault::UnknownKey),
            Lookup::Away => return Err(OidcError::Away),
        };
        let claims = token.verify(&key, &self.algorithms);
        let claims = claims.map_err(|error| OidcError::Token(TokenFault::Jwt(error)))?;
        self.profile.check(claims, clock::now()).map_err(OidcError::Token)
    }

    fn identity(&self, token: AccessToken, bound: bool) -> Result<Identity, OidcError> {
        let rules = self.rules.rules(Instant::now());
        let is_service = token.is_service || rules.is_service(&token.client);
        let client = is_service.then_some(token.client.as_str());
        let (tenant, roles) = rules.map(&token.claims, client).map_err(OidcError::Unmapped)?;
        let (issuer, session) = (self.profile.issuer.clone(), Some(token.session));
        let ends = token.ends;
        let authority = Authority { roles, session, bound, ..Authority::default() };
        if is_service {
            // Whatever it says of factors: no person has shown them.
            let actor = Actor::Service { issuer, client: token.client };
            return Ok(Identity { tenant, actor, authority, ends });
        }
        let (acr, auth_time, mfa) = (token.acr, token.auth_time, token.mfa);
        let authority = Authority { acr, auth_time, mfa, ..authority };
        let actor = Actor::User { issuer, subject: token.subject };
        Ok(Identity { tenant, actor, authority, ends })
    }
}

fn base(text: &str) -> Result<Url, IssuersError> {
    let good = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let rule = "must be base URLs, such as https://api.example.com";
    good.ok_or(IssuersError::Value { key: "external_urls", rule })
}

/// The HTTP client that asks an issuer: no redirects, no proxy of the environment.
///
/// # Errors
/// `Ca`, `Tls`.
pub fn client(config: &IssuerConfig) -> Result<Client, IssuersError> {
    install_tls();
    let mut builder = Client::builder()
        .connect_timeout(Duration::from_secs(CONNECT_SECS))
        .pool_idle_timeout(hotcell_stage::blob::IDLE)
        .redirect(redirect::Policy::none())
        .no_proxy();
    if let Some(path) = &config.ca {
        let pem = std::fs::read(path).map_err(IssuersError::Ca)?;
        let authorities = Certificate::from_pem_bundle(&pem).map_err(IssuersError::Tls)?;
        builder = builder.tls_certs_merge(authorities);
    }
    builder.build().map_err(IssuersError::Tls)
}

#[cfg(test)]
#[path = "oidc_tests.rs"]
mod tests;
