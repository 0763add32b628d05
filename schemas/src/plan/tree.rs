//! The typed tree of one output: all that FFmpeg is told about it. Presets, explicit outputs and a
//! tenant's own arguments all become this, and only this becomes a command line.
//!
//! Promises: whatever tree can be built or read from a message is harmless as a command line: its
//! leaves are numbers within bounds, listed words and texts of letters. Whether it makes sense is
//! for the validator to say.

use super::{
    encoder::{AudioEncoder, Picture, Sound, VideoEncoder},
    filter::{AudioFilter, Pixels, Side, Turn, VideoFilter},
    value::{Length, Num, Seconds, Text, Value, words},
};
use crate::request::{AudioCodec, Format, VideoCodec};
use serde::{Deserialize, Serialize};

/// Which part of the input is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Where to begin.
    pub seek: Option<Seconds>,
    /// How much to read.
    pub duration: Option<Length>,
}

words! {
    "Kinds of streams." StreamKind {
        Picture = "V",
        Video = "v",
        Audio = "a",
    }
    "What muxers for MP4 are told." MovFlag {
        Faststart = "faststart",
        FragKeyframe = "frag_keyframe",
        EmptyMoov = "empty_moov",
        DefaultBaseMoof = "default_base_moof",
    }
    "What may be said about a whole output." TagKey {
        Title = "title",
        Artist = "artist",
        Album = "album",
        Genre = "genre",
        Date = "date",
        Copyright = "copyright",
        Description = "description",
        Comment = "comment",
    }
}

/// A stream of the input that goes into the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Map {
    /// Its kind; `V` is a picture track that is not cover art.
    pub kind: StreamKind,
    /// Its number among its kind.
    pub index: Num<0, 31>,
    /// Whether the output is made without it too.
    pub optional: bool,
}

impl Value for Map {
    fn read(text: &str) -> Option<Self> {
        let (text, optional) = text.strip_suffix('?').map_or((text, false), |text| (text, true));
        let (kind, index) = text.strip_prefix("0:")?.split_once(':')?;
        Some(Self { kind: StreamKind::read(kind)?, index: Num::read(index)?, optional })
    }

    fn write(&self) -> String {
        let mark = if self.optional { "?" } else { "" };
        format!("0:{}:{}{mark}", self.kind.word(), self.index.write())
    }

    fn takes() -> String {
        "0:v:N, 0:V:N or 0:a:N with N from 0 to 31, perhaps with ? at the end".to_owned()
    }
}

/// A language by ISO 639-2: three small letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Language([u8; 3]);

/// Text that is no language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("three small letters are expected")]
pub struct NoLanguage;

impl TryFrom<String> for Language {
    type Error = NoLanguage;

    fn try_from(text: String) -> Result<Self, NoLanguage> {
        let letters: [u8; 3] = text.as_bytes().try_into().map_err(|_| NoLanguage)?;
        if letters.iter().all(u8::is_ascii_lowercase) { Ok(Self(letters)) } else { Err(NoLanguage) }
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.0.iter().map(|letter| char::from(*letter)).collect()
    }
}

impl Value for Language {
    fn read(text: &str) -> Option<Self> {
        text.to_owned().try_into().ok()
    }

    fn write(&self) -> String {
        self.clone().into()
    }

    fn takes() -> String {
        "a language of three small letters (ISO 639-2), such as deu".to_owned()
    }
}

/// Something that is said about the output. What the input says is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Tag {
    /// About the whole.
    Whole {
        /// What.
        key: TagKey,
        /// The text.
        text: Text,
    },
    /// The language of the picture.
    VideoLanguage {
        /// Which.
        language: Language,
    },
    /// The language of a sound track.
    AudioLanguage {
        /// The track's number in the output.
        track: Num<0, 7>,
        /// Which.
        language: Language,
    },
    /// The name of a sound track.
    AudioTitle {
        /// The track's number in the output.
        track: Num<0, 7>,
        /// The text.
        text: Text,
    },
}

