//! One line of exported evidence, and what intake asks the auditor for.
//!
//! Promises: a line is made of what one entry of the log says, and of nothing else, so whoever has
//! the log can make it again; one form for files and for the API. Refuses: URLs, keys, tokens and
//! bodies; a job's own request stays in the log, where `hotcell audit verify --job` proves it.

use crate::{
    Digest, JobId, Role, TenantId, UnixMs, WorkerId,
    envelope::Message,
    identity::{Authority, Decided},
    job::Actor,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{fmt, str::FromStr};

/// Lines of one page at most: with all their texts at the limits below they would not fit one
/// message, so a page also ends by its bytes.
pub const EVIDENCE_LIMIT_MAX: u32 = 500;

/// Lines of one page when the request names no number.
pub const EVIDENCE_LIMIT_DEFAULT: u32 = 100;

/// Encoded bytes of the lines of one page: three quarters of a signed body, so that one more line,
/// which is under a quarter, still fits.
pub const EVIDENCE_BYTES_MAX: usize = crate::limits::BODY_BYTES_MAX / 4 * 3;

/// Longest text of a line that others wrote parts of, in bytes; what is longer is cut at a mark.
pub const EVIDENCE_TEXT_BYTES_MAX: usize = 1024;

/// What a line was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// An event of a job.
    Job,
    /// An act besides job events.
    Audit,
    /// A message that its subject's publisher did not sign, or that is not of its shape: it is in
    /// the log, and what its body says is not repeated.
    Unbelieved,
}

impl EvidenceKind {
    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Audit => "audit",
            Self::Unbelieved => "unbelieved",
        }
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRow {
    /// Index of its leaf.
    pub index: u64,
    /// Hash of its leaf (RFC 6962 §2.1): what a proof begins with.
    pub leaf: Digest,
    /// Sequence in the stream.
    pub seq: u64,
    /// Time in the stream.
    pub at: UnixMs,
    /// Whom it concerns; the platform when absent.
    pub tenant: Option<TenantId>,
    /// What it was made from.
    pub kind: EvidenceKind,
    /// The event of the job, or the act.
    pub event: String,
    /// Which service signed it.
    pub by: Option<Role>,
    /// Who is behind it: for a job whoever submitted it, for an act whoever did it. Nobody where a
    /// service, a worker or the operator acts; and nobody for `cancelled`, which the act
    /// `changed` before it names.
    pub actor: Option<Actor>,
    /// How strongly that was shown.
    pub authority: Option<Authority>,
    /// The worker it speaks of.
    pub worker: Option<WorkerId>,
    /// What the signing service decided, oldest first.
    pub decided: Vec<Decided>,
    /// The job.
    pub job: Option<JobId>,
    /// On what: a route and an id, a file's name, hashes of keys.
    pub target: Option<String>,
    /// What was done or said, in constant words: `key_created`, a reason, an error's code.
    pub note: Option<String>,
}

impl EvidenceRow {
    /// The line as JSON, in the form of the API and of `hotcell audit export`.
    #[must_use]
    pub fn json(&self) -> Value {
        let decided: Vec<Value> = self.decided.iter().map(decided).collect();
        let authority = self.authority.as_ref().map(authority);
        json!({
            "index": self.index,
            "leafHash": self.leaf,
            "seq": self.seq,
            "time": self.at.rfc3339(),
            "tenant": self.tenant,
            "kind": self.kind,
            "event": self.event,
            "by": self.by,
            "actor": self.actor.as_ref().map(Who::of).map(|who| who.to_string()),
            "authority": authority,
            "worker": self.worker,
            "decisions": decided,
            "job": self.job,
            "target": self.target,
            "note": self.note,
        })
    }
}

/// How strongly a principal was shown, and the approval that it used: the one form for people.
#[must_use]
pub fn authority(authority: &Authority) -> Value {
    json!({
        "roles": authority.roles,
        "mfa": authority.mfa,
        "acr": authority.acr,
        "authTime": authority.auth_time.map(UnixMs::rfc3339),
        "network": authority.network,
        "session": authority.session,
        "bound": authority.bound,
        "approval": authority.approval,
    })
}

fn decided(decided: &Decided) -> Value {
    json!({
        "node": decided.node,
        "action": decided.action,
        "outcome": decided.outcome,
        "policies": decided.policies,
        "policyDigest": decided.digest,
    })
}

/// A text that names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be KIND:ID, KIND being api_key, nats_login, user, service or worker")]
pub struct UnknownWho;

/// Kinds of those who act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhoKind {
    /// An API key, by its public half.
    ApiKey,
    /// A login in a tenant's broker account, by its name or its public nkey.
    NatsLogin,
    /// A person of an identity provider.
    User,
    /// A program of an identity provider.
    Service,
    /// A worker.
    Worker,
}

impl WhoKind {
    const ALL: [Self; 5] = [Self::ApiKey, Self::NatsLogin, Self::User, Self::Service, Self::Worker];

    const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::NatsLogin => "nats_login",
            Self::User => "user",
            Self::Service => "service",
            Self::Worker => "worker",
        }
    }
}

