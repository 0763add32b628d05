//! IAM-06, IAM-21 at the validator: what a stolen login of intake publishes in the name of a principal
//! whose risk is raised is held to the second factor that intake would have asked for; a job that was
//! accepted before is not ended.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;
#[path = "support/rig.rs"]
mod rig;

use hotcell_policy::block::{HEARD_MS, LIFE_MS};
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
use tokio::task::JoinSet;

fn ana() -> Actor {
    Actor::User { issuer: "https://id.example".to_owned(), subject: "ana".to_owned() }
}

fn risk(level: u8, at: UnixMs) -> BlockList {
    let record = BlockRecord {
        id: BlockId::new(1, [7; 10]),
        tenant: "acme".parse().unwrap(),
        principal: ana(),
        risk: Risk::try_from(level).unwrap(),
        reason: "CANARY".to_owned(),
        by: None,
        by_operator: false,
        at,
        until: None,
    };
    BlockList { blocks: vec![record] }
}

fn submitter() -> Authority {
    Authority { roles: [RoleName::Submitter].into(), ..Authority::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn iam_21_a_job_of_who_is_at_risk_is_refused_by_the_validator_without_a_second_factor() {
    let dir = clip::dir("risk");
    let server = broker().await;
    tenant(&server, "acme", false).await;
    let clip = clip::sample(&dir, Container::Mp4);
    let intake = Bus::connect(Role::Intake, &nats(&server, Role::Intake)).await.unwrap();
    let (shutdown, mut tasks) = (Shutdown::new(), JoinSet::new());
    let hers = KeyRecord {
        roles: submitter().roles,
        created_by: Some(ana()),
        ..KeyRecord::new(KeyId::new(1, [1; 10]), "acme".parse().unwrap(), "key", UnixMs(0))
    };
    intake.bucket("keys").create(hers.id.as_str(), &hers).await.unwrap();
    let key = Actor::ApiKey { id: hers.id };
    let by = |number: u8, actor: &Actor, authority: Authority| Job {
        actor: actor.clone(),
        authority,
        ..job(number, &clip, "video/mp4")
    };
    let strong = || Authority { mfa: true, auth_time: Some(clock::now()), ..submitter() };
    let login = job(1, &clip, "video/mp4").actor;
    // A minute before the submission, and just after it.
    let (old, since) = (-60_000, 1);
    let heard = -i64::try_from(HEARD_MS).unwrap();
    // Job, what stands then and when it was said, and whether it is refused.
    let cases = [
        (by(1, &ana(), submitter()), None, false),
        (by(2, &key, submitter()), None, false),
        (by(3, &ana(), submitter()), Some((2, old)), true),
        (by(4, &key, submitter()), Some((3, old)), true),
        (by(5, &ana(), strong()), Some((3, old)), false),
        (by(6, &login, submitter()), Some((3, old)), false),
        (by(7, &ana(), submitter()), Some((1, old)), false),
        // Raised after it was submitted; and before, by as much as it takes to hear of it.
        (by(8, &ana(), submitter()), Some((3, since)), false),
        (by(9, &ana(), submitter()), Some((3, heard)), true),
    ];
    let objects = cases.iter().map(|(job, ..)| (format!("/{}", job.inputs[0].key), clip.clone()));
    let url = store(Arc::new(objects.collect()), &mut tasks).await;
    let _asked = signer(&server, url, shutdown.clone(), &mut tasks).await;
    let mut validator = JoinSet::new();
    validator.spawn(run(config(&server, &dir), shutdown.clone()));
    let blocks = intake.bucket("blocks");
    for (mut job, said, refused) in cases {
        let now = clock::now();
        job.stamps[0].at = now;
        if let Some((level, after)) = said {
            let list = risk(level, UnixMs(now.0.checked_add_signed(after).unwrap()));
            let (_, revision) = blocks.look::<BlockList>("acme").await.unwrap();
            blocks.update("acme", &list, revision).await.unwrap();
        }
        // Past the promised life of a list in memory: that it is in force then is what is tested.
        tokio::time::sleep(Duration::from_millis(LIFE_MS + 100)).await;
        intake.publish(&Outgoing::job(job.clone(), 0)).await.unwrap();
        let judged = settled(&intake, &job).await;
        let Some(failure) = judged.failure.filter(|_| refused) else {
            assert_eq!(judged.state, EventKind::Validated, "{:?}", job.actor);
            continue;
        };
        assert_eq!((judged.state, failure.code), (EventKind::Rejected, RejectCode::PolicyDenied));
        assert!(failure.message.contains("by policy step-up-risk"), "{failure:?}");
        assert!(!failure.message.contains("CANARY"), "{failure:?}");
    }
    shutdown.begin();
    validator.join_next().await.unwrap().unwrap().unwrap();
}
