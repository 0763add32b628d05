//! Properties of the fair share, held to simulated pools: no broker, no clock.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn tenant(number: usize) -> TenantId {
    format!("t{number}").parse().unwrap()
}

fn job(number: u64) -> JobId {
    JobId::new(number, [0; 10])
}

/// Whose job, which, and what it costs.
type Running = (usize, JobId, u64);

/// A pool of workers in simulated time; every job's cost is its wall time.
struct Pool {
    shares: Shares,
    /// When each worker is free, and what it has.
    workers: Vec<(u64, Option<Running>)>,
    /// CPU time given to each tenant.
    used: BTreeMap<usize, u64>,
    jobs: u64,
}

impl Pool {
    fn new(workers: usize, weights: &[u32]) -> Self {
        let mut shares = Shares::default();
        for (number, weight) in weights.iter().enumerate() {
            shares.enter(&tenant(number), *weight, None);
        }
        Self { shares, workers: vec![(0, None); workers], used: BTreeMap::new(), jobs: 0 }
    }

    /// The next free worker takes a job of one of the tenants in `waiting`; whose it was.
    fn step(&mut self, waiting: &[usize], cost_ms: impl Fn(usize, u64) -> u64) -> usize {
        let worker = (0..self.workers.len()).min_by_key(|w| self.workers[*w].0).unwrap();
        if let Some((whose, id, cost)) = self.workers[worker].1.take() {
            self.shares.ended(&tenant(whose), &id, Some(cost));
        }
        let slugs: Vec<TenantId> = waiting.iter().map(|number| tenant(*number)).collect();
        let (next, turns) = self.shares.next(slugs.iter().map(|slug| (slug, 0)), 1).unwrap();
        assert_eq!(turns, 1);
        let whose = waiting[slugs.iter().position(|slug| slug == next).unwrap()];
        self.jobs += 1;
        let (id, cost) = (job(self.jobs), cost_ms(whose, self.jobs));
        self.shares.given(&tenant(whose), &id, UnixMs(0));
        *self.used.entry(whose).or_default() += cost;
        let at = self.workers[worker].0;
        self.workers[worker] = (at + cost, Some((whose, id, cost)));
        whose
    }
}

