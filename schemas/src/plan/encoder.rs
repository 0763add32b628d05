//! The options of encoders that a tree may hold. Each row is a field, its text on the command line
//! and its line in the documentation at once.
//!
//! Promises: a number within bounds or a listed word. Refuses: options that name a file, private
//! parameter strings (`-x264-params`), passes, and what would make a replay differ, such as a
//! buffer model with x265.

use super::{
    filter::{PixelFormat, SampleRate},
    value::{Bits, Num, Slot, Value, words},
};
use crate::request::{AudioCodec, VideoCodec};
use serde::{Deserialize, Serialize};

/// Bits per second of a picture: below is mud, above is a mezzanine.
pub type VideoBits = Bits<50_000, 100_000_000>;

/// Bits of the decoder's buffer: up to two seconds of the largest rate.
pub type BufferBits = Bits<50_000, 200_000_000>;

/// Bits per second of a sound.
pub type AudioBits = Bits<16_000, 512_000>;

/// Rates that MP3 has at 48 kHz (ISO/IEC 11172-3), in bits per second.
pub type Mp3Bits = Bits<32_000, 320_000>;

words! {
    "Effort of x264 and x265." Preset {
        Ultrafast = "ultrafast",
        Superfast = "superfast",
        Veryfast = "veryfast",
        Faster = "faster",
        Fast = "fast",
        Medium = "medium",
        Slow = "slow",
        Slower = "slower",
        Veryslow = "veryslow",
    }
    "What x264 optimises for." X264Tune {
        Film = "film",
        Animation = "animation",
        Grain = "grain",
        Stillimage = "stillimage",
        Fastdecode = "fastdecode",
        Zerolatency = "zerolatency",
    }
    "Profiles of H.264." X264Profile {
        Baseline = "baseline",
        Main = "main",
        High = "high",
        High10 = "high10",
        High422 = "high422",
        High444 = "high444",
    }
    "Levels of H.264." Level {
        L1 = "1" or "1.0",
        L11 = "1.1",
        L12 = "1.2",
        L13 = "1.3",
        L2 = "2" or "2.0",
        L21 = "2.1",
        L22 = "2.2",
        L3 = "3" or "3.0",
        L31 = "3.1",
        L32 = "3.2",
        L4 = "4" or "4.0",
        L41 = "4.1",
        L42 = "4.2",
        L5 = "5" or "5.0",
        L51 = "5.1",
        L52 = "5.2",
        L6 = "6" or "6.0",
        L61 = "6.1",
        L62 = "6.2",
    }
    "What x265 optimises for." X265Tune {
        Grain = "grain",
        Animation = "animation",
        Fastdecode = "fastdecode",
        Zerolatency = "zerolatency",
    }
    "Profiles of H.265." X265Profile {
        Main = "main",
        Main10 = "main10",
        Main422Ten = "main422-10",
        Main444 = "main444-8",
        Main444Ten = "main444-10",
    }
    "How long libvpx may think." Deadline {
        Good = "good",
        Best = "best",
    }
    "Whether something is on." Switch {
        Off = "0",
        On = "1",
    }
    "Whether libopus varies its rate." OpusRate {
        Off = "off",
        On = "on",
        Constrained = "constrained",
    }
    "What libopus optimises for." OpusUse {
        Voip = "voip",
        Audio = "audio",
        Lowdelay = "lowdelay",
    }
    "Milliseconds of one Opus frame." OpusFrame {
        Five = "5",
        Ten = "10",
        Twenty = "20",
        Forty = "40",
        Sixty = "60",
    }
    "Channels." Channels {
        Mono = "1",
        Stereo = "2",
        Surround = "6",
    }
}

/// An option, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionRow {
    /// Its names; the first is the one that is written.
    pub names: &'static [&'static str],
    /// What it may be.
    pub takes: String,
    /// What it does.
    pub does: &'static str,
}

