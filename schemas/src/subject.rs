//! Subjects, built only from types. Each constructor is one row of the route table.

use crate::{
    DeliveryId, EndpointId, EventKind, JobId, PoolId, Role, TenantId, WorkerId, routes,
    routes::Route, tenancy::Priority,
};
use std::{fmt, str::FromStr};

/// Stands in the tenant's place in `audit` subjects that concern no tenant. Not a valid slug.
pub const PLATFORM: &str = "_";

/// A subject that has a row in the route table.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(String);

/// No row of the route table has this shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the subject has no row in the route table")]
pub struct UnknownSubject;

/// What an audit record is about; the last token of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditKind {
    /// Presigned URLs were issued.
    Grant,
    /// Something was not believed.
    Refused,
    /// An upload was confirmed.
    Upload,
    /// A webhook endpoint or delivery changed.
    Webhook,
    /// The operator acted.
    Admin,
    /// Bytes were removed.
    Reaped,
    /// A cell was killed for a refused system call.
    Violation,
    /// Policy decided, and nothing else came of it: a denial, a challenge, a sensitive read.
    Decision,
    /// A principal changed a key, a policy, an approval or a webhook.
    Change,
}

/// A request that a trusted service makes of the signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignVerb {
    /// Intake: PUT of one upload.
    Upload,
    /// Intake: GET of one upload, to confirm it.
    Confirm,
    /// Intake: GET of one output, for the tenant.
    Download,
    /// Validator: GET of one input.
    Input,
    /// Hasher: GET of one output.
    Output,
}

/// What a worker asks under its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseVerb {
    /// Fresh GET URLs.
    Inputs,
    /// Still alive.
    Beat,
    /// PUT URLs for produced files.
    Urls,
    /// The report.
    Done,
}

impl LeaseVerb {
    /// The subject token.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inputs => "inputs",
            Self::Beat => "beat",
            Self::Urls => "urls",
            Self::Done => "done",
        }
    }
}

impl Subject {
    /// `job.<tenant>.<job>.<event>`; `None` for `validated`, which names a pool too.
    #[must_use]
    pub fn job(tenant: &TenantId, job: &JobId, event: EventKind) -> Option<Self> {
        (event != EventKind::Validated).then(|| Self(format!("job.{tenant}.{job}.{event}")))
    }

    /// `job.<tenant>.<job>.validated.<pool>`.
    #[must_use]
    pub fn validated(tenant: &TenantId, job: &JobId, pool: &PoolId) -> Self {
        Self(format!("job.{tenant}.{job}.validated.{pool}"))
    }

    /// `job.<tenant>.<job>.validated.<pool>` in class `normal`, else with the class behind it.
    #[must_use]
    pub fn ready(tenant: &TenantId, job: &JobId, pool: &PoolId, class: Priority) -> Self {
        if class.is_normal() {
            return Self::validated(tenant, job, pool);
        }
        Self(format!("job.{tenant}.{job}.validated.{pool}.{}", class.as_str()))
    }

    /// Every event of one job: the filter of its state, its history and its compare-and-set.
    #[must_use]
    pub fn job_filter(tenant: &TenantId, job: &JobId) -> String {
        format!("job.{tenant}.{job}.>")
    }

    /// Every event of every job of a tenant, as a filter.
    #[must_use]
    pub fn tenant_filter(tenant: &TenantId) -> String {
        format!("job.{tenant}.>")
    }

    /// The work of one tenant in one pool and class: the filter of the signer's consumer.
    #[must_use]
    pub fn work_filter(pool: &PoolId, tenant: &TenantId, class: Priority) -> String {
        if class.is_normal() {
            return format!("job.{tenant}.*.validated.{pool}");
        }
        format!("job.{tenant}.*.validated.{pool}.{}", class.as_str())
    }

    /// `audit.<tenant>.<kind>`; without a tenant the platform's own.
    #[must_use]
    pub fn audit(tenant: Option<&TenantId>, kind: AuditKind) -> Self {
        let scope = tenant.map_or(PLATFORM, TenantId::as_str);
        let kind = match kind {
            AuditKind::Grant => "grant",
            AuditKind::Refused => "refused",
            AuditKind::Upload => "upload",
            AuditKind::Webhook => "webhook",
            AuditKind::Admin => "admin",
            AuditKind::Reaped => "reaped",
            AuditKind::Violation => "violation",
            AuditKind::Decision => "decision",
            AuditKind::Change => "change",
        };
        Self(format!("audit.{scope}.{kind}"))
    }

    /// `sign.<role>.<verb>`.
    #[must_use]
    pub fn sign(verb: SignVerb) -> Self {
        let tail = match verb {
            SignVerb::Upload => "intake.upload",
            SignVerb::Confirm => "intake.confirm",
            SignVerb::Download => "intake.download",
            SignVerb::Input => "validator.input",
            SignVerb::Output => "hasher.output",
        };
        Self(format!("sign.{tail}"))
    }

