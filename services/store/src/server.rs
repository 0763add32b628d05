//! HTTP/1.1 around an S3 service: connections, the guard in front, the access log.
//!
//! Promises: one log line for each request, which names method, status, a hash of the path, bytes
//! and kind of authentication, and never a key, a query or a signature; at most
//! [`CONNECTIONS_MAX`] connections; after the shutdown token, requests in flight get
//! [`DRAIN_SECS_MAX`] seconds to end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hotcell_stage::tls::{self, Acceptor};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use s3s::service::S3Service;
use s3s::{HttpError, S3Error};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use crate::guard::{self, AuthKind, Policy, Refusal};

/// Open connections: each may hold one file and one 256 KiB buffer.
pub const CONNECTIONS_MAX: usize = 512;
/// Seconds that requests in flight get after the shutdown token; the process gets 20 in all.
pub const DRAIN_SECS_MAX: u64 = 15;
/// Seconds for the head of a request: a client that dribbles must not hold a connection.
const HEAD_SECS_MAX: u64 = 10;
/// Longest head of a request, in bytes: a presigned URL has about 1 KiB.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Wait after a failed accept (no file descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An S3 service behind the guard, with an access log.
#[derive(Debug, Clone)]
pub struct Guarded {
    s3: S3Service,
    policy: Arc<Policy>,
}

impl Guarded {
    /// Puts the guard in front of a service.
    #[must_use]
    pub fn new(s3: S3Service, policy: Policy) -> Self {
        Self { s3, policy: Arc::new(policy) }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<LoggedBody>, HttpError> {
        let start = Instant::now();
        let (parts, body) = request.into_parts();
        let mut line = Line::new(&parts, start);
        let response = match guard::inspect(&parts, &self.policy) {
            Ok(_) => {
                let request = Request::from_parts(parts, s3s::Body::from(body));
                // s3s writes whole requests, signatures included, into its debug spans.
                self.s3.call(request).with_subscriber(NoSubscriber::default()).await?
            }
            Err(refusal) => {
                line.refusal = Some(refusal);
                let error: S3Error = refusal.to_s3_error();
                error.to_http_response().map_err(|error| HttpError::new(Box::new(error)))?
            }
        };
        line.status = response.status();
        let (mut head, mut body) = response.into_parts();
        if head.status == StatusCode::NOT_MODIFIED {
            // RFC 9110 §15.4.5: no content. s3s renders an error document.
            head.headers.remove(header::CONTENT_TYPE);
            head.headers.remove(header::CONTENT_LENGTH);
            body = s3s::Body::empty();
        }
        Ok(Response::from_parts(head, LoggedBody { inner: body, line }))
    }
}

impl Service<Request<Incoming>> for Guarded {
    type Response = Response<LoggedBody>;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, HttpError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

/// What the access log says of one request.
#[derive(Debug)]
struct Line {
    method: http::Method,
    path_sha256: String,
    auth: AuthKind,
    bytes_in: u64,
    bytes_out: u64,
    status: StatusCode,
    refusal: Option<Refusal>,
    start: Instant,
}

impl Line {
    fn new(parts: &Parts, start: Instant) -> Self {
        let digest = hex::encode(Sha256::digest(parts.uri.path().as_bytes()));
        Self {
            method: parts.method.clone(),
            path_sha256: digest.chars().take(16).collect(),
            auth: guard::auth_kind(parts),
            bytes_in: content_length(&parts.headers),
            bytes_out: 0,
            status: StatusCode::INTERNAL_SERVER_ERROR,
            refusal: None,
            start,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let elapsed_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            method = %self.method,
            status = self.status.as_u16(),
            path_sha256 = %self.path_sha256,
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            auth = self.auth.as_str(),
            refusal = self.refusal.map(tracing::field::display),
            elapsed_ms,
            "request"
        );
    }
}

fn content_length(headers: &HeaderMap) -> u64 {
    let value = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    value.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A response body that counts what was sent and writes the log line at its end.
#[derive(Debug)]
pub struct LoggedBody {
    inner: s3s::Body,
    line: Line,
}

impl Body for LoggedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.line.bytes_out += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Serves connections until the token is cancelled, then drains.
pub async fn accept<S, B>(
    listener: TcpListener,
    tls: Option<Acceptor>,
    service: S,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&permits).acquire_owned();
        let accepted = async { (permit.await, listener.accept().await) };
        let (permit, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            pair = accepted => pair,
        };
        let (Ok(permit), Ok((stream, _))) = (permit, accepted) else {
            tracing::warn!("cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Without it, the last part of a response waits for the client's delayed ACK.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (tls, service, watcher) = (tls.clone(), service.clone(), graceful.watcher());
        connections.spawn(async move {
            let Ok(stream) = tls::open(tls.as_ref(), stream).await else {
                tracing::debug!("a TLS handshake failed");
                return;
            };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(HEAD_SECS_MAX))
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            let result = watcher.watch(connection).await;
            drop(permit);
            // A peer that goes away is not our failure, and its words are not for the log.
            tracing::debug!(clean = result.is_ok(), "connection closed");
        });
    }
    drop(listener);
    let drained = tokio::time::timeout(Duration::from_secs(DRAIN_SECS_MAX), graceful.shutdown());
    if drained.await.is_err() {
        tracing::warn!("requests in flight were cut off");
    }
    connections.shutdown().await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        tracing::error!("a request panicked; its connection was dropped");
    }
}
