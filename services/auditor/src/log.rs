//! The log's writer: stage a batch, advance the head, publish the checkpoint.
//!
//! Promises: a crash between any two steps leaves a log that opens and goes on to the same root;
//! several writers over one head never publish two histories. Refuses: to sign a tree that it did
//! not grow from the head's own root, to go on after a failed step without `reload`, and to start a
//! new log where a checkpoint is published but the head is gone.
//!
//! Order of the steps: records, entries and tiles (create-only), head (compare-and-set: from here
//! on the checkpoint is history), `checkpoints/<size>`, `checkpoint`. Two writers that publish at
//! once may leave the older of two valid checkpoints published until the next `publish`.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::head::{Head, HeadError, Step};
use crate::leaf::{Leaf, LeafError};
use crate::note::{Signer, VerifierKey};
use crate::proof::TlogProof;
use crate::record::{self, Record, RecordError};
use crate::store::{LogStore, StoreError};
use crate::tile::{self, Edge, TILE_WIDTH, TileError, TileId};
use crate::tree::{self, TreeError, TreeHash};

/// Sixteen tiles: more would delay the checkpoint and buy no throughput.
pub const BATCH_RECORDS_MAX: usize = 4096;
/// Encoded bytes of one batch, which are in memory twice while they are written.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Objects in flight: enough to hide the latency of a bucket.
const WRITES_AT_ONCE: usize = 8;

