//! Records at rest in the key-value buckets, and what goes to the audit log besides job events.

use crate::{
    BlobKey, BlockId, DeliveryId, Digest, EndpointId, FileName, JobId, KeyId, PoolId, Role,
    TenantId, UnixMs, UploadId, WorkerId,
    envelope::Message,
    hook::DeliveryState,
    identity::{Authority, Decided, RoleName},
    job::{Actor, Grant},
    network::Network,
    plan::Sniffed,
    tenancy::{Quotas, TenantState},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A tenant; bucket `tenants`, key `<tenant>`. Key `account.<public key>` holds its slug.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRecord {
    /// Its slug.
    pub id: TenantId,
    /// The public key of its broker account.
    pub account: String,
    /// Pools where its jobs may run; the first is the default.
    pub pools: Vec<PoolId>,
    /// Encodes that run at once.
    pub concurrency: u32,
    /// Life of outputs, in seconds.
    pub retention_secs: u64,
    /// Stored bytes allowed.
    pub stored_bytes_max: u64,
    /// When it was made.
    pub created_at: UnixMs,
    /// Whether its requests may give FFmpeg's own arguments.
    #[serde(default, skip_serializing_if = "is_off")]
    pub raw_arguments: bool,
    /// Whether it is served.
    #[serde(default)]
    pub state: TenantState,
    /// What its plan grants.
    #[serde(default)]
    pub quotas: Quotas,
}

/// A right that is not given is not written: records of before read the same.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_off(right: &bool) -> bool {
    !*right
}

/// An API key; bucket `keys`, key `<key id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its public half.
    pub id: KeyId,
    /// Whose it is: exactly one tenant.
    pub tenant: TenantId,
    /// SHA-256 of the whole key text, `hck_<id>_<secret>`.
    pub sha256: Digest,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it was revoked.
    pub revoked_at: Option<UnixMs>,
    /// Its scopes: what it is for. Without any it opens nothing.
    #[serde(default)]
    pub roles: BTreeSet<RoleName>,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixMs>,
    /// Networks that it may be used from, as CIDR (RFC 4632); any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Its owner's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Who made it; the operator when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<Actor>,
    /// The key that it took the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_from: Option<KeyId>,
    /// The second factor of its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totp: Option<TotpRecord>,
}

/// The keys of a tenant; bucket `keys`, key `index.<tenant>`. It is written before a key's own
/// record, so that each record is in it; an id without a record is of a key that was never given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyIndex {
    /// Their ids, in order of their making.
    pub ids: BTreeSet<KeyId>,
}

impl KeyRecord {
    /// Who is the same person as this key, one step back: its maker, and the key that it took the
    /// place of.
    pub fn makers(&self) -> impl Iterator<Item = Actor> {
        let before = self.rotated_from.clone().map(|id| Actor::ApiKey { id });
        self.created_by.clone().into_iter().chain(before)
    }

    /// The record of a new key: of its text only the SHA-256. It opens nothing before it has roles.
    #[must_use]
    pub fn new(id: KeyId, tenant: TenantId, text: &str, now: UnixMs) -> Self {
        Self {
            id,
            tenant,
            sha256: Digest::of(text.as_bytes()),
            created_at: now,
            revoked_at: None,
            roles: BTreeSet::new(),
            expires_at: None,
            networks: Vec::new(),
            label: None,
            created_by: None,
            rotated_from: None,
            totp: None,
        }
    }
}

/// A second factor by RFC 6238.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TotpRecord {
    /// The shared secret, encrypted by the edge's own key.
    pub sealed: Vec<u8>,
    /// The last time step that was used: a code is good once.
    pub last_step: u64,
    /// When it was enrolled.
    pub enrolled_at: UnixMs,
    /// Whether a first code was shown; before that it counts for nothing.
    pub confirmed: bool,
}

/// What a confirmed upload was found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// The store's ETag.
    pub etag: String,
    /// When.
    pub at: UnixMs,
    /// What the edge saw in it: for the edge's own questions. The validator looks for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sniffed: Option<Sniffed>,
}

/// An upload; bucket `uploads`, key `<tenant>.<file name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadRecord {
    /// Its id: the folder in the store.
    pub id: UploadId,
    /// The server's file name.
    pub name: FileName,
    /// The object.
    pub key: BlobKey,
    /// Declared MIME type.
    pub content_type: String,
    /// Declared size, in bytes.
    pub size: u64,
    /// When the URL was given.
    pub created_at: UnixMs,
    /// Set when it was confirmed.
    pub pinned: Option<Pinned>,
}