impl Tag {
    /// The option's name and its value.
    #[must_use]
    pub fn tokens(&self) -> (String, String) {
        match self {
            Self::Whole { key, text } => {
                ("-metadata".to_owned(), format!("{}={}", key.word(), text.write()))
            }
            Self::VideoLanguage { language } => {
                ("-metadata:s:v:0".to_owned(), format!("language={}", language.write()))
            }
            Self::AudioLanguage { track, language } => (
                format!("-metadata:s:a:{}", track.write()),
                format!("language={}", language.write()),
            ),
            Self::AudioTitle { track, text } => {
                (format!("-metadata:s:a:{}", track.write()), format!("title={}", text.write()))
            }
        }
    }

    /// The tag of an option and its value.
    #[must_use]
    pub fn read(option: &str, value: &str) -> Option<Self> {
        let (key, value) = value.split_once('=')?;
        if option == "-metadata" {
            return Some(Self::Whole { key: TagKey::read(key)?, text: Text::read(value)? });
        }
        match (option.strip_prefix("-metadata:s:")?, key) {
            ("v:0", "language") => Some(Self::VideoLanguage { language: Language::read(value)? }),
            (stream, "language") => {
                let track = Num::read(stream.strip_prefix("a:")?)?;
                Some(Self::AudioLanguage { track, language: Language::read(value)? })
            }
            (stream, "title") => {
                let track = Num::read(stream.strip_prefix("a:")?)?;
                Some(Self::AudioTitle { track, text: Text::read(value)? })
            }
            _ => None,
        }
    }
}

/// The picture of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// The encoder and its options.
    pub encoder: VideoEncoder,
    /// Options of every encoder.
    pub picture: Picture,
    /// The chain of filters, in order.
    pub filters: Vec<VideoFilter>,
}

/// The sound of the output; several tracks are encoded alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audio {
    /// The encoder and its options.
    pub encoder: AudioEncoder,
    /// Options of every encoder.
    pub sound: Sound,
    /// The chain of filters, in order.
    pub filters: Vec<AudioFilter>,
}

/// The output's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Muxer {
    /// Which.
    pub format: Format,
    /// What it is told.
    pub flags: Vec<MovFlag>,
}

/// One output as FFmpeg will be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// Which part of the input is read.
    pub window: Window,
    /// Which of its streams.
    pub maps: Vec<Map>,
    /// The picture.
    pub video: Option<Video>,
    /// The sound.
    pub audio: Option<Audio>,
    /// Longest output.
    pub duration: Option<Length>,
    /// What is said about it.
    pub tags: Vec<Tag>,
    /// The container.
    pub muxer: Muxer,
}

/// Sizes of the picture on its way through a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Of the output; `None` where it follows from an input whose size is not known.
    pub output: Option<(u32, u32)>,
    /// The largest known after a filter, in pixels.
    pub pixels_max: u64,
    /// The longest side known after a filter, in pixels.
    pub side_max: u32,
}

impl Tree {
    /// The video codec of the output.
    #[must_use]
    pub fn video_codec(&self) -> Option<VideoCodec> {
        self.video.as_ref().map(|video| video.encoder.codec())
    }

    /// The audio codec of the output.
    #[must_use]
    pub fn audio_codec(&self) -> Option<AudioCodec> {
        self.audio.as_ref().map(|audio| audio.encoder.codec())
    }

