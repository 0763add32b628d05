//! Reading outputs from a real HTTP server on loopback.
#![allow(clippy::unwrap_used, reason = "tests")]

use axum::{
    Router,
    body::Body,
    http::StatusCode,
    routing::{any, get},
};
use bytes::Bytes;
use futures::stream;
use hotcell_hasher::read::{Difference, Found, read};
use hotcell_schemas::{
    Digest, UnixMs,
    work::{SecretUrl, SignedUrl},
};
use hotcell_stage::blob::{BlobError, Blobs};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// One chunk of the stream that never ends.
const CHUNK: usize = 16 * 1024;

/// A store with one object of each kind; returns its address and the bytes that it has streamed.
async fn store() -> (String, Arc<AtomicU64>) {
    let streamed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&streamed);
    let endless = move || {
        let counter = Arc::clone(&counter);
        let chunks = stream::repeat_with(move || {
            counter.fetch_add(CHUNK as u64, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from(vec![b'a'; CHUNK]))
        });
        async move { Body::from_stream(chunks) }
    };
    let app = Router::new()
        .route("/good", get(async || "abcd"))
        .route("/changed", get(async || "abce"))
        .route("/longer", get(async || "abcde"))
        .route("/shorter", get(async || "abc"))
        .route("/endless", get(endless))
        .route("/denied", get(async || StatusCode::FORBIDDEN))
        .route("/down", get(async || StatusCode::SERVICE_UNAVAILABLE));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (format!("http://{address}"), streamed)
}

fn signed(url: String) -> SignedUrl {
    SignedUrl { url: SecretUrl::new(url), headers: Vec::new(), expires_at: UnixMs(u64::MAX) }
}

#[tokio::test]
async fn brk_60_what_the_store_has_is_compared() {
    let (base, _) = store().await;
    let blobs = Blobs::new();
    let check = async |path: &str, expect: Found| {
        let found = read(&blobs, &signed(format!("{base}{path}")), 4, Digest::of(b"abcd")).await;
        assert_eq!(found.unwrap(), expect, "{path}");
    };
    check("/good", Found::Same).await;
    check("/changed", Found::Different(Difference::Content)).await;
    check("/longer", Found::Different(Difference::Longer(4))).await;
    check("/shorter", Found::Different(Difference::Shorter(4))).await;
    check("/nothing", Found::Missing).await;
}

#[tokio::test]
async fn a_store_that_fails_gives_no_verdict() {
    let (base, _) = store().await;
    let blobs = Blobs::new();
    let read = async |url: String| read(&blobs, &signed(url), 4, Digest::of(b"abcd")).await;
    assert!(matches!(read(format!("{base}/denied")).await, Err(BlobError::Denied(403))));
    assert!(matches!(read(format!("{base}/down")).await, Err(BlobError::Unreachable(_))));
    let closed = read("http://127.0.0.1:1/x".to_owned()).await;
    assert!(matches!(closed, Err(BlobError::Unreachable(_))));
}

#[tokio::test]
async fn an_endless_object_is_not_read_to_its_end() {
    let (base, streamed) = store().await;
    let url = signed(format!("{base}/endless"));
    let found = read(&Blobs::new(), &url, 100_000, Digest::of(b"")).await.unwrap();
    assert_eq!(found, Found::Different(Difference::Longer(100_000)));
    // What is beyond the size is only what the sockets' buffers held.
    assert!(streamed.load(Ordering::Relaxed) < 32 << 20);
}

/// IAM-09: a tenant's own bucket may answer anything. Where it sends readers and writers to, inside of
/// the installation's network, nobody goes.
#[tokio::test]
async fn iam_09_a_bucket_leads_nobody_to_another_address() {
    let visits = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&visits);
    let inside = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        async { "abcd" }
    };
    let mut app = Router::new().route("/inside", any(inside));
    for status in [301, 302, 303, 307, 308] {
        let status = StatusCode::from_u16(status).unwrap();
        let leads = async move || (status, [("location", "/inside")]);
        app = app.route(&format!("/{}", status.as_u16()), any(leads));
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let blobs = Blobs::new();
    for status in [301, 302, 303, 307, 308] {
        let url = signed(format!("{base}/{status}"));
        let found = read(&blobs, &url, 4, Digest::of(b"abcd")).await;
        assert!(matches!(found, Err(BlobError::Unreachable(_))), "{status}: {found:?}");
        let body = stream::iter([Ok(Bytes::from_static(b"abcd"))]);
        let sent = blobs.put(&url, 4, body).await;
        assert!(matches!(sent, Err(BlobError::Unreachable(_))), "{status}: {sent:?}");
    }
    assert_eq!(visits.load(Ordering::Relaxed), 0);
    // What they would have found there: the server is no reason for that.
    let found = read(&blobs, &signed(format!("{base}/inside")), 4, Digest::of(b"abcd")).await;
    assert_eq!(found.unwrap(), Found::Same);
}
