//! The buckets that a tenant's outputs went to: forgotten when the tenant is removed, since each
//! record holds a sealed secret.

use crate::{
    admin::{Admin, AdminError},
    api,
};
use async_nats::HeaderMap;
use hotcell_schemas::TenantId;

const BUCKET: &str = "destinations";

impl Admin {
    /// Removes the records of the tenant's destinations. What is in its buckets is its own.
    pub(crate) async fn forget_destinations(&self, tenant: &TenantId) -> Result<(), AdminError> {
        let filter = api::bucket_key(BUCKET, &format!("{tenant}.{}", api::ANY));
        for subject in self.subjects(&api::bucket_stream(BUCKET), &filter).await? {
            let mut headers = HeaderMap::new();
            headers.insert("KV-Operation", "DEL");
            self.store(subject, headers, Vec::new()).await?;
        }
        Ok(())
    }
}
