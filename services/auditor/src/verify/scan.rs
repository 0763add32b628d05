//! One pass over a stored log, group of 256 rows by group, believing one of a row's copies.
//!
//! Promises: reads each object once per pass and keeps only one group in memory. Refuses: to decide
//! whether the pass believed the right copies; the signed root does, in `verify`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{FAULTS_MAX, Fault, GROUP, Gap, Report};
use crate::checkpoint::{Checkpoint, decimal};
use crate::leaf::Leaf;
use crate::log::BATCH_RECORDS_MAX;
use crate::note::{NOTE_BYTES_MAX, VerifierKey};
use crate::record::{self, BundleId, Record};
use crate::store::{LogStore, StoreError, checkpoint_path};
use crate::tile::{self, Edge, TILE_BYTES_MAX, TILE_WIDTH, TileId, index_path};
use crate::tree::{self, TreeHash};

/// Which of a row's copies to believe when they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Majority,
    Entries,
    Tiles,
}

/// What one bundle has for one leaf: the leaf that its record gives, if it is a record.
struct Derived {
    bundle: BundleId,
    /// The bundle is cut after here; later rows say nothing.
    whole: bool,
    leaf: Option<(Vec<u8>, Record)>,
}

/// One group of 256 rows, as found.
#[derive(Default)]
struct Group {
    id: TileId,
    entries: Vec<Option<Vec<u8>>>,
    tile: Option<Vec<TreeHash>>,
    records: BTreeMap<u64, Vec<Derived>>,
    covered: Vec<BundleId>,
    /// Bundles that end early or late, and the first leaf that cannot be told apart in them.
    cut: Vec<(BundleId, u64)>,
}

/// The state of a pass.
pub(super) struct Scan<'a> {
    pub(super) store: &'a LogStore,
    pub(super) keys: &'a [VerifierKey],
    pub(super) trust: Trust,
    pub(super) check: &'a mut dyn FnMut(&Record) -> Result<(), String>,
    pub(super) edge: Edge,
    pub(super) last_seq: u64,
    pub(super) report: Report,
}

