//! What every handler shares, and the one shape of handlers for both doors: a checked [`Principal`]
//! and a [`Call`] in, a [`Reply`] or a [`Problem`] out. A handler of a tenant's resources cannot be
//! called without a principal, and only `auth.rs` makes one.

use crate::{
    auth::{Auth, AuthError, Denied, Principal},
    config::Config,
    decisions::Decisions,
    events::{Follow, Streams},
    listing::Listing,
    oidc::Oidc,
    opa::Opa,
    problem::{Kind, Problem},
    quota::Book,
    rate::Rates,
    refusals::Refusals,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use hotcell_policy::{Blocks, Facts, PolicyStore};
use hotcell_schemas::{
    Subject, envelope::Message, identity::Decided, work::SignReply, work::SignRequest,
};
use hotcell_stage::{
    AskError, Bus,
    blob::Blobs,
    kv::{Bucket, KvError},
    retry::{Policy, retry},
    service::describe,
    vault::Vault,
};
use http::{HeaderMap, Method, Uri};
use serde::Serialize;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tracing::{error, warn};

/// A request to another service is answered within this long, in seconds: signing takes a
/// millisecond, so this is a service that restarts.
const ASK_SECS: u64 = 3;

/// How long a caller waits while another service restarts.
const ASK_POLICY: Policy = Policy { delay_ms_min: 50, delay_ms_max: 500, elapsed_ms_max: 3000 };

/// What every handler shares.
#[derive(Debug)]
pub struct App {
    /// The broker.
    pub bus: Bus,
    /// Identities.
    pub auth: Auth,
    /// The client of presigned URLs.
    pub blobs: Blobs,
    /// Uploads.
    pub uploads: Bucket,
    /// Answers to requests with an `Idempotency-Key`.
    pub idempotency: Bucket,
    /// Uploads being read and hashed.
    pub confirms: Semaphore,
    /// Sets of policies being checked: one, on one core.
    pub checks: Semaphore,
    /// The order of each tenant's jobs.
    pub listing: Listing,
    /// How often who may ask.
    pub rates: Rates,
    /// Streams of events that are open.
    pub streams: Streams,
    /// What tenants use of their plans.
    pub book: Book,
    /// Failed authentications.
    pub refusals: Refusals,
    /// The policies in force.
    pub policies: PolicyStore,
    /// Who is blocked.
    pub blocks: Blocks,
    /// An agent that is asked after them.
    pub opa: Option<Opa>,
    /// Denials and challenges, on their way to the audit log.
    pub decisions: Decisions,
    /// What opens second factors, where there are local ones.
    pub vault: Option<Vault>,
    /// What the operator configured.
    pub config: Config,
}

/// What a request over HTTP shows before anyone is believed.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target, as sent.
    pub uri: &'a Uri,
    /// Its headers, as sent.
    pub headers: &'a HeaderMap,
    /// Whence it came, where that can be told.
    pub network: Option<IpAddr>,
    /// Whether nobody else sees it after us: a proof of possession is then used up.
    pub is_served: bool,
}

/// A request, whichever door it came through.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// The method; over the broker that of the same request over HTTP.
    pub method: Method,
    /// The route's pattern; over the broker that of the same request over HTTP.
    pub route: &'static str,
    /// The path, as sent; over the broker the route's pattern.
    pub path: String,
    /// The `{id}` of the path, as sent.
    pub id: String,
    /// The query string.
    pub query: String,
    /// The `Idempotency-Key`, as sent.
    pub idempotency: Option<Vec<u8>>,
    /// The `Hotcell-Approval`, as sent.
    pub approval: Option<String>,
    /// The `Last-Event-ID` of a stream that is taken up again, as sent.
    pub last_event_id: Option<String>,
    /// Whence it came, where the door can tell.
    pub network: Option<IpAddr>,
    /// Why the route's action is permitted; nothing where the handler decides by itself.
    pub decided: Option<Decided>,
    /// The body.
    pub body: Bytes,
    /// Bytes of the longest answer that the door can give; nothing where it gives any.
    pub reply_bytes_max: Option<usize>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The `Location`.
    pub location: Option<String>,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// JSON.
    pub body: Vec<u8>,
    /// Events instead of a body, where the door can stream.
    pub follow: Option<Follow>,
}

/// A handler of a tenant's resources.
pub type Handler = fn(Arc<App>, Principal, Call) -> BoxFuture<'static, Result<Reply, Problem>>;

/// What policy is to know of a request beside who asks, read from it before it is served.
pub type FactsOf = fn(&Call) -> Result<Facts, Problem>;

#[derive(Serialize)]
struct Success<T> {
    success: bool,
    result: T,
}

impl Reply {
    /// `{success: true, result}`.
    #[must_use]
    pub fn new(status: u16, result: impl Serialize) -> Self {
        let body = serde_json::to_vec(&Success { success: true, result });
        let body = body.expect("answers hold strings, numbers and lists of them");
        Self { status, location: None, headers: Vec::new(), body, follow: None }
    }

