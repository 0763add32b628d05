//! `hotcell policy put|list`: the sets in force, by the operator.
//!
//! Promises: what changes who may do what is in the evidence log before it is in force. Refuses a
//! tenant that is not there, and a text that is not valid.

use super::{check, read_text};
use crate::{
    fail::{Context as _, Fail},
    poison::connect,
    print,
};
use hotcell_policy::{PolicyStore, Put, PutError, Rule, check as valid};
use hotcell_schemas::{
    Digest, TenantId,
    policy::PolicyRecord,
    records::{AuditAct, TenantRecord},
    tenancy::TenantState,
};
use hotcell_stage::{Bus, Outgoing, clock};
use serde_json::{Value, json};
use std::path::Path;

/// Characters of a hash in the table.
const HASH_CHARS: usize = 12;

pub(super) async fn put(
    data: &Path,
    file: &Path,
    tenant: Option<&TenantId>,
    over: Option<u32>,
    as_json: bool,
) -> Result<(), Fail> {
    let text = read_text(file)?;
    valid(&text, tenant).map_err(|faults| check::refused(file, &faults, as_json))?;
    let bus = connect(data).await?;
    if let Some(tenant) = tenant {
        let found = bus.bucket("tenants").get::<TenantRecord>(tenant.as_str()).await;
        let found = found.or_fail("cannot read the tenants")?;
        if !found.is_some_and(|found| found.value.state != TenantState::Removed) {
            return Err(Fail::failed(format!("there is no tenant {tenant}")));
        }
    }
    told(&bus, tenant, &text).await?;
    let put = Put { tenant, text: &text, by: None, at: clock::now(), over };
    let record = PolicyStore::new(&bus).put(put).await.map_err(|error| match error {
        PutError::Conflict(version) => Fail::failed(format!(
            "not put: version {version} is in force; see `hotcell policy list`, then try again"
        )),
        PutError::Invalid(_) | PutError::Full | PutError::Records(_) => {
            Fail::failed(format!("not put: {}", hotcell_stage::service::describe(&error)))
        }
    })?;
    if as_json {
        print::json(&version(&record));
    } else {
        let whose = tenant.map_or("the platform", TenantId::as_str);
        print::line(format!(
            "version {} of {whose} is in force: {}",
            record.version, record.digest
        ));
    }
    Ok(())
}

/// The record of the act, before the act.
async fn told(bus: &Bus, tenant: Option<&TenantId>, text: &str) -> Result<(), Fail> {
    let digest = Digest::of(text.as_bytes());
    let target = format!("{} {digest}", tenant.map_or("platform", TenantId::as_str));
    let act = AuditAct::Admin { action: "policy_put".to_owned(), target };
    let id = format!("admin-{}", hex::encode(clock::random::<16>()));
    let out = Outgoing::audit(tenant, act, id);
    bus.publish(&out).await.or_fail("not put, because the log does not take the record")?;
    Ok(())
}

pub(super) async fn list(
    data: &Path,
    tenant: Option<&TenantId>,
    as_json: bool,
) -> Result<(), Fail> {
    let bus = connect(data).await?;
    let store = PolicyStore::new(&bus);
    let engine = store.engine(tenant).await.or_fail("the policies in force")?;
    let versions = store.history(tenant).await.or_fail("the versions")?;
    if as_json {
        print::json(&json!({
            "digest": engine.digest(),
            "policies": engine.rules().map(shown).collect::<Vec<_>>(),
            "versions": versions.iter().map(version).collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    print::line(format!("in force: {}", engine.digest()));
    let rows: Vec<_> = [["policy", "does", "about", "lifted by"].map(str::to_owned).to_vec()]
        .into_iter()
        .chain(engine.rules().map(row))
        .collect();
    print::line(print::table(&rows));
    if !versions.is_empty() {
        let rows: Vec<_> = [["version", "sha256", "put by", "at"].map(str::to_owned).to_vec()]
            .into_iter()
            .chain(versions.iter().map(version_row))
            .collect();
        print::line(format!("\n{}", print::table(&rows)));
    }
    Ok(())
}

fn effect(rule: &Rule) -> &'static str {
    if rule.forbids { "forbids" } else { "permits" }
}

fn row(rule: &Rule) -> Vec<String> {
    let step = rule.step_up.as_ref();
    let lifted = step.map(|step| format!("{}, {} s", step.acr_values.join(" "), step.max_age_secs));
    vec![rule.id.clone(), effect(rule).to_owned(), rule.about.clone(), lifted.unwrap_or_default()]
}

fn shown(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "effect": effect(rule),
        "about": rule.about,
        "allows": rule.allows,
        "actions": rule.actions,
        "step_up": rule.step_up.as_ref().map(|step| json!({
            "acr_values": step.acr_values, "max_age": step.max_age_secs,
        })),
        "text": rule.text,
    })
}

fn version(record: &PolicyRecord) -> Value {
    json!({
        "version": record.version,
        "digest": record.digest,
        "by": record.by,
        "at": record.at.rfc3339(),
        "text": record.text,
    })
}

fn version_row(record: &PolicyRecord) -> Vec<String> {
    let by = match &record.by {
        None => "the operator".to_owned(),
        Some(actor) => actor_name(actor),
    };
    let hash = record.digest.to_string().chars().take(HASH_CHARS).collect();
    vec![record.version.to_string(), hash, by, record.at.rfc3339()]
}

fn actor_name(actor: &hotcell_schemas::job::Actor) -> String {
    use hotcell_schemas::job::Actor;
    match actor {
        Actor::ApiKey { id } => format!("key {id}"),
        Actor::NatsLogin { name, .. } => format!("login {name}"),
        Actor::User { issuer, subject } => format!("{subject} of {issuer}"),
        Actor::Service { issuer, client } => format!("program {client} of {issuer}"),
    }
}
