//! A walk over the boxes of an ISO base media file (ISO/IEC 14496-12 §4.2; QuickTime File Format)
//! while it streams by.
//!
//! Promises: every box lies inside its parent and the top-level boxes add up to the file's size, or
//! the file is refused; it descends only to what it reads; memory is constant: `stsd` and the three
//! headers are kept up to [`KEPT_BYTES_MAX`], everything else is skipped. `stsd` and the fragments'
//! headers are searched for marks of encryption while they pass.

use crate::{
    field::{be16, be32, be64, millis, take},
    protection::{Search, is_mark},
    seen::{Flaw, Seen},
};
use hotcell_schemas::limits::STREAMS_MAX;

/// Bytes kept of one box. The fields that are read lie in the first 96.
const KEPT_BYTES_MAX: usize = 128;

/// Boxes walked over. Four hours in fragments of a second have under 60,000 at the levels we visit.
const BOXES_MAX: u32 = 1 << 18;

type Kind = [u8; 4];

/// A container box that was entered.
#[derive(Debug, Clone, Copy)]
struct Open {
    kind: Kind,
    /// Its end in the file; `None` when it lasts to the end of the file.
    end: Option<u64>,
}

#[derive(Debug, Clone)]
enum State {
    /// Collecting the 8 or 16 bytes of a header.
    Header,
    /// Inside a box that is not read.
    Skip { end: Option<u64> },
    /// Inside a box that is only searched for marks of encryption.
    Search { end: Option<u64> },
    /// Inside a box whose first bytes are kept.
    Keep { kind: Kind, end: u64 },
    /// Nothing more will be learnt.
    Dead(Flaw),
}

#[derive(Debug, Clone, Default)]
struct Track {
    handler: Option<Kind>,
    header_size: Option<(u32, u32)>,
    coded_size: Option<(u32, u32)>,
}

/// The walk.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    at: u64,
    boxes: u32,
    open: Vec<Open>,
    state: State,
    kept: Vec<u8>,
    tracks: Vec<Track>,
    duration_ms: Option<u64>,
    has_index: bool,
    has_data: bool,
    search: Search,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            at: 0,
            boxes: 0,
            open: Vec::new(),
            state: State::Header,
            kept: Vec::with_capacity(KEPT_BYTES_MAX),
            tracks: Vec::new(),
            duration_ms: None,
            has_index: false,
            has_data: false,
            search: Search::default(),
        }
    }
}

