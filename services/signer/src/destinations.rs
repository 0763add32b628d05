//! Whose URLs a job's outputs get: the store's, or those of the bucket that its tenant's destination
//! names.
//!
//! Promises: a destination's secret is opened here and nowhere else, for the record that it was
//! sealed for, and for one signature; each URL is signed by the record as it is now. Refuses: a
//! destination that is hotcell's own store, where outputs would be out of the reaper's sight; and to
//! take a record that cannot be opened for the store.
//!
//! A record that does not open keeps its job waiting instead of failing it: another signer may have
//! the key that this one was not given, and what is the operator's to repair is no fault of the job.

use crate::{
    Signer,
    mint::Mint,
    presign::{Endpoint, PresignError, PresignKey},
};
use hotcell_policy::recheck::RecheckError;
use hotcell_schemas::{
    Job,
    destination::DestinationRecord,
    reject::{Failure, RejectCode},
};
use hotcell_stage::vault::{Vault, VaultError};
use std::sync::Arc;

/// Why nobody can tell now where a job's outputs go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DestinationError {
    /// The record.
    #[error(transparent)]
    Record(#[from] RecheckError),
    /// No `destination_key`.
    #[error("this signer has no destination_key: set it, and start again")]
    NoKey,
    /// The secret.
    #[error("destination_key does not open the destination's secret: make the destination anew")]
    Sealed(#[source] VaultError),
    /// A part that cannot be in a URL.
    #[error("the destination's record cannot be signed for: make the destination anew")]
    Unusable(#[source] PresignError),
}

/// Opens destinations' secrets.
pub(crate) struct Destinations(Option<Vault>);

impl Destinations {
    pub(crate) fn new(key: Option<[u8; 32]>) -> Self {
        Self(key.map(|key| Vault::new(&key)))
    }

    /// The mint of a record whose endpoint is `place`.
    fn mint(&self, place: Endpoint, record: DestinationRecord) -> Result<Mint, DestinationError> {
        let vault = self.0.as_ref().ok_or(DestinationError::NoKey)?;
        let secret = vault.open(&record.sealed, &record.owner());
        let secret = secret.map_err(DestinationError::Sealed)?;
        let unusable = DestinationError::Unusable;
        let secret =
            std::str::from_utf8(&secret).map_err(|_| unusable(PresignError::Credential))?;
        let key = PresignKey::new(&record.access_key_id, secret, &record.region);
        Ok(Mint::elsewhere(key.map_err(unusable)?, place, record))
    }
}

impl Signer {
    /// The mint of the job's outputs. What else an attempt stores is in the store, always.
    ///
    /// # Errors
    /// [`DestinationError`]: nobody can tell now; a refusal, `destination_unknown`, is the inner
    /// result.
    pub(crate) async fn outputs_of(
        &self,
        job: &Job,
    ) -> Result<Result<Arc<Mint>, Failure>, DestinationError> {
        let record = match self.recheck.destination(job).await? {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Ok(Arc::clone(&self.mint))),
            Err(failure) => return Ok(Err(failure)),
        };
        let place = Endpoint::try_from(&record).map_err(DestinationError::Unusable)?;
        if self.mint.is_at(&place, &record.bucket) {
            let message = format!("the destination {} is hotcell's own store", record.name);
            return Ok(Err(Failure::new(RejectCode::DestinationUnknown, message)));
        }
        Ok(Ok(Arc::new(self.destinations.mint(place, record)?)))
    }
}
