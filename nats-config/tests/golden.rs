//! What the code renders, against the committed golden files: a changed line is a changed right,
//! stream or configuration, and is to be read before it is accepted (`UPDATE_GOLDEN=1`).
#![allow(clippy::unwrap_used, reason = "tests")]

use hotcell_nats_config::{
    Durability, Preload, Replicas, ServerIdentity, ServerOptions, accounts, comparable, jwt,
    keys::{Keyring, TenantKeys},
    permissions::{role_permissions, sys_permissions},
    render_server_config, streams, testing,
};
use hotcell_schemas::{Role, UnixMs, tenancy::TenantState};
use nkeys::{KeyPair, KeyPairType};
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

const NOW: UnixMs = UnixMs(1_779_460_245_120);

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    testing::golden(&path, text).unwrap();
}

fn check_json(name: &str, value: &impl Serialize) {
    let mut text = serde_json::to_string_pretty(value).unwrap();
    text.push('\n');
    check(name, &text);
}

/// Keys that are the same in every run, told apart by a number.
fn numbered() -> impl FnMut(&str, KeyPairType) -> Result<KeyPair, nkeys::error::Error> {
    let mut number = 0;
    move |_name, kind| {
        number += 1;
        KeyPair::new_from_raw(kind, [number; 32])
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            fields.into_iter().collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}

// NEW-16: the table of rights is one file that a reviewer reads.
#[test]
fn permissions() {
    let mut table: BTreeMap<&str, _> =
        Role::ALL.into_iter().map(|role| (role.as_str(), role_permissions(role))).collect();
    table.insert("sys", sys_permissions());
    check_json("permissions.json", &table);
}

#[test]
fn streams_and_consumers() {
    let work = streams::tenant_consumers(&"acme".parse().unwrap(), &"cpu".parse().unwrap(), 16);
    let all = json!({
        "streams": streams::streams(Replicas::One),
        "consumers": streams::consumers(),
        "consumers_of_tenant_acme_in_pool_cpu": work,
    });
    check_json("streams.json", &sorted(all));
}

#[test]
fn account_claims() {
    let keys = Keyring::assemble(numbered()).unwrap();
    let acme = "acme".parse().unwrap();
    let tenant_keys = TenantKeys::assemble(&acme, |_, kind| {
        let number = if kind == KeyPairType::Account { 200 } else { 201 };
        KeyPair::new_from_raw(kind, [number; 32])
    })
    .unwrap();
    let mut all = BTreeMap::new();
    for (name, jwt) in [
        ("SYS", accounts::sys(&keys, NOW)),
        ("PIPELINE", accounts::pipeline(&keys, NOW)),
        ("ENCODERS", accounts::encoders(&keys, NOW)),
        ("tenant-acme", accounts::tenant(&keys, &tenant_keys, &acme, TenantState::Active, NOW)),
        (
            "tenant-acme, suspended",
            accounts::tenant(&keys, &tenant_keys, &acme, TenantState::Suspended, NOW),
        ),
    ] {
        all.insert(name, sorted(comparable(&jwt::decode(&jwt.unwrap()).unwrap())));
    }
    check_json("accounts.json", &all);
}

#[test]
fn server_configuration() {
    let account = |name: &str| Preload {
        account: format!("<{name} public key>"),
        jwt: format!("<{name} jwt>"),
    };
    let identity = ServerIdentity {
        operator: "<operator jwt>".to_owned(),
        system_account: "<SYS public key>".to_owned(),
        resolver_dir: "/var/lib/hotcell/nats/resolver".into(),
        preload: ["SYS", "PIPELINE", "ENCODERS"].map(account).into(),
    };
    let options = ServerOptions {
        tls: None,
        listen: "127.0.0.1:4222".parse().unwrap(),
        store_dir: "/var/lib/hotcell/nats/jetstream".into(),
        durability: Durability::Always,
        ports_dir: Some("/run/hotcell".into()),
        pid_file: Some("/run/hotcell/nats.pid".into()),
    };
    check("nats.conf", &render_server_config(&identity, &options).unwrap());
}
