//! Stronger authentication for what is sensitive, through a whole installation and a real identity
//! provider: the challenge, the second factor, the age of a login, programs, and other people.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hotcell_e2e::{
    api::{self, Api, text},
    idp::{ACME_RULES, AUDIENCE, Idp, Login, ProofKey},
    media,
    up::Up,
};
use reqwest::{Method, Response, header::WWW_AUTHENTICATE};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, time::Duration};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(120);

const JOBS: &str = "/v1/transcodes";

/// RFC 9470 §3, as every client of it parses it.
const CHALLENGE: &str = "Bearer error=\"insufficient_user_authentication\", \
    error_description=\"A different authentication level is required\", \
    acr_values=\"urn:hotcell:acr:mfa\", max_age=\"300\"";

/// Beside those of acme's people.
const RULES: &str = r#"
[[rule]]
client = "ci"
tenant = "acme"
roles = ["submitter", "auditor"]
"#;

struct Scene {
    up: Up,
    idp: Idp,
    base: String,
    /// The key of tenant acme.
    key: String,
    _dir: TempDir,
}

impl Scene {
    fn start() -> Result<Self> {
        let (idp, dir) = (Idp::start()?, tempfile::tempdir()?);
        fs::write(dir.path().join("rules.toml"), [ACME_RULES, RULES].concat())?;
        let file = dir.path().join("oidc.toml");
        let issuer = &idp.issuer;
        let table = format!(
            "[[oidc]]\nissuer = {issuer:?}\naudience = {AUDIENCE:?}\nrules = \"rules.toml\"\n"
        );
        fs::write(&file, table)?;
        let file = file.to_str().context("a temporary path is text")?;
        let up = Up::start(&["--encoders", "1", "--cell", "noop", "--oidc", file])?;
        let base = up.env("HOTCELL_API").to_owned();
        let added = up.json(&["tenant", "add", "acme", "--raw-arguments"])?;
        let key = text(&added, "key")?;
        Ok(Self { up, idp, base, key, _dir: dir })
    }

    fn api(&self, token: &str) -> Api {
        Api::new(&self.base, token)
    }
}

/// FFmpeg's own arguments: a privileged conversion.
fn sensitive(name: &str) -> Value {
    let arguments = ["-i", "{in0}", "-c:v", "libx264", "-c:a", "aac", "{out0}"];
    json!({
        "inputs": [{ "url": format!("upload:{name}") }],
        "outputs": [{ "format": "mp4", "ffmpegArgs": arguments }],
    })
}

async fn post(api: &Api, path: &str, body: &Value, approval: Option<&str>) -> Result<Response> {
    let request = api.http.post(format!("{}{path}", api.base)).bearer_auth(&api.key).json(body);
    let request = match approval {
        Some(id) => request.header("hotcell-approval", id),
        None => request,
    };
    Ok(request.send().await?)
}

/// The status and the type of the problem.
async fn refused(response: Response) -> Result<(u16, String)> {
    let status = response.status().as_u16();
    let body: Value = response.json().await?;
    Ok((status, text(&body, "type")?))
}

fn problem(name: &str) -> String {
    format!("urn:hotcell:problem:{name}")
}

/// What a client reads from a challenge.
fn asked(response: &Response) -> Result<BTreeMap<String, String>> {
    let header = response.headers().get(WWW_AUTHENTICATE).context("a challenge")?.to_str()?;
    let (_, parameters) = header.split_once(' ').context("a scheme")?;
    let pairs = parameters.split(", ").filter_map(|pair| pair.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect())
}

