//! Hostile and malformed media, made here and nowhere else.
//!
//! Promises: the same files each time on one machine (fixed seed, unless `HOTCELL_CORPUS_SEED` names
//! another; valid clips come from the distribution's FFmpeg, bit-exact, and are mutated), each with
//! the ends that it may have. The families are what is known to misbehave in plain FFmpeg 5.1, and
//! what parsers get wrong.
//! Refuses: real exploits, and bytes of anybody else.

mod audio;
mod baggage;
mod bytes;
mod clips;
mod cuts;
mod deflate;
mod isobmff;
mod junk;
mod matroska;
mod payloads;
mod pictures;
mod polyglots;
mod references;
mod riff;
mod streams;
mod timing;

use anyhow::{Context as _, Result, ensure};
use clips::Clips;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Text that is in the canary's file and in no output, log, record or standard error.
pub const CANARY_TEXT: &str = "CANARY-5b1f0c7e-of-another-tenant";

/// Text that some files carry as tags, attachments or subtitles: in no output.
pub const BAGGAGE_TEXT: &str = "BAGGAGE-93d2ae41-of-this-tenant";

/// Name of the canary film, which playlists name.
pub const FILM: &str = "film.mp4";

/// Name of the canary text.
pub const SECRET: &str = "secret.txt";

/// How a file may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    /// It may be transcoded.
    pub completed: bool,
    /// It may be refused or fail with one of these codes.
    pub codes: &'static [&'static str],
}

const fn refused(codes: &'static [&'static str]) -> Expect {
    Expect { completed: false, codes }
}

/// Codes of files that are broken, wherever that shows.
const BROKEN_CODES: &[&str] = &[
    "input_malformed",
    "input_not_media",
    "input_type_mismatch",
    "input_too_complex",
    "request_unsupported",
    "probe_failed",
    "encode_failed",
    "output_missing",
    "output_invalid",
];

/// Codes of files that want more than they may have.
const HUNGRY_CODES: &[&str] = &[
    "input_malformed",
    "input_too_complex",
    "probe_failed",
    "encode_failed",
    "output_missing",
    "output_invalid",
    "resource_memory",
    "resource_cpu",
    "resource_wall",
    "resource_output",
    "stalled",
];

/// It is good.
pub const COMPLETED: Expect = Expect { completed: true, codes: &[] };
/// It is refused without a byte of it reaching FFmpeg, as what names other files.
pub const PLAYLIST: Expect = refused(&["input_playlist"]);
/// As no media.
pub const NOT_MEDIA: Expect = refused(&["input_not_media"]);
/// As not what was declared.
pub const MISMATCH: Expect = refused(&["input_type_mismatch"]);
/// As cut short or contradictory.
pub const MALFORMED: Expect = refused(&["input_malformed"]);
/// As over a limit, by its header or by the prober.
pub const COMPLEX: Expect = refused(&["input_too_complex"]);
/// By one layer or another; it is never transcoded.
pub const BROKEN: Expect = refused(BROKEN_CODES);
/// Never transcoded, and no matter whether as text, as a playlist or as nothing known.
pub const FOREIGN: Expect =
    refused(&["input_playlist", "input_not_media", "input_type_mismatch", "input_malformed"]);
/// What is left of it is transcoded, or it is refused.
pub const MUTANT: Expect = Expect { completed: true, codes: BROKEN_CODES };
/// It is transcoded within its limits, or stopped by one.
pub const HUNGRY: Expect = Expect { completed: true, codes: HUNGRY_CODES };
/// It is stopped by a limit, whichever comes first.
pub const STOPPED: Expect = refused(HUNGRY_CODES);

/// One file.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it tries.
    pub family: &'static str,
    /// Its name, with its extension.
    pub name: String,
    /// The content type that it is declared as.
    pub kind: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How it may end.
    pub expect: Expect,
    /// Whether plain FFmpeg 5.1 shows the canary film when it is given this file.
    pub leaks: bool,
}

/// What the files try to read: a film and a text of somebody else, in one folder.
#[derive(Debug, Clone)]
pub struct Canary {
    dir: PathBuf,
}

impl Canary {
    /// Makes both in `dir`: two seconds of magenta (255, 0, 254) with a tone of 3000 Hz, and a
    /// text.
    ///
    /// # Errors
    /// When FFmpeg fails or the folder cannot be written.
    pub fn make(dir: &Path) -> Result<Self> {
        let canary = Self { dir: dir.to_owned() };
        let made = Command::new(clips::FFMPEG)
            .args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i"])
            .arg("color=c=0xff00fe:s=128x96:r=10:d=2")
            .args(["-f", "lavfi", "-i", "sine=frequency=3000:duration=2", "-c:v", "libx264"])
            .args(["-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"])
            .args(["-movflags", "+faststart", "-fflags", "+bitexact"])
            .arg(canary.film())
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(canary.text(), format!("{CANARY_TEXT}\n").repeat(50))?;
        Ok(canary)
    }

