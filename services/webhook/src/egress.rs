//! The egress guard: the only code that opens a socket to an address that a tenant named.
//!
//! Promises: https to a globally routable address, checked at the very lookup whose result is
//! connected to, so a name cannot point elsewhere in between. Refuses: a name of which any address
//! is not global, user names in URLs, redirects, proxies, and answers longer than 8 KiB.
//!
//! With `allow_loopback` the loopback addresses, and nothing else, are reachable too.

use crate::address::is_global;
use hotcell_schemas::limits::ENDPOINT_URL_BYTES_MAX;
use hotcell_stage::blob::install_tls;
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect, retry,
};
use std::{
    error::Error as StdError,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use url::{Host, Url};

/// Time to connect, lookup and TLS handshake included, in seconds.
const CONNECT_SECS: u64 = 5;
/// Time for a whole attempt, in seconds. Receivers must answer first and work later.
const TOTAL_SECS: u64 = 15;
/// Bytes of an answer that are read, so that the connection can be used again; then it is closed.
const ANSWER_BYTES_MAX: usize = 8192;
/// Time for those bytes, once the status is known, in seconds.
const ANSWER_SECS: u64 = 2;
/// Idle connections kept for one host.
const IDLE_MAX: usize = 2;
/// Time that an idle connection is kept, in seconds.
const IDLE_SECS: u64 = 30;
/// Addresses that one name may have; an honest one has fewer than ten.
const ADDRESSES_MAX: usize = 64;
/// Ports of services that are not the web, among those that are allowed.
const PORTS_REFUSED: [u16; 10] = [1433, 2049, 3306, 3389, 5432, 5900, 6379, 9200, 11211, 27017];

/// Which addresses may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Loopback addresses too, over plain HTTP as well.
    pub allow_loopback: bool,
}

impl Policy {
    /// Whether a socket may be opened to `address`.
    #[must_use]
    pub fn permits(self, address: IpAddr) -> bool {
        is_global(address) || self.allow_loopback && address.is_loopback()
    }

    fn is_own(self, host: &Host<&str>) -> bool {
        let named = match host {
            Host::Domain(name) => is_localhost(name),
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
        };
        self.allow_loopback && named
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// Why a URL is no endpoint. Display is the rule, as the tenant sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Over [`ENDPOINT_URL_BYTES_MAX`].
    #[error("must be at most {ENDPOINT_URL_BYTES_MAX} bytes")]
    TooLong,
    /// Not an absolute URL with a host.
    #[error("must be an absolute URL with a host")]
    Form,
    /// Another scheme than https.
    #[error("must be an https URL")]
    Scheme,
    /// User name, password or fragment.
    #[error("must hold no user, no password and no fragment")]
    Parts,
    /// The port is not 443 or 1024 and above, or is known as that of another service.
    #[error("must use port 443, or one from 1024 on that no other service is known by")]
    Port,
    /// The host is an address, or a name for one, that is not globally routable.
    #[error("must not name a private, local or reserved address")]
    Address,
}

/// A URL that may be an endpoint. What its name resolves to is checked at each connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Url);

impl Target {
    /// Checks a URL (WHATWG URL, so `0x7f.1` and `2130706433` are seen as 127.0.0.1).
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn parse(text: &str, policy: Policy) -> Result<Self, UrlError> {
        if text.len() > ENDPOINT_URL_BYTES_MAX {
            return Err(UrlError::TooLong);
        }
        let url = Url::parse(text).map_err(|_| UrlError::Form)?;
        let host = url.host().ok_or(UrlError::Form)?;
        let own = policy.is_own(&host);
        if url.scheme() != "https" && !(own && url.scheme() == "http") {
            return Err(UrlError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(UrlError::Parts);
        }
        let permitted = match host {
            Host::Domain(name) => own || !is_localhost(name),
            Host::Ipv4(address) => policy.permits(address.into()),
            Host::Ipv6(address) => policy.permits(address.into()),
        };
        if !permitted {
            return Err(UrlError::Address);
        }
        let port = url.port_or_known_default().unwrap_or(0);
        let allowed = own || port == 443 || port >= 1024 && !PORTS_REFUSED.contains(&port);
        if port == 0 || !allowed {
            return Err(UrlError::Port);
        }
        Ok(Self(url))
    }

    /// Its host, for the audit log.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }
}

/// The path may hold a token of the tenant's, so only the host is shown.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.host())
    }
}