    /// The names of the filters, in the order of the command line.
    #[must_use]
    pub fn filters(&self) -> Vec<&'static str> {
        use super::filter::Filter as _;
        let video = self.video.iter().flat_map(|video| &video.filters).map(VideoFilter::name);
        let audio = self.audio.iter().flat_map(|audio| &audio.filters).map(AudioFilter::name);
        video.chain(audio).collect()
    }

    /// How long the output will be, in milliseconds, of an input of this length; `None` where a
    /// filter changes the tempo.
    #[must_use]
    pub fn duration_ms(&self, input_ms: u64) -> Option<u64> {
        let tempo = |filter: &AudioFilter| matches!(filter, AudioFilter::Tempo { .. });
        if self.audio.iter().flat_map(|audio| &audio.filters).any(tempo) {
            return None;
        }
        let rest = input_ms.saturating_sub(self.window.seek.map_or(0, Seconds::millis));
        let ends = [self.window.duration, self.duration];
        Some(ends.into_iter().flatten().map(Length::millis).fold(rest, u64::min))
    }

    /// The sizes of the picture, from an input of this width and height.
    #[must_use]
    pub fn sizes(&self, input: Option<(u32, u32)>) -> Sizes {
        let mut sizes = Sizes { output: input, pixels_max: 0, side_max: 0 };
        for filter in self.video.iter().flat_map(|video| &video.filters) {
            sizes.output = after(filter, sizes.output);
            let (width, height) = sizes.output.unwrap_or((0, 0));
            sizes.pixels_max = sizes.pixels_max.max(u64::from(width) * u64::from(height));
            sizes.side_max = sizes.side_max.max(width).max(height);
        }
        sizes
    }
}

/// The picture's size after a filter, by FFmpeg's own arithmetic; `None` where it is not known.
pub(crate) fn after(filter: &VideoFilter, size: Option<(u32, u32)>) -> Option<(u32, u32)> {
    let of = |pixels: Pixels| pixels.get().unsigned_abs();
    match filter {
        VideoFilter::Scale { width, height, .. } => scaled((*width, *height), size),
        VideoFilter::Crop { width, height, .. } | VideoFilter::Pad { width, height, .. } => {
            Some((of(*width), of(*height)))
        }
        VideoFilter::Transpose { turn } => match turn {
            Turn::Clock | Turn::Counter | Turn::CounterFlip | Turn::ClockFlip => {
                size.map(|(width, height)| (height, width))
            }
        },
        VideoFilter::Fps { .. }
        | VideoFilter::Hflip { .. }
        | VideoFilter::Vflip { .. }
        | VideoFilter::SetSar { .. }
        | VideoFilter::SetDar { .. }
        | VideoFilter::Format { .. }
        | VideoFilter::Yadif { .. }
        | VideoFilter::Fade { .. }
        | VideoFilter::Denoise { .. }
        | VideoFilter::Sharpen { .. } => size,
    }
}

/// libavfilter/scale_eval.c.
fn scaled(to: (Side<true>, Side<false>), size: Option<(u32, u32)>) -> Option<(u32, u32)> {
    let even = |side: u32| (side / 2 * 2).max(2);
    let pixels = |side: Pixels| side.get().unsigned_abs();
    if let (Side::Pixels(width), Side::Pixels(height)) = to {
        return Some((pixels(width), pixels(height)));
    }
    let (width, height) = size?;
    // -2: the other side times the shape, by two, to the nearest, times two.
    let follow = |side: u32, of: u32, by: u32| {
        let (num, den) = (u64::from(side) * u64::from(of), u64::from(by).max(1) * 2);
        u32::try_from((num + den / 2) / den * 2).unwrap_or(u32::MAX)
    };
    let wide = match to.0 {
        Side::Pixels(side) => Some(pixels(side)),
        Side::Even => Some(even(width)),
        Side::Shape => None,
    };
    let high = match to.1 {
        Side::Pixels(side) => Some(pixels(side)),
        Side::Even => Some(even(height)),
        Side::Shape => None,
    };
    Some(match (wide, high) {
        (Some(wide), Some(high)) => (wide, high),
        (None, Some(high)) => (follow(high, width, height), high),
        (Some(wide), None) => (wide, follow(wide, height, width)),
        (None, None) => (width, height),
    })
}
