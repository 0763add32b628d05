//! `hotcell token`, and the second factor for the commands that need one.
//!
//! Promises: a secret of one-time codes is read only where it lies beside the very key in use; a
//! code is never sent twice. Refuses to keep a token: it is printed or used, and gone.

use crate::{
    api::{Api, refusal},
    fail::Fail,
    layout::Layout,
    print,
};
use hotcell_intake::totp::{STEP_SECS, code, from_base32, step_of};
use hotcell_schemas::identity::RoleName;
use hotcell_stage::clock;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What the names of files begin with that hold keys and secrets of one-time codes.
const KEY_FILE: &str = "key-";
const TOTP_FILE: &str = "totp-";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hotcell token                          the rights of the key, for five minutes
  hotcell token --roles viewer           less than the key may do
  hotcell token --step-up                with the second factor of `hotcell up`'s own tenant
  hotcell token --totp 123456            with a code of your authenticator
  curl -H \"Authorization: Bearer $(hotcell token --step-up)\" ...")]
pub(crate) struct TokenArgs {
    /// Show a second factor, whose secret is in the installation's folder.
    #[arg(long)]
    step_up: bool,
    /// Show a second factor: the code that your authenticator shows now.
    #[arg(long, value_name = "CODE")]
    totp: Option<String>,
    /// Only these roles of the key.
    #[arg(long, value_delimiter = ',', value_name = "ROLES")]
    roles: Vec<RoleName>,
}

/// `hotcell token`.
pub(crate) async fn run(data: &Path, args: &TokenArgs, as_json: bool) -> Result<(), Fail> {
    let api = Api::find(data)?;
    let roles = Some(&args.roles).filter(|roles| !roles.is_empty());
    let body = match roles {
        Some(roles) => json!({ "roles": roles }),
        None => json!({}),
    };
    let token = if args.step_up || args.totp.is_some() {
        stepped_up(&api, data, args.totp.as_deref(), body).await?
    } else {
        api.post("/v1/token", &body).await?
    };
    if as_json {
        print::json(&token);
    } else {
        print::line(text_of(&token)?);
    }
    Ok(())
}

fn text_of(token: &Value) -> Result<&str, Fail> {
    let text = token.get("accessToken").and_then(Value::as_str);
    text.ok_or_else(|| Fail::failed("the API's answer has no accessToken"))
}

/// The API with a token that carries the second factor, where there is one: for acts that policy asks
/// it for. Without one, the key itself: policy says what is missing.
pub(crate) async fn for_changes(data: &Path, totp: Option<&str>) -> Result<Api, Fail> {
    let api = Api::find(data)?;
    if totp.is_none() && secret_beside(data, api.key()).is_none() {
        return Ok(api);
    }
    let token = stepped_up(&api, data, totp, json!({})).await?;
    let text = text_of(&token)?.to_owned();
    Ok(api.with_key(text))
}

async fn stepped_up(
    api: &Api,
    data: &Path,
    totp: Option<&str>,
    body: Value,
) -> Result<Value, Fail> {
    if let Some(totp) = totp {
        return exchange(api, &body, totp).await?.map_err(|(status, body)| refusal(status, &body));
    }
    let secret = secret_beside(data, api.key()).ok_or_else(|| {
        Fail::usage("the secret of the one-time codes is not in the installation: use --totp CODE")
    })?;
    // A code is good once: the one before the present one first, so that three commands in a row
    // need not wait.
    let mut step = step_of(clock::now()).saturating_sub(1);
    loop {
        wait_for(step).await;
        let answer = exchange(api, &body, &code(&secret, step)).await?;
        let (status, problem) = match answer {
            Ok(token) => return Ok(token),
            Err(refused) => refused,
        };
        // The step before the present one may have ended on the way.
        let late = status == StatusCode::FORBIDDEN && step < step_of(clock::now());
        if status != StatusCode::CONFLICT && !late {
            return Err(refusal(status, &problem));
        }
        step += 1;
    }
}

/// Waits until the code of `step` is taken: from one step before it on.
async fn wait_for(step: u64) {
    let begins = step.saturating_sub(1).saturating_mul(STEP_SECS * 1000);
    let wait_ms = begins.saturating_sub(clock::now().0);
    if wait_ms > 0 {
        print::note(format!("waiting {} s for the next one-time code", wait_ms.div_ceil(1000)));
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

type Exchanged = Result<Value, (StatusCode, Value)>;

async fn exchange(api: &Api, body: &Value, totp: &str) -> Result<Exchanged, Fail> {
    let mut body = body.clone();
    if let Some(members) = body.as_object_mut() {
        members.insert("totp".to_owned(), json!(totp));
    }
    let (status, answer) = api.send(Method::POST, "/v1/token", Some(&body)).await?;
    if status.is_success() {
        return Ok(Ok(answer.get("result").cloned().unwrap_or(answer)));
    }
    Ok(Err((status, answer)))
}

/// The tenant of the installation below `data` whose kept key is `key`, by the files' names.
fn kept_as(data: &Path, key: &str) -> Option<(Layout, String)> {
    let layout = Layout::open(data).ok()?;
    let files = fs::read_dir(layout.secret("")).ok()?;
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    let tenants = names.filter_map(|name| name.strip_prefix(KEY_FILE).map(str::to_owned));
    let holds = |tenant: &String| {
        let text = fs::read_to_string(layout.secret(&format!("{KEY_FILE}{tenant}")));
        text.is_ok_and(|text| text.trim() == key)
    };
    let tenant = tenants.into_iter().find(holds)?;
    Some((layout, tenant))
}

/// Where the installation keeps `key`, when it does.
pub(crate) fn key_file(data: &Path, key: &str) -> Option<(Layout, PathBuf)> {
    let (layout, tenant) = kept_as(data, key)?;
    let path = layout.secret(&format!("{KEY_FILE}{tenant}"));
    Some((layout, path))
}

/// The secret of one-time codes that lies beside `key`.
fn secret_beside(data: &Path, key: &str) -> Option<Vec<u8>> {
    let (layout, tenant) = kept_as(data, key)?;
    let text = fs::read_to_string(layout.secret(&format!("{TOTP_FILE}{tenant}"))).ok()?;
    from_base32(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_used_only_with_the_key_that_it_lies_beside() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["nats", "secrets"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let file = |name: &str| dir.path().join("secrets").join(name);
        for (name, text) in [("key-a", "hck_a\n"), ("totp-a", "MZXW6\n"), ("key-b", "hck_b")] {
            fs::write(file(name), text).unwrap();
        }
        assert_eq!(secret_beside(dir.path(), "hck_a").as_deref(), Some(b"foo".as_slice()));
        assert_eq!(secret_beside(dir.path(), "hck_b"), None);
        assert_eq!(secret_beside(dir.path(), "hck_c"), None);
        assert_eq!(secret_beside(dir.path(), ""), None);
        assert_eq!(secret_beside(&dir.path().join("none"), "hck_a"), None);
    }
}
