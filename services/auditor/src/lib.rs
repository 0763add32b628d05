//! The tamper-evident log: every message of the stream, in stream order, in one Merkle tree.
//!
//! Promises: the tree is RFC 6962, stored as C2SP tlog-tiles under a signed checkpoint; a leaf is a
//! pure function of the message, so every replica computes the same tiles; anyone with the verifier
//! key can check the whole of it offline (`verify`, or `tests/verify.py` with Python alone).
//! Refuses: to sign a tree that does not extend the last signed one, to overwrite anything but the
//! `checkpoint` object, and to believe a stored hash that was not recomputed to a signed root.
//!
//! Pure: `tree`, `tile`, `note`, `checkpoint`, `leaf`, `record`, `proof`, `order`, `row`.
//! Effects: `store`, `head`, `log`, `verify`, `evidence`, `kv_head`, `sequencer`, `export`.

pub mod checkpoint;
pub mod config;
pub mod evidence;
pub mod export;
pub mod head;
pub mod kv_head;
pub mod leaf;
pub mod log;
pub mod note;
pub mod order;
pub mod proof;
pub mod record;
pub mod row;
pub mod sequencer;
pub mod store;
pub mod tile;
pub mod tree;
pub mod verify;

pub use config::Config;
pub use sequencer::run;