/// Whose evidence is asked for: `KIND:ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// What it is.
    pub kind: WhoKind,
    /// The identity provider; any when absent.
    pub issuer: Option<String>,
    /// Its id.
    pub id: String,
}

impl Who {
    /// Longest text, in bytes: an issuer's URL and a subject, which OpenID Connect ends at 255.
    pub const BYTES_MAX: usize = 512;

    /// An actor by its full name.
    #[must_use]
    pub fn of(actor: &Actor) -> Self {
        let named = |kind, issuer: Option<&String>, id: &str| Self {
            kind,
            issuer: issuer.cloned(),
            id: id.to_owned(),
        };
        match actor {
            Actor::ApiKey { id } => named(WhoKind::ApiKey, None, id.as_str()),
            Actor::NatsLogin { name, .. } => named(WhoKind::NatsLogin, None, name),
            Actor::User { issuer, subject } => named(WhoKind::User, Some(issuer), subject),
            Actor::Service { issuer, client } => named(WhoKind::Service, Some(issuer), client),
        }
    }

    /// Whether a line is of this one.
    #[must_use]
    pub fn is_in(&self, row: &EvidenceRow) -> bool {
        if self.kind == WhoKind::Worker {
            return row.worker.as_ref().is_some_and(|worker| worker.as_str() == self.id);
        }
        let Some(actor) = &row.actor else { return false };
        let full = Self::of(actor);
        let by_key = matches!(actor, Actor::NatsLogin { user, .. } if *user == self.id);
        full.kind == self.kind
            && (full.id == self.id || by_key)
            && (self.issuer.is_none() || self.issuer == full.issuer)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind.as_str())?;
        if let Some(issuer) = &self.issuer {
            write!(f, "{issuer}#")?;
        }
        f.write_str(&self.id)
    }
}

impl FromStr for Who {
    type Err = UnknownWho;
    fn from_str(text: &str) -> Result<Self, UnknownWho> {
        if text.len() > Self::BYTES_MAX || text.chars().any(char::is_control) {
            return Err(UnknownWho);
        }
        let (kind, id) = text.split_once(':').ok_or(UnknownWho)?;
        let kind = WhoKind::ALL.into_iter().find(|it| it.as_str() == kind).ok_or(UnknownWho)?;
        let provided = matches!(kind, WhoKind::User | WhoKind::Service);
        // An issuer is a URL without a fragment (OpenID Connect Core §1.2); a subject may hold `#`.
        let (issuer, id) = match id.split_once('#') {
            Some((issuer, id)) if provided && issuer.contains("://") => {
                (Some(issuer.to_owned()), id)
            }
            _ => (None, id),
        };
        if id.is_empty() {
            return Err(UnknownWho);
        }
        Ok(Self { kind, issuer, id: id.to_owned() })
    }
}

/// Evidence of one tenant, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRequest {
    /// Whose, and nobody else's.
    pub tenant: TenantId,
    /// From when on.
    pub from: Option<UnixMs>,
    /// Before when.
    pub to: Option<UnixMs>,
    /// Only of this one.
    pub actor: Option<Who>,
    /// From which leaf on; the first of the time asked for when absent.
    pub cursor: Option<u64>,
    /// Lines at most.
    pub limit: u32,
}

/// The answer to [`EvidenceRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "answer", rename_all = "snake_case")]
pub enum EvidenceReply {
    /// Lines, each proven to be under the checkpoint.
    Page {
        /// The lines; there may be none although more follow.
        rows: Vec<EvidenceRow>,
        /// Where the next page begins; nothing at the end.
        next: Option<u64>,
        /// The signed checkpoint; nothing while the log is empty.
        checkpoint: Option<String>,
    },
    /// The log cannot be read now, or what is stored is not what was signed.
    Unreadable {},
}

impl Message for EvidenceRequest {
    const TYPE: &'static str = "evidence_request";
    const VERSION: u16 = 1;
}

impl Message for EvidenceReply {
    const TYPE: &'static str = "evidence_reply";
    const VERSION: u16 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_14_whoever_acts_has_one_name() {
        let check = |text: &str, issuer: Option<&str>, id: &str| {
            let who: Who = text.parse().unwrap();
            assert_eq!((who.issuer.as_deref(), who.id.as_str()), (issuer, id), "{text}");
            assert_eq!(who.to_string(), text);
        };
        check("api_key:k1", None, "k1");
        check("nats_login:app", None, "app");
        check("user:ana", None, "ana");
        check("user:a#b", None, "a#b");
        check("user:https://idp.example#ana", Some("https://idp.example"), "ana");
        check("service:https://idp.example/x#a#b", Some("https://idp.example/x"), "a#b");
        check("worker:w1", None, "w1");
        for bad in ["", "ana", "user:", "key:x", "user:https://idp.example#", "user:a\nb"] {
            assert_eq!(bad.parse::<Who>(), Err(UnknownWho), "{bad}");
        }
        assert!(format!("user:{}", "x".repeat(Who::BYTES_MAX)).parse::<Who>().is_err());
    }
}
