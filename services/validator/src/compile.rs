//! From a request and what the input is to a typed plan with its command line.
//!
//! Promises: everything in a plan is a constant, an enum or a number in range; the same request and
//! input give the same plan. Refuses a request that breaks a rule, and one that needs a track that
//! the input lacks.

use super::{
    check::{AUDIO_BITRATE_MAX, FieldError, WIDTH_MAX, check_request, holds},
    raw,
};
use hotcell_schemas::{
    FileName, Plan,
    argv::argv,
    limits::{OUTPUT_BYTES_MAX, PIXELS_MAX},
    plan::{
        AudioPlan, CellLimits, Effort, OutputPlan, Rate, Scale, Sniffed, Tree, VideoPlan,
        encoder::{Preset, VideoEncoder},
        tree::StreamKind,
    },
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
struct Settings {
    h264_crf: u8,
    h265_crf: u8,
    vp9_crf: u8,
    effort: Effort,
    audio_bitrate: u32,
}

/// The preset table. Rate factors of the three encoders on a row look alike.
const fn preset(quality: Quality) -> Settings {
    let (h264_crf, h265_crf, vp9_crf, effort, audio_bitrate) = match quality {
        Quality::Low => (28, 31, 38, Effort::Fast, 96_000),
        Quality::Medium => (23, 27, 33, Effort::Medium, AUDIO_BITRATE),
        Quality::High => (19, 23, 28, Effort::Slow, 192_000),
    };
    Settings { h264_crf, h265_crf, vp9_crf, effort, audio_bitrate }
}

impl Settings {
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
        (None, None, [output]) if output.ffmpeg_args.is_empty() => explicit(output),
        (None, None, [output]) => own(output)?,
        _ => return Err(unsupported("give outputFormat with preset, or one of outputs")),
    };
    let tree = output.tree();
    demand(&tree, request, input)?;
    let (argv, filters) = argv(input.container, &output);
    let limits = CellLimits {
        memory_bytes: memory(&tree, input)?,
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

/// The plan of FFmpeg's own arguments.
fn own(request: &OutputRequest) -> Result<OutputPlan, Failure> {
    let tree = raw::parse(request.format, &request.ffmpeg_args)
        .map_err(|refusal| unsupported(&FieldError::from(&refusal).to_string()))?;
    let (name, content_type) = name(request.format, tree.video.is_some());
    let format = request.format;
    Ok(OutputPlan { name, format, content_type, video: None, audio: None, raw: Some(tree) })
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
    let (name, content_type) = name(format, video.is_some());
    OutputPlan { name, format, content_type, video, audio, raw: None }
}

/// The file's name and its MIME type.
fn name(format: Format, video: bool) -> (FileName, String) {
    let (extension, content_type) = match (format, video) {
        (Format::Mp4, true) => ("mp4", "video/mp4"),
        (Format::Mp4, false) => ("mp4", "audio/mp4"),
        (Format::Webm, true) => ("webm", "video/webm"),
        (Format::Webm, false) => ("webm", "audio/webm"),
        (Format::Mkv, true) => ("mkv", "video/x-matroska"),
        (Format::Mkv, false) => ("mkv", "audio/x-matroska"),
        (Format::Mp3, _) => ("mp3", "audio/mpeg"),
        (Format::M4a, _) => ("m4a", "audio/mp4"),
    };
    let name = format!("out0.{extension}").parse().expect("a constant of safe letters");
    (name, content_type.to_owned())
}

/// Refuses what the input is known not to have.
fn demand(tree: &Tree, request: &TranscodeRequest, input: &Sniffed) -> Result<(), Failure> {
    if tree.video.is_some() && input.has_video == Some(false) {
        return Err(unsupported("the output has a picture but the input has none"));
    }
    let asked = !request.outputs.is_empty() || tree.video.is_none();
    // FFmpeg's `?` asks for sound where there is some.
    let perhaps = request.has_raw_arguments()
        && tree.maps.iter().all(|map| map.optional || map.kind != StreamKind::Audio);
    if tree.audio.is_some() && asked && !perhaps && input.has_audio == Some(false) {
        return Err(unsupported("the output has sound but the input has none"));
    }
    Ok(())
}

/// Address space for the largest picture on the way, and for the time that an encoder looks ahead.
fn memory(tree: &Tree, input: &Sniffed) -> Result<u64, Failure> {
    let Some(video) = &tree.video else { return Ok(MEMORY_BYTES) };
    let size = input.width.zip(input.height);
    let sizes = tree.sizes(size);
    if sizes.pixels_max > PIXELS_MAX || sizes.side_max > WIDTH_MAX {
        return Err(unsupported("the output's picture would be larger than 8192 x 4320 pixels"));
    }
    let read = size.map_or(0, |(width, height)| u64::from(width) * u64::from(height));
    // A phone held upright writes pictures that lie, and says so where the sniffer does not look.
    let turned = tree.sizes(size.map(|(width, height)| (height, width))).pixels_max;
    let largest = memory_bytes(Some(sizes.pixels_max.max(turned).max(read)));
    let bytes = if size.is_none() { largest.max(memory_bytes(None)) } else { largest };
    let thorough = match &video.encoder {
        VideoEncoder::H264(x) => x.preset.is_some_and(is_thorough),
        VideoEncoder::H265(x) => x.preset.is_some_and(is_thorough),
        VideoEncoder::Vp9(_) => false,
    };
    Ok(if thorough { bytes.saturating_mul(2).min(MEMORY_BYTES_4320P) } else { bytes })
}

/// Whether more frames are looked ahead at than with `slow`, with which memory was measured: 60 in
/// place of 50, and twice the frames to refer to.
const fn is_thorough(preset: Preset) -> bool {
    matches!(preset, Preset::Slower | Preset::Veryslow)
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
