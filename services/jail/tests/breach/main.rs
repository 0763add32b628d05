//! The table of attacks against real cells: with all layers each attack is stopped; each works with the layers of its
//! row off; each layer of a row stops it alone; and with one layer off only those work whose row names no other.
//!
//! As root all of it is tried, in a network namespace of its own, where the metadata service's addresses are ours.
//! Without root, attacks whose layers only root can leave out are named and not shown to work.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "tests")]

mod network;
mod page;
mod range;
mod rows;
