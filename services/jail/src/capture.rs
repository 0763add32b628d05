//! Reading what a hostile program prints, in bounded memory.
//!
//! Promises: standard error is kept at both ends and hashed whole; lines are cut, never refused; who prints too much is
//! told on, by `flood`. Refuses to grow with the input.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::limits::{
    STDERR_ALL_BYTES_MAX, STDERR_END_BYTES_MAX, STDOUT_ALL_BYTES_MAX, STDOUT_LINE_BYTES_MAX,
};

/// One read from a pipe; a Linux pipe holds 64 KiB by default.
const CHUNK_BYTES: usize = 16 * 1024;

/// What the payload wrote to standard error. Hostile text: escape it before it reaches a terminal or a page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stderr {
    /// The first bytes, at most [`STDERR_END_BYTES_MAX`], as lossy UTF-8.
    pub head: String,
    /// The last bytes that are not in the head, at most as many.
    pub tail: String,
    /// Bytes that were written in all.
    pub bytes: u64,
    /// Bytes between head and tail that were not kept.
    pub dropped: u64,
    /// SHA-256 of everything that was written, in hex.
    pub sha256: String,
}

/// Where standard output goes.
#[derive(Debug)]
pub enum Stdout {
    /// Line by line, lossy UTF-8, each cut at [`STDOUT_LINE_BYTES_MAX`]. A full channel makes the payload wait.
    Lines(mpsc::Sender<String>),
    /// Kept whole up to this many bytes; [`Outcome::stdout`](crate::cell::Outcome::stdout) has it.
    Bytes(usize),
    /// Read and forgotten.
    Discard,
}

/// Standard output that was asked for as bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// At most as many bytes as were asked for.
    pub bytes: Vec<u8>,
    /// Whether there were more.
    pub cut: bool,
}

/// Reads to the end, or to the first read error, which for a pipe means the same. Not an async closure over chunks:
/// that would make the future of a cell impossible to spawn (rust-lang/rust#110338).
struct Chunks<'a, R> {
    from: R,
    chunk: Vec<u8>,
    /// Bytes that may still come.
    left: u64,
    /// Cancelled when more came.
    flood: &'a CancellationToken,
}

impl<'a, R: AsyncRead + Unpin> Chunks<'a, R> {
    fn new(from: R, left: u64, flood: &'a CancellationToken) -> Self {
        Self { from, chunk: vec![0; CHUNK_BYTES], left, flood }
    }

    async fn next(&mut self) -> Option<&[u8]> {
        let len = self.from.read(&mut self.chunk).await.ok().filter(|len| *len > 0)?;
        match self.left.checked_sub(len as u64) {
            Some(left) => self.left = left,
            None => self.flood.cancel(),
        }
        self.chunk.get(..len)
    }
}

pub(crate) async fn stderr(from: impl AsyncRead + Unpin, flood: &CancellationToken) -> Stderr {
    let (mut head, mut tail) = (Vec::new(), VecDeque::new());
    let (mut bytes, mut hash) = (0_u64, Sha256::new());
    let mut chunks = Chunks::new(from, STDERR_ALL_BYTES_MAX, flood);
    while let Some(chunk) = chunks.next().await {
        hash.update(chunk);
        bytes = bytes.saturating_add(chunk.len() as u64);
        let (first, rest) = chunk.split_at(chunk.len().min(STDERR_END_BYTES_MAX - head.len()));
        head.extend_from_slice(first);
        tail.extend(rest);
        tail.drain(..tail.len().saturating_sub(STDERR_END_BYTES_MAX));
    }
    let kept = (head.len() + tail.len()) as u64;
    Stderr {
        head: String::from_utf8_lossy(&head).into_owned(),
        tail: String::from_utf8_lossy(tail.make_contiguous()).into_owned(),
        bytes,
        dropped: bytes - kept,
        sha256: hex::encode(hash.finalize()),
    }
}

