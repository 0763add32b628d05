//! The export of evidence over HTTP, from a real log that a real auditor writes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/life.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod life;
#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use hotcell_auditor::{
    config::{Config, Place},
    note::{Signer, VerifierKey},
    store::{LogStore, folder},
    tree::leaf_hash,
    verify::verify_job,
};
use hotcell_nats_config::Login;
use hotcell_schemas::{Digest, EventKind, JobId, Role, identity::RoleName};
use hotcell_stage::{ServiceError, Shutdown, TelemetryConfig, config::LogFormat};
use life::{job_of, moved};
use serde_json::Value;
use std::slice::from_ref;
use tempfile::TempDir;
use tokio::task::JoinSet;
use world::{World, until};

const ORIGIN: &str = "audit.hotcell.example/v1";

/// A running auditor and its folder.
struct Auditor {
    dir: TempDir,
    key: VerifierKey,
    shutdown: Shutdown,
    running: JoinSet<Result<(), ServiceError>>,
}

impl Auditor {
    fn start(world: &World) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::from_seed(ORIGIN, &[9; 32]).unwrap();
        let text = Signer::key_file(ORIGIN, &[9; 32]).unwrap();
        std::fs::write(dir.path().join("audit.key"), text).unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        let config = Config {
            nats: world.server.config(&Login::Service(Role::Auditor)).unwrap(),
            telemetry: TelemetryConfig {
                log: "info".to_owned(),
                format: LogFormat::Text,
                otlp: String::new(),
            },
            origin: ORIGIN.to_owned(),
            signing_key: dir.path().join("audit.key"),
            older_keys: Vec::new(),
            batch_records: 16,
            batch_ms: 20,
            log: Place { folder: Some(dir.path().join("log")), s3: None },
        };
        let shutdown = Shutdown::new();
        let mut running = JoinSet::new();
        running.spawn(hotcell_auditor::run(config, shutdown.clone()));
        Self { dir, key: signer.verifier().clone(), shutdown, running }
    }

    fn log(&self) -> LogStore {
        LogStore::new(folder(&self.dir.path().join("log")).unwrap(), "")
    }

    async fn stop(mut self) {
        self.shutdown.begin();
        self.running.join_next().await.unwrap().unwrap().unwrap();
    }
}

impl World {
    /// All entries, page by page.
    async fn export(&self, bearer: &str, query: &str) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/audit/export?limit=7{query}{cursor}");
            let (status, page) = self.get(&path, bearer).await;
            assert_eq!(status, 200, "{page}");
            let page = &page["result"];
            assert!(page["checkpoint"].as_str().unwrap().starts_with(ORIGIN));
            all.extend(page["entries"].as_array().unwrap().iter().cloned());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return all,
            }
        }
    }
}

fn of_job<'a>(all: &'a [Value], job: &JobId) -> Vec<&'a Value> {
    let events = all.iter().filter(|entry| entry["kind"] == "job");
    events.filter(|entry| entry["job"].as_str() == Some(job.as_str())).collect()
}

/// BRK-83, STEP-19, IAM-05: a tenant's own entries, each of them, and none of another's; the events
/// of a job are those that `hotcell audit verify --job` proves.
#[tokio::test]
async fn step_19_the_export_of_a_job_is_what_the_log_proves_and_of_no_other_tenant() {
    let world = World::start().await;
    let auditor = Auditor::start(&world);
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let path =
        [EventKind::Validated, EventKind::Assigned, EventKind::Encoded, EventKind::Completed];
    let mut jobs = Vec::new();
    for number in 0..4 {
        let of = if number % 2 == 0 { "acme" } else { "bolt" };
        let (job, at) = job_of(&world, of, number).await;
        let (job, _) = moved(&world, job, at, &path).await;
        jobs.push(job);
    }
    let ours = &jobs[2].id;
    let all = until(async || {
        let all = world.export(&strong, "").await;
        (of_job(&all, ours).len() == path.len() + 1).then_some(all)
    })
    .await;
    assert!(all.iter().all(|entry| entry["tenant"] == "acme"), "{all:?}");
    assert!(!Value::from(all.clone()).to_string().contains("bolt"));
    let others = [&jobs[1], &jobs[3]].map(|job| of_job(&all, &job.id).len());
    assert_eq!(others, [0, 0]);

    let log = auditor.log();
    for job in [&jobs[0].id, ours] {
        let proven = verify_job(&log, from_ref(&auditor.key), job.as_str()).await.unwrap();
        let proven: Vec<(u64, String, String)> = proven
            .iter()
            .map(|found| {
                let hash = leaf_hash(found.proof.extra.as_deref().unwrap());
                let hash = Digest::from_bytes(*hash.as_bytes()).to_string();
                (found.proof.index, hash, found.leaf.kind.clone())
            })
            .collect();
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
        let exported: Vec<_> = of_job(&all, job)
            .into_iter()
            .map(|entry| {
                let index = entry["index"].as_u64().unwrap();
                (index, text(entry, "leafHash"), text(entry, "event"))
            })
            .collect();
        assert_eq!(exported, proven);
    }
    let (status, page) = world.get("/v1/audit/export?tenant=bolt", &strong).await;
    assert_eq!((status, page["errors"][0]["field"].as_str()), (400, Some("tenant")));
    auditor.stop().await;
}

