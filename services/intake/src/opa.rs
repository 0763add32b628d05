//! The operator's own word on top of ours: an Open Policy Agent that is asked after Cedar permitted
//! (OPA REST API, `POST /v1/data/<path>` with `{"input": ...}`).
//!
//! Promises: it can only refuse, never permit; anything but `{"result": true}` within
//! [`ANSWER_MS`] is a refusal. Refuses: plain HTTP to another machine, redirects, and the
//! environment's proxies.

use crate::{auth::Principal, policies, view};
use hotcell_policy::Facts;
use hotcell_schemas::identity::{Action, Decided};
use hotcell_stage::config::ConfigError;
use reqwest::redirect;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{net::IpAddr, time::Duration};
use url::{Host, Url};

/// The agent answers within this long, in milliseconds: it runs beside intake and evaluates in
/// microseconds.
pub const ANSWER_MS: u64 = 500;

/// Longest answer that is read, in bytes: `true`, and what an agent may say beside it.
const ANSWER_BYTES_MAX: usize = 16_384;

/// Name that a refusal of the agent has among policies.
pub const POLICY: &str = "opa";

/// Why the agent did not permit.
#[derive(Debug, thiserror::Error)]
pub enum OpaError {
    /// It said something else than true.
    #[error("the policy agent does not permit it")]
    Refused,
    /// It did not answer.
    #[error("the policy agent does not answer")]
    Unanswered(#[source] reqwest::Error),
    /// It answered with an error, or with too much, or with no JSON.
    #[error("the policy agent's answer is not usable")]
    Unusable,
}

/// Where the agent is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpaConfig {
    /// URL of the decision, as `http://127.0.0.1:8181/v1/data/hotcell/allow`; none when empty.
    pub url: String,
}

impl OpaConfig {
    /// The checked URL; nothing when no agent is configured.
    ///
    /// # Errors
    /// [`ConfigError::Value`]: not https, nor http on loopback.
    pub fn url(&self) -> Result<Option<Url>, ConfigError> {
        if self.url.is_empty() {
            return Ok(None);
        }
        let rule = "must be an https URL, or http on a loopback address, without a user";
        let refuse = || ConfigError::Value { key: "opa.url", rule: rule.to_owned() };
        let url = Url::parse(&self.url).map_err(|_| refuse())?;
        let loopback = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
            Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
            Some(Host::Domain(_)) | None => false,
        };
        let encrypted = url.scheme() == "https" || (url.scheme() == "http" && loopback);
        let anonymous = url.username().is_empty() && url.password().is_none();
        if encrypted && anonymous { Ok(Some(url)) } else { Err(refuse()) }
    }
}

/// A configured agent.
#[derive(Debug)]
pub struct Opa {
    url: Url,
    client: reqwest::Client,
}

impl Opa {
    /// A client of the agent.
    ///
    /// # Errors
    /// [`ConfigError::Value`], as [`OpaConfig::url`]; or no TLS on this machine.
    pub fn new(config: &OpaConfig) -> Result<Option<Self>, ConfigError> {
        let Some(url) = config.url()? else { return Ok(None) };
        hotcell_stage::blob::install_tls();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(Duration::from_millis(ANSWER_MS))
            .pool_idle_timeout(hotcell_stage::blob::IDLE)
            .build()
            .map_err(|_| ConfigError::Value {
                key: "opa.url",
                rule: "needs the certificates of this machine".to_owned(),
            })?;
        Ok(Some(Self { url, client }))
    }

    /// Whether the agent permits what Cedar permitted.
    ///
    /// # Errors
    /// [`OpaError`]: it is refused.
    pub async fn permits(&self, input: &Value) -> Result<(), OpaError> {
        let body = json!({ "input": input }).to_string();
        let request = self.client.post(self.url.clone());
        let request = request.header("content-type", "application/json").body(body);
        let unanswered = |error: reqwest::Error| OpaError::Unanswered(error.without_url());
        let mut answer = request.send().await.map_err(unanswered)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(OpaError::Unusable);
        }
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unanswered)? {
            if text.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(OpaError::Unusable);
            }
            text.extend_from_slice(&chunk);
        }
        let answer: Value = serde_json::from_slice(&text).map_err(|_| OpaError::Unusable)?;
        match answer.get("result") {
            Some(Value::Bool(true)) => Ok(()),
            _ => Err(OpaError::Refused),
        }
    }
}

