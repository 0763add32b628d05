//! What ffprobe printed, made into a [`Probe`]. The printer is presumed hostile: text is kept only
//! where it has the form of FFmpeg's own names, numbers only where they make sense.
//!
//! Promises: what passes is within every limit of streams, pixels, seconds, frame rate, frames,
//! channels and sample rate, whatever of it the file's header had hidden; a refusal names the limit
//! and the value. Tags, attachments' names and side data are not asked for, so a file with
//! megabytes of them has the same short answer. Pure, and without the rest of this crate: the fuzz
//! target `probe` compiles this very file.

use hotcell_schemas::{
    RejectCode,
    limits::{
        CHANNELS_MAX, DURATION_SECS_MAX, FRAME_RATE_MAX, FRAMES_MAX, PIXELS_MAX, SAMPLE_RATE_MAX,
        STREAMS_MAX,
    },
    report::{Probe, ProbedStream},
};
use serde::Deserialize;

/// Bytes of ffprobe's answer that are read: 32 streams of under 500 bytes, each once more in the
/// program of a broadcast that it belongs to, and as much again.
pub(crate) const PROBE_BYTES_MAX: usize = 64 * 1024;

/// FFmpeg's longest name of a codec or container (`mov,mp4,m4a,3gp,3g2,mj2`) has 23 bytes.
const NAME_BYTES_MAX: usize = 48;

/// What stands where ffprobe gives no name.
const UNKNOWN: &str = "unknown";

/// Why an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeError {
    /// No JSON, or not of the expected shape.
    #[error("the prober's answer is not of the expected form")]
    Form,
    /// A name or a number that FFmpeg does not print.
    #[error("the prober's answer makes no sense")]
    Nonsense,
    /// No stream at all.
    #[error("the file has no streams")]
    Empty,
    /// The answer is cut: only a file with hundreds of programs has such a long one.
    #[error("the prober's answer about the file is over {PROBE_BYTES_MAX} bytes")]
    Long,
    /// Too many streams, with how many the prober counted before it stopped.
    #[error("the file has {0} streams or more, {STREAMS_MAX} are allowed")]
    Streams(usize),
    /// Too large a picture, in pixels.
    #[error("a picture of the file has {0} pixels, {PIXELS_MAX} are allowed")]
    Pixels(u64),
    /// Too long, in milliseconds.
    #[error("the file lasts {0} ms, {DURATION_SECS_MAX} s are allowed")]
    Duration(u64),
    /// Too many frames a second.
    #[error("the file has {0} frames a second, {FRAME_RATE_MAX} are allowed")]
    FrameRate(u64),
    /// Too many frames, as the file counts them or as duration and frame rate say.
    #[error("the file has {0} frames, {FRAMES_MAX} are allowed")]
    Frames(u64),
    /// Too many audio samples a second.
    #[error("the file has {0} audio samples a second, {SAMPLE_RATE_MAX} are allowed")]
    SampleRate(u64),
    /// Too many channels.
    #[error("the file has a sound track of {0} channels, {CHANNELS_MAX} are allowed")]
    Channels(u32),
}

