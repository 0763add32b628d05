//! `hotcell breach`: attacks cells of a running installation, and says what stopped each attack.
//!
//! Promises: cells are made as the installation's worker makes them, from its own configuration, in
//! control groups where this process may make any; what is planted and left is removed. Refuses to
//! pass when an attack was not tried: then it fails.

use crate::{
    args::BreachArgs,
    fail::{Context as _, Fail},
    layout::{Layout, make_dir},
    print,
    up::Cells,
};
use hotcell_encoder::config::{ABOUT, Config};
use hotcell_jail::{
    Identity,
    breach::{ATTACKS, Attack, Plant, Range, Targets, Verdict},
    capture::Stdout,
    cell::{Cell, End, Outcome, run as run_cell},
    cgroup::{Groups, Slot, UnknownChoice, Wish},
    layers::Layer,
    preflight::inspect,
    profile::Profile,
    program::Program,
    root::Root,
};
use hotcell_stage::clock;
use serde_json::{Value, json};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The hostile program, beside this one.
const HOSTILE: &str = "hotcell-hostile";

/// Cells at once: most wait for the kernel, a few for a clock.
const AT_ONCE: usize = 8;

/// What is shown of a reviewer's program's standard output.
const SHOWN_BYTES_MAX: usize = 64 * 1024;

/// Wall clock of a reviewer's program: long enough for a search, short enough to wait for.
const PROGRAM_SECS: u64 = 60;

/// The layer of that name.
pub(crate) fn layer(name: &str) -> Result<Layer, String> {
    Layer::named(name).ok_or_else(|| {
        let names: Vec<&str> = Layer::ALL.iter().map(|layer| layer.name()).collect();
        format!("must be one of {}", names.join(", "))
    })
}

/// Runs all attacks, or the reviewer's program.
pub(crate) async fn run(data: &Path, args: &BreachArgs, as_json: bool) -> Result<(), Fail> {
    let site = Site::find(data)?;
    if let Some(layer) = args.layers_off.iter().find(|layer| layer.needs_root_to_be_off())
        && !rustix::process::geteuid().is_root()
    {
        return Err(Fail::usage(format!("only root can leave out {}", layer.name())));
    }
    let missing = inspect(&site.config.launcher).or_fail("this host cannot run cells")?.missing;
    for missing in &missing {
        print::note(format!("this host lacks {}: {}", missing.layer.name(), missing.change));
    }
    let degraded = !missing.is_empty();
    match &args.program {
        Some(program) => site.program(program, args, degraded, as_json).await,
        None => site.attacks(&args.layers_off, degraded, as_json).await,
    }
}

/// One worker of a running installation.
struct Site {
    config: Config,
    identity: Identity,
    targets: Targets,
}

impl Site {
    fn find(data: &Path) -> Result<Self, Fail> {
        let layout = Layout::open(data)?;
        let at = |name: &str| -> Result<SocketAddr, Fail> {
            let url = layout.env_value(name)?;
            let address = url.split_once("://").and_then(|(_, rest)| rest.parse().ok());
            let there = address.filter(|at| TcpStream::connect(at).is_ok());
            there.ok_or_else(|| {
                Fail::unreachable(format!("{url} does not answer: start `hotcell up` first"))
            })
        };
        let (broker, store, api) = (at("HOTCELL_NATS")?, at("HOTCELL_S3")?, at("HOTCELL_API")?);
        let file = worker_file(&Cells::dir(&layout)).ok_or_else(|| {
            Fail::unreachable("no worker is there: start `hotcell up` with --encoders 1 or more")
        })?;
        let config: Config = hotcell_stage::config::load(&file, ABOUT.defaults)
            .or_fail("the worker's configuration")?;
        // Cells run as the worker does, and it owns its folder.
        let owner = fs::metadata(&config.work_dir).or_fail("the worker's folder")?;
        let identity = Identity { uid: owner.uid(), gid: owner.gid() };
        let creds = config.nats.creds.clone();
        Ok(Self { config, identity, targets: Targets { broker, store, api, creds } })
    }

