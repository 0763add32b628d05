//! The vocabulary of the route table: roles, tokens, streams, carriers, and what a row is.

use crate::event::EventKind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A kind of process (or person) with its own broker login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The HTTP and NATS edge.
    Intake,
    /// Checks inputs, compiles plans.
    Validator,
    /// The strict broker: the only holder of the storage key.
    Signer,
    /// A worker; its login lives in account ENCODERS and opens only its own subjects.
    Encoder,
    /// Re-reads outputs.
    Hasher,
    /// Writes the evidence log.
    Auditor,
    /// Delivers to tenants' endpoints.
    Webhook,
    /// The operator's CLI: makes streams, consumers, tenants. Never a running service.
    Provisioner,
    /// A tenant's own program, in the tenant's own account.
    Tenant,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 9] = [
        Self::Intake,
        Self::Validator,
        Self::Signer,
        Self::Encoder,
        Self::Hasher,
        Self::Auditor,
        Self::Webhook,
        Self::Provisioner,
        Self::Tenant,
    ];

    /// The roles whose logins are users of account PIPELINE.
    pub const PIPELINE: [Self; 7] = [
        Self::Intake,
        Self::Validator,
        Self::Signer,
        Self::Hasher,
        Self::Auditor,
        Self::Webhook,
        Self::Provisioner,
    ];

    /// The wire name; also the credential file's stem and the inbox prefix.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Validator => "validator",
            Self::Signer => "signer",
            Self::Encoder => "encoder",
            Self::Hasher => "hasher",
            Self::Auditor => "auditor",
            Self::Webhook => "webhook",
            Self::Provisioner => "provisioner",
            Self::Tenant => "tenant",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One token of a subject pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A fixed word.
    Lit(&'static str),
    /// A tenant's slug, or [`crate::subject::PLATFORM`] in `audit` subjects.
    Tenant,
    /// A job id.
    Job,
    /// A pool's slug.
    Pool,
    /// A priority class other than `normal`, which no subject names.
    Class,
    /// A worker's slug.
    Worker,
    /// The public key of a tenant's broker account; inserted by the broker, never by a client.
    Account,
    /// An endpoint id.
    Endpoint,
    /// A delivery id.
    Delivery,
}

impl Token {
    /// The token in docs: `<tenant>`, or the word itself.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Lit(word) => word,
            Self::Tenant => "<tenant>",
            Self::Job => "<job>",
            Self::Pool => "<pool>",
            Self::Class => "<class>",
            Self::Worker => "<worker>",
            Self::Account => "<account>",
            Self::Endpoint => "<endpoint>",
            Self::Delivery => "<delivery>",
        }
    }
}

/// A JetStream stream in account PIPELINE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamId {
    /// Every job event and every audit record: the one ordered history. Append-only.
    Jobs,
    /// Webhook deliveries that are due; a work queue.
    Hooks,
}

impl StreamId {
    /// Both streams.
    pub const ALL: [Self; 2] = [Self::Jobs, Self::Hooks];

    /// The broker's name for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "JOBS",
            Self::Hooks => "HOOKS",
        }
    }

    /// The subjects it captures.
    #[must_use]
    pub const fn subjects(self) -> &'static [&'static str] {
        match self {
            Self::Jobs => &["job.>", "audit.>"],
            Self::Hooks => &["hook.>"],
        }
    }
}

/// How long a stream keeps a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// For ever: the history, which nobody may delete from or purge.
    History,
    /// Until it is acknowledged.
    WorkQueue,
}

impl StreamId {
    /// How long it keeps a message.
    #[must_use]
    pub const fn retention(self) -> Retention {
        match self {
            Self::Jobs => Retention::History,
            Self::Hooks => Retention::WorkQueue,
        }
    }
}

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Stored in a stream; the publisher waits for the broker's acknowledgement.
    Stream(StreamId),
    /// Request and reply within PIPELINE.
    Request,
    /// Request and reply imported from account ENCODERS.
    WorkerRequest,
    /// Request and reply imported from a tenant's account.
    TenantRequest,
    /// Exported to a tenant's account, not stored.
    TenantEvents,
}

