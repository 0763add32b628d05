//! IAM-10, STEP-15, BRK-10, IAM-04: what each stolen credential opens on a running installation is
//! its role's list and nothing more, and no secret lies where it was not meant to.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::{
    api::{Api, text},
    factor, media,
    raw::{Act, Identity, Raw},
    roles::{SENSITIVE, may},
    thief::creds,
    up::Up,
};
use hotcell_intake::routes::{self, Route};
use hotcell_nats_config::{Login, allowed, permissions::tenant_local};
use hotcell_schemas::{
    JobId, Role,
    identity::{Action, RoleName},
    routes::{Carrier, ROUTES, Token},
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// An id that nothing has.
const NONE: &str = "0193a0f0c0de7000800000000000beef";

/// A body of a route that is good but for who sends it.
fn body(route: &Route, upload: &str) -> Value {
    let job = hotcell_e2e::api::request(upload);
    match (route.method.as_str(), route.path) {
        ("POST", "/v1/upload/presigned-url") => {
            json!({ "filename": "b.mp4", "contentType": "video/mp4", "fileSize": 1 })
        }
        ("POST", "/v1/upload/confirm") => json!({ "filename": "n.mp4", "fileSize": 1 }),
        ("POST", "/v1/transcodes") => job,
        ("POST", "/v1/webhooks") => json!({ "url": "https://hooks.example/in" }),
        ("PATCH", "/v1/webhooks/{id}") => json!({ "enabled": true }),
        ("POST", "/v1/approvals") => json!({ "action": "SubmitTranscode", "request": job }),
        ("POST", "/v1/policy/explain") => json!({ "request": job }),
        ("PUT", "/v1/policy") => json!({ "text": "" }),
        ("PUT", "/v1/presets/{id}") => {
            json!({ "outputFormat": job["outputFormat"], "preset": job["preset"] })
        }
        ("POST", "/v1/blocks") => {
            json!({ "principal": { "kind": "apiKey", "id": NONE }, "reason": "x" })
        }
        ("POST", "/v1/keys") => json!({ "roles": ["viewer"] }),
        _ => Value::Null,
    }
}

/// Every route of the installation that asks policy for something, and for what.
fn rows() -> impl Iterator<Item = (&'static Route, Action)> {
    routes::ROUTES.iter().filter_map(|route| Some((route, route.action?)))
}

/// The rows that were not refused for who asks.
async fn reached(api: &Api, upload: &str) -> Result<BTreeSet<(String, Action)>> {
    let mut reached = BTreeSet::new();
    for (route, action) in rows() {
        let (method, path) = (&route.method, route.path);
        let body = body(route, upload);
        let body = (!body.is_null()).then_some(&body);
        let (status, _) = api
            .call(method.clone(), &path.replace("{id}", NONE).replace("{delivery}", NONE), body)
            .await?;
        ensure!(status != 429 && status < 500, "{method} {path}: {status}");
        if status != 401 && status != 403 {
            reached.insert((format!("{method} {path}"), action));
        }
    }
    Ok(reached)
}

fn listed(may: &[Action]) -> BTreeSet<(String, Action)> {
    let rows = rows().filter(|(_, action)| may.contains(action));
    rows.map(|(route, action)| (format!("{} {}", route.method, route.path), action)).collect()
}

async fn token(api: &Api) -> Result<Api> {
    let made = api.post("/v1/token", &json!({})).await?;
    Ok(Api::new(&api.base, &text(&made, "accessToken")?))
}

/// IAM-10, STEP-15: keys and their tokens, by HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn iam_10_a_stolen_key_or_token_reaches_its_roles_routes_and_no_other() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let admin = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let upload = admin.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    for role in [RoleName::Viewer, RoleName::Submitter] {
        let made = up.json(&["key", "create", "--roles", role.as_str()])?;
        let key = Api::new(&admin.base, &text(&made, "key")?);
        for api in [token(&key).await?, key] {
            let (found, wanted) = (reached(&api, &upload).await?, listed(may(role)));
            ensure!(found == wanted, "{role}: {:?}", found.symmetric_difference(&wanted));
        }
    }
    // STEP-15: of the administrator's own key, and a plain token of it, alone.
    for api in [token(&admin).await?, admin.clone()] {
        let found = reached(&api, &upload).await?;
        let sensitive: Vec<_> =
            found.iter().filter(|(_, action)| SENSITIVE.contains(action)).collect();
        ensure!(sensitive.is_empty(), "without the second factor: {sensitive:?}");
        ensure!(found.iter().any(|(_, action)| *action == Action::ReadAudit), "{found:?}");
    }
    // With it they open, so it was the factor that was missing.
    let secret = fs::read_to_string(up.dir().join("secrets/totp-demo"))?;
    let stepped = admin.stepped_up(&secret).await?;
    let found = reached(&stepped, &upload).await?;
    let open: BTreeSet<Action> = found.iter().map(|(_, action)| *action).collect();
    let routed: BTreeSet<Action> = rows().map(|(_, action)| action).collect();
    for action in SENSITIVE.iter().filter(|action| routed.contains(action)) {
        ensure!(open.contains(action), "{action} with the second factor: {open:?}");
    }
    up.stop()?;
    Ok(())
}

