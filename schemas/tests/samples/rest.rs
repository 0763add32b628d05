//! Audit records, webhook endpoints, records at rest and the bodies of the HTTP API.

use super::{
    ACCOUNT, See, T0, delivery_id, digest, endpoint_id, job_id, jobs, key_id, tenant, upload_id,
    upload_key, upload_name, worker,
};
use hotcell_schemas::{
    RejectCode, Role,
    destination::{Addressing, DestinationRecord},
    evidence::{EvidenceKind, EvidenceReply, EvidenceRequest, EvidenceRow, Who, WhoKind},
    hook::{
        DeliveryAttempt, DeliveryEvent, DeliveryRecord, DeliveryState, EndpointRecord, HookReply,
        HookRequest,
    },
    identity::{Action, Authority, Decided, Outcome, RoleName},
    job::{Actor, Grant},
    listing::{JobPage, ListRequest},
    plan::Sniffed,
    poison::{PoisonRecord, Strike},
    policy::PolicyRecord,
    records::{
        AuditAct, AuditRecord, IdempotencyRecord, KeyIndex, KeyRecord, Pinned, Refusal,
        TenantRecord, TotpRecord, UploadRecord,
    },
    request::{
        ConfirmRequest, GetRequest, UploadRequest, WebhookCreated, WebhookEvent, WebhookRequest,
    },
    secret::WebhookSecret,
    tenancy::{Slot, SlotRecord, UsageRecord},
    usage::{QueueWait, UsageReply, UsageRequest, Waiting},
};
use serde::{Serialize, de::DeserializeOwned};

/// A key of which everything is said.
fn full_key(key: KeyRecord) -> KeyRecord {
    KeyRecord {
        roles: RoleName::ALL.into_iter().collect(),
        expires_at: Some(T0.plus_ms(1)),
        networks: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        label: Some("ci".to_owned()),
        created_by: Some(Actor::ApiKey { id: key_id() }),
        rotated_from: Some(key_id()),
        totp: Some(TotpRecord {
            sealed: vec![1, 2, 3],
            last_step: 58_791_904,
            enrolled_at: T0,
            confirmed: true,
        }),
        ..key
    }
}

/// Audit records and endpoint messages.
pub(crate) fn each(eye: &mut impl See) {
    for (case, row, tenant, act) in acts() {
        eye.see(case, row, &AuditRecord { at: T0, tenant, act });
    }
    let request = HookRequest { tenant: tenant(), request: webhook_request() };
    eye.see("any", "hooks.create", &request);
    eye.see("created", "hooks.create", &HookReply::Created { created: webhook_created() });
    eye.see("over_quota", "hooks.create", &HookReply::OverQuota { limit: 16, used: 16 });
    let (field, rule) = ("url".to_owned(), "must be https".to_owned());
    eye.see("refused", "hooks.create", &HookReply::Refused { field, rule });
    eye.see("any", "usage.now", &UsageRequest { tenant: tenant() });
    let waiting = Waiting { high: 1, normal: 4980, low: 7 };
    let queue_wait = Some(QueueWait { p50_ms: 40, p95_ms: 900, jobs: 20 });
    let now = UsageReply { running: 2, waiting, share_permille: 500, queue_wait };
    eye.see("now", "usage.now", &now);
    evidence(eye);
}

fn evidence(eye: &mut impl See) {
    let who = Who {
        kind: WhoKind::User,
        issuer: Some("https://idp.example".to_owned()),
        id: "ana".to_owned(),
    };
    let request = EvidenceRequest {
        tenant: tenant(),
        from: Some(T0),
        to: Some(T0.plus_ms(1)),
        actor: Some(who),
        cursor: Some(256),
        limit: 100,
    };
    eye.see("any", "evidence.export", &request);
    let row = EvidenceRow {
        index: 256,
        leaf: digest("leaf"),
        seq: 300,
        at: T0,
        tenant: Some(tenant()),
        kind: EvidenceKind::Audit,
        event: "decision".to_owned(),
        by: Some(Role::Intake),
        actor: Some(Actor::ApiKey { id: key_id() }),
        authority: Some(Authority::default()),
        worker: Some(worker()),
        decided: vec![Decided {
            node: Role::Intake,
            action: Action::ReadOutput,
            outcome: Outcome::Allowed,
            policies: vec!["role-submitter".to_owned()],
            digest: digest("policies"),
            at: T0,
        }],
        job: Some(job_id()),
        target: Some("GET /v1/transcodes/{id}/download".to_owned()),
        note: Some("a note".to_owned()),
    };
    let unbelieved = EvidenceRow {
        kind: EvidenceKind::Unbelieved,
        event: "completed".to_owned(),
        by: None,
        actor: None,
        authority: None,
        worker: None,
        decided: Vec::new(),
        job: None,
        target: None,
        note: None,
        ..row.clone()
    };
    let (rows, checkpoint) = (vec![row, unbelieved], Some("log.example\n300\nroot\n".to_owned()));
    eye.see("page", "evidence.export", &EvidenceReply::Page { rows, next: Some(258), checkpoint });
    eye.see("unreadable", "evidence.export", &EvidenceReply::Unreadable {});
}

