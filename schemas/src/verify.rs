//! What an output must be, and whether it is: container, tracks, codecs, picture size, length.
//!
//! Promises: pure, so that the worker, which probes what it made, and the hasher, which reads the
//! report, hold the same rule; an honest encode passes, whatever its input's header got wrong that
//! honest headers get wrong. Refuses to prove more than it can: the numbers come from a prober in a
//! cell of the worker, so a worker that lies can lie about them too. The hash of the bytes is
//! checked apart from this.
//!
//! Length: FFmpeg makes the output as long as its longest mapped track. Containers without an index
//! (MPEG-TS, FLV, AAC, MP3) only guess their length, so nothing is asked of theirs. Elsewhere an
//! output may not be longer than its input, and not shorter than the input's sound. A picture track
//! without sound may end early in time, because the duration of the last frame is not carried over
//! (a slide show of two slides loses half), but then it must have the input's frames.

use crate::{
    Job, Plan,
    argv::output_container,
    plan::{
        Container, OutputPlan, Tree,
        filter::VideoFilter,
        tree::{Map, MovFlag, StreamKind, after},
    },
    report::{Probe, ProbedStream},
    request::{AudioCodec, VideoCodec},
};

/// Length that an output may differ by, in milliseconds: encoder delay (AAC 21 ms, Opus 7, MP3 50),
/// the last frame at one frame a second, and an edit list's rounding.
pub const TOLERANCE_MS: u64 = 1500;

/// And as much of the length as one part in this: headers that count frames at a rounded rate
/// (29.97 as 30) are off by a thousandth, variable bit rates in an AVI index by a hundredth.
pub const TOLERANCE_PART: u64 = 50;

/// Frames of the input that may be missing, one part in this and two more: frames before the first
/// key frame of an open group, and frames that share one time.
pub const FRAMES_LOST_PART: u64 = 20;

/// The container says how long the file is but not how long each track is: an output that has
/// sound must have at least one part in this of the whole.
const UNSPLIT_PART: u64 = 2;

/// An output with a picture may last this many times its input: the last picture of the input may
/// be there for an instant, the one before it for nearly all of the rest.
const STANDING_TIMES: u64 = 2;

/// How an output differs from what was planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// Another container.
    #[error("is of format {found} where {expected} was planned")]
    Container {
        /// By FFmpeg's name.
        found: String,
        /// By FFmpeg's name.
        expected: &'static str,
    },
    /// A track too many or too few.
    #[error("has {found} {kind} tracks where {expected} was planned")]
    Tracks {
        /// `video`, `audio` or `other`.
        kind: &'static str,
        /// How many there are.
        found: usize,
        /// How many were planned.
        expected: usize,
    },
    /// Another codec.
    #[error("has {kind} in {found} where {expected} was planned")]
    Codec {
        /// `video` or `audio`.
        kind: &'static str,
        /// By FFmpeg's name.
        found: String,
        /// By FFmpeg's name.
        expected: &'static str,
    },
    /// Another picture size.
    #[error(
        "has pictures of {}x{} where {}x{} was planned",
        found.0, found.1, expected.0, expected.1
    )]
    Size {
        /// Width and height.
        found: (u32, u32),
        /// Width and height.
        expected: (u32, u32),
    },
    /// Too short.
    #[error("lasts {found_ms} ms where at least {expected_ms} ms was planned")]
    Short {
        /// Its length.
        found_ms: u64,
        /// The least length.
        expected_ms: u64,
    },
    /// Too long.
    #[error("lasts {found_ms} ms where at most {expected_ms} ms was planned")]
    Long {
        /// Its length.
        found_ms: u64,
        /// The greatest length.
        expected_ms: u64,
    },
    /// The report does not say what the prober saw.
    #[error("was not probed")]
    NotProbed,
}

/// What one output must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    container: Container,
    videos: Vec<Picture>,
    audios: Vec<Sound>,
    lasts: Lasts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Picture {
    codec: &'static str,
    /// Width and height as the input lies, and as it stands after rotation; where known.
    sizes: Option<[(u32, u32); 2]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sound {
    codec: &'static str,
    /// An input's track without a sample makes no track.
    needed: bool,
}

/// Bounds of the length; absent where nobody can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lasts {
    ms_min: Option<u64>,
    ms_max: Option<u64>,
    /// Fewer milliseconds do if there are so many frames.
    frames_min: Option<u64>,
}