/// Why the log could not be opened or grown.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The objects.
    #[error("the log's objects could not be read or written")]
    Store(#[source] StoreError),
    /// The head.
    #[error("the log's head could not be read or advanced")]
    Head(#[source] HeadError),
    /// The head's note, or signing.
    #[error("the head's checkpoint was refused")]
    Checkpoint(#[source] CheckpointError),
    /// A checkpoint is published and the head is empty. Verify the log, then set the head to it.
    #[error("a checkpoint is published but the log has no head")]
    HeadMissing,
    /// The published checkpoint is newer than the head: the head was rolled back.
    #[error("checkpoint of size {published} is published but the head is at {head}")]
    HeadRolledBack {
        /// Size published.
        published: u64,
        /// Size of the head.
        head: u64,
    },
    /// Two signed checkpoints of this log contradict each other.
    #[error("the published checkpoint is not a prefix of the head: the log has forked")]
    Forked,
    /// The stored right edge is not the one that was signed.
    #[error("{path} is not what the signed checkpoint commits to")]
    Edge {
        /// Path in the log.
        path: String,
    },
    /// The last leaf's sequence is not the checkpoint's.
    #[error("the last leaf does not have the sequence that the checkpoint says")]
    LastSeq,
    /// The last leaf cannot be read.
    #[error("the last leaf is damaged")]
    Leaf(#[source] LeafError),
    /// A message cannot be a record.
    #[error("the message with sequence {seq} cannot be a record")]
    Record {
        /// Stream sequence.
        seq: u64,
        /// Cause.
        #[source]
        source: RecordError,
    },
    /// A leaf does not fit a bundle.
    #[error("a leaf does not fit an entry bundle")]
    Entry(#[source] TileError),
    /// A sequence is not above the one before it.
    #[error("sequence {seq} does not follow {previous}")]
    Order {
        /// The one before.
        previous: u64,
        /// The one refused.
        seq: u64,
    },
    /// No record, too many, or too many bytes.
    #[error("a batch of {records} records and {bytes} bytes is empty or over the limit")]
    Batch {
        /// Records.
        records: usize,
        /// Encoded bytes.
        bytes: usize,
    },
    /// A step failed or was lost, or the batch was staged on an older state: `reload` first.
    #[error("the log must be reloaded before it can grow")]
    Stale,
}

/// How to open a log.
#[derive(Debug)]
pub struct LogConfig {
    /// Where in the store, for example `audit`.
    pub prefix: String,
    /// The checkpoint key; its name is the log's origin.
    pub signer: Signer,
    /// Earlier keys of this origin, whose checkpoints are still history.
    pub older_keys: Vec<VerifierKey>,
}

/// A batch whose objects are stored but which no checkpoint commits to yet.
#[derive(Debug, Clone)]
pub struct Staged {
    from_size: u64,
    edge: Edge,
    tail: Vec<Vec<u8>>,
    root: TreeHash,
    last_seq: u64,
}

impl Staged {
    /// Leaves after this batch.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Root after this batch.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        self.root
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The checkpoint is published: the messages may be acked.
    Published(Checkpoint),
    /// Another writer was first: `reload`, and go on after `last_seq`.
    Lost,
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    store: LogStore,
    head: Arc<dyn Head>,
    signer: Signer,
    keys: Vec<VerifierKey>,
    edge: Edge,
    /// Leaves of the partial entry bundle.
    tail: Vec<Vec<u8>>,
    signed: Option<(Checkpoint, String)>,
    stale: bool,
}

impl Log {
    /// Opens the log at the head, or an empty one, after checking the stored right edge against
    /// the head's signed root.
    ///
    /// # Errors
    /// Any `LogError` about the head, the checkpoint or the edge; each but `Store` and `Head` with
    /// an I/O cause means that a person must look.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        head: Arc<dyn Head>,
        config: LogConfig,
    ) -> Result<Self, LogError> {
        let mut keys = vec![config.signer.verifier().clone()];
        keys.extend(config.older_keys);
        let mut log = Self {
            store: LogStore::new(store, &config.prefix),
            head,
            signer: config.signer,
            keys,
            edge: Edge::default(),
            tail: Vec::new(),
            signed: None,
            stale: true,
        };
        log.reload().await?;
        Ok(log)
    }

    /// Leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.edge.size()
    }

    /// Root.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        self.edge.root()
    }

    /// The last stream sequence in the log, 0 if it is empty: read on from the next.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.signed.as_ref().and_then(|(head, _)| head.last_seq()).unwrap_or(0)
    }

    /// The current checkpoint and its signed note, `None` while the log is empty.
    #[must_use]
    pub fn checkpoint(&self) -> Option<(&Checkpoint, &str)> {
        self.signed.as_ref().map(|(head, note)| (head, note.as_str()))
    }

    /// The keys whose checkpoints this log accepts.
    #[must_use]
    pub fn keys(&self) -> &[VerifierKey] {
        &self.keys
    }

    /// The log's objects, for `verify` and for proofs.
    #[must_use]
    pub fn store(&self) -> &LogStore {
        &self.store
    }

    /// Reads the head again, and publishes its checkpoint if a crash or another writer left an
    /// older one published.
    ///
    /// # Errors
    /// As `open`.
    pub async fn reload(&mut self) -> Result<(), LogError> {
        self.stale = true;
        let published = self.store.checkpoint(&self.keys).await.map_err(LogError::Store)?;
        // The head is read second: it may only be ahead of what was published.
        let Some(note) = self.head.load().await.map_err(LogError::Head)? else {
            if published.is_some() {
                return Err(LogError::HeadMissing);
            }
            (self.edge, self.tail, self.signed) = (Edge::default(), Vec::new(), None);
            self.stale = false;
            return Ok(());
        };
        let head = Checkpoint::open(note.as_bytes(), &self.keys).map_err(LogError::Checkpoint)?;
        let edge = load_edge(&self.store, &head).await?;
        let tail = load_tail(&self.store, &edge).await?;
        check_last_seq(&self.store, &head, &note, &tail).await?;
        if let Some((published, _)) = &published {
            self.check_prefix(published, &head).await?;
        }
        if published.is_none_or(|(_, published)| published != note) {
            self.store.publish(head.size, &note).await.map_err(LogError::Store)?;
        }
        (self.edge, self.tail, self.signed) = (edge, tail, Some((head, note)));
        self.stale = false;
        Ok(())
    }

    async fn check_prefix(&self, old: &Checkpoint, head: &Checkpoint) -> Result<(), LogError> {
        if old.size > head.size {
            return Err(LogError::HeadRolledBack { published: old.size, head: head.size });
        }
        match self.store.prove_extends(old, head).await {
            Ok(_) => Ok(()),
            Err(StoreError::Unproven(_)) => Err(LogError::Forked),
            Err(other) => Err(LogError::Store(other)),
        }
    }

    /// Stages and commits one batch.
    ///
    /// # Errors
    /// As `stage` and `commit`.
    pub async fn append(&mut self, records: &[Record]) -> Result<Outcome, LogError> {
        let staged = self.stage(records).await?;
        self.commit(staged).await
    }

    /// Stores the objects of a batch. May be repeated: the same records write the same bytes.
    ///
    /// # Errors
    /// `Batch`, `Order` or `Record` if the records are refused; `Store`, of which `Conflict` means
    /// that a person must look; `Stale`.
    pub async fn stage(&self, records: &[Record]) -> Result<Staged, LogError> {
        if self.stale {
            return Err(LogError::Stale);
        }
        let (encoded, last_seq) = self.encode(records)?;
        let from_size = self.edge.size();
        let mut edge = self.edge.clone();
        let mut tail = self.tail.clone();
        let mut objects: Vec<(String, Vec<u8>)> = Vec::new();
        for (id, bytes) in record::bundles(from_size, &encoded) {
            objects.push((id.path(), bytes));
        }
        for (record, encoded) in records.iter().zip(&encoded) {
            let leaf = Leaf::of(record, encoded).to_bytes();
            edge.push(tree::leaf_hash(&leaf), |id, hashes| {
                objects.push((id.path(), tile::encode_tile(hashes)));
            });
            tail.push(leaf);
        }
        for id in tile::new_tiles(from_size, edge.size()) {
            if id.width < TILE_WIDTH {
                objects.push((id.path(), tile::encode_tile(edge.level(id.level))));
            }
            if id.level == 0 {
                let entries: Vec<_> = tail.iter().take(id.width.into()).collect();
                let bundle = tile::encode_entries(&entries).map_err(LogError::Entry)?;
                objects.push((id.entries_path(), bundle));
                if id.width == TILE_WIDTH {
                    tail.drain(..usize::from(TILE_WIDTH));
                }
            }
        }
        futures::stream::iter(objects)
            .map(|(path, bytes)| async move { self.store.create(&path, Bytes::from(bytes)).await })
            .buffer_unordered(WRITES_AT_ONCE)
            .try_collect::<()>()
            .await
            .map_err(LogError::Store)?;
        let root = edge.root();
        Ok(Staged { from_size, edge, tail, root, last_seq })
    }

    fn encode(&self, records: &[Record]) -> Result<(Vec<Vec<u8>>, u64), LogError> {
        let count = records.len();
        if count == 0 || count > BATCH_RECORDS_MAX {
            return Err(LogError::Batch { records: count, bytes: 0 });
        }
        let mut encoded = Vec::with_capacity(count);
        let mut bytes = 0;
        let mut previous = self.last_seq();
        for record in records {
            let seq = record.seq();
            if seq <= previous {
                return Err(LogError::Order { previous, seq });
            }
            previous = seq;
            let one = record.encode().map_err(|source| LogError::Record { seq, source })?;
            bytes += one.len();
            if bytes > BATCH_BYTES_MAX {
                return Err(LogError::Batch { records: count, bytes });
            }
            encoded.push(one);
        }
        Ok((encoded, previous))
    }

    /// Signs the staged tree, advances the head and publishes. After `Lost` or an error the log
    /// must be reloaded: an error says nothing about whether the head moved.
    ///
    /// # Errors
    /// `Stale`, `Checkpoint`, `Head` or `Store`.
    pub async fn commit(&mut self, staged: Staged) -> Result<Outcome, LogError> {
        if self.stale || staged.from_size != self.edge.size() {
            return Err(LogError::Stale);
        }
        self.stale = true;
        let origin = self.signer.verifier().name();
        let head = Checkpoint::new(origin, staged.size(), staged.root, staged.last_seq);
        let note = head.sign(&self.signer).map_err(LogError::Checkpoint)?;
        let step =
            Step { from_size: staged.from_size, to_size: head.size, root: &head.root, note: &note };
        if !self.head.advance(step).await.map_err(LogError::Head)? {
            return Ok(Outcome::Lost);
        }
        self.store.publish(head.size, &note).await.map_err(LogError::Store)?;
        (self.edge, self.tail) = (staged.edge, staged.tail);
        self.signed = Some((head.clone(), note));
        self.stale = false;
        Ok(Outcome::Published(head))
    }

    /// The receipt of leaf `index`, checked against the current checkpoint.
    ///
    /// # Errors
    /// `Store`; in it `Unproven` if the leaf is not in the log or what is stored was changed.
    pub async fn prove(&self, index: u64) -> Result<TlogProof, LogError> {
        let Some((head, note)) = self.checkpoint() else {
            let outside = TreeError::Outside { position: index, size: 0 };
            return Err(LogError::Store(StoreError::Unproven(outside)));
        };
        self.store.prove(index, head, note).await.map_err(LogError::Store)
    }
}