type Act = (&'static str, &'static str, Option<hotcell_schemas::TenantId>, AuditAct);

fn acts() -> [Act; 13] {
    let granted = AuditAct::Granted {
        to: Role::Encoder,
        worker: Some(worker()),
        job: Some(job_id()),
        attempt: Some(1),
        grants: [None, Some("cdn".parse().unwrap())]
            .map(|destination| Grant {
                method: "PUT".to_owned(),
                key_digest: upload_key().digest(),
                ttl_secs: 3600,
                destination,
            })
            .into(),
    };
    let refused = AuditAct::Refused {
        by: Role::Validator,
        what: Refusal::Envelope,
        subject: super::subject("job.submitted").to_string(),
        reason: "the signature does not verify".to_owned(),
    };
    let confirmed = AuditAct::Confirmed {
        actor: Actor::ApiKey { id: key_id() },
        name: upload_name(),
        key_digest: upload_key().digest(),
        size: 1_048_576,
        sha256: digest("input"),
    };
    let endpoint =
        AuditAct::EndpointCreated { endpoint: endpoint_id(), host: "hooks.example".to_owned() };
    let disabled = AuditAct::EndpointDisabled {
        endpoint: endpoint_id(),
        failures: 10,
        status: Some(500),
        error: "status".to_owned(),
    };
    let delivered = AuditAct::Delivered {
        delivery: delivery_id(),
        endpoint: endpoint_id(),
        job: job_id(),
        state: DeliveryState::Succeeded,
        attempts: 2,
        status: Some(204),
    };
    let admin = AuditAct::Admin { action: "tenant_added".to_owned(), target: "acme".to_owned() };
    let reaped =
        AuditAct::Reaped { keys: vec![upload_key().digest()], why: "unconfirmed".to_owned() };
    let violation = AuditAct::Violation {
        job: job_id(),
        attempt: 1,
        worker: worker(),
        call: "socket".to_owned(),
        inputs: vec![digest("input")],
        profile_digest: digest("profile"),
    };
    [
        ("granted", "audit.grant", Some(tenant()), granted),
        ("refused", "audit.refused", None, refused),
        ("confirmed", "audit.upload", Some(tenant()), confirmed),
        ("endpoint_created", "audit.webhook", Some(tenant()), endpoint),
        ("endpoint_disabled", "audit.webhook", Some(tenant()), disabled),
        ("delivered", "audit.webhook", Some(tenant()), delivered),
        ("admin", "audit.admin", None, admin),
        ("reaped", "audit.reaped", Some(tenant()), reaped),
        ("violation", "audit.violation", Some(tenant()), violation),
        ("decision", "audit.decision", Some(tenant()), super::approval::decision()),
        ("stepped-up", "audit.decision", Some(tenant()), super::approval::stepped_up()),
        ("blocked", "audit.decision", Some(tenant()), super::block::act()),
        ("changed", "audit.change", Some(tenant()), super::approval::changed()),
    ]
}

/// What [`at_rest`] and [`http`] call with every sample.
pub(crate) trait Look {
    fn look<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
        &mut self,
        name: &str,
        value: &T,
    );
}

fn destination() -> DestinationRecord {
    DestinationRecord {
        tenant: tenant(),
        name: "cdn".parse().unwrap(),
        endpoint: "https://s3.eu-central-1.amazonaws.com".to_owned(),
        region: "eu-central-1".to_owned(),
        bucket: "acme-media".to_owned(),
        prefix: "video".to_owned(),
        addressing: Addressing::Virtual,
        access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
        sealed: vec![7; 68],
        created_at: T0,
    }
}

/// Every record of the buckets.
pub(crate) fn at_rest(eye: &mut impl Look) {
    let tenant_record = TenantRecord {
        state: hotcell_schemas::tenancy::TenantState::Active,
        quotas: hotcell_schemas::tenancy::Quotas::default(),
        id: tenant(),
        account: ACCOUNT.to_owned(),
        pools: vec!["cpu".parse().unwrap(), "gpu".parse().unwrap()],
        concurrency: 16,
        retention_secs: 86_400,
        stored_bytes_max: 64 << 30,
        created_at: T0,
        raw_arguments: false,
    };
    eye.look("tenant", &tenant_record);
    let key = KeyRecord {
        roles: std::collections::BTreeSet::new(),
        expires_at: None,
        networks: Vec::new(),
        label: None,
        created_by: None,
        rotated_from: None,
        totp: None,
        id: key_id(),
        tenant: tenant(),
        sha256: digest("hck_id_secret"),
        created_at: T0,
        revoked_at: None,
    };
    eye.look("key", &key);
    eye.look("key.revoked", &KeyRecord { revoked_at: Some(T0), ..key.clone() });
    eye.look("key.full", &full_key(key));
    eye.look("key.index", &KeyIndex { ids: std::iter::once(key_id()).collect() });
    let upload = UploadRecord {
        id: upload_id(),
        name: upload_name(),
        key: upload_key(),
        content_type: "video/mp4".to_owned(),
        size: 1_048_576,
        created_at: T0,
        pinned: None,
    };
    let pinned = Pinned {
        sha256: digest("input"),
        etag: "\"9b2cf535\"".to_owned(),
        at: T0.plus_ms(1),
        sniffed: None,
    };
    eye.look("upload", &upload);
    eye.look("upload.pinned", &UploadRecord { pinned: Some(pinned.clone()), ..upload.clone() });
    let sniffed = Some(Sniffed { protected: true, ..jobs::sniffed() });
    let pinned = Some(Pinned { sniffed, ..pinned });
    eye.look("upload.protected", &UploadRecord { pinned, ..upload.clone() });
    eye.look("policy", &policy());
    eye.look("approval", &super::approval::record());
    eye.look("destination", &destination());
    super::preset::at_rest(eye);
    super::block::at_rest(eye);
    of_work(eye);
    of_webhooks(eye);
    super::hook::at_rest(eye);
}