/// After `stop` the rest is read and forgotten, so that a receiver that stands still cannot hold up the end.
pub(crate) async fn stdout(
    from: impl AsyncRead + Unpin,
    to: Stdout,
    stop: &CancellationToken,
    flood: &CancellationToken,
) -> Captured {
    let mut kept = Captured::default();
    let mut chunks = Chunks::new(from, STDOUT_ALL_BYTES_MAX, flood);
    match to {
        Stdout::Discard => while chunks.next().await.is_some() {},
        Stdout::Lines(channel) => lines(chunks, channel, stop).await,
        Stdout::Bytes(max) => {
            while let Some(chunk) = chunks.next().await {
                let room = max - kept.bytes.len();
                kept.cut |= chunk.len() > room;
                kept.bytes.extend(chunk.iter().take(room));
            }
        }
    }
    kept
}

/// A receiver that went away does not stop the reading: the payload must not block on a pipe.
async fn lines(
    mut chunks: Chunks<'_, impl AsyncRead + Unpin>,
    channel: mpsc::Sender<String>,
    stop: &CancellationToken,
) {
    let send = async |line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        stop.run_until_cancelled(channel.send(line)).await
    };
    let mut line: Vec<u8> = Vec::new();
    while let Some(chunk) = chunks.next().await {
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            line.extend(text.iter().take(STDOUT_LINE_BYTES_MAX - line.len()));
            if ends {
                drop(send(&line).await);
                line.clear();
            }
        }
    }
    if !line.is_empty() {
        drop(send(&line).await);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, repeat};
    use tokio_util::sync::CancellationToken;

    use super::{
        Captured, STDERR_END_BYTES_MAX, STDOUT_ALL_BYTES_MAX, STDOUT_LINE_BYTES_MAX, Stdout,
        stderr, stdout,
    };

    fn calm() -> CancellationToken {
        CancellationToken::new()
    }

    /// BRK-33: no end of a pipe is read for ever.
    #[tokio::test]
    async fn who_prints_too_much_is_told_on() {
        for (bytes, expect) in [(STDOUT_ALL_BYTES_MAX, false), (STDOUT_ALL_BYTES_MAX + 1, true)] {
            let flood = calm();
            stdout(repeat(b'x').take(bytes), Stdout::Discard, &calm(), &flood).await;
            assert_eq!(flood.is_cancelled(), expect);
        }
    }

    #[tokio::test]
    async fn stderr_keeps_both_ends() {
        let short = stderr(b"hello\xff".as_slice(), &calm()).await;
        assert_eq!((short.head.as_str(), short.tail.as_str()), ("hello\u{fffd}", ""));
        assert_eq!((short.bytes, short.dropped), (6, 0));

        let mut long = vec![b'a'; STDERR_END_BYTES_MAX];
        long.extend(vec![b'b'; 100_000]);
        long.extend(vec![b'c'; STDERR_END_BYTES_MAX]);
        let kept = stderr(long.as_slice(), &calm()).await;
        assert_eq!(kept.head, "a".repeat(STDERR_END_BYTES_MAX));
        assert_eq!(kept.tail, "c".repeat(STDERR_END_BYTES_MAX));
        assert_eq!((kept.bytes, kept.dropped), (long.len() as u64, 100_000));
    }

    #[tokio::test]
    async fn lines_are_cut() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(8);
        let text = format!("a\n\n{}\nend", "x".repeat(3 * STDOUT_LINE_BYTES_MAX));
        stdout(text.as_bytes(), Stdout::Lines(sender), &calm(), &calm()).await;
        let mut lines = Vec::new();
        while let Some(line) = receiver.recv().await {
            lines.push(line);
        }
        assert_eq!(lines, ["a", "", &"x".repeat(STDOUT_LINE_BYTES_MAX), "end"]);
    }

    #[tokio::test]
    async fn a_lost_receiver_does_not_block() {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        drop(receiver);
        let stop = CancellationToken::new();
        stdout("a\nb\nc\n".as_bytes(), Stdout::Lines(sender), &stop, &calm()).await;
    }

    #[tokio::test]
    async fn bytes_are_capped() {
        let kept = |cut| Captured { bytes: b"abc".to_vec(), cut };
        let stop = CancellationToken::new();
        assert_eq!(stdout(b"abcd".as_slice(), Stdout::Bytes(3), &stop, &calm()).await, kept(true));
        assert_eq!(stdout(b"abc".as_slice(), Stdout::Bytes(3), &stop, &calm()).await, kept(false));
    }
}
