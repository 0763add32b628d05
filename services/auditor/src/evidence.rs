//! Reads entries of a log as evidence, group of 256 by group.
//!
//! Promises: every leaf that is looked at was proven to be under the signed checkpoint, at its
//! index, before anything in it is believed; every record that is shown is the one that its leaf
//! commits to. Since groups are read by index, none can have been left out. Refuses: to show a part
//! of what was asked for when another part is missing or changed.

use std::collections::BTreeMap;

use hotcell_schemas::evidence::{EvidenceRow, Who};
use hotcell_schemas::{TenantId, Trust, UnixMs};

use crate::checkpoint::Checkpoint;
use crate::leaf::{Leaf, LeafError};
use crate::record::{self, BundleId, Record};
use crate::row::row;
use crate::store::{LogStore, StoreError};
use crate::tile::{TILE_WIDTH, TileId};
use crate::tree::{self, TreeHash};

/// Leaves of one group.
pub const GROUP: u64 = TILE_WIDTH as u64;
/// Tiles kept between groups: the right edge of the tree has one for each of at most eight levels,
/// and the groups below one tile share it.
const TILES_MAX: usize = 64;
/// Times of the stream come from the broker's leader; another leader's clock may be behind by this
/// much at most, in milliseconds, before we would look for a time in the wrong place.
const CLOCK_SLACK_MS: u64 = 3_600_000;

/// Why evidence is not shown.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The store failed, or the stored leaves do not lead to the signed root.
    #[error("the log could not be read or does not verify")]
    Store(#[source] StoreError),
    /// A leaf is proven and cannot be read.
    #[error("leaf {index} is not of this version")]
    Leaf {
        /// Its index.
        index: u64,
        /// Cause.
        #[source]
        source: LeafError,
    },
    /// No stored record is the one that the leaf commits to.
    #[error("the record of leaf {index} is missing or changed")]
    Record {
        /// Its index.
        index: u64,
    },
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of one tenant; all and the platform's own when absent.
    pub tenant: Option<TenantId>,
    /// From when on.
    pub from: Option<UnixMs>,
    /// Before when.
    pub to: Option<UnixMs>,
    /// Of one who acts.
    pub actor: Option<Who>,
}

impl Filter {
    fn wants(&self, leaf: &Leaf) -> bool {
        let tenant = self.tenant.as_ref().map(TenantId::as_str);
        (tenant.is_none() || tenant == leaf.tenant.as_deref())
            && self.from.is_none_or(|from| leaf.ts >= from.0)
            && self.to.is_none_or(|to| leaf.ts < to.0)
    }

    /// Whether no leaf after one of this time is wanted.
    fn is_past(&self, leaf: &Leaf) -> bool {
        self.to.is_some_and(|to| leaf.ts > to.plus_ms(CLOCK_SLACK_MS).0)
    }
}

/// What one group holds of what is wanted.
#[derive(Debug, Default)]
pub struct Found {
    /// Lines, in the order of their leaves.
    pub rows: Vec<EvidenceRow>,
    /// Whether nothing that is wanted follows.
    pub is_last: bool,
}

/// Reads one log under one signed checkpoint.
#[derive(Debug)]
pub struct Reader<'a> {
    store: &'a LogStore,
    trust: &'a Trust,
    head: &'a Checkpoint,
    tiles: BTreeMap<TileId, Vec<TreeHash>>,
}

impl<'a> Reader<'a> {
    /// A reader under `head`, a checkpoint that was opened with the log's own keys.
    #[must_use]
    pub fn new(store: &'a LogStore, trust: &'a Trust, head: &'a Checkpoint) -> Self {
        Self { store, trust, head, tiles: BTreeMap::new() }
    }

    /// Groups that the log has.
    #[must_use]
    pub fn groups(&self) -> u64 {
        self.head.size.div_ceil(GROUP)
    }

    /// The first group that can hold an entry of `from` or later.
    ///
    /// # Errors
    /// As [`Self::found`].
    pub async fn seek(&mut self, from: UnixMs) -> Result<u64, EvidenceError> {
        let early = from.0.saturating_sub(CLOCK_SLACK_MS);
        let (mut low, mut high) = (0, self.groups());
        // Groups below `low` begin too early; so does the one that it ends at, in part.
        while low < high {
            let middle = low + (high - low) / 2;
            let leaves = self.leaves(middle).await?;
            let begins = leaves.first().is_some_and(|(_, leaf)| leaf.ts < early);
            if begins { low = middle + 1 } else { high = middle }
        }
        Ok(low.saturating_sub(1))
    }

