//! What logins can and cannot do on the running server; what the operator's acts leave behind.

use crate::world::*;
use async_nats::{HeaderMap, jetstream};
use hotcell_nats_config::{
    AdminError, Durability, Login, Replicas, TenantSpec, api,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{
    Digest, Envelope, Role, Subject, TenantId, WorkerId,
    identity::RoleName,
    records::{AuditAct, AuditRecord, KeyRecord, TenantRecord},
    subject::LeaseVerb,
};
use nkeys::KeyPair;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_worker_called_star_would_own_every_workers_subjects_and_is_refused() {
    let (server, _admin) = provisioned().await;
    assert!("*".parse::<WorkerId>().is_err());
    let keys_of = server.installation().unwrap();
    let user = KeyPair::new_user();
    let body = json!({"type": "user", "version": 2, "tags": ["pool:*"],
        "issuer_account": keys_of.keys().encoders.public_key()});
    let star = connect_raw(&server, &keys_of.keys().workers, &user, "*", &body).await.unwrap();
    let victim = Subject::lease(&"w1".parse().unwrap(), LeaseVerb::Done);
    let signer = server.connect(&Login::Service(Role::Signer)).await.unwrap();
    let mut served = signer.subscribe("lease.*.done").await.unwrap();
    // The reply is the server's word that it knows of the subscription.
    settle(&signer).await;
    let ask = star.request(victim.as_str().to_owned(), "forged".into());
    let heard = async { futures::StreamExt::next(&mut served).await.unwrap() };
    tokio::select! {
        message = heard => assert_eq!(message.subject.as_str(), victim.as_str()),
        answer = ask => panic!("no signer heard it: {answer:?}"),
    }
    // The same by a login that the issuer makes.
    let mut honest = Watched::connect(&server, &worker("w1")).await;
    honest.publish_denied("lease.w2.done").await;
    honest.publish_denied("next.gpu.w1").await;
    honest.publish_denied("$JS.API.INFO").await;
    honest.subscribe_denied("_INBOX_w2.>").await;
    honest.subscribe_denied("lease.>").await;
}

#[tokio::test]
async fn a_worker_is_served_and_named_by_the_broker() {
    let (server, _admin) = provisioned().await;
    let signer = server.connect(&Login::Service(Role::Signer)).await.unwrap();
    let worker = server.connect(&worker("w1")).await.unwrap();
    let mut served = signer.queue_subscribe("next.*.*", "signers".to_owned()).await.unwrap();
    settle(&signer).await;
    let ask = worker.request("next.cpu.w1", "?".into());
    let answer = async {
        let message = futures::StreamExt::next(&mut served).await.unwrap();
        let info = message.headers.as_ref().unwrap().get("Nats-Request-Info").unwrap();
        let info: serde_json::Value = serde_json::from_str(info.as_str()).unwrap();
        let reply = message.reply.clone().unwrap();
        tell(&signer, reply, "work".to_owned()).await;
        info
    };
    let (answered, info) = tokio::join!(ask, answer);
    assert_eq!(answered.unwrap().payload, "work");
    assert_eq!(info["name_tag"], "w1");
    assert_eq!(info["tags"][0], "pool:cpu");
}

// BRK-78: each tenant has an account of its own at the broker, and hears nothing of another's.
#[tokio::test]
async fn tenants_reach_the_api_as_themselves_and_hear_their_own_events() {
    let (server, admin) = provisioned().await;
    for name in ["acme", "bolt"] {
        admin.add_tenant(&tenant(name), &"app".parse().unwrap(), NOW).await.unwrap();
    }
    let records = admin.tenants().await.unwrap();
    let (acme, bolt) = (&records[0], &records[1]);
    let intake = server.connect(&Login::Service(Role::Intake)).await.unwrap();
    let mut served = intake.queue_subscribe("tenant.*.submit", "intake".into()).await.unwrap();
    settle(&intake).await;
    let mut tenant = Watched::connect(&server, &program("acme")).await;
    let ask = tenant.client.request("api.submit", "{}".into());
    let answer = async {
        let message = futures::StreamExt::next(&mut served).await.unwrap();
        tell(&intake, message.reply.clone().unwrap(), "accepted".to_owned()).await;
        message.subject.to_string()
    };
    let (answered, subject) = tokio::join!(ask, answer);
    assert_eq!(answered.unwrap().payload, "accepted");
    assert_eq!(subject, format!("tenant.{}.submit", acme.account));

    let mut events = tenant.client.subscribe("events.>").await.unwrap();
    tenant.client.request("api.get", "".into()).await.ok();
    let webhook = server.connect(&Login::Service(Role::Webhook)).await.unwrap();
    let job = "0123456789abcdef0123456789abcdef";
    for kind in ["state", "terminal"] {
        for account in [&bolt.account, &acme.account] {
            let subject = format!("events.{account}.{job}.{kind}");
            tell(&webhook, subject, account.clone()).await;
        }
        let event = futures::StreamExt::next(&mut events).await.unwrap();
        assert_eq!(event.subject.as_str(), format!("events.{job}.{kind}"));
        assert_eq!(event.payload, acme.account, "the other tenant's came first, unheard");
    }

    tenant.publish_denied(&format!("tenant.{}.submit", bolt.account)).await;
    tenant.publish_denied("job.acme.x.completed").await;
    tenant.subscribe_denied("job.>").await;
}

#[tokio::test]
async fn services_are_held_to_their_rows() {
    let (server, _admin) = provisioned().await;
    let mut intake = Watched::connect(&server, &Login::Service(Role::Intake)).await;
    for denied in ["job.t.j.validated.cpu", "job.t.j.completed", "$JS.API.STREAM.DELETE.JOBS"] {
        intake.publish_denied(denied).await;
    }
    intake.publish_denied("$JS.API.DIRECT.GET.JOBS").await;
    intake.subscribe_denied("job.>").await;
    intake.subscribe_denied("_INBOX_signer.>").await;
    let mut hasher = Watched::connect(&server, &Login::Service(Role::Hasher)).await;
    hasher.publish_denied("$JS.ACK.JOBS.validator.1.1.1.1.1").await;
    let mut signer = Watched::connect(&server, &Login::Service(Role::Signer)).await;
    signer.publish_denied("$JS.API.CONSUMER.MSG.NEXT.JOBS.auditor").await;
    let mut provisioner = Watched::connect(&server, &Login::Service(Role::Provisioner)).await;
    for denied in ["DELETE", "UPDATE", "PURGE", "MSG.DELETE"] {
        provisioner.publish_denied(&format!("$JS.API.STREAM.{denied}.JOBS")).await;
    }
}

#[tokio::test]
async fn the_signer_pulls_work_within_the_tenants_cap() {
    let (server, admin) = provisioned().await;
    let spec = TenantSpec { concurrency: 1, ..tenant("acme") };
    admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
    let validator = server.connect(&Login::Service(Role::Validator)).await.unwrap();
    let validator = jetstream::new(validator);
    for job in ["j1", "j2"] {
        let subject = format!("job.acme.{job}.validated.cpu");
        validator.publish(subject, job.into()).await.unwrap().await.unwrap();
    }
    let signer = server.connect(&Login::Service(Role::Signer)).await.unwrap();
    let context = jetstream::new(signer);
    let jobs = context.get_stream_no_info("JOBS").await.unwrap();
    let work =
        jobs.get_consumer::<jetstream::consumer::pull::Config>("work_cpu_acme").await.unwrap();
    let pull = || async {
        let mut batch = work
            .fetch()
            .max_messages(1)
            .expires(Duration::from_millis(300))
            .messages()
            .await
            .unwrap();
        futures::StreamExt::next(&mut batch).await.transpose().unwrap()
    };
    // A pull may end before a busy broker comes to it.
    let next = || async {
        let until = Instant::now() + DEADLINE;
        loop {
            match pull().await {
                Some(message) => return message,
                None => assert!(Instant::now() < until, "nothing is delivered"),
            }
        }
    };
    let first = next().await;
    assert_eq!(first.payload, "j1");
    assert!(pull().await.is_none(), "the cap of one is reached");
    first.double_ack().await.unwrap();
    assert_eq!(next().await.payload, "j2");
}

#[tokio::test]
async fn the_last_sequence_of_a_jobs_filter_is_the_fence() {
    // The same with a sync before each acknowledgement.
    let server = TestServer::start_with(&options(), Durability::Always).await.unwrap();
    server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
    let signer = jetstream::new(server.connect(&Login::Service(Role::Signer)).await.unwrap());
    let hasher = jetstream::new(server.connect(&Login::Service(Role::Hasher)).await.unwrap());
    let intake = jetstream::new(server.connect(&Login::Service(Role::Intake)).await.unwrap());
    let validator = jetstream::new(server.connect(&Login::Service(Role::Validator)).await.unwrap());
    let cas = |context: jetstream::Context, subject: &'static str, sequence: u64| async move {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", sequence.to_string());
        headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", "job.t.j.>");
        let sent = context.publish_with_headers(subject, headers, subject.into()).await.unwrap();
        sent.await.map(|ack| ack.sequence)
    };
    let created = cas(intake.clone(), "job.t.j.submitted", 0).await.unwrap();
    assert!(cas(intake, "job.t.j.submitted", 0).await.is_err(), "created twice");
    let validated = cas(validator.clone(), "job.t.j.validated.cpu", created).await.unwrap();
    // Another subject of the job is last now, so the old sequence is refused.
    assert!(cas(validator, "job.t.j.rejected", created).await.is_err());
    // Another job, and what lies between in the stream, does not count.
    let assigned = cas(signer.clone(), "job.t.j.assigned", validated).await.unwrap();
    let racers = (0..8).map(|index| {
        let context = if index % 2 == 0 { signer.clone() } else { hasher.clone() };
        cas(context, "job.t.j.failed", assigned)
    });
    let results = futures::future::join_all(racers).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    let error = results.into_iter().find_map(Result::err).unwrap();
    assert_eq!(error.kind(), jetstream::context::PublishErrorKind::WrongLastSequence);
}

