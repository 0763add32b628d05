//! What is asked and what is answered. Facts come from the compiled job, never from the text of a
//! request.

use hotcell_schemas::{
    Digest, TenantId, UnixMs,
    identity::{Action, Authority},
    job::Actor,
    tenancy::Priority,
};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Its own tenant.
    pub tenant: &'a TenantId,
    /// Who.
    pub actor: &'a Actor,
    /// How strongly that was shown.
    pub authority: &'a Authority,
}

/// One output as compiled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputFacts {
    /// `mp4`, `webm`, ...
    pub format: String,
    /// `h264`, `h265`, `vp9`; empty without video.
    pub video_codec: String,
    /// `aac`, `opus`, `mp3`; empty without sound.
    pub audio_codec: String,
    /// Picture height in pixels; 0 without picture, and before the input was read where it is the
    /// input's; the most that is possible where it stays unknown.
    pub height: i64,
    /// Target bits per second of the picture, or its bound where it has none; 0 without picture,
    /// [`crate::BITRATE_MOST`] where neither is said.
    pub video_bitrate: i64,
    /// Target bits per second of the sound; 0 without sound, [`crate::BITRATE_MOST`] without a target.
    pub audio_bitrate: i64,
    /// Most bits per second of video that a decoder's buffer of two seconds lets through; 0 without
    /// picture, [`crate::BITRATE_MOST`] without such a bound.
    pub video_maxrate: i64,
    /// Constant quality (CRF); -1 for a target rate. Lower is better and larger.
    pub crf: i64,
    /// Frames per second where a filter sets it; 0 for the input's, until the output was made.
    pub fps: i64,
    /// Seconds of output; 0 before the input was read, the most where it stays unknown.
    pub duration_secs: i64,
    /// Names of the filters, in order.
    pub filters: Vec<String>,
    /// Whether the request gave FFmpeg's own arguments.
    pub raw_arguments: bool,
}

/// What is known of the request beside who asks.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The outputs. `SubmitTranscode` and `PublishOutput` are decided for each by itself, and refused
    /// without any; other actions do not look at them.
    pub outputs: Vec<OutputFacts>,
    /// Whether the source carries marks of DRM or encryption.
    pub protected_source: bool,
    /// Size of the source, in bytes; 0 where there is none.
    pub source_bytes: i64,
    /// Where results go: `store` for the tenant's own prefix, a host for webhooks.
    pub destination: String,
    /// Priority asked for.
    pub priority: Priority,
    /// Whether a valid approval of exactly this request was shown.
    pub approved: bool,
    /// Risk of the principal, 0 to 3: the highest that a block says of it which is none of 4.
    pub risk: u8,
    /// Roles that a key or token to be made would have.
    pub granted_roles: Vec<hotcell_schemas::identity::RoleName>,
}

/// One question.
#[derive(Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub who: Who<'a>,
    /// For what.
    pub action: Action,
    /// Whose resource it is.
    pub owner: &'a TenantId,
    /// What is known.
    pub facts: &'a Facts,
    /// Now. Of a job, when it was submitted: its authority is of then, and a second factor that was
    /// fresh at the door is not stale because the job had to wait.
    pub now: UnixMs,
}

/// What stronger authentication would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepUp {
    /// `acr_values` (RFC 9470 §3).
    pub acr_values: Vec<String>,
    /// `max_age`, in seconds.
    pub max_age_secs: u64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Permitted.
    Allow,
    /// Permitted with stronger authentication, or with an approval where the principal has none.
    StepUp(StepUp),
    /// Refused.
    Deny,
}

/// The answer with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// Ids of the policies that decided.
    pub policies: Vec<String>,
    /// What would be allowed, one sentence for each policy that refused.
    pub advice: Vec<String>,
    /// SHA-256 of the set in force.
    pub digest: Digest,
}
