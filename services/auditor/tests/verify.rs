//! NEW-02, IAM-13: flip any byte and verification names the row; an independent verifier agrees.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod support;

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hotcell_auditor::head::{Head, MemoryHead};
use hotcell_auditor::log::Log;
use hotcell_auditor::proof::TlogProof;
use hotcell_auditor::record::Record;
use hotcell_auditor::store::{LogStore, folder};
use hotcell_auditor::verify::{Fault, Report, VerifyError, verify, verify_job};
use hotcell_auditor::{leaf::Leaf, tile, tree};
use support::{config, files, grow, keys, memory, open, record, records};
use tempfile::TempDir;

/// A log in a folder: `<dir>/audit`.
async fn in_folder(sizes: &[u64]) -> (TempDir, Log) {
    let dir = tempfile::tempdir().unwrap();
    let head: Arc<dyn Head> = Arc::new(MemoryHead::default());
    let store = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    let mut log = Log::open(Arc::new(store), head, config()).await.unwrap();
    for size in sizes {
        grow(&mut log, *size, 4096).await;
    }
    (dir, log)
}

async fn check(store: &LogStore) -> Result<Report, VerifyError> {
    verify(store, &keys(), |_| Ok::<_, fmt::Error>(())).await
}

async fn faults(store: &LogStore) -> Vec<Fault> {
    check(store).await.unwrap().faults
}

/// Runs `test` with one byte of a file flipped.
macro_rules! with_flip {
    ($path:expr, $offset:expr, $bit:expr, $test:expr) => {{
        let good = std::fs::read($path).unwrap();
        let mut bad = good.clone();
        bad[$offset] ^= 1 << $bit;
        std::fs::write($path, &bad).unwrap();
        let result = $test;
        std::fs::write($path, &good).unwrap();
        result
    }};
}

#[tokio::test]
async fn iam_13_every_byte_of_a_small_log_counts() {
    let (dir, log) = in_folder(&[2, 4]).await;
    assert!(check(log.store()).await.unwrap().is_sound(true));
    for path in files(dir.path()) {
        for offset in 0..std::fs::metadata(&path).unwrap().len() as usize {
            let bit = offset % 8;
            let found = with_flip!(&path, offset, bit, check(log.store()).await);
            let noticed = found.as_ref().map_or(true, |report| !report.is_sound(false));
            assert!(noticed, "{} byte {offset} bit {bit}", path.display());
        }
    }
    assert!(check(log.store()).await.unwrap().is_sound(true));
}

/// The row that holds byte `offset`, in frames with a length of `prefix` bytes after `skip` bytes.
fn row_at(bytes: &[u8], skip: usize, prefix: usize, offset: usize) -> u64 {
    let (mut at, mut row) = (skip, 0);
    loop {
        let length = bytes[at..at + prefix].iter().fold(0, |n, b| n << 8 | usize::from(*b));
        at += prefix + length;
        if offset < at {
            return row;
        }
        row += 1;
    }
}

#[tokio::test]
async fn iam_13_the_row_is_named() {
    let (dir, log) = in_folder(&[100, 300, 520]).await;
    let root = dir.path().join("audit");
    let mut tried = 0;
    for (relative, first) in [
        ("tile/0/001", 256),
        ("tile/1/000.p/2", 0),
        ("tile/entries/000", 0),
        ("tile/entries/002.p/8", 512),
        ("records/000/100-255", 100),
        ("records/002/512-519", 512),
    ] {
        let path = root.join(relative);
        let bytes = std::fs::read(&path).unwrap();
        let step = (bytes.len() / 40).max(1) | 1;
        for offset in (20..bytes.len()).step_by(step) {
            let found = with_flip!(&path, offset, 2, faults(log.store()).await);
            let relative = relative.to_owned();
            let expect = if relative.starts_with("tile/entries") {
                let index = first + row_at(&bytes, 0, 2, offset);
                Fault::Leaf { index, path: relative }
            } else if relative.starts_with("tile") {
                Fault::Tile { path: relative, row: offset / 32 }
            } else {
                let index = first + row_at(&bytes, 18, 4, offset);
                Fault::Record { index, path: relative }
            };
            assert_eq!(found, [expect], "offset {offset}");
            tried += 1;
        }
    }
    assert!(tried > 150);
}

