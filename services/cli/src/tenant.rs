//! Tenants of a running installation.

pub(crate) mod args;
pub(crate) mod manage;

use crate::{
    fail::{Context as _, Fail},
    layout::{Layout, keep_secret},
    print,
};
use args::AddArgs;
use hotcell_intake::totp;
use hotcell_nats_config::{
    Admin, AdminError, ApiKey, Life, LoginName, TenantSpec, Terms, key_id_of,
};
use hotcell_schemas::{
    KeyId, PoolId, TenantId, identity::RoleName, records::KeyRecord, tenancy::TenantState,
};
use hotcell_stage::{clock, config::read_key, vault::Vault};
use serde_json::json;
use std::path::Path;

/// Name of a tenant's first login.
const FIRST_LOGIN: &str = "app";

/// A tenant's first login, which `up` keeps fresh.
pub(crate) fn login() -> LoginName {
    FIRST_LOGIN.parse().expect("a slug")
}

/// `hotcell tenant add NAME`.
async fn add(data: &Path, args: &AddArgs, as_json: bool) -> Result<(), Fail> {
    let (name, layout) = (&args.name, Layout::open(data)?);
    let plan = manage::plan(&args.plan)?;
    let admin = manage::admin(data).await?;
    let known = admin.tenants().await.or_fail("cannot list tenants")?;
    if let Some(record) = known.iter().find(|record| record.id == *name) {
        if record.state == TenantState::Removed {
            return Err(Fail::failed(AdminError::Removed(name.clone()).to_string()));
        }
        return Err(Fail::failed(format!(
            "tenant {name} exists already. If its `tenant add` was interrupted, `hotcell key recover \
             {name}` makes its key, and `hotcell tenant creds {name} --user {FIRST_LOGIN}` its login"
        )));
    }
    let mut spec = TenantSpec { raw_arguments: args.raw_arguments, ..plan.spec(name.clone()) };
    if !args.pools.is_empty() {
        spec.pools.clone_from(&args.pools);
    }
    let added = admin.add_tenant(&spec, &login(), clock::now()).await.or_fail("not added")?;
    // It ends within a day; `hotcell up` renews it, like its own, while it runs.
    let terms = Terms { life: Some(Life::DAY), ..Terms::default() };
    let shown = admin.add_program(name, &login(), &terms, clock::now()).await;
    shown.or_fail("the broker does not take the tenant's login")?;
    let (key, secret) = new_key(&layout, &admin, name).await?;
    if as_json {
        print::json(&json!({
            "tenant": name, "account": added.record.account, "creds": added.creds,
            "key": key.text(), "totp": secret,
        }));
        return Ok(());
    }
    print::line(format!(
        "tenant  {name}\ncreds   {}\nkey     {}\ntotp    {secret}\n\nThe key, and the secret of its \
         one-time codes, are shown this once.",
        added.creds.display(),
        key.text()
    ));
    Ok(())
}

/// A key that administers the tenant, and the secret of its second factor in base 32.
async fn new_key(
    layout: &Layout,
    admin: &Admin,
    tenant: &TenantId,
) -> Result<(ApiKey, String), Fail> {
    let key = admin.add_key(tenant, &[RoleName::TenantAdmin], clock::now()).await;
    let key = key.or_fail("the tenant gets no key")?;
    let secret = totp::base32(&clock::random::<{ totp::SECRET_BYTES }>());
    second_factor(layout, admin, &key.id, &secret).await?;
    Ok((key, secret))
}

/// `hotcell key recover TENANT`: for a tenant that has lost every key that administers it, or their
/// second factors. Its other keys stay as they are.
pub(crate) async fn recover(data: &Path, name: &TenantId, as_json: bool) -> Result<(), Fail> {
    let (layout, admin) = (Layout::open(data)?, manage::admin(data).await?);
    let (key, secret) = new_key(&layout, &admin, name).await?;
    if as_json {
        print::json(&json!({ "tenant": name, "key": key.text(), "totp": secret }));
        return Ok(());
    }
    print::line(format!("key   {}\ntotp  {secret}\n\nBoth are shown this once.", key.text()));
    Ok(())
}

/// Makes the first tenant, or completes it; its key is kept in the installation's folder, because
/// `dev.env` shall hold it.
pub(crate) async fn first(
    layout: &Layout,
    admin: &Admin,
    name: &TenantId,
    pool: &PoolId,
) -> Result<String, Fail> {
    // What was set since it was made stays.
    let records = admin.tenants().await.or_fail("the tenants")?;
    let spec = records
        .iter()
        .find(|record| record.id == *name)
        .map_or_else(|| TenantSpec::new(name.clone(), vec![pool.clone()]), TenantSpec::of);
    admin.add_tenant(&spec, &login(), clock::now()).await.or_fail("the first tenant")?;
    let path = layout.secret(&format!("key-{name}"));
    if !path.exists() {
        let key = admin.add_key(name, &[RoleName::TenantAdmin], clock::now()).await;
        let key = key.or_fail("the first tenant's key")?;
        keep_secret(&path, || key.text().to_owned())?;
    }
    let key = keep_secret(&path, String::new)?;
    let secret = keep_secret(&layout.secret(&format!("totp-{name}")), || {
        totp::base32(&clock::random::<{ totp::SECRET_BYTES }>())
    })?;
    let id = key_id_of(&key).ok_or_else(|| {
        Fail::config(format!("{} holds no API key: restore or remove it", path.display()))
    })?;
    second_factor(layout, admin, &id, &secret).await?;
    Ok(key)
}

/// Gives a key a second factor, where it has none, whose secret in base 32 is `secret`. Whoever runs
/// this holds the installation's keys: no first code is asked for.
async fn second_factor(
    layout: &Layout,
    admin: &Admin,
    id: &KeyId,
    secret: &str,
) -> Result<(), Fail> {
    let sealing = read_key("totp_key_file", &layout.secret("totp.key"));
    let vault = Vault::new(&sealing.or_fail("the key that seals second factors")?);
    let secret = totp::from_base32(secret)
        .ok_or_else(|| Fail::config("the second factor's secret is not base 32"))?;
    let now = clock::now();
    let totp = |record: &KeyRecord| {
        let of = (&record.tenant, &record.id);
        totp::enrolled(&vault, &secret, of, clock::random(), (now, true))
    };
    let done = admin.complete_key(id, &[RoleName::TenantAdmin], totp, now).await;
    done.map(|_| ()).or_fail("the key's second factor")
}
