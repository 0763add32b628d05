//! From a request and what the input is to a typed plan with its command line.
//!
//! Promises: everything in a plan is a constant, an enum or a number in range; the same request and
//! input give the same plan. Refuses a request that breaks a rule, and one that needs a track that
//! the input lacks.

use crate::check::{AUDIO_BITRATE_MAX, WIDTH_MAX, check_request, holds};
use hotcell_schemas::{
    FileName, Plan,
    argv::argv,
    limits::{OUTPUT_BYTES_MAX, PIXELS_MAX},
    plan::{AudioPlan, CellLimits, Effort, OutputPlan, Rate, Scale, Sniffed, VideoPlan},
    reject::{Failure, RejectCode},
    request::{
        AudioRequest, Format, OutputRequest, PresetRequest, Quality, Resolution, TranscodeRequest,
        VideoCodec, VideoRequest,
    },
};

const GIB: u64 = 1 << 30;

/// Pixels of 1080p with x264's padding: the largest picture that encodes in [`MEMORY_BYTES`].
const PIXELS_1080P: u64 = 1920 * 1088;

/// Pixels of DCI 4K, likewise for [`MEMORY_BYTES_2160P`].
const PIXELS_2160P: u64 = 4096 * 2176;

/// Address space of an encode up to 1080p, in bytes. Measured: x264 slow at 1080p passes in 2 GiB,
/// fails in 1.
pub const MEMORY_BYTES: u64 = 2 * GIB;

/// Address space up to 2160p, in bytes. Measured: x264 slow and x265 medium at 2160p fail in 2 GiB,
/// pass in 4.
pub const MEMORY_BYTES_2160P: u64 = 4 * GIB;

/// Address space up to [`PIXELS_MAX`], in bytes. Measured: x264 slow at 8192 x 4320 fails in 8 GiB,
/// passes in 12.
pub const MEMORY_BYTES_4320P: u64 = 12 * GIB;

/// Wall clock of an encode, in seconds: an hour, a quarter of the longest input.
pub const WALL_SECS: u32 = 3600;

/// Processor time of an encode, in seconds: the wall clock on as many cores as FFmpeg has encoder
/// threads.
pub const CPU_SECS: u32 = 4 * WALL_SECS;

/// Scratch space, in bytes: no command of ours writes there, libraries might a little.
pub const TEMP_BYTES: u64 = 64 << 20;

/// Processes and threads. FFmpeg with four decoder and encoder threads starts under 30.
pub const PROCS: u32 = 64;

/// Seconds without progress, after which an encode is ended. Moving the index to the front of the
/// largest output takes minutes and says nothing meanwhile.
pub const STALL_SECS: u32 = 300;

/// Files in the output folder: as many as a job may list.
pub const FILES: u32 = 64;

/// Audio rate of an explicit output that names none, in bits per second.
const AUDIO_BITRATE: u32 = 128_000;

/// One row of the preset table.
struct Preset {
    h264_crf: u8,
    h265_crf: u8,
    vp9_crf: u8,
    effort: Effort,
    audio_bitrate: u32,
}

/// The preset table. Rate factors of the three encoders on a row look alike.
const fn preset(quality: Quality) -> Preset {
    let (h264_crf, h265_crf, vp9_crf, effort, audio_bitrate) = match quality {
        Quality::Low => (28, 31, 38, Effort::Fast, 96_000),
        Quality::Medium => (23, 27, 33, Effort::Medium, AUDIO_BITRATE),
        Quality::High => (19, 23, 28, Effort::Slow, 192_000),
    };
    Preset { h264_crf, h265_crf, vp9_crf, effort, audio_bitrate }
}

impl Preset {
    const fn rate(&self, codec: VideoCodec) -> Rate {
        Rate::Crf(match codec {
            VideoCodec::H264 => self.h264_crf,
            VideoCodec::H265 => self.h265_crf,
            VideoCodec::Vp9 => self.vp9_crf,
        })
    }
}

const fn height(resolution: Resolution) -> Scale {
    match resolution {
        Resolution::Source => Scale::Source,
        Resolution::P240 => Scale::Height(240),
        Resolution::P360 => Scale::Height(360),
        Resolution::P480 => Scale::Height(480),
        Resolution::P720 => Scale::Height(720),
        Resolution::P1080 => Scale::Height(1080),
        Resolution::P2160 => Scale::Height(2160),
    }
}

/// The plan of a request for this input.
///
/// # Errors `RequestUnsupported`: the request breaks a rule of [`check_request`], needs a track
/// that the input lacks, or would make a picture over the limits.
pub fn compile(request: &TranscodeRequest, input: &Sniffed) -> Result<Plan, Failure> {
    check_request(request).map_err(|broken| unsupported(&broken.to_string()))?;
    let output = match (request.output_format, &request.preset, request.outputs.as_slice()) {
        (Some(format), Some(preset), []) => by_preset(format, *preset, input),
        (None, None, [output]) => explicit(output),
        _ => return Err(unsupported("give outputFormat with preset, or one of outputs")),
    };
    demand(&output, request, input)?;
    let pixels = pixels(&output, input)?;
    let (argv, filters) = argv(input.container, &output);
    let limits = CellLimits {
        memory_bytes: memory_bytes(pixels),
        cpu_secs: CPU_SECS,
        wall_secs: WALL_SECS,
        output_bytes: OUTPUT_BYTES_MAX,
        temp_bytes: TEMP_BYTES,
        procs: PROCS,
        stall_secs: STALL_SECS,
        files: FILES,
    };
    Ok(Plan { input: input.container, outputs: vec![output], argv, filters, limits })
}