    /// A stream of events.
    #[must_use]
    pub fn stream(follow: Follow) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        Self { status: 200, location: None, headers, body, follow: Some(follow) }
    }

    /// The same with a `Location`.
    #[must_use]
    pub fn at(self, location: String) -> Self {
        Self { location: Some(location), ..self }
    }

    /// The same with a header, where the door has headers.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl App {
    /// The shared state on an open connection.
    #[must_use]
    pub fn new(bus: Bus, config: &Config, refusals: Refusals, decisions: Decisions) -> Self {
        Self {
            auth: Auth::new(&bus),
            blobs: Blobs::new(),
            uploads: bus.bucket("uploads"),
            idempotency: bus.bucket("idempotency"),
            confirms: Semaphore::new(config.confirms_max),
            checks: Semaphore::new(1),
            listing: Listing::new(&bus),
            rates: Rates::new(config.rate),
            book: Book::new(&bus),
            streams: Streams::default(),
            refusals,
            policies: PolicyStore::new(&bus),
            blocks: Blocks::new(&bus),
            opa: None,
            decisions,
            vault: None,
            config: config.clone(),
            bus,
        }
    }

    /// The same, believing tokens of identity providers, too.
    #[must_use]
    pub fn with_issuers(self, issuers: Oidc) -> Self {
        Self { auth: self.auth.with_issuers(issuers), ..self }
    }

    /// Fails at once while the broker is away, before anything is stored or waited for.
    ///
    /// # Errors
    /// 503.
    pub fn connected(&self) -> Result<(), Problem> {
        if self.bus.is_connected() {
            return Ok(());
        }
        Err(Problem::unavailable("the message broker cannot be reached; nothing was stored"))
    }

    /// What the caller is told of a failed authentication; a denial goes to the audit log.
    pub fn refuse(&self, what: &str, error: &AuthError) -> Problem {
        match error {
            AuthError::Denied(reason) => {
                self.refusals.note(what, *reason);
                denied(*reason)
            }
            AuthError::Records(cause) => store_problem(cause),
            AuthError::IssuerAway => Problem::unavailable("the token's issuer does not answer"),
        }
    }

    /// Asks the signer for one URL.
    ///
    /// # Errors
    /// 413 over the tenant's quota, 503 when no signer has an answer, 500 when it refuses what
    /// intake has checked.
    pub async fn sign(
        &self,
        subject: Subject,
        request: &SignRequest,
    ) -> Result<hotcell_schemas::work::SignedUrl, Problem> {
        match self.ask(subject, request).await? {
            SignReply::Signed { signed } => Ok(signed),
            SignReply::OverQuota { stored_bytes_max } => {
                let rule = format!("would exceed the {stored_bytes_max} bytes that may be stored");
                Err(Problem::field(Kind::TooLarge, "fileSize", rule))
            }
            SignReply::Later { reason } => {
                warn!(%reason, "the signer has no URL now");
                Err(Problem::unavailable("a URL cannot be signed now; try again later"))
            }
            SignReply::Refused { reason } => {
                error!(%reason, "the signer refuses a request of ours");
                Err(Problem::internal())
            }
        }
    }

    /// Asks another service.
    ///
    /// # Errors
    /// 503 when none answers, 500 when the answer is not believed.
    pub async fn ask<Q: Message, A: Message>(
        &self,
        subject: Subject,
        request: &Q,
    ) -> Result<A, Problem> {
        let timeout = Duration::from_secs(ASK_SECS);
        let attempt = || self.bus.ask(subject.clone(), request, timeout);
        match retry(ASK_POLICY, AskError::is_transient, attempt).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(cause) if cause.is_transient() => {
                warn!(%subject, error = %describe(&cause), "a service does not answer");
                Err(Problem::unavailable("a service that this request needs does not answer"))
            }
            Err(cause) => {
                error!(%subject, error = %describe(&cause), "a request of ours failed");
                Err(Problem::internal())
            }
        }
    }
}

/// The problem of a record that was not read or written.
#[must_use]
pub fn store_problem(cause: &KvError) -> Problem {
    match cause {
        KvError::Unread(_) | KvError::Unwritten(_) => {
            warn!(error = %describe(cause), "the broker does not answer");
            Problem::unavailable("the message broker does not answer")
        }
        KvError::Conflict => {
            Problem::new(Kind::Conflict, "another request changed this at the same moment")
        }
        KvError::Malformed(_) | KvError::Encode(_) => {
            error!(error = %describe(cause), "a record of ours is unusable");
            Problem::internal()
        }
    }
}

/// The caller learns what to send, never which part of a credential was wrong.
fn denied(reason: Denied) -> Problem {
    if let Some(problem) = crate::oidc::problem(reason) {
        return problem;
    }
    let detail = match reason {
        Denied::Missing => "send the header `Authorization: Bearer hck_...`",
        Denied::InQuery => "credentials are not accepted in the query string; revoke this one",
        Denied::Several => "send exactly one Authorization header",
        Denied::Scheme => "the only schemes are Bearer and, for tokens, DPoP",
        Denied::NoLogin => "the broker does not state this login",
        Denied::Malformed
        | Denied::Unknown
        | Denied::WrongSecret
        | Denied::Revoked
        | Denied::Expired
        | Denied::Token(_)
        | Denied::TokenIssuer
        | Denied::TokenType
        | Denied::TokenKey
        | Denied::TokenClaims
        | Denied::WrongCode
        | Denied::TooManyCodes
        | Denied::Oidc(_)
        | Denied::Proof(_)
        | Denied::Unmapped(_)
        | Denied::NoTenant => "the credential is not valid",
        Denied::Network => {
            let detail = "the request comes from outside the key's networks";
            return Problem::new(Kind::Forbidden, detail);
        }
    };
    Problem::new(Kind::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_cannot_tell_an_unknown_key_from_a_revoked_one() {
        let bodies: Vec<_> = [Denied::Malformed, Denied::Unknown, Denied::WrongSecret]
            .into_iter()
            .chain([Denied::Revoked, Denied::NoTenant])
            .map(|reason| denied(reason).body())
            .collect();
        assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn a_reply_says_success_and_result() {
        let reply = Reply::new(202, serde_json::json!({ "id": 1 }));
        assert_eq!(reply.body, br#"{"success":true,"result":{"id":1}}"#);
    }
}
