//! Places outside of hotcell's own store where a tenant's outputs are put: a bucket that the operator
//! entered for the tenant. The signer signs for it as for its own store, so a worker still sees
//! nothing but a URL.

use crate::{BlobKey, DestinationName, TenantId, UnixMs};
use serde::{Deserialize, Serialize};

/// What policies, approvals and records call hotcell's own store.
pub const STORE: &str = "store";

/// How a bucket is addressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addressing {
    /// `https://host/bucket/key`: any server.
    #[default]
    Path,
    /// `https://bucket.host/key`: what AWS prefers.
    Virtual,
}

/// A destination; bucket `destinations`, key `<tenant>.<name>`. It is made and removed, never
/// changed: a job goes where the name led when it was decided on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationRecord {
    /// Whose.
    pub tenant: TenantId,
    /// Its name in requests.
    pub name: DestinationName,
    /// Base URL of the store's S3 API: `https://s3.eu-central-1.amazonaws.com`, without a path.
    pub endpoint: String,
    /// Region of its signatures.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What its keys begin with, without slashes at its ends; empty for none.
    pub prefix: String,
    /// How the bucket is addressed.
    #[serde(default)]
    pub addressing: Addressing,
    /// The access key's public half.
    pub access_key_id: String,
    /// Its secret, sealed under the signer's own key for [`Self::owner`].
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: UnixMs,
}

impl DestinationRecord {
    /// Key of the record.
    #[must_use]
    pub fn key(tenant: &TenantId, name: &DestinationName) -> String {
        format!("{tenant}.{name}")
    }

    /// Whom its secret is sealed for: all that says where it would be used, so that a record whose
    /// address was changed opens nothing.
    #[must_use]
    pub fn owner(&self) -> String {
        let Self { tenant, name, endpoint, region, bucket, prefix, access_key_id, .. } = self;
        let addressing = match self.addressing {
            Addressing::Path => "path",
            Addressing::Virtual => "virtual",
        };
        let parts: [&str; 8] = [
            tenant.as_str(),
            name.as_str(),
            endpoint,
            region,
            bucket,
            prefix,
            addressing,
            access_key_id,
        ];
        format!("destination\0{}", parts.join("\0"))
    }

    /// What policies are asked about: endpoint, bucket and prefix as one URL, however the bucket is
    /// addressed.
    #[must_use]
    pub fn location(&self) -> String {
        let (endpoint, bucket) = (self.endpoint.trim_end_matches('/'), &self.bucket);
        match self.prefix.as_str() {
            "" => format!("{endpoint}/{bucket}"),
            prefix => format!("{endpoint}/{bucket}/{prefix}"),
        }
    }

    /// An object's key in the bucket: that in hotcell's own store, below the prefix.
    #[must_use]
    pub fn object_key(&self, key: &BlobKey) -> String {
        match self.prefix.as_str() {
            "" => key.as_str().to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }
}
