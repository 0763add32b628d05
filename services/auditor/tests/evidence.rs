//! Evidence as it is exported: complete, proven, of one tenant, and nothing from a log that was
//! changed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;

use hotcell_auditor::checkpoint::Checkpoint;
use hotcell_auditor::evidence::{EvidenceError, Filter, Reader};
use hotcell_auditor::export::Exports;
use hotcell_auditor::log::{Log, Outcome};
use hotcell_auditor::record::{BundleId, Record, split_bundle};
use hotcell_auditor::store::LogStore;
use hotcell_auditor::tile::{TileId, encode_entries};
use hotcell_schemas::envelope::Envelope;
use hotcell_schemas::evidence::{EvidenceKind, EvidenceReply, EvidenceRequest, EvidenceRow};
use hotcell_schemas::identity::{Action, Authority, Decided, Outcome as Said};
use hotcell_schemas::job::Actor;
use hotcell_schemas::limits::BODY_BYTES_MAX;
use hotcell_schemas::records::{AuditAct, AuditRecord};
use hotcell_schemas::subject::AuditKind;
use hotcell_schemas::trust::TrustedKey;
use hotcell_schemas::{Digest, Role, Subject, TenantId, Trust, UnixMs};
use nkeys::KeyPair;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use support::{config, keys, memory, open};

const T0: u64 = 1_700_000_000_000;
/// Entries are ten minutes apart, so that a time is searched for and not walked to.
const STEP_MS: u64 = 600_000;
const ENTRIES: u64 = 1000;
const JOB: &str = "0193a0f0c0de7000800000000000beef";

struct World {
    intake: KeyPair,
    webhook: KeyPair,
    trust: Trust,
    objects: Arc<dyn ObjectStore>,
    log: Log,
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn person(name: &str) -> Actor {
    Actor::User { issuer: "https://idp.example".to_owned(), subject: name.to_owned() }
}

/// Entry `seq`: tenants take turns, and within each ana and bob do.
fn decision(seq: u64, target: &str) -> (Option<TenantId>, AuditAct) {
    let whose = [Some(tenant("acme")), Some(tenant("bolt")), None][(seq % 3) as usize].clone();
    let decided = Decided {
        node: Role::Intake,
        action: Action::ReadOutput,
        outcome: Said::Allowed,
        policies: vec!["role-submitter".to_owned()],
        digest: Digest::of(b"set"),
        at: UnixMs(T0),
    };
    let actor = person(if seq.is_multiple_of(2) { "ana" } else { "bob" });
    let authority = Authority { mfa: true, ..Authority::default() };
    (whose, AuditAct::Decision { actor, authority, target: target.to_owned(), decided })
}

impl World {
    async fn start() -> Self {
        let (objects, head) = memory();
        let (intake, webhook) = (KeyPair::new_user(), KeyPair::new_user());
        let key = |role, pair: &KeyPair| TrustedKey { role, key: pair.public_key() };
        let keys = vec![key(Role::Intake, &intake), key(Role::Webhook, &webhook)];
        let log = open(&objects, &head).await.unwrap();
        Self { intake, webhook, trust: Trust::new(keys).unwrap(), objects, log }
    }

    fn record(&self, seq: u64, by: &KeyPair, target: &str) -> Record {
        let (whose, act) = decision(seq, target);
        let (at, id) = (UnixMs(T0 + seq * STEP_MS), format!("act.{seq}"));
        let subject = Subject::audit(whose.as_ref(), AuditKind::Decision);
        let body = AuditRecord { at, tenant: whose, act };
        let sealed = Envelope::seal(subject, id, at, by, &body).unwrap();
        let headers = sealed.headers().map(|(name, value)| (name.to_owned(), value));
        Record::new(seq, at.0, sealed.subject.as_str(), headers.to_vec(), sealed.body)
    }

    async fn append(&mut self, records: &[Record]) {
        for batch in records.chunks(100) {
            let outcome = self.log.append(batch).await.unwrap();
            assert!(matches!(outcome, Outcome::Published(_)));
        }
    }

    async fn grown() -> Self {
        let mut world = Self::start().await;
        let target = format!("GET /v1/transcodes/{{id}}/download {JOB}");
        let records: Vec<_> =
            (1..=ENTRIES).map(|seq| world.record(seq, &world.intake, &target)).collect();
        world.append(&records).await;
        world
    }

    fn exports(&self) -> Exports {
        Exports { store: self.log.store().clone(), keys: keys() }
    }

    fn head(&self) -> Checkpoint {
        self.log.checkpoint().unwrap().0.clone()
    }

