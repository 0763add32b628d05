//! Tenants of a running installation.

use crate::{
    fail::{Context as _, Fail},
    layout::{Layout, keep_secret},
    print,
};
use hotcell_intake::totp;
use hotcell_nats_config::{Admin, Installation, LoginName, TenantSpec, key_id_of};
use hotcell_schemas::{KeyId, PoolId, TenantId, identity::RoleName, records::KeyRecord};
use hotcell_stage::{clock, config::read_key, vault::Vault};
use serde_json::json;
use std::path::Path;

/// Name of a tenant's first login.
const FIRST_LOGIN: &str = "app";

fn login() -> LoginName {
    FIRST_LOGIN.parse().expect("a slug")
}

/// `hotcell tenant add NAME`.
pub(crate) async fn add(
    data: &Path,
    name: &TenantId,
    raw_arguments: bool,
    as_json: bool,
) -> Result<(), Fail> {
    let layout = Layout::open(data)?;
    let installation = Installation::open(&layout.nats()).or_fail("the installation's keys")?;
    let url = layout.nats_url()?;
    let admin = Admin::connect(installation, &url).await.map_err(|error| {
        let why = hotcell_stage::service::describe(&error);
        Fail::unreachable(format!("the broker at {url} refuses ({why}): is `hotcell up` running?"))
    })?;
    let known = admin.tenants().await.or_fail("cannot list tenants")?;
    if known.iter().any(|record| record.id == *name) {
        return Err(Fail::failed(format!("tenant {name} exists already")));
    }
    let pools = vec![super::up::pool()];
    let spec = TenantSpec { raw_arguments, ..TenantSpec::new(name.clone(), pools) };
    let added = admin.add_tenant(&spec, &login(), clock::now()).await.or_fail("not added")?;
    let key = admin.add_key(name, &[RoleName::TenantAdmin], clock::now()).await;
    let key = key.or_fail("the tenant has no key yet")?;
    let secret = totp::base32(&clock::random::<{ totp::SECRET_BYTES }>());
    second_factor(&layout, &admin, &key.id, &secret).await?;
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

/// Makes the first tenant, or completes it; its key is kept in the installation's folder, because
/// `dev.env` shall hold it.
pub(crate) async fn first(
    layout: &Layout,
    admin: &Admin,
    name: &TenantId,
    pool: &PoolId,
) -> Result<String, Fail> {
    let spec = TenantSpec::new(name.clone(), vec![pool.clone()]);
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
