//! The only list of flows. Subjects, broker permissions, streams, consumers and docs/subjects.md
//! are rendered from this table, and the zero-trust test compares a running broker with it.
//!
//! One row is one flow: who may publish what, where it is kept, who reads it.

pub use crate::flow::{
    Begins, BucketRow, Carrier, ConsumerRow, Retention, Role, Route, StreamId, Token,
};
use Carrier::{Request, Stream, TenantEvents, TenantRequest, WorkerRequest};
use StreamId::{Hooks, Jobs};
use Token::{Account, Class, Delivery, Endpoint, Job, Pool, Tenant, Worker};

/// The row of `subject`, or `None` when no flow has its shape.
#[must_use]
pub fn route_of(subject: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.matches(subject))
}

/// The row called `name`.
#[must_use]
pub fn route(name: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.name == name)
}

const fn lit(word: &'static str) -> Token {
    Token::Lit(word)
}

macro_rules! row {
    ($name:literal, [$($token:expr),* $(,)?], $message:literal, [$($publisher:ident),*] => [$($consumer:ident),*],
     $carrier:expr, $about:literal) => {
        Route {
            name: $name,
            tokens: &[$($token),*],
            message: $message,
            publishers: &[$(Role::$publisher),*],
            consumers: &[$(Role::$consumer),*],
            carrier: $carrier,
            about: $about,
        }
    };
}

