//! The log survives a crash at any step, a second writer, and a store or head that lies.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod support;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::stream::BoxStream;
use hotcell_auditor::head::{FileHead, Head, HeadError, MemoryHead, Step};
use hotcell_auditor::log::{Log, LogError, Outcome};
use hotcell_auditor::store::{LogStore, StoreError};
use hotcell_auditor::tile::TileId;
use hotcell_auditor::verify::verify;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use support::{ORIGIN, config, grow, keys, memory, open, record, records};

/// Fails the n-th write, before or after it took effect.
#[derive(Debug)]
struct Fuse {
    left: AtomicI64,
    takes_effect: bool,
}

impl Fuse {
    fn blows(&self) -> bool {
        self.left.fetch_sub(1, Ordering::SeqCst) == 0
    }
}

#[derive(Debug)]
struct FailingStore(Arc<InMemory>, Arc<Fuse>);

impl fmt::Display for FailingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failing store")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FailingStore {
    async fn put_opts(
        &self,
        at: &Path,
        data: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if !self.1.blows() {
            return self.0.put_opts(at, data, options).await;
        }
        if self.1.takes_effect {
            self.0.put_opts(at, data, options).await?;
        }
        Err(object_store::Error::NotImplemented {
            operation: "crash".into(),
            implementer: "test".into(),
        })
    }
    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, options).await
    }
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(at, options).await
    }
    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FailingHead(MemoryHead, Arc<Fuse>);

#[async_trait::async_trait]
impl Head for FailingHead {
    async fn load(&self) -> Result<Option<String>, HeadError> {
        self.0.load().await
    }
    async fn advance(&self, step: Step<'_>) -> Result<bool, HeadError> {
        let blows = self.1.blows();
        if !blows || self.1.takes_effect {
            let advanced = self.0.advance(step).await?;
            if !blows {
                return Ok(advanced);
            }
        }
        Err(HeadError::Advance(std::io::ErrorKind::TimedOut.into()))
    }
}

const TARGET: u64 = 600;

/// Grows a log to `TARGET`, starting anew after each failure with another batch size.
async fn grow_through_crashes(store: &Arc<dyn ObjectStore>, head: &Arc<dyn Head>) -> u32 {
    let mut crashes = 0;
    loop {
        assert!(crashes < 3, "one failure was planned");
        let batch = if crashes == 0 { 90 } else { 70 };
        let Ok(mut log) = open(store, head).await else {
            crashes += 1;
            continue;
        };
        loop {
            let from = log.last_seq() + 1;
            if from > TARGET {
                return crashes;
            }
            match log.append(&records(from..=TARGET.min(from + batch - 1))).await {
                Ok(outcome) => assert!(matches!(outcome, Outcome::Published(_))),
                Err(_) => break,
            }
        }
        crashes += 1;
    }
}

/// NEW-02: a crash between any two steps leaves a log that opens and continues to the same root.
#[tokio::test]
async fn new_02_a_crash_at_every_write_leads_to_the_same_root() {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    grow(&mut log, TARGET, 600).await;
    let expected = log.root();
    for takes_effect in [false, true] {
        let mut tried = 0;
        for nth in 0.. {
            let fuse = Arc::new(Fuse { left: AtomicI64::new(nth), takes_effect });
            let inner = Arc::new(InMemory::new());
            let store: Arc<dyn ObjectStore> = Arc::new(FailingStore(inner.clone(), fuse.clone()));
            let head: Arc<dyn Head> = Arc::new(FailingHead(MemoryHead::default(), fuse.clone()));
            let crashes = grow_through_crashes(&store, &head).await;
            let log = open(&store, &head).await.unwrap();
            assert_eq!((log.root(), log.size()), (expected, TARGET), "write {nth}");
            let report = verify(log.store(), &keys(), |_| Ok::<_, fmt::Error>(())).await.unwrap();
            assert!(report.is_sound(true), "write {nth}: {:?} {:?}", report.faults, report.gaps);
            tried += crashes;
            if fuse.left.load(Ordering::SeqCst) >= 0 {
                break;
            }
        }
        assert!(tried > 30, "{tried} writes failed in turn");
    }
}

