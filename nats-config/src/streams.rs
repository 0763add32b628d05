//! Streams, buckets and consumers as the broker's own configuration, derived from the route
//! table. Pure. Every field that changes what is kept, for how long, or who may remove it is
//! written, so that a difference on a running server is seen.

use crate::api;
use hotcell_schemas::{
    PoolId, Subject, TenantId,
    limits::{LEASE_SECS, PAYLOAD_BYTES_MAX},
    routes::{
        BUCKETS, Begins, BucketRow, CONSUMERS, ConsumerRow, Retention, StreamId, route,
        work_consumer,
    },
    tenancy::Priority,
};
use serde::{Deserialize, Serialize};

/// Seconds between a lease's end and the redelivery of its work: the signer refuses the old
/// worker before the broker offers the job to the next one.
pub const LEASE_MARGIN_SECS: u32 = 10;

/// Pulls that wait at one consumer: as many processes of one service.
pub const WAITING_MAX: i64 = 512;

/// Seconds within which the broker drops a repeated message id.
pub const DUPLICATE_SECS: u64 = 120;

const NO_LIMIT: i64 = -1;
const NS: u64 = 1_000_000_000;

/// Copies of each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Replicas {
    /// One server.
    #[default]
    One,
    /// Three servers: any one may be lost.
    Three,
}

impl Replicas {
    const fn count(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Three => 3,
        }
    }
}

/// A stream, in the terms of the broker's `STREAM.CREATE`.
#[derive(Debug, Clone, Serialize)]
pub struct StreamSpec {
    /// Name.
    pub name: String,
    /// What it holds.
    pub description: String,
    /// What it captures.
    pub subjects: Vec<String>,
    /// `limits` keeps, `workqueue` removes what was acknowledged.
    pub retention: &'static str,
    /// Consumers.
    pub max_consumers: i64,
    /// Messages.
    pub max_msgs: i64,
    /// Messages of one subject.
    pub max_msgs_per_subject: i64,
    /// Bytes.
    pub max_bytes: i64,
    /// Nanoseconds; 0 keeps.
    pub max_age: u64,
    /// Bytes of one message.
    pub max_msg_size: i64,
    /// Always `file`.
    pub storage: &'static str,
    /// `none`: bodies are small and the disk is synced for each.
    pub compression: &'static str,
    /// What a full stream does.
    pub discard: &'static str,
    /// Copies.
    pub num_replicas: u8,
    /// Nanoseconds.
    pub duplicate_window: u64,
    /// Read-only for ever.
    pub sealed: bool,
    /// Whether single messages cannot be deleted.
    pub deny_delete: bool,
    /// Whether it cannot be purged.
    pub deny_purge: bool,
    /// Whether a message may replace the earlier ones of its subject.
    pub allow_rollup_hdrs: bool,
    /// Whether Direct Get works.
    pub allow_direct: bool,
    /// Whether a message may expire by its own header.
    pub allow_msg_ttl: bool,
}

/// A durable pull consumer, in the terms of the broker's `CONSUMER.CREATE`.
#[derive(Debug, Clone, Serialize)]
pub struct ConsumerSpec {
    /// Its stream.
    #[serde(skip)]
    pub stream: StreamId,
    /// Name.
    pub durable_name: String,
    /// The same; the broker wants both.
    pub name: String,
    /// `all`: from the stream's first message. `new`: from the next one.
    pub deliver_policy: &'static str,
    /// `explicit`.
    pub ack_policy: &'static str,
    /// Nanoseconds until redelivery.
    pub ack_wait: u64,
    /// -1: redelivery never ends; the service decides when it is enough.
    pub max_deliver: i64,
    /// What it reads; empty is everything.
    pub filter_subjects: Vec<String>,
    /// `instant`.
    pub replay_policy: &'static str,
    /// Pulls that wait.
    pub max_waiting: i64,
    /// Deliveries outstanding.
    pub max_ack_pending: i64,
    /// 0: as the stream.
    pub num_replicas: u8,
}

/// Every stream: JOBS, HOOKS and one for each bucket.
#[must_use]
pub fn streams(replicas: Replicas) -> Vec<StreamSpec> {
    let own = StreamId::ALL.into_iter().map(|id| stream(id, replicas));
    own.chain(BUCKETS.iter().map(|row| bucket(row, replicas))).collect()
}

