//! Reads an object once, from front to back, and keeps what the sniffer needs.
//!
//! Promises: constant memory (one window of the head and the small boxes of an ISO file's index,
//! wherever in the file that is), linear time, no seeking; any cut of the bytes into pieces gives
//! the same result. ID3v2 tags in front (of MP3, AAC and FLAC; FFmpeg skips them before it looks at
//! anything) do not count as the front: one with cover art is longer than the window.

use crate::isobmff::Walk;

/// Bytes kept of the front: every accepted container but ISO's has its header there.
pub const HEAD_BYTES_MAX: usize = 1 << 20;

/// Bytes of an ID3v2 tag's header (ID3v2.4 §3.1), and of its footer.
const TAG_BYTES: usize = 10;

/// What comes next at the front.
#[derive(Debug, Default)]
enum Front {
    /// A tag, or what the file is.
    #[default]
    MayBeTag,
    /// So many bytes of a tag.
    Tag(u64),
    /// What the file is.
    Media,
}

/// Collects while the object streams by.
#[derive(Debug, Default)]
pub struct Scanner {
    front: Front,
    is_tagged: bool,
    head: Vec<u8>,
    length: u64,
    walk: Walk,
}

/// What was collected.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The front, without tags.
    pub(crate) head: Vec<u8>,
    /// There was a tag.
    pub(crate) is_tagged: bool,
    pub(crate) length: u64,
    pub(crate) walk: Walk,
}

impl Scanner {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next bytes of the object.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.length = self.length.saturating_add(bytes.len() as u64);
        self.walk.feed(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let took = match self.front {
                Front::MayBeTag => self.may_be_tag(rest),
                Front::Tag(left) => {
                    let took = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left.saturating_sub(took as u64);
                    self.front = if left == 0 { Front::MayBeTag } else { Front::Tag(left) };
                    took
                }
                Front::Media => {
                    let room = HEAD_BYTES_MAX.saturating_sub(self.head.len());
                    self.head.extend(rest.iter().take(room));
                    return;
                }
            };
            rest = rest.get(took..).unwrap_or_default();
        }
    }

    /// Collects what may be the header of a tag; says how many bytes.
    fn may_be_tag(&mut self, bytes: &[u8]) -> usize {
        let took = bytes.len().min(TAG_BYTES.saturating_sub(self.head.len()));
        self.head.extend(bytes.iter().take(took));
        let known = self.head.len().min(3);
        if self.head.get(..known) != b"ID3".get(..known) {
            self.front = Front::Media;
        } else if self.head.len() == TAG_BYTES {
            self.front = match tag_bytes(&self.head) {
                Some(size) => {
                    self.is_tagged = true;
                    self.head.clear();
                    if size == 0 { Front::MayBeTag } else { Front::Tag(size) }
                }
                None => Front::Media,
            };
        }
        took
    }

    /// Bytes fed so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The object has ended.
    #[must_use]
    pub fn finish(self) -> Scan {
        let Self { head, is_tagged, length, walk, .. } = self;
        Scan { head, is_tagged, length, walk }
    }
}

impl Scan {
    /// Size of the whole object, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// Bytes that follow a tag's header; `None` when it is none, by the rules of FFmpeg's own look
/// (ID3v2.4 §3.1: no version 255, sizes of seven bits in a byte, a flag for a footer).
fn tag_bytes(header: &[u8]) -> Option<u64> {
    let &[_, _, _, major, minor, flags, a, b, c, d] = header else { return None };
    let whole = major != 0xFF && minor != 0xFF && (a | b | c | d) & 0x80 == 0;
    let size = [a, b, c, d].iter().fold(0, |size, seven| (size << 7) | u64::from(*seven));
    let footer = if flags & 0x10 == 0 { 0 } else { TAG_BYTES as u64 };
    whole.then_some(size + footer)
}
