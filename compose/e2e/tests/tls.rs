//! A whole installation with TLS everywhere: a job goes through, and nobody is served in plain text
//! or, by the broker, without a certificate of the installation's authority.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use async_nats::ConnectOptions;
use hotcell_e2e::up::{Up, workspace};
use hotcell_stage::blob::install_tls;
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    time::Duration,
};

const ARGS: [&str; 5] = ["--encoders", "1", "--tls", "--wall-secs", "60"];

/// Longest wait for an answer that must not come.
const SILENCE: Duration = Duration::from_secs(5);

/// Longest wait for one that must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn host(url: &str) -> &str {
    url.split_once("://").unwrap().1
}

/// What a server says to a request in plain text.
fn plain(url: &str, request: &[u8]) -> Result<String> {
    let mut socket = TcpStream::connect(host(url))?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.write_all(request)?;
    let (mut heard, mut piece) = (Vec::new(), [0; 1024]);
    while let Ok(length @ 1..) = socket.read(&mut piece) {
        heard.extend_from_slice(&piece[..length]);
    }
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

fn clip(up: &Up) -> Result<PathBuf> {
    let path = up.dir().join("clip.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=s=320x240:d=1", "-pix_fmt", "yuv420p"])
        .arg(&path)
        .status()?;
    ensure!(made.success(), "ffmpeg made no clip");
    Ok(path)
}

/// Whether the broker takes the login of a service, with the TLS files of `name` or without any.
async fn takes(up: &Up, name: Option<&str>) -> Result<bool> {
    install_tls();
    let tls = up.dir().join("nats/tls");
    let creds = up.dir().join("nats/creds/hasher.creds");
    let mut options = ConnectOptions::with_credentials_file(creds).await?;
    options = options.require_tls(true).tls_first().add_root_certificates(tls.join("ca.pem"));
    options = options.connection_timeout(PATIENCE).max_reconnects(1);
    if let Some(name) = name {
        let (cert, key) = (tls.join(format!("{name}.pem")), tls.join(format!("{name}.key")));
        options = options.add_client_certificate(cert, key);
    }
    Ok(options.connect(up.env("HOTCELL_NATS")).await.is_ok())
}

#[test]
fn api_01_zt_01_a_job_runs_where_every_hop_is_encrypted() -> Result<()> {
    let up = Up::start(&ARGS)?;
    for name in ["HOTCELL_API", "HOTCELL_S3"] {
        ensure!(up.env(name).starts_with("https://"), "{}", up.env(name));
        let text = plain(up.env(name), b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")?;
        ensure!(!text.contains("HTTP/1.1 2"), "{name} serves plain text: {text}");
    }
    // A broker without TLS says INFO before it is asked.
    ensure!(up.env("HOTCELL_NATS").starts_with("tls://"), "{}", up.env("HOTCELL_NATS"));
    let text = plain(up.env("HOTCELL_NATS"), b"CONNECT {\"verbose\":false}\r\nPING\r\n")?;
    ensure!(!text.contains("INFO") && !text.contains("PONG"), "{text}");

    let clip = clip(&up)?;
    let out = up.dir().join("small.mp4");
    let done = up.json(&[
        "transcode",
        clip.to_str().unwrap(),
        "--resolution",
        "240p",
        "-o",
        out.to_str().unwrap(),
    ])?;
    ensure!(out.is_file(), "{done}");
    // The commands of the operator find their way, too.
    ensure!(up.cli(&["poison", "list"])?.status.success());
    drop(up.stop()?);
    Ok(())
}

/// ZT-01, BRK-23: the channel to the coordinator is mutual TLS.
#[tokio::test]
async fn zt_01_the_broker_takes_a_login_only_with_a_certificate_of_its_authority() -> Result<()> {
    let up = Up::start(&ARGS)?;
    ensure!(takes(&up, Some("hasher")).await?, "the attack's own tools do not work");
    ensure!(!takes(&up, None).await?, "a stolen login alone opens the broker");
    // Another installation's certificate is nobody's here.
    let other = tempfile::tempdir()?;
    let dir = other.path().to_str().unwrap();
    let made = up.cli(&["tls", "init", dir, "--client", "stranger"])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for part in ["pem", "key"] {
        let name = format!("stranger.{part}");
        std::fs::copy(other.path().join(&name), up.dir().join("nats/tls").join(&name))?;
    }
    ensure!(!takes(&up, Some("stranger")).await?, "a foreign certificate opens the broker");
    Ok(())
}

/// Beyond loopback nothing starts in plain text.
#[test]
fn api_01_an_address_that_others_reach_implies_tls() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("intake.toml");
    std::fs::write(&config, "listen = \"0.0.0.0:0\"\n")?;
    let program = hotcell_e2e::up::programs().join("hotcell-intake");
    let output = Command::new(program).arg(&config).current_dir(workspace()).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(64), "{:?} {said}", output.status);
    ensure!(said.contains("listen") && said.contains("loopback"), "{said}");
    Ok(())
}

/// The store's certificate is not the broker's, and none is a client's: one that is stolen opens
/// one door.
#[test]
fn certificates_say_what_they_are_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hotcell = hotcell_e2e::up::programs().join("hotcell");
    let made = Command::new(hotcell)
        .args(["tls", "init"])
        .arg(dir.path())
        .args(["--server", "store=store.localhost,127.0.0.1", "--client", "signer"])
        .output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = |name: &str| -> Result<String> {
        let shown = Command::new("openssl")
            .args(["x509", "-noout", "-text", "-in"])
            .arg(dir.path().join(name))
            .output()
            .context("openssl")?;
        Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
    };
    let (store, signer) = (text("store.pem")?, text("signer.pem")?);
    ensure!(store.contains("TLS Web Server Authentication"), "{store}");
    ensure!(!store.contains("TLS Web Client Authentication"), "{store}");
    ensure!(store.contains("DNS:store.localhost") && store.contains("IP Address:127.0.0.1"));
    ensure!(signer.contains("TLS Web Client Authentication"), "{signer}");
    ensure!(!signer.contains("TLS Web Server Authentication"), "{signer}");
    ensure!(text("ca.pem")?.contains("CA:TRUE, pathlen:0"));
    Ok(())
}