/// One subject of each row, as the installation has it.
fn subjects(account: &str) -> Vec<String> {
    let job = JobId::new(1, [7; 10]).to_string();
    let word = |token: &Token| match token {
        Token::Lit(word) => (*word).to_owned(),
        Token::Tenant => "demo".to_owned(),
        Token::Worker => "worker-1".to_owned(),
        Token::Pool => "cpu".to_owned(),
        Token::Account => account.to_owned(),
        Token::Class => "high".to_owned(),
        Token::Job | Token::Endpoint | Token::Delivery => job.clone(),
    };
    let rows = ROUTES.iter().map(|row| row.tokens.iter().map(word).collect::<Vec<_>>().join("."));
    let local = ROUTES
        .iter()
        .filter(|row| matches!(row.carrier, Carrier::TenantRequest | Carrier::TenantEvents));
    let local = local.map(|row| tenant_local(row, |_| job.clone()));
    let other = [
        "next.cpu.worker-2",
        "lease.worker-2.done",
        "_INBOX_signer.x",
        "_INBOX_worker-2.x",
        "$JS.API.STREAM.DELETE.JOBS",
        "$JS.API.STREAM.PURGE.JOBS",
        "$JS.API.STREAM.MSG.DELETE.JOBS",
        "$JS.API.CONSUMER.MSG.NEXT.JOBS.auditor",
        "$JS.API.DIRECT.GET.KV_keys.$KV.keys.x",
        "$KV.keys.x",
        "$KV.tenants.demo",
        "$KV.platform.platform",
        "$KV.approvals.demo.x",
        "$KV.destinations.demo.x",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$SYS.REQ.SERVER.PING",
    ];
    rows.chain(local).chain(other.map(str::to_owned)).collect()
}

/// IAM-10, BRK-10: each credential file of the installation, at its broker.
#[tokio::test(flavor = "multi_thread")]
async fn brk_10_a_stolen_broker_login_publishes_its_roles_subjects_and_no_other() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let program = Login::Tenant { tenant: "demo".parse()?, user: "app".parse()? };
    let worker = Login::Worker { name: "worker-1".parse()?, pools: vec!["cpu".parse()?] };
    let services = Role::PIPELINE.into_iter().map(Login::Service);
    let logins: Vec<Login> = services.chain([worker, program.clone(), Login::Sys]).collect();
    let files = fs::read_dir(up.dir().join("nats/creds"))?.count();
    ensure!(files == logins.len(), "{files} credential files, {} are tried", logins.len());
    let account = creds(&up, &program)?.claims.nats.issuer_account.clone();
    let subjects = subjects(&account);
    for login in &logins {
        let rights = allowed(login);
        let mut raw =
            Raw::connect(up.env("HOTCELL_NATS"), Some(&Identity::of(creds(&up, login)?)))?;
        let acts: Vec<(Act, &str)> = [Act::Publish, Act::Subscribe]
            .into_iter()
            .flat_map(|act| subjects.iter().map(move |subject| (act, subject.as_str())))
            .collect();
        let found = raw.try_all(&acts)?;
        for ((act, subject), may) in acts.into_iter().zip(found) {
            let listed = match act {
                Act::Publish => rights.may_publish(subject),
                Act::Subscribe | Act::QueueSubscribe => rights.may_subscribe(subject),
            };
            ensure!(may == listed, "{login:?} {act:?} {subject}: {may}, its list says {listed}");
        }
    }
    // BRK-10: the worker's login opens its own subjects and nothing else, by HTTP nothing at all.
    let seed = fs::read_to_string(up.dir().join("nats/creds/worker-worker-1.creds"))?;
    let jwt = seed.lines().nth(1).context("a token")?.trim();
    let api = Api::new(up.env("HOTCELL_API"), jwt);
    ensure!(reached(&api, "x").await?.is_empty(), "a worker's token opens a route");
    up.stop()?;
    Ok(())
}

/// Files that are meant to hold secrets: the operator's, the services' own and the credentials.
fn is_kept(path: &Path, root: &Path) -> bool {
    let path = path.strip_prefix(root).unwrap();
    ["secrets", "nats/creds", "nats/keys", "dev.env"].iter().any(|kept| path.starts_with(kept))
        // A worker's own copy of its login.
        || path.file_name().is_some_and(|name| name == "worker.creds")
}

fn files(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
        match entry? {
            kind if kind.is_dir() => files(&path, into)?,
            kind if kind.is_file() => into.push(path),
            _ => {}
        }
    }
    Ok(())
}

