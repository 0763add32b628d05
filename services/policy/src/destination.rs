//! Where a job's outputs go, by the tenants' records.
//!
//! Promises: a name leads to a record of the very tenant that names it, whose address is in its one
//! spelling, and which was there when the job was submitted. Refuses: to take a record that cannot
//! be read for the store, or for none.

use hotcell_schemas::{
    DestinationName, Job, TenantId, UnixMs,
    destination::{DestinationRecord, STORE},
    reject::{Failure, RejectCode},
};
use hotcell_stage::{
    Bus,
    kv::{Bucket, KvError},
};

/// Where a job's outputs go, as policy is told: hotcell's own store, or a record's address.
#[must_use]
pub fn location(record: Option<&DestinationRecord>) -> String {
    record.map_or_else(|| STORE.to_owned(), DestinationRecord::location)
}

/// Reads bucket `destinations`.
#[derive(Debug, Clone)]
pub struct Destinations(Bucket);

impl Destinations {
    /// Reads through `bus`, whose role must be one of the bucket's readers.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self(bus.bucket("destinations"))
    }

    /// Where a request of `tenant` of time `at` leads that names `name`; `None` is the store.
    ///
    /// # Errors
    /// The bucket's; a refusal is the inner result.
    pub async fn find(
        &self,
        tenant: &TenantId,
        name: Option<&DestinationName>,
        at: UnixMs,
    ) -> Result<Result<Option<DestinationRecord>, Failure>, KvError> {
        let Some(name) = name else { return Ok(Ok(None)) };
        let found = self.0.get::<DestinationRecord>(&DestinationRecord::key(tenant, name)).await?;
        Ok(check(found.map(|entry| entry.value), tenant, name, at).map(Some))
    }

    /// Where the job's outputs go: as [`Self::find`], as of its submission.
    ///
    /// # Errors
    /// The bucket's; a refusal is the inner result.
    pub async fn of_job(
        &self,
        job: &Job,
    ) -> Result<Result<Option<DestinationRecord>, Failure>, KvError> {
        let at = job.stamps.first().map_or(UnixMs(0), |stamp| stamp.at);
        self.find(&job.tenant, job.request.destination.as_ref(), at).await
    }

    /// The tenant's destinations that can be used, by name.
    ///
    /// # Errors
    /// The bucket's.
    pub async fn list(&self, tenant: &TenantId) -> Result<Vec<DestinationRecord>, KvError> {
        let found = self.0.scan::<DestinationRecord>(&format!("{tenant}.")).await?;
        let own = |it: &DestinationRecord| it.tenant == *tenant && it.check().is_ok();
        let mut all: Vec<_> = found.into_iter().map(|it| it.value).filter(own).collect();
        all.sort_unstable_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        Ok(all)
    }
}

/// Whether `record` is what `name` led to at `at`. One that was entered later may lead elsewhere
/// than the one that was decided on.
fn check(
    record: Option<DestinationRecord>,
    tenant: &TenantId,
    name: &DestinationName,
    at: UnixMs,
) -> Result<DestinationRecord, Failure> {
    let refuse = |message: String| Failure::new(RejectCode::DestinationUnknown, message);
    let own = |record: &DestinationRecord| record.tenant == *tenant && record.name == *name;
    let record = record.filter(own).ok_or_else(|| {
        refuse(format!("the destination {name} is not, or no longer, one of the tenant's"))
    })?;
    if let Err(error) = record.check() {
        return Err(refuse(format!("the destination {name} cannot be used: its {error}")));
    }
    if record.created_at > at {
        let message =
            format!("the destination {name} was entered after it was asked for: ask again");
        return Err(refuse(message));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_nats_config::testing::destination;

    fn record(tenant: &str, name: &str) -> DestinationRecord {
        let place = ["https://s3.example.com", "media", ""];
        DestinationRecord { created_at: UnixMs(1000), ..destination(tenant, name, place) }
    }

    #[test]
    fn iam_09_only_the_tenant_s_own_sound_record_of_before_is_a_destination() {
        let (acme, cdn) = ("acme".parse().unwrap(), "cdn".parse().unwrap());
        let said = |record: Option<DestinationRecord>, at: u64| {
            check(record, &acme, &cdn, UnixMs(at)).map_err(|failure| {
                assert_eq!(failure.code, RejectCode::DestinationUnknown);
                assert!(failure.message.contains("destination cdn"), "{}", failure.message);
                failure.message
            })
        };
        assert_eq!(said(Some(record("acme", "cdn")), 1000), Ok(record("acme", "cdn")));
        for other in [None, Some(record("globex", "cdn")), Some(record("acme", "archive"))] {
            assert!(said(other, 2000).unwrap_err().contains("not, or no longer"));
        }
        let late = said(Some(record("acme", "cdn")), 999).unwrap_err();
        assert!(late.contains("entered after"), "{late}");
        let forged = DestinationRecord {
            endpoint: "https://s3.example.com@evil.org".to_owned(),
            ..record("acme", "cdn")
        };
        let bad = said(Some(forged), 2000).unwrap_err();
        assert!(bad.contains("its endpoint must"), "{bad}");
        assert!(!bad.contains("evil"), "an address is not repeated: {bad}");
    }
}
