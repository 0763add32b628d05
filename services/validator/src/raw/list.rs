//! The list: which options there are, where they may stand, and what they take.
//!
//! Promises: a name is on the list in full or not at all. Refuses abbreviations, other stream
//! specifiers and other spellings, though FFmpeg knows them.

use super::{every_audio, every_video};
use hotcell_schemas::plan::{
    encoder::{AudioEncoder, OptionRow, Options as _, Picture, Sound, VideoEncoder},
    tree::{MovFlag, TagKey},
    value::Value as _,
};

/// What an option is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Input,
    Output,
    Seek,
    Read,
    Duration,
    Map,
    /// No stream of a kind: `video`, `audio`, `subtitle` or `data`.
    Without(&'static str),
    Format,
    MovFlags,
    Tag,
    VideoCodec,
    AudioCodec,
    VideoFilter,
    AudioFilter,
    Video,
    Audio,
}

impl Kind {
    pub(super) const fn names_an_encoder(self) -> bool {
        matches!(self, Self::VideoCodec | Self::AudioCodec)
    }

    pub(super) const fn takes_a_value(self) -> bool {
        !matches!(self, Self::Output | Self::Without(_))
    }

    /// The name of a flag's rule.
    pub(super) fn rule(self) -> &'static str {
        let flag = FIXED.iter().find(|(_, kind, _)| *kind == self);
        flag.and_then(|(names, ..)| names.first().copied()).unwrap_or_default()
    }
}

/// Options that are no encoder's: names, kind, and what they do.
pub(super) const FIXED: &[(&[&str], Kind, &str)] = &[
    (&["-i"], Kind::Input, "the input"),
    (&["-map"], Kind::Map, "takes a stream of the input"),
    (&["-c:v", "-codec:v", "-vcodec"], Kind::VideoCodec, "the video encoder"),
    (&["-c:a", "-codec:a", "-acodec"], Kind::AudioCodec, "the audio encoder"),
    (&["-vf", "-filter:v"], Kind::VideoFilter, "filters of the picture"),
    (&["-af", "-filter:a"], Kind::AudioFilter, "filters of the sound"),
    (&["-f"], Kind::Format, "the container"),
    (&["-movflags"], Kind::MovFlags, "how MP4 and M4A are written"),
    (&["-vn"], Kind::Without("video"), "no picture"),
    (&["-an"], Kind::Without("audio"), "no sound"),
    (&["-sn"], Kind::Without("subtitle"), "no subtitles"),
    (&["-dn"], Kind::Without("data"), "no data"),
];

/// What an option is that stands before the input, or after it.
pub(super) fn kind(name: &str, opened: bool) -> Option<Kind> {
    match (name, opened) {
        ("-ss", false) => return Some(Kind::Seek),
        ("-t", false) => return Some(Kind::Read),
        ("-t", true) => return Some(Kind::Duration),
        _ => {}
    }
    if is_tag(name) {
        return Some(Kind::Tag);
    }
    let fixed = FIXED.iter().find(|(names, ..)| names.contains(&name));
    let of = |rows: Vec<OptionRow>| rows.iter().any(|row| row.names.contains(&name));
    match fixed {
        Some((_, kind, _)) => Some(*kind),
        None if of(Picture::rows()) || every_video().iter().any(|e| of(e.rows())) => {
            Some(Kind::Video)
        }
        None if of(Sound::rows()) || every_audio().iter().any(|e| of(e.rows())) => {
            Some(Kind::Audio)
        }
        None => None,
    }
}

/// `-metadata`, or with one of the stream specifiers that a tag can have.
fn is_tag(name: &str) -> bool {
    let Some(stream) = name.strip_prefix("-metadata") else { return false };
    let track = stream.strip_prefix(":s:a:").map(str::as_bytes);
    stream.is_empty() || stream == ":s:v:0" || matches!(track, Some([b'0'..=b'7']))
}

/// What a flag drops.
pub(super) fn without(what: &str) -> &'static str {
    match what {
        "video" => "nothing: no picture",
        "audio" => "nothing: no sound",
        _ => "nothing: always so",
    }
}

pub(super) fn video_encoder(name: &str) -> Option<VideoEncoder> {
    every_video().into_iter().find(|encoder| encoder.name() == name)
}

pub(super) fn audio_encoder(name: &str) -> Option<AudioEncoder> {
    every_audio().into_iter().find(|encoder| encoder.name() == name)
}

pub(super) fn video_encoders() -> String {
    format!("one of {}", every_video().map(|encoder| encoder.name()).join(", "))
}

pub(super) fn audio_encoders() -> String {
    format!("one of {}", every_audio().map(|encoder| encoder.name()).join(", "))
}

pub(super) fn mov_flags() -> String {
    let words: Vec<_> = MovFlag::ALL.iter().map(|flag| flag.word()).collect();
    format!("some of {}, joined by +", words.join(", "))
}

pub(super) fn tags() -> String {
    let keys: Vec<_> = TagKey::ALL.iter().map(|key| key.word()).collect();
    format!(
        "one of {} with = and {}; of a stream language= with three small letters, of a \
         sound track title= too",
        keys.join(", "),
        hotcell_schemas::plan::value::Text::takes()
    )
}

/// Which encoders have an option that `this` has not.
pub(super) fn video_owners(option: &str, this: &str) -> String {
    let rows = every_video().map(|encoder| (encoder.name(), encoder.rows()));
    owners(option, this, &rows)
}

/// As [`video_owners`].
pub(super) fn audio_owners(option: &str, this: &str) -> String {
    let rows = every_audio().map(|encoder| (encoder.name(), encoder.rows()));
    owners(option, this, &rows)
}

fn owners(option: &str, this: &str, rows: &[(&'static str, Vec<OptionRow>)]) -> String {
    let has = |rows: &[OptionRow]| rows.iter().any(|row| row.names.contains(&option));
    let names: Vec<_> = rows.iter().filter(|(_, rows)| has(rows)).map(|(name, _)| *name).collect();
    // `this` is a name of our own list.
    format!("is an option of {}, not of {this}", names.join(" and "))
}