#[tokio::test]
async fn older_partial_objects_and_kept_checkpoints_are_verified_too() {
    let (dir, log) = in_folder(&[100, 300]).await;
    let root = dir.path().join("audit");
    let named = |relative: &str, offset: usize, expect: String| {
        let path = root.join(relative);
        let store = log.store().clone();
        async move {
            let found = with_flip!(&path, offset, 0, faults(&store).await);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].to_string(), expect);
        }
    };
    named("tile/0/000.p/100", 64, "hash 2 of tile/0/000.p/100 is wrong".into()).await;
    let leaf = "leaf 0 in tile/entries/000.p/100 is not the one signed";
    named("tile/entries/000.p/100", 9, leaf.into()).await;
    let kept = "checkpoints/100 is not a checkpoint of this log";
    named("checkpoints/100", 30, kept.into()).await;
    let checkpoint = root.join("checkpoint");
    let refused = with_flip!(&checkpoint, 40, 0, check(log.store()).await);
    assert!(matches!(refused, Err(VerifyError::Store(_))));
    std::fs::remove_file(root.join("tile/entries/000")).unwrap();
    let missing = Fault::Missing { path: "tile/entries/000".into() };
    assert_eq!(faults(log.store()).await, [missing]);
}

/// Leaf and record forged together: two of three copies agree, the signed root still decides.
#[tokio::test]
async fn the_root_overrules_a_forged_majority() {
    let (dir, log) = in_folder(&[10]).await;
    let root = dir.path().join("audit");
    let mut forged = records(1..=10);
    forged[3] = Record::new(4, 4, "job.acme.j4.completed", vec![], "forged");
    let encoded: Vec<_> = forged.iter().map(|r| r.encode().unwrap()).collect();
    let leaves: Vec<_> =
        forged.iter().zip(&encoded).map(|(r, bytes)| Leaf::of(r, bytes).to_bytes()).collect();
    let (id, bundle) = hotcell_auditor::record::bundles(0, &encoded).remove(0);
    std::fs::write(root.join(id.path()), bundle).unwrap();
    let entries = tile::encode_entries(&leaves).unwrap();
    std::fs::write(root.join("tile/entries/000.p/10"), entries).unwrap();
    let expect = [
        Fault::Leaf { index: 3, path: "tile/entries/000.p/10".into() },
        Fault::Record { index: 3, path: "records/000/0-9".into() },
    ];
    assert_eq!(faults(log.store()).await, expect);
    // All three forged: every row agrees, and the root says that it is not the log.
    let hashes: Vec<_> = leaves.iter().map(|leaf| tree::leaf_hash(leaf)).collect();
    std::fs::write(root.join("tile/0/000.p/10"), tile::encode_tile(&hashes)).unwrap();
    let found = faults(log.store()).await;
    assert!(found.contains(&Fault::Root { computed: tree::root_of(&hashes) }), "{found:?}");
}

#[tokio::test]
async fn gaps_are_reported_and_fatal_only_if_asked() {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    let outcome = log.append(&[record(3), record(4), record(9)]).await.unwrap();
    assert!(matches!(outcome, hotcell_auditor::log::Outcome::Published(_)));
    let report = check(log.store()).await.unwrap();
    let gaps: Vec<_> = report.gaps.iter().map(|g| (g.index, g.first_seq, g.last_seq)).collect();
    assert_eq!(gaps, [(0, 1, 2), (2, 5, 8)]);
    assert!(report.is_sound(false) && !report.is_sound(true));
}

#[derive(Debug, thiserror::Error)]
#[error("bad envelope")]
struct BadEnvelope;

#[tokio::test]
async fn the_callers_check_sees_every_record() {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    grow(&mut log, 300, 300).await;
    let mut seen = 0;
    let keys = keys();
    let report = verify(log.store(), &keys, |found| {
        seen += 1;
        assert_eq!(*found, record(found.seq()));
        let signed = found.header("Hotcell-Sig") != Some("sig-7");
        if signed { Ok(()) } else { Err(BadEnvelope) }
    });
    let report = report.await.unwrap();
    assert_eq!(report.faults, [Fault::Signature { index: 6, reason: "bad envelope".into() }]);
    assert_eq!((seen, report.records), (300, 300));
}

