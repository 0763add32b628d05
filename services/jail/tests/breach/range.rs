//! A place for attacks, as the encoder's is, with stand-ins for broker, store and API.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hotcell_jail::Identity;
use hotcell_jail::breach::{ATTACKS, Attack, Plant, Range, Targets, Verdict};
use hotcell_jail::layers::Layer;
use hotcell_jail::program::Program;
use hotcell_jail::root::Root;
use tempfile::TempDir;
use tokio::task::JoinSet;

const LAUNCHER: &str = env!("CARGO_BIN_EXE_hotcell-jail");
const HOSTILE: &str = env!("CARGO_BIN_EXE_hotcell-hostile");
/// Cells at once: most of them wait for the kernel, some for a clock.
const AT_ONCE: usize = 16;

/// Everything that one test needs; the fields are held for their `Drop`.
pub(crate) struct Place {
    pub(crate) range: Arc<Range>,
    /// Whether everything can be shown.
    pub(crate) is_root: bool,
    _folder: TempDir,
    _listeners: Vec<TcpListener>,
}

impl Place {
    /// On a thread that keeps to itself: it changes its network.
    pub(crate) fn new() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let mut listeners = Vec::new();
        if is_root {
            listeners.extend(crate::network::enter());
        }
        let mut listen = || {
            listeners.push(TcpListener::bind("127.0.0.1:0").unwrap());
            listeners.last().unwrap().local_addr().unwrap()
        };
        let (broker, store, api) = (listen(), listen(), listen());
        // On a path that every user can walk.
        let open = Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().permissions(open).tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let identity = Identity::for_this_process();
        let creds = at("worker.creds");
        fs::write(&creds, "a login").unwrap();
        if is_root {
            std::os::unix::fs::chown(&creds, Some(identity.uid), Some(identity.gid)).unwrap();
        }
        let targets = Targets { broker, store, api, creds };
        let canary = format!("canary-{}-of-a-test", std::process::id());
        let hostile = Path::new(HOSTILE);
        let plant = Plant::new(&at("work"), &canary, hostile, identity, &targets).unwrap();
        fs::create_dir(at("roots")).unwrap();
        let root = Root::prepare(&at("roots"), &[Program::resolve(hostile).unwrap()]).unwrap();
        let range = Range {
            launcher: LAUNCHER.into(),
            root,
            identity,
            plant,
            degraded: false,
            slots: Mutex::default(),
        };
        Self { range: Arc::new(range), is_root, _folder: folder, _listeners: listeners }
    }

    /// Attacks that can be shown to work here.
    pub(crate) fn showable(&self) -> impl Iterator<Item = &'static Attack> {
        let is_root = self.is_root;
        // Without a network of its own, a test may not ask for a metadata service.
        let showable =
            |attack: &&Attack| !attack.needs_root() && !attack.requirements.contains(&"BRK-29");
        let (here, not): (Vec<&Attack>, Vec<&Attack>) =
            ATTACKS.iter().partition(|attack| is_root || showable(attack));
        for attack in not {
            eprintln!("not shown to work, which needs root: {}", attack.name);
        }
        here.into_iter().filter(|attack| !attack.is_shown_outside())
    }

    /// Runs many attacks, some at once; results in any order.
    pub(crate) async fn run(
        &self,
        all: impl IntoIterator<Item = (&'static Attack, Vec<Layer>)>,
    ) -> Vec<(&'static Attack, Vec<Layer>, Verdict)> {
        let (mut all, mut running, mut done) = (all.into_iter(), JoinSet::new(), Vec::new());
        loop {
            while running.len() < AT_ONCE
                && let Some((attack, off)) = all.next()
            {
                let range = Arc::clone(&self.range);
                running.spawn(async move {
                    let verdict = range.attack(attack, &off).await;
                    let verdict = verdict.unwrap_or_else(|error| {
                        panic!("{} without {off:?}: {error:?}", attack.name)
                    });
                    (attack, off, verdict)
                });
            }
            match running.join_next().await {
                Some(one) => done.push(one.unwrap()),
                None => return done,
            }
        }
    }
}
