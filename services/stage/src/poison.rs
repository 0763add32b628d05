//! Whether an input is in quarantine: asked before a job is validated, and again before it is given
//! to a worker. Refuses to write: the signer counts, the operator releases.

use crate::{bus::Bus, kv::KvError};
use hotcell_schemas::{TenantId, job::Input, poison::PoisonRecord};

impl Bus {
    /// The quarantine that one of the inputs is in, for this tenant or for everyone.
    ///
    /// # Errors
    /// `Unread`, `Malformed`.
    pub async fn quarantine(
        &self,
        tenant: &TenantId,
        inputs: &[Input],
    ) -> Result<Option<PoisonRecord>, KvError> {
        let bucket = self.bucket("poison");
        for input in inputs {
            let own = PoisonRecord::key(input.sha256, Some(tenant));
            let common = PoisonRecord::key(input.sha256, None);
            let (own, common) = tokio::try_join!(
                bucket.get::<PoisonRecord>(&own),
                bucket.get::<PoisonRecord>(&common)
            )?;
            let found = [common, own].into_iter().flatten().map(|entry| entry.value);
            if let Some(record) = found.into_iter().find(PoisonRecord::is_quarantined) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }
}