impl Walk {
    /// The next bytes of the file.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let took = match self.state {
                State::Dead(_) => return,
                State::Header => self.header(bytes),
                State::Skip { end } => self.advance(bytes, end),
                State::Search { end } => {
                    let took = self.advance(bytes, end);
                    self.look(bytes, took, end);
                    took
                }
                State::Keep { kind, end } => {
                    let took = self.advance(bytes, Some(end));
                    if &kind == b"stsd" {
                        self.look(bytes, took, Some(end));
                    }
                    let room = KEPT_BYTES_MAX.saturating_sub(self.kept.len());
                    self.kept.extend(bytes.iter().take(took.min(room)));
                    took
                }
            };
            bytes = bytes.get(took..).unwrap_or_default();
            self.close_boxes();
        }
    }

    /// What the index says.
    pub(crate) fn finish(&self) -> Result<Seen, Flaw> {
        let mid_box = match self.state {
            State::Dead(flaw) => return Err(flaw),
            State::Header => !self.kept.is_empty(),
            State::Skip { end } | State::Search { end } => end.is_some(),
            State::Keep { .. } => true,
        };
        if mid_box || self.open.iter().any(|open| open.end.is_some()) {
            return Err(Flaw::Truncated);
        }
        if !self.has_index {
            return Err(Flaw::NoIndex);
        }
        if !self.has_data {
            return Err(Flaw::NoData);
        }
        let (duration_ms, protected) = (self.duration_ms, self.search.found);
        let mut seen = Seen { duration_ms, protected, ..Seen::complete() };
        for track in &self.tracks {
            match track.handler.as_ref() {
                Some(b"vide") => {
                    // A forged file may say two sizes: the limit holds for both.
                    seen.picture(track.coded_size);
                    if let Some((width, height)) = track.header_size {
                        let pixels = u64::from(width) * u64::from(height);
                        seen.pixels_max = seen.pixels_max.max(pixels);
                    }
                }
                Some(b"soun") => seen.voice(),
                _ => seen.streams += 1,
            }
        }
        Ok(seen)
    }

    /// Moves towards `end` and says by how many bytes.
    fn advance(&mut self, bytes: &[u8], end: Option<u64>) -> usize {
        let left = end.map_or(u64::MAX, |end| end.saturating_sub(self.at));
        let took = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        self.at = self.at.saturating_add(took as u64);
        took
    }

    /// Searches what was taken of a box that ends at `end`.
    fn look(&mut self, bytes: &[u8], took: usize, end: Option<u64>) {
        let from = self.at.saturating_sub(took as u64);
        let left = end.map_or(u64::MAX, |end| end.saturating_sub(from));
        self.search.feed(bytes.get(..took).unwrap_or_default(), left);
    }

    /// Collects a header, and enters its box when it is whole.
    fn header(&mut self, bytes: &[u8]) -> usize {
        let large = self.kept.len() >= 8 && be32(&self.kept, 0) == Some(1);
        let want = if large { 16 } else { 8 };
        let took = bytes.len().min(want - self.kept.len().min(want));
        self.kept.extend(bytes.iter().take(took));
        self.at = self.at.saturating_add(took as u64);
        let large = be32(&self.kept, 0) == Some(1);
        if self.kept.len() == 16 || (self.kept.len() == 8 && !large) {
            self.enter();
        }
        took
    }

    fn enter(&mut self) {
        let length = self.kept.len() as u64;
        let start = self.at.saturating_sub(length);
        let parent = self.open.last().copied();
        let kind: Kind = take(&self.kept, 4).unwrap_or_default();
        let end = match (be32(&self.kept, 0).unwrap_or_default(), parent) {
            (0, None) => None,
            (0, Some(_)) => return self.die(Flaw::Contradiction),
            (1, _) => be64(&self.kept, 8).and_then(|size| start.checked_add(size)),
            (size, _) => start.checked_add(u64::from(size)),
        };
        let to_the_end = be32(&self.kept, 0) == Some(0);
        self.kept.clear();
        self.boxes = self.boxes.saturating_add(1);
        let limit = parent.and_then(|open| open.end).unwrap_or(u64::MAX);
        match end {
            _ if self.boxes > BOXES_MAX => self.die(Flaw::Parts),
            None if !to_the_end => self.die(Flaw::Contradiction),
            Some(end) if end < self.at || end > limit => self.die(Flaw::Contradiction),
            end => self.visit(parent.map(|open| open.kind), kind, end),
        }
    }

    /// What to do with a box, by its place.
    fn visit(&mut self, parent: Option<Kind>, kind: Kind, end: Option<u64>) {
        self.state = State::Skip { end };
        self.search.found |= is_mark(&kind);
        self.search.begin();
        match (parent.as_ref(), &kind, end) {
            (None, b"moov", _) => {
                if self.has_index {
                    return self.die(Flaw::Contradiction);
                }
                self.has_index = true;
                self.descend(kind, end);
            }
            (None, b"mdat", _) => self.has_data = true,
            (None, b"moof", _) => {
                self.has_data = true;
                self.state = State::Search { end };
            }
            (Some(b"moov"), b"cmov", _) => self.die(Flaw::Compressed),
            (Some(b"moov"), b"trak", _) => {
                if self.tracks.len() >= STREAMS_MAX {
                    return self.die(Flaw::Streams);
                }
                self.tracks.push(Track::default());
                self.descend(kind, end);
            }
            (Some(b"trak"), b"mdia", _)
            | (Some(b"mdia"), b"minf", _)
            | (Some(b"minf"), b"stbl", _) => self.descend(kind, end),
            (Some(b"moov"), b"mvhd", Some(end))
            | (Some(b"trak"), b"tkhd", Some(end))
            | (Some(b"mdia"), b"hdlr", Some(end))
            | (Some(b"stbl"), b"stsd", Some(end)) => self.state = State::Keep { kind, end },
            _ => {}
        }
    }

    fn descend(&mut self, kind: Kind, end: Option<u64>) {
        self.open.push(Open { kind, end });
        self.state = State::Header;
    }

    fn die(&mut self, flaw: Flaw) {
        self.state = State::Dead(flaw);
    }

    /// Leaves every box that ends here.
    fn close_boxes(&mut self) {
        match self.state {
            State::Skip { end: Some(end) } | State::Search { end: Some(end) } if end == self.at => {
                self.state = State::Header;
            }
            State::Keep { kind, end } if end == self.at => {
                self.absorb(kind);
                self.kept.clear();
                self.state = State::Header;
            }
            State::Header
            | State::Skip { .. }
            | State::Search { .. }
            | State::Keep { .. }
            | State::Dead(_) => {}
        }
        let between = matches!(self.state, State::Header) && self.kept.is_empty();
        while between && self.open.last().is_some_and(|open| open.end == Some(self.at)) {
            self.open.pop();
        }
    }

    /// Reads a kept box. Fields that are not there stay unknown.
    fn absorb(&mut self, kind: Kind) {
        let body = self.kept.as_slice();
        let long = body.first() == Some(&1);
        match &kind {
            b"mvhd" if long => {
                let (scale, ticks) = (be32(body, 20), be64(body, 24));
                self.duration_ms = scale.zip(ticks).and_then(|(s, t)| millis(t, u64::from(s)));
            }
            b"mvhd" => {
                let ticks = be32(body, 16).filter(|ticks| *ticks != u32::MAX).map(u64::from);
                let scale = be32(body, 12);
                self.duration_ms = scale.zip(ticks).and_then(|(s, t)| millis(t, u64::from(s)));
            }
            b"tkhd" => {
                let at = if long { 88 } else { 76 };
                let size = be32(body, at).zip(be32(body, at + 4));
                let size = size.map(|(width, height)| (width >> 16, height >> 16));
                self.track(|track| track.header_size = size);
            }
            b"hdlr" => {
                let handler = take(body, 8);
                self.track(|track| track.handler = handler);
            }
            _ => {
                let size = be16(body, 40).zip(be16(body, 42));
                let size = size.map(|(width, height)| (u32::from(width), u32::from(height)));
                self.track(|track| track.coded_size = size);
            }
        }
    }

    fn track(&mut self, set: impl FnOnce(&mut Track)) {
        if let Some(track) = self.tracks.last_mut() {
            set(track);
        }
    }
}