    /// What is wanted of a group, from leaf `first` on.
    ///
    /// # Errors
    /// [`EvidenceError`]: then nothing of the group is shown.
    pub async fn found(
        &mut self,
        group: u64,
        first: u64,
        filter: &Filter,
    ) -> Result<Found, EvidenceError> {
        let leaves = self.leaves(group).await?;
        let is_last = leaves.last().is_some_and(|(_, leaf)| filter.is_past(leaf));
        let indexed = (group * GROUP..).zip(leaves);
        let mut wanted: BTreeMap<u64, (TreeHash, Leaf)> =
            indexed.filter(|(index, (_, leaf))| *index >= first && filter.wants(leaf)).collect();
        let mut rows = BTreeMap::new();
        if !wanted.is_empty() {
            let folder = record::group_path(group * GROUP);
            let names = self.store.names(&folder).await.map_err(EvidenceError::Store)?;
            for bundle in names.iter().filter_map(|name| BundleId::parse(name)) {
                self.read(bundle, &mut wanted, &mut rows).await?;
            }
        }
        if let Some(index) = wanted.into_keys().next() {
            return Err(EvidenceError::Record { index });
        }
        let of_actor = |row: &EvidenceRow| filter.actor.as_ref().is_none_or(|who| who.is_in(row));
        Ok(Found { rows: rows.into_values().filter(of_actor).collect(), is_last })
    }

    /// Moves what a bundle holds from `wanted` to `rows`.
    async fn read(
        &self,
        bundle: BundleId,
        wanted: &mut BTreeMap<u64, (TreeHash, Leaf)>,
        rows: &mut BTreeMap<u64, EvidenceRow>,
    ) -> Result<(), EvidenceError> {
        if wanted.range(bundle.first..=bundle.last).next().is_none() {
            return Ok(());
        }
        let bytes = self.store.need(&bundle.path(), record::BUNDLE_BYTES_MAX).await;
        let bytes = bytes.map_err(EvidenceError::Store)?;
        let (encoded, _) = record::split_bundle(&bytes, bundle.count());
        for (index, encoded) in (bundle.first..).zip(encoded) {
            let fits = |(_, leaf): &(TreeHash, Leaf)| leaf.commits_to(encoded);
            if !wanted.get(&index).is_some_and(fits) {
                continue;
            }
            let Ok(record) = Record::parse(encoded) else { continue };
            if let Some((hash, leaf)) = wanted.remove(&index) {
                rows.insert(index, row(index, &hash, &leaf, &record, self.trust));
            }
        }
        Ok(())
    }

    /// The leaves of a group. The proof of its first leaf is computed with the hashes of all the
    /// others, so that one check against the signed root holds for each.
    async fn leaves(&mut self, group: u64) -> Result<Vec<(TreeHash, Leaf)>, EvidenceError> {
        let (first, size) = (group * GROUP, self.head.size);
        let spans = tree::inclusion_spans(first, size);
        let spans = spans.map_err(|e| EvidenceError::Store(StoreError::Unproven(e)))?;
        let own = TileId::holding(0, first, size).expect("a span was found, so the leaf is there");
        let entries = self.store.entries(own).await.map_err(EvidenceError::Store)?;
        let hashes: Vec<TreeHash> = entries.iter().map(|leaf| tree::leaf_hash(leaf)).collect();
        for node in spans.iter().flat_map(|span| span.nodes()) {
            match TileId::of_node(node, size) {
                Some((id, _)) if id != own && !self.tiles.contains_key(&id) => {
                    let tile = self.store.tile(id).await.map_err(EvidenceError::Store)?;
                    if self.tiles.len() >= TILES_MAX {
                        self.tiles.clear();
                    }
                    self.tiles.insert(id, tile);
                }
                _ => {}
            }
        }
        let source = |node| {
            let (id, range) = TileId::of_node(node, size)?;
            let tile = if id == own { &hashes } else { self.tiles.get(&id)? };
            Some(tree::root_of(tile.get(range)?))
        };
        let proven = tree::span_hashes(&spans, source).and_then(|proof| {
            let leaf = hashes.first().copied().unwrap_or_else(tree::empty_root);
            tree::check_inclusion(first, size, &leaf, &proof, &self.head.root)
        });
        proven.map_err(|error| EvidenceError::Store(StoreError::Unproven(error)))?;
        let parsed = (first..).zip(hashes).zip(&entries).map(|((index, hash), entry)| {
            let leaf = Leaf::parse(entry);
            leaf.map(|leaf| (hash, leaf)).map_err(|source| EvidenceError::Leaf { index, source })
        });
        parsed.collect()
    }
}