// ZT-04: the operator's acts are signed envelopes as every service's are.
#[tokio::test]
async fn a_key_is_stored_as_its_hash_and_every_act_is_recorded_and_signed() {
    let (server, admin) = provisioned().await;
    let acme: TenantId = "acme".parse().unwrap();
    let unknown = admin.add_key(&"nobody".parse().unwrap(), &[RoleName::TenantAdmin], NOW).await;
    assert!(matches!(unknown, Err(AdminError::UnknownTenant(_))));
    admin.add_tenant(&tenant("acme"), &"app".parse().unwrap(), NOW).await.unwrap();
    let key = admin.add_key(&acme, &[RoleName::TenantAdmin], NOW).await.unwrap();
    assert_eq!(key.text().len(), "hck_".len() + 32 + 1 + 43);
    admin.add_worker(&"w9".parse().unwrap(), &["cpu".parse().unwrap()], NOW).await.unwrap();
    server.connect(&worker("w9")).await.unwrap();

    let hand = jetstream::new(by_hand(&server).await);
    let stored = hand.get_key_value("keys").await.unwrap();
    let bytes = stored.get(key.id.as_str()).await.unwrap().unwrap();
    let record: KeyRecord = rmp_serde::from_slice(&bytes).unwrap();
    assert_eq!(record.sha256, Digest::of(key.text().as_bytes()));
    assert!(!bytes.windows(8).any(|window| key.text().as_bytes().ends_with(window)));
    let tenants = hand.get_key_value("tenants").await.unwrap();
    let bytes = tenants.get("acme").await.unwrap().unwrap();
    let record: TenantRecord = rmp_serde::from_slice(&bytes).unwrap();
    let slug = tenants.get(api::account_key(&record.account)).await.unwrap().unwrap();
    assert_eq!(rmp_serde::from_slice::<TenantId>(&slug).unwrap(), acme);

    let trust = server.installation().unwrap().trust().unwrap();
    let mut acts = Vec::new();
    let jobs = hand.get_stream("JOBS").await.unwrap();
    let last = jobs.get_info().await.unwrap().state.last_sequence;
    for sequence in 1..=last {
        let message = jobs.get_raw_message(sequence).await.unwrap();
        let header = |name| message.headers.get(name).map(async_nats::HeaderValue::as_str);
        let subject = message.subject.as_str();
        let envelope = Envelope::received(subject, header, &message.payload).unwrap();
        let record = envelope.open::<AuditRecord>(&trust).unwrap();
        assert_eq!(record.role(), Role::Provisioner);
        let AuditAct::Admin { action, target } = &record.get().act else { panic!("{record:?}") };
        acts.push(format!("{subject} {action} {target}"));
    }
    for act in [
        "audit.acme.admin tenant_added acme".to_owned(),
        format!("audit.acme.admin key_created {}", key.id),
        "audit._.admin worker_added w9".to_owned(),
        "audit._.admin provisioned stream JOBS".to_owned(),
    ] {
        assert!(acts.contains(&act), "{act} not in {acts:#?}");
    }
}

#[tokio::test]
async fn the_appended_direct_get_takes_no_body() {
    let (server, _admin) = provisioned().await;
    let intake = server.connect(&Login::Service(Role::Intake)).await.unwrap();
    for body in [
        json!({"seq": 1}),
        json!({"seq": 1, "next_by_subj": "audit.>"}),
        json!({"last_by_subj": "audit._.admin"}),
        json!({"multi_last": ["audit.>"]}),
        json!({"last_by_subj": "", "seq": 1}),
        json!({"last_by_subj": "", "multi_last": ["audit.>"]}),
        json!({"last_by_subj": null, "next_by_subj": "audit.>", "batch": 10}),
    ] {
        let subject = api::job_states();
        let answer = intake.request(subject, body.to_string().into()).await.unwrap();
        assert!(answer.payload.is_empty(), "{body}");
        assert_eq!(answer.status.map(|status| status.as_u16()), Some(408), "{body}");
    }
}