/// Why there is no status. Holds no URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The name has an address that may not be reached.
    #[error("the endpoint's name has an address that may not be reached")]
    Address,
    /// No status in time.
    #[error("the endpoint did not answer in time")]
    Timeout,
    /// No connection, or it broke.
    #[error("the endpoint could not be connected to")]
    Connect,
    /// The certificate or the handshake.
    #[error("the endpoint's TLS was refused")]
    Tls,
}

impl SendError {
    /// The class in a delivery's record.
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::Address => "refused_address",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Tls => "tls",
        }
    }
}

/// An address that may not be reached was found in a lookup.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the name has an address that may not be reached")]
struct Refused;

/// Looks names up and refuses a name as soon as one of its addresses may not be reached. The
/// client connects to the addresses returned, and looks nothing up itself.
#[derive(Debug, Clone, Copy)]
struct GuardedLookup(Policy);

impl GuardedLookup {
    fn admit(self, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let all = found.iter().all(|address| self.0.permits(address.ip()));
        if all && found.len() <= ADDRESSES_MAX { Ok(found) } else { Err(Refused) }
    }
}

impl Resolve for GuardedLookup {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = *self;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses = guard.admit(found.take(ADDRESSES_MAX + 1).collect())?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The guard.
#[derive(Debug, Clone)]
pub struct Egress(Client);

impl Egress {
    /// A guard under `policy`.
    ///
    /// # Panics
    /// When the TLS backend cannot be set up: it is compiled in.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        install_tls();
        let client = Client::builder()
            .user_agent("Hotcell-Webhooks/1")
            .dns_resolver(GuardedLookup(policy))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .retry(retry::never())
            .https_only(!policy.allow_loopback)
            .connect_timeout(Duration::from_secs(CONNECT_SECS))
            .timeout(Duration::from_secs(TOTAL_SECS))
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(Duration::from_secs(IDLE_SECS))
            .build();
        Self(client.expect("the TLS backend is compiled in"))
    }

    /// Posts `body` as JSON and returns the status.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn post(
        &self,
        target: &Target,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> Result<u16, SendError> {
        let mut request = self.0.post(target.0.clone());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let sent = request.header("content-type", "application/json").body(body).send().await;
        let answer = sent.map_err(|error| classify(&error))?;
        let status = answer.status().as_u16();
        let drained = tokio::time::timeout(Duration::from_secs(ANSWER_SECS), drain(answer)).await;
        if drained.is_err() {
            tracing::debug!("answer not read to its end");
        }
        Ok(status)
    }
}

/// Reads a short answer to its end; a long one is dropped, and its connection with it.
async fn drain(mut answer: reqwest::Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = answer.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            return;
        }
    }
}

fn classify(error: &reqwest::Error) -> SendError {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(inner) = cause {
        if inner.is::<Refused>() {
            return SendError::Address;
        }
        if inner.is::<rustls::Error>() {
            return SendError::Tls;
        }
        cause = below(inner);
    }
    if error.is_timeout() { SendError::Timeout } else { SendError::Connect }
}