/// One flow.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Stable name of the row.
    pub name: &'static str,
    /// The subject's tokens.
    pub tokens: &'static [Token],
    /// The message type carried (see [`crate::envelope::Message::TYPE`]).
    pub message: &'static str,
    /// Who may publish (or ask).
    pub publishers: &'static [Role],
    /// Who reads (or answers).
    pub consumers: &'static [Role],
    /// How it travels.
    pub carrier: Carrier,
    /// What it says, one line.
    pub about: &'static str,
}

impl Route {
    /// The subject filter: variables become `*`.
    #[must_use]
    pub fn filter(&self) -> String {
        let words = self.tokens.iter().map(|token| match token {
            Token::Lit(word) => word,
            Token::Tenant
            | Token::Job
            | Token::Pool
            | Token::Class
            | Token::Worker
            | Token::Account
            | Token::Endpoint
            | Token::Delivery => "*",
        });
        words.collect::<Vec<_>>().join(".")
    }

    /// The pattern for people: `job.<tenant>.<job>.submitted`.
    #[must_use]
    pub fn pattern(&self) -> String {
        self.tokens.iter().map(|token| token.label()).collect::<Vec<_>>().join(".")
    }

    /// Whether `subject` has this row's shape. Variables match any one token.
    #[must_use]
    pub fn matches(&self, subject: &str) -> bool {
        let mut words = subject.split('.');
        let all = self.tokens.iter().all(|token| match (token, words.next()) {
            (Token::Lit(expect), Some(word)) => *expect == word,
            (_, word) => word.is_some_and(|word| !word.is_empty()),
        });
        all && words.next().is_none()
    }

    /// How long a message of this row is kept; `None` for requests and tenants' events, which are
    /// not stored.
    #[must_use]
    pub const fn retention(&self) -> Option<Retention> {
        match self.carrier {
            Carrier::Stream(stream) => Some(stream.retention()),
            Carrier::Request
            | Carrier::WorkerRequest
            | Carrier::TenantRequest
            | Carrier::TenantEvents => None,
        }
    }

    /// The event of a job row; `None` for the other rows.
    #[must_use]
    pub fn event(&self) -> Option<EventKind> {
        match self.tokens {
            [Token::Lit("job"), Token::Tenant, Token::Job, Token::Lit(event), ..] => {
                event.parse().ok()
            }
            _ => None,
        }
    }
}

/// Where a consumer begins when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// With the first message of its stream: what it reads must be read.
    First,
    /// With the next message: what it reads is of use for a moment only.
    Now,
}

/// A durable consumer that exists from the start. Those of the signer, one for each pool, tenant
/// and priority class, are made when a tenant is added: see [`work_consumer`].
#[derive(Debug, Clone, Copy)]
pub struct ConsumerRow {
    /// The durable name, unique within its stream.
    pub durable: &'static str,
    /// Its stream.
    pub stream: StreamId,
    /// Names of the routes that it reads; empty means every message of the stream.
    pub routes: &'static [&'static str],
    /// Who pulls from it.
    pub role: Role,
    /// Where it begins.
    pub begins: Begins,
    /// Seconds without an ack after which the broker delivers again.
    pub ack_wait_secs: u32,
    /// Deliveries outstanding at most.
    pub max_ack_pending: u32,
}

/// A key-value bucket in account PIPELINE.
#[derive(Debug, Clone, Copy)]
pub struct BucketRow {
    /// The bucket's name; its stream is `KV_<name>`.
    pub name: &'static str,
    /// Who may write.
    pub writers: &'static [Role],
    /// Who may read.
    pub readers: &'static [Role],
    /// Seconds after which an entry is gone; 0 keeps it.
    pub max_age_secs: u64,
    /// What it holds, one line.
    pub about: &'static str,
}
