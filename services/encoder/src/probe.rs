//! What ffprobe printed, made into a [`Probe`]. The printer is presumed hostile: text is kept only
//! where it has the form of FFmpeg's own names, numbers only where they make sense.

use hotcell_schemas::{
    limits::{DURATION_SECS_MAX, PIXELS_MAX, STREAMS_MAX},
    report::{Probe, ProbedStream},
};
use serde::Deserialize;

/// Bytes of ffprobe's answer that are read: 32 streams of under 400 bytes, and as much again.
pub(crate) const PROBE_BYTES_MAX: usize = 32 * 1024;

/// FFmpeg's longest name of a codec or container (`mov,mp4,m4a,3gp,3g2,mj2`) has 23 bytes.
const NAME_BYTES_MAX: usize = 48;

/// What stands where ffprobe gives no name.
const UNKNOWN: &str = "unknown";

/// Samples per second and channels beyond these are nonsense: FFmpeg's own codecs end below.
const SAMPLE_RATE_MAX: u32 = 768_000;
const CHANNELS_MAX: u32 = 64;

/// Why an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeError {
    /// Cut, no JSON, or not of the expected shape.
    #[error("the prober's answer is not of the expected form")]
    Form,
    /// A name or a number that FFmpeg does not print.
    #[error("the prober's answer makes no sense")]
    Nonsense,
    /// No stream at all.
    #[error("the file has no streams")]
    Empty,
    /// Beyond the limits of streams, pixels or seconds.
    #[error("the file has more streams, pixels or seconds than the limits allow")]
    TooComplex,
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
}

/// Reads ffprobe's JSON.
pub(crate) fn parse(json: &[u8]) -> Result<Probe, ProbeError> {
    if json.len() > PROBE_BYTES_MAX {
        return Err(ProbeError::Form);
    }
    let answer: Answer = serde_json::from_slice(json).map_err(|_| ProbeError::Form)?;
    if answer.streams.is_empty() {
        return Err(ProbeError::Empty);
    }
    if answer.streams.len() > STREAMS_MAX {
        return Err(ProbeError::TooComplex);
    }
    let duration_ms = answer.format.duration.as_deref().map(milliseconds).transpose()?.flatten();
    if duration_ms.is_some_and(|ms| ms > u64::from(DURATION_SECS_MAX) * 1000) {
        return Err(ProbeError::TooComplex);
    }
    let bit_rate = answer.format.bit_rate.as_deref().map(number).transpose()?.flatten();
    let streams = answer.streams.into_iter().map(stream).collect::<Result<_, _>>()?;
    Ok(Probe { format: name(answer.format.format_name)?, duration_ms, bit_rate, streams })
}

fn stream(from: Stream) -> Result<ProbedStream, ProbeError> {
    // 0 is what FFmpeg says of a picture that it could not size.
    let size = |side: Option<u32>| side.filter(|pixels| *pixels > 0);
    let (width, height) = (size(from.width), size(from.height));
    let pixels = u64::from(width.unwrap_or(0)) * u64::from(height.unwrap_or(0));
    if pixels > PIXELS_MAX {
        return Err(ProbeError::TooComplex);
    }
    let sample_rate = from.sample_rate.as_deref().map(number).transpose()?.flatten();
    let sample_rate =
        sample_rate.map(u32::try_from).transpose().map_err(|_| ProbeError::Nonsense)?;
    if sample_rate > Some(SAMPLE_RATE_MAX) || from.channels > Some(CHANNELS_MAX) {
        return Err(ProbeError::Nonsense);
    }
    Ok(ProbedStream {
        kind: from.codec_type.map_or(Ok(UNKNOWN.to_owned()), name)?,
        codec: from.codec_name.map_or(Ok(UNKNOWN.to_owned()), name)?,
        width,
        height,
        sample_rate: sample_rate.filter(|rate| *rate > 0),
        channels: from.channels.filter(|channels| *channels > 0),
    })
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
        "height":720,"duration":"10.000000","disposition":{"attached_pic":0}}"#;

    fn with(format: &str, streams: &str) -> Result<Probe, ProbeError> {
        parse(format!(r#"{{"streams":[{streams}],"format":{{{format}}}}}"#).as_bytes())
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
        check(mov, r#"{"width":8192,"height":8192}"#, ProbeError::TooComplex);
        check(mov, r#"{"width":-1}"#, ProbeError::Form);
        check(mov, r#"{"codec_name":"<script>"}"#, ProbeError::Nonsense);
        check(mov, r#"{"codec_name":"a\u0000b"}"#, ProbeError::Nonsense);
        check(mov, r#"{"sample_rate":"99999999999"}"#, ProbeError::Nonsense);
        check(mov, r#"{"channels":65}"#, ProbeError::Nonsense);
        check(r#""format_name":"mov","duration":"14400.001""#, VIDEO, ProbeError::TooComplex);
        check(r#""format_name":"mov","bit_rate":"-1""#, VIDEO, ProbeError::Nonsense);
        check(r#""format_name":"""#, VIDEO, ProbeError::Nonsense);
        let long = format!(r#""format_name":"{}""#, "x".repeat(NAME_BYTES_MAX + 1));
        check(&long, VIDEO, ProbeError::Nonsense);
        check(mov, &vec!["{}"; STREAMS_MAX + 1].join(","), ProbeError::TooComplex);
        assert!(with(mov, &vec!["{}"; STREAMS_MAX].join(",")).is_ok());
        assert_eq!(parse(&vec![b' '; PROBE_BYTES_MAX + 1]), Err(ProbeError::Form));
        assert_eq!(parse(b"["), Err(ProbeError::Form));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer_within_the_limits(
            kind in ".*", codec in ".*", width: u32, height: u32, rate in "[0-9N/A.-]{0,12}",
            channels: u32, format in ".{0,60}", duration in "[0-9N/A.-]{0,12}",
        ) {
            let stream = json!({"codec_type": kind, "codec_name": codec, "width": width,
                "height": height, "sample_rate": rate, "channels": channels});
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
