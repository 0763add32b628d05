//! The directory: `lock`, `tmp/<n>`, `quarantine/<name>`, `buckets/<bucket>/<2 hex>/<sha256 of key>`.
//!
//! Promises: an object is visible whole or not at all; a create-only write wins once, however many
//! try at a time; after a crash the next start finds only whole objects. Refuses a directory that
//! another process uses.
//!
//! Everything here blocks; `backend.rs` calls it on tokio's blocking threads.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{FlockOperation, flock, syncfs};
use thiserror::Error;

use crate::config::{BUCKETS_MAX, Durability};
use crate::index::{BadToken, Entry, Index, Page, Query};
use crate::meta::{Meta, TAIL_BYTES, check_bucket, file_name};

/// Commits of one key exclude each other; 64 locks keep different keys apart often enough.
const LOCKS: usize = 64;
/// Directories of one bucket: a million objects make 4000 files each.
const FAN_OUT: u32 = 256;

/// What can go wrong on disk. Names no tenant's key.
#[derive(Debug, Error)]
pub enum DiskError {
    /// Another process holds the directory.
    #[error("the data directory is in use by another process")]
    InUse,
    /// A file system call failed.
    #[error("cannot {what} in the data directory")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file of an object has no valid end.
    #[error("the file {0} of an object is damaged")]
    Damaged(String),
    /// No more buckets are allowed.
    #[error("there are already as many buckets as allowed")]
    TooManyBuckets,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError::Io { what, source }
}

/// What must be true of the key for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Precondition {
    None,
    /// `If-None-Match: *`.
    Absent,
    /// `If-Match` with this entity tag, or any.
    Present(Option<String>),
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    Yes,
    /// The precondition does not hold; nothing has changed.
    No,
}

#[derive(Debug)]
pub(crate) struct Bucket {
    dir: PathBuf,
    index: RwLock<Index>,
}

#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    durability: Durability,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    locks: [Mutex<()>; LOCKS],
    temp_count: AtomicU64,
    unsynced: AtomicBool,
    /// Held, by `flock`, as long as this value lives.
    lock_file: File,
}

/// A file that nobody sees yet; removed when dropped.
#[derive(Debug)]
pub(crate) struct TempFile {
    pub(crate) file: File,
    path: PathBuf,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // After a rename it is gone; what stays for another reason goes at the next start.
        drop(fs::remove_file(&self.path));
    }
}

impl Disk {
    /// Opens or creates the directory, removes what a crash left, and reads all metadata.
    pub(crate) fn open(root: &Path, durability: Durability) -> Result<Self, DiskError> {
        for dir in ["tmp", "quarantine", "buckets"] {
            fs::create_dir_all(root.join(dir)).map_err(failed("create directories"))?;
        }
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let lock_file = options.open(root.join("lock")).map_err(failed("open the lock"))?;
        flock(&lock_file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| DiskError::InUse)?;
        for entry in fs::read_dir(root.join("tmp")).map_err(failed("list temporary files"))? {
            let path = entry.map_err(failed("list temporary files"))?.path();
            fs::remove_file(path).map_err(failed("remove a temporary file"))?;
        }
        let disk = Self {
            root: root.to_owned(),
            durability,
            buckets: RwLock::default(),
            locks: std::array::from_fn(|_| Mutex::new(())),
            temp_count: AtomicU64::new(0),
            unsynced: AtomicBool::new(false),
            lock_file,
        };
        for entry in fs::read_dir(root.join("buckets")).map_err(failed("list buckets"))? {
            let entry = entry.map_err(failed("list buckets"))?;
            if let Some(name) = entry.file_name().to_str().filter(|n| check_bucket(n).is_ok()) {
                disk.create_bucket(name)?;
            }
        }
        Ok(disk)
    }

