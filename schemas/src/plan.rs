//! The typed plan of a job: all that FFmpeg will be told, before it is argv. Nothing from a tenant
//! reaches a command line except through these types.

pub mod encoder;
pub mod filter;
mod preset;
pub mod tree;
pub mod value;

pub use preset::maps;
pub use tree::Tree;

use crate::{
    FileName,
    request::{AudioCodec, Format, VideoCodec},
};
use serde::{Deserialize, Serialize};

/// Input containers that are accepted, each with the one FFmpeg demuxer that may open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    /// MP4, MOV, M4A (ISO/IEC 14496-12).
    Mp4,
    /// Matroska and WebM.
    Matroska,
    /// MPEG transport stream.
    MpegTs,
    /// AVI.
    Avi,
    /// FLV.
    Flv,
    /// WAV.
    Wav,
    /// MP3.
    Mp3,
    /// AAC in ADTS.
    Aac,
    /// FLAC.
    Flac,
    /// Ogg.
    Ogg,
    /// PNG image.
    Png,
    /// JPEG image.
    Jpeg,
    /// GIF image or animation.
    Gif,
}

impl Container {
    /// Every container.
    pub const ALL: [Self; 13] = [
        Self::Mp4,
        Self::Matroska,
        Self::MpegTs,
        Self::Avi,
        Self::Flv,
        Self::Wav,
        Self::Mp3,
        Self::Aac,
        Self::Flac,
        Self::Ogg,
        Self::Png,
        Self::Jpeg,
        Self::Gif,
    ];

    /// The value of FFmpeg's input option `-f`.
    #[must_use]
    pub const fn demuxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mov",
            Self::Matroska => "matroska",
            Self::MpegTs => "mpegts",
            Self::Avi => "avi",
            Self::Flv => "flv",
            Self::Wav => "wav",
            Self::Mp3 => "mp3",
            Self::Aac => "aac",
            Self::Flac => "flac",
            Self::Ogg => "ogg",
            Self::Png => "png_pipe",
            Self::Jpeg => "jpeg_pipe",
            Self::Gif => "gif",
        }
    }
}

/// What the memory-safe sniffer saw in an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sniffed {
    /// The container by its bytes.
    pub container: Container,
    /// The MIME type by its bytes.
    pub content_type: String,
    /// Picture size, where the header says it.
    pub width: Option<u32>,
    /// Picture size, where the header says it.
    pub height: Option<u32>,
    /// Whether a video track or picture was seen; `None` where the sniffer cannot tell.
    pub has_video: Option<bool>,
    /// Whether an audio track was seen; `None` where the sniffer cannot tell.
    pub has_audio: Option<bool>,
    /// Duration, where the header says it.
    pub duration_ms: Option<u64>,
    /// Whether it carries marks of encryption or of digital rights management. `false` says no more
    /// than that none was seen.
    #[serde(default, skip_serializing_if = "is_not")]
    pub protected: bool,
}

/// What is not so is not written: what was sniffed before reads the same.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_not(mark: &bool) -> bool {
    !*mark
}

/// Rate control of a video encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// Constant quality; lower is better.
    Crf(u8),
    /// Target bits per second.
    Bitrate(u32),
}

/// Effort of the encoder: x264's and x265's `-preset`, VP9's `-cpu-used`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// Quick.
    Fast,
    /// Balanced.
    Medium,
    /// Thorough.
    Slow,
}

/// The picture's size in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// As the input, rounded down to even numbers.
    Source,
    /// This height; width by the input's shape, even.
    Height(u32),
    /// This width; height by the input's shape, even.
    Width(u32),
    /// Exactly this width and height.
    Exact(u32, u32),
}

/// Video part of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoPlan {
    /// The encoder.
    pub codec: VideoCodec,
    /// Rate control.
    pub rate: Rate,
    /// Effort.
    pub effort: Effort,
    /// Picture size.
    pub scale: Scale,
}

/// Audio part of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioPlan {
    /// The encoder.
    pub codec: AudioCodec,
    /// Bits per second.
    pub bitrate: u32,
}

/// One file to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputPlan {
    /// Its name under the job's output folder.
    pub name: FileName,
    /// The container.
    pub format: Format,
    /// Its MIME type.
    pub content_type: String,
    /// Video part; absent beside `raw`.
    pub video: Option<VideoPlan>,
    /// Audio part; absent beside `raw`.
    pub audio: Option<AudioPlan>,
    /// The whole of it, where the request gave FFmpeg's own arguments. [`OutputPlan::tree`] is
    /// the tree of either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Tree>,
}

/// What one cell may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellLimits {
    /// Address space, in bytes.
    pub memory_bytes: u64,
    /// CPU time, in seconds.
    pub cpu_secs: u32,
    /// Wall time, in seconds.
    pub wall_secs: u32,
    /// Size of any one file, in bytes.
    pub output_bytes: u64,
    /// Scratch space, in bytes.
    pub temp_bytes: u64,
    /// Processes and threads.
    pub procs: u32,
    /// Seconds without progress after which the cell is ended.
    pub stall_secs: u32,
    /// Files in the output folder.
    pub files: u32,
}

/// All that a job will make FFmpeg do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The input's container, which fixes the demuxer.
    pub input: Container,
    /// The files to make; exactly one for now.
    pub outputs: Vec<OutputPlan>,
    /// The command line after the program's name, with `{in0}` and `{out0}` in place of paths.
    /// Always equal to what [`crate::plan::Plan`] compiles to; every reader checks.
    pub argv: Vec<String>,
    /// The filters that `argv` names, in order.
    pub filters: Vec<String>,
    /// Limits of the encode's cell.
    pub limits: CellLimits,
}
