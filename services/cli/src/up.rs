//! `hotcell up`: broker, store and every service on this machine, each a process of its own with
//! its own credential file, exactly as in production.
//!
//! Promises: ready means that `/readyz` says so; SIGINT and SIGTERM end all of it in order; what a
//! SIGKILL left behind is ended by the next start. Refuses: two at once on one folder.

mod cells;
mod configs;
mod groups;
mod issuers;
pub(crate) mod logins;
mod secure;
mod supervise;
mod users;

pub(crate) use cells::{CellProgram, Cells, located};

use crate::{
    args::{DurabilityArg, UpArgs},
    fail::{Context as _, Fail},
    layout::{Layout, keep_secret, shell_quoted, write_private},
    print, tenant,
};
use configs::Plan;
use hotcell_nats_config::{
    Admin, Durability, InitOptions, Installation, Login, Replicas, ServerOptions, find_nats_server,
};
use hotcell_schemas::{PoolId, Role, WorkerId};
use hotcell_stage::{Shutdown, clock};
use secure::Secure;
use serde_json::json;
use std::{
    fs::File,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};
use supervise::{Spec, Supervisor};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::{Instant, sleep},
};

/// Everything must be ready within this long, in seconds.
const READY_SECS: u64 = 60;

/// Pause between two looks at something that is starting, in milliseconds.
const LOOK_MS: u64 = 20;

/// Order of stopping: workers give their work back, services drain, then what they write to.
const RANK_WORKERS: u8 = 0;
const RANK_SERVICES: u8 = 1;
const RANK_SERVERS: u8 = 2;

/// Worker processes: each has a user of its own, and Debian keeps 800 for such use from the first.
const WORKERS_MAX: u16 = 512;

/// The pool of the workers that `up` starts.
const POOL: &str = "cpu";

/// The services with a login in PIPELINE that `up` starts.
const SERVICES: [Role; 6] =
    [Role::Auditor, Role::Signer, Role::Validator, Role::Hasher, Role::Webhook, Role::Intake];

/// `hotcell up`.
pub(crate) async fn run(data: &Path, args: &UpArgs, as_json: bool) -> Result<(), Fail> {
    let started = Instant::now();
    // Before anything is made or started: a stop at any moment is one in order.
    let mut signals = Signals::listen()?;
    let layout = Layout::create(data)?;
    let _lock = lock(&layout)?;
    let ended = supervise::end_leftovers(&layout).await?;
    if ended > 0 {
        print::note(format!("ended {ended} processes that an earlier run left behind"));
    }
    groups::clear(&layout);
    Cells::remove(&layout);
    let stop = Shutdown::new();
    let (mut supervisor, mut preparing) = (Supervisor::new(layout.clone()), JoinSet::new());
    let outcome = tokio::select! {
        result = start(&layout, args, (&mut supervisor, &mut preparing), as_json, started) => result,
        () = signals.stop() => {
            stop.begin();
            Ok(())
        }
    };
    if outcome.is_ok() && !stop.has_begun() {
        tokio::select! {
            () = signals.stop() => {}
            () = logins::keep(&layout) => {}
        }
    }
    if !as_json {
        print::note("stopping");
    }
    supervisor.stop().await;
    // A thread cannot be stopped: what it makes after the stop is removed, too.
    while preparing.join_next().await.is_some() {}
    Cells::remove(&layout);
    groups::clear(&layout);
    outcome
}

/// The two signals that end it. One that comes while nobody waits is kept.
struct Signals([Signal; 2]);

impl Signals {
    fn listen() -> Result<Self, Fail> {
        let hook = |kind| signal(kind).or_fail("cannot listen to signals");
        Ok(Self([hook(SignalKind::terminate())?, hook(SignalKind::interrupt())?]))
    }

