//! Who is served next: start-time fair queueing over the CPU time of cells (Goyal, Vin, Cheng:
//! "Start-time Fair Queuing", IEEE/ACM ToN 5(5), 1997). Pure.
//!
//! Promises: tenants that have work get CPU time in proportion to their weights, whatever their
//! jobs cost; a tenant that was idle comes back ahead of the others by at most [`CREDIT_MS`] of CPU
//! time, so a burst does not queue behind a backlog and a long pause is no right to starve others;
//! nobody with weight and work waits for ever. Refuses: a tenant of weight 0, which has no share.
//!
//! A job is charged when it is given out, by the mean of its tenant, and put right when its report
//! says what it cost. Each replica keeps its own books of its own pools: what another gives out it
//! learns at the job's end, so its books are late by what runs elsewhere, and never wrong for long.

use hotcell_schemas::{JobId, TenantId, UnixMs};
use std::collections::HashMap;

/// CPU time that a tenant of weight [`WEIGHT_OF_CREDIT`] may be ahead after a pause, in
/// milliseconds; other weights in proportion. On two processors it holds others up for half a
/// minute at most.
pub const CREDIT_MS: u64 = 60_000;

/// The weight of the plan `starter`.
pub const WEIGHT_OF_CREDIT: u64 = 10;

/// What a job costs at least, in milliseconds: a worker fetches, hashes and stores for it, and is
/// not there for others meanwhile.
pub const COST_MS_MIN: u64 = 50;

/// What a job costs while nothing is known of its tenant, in milliseconds.
pub const COST_MS_UNKNOWN: u64 = 2_000;

/// Weight of the newest cost in a tenant's mean, as a part: one in so many.
const MEAN_PART: u64 = 8;

/// Virtual time of one millisecond at weight 1, so that division by a weight keeps its digits.
const SCALE: u64 = 1 << 10;

/// Charged jobs that are remembered until their end: more than workers that may wait.
const CHARGES_MAX: usize = 100_000;

/// A charge whose end was not heard is forgotten after this long, in milliseconds: no cell's wall
/// clock is longer.
const CHARGE_MS_MAX: u64 = 6 * 3600 * 1000;

/// One tenant's books.
#[derive(Debug, Clone)]
struct Account {
    weight: u64,
    /// Virtual time at which its next job starts.
    tag: u64,
    /// Mean cost of its jobs, in milliseconds.
    mean_ms: u64,
}

/// What a job was charged when it was given out.
#[derive(Debug, Clone)]
struct Charge {
    tenant: TenantId,
    cost_ms: u64,
    at: UnixMs,
}

/// The books of one pool.
#[derive(Debug, Default)]
pub struct Shares {
    /// The latest start of a job: where a tenant begins that was never seen.
    now: u64,
    accounts: HashMap<TenantId, Account>,
    charges: HashMap<JobId, Charge>,
}

/// The credit in virtual time: the same for every weight.
const CREDIT: u64 = CREDIT_MS * SCALE / WEIGHT_OF_CREDIT;

impl Account {
    fn span(&self, cost_ms: u64) -> u64 {
        cost_ms.saturating_mul(SCALE) / self.weight.max(1)
    }
}

