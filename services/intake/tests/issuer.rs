//! How an issuer is asked for its keys: over TLS by an authority of its own, without redirects,
//! within bounds, and nowhere else than where it may say.
#![allow(clippy::unwrap_used, reason = "tests")]

use hotcell_intake::{
    jwt::Algorithm,
    oidc::{
        IssuerConfig, client,
        keys::{Keys, Lookup},
    },
};
use hotcell_stage::{
    blob::install_tls,
    tls::{Acceptor, ServerTls, open},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

/// What is answered: to a path, at an issuer.
type Respond = Arc<dyn Fn(&str, &str) -> String + Send + Sync>;

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn metadata(issuer: &str, jwks: &str) -> String {
    ok(&format!(r#"{{"issuer":"{issuer}","jwks_uri":"{jwks}"}}"#))
}

/// Serves on loopback until the set is dropped; the issuer.
async fn serve(tls: Option<Acceptor>, respond: Respond, parts: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let issuer = format!("{scheme}://{}", listener.local_addr().unwrap());
    let own = issuer.clone();
    parts.spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = open(tls.as_ref(), socket).await else { continue };
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n")
                && stream.read_buf(&mut seen).await.is_ok_and(|n| n > 0)
            {}
            let text = String::from_utf8_lossy(&seen).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default();
            // A client that has hung up has its reasons.
            stream.write_all(respond(path, &own).as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    });
    issuer
}

fn config(issuer: &str, ca: Option<&Path>) -> IssuerConfig {
    let ca = ca.map(|path| format!("ca = {path:?}")).unwrap_or_default();
    let text = format!("issuer = {issuer:?}\naudience = \"a\"\nrules = \"none\"\n{ca}");
    toml::from_str(&text).unwrap()
}

/// Whether the issuer's key becomes known.
async fn known(issuer: &str, jwks: Option<&str>, ca: Option<&Path>) -> bool {
    let client = client(&config(issuer, ca)).unwrap();
    let keys = Keys::new(issuer, jwks.map(|it| it.parse().unwrap()), client);
    matches!(keys.get(Some("a"), Algorithm::EdDsa).await, Lookup::Known(_))
}

#[tokio::test]
async fn zt_03_an_issuer_is_asked_over_tls_by_an_authority_that_is_trusted() {
    install_tls();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(path("ca.pem"), authority.pem()).unwrap();
    std::fs::write(path("cert.pem"), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
    std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    let files = ServerTls { cert: path("cert.pem"), key: path("key.pem"), client_ca: None };
    let mut parts = JoinSet::new();
    let respond: Respond = Arc::new(|path, issuer| match path {
        "/keys" => ok(KEYS),
        _ => metadata(issuer, &format!("{issuer}/keys")),
    });
    let issuer = serve(Some(Acceptor::new(&files).unwrap()), respond, &mut parts).await;
    assert!(known(&issuer, None, Some(&path("ca.pem"))).await);
    assert!(!known(&issuer, None, None).await, "an authority that nobody trusts");
    let keys = format!("{issuer}/keys");
    assert!(known(&issuer, Some(&keys), Some(&path("ca.pem"))).await);
}

#[tokio::test]
async fn an_issuer_cannot_send_intake_elsewhere_or_drown_it() {
    let mut parts = JoinSet::new();
    let other = serve(None, Arc::new(|_, _| ok(KEYS)), &mut parts).await;
    let elsewhere = other.clone();
    let respond: Respond = Arc::new(move |path, issuer| match path {
        "/keys" => ok(KEYS),
        "/redirect" => {
            format!("HTTP/1.1 302 Found\r\nlocation: {elsewhere}/\r\ncontent-length: 0\r\n\r\n")
        }
        "/large" => ok(&format!("{}{KEYS}", " ".repeat(1 << 18))),
        "/empty" => ok(r#"{"keys":[]}"#),
        "/twice" => ok(&KEYS.replacen('{', r#"{"keys":[],"#, 1)),
        "/missing" => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "/good/.well-known/openid-configuration" => {
            metadata(&format!("{issuer}/good"), &format!("{issuer}/keys"))
        }
        "/file/.well-known/openid-configuration" => {
            metadata(&format!("{issuer}/file"), "file:///etc/passwd")
        }
        "/plain/.well-known/openid-configuration" => {
            metadata(&format!("{issuer}/plain"), "http://192.0.2.1/keys")
        }
        _ => metadata(issuer, &format!("{issuer}/keys")),
    });
    let issuer = serve(None, respond, &mut parts).await;
    for (path, good) in [
        ("/keys", true),
        ("/redirect", false),
        ("/large", false),
        ("/empty", false),
        ("/twice", false),
        ("/missing", false),
    ] {
        assert_eq!(known(&issuer, Some(&format!("{issuer}{path}")), None).await, good, "{path}");
    }
    for (path, good) in
        [("", true), ("/good", true), ("/file", false), ("/plain", false), ("/x", false)]
    {
        assert_eq!(known(&format!("{issuer}{path}"), None, None).await, good, "metadata of {path}");
    }
    assert!(known(&issuer, Some(&other), None).await, "where the redirect leads there are keys");
}

/// ZT-03: an issuer that publishes no key any more has withdrawn them all; that is an answer.
#[tokio::test]
async fn zt_03_an_issuer_withdraws_its_last_key() {
    let mut parts = JoinSet::new();
    let withdrawn = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&withdrawn);
    let respond: Respond = Arc::new(move |_, _| match seen.load(Ordering::Relaxed) {
        true => ok(r#"{"keys":[]}"#),
        false => ok(KEYS),
    });
    let issuer = serve(None, respond, &mut parts).await;
    let client = client(&config(&issuer, None)).unwrap();
    let keys = Keys::new(&issuer, Some(issuer.parse().unwrap()), client);
    assert!(matches!(keys.get(Some("a"), Algorithm::EdDsa).await, Lookup::Known(_)));
    withdrawn.store(true, Ordering::Relaxed);
    // A stranger's token makes it ask; an age of five minutes would, too.
    assert_eq!(keys.get(Some("x"), Algorithm::EdDsa).await, Lookup::Unknown);
    assert_eq!(keys.get(Some("a"), Algorithm::EdDsa).await, Lookup::Unknown);
}
