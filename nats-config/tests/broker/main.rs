//! Against a real nats-server: an installation starts, is provisioned twice, is checked; tenants
//! come at run time; what the broker would not honour is refused before it is pushed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod destinations;
mod logins;
mod provisioning;
mod rekeyed;
mod revoked;
mod tenants;
mod world;
