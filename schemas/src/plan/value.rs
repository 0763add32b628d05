//! The values that a tree may hold: whole numbers and decimals within bounds, words of a list,
//! and one kind of text.
//!
//! Promises: a value out of its bounds cannot be built, nor read from a message; what is written is
//! digits, a listed word, or letters, and reading it gives the value back. Refuses: expressions,
//! signs and zeros that mean nothing, and every character that FFmpeg gives a meaning to.

use serde::{Deserialize, Serialize};

/// A value of an option: how it is read from a tenant's text, and written into a command line.
pub trait Value: Sized {
    /// The value where none is given.
    const DEFAULT: Option<Self> = None;

    /// The value of a text; `None` when the text is none of its kind.
    fn read(text: &str) -> Option<Self>;

    /// The one text that stands for it on a command line.
    fn write(&self) -> String;

    /// What it may be, for people.
    fn takes() -> String;
}

/// A place for a value: there or, as an `Option`, perhaps not.
pub trait Slot: Sized {
    /// Whether a text must be given.
    fn needed() -> bool;

    /// Fills the place; `None` when the text is missing or none of its kind.
    fn fill(text: Option<&str>) -> Option<Self>;

    /// What it holds.
    fn text(&self) -> Option<String>;

    /// What it may hold, for people.
    fn holds() -> String;
}

impl<T: Value> Slot for T {
    fn needed() -> bool {
        T::DEFAULT.is_none()
    }

    fn fill(text: Option<&str>) -> Option<Self> {
        text.map_or(T::DEFAULT, T::read)
    }

    fn text(&self) -> Option<String> {
        Some(self.write())
    }

    fn holds() -> String {
        T::takes()
    }
}

impl<T: Value> Slot for Option<T> {
    fn needed() -> bool {
        false
    }

    fn fill(text: Option<&str>) -> Option<Self> {
        text.map_or(Some(None), |text| T::read(text).map(Some))
    }

    fn text(&self) -> Option<String> {
        self.as_ref().map(T::write)
    }

    fn holds() -> String {
        T::takes()
    }
}

/// A number that is not within the bounds of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a number from {min} to {max} is expected")]
pub struct OutOfBounds {
    /// The least.
    pub min: i32,
    /// The largest.
    pub max: i32,
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Num<const MIN: i32, const MAX: i32>(i32);

impl<const MIN: i32, const MAX: i32> Num<MIN, MAX> {
    /// The number.
    #[must_use]
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The number within the bounds that is nearest to `number`.
    #[must_use]
    pub fn nearest(number: u32) -> Self {
        Self(i32::try_from(number).unwrap_or(i32::MAX).clamp(MIN, MAX))
    }
}

impl<const MIN: i32, const MAX: i32> TryFrom<i32> for Num<MIN, MAX> {
    type Error = OutOfBounds;

    fn try_from(number: i32) -> Result<Self, OutOfBounds> {
        let within = (MIN..=MAX).contains(&number);
        if within { Ok(Self(number)) } else { Err(OutOfBounds { min: MIN, max: MAX }) }
    }
}

impl<const MIN: i32, const MAX: i32> From<Num<MIN, MAX>> for i32 {
    fn from(number: Num<MIN, MAX>) -> Self {
        number.0
    }
}

impl<const MIN: i32, const MAX: i32> Value for Num<MIN, MAX> {
    fn read(text: &str) -> Option<Self> {
        whole(text)?.try_into().ok()
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn takes() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }
}

/// Digits with nothing before them that means nothing, perhaps negative.
fn whole(text: &str) -> Option<i32> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let zero = digits == "0" && digits == text;
    let plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    if zero || (plain && !digits.is_empty()) { text.parse().ok() } else { None }
}

/// Bits or bits per second from `MIN` to `MAX`; `k` and `M` count thousands and millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bits<const MIN: i32, const MAX: i32>(pub Num<MIN, MAX>);

