//! The bodies of the HTTP API and of its twin over the broker: JSON, camelCase, unknown fields
//! refused. Shape only; what the values may be is checked by intake and compiled by the validator.

use crate::{
    DestinationName, EndpointId, EventKind, FileName, JobId, PresetName, secret::WebhookSecret,
    tenancy::Priority,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// `POST /v1/upload/presigned-url`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UploadRequest {
    /// The client's name for the file; the server makes its own of it.
    pub filename: String,
    /// Declared MIME type: `video/*`, `audio/*` or `image/*` from the accepted list.
    pub content_type: String,
    /// Exact size in bytes, 1 to 2^31.
    pub file_size: u64,
}

/// `POST /v1/upload/confirm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConfirmRequest {
    /// The server's file name.
    pub filename: FileName,
    /// The size that was uploaded, in bytes.
    pub file_size: u64,
}

/// One input of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InputRequest {
    /// `upload:<filename>`.
    pub url: String,
}

/// How much the encoder should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quality {
    /// Small files, quick.
    Low,
    /// The default.
    Medium,
    /// Larger files, slower.
    High,
}

/// Height of the picture; its width follows the input's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Resolution {
    /// As the input.
    #[serde(rename = "source")]
    Source,
    /// 240 lines.
    #[serde(rename = "240p")]
    P240,
    /// 360 lines.
    #[serde(rename = "360p")]
    P360,
    /// 480 lines.
    #[serde(rename = "480p")]
    P480,
    /// 720 lines.
    #[serde(rename = "720p")]
    P720,
    /// 1080 lines.
    #[serde(rename = "1080p")]
    P1080,
    /// 2160 lines.
    #[serde(rename = "2160p")]
    P2160,
}

/// A preset by its two knobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PresetRequest {
    /// How much the encoder should care.
    pub quality: Quality,
    /// Height of the picture.
    pub resolution: Resolution,
}

/// Output containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// MP4 with H.264 and AAC.
    Mp4,
    /// WebM with VP9 and Opus.
    Webm,
    /// Matroska with H.264 and AAC.
    Mkv,
    /// MP3 audio.
    Mp3,
    /// AAC in an M4A file.
    M4a,
}

/// Video encoders that a request may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VideoCodec {
    /// H.264 by libx264.
    H264,
    /// H.265 by libx265.
    H265,
    /// VP9 by libvpx.
    Vp9,
}

/// Audio encoders that a request may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioCodec {
    /// AAC.
    Aac,
    /// Opus.
    Opus,
    /// MP3.
    Mp3,
}

/// Explicit video settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VideoRequest {
    /// The encoder.
    pub codec: VideoCodec,
    /// Picture height in pixels, even, 16 to 4320; the input's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Picture width in pixels, even, 16 to 8192; by the input's shape when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Target bits per second, 50,000 to 100,000,000; constant quality when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
}

/// Explicit audio settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AudioRequest {
    /// The encoder.
    pub codec: AudioCodec,
    /// Target bits per second, 16,000 to 512,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
}

/// One explicit output: `video`, `audio` or both, or `ffmpegArgs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OutputRequest {
    /// The container.
    pub format: Format,
    /// Video settings; no video when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoRequest>,
    /// Audio settings; no audio when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioRequest>,
    /// FFmpeg's own arguments, where the tenant may give them: `{in0}` and `{out0}` are the only
    /// file names, and what is not on the list of accepted ones is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ffmpeg_args: Vec<String>,
}

/// `POST /v1/transcodes`: `outputFormat` with `preset`, or `outputs`, or `presetName`, in whose place
/// the edge puts one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TranscodeRequest {
    /// What to read.
    pub inputs: Vec<InputRequest>,
    /// The container, with a preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_format: Option<Format>,
    /// The preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<PresetRequest>,
    /// Explicit outputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputRequest>,
    /// The tenant's own name for the work, kept in every record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// When it is served among the tenant's own jobs: `high` before `normal` before `low`, always.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// Where its outputs are put; the tenant's own prefix of hotcell's store when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<DestinationName>,
    /// The tenant's preset that the settings are taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset_name: Option<PresetName>,
    /// Its version, as the edge found it: in a job, never in a tenant's request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset_version: Option<u64>,
}

impl TranscodeRequest {
    /// Whether it gives FFmpeg's own arguments.
    #[must_use]
    pub fn has_raw_arguments(&self) -> bool {
        self.outputs.iter().any(|output| !output.ffmpeg_args.is_empty())
    }
}

/// What a tenant's program asks over the broker to read a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GetRequest {
    /// The job.
    pub id: JobId,
}

/// `POST /v1/webhooks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookRequest {
    /// Where to deliver.
    pub url: String,
    /// Which terminal events; all when empty.
    #[serde(default)]
    pub events: Vec<WebhookEvent>,
}

/// The answer to [`WebhookRequest`]: the only time that the secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookCreated {
    /// The endpoint's id.
    pub id: EndpointId,
    /// Where it delivers.
    pub url: String,
    /// Which events.
    pub events: Vec<WebhookEvent>,
    /// `whsec_` and base64 of 32 random bytes (Standard Webhooks 1.0.0).
    pub secret: WebhookSecret,
}

/// `PATCH /v1/webhooks/{id}`: what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookChange {
    /// Where to deliver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Which terminal events; all when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<WebhookEvent>>,
    /// Whether it is told anything. Enabling a disabled one forgets its failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// `POST /v1/webhooks/{id}/rotate`; may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookRotate {
    /// How long the old secret signs as well, in seconds, 0 to 86,400; a day when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_secret_secs: Option<u32>,
}

/// Events that a webhook can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WebhookEvent {
    /// The outputs are ready.
    #[serde(rename = "job.completed")]
    Completed,
    /// No further attempt will be made.
    #[serde(rename = "job.failed")]
    Failed,
    /// The input or the request was refused.
    #[serde(rename = "job.rejected")]
    Rejected,
    /// The tenant ended the job.
    #[serde(rename = "job.cancelled")]
    Cancelled,
}

impl WebhookEvent {
    /// Whether none is named twice.
    #[must_use]
    pub fn are_distinct(events: &[Self]) -> bool {
        let named: BTreeSet<_> = events.iter().collect();
        named.len() == events.len()
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Completed, Self::Failed, Self::Rejected, Self::Cancelled];

    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "job.completed",
            Self::Failed => "job.failed",
            Self::Rejected => "job.rejected",
            Self::Cancelled => "job.cancelled",
        }
    }

    /// The webhook event of a job event, for terminal ones.
    #[must_use]
    pub const fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::Completed => Some(Self::Completed),
            EventKind::Failed => Some(Self::Failed),
            EventKind::Rejected => Some(Self::Rejected),
            EventKind::Cancelled => Some(Self::Cancelled),
            EventKind::Submitted
            | EventKind::Validated
            | EventKind::Assigned
            | EventKind::AttemptFailed
            | EventKind::Encoded
            | EventKind::Expired => None,
        }
    }
}
