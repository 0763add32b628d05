//! The accounts as claims, derived from the route table: what PIPELINE exports, what ENCODERS and
//! tenants import, which scoped keys make logins, and within which limits.
//!
//! Promises: a tenant's import names the tenant's own key where the broker checks it, so a tenant
//! cannot speak as another; only PIPELINE has JetStream; only PIPELINE exports. Pure.

use crate::{
    claims::{
        AccountBody, ActivationBody, Export, FlowType, Import, Limits, NO_LIMIT, OperatorBody,
        RemovalBody, Scope, SigningKey, Template, VERSION,
    },
    jwt::{self, JwtError},
    keys::{Keyring, TenantKeys},
    permissions::{Permissions, role_permissions, sys_permissions, tenant_local},
};
use hotcell_schemas::{
    Role, TenantId, UnixMs,
    limits::{PAYLOAD_BYTES_MAX, TENANT_PAYLOAD_BYTES_MAX, WORKER_PAYLOAD_BYTES_MAX},
    routes::{Carrier, ROUTES, Route, Token},
    tenancy::TenantState,
};
use nkeys::KeyPair;
use std::collections::BTreeMap;

/// Nanoseconds until the broker forgets an unanswered request: past the 20 s long poll for work
/// and the client's own time-out of it.
pub const RESPONSE_THRESHOLD_NS: u64 = 45_000_000_000;

/// Subscriptions of one service: the signer holds one inbox for each pull that is out.
pub const SERVICE_SUBS_MAX: i64 = 16_384;

/// Subscriptions of one worker: its inbox, with room for a client's own.
pub const WORKER_SUBS_MAX: i64 = 8;

/// Subscriptions of one of a tenant's programs.
pub const PROGRAM_SUBS_MAX: i64 = 16;

/// Workers connected at once. The broker counts for the account, not for a login.
pub const WORKER_CONNECTIONS_MAX: i64 = 1000;

/// Programs of one tenant connected at once.
pub const TENANT_CONNECTIONS_MAX: i64 = 20;

/// Subscriptions of all of a tenant's programs.
pub const TENANT_SUBS_MAX: i64 = 100;

/// Every user, in an account's revocations (`jwt.All` of github.com/nats-io/jwt v2).
pub const EVERY_USER: &str = "*";

/// Users that were signed before this are revoked, in Unix seconds: 2106-02-07, the largest that
/// 32 bits hold. The same in every rendering, so that two can be compared.
pub const REVOKED_UNTIL_SECS: u64 = 0xFFFF_FFFF;

/// Logins of one account that are revoked: 96 KB of its JWT, of the 256 KiB that the broker takes. Only
/// when it is full is one of them forgotten, and only one whose token has ended: an agent that was not
/// told goes on renewing a login that is revoked.
pub const REVOKED_MAX: usize = 1000;

/// Connections of the operator.
pub const SYS_CONNECTIONS_MAX: i64 = 8;

/// The operator's JWT.
///
/// # Errors
/// [`JwtError`].
pub fn operator(keys: &Keyring, now: UnixMs) -> Result<String, JwtError> {
    let body = OperatorBody {
        kind: "operator".to_owned(),
        version: VERSION,
        signing_keys: vec![keys.operator_signing.public_key()],
        system_account: keys.sys.public_key(),
        strict_signing_key_usage: true,
    };
    jwt::encode(&keys.operator, now, &keys.operator.public_key(), "hotcell", &body)
}

/// The system account: one login, no exports.
///
/// # Errors
/// [`JwtError`].
pub fn sys(keys: &Keyring, now: UnixMs) -> Result<String, JwtError> {
    let mut limits = no_limits();
    limits.conn = SYS_CONNECTIONS_MAX;
    limits.payload = number(PAYLOAD_BYTES_MAX);
    let scope = scope(
        &keys.sys_login,
        "sys",
        sys_permissions(),
        PROGRAM_SUBS_MAX,
        number(PAYLOAD_BYTES_MAX),
    );
    account(keys, now, &keys.sys, "SYS", body(limits, vec![scope]))
}