    /// Every page of what is asked for, and how many there were.
    async fn walk(&self, mut ask: EvidenceRequest) -> (Vec<EvidenceRow>, usize) {
        let (mut all, mut pages) = (Vec::new(), 0);
        loop {
            let reply = self.exports().page(&ask, &self.trust).await.unwrap();
            let subject = Subject::evidence_export();
            let sealed =
                Envelope::seal_reply(subject, "id".to_owned(), UnixMs(T0), &self.intake, &reply);
            assert!(sealed.unwrap().body.len() <= BODY_BYTES_MAX);
            let EvidenceReply::Page { rows, next, checkpoint } = reply else { panic!("no page") };
            let opened = Checkpoint::open(checkpoint.unwrap().as_bytes(), &keys()).unwrap();
            assert_eq!(opened, self.head());
            all.extend(rows);
            pages += 1;
            match next {
                Some(index) => ask.cursor = Some(index),
                None => return (all, pages),
            }
        }
    }

    async fn first_error(&self) -> EvidenceError {
        let head = self.head();
        let mut reader = Reader::new(self.log.store(), &self.trust, &head);
        for group in 0..reader.groups() {
            if let Err(error) = reader.found(group, 0, &Filter::default()).await {
                return error;
            }
        }
        panic!("everything was believed");
    }

