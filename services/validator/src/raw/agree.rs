//! What the parts of a list must be to each other.

use super::{Draft, Refusal, refuse, split::Item};
use hotcell_schemas::{
    plan::{
        encoder::{AudioEncoder, Channels, VideoEncoder},
        filter::SampleRate,
        tree::{StreamKind, Tag},
    },
    request::Format,
};

impl Draft {
    /// Refuses parts that contradict each other; `end` is the place of the output.
    pub(super) fn agree(&self, items: &[Item<'_>], end: usize) -> Result<(), Refusal> {
        let given = |names: &[&str]| items.iter().find(|item| names.contains(&item.name));
        let at = |names: &[&str]| given(names).map_or(end, |item| item.at);
        self.streams(end, &at)?;
        self.mapped(end)?;
        self.rates(&at)?;
        self.tagged()?;
        let mov = matches!(self.format, Format::Mp4 | Format::M4a);
        if !self.flags.is_empty() && !mov {
            return refuse(at(&["-movflags"]), "is for mp4 and m4a only");
        }
        Ok(())
    }

    fn streams(&self, end: usize, at: &impl Fn(&[&str]) -> usize) -> Result<(), Refusal> {
        let without = |what: &str| self.without.contains(&what);
        if self.video.is_some() && without("video") {
            return refuse(at(&["-vn"]), "contradicts -c:v");
        }
        if self.audio.is_some() && without("audio") {
            return refuse(at(&["-an"]), "contradicts -c:a");
        }
        if self.video.is_none() && self.audio.is_none() {
            return refuse(end, "nothing is encoded: give -c:v, -c:a or both");
        }
        let may_hold_video = !matches!(self.format, Format::Mp3 | Format::M4a);
        if self.video.is_none() && !without("video") && may_hold_video {
            return refuse(end, "give -c:v, or -vn for no picture");
        }
        if self.audio.is_none() && !without("audio") {
            return refuse(end, "give -c:a, or -an for no sound");
        }
        Ok(())
    }

    fn mapped(&self, end: usize) -> Result<(), Refusal> {
        let (mut videos, mut audios) = (0_usize, 0_usize);
        for (index, (at, map)) in self.maps.iter().enumerate() {
            let value = at + 1;
            if self
                .maps
                .iter()
                .take(index)
                .any(|(_, other)| (other.kind, other.index) == (map.kind, map.index))
            {
                return refuse(value, "is given twice");
            }
            match map.kind {
                StreamKind::Audio => audios += 1,
                StreamKind::Picture | StreamKind::Video => videos += 1,
            }
            match map.kind {
                StreamKind::Audio if self.audio.is_none() => {
                    return refuse(value, "needs an audio encoder: give -c:a");
                }
                StreamKind::Picture | StreamKind::Video if self.video.is_none() => {
                    return refuse(value, "needs a video encoder: give -c:v");
                }
                StreamKind::Picture | StreamKind::Video if map.optional => {
                    return refuse(value, "a picture is demanded: no ? here");
                }
                StreamKind::Audio | StreamKind::Picture | StreamKind::Video => {}
            }
            if videos > 1 || audios > 8 {
                return refuse(value, "at most one picture and eight sound tracks are taken");
            }
            if audios > 1 && self.format == Format::Mp3 {
                return refuse(value, "mp3 holds one sound track");
            }
        }
        let missing = !self.maps.is_empty()
            && ((self.video.is_some() && videos == 0) || (self.audio.is_some() && audios == 0));
        if missing { refuse(end, "give -map for the picture and for the sound") } else { Ok(()) }
    }

    fn rates(&self, at: &impl Fn(&[&str]) -> usize) -> Result<(), Refusal> {
        let buffer = &["-maxrate", "-maxrate:v", "-bufsize", "-bufsize:v"];
        let (crf, buffered) = match self.video.as_ref().map(|video| &video.encoder) {
            Some(VideoEncoder::H264(x)) => {
                (x.crf.is_some() && x.bitrate.is_some(), (x.maxrate, x.bufsize))
            }
            Some(VideoEncoder::H265(x)) => (x.crf.is_some() && x.bitrate.is_some(), (None, None)),
            Some(VideoEncoder::Vp9(x)) => (false, (x.maxrate, x.bufsize)),
            None => (false, (None, None)),
        };
        if crf {
            return refuse(at(&["-b:v"]), "contradicts -crf");
        }
        if buffered.0.is_some() != buffered.1.is_some() {
            return refuse(at(buffer), "-maxrate and -bufsize are given together");
        }
        let Some(audio) = &self.audio else { return Ok(()) };
        match (&audio.encoder, audio.sound.channels, audio.sound.rate) {
            (AudioEncoder::Mp3(x), ..) if x.bitrate.is_some() && x.quality.is_some() => {
                refuse(at(&["-b:a"]), "contradicts -q:a")
            }
            (AudioEncoder::Mp3(_), Some(Channels::Surround), _) => {
                refuse(at(&["-ac", "-ac:a"]) + 1, "mp3 holds one or two channels")
            }
            // RFC 6716 §2.1.1 and libopus: of each channel.
            (AudioEncoder::Opus(x), None | Some(Channels::Mono), _)
                if x.bitrate.is_some_and(|bits| bits.0.get() > 256_000) =>
            {
                refuse(at(&["-b:a"]) + 1, "above 256000 opus needs -ac 2 or -ac 6")
            }
            (AudioEncoder::Opus(_), _, Some(rate)) if !of_opus(rate) => {
                let rule = "opus has 8000, 12000, 16000, 24000 and 48000 samples per second";
                refuse(at(&["-ar", "-ar:a"]) + 1, rule)
            }
            _ => Ok(()),
        }
    }

    fn tagged(&self) -> Result<(), Refusal> {
        let tracks = self.maps.iter().filter(|(_, map)| map.kind == StreamKind::Audio).count();
        let tracks = if self.maps.is_empty() { usize::from(self.audio.is_some()) } else { tracks };
        for (index, (at, tag)) in self.tags.iter().enumerate() {
            let (option, value) = tag.tokens();
            let key = |value: &str| value.split('=').next().map(str::to_owned);
            let same = |other: &Tag| {
                let (other_option, other_value) = other.tokens();
                other_option == option && key(&other_value) == key(&value)
            };
            if self.tags.iter().take(index).any(|(_, other)| same(other)) {
                return refuse(*at, "is given twice");
            }
            let there = match tag {
                Tag::Whole { .. } => true,
                Tag::VideoLanguage { .. } => self.video.is_some(),
                Tag::AudioLanguage { track, .. } | Tag::AudioTitle { track, .. } => {
                    usize::try_from(track.get()).is_ok_and(|track| track < tracks)
                }
            };
            if !there {
                return refuse(*at, "the output has no such stream");
            }
        }
        Ok(())
    }
}

/// Rates of RFC 6716 §2.
const fn of_opus(rate: SampleRate) -> bool {
    use SampleRate as S;
    matches!(rate, S::Hz8000 | S::Hz12000 | S::Hz16000 | S::Hz24000 | S::Hz48000)
}