impl ProbeError {
    /// The stable code of this refusal, for an input; the sentence is the error's own.
    pub(crate) const fn code(self) -> RejectCode {
        match self {
            Self::Form | Self::Nonsense | Self::Empty => RejectCode::ProbeFailed,
            Self::Long
            | Self::Streams(_)
            | Self::Pixels(_)
            | Self::Duration(_)
            | Self::FrameRate(_)
            | Self::Frames(_)
            | Self::SampleRate(_)
            | Self::Channels(_) => RejectCode::InputTooComplex,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    streams: Vec<Stream>,
    format: Format,
}

#[derive(Deserialize)]
struct Format {
    format_name: String,
    start_time: Option<String>,
    duration: Option<String>,
    bit_rate: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    codec_type: Option<String>,
    codec_name: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    sample_rate: Option<String>,
    channels: Option<u32>,
    avg_frame_rate: Option<String>,
    duration: Option<String>,
    nb_frames: Option<String>,
    #[serde(default)]
    disposition: Disposition,
}

#[derive(Default, Deserialize)]
struct Disposition {
    #[serde(default)]
    attached_pic: u8,
}

/// Reads ffprobe's JSON.
pub(crate) fn parse(json: &[u8]) -> Result<Probe, ProbeError> {
    if json.len() > PROBE_BYTES_MAX {
        return Err(ProbeError::Long);
    }
    let answer: Answer = serde_json::from_slice(json).map_err(|_| ProbeError::Form)?;
    if answer.streams.is_empty() {
        return Err(ProbeError::Empty);
    }
    if answer.streams.len() > STREAMS_MAX {
        return Err(ProbeError::Streams(answer.streams.len()));
    }
    let duration_ms = duration(answer.format.duration.as_deref())?;
    let bit_rate = maybe(answer.format.bit_rate.as_deref(), number)?;
    let streams = answer.streams.into_iter().map(|from| stream(from, duration_ms));
    let streams = streams.collect::<Result<_, _>>()?;
    // Before nought and at nought are the same: no part is missing.
    let start_ms = maybe(answer.format.start_time.as_deref(), milliseconds)?.filter(|ms| *ms > 0);
    let format = name(answer.format.format_name)?;
    Ok(Probe { format, duration_ms, start_ms, bit_rate, streams })
}

fn stream(from: Stream, file_ms: Option<u64>) -> Result<ProbedStream, ProbeError> {
    // 0 is what FFmpeg says of a picture that it could not size.
    let size = |side: Option<u32>| side.filter(|pixels| *pixels > 0);
    let (width, height) = (size(from.width), size(from.height));
    let pixels = u64::from(width.unwrap_or(0)) * u64::from(height.unwrap_or(0));
    if pixels > PIXELS_MAX {
        return Err(ProbeError::Pixels(pixels));
    }
    let own_ms = duration(from.duration.as_deref())?;
    let rate = maybe(from.avg_frame_rate.as_deref(), ratio)?;
    let counted = maybe(from.nb_frames.as_deref(), number)?;
    // Of sound it counts samples, millions of them, at no rate.
    let is_video = from.codec_type.as_deref() == Some("video");
    if is_video {
        frames(rate, counted, own_ms.max(file_ms))?;
    }
    let sample_rate = maybe(from.sample_rate.as_deref(), number)?.filter(|rate| *rate > 0);
    let sample_rate = match sample_rate {
        Some(rate) if rate > SAMPLE_RATE_MAX => return Err(ProbeError::SampleRate(rate)),
        Some(rate) => Some(u32::try_from(rate).map_err(|_| ProbeError::Nonsense)?),
        None => None,
    };
    if let Some(channels) = from.channels.filter(|channels| *channels > CHANNELS_MAX) {
        return Err(ProbeError::Channels(channels));
    }
    Ok(ProbedStream {
        kind: from.codec_type.map_or(Ok(UNKNOWN.to_owned()), name)?,
        codec: from.codec_name.map_or(Ok(UNKNOWN.to_owned()), name)?,
        width,
        height,
        sample_rate,
        channels: from.channels.filter(|channels| *channels > 0),
        duration_ms: own_ms,
        frames: counted.filter(|_| is_video),
        fps: rate.filter(|_| is_video).and_then(a_second),
        attached: from.disposition.attached_pic != 0,
    })
}

/// A rate to the nearest frame per second; none for none.
fn a_second((above, below): (u64, u64)) -> Option<u32> {
    let rounded = above.saturating_add(below / 2) / below;
    u32::try_from(rounded).ok().filter(|fps| *fps > 0)
}

/// Holds the limits of frames to a picture track: `rate` is a fraction, `counted` the file's claim.
fn frames(
    rate: Option<(u64, u64)>,
    counted: Option<u64>,
    lasts_ms: Option<u64>,
) -> Result<(), ProbeError> {
    let mut count = counted.unwrap_or(0);
    if let Some((above, below)) = rate {
        let a_second = above.div_ceil(below);
        if a_second > FRAME_RATE_MAX {
            return Err(ProbeError::FrameRate(a_second));
        }
        // Rounded up twice: neither factor is above its limit, so the product fits easily.
        count = count.max(a_second * lasts_ms.unwrap_or(0).div_ceil(1000));
    }
    if count > FRAMES_MAX { Err(ProbeError::Frames(count)) } else { Ok(()) }
}

/// A duration within the limit, in milliseconds.
fn duration(text: Option<&str>) -> Result<Option<u64>, ProbeError> {
    match maybe(text, milliseconds)? {
        Some(ms) if ms > u64::from(DURATION_SECS_MAX) * 1000 => Err(ProbeError::Duration(ms)),
        ms => Ok(ms),
    }
}

/// What `read` makes of a text that is there.
fn maybe<T>(
    text: Option<&str>,
    read: impl FnOnce(&str) -> Result<Option<T>, ProbeError>,
) -> Result<Option<T>, ProbeError> {
    text.map(read).transpose().map(Option::flatten)
}

/// FFmpeg names its codecs, kinds and containers in this alphabet.
fn name(text: String) -> Result<String, ProbeError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b",_-.".contains(&b);
    let good = !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(plain);
    if good { Ok(text) } else { Err(ProbeError::Nonsense) }
}

/// A number in decimal; `N/A` is none.
fn number(text: &str) -> Result<Option<u64>, ProbeError> {
    if text == "N/A" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| ProbeError::Nonsense)
}