/// Every flow of hotcell.
#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    row!("job.submitted", [lit("job"), Tenant, Job, lit("submitted")], "job", [Intake] => [Validator, Webhook, Auditor], Stream(Jobs),
        "a request was accepted"),
    row!("job.validated", [lit("job"), Tenant, Job, lit("validated"), Pool], "job", [Validator] => [Signer, Webhook, Auditor], Stream(Jobs),
        "the input was checked and pinned, the plan compiled; work is ready for a pool"),
    row!("job.prioritised", [lit("job"), Tenant, Job, lit("validated"), Pool, Class], "job", [Validator] => [Signer, Webhook, Auditor], Stream(Jobs),
        "the same, for work that its tenant wants before or after the rest of its own"),
    row!("job.rejected", [lit("job"), Tenant, Job, lit("rejected")], "job", [Validator] => [Webhook, Auditor], Stream(Jobs),
        "the input or the request was refused"),
    row!("job.assigned", [lit("job"), Tenant, Job, lit("assigned")], "job", [Signer] => [Webhook, Auditor], Stream(Jobs),
        "one attempt was given to one worker"),
    row!("job.attempt_failed", [lit("job"), Tenant, Job, lit("attempt_failed")], "job", [Signer] => [Signer, Webhook, Auditor], Stream(Jobs),
        "an attempt ended without outputs"),
    row!("job.encoded", [lit("job"), Tenant, Job, lit("encoded")], "job", [Signer] => [Hasher, Signer, Webhook, Auditor], Stream(Jobs),
        "a worker's report with outputs was accepted"),
    row!("job.completed", [lit("job"), Tenant, Job, lit("completed")], "job", [Hasher] => [Webhook, Signer, Auditor], Stream(Jobs),
        "every output is as reported"),
    row!("job.failed", [lit("job"), Tenant, Job, lit("failed")], "job", [Signer, Hasher] => [Webhook, Signer, Auditor], Stream(Jobs),
        "no further attempt will be made"),
    row!("job.cancelled", [lit("job"), Tenant, Job, lit("cancelled")], "job", [Intake, Provisioner] => [Webhook, Signer, Auditor], Stream(Jobs),
        "the tenant ended the job, or was removed"),
    row!("job.expired", [lit("job"), Tenant, Job, lit("expired")], "job", [Signer] => [Webhook, Auditor], Stream(Jobs),
        "a completed job's bytes are gone"),

    row!("audit.grant", [lit("audit"), Tenant, lit("grant")], "audit", [Signer] => [Auditor], Stream(Jobs),
        "presigned URLs were issued: who, job, key hash, method, seconds; never the URL"),
    row!("audit.refused", [lit("audit"), Tenant, lit("refused")], "audit",
        [Intake, Validator, Signer, Hasher, Webhook] => [Auditor], Stream(Jobs),
        "a message, a credential or a worker was not believed"),
    row!("audit.upload", [lit("audit"), Tenant, lit("upload")], "audit", [Intake] => [Auditor], Stream(Jobs),
        "an upload was confirmed and its hash pinned"),
    row!("audit.webhook", [lit("audit"), Tenant, lit("webhook")], "audit", [Webhook] => [Auditor], Stream(Jobs),
        "an endpoint was made, or disabled for its failures; a delivery succeeded or was given up"),
    row!("audit.admin", [lit("audit"), Tenant, lit("admin")], "audit", [Provisioner] => [Auditor], Stream(Jobs),
        "the operator changed a tenant, a key or the broker"),
    row!("audit.reaped", [lit("audit"), Tenant, lit("reaped")], "audit", [Signer] => [Auditor], Stream(Jobs),
        "bytes were removed: unconfirmed or expired"),
    row!("audit.violation", [lit("audit"), Tenant, lit("violation")], "audit", [Signer] => [Auditor], Stream(Jobs),
        "a cell was killed for a refused system call: job, worker, call, input; sent before the report is taken"),

    row!("audit.decision", [lit("audit"), Tenant, lit("decision")], "audit", [Intake] => [Auditor], Stream(Jobs),
        "policy decided and nothing else came of it: a denial, a challenge, a sensitive read"),
    row!("audit.change", [lit("audit"), Tenant, lit("change")], "audit", [Intake] => [Auditor], Stream(Jobs),
        "a principal changed a key, a policy, an approval or a webhook: who, what, why it was permitted"),

    row!("sign.upload", [lit("sign"), lit("intake"), lit("upload")], "sign_request", [Intake] => [Signer], Request,
        "a PUT URL for one declared upload"),
    row!("sign.confirm", [lit("sign"), lit("intake"), lit("confirm")], "sign_request", [Intake] => [Signer], Request,
        "a GET URL, to check an upload that landed"),
    row!("sign.download", [lit("sign"), lit("intake"), lit("download")], "sign_request", [Intake] => [Signer], Request,
        "a GET URL for a tenant's output, dead after 600 s"),
    row!("sign.input", [lit("sign"), lit("validator"), lit("input")], "sign_request", [Validator] => [Signer], Request,
        "a GET URL for the validator"),
    row!("sign.output", [lit("sign"), lit("hasher"), lit("output")], "sign_request", [Hasher] => [Signer], Request,
        "a GET URL for the hasher"),

    row!("usage.now", [lit("usage"), lit("intake"), lit("now")], "usage_request", [Intake] => [Signer], Request,
        "how a tenant's work stands: running, waiting, its share"),

    row!("evidence.export", [lit("evidence"), lit("intake"), lit("export")], "evidence_request", [Intake] => [Auditor], Request,
        "a tenant's own entries of the log, each proven to be under the signed checkpoint"),

    row!("next", [lit("next"), Pool, Worker], "next_request", [Encoder] => [Signer], WorkerRequest,
        "a worker asks for work in its pool"),
    row!("lease.inputs", [lit("lease"), Worker, lit("inputs")], "lease_request", [Encoder] => [Signer], WorkerRequest,
        "fresh GET URLs for the inputs of a lease"),
    row!("lease.beat", [lit("lease"), Worker, lit("beat")], "beat_request", [Encoder] => [Signer], WorkerRequest,
        "still at work; the answer says go on or stop"),
    row!("lease.urls", [lit("lease"), Worker, lit("urls")], "urls_request", [Encoder] => [Signer], WorkerRequest,
        "create-only PUT URLs bound to size, type and SHA-256"),
    row!("lease.done", [lit("lease"), Worker, lit("done")], "done_request", [Encoder] => [Signer], WorkerRequest,
        "the signed report of an attempt"),

    row!("hooks.create", [lit("hooks"), lit("intake"), lit("create")], "hook_request", [Intake] => [Webhook], Request,
        "make a webhook endpoint; the secret is in the answer, once"),
    row!("hooks.ask", [lit("hooks"), lit("intake"), lit("ask")], "hook_ask", [Intake] => [Webhook], Request,
        "show, change, rotate, remove or test an endpoint; list or replay its deliveries"),
    row!("hook.out", [lit("hook"), lit("out"), Tenant, Endpoint, Delivery], "delivery", [Webhook] => [Webhook], Stream(Hooks),
        "one delivery to one endpoint, until it succeeds or its schedule is spent"),

    row!("tenant.submit", [lit("tenant"), Account, lit("submit")], "json", [Tenant] => [Intake], TenantRequest,
        "a tenant's program submits a job (api.submit in its own account)"),
    row!("tenant.get", [lit("tenant"), Account, lit("get")], "json", [Tenant] => [Intake], TenantRequest,
        "a tenant's program reads a job (api.get)"),
    row!("tenant.list", [lit("tenant"), Account, lit("list")], "json", [Tenant] => [Intake], TenantRequest,
        "a tenant's program lists its jobs, newest first (api.list)"),
    row!("tenant.cancel", [lit("tenant"), Account, lit("cancel")], "json", [Tenant] => [Intake], TenantRequest,
        "a tenant's program ends a job (api.cancel)"),
    row!("tenant.ask", [lit("tenant"), Account, lit("ask")], "json", [Tenant] => [Intake], TenantRequest,
        "a tenant's program asks for others' approval of a request (api.ask)"),
    row!("tenant.asked", [lit("tenant"), Account, lit("asked")], "json", [Tenant] => [Intake], TenantRequest,
        "a tenant's program reads an approval (api.asked)"),
    row!("tenant.approvals", [lit("tenant"), Account, lit("approvals")], "json", [Tenant] => [Intake], TenantRequest,
        "a tenant's program lists the tenant's approvals, newest first (api.approvals)"),
    row!("events", [lit("events"), Account, Job, lit("terminal")], "json", [Webhook] => [Tenant], TenantEvents,
        "a job of the tenant ended (events.<job>.terminal in its own account)"),
    row!("events.state", [lit("events"), Account, Job, lit("state")], "json", [Webhook] => [Tenant], TenantEvents,
        "a job of the tenant reached a state (events.<job>.state in its own account)"),
];

