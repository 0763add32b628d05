//! The HTTP API as a client sees it.

use crate::{
    fail::{Context as _, Fail},
    layout::Layout,
};
use hotcell_stage::tls::is_private;
use reqwest::{Certificate, Client, Method, Response, StatusCode};
use serde::Serialize;
use serde_json::Value;
use std::{path::Path, time::Duration};

/// A request of the API is given up after this long, in seconds: confirming hashes 2 GiB.
const REQUEST_SECS: u64 = 120;

/// What comes too often waits as the answer says (`Retry-After`, RFC 9110 §10.2.3), for so many
/// seconds in all: a rate is over after that, a quota of the month is not.
const WAIT_SECS: u64 = 20;

/// A client with its key.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: String,
    key: String,
    pub(crate) http: Client,
}

impl Api {
    /// The API of `HOTCELL_API` and `HOTCELL_KEY`, or of the installation below `data`.
    pub(crate) fn find(data: &Path) -> Result<Self, Fail> {
        let (base, key, ca) = settings(|name| std::env::var(name).ok(), data)?;
        Ok(Self { base, key, http: http(ca.as_deref().map(Path::new))? })
    }

    /// Sends a request; the `result` of a 2xx answer, or what the problem document says.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Value, Fail> {
        let (status, body) = self.send(method, path, body).await?;
        if status.is_success() {
            return Ok(body.get("result").cloned().unwrap_or(body));
        }
        Err(refusal(status, &body))
    }

    /// Sends a request, again when it came too soon; the status, and the answer's JSON.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<(StatusCode, Value), Fail> {
        let mut waited = 0;
        let answer = loop {
            let answer = self.sent(&method, path, body).await?;
            let Some(secs) = too_soon(&answer).filter(|secs| waited + secs <= WAIT_SECS) else {
                break answer;
            };
            waited += secs;
            tokio::time::sleep(Duration::from_secs(secs)).await;
        };
        let status = answer.status();
        let body: Value = answer.json().await.or_fail("the API's answer is no JSON")?;
        Ok((status, body))
    }

    async fn sent(
        &self,
        method: &Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<Response, Fail> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method.clone(), url).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.map_err(|error| {
            let why = hotcell_stage::service::describe(&error.without_url());
            Fail::unreachable(format!(
                "the API at {} does not answer ({why}): is `hotcell up` running?",
                self.base
            ))
        })
    }

    /// The credential in use.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The same API with another credential.
    pub(crate) fn with_key(self, key: String) -> Self {
        Self { key, ..self }
    }

    /// A GET.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Fail> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// A POST.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<Value, Fail> {
        self.call(Method::POST, path, Some(body)).await
    }
}

/// Seconds to wait, at least one, where the answer is that something was exceeded.
fn too_soon(answer: &Response) -> Option<u64> {
    if answer.status() != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let secs: u64 = answer.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(secs.max(1))
}

/// An HTTP client that follows no redirects and asks no proxies. It trusts the system's authorities
/// and those in `ca`.
pub(crate) fn http(ca: Option<&Path>) -> Result<Client, Fail> {
    hotcell_stage::blob::install_tls();
    let mut builder = Client::builder();
    if let Some(path) = ca {
        let doing = format!("cannot read the authorities in {}", path.display());
        let pem = std::fs::read(path).or_fail(&doing)?;
        builder = builder.tls_certs_merge(Certificate::from_pem_bundle(&pem).or_fail(&doing)?);
    }
    let client = builder
        .timeout(Duration::from_secs(REQUEST_SECS))
        .pool_idle_timeout(hotcell_stage::blob::IDLE)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build();
    Ok(client.expect("the TLS backend is compiled in"))
}

/// Address, key and authorities, as the environment says, or else the installation. A key that is
/// named is never passed over for the installation's own, and that one is sent nowhere else; none is sent
/// in plain text beyond this machine.
fn settings(
    named: impl Fn(&str) -> Option<String>,
    data: &Path,
) -> Result<(String, String, Option<String>), Fail> {
    let found = match (named("HOTCELL_API"), named("HOTCELL_KEY")) {
        (Some(base), Some(key)) => (base, key, named("HOTCELL_CA")),
        (Some(_), None) => {
            return Err(Fail::usage(
                "HOTCELL_API is set without HOTCELL_KEY: the installation's own key is sent nowhere \
                 else",
            ));
        }
        (None, key) => {
            let layout = Layout::open(data)?;
            let key = key.map_or_else(|| layout.env_value("HOTCELL_KEY"), Ok)?;
            (layout.env_value("HOTCELL_API")?, key, layout.env_value("HOTCELL_CA").ok())
        }
    };
    if is_private(&found.0) {
        return Ok(found);
    }
    Err(Fail::config(format!(
        "the API at {} is beyond this machine, where a key would travel in plain text: use https://",
        found.0
    )))
}

/// What a problem document (RFC 9457) says, with each field's rule.
pub(crate) fn refusal(status: StatusCode, body: &Value) -> Fail {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut message = match (text("title"), text("detail")) {
        ("", "") => format!("the API answers {status}"),
        (title, "") => title.to_owned(),
        (title, detail) => format!("{title}: {detail}"),
    };
    for error in body.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
        message.push_str(&format!("\n  {}: {}", text("field"), text("rule")));
    }
    if status.is_server_error() { Fail::unreachable(message) } else { Fail::failed(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IAM-10: who names another key acts as that key, and no key goes to a stranger's address.
    #[test]
    fn iam_10_a_key_that_is_named_is_the_one_that_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("nats")).unwrap();
        let text = "export HOTCELL_API='http://127.0.0.1:1'\nexport HOTCELL_KEY='hck_own'\n";
        std::fs::write(dir.path().join("dev.env"), text).unwrap();
        let check = |given: &[(&str, &str)], expect: Option<(&str, &str)>| {
            let named = |name: &str| {
                given.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            let found = settings(named, dir.path()).ok();
            let found = found.as_ref().map(|(base, key, _)| (base.as_str(), key.as_str()));
            assert_eq!(found, expect, "{given:?}");
        };
        check(&[], Some(("http://127.0.0.1:1", "hck_own")));
        check(&[("HOTCELL_KEY", "hck_b")], Some(("http://127.0.0.1:1", "hck_b")));
        check(&[("HOTCELL_API", "https://b")], None);
        let at = |base| [("HOTCELL_API", base), ("HOTCELL_KEY", "hck_b")];
        check(&at("https://b"), Some(("https://b", "hck_b")));
        check(&at("http://localhost:1"), Some(("http://localhost:1", "hck_b")));
        // ZT-01: nor does one travel in plain text beyond this machine.
        for open in ["http://b", "http://10.0.0.1:8080", "http://127.0.0.1@b", "ftp://b", "b"] {
            check(&at(open), None);
        }
    }
}