type Canaries = Vec<(&'static str, String)>;

/// Uses every kind of credential, in the right way and in wrong ones that a careless log would show;
/// what must then not be found anywhere.
async fn used(up: &Up, admin: &Api, secret: &str) -> Result<Canaries> {
    let stepped = admin.stepped_up(secret).await?;
    let plain = token(admin).await?;
    let made = stepped.post("/v1/keys", &json!({ "roles": ["submitter"] })).await?;
    let key = Api::new(&admin.base, &text(&made, "key")?);
    let name = key.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    let slot = json!({ "filename": "b.mp4", "contentType": "video/mp4", "fileSize": 7 });
    let slot = plain.post("/v1/upload/presigned-url", &slot).await?;
    ensure!(plain.put_to(&slot, b"no film".to_vec()).await? == 200);
    let id = key.submit(&name).await?;
    let job = key.ended(&id, PATIENCE).await?;
    ensure!(job["state"] == "completed", "{job}");
    let url = text(&key.get(&format!("/v1/transcodes/{id}/download")).await?, "url")?;
    let rotate = format!("/v1/keys/{}/rotate", text(&made, "id")?);
    let rotated = stepped.post(&rotate, &json!({})).await?;
    let mut stale = key.key.clone();
    stale.replace_range(stale.len() - 6.., "zzzzzz");
    for wrong in [&stale, &format!("{}x", stepped.key)] {
        let api = Api::new(&admin.base, wrong);
        let (status, _) = api.call(Method::GET, "/v1/transcodes", None).await?;
        ensure!(status == 401, "{status}");
    }
    let query = |url: &str| {
        let (_, rest) = url.split_once("X-Amz-Signature=").context("signed")?;
        anyhow::Ok(rest.split('&').next().unwrap_or_default().to_owned())
    };
    let part = |token: &str| token.rsplit('.').next().unwrap_or_default().to_owned();
    let mut canaries = vec![
        ("first key", admin.key.clone()),
        ("made key", key.key),
        ("rotated key", text(&rotated, "key")?),
        ("wrong key", stale),
        ("totp, as text", secret.to_owned()),
        ("stepped-up token's signature", part(&stepped.key)),
        ("token's signature", part(&plain.key)),
        ("upload URL's signature", query(&text(&slot, "uploadUrl")?)?),
        ("download URL's signature", query(&url)?),
    ];
    for name in ["storage-signer.secret", "lease.key", "destination.key", "totp.key", "webhook.key"]
    {
        let text = fs::read_to_string(up.dir().join("secrets").join(name))?;
        canaries.push(("a service's secret", text.trim().to_owned()));
    }
    for name in ["signer", "intake", "worker-worker-1", "tenant-demo-app"] {
        let file = fs::read_to_string(up.dir().join(format!("nats/creds/{name}.creds")))?;
        let seed = file.lines().find(|line| line.starts_with("SU")).context("a seed")?;
        canaries.push(("a login's seed", seed.trim().to_owned()));
    }
    Ok(canaries)
}

/// IAM-04: canaries are looked for in every file of the installation after all was used: stream,
/// buckets, logs, evidence, store, configuration.
#[tokio::test(flavor = "multi_thread")]
async fn iam_04_no_secret_lies_in_any_file_log_message_or_record() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let admin = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let secret = fs::read_to_string(up.dir().join("secrets/totp-demo"))?.trim().to_owned();
    let canaries = used(&up, &admin, &secret).await?;
    // In bytes as well as in text.
    let raw = factor::base32(&secret)?;
    let needles: Vec<(&str, Vec<u8>)> = canaries
        .iter()
        .map(|(name, text)| (*name, text.clone().into_bytes()))
        .chain([("totp, as bytes", raw)])
        .collect();
    let long = needles.iter().all(|(_, needle)| needle.len() >= 16);
    ensure!(long, "a canary is too short to mean much");
    // The search finds what is there: the key's own file.
    let kept = fs::read(up.dir().join("secrets/key-demo"))?;
    ensure!(holds(&kept, admin.key.as_bytes()), "the search finds nothing at all");

    // Everything is on disk once all processes have ended.
    let dir = up.stop()?;
    let (mut all, mut wrong, mut searched) = (Vec::new(), Vec::new(), 0_usize);
    files(dir.path(), &mut all)?;
    for path in all.iter().filter(|path| !is_kept(path, dir.path())) {
        let bytes = fs::read(path)?;
        searched += bytes.len();
        for (name, needle) in needles.iter().filter(|(_, needle)| holds(&bytes, needle)) {
            wrong.push(format!("{name} ({} bytes) in {}", needle.len(), path.display()));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(searched > 100_000, "{searched} bytes were searched");
    let streams = all.iter().filter(|path| path.extension().is_some_and(|ext| ext == "blk"));
    ensure!(streams.count() >= 2, "the broker's storage was searched");
    Ok(())
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
