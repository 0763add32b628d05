//! Records in key-value buckets: MessagePack values, compare-and-set writes. A thin layer over
//! Direct Get and publish, because the broker client's own would ask for stream-info rights.

use crate::{bus::Bus, read::unix_ms};
use async_nats::{
    HeaderMap,
    jetstream::{
        context::{PublishError as JsError, PublishErrorKind},
        stream::{DirectGetError, DirectGetErrorKind},
    },
};
use hotcell_schemas::{UnixMs, routes::BucketRow};
use serde::{Serialize, de::DeserializeOwned};

/// Entries that one scan returns at most: tenants and endpoints are far fewer.
const SCAN_MAX: usize = 100_000;

/// Why a record was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The entry is not at the expected revision: another process wrote it.
    #[error("the record was changed by another process")]
    Conflict,
    /// The broker did not answer the read.
    #[error("the broker did not answer a record's read")]
    Unread(#[source] DirectGetError),
    /// The broker did not acknowledge the write.
    #[error("the broker did not acknowledge a record's write")]
    Unwritten(#[source] JsError),
    /// The stored bytes are not the record's type.
    #[error("a stored record is not of its declared shape")]
    Malformed(#[source] rmp_serde::decode::Error),
    /// The record does not encode.
    #[error("a record does not encode")]
    Encode(#[source] rmp_serde::encode::Error),
}

/// A record with the revision that a change must name.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// The key, without the bucket.
    pub key: String,
    /// The record.
    pub value: T,
    /// Its revision.
    pub revision: u64,
    /// When the broker stored it, by its own clock.
    pub stored_at: UnixMs,
}

/// One bucket, as one service uses it.
#[derive(Debug, Clone)]
pub struct Bucket {
    bus: Bus,
    row: &'static BucketRow,
}

impl Bus {
    /// The bucket of a row of the table.
    ///
    /// # Panics
    /// When the table has no such bucket: a constant name that a test covers.
    #[must_use]
    pub fn bucket(&self, name: &'static str) -> Bucket {
        let row = hotcell_schemas::routes::bucket(name).expect("the table has this bucket");
        Bucket { bus: self.clone(), row }
    }
}

impl Bucket {
    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.row.name)
    }

    async fn stream(&self) -> async_nats::jetstream::stream::Stream<()> {
        self.bus
            .jetstream
            .get_stream_no_info(format!("KV_{}", self.row.name))
            .await
            .expect("bucket names are valid stream names")
    }

    /// The record at `key`; `None` when there is none or it was deleted.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Entry<T>>, KvError> {
        Ok(self.look(key).await?.0)
    }

    /// The record at `key`, and the revision that a write must name whether there is one or not: a
    /// removed record leaves a mark, which has a revision of its own.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn look<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<(Option<Entry<T>>, u64), KvError> {
        match self.stream().await.direct_get_last_for_subject(self.subject(key)).await {
            Ok(message) => Ok((entry(key, &message)?, message.sequence)),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok((None, 0)),
            Err(error) => Err(KvError::Unread(error)),
        }
    }

    /// The record that was written last of those whose key is `prefix` and one more token; `prefix`
    /// ends with a dot.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn newest<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Option<Entry<T>>, KvError> {
        let (skip, filter) = (self.subject("").len(), self.subject(&format!("{prefix}*")));
        match self.stream().await.direct_get_last_for_subject(filter).await {
            Ok(message) => entry(message.subject.get(skip..).unwrap_or_default(), &message),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(KvError::Unread(error)),
        }
    }

    /// Every record whose key begins with `prefix`: whole tokens, ending with a dot, or empty for
    /// the whole bucket. Ascending by last change.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn scan<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<Entry<T>>, KvError> {
        let (stream, filter) = (self.stream().await, self.subject(&format!("{prefix}>")));
        let skip = self.subject("").len();
        let (mut found, mut next) = (Vec::new(), 1);
        while found.len() < SCAN_MAX {
            let message = match stream.direct_get_next_for_subject(&filter, Some(next)).await {
                Ok(message) => message,
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => break,
                Err(error) => return Err(KvError::Unread(error)),
            };
            next = message.sequence + 1;
            let key = message.subject.get(skip..).unwrap_or_default().to_owned();
            found.extend(entry(&key, &message)?);
        }
        Ok(found)
    }

    /// Writes a record that must not exist yet.
    ///
    /// # Errors
    /// `Conflict` when it exists; `Unwritten`, `Encode`.
    pub async fn create<T: Serialize>(&self, key: &str, value: &T) -> Result<u64, KvError> {
        self.update(key, value, 0).await
    }

    /// Writes a record over revision `revision`; 0 creates.
    ///
    /// # Errors
    /// `Conflict`; `Unwritten`, `Encode`.
    pub async fn update<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        revision: u64,
    ) -> Result<u64, KvError> {
        let payload = rmp_serde::to_vec_named(value).map_err(KvError::Encode)?;
        self.write(key, payload, HeaderMap::new(), revision).await
    }

    /// Removes the record at `key` if it is still at `revision`; the bucket keeps a mark that it is
    /// gone.
    ///
    /// # Errors
    /// `Conflict`; `Unwritten`.
    pub async fn remove(&self, key: &str, revision: u64) -> Result<u64, KvError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        self.write(key, Vec::new(), headers, revision).await
    }

    async fn write(
        &self,
        key: &str,
        payload: Vec<u8>,
        mut headers: HeaderMap,
        revision: u64,
    ) -> Result<u64, KvError> {
        headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string().as_str());
        let sent =
            self.bus.jetstream.publish_with_headers(self.subject(key), headers, payload.into());
        let acked = async { sent.await?.await };
        match acked.await {
            Ok(ack) => Ok(ack.sequence),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(KvError::Conflict)
            }
            Err(error) => Err(KvError::Unwritten(error)),
        }
    }
}

fn entry<T: DeserializeOwned>(
    key: &str,
    message: &async_nats::jetstream::message::StreamMessage,
) -> Result<Option<Entry<T>>, KvError> {
    if message.headers.get("KV-Operation").is_some() || message.payload.is_empty() {
        return Ok(None);
    }
    let value = rmp_serde::from_slice(&message.payload).map_err(KvError::Malformed)?;
    let stored_at = unix_ms(message.time.unix_timestamp_nanos());
    Ok(Some(Entry { key: key.to_owned(), value, revision: message.sequence, stored_at }))
}