/// A cost between half and one and a half of the tenant's own mean.
fn around(means: &[u64]) -> impl Fn(usize, u64) -> u64 + '_ {
    |whose, number| {
        let mean = means[whose];
        let noise = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        mean / 2 + noise % mean
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    // BRK-80, NEW-14: shares of CPU time are those of the weights, whatever the jobs cost.
    #[test]
    fn shares_converge_to_the_weights_at_any_cost(
        tenants in prop::collection::vec((1_u32..=20, 100_u64..=20_000), 2..6),
        workers in 1_usize..=8,
    ) {
        let (weights, means): (Vec<u32>, Vec<u64>) = tenants.into_iter().unzip();
        let mut pool = Pool::new(workers, &weights);
        let all: Vec<usize> = (0..weights.len()).collect();
        // Until the dearest jobs are small beside what was served.
        let enough = means.iter().max().unwrap() * 400 * weights.len() as u64;
        while pool.used.values().sum::<u64>() < enough {
            pool.step(&all, around(&means));
        }
        let total: u64 = pool.used.values().sum();
        let weight: u32 = weights.iter().sum();
        for (number, own) in weights.iter().enumerate() {
            let got = *pool.used.get(&number).unwrap_or(&0) as f64 / total as f64;
            let due = f64::from(*own) / f64::from(weight);
            // One job more or less for each worker, of thousands.
            let slack = (workers as f64 + 2.0) * 1.5 * means[number] as f64 / total as f64;
            prop_assert!((got - due).abs() <= 0.03 * due + slack + 0.004, "{got} of {due}");
        }
    }

    // BRK-80: a pause is worth the credit at most, however long it was.
    #[test]
    fn a_tenant_that_comes_back_is_ahead_by_its_credit_at_most(
        pause in 10_u64..3_000, own in 50_u64..5_000, other in 50_u64..5_000, weight in 1_u32..=40,
    ) {
        let mut pool = Pool::new(2, &[weight, 10]);
        let means = [own, other];
        for _ in 0..pause {
            pool.step(&[1], around(&means));
        }
        pool.used.clear();
        // All that it gets before the other is served once.
        while pool.step(&[0, 1], around(&means)) == 0 {}
        let ahead = pool.used.get(&0).copied().unwrap_or(0);
        let credit = CREDIT_MS * u64::from(weight) / WEIGHT_OF_CREDIT;
        // Known by their mean only, its running jobs may cost half as much again.
        let slack = 8 * COST_MS_UNKNOWN.max(own) * 3 / 2;
        // The other's two running jobs are charged already: by weight, so much is ours first.
        let running = 2 * other * 3 / 2 * u64::from(weight) / 10;
        let most = credit + slack + running;
        prop_assert!(ahead <= most, "{ahead} ms ahead, its credit is {credit}");
        // And a burst within the credit goes first.
        let served = CREDIT_MS * u64::from(weight) / WEIGHT_OF_CREDIT;
        let waited = pause * other / 2 * u64::from(weight) / 10;
        let due = served.min(waited);
        prop_assert!(ahead * 4 + slack >= due, "{ahead} ms of {due}");
    }

    // BRK-80: who has work and weight is served, whatever others do, within what their credits and
    // one round of jobs cost.
    #[test]
    fn nobody_with_work_starves(
        rivals in prop::collection::vec(1_u32..=20, 1..8), at in 0_usize..400,
    ) {
        let mut weights = vec![1];
        weights.extend(rivals);
        let means = vec![1_000; weights.len()];
        let mut pool = Pool::new(2, &weights);
        let others: Vec<usize> = (1..weights.len()).collect();
        for _ in 0..at {
            pool.step(&others, around(&means));
        }
        let all: Vec<usize> = (0..weights.len()).collect();
        let rivals: u64 = weights[1..].iter().map(|weight| u64::from(*weight)).sum();
        // Two of its jobs are worth so many of all the others together.
        let bound = CREDIT_MS / 1_000 * rivals / WEIGHT_OF_CREDIT + 12 * rivals + 32;
        let mut gap = 0;
        for _ in 0..2_000 {
            gap = if pool.step(&all, around(&means)) == 0 { 0 } else { gap + 1 };
            prop_assert!(gap <= bound, "{gap} jobs of others in a row, {bound} allowed");
        }
    }
}

#[test]
fn a_tenant_without_weight_has_no_turn() {
    let mut shares = Shares::default();
    let (none, some) = (tenant(0), tenant(1));
    shares.enter(&none, 0, None);
    assert_eq!(shares.next([(&none, 0)].into_iter(), 4), None);
    shares.enter(&some, 1, None);
    assert_eq!(shares.next([(&none, 0), (&some, 0)].into_iter(), 4), Some((&some, 4)));
    // Nor one that nobody entered.
    assert_eq!(shares.next([(&tenant(2), 0)].into_iter(), 1), None);
}

// What a lost lease costs is not the tenant's: the first charge is taken back.
#[test]
fn a_job_that_is_given_again_is_charged_once() {
    let mut shares = Shares::default();
    let slug = tenant(0);
    shares.enter(&slug, 10, Some(1_000));
    shares.given(&slug, &job(1), UnixMs(0));
    let once = shares.start(&slug);
    shares.given(&slug, &job(1), UnixMs(1));
    assert_eq!(shares.start(&slug), once);
    shares.ended(&slug, &job(1), None);
    assert_eq!(shares.start(&slug), Some(0));
}

// Another replica's jobs are charged when they end.
#[test]
fn a_job_of_another_replica_counts_at_its_end() {
    let mut shares = Shares::default();
    let (mine, theirs) = (tenant(0), tenant(1));
    shares.enter(&mine, 10, Some(1_000));
    shares.enter(&theirs, 10, Some(1_000));
    for number in 0..4 {
        shares.ended(&theirs, &job(number), Some(1_000));
    }
    assert_eq!(shares.next([(&mine, 0), (&theirs, 0)].into_iter(), 9), Some((&mine, 5)));
    // What was promised already counts as if it were given.
    assert_eq!(shares.next([(&mine, 3), (&theirs, 0)].into_iter(), 9), Some((&mine, 2)));
    assert_eq!(shares.next([(&mine, 5), (&theirs, 0)].into_iter(), 9), Some((&theirs, 2)));
}