fn by_preset(format: Format, request: PresetRequest, input: &Sniffed) -> OutputPlan {
    let (row, holds) = (preset(request.quality), holds(format));
    let video = holds.video.first().map(|codec| VideoPlan {
        codec: *codec,
        rate: row.rate(*codec),
        effort: row.effort,
        scale: height(request.resolution),
    });
    // A preset takes the input as it is: a silent clip becomes a silent clip.
    let silent = input.has_audio == Some(false) && video.is_some();
    let codec = holds.audio.first().filter(|_| !silent);
    let audio = codec.map(|codec| AudioPlan { codec: *codec, bitrate: row.audio_bitrate });
    output(format, video, audio)
}

fn explicit(request: &OutputRequest) -> OutputPlan {
    let row = preset(Quality::Medium);
    let video = request.video.as_ref().map(|video| VideoPlan {
        codec: video.codec,
        rate: video.bitrate.map_or(row.rate(video.codec), Rate::Bitrate),
        effort: row.effort,
        scale: scale(video),
    });
    let audio = request.audio.as_ref().map(|audio: &AudioRequest| AudioPlan {
        codec: audio.codec,
        bitrate: audio.bitrate.unwrap_or(AUDIO_BITRATE).min(AUDIO_BITRATE_MAX),
    });
    output(request.format, video, audio)
}

const fn scale(video: &VideoRequest) -> Scale {
    match (video.width, video.height) {
        (None, None) => Scale::Source,
        (None, Some(height)) => Scale::Height(height),
        (Some(width), None) => Scale::Width(width),
        (Some(width), Some(height)) => Scale::Exact(width, height),
    }
}

fn output(format: Format, video: Option<VideoPlan>, audio: Option<AudioPlan>) -> OutputPlan {
    let (extension, content_type) = match (format, &video) {
        (Format::Mp4, Some(_)) => ("mp4", "video/mp4"),
        (Format::Mp4, None) => ("mp4", "audio/mp4"),
        (Format::Webm, Some(_)) => ("webm", "video/webm"),
        (Format::Webm, None) => ("webm", "audio/webm"),
        (Format::Mkv, Some(_)) => ("mkv", "video/x-matroska"),
        (Format::Mkv, None) => ("mkv", "audio/x-matroska"),
        (Format::Mp3, _) => ("mp3", "audio/mpeg"),
        (Format::M4a, _) => ("m4a", "audio/mp4"),
    };
    let name: FileName = format!("out0.{extension}").parse().expect("a constant of safe letters");
    OutputPlan { name, format, content_type: content_type.to_owned(), video, audio, raw: None }
}

/// Refuses what the input is known not to have.
fn demand(output: &OutputPlan, request: &TranscodeRequest, input: &Sniffed) -> Result<(), Failure> {
    if output.video.is_some() && input.has_video == Some(false) {
        return Err(unsupported("the output has a picture but the input has none"));
    }
    let asked = !request.outputs.is_empty() || output.video.is_none();
    if output.audio.is_some() && asked && input.has_audio == Some(false) {
        return Err(unsupported("the output has sound but the input has none"));
    }
    Ok(())
}

/// The larger of the input's and the output's picture; `None` where the input's shape is not known.
fn pixels(output: &OutputPlan, input: &Sniffed) -> Result<Option<u64>, Failure> {
    let Some(video) = &output.video else { return Ok(Some(0)) };
    let Some((width, height)) = input.width.zip(input.height) else { return Ok(None) };
    let (width, height) = (u64::from(width), u64::from(height));
    let of = |side: u64, by: u64, to: u64| side.saturating_mul(by).checked_div(to).unwrap_or(0);
    let (out_width, out_height) = match video.scale {
        Scale::Source => (width, height),
        Scale::Height(to) => (of(width, u64::from(to), height), u64::from(to)),
        Scale::Width(to) => (u64::from(to), of(height, u64::from(to), width)),
        Scale::Exact(width, height) => (u64::from(width), u64::from(height)),
    };
    let made = out_width.saturating_mul(out_height);
    if made > PIXELS_MAX || out_width.max(out_height) > u64::from(WIDTH_MAX) {
        return Err(unsupported("the output's picture would be larger than 8192 x 4320 pixels"));
    }
    Ok(Some(made.max(width.saturating_mul(height))))
}

/// Address space for pictures of this size. It is a ceiling and reserves nothing, so an unknown
/// size gets more.
const fn memory_bytes(pixels: Option<u64>) -> u64 {
    match pixels {
        Some(0..=PIXELS_1080P) => MEMORY_BYTES,
        Some(0..=PIXELS_2160P) | None => MEMORY_BYTES_2160P,
        Some(_) => MEMORY_BYTES_4320P,
    }
}

fn unsupported(message: &str) -> Failure {
    Failure::new(RejectCode::RequestUnsupported, message)
}
