//! Accounts, permissions, streams and consumers of the broker, in code.
//!
//! Promises: every right of every login follows from the route table of `hotcell-schemas`
//! ([`permissions`]); a running server can be made ([`Admin::provision`]) and compared
//! ([`Admin::check`]) with it. Refuses: to push an account that the broker would not honour, to make
//! a login whose name the broker would expand, and to change or remove a stream.

pub mod accounts;
mod admin;
pub mod api;
mod api_keys;
pub mod binary;
mod check;
pub mod claims;
pub mod creds;
pub mod diff;
mod files;
mod forget;
mod init;
pub mod jwt;
pub mod keys;
mod login;
mod logins;
mod open_jobs;
pub mod permissions;
pub mod plan;
mod provision;
mod rekey;
mod resolver;
mod revocations;
mod revoke;
mod server_config;
pub mod streams;
mod tenants;
pub mod terms;
pub mod testing;
pub mod validate;

pub use admin::{Admin, AdminError, connect, connect_with};
pub use api_keys::ApiKey;
pub use binary::{BinaryError, find_nats_server};
pub use diff::Difference;
pub use hotcell_schemas::api_key::id_of as key_id_of;
pub use init::{InitError, InitOptions, Installation, RenderedAccount, comparable, init};
pub use login::{Login, LoginName, LoginNameError};
pub use logins::{FoundLogin, Renewals};
pub use permissions::{Permissions, allowed};
pub use plan::{Plan, PlanError};
pub use provision::{AddedTenant, TenantSpec};
pub use rekey::Rekeyed;
pub use revocations::RevokedLogin;
pub use server_config::{
    ACCOUNTS_MAX, BrokerTls, Durability, DurabilityError, PENDING_BYTES_MAX, PathError, Preload,
    ServerIdentity, ServerOptions, render as render_server_config,
};
pub use streams::Replicas;
pub use tenants::{PoolWork, RemovedTenant};
pub use terms::{Life, Terms};