    async fn stop(&mut self) {
        let [term, int] = &mut self.0;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
}

/// One `up` for one folder: the lock is the kernel's, and gone with the process.
fn lock(layout: &Layout) -> Result<File, Fail> {
    let path = layout.run("lock");
    let file = File::create(&path).or_fail("cannot make the lock file")?;
    file.try_lock().map_err(|_| {
        Fail::failed(format!(
            "another `hotcell up` runs on {}: end it, or name another folder with --data",
            layout.root().display()
        ))
    })?;
    Ok(file)
}

/// Starts everything in order, and prints the address when all of it is ready.
async fn start(
    layout: &Layout,
    args: &UpArgs,
    (supervisor, preparing): (&mut Supervisor, &mut JoinSet<Result<Cells, Fail>>),
    as_json: bool,
    started: Instant,
) -> Result<(), Fail> {
    let programs = programs()?;
    let workers = workers(args)?;
    let pool = pool();
    let installation = init(layout)?;
    let ports = Ports::choose(layout, args.listen)?;
    {
        let (layout, cell, programs) = (layout.clone(), args.cell.clone(), programs.clone());
        let (cgroup, count) = (args.cgroup, processes(args).0);
        preparing.spawn_blocking(move || {
            let cells = Cells::prepare(&layout, &cell, &programs)?.with_users(count)?;
            cells.with_groups(&layout, cgroup)
        });
    }

    let secure = Secure::prepare(layout, args, &ports, &workers)?;
    broker(layout, args, &installation, (&ports, &secure), supervisor).await?;
    let url = format!("{}://{}", secure.scheme("nats", "tls"), ports.nats);
    let admin = Admin::connect(installation, &url).await.map_err(|error| {
        let why = hotcell_stage::service::describe(&error);
        Fail::unreachable(format!(
            "cannot log in to the broker ({why}): see its file in the logs folder"
        ))
    })?;
    admin.provision(Replicas::One, clock::now()).await.or_fail("cannot provision the broker")?;
    worker_logins(&admin, &workers, &pool).await?;
    let cells = preparing.join_next().await.expect("it was started above");
    let cells = cells.or_fail("cannot prepare the cells")??;
    let plan =
        Plan { layout, args, ports: &ports, secure: &secure, cells: &cells, workers: &workers };
    plan.write()?;
    logins::renew(layout, admin.installation())?;

    supervisor.start(service(layout, &programs, "store", &secure, RANK_SERVERS))?;
    wait_for("the store", || TcpStream::connect(ports.store).is_ok()).await?;
    for role in SERVICES {
        supervisor.start(service(layout, &programs, role.as_str(), &secure, RANK_SERVICES))?;
    }
    for (number, worker) in (0..).zip(&workers) {
        supervisor.start(cells.worker(number, worker, RANK_WORKERS)?)?;
    }
    let key = tenant::first(layout, &admin, &args.tenant, &pool).await?;
    logins::renew(layout, admin.installation())?;
    ready(&ports, &secure).await?;
    write_env(layout, (&ports, &secure), &key)?;
    announce(layout, (&ports, &secure), args, as_json, started);
    Ok(())
}

/// How many worker processes, and how many cells in each. A process that is not root cannot give
/// its cells another user than its own: as root there is one for each cell.
fn processes(args: &UpArgs) -> (u16, u16) {
    match rustix::process::geteuid().is_root() {
        true => (args.encoders.saturating_mul(args.slots), 1),
        false => (args.encoders, args.slots),
    }
}

fn workers(args: &UpArgs) -> Result<Vec<WorkerId>, Fail> {
    let (count, _) = processes(args);
    if count > WORKERS_MAX {
        return Err(Fail::config(format!(
            "{count} workers are more than {WORKERS_MAX}: lower --encoders or --slots"
        )));
    }
    Ok((1..=count).map(|n| format!("worker-{n}").parse().expect("a slug")).collect())
}

fn init(layout: &Layout) -> Result<Installation, Fail> {
    let options = InitOptions { now: clock::now(), ..InitOptions::default() };
    let made = hotcell_nats_config::init(&layout.nats(), &options);
    let installation = made.or_fail("cannot write the broker's keys and logins")?;
    logins::renew(layout, &installation)?;
    installation.freshen_resolver().or_fail("cannot bring the broker's accounts up to date")?;
    Ok(installation)
}

/// Makes the logins that are missing: on the running broker, so that each is in the audit log.
async fn worker_logins(admin: &Admin, workers: &[WorkerId], pool: &PoolId) -> Result<(), Fail> {
    for name in workers {
        let login = Login::Worker { name: name.clone(), pools: vec![pool.clone()] };
        if admin.installation().has_login(&login).or_fail("a worker's login")? {
            continue;
        }
        let made = admin.add_worker(name, std::slice::from_ref(pool), clock::now()).await;
        made.or_fail("cannot make a worker's login")?;
    }
    Ok(())
}

async fn broker(
    layout: &Layout,
    args: &UpArgs,
    installation: &Installation,
    (ports, secure): (&Ports, &Secure),
    supervisor: &mut Supervisor,
) -> Result<(), Fail> {
    let durability = match args.durability {
        DurabilityArg::Always => Durability::Always,
        DurabilityArg::OneSecond => Durability::OneSecond,
    };
    let options = ServerOptions {
        tls: secure.broker(),
        listen: ports.nats,
        store_dir: layout.nats().join("jetstream"),
        durability,
        ports_dir: None,
        pid_file: None,
    };
    let config = installation.server_config(&options).or_fail("the broker's configuration")?;
    let path = layout.config("nats.conf");
    write_private(&path, &config)?;
    let program = nats_server()?;
    supervisor.start(Spec {
        name: "nats-server".to_owned(),
        program,
        args: vec!["-c".to_owned(), path.display().to_string()],
        join: Vec::new(),
        ca: None,
        user: None,
        stop_rank: RANK_SERVERS + 1,
    })?;
    wait_for("the broker", || TcpStream::connect(ports.nats).is_ok()).await
}

/// `HOTCELL_NATS_SERVER`, or the pinned one in `.tools`.
pub(crate) fn nats_server() -> Result<PathBuf, Fail> {
    let named = std::env::var_os("HOTCELL_NATS_SERVER").map(PathBuf::from);
    find_nats_server(named, &tools())
        .map_err(|error| Fail::config(hotcell_stage::service::describe(&error)))
}

/// The folder `.tools` of the working folder, or of the nearest folder above this program.
fn tools() -> PathBuf {
    let here = std::env::current_dir().ok().into_iter();
    let program = std::env::current_exe().ok();
    let above = program.iter().flat_map(|path| path.ancestors().map(Path::to_owned));
    let tools = here.chain(above).map(|dir| dir.join(".tools")).find(|dir| dir.is_dir());
    tools.unwrap_or_else(|| PathBuf::from(".tools"))
}

/// The folder of this program: the services are beside it.
pub(crate) fn programs() -> Result<PathBuf, Fail> {
    let own = std::env::current_exe().or_fail("cannot find this program")?;
    Ok(own.parent().map(Path::to_owned).unwrap_or_default())
}

fn service(layout: &Layout, programs: &Path, name: &str, secure: &Secure, stop_rank: u8) -> Spec {
    // Endpoints of tenants are vouched for by public authorities, never by ours.
    let ca = if name == Role::Webhook.as_str() { None } else { secure.bundle() };
    Spec {
        ca,
        name: name.to_owned(),
        program: programs.join(format!("hotcell-{name}")),
        args: vec![layout.config(&format!("{name}.toml")).display().to_string()],
        join: Vec::new(),
        user: None,
        stop_rank,
    }
}

/// Looks until `is_there`, or says what is missing.
async fn wait_for(what: &str, is_there: impl Fn() -> bool) -> Result<(), Fail> {
    let until = Instant::now() + Duration::from_secs(READY_SECS);
    while !is_there() {
        if Instant::now() > until {
            return Err(Fail::unreachable(format!(
                "{what} did not start within {READY_SECS} s: see its file in the logs folder"
            )));
        }
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
    Ok(())
}

async fn ready(ports: &Ports, secure: &Secure) -> Result<(), Fail> {
    let http = crate::api::http(secure.bundle().as_deref())?;
    let url = format!("{}://{}/readyz", secure.scheme("http", "https"), ports.api);
    let until = Instant::now() + Duration::from_secs(READY_SECS);
    loop {
        let answer = http.get(&url).timeout(Duration::from_secs(2)).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Fail::unreachable(format!(
                "{url} was not ready within {READY_SECS} s: see the logs folder"
            )));
        }
        sleep(Duration::from_millis(LOOK_MS)).await;
    }
}

