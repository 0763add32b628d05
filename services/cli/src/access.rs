//! `hotcell access report`: who has which login, key and role, since when and until when, for a
//! periodic review of access (BRK-84). Reads; changes nothing; shows no secret.

use crate::{
    fail::{Context as _, Fail},
    print,
    tenant::{args::AccessCommand, manage::admin},
};
use hotcell_nats_config::{FoundLogin, Login, RevokedLogin, terms::roles_of};
use hotcell_schemas::{
    TenantId, UnixMs,
    records::{KeyRecord, TenantRecord},
};
use hotcell_stage::clock;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// One way in.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Access {
    /// `service`, `operator`, `worker`, `tenant login`, `scoped key` or `api key`.
    kind: &'static str,
    /// Whose; the platform's own without one.
    tenant: Option<TenantId>,
    /// Its name or id.
    name: String,
    /// Its roles, or a worker's pools.
    roles: Vec<String>,
    /// When it was last changed: made, renewed or revoked.
    changed_at: UnixMs,
    /// When it ends by itself.
    expires_at: Option<UnixMs>,
    /// What a reviewer should look at.
    notes: Vec<&'static str>,
}

/// Runs the command.
pub(crate) async fn run(data: &Path, command: &AccessCommand, as_json: bool) -> Result<(), Fail> {
    let AccessCommand::Report = command;
    let admin = admin(data).await?;
    let records = admin.tenants().await.or_fail("tenants not listed")?;
    let tenants: BTreeMap<_, _> = records.iter().map(|record| (&record.id, record)).collect();
    let logins = admin.installation().logins().or_fail("logins not listed")?;
    let keys = admin.keys().await.or_fail("keys not listed")?;
    let now = clock::now();
    let revoked = admin.installation().revoked().or_fail("revoked logins not listed")?;
    let encoders = admin.installation().keys().encoders.public_key();
    // The file of one whose revocation was interrupted is still there.
    let dead: BTreeSet<_> = revoked.iter().map(|login| &login.key).collect();
    let logins = logins.iter().filter(|found| !dead.contains(&found.claims.sub));
    let logins = logins.map(|found| of_login(found, &tenants, now));
    let keys = keys.iter().map(|k| of_key(k, &tenants, now));
    let mut refused = BTreeSet::new();
    for account in revoked.iter().map(|login| &login.account).collect::<BTreeSet<_>>() {
        refused.extend(admin.refused_keys(account).await.or_fail("the broker's list not read")?);
    }
    let revoked = revoked.iter().map(|login| {
        let is_told = refused.contains(&login.key);
        of_revoked(login, &records, &encoders, is_told)
    });
    let mut all: Vec<Access> = logins.chain(keys).chain(revoked).collect();
    all.sort();
    if as_json {
        print::json(&all);
    } else {
        print::line(table(&all));
    }
    Ok(())
}

fn of_tenant(
    tenant: &TenantId,
    tenants: &BTreeMap<&TenantId, &TenantRecord>,
    notes: &mut Vec<&'static str>,
) {
    match tenants.get(tenant) {
        None => notes.push("no such tenant"),
        Some(record) if !record.state.is_active() => notes.push("tenant not served"),
        Some(_) => {}
    }
}

fn of_time(expires_at: Option<UnixMs>, now: UnixMs, notes: &mut Vec<&'static str>) {
    match expires_at {
        None => notes.push("does not end"),
        Some(end) if end.0 <= now.0 => notes.push("ended"),
        Some(_) => {}
    }
}

fn of_login(
    found: &FoundLogin,
    tenants: &BTreeMap<&TenantId, &TenantRecord>,
    now: UnixMs,
) -> Access {
    let claims = &found.claims;
    let expires_at = claims.exp.map(|end| UnixMs(end.saturating_mul(1000)));
    let mut notes = Vec::new();
    let (kind, tenant, roles) = match &found.login {
        Some(Login::Service(role)) => ("service", None, vec![role.to_string()]),
        Some(Login::Sys) => ("operator", None, vec!["operator".to_owned()]),
        Some(Login::Worker { pools, .. }) => {
            ("worker", None, pools.iter().map(|pool| format!("pool:{pool}")).collect())
        }
        Some(Login::Tenant { tenant, .. }) => {
            of_tenant(tenant, tenants, &mut notes);
            let roles = roles_of(&claims.nats.tags);
            ("tenant login", Some(tenant.clone()), roles.iter().map(ToString::to_string).collect())
        }
        None => {
            notes.push("of an account that is not here");
            ("tenant login", None, Vec::new())
        }
    };
    of_time(expires_at, now, &mut notes);
    let changed_at = UnixMs(claims.iat.saturating_mul(1000));
    Access { kind, tenant, name: claims.name.clone(), roles, changed_at, expires_at, notes }
}

/// One that the broker refuses for ever, if it was told; by its key where nobody here knows its name.
fn of_revoked(
    login: &RevokedLogin,
    records: &[TenantRecord],
    encoders: &str,
    is_told: bool,
) -> Access {
    let owner = records.iter().find(|record| record.account == login.account);
    let (kind, roles) = if is_scoped(&login.key) {
        ("scoped key", Vec::new())
    } else if login.account == encoders {
        ("worker", login.tags.clone())
    } else {
        let roles = roles_of(&login.tags);
        ("tenant login", roles.iter().map(ToString::to_string).collect())
    };
    Access {
        kind,
        tenant: owner.map(|record| record.id.clone()),
        name: login.name.clone().unwrap_or_else(|| login.key.clone()),
        roles,
        changed_at: login.revoked_at,
        expires_at: login.ends_at.map(|end| UnixMs(end.saturating_mul(1000))),
        notes: vec![if !is_told {
            "written down as revoked, but not at the broker: revoke it again"
        } else if kind == "scoped key" {
            "replaced"
        } else {
            "revoked"
        }],
    }
}

/// Whether it is the key of an account and not a user's: one that signed logins, and was replaced.
fn is_scoped(key: &str) -> bool {
    key.starts_with('A')
}

fn of_key(key: &KeyRecord, tenants: &BTreeMap<&TenantId, &TenantRecord>, now: UnixMs) -> Access {
    let mut notes = Vec::new();
    if key.revoked_at.is_some() {
        notes.push("revoked");
    } else {
        of_tenant(&key.tenant, tenants, &mut notes);
        of_time(key.expires_at, now, &mut notes);
        if key.totp.as_ref().is_none_or(|totp| !totp.confirmed) {
            notes.push("no second factor");
        }
    }
    let label = key.label.as_ref().map(|label| format!(" ({label})")).unwrap_or_default();
    Access {
        kind: "api key",
        tenant: Some(key.tenant.clone()),
        name: format!("{}{label}", key.id),
        roles: key.roles.iter().map(ToString::to_string).collect(),
        changed_at: key.revoked_at.unwrap_or(key.created_at),
        expires_at: key.expires_at,
        notes,
    }
}

fn table(all: &[Access]) -> String {
    let heading = ["kind", "tenant", "name", "roles", "changed", "ends", "notes"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|access| {
        let tenant = access.tenant.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        vec![
            access.kind.to_owned(),
            tenant,
            access.name.clone(),
            if access.roles.is_empty() { "none".to_owned() } else { access.roles.join(",") },
            access.changed_at.to_string(),
            access.expires_at.map_or_else(|| "-".to_owned(), |end| end.to_string()),
            access.notes.join("; "),
        ]
    }));
    print::table(&rows)
}