    /// A root with `program`, beside those of the worker; removed when dropped.
    fn root(&self, program: &Path) -> Result<OwnRoot, Fail> {
        let program = Program::resolve(program).or_fail("the program cannot be used")?;
        let name = program.name.clone();
        let cache = Removed(self.config.root_cache.join(unique()));
        make_dir(&cache.0, 0o755)?;
        let root = Root::prepare(&cache.0, &[program]);
        let root = root.or_fail("cannot make the cell's file tree")?;
        Ok(OwnRoot { root, name, _cache: cache })
    }

    /// A folder for this run, in the worker's own.
    fn folder(&self) -> PathBuf {
        self.config.work_dir.join(unique())
    }

    /// Groups beside the worker's, which has its own; as many as cells run at once.
    fn slots(&self, cells: usize) -> Result<Vec<Arc<Slot>>, Fail> {
        let choice = self.config.cgroup.parse();
        let choice =
            choice.map_err(|error: UnknownChoice| Fail::failed(format!("cgroup: {error}")))?;
        let cpu_percent = Some(self.config.cell_cpu_percent).filter(|percent| *percent > 0);
        let groups = Groups::open(&Wish { choice, folders: Vec::new(), cpu_percent });
        let groups = groups.or_fail("no control groups")?;
        if groups.version().is_none() {
            return Ok(Vec::new());
        }
        let slot = |number| groups.slot(number, self.identity).map(Arc::new);
        (0..cells).map(slot).collect::<Result<_, _>>().or_fail("no control group")
    }

    async fn attacks(&self, off: &[Layer], degraded: bool, as_json: bool) -> Result<(), Fail> {
        let own = std::env::current_exe().or_fail("cannot find this program")?;
        let hostile = own.with_file_name(HOSTILE);
        let root = self.root(&hostile)?;
        let canary = format!("canary-{}", hex::encode(clock::random::<16>()));
        let plant = Plant::new(&self.folder(), &canary, &hostile, self.identity, &self.targets);
        let range = Arc::new(Range {
            launcher: self.config.launcher.clone(),
            root: root.root.clone(),
            identity: self.identity,
            plant: plant.or_fail("cannot plant the canaries")?,
            degraded,
            slots: Mutex::new(self.slots(AT_ONCE)?),
        });
        let (mut left, mut running) = (ATTACKS.iter().enumerate(), JoinSet::new());
        let mut verdicts: Vec<(usize, &Attack, Verdict)> = Vec::new();
        loop {
            while running.len() < AT_ONCE
                && let Some((at, attack)) = left.next()
            {
                let (range, off) = (Arc::clone(&range), off.to_vec());
                running.spawn(async move { (at, attack, range.attack(attack, &off).await) });
            }
            let Some(one) = running.join_next().await else { break };
            let (at, attack, verdict) = one.or_fail("an attack")?;
            verdicts.push((at, attack, verdict.or_fail(attack.name)?));
        }
        verdicts.sort_by_key(|(at, ..)| *at);
        tell(&verdicts, off, as_json)
    }

    async fn program(
        &self,
        program: &Path,
        args: &BreachArgs,
        degraded: bool,
        as_json: bool,
    ) -> Result<(), Fail> {
        let root = self.root(program)?;
        let folder = Removed(self.folder());
        let out = folder.0.join("out");
        for path in [&folder.0, &out] {
            make_dir(path, 0o700)?;
            if rustix::process::geteuid().is_root() {
                chown(path, Some(self.identity.uid), Some(self.identity.gid))
                    .or_fail("cannot hand over the output folder")?;
            }
        }
        let mut cell = Cell::new(&self.config.launcher, &root.root, &root.name, Profile::Transcode);
        cell.args.clone_from(&args.args);
        cell.out_dir = Some(out);
        cell.identity = self.identity;
        cell.limits.wall_secs = PROGRAM_SECS;
        cell.layers_off.clone_from(&args.layers_off);
        cell.degraded = degraded || !args.layers_off.is_empty();
        if !args.layers_off.contains(&Layer::Limits) {
            cell.slot = self.slots(1)?.pop();
        }
        let stdout = Stdout::Bytes(SHOWN_BYTES_MAX);
        let outcome = run_cell(&cell, &CancellationToken::new(), stdout).await;
        show(&outcome.or_fail("the cell did not run")?, as_json)
    }
}

