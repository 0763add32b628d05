//! A tenant's webhook endpoint: a real HTTP server that keeps what arrives.

use anyhow::{Result, ensure};
use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use serde_json::Value;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::Mutex, task::JoinSet};

/// One delivery as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, exactly.
    pub body: Bytes,
}

impl Received {
    /// A header's text, empty when absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The job that it tells of.
    #[must_use]
    pub fn job(&self) -> String {
        self.json().pointer("/data/id").and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    status: AtomicU16,
}

/// The endpoint.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    /// Its URL.
    pub url: String,
    _server: JoinSet<()>,
}

async fn keep(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> axum::http::StatusCode {
    shared.received.lock().await.push(Received { headers, body });
    let status = shared.status.load(Ordering::SeqCst);
    axum::http::StatusCode::from_u16(status).unwrap_or(axum::http::StatusCode::OK)
}

impl Receiver {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let shared = Arc::new(Shared { status: AtomicU16::new(200), ..Shared::default() });
        let app = Router::new().route("/hook", post(keep)).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/hook", listener.local_addr()?);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let _ended = axum::serve(listener, app).await;
        });
        Ok(Self { shared, url, _server: server })
    }

    /// What to answer from now on.
    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    /// All that arrived so far.
    pub async fn received(&self) -> Vec<Received> {
        self.shared.received.lock().await.clone()
    }

    /// Waits until `enough` of what arrived.
    ///
    /// # Errors
    /// When it is not within `patience`.
    pub async fn until(
        &self,
        patience: Duration,
        enough: impl Fn(&[Received]) -> bool,
    ) -> Result<Vec<Received>> {
        let until = Instant::now() + patience;
        loop {
            let received = self.received().await;
            if enough(&received) {
                return Ok(received);
            }
            ensure!(Instant::now() < until, "{} deliveries came, not enough", received.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
