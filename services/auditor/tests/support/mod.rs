//! What several tests need: a deterministic stream, a key, and opening a log.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;
use std::sync::Arc;

use hotcell_auditor::head::{Head, MemoryHead};
use hotcell_auditor::log::{Log, LogConfig, LogError, Outcome};
use hotcell_auditor::note::{Signer, VerifierKey};
use hotcell_auditor::record::Record;
use object_store::ObjectStore;
use object_store::memory::InMemory;

pub(crate) const ORIGIN: &str = "audit.hotcell.example/v1";
pub(crate) const SEED: [u8; 32] = [42; 32];

/// Message `seq` of a stream in which ten jobs of two tenants take turns.
pub(crate) fn record(seq: u64) -> Record {
    let (tenant, job) = (if seq.is_multiple_of(2) { "acme" } else { "umbra" }, seq % 10);
    let event = ["submitted", "validated.gpu", "assigned", "encoded"][(seq % 4) as usize];
    let subject = format!("job.{tenant}.j{job}.{event}");
    let headers = vec![
        ("Nats-Msg-Id".to_owned(), format!("j{job}-{seq}")),
        ("Hotcell-Sig".to_owned(), format!("sig-{seq}")),
    ];
    Record::new(seq, 1_700_000_000_000 + seq, subject, headers, format!("body of {seq}"))
}

/// Messages with these sequences.
pub(crate) fn records(seqs: std::ops::RangeInclusive<u64>) -> Vec<Record> {
    seqs.map(record).collect()
}

pub(crate) fn config() -> LogConfig {
    let signer = Signer::from_seed(ORIGIN, &SEED).unwrap();
    LogConfig { prefix: "audit".to_owned(), signer, older_keys: Vec::new() }
}

pub(crate) fn keys() -> Vec<VerifierKey> {
    vec![config().signer.verifier().clone()]
}

pub(crate) async fn open(
    store: &Arc<dyn ObjectStore>,
    head: &Arc<dyn Head>,
) -> Result<Log, LogError> {
    Log::open(store.clone(), head.clone(), config()).await
}

pub(crate) fn memory() -> (Arc<dyn ObjectStore>, Arc<dyn Head>) {
    (Arc::new(InMemory::new()), Arc::new(MemoryHead::default()))
}

/// Appends messages `last_seq + 1 ..= to` in batches.
pub(crate) async fn grow(log: &mut Log, to: u64, batch: u64) {
    while log.last_seq() < to {
        let from = log.last_seq() + 1;
        let outcome = log.append(&records(from..=to.min(from + batch - 1))).await.unwrap();
        assert!(matches!(outcome, Outcome::Published(_)));
    }
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