impl Shares {
    /// Opens a tenant's books, or changes its weight. `mean_ms` is what its jobs cost so far; it
    /// counts when nothing better is known.
    pub fn enter(&mut self, tenant: &TenantId, weight: u32, mean_ms: Option<u64>) {
        let weight = u64::from(weight);
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.weight = weight;
            return;
        }
        let mean_ms = mean_ms.unwrap_or(COST_MS_UNKNOWN).max(COST_MS_MIN);
        let account = Account { weight, tag: self.now.saturating_sub(CREDIT), mean_ms };
        self.accounts.insert(tenant.clone(), account);
    }

    /// Closes the books of tenants that are gone.
    pub fn keep(&mut self, known: impl Fn(&TenantId) -> bool) {
        self.accounts.retain(|tenant, _| known(tenant));
    }

    /// The tenant's weight; 0 for one that was never entered.
    #[must_use]
    pub fn weight(&self, tenant: &TenantId) -> u64 {
        self.accounts.get(tenant).map_or(0, |account| account.weight)
    }

    /// When the tenant's next job starts in virtual time; the least of all is next. `None` for a
    /// tenant that has no share.
    fn start(&self, tenant: &TenantId) -> Option<u64> {
        let account = self.accounts.get(tenant).filter(|account| account.weight > 0)?;
        Some(account.tag.max(self.now.saturating_sub(CREDIT)))
    }

    /// The same, once so many places that it was promised are taken.
    fn start_after(&self, tenant: &TenantId, promised: usize) -> Option<u64> {
        let (start, account) = (self.start(tenant)?, self.accounts.get(tenant)?);
        let promised = u64::try_from(promised).unwrap_or(u64::MAX);
        Some(start.saturating_add(account.span(account.mean_ms).saturating_mul(promised)))
    }

    /// Whose turn it is among those that have work, and how many of `free` places are its own before
    /// it is another's turn. With each tenant stands how many places it was promised already.
    #[must_use]
    pub fn next<'a>(
        &self,
        with_work: impl Iterator<Item = (&'a TenantId, usize)>,
        free: usize,
    ) -> Option<(&'a TenantId, usize)> {
        let (mut best, mut rival): (Option<(u64, &TenantId)>, Option<u64>) = (None, None);
        for (tenant, promised) in with_work {
            let Some(start) = self.start_after(tenant, promised) else { continue };
            match best {
                Some(least) if least <= (start, tenant) => {
                    rival = Some(rival.map_or(start, |rival| rival.min(start)));
                }
                Some((least, _)) => (best, rival) = (Some((start, tenant)), Some(least)),
                None => best = Some((start, tenant)),
            }
        }
        let (start, tenant) = best?;
        let account = self.accounts.get(tenant)?;
        let turns = rival
            .map_or(u64::MAX, |rival| (rival - start) / account.span(account.mean_ms).max(1) + 1);
        Some((tenant, usize::try_from(turns).unwrap_or(usize::MAX).min(free)))
    }

    /// Charges a job that is given out now.
    pub fn given(&mut self, tenant: &TenantId, job: &JobId, now: UnixMs) {
        // An attempt of before, whose lease was lost, is not the tenant's cost.
        self.ended(tenant, job, None);
        let Some(start) = self.start(tenant) else { return };
        let Some(account) = self.accounts.get_mut(tenant) else { return };
        let cost_ms = account.mean_ms;
        account.tag = start.saturating_add(account.span(cost_ms));
        self.now = self.now.max(start);
        if self.charges.len() >= CHARGES_MAX {
            self.charges.retain(|_, charge| now.since_ms(charge.at) < CHARGE_MS_MAX);
        }
        if self.charges.len() < CHARGES_MAX {
            let charge = Charge { tenant: tenant.clone(), cost_ms, at: now };
            self.charges.insert(job.clone(), charge);
        }
    }

    /// Puts right what a job was charged: it cost `cost_ms`, or nothing that is the tenant's. A job
    /// that was given out by another replica is charged now.
    pub fn ended(&mut self, tenant: &TenantId, job: &JobId, cost_ms: Option<u64>) {
        let charged = self.charges.remove(job).filter(|charge| charge.tenant == *tenant);
        let charged = charged.map_or(0, |charge| charge.cost_ms);
        let Some(start) = self.start(tenant) else { return };
        let Some(account) = self.accounts.get_mut(tenant) else { return };
        let cost = cost_ms.map_or(0, |cost| cost.max(COST_MS_MIN));
        if cost >= charged {
            account.tag = start.saturating_add(account.span(cost - charged));
        } else {
            account.tag = account.tag.saturating_sub(account.span(charged - cost));
        }
        if cost_ms.is_some() {
            account.mean_ms = (account.mean_ms * (MEAN_PART - 1)).saturating_add(cost) / MEAN_PART;
        }
    }
}

#[cfg(test)]
#[path = "shares_tests.rs"]
mod tests;