impl Scan<'_> {
    /// Notes a fault, once.
    pub(super) fn fault(&mut self, fault: Fault) {
        if self.report.faults.len() < FAULTS_MAX && !self.report.faults.contains(&fault) {
            self.report.faults.push(fault);
        }
    }

    /// An object's bytes; one that is missing or too large is a fault and `None`.
    async fn object(&mut self, path: &str, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        match self.store.need(path, bytes_max).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::Missing { path }) => {
                self.fault(Fault::Missing { path });
                Ok(None)
            }
            Err(StoreError::TooLarge { path, .. }) => {
                self.fault(Fault::Object { path });
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Scans the whole log; the root believed is then `edge.root()`.
    pub(super) async fn run(&mut self) -> Result<(), StoreError> {
        let size = self.report.head.size;
        for index in 0..size.div_ceil(GROUP) {
            let id = TileId::holding(0, index * GROUP, size).expect("the group is in the tree");
            let group = self.read_group(id).await?;
            let believed = self.check_rows(&group);
            self.check_old_partials(id, &believed, true).await?;
            let kept = self.kept_checkpoints(self.edge.size(), believed.len()).await?;
            let mut full = Vec::new();
            let mut roots = BTreeMap::new();
            for hash in &believed {
                self.edge.push(*hash, |id, hashes| full.push((id, hashes.to_vec())));
                if kept.contains_key(&self.edge.size()) {
                    roots.insert(self.edge.size(), self.edge.root());
                }
            }
            for (id, hashes) in full.into_iter().filter(|(id, _)| id.level > 0) {
                self.check_tile(id, &hashes).await?;
            }
            self.check_checkpoints(&kept, &roots).await?;
        }
        for id in Edge::tiles_at(size).into_iter().flatten().filter(|id| id.level > 0) {
            let hashes = self.edge.level(id.level).to_vec();
            self.check_tile(id, &hashes).await?;
        }
        if self.report.head.last_seq() != Some(self.last_seq) {
            let index = size.saturating_sub(1);
            self.fault(Fault::Sequence { index, seq: self.last_seq });
        }
        Ok(())
    }

    async fn read_group(&mut self, id: TileId) -> Result<Group, StoreError> {
        let width = usize::from(id.width);
        let tile = match self.object(&id.path(), TILE_BYTES_MAX).await? {
            Some(bytes) => match tile::parse_tile(&bytes, id.width) {
                Ok(hashes) => Some(hashes),
                Err(_) => {
                    self.fault(Fault::Object { path: id.path() });
                    None
                }
            },
            None => None,
        };
        let mut entries = vec![None; width];
        if let Some(bytes) = self.object(&id.entries_path(), tile::BUNDLE_BYTES_MAX).await? {
            let (rows, whole) = tile::split_entries(&bytes, id.width);
            let (readable, mut named) = (rows.len(), whole);
            for (row, (place, entry)) in entries.iter_mut().zip(rows).enumerate() {
                *place = Some(entry.to_vec());
                let signed = tile.as_ref().and_then(|tile| tile.get(row));
                if !whole && signed.is_some_and(|hash| *hash != tree::leaf_hash(entry)) {
                    // A wrong length here shifts all that follows: name this row only.
                    named = true;
                    break;
                }
            }
            let path = id.entries_path();
            if !named && readable < width {
                let index = id.index * GROUP + readable as u64;
                self.fault(Fault::Leaf { index, path });
            } else if !named {
                self.fault(Fault::Object { path });
            }
        }
        let mut group = Group { id, entries, tile, ..Group::default() };
        self.read_records(&mut group).await?;
        Ok(group)
    }

    async fn read_records(&mut self, group: &mut Group) -> Result<(), StoreError> {
        let folder = record::group_path(group.id.index * GROUP);
        for name in self.store.names(&folder).await? {
            let bundle = BundleId::parse(&name).filter(|b| b.first / GROUP == group.id.index);
            let Some(bundle) = bundle else {
                self.fault(Fault::Object { path: format!("{folder}/{name}") });
                continue;
            };
            group.covered.push(bundle);
            let Some(bytes) = self.object(&bundle.path(), record::BUNDLE_BYTES_MAX).await? else {
                continue;
            };
            if !bytes.starts_with(record::BUNDLE_MAGIC) {
                self.fault(Fault::Object { path: bundle.path() });
                continue;
            }
            let (rows, whole) = record::split_bundle(&bytes, bundle.count());
            if !whole {
                group.cut.push((bundle, bundle.first + rows.len() as u64));
            }
            for (index, row) in (bundle.first..).zip(rows) {
                let parsed = Record::parse(row).ok();
                let leaf = parsed.map(|record| (Leaf::of(&record, row).to_bytes(), record));
                group.records.entry(index).or_default().push(Derived { bundle, whole, leaf });
            }
        }
        Ok(())
    }

    /// Decides every row of a group and returns the hashes believed.
    fn check_rows(&mut self, group: &Group) -> Vec<TreeHash> {
        let mut believed = Vec::with_capacity(group.entries.len());
        let mut cut: Vec<BundleId> = Vec::new();
        for (row, (index, entry)) in (group.id.index * GROUP..).zip(&group.entries).enumerate() {
            let derived = group.records.get(&index).map_or(&[][..], Vec::as_slice);
            let voter = derived.iter().find_map(|d| d.leaf.as_ref()).map(|(leaf, _)| leaf);
            let by_entry = entry.as_deref().map(tree::leaf_hash);
            let by_tile = group.tile.as_ref().and_then(|tile| tile.get(row)).copied();
            let by_record = voter.map(|leaf| tree::leaf_hash(leaf));
            let hash = match (by_entry, by_tile) {
                (Some(e), Some(t)) if e != t => {
                    let entry_is_right = match self.trust {
                        Trust::Majority => by_record == Some(e),
                        Trust::Entries => true,
                        Trust::Tiles => false,
                    };
                    if entry_is_right {
                        self.fault(Fault::Tile { path: group.id.path(), row });
                        e
                    } else {
                        self.fault(Fault::Leaf { index, path: group.id.entries_path() });
                        t
                    }
                }
                (e, t) => e.or(t).or(by_record).unwrap_or_else(tree::empty_root),
            };
            believed.push(hash);
            let leaf = entry.as_ref().filter(|_| by_entry == Some(hash));
            let leaf = leaf.or(voter.filter(|_| by_record == Some(hash)));
            if let Some(leaf) = leaf {
                self.check_leaf(index, leaf, &group.id);
            }
            self.check_records(index, leaf, derived, &mut cut);
            let held = |b: &BundleId| (b.first..=b.last).contains(&index);
            if !group.covered.iter().any(held) {
                self.fault(Fault::RecordMissing { index });
            }
        }
        for (bundle, index) in group.cut.iter().filter(|(bundle, _)| !cut.contains(bundle)) {
            let (index, path) = (*index, bundle.path());
            if index <= bundle.last {
                self.fault(Fault::Record { index, path });
            } else {
                self.fault(Fault::Object { path });
            }
        }
        believed
    }

    fn check_leaf(&mut self, index: u64, leaf: &[u8], id: &TileId) {
        let Ok(leaf) = Leaf::parse(leaf) else {
            return self.fault(Fault::Leaf { index, path: id.entries_path() });
        };
        let seq = leaf.seq;
        if seq <= self.last_seq {
            self.fault(Fault::Sequence { index, seq });
        } else if seq > self.last_seq + 1 && self.report.gaps.len() < FAULTS_MAX {
            let first_seq = self.last_seq + 1;
            self.report.gaps.push(Gap { index, first_seq, last_seq: seq - 1 });
        }
        self.last_seq = seq;
    }

    fn check_records(
        &mut self,
        index: u64,
        leaf: Option<&Vec<u8>>,
        derived: &[Derived],
        cut: &mut Vec<BundleId>,
    ) {
        for found in derived {
            if cut.contains(&found.bundle) {
                continue;
            }
            match (&found.leaf, leaf) {
                (Some((given, record)), Some(leaf)) if given == leaf => {
                    self.report.records += 1;
                    if let Err(reason) = (self.check)(record) {
                        self.fault(Fault::Signature { index, reason });
                    }
                }
                _ => {
                    self.fault(Fault::Record { index, path: found.bundle.path() });
                    if !found.whole {
                        cut.push(found.bundle);
                    }
                }
            }
        }
    }

    /// Compares a tile with the hashes it must have, and its older, narrower versions too.
    async fn check_tile(&mut self, id: TileId, hashes: &[TreeHash]) -> Result<(), StoreError> {
        if let Some(bytes) = self.object(&id.path(), TILE_BYTES_MAX).await? {
            self.compare_tile(id, &bytes, hashes);
        }
        self.check_old_partials(id, hashes, false).await
    }

    fn compare_tile(&mut self, id: TileId, bytes: &[u8], hashes: &[TreeHash]) {
        let path = id.path();
        let Ok(found) = tile::parse_tile(bytes, id.width) else {
            return self.fault(Fault::Object { path });
        };
        for (row, (found, hash)) in found.iter().zip(hashes).enumerate() {
            if found != hash {
                self.fault(Fault::Tile { path: path.clone(), row });
            }
        }
    }

    /// Partial tiles and bundles of other widths are never needed again, but they are part of what
    /// was written once; rows beyond the checkpoint are not.
    async fn check_old_partials(
        &mut self,
        id: TileId,
        hashes: &[TreeHash],
        entries: bool,
    ) -> Result<(), StoreError> {
        let place = index_path(id.index);
        let folder = format!("tile/{}/{place}.p", id.level);
        for width in self.widths(&folder, id.width).await? {
            let old = TileId { width, ..id };
            if let Some(bytes) = self.object(&old.path(), TILE_BYTES_MAX).await? {
                self.compare_tile(old, &bytes, hashes);
            }
        }
        if !entries {
            return Ok(());
        }
        let folder = format!("tile/entries/{place}.p");
        for width in self.widths(&folder, id.width).await? {
            let old = TileId { width, ..id };
            let path = old.entries_path();
            let Some(bytes) = self.object(&path, tile::BUNDLE_BYTES_MAX).await? else { continue };
            let (rows, whole) = tile::split_entries(&bytes, width);
            let wrong = |(row, hash): (&[u8], &TreeHash)| tree::leaf_hash(row) != *hash;
            match rows.into_iter().zip(hashes).position(wrong) {
                Some(row) => {
                    let index = id.index * GROUP + row as u64;
                    self.fault(Fault::Leaf { index, path });
                }
                None if !whole => self.fault(Fault::Object { path }),
                None => {}
            }
        }
        Ok(())
    }

    async fn widths(&mut self, folder: &str, except: u16) -> Result<Vec<u16>, StoreError> {
        let mut widths = Vec::new();
        for name in self.store.names(folder).await? {
            match decimal(&name).and_then(|width| u16::try_from(width).ok()) {
                Some(width) if width == except => {}
                Some(width) if (1..TILE_WIDTH).contains(&width) => widths.push(width),
                _ => self.fault(Fault::Object { path: format!("{folder}/{name}") }),
            }
        }
        Ok(widths)
    }

    /// The kept checkpoints of the next `count` sizes, by size; after the last leaf also those that
    /// the next batch would have made.
    async fn kept_checkpoints(
        &mut self,
        size: u64,
        count: usize,
    ) -> Result<BTreeMap<u64, String>, StoreError> {
        let mut last = size + count as u64;
        if last == self.report.head.size {
            last += BATCH_RECORDS_MAX as u64;
        }
        let mut kept = BTreeMap::new();
        for thousand in (size + 1) / 1000..=last / 1000 {
            let path = checkpoint_path(thousand * 1000);
            let folder = path.rsplit_once('/').map_or("checkpoints", |(folder, _)| folder);
            for name in self.store.names(folder).await? {
                let path = format!("{folder}/{name}");
                let digits = name.len() == 3 && name.bytes().all(|b| b.is_ascii_digit());
                match name.parse::<u64>().ok().filter(|_| digits) {
                    Some(rest) => kept.insert(thousand * 1000 + rest, path).map_or((), drop),
                    None => self.fault(Fault::Object { path }),
                }
            }
        }
        Ok(kept.into_iter().filter(|(at, _)| *at > size && *at <= last).collect())
    }

    async fn check_checkpoints(
        &mut self,
        kept: &BTreeMap<u64, String>,
        roots: &BTreeMap<u64, TreeHash>,
    ) -> Result<(), StoreError> {
        for (size, path) in kept {
            let Some(note) = self.object(path, NOTE_BYTES_MAX as u64).await? else { continue };
            let opened = Checkpoint::open(&note, self.keys).ok();
            match (opened.filter(|kept| kept.size == *size), roots.get(size)) {
                (Some(kept), Some(root)) if kept.root == *root => {}
                (Some(_), None) => self.fault(Fault::Newer { size: *size }),
                _ => self.fault(Fault::Checkpoint { path: path.clone() }),
            }
        }
        Ok(())
    }
}