    /// `next.<pool>.<worker>`.
    #[must_use]
    pub fn next(pool: &PoolId, worker: &WorkerId) -> Self {
        Self(format!("next.{pool}.{worker}"))
    }

    /// `lease.<worker>.<verb>`.
    #[must_use]
    pub fn lease(worker: &WorkerId, verb: LeaseVerb) -> Self {
        Self(format!("lease.{worker}.{}", verb.as_str()))
    }

    /// `usage.intake.now`.
    #[must_use]
    pub fn usage_now() -> Self {
        Self("usage.intake.now".to_owned())
    }

    /// `evidence.intake.export`.
    #[must_use]
    pub fn evidence_export() -> Self {
        Self("evidence.intake.export".to_owned())
    }

    /// `hooks.intake.create`.
    #[must_use]
    pub fn hooks_create() -> Self {
        Self("hooks.intake.create".to_owned())
    }

    /// `hooks.intake.ask`.
    #[must_use]
    pub fn hooks_ask() -> Self {
        Self("hooks.intake.ask".to_owned())
    }

    /// `hook.out.<tenant>.<endpoint>.<delivery>`.
    #[must_use]
    pub fn hook_out(tenant: &TenantId, endpoint: &EndpointId, delivery: &DeliveryId) -> Self {
        Self(format!("hook.out.{tenant}.{endpoint}.{delivery}"))
    }

    /// `events.<account>.<job>.terminal`: what a tenant's own account is told.
    ///
    /// # Errors
    /// [`UnknownSubject`] when `account` is no public account nkey.
    pub fn terminal(account: &str, job: &JobId) -> Result<Self, UnknownSubject> {
        format!("events.{account}.{job}.terminal").parse()
    }

    /// `events.<account>.<job>.state`: each state of a job, to a tenant's own account.
    ///
    /// # Errors
    /// [`UnknownSubject`] when `account` is no public account nkey.
    pub fn state(account: &str, job: &JobId) -> Result<Self, UnknownSubject> {
        format!("events.{account}.{job}.state").parse()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The row of the route table.
    #[must_use]
    pub fn route(&self) -> &'static Route {
        routes::route_of(&self.0).expect("constructors are checked against the table by a test")
    }

    /// The tenant that the subject names, if it names one.
    #[must_use]
    pub fn tenant(&self) -> Option<TenantId> {
        self.token(routes::Token::Tenant)?.parse().ok()
    }

    /// The job that the subject names, if it names one.
    #[must_use]
    pub fn job_id(&self) -> Option<JobId> {
        self.token(routes::Token::Job)?.parse().ok()
    }

    /// The worker that the subject names, if it names one.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        self.token(routes::Token::Worker)?.parse().ok()
    }

    /// The pool that the subject names, if it names one.
    #[must_use]
    pub fn pool(&self) -> Option<PoolId> {
        self.token(routes::Token::Pool)?.parse().ok()
    }

    /// The class that the subject names; `normal` when it names none.
    #[must_use]
    pub fn class(&self) -> Priority {
        self.token(routes::Token::Class).and_then(class_of).unwrap_or_default()
    }

    /// Whether `role` may publish here.
    #[must_use]
    pub fn may_publish(&self, role: Role) -> bool {
        self.route().publishers.contains(&role)
    }

    fn token(&self, wanted: routes::Token) -> Option<&str> {
        let position = self.route().tokens.iter().position(|token| *token == wanted)?;
        self.0.split('.').nth(position)
    }
}

/// A class by its token. `normal` has none: each job has one subject, not two.
fn class_of(word: &str) -> Option<Priority> {
    Priority::ALL.into_iter().find(|class| !class.is_normal() && class.as_str() == word)
}

/// The form of a public account nkey: `A` and base32 (RFC 4648 §6), 56 characters in all.
fn is_account(word: &str) -> bool {
    word.len() == 56
        && word.starts_with('A')
        && word.bytes().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
}

impl FromStr for Subject {
    type Err = UnknownSubject;
    fn from_str(text: &str) -> Result<Self, UnknownSubject> {
        let route = routes::route_of(text).ok_or(UnknownSubject)?;
        let variables_are_ids = route.tokens.iter().zip(text.split('.')).all(|(token, word)| {
            use routes::Token as T;
            match token {
                T::Lit(_) => true,
                T::Tenant => {
                    word.parse::<TenantId>().is_ok()
                        || (word == PLATFORM && route.message == "audit")
                }
                T::Job | T::Endpoint | T::Delivery => word.parse::<JobId>().is_ok(),
                T::Pool | T::Worker => word.parse::<WorkerId>().is_ok(),
                T::Class => class_of(word).is_some(),
                T::Account => is_account(word),
            }
        });
        if variables_are_ids { Ok(Self(text.to_owned())) } else { Err(UnknownSubject) }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
