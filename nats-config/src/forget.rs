//! What a tenant put under names of its own: forgotten when the tenant is removed. The record of a
//! destination holds a sealed secret, a preset's whatever its tenant wrote into it, a block's the name
//! of a person, a webhook's a URL that opens something; what a job took from them is in the job's record, which stays.

use crate::{
    admin::{Admin, AdminError},
    api,
};
use async_nats::HeaderMap;
use hotcell_schemas::{TenantId, block};

/// Buckets whose keys are `<tenant>.<name>`, and in some `<tenant>` for a list of them.
const BUCKETS: [&str; 4] = ["destinations", "presets", "blocks", "endpoints"];

impl Admin {
    /// Removes the tenant's destinations, presets, blocks and webhooks. What is in its own buckets is its own.
    pub(crate) async fn forget_named(&self, tenant: &TenantId) -> Result<(), AdminError> {
        let own = [format!("{tenant}.{}", api::ANY), tenant.to_string()];
        let own = BUCKETS.iter().flat_map(|bucket| own.clone().map(|key| (*bucket, key)));
        for (bucket, key) in own.chain([("platform", block::operators_key(tenant))]) {
            let filter = api::bucket_key(bucket, &key);
            for subject in self.subjects(&api::bucket_stream(bucket), &filter).await? {
                let mut headers = HeaderMap::new();
                headers.insert("KV-Operation", "DEL");
                self.store(subject, headers, Vec::new()).await?;
            }
        }
        Ok(())
    }
}
