//! The checkpoint: a log's name, size and root (C2SP tlog-checkpoint). Pure.
//!
//! Promises: one tree head has one text. Refuses: leading zeroes, empty lines, another origin.
//! The extension line `seq <n>` carries the last stream sequence in the tree; it repeats the last
//! leaf's `seq`, and readers compare the two, so nothing rests on the extension alone.

use crate::note::{Note, NoteError, Signer, VerifierKey};
use crate::tree::TreeHash;

/// Extension lines kept; we write one.
const EXTENSIONS_MAX: usize = 16;

/// A tree head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// Root over them.
    pub root: TreeHash,
    /// Lines after the root, each not empty.
    pub extensions: Vec<String>,
}

/// Why a checkpoint was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note around it.
    #[error("the checkpoint's signed note was refused")]
    Note(#[source] NoteError),
    /// Not origin, size, root and extensions.
    #[error("the checkpoint's text is malformed")]
    Form,
    /// Signed by a trusted key, but as the head of another log.
    #[error("the checkpoint is of another log")]
    Origin,
}

impl Checkpoint {
    /// A head with its last stream sequence.
    #[must_use]
    pub fn new(origin: &str, size: u64, root: TreeHash, last_seq: u64) -> Self {
        let extensions = vec![format!("seq {last_seq}")];
        Self { origin: origin.to_owned(), size, root, extensions }
    }

    /// The last stream sequence in the tree, if the checkpoint says it.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        self.extensions.iter().find_map(|line| decimal(line.strip_prefix("seq ")?))
    }

    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, self.root);
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// The signed note. The origin must be the signer's name.
    ///
    /// # Errors
    /// `Origin`, or `Note` if the text cannot be signed.
    pub fn sign(&self, signer: &Signer) -> Result<String, CheckpointError> {
        if self.origin != signer.verifier().name() {
            return Err(CheckpointError::Origin);
        }
        signer.sign(&self.text()).map_err(CheckpointError::Note)
    }

    /// The checkpoint in a note that one of `keys` signed, of the log that this key is named after.
    ///
    /// # Errors
    /// Any `CheckpointError`.
    pub fn open(note: &[u8], keys: &[VerifierKey]) -> Result<Self, CheckpointError> {
        let note = Note::parse(note).map_err(CheckpointError::Note)?;
        let text = note.verify(keys).map_err(CheckpointError::Note)?;
        let checkpoint = Self::parse(text).ok_or(CheckpointError::Form)?;
        let ours = keys.iter().any(|key| key.name() == checkpoint.origin);
        if ours { Ok(checkpoint) } else { Err(CheckpointError::Origin) }
    }

    /// Reads a checkpoint's text; proves nothing about who wrote it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        let bad = origin.is_empty() || extensions.len() > EXTENSIONS_MAX;
        if bad || extensions.iter().any(String::is_empty) {
            return None;
        }
        Some(Self {
            origin: origin.to_owned(),
            size: decimal(size)?,
            root: TreeHash::from_base64(root)?,
            extensions,
        })
    }
}

/// A decimal number without sign or leading zeroes.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::tree;

    fn check(text: &str, expect: bool) {
        assert_eq!(Checkpoint::parse(text).is_some(), expect, "{text:?}");
    }

    #[test]
    fn one_head_has_one_text() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        check(&format!("example.com/behind-the-sofa\n20852163\n{root}\n"), true);
        check(&format!("o\n0\n{root}\nseq 5\n"), true);
        check(&format!("o\n01\n{root}\n"), false);
        check(&format!("o\n+1\n{root}\n"), false);
        check(&format!("o\n1\n{root}"), false);
        check(&format!("o\n1\n{root}\n\n"), false);
        check(&format!("\n1\n{root}\n"), false);
        check("o\n1\nAAAA\n", false);
        check("o\n1\n", false);
    }

    #[test]
    fn a_trusted_key_cannot_sign_for_another_log() {
        let signer = Signer::from_seed("log.example/a", &[1; 32]).unwrap();
        let head = Checkpoint::new("log.example/b", 0, tree::empty_root(), 0);
        assert_eq!(head.sign(&signer), Err(CheckpointError::Origin));
        let note = signer.sign(&head.text()).unwrap();
        let keys = [signer.verifier().clone()];
        assert_eq!(Checkpoint::open(note.as_bytes(), &keys), Err(CheckpointError::Origin));
        let ours = Checkpoint::new("log.example/a", 3, tree::empty_root(), 9);
        let note = ours.sign(&signer).unwrap();
        let opened = Checkpoint::open(note.as_bytes(), &keys).unwrap();
        assert_eq!((opened.last_seq(), opened), (Some(9), ours));
    }
}