    /// The film.
    #[must_use]
    pub fn film(&self) -> PathBuf {
        self.dir.join(FILM)
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> PathBuf {
        self.dir.join(SECRET)
    }
}

/// Takes files from their makers.
#[derive(Debug, Default)]
struct Shelf {
    entries: Vec<Entry>,
    family: &'static str,
}

impl Shelf {
    fn family(&mut self, family: &'static str) {
        self.family = family;
    }

    /// A file by its stem and type.
    fn put(&mut self, stem: impl AsRef<str>, kind: &'static str, bytes: Vec<u8>, expect: Expect) {
        let name = format!("{}-{}.{}", self.family, stem.as_ref(), extension(kind));
        self.entries.push(Entry { family: self.family, name, kind, bytes, expect, leaks: false });
    }

    /// The last file shows the canary in plain FFmpeg.
    fn leaks(&mut self) {
        if let Some(last) = self.entries.last_mut() {
            last.leaks = true;
        }
    }
}

/// The extension that fits a content type.
fn extension(kind: &str) -> &str {
    match kind {
        "video/quicktime" => "mov",
        "video/mp2t" => "ts",
        "video/x-matroska" | "video/matroska" => "mkv",
        "audio/x-matroska" => "mka",
        "video/x-msvideo" | "video/vnd.avi" => "avi",
        "video/3gpp" => "3gp",
        "video/3gpp2" => "3g2",
        "audio/mpeg" => "mp3",
        "audio/mp4" | "audio/x-m4a" => "m4a",
        "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "wav",
        "image/jpeg" => "jpg",
        other => {
            let last = other.rsplit('/').next().unwrap_or(other);
            last.strip_prefix("x-").unwrap_or(last)
        }
    }
}

/// The whole corpus, aimed at one canary.
///
/// # Errors
/// When FFmpeg does not make the valid clips, or one lacks the part that is to be changed.
pub fn corpus(canary: &Canary) -> Result<Vec<Entry>> {
    let clips = Clips::make()?;
    let mut shelf = Shelf::default();
    cuts::put(&clips, &mut shelf)?;
    isobmff::put(&clips, canary, &mut shelf).context("isobmff")?;
    matroska::put(&clips, canary, &mut shelf).context("matroska")?;
    riff::put(&clips, canary, &mut shelf).context("riff")?;
    streams::put(&clips, &mut shelf).context("streams")?;
    audio::put(&clips, canary, &mut shelf).context("audio")?;
    pictures::put(&clips, &mut shelf).context("pictures")?;
    references::put(canary, &mut shelf);
    timing::put(&clips, &mut shelf).context("timing")?;
    polyglots::put(&clips, &mut shelf).context("polyglots")?;
    baggage::put(&clips, &mut shelf).context("baggage")?;
    payloads::put(&clips, &mut shelf).context("payloads")?;
    junk::put(&mut shelf);
    Ok(shelf.entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_files_come_each_time_and_each_name_once() {
        let dir = tempfile::tempdir().unwrap();
        let canary = Canary::make(dir.path()).unwrap();
        let (one, two) = (corpus(&canary).unwrap(), corpus(&canary).unwrap());
        let names: BTreeSet<&str> = one.iter().map(|entry| entry.name.as_str()).collect();
        assert!(names.len() == one.len() && one.len() >= 300, "{} files", one.len());
        assert_eq!(one.len(), two.len());
        for (one, two) in one.iter().zip(&two) {
            assert!(one.name == two.name && one.bytes == two.bytes, "{}", one.name);
        }
        let size: usize = one.iter().map(|entry| entry.bytes.len()).sum();
        assert!(size < 200 << 20, "{size} bytes");
    }

    #[test]
    fn a_bomb_says_its_size() {
        // A checksum of zeros counts them, modulo 65521 (RFC 1950 §9).
        let (stream, zeros) = deflate::zeros(10_000_000);
        assert!(zeros >= 10_000_000 && stream.len() < 10_000);
        let sums = u32::try_from(zeros % 65_521).unwrap();
        assert_eq!(stream[stream.len() - 4..], ((sums << 16) | 1).to_be_bytes());
    }
}
