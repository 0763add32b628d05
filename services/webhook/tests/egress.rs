//! Deliveries through the guard to real receivers: what arrives verifies, and what an endpoint's
//! owner may try (loopback, redirects, silence, endless answers) gets nowhere.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use axum::{
    Router,
    body::Body,
    http::{StatusCode, header::LOCATION},
    response::IntoResponse as _,
    routing::any,
};
use hotcell_schemas::UnixMs;
use hotcell_stage::clock;
use hotcell_webhook::{
    Secret,
    egress::{Egress, Policy, SendError, Target, UrlError},
    signature::{Attempt, headers},
    verify,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use support::{Receiver, serve};

const PUBLIC: Policy = Policy { allow_loopback: false };
const OWN: Policy = Policy { allow_loopback: true };
const BODY: &[u8] = br#"{"type":"job.completed","data":{}}"#;

fn signed(secret: &Secret, at: UnixMs) -> Vec<(&'static str, String)> {
    let attempt = Attempt { id: "d1", event: "job.completed", number: 1, timestamp: at.secs() };
    headers(std::slice::from_ref(secret), attempt, BODY).to_vec()
}

async fn post(url: &str) -> Result<u16, SendError> {
    let target = Target::parse(url, OWN).unwrap();
    let headers = signed(&Secret::new([1; 32]), clock::now());
    Egress::new(OWN).post(&target, &headers, BODY.to_vec()).await
}

#[tokio::test]
async fn brk_42_what_arrives_verifies_by_two_verifiers() {
    let secret = Secret::new([1; 32]);
    let receiver = Receiver::start(Vec::new()).await;
    assert_eq!(post(&receiver.url("/hook?a=b")).await, Ok(200));
    let seen = receiver.seen();
    let [one] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(one.body, BODY);
    let header = |name: &'static str| one.headers.get(name).map(|v| v.to_str().unwrap());
    assert_eq!(verify(&secret, header, &one.body, clock::now().secs()), Ok(()));
    let oracle = standardwebhooks::Webhook::new(&secret.reveal()).unwrap();
    oracle.verify(&one.body, &one.headers).unwrap();
    assert_eq!(header("content-type"), Some("application/json"));
    assert_eq!(header("user-agent"), Some("Hotcell-Webhooks/1"));
    assert_eq!(header("x-hotcell-event"), Some("job.completed"));
    assert!(header("x-hotcell-signature").unwrap().starts_with("hmac="));
}

#[tokio::test]
async fn loopback_is_reached_with_the_switch_and_not_without() {
    let receiver = Receiver::start(Vec::new()).await;
    let port = receiver.port();
    // With the switch every spelling arrives: the attack is real.
    let spellings = ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "localhost"];
    for host in spellings {
        assert_eq!(post(&format!("http://{host}:{port}/")).await, Ok(200), "{host}");
    }
    assert_eq!(receiver.seen().len(), spellings.len());
    for host in spellings {
        let refused = Target::parse(&format!("https://{host}:{port}/"), PUBLIC);
        assert_eq!(refused, Err(UrlError::Address), "{host}");
    }
    // A name that passes the shape (here by the other policy) stops at the lookup.
    let target = Target::parse(&format!("https://localhost:{port}/"), OWN).unwrap();
    let sent = Egress::new(PUBLIC).post(&target, &[], BODY.to_vec()).await;
    assert_eq!(sent, Err(SendError::Address));
    assert_eq!(receiver.seen().len(), spellings.len(), "no further request arrived");
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let inner = Receiver::start(Vec::new()).await;
    let to = inner.url("/admin");
    let redirect = move || async move { (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, to)]) };
    let (outer, _task) = serve(Router::new().route("/", any(redirect))).await;
    let url = format!("http://{outer}/");
    hotcell_stage::blob::install_tls();
    // An ordinary client carries the delivery on to where the receiver points.
    reqwest::Client::new().post(&url).body(BODY).send().await.unwrap();
    assert_eq!(inner.seen().len(), 1);
    assert_eq!(post(&url).await, Ok(307));
    assert_eq!(inner.seen().len(), 1, "the guard did not follow");
}

#[tokio::test]
async fn failures_have_classes() {
    let receiver = Receiver::start(Vec::new()).await;
    let tls = format!("https://127.0.0.1:{}/", receiver.port());
    assert_eq!(post(&tls).await, Err(SendError::Tls));
    // Held, so that nobody else gets it, and nobody listens.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port();
    assert_eq!(post(&format!("http://127.0.0.1:{port}/")).await, Err(SendError::Connect));
}

#[tokio::test]
async fn an_endless_answer_costs_8_kib_and_a_moment() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let endless = move || {
        let chunks = futures::stream::repeat_with(move || {
            count.fetch_add(1024, Ordering::SeqCst);
            Ok::<_, std::io::Error>(vec![b'x'; 1024])
        });
        async move { Body::from_stream(chunks).into_response() }
    };
    let (address, _task) = serve(Router::new().route("/", any(endless))).await;
    let begun = Instant::now();
    assert_eq!(post(&format!("http://{address}/")).await, Ok(200));
    // Read on, it would be 15 s.
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    // What the sockets' buffers took may be some MiB; then nobody reads any more.
    assert!(sent.load(Ordering::SeqCst) < 64 << 20);
}
