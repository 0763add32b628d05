//! Tiles, entry bundles and their paths (C2SP tlog-tiles, tile height 8). Pure.
//!
//! Promises: the same leaves give the same paths and bytes, whatever the batches they came in.
//! Refuses: tiles and bundles of a length other than the width in their path.

use crate::tree::{self, Frontier, HASH_BYTES, Node, TreeHash};

/// Levels of the tree in one tile.
pub const TILE_HEIGHT: u32 = 8;
/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_WIDTH: u16 = 256;
/// Tile levels of a tree of 2^64 leaves.
const TILE_LEVELS_MAX: u8 = 8;
/// Bytes in the largest tile.
pub const TILE_BYTES_MAX: u64 = 256 * 32;
/// Bytes in the largest entry bundle: 256 entries, each with a u16 length before it.
pub const BUNDLE_BYTES_MAX: u64 = 256 * (65_535 + 2);

/// One tile at one width; as an entry bundle, `level` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// Tile level: its hashes are roots of `256^level` leaves.
    pub level: u8,
    /// Position in the level.
    pub index: u64,
    /// Hashes in it: 1 to 256.
    pub width: u16,
}

impl TileId {
    /// `tile/<L>/<N>[.p/<W>]`
    #[must_use]
    pub fn path(&self) -> String {
        format!("tile/{}/{}{}", self.level, index_path(self.index), self.suffix())
    }

    /// `tile/entries/<N>[.p/<W>]`
    #[must_use]
    pub fn entries_path(&self) -> String {
        format!("tile/entries/{}{}", index_path(self.index), self.suffix())
    }

    fn suffix(&self) -> String {
        if self.width == TILE_WIDTH { String::new() } else { format!(".p/{}", self.width) }
    }

    /// The tile of `level` that holds hash number `position` of that level, in a tree of `size`
    /// leaves; `None` if the level has no such hash.
    #[must_use]
    pub fn holding(level: u8, position: u64, size: u64) -> Option<Self> {
        let hashes = level_hashes(level, size);
        if position >= hashes {
            return None;
        }
        let index = position / u64::from(TILE_WIDTH);
        let width = (hashes - index * u64::from(TILE_WIDTH)).min(u64::from(TILE_WIDTH));
        Some(Self { level, index, width: u16::try_from(width).expect("at most 256") })
    }

    /// The tile that holds a subtree, and where its hashes lie in it.
    #[must_use]
    pub fn of_node(node: Node, size: u64) -> Option<(Self, std::ops::Range<usize>)> {
        let inner = u32::from(node.level) % TILE_HEIGHT;
        let level = u8::try_from(u32::from(node.level) / TILE_HEIGHT).ok()?;
        let first = node.index.checked_shl(inner)?;
        let tile = Self::holding(level, first, size)?;
        let offset = usize::try_from(first % u64::from(TILE_WIDTH)).ok()?;
        let range = offset..offset + (1usize << inner);
        (range.end <= usize::from(tile.width)).then_some((tile, range))
    }
}

/// Complete hashes that a level has in a tree of `size` leaves.
#[must_use]
pub fn level_hashes(level: u8, size: u64) -> u64 {
    size.checked_shr(u32::from(level) * TILE_HEIGHT).unwrap_or(0)
}

/// `1234067` becomes `x001/x234/067`.
#[must_use]
pub fn index_path(index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

/// The tiles that exist at `new` leaves and did not, or not at this width, at `old`.
#[must_use]
pub fn new_tiles(old: u64, new: u64) -> Vec<TileId> {
    let mut tiles = Vec::new();
    for level in 0..TILE_LEVELS_MAX {
        let (before, after) = (level_hashes(level, old), level_hashes(level, new));
        if before >= after {
            break;
        }
        let mut position = before - before % u64::from(TILE_WIDTH);
        while position < after {
            tiles.extend(TileId::holding(level, position, new));
            position += u64::from(TILE_WIDTH);
        }
    }
    tiles
}

/// Why stored bytes are not the tile or bundle that their path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// Not `width` hashes of 32 bytes.
    #[error("a tile of width {width} has {found_bytes} bytes")]
    TileLength {
        /// Width in the path.
        width: u16,
        /// Bytes found.
        found_bytes: usize,
    },
    /// Not `width` length-prefixed entries.
    #[error("an entry bundle of width {width} is cut or has bytes left over")]
    BundleLength {
        /// Width in the path.
        width: u16,
    },
    /// An entry longer than its u16 length can say.
    #[error("an entry of {found_bytes} bytes does not fit its 16-bit length")]
    EntryLength {
        /// Bytes found.
        found_bytes: usize,
    },
}

