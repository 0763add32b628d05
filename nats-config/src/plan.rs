//! Plans: what a tenant may use, as a file. Three are compiled in; one's own has the same fields.
//!
//! Promises: a plan that was read names every field, and each is within what the platform can hold
//! to; a zero means none of it. Refuses: unknown and missing fields, and values that would mean
//! "nothing ever runs" without saying so.

use crate::provision::TenantSpec;
use hotcell_schemas::{
    PoolId, TenantId,
    limits::{ENDPOINTS_MAX, UPLOAD_BYTES_MAX},
    tenancy::Quotas,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The compiled-in plans, the smallest first.
const BUILT_IN: [&str; 3] = [
    include_str!("../plans/free.toml"),
    include_str!("../plans/starter.toml"),
    include_str!("../plans/pro.toml"),
];

/// Largest share: a thousand times the smallest, beyond which the smallest would starve.
const WEIGHT_MAX: u32 = 1000;

/// Encodes of one tenant at once: the broker's connections of workers.
const CONCURRENCY_MAX: u32 = 1000;

/// Shortest life of outputs, in seconds: a download URL lives for ten minutes.
const RETENTION_SECS_MIN: u64 = 600;

/// Longest, in seconds: ten years.
const RETENTION_SECS_MAX: u64 = 315_360_000;

/// Pools of one tenant: each has three consumers.
pub const POOLS_MAX: usize = 16;

/// What a tenant may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Its name: a slug.
    pub name: String,
    /// Share of the workers relative to other tenants.
    pub weight: u32,
    /// Pools where jobs may run; the first is the default.
    pub pools: Vec<PoolId>,
    /// Encodes that run at once.
    pub concurrency: u32,
    /// Jobs that may wait.
    pub queue_depth: u32,
    /// Requests a second.
    pub requests_per_sec: u32,
    /// Jobs a minute.
    pub jobs_per_min: u32,
    /// Largest input, in bytes.
    pub input_bytes_max: u64,
    /// Minutes of output in a calendar month (UTC).
    pub output_minutes_per_month: u64,
    /// CPU seconds of cells in a calendar month (UTC).
    pub cpu_secs_per_month: u64,
    /// Life of inputs and outputs, in seconds.
    pub retention_secs: u64,
    /// Stored bytes.
    pub stored_bytes_max: u64,
    /// Webhook endpoints.
    pub webhooks_max: u32,
}

/// Why a plan is refused: the field, and its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No TOML, or a field is unknown, missing or of the wrong type.
    #[error("the plan does not read: {0}")]
    Parse(String),
    /// A value breaks a rule.
    #[error("{field} of the plan {rule}")]
    Value {
        /// The field.
        field: &'static str,
        /// The rule.
        rule: String,
    },
    /// Not one of the compiled-in names.
    #[error("there is no plan {0}: name free, starter or pro, or a file")]
    Unknown(String),
}

fn value(field: &'static str, rule: impl Into<String>) -> PlanError {
    PlanError::Value { field, rule: rule.into() }
}

impl Plan {
    /// Reads and checks a plan.
    ///
    /// # Errors
    /// `Parse`, `Value`.
    pub fn read(text: &str) -> Result<Self, PlanError> {
        let plan: Self =
            toml::from_str(text).map_err(|error| PlanError::Parse(error.message().to_owned()))?;
        plan.check()?;
        Ok(plan)
    }

    /// The compiled-in plan called `name`.
    ///
    /// # Errors
    /// `Unknown`.
    pub fn named(name: &str) -> Result<Self, PlanError> {
        let found = Self::built_in().into_iter().find(|plan| plan.name == name);
        found.ok_or_else(|| PlanError::Unknown(name.to_owned()))
    }

    /// The compiled-in plans, the smallest first.
    #[must_use]
    pub fn built_in() -> Vec<Self> {
        let read = |text: &&str| Self::read(text).expect("the compiled-in plans read");
        BUILT_IN.iter().map(read).collect()
    }

