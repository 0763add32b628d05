//! From a tenant's own FFmpeg arguments to the typed tree.
//!
//! Promises: a list is accepted only when every token of it is accounted for: an option of the list
//! at its place, a value within the bounds of its type, or one of the two placeholders. What the
//! tree holds is all that goes on; no token is passed through. Pure. Refuses: whatever is not on
//! the list, the same thing twice, two things that contradict each other, and to repair anything.
//! Neither FFmpeg's grammar of options nor its quoting is imitated: what needs either is refused.

mod agree;
mod chain;
mod list;
mod page;
mod refused;
mod split;

pub use page::arguments_md;

use super::check::holds;
use hotcell_schemas::{
    limits::{FILTERS_MAX, TAGS_MAX},
    plan::{
        encoder::{AudioEncoder, OptionRow, Options as _, Picture, Set, Sound, VideoEncoder},
        filter::Filter,
        maps,
        tree::{Audio, Map, MovFlag, Muxer, Tag, Tree, Video, Window},
        value::{Length, Seconds, Value},
    },
    request::Format,
};
use list::Kind;
use split::{Item, split};
use std::borrow::Cow;

/// A refused argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("argument {at}: {rule}")]
pub struct Refusal {
    /// Its place in the list, from 0.
    pub at: usize,
    /// The rule that it breaks: a constant or made of constants, never text of the request.
    pub rule: Cow<'static, str>,
}

/// An accepted argument, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Its place in the list, from 0.
    pub at: usize,
    /// How many tokens it is.
    pub tokens: usize,
    /// The rule's name, as in docs/arguments.md.
    pub rule: String,
    /// What the rule lets through.
    pub takes: String,
}

/// The tree of a list of arguments.
///
/// # Errors
/// The first [`Refusal`].
pub fn parse(format: Format, arguments: &[String]) -> Result<Tree, Refusal> {
    explain(format, arguments).1
}

/// As [`parse`], with what was decided about each argument until the first refusal.
///
/// # Errors
/// Within: the first [`Refusal`].
pub fn explain(format: Format, arguments: &[String]) -> (Vec<Decision>, Result<Tree, Refusal>) {
    let (items, end) = split(arguments);
    let mut draft = Draft::new(format);
    let each = draft.each(&items);
    let tree = match (each, end) {
        (Ok(()), Ok(())) => draft.tree(&items),
        (Err(each), Err(end)) if end.at < each.at => Err(end),
        (Err(refusal), _) | (Ok(()), Err(refusal)) => Err(refusal),
    };
    draft.decisions.sort_by_key(|decision| decision.at);
    (draft.decisions, tree)
}

fn refuse<T>(at: usize, rule: impl Into<Cow<'static, str>>) -> Result<T, Refusal> {
    Err(Refusal { at, rule: rule.into() })
}

/// What was read so far.
struct Draft {
    decisions: Vec<Decision>,
    format: Format,
    format_named: bool,
    window: Window,
    duration: Option<Length>,
    maps: Vec<(usize, Map)>,
    video: Option<Video>,
    audio: Option<Audio>,
    without: Vec<&'static str>,
    flags: Vec<MovFlag>,
    tags: Vec<(usize, Tag)>,
}

impl Draft {
    const fn new(format: Format) -> Self {
        Self {
            decisions: Vec::new(),
            format,
            format_named: false,
            window: Window { seek: None, duration: None },
            duration: None,
            maps: Vec::new(),
            video: None,
            audio: None,
            without: Vec::new(),
            flags: Vec::new(),
            tags: Vec::new(),
        }
    }

