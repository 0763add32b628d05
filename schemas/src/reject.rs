//! Stable codes for everything that can end an attempt or a job without its output.
//! A code is a promise: it is never renamed, and its paragraph is in docs/rejects.md.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $retry:literal;)*) => {
        /// Why a job or an attempt ended without its output.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum RejectCode {
            $($(#[doc = $doc])+ #[serde(rename = $text)] $name,)*
        }

        impl RejectCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The paragraph for whoever has to act, as printed in docs/rejects.md.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+)),* }
            }

            /// Whether another attempt by another worker can end differently.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$name => $retry),* }
            }
        }
    };
}

codes! {
    /// The input object is not in the store: it was never uploaded, or it was reaped. Upload it again.
    InputMissing = "input_missing", false;
    /// The input's size, ETag or SHA-256 is not what was pinned when it was confirmed. Upload it again under a new name.
    InputChanged = "input_changed", false;
    /// The input is empty.
    InputEmpty = "input_empty", false;
    /// The input is larger than the limit for uploads.
    InputTooLarge = "input_too_large", false;
    /// The bytes are no media format that hotcell accepts. Text, archives, documents and programs end here.
    InputNotMedia = "input_not_media", false;
    /// The bytes are media, but not of the content type that was declared at upload. Declare the true type.
    InputTypeMismatch = "input_type_mismatch", false;
    /// The input is a playlist or a manifest (m3u8, DASH, concat, SDP). It could name other files, so it is never opened.
    InputPlaylist = "input_playlist", false;
    /// The container's structure is cut short or contradicts itself. Export the file again.
    InputMalformed = "input_malformed", false;
    /// The input declares more pixels, streams, frames or seconds than the limits allow.
    InputTooComplex = "input_too_complex", false;
    /// This very file killed its cell twice, so no worker is given it any more. An operator can look at it and release it with `hotcell poison release`.
    InputPoisoned = "input_poisoned", false;
    /// The request asks for a combination that no encoder of ours makes, or a stream that the input does not have.
    RequestUnsupported = "request_unsupported", false;
    /// The request gives FFmpeg's own arguments, and the tenant's record does not permit them.
    RequestForbidden = "request_forbidden", false;
    /// The destination that the request names is not, or no longer, one of the tenant's. An operator enters one with `hotcell destination add`.
    DestinationUnknown = "destination_unknown", false;
    /// The tenant's own bucket refuses the output, also under a URL that was signed anew: the sentence says with which status (403: its key may not write there, or is not known any more; 404: there is no such bucket). Put it right at the bucket, or give hotcell another key with `hotcell destination rekey`, and submit the job again.
    DestinationRefused = "destination_refused", false;
    /// Policy does not permit this to whoever asked, as the job was compiled. The sentence names the policies and what would be allowed. What intake let pass by mistake, or never saw, ends here.
    PolicyDenied = "policy_denied", false;
    /// Whoever asked was blocked while the job waited, and the sentence names the block. Submit again once it is lifted.
    IdentityBlocked = "identity_blocked", false;
    /// FFmpeg's prober could not read the input in its cell.
    ProbeFailed = "probe_failed", false;
    /// FFmpeg ended with an error. The job's stderr says which.
    EncodeFailed = "encode_failed", false;
    /// The cell was killed for an act that no encode needs. The input is suspected to be an attack.
    CellViolation = "cell_violation", false;
    /// The cell's program crashed on a signal.
    CellCrashed = "cell_crashed", true;
    /// The cell used more memory than the job may.
    ResourceMemory = "resource_memory", false;
    /// The cell used more CPU seconds than the job may.
    ResourceCpu = "resource_cpu", false;
    /// The cell ran longer than the job may.
    ResourceWall = "resource_wall", false;
    /// The output grew past the limit.
    ResourceOutput = "resource_output", false;
    /// The cell started more processes or threads than the job may.
    ResourcePids = "resource_pids", false;
    /// The cell made no progress for too long: no output, no line, no work. The input or the request makes FFmpeg hang.
    Stalled = "stalled", false;
    /// FFmpeg ended well but an output is missing, empty or not a regular file.
    OutputMissing = "output_missing", false;
    /// FFmpeg ended well, but its output is not what was planned: another container, codec, size or duration, or it cannot be read. The sentence says what differs.
    OutputInvalid = "output_invalid", false;
    /// The stored output is not the one that the worker reported. The worker, the store or the network is at fault.
    OutputMismatch = "output_mismatch", true;
    /// The worker could not fetch an input.
    DownloadFailed = "download_failed", true;
    /// The worker could not store an output.
    UploadFailed = "upload_failed", true;
    /// The cell could not be built on this worker. An operator must look at its log.
    CellUnavailable = "cell_unavailable", true;
    /// The worker stopped beating: it died, hung, or lost its connection.
    LeaseLost = "lease_lost", true;
    /// The worker was told to stop and gave the job back.
    WorkerStopped = "worker_stopped", true;
    /// The tenant cancelled the job.
    Cancelled = "cancelled", false;
    /// Every attempt failed; the last error is in the job's attempts.
    AttemptsExhausted = "attempts_exhausted", false;
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The sentence for a tenant that may not give FFmpeg's own arguments.
pub const RAW_FORBIDDEN: &str = "FFmpeg's own arguments are not permitted to this tenant";

/// A code with one sentence about this case. The sentence holds no URL and no media bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The stable code.
    pub code: RejectCode,
    /// One sentence for people.
    pub message: String,
}

impl Failure {
    /// A failure; the sentence is cut at 500 characters, and what a terminal would act on is
    /// replaced: workers write such sentences, and operators read them.
    #[must_use]
    pub fn new(code: RejectCode, message: impl AsRef<str>) -> Self {
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        Self { code, message: message.as_ref().chars().take(500).map(shown).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_short_and_does_nothing_to_a_terminal() {
        let failure = Failure::new(RejectCode::EncodeFailed, "a\u{1b}[2Jb\r\nc");
        assert_eq!(failure.message, "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        assert_eq!(
            Failure::new(RejectCode::EncodeFailed, "é".repeat(600)).message.chars().count(),
            500
        );
    }
}
