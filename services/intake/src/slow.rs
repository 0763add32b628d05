//! Bounds on what one client may hold: connections of one address, and the time that an answer waits
//! for a client that does not read it.
//!
//! Promises: a write that makes no progress for its deadline ends the connection; an address over
//! its number of connections is closed at once, and keeps no other from being served. Proxies that
//! the operator named are not counted: they speak for many.

use hotcell_schemas::network::Network;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// The connections of each address.
#[derive(Debug, Clone)]
pub struct Addresses {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
    exempt: Arc<[Network]>,
}

/// One connection of an address; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: Option<IpAddr>,
}

/// The address that counts: of IPv6 the network that one customer has (RFC 6177).
#[must_use]
pub fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Addresses {
    /// At most `max` connections of one address that is in none of `exempt`. What is kept is bounded
    /// by the listener's own bound on connections.
    #[must_use]
    pub fn new(max: usize, exempt: &[Network]) -> Self {
        Self { open: Arc::default(), max, exempt: exempt.into() }
    }

    /// A seat for a connection from `address`; `None` when it has as many as it may.
    #[must_use]
    pub fn seat(&self, address: IpAddr) -> Option<Seat> {
        if self.exempt.iter().any(|network| network.contains(address)) {
            return Some(Seat { open: Arc::clone(&self.open), address: None });
        }
        let address = counted(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.entry(address).or_default();
        if *own >= self.max {
            return None;
        }
        *own += 1;
        Some(Seat { open: Arc::clone(&self.open), address: Some(address) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&address) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                open.remove(&address);
            }
        }
    }
}

/// A stream whose writes must make progress within a time.
#[derive(Debug)]
pub struct Paced<S> {
    inner: S,
    within: Duration,
    /// Runs while a write waits.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    /// `inner`, cut when a write waits for longer than `within`.
    pub fn new(inner: S, within: Duration) -> Self {
        Self { inner, within, waits: None }
    }

    /// Starts or ends the clock by what the write said; an error once it has run out.
    fn pace<T>(&mut self, wrote: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waits = None;
            return wrote;
        }
        let within = self.within;
        let clock = self.waits.get_or_insert_with(|| Box::pin(sleep(within)));
        ready!(clock.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.pace(wrote, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.pace(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.pace(closed, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.pace(wrote, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_seats_and_a_named_proxy_any_number() {
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        let addresses = Addresses::new(2, &proxies);
        let seat = |text: &str| addresses.seat(text.parse().unwrap());
        let held = [seat("192.0.2.1").unwrap(), seat("::ffff:192.0.2.1").unwrap()];
        assert!(seat("192.0.2.1").is_none());
        assert!(seat("192.0.2.2").is_some());
        let _both = [seat("2001:db8::1").unwrap(), seat("2001:db8::2").unwrap()];
        assert!(seat("2001:db8::3").is_none(), "one /64");
        let many: Vec<_> = (0..10).map(|_| seat("10.1.2.3")).collect();
        assert!(many.iter().all(Option::is_some));
        drop(held);
        assert!(seat("192.0.2.1").is_some());
        assert_eq!(addresses.open.lock().unwrap().len(), 1, "only the /64 is left");
    }
}