/// What was learned of jobs.
fn of_work(eye: &mut impl Look) {
    let strike = Strike {
        tenant: tenant(),
        job: job_id(),
        attempt: 1,
        worker: worker(),
        code: RejectCode::CellViolation,
        at: T0,
    };
    let poison = PoisonRecord { sha256: digest("input"), tenant: None, strikes: vec![strike] };
    eye.look("poison", &poison);
    eye.look("poison.tenant", &PoisonRecord { tenant: Some(tenant()), ..poison.clone() });
    eye.look("listing", &JobPage { jobs: vec![job_id()] });
    let usage = UsageRecord {
        seq: 71,
        cpu_ms: 61_500,
        output_ms: 120_000,
        attempts: 3,
        completed: 2,
        at: T0,
    };
    eye.look("usage", &usage);
    let slots = vec![Slot { job: job_id(), at: T0 }];
    eye.look("slots", &SlotRecord { parked: slots.clone(), slots });
    eye.look("idempotency", &IdempotencyRecord { body: digest("body"), job: job_id() });
}

/// Endpoints, and what was sent to them.
fn of_webhooks(eye: &mut impl Look) {
    let endpoint = EndpointRecord {
        id: endpoint_id(),
        tenant: tenant(),
        url: "https://hooks.example/in".to_owned(),
        events: WebhookEvent::ALL.into(),
        secret_sealed: "c2VhbGVk".to_owned(),
        created_at: T0,
        failures: 0,
        disabled_at: None,
        disabled_for: None,
        failing: Vec::new(),
        old_secret: None,
        rotation: None,
    };
    eye.look("endpoint", &endpoint);
    let tries = [
        DeliveryAttempt { at: T0, status: None, elapsed_ms: 10_000, error: Some("timeout".into()) },
        DeliveryAttempt { at: T0.plus_ms(60_000), status: Some(204), elapsed_ms: 12, error: None },
    ];
    let event = DeliveryEvent::Job(WebhookEvent::Completed);
    let delivery = DeliveryRecord {
        state: DeliveryState::Succeeded,
        attempts: tries.into(),
        ..DeliveryRecord::new(delivery_id(), tenant(), endpoint_id(), event)
    };
    eye.look("delivery", &delivery);
}

fn policy() -> PolicyRecord {
    let text = "@id(\"no-h265\") @allows(\"h264 and vp9\") forbid (principal, action, resource);";
    let by = Some(Actor::ApiKey { id: key_id() });
    PolicyRecord { version: 3, text: text.to_owned(), digest: digest(text), by, at: T0 }
}

fn webhook_request() -> WebhookRequest {
    WebhookRequest {
        url: "https://hooks.example/in".to_owned(),
        events: vec![WebhookEvent::Completed, WebhookEvent::Failed],
    }
}

fn webhook_created() -> WebhookCreated {
    WebhookCreated {
        id: endpoint_id(),
        url: "https://hooks.example/in".to_owned(),
        events: vec![WebhookEvent::Completed, WebhookEvent::Failed],
        secret: WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
    }
}

/// Every body of the HTTP API that schemas defines.
pub(crate) fn http(eye: &mut impl Look) {
    let upload = UploadRequest {
        filename: "interview raw.mp4".to_owned(),
        content_type: "video/mp4".to_owned(),
        file_size: 1_048_576,
    };
    eye.look("upload", &upload);
    eye.look("confirm", &ConfirmRequest { filename: upload_name(), file_size: 1_048_576 });
    eye.look("transcode.preset", &jobs::preset_request());
    eye.look("transcode.explicit", &jobs::explicit_request());
    super::approval::http(eye);
    super::preset::http(eye);
    super::block::http(eye);
    eye.look("get", &GetRequest { id: job_id() });
    let list = ListRequest {
        limit: Some(20),
        cursor: Some("MS4xMjg".to_owned()),
        state: Some(hotcell_schemas::EventKind::Completed),
    };
    eye.look("list", &list);
    eye.look("state_event", &jobs::completed().states(0).next_back().unwrap());
    eye.look("webhook", &webhook_request());
    eye.look("webhook_created", &webhook_created());
    super::hook::http(eye);
}
