//! Moving bytes by presigned URL. A URL is used here and shown nowhere: no error, log or trace of
//! this module holds one, nor does it follow redirects or read proxies from the environment.

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use hotcell_schemas::work::SignedUrl;
use reqwest::{Client, Method, StatusCode, redirect};
use std::{
    pin::pin,
    sync::{Arc, Once},
    time::Duration,
};
use tokio::{sync::Notify, time::sleep};

/// A connection that lay idle for this long is not used again. Servers close idle ones, object
/// stores within seconds and ours within ten, and a request that is sent meanwhile is lost: RFC 9112
/// §9.5 lets a client repeat only some by itself.
pub const IDLE: Duration = Duration::from_secs(3);

/// Time to connect, in seconds.
const CONNECT_SECS: u64 = 5;

/// Silence after which a read is given up, and time for the answer to a write, in seconds.
const READ_SECS: u64 = 30;

/// A write may take its size at this rate on top, in bytes per second: 1 MiB/s takes the largest
/// upload to the store within the life of its URL.
const WRITE_BYTES_PER_SEC_MIN: u64 = 1 << 20;

/// Why bytes did not move.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// 404: there is no such object.
    #[error("the object is not in the store")]
    Missing,
    /// 403 or 401, which is in it: the URL has expired or does not allow this.
    #[error("the store refuses the request with {0}")]
    Denied(u16),
    /// 412 or 409: the object exists already.
    #[error("the object exists already")]
    Exists,
    /// Any other 4xx: what was sent is not what was signed.
    #[error("the store answers status {0}")]
    Refused(u16),
    /// 5xx, or the connection failed: try again.
    #[error("the store cannot be reached or has failed")]
    Unreachable(#[source] Option<reqwest::Error>),
}

impl BlobError {
    /// Whether trying again can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

/// The HTTP client of the blob store.
#[derive(Debug, Clone)]
pub struct Blobs {
    read: Client,
    /// Without a read timeout: `reqwest` counts it from the first byte sent to the first received,
    /// so any write longer than it would fail.
    write: Client,
}

/// An object on its way in.
#[derive(Debug)]
pub struct Fetched {
    /// Its size as the store states it, in bytes.
    pub size: Option<u64>,
    /// Its ETag as the store states it.
    pub etag: String,
    response: reqwest::Response,
}

impl Fetched {
    /// The bytes.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, BlobError>> {
        self.response.bytes_stream().map_err(unreachable)
    }
}

fn unreachable(error: reqwest::Error) -> BlobError {
    BlobError::Unreachable(Some(error.without_url()))
}

/// Installs the process's TLS backend, once.
pub fn install_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a TLS backend is installed already");
        }
    });
}

impl Blobs {
    /// A client.
    ///
    /// # Panics
    /// When the TLS backend cannot be set up: it is compiled in.
    #[must_use]
    pub fn new() -> Self {
        install_tls();
        let builder = || {
            Client::builder()
                .connect_timeout(Duration::from_secs(CONNECT_SECS))
                .pool_idle_timeout(IDLE)
                .redirect(redirect::Policy::none())
                .no_proxy()
        };
        let read = builder().read_timeout(Duration::from_secs(READ_SECS)).build();
        let write = builder().build();
        Self {
            read: read.expect("the TLS backend is compiled in"),
            write: write.expect("the TLS backend is compiled in"),
        }
    }

