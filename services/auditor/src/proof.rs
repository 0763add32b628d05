//! The offline receipt: one leaf's inclusion under a signed checkpoint (C2SP tlog-proof). Pure.
//!
//! Promises: `check` accepts only a proof that leads from the leaf to a root that a trusted key
//! signed. Refuses: to trust `extra`; there it carries the leaf, which `check` authenticates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::{Checkpoint, CheckpointError, decimal};
use crate::note::{NOTE_BYTES_MAX, VerifierKey};
use crate::tree::{self, PROOF_HASHES_MAX, TreeError, TreeHash};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// A note, 65 hash lines of 45 bytes and 64 KiB of extra data.
const PROOF_BYTES_MAX: usize = NOTE_BYTES_MAX + 128 * 1024;

/// An inclusion proof with its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// Not authenticated by the format: we put the leaf here.
    pub extra: Option<Vec<u8>>,
    /// Index of the leaf.
    pub index: u64,
    /// Sibling hashes, leaf's sibling first.
    pub hashes: Vec<TreeHash>,
    /// The signed checkpoint, verbatim.
    pub checkpoint: String,
}

/// Why a proof was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not a proof file.
    #[error("the text is not a tlog-proof")]
    Form,
    /// The checkpoint in it.
    #[error("the proof's checkpoint was refused")]
    Checkpoint(#[source] CheckpointError),
    /// The hashes.
    #[error("the proof does not lead from the leaf to the signed root")]
    Tree(#[source] TreeError),
    /// No leaf was given and `extra` holds none.
    #[error("the proof does not carry its leaf")]
    NoLeaf,
}

impl TlogProof {
    /// The file's text; the customary extension is `.tlog-proof`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        if let Some(extra) = &self.extra {
            text.push_str(&format!("extra {}\n", STANDARD.encode(extra)));
        }
        text.push_str(&format!("index {}\n", self.index));
        for hash in &self.hashes {
            text.push_str(&format!("{hash}\n"));
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Reads the file's text; proves nothing before `check`.
    ///
    /// # Errors
    /// `Form`.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        if text.len() > PROOF_BYTES_MAX {
            return Err(ProofError::Form);
        }
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ProofError::Form)?;
        Self::parse_head(head, checkpoint).ok_or(ProofError::Form)
    }

    fn parse_head(head: &str, checkpoint: &str) -> Option<Self> {
        let mut lines = head.split('\n');
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let mut line = lines.next()?;
        let mut extra = None;
        if let Some(data) = line.strip_prefix("extra ") {
            extra = Some(STANDARD.decode(data).ok()?);
            line = lines.next()?;
        }
        let index = decimal(line.strip_prefix("index ")?)?;
        let hashes: Option<Vec<_>> = lines.map(TreeHash::from_base64).collect();
        let hashes = hashes.filter(|hashes| hashes.len() <= PROOF_HASHES_MAX)?;
        Some(Self { extra, index, hashes, checkpoint: checkpoint.to_owned() })
    }

    /// The signed checkpoint under which `leaf` is leaf `index`.
    ///
    /// # Errors
    /// `Checkpoint` or `Tree`: the proof proves nothing.
    pub fn check(&self, leaf: &[u8], keys: &[VerifierKey]) -> Result<Checkpoint, ProofError> {
        let head = Checkpoint::open(self.checkpoint.as_bytes(), keys);
        let head = head.map_err(ProofError::Checkpoint)?;
        let hash = tree::leaf_hash(leaf);
        tree::check_inclusion(self.index, head.size, &hash, &self.hashes, &head.root)
            .map_err(ProofError::Tree)?;
        Ok(head)
    }

    /// As `check`, for the leaf that the proof carries; the leaf's bytes are then proven.
    ///
    /// # Errors
    /// `NoLeaf`, `Checkpoint` or `Tree`.
    pub fn check_carried(&self, keys: &[VerifierKey]) -> Result<(&[u8], Checkpoint), ProofError> {
        let leaf = self.extra.as_deref().ok_or(ProofError::NoLeaf)?;
        Ok((leaf, self.check(leaf, keys)?))
    }
}
