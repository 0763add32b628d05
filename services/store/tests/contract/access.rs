//! Who may do what, and what the configuration refuses.

use futures::TryStreamExt as _;
use hotcell_store::{AccessKeyConfig, Config, ConfigError, Grant, Op, ServeError, Store};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use tempfile::TempDir;

use crate::peers::{Peer, config};

/// Adds a key that may do `ops` below `prefix` of `hot-in`.
fn grant(config: &mut Config, dir: &TempDir, id: &str, ops: &[Op], prefix: &str) {
    let secret_file = dir.path().join(id);
    std::fs::write(&secret_file, format!("secret-of-the-key-{id}")).unwrap();
    let grant = Grant { ops: ops.to_vec(), bucket: "hot-in".into(), prefix: prefix.into() };
    let key = AccessKeyConfig { id: id.into(), secret_file, allow: vec![grant] };
    config.access_keys.push(key);
}

const ALL: [Op; 4] = [Op::Get, Op::Put, Op::Delete, Op::List];

/// Two tenants and a reader in one bucket.
async fn peer() -> Peer {
    let dir = TempDir::new().unwrap();
    let mut config = config(&dir);
    grant(&mut config, &dir, "acme", &ALL, "acme/");
    grant(&mut config, &dir, "umbrella", &ALL, "umbrella/");
    grant(&mut config, &dir, "reader", &[Op::Get], "");
    Peer::with_config(config, dir).await
}

fn become_key(peer: &mut Peer, id: &str) {
    peer.id = id.to_owned();
    peer.secret = format!("secret-of-the-key-{id}");
}

#[tokio::test]
async fn brk_39_two_tenants_in_one_bucket_cannot_reach_each_other() {
    let mut peer = peer().await;
    become_key(&mut peer, "acme");
    assert_eq!(peer.put("acme/a", b"mine").await, 200);
    become_key(&mut peer, "umbrella");
    assert_eq!(peer.put("umbrella/b", b"other").await, 200);

    // A URL can do no more than its signer.
    assert_eq!(peer.get("acme/a").await.0, 403);
    assert_eq!(peer.head("acme/a").await, 403);
    assert_eq!(peer.put("acme/a", b"x").await, 403);
    assert_eq!(peer.put("acme2/a", b"x").await, 403);
    assert_eq!(peer.put("root", b"x").await, 403);
    assert_eq!(peer.get("umbrella/b").await, (200, b"other".to_vec()));

    let store = peer.store();
    let list = async |prefix: Option<&str>| {
        let prefix = prefix.map(Path::from);
        store.list(prefix.as_ref()).try_collect::<Vec<_>>().await.map(|found| found.len())
    };
    assert_eq!(list(Some("umbrella")).await.unwrap(), 1);
    for prefix in [None, Some("acme"), Some("umb")] {
        let error = list(prefix).await.unwrap_err();
        assert!(error.to_string().contains("403 Forbidden"), "{error}");
    }
    let keys = ["umbrella/b", "acme/a"].map(|key| Ok(Path::from(key)));
    let stream = Box::pin(futures::stream::iter(keys));
    let deleted: Result<Vec<_>, _> = store.delete_stream(stream).try_collect().await;
    assert!(deleted.is_err());
    assert_eq!(peer.get("umbrella/b").await.0, 200, "nothing of a denied batch is deleted");
    become_key(&mut peer, "acme");
    assert_eq!(peer.get("acme/a").await, (200, b"mine".to_vec()));
    peer.bucket = "hot-secret".to_owned();
    assert_eq!(peer.put("acme/a", b"x").await, 403);
}

#[tokio::test]
async fn a_reader_only_reads_and_strangers_do_nothing() {
    let mut peer = peer().await;
    assert_eq!(peer.put("a", b"x").await, 200);
    become_key(&mut peer, "reader");
    assert_eq!(peer.get("a").await.0, 200);
    assert_eq!(peer.put("a", b"y").await, 403);
    assert!(peer.store().delete(&Path::from("a")).await.is_err());
    assert!(peer.store().list(None).try_collect::<Vec<_>>().await.is_err());
    become_key(&mut peer, "stranger");
    assert_eq!(peer.get("a").await.0, 403);
    peer.id = "reader".to_owned();
    assert_eq!(peer.get("a").await.0, 403, "the secret of another key");
}

async fn refusal(change: impl FnOnce(&mut Config, &TempDir)) -> ServeError {
    let dir = TempDir::new().unwrap();
    let mut config = config(&dir);
    change(&mut config, &dir);
    Store::bind(config).await.unwrap_err()
}

/// API-33: nothing can be made public, by mistake or on purpose.
#[tokio::test]
async fn configurations_that_are_refused() {
    macro_rules! refuses {
        ($pattern:pat, $change:expr) => {
            let error = refusal($change).await;
            assert!(matches!(&error, ServeError::Config($pattern)), "{error:?}");
        };
    }
    refuses!(ConfigError::Bucket(_), |c, _| c.buckets.push("../up".into()));
    refuses!(ConfigError::Bucket(_), |c, _| c.buckets = vec!["abc".into(); 65]);
    refuses!(ConfigError::Region, |c, _| c.region = String::new());
    refuses!(ConfigError::PresignExpires, |c, _| c.presign_expires_secs_max = 604_801);
    refuses!(ConfigError::PresignExpires, |c, _| c.presign_expires_secs_max = 0);
    refuses!(ConfigError::AccessKey(_), |c, _| c.access_keys[0].id = String::new());
    refuses!(ConfigError::AccessKey(_), |c, _| c.access_keys[0].id = "a/b".into());
    refuses!(ConfigError::AccessKey(_), |c, d| {
        grant(c, d, crate::peers::ID, &ALL, "");
    });
    refuses!(ConfigError::Grant(_), |c, d| grant(c, d, "k", &ALL, "acme"));
    refuses!(ConfigError::Grant(_), |c, d| grant(c, d, "k", &[], "acme/"));
    refuses!(ConfigError::SecretFile { .. }, |c, _| {
        c.access_keys[0].secret_file = "/nonexistent".into();
    });
    for secret in ["", "short", "with space in the middle", &"long".repeat(100)] {
        refuses!(ConfigError::Secret(_), |c: &mut Config, _| {
            std::fs::write(&c.access_keys[0].secret_file, secret).unwrap();
        });
    }
}

#[test]
fn the_default_configuration_parses_and_unknown_keys_do_not() {
    let defaults = include_str!("../../config.default.toml");
    let config: Config = toml::from_str(defaults).unwrap();
    assert_eq!((config.presign_expires_secs_max, config.access_keys.len()), (3600, 0));
    let example: String = defaults
        .lines()
        .map(|line| match line.contains(" = ") || line.starts_with("# [") {
            true => line.trim_start_matches("# "),
            false => line,
        })
        .filter(|line| !line.starts_with("# ") && *line != "access_keys = []")
        .map(|line| format!("{line}\n"))
        .collect();
    let config: Config = toml::from_str(&example).unwrap();
    assert_eq!(config.access_keys[0].allow[0].ops, [Op::Get, Op::Put, Op::Delete, Op::List]);
    assert!(config.tls.is_some());
    for unknown in ["anonymous = true\n", "public = [\"hot-in\"]\n"] {
        assert!(toml::from_str::<Config>(&format!("{unknown}{defaults}")).is_err());
    }
}
