//! Whether bytes are the ones that were reported. Pure.

use hotcell_schemas::Digest;
use sha2::{Digest as _, Sha256};

/// How stored bytes differ from the reported ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// More bytes.
    #[error("has more than the reported {0} bytes")]
    Longer(u64),
    /// Fewer bytes.
    #[error("has fewer than the reported {0} bytes")]
    Shorter(u64),
    /// As many, but other ones.
    #[error("has another SHA-256 than reported")]
    Content,
}

/// A comparison in progress.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    size: u64,
    sha256: Digest,
    read: u64,
    hash: Sha256,
}

impl Comparison {
    /// Begins a comparison with what was reported.
    pub(crate) fn new(size: u64, sha256: Digest) -> Self {
        Self { size, sha256, read: 0, hash: Sha256::new() }
    }

    /// Takes the next bytes; fails as soon as there are too many.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Difference> {
        self.read = self.read.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.read > self.size {
            return Err(Difference::Longer(self.size));
        }
        self.hash.update(bytes);
        Ok(())
    }

    /// The verdict, when there are no more bytes.
    pub(crate) fn end(self) -> Result<(), Difference> {
        if self.read < self.size {
            return Err(Difference::Shorter(self.size));
        }
        let same = Digest::from_bytes(self.hash.finalize().into()) == self.sha256;
        if same { Ok(()) } else { Err(Difference::Content) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compare(reported: &[u8], chunks: &[&[u8]]) -> Result<(), Difference> {
        let size = u64::try_from(reported.len()).unwrap();
        let mut comparison = Comparison::new(size, Digest::of(reported));
        chunks.iter().try_for_each(|chunk| comparison.take(chunk))?;
        comparison.end()
    }

    #[test]
    fn brk_60_any_other_bytes_differ() {
        let check = |chunks: &[&[u8]], expect| assert_eq!(compare(b"abcd", chunks), expect);
        check(&[b"abcd"], Ok(()));
        check(&[b"a", b"", b"bc", b"d"], Ok(()));
        check(&[], Err(Difference::Shorter(4)));
        check(&[b"abc"], Err(Difference::Shorter(4)));
        check(&[b"abcd", b"e"], Err(Difference::Longer(4)));
        check(&[b"abce"], Err(Difference::Content));
        check(&[b"ABCD"], Err(Difference::Content));
        assert_eq!(compare(b"", &[]), Ok(()));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter_and_a_flipped_bit_does(
            bytes in prop::collection::vec(any::<u8>(), 1..200), cut: usize, flip: usize,
            bit in 0_u8..8,
        ) {
            let (head, tail) = bytes.split_at(cut % bytes.len());
            prop_assert_eq!(compare(&bytes, &[head, tail]), Ok(()));
            let mut other = bytes.clone();
            let at = flip % other.len();
            other[at] ^= 1_u8 << bit;
            prop_assert_eq!(compare(&bytes, &[&other]), Err(Difference::Content));
        }
    }
}