/// The durable consumers.
pub const CONSUMERS: &[ConsumerRow] = &[
    ConsumerRow {
        durable: "validator",
        stream: Jobs,
        routes: &["job.submitted"],
        role: Role::Validator,
        begins: Begins::First,
        ack_wait_secs: 30,
        max_ack_pending: 1024,
    },
    ConsumerRow {
        durable: "hasher",
        stream: Jobs,
        routes: &["job.encoded"],
        role: Role::Hasher,
        begins: Begins::First,
        ack_wait_secs: 30,
        max_ack_pending: 1024,
    },
    ConsumerRow {
        durable: "webhook",
        stream: Jobs,
        routes: &["job.rejected", "job.completed", "job.failed", "job.cancelled"],
        role: Role::Webhook,
        begins: Begins::First,
        ack_wait_secs: 30,
        max_ack_pending: 1024,
    },
    ConsumerRow {
        // A consumer of its own: how jobs end never waits behind the states on their way.
        durable: "teller",
        stream: Jobs,
        routes: &[
            "job.submitted",
            "job.validated",
            "job.prioritised",
            "job.assigned",
            "job.attempt_failed",
            "job.encoded",
            "job.expired",
        ],
        role: Role::Webhook,
        begins: Begins::Now,
        ack_wait_secs: 30,
        max_ack_pending: 1024,
    },
    ConsumerRow {
        durable: "auditor",
        stream: Jobs,
        routes: &[],
        role: Role::Auditor,
        begins: Begins::First,
        ack_wait_secs: 60,
        max_ack_pending: 8192,
    },
    ConsumerRow {
        durable: "meter",
        stream: Jobs,
        routes: &["job.attempt_failed", "job.completed", "job.failed", "job.cancelled"],
        role: Role::Signer,
        begins: Begins::First,
        ack_wait_secs: 30,
        // One at a time over all replicas: events come in order, and each is counted once.
        max_ack_pending: 1,
    },
    ConsumerRow {
        durable: "deliverer",
        stream: Hooks,
        routes: &["hook.out"],
        role: Role::Webhook,
        begins: Begins::First,
        ack_wait_secs: 60,
        // A delivery that waits for its retry stays pending, so the bound is the backlog's.
        max_ack_pending: 100_000,
    },
];

/// Durable name of the signer's consumer for one pool, tenant and class. Slugs hold no `_`, so
/// names never collide.
#[must_use]
pub fn work_consumer(
    pool: &crate::PoolId,
    tenant: &crate::TenantId,
    class: crate::tenancy::Priority,
) -> String {
    if class.is_normal() {
        return format!("work_{pool}_{tenant}");
    }
    format!("work_{pool}_{tenant}_{}", class.as_str())
}

