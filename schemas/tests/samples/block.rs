//! Principals that are blocked, and what asks for it.

use super::{T0, key_id, rest::Look, tenant};
use hotcell_schemas::{
    BlockId,
    block::{BlockList, BlockRecord, BlockRequest, PrincipalRequest, Risk},
    job::Actor,
    records::AuditAct,
};

/// A public login nkey.
const LOGIN: &str = "UBJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA";

fn id() -> BlockId {
    BlockId::new(T0.0, [6; 10])
}

fn ana() -> Actor {
    Actor::User { issuer: "https://id.example".to_owned(), subject: "ana".to_owned() }
}

pub(crate) fn act() -> AuditAct {
    AuditAct::Blocked { actor: ana(), block: id(), target: "POST /v1/transcodes".to_owned() }
}

/// The records.
pub(crate) fn at_rest(eye: &mut impl Look) {
    let own = BlockRecord {
        id: id(),
        tenant: tenant(),
        principal: ana(),
        risk: Risk::STOP,
        reason: "token stolen".to_owned(),
        by: Some(Actor::ApiKey { id: key_id() }),
        by_operator: false,
        at: T0,
        until: Some(T0.plus_ms(3_600_000)),
    };
    let operators = BlockRecord { by: None, by_operator: true, until: None, ..own.clone() };
    let raised = BlockRecord { risk: Risk::HIGHEST, ..own.clone() };
    eye.look("blocks", &BlockList { blocks: vec![own, operators, raised] });
}

/// The bodies.
pub(crate) fn http(eye: &mut impl Look) {
    let reason = "token stolen".to_owned();
    let (issuer, subject) = ("https://id.example".to_owned(), "ana".to_owned());
    let person = PrincipalRequest::User { issuer: issuer.clone(), subject };
    let login = PrincipalRequest::NatsLogin { user: LOGIN.to_owned(), name: "app".to_owned() };
    let service = PrincipalRequest::Service { issuer, client: "ci".to_owned() };
    for (name, principal, expires_in_secs, risk) in [
        ("block.user", person, Some(3600), None),
        ("block.key", PrincipalRequest::ApiKey { id: key_id() }, None, Some(2)),
        ("block.login", login, None, None),
        ("block.service", service, None, None),
    ] {
        let reason = reason.clone();
        eye.look(name, &BlockRequest { principal, reason, expires_in_secs, risk });
    }
}