/// What `output` must be when it is made of `input` by `plan`.
#[must_use]
pub fn expected(plan: &Plan, output: &OutputPlan, input: &Probe) -> Expected {
    let tree = output.tree();
    let of = |kinds: &'static [StreamKind]| {
        let maps = tree.maps.iter().filter(|map| kinds.contains(&map.kind));
        let taken = maps.map(|map| (map, mapped(map, input)));
        // What is demanded is expected, whatever the prober saw: without it FFmpeg gives up.
        let taken = taken.filter(|(map, stream)| stream.is_some() || !map.optional);
        taken.map(|(_, stream)| stream).collect::<Vec<_>>()
    };
    let pictures = of(&[StreamKind::Picture, StreamKind::Video]);
    let sounds = of(&[StreamKind::Audio]);
    let video = tree.video.as_ref().map(|video| (video_codec(video.encoder.codec()), video));
    let videos = video.iter().flat_map(|(codec, video)| {
        pictures
            .iter()
            .map(|stream| {
                let size = stream.and_then(|stream| stream.width.zip(stream.height));
                let both = size.map(|(width, height)| [(width, height), (height, width)]);
                let [lies, stands] = both?.map(|size| through(&video.filters, size));
                Some([lies?, stands?])
            })
            .map(|sizes| Picture { codec, sizes })
    });
    let audio = tree.audio.as_ref().map(|audio| audio_codec(audio.encoder.codec()));
    let audios = audio.iter().flat_map(|codec| {
        let empty = |stream: &ProbedStream| stream.duration_ms == Some(0);
        // A window of the picture may have none of the sound.
        let apart = tree.video.is_some() && is_part(&tree);
        sounds.iter().map(move |stream| {
            let needed = !apart && !stream.is_some_and(empty);
            Sound { codec, needed }
        })
    });
    let container = output_container(tree.muxer.format);
    let (videos, audios) = (videos.collect(), audios.collect());
    let lasts = lasts(plan.input, &tree, input, (&pictures, &sounds));
    Expected { container, videos, audios, lasts }
}

/// The input's stream that a map names.
fn mapped<'a>(map: &Map, input: &'a Probe) -> Option<&'a ProbedStream> {
    let kind = if map.kind == StreamKind::Audio { "audio" } else { "video" };
    let covers = map.kind == StreamKind::Video;
    let mut streams = input.streams.iter().filter(|s| s.kind == kind && (covers || !s.attached));
    streams.nth(usize::try_from(map.index.get()).ok()?)
}

/// Whether a probed output is what was expected.
///
/// # Errors
/// The first [`Difference`].
pub fn compare(expected: &Expected, found: &Probe) -> Result<(), Difference> {
    let wanted = expected.container.demuxer();
    if !found.format.split(',').any(|name| name == wanted) {
        return Err(Difference::Container { found: found.format.clone(), expected: wanted });
    }
    let of = |kind: &str| found.streams.iter().filter(|s| s.kind == kind).collect::<Vec<_>>();
    let (videos, audios) = (of("video"), of("audio"));
    let others = found.streams.len() - videos.len() - audios.len();
    count("other", others, 0)?;
    count("video", videos.len(), expected.videos.len())?;
    for (picture, video) in expected.videos.iter().zip(&videos) {
        same_codec("video", video, picture.codec)?;
        same_size(video, picture.sizes)?;
    }
    let needed = expected.audios.iter().filter(|sound| sound.needed).count();
    count("audio", audios.len(), audios.len().clamp(needed, expected.audios.len()))?;
    for (sound, audio) in expected.audios.iter().zip(&audios) {
        same_codec("audio", audio, sound.codec)?;
    }
    same_length(expected.lasts, found, videos.first().and_then(|video| video.frames))
}

/// Whether the last attempt's report says that the output is what the job planned. What a stand-in
/// for FFmpeg made is no media, and is not compared.
///
/// # Errors
/// The first [`Difference`].
pub fn reported(job: &Job) -> Result<(), Difference> {
    let report = job.attempts.last().and_then(|attempt| attempt.report.as_ref());
    let (Some(plan), Some(report)) = (&job.plan, report) else {
        return Err(Difference::NotProbed);
    };
    if report.provenance.cell != "ffmpeg" {
        return Ok(());
    }
    // The report has the probe of the last output, and a plan has one.
    match (plan.outputs.last(), &report.input, &report.output) {
        (Some(output), Some(input), Some(found)) => compare(&expected(plan, output, input), found),
        _ => Err(Difference::NotProbed),
    }
}