/// The error's cause. An I/O error does not name what it carries as its source, but its source.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    carried.map(|inner| inner as &'a (dyn StdError + 'static)).or_else(|| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: Policy = Policy { allow_loopback: false };
    const OWN: Policy = Policy { allow_loopback: true };

    fn check(text: &str, policy: Policy, expect: Option<UrlError>) {
        assert_eq!(Target::parse(text, policy).err(), expect, "{text} {policy:?}");
    }

    #[test]
    fn only_https_to_public_hosts_is_an_endpoint() {
        for good in [
            "https://example.com/hook?a=b",
            "https://example.com:8443/",
            "https://1.1.1.1/",
            "https://[2606:4700::1111]/",
        ] {
            check(good, PUBLIC, None);
            check(good, OWN, None);
        }
        for (bad, expect) in [
            ("", UrlError::Form),
            ("/hook", UrlError::Form),
            ("https://", UrlError::Form),
            ("http://example.com/", UrlError::Scheme),
            ("ftp://example.com/", UrlError::Scheme),
            ("gopher://example.com/", UrlError::Scheme),
            ("file://example.com/etc/passwd", UrlError::Scheme),
            ("https://user@example.com/", UrlError::Parts),
            ("https://:pw@example.com/", UrlError::Parts),
            ("https://example.com@169.254.169.254/", UrlError::Parts),
            ("https://example.com/#x", UrlError::Parts),
            ("https://example.com:22/", UrlError::Port),
            ("https://example.com:80/", UrlError::Port),
            ("https://example.com:0/", UrlError::Port),
            ("https://example.com:6379/", UrlError::Port),
            ("https://169.254.169.254/latest/meta-data/", UrlError::Address),
            ("https://10.0.0.1/", UrlError::Address),
            ("https://[::ffff:10.0.0.1]/", UrlError::Address),
            ("https://[fd00:ec2::254]/", UrlError::Address),
            ("https://0/", UrlError::Address),
        ] {
            check(bad, PUBLIC, Some(expect));
            check(bad, OWN, Some(expect));
        }
        let long = format!("https://example.com/{}", "x".repeat(ENDPOINT_URL_BYTES_MAX));
        check(&long, PUBLIC, Some(UrlError::TooLong));
    }

    #[test]
    fn loopback_in_any_spelling_needs_the_switch() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
        ] {
            check(&format!("https://{host}:9999/"), PUBLIC, Some(UrlError::Address));
            check(&format!("http://{host}:9999/"), PUBLIC, Some(UrlError::Scheme));
            check(&format!("https://{host}:9999/"), OWN, None);
            check(&format!("http://{host}/"), OWN, None);
        }
        // The switch opens loopback and nothing else.
        check("http://10.0.0.1/", OWN, Some(UrlError::Scheme));
        check("https://[::ffff:127.0.0.1]/", OWN, Some(UrlError::Address));
    }

    #[test]
    fn one_bad_address_refuses_the_name() {
        let admit = |policy, addresses: &[&str]| {
            let found = addresses.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0));
            GuardedLookup(policy).admit(found.collect()).is_ok()
        };
        assert!(admit(PUBLIC, &["1.1.1.1", "2606:4700::1111"]));
        assert!(!admit(PUBLIC, &["1.1.1.1", "10.0.0.1"]));
        assert!(!admit(PUBLIC, &["127.0.0.1"]));
        assert!(admit(OWN, &["127.0.0.1", "::1"]));
        assert!(!admit(OWN, &["127.0.0.1", "169.254.169.254"]));
        assert!(!admit(PUBLIC, &["1.1.1.1"; ADDRESSES_MAX + 1]));
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_loopback_is_refused_at_the_lookup() {
        let name = || "localhost".parse::<Name>().unwrap();
        assert!(GuardedLookup(PUBLIC).resolve(name()).await.err().unwrap().is::<Refused>());
        assert!(GuardedLookup(OWN).resolve(name()).await.is_ok());
    }

    #[test]
    fn a_target_prints_its_host_only() {
        let target = Target::parse("https://example.com/token-123?key=4", PUBLIC).unwrap();
        assert_eq!(format!("{target:?}"), "Target(example.com)");
    }
}
