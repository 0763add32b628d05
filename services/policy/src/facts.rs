//! Facts of a compiled job.
//!
//! Promises: read from the tree that becomes the command line, so a policy speaks of what FFmpeg
//! will do. What nobody knows yet is 0 before the input was read; what is still not known after
//! that is the most that it can be, so a ceiling refuses it. What follows from the input's header is
//! held against the file that was made.

use crate::question::{Facts, OutputFacts};
use hotcell_schemas::{
    Plan,
    limits::DURATION_SECS_MAX,
    plan::{
        OutputPlan, Sniffed, Tree,
        filter::{Fields, Side, VideoFilter},
        value::FrameRate,
    },
    report::Probe,
    request::{AudioCodec, Format, VideoCodec},
};

/// Lines of the tallest picture that any tree can name.
const HEIGHT_MAX: i64 = 8192;

/// Bits per second where nothing bounds them: more than any codec makes of the tallest picture. Round,
/// and exact in every reader of JSON (RFC 8259 §6); the sum of two is still a number.
pub const BITRATE_MOST: i64 = 1_000_000_000_000;

/// Seconds of its bound that a decoder's buffer may hold: a short file of a larger one is as large as
/// the buffer, whatever the bound.
const BUFFER_SECS_MAX: i64 = 2;

/// Seconds by which a file may be longer than what is known of its input: codecs pad their ends, and
/// headers round.
const LONGER_SECS: i64 = 2;

/// Frames per second by which an average may be above what a filter sets: short files round.
const MORE_FPS: i64 = 1;

impl Facts {
    /// The facts of a compiled job. `sniffed` is what the input was found to be; without it unknown
    /// sizes are 0. `destination` is where its outputs go: [`crate::destination::location`].
    #[must_use]
    pub fn of_plan(plan: &Plan, sniffed: Option<&Sniffed>, destination: &str) -> Self {
        Self {
            outputs: plan.outputs.iter().map(|output| of_output(output, sniffed)).collect(),
            destination: destination.to_owned(),
            protected_source: sniffed.is_some_and(|sniffed| sniffed.protected),
            ..Self::default()
        }
    }

    /// Whether the file that was made is taller, longer or has more frames a second than these facts
    /// say; then they say so afterwards. An input's header is its sender's word: FFmpeg goes by the
    /// stream, which may be larger, longer or turned; and how many frames it has, nobody knew before.
    #[must_use]
    pub fn outgrown(&mut self, made: &Probe) -> bool {
        let pictures = || made.streams.iter().filter(|it| it.kind == "video" && !it.attached);
        let height = pictures().filter_map(|it| it.height).max().map_or(0, i64::from);
        let fps = pictures().filter_map(|it| it.fps).max().map_or(0, i64::from);
        let secs = made.duration_ms.unwrap_or(0).div_ceil(1000);
        let secs = i64::try_from(secs).unwrap_or(i64::MAX);
        let mut outgrown = false;
        for output in &mut self.outputs {
            if height > output.height {
                (output.height, outgrown) = (height, true);
            }
            let named = output.fps > 0;
            if fps > output.fps.saturating_add(if named { MORE_FPS } else { 0 }) {
                (output.fps, outgrown) = (fps, true);
            }
            if secs > output.duration_secs.saturating_add(LONGER_SECS) {
                (output.duration_secs, outgrown) = (secs, true);
            }
        }
        outgrown
    }
}

