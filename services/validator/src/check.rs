//! The rules of a transcode request that can be checked without the media. Intake answers with
//! them; the validator holds them again.
//!
//! Promises: the first broken rule, with the field's JSON path; both are made of constants and
//! numbers, so an answer repeats no text of the request.

use super::raw;
use hotcell_schemas::{
    FileName,
    limits::{INPUTS_MAX, OUTPUTS_MAX, PIXELS_MAX, WORKFLOW_BYTES_MAX},
    request::{
        AudioCodec, AudioRequest, Format, OutputRequest, TranscodeRequest, VideoCodec, VideoRequest,
    },
};
use std::borrow::Cow;

/// Picture heights that may be asked for, in pixels: up to twice 2160p.
pub const HEIGHT_MIN: u32 = 16;
/// See [`HEIGHT_MIN`].
pub const HEIGHT_MAX: u32 = 4320;
/// Picture widths that may be asked for, in pixels: H.264's and H.265's largest level.
pub const WIDTH_MIN: u32 = 16;
/// See [`WIDTH_MIN`].
pub const WIDTH_MAX: u32 = 8192;
/// Video rates that may be asked for, in bits per second: below is mud, above is a mezzanine.
pub const VIDEO_BITRATE_MIN: u32 = 50_000;
/// See [`VIDEO_BITRATE_MIN`].
pub const VIDEO_BITRATE_MAX: u32 = 100_000_000;
/// Audio rates that may be asked for, in bits per second: Opus takes all of them.
pub const AUDIO_BITRATE_MIN: u32 = 16_000;
/// See [`AUDIO_BITRATE_MIN`].
pub const AUDIO_BITRATE_MAX: u32 = 512_000;
/// MP3 has these rates at 48 kHz (ISO/IEC 11172-3), in bits per second.
pub const MP3_BITRATE_MIN: u32 = 32_000;
/// See [`MP3_BITRATE_MIN`].
pub const MP3_BITRATE_MAX: u32 = 320_000;

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct FieldError {
    /// The field's path in the request's JSON, such as `outputs[0].video.bitrate`.
    pub field: Cow<'static, str>,
    /// What it must be.
    pub rule: Cow<'static, str>,
}

pub use hotcell_schemas::reject::RAW_FORBIDDEN;

/// The field of the sentence.
pub const RAW_FIELD: &str = "outputs[0].ffmpegArgs";

/// What a format can hold.
pub(crate) struct Holds {
    pub(crate) video: &'static [VideoCodec],
    pub(crate) audio: &'static [AudioCodec],
}

/// The compatibility table. The first of each list is what a preset uses.
pub(crate) const fn holds(format: Format) -> Holds {
    use {AudioCodec as A, VideoCodec as V};
    match format {
        Format::Mp4 => Holds { video: &[V::H264, V::H265], audio: &[A::Aac] },
        Format::Webm => Holds { video: &[V::Vp9], audio: &[A::Opus] },
        Format::Mkv => {
            Holds { video: &[V::H264, V::H265, V::Vp9], audio: &[A::Aac, A::Opus, A::Mp3] }
        }
        Format::Mp3 => Holds { video: &[], audio: &[A::Mp3] },
        Format::M4a => Holds { video: &[], audio: &[A::Aac] },
    }
}