/// The consumers that exist from the start.
#[must_use]
pub fn consumers() -> Vec<ConsumerSpec> {
    CONSUMERS.iter().map(fixed_consumer).collect()
}

/// The signer's consumers of one tenant's work in one pool, one for each priority class;
/// `concurrency` is the tenant's cap. The broker holds it in each class, the signer over all three.
#[must_use]
pub fn tenant_consumers(
    tenant: &TenantId,
    pool: &PoolId,
    concurrency: u32,
) -> [ConsumerSpec; Priority::ALL.len()] {
    Priority::ALL.map(|class| {
        consumer(
            StreamId::Jobs,
            work_consumer(pool, tenant, class),
            vec![Subject::work_filter(pool, tenant, class)],
            LEASE_SECS + LEASE_MARGIN_SECS,
            concurrency,
        )
    })
}

fn stream(id: StreamId, replicas: Replicas) -> StreamSpec {
    let description = match id {
        StreamId::Jobs => "every job event and every audit record, in one order",
        StreamId::Hooks => "webhook deliveries that are due",
    };
    let history = id.retention() == Retention::History;
    StreamSpec {
        name: id.as_str().to_owned(),
        description: description.to_owned(),
        subjects: id.subjects().iter().map(|subject| (*subject).to_owned()).collect(),
        retention: if history { "limits" } else { "workqueue" },
        discard: "old",
        deny_delete: history,
        deny_purge: history,
        allow_direct: history,
        ..unlimited(replicas)
    }
}

fn bucket(row: &BucketRow, replicas: Replicas) -> StreamSpec {
    let max_age = row.max_age_secs * NS;
    let window = DUPLICATE_SECS * NS;
    StreamSpec {
        name: api::bucket_stream(row.name),
        description: row.about.to_owned(),
        subjects: vec![api::bucket_keys(row.name)],
        max_msgs_per_subject: 1,
        max_age,
        duplicate_window: if max_age == 0 { window } else { window.min(max_age) },
        deny_delete: true,
        allow_rollup_hdrs: true,
        ..unlimited(replicas)
    }
}

/// A file stream without limits on its size: nothing of the history may be dropped to make room.
fn unlimited(replicas: Replicas) -> StreamSpec {
    StreamSpec {
        name: String::new(),
        description: String::new(),
        subjects: Vec::new(),
        retention: "limits",
        max_consumers: NO_LIMIT,
        max_msgs: NO_LIMIT,
        max_msgs_per_subject: NO_LIMIT,
        max_bytes: NO_LIMIT,
        max_age: 0,
        max_msg_size: i64::try_from(PAYLOAD_BYTES_MAX).expect("a payload is under 2^63 bytes"),
        storage: "file",
        compression: "none",
        discard: "new",
        num_replicas: replicas.count(),
        duplicate_window: DUPLICATE_SECS * NS,
        sealed: false,
        deny_delete: false,
        deny_purge: false,
        allow_rollup_hdrs: false,
        allow_direct: true,
        allow_msg_ttl: false,
    }
}

fn fixed_consumer(row: &ConsumerRow) -> ConsumerSpec {
    let filter = |name: &&str| route(name).expect("consumers name rows of the table").filter();
    let filters = row.routes.iter().map(filter).collect();
    let name = row.durable.to_owned();
    ConsumerSpec {
        deliver_policy: match row.begins {
            Begins::First => "all",
            Begins::Now => "new",
        },
        ..consumer(row.stream, name, filters, row.ack_wait_secs, row.max_ack_pending)
    }
}

fn consumer(
    stream: StreamId,
    name: String,
    filter_subjects: Vec<String>,
    ack_wait_secs: u32,
    max_ack_pending: u32,
) -> ConsumerSpec {
    ConsumerSpec {
        stream,
        durable_name: name.clone(),
        name,
        deliver_policy: "all",
        ack_policy: "explicit",
        ack_wait: u64::from(ack_wait_secs) * NS,
        max_deliver: NO_LIMIT,
        filter_subjects,
        replay_policy: "instant",
        max_waiting: WAITING_MAX,
        max_ack_pending: i64::from(max_ack_pending),
        num_replicas: 0,
    }
}
