//! Decisions, approvals and what asks for them.

use super::{T0, digest, jobs, key_id, rest::Look, tenant};
use hotcell_schemas::{
    Role,
    approval::{
        ApprovalRecord, ApprovalRequest, CallRequest, Voice, VoiceRequest, canonical_text,
        job_digest,
    },
    identity::{Action, Authority, Decided, Outcome, RoleName},
    job::Actor,
    records::AuditAct,
};
use serde_json::json;

fn asker() -> Actor {
    Actor::ApiKey { id: key_id() }
}

fn authority() -> Authority {
    Authority {
        roles: [RoleName::Submitter, RoleName::WebhookAdmin].into(),
        mfa: true,
        acr: Some("urn:hotcell:acr:mfa".to_owned()),
        auth_time: Some(T0),
        network: Some("203.0.113.9".parse().unwrap()),
        session: Some("c2Vzc2lvbg".to_owned()),
        bound: true,
        approval: Some("0198e1d2c3d4700080000000000000aa".parse().unwrap()),
    }
}

fn decided(outcome: Outcome) -> Decided {
    Decided {
        node: Role::Intake,
        action: Action::ManageWebhooks,
        outcome,
        policies: vec!["step-up-webhooks".to_owned()],
        digest: digest("set"),
        at: T0,
    }
}

pub(crate) fn decision() -> AuditAct {
    AuditAct::Decision {
        actor: asker(),
        authority: Authority::default(),
        target: "POST /v1/webhooks".to_owned(),
        decided: decided(Outcome::StepUp),
    }
}

pub(crate) fn stepped_up() -> AuditAct {
    let authority = Authority { approval: None, bound: false, ..authority() };
    AuditAct::SteppedUp { actor: asker(), authority }
}

pub(crate) fn changed() -> AuditAct {
    AuditAct::Changed {
        actor: asker(),
        authority: authority(),
        what: "webhook_created".to_owned(),
        target: "hooks.example".to_owned(),
        decided: decided(Outcome::Allowed),
    }
}

pub(crate) fn record() -> ApprovalRecord {
    let request = jobs::preset_request();
    let approver =
        Actor::User { issuer: "https://id.example".to_owned(), subject: "alice".to_owned() };
    ApprovalRecord {
        id: "0198e1d2c3d4700080000000000000aa".parse().unwrap(),
        tenant: tenant(),
        requester: asker(),
        interested: vec![asker(), approver.clone()],
        action: Action::SubmitTranscode,
        request: job_digest(&request),
        shown: canonical_text(&serde_json::to_value(&request).unwrap()),
        approvers_min: 1,
        groups: ["auditor".to_owned()].into(),
        created_at: T0,
        expires_at: T0.plus_ms(3_600_000),
        voices: vec![Voice {
            actor: approver,
            groups: ["auditor".to_owned()].into(),
            approves: true,
            reason: Some("as agreed".to_owned()),
            at: T0.plus_ms(1000),
        }],
        used_for: Some("0198e1d2c3d4700080000000000000bb".to_owned()),
    }
}

pub(crate) fn http(eye: &mut impl Look) {
    // What is inside is another request's own shape, so these hold none.
    let request = CallRequest {
        method: "DELETE".to_owned(),
        path: "/v1/keys/0198e1d2c3d4700080000000000000aa".to_owned(),
        body: json!(null),
    };
    let asked = ApprovalRequest {
        action: Action::ManageKeys,
        request: json!(null),
        approvers_min: Some(2),
        groups: [RoleName::TenantAdmin].into(),
        expires_in_secs: Some(600),
    };
    eye.look("approval.call", &request);
    eye.look("approval", &asked);
    eye.look("voice", &VoiceRequest { reason: Some("as agreed".to_owned()) });
}
