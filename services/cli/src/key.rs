//! `hotcell key create|list|show|rotate|revoke|totp`: API keys, through the API.
//!
//! Promises: a new key is printed once; when the key in use is rotated, the installation's own copy
//! of it is replaced, so that the next command works. Refuses nothing by itself: policy does.

use crate::{
    api::Api,
    fail::{Context as _, Fail},
    layout::{shell_quoted, write_private},
    print, tenant, token,
};
use hotcell_nats_config::key_id_of;
use hotcell_schemas::{KeyId, TenantId, identity::RoleName, network::Network};
use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Keys of a page, and pages that are asked for at most: a tenant has at most 1000 keys.
const PAGE: usize = 100;
const PAGES_MAX: usize = 11;

/// A one-time code, where the installation does not hold its secret.
#[derive(Debug, clap::Args)]
pub(crate) struct Factor {
    /// The code that your authenticator shows now; for `hotcell up`'s own tenant it is not needed.
    #[arg(long, value_name = "CODE")]
    pub(crate) totp: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key, and print it this once.
    #[command(after_help = "Examples:
  hotcell key create --roles submitter --label ci
  hotcell key create --roles viewer,publisher --expires-secs 86400 --network 10.0.0.0/8")]
    Create {
        /// What it is for: viewer, submitter, publisher, webhook-admin, tenant-admin, auditor.
        #[arg(long, value_delimiter = ',', required = true, value_name = "ROLES")]
        roles: Vec<RoleName>,
        /// Your own name for it.
        #[arg(long)]
        label: Option<String>,
        /// It ends by itself after this long, in seconds.
        #[arg(long, value_name = "SECS")]
        expires_secs: Option<u64>,
        /// It may be used from this network only; may be repeated.
        #[arg(long = "network", value_name = "CIDR")]
        networks: Vec<Network>,
        #[command(flatten)]
        factor: Factor,
    },
    /// List the tenant's keys.
    List,
    /// Show a key, without its secret.
    Show {
        /// Its id: the part between the two underscores.
        id: KeyId,
    },
    /// Make a key of the same rights and end the old one, in one call.
    Rotate {
        /// The old one.
        id: KeyId,
        #[command(flatten)]
        factor: Factor,
    },
    /// End a key, and every token of it, within a second.
    Revoke {
        /// Its id.
        id: KeyId,
        #[command(flatten)]
        factor: Factor,
    },
    /// As the installation's operator, give a tenant another administrator's key with a second
    /// factor: for one that has lost its own.
    Recover {
        /// The tenant.
        tenant: TenantId,
    },
    /// Give a key a second factor, and print its secret this once.
    Totp {
        /// The key.
        id: KeyId,
        #[command(flatten)]
        factor: Factor,
    },
}

/// Runs one of them.
pub(crate) async fn run(data: &Path, command: KeyCommand, as_json: bool) -> Result<(), Fail> {
    match command {
        KeyCommand::Create { roles, label, expires_secs, networks, factor } => {
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let mut body = json!({ "roles": roles, "networks": networks });
            if let Some(members) = body.as_object_mut() {
                members.extend(label.map(|label| ("label".to_owned(), json!(label))));
                members.extend(expires_secs.map(|secs| ("expiresInSecs".to_owned(), json!(secs))));
            }
            made(&api.post("/v1/keys", &body).await?, as_json)
        }
        KeyCommand::List => list(&Api::find(data)?, as_json).await,
        KeyCommand::Show { id } => {
            let key = Api::find(data)?.get(&format!("/v1/keys/{id}")).await?;
            print::json(&key);
            Ok(())
        }
        KeyCommand::Rotate { id, factor } => {
            let own = Api::find(data)?.key().to_owned();
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let key = api.post(&format!("/v1/keys/{id}/rotate"), &json!({})).await?;
            if key_id_of(&own).as_ref() == Some(&id) {
                keep(data, &own, &text(&key, "key"))?;
            }
            made(&key, as_json)
        }
        KeyCommand::Revoke { id, factor } => {
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let key = api.call(Method::DELETE, &format!("/v1/keys/{id}"), None::<&()>).await?;
            if as_json {
                print::json(&key);
            } else {
                print::line(format!("key {id} {}", text(&key, "state")));
            }
            Ok(())
        }
        KeyCommand::Recover { tenant } => tenant::recover(data, &tenant, as_json).await,
        KeyCommand::Totp { id, factor } => {
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let made = api.post(&format!("/v1/keys/{id}/totp"), &json!({})).await?;
            if as_json {
                print::json(&made);
            } else {
                print::line(format!(
                    "secret  {}\nuri     {}\n\nBoth are shown this once. It counts from its first \
                     code on: hotcell token --totp CODE, with that key.",
                    text(&made, "secret"),
                    text(&made, "uri")
                ));
            }
            Ok(())
        }
    }
}

fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        _ => "-".to_owned(),
    }
}

fn made(key: &Value, as_json: bool) -> Result<(), Fail> {
    if as_json {
        print::json(key);
    } else {
        print::line(format!(
            "id      {}\nroles   {}\nexpires {}\nkey     {}\n\nThe key is shown this once.",
            text(key, "id"),
            text(key, "roles"),
            text(key, "expiresAt"),
            text(key, "key")
        ));
    }
    Ok(())
}

async fn list(api: &Api, as_json: bool) -> Result<(), Fail> {
    let (mut keys, mut after) = (Vec::new(), String::new());
    for _ in 0..PAGES_MAX {
        let page = api.get(&format!("/v1/keys?limit={PAGE}{after}")).await?;
        keys.extend(page.get("keys").and_then(Value::as_array).cloned().unwrap_or_default());
        match page.get("next").and_then(Value::as_str) {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    if as_json {
        print::json(&keys);
        return Ok(());
    }
    let columns = ["id", "state", "roles", "totp", "createdAt", "expiresAt", "label"];
    let mut rows = vec![columns.map(str::to_owned).to_vec()];
    rows.extend(keys.iter().map(|key| columns.map(|name| text(key, name)).to_vec()));
    print::line(print::table(&rows));
    Ok(())
}

/// Replaces the installation's copies of a key that was rotated.
fn keep(data: &Path, old: &str, new: &str) -> Result<(), Fail> {
    let Some((layout, path)) = token::key_file(data, old) else { return Ok(()) };
    write_private(&path, &format!("{new}\n"))?;
    let env = layout.dev_env();
    let before = fs::read_to_string(&env).or_fail("cannot read dev.env")?;
    let line = |key: &str| format!("export HOTCELL_KEY={}", shell_quoted(key));
    write_private(&env, &before.replace(&line(old), &line(new)))
}
