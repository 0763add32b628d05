//! `hotcell audit verify`: the evidence log, checked offline.

use crate::{
    fail::{Context as _, Fail},
    layout::Layout,
    print,
};
use hotcell_auditor::{
    note::VerifierKey,
    record::Record,
    store::{LogStore, folder},
    verify::{verify as verify_log, verify_job},
};
use hotcell_schemas::{Envelope, EventKind, JobId, Trust};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A log, and what it is checked with.
pub(crate) struct Source {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// The text of its verifier key.
    pub(crate) vkey: String,
    /// The key.
    pub(crate) keys: [VerifierKey; 1],
    /// Whose signatures its records have.
    pub(crate) trust: Trust,
    /// Its objects.
    pub(crate) store: LogStore,
}

impl Source {
    /// The installation's log, or the one in `log`.
    pub(crate) fn open(data: &Path, log: Option<&Path>) -> Result<Self, Fail> {
        let layout = Layout::open(data)?;
        let dir = log.map_or_else(|| layout.audit_log(), Path::to_owned);
        let vkey = fs::read_to_string(layout.audit_vkey()).or_fail("cannot read audit.vkey")?;
        let vkey = vkey.trim().to_owned();
        let keys = [VerifierKey::parse(&vkey).or_fail("audit.vkey is malformed")?];
        let trust = fs::read(layout.trust()).or_fail("cannot read trust.json")?;
        let trust = serde_json::from_slice(&trust).or_fail("trust.json is malformed")?;
        let store = LogStore::new(folder(&dir).or_fail("cannot open the log")?, "");
        Ok(Self { dir, vkey, keys, trust, store })
    }
}

/// `hotcell audit verify`.
pub(crate) async fn verify(
    data: &Path,
    log: Option<&Path>,
    job: Option<&JobId>,
    as_json: bool,
) -> Result<(), Fail> {
    let Source { dir, vkey, keys, trust, store } = Source::open(data, log)?;
    let report = verify_log(&store, &keys, |record| signature(record, &trust)).await;
    let report = report.or_fail("the log cannot be read")?;
    let proofs = match job {
        Some(job) => verify_job(&store, &keys, job.as_str()).await.or_fail("the job's proof")?,
        None => Vec::new(),
    };
    let ended = proofs
        .iter()
        .any(|leaf| leaf.leaf.kind.parse::<EventKind>().is_ok_and(EventKind::is_terminal));
    let sound = report.is_sound(false) && (job.is_none() || ended);
    let (size, root) = (report.head.size, report.head.root.to_string());
    let faults: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    if as_json {
        let proven = proofs.iter().map(|leaf| {
            json!({
                "index": leaf.proof.index, "type": leaf.leaf.kind, "proof": leaf.proof.text(),
            })
        });
        print::json(&json!({
            "sound": sound, "entries": size, "root": root, "faults": faults, "job": job,
            "proofs": proven.collect::<Vec<_>>(),
        }));
    } else {
        print::line(format!("log        {}\nentries    {size}\nroot       {root}", dir.display()));
        print::line(format!("checkpoint signed by {vkey}"));
        for leaf in &proofs {
            print::line(format!("proven     entry {} {}", leaf.proof.index, leaf.leaf.kind));
        }
        for fault in &faults {
            print::line(format!("FAULT      {fault}"));
        }
    }
    if sound {
        return Ok(());
    }
    Err(Fail::failed(if !faults.is_empty() {
        format!("the log does not verify: {} faults", faults.len())
    } else if proofs.is_empty() {
        "the log has no entry of this job".to_owned()
    } else {
        "the log does not hold this job's end yet: it runs, or the auditor signs its last events \
         within a second"
            .to_owned()
    }))
}

/// Whether a record is a message that its publisher signed. Records of messages that were refused
/// are evidence too; the log says which they are.
fn signature(record: &Record, trust: &Trust) -> Result<(), hotcell_schemas::envelope::OpenError> {
    let header = |name: &'static str| record.header(name);
    let envelope = Envelope::received(record.subject(), header, record.body())?;
    envelope.check_signature(trust).map(|_| ())
}
