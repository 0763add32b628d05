//! Whether bytes show, sound like or tell what belongs to somebody else.

use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    process::Command,
};

/// The distribution's FFmpeg, outside of any cell: it knows every format.
const FFMPEG: &str = "/usr/bin/ffmpeg";

/// The canary's colour, and how far compression takes it.
const MAGENTA: [u8; 3] = [255, 0, 254];
const OFF: u8 = 40;

/// Side of the grid of points that are looked at in each frame.
const GRID: usize = 8;

/// The points as a filter.
pub(crate) const GRID_FILTER: &str = "scale=8:8:flags=neighbor";

/// The canary's tone and the rate at which sound is looked at, in hertz.
const TONE: f32 = 3000.0;
const RATE: u16 = 16_000;

/// What an output has of the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// A frame is mostly of its colour.
    pub(crate) shows: bool,
    /// Half a second is mostly its tone.
    pub(crate) sounds: bool,
}

/// Decodes an output, an MP4 or M4A, and looks at all of it. One that cannot be decoded is an
/// error.
pub(crate) fn look(bytes: &[u8]) -> Result<Seen> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    fs::write(path("out.mp4"), bytes)?;
    let rate = RATE.to_string();
    let (video, audio) = (has_track(bytes, b"vide"), has_track(bytes, b"soun"));
    ensure!(video || audio, "an output without tracks");
    let mut command = Command::new(FFMPEG);
    command.args(["-v", "error", "-nostdin", "-i"]).arg(path("out.mp4"));
    if video {
        command.args(["-map", "0:v:0", "-vf", GRID_FILTER, "-fps_mode", "passthrough"]);
        command.args(["-f", "rawvideo", "-pix_fmt", "rgb24"]).arg(path("pixels"));
    }
    if audio {
        command.args(["-map", "0:a:0", "-ac", "1", "-ar", &rate, "-f", "s16le"]);
        command.arg(path("samples"));
    }
    let made = command.output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let shows = video && pixels_show_canary(&fs::read(path("pixels"))?);
    Ok(Seen { shows, sounds: audio && samples_sound_like_canary(&fs::read(path("samples"))?) })
}

/// Whether a track of an MP4 is of this kind (ISO/IEC 14496-12 §8.4.3), whatever a report says.
fn has_track(bytes: &[u8], kind: &[u8; 4]) -> bool {
    bytes.windows(16).any(|window| window.starts_with(b"hdlr") && window.ends_with(kind))
}

/// Whether some frame of a file is mostly the film's colour.
pub(crate) fn file_shows_canary(path: &Path) -> Result<bool> {
    let mut command = Command::new(FFMPEG);
    command.args(["-v", "error", "-nostdin", "-t", "60", "-i"]).arg(path);
    command.args(["-map", "0:v:0", "-vf", GRID_FILTER, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]);
    let made = command.output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(pixels_show_canary(&made.stdout))
}

/// The same of what [`GRID_FILTER`] made, as `rgb24`.
pub(crate) fn pixels_show_canary(pixels: &[u8]) -> bool {
    let near = |pixel: &[u8]| pixel.iter().zip(MAGENTA).all(|(one, of)| one.abs_diff(of) < OFF);
    pixels
        .chunks(GRID * GRID * 3)
        .any(|frame| frame.chunks(3).filter(|pixel| near(pixel)).count() * 2 > GRID * GRID)
}

/// Whether the sound's energy is mostly at the film's tone (Goertzel, half a second at a time).
fn samples_sound_like_canary(bytes: &[u8]) -> bool {
    let samples: Vec<f32> =
        bytes.chunks_exact(2).map(|two| f32::from(i16::from_le_bytes([two[0], two[1]]))).collect();
    samples.chunks_exact(usize::from(RATE / 2)).any(|part| {
        let turn = 2.0 * (2.0 * std::f32::consts::PI * TONE / f32::from(RATE)).cos();
        let (one, two) =
            part.iter().fold((0.0, 0.0), |(one, two), sample| (sample + turn * one - two, one));
        let tone = one * one + two * two - turn * one * two;
        let all: f32 = part.iter().map(|sample| sample * sample).sum();
        let count = f32::from(RATE / 2);
        // A pure tone has half of its energy times the count at its frequency.
        all > count && tone * 2.0 > all * count * 0.5
    })
}

/// Whether `bytes` hold `needle`, as UTF-8 or UTF-16.
pub(crate) fn holds(bytes: &[u8], needle: &str) -> bool {
    let wide: Vec<u8> = needle.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [needle.as_bytes(), &wide].iter().any(|text| {
        let first = text[0];
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == first) {
            rest = &rest[at..];
            if rest.starts_with(text) {
                return true;
            }
            rest = &rest[1..];
        }
        false
    })
}

/// Files below `dir` that hold `needle`; those that begin as zstd (RFC 8878) are opened. Services work
/// meanwhile: what they remove or put in place of another while it looks is gone.
pub(crate) fn files_that_hold(dir: &Path, needle: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in there(fs::read_dir(dir))?.into_iter().flatten() {
        let path = entry?.path();
        let Some(kind) = there(fs::symlink_metadata(&path))?.map(|it| it.file_type()) else {
            continue;
        };
        if kind.is_dir() {
            found.extend(files_that_hold(&path, needle)?);
        } else if kind.is_file() {
            let Some(mut bytes) = there(fs::read(&path))? else { continue };
            if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                // The store keeps what it knows of an object behind the object.
                let mut opened = Vec::new();
                let mut frame = zstd::Decoder::new(bytes.as_slice())?.single_frame();
                frame.read_to_end(&mut opened).with_context(|| path.display().to_string())?;
                bytes = opened;
            }
            if holds(&bytes, needle) {
                found.push(path.display().to_string());
            }
        }
    }
    Ok(found)
}

/// `None` when there is no such file.
pub(crate) fn there<T>(read: io::Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => Ok(Some(read?)),
    }
}
