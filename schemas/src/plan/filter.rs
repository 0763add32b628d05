//! The filters that a tree may name. Each row is the filter's type, its text, and its line in the
//! documentation at once.
//!
//! Promises: a parameter is a number within bounds or a listed word. Refuses: filters that open a
//! file, an address or a command channel, and every parameter that takes an expression's text.

use super::value::{Dec, FrameRate, Num, Ratio, Seconds, Slot, Value, words};
use serde::{Deserialize, Serialize};

/// Sides of a picture, in pixels.
pub type Pixels = Num<2, 8192>;

/// One side of the picture after scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side<const WIDE: bool> {
    /// So many pixels.
    Pixels(Pixels),
    /// By the other side and the input's shape, even.
    Shape,
    /// As the input, rounded down to an even number. Only presets name it: its text is an
    /// expression, a constant of ours.
    Even,
}

impl<const WIDE: bool> Value for Side<WIDE> {
    fn read(text: &str) -> Option<Self> {
        if text == "-2" { Some(Self::Shape) } else { Num::read(text).map(Self::Pixels) }
    }

    fn write(&self) -> String {
        match self {
            Self::Pixels(pixels) => pixels.write(),
            Self::Shape => "-2".to_owned(),
            Self::Even if WIDE => "'max(2,trunc(iw/2)*2)'".to_owned(),
            Self::Even => "'max(2,trunc(ih/2)*2)'".to_owned(),
        }
    }

    fn takes() -> String {
        format!("{}, or -2: by the other side, even", Pixels::takes())
    }
}

/// What swscale is told beside its method, so that it gives the same bytes with and without its
/// SIMD paths.
pub(crate) const SCALE_EXACT: &str = "+accurate_rnd+full_chroma_int+bitexact";

/// How a picture is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scaler(pub Method);

words! {
    "Methods of the scaler." Method {
        Bicubic = "bicubic",
        Bilinear = "bilinear",
        Lanczos = "lanczos",
        Area = "area",
        Neighbor = "neighbor",
    }
    "Quarter turns." Turn {
        Clock = "clock" or "1",
        Counter = "cclock" or "2",
        CounterFlip = "cclock_flip" or "0",
        ClockFlip = "clock_flip" or "3",
    }
    "Colours of a border." Color {
        Black = "black",
        White = "white",
        Gray = "gray",
    }
    "Pixel formats that our encoders take." PixelFormat {
        Yuv420 = "yuv420p",
        Yuv422 = "yuv422p",
        Yuv444 = "yuv444p",
        Yuv420Ten = "yuv420p10le" or "yuv420p10",
        Yuv422Ten = "yuv422p10le" or "yuv422p10",
        Yuv444Ten = "yuv444p10le" or "yuv444p10",
    }
    "Frames out of an interlaced one." Fields {
        Frame = "send_frame" or "0",
        Field = "send_field" or "1",
    }
    "The field that comes first." Parity {
        Top = "tff" or "0",
        Bottom = "bff" or "1",
        Auto = "auto" or "-1",
    }
    "Frames to deinterlace." Deinterlaced {
        All = "all" or "0",
        Marked = "interlaced" or "1",
    }
    "Direction of a fade." Fade {
        In = "in",
        Out = "out",
    }
    "Odd sizes of a matrix." Odd {
        Three = "3",
        Five = "5",
        Seven = "7",
        Nine = "9",
        Eleven = "11",
        Thirteen = "13",
    }
    "Samples per second." SampleRate {
        Hz8000 = "8000",
        Hz11025 = "11025",
        Hz12000 = "12000",
        Hz16000 = "16000",
        Hz22050 = "22050",
        Hz24000 = "24000",
        Hz32000 = "32000",
        Hz44100 = "44100",
        Hz48000 = "48000",
    }
    "Sample formats." SampleFormat {
        S16 = "s16",
        S16Planar = "s16p",
        Float = "flt",
        FloatPlanar = "fltp",
    }
    "Loudspeakers." Layout {
        Mono = "mono",
        Stereo = "stereo",
        Surround = "5.1",
    }
}