/// What came of giving a set of options one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// It is in.
    Done,
    /// The set has no option of this name.
    Unknown,
    /// It was there already.
    Repeated,
    /// The value is out of its bounds.
    Value,
}

/// A set of options, each of which may be there or not.
pub trait Options {
    /// Every option, in the order in which they are written.
    fn rows() -> Vec<OptionRow>;

    /// What is there, as `option, value`.
    fn tokens(&self) -> Vec<(&'static str, String)>;

    /// Sets the option of this name.
    fn set(&mut self, name: &str, text: &str) -> Set;
}

/// `Name "about" { field: Type = "-option" or "-alias", "what it does"; }`
macro_rules! options {
    ($($about:literal $name:ident { $(
        $field:ident: $type:ty = $option:literal $(or $other:literal)*, $does:literal;
    )+ })+) => {
        $(
            #[doc = $about]
            #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $name {
                $(
                    #[doc = concat!("`", $option, "`: ", $does)]
                    #[serde(default, skip_serializing_if = "Option::is_none")]
                    pub $field: Option<$type>,
                )+
            }

            impl Options for $name {
                fn rows() -> Vec<OptionRow> {
                    vec![$(OptionRow {
                        names: &[$option $(, $other)*],
                        takes: <$type as Value>::takes(),
                        does: $does,
                    }),+]
                }

                fn tokens(&self) -> Vec<(&'static str, String)> {
                    let all: Vec<(&str, Option<String>)> = vec![$(($option, self.$field.text())),+];
                    all.into_iter().filter_map(|(option, text)| Some((option, text?))).collect()
                }

                fn set(&mut self, name: &str, text: &str) -> Set {
                    match name {
                        $($option $(| $other)* => match <$type as Value>::read(text) {
                            _ if self.$field.is_some() => Set::Repeated,
                            None => Set::Value,
                            value => {
                                self.$field = value;
                                Set::Done
                            }
                        },)+
                        _ => Set::Unknown,
                    }
                }
            }
        )+
    };
}

