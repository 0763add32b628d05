//! Starting, stopping, crashing, and what the log says meanwhile.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use hotcell_store::{DiskError, Durability, ServeError, Store};
use object_store::ObjectStore as _;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::attacks::eventually;
use crate::peers::{Peer, bound, client, config, send_put};
use crate::raw::Raw;

/// A store that can be stopped, and its directory.
async fn start(dir: TempDir, durability: Durability) -> (Peer, CancellationToken) {
    let mut config = config(&dir);
    config.durability = durability;
    let store = Store::bind(config).await.unwrap();
    let mut peer = Peer::at(&format!("http://{}", store.local_addr()), dir);
    let token = CancellationToken::new();
    let shutdown = token.clone();
    peer.tasks.spawn(async move { store.run(shutdown).await.unwrap() });
    (peer, token)
}

async fn stop(mut peer: Peer, token: CancellationToken) -> TempDir {
    token.cancel();
    peer.tasks.join_next().await.unwrap().unwrap();
    peer.dir
}

fn object_files(dir: &Path) -> Vec<PathBuf> {
    let parts = std::fs::read_dir(dir.join("data/buckets/hot-in")).unwrap();
    let files = parts.flat_map(|part| std::fs::read_dir(part.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

#[tokio::test]
async fn objects_survive_a_restart_and_so_does_create_only() {
    for durability in [Durability::Always, Durability::EachSecond] {
        let (peer, token) = start(TempDir::new().unwrap(), durability).await;
        assert_eq!(send_put(&peer.put_url("a/b", bound(b"one")), b"one").await, 200);
        let dir = stop(peer, token).await;
        let (peer, token) = start(dir, durability).await;
        assert_eq!(peer.get("a/b").await, (200, b"one".to_vec()));
        assert_eq!(send_put(&peer.put_url("a/b", bound(b"two")), b"two").await, 412);
        let listed = peer.store().list_with_delimiter(None).await.unwrap();
        assert_eq!(listed.common_prefixes.len(), 1);
        drop(stop(peer, token).await);
    }
}

#[tokio::test]
async fn what_a_crash_leaves_is_cleaned_and_damage_is_put_aside() {
    let (peer, token) = start(TempDir::new().unwrap(), Durability::Always).await;
    for key in ["good", "torn", "foreign"] {
        assert_eq!(peer.put(key, key.as_bytes()).await, 200);
    }
    let dir = stop(peer, token).await;
    let holds = |text: &str| {
        let mut found = object_files(dir.path()).into_iter();
        found.find(|file| std::fs::read(file).unwrap().starts_with(text.as_bytes())).unwrap()
    };
    let torn = std::fs::OpenOptions::new().write(true).open(holds("torn")).unwrap();
    torn.set_len(20).unwrap();
    // Valid, but under the name of another key.
    std::fs::rename(holds("foreign"), holds("good").with_file_name("00".repeat(32))).unwrap();
    std::fs::write(dir.path().join("data/tmp/17"), b"half").unwrap();

    let (peer, token) = start(dir, Durability::Always).await;
    assert_eq!(peer.get("good").await, (200, b"good".to_vec()));
    assert_eq!((peer.head("torn").await, peer.head("foreign").await), (404, 404));
    assert!(peer.temp_files().is_empty());
    let aside = std::fs::read_dir(peer.dir.path().join("data/quarantine")).unwrap().count();
    assert_eq!((aside, object_files(peer.dir.path()).len()), (2, 1));
    drop(stop(peer, token).await);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let peer = Peer::in_process().await;
    let second = Store::bind(config(&peer.dir)).await;
    assert!(matches!(second, Err(ServeError::Disk(DiskError::InUse))), "{second:?}");
}

/// A tenant's text is not on disk as a name, only inside the object's own file.
#[tokio::test]
async fn file_names_are_hashes() {
    let peer = Peer::in_process().await;
    assert_eq!(peer.put("tenant/secret-name.mp4", b"x").await, 200);
    let files = object_files(peer.dir.path());
    let name = files[0].file_name().unwrap().to_str().unwrap();
    assert!(name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
}

#[tokio::test]
async fn a_request_in_flight_ends_before_the_store_does() {
    let (mut peer, token) = start(TempDir::new().unwrap(), Durability::EachSecond).await;
    let url = peer.put_url("a", bound(b"12345678"));
    let target = url.url.expose().strip_prefix(&peer.url).unwrap();
    let mut headers = vec![("expect", "100-continue")];
    headers.extend(url.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let mut raw = Raw::open(&peer).await;
    raw.head("PUT", target, &headers).await;
    raw.wait_continue().await;
    token.cancel();
    let refused = async || client().get(&peer.url).send().await.is_err();
    while !refused().await {}
    raw.body(b"12345678").await;
    assert_eq!(raw.answer().await.0, 200);
    peer.tasks.join_next().await.unwrap().unwrap();
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// BRK-21's evidence is this log; it must show the kind of authentication and leak nothing, at
/// any level. s3s alone writes the whole request at debug.
#[tokio::test]
async fn brk_21_the_access_log_names_the_kind_and_never_the_signature() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // The runtime of this test is this thread.
    let guard = tracing::subscriber::set_default(subscriber);
    let peer = Peer::in_process().await;
    let url = peer.put_url("tenant/name.mp4", bound(b"12345678"));
    assert_eq!(send_put(&url, b"12345678").await, 200);
    assert_eq!(peer.get("tenant/name.mp4").await.0, 200);
    assert_eq!(client().get(&peer.url).send().await.unwrap().status(), 403);
    peer.store().list_with_delimiter(None).await.unwrap();
    let log = || String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    // Only what the server says: the clients of this test log in the same process.
    let ours = |log: String| {
        let lines =
            log.lines().filter(|line| line.contains("hotcell_store") || line.contains("s3s"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    eventually(|| log().contains("auth=\"header\""), "all four lines are written").await;
    drop(guard);
    let log = ours(log());
    for expect in [
        "method=PUT status=200",
        "bytes_in=8 bytes_out=0 auth=\"presigned\"",
        "bytes_in=0 bytes_out=8 auth=\"presigned\"",
        "auth=\"none\" refusal=a signature is required",
        "auth=\"header\"",
        "path_sha256=",
    ] {
        assert!(log.contains(expect), "{expect:?} not in\n{log}");
    }
    for leak in ["X-Amz", "Signature=", "name.mp4", crate::peers::SECRET, "Authorization"] {
        assert!(!log.contains(leak), "{leak:?} in\n{log}");
    }
}

fn write_config(dir: &TempDir) -> PathBuf {
    std::fs::write(dir.path().join("secret"), "0123456789abcdef0123").unwrap();
    let root = dir.path().display();
    let text = format!(
        "listen = \"127.0.0.1:0\"\nlisten_file = \"{root}/addr\"\ndata_dir = \"{root}/data\"\n\
         buckets = [\"hot-in\"]\n[[access_keys]]\nid = \"k\"\nsecret_file = \"{root}/secret\"\n\
         allow = [{{ ops = [\"get\"], bucket = \"hot-in\", prefix = \"\" }}]\n"
    );
    let path = dir.path().join("store.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn program(config: &Path) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotcell-store"));
    command.arg(config).stderr(Stdio::null()).spawn().unwrap()
}

#[tokio::test]
async fn the_program_announces_its_address_and_ends_on_sigterm() {
    let dir = TempDir::new().unwrap();
    let mut child = program(&write_config(&dir));
    let file = dir.path().join("addr");
    eventually(|| file.exists(), "the address is announced").await;
    let address = std::fs::read_to_string(&file).unwrap();
    let status = client().get(format!("http://{}", address.trim())).send().await.unwrap().status();
    assert_eq!(status, 403);
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_bad_configuration_exits_64() {
    let dir = TempDir::new().unwrap();
    let path = write_config(&dir);
    std::fs::write(dir.path().join("secret"), "short").unwrap();
    assert_eq!(program(&path).wait().unwrap().code(), Some(64));
    std::fs::write(&path, "anonymous = true\n").unwrap();
    assert_eq!(program(&path).wait().unwrap().code(), Some(64));
}