/// An answer kept for an `Idempotency-Key`; bucket `idempotency`, key `<tenant>.<SHA-256 of the key>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdempotencyRecord {
    /// SHA-256 of the request's body.
    pub body: Digest,
    /// The job that it made.
    pub job: JobId,
}

/// Why something was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// An API key is unknown, revoked or malformed.
    Credential,
    /// A message's envelope does not verify.
    Envelope,
    /// A worker is not what it says, or its image is not allowed.
    Worker,
    /// A lease is forged, lapsed or another worker's.
    Lease,
    /// A request names what its sender has no right to.
    Scope,
}

/// What happened, besides job events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "act", rename_all = "snake_case")]
pub enum AuditAct {
    /// Presigned URLs were issued.
    Granted {
        /// To which role.
        to: Role,
        /// To which worker, for a worker.
        worker: Option<WorkerId>,
        /// For which job.
        job: Option<JobId>,
        /// In which attempt.
        attempt: Option<u32>,
        /// What.
        grants: Vec<Grant>,
    },
    /// Something was not believed.
    Refused {
        /// By which service.
        by: Role,
        /// What kind.
        what: Refusal,
        /// The subject or the route, without any payload.
        subject: String,
        /// The reason, from an error's constant text.
        reason: String,
    },
    /// An upload was confirmed.
    Confirmed {
        /// By whom.
        actor: Actor,
        /// The file.
        name: FileName,
        /// SHA-256 of its key.
        key_digest: Digest,
        /// Its size, in bytes.
        size: u64,
        /// SHA-256 of its bytes.
        sha256: Digest,
    },
    /// A webhook endpoint was made.
    EndpointCreated {
        /// The endpoint.
        endpoint: EndpointId,
        /// Host of its URL.
        host: String,
    },
    /// A webhook endpoint was disabled for its failures.
    EndpointDisabled {
        /// The endpoint.
        endpoint: EndpointId,
        /// Consecutive failed attempts, the last with it.
        failures: u32,
        /// Status of the last of them.
        status: Option<u16>,
        /// Its class, as in a delivery's record.
        error: String,
    },
    /// A delivery ended, or an attempt failed.
    Delivered {
        /// The delivery.
        delivery: DeliveryId,
        /// The endpoint.
        endpoint: EndpointId,
        /// The job.
        job: JobId,
        /// Its state now.
        state: DeliveryState,
        /// Attempts so far.
        attempts: u32,
        /// Status of the last attempt.
        status: Option<u16>,
    },
    /// The operator acted.
    Admin {
        /// What was done, as a verb: `tenant_added`, `key_created`, `worker_added`.
        action: String,
        /// To what.
        target: String,
    },
    /// Policy decided, and nothing else came of it.
    Decision {
        /// Who asked.
        actor: Actor,
        /// How strongly that was shown.
        authority: Authority,
        /// On what: a route and an id, never a URL.
        target: String,
        /// What came of it.
        decided: Decided,
    },
    /// A principal showed a second factor of ours, and got a token that says so.
    SteppedUp {
        /// Who.
        actor: Actor,
        /// What its token says; `session` is the token's id.
        authority: Authority,
    },
    /// A principal that is blocked asked for something, and got nothing.
    Blocked {
        /// Who.
        actor: Actor,
        /// The block.
        block: BlockId,
        /// What for: a method and a route's pattern, or a verb.
        target: String,
    },
    /// A principal changed something that decides over others.
    Changed {
        /// Who.
        actor: Actor,
        /// How strongly that was shown.
        authority: Authority,
        /// What was done, as a verb: `key_created`, `policy_put`, `approval_given`.
        what: String,
        /// To what.
        target: String,
        /// Why it was permitted.
        decided: Decided,
    },
    /// Bytes were removed.
    Reaped {
        /// SHA-256 of each key.
        keys: Vec<Digest>,
        /// Why: `unconfirmed`, `retention`.
        why: String,
    },
    /// A cell was killed for a system call that no encode needs.
    Violation {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
        /// The worker whose cell it was, and who says so.
        worker: WorkerId,
        /// The system call by its Linux name; `unknown` when only the signal is known.
        call: String,
        /// SHA-256 of each input.
        inputs: Vec<Digest>,
        /// SHA-256 of the profile in force.
        profile_digest: Digest,
    },
}

/// A record for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRecord {
    /// When.
    pub at: UnixMs,
    /// Whom it concerns; the platform when absent.
    pub tenant: Option<TenantId>,
    /// What happened.
    pub act: AuditAct,
}

impl Message for AuditRecord {
    const TYPE: &'static str = "audit";
    const VERSION: u16 = 1;
}
