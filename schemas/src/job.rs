//! The job snapshot: every event carries all of it, so the last message of a job is its state.

use crate::{
    BlobKey, DestinationName, Digest, EventKind, FileName, JobId, KeyId, Plan, PoolId, Report,
    Subject, TenantId, UnixMs, WorkerId,
    envelope::Message,
    identity::{Authority, Decided},
    plan::Sniffed,
    reject::Failure,
    request::TranscodeRequest,
};
use serde::{Deserialize, Serialize};

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "snake_case")]
pub enum Actor {
    /// An API key, by its public half.
    ApiKey {
        /// The key's id.
        id: KeyId,
    },
    /// A login in the tenant's own broker account, as the broker states it.
    NatsLogin {
        /// The login's public nkey.
        user: String,
        /// The login's name in its token.
        name: String,
    },
    /// A person, by an identity provider's token (OpenID Connect `sub`).
    User {
        /// The provider.
        issuer: String,
        /// The person, as the provider names it.
        subject: String,
    },
    /// A program, by an identity provider's token for the client itself.
    Service {
        /// The provider.
        issuer: String,
        /// The client's id.
        client: String,
    },
}

/// An input, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The object.
    pub key: BlobKey,
    /// The server's file name.
    pub name: FileName,
    /// Its size, in bytes.
    pub size: u64,
    /// The MIME type declared at upload.
    pub content_type: String,
    /// SHA-256, pinned when the upload was confirmed.
    pub sha256: Digest,
    /// The store's ETag, pinned when the upload was confirmed.
    pub etag: String,
    /// What the validator saw.
    pub sniffed: Option<Sniffed>,
}

/// An output that the hasher agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Its name.
    pub name: FileName,
    /// The object.
    pub key: BlobKey,
    /// Its size, in bytes.
    pub size: u64,
    /// Its MIME type.
    pub content_type: String,
    /// SHA-256 as the worker reported it, and, once the job is completed, as the hasher read it.
    pub sha256: Digest,
}

/// A presigned URL that was handed out, without the URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// `GET` or `PUT`.
    pub method: String,
    /// SHA-256 of the object's key.
    pub key_digest: Digest,
    /// Life of the URL, in seconds.
    pub ttl_secs: u32,
    /// The tenant's destination that the URL leads to; hotcell's own store when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<DestinationName>,
}

/// The worker's signature over its report; with the report it can be checked by anyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportSeal {
    /// The worker's public nkey.
    pub key: String,
    /// Message id of the `done` request.
    pub msg_id: String,
    /// When it was signed.
    pub time: UnixMs,
    /// SHA-256 of the signed body.
    pub body_digest: Digest,
    /// Ed25519 signature, hex.
    pub sig: String,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// 1, 2, 3: the epoch that every verb of a lease must match.
    pub number: u32,
    /// Who got it.
    pub worker: WorkerId,
    /// The worker's public nkey, as the broker states it.
    pub worker_key: String,
    /// The pool.
    pub pool: PoolId,
    /// When it was given.
    pub assigned_at: UnixMs,
    /// The URLs given with it.
    pub grants: Vec<Grant>,
    /// When it ended.
    pub ended_at: Option<UnixMs>,
    /// What the worker said.
    pub report: Option<Report>,
    /// The worker's signature over what it said.
    pub seal: Option<ReportSeal>,
    /// Why it failed; also without a report, when the lease lapsed.
    pub failure: Option<Failure>,
}

/// When a job reached a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// The state.
    pub event: EventKind,
    /// When.
    pub at: UnixMs,
}

/// A state that a job reached, as its tenant is told it: by the server-sent events of the API, and
/// in its own broker account. A state told twice or late is recognised by its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateEvent {
    /// The job.
    pub id: JobId,
    /// The state.
    pub state: EventKind,
    /// When it was reached, RFC 3339.
    pub at: String,
    /// Its number in the job's timeline, from 1: the event's id on a stream of server-sent events.
    pub seq: usize,
}

/// A job, as of its last event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The last event.
    pub state: EventKind,
    /// Who asked.
    pub actor: Actor,
    /// How strongly that was shown, and for what it is entitled.
    #[serde(default, skip_serializing_if = "is_none")]
    pub authority: Authority,
    /// What each node decided, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decided>,
    /// The tenant's own name for the work.
    pub workflow: Option<String>,
    /// What was asked.
    pub request: TranscodeRequest,
    /// Where it will run.
    pub pool: PoolId,
    /// What is read.
    pub inputs: Vec<Input>,
    /// What FFmpeg will be told; from `validated` on.
    pub plan: Option<Plan>,
    /// Every attempt, oldest first.
    pub attempts: Vec<Attempt>,
    /// What was made; from `encoded` on.
    pub outputs: Vec<Output>,
    /// Why the job ended without output.
    pub failure: Option<Failure>,
    /// When each state was reached, oldest first.
    pub stamps: Vec<Stamp>,
}

/// What is not there is not written: events of before read the same, and permit nothing.
fn is_none(authority: &Authority) -> bool {
    *authority == Authority::default()
}

impl Job {
    /// The job moved to `event` at `at`.
    #[must_use]
    pub fn moved(mut self, event: EventKind, at: UnixMs) -> Self {
        self.state = event;
        self.stamps.push(Stamp { event, at });
        self
    }

    /// The states that it reached, for its tenant, but for the `known` first.
    pub fn states(&self, known: usize) -> impl DoubleEndedIterator<Item = StateEvent> {
        self.stamps.iter().enumerate().skip(known).map(|(index, stamp)| StateEvent {
            id: self.id.clone(),
            state: stamp.event,
            at: stamp.at.rfc3339(),
            seq: index + 1,
        })
    }

    /// The number of the last attempt; 0 before the first.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempts.last().map_or(0, |attempt| attempt.number)
    }
}

impl Message for Job {
    const TYPE: &'static str = "job";
    const VERSION: u16 = 1;

    fn is_about(&self, subject: &Subject) -> bool {
        subject.tenant().as_ref() == Some(&self.tenant)
            && subject.job_id().as_ref() == Some(&self.id)
            && subject.route().event() == Some(self.state)
            && subject
                .pool()
                .is_none_or(|pool| pool == self.pool && subject.class() == self.request.priority)
    }
}