impl<const MIN: i32, const MAX: i32> Value for Bits<MIN, MAX> {
    fn read(text: &str) -> Option<Self> {
        let (digits, times) = match text.strip_suffix(['k', 'K']) {
            Some(digits) => (digits, 1000),
            None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1_000_000)),
        };
        Some(Self(whole(digits)?.checked_mul(times)?.try_into().ok()?))
    }

    fn write(&self) -> String {
        self.0.write()
    }

    fn takes() -> String {
        format!("bits from {MIN} to {MAX}; 800k and 2M are accepted too")
    }
}

/// A decimal with up to three places; the bounds, and what is kept, are thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dec<const MIN: i32, const MAX: i32>(pub Num<MIN, MAX>);

impl<const MIN: i32, const MAX: i32> Value for Dec<MIN, MAX> {
    fn read(text: &str) -> Option<Self> {
        Some(Self(thousandths(text)?.try_into().ok()?))
    }

    fn write(&self) -> String {
        decimal(self.0.get())
    }

    fn takes() -> String {
        format!("a number from {} to {}", decimal(MIN), decimal(MAX))
    }
}

fn thousandths(text: &str) -> Option<i32> {
    let (head, tail) = text.split_once('.').unwrap_or((text, "0"));
    let bad = tail.is_empty() || tail.len() > 3 || !tail.bytes().all(|byte| byte.is_ascii_digit());
    let negative = head.strip_prefix('-');
    let head = whole(negative.unwrap_or(head)).filter(|head| *head >= 0 && !bad)?;
    let tail: i32 = format!("{tail:0<3}").parse().ok()?;
    let size = head.checked_mul(1000)?.checked_add(tail)?;
    match negative {
        // A minus before nothing means nothing.
        Some(_) => (size > 0).then_some(-size),
        None => Some(size),
    }
}

fn decimal(thousandths: i32) -> String {
    let (sign, size) = (if thousandths < 0 { "-" } else { "" }, thousandths.unsigned_abs());
    let text = format!("{sign}{}.{:03}", size / 1000, size % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Longest time that a tree may name, in milliseconds: the longest input.
pub const TIME_MS_MAX: i32 = 14_400_000;

/// Seconds, to the millisecond; as `75.5` or `00:01:15.5`, from so many milliseconds to four hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time<const MIN: i32>(pub Num<MIN, TIME_MS_MAX>);

/// A place in time.
pub type Seconds = Time<0>;

/// A length of time. Of none at all, FFmpeg reads everything.
pub type Length = Time<1>;

impl<const MIN: i32> Time<MIN> {
    /// As milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0.get().unsigned_abs() as u64
    }
}

impl<const MIN: i32> Value for Time<MIN> {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.rsplit(':');
        let seconds = parts.next()?;
        let two = |text: &str| match text.as_bytes() {
            [b'0'..=b'5', b'0'..=b'9'] => text.parse::<i32>().ok(),
            _ => None,
        };
        let (minutes, hours) = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => return Some(Self(thousandths(seconds)?.try_into().ok()?)),
            (Some(minutes), hours, None) => (two(minutes)?, hours.map_or(Some(0), two)?),
            (Some(_), _, Some(_)) => return None,
        };
        let (head, tail) = seconds.split_once('.').unwrap_or((seconds, "0"));
        let seconds = thousandths(&format!("{}.{tail}", two(head)?))?;
        let millis = ((hours * 60 + minutes) * 60_000).checked_add(seconds)?;
        Some(Self(millis.try_into().ok()?))
    }

    fn write(&self) -> String {
        decimal(self.0.get())
    }

    fn takes() -> String {
        format!("seconds from {} to 14400, as 75.5 or 00:01:15.5", decimal(MIN))
    }
}

/// A ratio of two small numbers, as `16/9`, or one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratio {
    /// Above the line.
    pub over: Num<1, 4096>,
    /// Below the line.
    pub under: Num<1, 4096>,
}