options! {
    "Options of libx264." X264 {
        preset: Preset = "-preset" or "-preset:v", "effort";
        crf: Num<0, 51> = "-crf" or "-crf:v", "constant quality, lower is better";
        bitrate: VideoBits = "-b:v", "target rate";
        maxrate: VideoBits = "-maxrate:v" or "-maxrate", "largest rate, with a buffer; one thread encodes then";
        bufsize: BufferBits = "-bufsize:v" or "-bufsize", "the decoder's buffer";
        tune: X264Tune = "-tune" or "-tune:v", "kind of picture";
        profile: X264Profile = "-profile:v" or "-vprofile", "profile";
        level: Level = "-level:v" or "-level", "level";
        bframes: Num<0, 16> = "-bf:v" or "-bf", "frames in a row that look ahead";
        refs: Num<1, 16> = "-refs:v" or "-refs", "frames that one may refer to";
        key_min: Num<1, 600> = "-keyint_min:v" or "-keyint_min", "least frames between key frames";
        scene_cut: Num<0, 100> = "-sc_threshold:v" or "-sc_threshold", "key frames at cuts, 0 none";
    }
    "Options of libx265. It has no buffer model here: with one its output is not repeatable." X265 {
        preset: Preset = "-preset" or "-preset:v", "effort";
        crf: Num<0, 51> = "-crf" or "-crf:v", "constant quality, lower is better";
        bitrate: VideoBits = "-b:v", "target rate";
        tune: X265Tune = "-tune" or "-tune:v", "kind of picture";
        profile: X265Profile = "-profile:v" or "-vprofile", "profile";
        bframes: Num<0, 4> = "-bf:v" or "-bf", "frames in a row that look ahead";
    }
    "Options of libvpx for VP9." Vp9 {
        deadline: Deadline = "-deadline" or "-quality", "how long it may think";
        cpu_used: Num<0, 8> = "-cpu-used" or "-speed", "speed, higher is quicker";
        row_threads: Switch = "-row-mt", "threads by rows";
        tile_columns: Num<0, 4> = "-tile-columns", "columns, as a power of two";
        crf: Num<0, 63> = "-crf" or "-crf:v", "constant quality, lower is better";
        bitrate: Bits<0, 100_000_000> = "-b:v", "target rate; 0 with -crf: quality alone";
        maxrate: VideoBits = "-maxrate:v" or "-maxrate", "largest rate, with a buffer";
        bufsize: BufferBits = "-bufsize:v" or "-bufsize", "the decoder's buffer";
        alternate: Num<0, 6> = "-auto-alt-ref", "hidden frames that others refer to";
        lookahead: Num<0, 25> = "-lag-in-frames", "frames that it looks ahead";
    }
    "Options of every video encoder." Picture {
        pixels: PixelFormat = "-pix_fmt" or "-pix_fmt:v", "pixel format";
        key_max: Num<1, 600> = "-g" or "-g:v", "most frames between key frames";
    }
    "Options of FFmpeg's AAC encoder." Aac {
        bitrate: AudioBits = "-b:a", "target rate";
    }
    "Options of libopus." Opus {
        bitrate: AudioBits = "-b:a", "target rate";
        rate: OpusRate = "-vbr", "whether the rate varies";
        complexity: Num<0, 10> = "-compression_level:a" or "-compression_level", "effort";
        frame: OpusFrame = "-frame_duration", "milliseconds of a frame";
        optimised: OpusUse = "-application", "kind of sound";
    }
    "Options of libmp3lame." Mp3 {
        bitrate: Mp3Bits = "-b:a", "target rate";
        quality: Num<0, 9> = "-q:a" or "-qscale:a", "variable rate, lower is better";
        complexity: Num<0, 9> = "-compression_level:a" or "-compression_level", "speed, 9 quickest";
    }
    "Options of every audio encoder." Sound {
        channels: Channels = "-ac" or "-ac:a", "channels";
        rate: SampleRate = "-ar" or "-ar:a", "samples per second";
    }
}

macro_rules! encoders {
    ($($about:literal $name:ident of $codec:ident {
        $($variant:ident($options:ident) = $text:literal;)*
    })*) => {$(
        #[doc = $about]
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $(#[doc = concat!("FFmpeg's `", $text, "`.")] $variant($options),)*
        }

        impl $name {
            /// The encoder without options.
            #[must_use]
            pub fn of(codec: $codec) -> Self {
                match codec { $($codec::$variant => Self::$variant($options::default()),)* }
            }

            /// What it makes.
            #[must_use]
            pub const fn codec(&self) -> $codec {
                match self { $(Self::$variant(_) => $codec::$variant,)* }
            }

            /// FFmpeg's name.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $text,)* }
            }

            /// Its options, as `option, value`.
            #[must_use]
            pub fn tokens(&self) -> Vec<(&'static str, String)> {
                match self { $(Self::$variant(options) => options.tokens(),)* }
            }

            /// Sets one of its options.
            pub fn set(&mut self, name: &str, text: &str) -> Set {
                match self { $(Self::$variant(options) => options.set(name, text),)* }
            }

            /// Its options, for people.
            #[must_use]
            pub fn rows(&self) -> Vec<OptionRow> {
                match self { $(Self::$variant(_) => $options::rows(),)* }
            }
        }
    )*};
}

encoders! {
    "A video encoder with its options." VideoEncoder of VideoCodec {
        H264(X264) = "libx264";
        H265(X265) = "libx265";
        Vp9(Vp9) = "libvpx-vp9";
    }
    "An audio encoder with its options." AudioEncoder of AudioCodec {
        Aac(Aac) = "aac";
        Opus(Opus) = "libopus";
        Mp3(Mp3) = "libmp3lame";
    }
}