#[tokio::test]
async fn of_two_writers_one_is_lost_and_reloads() {
    let (store, head) = memory();
    let mut first = open(&store, &head).await.unwrap();
    let mut second = open(&store, &head).await.unwrap();
    let staged = first.stage(&records(1..=10)).await.unwrap();
    grow(&mut second, 7, 7).await;
    assert_eq!(first.commit(staged.clone()).await.unwrap(), Outcome::Lost);
    assert!(matches!(first.append(&records(11..=12)).await, Err(LogError::Stale)));
    first.reload().await.unwrap();
    assert_eq!((first.size(), first.last_seq()), (7, 7));
    assert!(matches!(first.commit(staged).await, Err(LogError::Stale)));
    grow(&mut first, 300, 50).await;
    second.reload().await.unwrap();
    assert_eq!(second.root(), first.root());
}

#[tokio::test]
async fn a_replica_with_another_history_is_stopped_by_the_store() {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    log.stage(&records(1..=3)).await.unwrap();
    let mut other = records(1..=3);
    other[1] = hotcell_auditor::record::Record::new(2, 9, "job.x.y.z", vec![], "forged");
    let refused = log.append(&other).await;
    assert!(matches!(refused, Err(LogError::Store(StoreError::Conflict { .. }))), "{refused:?}");
}

#[tokio::test]
async fn batches_are_bounded_and_sequences_rise() {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    assert!(matches!(log.append(&[]).await, Err(LogError::Batch { .. })));
    assert!(matches!(log.append(&records(1..=4097)).await, Err(LogError::Batch { .. })));
    let twice = [record(5), record(5)];
    assert!(matches!(log.append(&twice).await, Err(LogError::Order { previous: 5, seq: 5 })));
    grow(&mut log, 5, 5).await;
    assert!(matches!(log.append(&[record(5)]).await, Err(LogError::Order { .. })));
    let huge = hotcell_auditor::record::Record::new(6, 1, "s", vec![], vec![0; 5 << 20]);
    assert!(matches!(log.append(&[huge]).await, Err(LogError::Record { seq: 6, .. })));
    assert!(log.prove(5).await.is_err());
}

#[tokio::test]
async fn a_lost_or_rolled_back_or_forked_head_stops_the_log() {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    grow(&mut log, 100, 50).await;
    let empty: Arc<dyn Head> = Arc::new(MemoryHead::default());
    assert!(matches!(open(&store, &empty).await, Err(LogError::HeadMissing)));

    let kept = LogStore::new(store.clone(), "audit").get("checkpoints/050", 9999).await.unwrap();
    let old = String::from_utf8(kept.unwrap().to_vec()).unwrap();
    let root = log.root();
    let step = Step { from_size: 0, to_size: 50, root: &root, note: &old };
    assert!(empty.advance(step).await.unwrap());
    let rolled = open(&store, &empty).await;
    assert!(matches!(rolled, Err(LogError::HeadRolledBack { published: 100, head: 50 })));

    let (fork_store, fork_head) = memory();
    let mut fork = open(&fork_store, &fork_head).await.unwrap();
    let outcome = fork.append(&records(2..=120)).await.unwrap();
    assert!(matches!(outcome, Outcome::Published(_)));
    let ours = store.get(&Path::from("audit/checkpoint")).await.unwrap().bytes().await.unwrap();
    fork_store.put(&Path::from("audit/checkpoint"), ours.into()).await.unwrap();
    assert!(matches!(open(&fork_store, &fork_head).await, Err(LogError::Forked)));
}

#[tokio::test]
async fn an_older_published_checkpoint_is_mended_from_the_head() {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    grow(&mut log, 100, 50).await;
    let at = |name: &str| Path::from(format!("audit/{name}"));
    let old = store.get(&at("checkpoints/050")).await.unwrap().bytes().await.unwrap();
    store.put(&at("checkpoint"), old.into()).await.unwrap();
    let report = verify(log.store(), &keys(), |_| Ok::<_, fmt::Error>(())).await.unwrap();
    assert_eq!(report.faults.len(), 1, "{:?}", report.faults);
    assert!(report.faults[0].to_string().contains("size 100 is not published"));
    log.reload().await.unwrap();
    let report = verify(log.store(), &keys(), |_| Ok::<_, fmt::Error>(())).await.unwrap();
    assert!(report.is_sound(true) && report.head.size == 100);
}

