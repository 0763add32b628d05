//! `hotcell audit export` as a person runs it, on a log of their own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_auditor::{
    head::MemoryHead,
    log::{Log, LogConfig, Outcome},
    note::Signer,
    record::Record,
    store::folder,
};
use hotcell_schemas::{
    Digest, Envelope, Role, Subject, TenantId, Trust, UnixMs,
    identity::{Action, Authority, Decided, Outcome as Said},
    job::Actor,
    records::{AuditAct, AuditRecord},
    subject::AuditKind,
    trust::TrustedKey,
};
use nkeys::KeyPair;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tempfile::TempDir;

const ORIGIN: &str = "audit.hotcell.example/v1";
/// 2026-05-22T14:30:45.120Z; entries are an hour apart.
const T0: u64 = 1_779_460_245_120;

struct Installation {
    dir: TempDir,
    intake: KeyPair,
    log: Log,
}

impl Installation {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["nats", "audit"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let intake = KeyPair::new_user();
        let key = TrustedKey { role: Role::Intake, key: intake.public_key() };
        let trust = serde_json::to_string(&Trust::new(vec![key]).unwrap()).unwrap();
        fs::write(dir.path().join("nats/trust.json"), trust).unwrap();
        let signer = Signer::from_seed(ORIGIN, &[7; 32]).unwrap();
        fs::write(dir.path().join("audit.vkey"), format!("{}\n", signer.verifier())).unwrap();
        let objects = folder(&dir.path().join("audit")).unwrap();
        let config = LogConfig { prefix: String::new(), signer, older_keys: Vec::new() };
        let log = Log::open(objects, Arc::new(MemoryHead::default()), config).await.unwrap();
        Self { dir, intake, log }
    }

    async fn grow(&mut self, to: u64) {
        let records: Vec<_> = (self.log.last_seq() + 1..=to).map(|seq| self.record(seq)).collect();
        assert!(matches!(self.log.append(&records).await.unwrap(), Outcome::Published(_)));
    }

