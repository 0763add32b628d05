//! Reads an object once, from front to back, and keeps what the sniffer needs.
//!
//! Promises: constant memory (one window of the head and the small boxes of an ISO file's index,
//! wherever in the file that is), linear time, no seeking; any cut of the bytes into pieces gives
//! the same result.

use crate::isobmff::Walk;

/// Bytes kept of the front: every accepted container but ISO's has its header there.
pub const HEAD_BYTES_MAX: usize = 1 << 20;

/// Collects while the object streams by.
#[derive(Debug, Default)]
pub struct Scanner {
    head: Vec<u8>,
    length: u64,
    walk: Walk,
}

/// What was collected.
#[derive(Debug, Clone)]
pub struct Scan {
    pub(crate) head: Vec<u8>,
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
        let room = HEAD_BYTES_MAX.saturating_sub(self.head.len());
        self.head.extend(bytes.iter().take(room));
        self.length = self.length.saturating_add(bytes.len() as u64);
        self.walk.feed(bytes);
    }

    /// Bytes fed so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The object has ended.
    #[must_use]
    pub fn finish(self) -> Scan {
        Scan { head: self.head, length: self.length, walk: self.walk }
    }
}

impl Scan {
    /// Size of the whole object, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}
