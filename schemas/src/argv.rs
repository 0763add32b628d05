//! FFmpeg's command lines, compiled from the typed plan and from nothing else.
//!
//! Promises: pure, and deterministic twice over. The same plan gives the same tokens, and the same
//! tokens give the same output bytes on any number of cores: every thread count is fixed, because
//! x264, x265 and libvpx encode the same picture differently for different counts, x264's look-ahead
//! runs without threads of its own, and all muxers and codecs run bit-exact (no clock, no version, no random id). A replay can therefore be
//! compared by hash.
//! Refuses by construction: text of a tenant that FFmpeg could read as anything else. Each token is a
//! constant, a placeholder, a number within bounds, a listed word, or the text of a tag.
//!
//! Streams, unless the tree names others: the output's video is the input's first picture track
//! that is not cover art, and is demanded. Its audio is the first sound track; beside video it is
//! taken when there is one (`?`), without video it is demanded. The validator refuses what it can
//! see to be missing, so that FFmpeg's error is the last resort.

use crate::{
    Plan,
    decoders::{decoders, subtitle_decoders},
    limits::{PIXELS_MAX, STREAMS_MAX},
    plan::{
        Container, OutputPlan, Tree,
        encoder::{Options as _, VideoEncoder},
        filter::{Filter, SCALE_EXACT, VideoFilter},
        tree::{Audio, Video},
        value::Value,
    },
    request::Format,
};

/// Stands for the path of the input inside the cell.
pub const INPUT: &str = "{in0}";

/// Stands for the path of the output inside the cell.
pub const OUTPUT: &str = "{out0}";

/// Threads of the decoder and of each encoder. Fixed: the output's bytes depend on it. Four keep a
/// small host busy; a large host runs more cells instead.
pub const THREADS: u32 = 4;

/// x264's look-ahead without threads of its own. With them a busy machine changes the output: what
/// the look-ahead finds for the macroblock tree depends on who comes first (30 s at four threads, six
/// to twelve encodes at once: 23 outputs of 24 runs, 3 of 18). Without them one output of 114 runs at
/// preset `slow`, of 90 at `medium`, of 24 with a target rate.
const X264_LOOKAHEAD: &str = "sync-lookahead=0:lookahead-threads=1";

/// Frames that x265 works on at once. Fixed for the same reason; its own choice follows the core
/// count.
pub const X265_FRAME_THREADS: u32 = 2;

/// Largest single allocation in bytes: an 8192 x 4320 picture of four 16-bit planes is 270 MiB, so
/// 512 MiB is never honestly needed.
pub const ALLOC_BYTES_MAX: u64 = 512 << 20;

/// Streams and pixels that the prober takes: more than the limits, or it would cut off what is over them (streams) or
/// give up (pixels), and nobody could say that the input is too complex. Its cell's memory bounds the rest.
const PROBED_STREAMS_MAX: usize = STREAMS_MAX + 1;
/// See [`PROBED_STREAMS_MAX`].
const PROBED_PIXELS_MAX: u64 = 2 * PIXELS_MAX;

/// Options that stand before an encoder's constants.
const EFFORT: [&str; 5] = ["-preset", "-deadline", "-cpu-used", "-row-mt", "-tile-columns"];

/// What the prober prints: numbers and FFmpeg's own names. No tags, which are text of the file, and
/// no attachments or side data, which are its bytes.
const PROBE_ENTRIES: &str = "format=format_name,start_time,duration,bit_rate,nb_streams:\
stream=index,codec_type,codec_name,width,height,sample_rate,channels,avg_frame_rate,duration,\
nb_frames:stream_disposition=attached_pic";

/// FFmpeg's command line after the program's name, and the filters that it names, in order.
#[must_use]
pub fn argv(input: Container, output: &OutputPlan) -> (Vec<String>, Vec<String>) {
    let tree = output.tree();
    let filters = tree.filters().into_iter().map(str::to_owned).collect();
    (line(input, &tree), filters)
}

