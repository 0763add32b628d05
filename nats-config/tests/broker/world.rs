//! What the tests share: a provisioned server, logins, and a client that waits for refusals.

use async_nats::{Client, Request};
use hotcell_nats_config::{
    Admin, Difference, InitOptions, Login, Replicas, TenantSpec, api, jwt,
    testing::{NOW, TestServer},
};
use hotcell_schemas::TenantId;
use nkeys::KeyPair;
use serde_json::json;
use std::time::{Duration, Instant};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What issue 4 asks of a suspension, and of a revocation.
pub(crate) const CUT_MAX: Duration = Duration::from_secs(1);

pub(crate) fn options() -> InitOptions {
    InitOptions {
        now: NOW,
        workers: vec![("w1".parse().unwrap(), vec!["cpu".parse().unwrap()])],
        tenants: vec![("acme".parse().unwrap(), "app".parse().unwrap())],
    }
}

pub(crate) fn tenant(name: &str) -> TenantSpec {
    TenantSpec::new(name.parse().unwrap(), vec!["cpu".parse().unwrap()])
}

pub(crate) fn program(name: &str) -> Login {
    Login::Tenant { tenant: name.parse().unwrap(), user: "app".parse().unwrap() }
}

pub(crate) fn worker(name: &str) -> Login {
    Login::Worker { name: name.parse().unwrap(), pools: vec!["cpu".parse().unwrap()] }
}

pub(crate) async fn provisioned() -> (TestServer, Admin) {
    let server = TestServer::start(&options()).await.unwrap();
    let admin = server.admin().await.unwrap();
    admin.provision(Replicas::One, NOW).await.unwrap();
    (server, admin)
}

/// A login with every right in PIPELINE, made with the key that signs activations: what only the
/// holder of the operator's keys can do. Stands for an operator who changed the server by hand.
pub(crate) async fn by_hand(server: &TestServer) -> Client {
    let installation = server.installation().unwrap();
    let keys = installation.keys();
    let user = KeyPair::new_user();
    let body = json!({"type": "user", "version": 2, "issuer_account": keys.pipeline.public_key(),
        "pub": {"allow": [">"]}, "sub": {"allow": [">"]}, "subs": -1, "data": -1, "payload": -1});
    connect_raw(server, &keys.pipeline_grants, &user, "by-hand", &body).await.unwrap()
}

pub(crate) async fn connect_raw(
    server: &TestServer,
    signer: &KeyPair,
    user: &KeyPair,
    name: &str,
    body: &serde_json::Value,
) -> Result<Client, async_nats::ConnectError> {
    let jwt = jwt::encode(signer, NOW, &user.public_key(), name, body).unwrap();
    let key = std::sync::Arc::new(KeyPair::from_seed(&user.seed().unwrap()).unwrap());
    let sign = move |nonce: Vec<u8>| {
        let key = key.clone();
        async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
    };
    async_nats::ConnectOptions::with_jwt(jwt, sign).connect(server.url()).await
}

/// Waits until the server says that `client`'s login may not do `what`.
pub(crate) struct Watched {
    pub(crate) client: Client,
    pub(crate) events: tokio::sync::mpsc::Receiver<String>,
}

impl Watched {
    pub(crate) async fn connect(server: &TestServer, login: &Login) -> Self {
        let (sender, events) = tokio::sync::mpsc::channel(64);
        let creds = server.creds(login).unwrap();
        let client = async_nats::ConnectOptions::with_credentials(&creds.text)
            .unwrap()
            .custom_inbox_prefix(api::inbox_prefix(&login.name()))
            .event_callback(move |event| {
                let sender = sender.clone();
                async move {
                    sender.try_send(event.to_string().to_lowercase()).ok();
                }
            })
            .connect(server.url())
            .await
            .unwrap();
        Self { client, events }
    }

    pub(crate) async fn denied(&mut self, what: &str, subject: &str) {
        let wanted = format!("{what} to \"{}\"", subject.to_lowercase());
        let seen = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if event.contains("permissions violation") && event.contains(&wanted) {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, seen).await.expect(&wanted);
    }

    pub(crate) async fn publish_denied(&mut self, subject: &str) {
        let client = self.client.clone();
        let request = Request::new().payload("x".into()).timeout(Some(DEADLINE));
        tokio::select! {
            () = self.denied("publish", subject) => {}
            answer = client.send_request(subject.to_owned(), request) => {
                panic!("{subject} was not denied: {answer:?}")
            }
        }
    }

    pub(crate) async fn subscribe_denied(&mut self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.denied("subscription", subject).await;
    }
}

/// Publishes without waiting for an answer.
#[expect(clippy::disallowed_methods, reason = "answers and live events are not stored")]
pub(crate) async fn tell(
    client: &Client,
    subject: impl async_nats::subject::ToSubject,
    body: String,
) {
    client.publish(subject, body.into()).await.unwrap();
}

/// Returns when the server has taken what `client` sent before, its subscriptions included: it
/// answers a later read on the same connection.
pub(crate) async fn settle(client: &Client) {
    client.request(api::job_states(), "".into()).await.unwrap();
}

pub(crate) fn texts(differences: &[Difference]) -> Vec<String> {
    differences.iter().map(ToString::to_string).collect()
}

pub(crate) fn acme() -> TenantId {
    "acme".parse().unwrap()
}

pub(crate) async fn with_acme() -> (TestServer, Admin) {
    let (server, admin) = provisioned().await;
    admin.add_tenant(&tenant("acme"), &"app".parse().unwrap(), NOW).await.unwrap();
    (server, admin)
}

pub(crate) async fn no_difference(admin: &Admin) {
    assert_eq!(texts(&admin.check(Replicas::One).await.unwrap()), Vec::<String>::new());
}

/// Waits until the server has cut `live`, and says how long after `since` that was.
pub(crate) async fn cut(live: &mut Watched, since: Instant) -> Duration {
    let seen = async {
        while !live.events.recv().await.unwrap().contains("disconnected") {}
        since.elapsed()
    };
    tokio::time::timeout(DEADLINE, seen).await.expect("the connection is not cut")
}

/// Waits until an account has so many connections: those that a test opened a moment ago and dropped
/// are closed by their own tasks, and the server hears of it later.
pub(crate) async fn has_connections(admin: &Admin, account: &str, count: u64) {
    let until = Instant::now() + DEADLINE;
    loop {
        let now = admin.connections(account).await.unwrap();
        if now == count {
            return;
        }
        assert!(Instant::now() < until, "{now} connections and not {count}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A copy of the installation's folder, without the server's own.
pub(crate) fn copied(server: &TestServer) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["keys", "creds", "accounts", "revoked", "trust.json"] {
        let from = server.dir().join(folder);
        let status =
            std::process::Command::new("cp").arg("-r").arg(from).arg(copy.path()).status().unwrap();
        assert!(status.success());
    }
    copy
}

/// Looks at `act` so many times and drops it, as a command that is killed; whether it was done before.
pub(crate) async fn dropped_after<T>(looks: usize, act: impl Future<Output = T>) -> bool {
    let (mut act, mut left, mut done) = (Box::pin(act), looks, false);
    std::future::poll_fn(|context| {
        done = act.as_mut().poll(context).is_ready();
        left -= 1;
        if done || left == 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
