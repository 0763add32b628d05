//! FFmpeg's command lines, compiled from the typed plan and from nothing else.
//!
//! Promises: pure, and deterministic twice over. The same plan gives the same tokens, and the same
//! tokens give the same output bytes on any number of cores: every thread count is fixed, because
//! x264, x265 and libvpx encode the same picture differently for different counts, and all muxers
//! and codecs run bit-exact (no clock, no version, no random id). A replay can therefore be
//! compared by hash.
//! Refuses by construction: text of a tenant. Each token is a constant, a placeholder, or a number
//! of a plan.
//!
//! Streams: the output's video is the input's first picture track that is not cover art, and is
//! demanded. Its audio is the first sound track; beside video it is taken when there is one (`?`),
//! without video it is demanded. The validator refuses what it can see to be missing, so that
//! FFmpeg's error is the last resort.

use crate::{
    Plan,
    decoders::{decoders, subtitle_decoders},
    limits::{PIXELS_MAX, STREAMS_MAX},
    plan::{AudioPlan, Container, Effort, OutputPlan, Rate, Scale, VideoPlan},
    request::{AudioCodec, Format, VideoCodec},
};

/// Stands for the path of the input inside the cell.
pub const INPUT: &str = "{in0}";

/// Stands for the path of the output inside the cell.
pub const OUTPUT: &str = "{out0}";

/// Threads of the decoder and of each encoder. Fixed: the output's bytes depend on it. Four keep a
/// small host busy; a large host runs more cells instead.
pub const THREADS: u32 = 4;

/// Frames that x265 works on at once. Fixed for the same reason; its own choice follows the core
/// count.
pub const X265_FRAME_THREADS: u32 = 2;

/// Frames from one key frame to the next, at most: eight seconds at 30 frames per second.
pub const KEY_FRAME_INTERVAL_MAX: u32 = 240;

/// Output samples per second: the one rate that AAC, Opus and MP3 all take.
pub const SAMPLE_RATE: u32 = 48_000;

/// Output channels: libopus refuses some surround layouts that AAC inputs have, stereo always
/// works.
pub const CHANNELS: u32 = 2;

/// Largest single allocation in bytes: an 8192 x 4320 picture of four 16-bit planes is 270 MiB, so
/// 512 MiB is never honestly needed.
pub const ALLOC_BYTES_MAX: u64 = 512 << 20;

/// Streams and pixels that the prober takes: more than the limits, or it would cut off what is over them (streams) or
/// give up (pixels), and nobody could say that the input is too complex. Its cell's memory bounds the rest.
const PROBED_STREAMS_MAX: usize = STREAMS_MAX + 1;
/// See [`PROBED_STREAMS_MAX`].
const PROBED_PIXELS_MAX: u64 = 2 * PIXELS_MAX;

/// What the prober prints: numbers and FFmpeg's own names. No tags, which are text of the file, and
/// no attachments or side data, which are its bytes.
const PROBE_ENTRIES: &str = "format=format_name,duration,bit_rate,nb_streams:\
stream=index,codec_type,codec_name,width,height,sample_rate,channels,avg_frame_rate,duration,\
nb_frames:stream_disposition=attached_pic";

/// Scaler flags that make swscale give the same bytes with and without its SIMD paths.
const SCALE_FLAGS: &str = "flags=bicubic+accurate_rnd+full_chroma_int+bitexact";