/// The addresses of one installation; kept, so that URLs outlive a restart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) nats: SocketAddr,
    pub(crate) store: SocketAddr,
    pub(crate) api: SocketAddr,
}

impl Ports {
    fn choose(layout: &Layout, listen: SocketAddr) -> Result<Self, Fail> {
        let path = layout.run("ports.json");
        let kept: serde_json::Value = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let pick = |name: &str, ip: std::net::IpAddr, wanted: u16| {
            let kept = kept.get(name).and_then(|port| u16::try_from(port.as_u64()?).ok());
            let port = if wanted == 0 { kept.unwrap_or(0) } else { wanted };
            let bound = TcpListener::bind((ip, port))
                .or_else(|error| if wanted == 0 { TcpListener::bind((ip, 0)) } else { Err(error) });
            bound.map_err(|error| {
                Fail::config(format!(
                    "cannot listen on {ip}:{port} ({error}): name another with --listen, or port 0"
                ))
            })
        };
        let loopback = std::net::Ipv4Addr::LOCALHOST.into();
        // All three are held until all are chosen, so that none is given twice.
        let nats = pick("nats", loopback, 0)?;
        let store = pick("store", loopback, 0)?;
        let api = pick("api", listen.ip(), listen.port())?;
        let address = |listener: &TcpListener| listener.local_addr().or_fail("a listener");
        let ports = Self { nats: address(&nats)?, store: address(&store)?, api: address(&api)? };
        let kept = json!({
            "nats": ports.nats.port(), "store": ports.store.port(), "api": ports.api.port(),
        });
        write_private(&path, &kept.to_string())?;
        Ok(ports)
    }
}

