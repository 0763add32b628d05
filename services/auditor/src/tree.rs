//! The Merkle tree of RFC 6962 §2.1: hashes, proofs and their checks. Pure.
//!
//! Promises: `check_inclusion` and `check_consistency` are the algorithms of RFC 9162 §2.1.3.2 and
//! §2.1.4.2 and accept nothing else. Refuses: to fetch; whoever makes a proof supplies the hashes.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// Bytes in a SHA-256 hash.
pub const HASH_BYTES: usize = 32;
/// Hashes in the longest proof: a tree of 2^64 leaves has 64 levels, a consistency proof one more.
pub const PROOF_HASHES_MAX: usize = 65;

/// The hash of a leaf or of a subtree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeHash([u8; HASH_BYTES]);

impl TreeHash {
    /// Wraps 32 bytes.
    #[must_use]
    pub const fn new(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }

    /// Reads standard, padded base64 (RFC 4648 §4) of exactly 32 bytes.
    #[must_use]
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

/// Standard, padded base64, as in checkpoints and proofs.
impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The root of the tree without leaves: SHA-256 of nothing.
#[must_use]
pub fn empty_root() -> TreeHash {
    TreeHash(Sha256::digest([]).into())
}

/// SHA-256(0x00 || leaf), RFC 6962 §2.1.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> TreeHash {
    let mut hasher = Sha256::new();
    hasher.update([0x00]);
    hasher.update(leaf);
    TreeHash(hasher.finalize().into())
}

/// SHA-256(0x01 || left || right), RFC 6962 §2.1.
#[must_use]
pub fn node_hash(left: &TreeHash, right: &TreeHash) -> TreeHash {
    let mut hasher = Sha256::new();
    hasher.update([0x01]);
    hasher.update(left.0);
    hasher.update(right.0);
    TreeHash(hasher.finalize().into())
}

/// The right edge of a growing tree: the roots of its perfect subtrees, largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<TreeHash>,
}

impl Frontier {
    /// Appends one leaf (or the root of a perfect subtree, if all are of one height).
    pub fn push(&mut self, hash: TreeHash) {
        let mut hash = hash;
        let mut rest = self.size;
        while rest & 1 == 1 {
            let left = self.peaks.pop().expect("one peak per set bit of the size");
            hash = node_hash(&left, &hash);
            rest >>= 1;
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The roots of the perfect subtrees, largest first.
    #[must_use]
    pub fn peaks(&self) -> &[TreeHash] {
        &self.peaks
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        fold_peaks(&self.peaks)
    }
}

/// The root of a tree whose perfect subtrees, largest first, have these roots.
#[must_use]
pub fn fold_peaks(peaks: &[TreeHash]) -> TreeHash {
    let folded = peaks.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
    folded.unwrap_or_else(empty_root)
}

/// The root over these hashes as leaves of one height.
#[must_use]
pub fn root_of(hashes: &[TreeHash]) -> TreeHash {
    let mut frontier = Frontier::default();
    for hash in hashes {
        frontier.push(*hash);
    }
    frontier.root()
}

/// A perfect subtree: leaves `index << level .. (index + 1) << level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Height above the leaves.
    pub level: u8,
    /// Position among the subtrees of that height.
    pub index: u64,
}

/// A subtree of a proof: the leaves `start .. end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First leaf.
    pub start: u64,
    /// One past the last leaf.
    pub end: u64,
}

impl Span {
    /// The perfect subtrees that make up the span, left to right.
    #[must_use]
    pub fn nodes(self) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut start = self.start;
        while start < self.end {
            let aligned = start.trailing_zeros();
            let level = aligned.min((self.end - start).ilog2());
            nodes.push(Node {
                level: u8::try_from(level).expect("ilog2 of a u64 is below 64"),
                index: start >> level,
            });
            start += 1 << level;
        }
        nodes
    }
}

/// Why a proof was refused, or could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The leaf or the older tree is not inside the tree.
    #[error("position {position} is outside a tree of {size} leaves")]
    Outside {
        /// Leaf index or older size.
        position: u64,
        /// Leaves in the tree.
        size: u64,
    },
    /// The proof has too few or too many hashes for this position and size.
    #[error("the proof has the wrong number of hashes")]
    Length,
    /// The proof leads to another root.
    #[error("the proof leads to another root")]
    Root,
    /// A hash that the proof needs was not supplied.
    #[error("hash of subtree level {} index {} is missing", .0.level, .0.index)]
    Missing(Node),
}

