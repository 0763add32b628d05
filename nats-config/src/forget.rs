//! What a tenant put under names of its own: forgotten when the tenant is removed. The record of a
//! destination holds a sealed secret, a preset's whatever its tenant wrote into it; what a job took
//! from either is in the job's record, which stays.

use crate::{
    admin::{Admin, AdminError},
    api,
};
use async_nats::HeaderMap;
use hotcell_schemas::TenantId;

/// Buckets whose keys are `<tenant>.<name>`, and in some `<tenant>` for a list of them.
const BUCKETS: [&str; 2] = ["destinations", "presets"];

impl Admin {
    /// Removes the tenant's destinations and presets. What is in its own buckets is its own.
    pub(crate) async fn forget_named(&self, tenant: &TenantId) -> Result<(), AdminError> {
        for bucket in BUCKETS {
            for key in [format!("{tenant}.{}", api::ANY), tenant.to_string()] {
                let filter = api::bucket_key(bucket, &key);
                for subject in self.subjects(&api::bucket_stream(bucket), &filter).await? {
                    let mut headers = HeaderMap::new();
                    headers.insert("KV-Operation", "DEL");
                    self.store(subject, headers, Vec::new()).await?;
                }
            }
        }
        Ok(())
    }
}
