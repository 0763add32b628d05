//! The bodies of our NATS claims as types. Promises: every field that grants something is written,
//! zero or not, because the broker reads an absent limit in two ways (JetStream limits as off, the
//! others as nothing allowed) and other libraries fill in dangerous defaults.
//!
//! Field names are those of github.com/nats-io/jwt v2.

use crate::permissions::Permissions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The claims version of every JWT here.
pub const VERSION: u8 = 2;

/// An unlimited value.
pub const NO_LIMIT: i64 = -1;

/// The operator: the root of trust that the server's configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorBody {
    /// `operator`.
    #[serde(rename = "type")]
    pub kind: String,
    /// [`VERSION`].
    pub version: u8,
    /// Keys that may sign accounts.
    pub signing_keys: Vec<String>,
    /// The system account.
    pub system_account: String,
    /// Whether the identity keys themselves are barred from signing.
    pub strict_signing_key_usage: bool,
}

/// What an account may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Subscriptions of the account.
    pub subs: i64,
    /// Bytes in flight; the server does not enforce it.
    pub data: i64,
    /// Largest payload, in bytes.
    pub payload: i64,
    /// Imports.
    pub imports: i64,
    /// Exports.
    pub exports: i64,
    /// Whether exports may hold wildcards.
    pub wildcards: bool,
    /// Whether users without a key are refused.
    pub disallow_bearer: bool,
    /// Client connections.
    pub conn: i64,
    /// Leafnode connections.
    pub leaf: i64,
    /// JetStream memory, in bytes; 0 with `disk_storage` 0 is no JetStream.
    pub mem_storage: i64,
    /// JetStream file storage, in bytes.
    pub disk_storage: i64,
    /// Streams.
    pub streams: i64,
    /// Consumers.
    pub consumer: i64,
    /// Largest `max_ack_pending` of a consumer; 0 is the server's own bound.
    pub max_ack_pending: i64,
    /// Largest memory stream, in bytes; 0 is no further bound.
    pub mem_max_stream_bytes: i64,
    /// Largest file stream, in bytes; 0 is no further bound.
    pub disk_max_stream_bytes: i64,
    /// Whether a stream must name its size.
    pub max_bytes_required: bool,
}

/// Service or stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowType {
    /// Requests that are answered.
    Service,
    /// Messages one way.
    Stream,
}

/// A subject that other accounts may import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Name of the route.
    pub name: String,
    /// Its filter.
    pub subject: String,
    /// Service or stream.
    #[serde(rename = "type")]
    pub kind: FlowType,
    /// Whether an importer needs an activation token.
    pub token_req: bool,
    /// Which token (from 1) must be the importer's own public key; 0 is none.
    pub account_token_position: u32,
    /// `Singleton` for services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_type: Option<String>,
    /// Nanoseconds until the server forgets an unanswered request; services only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_threshold: Option<u64>,
}

/// A subject of another account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// Name of the route.
    pub name: String,
    /// Public key of the exporter.
    pub account: String,
    /// The subject there.
    pub subject: String,
    /// The subject here, when another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_subject: Option<String>,
    /// Service or stream.
    #[serde(rename = "type")]
    pub kind: FlowType,
    /// The activation JWT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Whether the server tells the exporter who asks; services only.
    pub share: bool,
}

/// A key that signs users of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SigningKey {
    /// One whose users hold exactly the template's rights.
    Scoped(Box<Scope>),
    /// One whose users hold whatever it writes into them. Here it only signs activations.
    Plain(String),
}

impl SigningKey {
    /// Its public half.
    #[must_use]
    pub fn public(&self) -> &str {
        match self {
            Self::Scoped(scope) => &scope.key,
            Self::Plain(key) => key,
        }
    }
}

/// A scoped signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// `user_scope`.
    pub kind: String,
    /// Its public key.
    pub key: String,
    /// The role, for people.
    pub role: String,
    /// The rights of its users.
    pub template: Template,
}

/// The rights and limits of a scoped key's users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Subjects.
    #[serde(flatten)]
    pub permissions: Permissions,
    /// Subscriptions of one connection.
    pub subs: i64,
    /// Not enforced by the server.
    pub data: i64,
    /// Largest payload, in bytes.
    pub payload: i64,
    /// Whether a user may connect without its key.
    pub bearer_token: bool,
    /// `STANDARD`: no websocket, MQTT or leafnode.
    pub allowed_connection_types: Vec<String>,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountBody {
    /// `account`.
    #[serde(rename = "type")]
    pub kind: String,
    /// [`VERSION`].
    pub version: u8,
    /// Subjects of other accounts.
    pub imports: Vec<Import>,
    /// Subjects for other accounts.
    pub exports: Vec<Export>,
    /// What it may use.
    pub limits: Limits,
    /// Who signs its users.
    pub signing_keys: Vec<SigningKey>,
    /// Rights of users that state none: nothing.
    pub default_permissions: Permissions,
    /// Users refused although signed: public key to Unix seconds.
    pub revocations: BTreeMap<String, u64>,
}

/// Leave to import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationBody {
    /// `activation`.
    #[serde(rename = "type")]
    pub kind: String,
    /// [`VERSION`].
    pub version: u8,
    /// The exported subject.
    pub subject: String,
    /// Service or stream; the field is called `kind` on the wire.
    #[serde(rename = "kind")]
    pub flow: FlowType,
    /// The exporter's public key, because a signing key signs.
    pub issuer_account: String,
}

/// Accounts to forget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovalBody {
    /// `generic`.
    #[serde(rename = "type")]
    pub kind: String,
    /// [`VERSION`].
    pub version: u8,
    /// Their public keys.
    pub accounts: Vec<String>,
}

/// A user of a scoped key. It must state no right and no limit, or the server refuses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserBody {
    /// `user`.
    #[serde(rename = "type")]
    pub kind: String,
    /// [`VERSION`].
    pub version: u8,
    /// Its account.
    pub issuer_account: String,
    /// `pool:<pool>` for each pool of a worker, `role:<role>` for each role of a tenant's program.
    pub tags: Vec<String>,
}