/// Account PIPELINE: JetStream, the services, and what the other accounts may import.
///
/// # Errors
/// [`JwtError`].
pub fn pipeline(keys: &Keyring, now: UnixMs) -> Result<String, JwtError> {
    let mut limits = no_limits();
    limits.conn = NO_LIMIT;
    limits.payload = number(PAYLOAD_BYTES_MAX);
    limits.exports = NO_LIMIT;
    limits.wildcards = true;
    limits.disk_storage = NO_LIMIT;
    limits.streams = NO_LIMIT;
    limits.consumer = NO_LIMIT;
    let payload = number(PAYLOAD_BYTES_MAX);
    let mut signing_keys = vec![SigningKey::Plain(keys.pipeline_grants.public_key())];
    signing_keys.extend(keys.services.iter().map(|(role, key)| {
        scope(key, role.as_str(), role_permissions(*role), SERVICE_SUBS_MAX, payload)
    }));
    let mut body = body(limits, signing_keys);
    body.exports = exports();
    account(keys, now, &keys.pipeline, "PIPELINE", body)
}

/// Account ENCODERS: no JetStream, the requests of a worker, one scoped key.
///
/// # Errors
/// [`JwtError`].
pub fn encoders(keys: &Keyring, now: UnixMs) -> Result<String, JwtError> {
    let payload = number(WORKER_PAYLOAD_BYTES_MAX);
    let imports = ROUTES
        .iter()
        .filter(|route| route.carrier == Carrier::WorkerRequest)
        .map(|route| worker_import(keys, now, route))
        .collect::<Result<Vec<_>, _>>()?;
    let mut limits = no_limits();
    limits.conn = WORKER_CONNECTIONS_MAX;
    limits.payload = payload;
    limits.imports = number(imports.len());
    let rights = role_permissions(Role::Encoder);
    let scope = scope(&keys.workers, "worker", rights, WORKER_SUBS_MAX, payload);
    let mut body = body(limits, vec![scope]);
    body.imports = imports;
    account(keys, now, &keys.encoders, "ENCODERS", body)
}

/// One tenant's account: the API and its own events. One that is not active has no connection: no
/// new one is taken, and every login that was ever made is revoked, so live ones are cut at once.
///
/// # Errors
/// [`JwtError`].
pub fn tenant(
    keys: &Keyring,
    tenant_keys: &TenantKeys,
    tenant: &TenantId,
    state: TenantState,
    now: UnixMs,
) -> Result<String, JwtError> {
    let payload = number(TENANT_PAYLOAD_BYTES_MAX);
    let own = tenant_keys.account.public_key();
    let imports: Vec<Import> =
        ROUTES.iter().filter_map(|route| tenant_import(keys, &own, route)).collect();
    let mut limits = no_limits();
    limits.conn = if state.is_active() { TENANT_CONNECTIONS_MAX } else { 0 };
    limits.subs = TENANT_SUBS_MAX;
    limits.payload = payload;
    limits.imports = number(imports.len());
    let rights = role_permissions(Role::Tenant);
    let scope = scope(&tenant_keys.programs, "program", rights, PROGRAM_SUBS_MAX, payload);
    let mut body = body(limits, vec![scope]);
    body.imports = imports;
    if !state.is_active() {
        body.revocations.insert(EVERY_USER.to_owned(), REVOKED_UNTIL_SECS);
    }
    account(keys, now, &tenant_keys.account, &format!("tenant-{tenant}"), body)
}

/// The word that an account is to be forgotten. The broker wants it signed by a key of the
/// operator's about itself.
///
/// # Errors
/// [`JwtError`].
pub fn removal(keys: &Keyring, account: &str, now: UnixMs) -> Result<String, JwtError> {
    let body = RemovalBody {
        kind: "generic".to_owned(),
        version: VERSION,
        accounts: vec![account.to_owned()],
    };
    let signer = &keys.operator_signing;
    jwt::encode(signer, now, &signer.public_key(), "removal", &body)
}

/// Position of the account's key in the subject of `route`, from 1; 0 when it has none.
fn account_position(route: &Route) -> u32 {
    let position = route.tokens.iter().position(|token| *token == Token::Account);
    position.map_or(0, |index| u32::try_from(index + 1).expect("a row has fewer than ten tokens"))
}

/// What PIPELINE exports.
#[must_use]
pub fn exports() -> Vec<Export> {
    ROUTES.iter().filter_map(export).collect()
}

