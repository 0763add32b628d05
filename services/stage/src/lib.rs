//! What every service shares: the one consume loop, the one writer, requests, records, the blob
//! client, configuration, telemetry, retry and shutdown.
//!
//! Promises: a stage never acks, publishes or spawns; it returns what should be published, and
//! [`run`] publishes, waits for the broker's acknowledgement, then acks. Refuses: a message that
//! does not verify (it goes to the audit log, never to a handler).

pub mod blob;
pub mod bus;
pub mod clock;
pub mod config;
pub mod feed;
pub mod kv;
pub mod pages;
mod poison;
pub mod publish;
pub mod read;
pub mod request;
pub mod retry;
pub mod run;
pub mod service;
pub mod telemetry;
pub mod tls;
pub mod vault;

pub use bus::{Bus, BusError};
pub use config::{NatsConfig, TelemetryConfig};
pub use publish::{Expect, Outgoing, PublishError};
pub use request::{AskError, Incoming};
pub use run::{Delivered, Halt, Stage};
pub use service::{ServiceError, Shutdown};
