//! The head in the broker's key-value store: one key, moved by compare-and-set on its revision.
//!
//! Promises: of two auditors that extend the same tree, one moves it. Refuses: to say anything of a
//! value that it cannot read; the caller stops.

use std::io;

use hotcell_stage::Bus;
use hotcell_stage::kv::{Bucket, KvError};
use serde::{Deserialize, Serialize};

use crate::head::{Head, HeadError, Step};

/// The bucket, and the key in it.
const BUCKET: &str = "audit";
const KEY: &str = "head";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadRecord {
    v: u16,
    size: u64,
    note: String,
}

const VERSION: u16 = 1;

/// The head of the deployment's one log.
#[derive(Debug)]
pub struct KvHead(Bucket);

impl KvHead {
    /// The head as `bus` reaches it; its login must be an auditor's.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self(bus.bucket(BUCKET))
    }

    async fn read(&self) -> Result<Option<(HeadRecord, u64)>, HeadError> {
        let found = self.0.get::<HeadRecord>(KEY).await;
        let entry = found.map_err(|error| HeadError::Read(io::Error::other(error)))?;
        match entry {
            Some(entry) if entry.value.v != VERSION => {
                Err(HeadError::Read(io::ErrorKind::InvalidData.into()))
            }
            found => Ok(found.map(|entry| (entry.value, entry.revision))),
        }
    }
}

#[async_trait::async_trait]
impl Head for KvHead {
    async fn load(&self) -> Result<Option<String>, HeadError> {
        Ok(self.read().await?.map(|(record, _)| record.note))
    }

    async fn advance(&self, step: Step<'_>) -> Result<bool, HeadError> {
        let (size, revision) =
            self.read().await?.map_or((0, 0), |(record, revision)| (record.size, revision));
        if size != step.from_size {
            return Ok(false);
        }
        let record = HeadRecord { v: VERSION, size: step.to_size, note: step.note.to_owned() };
        match self.0.update(KEY, &record, revision).await {
            Ok(_) => Ok(true),
            Err(KvError::Conflict) => Ok(false),
            Err(error) => Err(HeadError::Advance(io::Error::other(error))),
        }
    }
}