    /// Tenants take turns; ana does every third thing.
    fn record(&self, seq: u64) -> Record {
        let tenant: TenantId = if seq.is_multiple_of(2) { "acme" } else { "bolt" }.parse().unwrap();
        let at = UnixMs(T0 + seq * 3_600_000);
        let decided = Decided {
            node: Role::Intake,
            action: Action::ManageKeys,
            outcome: Said::Allowed,
            policies: vec!["role-tenant-admin".to_owned()],
            digest: Digest::of(b"set"),
            at,
        };
        let subject = if seq.is_multiple_of(3) { "ana" } else { "=bob" };
        let act = AuditAct::Changed {
            actor: Actor::User { issuer: "https://idp.example".into(), subject: subject.into() },
            authority: Authority::default(),
            what: "key_created".to_owned(),
            target: format!("key {seq}"),
            decided,
        };
        let to = Subject::audit(Some(&tenant), AuditKind::Change);
        let body = AuditRecord { at, tenant: Some(tenant), act };
        let sealed = Envelope::seal(to, format!("act.{seq}"), at, &self.intake, &body).unwrap();
        let headers = sealed.headers().map(|(name, value)| (name.to_owned(), value));
        Record::new(seq, at.0, sealed.subject.as_str(), headers.to_vec(), sealed.body)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Exit code, what was printed, and the last sentence.
    fn export(&self, arguments: &[&str]) -> (i32, String, String) {
        let out = Command::new(env!("CARGO_BIN_EXE_hotcell"))
            .args(["--data", self.dir.path().to_str().unwrap(), "audit", "export"])
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    }

    fn check(&self, file: &Path) -> (i32, String, String) {
        self.export(&["--check", file.to_str().unwrap()])
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn step_19_an_export_is_verified_later_however_the_log_has_grown() {
    let mut it = Installation::new().await;
    it.grow(300).await;
    let file = it.file("q2.jsonl");
    let path = file.to_str().unwrap();
    let (from, to) = ("2026-05-23", "2026-05-30T00:00:00Z");
    let asked = ["--tenant", "acme", "--from", from, "--to", to, "-o", path];
    let (code, _, told) = it.export(&asked);
    assert_eq!(code, 0, "{told}");
    let rows = lines(&fs::read_to_string(&file).unwrap());
    let (from, to) = (UnixMs::parse(from).unwrap(), UnixMs::parse(to).unwrap());
    let within =
        |seq: &u64| (from.0..to.0).contains(&(T0 + seq * 3_600_000)) && seq.is_multiple_of(2);
    let expect: Vec<u64> = (1..=300).filter(within).map(|seq| seq - 1).collect();
    let found: Vec<u64> = rows.iter().map(|row| row["index"].as_u64().unwrap()).collect();
    assert_eq!(found, expect);
    assert!(rows.iter().all(|row| row["tenant"] == "acme"));

    let beside = it.file("q2.jsonl.manifest.json");
    let manifest: Value = serde_json::from_str(&fs::read_to_string(&beside).unwrap()).unwrap();
    assert_eq!(manifest["entries"].as_u64().unwrap(), expect.len() as u64);
    assert_eq!(manifest["sha256"], Digest::of(&fs::read(&file).unwrap()).to_string());
    assert!(manifest["checkpoint"].as_str().unwrap().starts_with(ORIGIN));
    assert_eq!(it.check(&file).0, 0, "{}", it.check(&file).2);
    let (code, _, told) = it.export(&asked);
    assert_eq!((code, told.contains("exists")), (2, true), "{told}");

    it.grow(700).await;
    assert_eq!(it.check(&file).0, 0, "{}", it.check(&file).2);

    // A line that was taken out, one that was changed, one that was added; and a manifest to fit.
    let good = fs::read_to_string(&file).unwrap();
    let first = good.split_inclusive('\n').next().unwrap();
    for (bad, sentence) in [
        (good.replacen(first, "", 1), "line 1"),
        (good.replace("key_created", "key_revoked"), "line 1"),
        (format!("{good}{first}"), "has lines that the log does not"),
        (good.trim_end().to_owned(), "is cut"),
    ] {
        fs::write(&file, &bad).unwrap();
        let mut forged = manifest.clone();
        forged["sha256"] = Value::from(Digest::of(bad.as_bytes()).to_string());
        forged["bytes"] = Value::from(bad.len());
        forged["entries"] = Value::from(bad.lines().count());
        fs::write(&beside, forged.to_string()).unwrap();
        let (code, _, told) = it.check(&file);
        assert_eq!((code, told.contains(sentence)), (1, true), "{told}");
    }
    fs::write(&file, &good).unwrap();
    let mut forged = manifest.clone();
    forged["entries"] = Value::from(1);
    fs::write(&beside, forged.to_string()).unwrap();
    assert_eq!(it.check(&file).0, 1);
}

#[tokio::test]
async fn step_14_the_terminal_shows_what_one_person_did_in_order() {
    let mut it = Installation::new().await;
    it.grow(30).await;
    let (code, out, told) = it.export(&["--actor", "user:ana"]);
    assert_eq!(code, 0, "{told}");
    let times: Vec<String> =
        lines(&out).iter().map(|row| row["time"].as_str().unwrap().to_owned()).collect();
    assert_eq!(times.len(), 10);
    assert!(times.is_sorted());
    assert!(lines(&out).iter().all(|row| row["actor"] == "user:https://idp.example#ana"));
    assert_eq!(it.export(&["--actor", "ana"]).0, 2);
    assert_eq!(it.export(&["--from", "yesterday"]).0, 2);

    let (code, out, _) = it.export(&["--format", "csv", "--actor", "user:=bob"]);
    assert_eq!(code, 0);
    let columns = out.lines().next().unwrap().split(',').count();
    assert!(out.lines().all(|line| line.split(',').count() == columns), "{out}");
    assert_eq!(out.lines().count(), 21);
    assert!(out.contains(",ManageKeys,allowed,role-tenant-admin,"), "{out}");
}

#[tokio::test]
async fn brk_83_nothing_is_exported_from_a_log_that_was_changed() {
    let mut it = Installation::new().await;
    it.grow(30).await;
    let bundle = it.file("audit/records/000/0-29");
    let mut bytes = fs::read(&bundle).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    let file = it.file("out.csv");
    let asked = ["--format", "csv", "-o", file.to_str().unwrap()];
    let (code, _, told) = it.export(&asked);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("leaf 29"), "{told}");
    assert!(!file.exists());
}