/// What a token says; for comparison, not for belief.
fn claims(token: &str) -> Result<Value> {
    let part = token.split('.').nth(1).context("a token has claims")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

async fn upload(api: &Api) -> Result<String> {
    api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await
}

/// STEP-05, STEP-07, STEP-08, STEP-09.
#[tokio::test(flavor = "multi_thread")]
async fn step_07_08_09_a_person_is_challenged_shows_a_second_factor_and_is_served() -> Result<()> {
    let scene = Scene::start()?;
    let mut browser = scene.idp.browser();
    let login = Login { user: "ana", ..Login::default() };
    let plain = scene.api(&browser.sign_in(&login).await?.access);
    // STEP-06: what is not sensitive is served.
    let name = upload(&plain).await?;
    let simple = plain.submit(&name).await?;

    let response = post(&plain, JOBS, &sensitive(&name), None).await?;
    ensure!(response.status().as_u16() == 401, "{}", response.status());
    ensure!(response.headers()[WWW_AUTHENTICATE] == CHALLENGE, "{:?}", response.headers());
    let asked = asked(&response)?;
    let (status, kind) = refused(response).await?;
    ensure!((status, kind.clone()) == (401, problem("step-up-required")), "{kind}");

    // Signing in again without what was asked for is the same session: no stronger, no newer.
    let again = scene.api(&browser.sign_in(&login).await?.access);
    let response = post(&again, JOBS, &sensitive(&name), None).await?;
    ensure!(response.headers()[WWW_AUTHENTICATE] == CHALLENGE, "the same again");

    let stronger = Login {
        mfa: true,
        acr_values: asked.get("acr_values").map(String::as_str),
        max_age: asked.get("max_age").map(String::as_str),
        ..login
    };
    let token = browser.sign_in(&stronger).await?.access;
    let strong = scene.api(&token);
    let response = post(&strong, JOBS, &sensitive(&name), None).await?;
    ensure!(response.status().as_u16() == 202, "{}", response.text().await?);
    let answer: Value = response.json().await?;
    let id = text(&answer["result"], "id")?;
    let job = strong.ended(&id, PATIENCE).await?;
    ensure!(job["state"] == "completed", "every node agrees: {job}");

    // IAM-01: who asked, of each kind, is in the record.
    let auditor = scene.idp.program("ci", None).await?;
    let auditor = scene.api(&auditor.access);
    let record = auditor.get(&format!("{JOBS}/{id}/audit")).await?;
    let person = json!({ "kind": "user", "issuer": scene.idp.issuer, "subject": "ana" });
    ensure!(record["actor"] == person, "{record}");
    // ZT-03: and in which session, of what strength.
    let (said, kept) = (claims(&token)?, &record["authority"]);
    ensure!(kept["session"] == said["jti"] && kept["acr"] == said["acr"], "{kept} {said}");
    ensure!(kept["mfa"] == true && kept["bound"] == false, "{kept}");
    let record = auditor.get(&format!("{JOBS}/{simple}/audit")).await?;
    ensure!(record["actor"] == person && record["authority"]["mfa"] == false, "{record}");
    let key = scene.api(&scene.key);
    let by_key = key.submit(&upload(&key).await?).await?;
    let record = auditor.get(&format!("{JOBS}/{by_key}/audit")).await?;
    ensure!(record["actor"]["kind"] == "apiKey", "{record}");
    let by_program = auditor.submit(&upload(&auditor).await?).await?;
    let record = auditor.get(&format!("{JOBS}/{by_program}/audit")).await?;
    let program = json!({ "kind": "service", "issuer": scene.idp.issuer, "client": "ci" });
    ensure!(record["actor"] == program, "{record}");
    drop(scene.up.stop()?);
    Ok(())
}

/// STEP-07: a second factor of an hour ago is none of now.
#[tokio::test(flavor = "multi_thread")]
async fn step_07_a_stale_login_is_refused_and_a_bound_token_is_challenged_in_its_own_scheme()
-> Result<()> {
    let scene = Scene::start()?;
    let mut browser = scene.idp.browser();
    let old = Login { user: "ana", mfa: true, age_secs: 3600, ..Login::default() };
    let stale = scene.api(&browser.sign_in(&old).await?.access);
    let name = upload(&stale).await?;
    let response = post(&stale, JOBS, &sensitive(&name), None).await?;
    ensure!(response.status().as_u16() == 401, "{}", response.status());
    ensure!(response.headers()[WWW_AUTHENTICATE] == CHALLENGE, "{:?}", response.headers());
    let asked = asked(&response)?;
    let max_age = asked.get("max_age").map(String::as_str);
    let fresh = Login { age_secs: 0, max_age, ..old };
    let fresh = scene.api(&browser.sign_in(&fresh).await?.access);
    let response = post(&fresh, JOBS, &sensitive(&name), None).await?;
    ensure!(response.status().as_u16() == 202, "{}", response.text().await?);

    let key = ProofKey::new();
    let login = Login { user: "ana", key: Some(&key), ..Login::default() };
    let bound = scene.idp.browser().sign_in(&login).await?;
    let url = format!("{}{JOBS}", scene.base);
    let send = async |body: Value| {
        let request = fresh.http.post(&url).json(&body);
        let request = request.header("authorization", format!("DPoP {}", bound.access));
        let proof = key.proof("POST", &url, Some(&bound.access));
        anyhow::Ok(request.header("dpop", proof).send().await?)
    };
    let response = send(api::request(&name)).await?;
    ensure!(response.status().as_u16() == 202, "{}", response.text().await?);
    let answer: Value = response.json().await?;
    let path = format!("{JOBS}/{}/audit", text(&answer["result"], "id")?);
    let auditor = scene.api(&scene.idp.program("ci", None).await?.access);
    let record = auditor.get(&path).await?;
    ensure!(record["authority"]["bound"] == true, "{record}");
    let response = send(sensitive(&name)).await?;
    let expect = CHALLENGE.replacen("Bearer", "DPoP", 1);
    ensure!(response.headers()[WWW_AUTHENTICATE] == expect.as_str(), "{:?}", response.headers());
    drop(scene.up.stop()?);
    Ok(())
}

/// A program has no second factor: another person agrees, to exactly this request, once.
#[tokio::test(flavor = "multi_thread")]
async fn step_09_a_program_needs_another_person_s_approval_of_exactly_its_request() -> Result<()> {
    let scene = Scene::start()?;
    let program = scene.api(&scene.idp.program("ci", None).await?.access);
    let name = upload(&program).await?;
    let body = sensitive(&name);
    let response = post(&program, JOBS, &body, None).await?;
    ensure!(response.headers().get(WWW_AUTHENTICATE).is_none(), "it cannot meet a challenge");
    ensure!(refused(response).await? == (403, problem("approval-required")), "no second factor");

    let request = json!({ "action": "SubmitTranscode", "request": body });
    let approval = program.post("/v1/approvals", &request).await?;
    let id = text(&approval, "id")?;
    let response = post(&program, JOBS, &body, Some(&id)).await?;
    ensure!(refused(response).await? == (403, problem("approval-unusable")), "it waits");

    let path = format!("/v1/approvals/{id}/approve");
    let lead = scene.api(&scene.idp.person("ben", false).await?.access);
    let response = post(&lead, &path, &json!({}), None).await?;
    ensure!(response.headers()[WWW_AUTHENTICATE] == CHALLENGE, "approving is sensitive, too");
    let lead = scene.api(&scene.idp.person("ben", true).await?.access);
    let (status, said) = lead.call(Method::POST, &path, Some(&json!({}))).await?;
    ensure!(status == 200, "{status} {said}");

    // Another request than the one that was approved, if only by one argument.
    let mut changed = body.clone();
    changed["outputs"][0]["ffmpegArgs"][3] = json!("libx265");
    let response = post(&program, JOBS, &changed, Some(&id)).await?;
    ensure!(refused(response).await? == (403, problem("approval-mismatch")), "it was changed");

    let response = post(&program, JOBS, &body, Some(&id)).await?;
    ensure!(response.status().as_u16() == 202, "{}", response.text().await?);
    let answer: Value = response.json().await?;
    let job = text(&answer["result"], "id")?;
    let ended = program.ended(&job, PATIENCE).await?;
    ensure!(ended["state"] == "completed", "every node agrees: {ended}");
    let record = program.get(&format!("{JOBS}/{job}/audit")).await?;
    ensure!(record.to_string().contains(&id), "the approval is in the record: {record}");
    let response = post(&program, JOBS, &body, Some(&id)).await?;
    ensure!(refused(response).await? == (403, problem("approval-unusable")), "it was used");

    // Nobody approves what it asked for, however strongly it has signed in.
    let kim = scene.api(&scene.idp.person("kim", true).await?.access);
    let name = upload(&kim).await?;
    let request = json!({ "action": "SubmitTranscode", "request": sensitive(&name) });
    let own = text(&kim.post("/v1/approvals", &request).await?, "id")?;
    let response = post(&kim, &format!("/v1/approvals/{own}/approve"), &json!({}), None).await?;
    ensure!(refused(response).await? == (403, problem("self-approval")), "its own");
    drop(scene.up.stop()?);
    Ok(())
}