/// Checks what can be known without the media.
///
/// # Errors
/// The first field that breaks a rule.
pub fn check_request(request: &TranscodeRequest) -> Result<(), FieldError> {
    rule(request.inputs.len() == INPUTS_MAX, "inputs", "must have exactly one entry")?;
    let named = |url: &str| url.strip_prefix("upload:").map(str::parse::<FileName>);
    let known = request.inputs.iter().all(|input| matches!(named(&input.url), Some(Ok(_))));
    rule(known, "inputs[0].url", "must be 'upload:' and the file name of a confirmed upload")?;
    if let Some(workflow) = &request.workflow {
        let good = !workflow.is_empty()
            && workflow.len() <= WORKFLOW_BYTES_MAX
            && !workflow.chars().any(char::is_control);
        rule(good, "workflow", "must be 1 to 128 bytes without control characters")?;
    }
    // A tenant's preset is a name, the version that the edge found, and the settings that it put in.
    match (&request.preset_name, request.preset_version) {
        (None, Some(_)) => return fail("presetVersion", "is set by the server"),
        (Some(_), None) => return fail("presetName", "only the server knows its settings"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    match (request.output_format, request.preset, request.outputs.as_slice()) {
        (Some(_), Some(_), []) => Ok(()),
        (None, None, [output]) => check_output(output),
        (None, None, []) => fail("outputFormat", "give outputFormat with preset, or outputs"),
        (Some(_), None, []) => fail("preset", "must be given with outputFormat"),
        (None, Some(_), []) => fail("outputFormat", "must be given with preset"),
        (None, None, many) => {
            rule(many.len() <= OUTPUTS_MAX, "outputs", "must have exactly one entry")
        }
        _ => fail("outputs", "must not be given with outputFormat or preset"),
    }
}

fn check_output(output: &OutputRequest) -> Result<(), FieldError> {
    if !output.ffmpeg_args.is_empty() {
        let alone = output.video.is_none() && output.audio.is_none();
        rule(alone, RAW_FIELD, "must not be given with video or audio")?;
        let tree = raw::parse(output.format, &output.ffmpeg_args);
        return tree.map(drop).map_err(|refusal| FieldError::from(&refusal));
    }
    let any = output.video.is_some() || output.audio.is_some();
    rule(any, "outputs[0]", "must have video, audio or both")?;
    let holds = holds(output.format);
    if let Some(video) = &output.video {
        rule(!holds.video.is_empty(), "outputs[0].video", "mp3 and m4a hold no video")?;
        let fits = holds.video.contains(&video.codec);
        let text = "mp4 holds h264 and h265, webm holds vp9, mkv holds all three";
        rule(fits, "outputs[0].video.codec", text)?;
        check_video(video)?;
    }
    if let Some(audio) = &output.audio {
        let fits = holds.audio.contains(&audio.codec);
        let text = "mp4 and m4a hold aac, webm holds opus, mp3 holds mp3, mkv holds all three";
        rule(fits, "outputs[0].audio.codec", text)?;
        check_audio(audio)?;
    }
    Ok(())
}

fn check_video(video: &VideoRequest) -> Result<(), FieldError> {
    let even = |side: Option<u32>, min, max| {
        side.is_none_or(|side| (min..=max).contains(&side) && side % 2 == 0)
    };
    let good = even(video.height, HEIGHT_MIN, HEIGHT_MAX);
    rule(good, "outputs[0].video.height", "must be an even number from 16 to 4320")?;
    let good = even(video.width, WIDTH_MIN, WIDTH_MAX);
    rule(good, "outputs[0].video.width", "must be an even number from 16 to 8192")?;
    // Holds by the two ranges; said here so that a wider range cannot break it.
    let pixels = u64::from(video.height.unwrap_or(0)) * u64::from(video.width.unwrap_or(0));
    rule(pixels <= PIXELS_MAX, "outputs[0].video.width", "the picture is too large")?;
    let rates = VIDEO_BITRATE_MIN..=VIDEO_BITRATE_MAX;
    let good = video.bitrate.is_none_or(|bitrate| rates.contains(&bitrate));
    rule(good, "outputs[0].video.bitrate", "must be a number from 50000 to 100000000")
}

fn check_audio(audio: &AudioRequest) -> Result<(), FieldError> {
    let (rates, text) = match audio.codec {
        AudioCodec::Aac | AudioCodec::Opus => {
            (AUDIO_BITRATE_MIN..=AUDIO_BITRATE_MAX, "must be a number from 16000 to 512000")
        }
        AudioCodec::Mp3 => {
            (MP3_BITRATE_MIN..=MP3_BITRATE_MAX, "must be a number from 32000 to 320000 for mp3")
        }
    };
    let good = audio.bitrate.is_none_or(|bitrate| rates.contains(&bitrate));
    rule(good, "outputs[0].audio.bitrate", text)
}

impl From<&raw::Refusal> for FieldError {
    fn from(refusal: &raw::Refusal) -> Self {
        let field = format!("{RAW_FIELD}[{}]", refusal.at);
        Self { field: field.into(), rule: refusal.rule.clone() }
    }
}

fn rule(good: bool, field: &'static str, rule: &'static str) -> Result<(), FieldError> {
    if good { Ok(()) } else { fail(field, rule) }
}

const fn fail(field: &'static str, rule: &'static str) -> Result<(), FieldError> {
    Err(FieldError { field: Cow::Borrowed(field), rule: Cow::Borrowed(rule) })
}