impl Value for Scaler {
    const DEFAULT: Option<Self> = Some(Self(Method::Bicubic));

    fn read(text: &str) -> Option<Self> {
        Method::read(text.strip_suffix(SCALE_EXACT).unwrap_or(text)).map(Self)
    }

    fn write(&self) -> String {
        format!("{}{SCALE_EXACT}", self.0.word())
    }

    fn takes() -> String {
        Method::takes()
    }
}

/// Loudness as a factor or in decibels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Volume {
    /// Times so much.
    Factor(Dec<0, 10_000>),
    /// So much louder or softer.
    Decibel(Dec<-60_000, 20_000>),
}

impl Value for Volume {
    fn read(text: &str) -> Option<Self> {
        match text.strip_suffix("dB") {
            Some(decibel) => Value::read(decibel).map(Self::Decibel),
            None => Value::read(text).map(Self::Factor),
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Factor(factor) => factor.write(),
            Self::Decibel(decibel) => format!("{}dB", decibel.write()),
        }
    }

    fn takes() -> String {
        "a factor from 0 to 10, or from -60dB to 20dB".to_owned()
    }
}

/// Why a filter's text is none of the list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterFault {
    /// There is no such filter.
    #[error("the filter is not on the list")]
    Unknown,
    /// A parameter is not of this filter, or by position where it must be named.
    #[error("the filter {filter} has no such parameter on the list")]
    Parameter {
        /// The filter.
        filter: &'static str,
    },
    /// A parameter is given twice.
    #[error("the filter {filter} is given {parameter} twice")]
    Repeated {
        /// The filter.
        filter: &'static str,
        /// The parameter.
        parameter: &'static str,
    },
    /// A parameter is missing or out of its bounds.
    #[error("the filter {filter} takes {parameter}: {takes}")]
    Value {
        /// The filter.
        filter: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// What it may be.
        takes: String,
    },
}

/// One filter's parameters as they were given: a key, when there was one, and a value.
#[derive(Debug)]
pub struct Given<'a> {
    items: Vec<(Option<&'a str>, &'a str)>,
    filter: &'static str,
    position: usize,
    positional: usize,
}

impl<'a> Given<'a> {
    /// The parameters in the order in which they were given.
    #[must_use]
    pub const fn new(items: Vec<(Option<&'a str>, &'a str)>) -> Self {
        Self { items, filter: "", position: 0, positional: 0 }
    }

    const fn of(mut self, filter: &'static str, positional: usize) -> Self {
        (self.filter, self.positional) = (filter, positional);
        self
    }

    /// The next parameter of the filter, by any of its keys or by its position.
    fn take<T: Slot>(&mut self, keys: &'static [&'static str]) -> Result<T, FilterFault> {
        let (filter, position) = (self.filter, self.position);
        self.position += 1;
        let named = keys.iter().find(|key| !key.is_empty()).copied().unwrap_or("value");
        let mut found = None;
        // What was taken is no longer counted among those without a key, so they are never removed.
        for (index, (key, value)) in self.items.iter_mut().enumerate() {
            let hit = match key {
                Some(key) => keys.contains(key),
                None => index == position && position < self.positional,
            };
            if !hit {
                continue;
            }
            if found.is_some() {
                return Err(FilterFault::Repeated { filter, parameter: named });
            }
            found = Some(*value);
            (*key, *value) = (Some(TAKEN), "");
        }
        let takes = T::holds;
        T::fill(found).ok_or_else(|| FilterFault::Value {
            filter,
            parameter: named,
            takes: takes(),
        })
    }

    fn done(self) -> Result<(), FilterFault> {
        let left = self.items.iter().any(|(key, _)| *key != Some(TAKEN));
        if left { Err(FilterFault::Parameter { filter: self.filter }) } else { Ok(()) }
    }
}

/// The key of a parameter that was read: no grammar gives it.
const TAKEN: &str = "\0";

/// A parameter of a filter, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterRow {
    /// Its names; the first that is not empty is FFmpeg's own short one.
    pub keys: &'static [&'static str],
    /// What it may be.
    pub takes: String,
    /// Whether it must be given.
    pub needed: bool,
}

