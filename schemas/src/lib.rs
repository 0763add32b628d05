//! The contracts of hotcell: ids, routes, the signed envelope, messages and limits.
//!
//! Promises: no I/O, no clock, no randomness; every value that can be built is valid; nothing is
//! parsed before its signature was verified. Refuses: unknown fields, unknown roles, unknown subjects.

pub mod api_key;
pub mod approval;
pub mod argv;
pub mod blob;
pub mod block;
pub mod decoders;
pub mod destination;
pub mod digest;
pub mod docs;
pub mod envelope;
pub mod event;
pub mod evidence;
mod flow;
pub mod hook;
pub mod identity;
pub mod ids;
pub mod job;
pub mod lease;
pub mod limits;
pub mod listing;
pub mod network;
pub mod plan;
pub mod poison;
pub mod policy;
pub mod preset;
pub mod records;
pub mod reject;
pub mod report;
pub mod request;
pub mod routes;
pub mod secret;
pub mod subject;
pub mod tenancy;
pub mod time;
pub mod trust;
pub mod usage;
pub mod verify;
pub mod work;

pub use blob::{BlobKey, FileName};
pub use digest::Digest;
pub use envelope::{Envelope, Message, Verified};
pub use event::EventKind;
pub use ids::{
    ApprovalId, BlockId, DeliveryId, DestinationName, EndpointId, JobId, KeyId, PoolId, PresetName,
    TenantId, UploadId, WorkerId,
};
pub use job::Job;
pub use plan::Plan;
pub use reject::RejectCode;
pub use report::Report;
pub use routes::{Role, Route};
pub use subject::Subject;
pub use time::UnixMs;
pub use trust::Trust;
