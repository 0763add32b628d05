//! A listener with TLS, met by a real client: what is served, what is not, and a certificate that
//! is replaced while it runs.

#![allow(clippy::unwrap_used, reason = "tests")]

use hotcell_stage::{
    blob::install_tls,
    tls::{Acceptor, LOOK_SECS, ServerTls, TlsError, check_listen, is_private},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

const DEADLINE: Duration = Duration::from_secs(60);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for 127.0.0.1 and its key, as PEM.
fn issue(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

struct Site {
    dir: TempDir,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        install_tls();
        let site = Self { dir: tempfile::tempdir().unwrap(), authority: authority() };
        for name in ["ca.pem", "clients.pem"] {
            std::fs::write(site.path(name), site.authority.pem()).unwrap();
        }
        site.replace(&issue(&site.authority));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn replace(&self, (cert, key): &(String, String)) {
        std::fs::write(self.path("cert.pem"), cert).unwrap();
        std::fs::write(self.path("key.pem"), key).unwrap();
    }

    fn files(&self, client_ca: bool) -> ServerTls {
        ServerTls {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
            client_ca: client_ca.then(|| self.path("clients.pem")),
        }
    }

    /// A listener that says `here` to whoever ends a handshake.
    async fn listen(&self, client_ca: bool) -> (u16, JoinSet<()>) {
        let acceptor = Acceptor::new(&self.files(client_ca)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                if let Ok(mut stream) = acceptor.accept(socket).await {
                    stream.write_all(b"here").await.ok();
                    stream.shutdown().await.ok();
                }
            }
        });
        (port, tasks)
    }

    fn client(&self, own: Option<&(String, String)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

/// What the listener says to the client, and the certificate that it showed.
async fn ask(client: &TlsConnector, port: u16) -> Option<(String, Vec<u8>)> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = client.connect(name, socket).await.ok()?;
    let mut text = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut text)).await.unwrap().ok()?;
    let shown = stream.get_ref().1.peer_certificates()?.first()?.to_vec();
    Some((text, shown))
}

#[tokio::test]
async fn zt_01_a_listener_shows_its_certificate_and_plain_text_gets_nothing() {
    let site = Site::new();
    let (port, _tasks) = site.listen(false).await;
    assert_eq!(ask(&site.client(None), port).await.unwrap().0, "here");
    // Another authority's client does not believe it.
    let other = Site::new();
    assert!(ask(&other.client(None), port).await.is_none());
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    tokio::time::timeout(DEADLINE, plain.read_to_end(&mut text)).await.unwrap().ok();
    assert!(!String::from_utf8_lossy(&text).contains("here"));
}

#[tokio::test]
async fn zt_01_a_client_without_a_certificate_of_the_authority_is_not_served() {
    let site = Site::new();
    let (port, _tasks) = site.listen(true).await;
    let own = issue(&site.authority);
    assert_eq!(ask(&site.client(Some(&own)), port).await.unwrap().0, "here");
    assert!(ask(&site.client(None), port).await.is_none());
    let foreign = issue(&Site::new().authority);
    assert!(ask(&site.client(Some(&foreign)), port).await.is_none());
}

#[tokio::test]
async fn a_replaced_certificate_is_shown_and_half_of_one_is_not() {
    let site = Site::new();
    let (port, _tasks) = site.listen(false).await;
    // A client of its own each time: one that comes back resumes its session, and is shown nothing.
    let first = ask(&site.client(None), port).await.unwrap().1;
    // A key that is not the certificate's: the old one stays.
    let next = issue(&site.authority);
    site.replace(&(next.0.clone(), issue(&site.authority).1));
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert_eq!(ask(&site.client(None), port).await.unwrap().1, first);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    site.replace(&next);
    let until = Instant::now() + DEADLINE;
    while ask(&site.client(None), port).await.unwrap().1 == first {
        assert!(Instant::now() < until, "the new certificate is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// ZT-01: an authority that is no more lets nobody in, and a new one does, without a restart.
#[tokio::test]
async fn zt_01_replaced_authorities_of_clients_hold_for_the_next_connection() {
    let site = Site::new();
    let (port, _tasks) = site.listen(true).await;
    let next = Site::new();
    // One client each, so that a session that is taken up again would be seen. Both believe the
    // listener, whose own authority stays.
    let (old, new) = (issue(&site.authority), issue(&next.authority));
    let (old, new) = (site.client(Some(&old)), site.client(Some(&new)));
    assert_eq!(ask(&old, port).await.unwrap().0, "here");
    assert!(ask(&new, port).await.is_none());
    // What holds no authority changes nothing.
    std::fs::write(site.path("clients.pem"), "").unwrap();
    let until = Instant::now() + Duration::from_secs(LOOK_SECS + 2);
    while Instant::now() < until {
        assert_eq!(ask(&old, port).await.unwrap().0, "here");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    std::fs::write(site.path("clients.pem"), next.authority.pem()).unwrap();
    let until = Instant::now() + DEADLINE;
    while ask(&old, port).await.is_some() {
        assert!(Instant::now() < until, "the old authority is still believed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ask(&new, port).await.unwrap().0, "here");
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let site = Site::new();
    let check = |cert: &str, key: &str, expect: &str| {
        std::fs::write(site.path("cert.pem"), cert).unwrap();
        std::fs::write(site.path("key.pem"), key).unwrap();
        let error: TlsError = Acceptor::new(&site.files(false)).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    };
    let (cert, key) = issue(&site.authority);
    check("", &key, "cert.pem is not a readable PEM file of certificates");
    check(&cert, "", "key.pem is not a readable PEM file of a private key");
    check(&cert, &issue(&site.authority).1, "is not the certificate's");
}

/// API-01: plain text is spoken on loopback only.
#[test]
fn api_01_plain_text_is_for_loopback() {
    let site = Site::new();
    let tls = site.files(false);
    let check = |listen: &str, with: bool, expect: bool| {
        let listen = listen.parse().unwrap();
        assert_eq!(check_listen(listen, with.then_some(&tls)).is_ok(), expect, "{listen}");
    };
    check("127.0.0.1:80", false, true);
    check("[::1]:80", false, true);
    check("0.0.0.0:80", false, false);
    check("[::]:80", false, false);
    check("10.1.2.3:80", false, false);
    check("[::ffff:10.1.2.3]:80", false, false);
    check("0.0.0.0:443", true, true);
}

/// ZT-01, API-01: so is plain text to the broker and to the store.
#[test]
fn api_01_zt_01_what_is_beyond_loopback_is_spoken_to_with_tls() {
    let check = |url: &str, expect: bool| assert_eq!(is_private(url), expect, "{url}");
    for url in ["nats://127.0.0.1:4222", "nats://[::1]:4222", "http://localhost:9000"] {
        check(url, true);
    }
    for url in ["nats://broker:4222", "http://10.0.0.1:9000", "http://s3.example.com", ""] {
        check(url, false);
    }
    for url in ["nats://127.0.0.1.example.com:4222", "http://localhost.example.com", "127.0.0.1:1"]
    {
        check(url, false);
    }
    check("tls://broker:4222", true);
    check("https://s3.example.com", true);
}