/// The largest power of two smaller than `n`, for n > 1.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// The subtrees whose roots prove leaf `index` in a tree of `size`, leaf's sibling first
/// (PATH of RFC 6962 §2.1.1).
///
/// # Errors
/// `Outside` if the tree does not hold the leaf.
pub fn inclusion_spans(index: u64, size: u64) -> Result<Vec<Span>, TreeError> {
    if index >= size {
        return Err(TreeError::Outside { position: index, size });
    }
    let (mut start, mut end) = (0, size);
    let mut spans = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            spans.push(Span { start: middle, end });
            end = middle;
        } else {
            spans.push(Span { start, end: middle });
            start = middle;
        }
    }
    spans.reverse();
    Ok(spans)
}

/// The subtrees whose roots prove that the tree of `new` leaves extends the one of `old`
/// (PROOF of RFC 6962 §2.1.2). Empty when `old` is 0 or equals `new`.
///
/// # Errors
/// `Outside` if `old` is larger than `new`.
pub fn consistency_spans(old: u64, new: u64) -> Result<Vec<Span>, TreeError> {
    if old > new {
        return Err(TreeError::Outside { position: old, size: new });
    }
    if old == 0 {
        return Ok(Vec::new());
    }
    let (mut start, mut end) = (0, new);
    let mut known = true;
    let mut spans = Vec::new();
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            spans.push(Span { start: middle, end });
            end = middle;
        } else {
            spans.push(Span { start, end: middle });
            start = middle;
            known = false;
        }
    }
    if !known {
        spans.push(Span { start, end });
    }
    spans.reverse();
    Ok(spans)
}

/// The roots of `spans`, from a source of perfect subtree hashes. The result proves nothing until
/// it has been checked against a signed root.
///
/// # Errors
/// `Missing` names the first hash that the source does not have.
pub fn span_hashes(
    spans: &[Span],
    mut source: impl FnMut(Node) -> Option<TreeHash>,
) -> Result<Vec<TreeHash>, TreeError> {
    let mut hashes = Vec::with_capacity(spans.len());
    for span in spans {
        let mut peaks = Vec::new();
        for node in span.nodes() {
            peaks.push(source(node).ok_or(TreeError::Missing(node))?);
        }
        hashes.push(fold_peaks(&peaks));
    }
    Ok(hashes)
}

/// Accepts if `leaf` is leaf `index` of the tree of `size` leaves with this root
/// (RFC 9162 §2.1.3.2).
///
/// # Errors
/// `Outside`, `Length` or `Root`: the proof proves nothing.
pub fn check_inclusion(
    index: u64,
    size: u64,
    leaf: &TreeHash,
    proof: &[TreeHash],
    root: &TreeHash,
) -> Result<(), TreeError> {
    if index >= size {
        return Err(TreeError::Outside { position: index, size });
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(TreeError::Length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(TreeError::Length);
    }
    if hash == *root { Ok(()) } else { Err(TreeError::Root) }
}

/// Accepts if the tree of `new` leaves extends the tree of `old` leaves (RFC 9162 §2.1.4.2).
///
/// # Errors
/// `Outside`, `Length` or `Root`: the proof proves nothing.
pub fn check_consistency(
    old: (u64, &TreeHash),
    new: (u64, &TreeHash),
    proof: &[TreeHash],
) -> Result<(), TreeError> {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size > new_size {
        return Err(TreeError::Outside { position: old_size, size: new_size });
    }
    if old_size == new_size || old_size == 0 {
        let expected = if old_size == 0 { empty_root() } else { *new_root };
        return match proof {
            [] if *old_root == expected => Ok(()),
            [] => Err(TreeError::Root),
            _ => Err(TreeError::Length),
        };
    }
    let mut path = proof.iter();
    let first = if old_size.is_power_of_two() { Some(old_root) } else { path.next() };
    let first = first.ok_or(TreeError::Length)?;
    let shift = (old_size - 1).trailing_ones();
    let (mut node, mut last) = ((old_size - 1) >> shift, (new_size - 1) >> shift);
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in path {
        if last == 0 {
            return Err(TreeError::Length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(TreeError::Length);
    }
    let same = old_hash == *old_root && new_hash == *new_root;
    if same { Ok(()) } else { Err(TreeError::Root) }
}
