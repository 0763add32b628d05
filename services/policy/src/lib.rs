//! Who may do what: Cedar policies over the compiled job, the same at every node.
//!
//! Promises: no decision without the principal, the resource and both tenants; an evaluation error
//! is a denial; each decision names the policies that made it and the digest of the set. Refuses: a
//! policy that the schema does not validate strictly, and a set of more than [`POLICIES_MAX`].

pub mod block;
pub mod destination;
pub mod engine;
mod facts;
pub mod put;
pub mod question;
pub mod recheck;
mod request;
mod scan;
pub mod set;
pub mod store;
mod words;

pub use block::{Blocks, Keys, Lineage, lineage};
pub use destination::Destinations;
pub use engine::{Engine, Rule};
pub use facts::BITRATE_MOST;
pub use hotcell_schemas::destination::STORE;
pub use put::{Put, PutError, check};
pub use question::{Decision, Facts, OutputFacts, Question, StepUp, Verdict, Who};
pub use set::{Fault, Faults, Origin, SCHEMA_TEXT};
pub use store::{PolicyError, PolicyStore};

/// Policies of one tenant beside the platform's: evaluation is linear in their number.
pub const POLICIES_MAX: usize = 100;
