//! Inputs that killed their cell, by their bytes: who counts, how often, and when nobody runs them
//! any more.
//!
//! Promises: one attempt is one strike, however often it is reported; a file that crashes FFmpeg or
//! makes it reach for a refused system call counts for every tenant, one that only ran out of
//! memory for its own tenant alone, because the tenant chooses how much memory a plan needs. (The
//! signer counts all of it so where the tenant wrote FFmpeg's arguments itself.)
//! Refuses to grow: the newest strike takes the last place. Pure.

use crate::{
    Digest, JobId, TenantId, UnixMs, WorkerId,
    limits::{POISON_STRIKES, POISON_STRIKES_KEPT},
    reject::{Failure, RejectCode},
};
use serde::{Deserialize, Serialize};

/// One death of a cell that is held against its input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strike {
    /// Whose job it was.
    pub tenant: TenantId,
    /// The job.
    pub job: JobId,
    /// The attempt: one attempt is one strike, however often it is reported.
    pub attempt: u32,
    /// Who ran it.
    pub worker: WorkerId,
    /// How the cell died.
    pub code: RejectCode,
    /// When the report came.
    pub at: UnixMs,
}

/// An input that killed its cell; bucket `poison`, key [`PoisonRecord::key`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoisonRecord {
    /// SHA-256 of the input.
    pub sha256: Digest,
    /// For whom it counts; every tenant when absent.
    pub tenant: Option<TenantId>,
    /// Its strikes, oldest first, at most [`POISON_STRIKES_KEPT`].
    pub strikes: Vec<Strike>,
}

/// For whom a death counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every tenant: the bytes did it.
    Everyone,
    /// The job's own tenant: its plan had a part in it.
    Tenant,
}

impl Scope {
    /// For whom an attempt that ended with `code` counts; `None` when it says nothing about the
    /// input.
    #[must_use]
    pub const fn of(code: RejectCode) -> Option<Self> {
        if matches!(code, RejectCode::CellViolation | RejectCode::CellCrashed) {
            Some(Self::Everyone)
        } else if matches!(code, RejectCode::ResourceMemory) {
            Some(Self::Tenant)
        } else {
            None
        }
    }
}

impl PoisonRecord {
    /// A record without strikes.
    #[must_use]
    pub const fn new(sha256: Digest, tenant: Option<TenantId>) -> Self {
        Self { sha256, tenant, strikes: Vec::new() }
    }

    /// `<SHA-256>` for every tenant, `<tenant>.<SHA-256>` for one.
    #[must_use]
    pub fn key(sha256: Digest, tenant: Option<&TenantId>) -> String {
        match tenant {
            Some(tenant) => format!("{tenant}.{sha256}"),
            None => sha256.to_string(),
        }
    }

    /// Whether no worker is given this input any more.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.strikes.len() >= POISON_STRIKES
    }

    /// Adds a strike, unless its attempt is counted already; whether it was added.
    pub fn strike(&mut self, strike: Strike) -> bool {
        let same = |other: &Strike| (&other.job, other.attempt) == (&strike.job, strike.attempt);
        if self.strikes.iter().any(same) {
            return false;
        }
        self.strikes.truncate(POISON_STRIKES_KEPT - 1);
        self.strikes.push(strike);
        true
    }

    /// What the tenant of a refused job is told: nothing of whose jobs died.
    #[must_use]
    pub fn refusal(&self) -> Failure {
        let code = self.strikes.last().map_or("", |strike| strike.code.as_str());
        Failure::new(
            RejectCode::InputPoisoned,
            format!(
                "the input with SHA-256 {} ended its cell {POISON_STRIKES} times ({code}), so it \
                 is in quarantine; the operator can release it",
                self.sha256
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strike(job: u64, attempt: u32) -> Strike {
        Strike {
            tenant: "acme".parse().unwrap(),
            job: JobId::new(job, [0; 10]),
            attempt,
            worker: "w1".parse().unwrap(),
            code: RejectCode::CellCrashed,
            at: UnixMs(job),
        }
    }

    #[test]
    fn new_13_an_attempt_counts_once_and_the_second_quarantines() {
        let mut record = PoisonRecord::new(Digest::of(b"x"), None);
        let rows = [
            (strike(1, 1), true, false),
            (strike(1, 1), false, false),
            (strike(1, 2), true, true),
            (strike(2, 1), true, true),
            (strike(1, 2), false, true),
        ];
        for (strike, added, quarantined) in rows {
            assert_eq!(record.strike(strike.clone()), added, "{strike:?}");
            assert_eq!(record.is_quarantined(), quarantined, "{strike:?}");
        }
    }

    #[test]
    fn a_record_is_bounded_and_keeps_the_first_and_the_newest() {
        let mut record = PoisonRecord::new(Digest::of(b"x"), None);
        for job in 0..100 {
            record.strike(strike(job, 1));
        }
        assert_eq!(record.strikes.len(), POISON_STRIKES_KEPT);
        let ends = (record.strikes.first().unwrap().at, record.strikes.last().unwrap().at);
        assert_eq!(ends, (UnixMs(0), UnixMs(99)));
    }

    #[test]
    fn only_what_the_bytes_did_counts_for_everyone() {
        use RejectCode::{CellCrashed, CellViolation, ResourceMemory};
        let those_of = |scope| {
            let codes = RejectCode::ALL.iter().copied();
            codes.filter(|code| Scope::of(*code) == scope).collect::<Vec<_>>()
        };
        assert_eq!(those_of(Some(Scope::Everyone)), [CellViolation, CellCrashed]);
        assert_eq!(those_of(Some(Scope::Tenant)), [ResourceMemory]);
        assert_eq!(those_of(None).len(), RejectCode::ALL.len() - 3);
    }

    #[test]
    fn no_tenant_s_key_is_another_s_or_everyone_s() {
        let (acme, sha256) = ("acme".parse().unwrap(), Digest::of(b"x"));
        let own = PoisonRecord::key(sha256, Some(&acme));
        assert_eq!(own, format!("acme.{sha256}"));
        assert_eq!(PoisonRecord::key(sha256, None), sha256.to_string());
    }
}