/// The partial tiles, whose root must be the signed one: that authenticates every hash in them.
async fn load_edge(store: &LogStore, head: &Checkpoint) -> Result<Edge, LogError> {
    let mut levels = Vec::new();
    for tile in Edge::tiles_at(head.size) {
        levels.push(match tile {
            Some(id) => store.tile(id).await.map_err(LogError::Store)?,
            None => Vec::new(),
        });
    }
    let edge = Edge::from_tiles(head.size, levels);
    let forged = || LogError::Edge { path: "tile".to_owned() };
    if edge.root() == head.root { Ok(edge) } else { Err(forged()) }
}

/// The leaves of the partial bundle, each of which must hash to its place in the checked edge.
async fn load_tail(store: &LogStore, edge: &Edge) -> Result<Vec<Vec<u8>>, LogError> {
    let hashes = edge.level(0);
    if hashes.is_empty() {
        return Ok(Vec::new());
    }
    let id = TileId::holding(0, edge.size() - 1, edge.size()).expect("the tree is not empty");
    let tail = store.entries(id).await.map_err(LogError::Store)?;
    let same = tail.iter().map(|leaf| tree::leaf_hash(leaf)).eq(hashes.iter().copied());
    let forged = || LogError::Edge { path: id.entries_path() };
    if same { Ok(tail) } else { Err(forged()) }
}

async fn check_last_seq(
    store: &LogStore,
    head: &Checkpoint,
    note: &str,
    tail: &[Vec<u8>],
) -> Result<(), LogError> {
    let last = head.size.checked_sub(1).ok_or(LogError::LastSeq)?;
    let leaf = match tail.last() {
        Some(leaf) => leaf.clone(),
        None => {
            let proof = store.prove(last, head, note).await.map_err(LogError::Store)?;
            proof.extra.unwrap_or_default()
        }
    };
    let leaf = Leaf::parse(&leaf).map_err(LogError::Leaf)?;
    if Some(leaf.seq) == head.last_seq() { Ok(()) } else { Err(LogError::LastSeq) }
}