fn of_output(output: &OutputPlan, sniffed: Option<&Sniffed>) -> OutputFacts {
    let tree = output.tree();
    let (video_tokens, audio_tokens) = (
        tree.video.as_ref().map(|video| video.encoder.tokens()).unwrap_or_default(),
        tree.audio.as_ref().map(|audio| audio.encoder.tokens()).unwrap_or_default(),
    );
    // VP9 says 0 for constant quality.
    let target = number(&video_tokens, "-b:v").filter(|bits| *bits > 0);
    // libvpx bounds what has a target alone (FFmpeg 7.1: libvpxenc.c, rc_overshoot_pct).
    let bounded = target.is_some() || tree.video_codec() != Some(VideoCodec::Vp9);
    let buffer = number(&video_tokens, "-bufsize:v").unwrap_or(i64::MAX);
    let peak = number(&video_tokens, "-maxrate:v")
        .filter(|bits| bounded && buffer <= bits.saturating_mul(BUFFER_SECS_MAX));
    let crf = number(&video_tokens, "-crf").or_else(|| {
        // What the encoders do when nothing is said (FFmpeg 7.1: libx264.c, libx265.c, libvpxenc.c).
        target.is_none().then(|| default_crf(tree.video_codec())).flatten()
    });
    // Constant quality takes as many bits as the picture asks for, so a ceiling must refuse it, unless
    // the decoder's buffer bounds them.
    let bits = |there: bool, named: Option<i64>| {
        if there { named.unwrap_or(BITRATE_MOST) } else { 0 }
    };
    let (seen, heard) = (tree.video.is_some(), tree.audio.is_some());
    OutputFacts {
        format: format(output.format).to_owned(),
        video_codec: tree.video_codec().map_or("", video_codec).to_owned(),
        audio_codec: tree.audio_codec().map_or("", audio_codec).to_owned(),
        height: height(&tree, sniffed),
        video_bitrate: bits(seen, target.or(peak)),
        audio_bitrate: bits(heard, number(&audio_tokens, "-b:a")),
        video_maxrate: bits(seen, peak),
        crf: crf.unwrap_or(-1),
        fps: fps(&tree),
        duration_secs: duration(&tree, sniffed),
        filters: tree.filters().into_iter().map(str::to_owned).collect(),
        raw_arguments: output.raw.is_some(),
    }
}

fn number(tokens: &[(&'static str, String)], option: &str) -> Option<i64> {
    tokens.iter().find(|(name, _)| *name == option)?.1.parse().ok()
}

fn default_crf(codec: Option<VideoCodec>) -> Option<i64> {
    Some(match codec? {
        VideoCodec::H264 => 23,
        VideoCodec::H265 => 28,
        VideoCodec::Vp9 => 32,
    })
}

fn height(tree: &Tree, sniffed: Option<&Sniffed>) -> i64 {
    if tree.video.is_none() {
        return 0;
    }
    let input = sniffed.and_then(|sniffed| Some((sniffed.width?, sniffed.height?)));
    let known = tree.sizes(input).output.map(|(_, height)| i64::from(height));
    let unknown = if sniffed.is_some() { HEIGHT_MAX } else { 0 };
    known.or_else(|| named_height(tree)).unwrap_or(unknown)
}

/// The height that the filters name, whatever the input's is.
fn named_height(tree: &Tree) -> Option<i64> {
    let mut height = None;
    for filter in tree.video.iter().flat_map(|video| &video.filters) {
        if let VideoFilter::Scale { height: side, .. } = filter {
            height = if let Side::Pixels(pixels) = side { Some(pixels.get()) } else { None };
        } else if let VideoFilter::Crop { height: side, .. }
        | VideoFilter::Pad { height: side, .. } = filter
        {
            height = Some(side.get());
        } else if let VideoFilter::Transpose { .. } = filter {
            height = None;
        }
    }
    height.map(i64::from)
}

fn fps(tree: &Tree) -> i64 {
    let mut fps = 0;
    for filter in tree.video.iter().flat_map(|video| &video.filters) {
        // Television's rates are rounded up: 30000/1001 is 30.
        if let VideoFilter::Fps { rate: FrameRate::Whole(rate) | FrameRate::Ntsc(rate) } = filter {
            fps = i64::from(rate.get());
        } else if let VideoFilter::Yadif { fields: Some(Fields::Field), .. } = filter {
            // A frame of each field.
            fps *= 2;
        }
    }
    fps
}

/// Seconds, rounded up.
fn duration(tree: &Tree, sniffed: Option<&Sniffed>) -> i64 {
    let most = u64::from(DURATION_SECS_MAX) * 1000;
    let known = match sniffed {
        None => tree.duration_ms(u64::MAX).filter(|ms| *ms <= most).unwrap_or(0),
        Some(sniffed) => tree.duration_ms(sniffed.duration_ms.unwrap_or(most)).unwrap_or(most),
    };
    i64::try_from(known.div_ceil(1000)).unwrap_or(i64::MAX)
}

const fn format(format: Format) -> &'static str {
    match format {
        Format::Mp4 => "mp4",
        Format::Webm => "webm",
        Format::Mkv => "mkv",
        Format::Mp3 => "mp3",
        Format::M4a => "m4a",
    }
}

const fn video_codec(codec: VideoCodec) -> &'static str {
    match codec {
        VideoCodec::H264 => "h264",
        VideoCodec::H265 => "h265",
        VideoCodec::Vp9 => "vp9",
    }
}

const fn audio_codec(codec: AudioCodec) -> &'static str {
    match codec {
        AudioCodec::Aac => "aac",
        AudioCodec::Opus => "opus",
        AudioCodec::Mp3 => "mp3",
    }
}
