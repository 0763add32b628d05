//! Offline verification of a stored log against its verifier keys.
//!
//! Promises: every leaf, tile, record and kept checkpoint is recomputed, and what is wrong is named
//! by index and path. A row's three copies (leaf, tile hash, record) vote on which one is wrong,
//! and the signed root decides. Refuses: to read the head or any clock; a sound report says that
//! the log is what its key signed, not that it is the newest.

use std::fmt;

use crate::checkpoint::Checkpoint;
use crate::leaf::Leaf;
use crate::note::VerifierKey;
use crate::proof::TlogProof;
use crate::record::Record;
use crate::store::{LogStore, StoreError};
use crate::tile::{Edge, TILE_WIDTH, TileId};
use crate::tree::{self, TreeHash};

use self::scan::{Scan, Trust};

mod scan;

/// Faults listed; a log with more is not worth reading row by row.
pub const FAULTS_MAX: usize = 1000;
/// A job has a few events per attempt; more leaves than this are not one job.
pub const JOB_LEAVES_MAX: usize = 10_000;
const GROUP: u64 = TILE_WIDTH as u64;

/// One thing that is wrong with a stored log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An object is missing.
    Missing {
        /// Path in the log.
        path: String,
    },
    /// An object is cut, too large, has bytes left over or is not of its kind.
    Object {
        /// Path in the log.
        path: String,
    },
    /// A leaf is not the one that was signed.
    Leaf {
        /// Leaf index.
        index: u64,
        /// The bundle it is in.
        path: String,
    },
    /// A tile's hash is not that of the leaves below it.
    Tile {
        /// Path in the log.
        path: String,
        /// Hash number in the tile.
        row: usize,
    },
    /// A record is not the one that its leaf commits to.
    Record {
        /// Leaf index.
        index: u64,
        /// The bundle it is in.
        path: String,
    },
    /// No bundle holds a leaf's record.
    RecordMissing {
        /// Leaf index.
        index: u64,
    },
    /// The caller's check of the record's own signature failed.
    Signature {
        /// Leaf index.
        index: u64,
        /// What the check said.
        reason: String,
    },
    /// A sequence is not above the one before it, or is not the checkpoint's at the end.
    Sequence {
        /// Leaf index.
        index: u64,
        /// Its stream sequence.
        seq: u64,
    },
    /// The root that the leaves give is not the signed one.
    Root {
        /// The root computed.
        computed: TreeHash,
    },
    /// A kept checkpoint does not open or has another root.
    Checkpoint {
        /// Path in the log.
        path: String,
    },
    /// A signed checkpoint is newer than the published one: a rollback, or a crash before
    /// publishing that opening the log will mend.
    Newer {
        /// Its size.
        size: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(f, "{path} is missing"),
            Self::Object { path } => write!(f, "{path} is damaged"),
            Self::Leaf { index, path } => write!(f, "leaf {index} in {path} is not the one signed"),
            Self::Tile { path, row } => write!(f, "hash {row} of {path} is wrong"),
            Self::Record { index, path } => {
                write!(f, "record {index} in {path} is not the one its leaf commits to")
            }
            Self::RecordMissing { index } => write!(f, "record {index} is missing"),
            Self::Signature { index, reason } => {
                write!(f, "record {index} has no valid signature: {reason}")
            }
            Self::Sequence { index, seq } => write!(f, "leaf {index}: sequence {seq} out of order"),
            Self::Root { computed } => {
                write!(f, "the leaves give root {computed}, not the signed one")
            }
            Self::Checkpoint { path } => write!(f, "{path} is not a checkpoint of this log"),
            Self::Newer { size } => {
                write!(f, "a signed checkpoint of size {size} is not published")
            }
        }
    }
}

/// Stream sequences that no leaf has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The leaf after the gap.
    pub index: u64,
    /// First sequence missing.
    pub first_seq: u64,
    /// Last sequence missing.
    pub last_seq: u64,
}

/// The result of a verification.
#[derive(Clone, Debug)]
pub struct Report {
    /// The signed checkpoint that was verified.
    pub head: Checkpoint,
    /// Records that are what their leaves commit to.
    pub records: u64,
    /// What is wrong, at most `FAULTS_MAX`.
    pub faults: Vec<Fault>,
    /// Missing stream sequences, at most `FAULTS_MAX`; a fault only if the caller says so.
    pub gaps: Vec<Gap>,
}

