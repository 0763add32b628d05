//! Bytes by hand: a generator with a fixed seed, searching, patching, checksums.

use anyhow::{Context as _, Result};

/// A small deterministic generator (xorshift64*).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    /// One stream of numbers for each name; another for each `HOTCELL_CORPUS_SEED`.
    pub(super) fn of(name: &str) -> Self {
        let seed = std::env::var("HOTCELL_CORPUS_SEED").unwrap_or_default();
        let text = [name, seed.as_str()].concat();
        let seed = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    /// A byte.
    pub(super) fn byte(&mut self) -> u8 {
        let [byte, ..] = self.next().to_le_bytes();
        byte
    }

    /// This many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}

/// Where `needle` first begins at or after `from`.
pub(super) fn find_from(bytes: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    let found = bytes.get(from..)?.windows(needle.len()).position(|window| window == needle);
    found.map(|at| at + from)
}

/// Where `needle` first begins.
pub(super) fn find(bytes: &[u8], needle: &[u8]) -> Result<usize> {
    let name = String::from_utf8_lossy(needle).into_owned();
    find_from(bytes, needle, 0).with_context(|| format!("the clip has no {name:?}"))
}

/// Where `needle` last begins.
pub(super) fn find_last(bytes: &[u8], needle: &[u8]) -> Result<usize> {
    let name = String::from_utf8_lossy(needle).into_owned();
    let found = bytes.windows(needle.len()).rposition(|window| window == needle);
    found.with_context(|| format!("the clip has no {name:?}"))
}

/// `bytes` with `with` written over what is at `at`.
pub(super) fn patched(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(place) = bytes.get_mut(at..at + with.len()) {
        place.copy_from_slice(with);
    }
    bytes
}

/// `bytes` with `with` put in at `at`.
pub(super) fn inserted(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let (before, after) = bytes.split_at(at.min(bytes.len()));
    [before, with, after].concat()
}

/// Everything before `at`.
pub(super) fn front(bytes: &[u8], at: usize) -> Vec<u8> {
    bytes.get(..at.min(bytes.len())).unwrap_or_default().to_vec()
}

/// Everything from `at` on.
pub(super) fn back(bytes: &[u8], at: usize) -> Vec<u8> {
    bytes.get(at.min(bytes.len())..).unwrap_or_default().to_vec()
}

/// A length as 32 bits.
pub(super) fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// CRC-32 with the polynomial and bit order of PNG (ISO 3309).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (if crc & 1 == 1 { 0xEDB8_8320 } else { 0 })
        })
    })
}

/// CRC-32 of MPEG sections (from all ones) and Ogg pages (from zero): most significant bit first.
pub(super) fn crc32_msb(bytes: &[u8], from: u32) -> u32 {
    bytes.iter().fold(from, |crc, byte| {
        (0..8).fold(crc ^ (u32::from(*byte) << 24), |crc, _| {
            (crc << 1) ^ (if crc >> 31 == 1 { 0x04C1_1DB7 } else { 0 })
        })
    })
}
