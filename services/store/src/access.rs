//! Who may do what: access keys from the configuration, each with its operations and prefixes.
//!
//! Promises: without credentials nothing is allowed, an operation that is not in the table below
//! is not implemented for anyone, and a key reaches only the buckets and prefixes it was given.

use std::collections::BTreeMap;
use std::sync::Arc;

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{Credentials, S3Auth, SecretKey};
use s3s::dto::{DeleteObjectsInput, ListObjectsV2Input};
use s3s::path::S3Path;
use s3s::{S3Request, S3Result, s3_error};

use crate::config::{AccessKey, Op};

/// All access keys, by id.
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    keys: Arc<BTreeMap<String, AccessKey>>,
}

impl Keyring {
    pub(crate) fn new(keys: BTreeMap<String, AccessKey>) -> Self {
        Self { keys: Arc::new(keys) }
    }

    /// Whether some grant covers the operation on the bucket and on a key that `covers` accepts
    /// the prefix of.
    fn allows(&self, id: &str, op: Op, bucket: &str, covers: impl Fn(&str) -> bool) -> bool {
        self.keys.get(id).is_some_and(|key| {
            let fits = |grant: &&crate::config::Grant| {
                grant.bucket == bucket && grant.ops.contains(&op) && covers(&grant.prefix)
            };
            key.allow.iter().find(fits).is_some()
        })
    }

    fn require(
        &self,
        credentials: Option<&Credentials>,
        op: Op,
        bucket: &str,
        covers: impl Fn(&str) -> bool,
    ) -> S3Result<()> {
        let id = credentials.map(|credentials| credentials.access_key.as_str());
        if id.is_some_and(|id| self.allows(id, op, bucket, covers)) {
            return Ok(());
        }
        Err(s3_error!(AccessDenied, "Access Denied"))
    }
}

#[async_trait::async_trait]
impl S3Auth for Keyring {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.keys.get(access_key) {
            Some(key) => Ok(SecretKey::from(key.secret.0.as_str())),
            None => Err(s3_error!(InvalidAccessKeyId, "The access key does not exist")),
        }
    }
}

/// The operations that exist here.
fn op_of(name: &str) -> Option<Op> {
    match name {
        "GetObject" | "HeadObject" => Some(Op::Get),
        "PutObject" => Some(Op::Put),
        "DeleteObject" | "DeleteObjects" => Some(Op::Delete),
        "ListObjectsV2" | "HeadBucket" => Some(Op::List),
        "CreateBucket" => Some(Op::CreateBucket),
        _ => None,
    }
}

#[async_trait::async_trait]
impl S3Access for Keyring {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        if cx.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        let Some(op) = op_of(cx.s3_op().name()) else {
            return Err(s3_error!(NotImplemented, "This operation is not implemented"));
        };
        match cx.s3_path() {
            S3Path::Root => Err(s3_error!(AccessDenied, "Access Denied")),
            // Which keys of the bucket is in the query or the body: checked below.
            S3Path::Bucket { bucket } => self.require(cx.credentials(), op, bucket, |_| true),
            S3Path::Object { bucket, key } => {
                self.require(cx.credentials(), op, bucket, |prefix| key.starts_with(prefix))
            }
        }
    }

    async fn list_objects_v2(&self, req: &mut S3Request<ListObjectsV2Input>) -> S3Result<()> {
        let asked = req.input.prefix.as_deref().unwrap_or_default();
        let covers = |prefix: &str| asked.starts_with(prefix);
        self.require(req.credentials.as_ref(), Op::List, &req.input.bucket, covers)
    }

    async fn delete_objects(&self, req: &mut S3Request<DeleteObjectsInput>) -> S3Result<()> {
        for object in &req.input.delete.objects {
            let covers = |prefix: &str| object.key.starts_with(prefix);
            self.require(req.credentials.as_ref(), Op::Delete, &req.input.bucket, covers)?;
        }
        Ok(())
    }
}