/// A filter, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterRow {
    /// FFmpeg's name.
    pub name: &'static str,
    /// What it does.
    pub does: &'static str,
    /// One use of it.
    pub example: &'static str,
    /// Its parameters.
    pub parameters: Vec<ParameterRow>,
}

/// Filters of one kind of stream.
pub trait Filter: Sized {
    /// Every filter.
    fn rows() -> Vec<FilterRow>;

    /// FFmpeg's name.
    fn name(&self) -> &'static str;

    /// Its parameters as `key, value`; an empty key is a parameter that is written by position.
    fn parameters(&self) -> Vec<(&'static str, String)>;

    /// The filter of a name and its parameters.
    ///
    /// # Errors
    /// [`FilterFault`]: the name, a parameter or a value is not on the list.
    fn read(name: &str, given: Given<'_>) -> Result<Self, FilterFault>;

    /// Its text in a chain.
    fn write(&self) -> String {
        let join = |(key, value): (&str, String)| match key {
            "" => value,
            key => format!("{key}={value}"),
        };
        let parameters: Vec<_> = self.parameters().into_iter().map(join).collect();
        if parameters.is_empty() {
            return self.name().to_owned();
        }
        format!("{}={}", self.name(), parameters.join(":"))
    }
}

/// `Variant = "name" by N positions, "what it does", "an example" { field: Type = "key" or "key", }`
macro_rules! filters {
    ($about:literal $of:ident { $(
        $variant:ident = $name:literal by $positional:literal, $does:literal, $example:literal {
            $($field:ident: $type:ty = $key:literal $(or $other:literal)*,)*
        }
    )+ }) => {
        #[doc = $about]
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "snake_case")]
        pub enum $of {
            $(
                #[doc = $does]
                $variant {
                    $(
                        #[doc = concat!("FFmpeg's `", $key, $("`, `", $other,)* "`.")]
                        $field: $type,
                    )*
                },
            )+
        }

        impl Filter for $of {
            fn rows() -> Vec<FilterRow> {
                vec![$(FilterRow {
                    name: $name,
                    does: $does,
                    example: $example,
                    parameters: vec![$(ParameterRow {
                        keys: &[$key $(, $other)*],
                        takes: <$type as Slot>::holds(),
                        needed: <$type as Slot>::needed(),
                    }),*],
                }),+]
            }

            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)+
                }
            }

            fn parameters(&self) -> Vec<(&'static str, String)> {
                match self {
                    $(Self::$variant { $($field),* } => {
                        let all: Vec<(&str, Option<String>)> = vec![$(($key, $field.text())),*];
                        all.into_iter().filter_map(|(key, text)| Some((key, text?))).collect()
                    })+
                }
            }

            fn read(name: &str, given: Given<'_>) -> Result<Self, FilterFault> {
                match name {
                    $($name => {
                        #[allow(unused_mut, reason = "some filters have no parameter")]
                        let mut given = given.of($name, $positional);
                        let read = Self::$variant {
                            $($field: given.take(&[$key $(, $other)*])?,)*
                        };
                        given.done().map(|()| read)
                    })+
                    _ => Err(FilterFault::Unknown),
                }
            }
        }
    };
}