/// What the agent is told: who asks for what, what is known of it, and what was decided.
#[must_use]
pub fn input(
    who: &Principal,
    action: Action,
    target: &str,
    facts: &Facts,
    said: &Decided,
) -> Value {
    let authority = who.authority();
    json!({
        "tenant": who.tenant(),
        "actor": view::actor(who.actor()),
        "authority": hotcell_schemas::evidence::authority(authority),
        "action": action,
        "target": target,
        "facts": {
            "outputs": facts.outputs.iter().map(policies::output).collect::<Vec<_>>(),
            "protectedSource": facts.protected_source,
            "sourceBytes": facts.source_bytes,
            "destination": facts.destination,
            "priority": facts.priority,
            "approved": facts.approved,
            "risk": facts.risk,
            "grantedRoles": facts.granted_roles,
        },
        "decided": view::decided(said),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, http::StatusCode, routing::post};
    use tokio::{net::TcpListener, task::JoinSet};

    #[test]
    fn step_17_only_https_or_loopback_is_an_agent() {
        let check = |url: &str, good: bool| {
            let config = OpaConfig { url: url.to_owned() };
            assert_eq!(config.url().is_ok(), good, "{url}");
        };
        check("", true);
        check("http://127.0.0.1:8181/v1/data/hotcell/allow", true);
        check("http://[::1]:8181/v1/data/hotcell/allow", true);
        check("https://opa.example.com/v1/data/hotcell/allow", true);
        for bad in [
            "http://opa.example.com/",
            "http://localhost:8181/",
            "http://10.0.0.1/",
            "https://user:secret@opa.example.com/",
            "ftp://127.0.0.1/",
            "unix:/run/opa",
            "x",
        ] {
            check(bad, false);
        }
    }

    async fn agent(answer: &'static str, status: StatusCode, wait_ms: u64) -> (Opa, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/data/hotcell/allow", listener.local_addr().unwrap());
        let serve = async move || {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            (status, answer)
        };
        let router = Router::new().route("/v1/data/hotcell/allow", post(serve));
        let mut parts = JoinSet::new();
        parts.spawn(async move { axum::serve(listener, router).await.unwrap() });
        (Opa::new(&OpaConfig { url }).unwrap().unwrap(), parts)
    }

    #[tokio::test]
    async fn step_17_anything_but_true_in_time_is_a_refusal() {
        let check = async |answer: &'static str, status: StatusCode, wait_ms: u64, good: bool| {
            let (opa, _parts) = agent(answer, status, wait_ms).await;
            let mut found = opa.permits(&json!({})).await.is_ok();
            // A machine that stands still answers late, too; not each time.
            for _ in 0..2 {
                if good && !found {
                    found = opa.permits(&json!({})).await.is_ok();
                }
            }
            assert_eq!(found, good, "{answer} {status} {wait_ms}");
        };
        let ok = StatusCode::OK;
        check(r#"{"result":true}"#, ok, 0, true).await;
        check(r#"{"result":true,"decision_id":"x"}"#, ok, 0, true).await;
        for bad in [
            r#"{"result":false}"#,
            r#"{"result":"true"}"#,
            r#"{"result":{"allow":true}}"#,
            r#"{"result":[true]}"#,
            "{}",
            "true",
            "",
        ] {
            check(bad, ok, 0, false).await;
        }
        check(r#"{"result":true}"#, StatusCode::INTERNAL_SERVER_ERROR, 0, false).await;
        check(r#"{"result":true}"#, StatusCode::CREATED, 0, false).await;
        check(r#"{"result":true}"#, ok, 4 * ANSWER_MS, false).await;
    }

    #[tokio::test]
    async fn step_17_an_agent_that_is_down_refuses() {
        let (opa, mut parts) = agent(r#"{"result":true}"#, StatusCode::OK, 0).await;
        opa.permits(&json!({})).await.ok();
        parts.shutdown().await;
        let error = opa.permits(&json!({})).await.unwrap_err();
        assert!(matches!(error, OpaError::Unanswered(_)), "{error}");
        assert!(!format!("{error:?}").contains("/v1/data"), "no URL in errors");
    }
}