fn write_env(layout: &Layout, (ports, secure): (&Ports, &Secure), key: &str) -> Result<(), Fail> {
    let http = secure.scheme("http", "https");
    let creds = layout.nats().join("creds");
    let mut values = vec![
        ("HOTCELL_API", format!("{http}://{}", ports.api)),
        ("HOTCELL_KEY", key.to_owned()),
        ("HOTCELL_NATS", format!("{}://{}", secure.scheme("nats", "tls"), ports.nats)),
        ("HOTCELL_S3", format!("{http}://{}", ports.store)),
        ("HOTCELL_CREDS", creds.display().to_string()),
    ];
    values.extend(secure.bundle().map(|path| ("HOTCELL_CA", path.display().to_string())));
    let lines =
        values.iter().map(|(name, value)| format!("export {name}={}\n", shell_quoted(value)));
    write_private(&layout.dev_env(), &lines.collect::<String>())
}

fn announce(
    layout: &Layout,
    (ports, secure): (&Ports, &Secure),
    args: &UpArgs,
    as_json: bool,
    started: Instant,
) {
    let api = format!("{}://{}", secure.scheme("http", "https"), ports.api);
    let env = layout.dev_env();
    let ready_ms = started.elapsed().as_millis();
    let (workers, slots) = processes(args);
    if as_json {
        print::json(&json!({ "api": api, "env": env, "ready_ms": ready_ms }));
        return;
    }
    print::line(format!(
        "hotcell is ready after {ready_ms} ms\n\n  API       {api}\n  settings  . {}\n  tenant    {}\n  \
         workers   {}, each with {} cell(s) of {}\n  logs      {}\n\nCtrl-C ends all of it.",
        env.display(),
        args.tenant,
        workers,
        slots,
        args.cell,
        layout.root().join("logs").display(),
    ));
}

/// The pool of the workers that `up` starts, and of tenants that are added to it.
pub(crate) fn pool() -> PoolId {
    POOL.parse().expect("a slug")
}

/// A new random secret: 64 hexadecimal digits.
pub(crate) fn new_secret() -> String {
    hex::encode(clock::random::<32>())
}

/// The secret `name` of the installation, made at first use.
pub(crate) fn secret(layout: &Layout, name: &str) -> Result<String, Fail> {
    keep_secret(&layout.secret(name), new_secret)
}
