//! IAM-06, IAM-21 at the validator: what a stolen login of intake publishes in the name of a principal
//! that is blocked is refused before anything is opened.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;
#[path = "support/rig.rs"]
mod rig;

use hotcell_nats_config::{Login, testing::TestServer};
use hotcell_policy::block::LIFE_MS;
use hotcell_schemas::{
    BlockId, EventKind, Job, KeyId, RejectCode, Role, UnixMs,
    block::{BlockList, BlockRecord, Risk},
    identity::{Authority, RoleName},
    job::Actor,
    plan::Container,
    records::KeyRecord,
};
use hotcell_stage::{Bus, Outgoing, Shutdown, clock};
use hotcell_validator::run;
use rig::{broker, config, job, nats, settled, signer, store, tenant};
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};

fn ana() -> Actor {
    Actor::User { issuer: "https://id.example".to_owned(), subject: "ana".to_owned() }
}

fn block(until: Option<UnixMs>) -> BlockList {
    let block = BlockRecord {
        id: BlockId::new(1, [7; 10]),
        tenant: "acme".parse().unwrap(),
        principal: ana(),
        risk: Risk::STOP,
        reason: "CANARY".to_owned(),
        by: None,
        by_operator: false,
        at: UnixMs(1),
        until,
    };
    BlockList { blocks: vec![block] }
}

#[tokio::test(flavor = "multi_thread")]
async fn iam_21_a_blocked_principal_s_job_is_refused_by_the_validator() {
    let dir = clip::dir("blocked");
    let server = broker().await;
    tenant(&server, "acme", false).await;
    let clip = clip::sample(&dir, Container::Mp4);
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let authority = Authority { roles: [RoleName::Submitter].into(), ..Authority::default() };
    let hers = KeyRecord {
        roles: authority.roles.clone(),
        created_by: Some(ana()),
        ..KeyRecord::new(KeyId::new(1, [1; 10]), "acme".parse().unwrap(), "key", UnixMs(0))
    };
    intake.bucket("keys").create(hers.id.as_str(), &hers).await.unwrap();
    let by = |number: u8, actor: Actor| Job {
        actor,
        authority: authority.clone(),
        ..job(number, &clip, "video/mp4")
    };
    let (key, login) = (Actor::ApiKey { id: hers.id }, job(1, &clip, "video/mp4").actor);
    // Before the block, under it, and after its end; and whether it is refused.
    let cases = [
        (by(1, ana()), None, false),
        (by(2, key.clone()), None, false),
        (by(3, ana()), Some(block(None)), true),
        (by(4, key), Some(block(None)), true),
        (by(5, login), Some(block(None)), false),
        (by(6, ana()), Some(block(Some(clock::now()))), false),
    ];
    let waits = by(7, ana());
    let all = cases.iter().map(|(job, ..)| job).chain([&waits]);
    let objects = all.map(|job| (format!("/{}", job.inputs[0].key), clip.clone()));
    let url = store(Arc::new(objects.collect()), &mut tasks).await;
    let asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    let blocks = intake.bucket("blocks");
    for (job, list, refused) in &cases {
        if let Some(list) = list {
            let (_, revision) = blocks.look::<BlockList>("acme").await.unwrap();
            blocks.update("acme", list, revision).await.unwrap();
        }
        // Past the promised life of a list in memory: that it is in force then is what is tested.
        tokio::time::sleep(Duration::from_millis(LIFE_MS + 100)).await;
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
        let judged = settled(&intake, job).await;
        let opened = asked.lock().unwrap().contains_key(&job.inputs[0].key);
        assert_eq!(opened, !refused, "{:?}", job.actor);
        let Some(failure) = judged.failure.filter(|_| *refused) else {
            assert_eq!(judged.state, EventKind::Validated, "{:?}", job.actor);
            continue;
        };
        assert_eq!(
            (judged.state, failure.code),
            (EventKind::Rejected, RejectCode::IdentityBlocked)
        );
        assert!(!failure.message.contains("CANARY"), "{failure:?}");
    }
    kept_waiting(&server, &intake, &waits).await;
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}

/// A list that is none lets nothing through, and ends nothing.
async fn kept_waiting(server: &TestServer, intake: &Bus, waits: &Job) {
    let blocks = intake.bucket("blocks");
    let (_, revision) = blocks.look::<BlockList>("acme").await.unwrap();
    let revision = blocks.update("acme", &"no list", revision).await.unwrap();
    tokio::time::sleep(Duration::from_millis(LIFE_MS + 100)).await;
    let operator = server.connect(&Login::Service(Role::Provisioner)).await.unwrap();
    let delivered = async || {
        let subject = "$JS.API.CONSUMER.INFO.JOBS.validator";
        let info = operator.request(subject, "".into()).await.unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info.payload).unwrap();
        info["delivered"]["consumer_seq"].as_u64().unwrap()
    };
    let before = delivered().await;
    let seq = intake.publish(&Outgoing::job(waits.clone(), 0)).await.unwrap().seq;
    let until = Instant::now() + rig::DEADLINE;
    while delivered().await < before + 2 {
        assert!(Instant::now() < until, "it was not tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(intake.job(&waits.tenant, &waits.id).await.unwrap().unwrap().seq, seq);
    blocks.update("acme", &BlockList::default(), revision).await.unwrap();
    assert_eq!(settled(intake, waits).await.state, EventKind::Validated);
}
