//! An attacker's tools: SigV4 over anything, and HTTP over a bare socket, where no client library
//! tidies the path or the headers.

use std::net::SocketAddr;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::peers::{Peer, now_unix_secs};

fn hmac(key: &[u8], data: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn encode(text: &str, slash: bool) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (slash && b == b'/');
    text.bytes()
        .map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// `20261121T221500Z` of now, by the presigner, whose own dates are tested elsewhere.
pub(crate) fn stamp(peer: &Peer) -> String {
    let url = peer.presign_at(
        &hotcell_signer::presign::PresignRequest::get(
            "any-bucket",
            "any",
            hotcell_signer::presign::Ttl::MAX,
        ),
        now_unix_secs(),
    );
    let (_, rest) = url.url.expose().split_once("X-Amz-Date=").unwrap();
    rest.chars().take(16).collect()
}

/// A request to be signed with the peer's key without any of the presigner's checks.
pub(crate) struct Forge<'a> {
    pub(crate) method: &'a str,
    /// Decoded path.
    pub(crate) path: &'a str,
    pub(crate) expires: &'a str,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    /// Headers that are signed, besides host.
    pub(crate) signed: &'a [(&'a str, &'a str)],
    pub(crate) query: &'a [(&'a str, &'a str)],
}

impl<'a> Forge<'a> {
    pub(crate) fn new(method: &'a str, path: &'a str) -> Self {
        let (expires, region, service) = ("600", crate::peers::REGION, "s3");
        Self { method, path, expires, region, service, signed: &[], query: &[] }
    }

    /// Path and query, signed.
    pub(crate) fn target(&self, peer: &Peer) -> String {
        let stamp = stamp(peer);
        let date = &stamp[..8];
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let host = peer.address().to_string();
        let mut headers: Vec<(&str, &str)> = vec![("host", &host)];
        headers.extend(self.signed);
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let credential = format!("{}/{scope}", peer.id);
        let mut query = vec![
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", &credential),
            ("X-Amz-Date", &stamp),
            ("X-Amz-Expires", self.expires),
            ("X-Amz-SignedHeaders", &names),
        ];
        query.extend(self.query);
        query.sort_unstable();
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false)))
            .collect();
        let query = query.join("&");
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let path = encode(self.path, true);
        let canonical =
            format!("{}\n{path}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD", self.method);
        let digest = hex::encode(Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}");
        let mut key = format!("AWS4{}", peer.secret).into_bytes();
        for part in [date, self.region, self.service, "aws4_request", &to_sign] {
            key = hmac(&key, part);
        }
        format!("{path}?{query}&X-Amz-Signature={}", hex::encode(key))
    }
}

/// A connection on which every byte is chosen by the test.
pub(crate) struct Raw {
    stream: TcpStream,
    host: SocketAddr,
}

impl Raw {
    pub(crate) async fn open(peer: &Peer) -> Self {
        let host = peer.address();
        Self { stream: TcpStream::connect(host).await.unwrap(), host }
    }

    /// Request line and headers; `host` and `connection: close` are added.
    pub(crate) async fn head(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        let mut head =
            format!("{method} {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.host);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).await.unwrap();
    }

    pub(crate) async fn body(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Waits for `100 Continue`: the server has looked at the head and asks for the body.
    pub(crate) async fn wait_continue(&mut self) {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(self.stream.read_u8().await.unwrap());
        }
        assert!(seen.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&seen));
    }

    /// Status and everything after the status line; status 0 when the server only hung up.
    pub(crate) async fn answer(mut self) -> (u16, String) {
        let mut bytes = Vec::new();
        let read = self.stream.read_to_end(&mut bytes);
        // A reset after the answer is as good as an end.
        drop(tokio::time::timeout(Duration::from_secs(60), read).await.unwrap());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        (status, text)
    }
}

/// One request with a whole body.
pub(crate) async fn send(
    peer: &Peer,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String) {
    let mut raw = Raw::open(peer).await;
    let length = body.len().to_string();
    let mut all = vec![("content-length", length.as_str())];
    all.extend(headers);
    raw.head(method, target, &all).await;
    raw.body(body).await;
    raw.answer().await
}