impl Report {
    /// Whether nothing is wrong; with `gaps_are_faults`, also whether no sequence is missing.
    #[must_use]
    pub fn is_sound(&self, gaps_are_faults: bool) -> bool {
        self.faults.is_empty() && (!gaps_are_faults || self.gaps.is_empty())
    }
}

/// Why a verification could not be done at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store failed, or the published checkpoint was refused.
    #[error("the log could not be read")]
    Store(#[source] StoreError),
    /// Nothing is published.
    #[error("the log has no checkpoint")]
    NoCheckpoint,
    /// The leaves do not give the signed root; `verify` says which.
    #[error("the stored leaves do not give the signed root")]
    Root,
    /// More leaves than `JOB_LEAVES_MAX`.
    #[error("the job has more leaves than a job can have")]
    TooMany,
}

/// Verifies everything. `check` is called with every record that its leaf commits to, to check the
/// record's own signature; pass `|_| Ok::<_, std::fmt::Error>(())` for none.
///
/// # Errors
/// `Store` or `NoCheckpoint`: there is nothing to verify against. Anything else is in the report.
pub async fn verify<E: std::error::Error>(
    store: &LogStore,
    keys: &[VerifierKey],
    mut check: impl FnMut(&Record) -> Result<(), E>,
) -> Result<Report, VerifyError> {
    let found = store.checkpoint(keys).await.map_err(VerifyError::Store)?;
    let (head, _) = found.ok_or(VerifyError::NoCheckpoint)?;
    let mut first = None;
    for trust in [Trust::Majority, Trust::Entries, Trust::Tiles] {
        let mut scan = Scan {
            store,
            keys,
            trust,
            check: &mut |record| check(record).map_err(|error| error.to_string()),
            edge: Edge::default(),
            last_seq: 0,
            report: Report { head: head.clone(), records: 0, faults: vec![], gaps: vec![] },
        };
        scan.run().await.map_err(VerifyError::Store)?;
        let computed = scan.edge.root();
        if computed == head.root {
            return Ok(scan.report);
        }
        scan.fault(Fault::Root { computed });
        first.get_or_insert(scan.report);
    }
    Ok(first.expect("three scans were made"))
}

/// One leaf of a job with its checked proof.
#[derive(Clone, Debug)]
pub struct JobLeaf {
    /// The leaf.
    pub leaf: Leaf,
    /// Its proof, which carries the leaf's bytes.
    pub proof: TlogProof,
}

/// Every leaf of a job, in order, each with a checked inclusion proof. Complete: all leaves were
/// read and give the signed root, so none can have been left out.
///
/// # Errors
/// `Root` if the stored leaves are not those signed; `Store`; `NoCheckpoint`; `TooMany`.
pub async fn verify_job(
    store: &LogStore,
    keys: &[VerifierKey],
    job: &str,
) -> Result<Vec<JobLeaf>, VerifyError> {
    let found = store.checkpoint(keys).await.map_err(VerifyError::Store)?;
    let (head, note) = found.ok_or(VerifyError::NoCheckpoint)?;
    let mut edge = Edge::default();
    let mut leaves = Vec::new();
    for index in 0..head.size.div_ceil(GROUP) {
        let id = TileId::holding(0, index * GROUP, head.size).expect("the group is in the tree");
        for bytes in store.entries(id).await.map_err(VerifyError::Store)? {
            let index = edge.size();
            edge.push(tree::leaf_hash(&bytes), |_, _| {});
            match Leaf::parse(&bytes) {
                Ok(leaf) if leaf.job.as_deref() == Some(job) => leaves.push((index, leaf, bytes)),
                _ => {}
            }
            if leaves.len() > JOB_LEAVES_MAX {
                return Err(VerifyError::TooMany);
            }
        }
    }
    if edge.root() != head.root {
        return Err(VerifyError::Root);
    }
    let mut proven = Vec::with_capacity(leaves.len());
    for (index, leaf, bytes) in leaves {
        let proof = store.prove_leaf(index, bytes, &head, &note).await;
        proven.push(JobLeaf { leaf, proof: proof.map_err(VerifyError::Store)? });
    }
    Ok(proven)
}
