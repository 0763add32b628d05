//! An identity provider of which only the keys are served: the test signs its tokens.

use axum::{Json, Router, routing::get};
use hotcell_e2e::idp::{AUDIENCE, ProofKey};
use serde_json::json;
use tokio::task::JoinSet;

pub(crate) struct Issuer {
    pub(crate) key: ProofKey,
    pub(crate) url: String,
    rules: tempfile::NamedTempFile,
    _served: JoinSet<()>,
}

impl Issuer {
    /// Serves its keys; `rules` give its principals their roles.
    pub(crate) async fn start(rules: &str) -> Self {
        let key = ProofKey::new();
        let mut jwk = key.jwk();
        (jwk["kid"], jwk["alg"]) = (json!("1"), json!("ES256"));
        let keys = json!({ "keys": [jwk] });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/keys", get(async || Json(keys)));
        let mut served = JoinSet::new();
        served.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rules).unwrap();
        Self { key, url, rules: file, _served: served }
    }

    /// What intake's configuration says of it.
    pub(crate) fn configuration(&self) -> String {
        format!(
            "oidc = [{{ issuer = {:?}, audience = {AUDIENCE:?}, rules = {:?}, jwks_uri = {:?} }}]",
            self.url,
            self.rules.path(),
            format!("{}/keys", self.url),
        )
    }
}
