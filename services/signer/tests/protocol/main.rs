//! The strict broker's protocol against a real nats-server and a real store: scripted workers and
//! services ask, the real signer answers, and the stream says what happened.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it looks for")]
#![allow(clippy::large_futures, reason = "a test's future holds its whole rig, once")]

mod attempts;
mod cap;
mod costs;
mod destinations;
mod fair;
mod job;
mod lease;
mod order;
mod permit;
mod poison;
mod pools;
mod reap;
mod returns;
mod rig;
mod sign;
mod transitions;
mod worker;
