//! The verdict on an input's bytes.
//!
//! Promises: the container is decided by the bytes alone, and fixes the demuxer; the declared type
//! must agree; the limits on pixels, tracks and duration hold for what the header says (the jailed
//! prober and FFmpeg's own options hold them for what it hides). A panic in a third-party parser is
//! a refusal. Pure: the same window gives the same verdict.

use crate::{
    accept, ebml, header, playlist,
    scan::Scan,
    seen::{Flaw, Seen},
};
use file_format::FileFormat;
use hotcell_schemas::{
    limits::UPLOAD_BYTES_MAX,
    plan::{Container, Sniffed},
    reject::{Failure, RejectCode},
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What the input is.
///
/// # Errors `InputEmpty`, `InputTooLarge`, `InputPlaylist`, `InputNotMedia`, `InputTypeMismatch`
/// (declared as something else), `InputMalformed` (cut short or contradictory), `InputTooComplex`
/// (over a limit).
pub fn sniff(scan: &Scan, declared: &str) -> Result<Sniffed, Failure> {
    use RejectCode::{InputEmpty, InputPlaylist, InputTooLarge, InputTypeMismatch};
    if scan.length == 0 {
        return Err(Failure::new(InputEmpty, "the file is empty"));
    }
    if scan.length > UPLOAD_BYTES_MAX {
        return Err(Failure::new(InputTooLarge, "the file is larger than 2 GiB"));
    }
    if playlist::is_playlist(&scan.head) {
        let message = "the file is a playlist or manifest, which names other files";
        return Err(Failure::new(InputPlaylist, message));
    }
    if scan.is_tagged && scan.head.is_empty() {
        // Its tag claims all of it.
        return Err(Flaw::Truncated.into());
    }
    let container = container(&scan.head)?;
    if scan.is_tagged && !matches!(container, Container::Mp3 | Container::Aac | Container::Flac) {
        let message = "the file has a sound's tag in front of something else";
        return Err(Failure::new(RejectCode::InputNotMedia, message));
    }
    if accept::declared(declared) != Some(container) {
        let found = accept::media_type(container, None);
        let message = format!("the file is {found}, which is not the type that was declared");
        return Err(Failure::new(InputTypeMismatch, message));
    }
    let seen = seen(container, scan)?;
    seen.within_limits()?;
    if declared.starts_with("audio/") && seen.has_video == Some(true) {
        let message = "the file has a picture track but was declared as audio";
        return Err(Failure::new(InputTypeMismatch, message));
    }
    Ok(Sniffed {
        container,
        content_type: accept::media_type(container, seen.has_video).to_owned(),
        width: seen.size.map(|(width, _)| width),
        height: seen.size.map(|(_, height)| height),
        has_video: seen.has_video,
        has_audio: seen.has_audio,
        duration_ms: seen.duration_ms,
        protected: seen.protected,
    })
}

/// The container by its bytes.
fn container(head: &[u8]) -> Result<Container, Failure> {
    if is_movie(head) {
        return Ok(Container::Mp4);
    }
    if ebml::is_matroska(head) {
        return Ok(Container::Matroska);
    }
    let format = guarded(|| FileFormat::from_bytes(head))?;
    if let Some(container) = accept::sniffed(format.media_type()) {
        return Ok(container);
    }
    // The names come from the sniffer's own table, never from the file.
    let message = if playlist::is_text(head) {
        "the file is text, not media".to_owned()
    } else if format == FileFormat::ArbitraryBinaryData {
        "the file is in no format that we know".to_owned()
    } else {
        format!("the file is {}, which is not accepted", format.media_type())
    };
    Err(Failure::new(RejectCode::InputNotMedia, message))
}

/// An ISO file by its first box. Ours and not the sniffer's, which gives up on one that is cut
/// short and so would say "unknown" where "cut short" is the answer.
fn is_movie(head: &[u8]) -> bool {
    /// Brands of still images in the same boxes (HEIF, AVIF, JPEG XL, Canon raw).
    const STILL: [&[u8]; 9] =
        [b"mif1", b"msf1", b"heic", b"heix", b"hevc", b"avif", b"avis", b"jxl ", b"crx "];
    let brand = head.get(8..12).unwrap_or_default();
    head.get(4..8) == Some(b"ftyp") && !STILL.contains(&brand)
}

fn seen(container: Container, scan: &Scan) -> Result<Seen, Flaw> {
    match container {
        Container::Mp4 => scan.walk.finish(),
        Container::Matroska => ebml::seen(&scan.head, scan.length),
        Container::Png | Container::Jpeg | Container::Gif => picture(&scan.head),
        Container::MpegTs
        | Container::Avi
        | Container::Flv
        | Container::Wav
        | Container::Mp3
        | Container::Aac
        | Container::Flac
        | Container::Ogg => Ok(header::seen(container, &scan.head, scan.length)),
    }
}

/// An image: one picture, no sound.
fn picture(head: &[u8]) -> Result<Seen, Flaw> {
    let size = guarded(|| imagesize::blob_size(head))?.map_err(|_| Flaw::Truncated)?;
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let size = (side(size.width), side(size.height));
    if size.0 == 0 || size.1 == 0 {
        return Err(Flaw::Nothing);
    }
    let mut seen = Seen::complete();
    seen.picture(Some(size));
    Ok(seen)
}

/// Runs a parser that is not ours.
fn guarded<T>(parse: impl FnOnce() -> T) -> Result<T, Flaw> {
    catch_unwind(AssertUnwindSafe(parse)).map_err(|_| Flaw::Panic)
}