    fn each(&mut self, items: &[Item<'_>]) -> Result<(), Refusal> {
        // An option belongs to an encoder, which may be named after it.
        for item in items {
            if item.kind.names_an_encoder() {
                self.one(item)?;
            }
        }
        for item in items {
            if !item.kind.names_an_encoder() {
                self.one(item)?;
            }
        }
        Ok(())
    }

    fn tree(&mut self, items: &[Item<'_>]) -> Result<Tree, Refusal> {
        let end = items.last().map_or(0, |item| item.at);
        self.agree(items, end)?;
        let (video, audio) = (self.video.take(), self.audio.take());
        let maps = match self.maps.is_empty() {
            true => maps(video.is_some(), audio.is_some()),
            false => self.maps.iter().map(|(_, map)| *map).collect(),
        };
        Ok(Tree {
            window: self.window,
            maps,
            video,
            audio,
            duration: self.duration,
            tags: self.tags.drain(..).map(|(_, tag)| tag).collect(),
            muxer: Muxer { format: self.format, flags: std::mem::take(&mut self.flags) },
        })
    }

    fn decide(&mut self, item: &Item<'_>, rule: impl Into<String>, takes: impl Into<String>) {
        let (rule, takes) = (rule.into(), takes.into());
        self.decisions.push(Decision { at: item.at, tokens: item.tokens(), rule, takes });
    }

    fn one(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        let at = item.at;
        match item.kind {
            Kind::Input => self.decide(item, "-i", "{in0}: the job's one input"),
            Kind::Output => self.decide(item, "{out0}", "the job's one output, last"),
            Kind::Without(what) => {
                if self.without.contains(&what) {
                    return refuse(at, TWICE);
                }
                self.without.push(what);
                self.decide(item, item.kind.rule(), list::without(what));
            }
            Kind::Seek => {
                let seek = once(self.window.seek, item)?;
                self.window.seek = Some(seek);
                self.decide(item, "-ss before -i", Seconds::takes());
            }
            Kind::Read => {
                let duration = once(self.window.duration, item)?;
                self.window.duration = Some(duration);
                self.decide(item, "-t before -i", Length::takes());
            }
            Kind::Duration => {
                self.duration = Some(once(self.duration, item)?);
                self.decide(item, "-t", Length::takes());
            }
            Kind::Map => {
                self.maps.push((at, read(item)?));
                self.decide(item, "-map", Map::takes());
            }
            Kind::Format => self.format(item)?,
            Kind::MovFlags => self.mov_flags(item)?,
            Kind::Tag => self.tag(item)?,
            Kind::VideoCodec => self.video_codec(item)?,
            Kind::AudioCodec => self.audio_codec(item)?,
            Kind::VideoFilter => self.video_filter(item)?,
            Kind::AudioFilter => self.audio_filter(item)?,
            Kind::Video => self.video_option(item)?,
            Kind::Audio => self.audio_option(item)?,
        }
        Ok(())
    }

    fn format(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        if self.format_named {
            return refuse(item.at, TWICE);
        }
        if item.value != hotcell_schemas::argv::muxer(self.format) {
            return refuse(item.at + 1, "must be the muxer of the output's `format`");
        }
        self.format_named = true;
        self.decide(item, "-f", "the muxer of the output's `format`");
        Ok(())
    }

    fn mov_flags(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        if !self.flags.is_empty() {
            return refuse(item.at, TWICE);
        }
        let words = item.value.strip_prefix('+').unwrap_or(item.value).split('+');
        for word in words {
            match MovFlag::read(word) {
                Some(flag) if !self.flags.contains(&flag) => self.flags.push(flag),
                _ => return refuse(item.at + 1, must(&list::mov_flags())),
            }
        }
        self.decide(item, "-movflags", list::mov_flags());
        Ok(())
    }

    fn tag(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        let Some(tag) = Tag::read(item.name, item.value) else {
            return refuse(item.at + 1, must(&list::tags()));
        };
        if self.tags.len() == TAGS_MAX {
            return refuse(item.at, format!("at most {TAGS_MAX} tags are accepted"));
        }
        self.tags.push((item.at, tag));
        self.decide(item, "-metadata", list::tags());
        Ok(())
    }

    fn video_codec(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        if self.video.is_some() {
            return refuse(item.at, TWICE);
        }
        let Some(encoder) = list::video_encoder(item.value) else {
            return refuse(item.at + 1, must(&list::video_encoders()));
        };
        if !holds(self.format).video.contains(&encoder.codec()) {
            return refuse(item.at + 1, "the output's `format` does not hold what this one makes");
        }
        self.video = Some(Video { encoder, picture: Picture::default(), filters: Vec::new() });
        self.decide(item, "-c:v", list::video_encoders());
        Ok(())
    }

    fn audio_codec(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        if self.audio.is_some() {
            return refuse(item.at, TWICE);
        }
        let Some(encoder) = list::audio_encoder(item.value) else {
            return refuse(item.at + 1, must(&list::audio_encoders()));
        };
        if !holds(self.format).audio.contains(&encoder.codec()) {
            return refuse(item.at + 1, "the output's `format` does not hold what this one makes");
        }
        self.audio = Some(Audio { encoder, sound: Sound::default(), filters: Vec::new() });
        self.decide(item, "-c:a", list::audio_encoders());
        Ok(())
    }

    fn video_filter(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        let Some(video) = &mut self.video else { return refuse(item.at, NO_VIDEO) };
        if !video.filters.is_empty() {
            return refuse(item.at, TWICE);
        }
        video.filters = filters(item)?;
        let names: Vec<_> = video.filters.iter().map(Filter::name).collect();
        self.decide(item, "-vf", format!("filters of the list: {}", names.join(", ")));
        Ok(())
    }

    fn audio_filter(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        let Some(audio) = &mut self.audio else { return refuse(item.at, NO_AUDIO) };
        if !audio.filters.is_empty() {
            return refuse(item.at, TWICE);
        }
        audio.filters = filters(item)?;
        let names: Vec<_> = audio.filters.iter().map(Filter::name).collect();
        self.decide(item, "-af", format!("filters of the list: {}", names.join(", ")));
        Ok(())
    }

    fn video_option(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        let Some(video) = &mut self.video else { return refuse(item.at, NO_VIDEO) };
        let name = video.encoder.name();
        let encoder = &mut video.encoder;
        let (set, rows, of) = match encoder.set(item.name, item.value) {
            Set::Unknown => {
                (video.picture.set(item.name, item.value), Picture::rows(), "every video encoder")
            }
            set @ (Set::Done | Set::Repeated | Set::Value) => (set, encoder.rows(), name),
        };
        self.settled(item, set, &rows, of, || list::video_owners(item.name, name))
    }

    fn audio_option(&mut self, item: &Item<'_>) -> Result<(), Refusal> {
        let Some(audio) = &mut self.audio else { return refuse(item.at, NO_AUDIO) };
        let name = audio.encoder.name();
        let encoder = &mut audio.encoder;
        let (set, rows, of) = match encoder.set(item.name, item.value) {
            Set::Unknown => {
                (audio.sound.set(item.name, item.value), Sound::rows(), "every audio encoder")
            }
            set @ (Set::Done | Set::Repeated | Set::Value) => (set, encoder.rows(), name),
        };
        self.settled(item, set, &rows, of, || list::audio_owners(item.name, name))
    }

    fn settled(
        &mut self,
        item: &Item<'_>,
        set: Set,
        rows: &[OptionRow],
        of: &str,
        owners: impl Fn() -> String,
    ) -> Result<(), Refusal> {
        let row = rows.iter().find(|row| row.names.contains(&item.name));
        match (set, row) {
            (Set::Done, Some(row)) => {
                let name = row.names.first().copied().unwrap_or_default();
                self.decide(item, format!("{name} of {of}"), row.takes.clone());
                Ok(())
            }
            (Set::Repeated, _) => refuse(item.at, TWICE),
            (Set::Value, Some(row)) => refuse(item.at + 1, must(&row.takes)),
            _ => refuse(item.at, owners()),
        }
    }
}

const TWICE: &str = "is given twice";
const NO_VIDEO: &str = "needs a video encoder: give -c:v";
const NO_AUDIO: &str = "needs an audio encoder: give -c:a";

fn must(takes: &str) -> String {
    format!("must be {takes}")
}

fn read<T: Value>(item: &Item<'_>) -> Result<T, Refusal> {
    let rule = || Refusal { at: item.at + 1, rule: must(&T::takes()).into() };
    T::read(item.value).ok_or_else(rule)
}

fn once<T: Value>(before: Option<T>, item: &Item<'_>) -> Result<T, Refusal> {
    if before.is_some() { refuse(item.at, TWICE) } else { read(item) }
}

fn filters<F: Filter>(item: &Item<'_>) -> Result<Vec<F>, Refusal> {
    let refusal = |rule: Cow<'static, str>| Refusal { at: item.at + 1, rule };
    let parts = chain::parts(item.value).map_err(|fault| refusal(fault.into()))?;
    if parts.len() > FILTERS_MAX {
        return Err(refusal(format!("at most {FILTERS_MAX} filters are accepted").into()));
    }
    let read = |(number, part): (usize, chain::Part<'_>)| {
        let filter = F::read(part.name, part.given);
        filter.map_err(|fault| {
            refusal(format!("{fault} (filter {} of the chain)", number + 1).into())
        })
    };
    parts.into_iter().enumerate().map(read).collect()
}

/// Each encoder without options, for the tables.
fn every_video() -> [VideoEncoder; 3] {
    use hotcell_schemas::request::VideoCodec as C;
    [C::H264, C::H265, C::Vp9].map(VideoEncoder::of)
}

/// As [`every_video`].
fn every_audio() -> [AudioEncoder; 3] {
    use hotcell_schemas::request::AudioCodec as C;
    [C::Aac, C::Opus, C::Mp3].map(AudioEncoder::of)
}
