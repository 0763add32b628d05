//! An S3 backend written the obvious way, with the holes that the obvious way has: keys joined to
//! paths, check-then-rename, rename before verify, a copy that trusts its caller. It shows that
//! each attack works, and that the guard alone stops those that are the guard's.

use std::path::PathBuf;

use base64::Engine as _;
use futures::TryStreamExt as _;
use hotcell_store::guard::Policy;
use hotcell_store::server::{Guarded, accept};
use s3s::auth::SimpleAuth;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopySource, GetObjectInput, GetObjectOutput, PutObjectInput,
    PutObjectOutput, StreamingBlob,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::peers::{ID, Peer, REGION, SECRET, sha256};

struct Naive(PathBuf);

impl Naive {
    fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.0.join(bucket).join(key)
    }
}

#[async_trait::async_trait]
impl S3 for Naive {
    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let bytes = std::fs::read(self.path(&req.input.bucket, &req.input.key));
        let bytes = bytes.map_err(|_| s3_error!(NoSuchKey))?;
        let body = Some(StreamingBlob::from(Body::from(bytes::Bytes::from(bytes))));
        Ok(S3Response::new(GetObjectOutput { body, ..Default::default() }))
    }

    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let path = self.path(&input.bucket, &input.key);
        if input.if_none_match.is_some() && path.exists() {
            return Err(s3_error!(PreconditionFailed));
        }
        let chunks: Vec<_> = input.body.unwrap().try_collect().await.unwrap();
        let bytes = chunks.concat();
        std::fs::write(&path, &bytes).unwrap();
        let sum = base64::engine::general_purpose::STANDARD.encode(sha256(&bytes));
        if input.checksum_sha256.is_some_and(|expected| expected != sum) {
            return Err(s3_error!(BadDigest));
        }
        Ok(S3Response::new(PutObjectOutput::default()))
    }

    async fn copy_object(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let CopySource::Bucket { bucket, key, .. } = &req.input.copy_source else {
            return Err(s3_error!(NotImplemented));
        };
        let to = self.path(&req.input.bucket, &req.input.key);
        std::fs::copy(self.path(bucket, key), to).map_err(|_| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(CopyObjectOutput::default()))
    }
}

fn service(dir: &TempDir) -> S3Service {
    for bucket in ["hot-in", "hot-secret"] {
        std::fs::create_dir(dir.path().join(bucket)).unwrap();
    }
    let mut builder = S3ServiceBuilder::new(Naive(dir.path().to_owned()));
    builder.set_auth(SimpleAuth::from_single(ID, SECRET));
    builder.build()
}

/// The naive backend as s3s serves it.
pub(crate) async fn unguarded() -> Peer {
    let dir = TempDir::new().unwrap();
    let service = service(&dir);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = Peer::at(&format!("http://{}", listener.local_addr().unwrap()), dir);
    peer.tasks.spawn(accept(listener, None, service, CancellationToken::new()));
    peer
}

/// The same behind our guard.
pub(crate) async fn guarded() -> Peer {
    let dir = TempDir::new().unwrap();
    let policy = Policy { region: REGION.to_owned(), presign_expires_secs_max: 3600 };
    let service = Guarded::new(service(&dir), policy);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = Peer::at(&format!("http://{}", listener.local_addr().unwrap()), dir);
    peer.tasks.spawn(accept(listener, None, service, CancellationToken::new()));
    peer
}
