//! The listener. Promises: at most `connections_max` connections; a client that sends its headers
//! too slowly, or does not read its answer, is cut; at shutdown no connection is accepted and those open finish their request.

use crate::{
    origin::Peer,
    slow::{Addresses, Paced},
};
use axum::Router;
use hotcell_stage::{
    ServiceError, Shutdown,
    tls::{self, Acceptor, Stream},
};
use hyper::{Request, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tracing::{debug, warn};

/// The headers of a request must arrive within this long, in seconds; between two requests of one
/// connection the same holds, so an idle connection is closed too.
pub const HEADERS_SECS: u64 = 30;

/// An answer that its client does not read is given up after this long without progress, in
/// seconds. Answers are small, so it is the client's buffer and then the kernel's that are full.
pub const WRITE_SECS: u64 = 20;

/// Headers of one request, in number. Browsers and proxies send some forty.
const HEADERS_MAX: usize = 64;

/// Bytes of one request's head that are buffered at most.
const HEAD_BYTES_MAX: usize = 16_384;

/// Pause after the system refused a connection (too many descriptors), in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;

/// What one listener may hold.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Connections open at once.
    pub connections_max: usize,
    /// Time for the headers of a request.
    pub headers: Duration,
    /// Time that a write may wait without progress.
    pub write: Duration,
    /// Connections of each address.
    pub addresses: Addresses,
}

/// Takes the address and says which one it got.
///
/// # Errors
/// [`ServiceError::Unreachable`] when the address is taken or the file cannot be written.
pub async fn bind(listen: SocketAddr, address_file: &Path) -> Result<TcpListener, ServiceError> {
    let taken = |error: std::io::Error| {
        let text = format!("cannot listen on {listen} ({error}): free it, or change `listen`");
        ServiceError::Unreachable(text)
    };
    let listener = TcpListener::bind(listen).await.map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    if !address_file.as_os_str().is_empty() {
        write_address(address_file, address).map_err(|error| {
            let path = address_file.display();
            ServiceError::Refused(format!("cannot write `address_file` {path}: {error}"))
        })?;
    }
    tracing::info!(%address, "listening");
    Ok(listener)
}

/// Whole or not at all: a reader that polls for the file never sees half an address.
fn write_address(path: &Path, address: SocketAddr) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, address.to_string())?;
    std::fs::rename(&part, path)
}