    /// Creates the bucket, or completes and reads one that is there. False when it was known.
    pub(crate) fn create_bucket(&self, name: &str) -> Result<bool, DiskError> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if buckets.contains_key(name) {
            return Ok(false);
        }
        if buckets.len() >= BUCKETS_MAX {
            return Err(DiskError::TooManyBuckets);
        }
        let dir = self.root.join("buckets").join(name);
        let mut index = Index::default();
        for number in 0..FAN_OUT {
            let part = dir.join(format!("{number:02x}"));
            fs::create_dir_all(&part).map_err(failed("create a bucket"))?;
            self.read_part(&part, &mut index)?;
        }
        for path in [dir.clone(), self.root.join("buckets")] {
            sync_dir(&path)?;
        }
        buckets.insert(name.to_owned(), Arc::new(Bucket { dir, index: RwLock::new(index) }));
        Ok(true)
    }

    fn read_part(&self, part: &Path, index: &mut Index) -> Result<(), DiskError> {
        for entry in fs::read_dir(part).map_err(failed("list objects"))? {
            let entry = entry.map_err(failed("list objects"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let file = File::open(entry.path()).map_err(failed("open an object"))?;
            match read_meta(&file, &name) {
                Ok(meta) => index.insert(meta.key.clone(), entry_of(&meta)),
                Err(DiskError::Damaged(_)) => {
                    // With `1s` a power cut may leave a name without its bytes.
                    tracing::warn!(file = %name, "damaged object moved to quarantine");
                    let to = self.root.join("quarantine").join(&name);
                    fs::rename(entry.path(), to).map_err(failed("quarantine an object"))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) fn bucket(&self, name: &str) -> Option<Arc<Bucket>> {
        self.buckets.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// A new temporary file.
    pub(crate) fn temp(&self) -> Result<TempFile, DiskError> {
        let number = self.temp_count.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(number.to_string());
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(failed("create a temporary file"))?;
        Ok(TempFile { file, path })
    }

    /// Makes a checked temporary file the object of its key, if the precondition holds.
    pub(crate) fn commit(
        &self,
        bucket: &Bucket,
        mut temp: TempFile,
        meta: &Meta,
        precondition: &Precondition,
    ) -> Result<Committed, DiskError> {
        temp.file.write_all(&meta.encode()).map_err(failed("write an object"))?;
        if self.durability == Durability::Always {
            temp.file.sync_all().map_err(failed("sync an object"))?;
        }
        let path = bucket.path(&meta.key);
        let guard = self.lock_key(&path);
        match precondition {
            Precondition::None => {
                fs::rename(&temp.path, &path).map_err(failed("publish an object"))?;
            }
            // link(2) fails with EEXIST however many processes or threads race for the name.
            Precondition::Absent => match fs::hard_link(&temp.path, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Ok(Committed::No);
                }
                other => other.map_err(failed("publish an object"))?,
            },
            Precondition::Present(tag) => {
                let old = open_object(&path)?.map(|(_, meta)| meta.sha256);
                let Some(old) = old else { return Ok(Committed::No) };
                if tag.as_ref().is_some_and(|tag| *tag != old) {
                    return Ok(Committed::No);
                }
                fs::rename(&temp.path, &path).map_err(failed("publish an object"))?;
            }
        }
        bucket.write_index().insert(meta.key.clone(), entry_of(meta));
        drop(guard);
        self.settle(&path)?;
        Ok(Committed::Yes)
    }

    /// Removes an object; absent is fine.
    pub(crate) fn delete(&self, bucket: &Bucket, key: &str) -> Result<(), DiskError> {
        let path = bucket.path(key);
        let guard = self.lock_key(&path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed("remove an object"))?,
        }
        bucket.write_index().remove(key);
        drop(guard);
        self.settle(&path)
    }

    /// Makes the directory entry as safe as the setting says.
    fn settle(&self, path: &Path) -> Result<(), DiskError> {
        match self.durability {
            Durability::Always => sync_dir(path.parent().unwrap_or(&self.root)),
            Durability::EachSecond => {
                self.unsynced.store(true, Ordering::Release);
                Ok(())
            }
        }
    }

    /// Syncs the file system when something was written since the last call (`1s`).
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        if self.unsynced.swap(false, Ordering::AcqRel) {
            syncfs(&self.lock_file).map_err(io::Error::from).map_err(failed("sync files"))?;
        }
        Ok(())
    }

    fn lock_key(&self, path: &Path) -> std::sync::MutexGuard<'_, ()> {
        let last = path.as_os_str().as_encoded_bytes().last().copied().unwrap_or_default();
        let before = path.as_os_str().as_encoded_bytes().iter().rev().nth(1).copied();
        let slot = usize::from(last) * 16 + usize::from(before.unwrap_or_default());
        let lock = self.locks.get(slot % LOCKS).expect("the remainder is in range");
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn path(&self, key: &str) -> PathBuf {
        let name = file_name(key);
        let part: String = name.chars().take(2).collect();
        self.dir.join(part).join(name)
    }

    fn write_index(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object's file, at its first byte, and its metadata.
    pub(crate) fn open(&self, key: &str) -> Result<Option<(File, Meta)>, DiskError> {
        open_object(&self.path(key))
    }

    pub(crate) fn list(&self, query: &Query<'_>) -> Result<Page, BadToken> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).list(query)
    }
}

fn entry_of(meta: &Meta) -> Entry {
    Entry { size: meta.size, sha256: meta.sha256.clone(), modified_unix_ms: meta.modified_unix_ms }
}

fn open_object(path: &Path) -> Result<Option<(File, Meta)>, DiskError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("open an object"))?,
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let meta = read_meta(&file, &name)?;
    Ok(Some((file, meta)))
}

fn read_meta(file: &File, name: &str) -> Result<Meta, DiskError> {
    let what = "read an object";
    let damaged = || DiskError::Damaged(name.to_owned());
    let file_bytes = file.metadata().map_err(failed(what))?.len();
    let tail_at = file_bytes.checked_sub(TAIL_BYTES).ok_or_else(damaged)?;
    let mut tail = [0; 12];
    file.read_exact_at(&mut tail, tail_at).map_err(failed(what))?;
    let length = Meta::tail(&tail, file_bytes).ok_or_else(damaged)?;
    let mut json = vec![0; usize::try_from(length).map_err(|_| damaged())?];
    file.read_exact_at(&mut json, tail_at - length).map_err(failed(what))?;
    Meta::decode(&json, file_bytes, name).ok_or_else(damaged)
}

fn sync_dir(path: &Path) -> Result<(), DiskError> {
    let dir = File::open(path).map_err(failed("open a directory"))?;
    dir.sync_all().map_err(failed("sync a directory"))
}