impl Value for Ratio {
    fn read(text: &str) -> Option<Self> {
        let (over, under) = text.split_once('/').unwrap_or((text, "1"));
        Some(Self { over: Num::read(over)?, under: Num::read(under)? })
    }

    fn write(&self) -> String {
        match self.under.get() {
            1 => self.over.write(),
            _ => format!("{}/{}", self.over.write(), self.under.write()),
        }
    }

    fn takes() -> String {
        "a ratio of two numbers from 1 to 4096, such as 16/9".to_owned()
    }
}

/// Frames per second, as `25` or `30000/1001`. The ceiling is what cameras for slow motion make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameRate {
    /// So many each second.
    Whole(Num<1, 240>),
    /// So many each 1.001 seconds, in thousands: television's rates in North America.
    Ntsc(Num<1, 240>),
}

impl Value for FrameRate {
    fn read(text: &str) -> Option<Self> {
        match text.strip_suffix("000/1001") {
            Some(thousands) => Num::read(thousands).map(Self::Ntsc),
            None => Num::read(text).map(Self::Whole),
        }
    }

    fn write(&self) -> String {
        match self {
            Self::Whole(rate) => rate.write(),
            Self::Ntsc(thousands) => format!("{}000/1001", thousands.write()),
        }
    }

    fn takes() -> String {
        "frames per second from 1 to 240, such as 25, 24000/1001 or 30000/1001".to_owned()
    }
}

/// Longest text of a tag, in characters.
pub const TEXT_CHARS_MAX: usize = 120;

/// Marks that a text may hold beside letters, digits and spaces. None of them means anything to
/// FFmpeg, and none is part of a path's or an URL's grammar.
const TEXT_MARKS: &str = ".,'!?()&+-_#";

/// Words for people: letters and digits of any script, spaces and a few marks; a letter or a digit
/// first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(String);

/// A text with a character that it may not hold, none at all, or too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("1 to {TEXT_CHARS_MAX} letters, digits, spaces and {TEXT_MARKS} are expected")]
pub struct NoText;

impl TryFrom<String> for Text {
    type Error = NoText;

    fn try_from(text: String) -> Result<Self, NoText> {
        let listed = |c: char| c.is_alphanumeric() || c == ' ' || TEXT_MARKS.contains(c);
        let good = text.starts_with(char::is_alphanumeric)
            && text.chars().all(listed)
            && text.chars().count() <= TEXT_CHARS_MAX;
        if good { Ok(Self(text)) } else { Err(NoText) }
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl Value for Text {
    fn read(text: &str) -> Option<Self> {
        text.to_owned().try_into().ok()
    }

    fn write(&self) -> String {
        self.0.clone()
    }

    fn takes() -> String {
        format!("1 to {TEXT_CHARS_MAX} letters, digits, spaces and {TEXT_MARKS}")
    }
}

/// An enumeration of words, with other spellings that are read but never written.
macro_rules! words {
    ($($about:literal $name:ident { $($variant:ident = $word:literal $(or $other:literal)*,)+ })+) => {
        $(
            #[doc = $about]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
            pub enum $name {
                $(
                    #[doc = concat!("`", $word, "`.")]
                    #[serde(rename = $word)]
                    $variant,
                )+
            }

            impl $name {
                /// Every word's value.
                pub const ALL: &'static [Self] = &[$(Self::$variant),+];

                /// The word.
                #[must_use]
                pub const fn word(self) -> &'static str {
                    match self {
                        $(Self::$variant => $word,)+
                    }
                }
            }

            impl $crate::plan::value::Value for $name {
                fn read(text: &str) -> Option<Self> {
                    match text {
                        $($word $(| $other)* => Some(Self::$variant),)+
                        _ => None,
                    }
                }

                fn write(&self) -> String {
                    self.word().to_owned()
                }

                fn takes() -> String {
                    let words: Vec<_> = Self::ALL.iter().map(|value| value.word()).collect();
                    format!("one of {}", words.join(", "))
                }
            }
        )+
    };
}
pub(crate) use words;