/// BRK-55: the leaves of one job, complete, each with a proof that stands alone.
#[tokio::test]
async fn brk_55_a_job_has_a_proof_for_every_leaf() {
    let (dir, log) = in_folder(&[100, 300]).await;
    let leaves = verify_job(log.store(), &keys(), "j7").await.unwrap();
    assert_eq!(leaves.len(), 30);
    for (found, seq) in leaves.iter().zip((7..).step_by(10)) {
        assert_eq!((found.leaf.seq, found.leaf.tenant.as_deref()), (seq, Some("umbra")));
        let text = found.proof.text();
        let proof = TlogProof::parse(&text).unwrap();
        assert_eq!(proof.text(), text);
        let (leaf, head) = proof.check_carried(&keys()).unwrap();
        assert_eq!(head.size, 300);
        assert!(Leaf::parse(leaf).unwrap().commits_to(&record(seq).encode().unwrap()));
    }
    assert!(verify_job(log.store(), &keys(), "nobody").await.unwrap().is_empty());
    let path = dir.path().join("audit/tile/entries/000");
    let refused = with_flip!(&path, 100, 0, verify_job(log.store(), &keys(), "j7").await);
    assert!(matches!(refused, Err(VerifyError::Root)));
}

#[tokio::test]
async fn no_bit_of_a_proof_can_change() {
    let (store, head) = memory();
    let mut log = open(&store, &head).await.unwrap();
    grow(&mut log, 20, 20).await;
    let text = log.prove(5).await.unwrap().text();
    let accepted = |text: &[u8]| {
        let text = std::str::from_utf8(text).ok();
        let proof = text.and_then(|text| TlogProof::parse(text).ok());
        proof.is_some_and(|proof| proof.check_carried(&keys()).is_ok())
    };
    assert!(accepted(text.as_bytes()));
    for bit in 0..text.len() * 8 {
        let mut bytes = text.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!accepted(&bytes), "bit {bit}");
    }
}

fn golden(name: &str, found: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("HOTCELL_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), found, "{name} is a stored format: it cannot change");
}

#[tokio::test]
async fn the_stored_formats_are_fixed() {
    let (dir, log) = in_folder(&[3]).await;
    let read = |path: &str| std::fs::read(dir.path().join("audit").join(path)).unwrap();
    golden("checkpoint", &read("checkpoint"));
    golden("entries.bin", &read("tile/entries/000.p/3"));
    golden("tile.bin", &read("tile/0/000.p/3"));
    golden("records.bin", &read("records/000/0-2"));
    golden("leaf-1.tlog-proof", log.prove(1).await.unwrap().text().as_bytes());
    golden("vkey", format!("{}\n", keys()[0]).as_bytes());
}

fn python(root: &Path, vkey: &str) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify.py");
    let output = Command::new("python3").arg("-I").arg(script).arg(vkey).arg(root).output();
    let output = output.expect("python3 is needed by this test");
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// The Python verifier shares no code with ours.
#[tokio::test]
async fn new_02_an_independent_verifier_agrees() {
    let (dir, log) = in_folder(&[100, 300]).await;
    let root = dir.path().join("audit");
    let vkey = keys()[0].to_string();
    let (ok, said) = python(&root, &vkey);
    assert!(ok && said.contains(&hex::encode(log.root().as_bytes())), "{said}");
    for (path, offset, expect) in [
        ("checkpoint", 30, "FAIL"),
        ("checkpoint", 150, "signature is wrong"),
        ("tile/entries/000", 5000, "leaf"),
        ("tile/0/001.p/44", 33, "leaf 257"),
        ("records/001/256-299", 40, "record 256"),
    ] {
        let (ok, said) = with_flip!(&root.join(path), offset, 0, python(&root, &vkey));
        assert!(!ok && said.contains(expect), "{path}: {said}");
    }
    let other = hotcell_auditor::note::Signer::from_seed(support::ORIGIN, &[9; 32]).unwrap();
    assert!(!python(&root, &other.verifier().to_string()).0);
    assert!(python(&root, &vkey).0);
}

#[test]
fn a_folder_that_does_not_exist_is_an_error() {
    assert!(folder(Path::new("/nonexistent/hotcell")).is_err());
}