    /// The compiled-in file of the plan called `name`: a start for one's own.
    #[must_use]
    pub fn text_of(name: &str) -> Option<&'static str> {
        BUILT_IN.into_iter().find(|text| Self::read(text).is_ok_and(|plan| plan.name == name))
    }

    /// A tenant of this plan.
    #[must_use]
    pub fn spec(&self, tenant: TenantId) -> TenantSpec {
        TenantSpec {
            id: tenant,
            pools: self.pools.clone(),
            concurrency: self.concurrency,
            retention_secs: self.retention_secs,
            stored_bytes_max: self.stored_bytes_max,
            raw_arguments: false,
            quotas: Quotas {
                plan: self.name.clone(),
                weight: self.weight,
                requests_per_sec: self.requests_per_sec,
                jobs_per_min: self.jobs_per_min,
                queue_depth: self.queue_depth,
                input_bytes_max: self.input_bytes_max,
                output_minutes_per_month: self.output_minutes_per_month,
                cpu_secs_per_month: self.cpu_secs_per_month,
                webhooks_max: self.webhooks_max,
            },
        }
    }

    fn check(&self) -> Result<(), PlanError> {
        // A plan's name is shown in tables and records: the alphabet of slugs.
        if self.name.parse::<TenantId>().is_err() {
            return Err(value("name", "must be 1 to 40 characters of a-z, 0-9 and '-'"));
        }
        let within = |field, found: u64, min: u64, max: u64| {
            let rule = || value(field, format!("must be between {min} and {max}, not {found}"));
            if (min..=max).contains(&found) { Ok(()) } else { Err(rule()) }
        };
        within("weight", self.weight.into(), 1, WEIGHT_MAX.into())?;
        within("concurrency", self.concurrency.into(), 1, CONCURRENCY_MAX.into())?;
        within("input_bytes_max", self.input_bytes_max, 0, UPLOAD_BYTES_MAX)?;
        within("retention_secs", self.retention_secs, RETENTION_SECS_MIN, RETENTION_SECS_MAX)?;
        let webhooks_max = u64::try_from(ENDPOINTS_MAX).unwrap_or(u64::MAX);
        within("webhooks_max", self.webhooks_max.into(), 0, webhooks_max)?;
        if self.pools.is_empty() || self.pools.len() > POOLS_MAX {
            return Err(value("pools", format!("must name 1 to {POOLS_MAX} pools")));
        }
        if self.pools.iter().collect::<BTreeSet<_>>().len() != self.pools.len() {
            return Err(value("pools", "must name each pool once"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // BRK-81: the default of records without a plan is the plan called starter, field by field.
    #[test]
    fn brk_81_the_plans_grow_and_starter_is_the_default() {
        let plans = Plan::built_in();
        let names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
        assert_eq!(names, ["free", "starter", "pro"]);
        let tenant: TenantId = "acme".parse().unwrap();
        let (ours, default) = (
            Plan::named("starter").unwrap().spec(tenant.clone()),
            TenantSpec::new(tenant, vec!["cpu".parse().unwrap()]),
        );
        assert_eq!(format!("{ours:?}"), format!("{default:?}"));
        for pair in plans.windows(2) {
            let of = |plan: &Plan| {
                [
                    u64::from(plan.weight),
                    plan.concurrency.into(),
                    plan.queue_depth.into(),
                    plan.requests_per_sec.into(),
                    plan.jobs_per_min.into(),
                    plan.output_minutes_per_month,
                    plan.cpu_secs_per_month,
                    plan.retention_secs,
                    plan.stored_bytes_max,
                ]
            };
            assert!(of(&pair[0]).iter().zip(of(&pair[1])).all(|(less, more)| *less < more));
        }
        assert!(Plan::text_of("free").unwrap().contains("name = \"free\""));
        assert_eq!(Plan::named("gold"), Err(PlanError::Unknown("gold".to_owned())));
    }

    #[test]
    fn a_refused_plan_names_the_field_and_its_rule() {
        let check = |from: &str, to: &str, expect: &str| {
            let text = Plan::text_of("free").unwrap();
            assert!(text.contains(from), "{from}");
            let error = Plan::read(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("weight = 1", "weight = 0", "weight of the plan must be between 1 and 1000, not 0");
        check("concurrency = 1", "concurrency = 0", "concurrency of the plan must be between 1");
        check("webhooks_max = 1", "webhooks_max = 17", "webhooks_max of the plan");
        check("retention_secs = 3_600", "retention_secs = 1", "retention_secs of the plan");
        check("104_857_600", "4_294_967_296", "input_bytes_max of the plan");
        check("pools = [\"cpu\"]", "pools = []", "pools of the plan must name 1 to 16 pools");
        check("[\"cpu\"]", "[\"cpu\", \"cpu\"]", "pools of the plan must name each pool once");
        check("[\"cpu\"]", "[\"cpu.*\"]", "the plan does not read");
        check("name = \"free\"", "name = \"Free plan\"", "name of the plan");
        check("queue_depth", "queue_dept", "unknown field `queue_dept`");
        check("queue_depth = 10\n", "", "missing field `queue_depth`");
        check("queue_depth = 10\n", "queue_depth = -1\n", "the plan does not read");
        // None of it is a plan, too.
        let none =
            Plan::text_of("free").unwrap().replace("requests_per_sec = 5", "requests_per_sec = 0");
        assert_eq!(Plan::read(&none).unwrap().requests_per_sec, 0);
    }
}