/// Serves `router` until shutdown.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Acceptor>,
    router: Router,
    bounds: Bounds,
    shutdown: &Shutdown,
) {
    let slots = Arc::new(Semaphore::new(bounds.connections_max));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = shutdown.begun() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((socket, peer)) => {
                let Some(seat) = bounds.addresses.seat(peer.ip()) else {
                    debug!("an address has as many connections as it may");
                    continue;
                };
                let (headers, write) = (bounds.headers, bounds.write);
                let service =
                    WithPeer { peer: Peer(peer), router: TowerToHyperService::new(router.clone()) };
                let (tls, watcher) = (tls.clone(), graceful.watcher());
                connections.spawn(async move {
                    // Answers are small and whole: waiting for more bytes only adds delay.
                    if let Err(error) = socket.set_nodelay(true) {
                        debug!(%error, "no TCP_NODELAY");
                    }
                    match tls::open(tls.as_ref(), socket).await {
                        Ok(stream) => {
                            let stream = Paced::new(stream, write);
                            let connection = connection(stream, service, headers);
                            if let Err(error) = watcher.watch(connection).await {
                                debug!(%error, "connection ended early");
                            }
                        }
                        Err(error) => debug!(%error, "a TLS handshake failed"),
                    }
                    drop((slot, seat));
                });
            }
            Err(error) => {
                warn!(%error, "connection not accepted");
                shutdown.sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
    while connections.join_next().await.is_some() {}
}

/// The router, told whence each request comes.
struct WithPeer {
    peer: Peer,
    router: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for WithPeer {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

fn connection(
    socket: Paced<Stream>,
    service: WithPeer,
    headers: Duration,
) -> http1::Connection<TokioIo<Paced<Stream>>, WithPeer> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::timeout,
    };

    const DEADLINE: Duration = Duration::from_secs(60);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    fn bounds(connections_max: usize, headers: Duration) -> Bounds {
        let addresses = Addresses::new(connections_max, &[]);
        Bounds { connections_max, headers, write: DEADLINE, addresses }
    }

    async fn start(bounds: Bounds) -> (SocketAddr, Shutdown, JoinSet<()>) {
        let listener = bind("127.0.0.1:0".parse().unwrap(), Path::new("")).await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
        let router = Router::new().route("/", get(async || "here"));
        let (mut task, begun) = (JoinSet::new(), shutdown.clone());
        task.spawn(async move { serve(listener, None, router, bounds, &begun).await });
        (address, shutdown, task)
    }

    async fn all(socket: &mut TcpStream) -> String {
        let mut text = Vec::new();
        timeout(DEADLINE, socket.read_to_end(&mut text)).await.unwrap().unwrap();
        String::from_utf8(text).unwrap()
    }

    async fn some(socket: &mut TcpStream) -> String {
        let mut text = [0; 1024];
        let length = timeout(DEADLINE, socket.read(&mut text)).await.unwrap().unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_dawdles_over_its_headers_is_cut() {
        let bounds = bounds(8, Duration::from_millis(100));
        let (address, _shutdown, _task) = start(bounds).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").await.unwrap();
        assert!(!all(&mut slow).await.contains("here"));
        // A machine that stands still dawdles as well; not each time.
        for last in [false, false, true] {
            let mut idle = TcpStream::connect(address).await.unwrap();
            idle.write_all(REQUEST).await.ok();
            let mut text = Vec::new();
            let ended = timeout(DEADLINE, idle.read_to_end(&mut text)).await;
            assert!(ended.is_ok(), "then closed, being idle");
            if String::from_utf8_lossy(&text).contains("here") {
                return;
            }
            assert!(!last, "a client that does not dawdle is not served");
        }
    }

    #[tokio::test]
    async fn a_connection_beyond_the_cap_waits_for_one_to_close() {
        let bounds = bounds(1, DEADLINE);
        let (address, _shutdown, _task) = start(bounds).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        assert!(some(&mut first).await.contains("here"));
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        let early = timeout(Duration::from_millis(200), second.read_u8()).await;
        assert!(early.is_err(), "served beyond the cap");
        drop(first);
        assert!(some(&mut second).await.contains("here"));
    }

    #[tokio::test]
    async fn brk_13_an_address_over_its_connections_is_closed_and_another_served() {
        let exempt = ["127.0.0.3/32".parse().unwrap()];
        let bounds = Bounds { addresses: Addresses::new(2, &exempt), ..bounds(8, DEADLINE) };
        let (address, _shutdown, _task) = start(bounds).await;
        let from = async |host: &str| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(format!("{host}:0").parse().unwrap()).unwrap();
            let mut socket = socket.connect(address).await.unwrap();
            socket.write_all(REQUEST).await.ok();
            let mut text = [0; 1024];
            let read = timeout(DEADLINE, socket.read(&mut text)).await.unwrap();
            let served = read.is_ok_and(|length| length > 0);
            (socket, served)
        };
        let held = [from("127.0.0.1").await, from("127.0.0.1").await];
        assert!(held.iter().all(|(_, served)| *served));
        assert!(!from("127.0.0.1").await.1, "a third connection is served");
        assert!(from("127.0.0.2").await.1);
        let proxied = [from("127.0.0.3").await, from("127.0.0.3").await, from("127.0.0.3").await];
        assert!(proxied.iter().all(|(_, served)| *served));
        drop(held);
        let end = std::time::Instant::now() + DEADLINE;
        while !from("127.0.0.1").await.1 {
            assert!(std::time::Instant::now() < end, "its seats are not given back");
        }
    }

    /// A client that asks for much and reads nothing: its connection ends, and with it its slot.
    #[tokio::test]
    async fn brk_13_a_client_that_does_not_read_is_cut() {
        for (write, cut) in [(Duration::from_millis(200), true), (DEADLINE, false)] {
            let listener = bind("127.0.0.1:0".parse().unwrap(), Path::new("")).await.unwrap();
            let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
            let much = "x".repeat(16 << 20);
            let router = Router::new().route("/", get(async move || much.clone()));
            let bounds = Bounds { write, ..bounds(1, DEADLINE) };
            let mut task = JoinSet::new();
            task.spawn(async move { serve(listener, None, router, bounds, &shutdown).await });
            let mut deaf = TcpStream::connect(address).await.unwrap();
            deaf.write_all(REQUEST).await.unwrap();
            // Its answer has begun, so the only slot is its own.
            deaf.readable().await.unwrap();
            let mut next = TcpStream::connect(address).await.unwrap();
            next.write_all(REQUEST).await.unwrap();
            let wait = if cut { DEADLINE } else { Duration::from_millis(600) };
            let served = timeout(wait, next.read_u8()).await.is_ok();
            assert_eq!(served, cut, "with {write:?} to write");
        }
    }

    #[tokio::test]
    async fn headers_without_end_are_refused() {
        let bounds = bounds(8, DEADLINE);
        let (address, _shutdown, _task) = start(bounds).await;
        for head in ["x: y\r\n".repeat(HEADERS_MAX + 1), "z".repeat(2 * HEAD_BYTES_MAX)] {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            // The server may close while we still write; its answer is what counts.
            socket.write_all(head.as_bytes()).await.ok();
            socket.write_all(b"\r\n").await.ok();
            assert!(!some(&mut socket).await.contains("here"));
        }
    }

    #[tokio::test]
    async fn shutdown_ends_idle_connections_and_the_listener() {
        let bounds = bounds(8, DEADLINE);
        let (address, shutdown, mut task) = start(bounds).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(REQUEST).await.unwrap();
        assert!(some(&mut idle).await.contains("here"));
        shutdown.begin();
        timeout(DEADLINE, task.join_next()).await.unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
