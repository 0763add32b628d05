//! The operator's two connections to a running broker: the provisioner's login in PIPELINE and the
//! operator's login in the system account, and the broker's own requests over them.
//!
//! Promises: every answer is awaited and read; an account's JWT is validated before it is pushed
//! and read back after; every act of the operator is recorded, signed, before it is done.

use crate::{
    accounts, api,
    claims::AccountBody,
    creds::Creds,
    diff::Difference,
    init::{InitError, Installation},
    jwt::{self, Claims},
    login::Login,
    plan::POOLS_MAX,
    server_config::BrokerTls,
    validate::{self, AccountRefused},
};
use async_nats::{
    Client, ConnectOptions, HeaderMap, StatusCode, ToServerAddrs,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_SEQUENCE},
    jetstream::{self, context::PublishErrorKind},
};
use hotcell_schemas::{
    Digest, Envelope, Role, Subject, TenantId, UnixMs,
    envelope::SealError,
    records::{AuditAct, AuditRecord},
    subject::AuditKind,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::fmt;

/// Whose certificate the operator shows.
const OPERATOR: &str = "provisioner";

/// Reconnects of an admin connection: a command that lost its server ends soon.
const RECONNECTS_MAX: usize = 5;

/// Why an act of the operator failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The installation.
    #[error("the installation cannot be read or completed")]
    Installation(#[source] InitError),
    /// No connection.
    #[error("the broker does not take the login of {login}")]
    Connect {
        /// Whose.
        login: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The credential file does not suit the client.
    #[error("the credential file does not read")]
    Creds(#[source] std::io::Error),
    /// No answer.
    #[error("the broker did not answer ({what})")]
    Request {
        /// What was asked.
        what: &'static str,
        /// Why.
        #[source]
        source: async_nats::RequestError,
    },
    /// An answer that does not read.
    #[error("the broker's answer does not read ({0})")]
    Answer(&'static str),
    /// The broker refused.
    #[error("the broker refused ({what}): error {code}, {description}")]
    Api {
        /// What was asked.
        what: &'static str,
        /// JetStream's `err_code`, or the status.
        code: u64,
        /// The broker's text.
        description: String,
    },
    /// An account that the broker would not honour.
    #[error("the account is not pushed")]
    Refused(#[source] AccountRefused),
    /// The broker holds another JWT than the one pushed.
    #[error("the broker does not hold the account that was pushed")]
    NotStored,
    /// The server has a stream that the code describes otherwise; the provisioner may not change it.
    #[error("the server's streams differ from the code: {}", first(.0))]
    Differs(Vec<Difference>),
    /// A record that somebody else wrote between the look at it and the change of it.
    #[error("another command changed the same at this moment: look at it, and run this one again")]
    Changed,
    /// A publish without acknowledgement.
    #[error("the broker did not store the message")]
    Publish(#[source] jetstream::context::PublishError),
    /// An audit record.
    #[error("the audit record was not signed")]
    Seal(#[source] SealError),
    /// A record.
    #[error("the record does not encode")]
    Encode(#[source] rmp_serde::encode::Error),
    /// A record in a bucket.
    #[error("a record in bucket {0} does not read")]
    Record(&'static str),
    /// The system gave no randomness.
    #[error("the system gave no randomness")]
    Random(#[source] getrandom::Error),
    /// No such tenant.
    #[error("there is no tenant {0}")]
    UnknownTenant(TenantId),
    /// A removed tenant: its name is not given again.
    #[error("tenant {0} was removed: its name is not given again")]
    Removed(TenantId),
    /// Suspended.
    #[error("tenant {0} is suspended: resume it first")]
    NotServed(TenantId),
    /// No login of that name is here, and none was revoked.
    #[error("there is no login {0} here: `hotcell access report` names those that are")]
    UnknownLogin(String),
    /// A login that was revoked, and that the broker takes all the same.
    #[error("the broker still takes login {0}, which is revoked: try again")]
    StillTaken(String),
    /// The record names another account than this installation's key.
    #[error("tenant {0} has another account on the server")]
    OtherAccount(TenantId),
    /// Pools are added while work runs, not taken away.
    #[error("tenant {0} cannot lose a pool")]
    PoolRemoved(TenantId),
    /// A pool twice, or too many.
    #[error("tenant {0} needs at most {POOLS_MAX} pools, each named once")]
    Pools(TenantId),
    /// No pool, or no encode at once.
    #[error("tenant {0} needs at least one pool and a concurrency of at least one")]
    NoWork(TenantId),
}

fn first(differences: &[Difference]) -> String {
    differences.first().map(ToString::to_string).unwrap_or_default()
}

/// One entry of a bucket.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    /// The value; `None` when there is none.
    pub(crate) value: Option<T>,
    /// Sequence of the key's last message; 0 when there was never one.
    pub(crate) sequence: u64,
}

/// The operator, connected.
pub struct Admin {
    installation: Installation,
    pipeline: Client,
    sys: Client,
    jetstream: jetstream::Context,
    provisioner: Creds,
    url: String,
    tls: Option<BrokerTls>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("dir", &self.installation.dir()).finish_non_exhaustive()
    }
}

/// A connection with a credential file, inboxes under the login's own prefix.
///
/// # Errors
/// `Creds`, `Connect`.
pub async fn connect(url: impl ToServerAddrs, creds: &Creds) -> Result<Client, AdminError> {
    connect_with(url, creds, None).await
}

/// The same to a server that asks for TLS, with a client's files.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(
    url: impl ToServerAddrs,
    creds: &Creds,
    tls: Option<&BrokerTls>,
) -> Result<Client, AdminError> {
    let login = creds.claims.name.clone();
    let mut options = ConnectOptions::with_credentials(&creds.text)
        .map_err(AdminError::Creds)?
        .name(&login)
        .custom_inbox_prefix(api::inbox_prefix(&login))
        .max_reconnects(RECONNECTS_MAX);
    if let Some(tls) = tls {
        options = options
            .require_tls(true)
            .tls_first()
            .add_root_certificates(tls.ca.clone())
            .add_client_certificate(tls.cert.clone(), tls.key.clone());
    }
    // The client's future is 17 KiB: too much to carry in every caller's.
    Box::pin(options.connect(url)).await.map_err(|source| AdminError::Connect { login, source })
}

impl Admin {
    /// Connects with the installation's provisioner and system logins.
    ///
    /// # Errors
    /// `Installation`, `Creds`, `Connect`.
    pub async fn connect(installation: Installation, url: &str) -> Result<Self, AdminError> {
        let creds = |login| installation.creds(&login).map_err(AdminError::Installation);
        let provisioner = creds(Login::Service(Role::Provisioner))?;
        let tls = url.starts_with("tls://").then(|| installation.tls(OPERATOR));
        let pipeline = connect_with(url, &provisioner, tls.as_ref()).await?;
        let sys = connect_with(url, &creds(Login::Sys)?, tls.as_ref()).await?;
        let jetstream = jetstream::new(pipeline.clone());
        let url = url.to_owned();
        Ok(Self { installation, pipeline, sys, jetstream, provisioner, url, tls })
    }

    /// The installation's folder.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Pushes an account's JWT: validated first, read back after. A running server takes it at
    /// once; logins need no reload.
    ///
    /// # Errors
    /// `Refused` before anything is sent; `Request`, `Api`, `NotStored`.
    pub async fn push_account(&self, account_jwt: &str) -> Result<(), AdminError> {
        let keys = self.installation.keys();
        let claims = validate::own_account(account_jwt, keys).map_err(AdminError::Refused)?;
        if claims.sub != keys.sys.public_key() && claims.sub != keys.pipeline.public_key() {
            validate::importer(account_jwt, keys, &accounts::exports())
                .map_err(AdminError::Refused)?;
        }
        let what = "replace an account";
        let body = account_jwt.to_owned().into();
        let answer = self
            .sys
            .request(api::CLAIMS_UPDATE, body)
            .await
            .map_err(|source| AdminError::Request { what, source })?;
        read_answer(what, &answer.payload)?;
        match self.stored_account(&claims.sub).await? {
            Some(stored) if stored == account_jwt => Ok(()),
            Some(_) | None => Err(AdminError::NotStored),
        }
    }

    /// The JWT that the server holds for `account`.
    pub(crate) async fn stored_account(&self, account: &str) -> Result<Option<String>, AdminError> {
        let what = "read an account";
        let answer = self
            .sys
            .request(api::claims_lookup(account), "".into())
            .await
            .map_err(|source| AdminError::Request { what, source })?;
        let text =
            String::from_utf8(answer.payload.to_vec()).map_err(|_| AdminError::Answer(what))?;
        // Without such an account the answer is empty or a JSON error, never a JWT.
        Ok(jwt::decode::<AccountBody>(&text).is_ok().then_some(text))
    }

    /// The same, read.
    pub(crate) async fn stored_claims(
        &self,
        account: &str,
    ) -> Result<Option<Claims<AccountBody>>, AdminError> {
        let stored = self.stored_account(account).await?;
        Ok(stored.and_then(|jwt| jwt::decode(&jwt).ok()))
    }

    /// One request of the stream and consumer API; `None` when there is no such thing.
    pub(crate) async fn ask(
        &self,
        what: &'static str,
        subject: String,
        body: &Value,
    ) -> Result<Option<Value>, AdminError> {
        let answer = self
            .pipeline
            .request(subject, body.to_string().into())
            .await
            .map_err(|source| AdminError::Request { what, source })?;
        match read_answer(what, &answer.payload) {
            Ok(value) => Ok(Some(value)),
            Err(AdminError::Api { code: STREAM_NOT_FOUND | CONSUMER_NOT_FOUND, .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// One request of the system account; the answer as it came.
    pub(crate) async fn ask_sys(
        &self,
        what: &'static str,
        subject: String,
        body: String,
    ) -> Result<Vec<u8>, AdminError> {
        let answer = self.sys.request(subject, body.into()).await;
        let answer = answer.map_err(|source| AdminError::Request { what, source })?;
        Ok(answer.payload.to_vec())
    }

    /// One request without a body; the answer as it came.
    pub(crate) async fn ask_pipeline(
        &self,
        what: &'static str,
        subject: String,
    ) -> Result<async_nats::Message, AdminError> {
        let answer = self.pipeline.request(subject, "".into()).await;
        answer.map_err(|source| AdminError::Request { what, source })
    }

    /// Whose signature the operator's records carry.
    pub(crate) fn provisioner(&self) -> &Creds {
        &self.provisioner
    }

    /// The server.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The files of a TLS connection, when the server asks for one.
    pub(crate) fn tls(&self) -> Option<&BrokerTls> {
        self.tls.as_ref()
    }

    /// Reads a bucket's entry by Direct Get.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        bucket: &'static str,
        key: &str,
    ) -> Result<Entry<T>, AdminError> {
        let what = "read a record";
        let subject = api::direct_get(&api::bucket_stream(bucket), &api::bucket_key(bucket, key));
        let answer = self
            .pipeline
            .request(subject, "".into())
            .await
            .map_err(|source| AdminError::Request { what, source })?;
        if answer.status == Some(StatusCode::NOT_FOUND) {
            return Ok(Entry { value: None, sequence: 0 });
        }
        let headers = answer.headers.as_ref().ok_or(AdminError::Answer(what))?;
        let sequence = headers.get(NATS_SEQUENCE).and_then(|value| value.as_str().parse().ok());
        let sequence = sequence.ok_or(AdminError::Answer(what))?;
        if headers.get("KV-Operation").is_some() {
            return Ok(Entry { value: None, sequence });
        }
        let value =
            rmp_serde::from_slice(&answer.payload).map_err(|_| AdminError::Record(bucket))?;
        Ok(Entry { value: Some(value), sequence })
    }

    /// Writes a bucket's entry, if the key's last sequence is still `sequence`.
    pub(crate) async fn put<T: Serialize>(
        &self,
        bucket: &str,
        key: &str,
        sequence: u64,
        value: &T,
    ) -> Result<(), AdminError> {
        let body = rmp_serde::to_vec_named(value).map_err(AdminError::Encode)?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
        match self.store(api::bucket_key(bucket, key), headers, body).await {
            Err(AdminError::Publish(error))
                if error.kind() == PublishErrorKind::WrongLastSequence =>
            {
                Err(AdminError::Changed)
            }
            other => other,
        }
    }

    /// Records an act of the operator, and returns when the record is stored. Call it first: no
    /// record, no act.
    pub(crate) async fn record(
        &self,
        tenant: Option<&TenantId>,
        action: &str,
        target: &str,
        now: UnixMs,
    ) -> Result<(), AdminError> {
        let act = AuditAct::Admin { action: action.to_owned(), target: target.to_owned() };
        let record = AuditRecord { at: now, tenant: tenant.cloned(), act };
        let subject = Subject::audit(tenant, AuditKind::Admin);
        let id = Digest::of(&random::<32>()?);
        let key = &self.provisioner.key;
        let envelope = Envelope::seal(subject, format!("admin-{id}"), now, key, &record)
            .map_err(AdminError::Seal)?;
        let mut headers = HeaderMap::new();
        for (name, value) in envelope.headers() {
            headers.insert(name, value);
        }
        self.store(envelope.subject.to_string(), headers, envelope.body).await
    }

    /// Stores a message, and returns when it is stored.
    pub(crate) async fn store(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<(), AdminError> {
        let sent = self.jetstream.publish_with_headers(subject, headers, body.into()).await;
        sent.map_err(AdminError::Publish)?.await.map_err(AdminError::Publish)?;
        Ok(())
    }
}

/// `err_code` of JetStream (server/errors.json).
const STREAM_NOT_FOUND: u64 = 10_059;
/// `err_code` of JetStream (server/errors.json).
const CONSUMER_NOT_FOUND: u64 = 10_014;

/// `N` random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], AdminError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(AdminError::Random)?;
    Ok(bytes)
}

pub(crate) fn read_answer(what: &'static str, payload: &[u8]) -> Result<Value, AdminError> {
    let value: Value = serde_json::from_slice(payload).map_err(|_| AdminError::Answer(what))?;
    let Some(error) = value.get("error") else { return Ok(value) };
    let number = |name| error.get(name).and_then(Value::as_u64);
    let description = error.get("description").and_then(Value::as_str).unwrap_or_default();
    Err(AdminError::Api {
        what,
        code: number("err_code").or_else(|| number("code")).unwrap_or_default(),
        description: description.to_owned(),
    })
}