/// STEP-14: who read an output or evidence, and when, by who it was.
#[tokio::test]
async fn step_14_who_read_what_is_found_by_who_it_was() {
    let world = World::start().await;
    let auditor = Auditor::start(&world);
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let reader = world.key("acme", &[RoleName::Publisher]).await;
    let path =
        [EventKind::Validated, EventKind::Assigned, EventKind::Encoded, EventKind::Completed];
    let (job, at) = job_of(&world, "acme", 0).await;
    let (job, _) = moved(&world, job, at, &path).await;
    let (status, _) = world.get(&format!("/v1/transcodes/{}/download", job.id), &reader).await;
    assert_eq!(status, 200);
    assert_eq!(world.get(&format!("/v1/transcodes/{}/audit", job.id), &reader).await.0, 403);
    let id = hotcell_nats_config::key_id_of(&reader).unwrap();
    let query = format!("&actor=api_key:{id}");
    let told = until(async || {
        let all = world.export(&strong, &query).await;
        (all.len() == 2).then_some(all)
    })
    .await;
    let said: Vec<_> = told
        .iter()
        .map(|entry| {
            let decision = &entry["decisions"][0];
            (decision["action"].as_str().unwrap(), decision["outcome"].as_str().unwrap())
        })
        .collect();
    assert_eq!(said, [("ReadOutput", "allowed"), ("ReadAudit", "denied")]);
    assert!(told.iter().all(|entry| entry["job"].as_str() == Some(job.id.as_str())), "{told:?}");
    assert!(told[0]["time"].as_str() <= told[1]["time"].as_str());
    // Exports are reads of evidence: whoever made this one is in it.
    let all = world.export(&strong, "").await;
    let exported = |entry: &&Value| entry["decisions"][0]["action"] == "ExportAudit";
    assert!(all.iter().filter(exported).count() > 0);
    auditor.stop().await;
}

/// STEP-06, STEP-15: a key alone exports nothing; and nothing is exported without an auditor.
#[tokio::test]
async fn step_15_a_key_alone_exports_nothing_and_without_an_auditor_nobody_does() {
    let world = World::start().await;
    let admin = world.enrolled("acme", &[RoleName::Auditor]).await;
    let strong = world.stepped_up(&admin).await;
    let machine = world.key("acme", &[RoleName::Auditor]).await;
    let viewer = world.key("acme", &[RoleName::Viewer]).await;
    for (bearer, status, kind) in [
        (&machine, 403, "approval-required"),
        (&admin, 401, "step-up-required"),
        (&viewer, 403, "forbidden"),
        (&strong, 503, "unavailable"),
    ] {
        let (found, told) = world.get("/v1/audit/export", bearer).await;
        assert_eq!(found, status, "{told}");
        assert!(told["type"].as_str().unwrap().ends_with(kind), "{told}");
    }
    let auditor = Auditor::start(&world);
    until(async || (world.get("/v1/audit/export", &strong).await.0 == 200).then_some(())).await;
    let signed = until(async || auditor.log().checkpoint(from_ref(&auditor.key)).await.unwrap());
    assert!(signed.await.0.size > 0);
    // What the log does not prove is not shown.
    let entries = auditor.dir.path().join("log/tile/entries");
    std::fs::remove_dir_all(entries).unwrap();
    let (status, told) = world.get("/v1/audit/export", &strong).await;
    assert_eq!(status, 503, "{told}");
}