/// A fraction, as in `30000/1001`; `0/0` is none.
fn ratio(text: &str) -> Result<Option<(u64, u64)>, ProbeError> {
    let (above, below) = text.split_once('/').ok_or(ProbeError::Nonsense)?;
    let part = |text: &str| number(text)?.ok_or(ProbeError::Nonsense);
    Ok(Some((part(above)?, part(below)?)).filter(|(_, below)| *below > 0))
}

/// Seconds in decimal with up to six places, as milliseconds; `N/A` and negative are none: some
/// containers say so of files that play well.
fn milliseconds(text: &str) -> Result<Option<u64>, ProbeError> {
    if text == "N/A" {
        return Ok(None);
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 9 {
        return Err(ProbeError::Nonsense);
    }
    let seconds: u64 = whole.parse().map_err(|_| ProbeError::Nonsense)?;
    let thousandths = part
        .bytes()
        .chain(*b"000")
        .take(3)
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let ms = seconds.checked_mul(1000).and_then(|ms| ms.checked_add(thousandths));
    let ms = ms.ok_or(ProbeError::Nonsense)?;
    Ok((!negative).then_some(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const VIDEO: &str = r#"{"index":0,"codec_name":"h264","codec_type":"video","width":1280,
        "height":720,"duration":"10.000000","avg_frame_rate":"30000/1001",
        "nb_frames":"300","disposition":{"attached_pic":0}}"#;

    fn with(format: &str, streams: &str) -> Result<Probe, ProbeError> {
        parse(format!(r#"{{"streams":[{streams}],"format":{{{format}}}}}"#).as_bytes())
    }

    #[test]
    fn a_file_that_begins_later_says_so() {
        let check = |start: &str, expect| {
            let format = format!(
                r#""format_name":"matroska,webm","duration":"120.0","start_time":"{start}""#
            );
            assert_eq!(with(&format, VIDEO).map(|probe| probe.start_ms), expect, "{start}");
        };
        check("100.000000", Ok(Some(100_000)));
        // A stream that runs for days is not longer than what was kept of it.
        check("250000.5", Ok(Some(250_000_500)));
        check("0.000000", Ok(None));
        check("-0.007000", Ok(None));
        check("N/A", Ok(None));
        check("soon", Err(ProbeError::Nonsense));
    }

    #[test]
    fn an_honest_answer() {
        let audio =
            r#"{"codec_name":"aac","codec_type":"audio","sample_rate":"48000","channels":2}"#;
        let format = r#""format_name":"mov,mp4,m4a,3gp,3g2,mj2","duration":"10.023220",
            "bit_rate":"2128000","nb_streams":2"#;
        let probe = with(format, &format!("{VIDEO},{audio}")).unwrap();
        assert_eq!(
            (probe.format.as_str(), probe.duration_ms),
            ("mov,mp4,m4a,3gp,3g2,mj2", Some(10_023))
        );
        assert_eq!(probe.bit_rate, Some(2_128_000));
        let [video, audio] = probe.streams.as_slice() else { panic!("two streams") };
        assert_eq!(
            (video.codec.as_str(), video.width, video.height),
            ("h264", Some(1280), Some(720))
        );
        assert_eq!((audio.sample_rate, audio.channels), (Some(48_000), Some(2)));
        assert_eq!((video.duration_ms, video.frames), (Some(10_000), Some(300)));
        assert_eq!((video.fps, audio.fps), (Some(30), None));
        assert_eq!((audio.duration_ms, audio.frames), (None, None));
        let cover = VIDEO.replace(r#""attached_pic":0"#, r#""attached_pic":1"#);
        let probe = with(format, &format!("{cover},{VIDEO}")).unwrap();
        assert_eq!([true, false], [0, 1].map(|at| probe.streams[at].attached));
    }

    #[test]
    fn what_is_not_known_is_none() {
        let probe = with(r#""format_name":"png_pipe""#, r#"{"width":0,"height":0}"#).unwrap();
        assert_eq!((probe.duration_ms, probe.bit_rate), (None, None));
        let [stream] = probe.streams.as_slice() else { panic!("one stream") };
        assert_eq!(
            (stream.kind.as_str(), stream.codec.as_str(), stream.width),
            (UNKNOWN, UNKNOWN, None)
        );
    }

    #[test]
    fn durations() {
        let check = |text: &str, expect| assert_eq!(milliseconds(text), expect, "{text}");
        check("10", Ok(Some(10_000)));
        check("0.000999", Ok(Some(0)));
        check("1.5", Ok(Some(1500)));
        check("-0.04", Ok(None));
        check("N/A", Ok(None));
        for bad in ["", ".", "1.", "nan", "inf", "1e9", "1.2.3", "+1", "99999999999999999999", "١"]
        {
            check(bad, Err(ProbeError::Nonsense));
        }
    }

    #[test]
    fn hostile_answers_are_refused() {
        let check = |format: &str, streams: &str, expect| {
            assert_eq!(with(format, streams).unwrap_err(), expect, "{format} {streams}");
        };
        let mov = r#""format_name":"mov""#;
        check(mov, "", ProbeError::Empty);
        check(mov, r#"{"width":-1}"#, ProbeError::Form);
        check(mov, r#"{"codec_name":"<script>"}"#, ProbeError::Nonsense);
        check(mov, r#"{"codec_name":"a\u0000b"}"#, ProbeError::Nonsense);
        check(r#""format_name":"mov","bit_rate":"-1""#, VIDEO, ProbeError::Nonsense);
        check(r#""format_name":"""#, VIDEO, ProbeError::Nonsense);
        let long = format!(r#""format_name":"{}""#, "x".repeat(NAME_BYTES_MAX + 1));
        check(&long, VIDEO, ProbeError::Nonsense);
        for rate in ["", "/", "25", "1/-1", "25/1/1", "99999999999999999999/1", "N/A"] {
            check(mov, &format!(r#"{{"avg_frame_rate":"{rate}"}}"#), ProbeError::Nonsense);
        }
        assert_eq!(parse(b"["), Err(ProbeError::Form));
    }

    /// ZT-08: each limit at its edge, by its own name, with its code, its bound and the value.
    #[test]
    fn each_limit_refuses_the_first_value_beyond_it() {
        let mov = r#""format_name":"mov""#;
        let refused = |format: &str, stream: &str, expect: ProbeError, words: [&str; 2]| {
            let error = with(format, stream).unwrap_err();
            assert_eq!((error, error.code()), (expect, RejectCode::InputTooComplex));
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}: {words:?}");
        };
        let streams = |count: usize| vec!["{}"; count].join(",");
        assert!(with(mov, &streams(STREAMS_MAX)).is_ok());
        refused(mov, &streams(STREAMS_MAX + 1), ProbeError::Streams(33), ["33", "32"]);
        assert!(with(mov, r#"{"width":8192,"height":4320}"#).is_ok());
        let pixels = ProbeError::Pixels(35_393_760);
        refused(mov, r#"{"width":8193,"height":4320}"#, pixels, ["35393760", "35389440"]);
        let lasts = |text: &str| format!(r#"{mov},"duration":"{text}""#);
        assert!(with(&lasts("14400.000"), VIDEO).is_ok());
        refused(&lasts("14400.001"), "{}", ProbeError::Duration(14_400_001), ["14400001", "14400"]);
        let own = r#"{"duration":"14400.001"}"#;
        refused(mov, own, ProbeError::Duration(14_400_001), ["14400001", "14400"]);
        let rate = |rate: &str| format!(r#"{{"codec_type":"video","avg_frame_rate":"{rate}"}}"#);
        for good in ["1000/1", "0/0", "30000/1001", "18446744073709551615/18446744073709551615"] {
            assert!(with(mov, &rate(good)).is_ok(), "{good}");
        }
        refused(mov, &rate("10001/10"), ProbeError::FrameRate(1001), ["1001", "1000"]);
        assert!(with(&lasts("14400"), &rate("300/1")).is_ok());
        let frames = ProbeError::Frames(4_334_400);
        refused(&lasts("14400"), &rate("3001/10"), frames, ["4334400", "4320000"]);
        let count =
            |kind: &str| format!(r#"{{"codec_type":"{kind}","nb_frames":"{}"}}"#, FRAMES_MAX + 1);
        refused(mov, &count("video"), ProbeError::Frames(FRAMES_MAX + 1), ["4320001", "4320000"]);
        assert!(with(mov, &count("audio")).is_ok(), "samples of sound");
        let sound = r#"{"sample_rate":"768001"}"#;
        refused(mov, sound, ProbeError::SampleRate(768_001), ["768001", "768000"]);
        refused(mov, r#"{"channels":65}"#, ProbeError::Channels(65), ["65", "64"]);
        let long = parse(&vec![b' '; PROBE_BYTES_MAX + 1]).unwrap_err();
        assert_eq!((long, long.code()), (ProbeError::Long, RejectCode::InputTooComplex));
    }

    /// A broadcast of 32 tracks, each listed once more in its program, fits; ffprobe 5.1 prints
    /// programs whether or not it is asked, with an empty object for each item of side data.
    #[test]
    fn the_longest_honest_answer_fits() {
        let stream = r#"{ "index": 31, "codec_name": "adpcm_ima_wav", "codec_type": "attachment",
            "width": 8192, "height": 4320, "sample_rate": "768000", "channels": 64,
            "avg_frame_rate": "30000/1001", "duration": "14399.999999", "nb_frames": "4320000",
            "disposition": { "attached_pic": 0 }, "side_data_list": [ { }, { }, { }, { } ] }"#;
        let all = vec![stream; STREAMS_MAX].join(",");
        let answer = format!(
            r#"{{"programs":[{{"streams":[{all}]}}],"streams":[{all}],"format":{{"format_name":"mpegts"}}}}"#
        );
        assert_eq!(parse(answer.as_bytes()).unwrap().streams.len(), STREAMS_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer_within_the_limits(
            kind in ".*", codec in ".*", width: u32, height: u32, rate in "[0-9N/A.-]{0,12}",
            channels: u32, format in ".{0,60}", duration in "[0-9N/A.-]{0,12}",
            frames in "[0-9]{0,4}/[0-9]{0,4}",
        ) {
            let stream = json!({"codec_type": kind, "codec_name": codec, "width": width,
                "height": height, "sample_rate": rate, "channels": channels,
                "avg_frame_rate": frames, "nb_frames": rate});
            let answer = json!({"streams": [stream],
                "format": {"format_name": format, "duration": duration}});
            if let Ok(probe) = parse(answer.to_string().as_bytes()) {
                for stream in &probe.streams {
                    prop_assert!(stream.kind.len() <= NAME_BYTES_MAX && stream.kind.is_ascii());
                    prop_assert!(stream.codec.len() <= NAME_BYTES_MAX && stream.codec.is_ascii());
                }
                prop_assert!(probe.duration_ms <= Some(u64::from(DURATION_SECS_MAX) * 1000));
            }
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes: Vec<u8>) {
            drop(parse(&bytes));
        }
    }
}
