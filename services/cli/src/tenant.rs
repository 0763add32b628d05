//! Tenants of a running installation.

use crate::{
    fail::{Context as _, Fail},
    layout::{Layout, keep_secret},
    print,
};
use hotcell_nats_config::{Admin, Installation, LoginName, TenantSpec};
use hotcell_schemas::{PoolId, TenantId};
use hotcell_stage::clock;
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
    let key = admin.add_key(name, clock::now()).await.or_fail("the tenant has no key yet")?;
    if as_json {
        print::json(&json!({
            "tenant": name, "account": added.record.account, "creds": added.creds,
            "key": key.text(),
        }));
        return Ok(());
    }
    print::line(format!(
        "tenant  {name}\ncreds   {}\nkey     {}\n\nThe key is shown this once.",
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
        let key = admin.add_key(name, clock::now()).await.or_fail("the first tenant's key")?;
        return keep_secret(&path, || key.text().to_owned());
    }
    keep_secret(&path, String::new)
}
