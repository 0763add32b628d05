//! A real broker for tests: a fresh installation, a free port, a folder of its own, ended on drop.
//! Fails, with what to do, when the program is missing; never skips. Also jobs and
//! records to send it.

mod destination;
mod job;

pub use destination::{PLACES, destination};
pub use job::{input, job, job_with_upload};

use crate::{
    admin::{self, Admin, AdminError},
    binary::{self, BinaryError},
    creds::Creds,
    init::{InitError, InitOptions, Installation, init},
    login::Login,
    server_config::{Durability, ServerOptions},
    terms::Life,
};
use async_nats::Client;
use hotcell_schemas::{Role, UnixMs};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Time of everything that a test makes; the broker compares it with nothing.
pub const NOW: UnixMs = UnixMs(1_779_460_245_120);

/// A life of any length: what a person asks for is 15 minutes at least.
#[must_use]
pub const fn short_life(secs: u64) -> Life {
    Life::unchecked(secs)
}

/// How long a server may take to start on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why a test has no server.
#[derive(Debug, thiserror::Error)]
pub enum TestServerError {
    /// The program.
    #[error("there is no nats-server to test against")]
    Binary(#[source] BinaryError),
    /// The installation.
    #[error("the installation was not made")]
    Init(#[source] InitError),
    /// The file system or the process.
    #[error("the server was not started")]
    Io(#[source] io::Error),
    /// The server ended or was not ready in time; its log follows.
    #[error("the server was not ready: {0}")]
    NotReady(String),
    /// It does not take a login.
    #[error("the server does not take a login")]
    Admin(#[source] AdminError),
}

/// A running server.
#[derive(Debug)]
pub struct TestServer {
    temp: TempDir,
    binary: PathBuf,
    durability: Durability,
    child: Option<Child>,
    address: SocketAddr,
}

#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl TestServer {
    /// Makes an installation and starts a server for it, with a sync each second.
    ///
    /// # Errors
    /// [`TestServerError`].
    pub async fn start(options: &InitOptions) -> Result<Self, TestServerError> {
        Self::start_with(options, Durability::OneSecond).await
    }

    /// The same with the chosen durability.
    ///
    /// # Errors
    /// [`TestServerError`].
    pub async fn start_with(
        options: &InitOptions,
        durability: Durability,
    ) -> Result<Self, TestServerError> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools");
        let named = env::var_os(binary::OVERRIDE).map(PathBuf::from);
        let binary = binary::find_nats_server(named, &tools).map_err(TestServerError::Binary)?;
        let temp = tempfile::Builder::new()
            .prefix("hotcell-nats-")
            .tempdir()
            .map_err(TestServerError::Io)?;
        init(temp.path(), options).map_err(TestServerError::Init)?;
        let address = SocketAddr::from((own_address(), 0));
        let mut server = Self { temp, binary, durability, child: None, address };
        server.run().await?;
        Ok(server)
    }

    /// `nats://<an address of this machine's own>:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The installation's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.temp.path()
    }

    /// The installation.
    ///
    /// # Errors
    /// `Init`.
    pub fn installation(&self) -> Result<Installation, TestServerError> {
        Installation::open(self.dir()).map_err(TestServerError::Init)
    }

    /// The table `nats` of a service's configuration, with which it signs in as `login`.
    ///
    /// # Errors
    /// `Init`.
    ///
    /// # Panics
    /// `C` is no such table.
    pub fn config<C: DeserializeOwned>(&self, login: &Login) -> Result<C, TestServerError> {
        let installation = self.installation()?;
        let (creds, trust) = (installation.creds_path(login), installation.trust_path());
        let table = json!({ "url": self.url(), "creds": creds, "trust": trust });
        Ok(serde_json::from_value(table).expect("what a service reads"))
    }

    /// The credential file of `login`, read.
    ///
    /// # Errors
    /// `Init`.
    pub fn creds(&self, login: &Login) -> Result<Creds, TestServerError> {
        self.installation()?.creds(login).map_err(TestServerError::Init)
    }

    /// The operator, connected.
    ///
    /// # Errors
    /// `Init`, `Admin`.
    pub async fn admin(&self) -> Result<Admin, TestServerError> {
        let installation = self.installation()?;
        Admin::connect(installation, &self.url()).await.map_err(TestServerError::Admin)
    }

    /// A connection as `login`.
    ///
    /// # Errors
    /// `Init`, `Admin`.
    pub async fn connect(&self, login: &Login) -> Result<Client, TestServerError> {
        let creds = self.creds(login)?;
        admin::connect(self.url(), &creds).await.map_err(TestServerError::Admin)
    }

    /// Kills the server as a crash would (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// `Io`.
    pub fn kill(&mut self) -> Result<(), TestServerError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().and_then(|()| child.wait()).map(|_| ()).map_err(TestServerError::Io)
    }

