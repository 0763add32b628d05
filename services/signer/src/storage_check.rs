//! Looks at the object store before the first request is served.
//!
//! Promises: a signer that serves has listed and written its bucket with its own key, and the
//! bucket answers strangers neither a GET nor a LIST (API-33). Refuses: a store that does not
//! answer (exit 69), a key or bucket that is refused and a public bucket (exit 64).

use crate::{config::StorageConfig, presign::Endpoint};
use futures::TryStreamExt as _;
use hotcell_schemas::{
    UnixMs,
    work::{SecretUrl, SignedUrl},
};
use hotcell_stage::{
    ServiceError, Shutdown,
    blob::{BlobError, Blobs},
    retry::{Policy, retry},
    service::describe,
};
use object_store::{Error as StoreError, ObjectStore, PutMode, path::Path};
use std::time::Duration;
use tokio::time::timeout;

/// Time for one request, in seconds.
const LOOK_SECS: u64 = 5;

/// A key that no tenant has: its first segment is no slug. It stays, so that it can be asked for.
const CANARY: &str = "_hotcell/storage-check";

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum LookError {
    #[error("it does not answer ({0})")]
    Silent(String),
    #[error("{0}")]
    Refused(&'static str),
}

/// Checks the store that `storage` names.
///
/// # Errors
/// `Unreachable`, when it does not answer; `Refused`, when it answers what it must not.
pub(crate) async fn run(
    storage: &StorageConfig,
    endpoint: &Endpoint,
    objects: &dyn ObjectStore,
    shutdown: &Shutdown,
) -> Result<(), ServiceError> {
    let look = || async {
        own(objects).await?;
        strangers(endpoint, &storage.bucket).await
    };
    let silent = |error: &LookError| matches!(error, LookError::Silent(_));
    let looked = tokio::select! {
        looked = retry(Policy::CONNECT, silent, look) => looked,
        () = shutdown.begun() => return Ok(()),
    };
    let (bucket, endpoint) = (&storage.bucket, &storage.endpoint);
    looked.map_err(|error| match error {
        LookError::Silent(_) => ServiceError::Unreachable(format!(
            "the object store at {endpoint} cannot be used, {error}: start it, or correct \
             storage.endpoint"
        )),
        LookError::Refused(why) => ServiceError::Refused(format!(
            "bucket {bucket} of the object store at {endpoint} cannot be used: {why}"
        )),
    })
}

/// With our own key: endpoint, region, bucket and key are right, for reading and for writing.
async fn own(objects: &dyn ObjectStore) -> Result<(), LookError> {
    let (canary, look) = (Path::from(CANARY), Duration::from_secs(LOOK_SECS));
    let slow = |_| LookError::Silent("it took too long".to_owned());
    // The write first: of a list that is refused the client does not say so.
    let written = objects.put_opts(&canary, "hotcell".into(), PutMode::Create.into());
    match timeout(look, written).await.map_err(slow)? {
        Ok(_) | Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {}
        Err(error) => return Err(judge(&error)),
    }
    let mut listed = objects.list(Some(&canary));
    let listed = timeout(look, listed.try_next()).await.map_err(slow)?;
    listed.map(|_| ()).map_err(|error| judge(&error))
}

fn judge(error: &StoreError) -> LookError {
    use StoreError::{NotFound, PermissionDenied, Unauthenticated};
    if matches!(error, PermissionDenied { .. } | Unauthenticated { .. }) {
        LookError::Refused("it refuses the key in storage.secret")
    } else if matches!(error, NotFound { .. }) {
        LookError::Refused("there is no such bucket")
    } else {
        LookError::Silent(describe(error))
    }
}

/// Without a key: the list of the bucket, and an object that is there.
async fn strangers(endpoint: &Endpoint, bucket: &str) -> Result<(), LookError> {
    let blobs = Blobs::new();
    for (rest, why) in [
        ("?list-type=2&max-keys=1", "anybody may list it; close it to the public"),
        (CANARY, "anybody may read it; close it to the public"),
    ] {
        let url = SecretUrl::new(endpoint.unsigned_url(bucket, rest));
        let url = SignedUrl { url, headers: Vec::new(), expires_at: UnixMs(u64::MAX) };
        match timeout(Duration::from_secs(LOOK_SECS), blobs.get(&url)).await {
            Ok(Ok(_)) => return Err(LookError::Refused(why)),
            Ok(Err(BlobError::Unreachable(_))) => {
                return Err(LookError::Silent("it answers strangers with an error".to_owned()));
            }
            Ok(Err(_)) => {}
            Err(_) => return Err(LookError::Silent("it took too long".to_owned())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{AddressingConfig, StorageConfig},
        presign::Addressing,
    };
    use object_store::aws::AmazonS3Builder;
    use std::net::SocketAddr;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinSet,
    };

    const LIST: &str = "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                        <Name>hotcell</Name><KeyCount>0</KeyCount><MaxKeys>1</MaxKeys>\
                        <IsTruncated>false</IsTruncated></ListBucketResult>";

    /// A store that answers `own` to a signed request and `list` or `get` to a stranger's.
    async fn store(own: u16, list: u16, get: u16) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let length = socket.read(&mut buffer).await.unwrap();
                    head.extend_from_slice(&buffer[..length]);
                }
                let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                let status = match (head.contains("\nauthorization:"), head.contains("list-type")) {
                    (true, _) => own,
                    (false, true) => list,
                    (false, false) => get,
                };
                let body = if status == 200 && head.starts_with("get") { LIST } else { "" };
                let answer = format!(
                    "HTTP/1.1 {status} X\r\netag: \"1\"\r\ncontent-length: {}\r\n\
                     connection: close\r\n\r\n{body}",
                    body.len()
                );
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, task)
    }

    async fn look(address: SocketAddr) -> Result<(), ServiceError> {
        hotcell_stage::blob::install_tls();
        let storage = StorageConfig {
            endpoint: format!("http://{address}"),
            region: "us-east-1".to_owned(),
            bucket: "hotcell".to_owned(),
            access_key_id: "signer".to_owned(),
            secret: "unused".into(),
            addressing: AddressingConfig::Path,
            check: true,
        };
        let objects = AmazonS3Builder::new()
            .with_endpoint(&storage.endpoint)
            .with_allow_http(true)
            .with_region(&storage.region)
            .with_bucket_name(&storage.bucket)
            .with_access_key_id("signer")
            .with_secret_access_key("secret")
            .build()
            .unwrap();
        let endpoint = Endpoint::parse(&storage.endpoint, Addressing::Path).unwrap();
        run(&storage, &endpoint, &objects, &Shutdown::new()).await
    }

    #[tokio::test]
    async fn api_33_a_bucket_that_strangers_can_list_or_read_is_refused() {
        let (closed, _one) = store(200, 403, 403).await;
        look(closed).await.unwrap();
        for (list, get, word) in [(200, 403, "list it"), (403, 200, "read it")] {
            let (open, _two) = store(200, list, get).await;
            let error = look(open).await.unwrap_err();
            assert!(matches!(error, ServiceError::Refused(_)), "{error:?}");
            assert!(error.to_string().contains(word), "{error}");
        }
        // Our own key was refused: nothing to wait for.
        let (foreign, _three) = store(403, 403, 403).await;
        let error = look(foreign).await.unwrap_err();
        assert!(matches!(&error, ServiceError::Refused(why) if why.contains("storage.secret")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_does_not_answer_is_waited_for_and_then_named() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let error = look(address).await.unwrap_err();
        assert!(matches!(error, ServiceError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