/// The first worker's configuration below the cells' folder.
fn worker_file(cells: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(cells).ok()?.flatten();
    let files = folders.map(|folder| folder.path().join("worker.toml"));
    files.filter(|file| file.is_file()).min()
}

fn tell(verdicts: &[(usize, &Attack, Verdict)], off: &[Layer], as_json: bool) -> Result<(), Fail> {
    let worked = verdicts.iter().filter(|(.., verdict)| verdict.succeeded).count();
    let names = |layers: &[Layer]| -> Vec<&str> { layers.iter().map(|it| it.name()).collect() };
    if as_json {
        let row = |(_, attack, verdict): &(usize, &Attack, Verdict)| {
            json!({
                "name": attack.name, "tries": attack.tries, "requirements": attack.requirements,
                "stopped_by": names(attack.stopped_by), "succeeded": verdict.succeeded,
                "by": verdict.by,
            })
        };
        print::json(&json!({
            "layers_off": names(off), "succeeded": worked,
            "attacks": verdicts.iter().map(row).collect::<Vec<Value>>(),
        }));
    } else {
        let row = |(_, attack, verdict): &(usize, &Attack, Verdict)| {
            let how = if verdict.succeeded { "SUCCEEDED" } else { "stopped" };
            [attack.name, attack.tries, how, &verdict.by].map(str::to_owned).to_vec()
        };
        print::line(print::table(&verdicts.iter().map(row).collect::<Vec<_>>()));
        let all = verdicts.len();
        let without = match off {
            [] => String::new(),
            off => format!(", without {}", names(off).join(", ")),
        };
        print::line(format!(
            "\n{all} attacks, {} stopped, {worked} succeeded{without}",
            all - worked
        ));
    }
    if worked == 0 {
        return Ok(());
    }
    Err(Fail::failed(format!("{worked} attacks succeeded")))
}

fn show(outcome: &Outcome, as_json: bool) -> Result<(), Fail> {
    let stdout = String::from_utf8_lossy(&outcome.stdout.bytes);
    if as_json {
        print::json(&json!({ "stdout": stdout, "cut": outcome.stdout.cut, "outcome": outcome }));
    } else {
        let stderr = &outcome.stderr;
        for (name, text) in [("stdout", &*stdout), ("stderr", &stderr.head), ("", &stderr.tail)] {
            if !text.is_empty() {
                print::line(format!("{name}\n{}", text.trim_end()));
            }
        }
        let call = outcome.violation.as_deref().map(|call| format!(", for `{call}`"));
        print::line(format!(
            "\nended {:?}{} after {} ms, {} ms of processor, {} KiB of memory",
            outcome.end,
            call.unwrap_or_default(),
            outcome.wall_ms,
            outcome.cpu_ms,
            outcome.max_rss_bytes / 1024,
        ));
    }
    if matches!(outcome.end, End::LauncherRefused(_)) {
        return Err(Fail::failed("the program was not started"));
    }
    Ok(())
}

/// A name that no other run has.
fn unique() -> String {
    format!("breach-{}", hex::encode(clock::random::<4>()))
}

/// A root that nobody else uses.
struct OwnRoot {
    root: Root,
    name: String,
    _cache: Removed,
}

/// A folder that is removed with everything in it.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            print::note(format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}
