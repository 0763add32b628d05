//! Who has copied a credential file, and what that opens: connections with stolen logins, and
//! messages that bear the wrong signature.
//!
//! Promises: what is sent is what the broker's own client sends, through the very login; nothing of
//! the services' checks is on the way. Refuses nothing: that is for the installation under test.

use crate::up::Up;
use anyhow::{Context as _, Result};
use async_nats::{Client, ConnectOptions, HeaderMap, jetstream};
use hotcell_nats_config::{Installation, Login, creds::Creds, jwt};
use hotcell_schemas::{Envelope, Role, Subject, envelope::Message};
use hotcell_stage::{Bus, NatsConfig, clock};
use nkeys::KeyPair;
use serde_json::json;

/// The installation's keys and files: what the operator has.
///
/// # Errors
/// When its folder cannot be read.
pub fn installation(up: &Up) -> Result<Installation> {
    Ok(Installation::open(&up.dir().join("nats"))?)
}

/// A credential file of the installation.
///
/// # Errors
/// When there is none.
pub fn creds(up: &Up, login: &Login) -> Result<Creds> {
    Ok(installation(up)?.creds(login)?)
}

/// A service's own connection, by its stolen login.
///
/// # Errors
/// When the broker does not take it.
pub async fn service(up: &Up, role: Role) -> Result<Bus> {
    let installation = installation(up)?;
    let config = NatsConfig {
        url: up.env("HOTCELL_NATS").to_owned(),
        creds: installation.creds_path(&Login::Service(role)),
        trust: installation.trust_path(),
        tls: None,
    };
    Ok(Bus::connect(role, &config).await?)
}

/// A connection that may do everything: the broker's permissions switched off.
///
/// # Errors
/// When the broker does not take it.
pub async fn unbounded(up: &Up) -> Result<Client> {
    let installation = installation(up)?;
    let (keys, user) = (installation.keys(), KeyPair::new_user());
    let all = json!({ "allow": [">"] });
    let body = json!({"type": "user", "version": 2, "issuer_account": keys.pipeline.public_key(),
        "pub": all, "sub": all, "subs": -1, "data": -1, "payload": -1});
    let signed =
        jwt::encode(&keys.pipeline_grants, clock::now(), &user.public_key(), "thief", &body)?;
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{signed}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed()?
    );
    Ok(ConnectOptions::with_credentials(&text)?.connect(up.env("HOTCELL_NATS")).await?)
}

/// The headers of an envelope.
#[must_use]
pub fn headers(sealed: &Envelope) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in sealed.headers() {
        headers.insert(name, value.as_str());
    }
    headers
}

/// Stores `body` on `subject`, signed by `key`; its sequence in the stream.
///
/// # Errors
/// When the broker does not store it.
pub async fn publish<T: Message>(
    client: &Client,
    subject: Subject,
    key: &KeyPair,
    body: &T,
) -> Result<u64> {
    let id = format!("thief.{}", hex::encode(clock::random::<16>()));
    let sealed = Envelope::seal(subject.clone(), id, clock::now(), key, body)?;
    let context = jetstream::new(client.clone());
    let sent =
        context.publish_with_headers(subject.to_string(), headers(&sealed), sealed.body.into());
    Ok(sent.await?.await.context("not stored")?.sequence)
}