type Streams<'a> = &'a [Option<&'a ProbedStream>];

/// Bounds of the length of an output of these tracks of the input.
fn lasts(
    container: Container,
    tree: &Tree,
    input: &Probe,
    (pictures, sounds): (Streams<'_>, Streams<'_>),
) -> Lasts {
    let guesses = match container {
        // An Ogg may be several one after the other, and states the length of its last.
        Container::MpegTs | Container::Flv | Container::Aac | Container::Mp3 | Container::Ogg => {
            true
        }
        Container::Mp4
        | Container::Matroska
        | Container::Avi
        | Container::Wav
        | Container::Flac
        | Container::Png
        | Container::Jpeg
        | Container::Gif => false,
    };
    // A changed tempo has no length at all.
    if guesses || tree.duration_ms(0).is_none() {
        return Lasts::default();
    }
    let slack = |ms: u64| TOLERANCE_MS + ms / TOLERANCE_PART;
    let least = |ms: u64| tree.duration_ms(ms).map(|ms| ms.saturating_sub(slack(ms)));
    // The last picture stands as long as the one before it did, even out of a window that was asked
    // for: of two slides, the first there for a minute, a second of output is a minute.
    let times = if pictures.is_empty() { 1 } else { STANDING_TIMES };
    let ms_max =
        input.duration_ms.map(|ms| ms.saturating_mul(times)).map(|ms| ms.saturating_add(slack(ms)));
    let bound = Lasts { ms_max, ..Lasts::default() };
    let sound = sounds.iter().flatten().filter(|stream| stream.duration_ms != Some(0));
    // The whole file's length is that of tracks which are all it has, or one of which is a picture.
    let all = pictures.len() + sounds.len() == input.streams.len() || !pictures.is_empty();
    // Recordings of a part of a stream begin later than at nought.
    let begins = input.start_ms.unwrap_or(0);
    let whole = input.duration_ms.filter(|_| all);
    let whole = whole.map(|ms| ms.saturating_sub(begins) / UNSPLIT_PART);
    if let Some(ms) = sound.map(|stream| stream.duration_ms.or(whole)).max() {
        return Lasts { ms_min: ms.and_then(least), ..bound };
    }
    match pictures.first() {
        Some(Some(ProbedStream { duration_ms: Some(ms), frames: Some(frames), .. }))
            if keeps_frames(tree) =>
        {
            let lost = frames / FRAMES_LOST_PART + 2;
            Lasts { ms_min: least(*ms), frames_min: Some(frames.saturating_sub(lost)), ..bound }
        }
        Some(_) | None => bound,
    }
}

/// Whether an output is a window of its input.
fn is_part(tree: &Tree) -> bool {
    let parts =
        [tree.window.seek.is_some(), tree.window.duration.is_some(), tree.duration.is_some()];
    parts.contains(&true)
}

/// Whether an output has its input's frames, and says how many.
fn keeps_frames(tree: &Tree) -> bool {
    let filters = tree.video.iter().flat_map(|video| &video.filters);
    let mut other_rate = filters.filter(|filter| matches!(filter, VideoFilter::Fps { .. }));
    let fragments = [MovFlag::FragKeyframe, MovFlag::EmptyMoov];
    other_rate.next().is_none()
        && !is_part(tree)
        && !tree.muxer.flags.iter().any(|flag| fragments.contains(flag))
}

/// The picture's size after a chain of filters; `None` where that depends on more than the size.
fn through(filters: &[VideoFilter], size: (u32, u32)) -> Option<(u32, u32)> {
    // With colours at half the size, FFmpeg rounds a cut with an odd side down.
    let odd = |filter: &VideoFilter| {
        matches!(filter, VideoFilter::Crop { width, height, .. } | VideoFilter::Pad { width, height, .. }
            if width.get() % 2 != 0 || height.get() % 2 != 0)
    };
    if filters.iter().any(odd) {
        return None;
    }
    filters.iter().try_fold(size, |size, filter| after(filter, Some(size)))
}

fn count(kind: &'static str, found: usize, expected: usize) -> Result<(), Difference> {
    if found == expected { Ok(()) } else { Err(Difference::Tracks { kind, found, expected }) }
}

fn same_codec(
    kind: &'static str,
    track: &ProbedStream,
    expected: &'static str,
) -> Result<(), Difference> {
    if track.codec == expected {
        return Ok(());
    }
    Err(Difference::Codec { kind, found: track.codec.clone(), expected })
}

fn same_size(track: &ProbedStream, sizes: Option<[(u32, u32); 2]>) -> Result<(), Difference> {
    let found = (track.width.unwrap_or(0), track.height.unwrap_or(0));
    match sizes {
        Some(sizes @ [expected, _]) if !sizes.contains(&found) => {
            Err(Difference::Size { found, expected })
        }
        Some(_) | None => Ok(()),
    }
}

fn same_length(lasts: Lasts, found: &Probe, frames: Option<u64>) -> Result<(), Difference> {
    let found_ms = found.duration_ms.unwrap_or(0);
    if let Some(expected_ms) = lasts.ms_max.filter(|max| found_ms > *max) {
        return Err(Difference::Long { found_ms, expected_ms });
    }
    let all_frames = match (lasts.frames_min, frames) {
        (Some(min), Some(frames)) => frames >= min,
        // Matroska counts no frames: nobody can tell.
        (Some(_), None) => true,
        (None, _) => false,
    };
    match lasts.ms_min.filter(|min| found_ms < *min && !all_frames) {
        Some(expected_ms) => Err(Difference::Short { found_ms, expected_ms }),
        None => Ok(()),
    }
}

const fn video_codec(codec: VideoCodec) -> &'static str {
    match codec {
        VideoCodec::H264 => "h264",
        VideoCodec::H265 => "hevc",
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