/// The command line of a tree.
#[must_use]
pub fn line(input: Container, tree: &Tree) -> Vec<String> {
    let mut line = Line::default();
    line.words(&["-hide_banner", "-nostdin", "-loglevel", "level+info", "-nostats"]);
    line.words(&["-progress", "pipe:1", "-stats_period", "1"]);
    line.number("-max_alloc", ALLOC_BYTES_MAX);
    line.words(&["-filter_threads", "1"]);
    open(&mut line, input, &decoders(input), STREAMS_MAX);
    line.number("-max_pixels", PIXELS_MAX);
    line.number("-threads", THREADS);
    line.value("-ss", tree.window.seek.as_ref());
    line.value("-t", tree.window.duration.as_ref());
    line.words(&["-i", INPUT]);
    for map in &tree.maps {
        line.value("-map", Some(map));
    }
    line.words(&["-map_metadata", "-1", "-map_chapters", "-1", "-sn", "-dn"]);
    if let Some(video) = &tree.video {
        picture(&mut line, tree.muxer.format, video);
    }
    if let Some(audio) = &tree.audio {
        sound(&mut line, audio);
    }
    for tag in &tree.tags {
        let (option, value) = tag.tokens();
        line.0.extend([option, value]);
    }
    line.words(&["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"]);
    if !tree.muxer.flags.is_empty() {
        let flags = tree.muxer.flags.iter().map(|flag| format!("+{}", flag.word()));
        line.0.extend(["-movflags".to_owned(), flags.collect()]);
    }
    line.words(&["-f", muxer(tree.muxer.format)]);
    line.value("-t", tree.duration.as_ref());
    // The work directory is new, so a file that is there already was not made by this command.
    line.words(&["-n", OUTPUT]);
    line.0
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

fn picture(line: &mut Line, format: Format, video: &Video) {
    line.words(&["-c:v", video.encoder.name()]);
    let tokens = video.encoder.tokens();
    // The order of the first command lines: replays compare them.
    let (effort, rest): (Vec<_>, Vec<_>) =
        tokens.into_iter().partition(|(option, _)| EFFORT.contains(option));
    line.pairs(effort);
    match &video.encoder {
        // The buffer model looks at how far each frame's thread is: ten outputs of ten runs.
        VideoEncoder::H264(x) if x.maxrate.is_some() || x.bufsize.is_some() => {
            line.number("-threads:v", 1);
        }
        VideoEncoder::H264(_) => {
            line.number("-threads:v", THREADS);
            line.words(&["-x264-params", X264_LOOKAHEAD]);
        }
        VideoEncoder::H265(x) => {
            // A target rate is met by what frames before this one came to, and with several at once
            // that is another number each time: two of fourteen, measured.
            let frames = if x.bitrate.is_some() { 1 } else { X265_FRAME_THREADS };
            let pools = format!("pools={THREADS}:frame-threads={frames}");
            line.words(&["-x265-params", &format!("{pools}:log-level=warning")]);
            if format == Format::Mp4 {
                // Apple's players take H.265 in MP4 only with its parameter sets out of band.
                line.words(&["-tag:v", "hvc1"]);
            }
        }
        VideoEncoder::Vp9(_) => line.number("-threads:v", THREADS),
    }
    line.pairs(rest);
    if !video.filters.is_empty() {
        line.number("-vf", chain(&video.filters));
    }
    let exact = |filter: &VideoFilter| {
        matches!(filter, VideoFilter::Scale { .. } | VideoFilter::SetSar { .. })
    };
    if !video.filters.iter().all(exact) || video.filters.is_empty() {
        // FFmpeg puts a scaler of its own where pixel formats differ.
        line.number("-sws_flags", format!("bicubic{SCALE_EXACT}"));
    }
    line.pairs(video.picture.tokens());
    // `cfr` would fill a forged gap in the timestamps with millions of frames.
    line.words(&["-fps_mode", "vfr"]);
}

fn sound(line: &mut Line, audio: &Audio) {
    line.words(&["-c:a", audio.encoder.name()]);
    line.pairs(audio.encoder.tokens());
    line.pairs(audio.sound.tokens());
    if !audio.filters.is_empty() {
        line.number("-af", chain(&audio.filters));
    }
}

/// A chain of filters. No part of it needs an escape: values are numbers and listed words.
fn chain<F: Filter>(filters: &[F]) -> String {
    filters.iter().map(Filter::write).collect::<Vec<_>>().join(",")
}

/// The value of FFmpeg's output option `-f`.
#[must_use]
pub const fn muxer(format: Format) -> &'static str {
    match format {
        Format::Mp4 => "mp4",
        Format::M4a => "ipod",
        Format::Webm => "webm",
        Format::Mkv => "matroska",
        Format::Mp3 => "mp3",
    }
}

/// A command line that grows by constants, numbers and written values.
#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn number(&mut self, option: &str, value: impl ToString) {
        self.0.extend([option.to_owned(), value.to_string()]);
    }

    fn value(&mut self, option: &str, value: Option<&impl Value>) {
        if let Some(value) = value {
            self.0.extend([option.to_owned(), value.write()]);
        }
    }

    fn pairs(&mut self, pairs: Vec<(&'static str, String)>) {
        for (option, value) in pairs {
            self.0.extend([option.to_owned(), value]);
        }
    }
}
