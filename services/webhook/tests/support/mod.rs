//! Receivers: real HTTP servers that keep what arrived.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub(crate) mod job;
pub(crate) mod rig;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use hotcell_schemas::UnixMs;
use hotcell_stage::clock;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: UnixMs,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

#[derive(Debug, Default)]
struct Desk {
    seen: Mutex<Vec<Seen>>,
    /// Statuses of the first answers; then 200. 0 never answers.
    script: Vec<u16>,
    /// Requests that wait for an answer now, and the most that ever did.
    open: AtomicUsize,
    open_most: AtomicUsize,
}

/// A request that waits; dropped with its connection, too.
struct Open(Arc<Desk>);

impl Open {
    fn new(desk: Arc<Desk>) -> Self {
        let open = desk.open.fetch_add(1, Ordering::SeqCst) + 1;
        desk.open_most.fetch_max(open, Ordering::SeqCst);
        Self(desk)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A receiver, ended on drop.
#[derive(Debug)]
pub(crate) struct Receiver {
    desk: Arc<Desk>,
    address: SocketAddr,
    _task: JoinSet<()>,
}

async fn receive(State(desk): State<Arc<Desk>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let _open = Open::new(Arc::clone(&desk));
    let number = {
        let mut seen = desk.seen.lock().unwrap();
        seen.push(Seen { at: clock::now(), headers, body: body.to_vec() });
        seen.len() - 1
    };
    match desk.script.get(number).copied().unwrap_or(200) {
        0 => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            StatusCode::OK
        }
        status => StatusCode::from_u16(status).unwrap(),
    }
}

/// Serves `app` on a free port until the set is dropped.
pub(crate) async fn serve(app: Router) -> (SocketAddr, JoinSet<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, tasks)
}

impl Receiver {
    /// A receiver that answers `script` first.
    pub(crate) async fn start(script: Vec<u16>) -> Self {
        let desk = Arc::new(Desk { script, ..Desk::default() });
        let app = Router::new().fallback(post(receive)).with_state(Arc::clone(&desk));
        let (address, task) = serve(app).await;
        Self { desk, address, _task: task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The most requests that waited for an answer at once.
    pub(crate) fn open_most(&self) -> usize {
        self.desk.open_most.load(Ordering::SeqCst)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.desk.seen.lock().unwrap().clone()
    }
}