/// FFmpeg's command line after the program's name, and the filters that it names, in order.
#[must_use]
pub fn argv(input: Container, output: &OutputPlan) -> (Vec<String>, Vec<String>) {
    let mut line = Line::default();
    line.words(&["-hide_banner", "-nostdin", "-loglevel", "level+info", "-nostats"]);
    line.words(&["-progress", "pipe:1", "-stats_period", "1"]);
    line.number("-max_alloc", ALLOC_BYTES_MAX);
    line.words(&["-filter_threads", "1"]);
    open(&mut line, input, &decoders(input), STREAMS_MAX);
    line.number("-max_pixels", PIXELS_MAX);
    line.number("-threads", THREADS);
    line.words(&["-i", INPUT]);
    if output.video.is_some() {
        line.words(&["-map", "0:V:0"]);
    }
    match (output.audio, output.video) {
        (Some(_), Some(_)) => line.words(&["-map", "0:a:0?"]),
        (Some(_), None) => line.words(&["-map", "0:a:0"]),
        (None, _) => {}
    }
    line.words(&["-map_metadata", "-1", "-map_chapters", "-1", "-sn", "-dn"]);
    let filters = match &output.video {
        Some(plan) => video(&mut line, output.format, plan),
        None => Vec::new(),
    };
    if let Some(plan) = &output.audio {
        audio(&mut line, plan);
    }
    line.words(&["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]);
    line.words(muxer(output.format));
    // The work directory is new, so a file that is there already was not made by this command.
    line.words(&["-n", OUTPUT]);
    (line.0, filters)
}

/// FFprobe's command line after the program's name. It prints one JSON object with `format` and
/// `streams`.
#[must_use]
pub fn ffprobe_argv(input: Container) -> Vec<String> {
    let mut line = Line::default();
    line.words(&["-hide_banner", "-loglevel", "error"]);
    line.number("-max_alloc", ALLOC_BYTES_MAX);
    let mut names = decoders(input);
    if !subtitle_decoders(input).is_empty() {
        names = format!("{names},{}", subtitle_decoders(input));
    }
    open(&mut line, input, &names, PROBED_STREAMS_MAX);
    line.number("-max_pixels", PROBED_PIXELS_MAX);
    line.words(&[
        "-threads",
        "1",
        "-show_entries",
        PROBE_ENTRIES,
        "-print_format",
        "json=compact=1",
    ]);
    line.words(&["-i", INPUT]);
    line.0
}

/// The container as which an output of this format is probed.
#[must_use]
pub const fn output_container(format: Format) -> Container {
    match format {
        Format::Mp4 | Format::M4a => Container::Mp4,
        Format::Webm | Format::Mkv => Container::Matroska,
        Format::Mp3 => Container::Mp3,
    }
}

/// Whether the command line inside a plan is the one that its types compile to. Every reader of a
/// plan asks.
#[must_use]
pub fn agrees(plan: &Plan) -> bool {
    let [output] = plan.outputs.as_slice() else { return false };
    let (argv, filters) = argv(plan.input, output);
    plan.argv == argv && plan.filters == filters
}

/// Options of the one input: one demuxer, local files only, listed decoders, few streams.
fn open(line: &mut Line, input: Container, decoders: &str, streams_max: usize) {
    line.words(&["-protocol_whitelist", "file"]);
    line.words(&["-format_whitelist", input.demuxer(), "-codec_whitelist", decoders]);
    line.number("-max_streams", streams_max);
    if input == Container::Mp4 {
        // Off by default; said aloud because a data reference names another file.
        line.words(&["-enable_drefs", "0", "-use_absolute_path", "0"]);
    }
    line.words(&["-f", input.demuxer()]);
}

fn video(line: &mut Line, format: Format, plan: &VideoPlan) -> Vec<String> {
    match plan.codec {
        VideoCodec::H264 => {
            line.words(&["-c:v", "libx264", "-preset", preset(plan.effort)]);
            line.number("-threads:v", THREADS);
        }
        VideoCodec::H265 => {
            line.words(&["-c:v", "libx265", "-preset", preset(plan.effort)]);
            let pools = format!("pools={THREADS}:frame-threads={X265_FRAME_THREADS}");
            line.words(&["-x265-params", &format!("{pools}:log-level=warning")]);
            if format == Format::Mp4 {
                // Apple's players take H.265 in MP4 only with its parameter sets out of band.
                line.words(&["-tag:v", "hvc1"]);
            }
        }
        VideoCodec::Vp9 => {
            line.words(&["-c:v", "libvpx-vp9", "-deadline", "good", "-cpu-used"]);
            line.words(&[cpu_used(plan.effort), "-row-mt", "1", "-tile-columns", "1"]);
            line.number("-threads:v", THREADS);
        }
    }
    match plan.rate {
        // No buffer model beside the target: x265's is not repeatable with several frame threads.
        Rate::Bitrate(bits) => line.number("-b:v", bits),
        Rate::Crf(crf) => {
            line.number("-crf", crf);
            if plan.codec == VideoCodec::Vp9 {
                line.words(&["-b:v", "0"]);
            }
        }
    }
    let (chain, filters) = scale(plan.scale);
    line.words(&["-vf", &chain, "-pix_fmt", "yuv420p"]);
    line.number("-g", KEY_FRAME_INTERVAL_MAX);
    // `cfr` would fill a forged gap in the timestamps with millions of frames.
    line.words(&["-fps_mode", "vfr"]);
    filters.iter().map(|name| (*name).to_owned()).collect()
}

/// The filter chain and the names of its filters.
fn scale(scale: Scale) -> (String, &'static [&'static str]) {
    const SCALE: &[&str] = &["scale"];
    match scale {
        Scale::Source => {
            let even = |side: &str| format!("'max(2,trunc({side}/2)*2)'");
            (format!("scale=w={}:h={}:{SCALE_FLAGS}", even("iw"), even("ih")), SCALE)
        }
        Scale::Height(height) => (format!("scale=w=-2:h={height}:{SCALE_FLAGS}"), SCALE),
        Scale::Width(width) => (format!("scale=w={width}:h=-2:{SCALE_FLAGS}"), SCALE),
        Scale::Exact(width, height) => {
            // Square pixels: who asks for exactly this size does not want it bent back on display.
            (format!("scale=w={width}:h={height}:{SCALE_FLAGS},setsar=1"), &["scale", "setsar"])
        }
    }
}

fn audio(line: &mut Line, plan: &AudioPlan) {
    let encoder = match plan.codec {
        AudioCodec::Aac => "aac",
        AudioCodec::Opus => "libopus",
        AudioCodec::Mp3 => "libmp3lame",
    };
    line.words(&["-c:a", encoder]);
    line.number("-b:a", plan.bitrate);
    line.number("-ac", CHANNELS);
    line.number("-ar", SAMPLE_RATE);
}

/// x264's and x265's name for an effort.
const fn preset(effort: Effort) -> &'static str {
    match effort {
        Effort::Fast => "fast",
        Effort::Medium => "medium",
        Effort::Slow => "slow",
    }
}

/// libvpx's number for an effort, near the time that x264 takes at the same one.
const fn cpu_used(effort: Effort) -> &'static str {
    match effort {
        Effort::Fast => "5",
        Effort::Medium => "4",
        Effort::Slow => "2",
    }
}

const fn muxer(format: Format) -> &'static [&'static str] {
    match format {
        Format::Mp4 => &["-movflags", "+faststart", "-f", "mp4"],
        Format::M4a => &["-movflags", "+faststart", "-f", "ipod"],
        Format::Webm => &["-f", "webm"],
        Format::Mkv => &["-f", "matroska"],
        Format::Mp3 => &["-f", "mp3"],
    }
}

/// A command line that grows by constants and numbers.
#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn number(&mut self, option: &str, value: impl ToString) {
        self.0.extend([option.to_owned(), value.to_string()]);
    }
}