fn export(route: &Route) -> Option<Export> {
    let kind = match route.carrier {
        Carrier::WorkerRequest | Carrier::TenantRequest => FlowType::Service,
        Carrier::TenantEvents => FlowType::Stream,
        Carrier::Stream(_) | Carrier::Request => return None,
    };
    let service = kind == FlowType::Service;
    Some(Export {
        name: route.name.to_owned(),
        subject: route.filter(),
        kind,
        token_req: route.carrier == Carrier::WorkerRequest,
        account_token_position: account_position(route),
        response_type: service.then(|| "Singleton".to_owned()),
        response_threshold: service.then_some(RESPONSE_THRESHOLD_NS),
    })
}

fn worker_import(keys: &Keyring, now: UnixMs, route: &Route) -> Result<Import, JwtError> {
    let subject = route.filter();
    let activation = ActivationBody {
        kind: "activation".to_owned(),
        version: VERSION,
        subject: subject.clone(),
        flow: FlowType::Service,
        issuer_account: keys.pipeline.public_key(),
    };
    let importer = keys.encoders.public_key();
    let token = jwt::encode(&keys.pipeline_grants, now, &importer, route.name, &activation)?;
    Ok(Import {
        name: route.name.to_owned(),
        account: keys.pipeline.public_key(),
        subject,
        local_subject: None,
        kind: FlowType::Service,
        token: Some(token),
        share: true,
    })
}

fn tenant_import(keys: &Keyring, own: &str, route: &Route) -> Option<Import> {
    let kind = match route.carrier {
        Carrier::TenantRequest => FlowType::Service,
        Carrier::TenantEvents => FlowType::Stream,
        Carrier::Stream(_) | Carrier::Request | Carrier::WorkerRequest => return None,
    };
    let words = route.tokens.iter().map(|token| match token {
        Token::Lit(word) => word,
        Token::Account => own,
        Token::Tenant
        | Token::Job
        | Token::Pool
        | Token::Class
        | Token::Worker
        | Token::Endpoint
        | Token::Delivery => "*",
    });
    Some(Import {
        name: route.name.to_owned(),
        account: keys.pipeline.public_key(),
        subject: words.collect::<Vec<_>>().join("."),
        local_subject: Some(tenant_local(route, |variable| format!("${variable}"))),
        kind,
        token: None,
        share: kind == FlowType::Service,
    })
}

fn no_limits() -> Limits {
    Limits {
        subs: NO_LIMIT,
        data: NO_LIMIT,
        payload: NO_LIMIT,
        imports: 0,
        exports: 0,
        wildcards: false,
        disallow_bearer: true,
        conn: 0,
        leaf: 0,
        mem_storage: 0,
        disk_storage: 0,
        streams: 0,
        consumer: 0,
        max_ack_pending: 0,
        mem_max_stream_bytes: 0,
        disk_max_stream_bytes: 0,
        max_bytes_required: false,
    }
}

fn body(limits: Limits, signing_keys: Vec<SigningKey>) -> AccountBody {
    AccountBody {
        kind: "account".to_owned(),
        version: VERSION,
        imports: Vec::new(),
        exports: Vec::new(),
        limits,
        signing_keys,
        default_permissions: Permissions::none(),
        revocations: BTreeMap::new(),
    }
}

fn scope(
    key: &KeyPair,
    role: &str,
    permissions: Permissions,
    subs: i64,
    payload: i64,
) -> SigningKey {
    SigningKey::Scoped(Box::new(Scope {
        kind: "user_scope".to_owned(),
        key: key.public_key(),
        role: role.to_owned(),
        template: Template {
            permissions,
            subs,
            data: NO_LIMIT,
            payload,
            bearer_token: false,
            allowed_connection_types: vec!["STANDARD".to_owned()],
        },
    }))
}

fn account(
    keys: &Keyring,
    now: UnixMs,
    key: &KeyPair,
    name: &str,
    body: AccountBody,
) -> Result<String, JwtError> {
    jwt::encode(&keys.operator_signing, now, &key.public_key(), name, &body)
}

fn number(value: usize) -> i64 {
    i64::try_from(value).expect("limits are far below 2^63")
}