/// Hashes, one after another.
#[must_use]
pub fn encode_tile(hashes: &[TreeHash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// The hashes of a tile.
///
/// # Errors
/// `TileLength`.
pub fn parse_tile(bytes: &[u8], width: u16) -> Result<Vec<TreeHash>, TileError> {
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    if !rest.is_empty() || hashes.len() != usize::from(width) {
        return Err(TileError::TileLength { width, found_bytes: bytes.len() });
    }
    Ok(hashes.iter().map(|hash| TreeHash::new(*hash)).collect())
}

/// Entries, each after its big-endian u16 length.
///
/// # Errors
/// `EntryLength`.
pub fn encode_entries<E: AsRef<[u8]>>(entries: &[E]) -> Result<Vec<u8>, TileError> {
    let mut bytes = Vec::new();
    for entry in entries {
        let entry = entry.as_ref();
        let length = u16::try_from(entry.len())
            .map_err(|_| TileError::EntryLength { found_bytes: entry.len() })?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    Ok(bytes)
}

/// The entries of a bundle.
///
/// # Errors
/// `BundleLength`.
pub fn parse_entries(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, TileError> {
    match split_entries(bytes, width) {
        (entries, true) => Ok(entries),
        (_, false) => Err(TileError::BundleLength { width }),
    }
}

/// As many entries as can be told apart, and whether they are exactly the bundle.
#[must_use]
pub fn split_entries(bytes: &[u8], width: u16) -> (Vec<&[u8]>, bool) {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while entries.len() < usize::from(width) {
        let Some((length, tail)) = rest.split_first_chunk::<2>() else { break };
        let Some((entry, tail)) = tail.split_at_checked(u16::from_be_bytes(*length).into()) else {
            break;
        };
        entries.push(entry);
        rest = tail;
    }
    let whole = rest.is_empty() && entries.len() == usize::from(width);
    (entries, whole)
}

/// The partial tiles of a tree, one row of hashes per level: all that is needed to grow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<TreeHash>>,
}

impl Edge {
    /// The partial tiles that a tree of `size` leaves has, lowest level first.
    #[must_use]
    pub fn tiles_at(size: u64) -> Vec<Option<TileId>> {
        let levels = (0..TILE_LEVELS_MAX).take_while(|level| level_hashes(*level, size) > 0);
        levels
            .map(|level| {
                TileId::holding(level, level_hashes(level, size) - 1, size)
                    .filter(|tile| tile.width < TILE_WIDTH)
            })
            .collect()
    }

    /// The edge made of these partial tiles (as listed by `tiles_at`). Unchecked: compare `root`
    /// with a signed one.
    #[must_use]
    pub fn from_tiles(size: u64, levels: Vec<Vec<TreeHash>>) -> Self {
        Self { size, levels }
    }

    /// Leaves in the tree.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hashes in the partial tile of a level.
    #[must_use]
    pub fn level(&self, level: u8) -> &[TreeHash] {
        self.levels.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }

    /// Appends a leaf and passes every tile that it completes to `full`.
    pub fn push(&mut self, leaf: TreeHash, mut full: impl FnMut(TileId, &[TreeHash])) {
        let mut carry = Some(leaf);
        let mut level = 0u8;
        self.size += 1;
        while let Some(hash) = carry.take() {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::with_capacity(usize::from(TILE_WIDTH)));
            }
            let row = self.levels.get_mut(usize::from(level)).expect("pushed above");
            row.push(hash);
            if row.len() == usize::from(TILE_WIDTH) {
                let index = level_hashes(level, self.size) / u64::from(TILE_WIDTH) - 1;
                full(TileId { level, index, width: TILE_WIDTH }, row);
                carry = Some(tree::root_of(row));
                row.clear();
            }
            level += 1;
        }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        let mut peaks = Vec::new();
        for row in self.levels.iter().rev() {
            let mut frontier = Frontier::default();
            row.iter().for_each(|hash| frontier.push(*hash));
            peaks.extend_from_slice(frontier.peaks());
        }
        tree::fold_peaks(&peaks)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = |level, index, width| TileId { level, index, width };
        assert_eq!(index_path(1_234_067), "x001/x234/067");
        assert_eq!(index_path(0), "000");
        assert_eq!(index_path(1000), "x001/000");
        assert_eq!(tile(0, 5, 256).path(), "tile/0/005");
        assert_eq!(tile(2, 0, 1).path(), "tile/2/000.p/1");
        assert_eq!(tile(0, 273, 112).entries_path(), "tile/entries/273.p/112");
    }

    #[test]
    fn a_tree_of_70000_has_the_tiles_that_the_specification_counts() {
        let tiles = new_tiles(0, 70_000);
        let count = |level, full: bool| {
            tiles.iter().filter(|t| t.level == level && (t.width == 256) == full).count()
        };
        assert_eq!((count(0, true), count(0, false)), (273, 1));
        assert_eq!((count(1, true), count(1, false)), (1, 1));
        assert_eq!((count(2, true), count(2, false)), (0, 1));
        assert!(tiles.contains(&TileId { level: 0, index: 273, width: 112 }));
        assert!(tiles.contains(&TileId { level: 1, index: 1, width: 17 }));
    }

    #[test]
    fn growth_emits_each_tile_once_and_the_edge_keeps_the_root() {
        let mut edge = Edge::default();
        let mut frontier = Frontier::default();
        let mut emitted = Vec::new();
        for i in 0..66_000u32 {
            let hash = tree::leaf_hash(&i.to_be_bytes());
            edge.push(hash, |id, _| emitted.push(id));
            frontier.push(hash);
            if i % 997 == 0 || i < 600 {
                assert_eq!(edge.root(), frontier.root(), "at {i}");
            }
        }
        let mut expected = new_tiles(0, 66_000);
        expected.retain(|t| t.width == 256);
        emitted.sort();
        assert_eq!(emitted, expected);
        assert_eq!(edge.root(), frontier.root());
    }

    #[test]
    fn bundles_round_trip_and_cut_ones_are_refused() {
        let bytes = encode_entries(&[b"a".as_slice(), b"", b"ccc"]).unwrap();
        assert_eq!(bytes, b"\0\x01a\0\0\0\x03ccc");
        assert_eq!(parse_entries(&bytes, 3).unwrap(), [b"a".as_slice(), b"", b"ccc"]);
        for cut in 0..bytes.len() {
            assert!(parse_entries(&bytes[..cut], 3).is_err());
        }
        assert!(parse_entries(&bytes, 2).is_err());
        assert!(encode_entries(&[vec![0; 65_536]]).is_err());
        assert!(parse_tile(&[0; 63], 2).is_err());
    }
}
