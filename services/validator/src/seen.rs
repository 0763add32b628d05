//! What a header says of an input, and what can be wrong with it.

use hotcell_schemas::{
    limits::{DURATION_SECS_MAX, PIXELS_MAX, STREAMS_MAX},
    reject::{Failure, RejectCode},
};

/// What a header says. `None` means that it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Size of the first picture track.
    pub(crate) size: Option<(u32, u32)>,
    pub(crate) has_video: Option<bool>,
    pub(crate) has_audio: Option<bool>,
    pub(crate) duration_ms: Option<u64>,
    /// Tracks of any kind.
    pub(crate) streams: usize,
    /// Pixels of the largest picture.
    pub(crate) pixels_max: u64,
    /// Marks of encryption were seen.
    pub(crate) protected: bool,
}

impl Seen {
    /// Nothing yet, and the header lists every track.
    pub(crate) fn complete() -> Self {
        Self { has_video: Some(false), has_audio: Some(false), ..Self::default() }
    }

    /// Only sound, as the container's nature.
    pub(crate) fn sound() -> Self {
        Self { has_audio: Some(true), streams: 1, ..Self::complete() }
    }

    /// A picture track.
    pub(crate) fn picture(&mut self, size: Option<(u32, u32)>) {
        self.streams += 1;
        self.has_video = Some(true);
        if let Some((width, height)) = size {
            self.pixels_max = self.pixels_max.max(u64::from(width) * u64::from(height));
            self.size = self.size.or(size);
        }
    }

    /// A sound track.
    pub(crate) fn voice(&mut self) {
        self.streams += 1;
        self.has_audio = Some(true);
    }

    /// Holds the limits of [`hotcell_schemas::limits`] to it.
    pub(crate) fn within_limits(&self) -> Result<(), Flaw> {
        if self.streams > STREAMS_MAX {
            return Err(Flaw::Streams);
        }
        if self.pixels_max > PIXELS_MAX {
            return Err(Flaw::Pixels);
        }
        if self.duration_ms.is_some_and(|ms| ms > u64::from(DURATION_SECS_MAX) * 1000) {
            return Err(Flaw::Duration);
        }
        if self.has_video == Some(false) && self.has_audio == Some(false) {
            return Err(Flaw::Nothing);
        }
        Ok(())
    }
}

/// What is wrong with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It ends before it should.
    Truncated,
    /// A part does not fit into the part that holds it, or is shorter than its own header.
    Contradiction,
    /// No `moov`.
    NoIndex,
    /// No media data.
    NoData,
    /// A compressed index: small on disk, huge in memory.
    Compressed,
    /// More parts than any honest file.
    Parts,
    /// Too many tracks.
    Streams,
    /// Too many pixels.
    Pixels,
    /// Too long.
    Duration,
    /// Neither picture nor sound.
    Nothing,
    /// A parser of ours gave up in an unplanned way.
    Panic,
}

impl From<Flaw> for Failure {
    fn from(flaw: Flaw) -> Self {
        use RejectCode::{InputMalformed, InputTooComplex};
        let (code, message) = match flaw {
            Flaw::Truncated => (InputMalformed, "the file ends before its container does"),
            Flaw::Contradiction => {
                (InputMalformed, "a part of the container does not fit into the whole")
            }
            Flaw::NoIndex => (InputMalformed, "the file has no moov box, so it cannot be read"),
            Flaw::NoData => (InputMalformed, "the file has an index but no media data"),
            Flaw::Compressed => (InputTooComplex, "the file's index is compressed"),
            Flaw::Parts => (InputTooComplex, "the container has too many parts"),
            Flaw::Streams => (InputTooComplex, "the file has too many tracks: 32 are allowed"),
            Flaw::Pixels => {
                (InputTooComplex, "the picture is too large: 8192 x 4320 pixels are allowed")
            }
            Flaw::Duration => (InputTooComplex, "the file is too long: 4 hours are allowed"),
            Flaw::Nothing => (InputMalformed, "the file holds neither picture nor sound"),
            Flaw::Panic => (InputMalformed, "the file's header cannot be read"),
        };
        Self::new(code, message)
    }
}
