//! A worker from order to report, with a real broker (its own permissions in force), real cells
//! and a store on loopback. The signer is the test's own: it gives the orders that the test wants,
//! false ones too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod complex;
mod degraded;
mod elsewhere;
mod encode;
mod orders;
mod raw;
mod renewal;
mod site;
mod slots;
mod stop;
mod verify;
