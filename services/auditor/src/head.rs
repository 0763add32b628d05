//! The head: the one fenced step. Whoever advances it has the right to publish.
//!
//! Promises: of two writers that extend the same tree, one advances. Refuses: to go back. It is
//! trusted against a split view; the object store is not. In production it is a key of the broker's
//! key-value store, advanced by compare-and-set on the revision.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::note::NOTE_BYTES_MAX;
use crate::tree::TreeHash;

/// Why the head could not be read or moved. A remote head's cause goes into `io::Error::other`.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// Reading failed.
    #[error("the log's head could not be read")]
    Read(#[source] io::Error),
    /// Moving failed; it may have moved all the same.
    #[error("the log's head could not be advanced")]
    Advance(#[source] io::Error),
}

/// One step of the head.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Leaves before; 0 for the first step.
    pub from_size: u64,
    /// Leaves after.
    pub to_size: u64,
    /// Root after.
    pub root: &'a TreeHash,
    /// The signed checkpoint after: what `load` returns from then on.
    pub note: &'a str,
}

/// The newest checkpoint that any writer was allowed to publish.
#[async_trait::async_trait]
pub trait Head: Send + Sync + std::fmt::Debug {
    /// The signed note of the last step, `None` before the first.
    async fn load(&self) -> Result<Option<String>, HeadError>;

    /// Makes `step.note` the head if the head's size is `step.from_size`, atomically and durably.
    /// `false` if it is another: someone else was first. On an error the caller must `load` again.
    async fn advance(&self, step: Step<'_>) -> Result<bool, HeadError>;
}

/// A head in memory, for tests and dry runs.
#[derive(Debug, Default)]
pub struct MemoryHead(Mutex<Option<(u64, String)>>);

#[async_trait::async_trait]
impl Head for MemoryHead {
    async fn load(&self) -> Result<Option<String>, HeadError> {
        let head = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(head.as_ref().map(|(_, note)| note.clone()))
    }

    async fn advance(&self, step: Step<'_>) -> Result<bool, HeadError> {
        let mut head = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if head.as_ref().map_or(0, |(size, _)| *size) != step.from_size {
            return Ok(false);
        }
        *head = Some((step.to_size, step.note.to_owned()));
        Ok(true)
    }
}

/// A head in a file, for exactly one writer on one machine: it holds a lock on `<path>.lock` for as
/// long as it lives, so a second writer fails to open it. Keep it outside the log's own folder.
#[derive(Debug)]
pub struct FileHead {
    path: PathBuf,
    advancing: tokio::sync::Mutex<()>,
    _lock: std::fs::File,
}

impl FileHead {
    /// Opens the head, which need not exist yet; its folder must.
    ///
    /// # Errors
    /// `Read` if the lock file cannot be made or another writer holds it.
    pub fn open(path: &Path) -> Result<Self, HeadError> {
        let lock = std::fs::File::create(with_suffix(path, ".lock")).map_err(HeadError::Read)?;
        lock.try_lock().map_err(|error| HeadError::Read(error.into()))?;
        Ok(Self { path: path.to_owned(), advancing: tokio::sync::Mutex::new(()), _lock: lock })
    }

    async fn read(&self) -> io::Result<Option<(u64, String)>> {
        let file = match tokio::fs::File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(NOTE_BYTES_MAX as u64 + 32).read_to_string(&mut text).await?;
        let parsed = text
            .split_once('\n')
            .and_then(|(size, note)| Some((crate::checkpoint::decimal(size)?, note.to_owned())));
        parsed.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    async fn write(&self, step: Step<'_>) -> io::Result<()> {
        let next = with_suffix(&self.path, ".next");
        let mut file = tokio::fs::File::create(&next).await?;
        file.write_all(format!("{}\n{}", step.to_size, step.note).as_bytes()).await?;
        file.sync_all().await?;
        tokio::fs::rename(&next, &self.path).await?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = tokio::fs::File::open(folder.unwrap_or(Path::new("."))).await?;
        folder.sync_all().await
    }
}

#[async_trait::async_trait]
impl Head for FileHead {
    async fn load(&self) -> Result<Option<String>, HeadError> {
        let head = self.read().await.map_err(HeadError::Read)?;
        Ok(head.map(|(_, note)| note))
    }

    async fn advance(&self, step: Step<'_>) -> Result<bool, HeadError> {
        let _one_at_a_time = self.advancing.lock().await;
        let head = self.read().await.map_err(HeadError::Read)?;
        if head.map_or(0, |(size, _)| size) != step.from_size {
            return Ok(false);
        }
        self.write(step).await.map_err(HeadError::Advance)?;
        Ok(true)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
