//! IAM-09, ZT-04: who can make a destination at the broker, and that a removed tenant keeps none.

use crate::world::*;
use hotcell_nats_config::{
    Login, api,
    testing::{NOW, TestServer},
};
use hotcell_schemas::Role;

const KEY: &str = "acme.cdn";

fn subject(key: &str) -> String {
    api::bucket_key("destinations", key)
}

/// The record at `key`, as whoever may read it sees it.
async fn stored(server: &TestServer, reader: Role, key: &str) -> Option<Vec<u8>> {
    stored_in(server, "destinations", reader, key).await
}

async fn stored_in(server: &TestServer, bucket: &str, reader: Role, key: &str) -> Option<Vec<u8>> {
    let client = server.connect(&Login::Service(reader)).await.unwrap();
    let asked = api::direct_get(&api::bucket_stream(bucket), &api::bucket_key(bucket, key));
    let answer = client.request(asked, "".into()).await.unwrap();
    let is_gone = answer.status.is_some_and(|status| status.as_u16() == 404)
        || answer.headers.as_ref().is_some_and(|headers| headers.get("KV-Operation").is_some());
    (!is_gone).then(|| answer.payload.to_vec())
}

#[tokio::test]
async fn iam_09_whoever_steals_the_edge_enters_no_bucket_of_theirs() {
    let (server, admin) = with_acme().await;
    // The attack is a plain write: the provisioner's works, and every reader sees it.
    let operator = server.connect(&Login::Service(Role::Provisioner)).await.unwrap();
    for key in [KEY, "bolt.cdn"] {
        operator.request(subject(key), "the operator's".into()).await.unwrap();
    }
    for role in Role::PIPELINE.into_iter().filter(|role| *role != Role::Provisioner) {
        let mut thief = Watched::connect(&server, &Login::Service(role)).await;
        for key in [KEY, "acme.mine"] {
            thief.publish_denied(&subject(key)).await;
        }
    }
    for login in [program("acme"), worker("w1")] {
        Watched::connect(&server, &login).await.publish_denied(&subject(KEY)).await;
    }
    for reader in [Role::Intake, Role::Validator, Role::Signer] {
        let found = stored(&server, reader, KEY).await;
        assert_eq!(found.as_deref(), Some(b"the operator's".as_slice()), "{reader}");
        assert_eq!(stored(&server, reader, "acme.mine").await, None, "{reader}");
    }

    // Sealed secrets of a removed tenant are kept by nobody; another tenant's stay.
    admin.remove_tenant(&acme(), NOW).await.unwrap();
    assert_eq!(stored(&server, Role::Signer, KEY).await, None);
    assert!(stored(&server, Role::Signer, "bolt.cdn").await.is_some());
}

/// STEP-04: a list of presets, and each under its name; of a tenant whose name only begins alike all
/// stay.
#[tokio::test]
async fn step_04_a_removed_tenant_keeps_no_preset() {
    let (server, admin) = with_acme().await;
    let (theirs, others) = (["acme", "acme.web"], ["acme-two", "acme-two.web", "bolt.web"]);
    let edge = server.connect(&Login::Service(Role::Intake)).await.unwrap();
    for key in theirs.into_iter().chain(others) {
        edge.request(api::bucket_key("presets", key), "settings".into()).await.unwrap();
        assert!(stored_in(&server, "presets", Role::Intake, key).await.is_some(), "{key}");
    }
    admin.remove_tenant(&acme(), NOW).await.unwrap();
    for key in theirs {
        assert_eq!(stored_in(&server, "presets", Role::Intake, key).await, None, "{key}");
    }
    for key in others {
        assert!(stored_in(&server, "presets", Role::Intake, key).await.is_some(), "{key}");
    }
}

/// IAM-21: the names of people that it has blocked go with it, and those that the operator has blocked
/// in it; another tenant's stay, and so do the operator's policies.
#[tokio::test]
async fn iam_21_a_removed_tenant_keeps_no_block() {
    let (server, admin) = with_acme().await;
    let rows = [
        (Role::Intake, "blocks", "acme", false),
        (Role::Provisioner, "platform", "blocks.acme", false),
        (Role::Intake, "blocks", "acme-two", true),
        (Role::Provisioner, "platform", "blocks.acme-two", true),
        (Role::Provisioner, "platform", "platform", true),
    ];
    for (role, bucket, key, _) in rows {
        let writer = server.connect(&Login::Service(role)).await.unwrap();
        writer.request(api::bucket_key(bucket, key), "list".into()).await.unwrap();
        assert!(stored_in(&server, bucket, Role::Signer, key).await.is_some(), "{key}");
    }
    admin.remove_tenant(&acme(), NOW).await.unwrap();
    for (_, bucket, key, stays) in rows {
        let found = stored_in(&server, bucket, Role::Signer, key).await;
        assert_eq!(found.is_some(), stays, "{bucket} {key}");
    }
}

/// BRK-43: where a removed tenant was told, and the sealed secrets of it, go with it.
#[tokio::test]
async fn brk_43_a_removed_tenant_keeps_no_webhook() {
    let (server, admin) = with_acme().await;
    let rows = [("acme", false), ("acme.one", false), ("acme-two", true), ("acme-two.one", true)];
    let writer = server.connect(&Login::Service(Role::Webhook)).await.unwrap();
    for (key, _) in rows {
        writer.request(api::bucket_key("endpoints", key), "webhook".into()).await.unwrap();
        assert!(stored_in(&server, "endpoints", Role::Webhook, key).await.is_some(), "{key}");
    }
    admin.remove_tenant(&acme(), NOW).await.unwrap();
    for (key, stays) in rows {
        let found = stored_in(&server, "endpoints", Role::Webhook, key).await;
        assert_eq!(found.is_some(), stays, "{key}");
    }
}