/// Changes one byte of an object.
async fn flip(store: &Arc<dyn ObjectStore>, path: &str, offset: usize) {
    let at = Path::from(format!("audit/{path}"));
    let mut bytes = store.get(&at).await.unwrap().bytes().await.unwrap().to_vec();
    bytes[offset] ^= 1;
    store.put(&at, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn a_forged_right_edge_is_not_grown_from() {
    for path in ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"] {
        let (store, head) = memory();
        let mut log = open(&store, &head).await.unwrap();
        grow(&mut log, 300, 300).await;
        flip(&store, path, 20).await;
        let refused = open(&store, &head).await;
        assert!(matches!(refused, Err(LogError::Edge { .. })), "{path}: {refused:?}");
    }
}

/// The defect found in a well-known tile reader: at these sizes it let a forged level 0 tile pass.
async fn forged_tile_is_refused(size: u64) {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    grow(&mut log, size, 4096).await;
    let proof = log.prove(1).await.unwrap();
    flip(&store, "tile/0/000", 0).await;
    // With the check left out the forged hash is handed over as leaf 1's sibling.
    let spans = hotcell_auditor::tree::inclusion_spans(1, size).unwrap();
    let unchecked = log.store().unchecked_hashes(&spans, size).await.unwrap();
    assert_ne!(unchecked[0], proof.hashes[0]);
    // With it, no proof comes out.
    let refused = log.prove(1).await;
    assert!(matches!(refused, Err(LogError::Store(StoreError::Unproven(_)))), "{refused:?}");
    // A proof that needs no hash of that tile is not affected.
    log.prove(size - 1).await.unwrap().check_carried(&keys()).unwrap();
    let report = verify(log.store(), &keys(), |_| Ok::<_, fmt::Error>(())).await.unwrap();
    assert_eq!(report.faults.len(), 1);
    assert_eq!(report.faults[0].to_string(), "hash 0 of tile/0/000 is wrong");
}

#[tokio::test]
async fn a_forged_leaf_tile_at_10000_is_refused() {
    forged_tile_is_refused(10_000).await;
}

#[tokio::test]
async fn a_forged_leaf_tile_at_70000_is_refused() {
    forged_tile_is_refused(70_000).await;
}

#[tokio::test]
async fn a_log_at_a_tile_border_opens_and_grows() {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    for size in [255, 256, 257, 511, 512, 513, 1024] {
        grow(&mut log, size, 4096).await;
        let mut again = open(&store, &head).await.unwrap();
        assert_eq!((again.root(), again.last_seq()), (log.root(), size));
        let proof = again.prove(size - 1).await.unwrap();
        proof.check_carried(&keys()).unwrap();
        again.reload().await.unwrap();
    }
    let tile = TileId::holding(0, 1023, 1024).unwrap();
    assert_eq!(tile.entries_path(), "tile/entries/003");
}

/// BRK-65: one writer per head file; another cannot open it, and the head never goes back.
#[tokio::test]
async fn brk_65_a_head_file_has_one_writer_and_only_advances() {
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().join("log");
    std::fs::create_dir(&objects).unwrap();
    let path = folder.path().join("head");
    let store = hotcell_auditor::store::folder(&objects).unwrap();
    {
        let head: Arc<dyn Head> = Arc::new(FileHead::open(&path).unwrap());
        assert!(matches!(FileHead::open(&path), Err(HeadError::Read(_))));
        let mut log = Log::open(store.clone(), head.clone(), config()).await.unwrap();
        grow(&mut log, 20, 10).await;
        let root = log.root();
        let step = Step { from_size: 10, to_size: 11, root: &root, note: "x" };
        assert!(!head.advance(step).await.unwrap());
    }
    let head: Arc<dyn Head> = Arc::new(FileHead::open(&path).unwrap());
    let log = Log::open(store, head, config()).await.unwrap();
    assert_eq!((log.size(), log.last_seq()), (20, 20));
    assert_eq!(log.checkpoint().unwrap().0.origin, ORIGIN);
}
