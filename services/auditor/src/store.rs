//! The log's objects in a bucket or a folder: bounded reads, create-only writes, checked proofs.
//!
//! Promises: an object other than `checkpoint` is written once; a proof that this file hands out
//! has been checked against the signed root it is for. Refuses: objects over their limit, and a
//! second write of other bytes to the same place.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::note::{NOTE_BYTES_MAX, VerifierKey};
use crate::proof::TlogProof;
use crate::tile::{self, TILE_BYTES_MAX, TILE_WIDTH, TileError, TileId, index_path};
use crate::tree::{self, Span, TreeError, TreeHash};

/// Path of the one mutable object.
pub const CHECKPOINT: &str = "checkpoint";

/// What went wrong with the log's objects.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer a read.
    #[error("{path} could not be read")]
    Read {
        /// Path in the log.
        path: String,
        /// Cause.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The store did not take a write; the object may be there all the same.
    #[error("{path} could not be written")]
    Write {
        /// Path in the log.
        path: String,
        /// Cause.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The object is larger than any of its kind.
    #[error("{path} has {found_bytes} bytes, over the limit")]
    TooLarge {
        /// Path in the log.
        path: String,
        /// Bytes found.
        found_bytes: u64,
    },
    /// The object is not there.
    #[error("{path} is missing")]
    Missing {
        /// Path in the log.
        path: String,
    },
    /// The object is there with other bytes: tampering, or a stream that was made anew. A person
    /// must look; nothing is repaired.
    #[error("{path} already exists with other bytes")]
    Conflict {
        /// Path in the log.
        path: String,
    },
    /// The object is not a tile or bundle of its width.
    #[error("{path} is damaged")]
    Tile {
        /// Path in the log.
        path: String,
        /// Cause.
        #[source]
        source: TileError,
    },
    /// The checkpoint was refused.
    #[error("the checkpoint was refused")]
    Checkpoint(#[source] CheckpointError),
    /// The stored tiles do not lead to the signed root.
    #[error("the stored tiles do not lead to the signed root")]
    Unproven(#[source] TreeError),
}

/// A log's objects under a prefix.
#[derive(Clone, Debug)]
pub struct LogStore {
    store: Arc<dyn ObjectStore>,
    prefix: String,
}

/// A folder as an object store that syncs every write to disk.
///
/// # Errors
/// `Read` if the folder does not exist.
pub fn folder(path: &FilePath) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let store = LocalFileSystem::new_with_prefix(path)
        .map_err(|source| StoreError::Read { path: String::new(), source: Box::new(source) })?;
    Ok(Arc::new(store.with_fsync(true)))
}

impl LogStore {
    /// The objects under `prefix` (may be empty) of a store.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { store, prefix: prefix.trim_matches('/').to_owned() }
    }

    fn at(&self, path: &str) -> Path {
        Path::from(format!("{}/{path}", self.prefix))
    }

    /// An object's bytes, `None` if it is not there.
    ///
    /// # Errors
    /// `Read`; `TooLarge` over `bytes_max`.
    pub async fn get(&self, path: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let read = |source| StoreError::Read { path: path.to_owned(), source: Box::new(source) };
        let found = match self.store.get(&self.at(path)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(read(source)),
        };
        if found.meta.size > bytes_max {
            let found_bytes = found.meta.size;
            return Err(StoreError::TooLarge { path: path.to_owned(), found_bytes });
        }
        found.bytes().await.map(Some).map_err(read)
    }

    /// An object's bytes.
    ///
    /// # Errors
    /// As `get`, and `Missing`.
    pub async fn need(&self, path: &str, bytes_max: u64) -> Result<Bytes, StoreError> {
        let found = self.get(path, bytes_max).await?;
        found.ok_or_else(|| StoreError::Missing { path: path.to_owned() })
    }

    /// Creates an object; one with the same bytes may be there already.
    ///
    /// # Errors
    /// `Write`; `Conflict` if other bytes are there.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&self.at(path), bytes.clone().into(), options).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                let found = self.need(path, bytes.len() as u64).await;
                let same = match found {
                    Ok(found) => found == bytes,
                    Err(StoreError::TooLarge { .. }) => false,
                    Err(other) => return Err(other),
                };
                let conflict = || StoreError::Conflict { path: path.to_owned() };
                if same { Ok(()) } else { Err(conflict()) }
            }
            Err(source) => {
                Err(StoreError::Write { path: path.to_owned(), source: Box::new(source) })
            }
        }
    }

    /// Keeps the checkpoint for ever under its size, then makes it the published one.
    ///
    /// # Errors
    /// `Write` or `Conflict`.
    pub async fn publish(&self, size: u64, note: &str) -> Result<(), StoreError> {
        let bytes = Bytes::copy_from_slice(note.as_bytes());
        self.create(&checkpoint_path(size), bytes.clone()).await?;
        let put = self.store.put(&self.at(CHECKPOINT), bytes.into()).await;
        put.map(drop).map_err(|source| StoreError::Write {
            path: CHECKPOINT.to_owned(),
            source: Box::new(source),
        })
    }

    /// Names of the objects directly in a folder, which holds at most about a thousand.
    ///
    /// # Errors
    /// `Read`.
    pub async fn names(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let listed = self.store.list_with_delimiter(Some(&self.at(path))).await;
        let listed = listed.map_err(|source| StoreError::Read {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let names = listed.objects.iter().filter_map(|object| object.location.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// The published checkpoint and its note, `None` if nothing was published.
    ///
    /// # Errors
    /// `Read`, `TooLarge`, `Checkpoint`.
    pub async fn checkpoint(
        &self,
        keys: &[VerifierKey],
    ) -> Result<Option<(Checkpoint, String)>, StoreError> {
        let Some(note) = self.get(CHECKPOINT, NOTE_BYTES_MAX as u64).await? else {
            return Ok(None);
        };
        let head = Checkpoint::open(&note, keys).map_err(StoreError::Checkpoint)?;
        let note = String::from_utf8(note.to_vec()).expect("a note that opened is UTF-8");
        Ok(Some((head, note)))
    }

    /// A tile's hashes, unchecked.
    ///
    /// # Errors
    /// As `need`, and `Tile`.
    pub async fn tile(&self, id: TileId) -> Result<Vec<TreeHash>, StoreError> {
        let path = id.path();
        let bytes = self.need(&path, TILE_BYTES_MAX).await?;
        let parsed = tile::parse_tile(&bytes, id.width);
        parsed.map_err(|source| StoreError::Tile { path, source })
    }

    /// The leaves of an entry bundle, unchecked.
    ///
    /// # Errors
    /// As `need`, and `Tile`.
    pub async fn entries(&self, id: TileId) -> Result<Vec<Vec<u8>>, StoreError> {
        let path = id.entries_path();
        let bytes = self.need(&path, tile::BUNDLE_BYTES_MAX).await?;
        let entries = tile::parse_entries(&bytes, id.width);
        let entries = entries.map_err(|source| StoreError::Tile { path, source })?;
        Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// The roots of `spans` in a tree of `size` leaves, from tiles. **Unchecked**: a forged tile
    /// gives forged hashes. Use `prove` or `prove_extends`.
    ///
    /// # Errors
    /// As `tile`, and `Unproven` if a span is outside the tree.
    pub async fn unchecked_hashes(
        &self,
        spans: &[Span],
        size: u64,
    ) -> Result<Vec<TreeHash>, StoreError> {
        let mut tiles = BTreeMap::new();
        for node in spans.iter().flat_map(|span| span.nodes()) {
            let Some((id, _)) = TileId::of_node(node, size) else { continue };
            if let std::collections::btree_map::Entry::Vacant(place) = tiles.entry(id) {
                place.insert(self.tile(id).await?);
            }
        }
        let source = |node| {
            let (id, range) = TileId::of_node(node, size)?;
            Some(tree::root_of(tiles.get(&id)?.get(range)?))
        };
        tree::span_hashes(spans, source).map_err(StoreError::Unproven)
    }

    /// The proof, checked, that leaf `index` is under this checkpoint; the proof carries the leaf.
    ///
    /// # Errors
    /// As `tile` and `entries`; `Unproven` if what is stored does not lead to the signed root.
    pub async fn prove(
        &self,
        index: u64,
        head: &Checkpoint,
        note: &str,
    ) -> Result<TlogProof, StoreError> {
        let outside = TreeError::Outside { position: index, size: head.size };
        let id = TileId::holding(0, index, head.size).ok_or(StoreError::Unproven(outside))?;
        let row = usize::try_from(index % u64::from(TILE_WIDTH)).expect("below 256");
        let leaf = self.entries(id).await?.into_iter().nth(row);
        let leaf = leaf.ok_or(StoreError::Unproven(outside))?;
        self.prove_leaf(index, leaf, head, note).await
    }

    /// As `prove`, for a leaf that was read before.
    ///
    /// # Errors
    /// As `prove`.
    pub async fn prove_leaf(
        &self,
        index: u64,
        leaf: Vec<u8>,
        head: &Checkpoint,
        note: &str,
    ) -> Result<TlogProof, StoreError> {
        let spans = tree::inclusion_spans(index, head.size).map_err(StoreError::Unproven)?;
        let hashes = self.unchecked_hashes(&spans, head.size).await?;
        tree::check_inclusion(index, head.size, &tree::leaf_hash(&leaf), &hashes, &head.root)
            .map_err(StoreError::Unproven)?;
        Ok(TlogProof { extra: Some(leaf), index, hashes, checkpoint: note.to_owned() })
    }

    /// The consistency proof, checked, that `new` extends `old`.
    ///
    /// # Errors
    /// As `tile`; `Unproven` if it does not.
    pub async fn prove_extends(
        &self,
        old: &Checkpoint,
        new: &Checkpoint,
    ) -> Result<Vec<TreeHash>, StoreError> {
        let spans = tree::consistency_spans(old.size, new.size).map_err(StoreError::Unproven)?;
        let hashes = self.unchecked_hashes(&spans, new.size).await?;
        tree::check_consistency((old.size, &old.root), (new.size, &new.root), &hashes)
            .map_err(StoreError::Unproven)?;
        Ok(hashes)
    }
}

/// `checkpoints/<size>`, the size in tile path form so that no folder grows without end.
#[must_use]
pub fn checkpoint_path(size: u64) -> String {
    format!("checkpoints/{}", index_path(size))
}