    /// Begins to read an object.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn get(&self, url: &SignedUrl) -> Result<Fetched, BlobError> {
        let response = self.send(Method::GET, url, None).await?;
        let etag = response.headers().get("etag").and_then(|v| v.to_str().ok());
        let etag = etag.unwrap_or_default().to_owned();
        Ok(Fetched { size: response.content_length(), etag, response })
    }

    /// Writes an object: exactly `size` bytes of `body`.
    ///
    /// # Errors
    /// [`BlobError`]; `Exists` when the URL is create-only and was used before.
    pub async fn put<S>(&self, url: &SignedUrl, size: u64, body: S) -> Result<(), BlobError>
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        let body = reqwest::Body::wrap_stream(body);
        self.send(Method::PUT, url, Some((size, body))).await.map(|_| ())
    }

    /// As [`Self::put`], to a server that may be silent: it is given up as soon as for `silence` it
    /// neither took a byte nor answered, its connection and its answer included.
    ///
    /// # Errors
    /// As [`Self::put`]; `Unreachable` for one that is silent.
    pub async fn put_unless_silent<S>(
        &self,
        url: &SignedUrl,
        size: u64,
        body: S,
        silence: Duration,
    ) -> Result<(), BlobError>
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        let taken = Arc::new(Notify::new());
        let told = Arc::clone(&taken);
        let body = body.inspect(move |_| told.notify_one());
        unless_silent(self.put(url, size, body), &taken, silence).await
    }

    async fn send(
        &self,
        method: Method,
        url: &SignedUrl,
        body: Option<(u64, reqwest::Body)>,
    ) -> Result<reqwest::Response, BlobError> {
        let client = if body.is_some() { &self.write } else { &self.read };
        let mut request = client.request(method, url.url.expose());
        for (name, value) in &url.headers {
            if !name.eq_ignore_ascii_case("content-length") {
                request = request.header(name, value);
            }
        }
        if let Some((size, body)) = body {
            let secs = READ_SECS.saturating_add(size / WRITE_BYTES_PER_SEC_MIN);
            let timeout = Duration::from_secs(secs);
            request = request.header("content-length", size).timeout(timeout).body(body);
        }
        let response = request.send().await.map_err(unreachable)?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => Err(BlobError::Missing),
            status @ (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => {
                Err(BlobError::Denied(status.as_u16()))
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => Err(BlobError::Exists),
            status if status.is_client_error() => Err(BlobError::Refused(status.as_u16())),
            _ => Err(BlobError::Unreachable(None)),
        }
    }
}

/// What `sent` comes to, unless for `silence` there was neither its end nor a sign of life.
async fn unless_silent(
    sent: impl Future<Output = Result<(), BlobError>>,
    alive: &Notify,
    silence: Duration,
) -> Result<(), BlobError> {
    let mut sent = pin!(sent);
    loop {
        tokio::select! {
            biased;
            ended = &mut sent => return ended,
            () = alive.notified() => {}
            () = sleep(silence) => return Err(BlobError::Unreachable(None)),
        }
    }
}

impl Default for Blobs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use hotcell_schemas::{UnixMs, work::SecretUrl};
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    const SILENCE: Duration = Duration::from_secs(15);

    /// A server that takes so many bytes and says nothing.
    async fn put_to_one_that_reads(bytes: usize, size: usize) -> Result<(), BlobError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let url = SignedUrl {
            url: SecretUrl::new(url),
            headers: Vec::new(),
            expires_at: UnixMs(u64::MAX),
        };
        let chunks = (0..size.div_ceil(65_536)).map(|_| Ok(Bytes::from(vec![7; 65_536])));
        let (blobs, body) = (Blobs::new(), stream::iter(chunks.collect::<Vec<_>>()));
        let size = u64::try_from(size.div_ceil(65_536) * 65_536).unwrap();
        let silence = Duration::from_millis(300);
        let sent = blobs.put_unless_silent(&url, size, body, silence);
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (mut left, mut buffer) = (bytes, vec![0; 65_536]);
            while left > 0 {
                left = left.saturating_sub(socket.read(&mut buffer).await.unwrap());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            sent = sent => sent,
            () = server => unreachable!("it waits for ever"),
        }
    }

    // Whatever its size: one that takes nothing, a part, or all of it, and does not answer.
    #[tokio::test]
    async fn a_server_that_is_silent_is_given_up() {
        for (bytes, size) in [(0, 1), (0, 64 << 20), (1 << 20, 64 << 20), (65_536, 65_536)] {
            let sent = put_to_one_that_reads(bytes, size).await;
            assert!(matches!(sent, Err(BlobError::Unreachable(None))), "{bytes}: {sent:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_but_alive_is_waited_for() {
        let alive = Notify::new();
        let slow = async {
            for _ in 0..10 {
                sleep(SILENCE - Duration::from_secs(1)).await;
                alive.notify_one();
            }
            sleep(SILENCE - Duration::from_secs(1)).await;
            Ok(())
        };
        unless_silent(slow, &alive, SILENCE).await.unwrap();
        let begun = tokio::time::Instant::now();
        let silent = unless_silent(std::future::pending(), &Notify::new(), SILENCE).await;
        assert!(matches!(silent, Err(BlobError::Unreachable(None))), "{silent:?}");
        assert_eq!(begun.elapsed(), SILENCE);
    }
}
