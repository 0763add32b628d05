//! The strict broker's protocol: what a worker may ask and what the signer answers.

pub use crate::secret::SecretUrl;
use crate::{
    Digest, FileName, JobId, PoolId, Report, UnixMs,
    envelope::messages,
    plan::{CellLimits, Plan},
    report::ProducedFile,
};
use serde::{Deserialize, Deserializer, Serialize};

/// A URL with the headers that were signed into it and must be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedUrl {
    /// The URL.
    pub url: SecretUrl,
    /// Headers to send, name and value.
    pub headers: Vec<(String, String)>,
    /// When it dies.
    pub expires_at: UnixMs,
}

/// A trusted service asks for one URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "verb", rename_all = "snake_case")]
pub enum SignRequest {
    /// Intake: PUT of an upload, bound to size and type.
    Upload {
        /// The tenant.
        tenant: crate::TenantId,
        /// The object.
        key: crate::BlobKey,
        /// Declared size, in bytes.
        size: u64,
        /// Declared MIME type.
        content_type: String,
    },
    /// Intake, validator and hasher: GET of one object of one tenant. The subject says for whom.
    Read {
        /// The tenant.
        tenant: crate::TenantId,
        /// The object.
        key: crate::BlobKey,
        /// The job it is read for, when there is one.
        job: Option<JobId>,
    },
}

/// The answer to a [`SignRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "answer", rename_all = "snake_case")]
pub enum SignReply {
    /// The URL.
    Signed {
        /// The URL.
        signed: SignedUrl,
    },
    /// No upload: the tenant's stored bytes would exceed its limit.
    OverQuota {
        /// The limit, in bytes.
        stored_bytes_max: u64,
    },
    /// Refused, and why.
    Refused {
        /// One sentence.
        reason: String,
    },
    /// Nobody can tell now: another signer may, or this one at another time.
    Later {
        /// One sentence.
        reason: String,
    },
}

/// A worker asks for work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextRequest {
    /// 16 random bytes in hex; the answer repeats it.
    pub nonce: String,
    /// The worker's image.
    pub image_digest: Digest,
    /// The cell's root: FFmpeg and its libraries.
    pub root_digest: Digest,
    /// First line of `ffmpeg -version`.
    pub ffmpeg: String,
}

/// The answer to [`NextRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "answer", rename_all = "snake_case")]
pub enum NextReply {
    /// Work.
    Order {
        /// The order.
        order: Box<WorkOrder>,
    },
    /// Nothing now; ask again.
    Empty {
        /// The request's nonce.
        nonce: String,
    },
    /// This worker gets no work.
    Refused {
        /// The request's nonce.
        nonce: String,
        /// One sentence for the worker's log.
        reason: String,
    },
}

/// One input of a work order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderInput {
    /// Where to read it.
    pub get: SignedUrl,
    /// Its size, in bytes.
    pub size: u64,
    /// Its SHA-256: anything else is not the input.
    pub sha256: Digest,
}

/// A signed work order: everything a worker learns of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkOrder {
    /// The request's nonce: an order for another request, or replayed, is refused.
    pub nonce: String,
    /// The worker that it is for.
    pub worker: crate::WorkerId,
    /// The pool that it is for.
    pub pool: PoolId,
    /// The job.
    pub job: JobId,
    /// The attempt: the epoch of the lease.
    pub attempt: u32,
    /// What to do.
    pub plan: Plan,
    /// Limits of the probe's cell.
    pub probe_limits: CellLimits,
    /// What to read.
    pub inputs: Vec<OrderInput>,
    /// The lease token, opaque.
    pub lease: String,
    /// When the lease lapses without a beat.
    pub lease_until: UnixMs,
}

/// Asks for fresh GET URLs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// The lease token.
    pub lease: String,
}

/// The answer to [`LeaseRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "answer", rename_all = "snake_case")]
pub enum InputsReply {
    /// Fresh URLs, one for each input, in the order's order.
    Inputs {
        /// The inputs.
        inputs: Vec<OrderInput>,
    },
    /// The lease is lost.
    Refused {
        /// Why.
        reason: Stop,
    },
}

/// Still at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeatRequest {
    /// The lease token.
    pub lease: String,
    /// Part of the work done, in thousandths; `None` while unknown.
    pub progress_permille: Option<u16>,
}

/// Why a worker must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The job was cancelled.
    Cancelled,
    /// The lease lapsed, or another attempt began.
    LeaseLost,
    /// The token is not one of ours, or is another worker's.
    BadLease,
    /// What was asked for exceeds the plan.
    NotPlanned,
}

/// The answer to [`BeatRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "answer", rename_all = "snake_case")]
pub enum BeatReply {
    /// Go on, with a renewed lease.
    GoOn {
        /// The new token.
        lease: String,
        /// When it lapses without a beat.
        lease_until: UnixMs,
    },
    /// Stop.
    Stop {
        /// Why.
        reason: Stop,
    },
}

/// Asks for PUT URLs for what was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlsRequest {
    /// The lease token.
    pub lease: String,
    /// The planned files, as made.
    pub files: Vec<ProducedFile>,
    /// The compressed stderr: its size in bytes and SHA-256.
    pub stderr: Option<(u64, Digest)>,
}

/// A PUT URL for one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutUrl {
    /// The file.
    pub name: FileName,
    /// The URL.
    pub put: SignedUrl,
}

/// The answer to [`UrlsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "answer", rename_all = "snake_case")]
pub enum UrlsReply {
    /// One URL for each file, and one for stderr when asked.
    Urls {
        /// For the files.
        files: Vec<PutUrl>,
        /// For stderr.
        stderr: Option<SignedUrl>,
        /// Whether those of the files lead to a bucket of the tenant's, which may refuse or hang
        /// where hotcell's store does not; absent where they do not.
        #[serde(default, skip_serializing_if = "is_false")]
        elsewhere: bool,
    },
    /// Refused.
    Refused {
        /// Why.
        reason: Stop,
    },
}

/// The report of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoneRequest {
    /// The lease token.
    pub lease: String,
    /// The job, again: the signature covers it.
    pub job: JobId,
    /// The attempt, again.
    pub attempt: u32,
    /// The report.
    pub report: Report,
}

/// The answer to [`DoneRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "answer", rename_all = "snake_case")]
pub enum DoneReply {
    /// The report is in the job's history.
    // serde drops the other fields of a unit variant unseen, in spite of deny_unknown_fields.
    #[serde(deserialize_with = "no_fields")]
    Accepted,
    /// It is not.
    Refused {
        /// Why.
        reason: Stop,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(it: &bool) -> bool {
    !*it
}

/// Nothing but the tag.
fn no_fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    Nothing::deserialize(deserializer).map(|Nothing {}| ())
}

messages! {
    SignRequest = "sign_request";
    SignReply = "sign_reply";
    NextRequest = "next_request";
    NextReply = "next_reply";
    LeaseRequest = "lease_request";
    InputsReply = "inputs_reply";
    BeatRequest = "beat_request";
    BeatReply = "beat_reply";
    UrlsRequest = "urls_request";
    UrlsReply = "urls_reply";
    DoneRequest = "done_request";
    DoneReply = "done_reply";
}