filters! {
    "Filters of the picture." VideoFilter {
        Scale = "scale" by 2, "Another size.", "scale=1280:-2" {
            width: Side<true> = "w" or "width",
            height: Side<false> = "h" or "height",
            scaler: Scaler = "flags",
        }
        Fps = "fps" by 1, "A constant number of frames per second.", "fps=30000/1001" {
            rate: FrameRate = "fps",
        }
        Crop = "crop" by 4, "Cuts a part out; the middle unless told where.", "crop=640:360:0:0" {
            width: Pixels = "w" or "out_w",
            height: Pixels = "h" or "out_h",
            x: Option<Num<0, 8192>> = "x",
            y: Option<Num<0, 8192>> = "y",
        }
        Pad = "pad" by 5, "A border; -1 puts the picture into the middle.", "pad=1280:720:-1:-1" {
            width: Pixels = "w" or "width",
            height: Pixels = "h" or "height",
            x: Option<Num<-1, 8192>> = "x",
            y: Option<Num<-1, 8192>> = "y",
            color: Option<Color> = "color",
        }
        Transpose = "transpose" by 1, "A quarter turn.", "transpose=clock" {
            turn: Turn = "dir",
        }
        Hflip = "hflip" by 0, "Left and right change places.", "hflip" {}
        Vflip = "vflip" by 0, "Top and bottom change places.", "vflip" {}
        SetSar = "setsar" by 1, "The shape of a pixel.", "setsar=1" {
            ratio: Ratio = "" or "sar" or "ratio" or "r",
        }
        SetDar = "setdar" by 1, "The shape of the picture.", "setdar=16/9" {
            ratio: Ratio = "" or "dar" or "ratio" or "r",
        }
        Format = "format" by 1, "A pixel format.", "format=yuv420p" {
            pixels: PixelFormat = "pix_fmts",
        }
        Yadif = "yadif" by 3, "Deinterlaces.", "yadif=mode=send_frame:deint=interlaced" {
            fields: Option<Fields> = "mode",
            parity: Option<Parity> = "parity",
            frames: Option<Deinterlaced> = "deint",
        }
        Fade = "fade" by 0, "From or to black.", "fade=t=in:st=0:d=1.5" {
            direction: Fade = "t" or "type",
            start: Option<Seconds> = "st" or "start_time",
            duration: Option<Seconds> = "d" or "duration",
        }
        Denoise = "hqdn3d" by 4, "Removes noise.", "hqdn3d=4:3:6:4.5" {
            luma: Option<Dec<0, 100_000>> = "luma_spatial",
            chroma: Option<Dec<0, 100_000>> = "chroma_spatial",
            luma_time: Option<Dec<0, 100_000>> = "luma_tmp",
            chroma_time: Option<Dec<0, 100_000>> = "chroma_tmp",
        }
        Sharpen = "unsharp" by 3, "Sharpens, or softens below zero.", "unsharp=5:5:0.8" {
            width: Option<Odd> = "lx" or "luma_msize_x",
            height: Option<Odd> = "ly" or "luma_msize_y",
            amount: Option<Dec<-2000, 5000>> = "la" or "luma_amount",
        }
    }
}

filters! {
    "Filters of the sound." AudioFilter {
        Volume = "volume" by 1, "Louder or softer.", "volume=-3dB" {
            volume: Volume = "volume",
        }
        Loudnorm = "loudnorm" by 0, "Loudness by EBU R128.", "loudnorm=I=-16:TP=-1.5:LRA=11" {
            target: Option<Dec<-70_000, -5000>> = "I" or "i",
            range: Option<Dec<1000, 20_000>> = "LRA" or "lra",
            peak: Option<Dec<-9000, 0>> = "TP" or "tp",
        }
        Resample = "aresample" by 1, "Another sample rate.", "aresample=44100" {
            rate: SampleRate = "sample_rate",
        }
        Tempo = "atempo" by 1, "Faster or slower at the same pitch.", "atempo=1.25" {
            tempo: Dec<500, 4000> = "tempo",
        }
        Format = "aformat" by 0, "Format of samples.", "aformat=channel_layouts=stereo" {
            samples: Option<SampleFormat> = "sample_fmts" or "f",
            rate: Option<SampleRate> = "sample_rates" or "r",
            layout: Option<Layout> = "channel_layouts" or "cl",
        }
        Fade = "afade" by 0, "From or to silence.", "afade=t=out:st=58:d=2" {
            direction: Fade = "t" or "type",
            start: Option<Seconds> = "st" or "start_time",
            duration: Option<Seconds> = "d" or "duration",
        }
        Highpass = "highpass" by 1, "Takes low tones away.", "highpass=f=80" {
            frequency: Num<10, 20_000> = "f" or "frequency",
        }
        Lowpass = "lowpass" by 1, "Takes high tones away.", "lowpass=f=12000" {
            frequency: Num<10, 20_000> = "f" or "frequency",
        }
    }
}