    /// Starts the server again after [`Self::kill`], at the same port, with the configuration
    /// that the installation's files give now.
    ///
    /// # Errors
    /// [`TestServerError`].
    pub async fn start_again(&mut self) -> Result<(), TestServerError> {
        self.kill()?;
        self.run().await
    }

    async fn run(&mut self) -> Result<(), TestServerError> {
        let dir = self.dir().to_path_buf();
        let options = ServerOptions {
            tls: None,
            listen: self.address,
            store_dir: dir.join("jetstream"),
            durability: self.durability,
            ports_dir: Some(dir.clone()),
            pid_file: Some(dir.join("nats.pid")),
        };
        let config = self.installation()?.server_config(&options).map_err(TestServerError::Init)?;
        let config_path = dir.join("nats.conf");
        let log = dir.join("nats.log");
        fs::write(&config_path, config).map_err(TestServerError::Io)?;
        let output = fs::File::create(&log).map_err(TestServerError::Io)?;
        let child = Command::new(&self.binary)
            .arg("--config")
            .arg(&config_path)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(TestServerError::Io)?)
            .stderr(output)
            .spawn()
            .map_err(TestServerError::Io)?;
        let ports = dir.join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        self.await_ready(&ports, &log).await
    }

    async fn await_ready(&mut self, ports: &Path, log: &Path) -> Result<(), TestServerError> {
        let deadline = Instant::now() + START_MAX;
        let creds = self.creds(&Login::Service(Role::Provisioner))?;
        loop {
            let ended = match self.child.as_mut() {
                Some(child) => child.try_wait().map_err(TestServerError::Io)?.is_some(),
                None => true,
            };
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(log).unwrap_or_default();
                return Err(TestServerError::NotReady(log));
            }
            if let Some(address) = read_address(ports)
                && admin::connect(format!("nats://{address}"), &creds).await.is_ok()
            {
                self.address = address;
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// An address of loopback (RFC 1122 §3.2.1.3) that no other server has: its port is still free when
/// the server starts again, whatever other tests listen on or connect from meanwhile.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + NEXT.fetch_add(1, Ordering::Relaxed) % 128, high, low)
}

fn read_address(ports: &Path) -> Option<SocketAddr> {
    let text = fs::read(ports).ok()?;
    let ports: Ports = serde_json::from_slice(&text).ok()?;
    ports.nats.first()?.strip_prefix("nats://")?.parse().ok()
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            // Both fail only when it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Compares `text` with the golden file `path`; with `UPDATE_GOLDEN=1` writes it instead.
///
/// # Errors
/// [`GoldenError`].
pub fn golden(path: &Path, text: &str) -> Result<(), GoldenError> {
    let name = path.display().to_string();
    if env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        return fs::write(path, text).map_err(|source| GoldenError::File { name, source });
    }
    match fs::read_to_string(path) {
        Ok(golden) if golden == text => Ok(()),
        Ok(golden) => {
            let mut lines = golden.lines().zip(text.lines()).enumerate();
            let line = lines.find(|(_, (old, new))| old != new).map_or(0, |(index, _)| index + 1);
            Err(GoldenError::Differs { name, line })
        }
        Err(source) => Err(GoldenError::File { name, source }),
    }
}

/// Why a golden file does not fit.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// It is not read or written.
    #[error("golden file {name} cannot be read or written")]
    File {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It differs: look at the change, then run again with `UPDATE_GOLDEN=1`.
    #[error("{name} differs at line {line} (0: in length); UPDATE_GOLDEN=1 rewrites it")]
    Differs {
        /// Which.
        name: String,
        /// First line that differs, from 1.
        line: usize,
    },
}