/// The buckets.
pub const BUCKETS: &[BucketRow] = &[
    BucketRow {
        name: "tenants",
        writers: &[Role::Provisioner],
        readers: &[Role::Intake, Role::Validator, Role::Signer, Role::Webhook, Role::Provisioner],
        max_age_secs: 0,
        about: "tenant records by slug, and slugs by account key",
    },
    BucketRow {
        name: "keys",
        writers: &[Role::Intake, Role::Provisioner],
        readers: &[Role::Intake, Role::Validator, Role::Signer, Role::Provisioner],
        max_age_secs: 0,
        about: "API keys by id: tenant and SHA-256, never the key",
    },
    BucketRow {
        name: "uploads",
        writers: &[Role::Intake],
        readers: &[Role::Intake, Role::Signer],
        max_age_secs: 0,
        about: "uploads by tenant and server file name",
    },
    BucketRow {
        name: "idempotency",
        writers: &[Role::Intake],
        readers: &[Role::Intake],
        max_age_secs: 86_400,
        about: "answers to requests that carried an Idempotency-Key",
    },
    BucketRow {
        name: "listing",
        writers: &[Role::Intake],
        readers: &[Role::Intake],
        max_age_secs: 0,
        about: "ids of each tenant's jobs in the order of their submission, by page",
    },
    BucketRow {
        name: "endpoints",
        writers: &[Role::Webhook, Role::Provisioner],
        readers: &[Role::Webhook, Role::Provisioner],
        max_age_secs: 0,
        about: "webhook endpoints by tenant; secrets encrypted",
    },
    BucketRow {
        name: "deliveries",
        writers: &[Role::Webhook],
        readers: &[Role::Webhook],
        max_age_secs: 2_592_000,
        about: "webhook deliveries and their attempts, by id; their ids by tenant, endpoint and page",
    },
    BucketRow {
        name: "poison",
        writers: &[Role::Signer, Role::Provisioner],
        readers: &[Role::Validator, Role::Signer, Role::Provisioner],
        max_age_secs: 0,
        about: "inputs that killed their cell, by SHA-256, and by tenant and SHA-256",
    },
    BucketRow {
        name: "platform",
        writers: &[Role::Provisioner],
        readers: &[Role::Intake, Role::Validator, Role::Signer, Role::Provisioner],
        max_age_secs: 0,
        about: "the operator's policies for all tenants, and its blocks; no running service can change them",
    },
    BucketRow {
        name: "blocks",
        writers: &[Role::Intake, Role::Provisioner],
        readers: &[Role::Intake, Role::Validator, Role::Signer, Role::Provisioner],
        max_age_secs: 0,
        about: "principals that a tenant has blocked, by tenant",
    },
    BucketRow {
        name: "policies",
        writers: &[Role::Intake, Role::Provisioner],
        readers: &[Role::Intake, Role::Validator, Role::Signer, Role::Provisioner],
        max_age_secs: 0,
        about: "tenants' own policies, every version",
    },
    BucketRow {
        name: "presets",
        writers: &[Role::Intake, Role::Provisioner],
        readers: &[Role::Intake, Role::Provisioner],
        max_age_secs: 0,
        about: "tenants' own presets by tenant and name",
    },
    BucketRow {
        name: "destinations",
        writers: &[Role::Provisioner],
        readers: &[Role::Intake, Role::Validator, Role::Signer, Role::Provisioner],
        max_age_secs: 0,
        about: "buckets outside of the store where a tenant's outputs may go; secrets encrypted",
    },
    BucketRow {
        name: "approvals",
        writers: &[Role::Intake],
        readers: &[Role::Intake, Role::Validator, Role::Signer],
        max_age_secs: 2_592_000,
        about: "requests that wait for, or have, other people's approval",
    },
    BucketRow {
        name: "proofs",
        writers: &[Role::Intake],
        readers: &[Role::Intake],
        max_age_secs: 300,
        about: "identifiers of DPoP proofs that were used (RFC 9449 §11.1)",
    },
    BucketRow {
        name: "usage",
        writers: &[Role::Signer],
        readers: &[Role::Intake, Role::Signer, Role::Provisioner],
        max_age_secs: 0,
        about: "CPU and output time of each tenant and month",
    },
    BucketRow {
        name: "slots",
        writers: &[Role::Signer],
        readers: &[Role::Signer],
        max_age_secs: 0,
        about: "what the broker does not know of a cap over all classes, by tenant and pool: what of high and low is out, what of normal waits",
    },
    BucketRow {
        name: "audit",
        writers: &[Role::Auditor],
        readers: &[Role::Auditor, Role::Provisioner],
        max_age_secs: 0,
        about: "head of the evidence log: the fence of its one writer",
    },
];

/// The bucket called `name`.
#[must_use]
pub fn bucket(name: &str) -> Option<&'static BucketRow> {
    BUCKETS.iter().find(|bucket| bucket.name == name)
}
