//! The broker's own subjects: the one place where they are spelt. Permissions are granted for
//! these spellings and the admin calls them, so a right and its use cannot drift apart.
//!
//! Direct Get has a body form, too (`$JS.API.DIRECT.GET.<stream>`), which reads the whole stream
//! whatever the caller's rights. Nobody is granted it on JOBS or HOOKS; the readers of a bucket
//! have it on that bucket, which they may read as a whole anyway, to list its keys.

use hotcell_schemas::{TenantId, routes::StreamId};

/// Any one token.
pub const ANY: &str = "*";

/// Asks the broker to replace an account's JWT. The body is the JWT.
pub const CLAIMS_UPDATE: &str = "$SYS.REQ.CLAIMS.UPDATE";
/// Asks the broker to forget accounts. The body is a generic JWT that names them, signed by a key of
/// the operator's about itself.
pub const CLAIMS_DELETE: &str = "$SYS.REQ.CLAIMS.DELETE";
/// Lists the accounts that the resolver holds.
pub const CLAIMS_LIST: &str = "$SYS.REQ.CLAIMS.LIST";
/// Names the streams.
pub const STREAM_NAMES: &str = "$JS.API.STREAM.NAMES";

/// Reads an account's JWT back.
#[must_use]
pub fn claims_lookup(account: &str) -> String {
    format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP")
}

/// Reads an account's connections.
#[must_use]
pub fn account_connections(account: &str) -> String {
    format!("$SYS.REQ.ACCOUNT.{account}.CONNZ")
}

/// Makes a stream.
#[must_use]
pub fn stream_create(stream: &str) -> String {
    format!("$JS.API.STREAM.CREATE.{stream}")
}

/// Reads a stream's configuration and state.
#[must_use]
pub fn stream_info(stream: &str) -> String {
    format!("$JS.API.STREAM.INFO.{stream}")
}

/// Makes or changes a consumer.
#[must_use]
pub fn consumer_create(stream: &str, durable: &str) -> String {
    format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}")
}

/// Reads a consumer's configuration and state.
#[must_use]
pub fn consumer_info(stream: &str, durable: &str) -> String {
    format!("$JS.API.CONSUMER.INFO.{stream}.{durable}")
}

/// Removes a consumer.
#[must_use]
pub fn consumer_delete(stream: &str, durable: &str) -> String {
    format!("$JS.API.CONSUMER.DELETE.{stream}.{durable}")
}

/// Names a stream's consumers.
#[must_use]
pub fn consumer_names(stream: &str) -> String {
    format!("$JS.API.CONSUMER.NAMES.{stream}")
}

/// Pulls from a consumer.
#[must_use]
pub fn consumer_next(stream: &str, durable: &str) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}")
}

/// Every acknowledgement of a consumer's deliveries.
#[must_use]
pub fn acks(stream: &str, durable: &str) -> String {
    format!("$JS.ACK.{stream}.{durable}.>")
}

/// Direct Get, subject-appended: the last message of `subject`.
#[must_use]
pub fn direct_get(stream: &str, subject: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}.{subject}")
}

/// Direct Get in its body form: any message of the stream, so that a bucket can be listed. For
/// buckets only.
#[must_use]
pub fn direct_scan(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

/// The states and histories of all jobs, by Direct Get.
#[must_use]
pub fn job_states() -> String {
    direct_get(StreamId::Jobs.as_str(), "job.>")
}

/// The stream of a bucket.
#[must_use]
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Every key of a bucket.
#[must_use]
pub fn bucket_keys(bucket: &str) -> String {
    bucket_key(bucket, ">")
}

/// One key of a bucket.
#[must_use]
pub fn bucket_key(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Key of bucket `tenants` that maps a broker account to its tenant's slug.
#[must_use]
pub fn account_key(account: &str) -> String {
    format!("account.{account}")
}

/// The replies of the login called `name`.
#[must_use]
pub fn inbox(name: &str) -> String {
    format!("{}.>", inbox_prefix(name))
}

/// The prefix that the client of the login called `name` must use for its inboxes.
#[must_use]
pub fn inbox_prefix(name: &str) -> String {
    format!("_INBOX_{name}")
}

/// The tenant whose record a key of bucket `tenants` holds; `None` for `account.` keys.
#[must_use]
pub fn tenant_of_key(subject: &str) -> Option<TenantId> {
    subject.strip_prefix("$KV.tenants.")?.parse().ok()
}