    async fn overwrite(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = Path::from(format!("{}/{path}", config().prefix));
        let mut bytes = self.objects.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
        change(&mut bytes);
        self.objects.put(&path, bytes.into()).await.unwrap();
    }
}

fn ask(of: &str) -> EvidenceRequest {
    EvidenceRequest {
        tenant: tenant(of),
        from: None,
        to: None,
        actor: None,
        cursor: None,
        limit: 50,
    }
}

fn indices(rows: &[EvidenceRow]) -> Vec<u64> {
    rows.iter().map(|row| row.index).collect()
}

/// Entry `seq` is leaf `seq - 1`.
fn expected(wanted: impl Fn(u64) -> bool) -> Vec<u64> {
    (1..=ENTRIES).filter(|seq| wanted(*seq)).map(|seq| seq - 1).collect()
}

#[tokio::test]
async fn step_19_pages_hold_every_entry_of_one_tenant_and_none_of_another() {
    let world = World::grown().await;
    let (acme, pages) = world.walk(ask("acme")).await;
    assert_eq!(indices(&acme), expected(|seq| seq % 3 == 0));
    assert!(pages > 5);
    assert!(acme.iter().all(|row| row.tenant == Some(tenant("acme"))));
    let (bolt, _) = world.walk(ask("bolt")).await;
    assert_eq!(indices(&bolt), expected(|seq| seq % 3 == 1));
    assert_eq!(world.walk(ask("nobody")).await.0, []);
    // The hash of each line is that of the leaf which a proof carries.
    let (head, note) = world.log.checkpoint().unwrap();
    for row in &acme {
        let proof = world.log.store().prove(row.index, head, note).await.unwrap();
        let (leaf, _) = proof.check_carried(&keys()).unwrap();
        let hash = hotcell_auditor::tree::leaf_hash(leaf);
        assert_eq!(row.leaf, Digest::from_bytes(*hash.as_bytes()));
    }
}

#[tokio::test]
async fn step_14_an_actor_s_entries_are_in_order_and_within_the_time_asked_for() {
    let world = World::grown().await;
    let (from, to) = (T0 + 700 * STEP_MS, T0 + 760 * STEP_MS);
    let request = EvidenceRequest {
        from: Some(UnixMs(from)),
        to: Some(UnixMs(to)),
        actor: Some("user:ana".parse().unwrap()),
        ..ask("acme")
    };
    let (rows, pages) = world.walk(request.clone()).await;
    let within = |seq: u64| (700..760).contains(&seq);
    assert_eq!(indices(&rows), expected(|seq| seq % 6 == 0 && within(seq)));
    assert_eq!(pages, 1);
    let first = &rows[0];
    assert_eq!((first.event.as_str(), first.by), ("decision", Some(Role::Intake)));
    assert_eq!(first.actor, Some(person("ana")));
    assert_eq!(first.job.as_ref().map(ToString::to_string).as_deref(), Some(JOB));
    assert_eq!(first.decided[0].action, Action::ReadOutput);
    assert!(first.authority.as_ref().unwrap().mfa);
    for (who, some) in [
        ("user:https://idp.example#ana", true),
        ("user:https://other.example#ana", false),
        ("service:ana", false),
        ("worker:ana", false),
    ] {
        let request = EvidenceRequest { actor: Some(who.parse().unwrap()), ..request.clone() };
        assert_eq!(!world.walk(request).await.0.is_empty(), some, "{who}");
    }
}

#[tokio::test]
async fn step_19_what_its_role_may_not_say_names_nobody_and_no_url_is_shown() {
    let mut world = World::start().await;
    let url = "https://store/x?X-Amz-Signature=CANARY";
    let records = [
        // A stolen login of another role says that ana read something.
        world.record(3, &world.webhook, "GET /v1/x"),
        world.record(6, &world.intake, url),
        Record::new(9, T0, "audit.acme.decision", Vec::new(), "CANARY"),
    ];
    world.append(&records).await;
    let (rows, _) = world.walk(ask("acme")).await;
    let kinds: Vec<_> = rows.iter().map(|row| row.kind).collect();
    assert_eq!(kinds, [EvidenceKind::Unbelieved, EvidenceKind::Audit, EvidenceKind::Unbelieved]);
    assert_eq!((&rows[0].actor, &rows[0].target, rows[0].by), (&None, &None, None));
    assert_eq!(rows[1].target.as_deref(), Some("[withheld]"));
    let all: String = rows.iter().map(|row| row.json().to_string()).collect();
    assert!(!all.contains("CANARY") && !all.contains("X-Amz"), "{all}");
    let bob = EvidenceRequest { actor: Some("user:bob".parse().unwrap()), ..ask("acme") };
    assert_eq!(world.walk(bob).await.0, []);
}

#[tokio::test]
async fn step_19_pages_fit_a_message_however_long_their_lines_are() {
    let mut world = World::start().await;
    let records: Vec<_> =
        (1..=600).map(|n| world.record(n * 3, &world.intake, &"é".repeat(4000))).collect();
    world.append(&records).await;
    let (rows, pages) = world.walk(EvidenceRequest { limit: 500, ..ask("acme") }).await;
    assert_eq!((rows.len(), pages > 6), (600, true), "{pages}");
}

#[tokio::test]
async fn step_19_a_log_that_was_changed_shows_nothing_of_what_was() {
    // A leaf that was rewritten hides whose it is from whoever believes what is stored.
    let world = World::grown().await;
    let id = TileId::holding(0, 300, ENTRIES).unwrap();
    let mut entries = world.log.store().entries(id).await.unwrap();
    let text = String::from_utf8(entries[44].clone()).unwrap();
    entries[44] = text.replace("bolt", "acme").replace("\"ts\":1", "\"ts\":2").into_bytes();
    assert_ne!(entries[44], text.as_bytes());
    let forged = encode_entries(&entries).unwrap();
    world.overwrite(&id.entries_path(), |bytes| *bytes = forged).await;
    let believed = world.log.store().entries(id).await.unwrap();
    assert_eq!(believed[44], entries[44], "without proofs it is believed");
    let error = world.first_error().await;
    assert!(matches!(error, EvidenceError::Store(_)), "{error}");

    // A record that was changed, and one that is gone.
    for gone in [false, true] {
        let world = World::grown().await;
        let bundle = BundleId { first: 256, last: 299 };
        world
            .overwrite(&bundle.path(), |bytes| {
                if gone {
                    bytes.truncate(bytes.len() - 1);
                } else {
                    let last = bytes.len() - 1;
                    bytes[last] ^= 1;
                }
                assert!(!split_bundle(bytes, 1).0.is_empty());
            })
            .await;
        let error = world.first_error().await;
        assert!(matches!(error, EvidenceError::Record { index: 299 }), "{error}");
    }

    // A tile of another group that the proof leads through.
    let world = World::grown().await;
    let id = TileId::holding(1, 0, ENTRIES).unwrap();
    world.overwrite(&id.path(), |bytes| bytes[0] ^= 1).await;
    assert!(matches!(world.first_error().await, EvidenceError::Store(_)));

    // Another log's checkpoint.
    let world = World::grown().await;
    let other = hotcell_auditor::note::Signer::from_seed("audit.other/v1", &[1; 32]).unwrap();
    let exports = Exports {
        store: LogStore::new(Arc::clone(&world.objects), &config().prefix),
        keys: vec![other.verifier().clone()],
    };
    assert!(exports.page(&ask("acme"), &world.trust).await.is_err());
}

#[tokio::test]
async fn an_empty_log_is_an_empty_page() {
    let world = World::start().await;
    let reply = world.exports().page(&ask("acme"), &world.trust).await.unwrap();
    assert_eq!(reply, EvidenceReply::Page { rows: Vec::new(), next: None, checkpoint: None });
}
