//! What the attacks are after, planted where the real things are: a canary in a file of the worker, in the input and
//! output of another job, in the memory, environment, arguments and descriptors of a neighbour, in its shared memory.
//!
//! Promises: all of it is gone when the value is dropped. Refuses to plant a real secret: the canary is a random word.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::BreachError;
use crate::plan::Identity;

/// The neighbour's one line is six words.
const LINE_BYTES_MAX: u64 = 4096;

/// What listens on this machine, and files that hold real secrets.
#[derive(Debug, Clone)]
pub struct Targets {
    /// The broker.
    pub broker: SocketAddr,
    /// The object store.
    pub store: SocketAddr,
    /// The API.
    pub api: SocketAddr,
    /// A login: it is only opened, never read.
    pub creds: PathBuf,
}

/// The canaries, and the processes that hold them.
#[derive(Debug)]
pub struct Plant {
    folder: PathBuf,
    canary: String,
    values: Vec<(&'static str, String)>,
    /// Ends when its standard input does.
    neighbour: Child,
    /// Open in this process, and not close-on-exec: an honest supervisor has none of these.
    _leaked: File,
    _peer: TcpListener,
    _names: UdpSocket,
}

impl Plant {
    /// Plants all in `folder`, which is made, and must be on a path that `identity` can walk. `canary` is a word that
    /// occurs nowhere else; `hostile` is the hostile program.
    ///
    /// # Errors
    /// [`BreachError::Plant`].
    pub fn new(
        folder: &Path,
        canary: &str,
        hostile: &Path,
        identity: Identity,
        targets: &Targets,
    ) -> Result<Self, BreachError> {
        let failed = |what| move |error| BreachError::Plant(what, error);
        let give = |path: &Path, mode: u32| own(path, identity, mode).map_err(failed("a file"));
        fs::create_dir(folder).map_err(failed("a folder"))?;
        give(folder, 0o711)?;
        let file = |name: &str, mode: u32| {
            let path = folder.join(name);
            fs::write(&path, canary).map_err(failed("a file"))?;
            give(&path, mode)?;
            Ok::<_, BreachError>(path)
        };
        let secret = file("secret", 0o400)?;
        let (other_in, other_out) = (file("other-input", 0o400)?, file("other-output", 0o600)?);
        // A copy that the neighbour's user can reach.
        let program = folder.join("neighbour");
        fs::copy(hostile, &program).map_err(failed("a program"))?;
        give(&program, 0o755)?;
        let (input, root_program) = (folder.join("program"), folder.join("set-user-id"));
        let tools = program_bytes(&program, "program", &input)
            .and_then(|()| give_later(&input, 0o700))
            .and_then(|()| program_bytes(&program, "root_program", &root_program))
            // Says whether it runs as root, and ends: nothing that anybody could use.
            .and_then(|()| fs::set_permissions(&root_program, Permissions::from_mode(0o4755)));
        tools.map_err(failed("a program"))?;

        let (mut neighbour, words) = neighbour(&program, canary, &secret, folder, identity)
            .map_err(failed("a neighbour"))?;
        let rest = plant_here(&secret, &program, &other_in);
        let Here { leaked, peer, names, handle } = rest.inspect_err(|_| {
            // Nobody else knows it yet.
            drop((neighbour.kill(), neighbour.wait()));
        })?;
        let text = |path: &Path| path.display().to_string();
        let address =
            |at: io::Result<SocketAddr>| at.map(|at| at.to_string()).map_err(failed("a port"));
        let mut values = vec![
            ("secret", text(&secret)),
            ("creds", text(&targets.creds)),
            ("other_in", text(&other_in)),
            ("other_out", text(&other_out)),
            ("folder", text(folder)),
            ("socket", text(&folder.join("socket"))),
            ("set_user_id", text(&root_program)),
            ("broker", targets.broker.to_string()),
            ("store", targets.store.to_string()),
            ("api", targets.api.to_string()),
            ("peer", address(peer.local_addr())?),
            ("names", address(names.local_addr())?),
            ("victim", neighbour.id().to_string()),
            ("supervisor", std::process::id().to_string()),
            ("handle", handle),
            ("release_agent", text(&release_agent())),
        ];
        let said = ["address", "writable", "descriptor", "abstract", "shared", "queue"];
        values.extend(said.into_iter().zip(words));
        let (folder, canary) = (folder.to_owned(), canary.to_owned());
        Ok(Self { folder, canary, values, neighbour, _leaked: leaked, _peer: peer, _names: names })
    }

    /// The word that no attack may find.
    #[must_use]
    pub fn canary(&self) -> &str {
        &self.canary
    }

    /// Where everything is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Replaces each `{name}`; `at` is where the cell's root is.
    pub(super) fn fill(&self, template: &str, at: &str, marker: &str) -> Vec<String> {
        let fixed = [("at", at), ("marker", marker)];
        let all = || fixed.into_iter().chain(self.values.iter().map(|(name, it)| (*name, &**it)));
        let fill = |word: &str| {
            all().fold(word.to_owned(), |word, (name, value)| {
                word.replace(&format!("{{{name}}}"), value)
            })
        };
        template.split_whitespace().map(fill).collect()
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        drop(self.neighbour.stdin.take());
        // It ends when its standard input does; if it cannot be waited for, it is gone.
        drop(self.neighbour.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// What is open in this process.
struct Here {
    leaked: File,
    peer: TcpListener,
    names: UdpSocket,
    handle: String,
}

fn plant_here(secret: &Path, program: &Path, other: &Path) -> Result<Here, BreachError> {
    let failed = |what| move |error| BreachError::Plant(what, error);
    let leaked = File::open(secret).map_err(failed("a descriptor"))?;
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty())
        .map_err(|errno| BreachError::Plant("a descriptor", errno.into()))?;
    debug_assert!(leaked.as_raw_fd() > 2);
    let peer = TcpListener::bind("127.0.0.1:0").map_err(failed("a port"))?;
    let names = UdpSocket::bind("127.0.0.1:0").map_err(failed("a port"))?;
    let output = Command::new(program).arg("handle").arg(other).output();
    let output = output.map_err(failed("a file handle"))?;
    let handle = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(Here { leaked, peer, names, handle })
}

fn own(path: &Path, identity: Identity, mode: u32) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(identity.uid), Some(identity.gid))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn give_later(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn program_bytes(hostile: &Path, which: &str, to: &Path) -> io::Result<()> {
    let output = Command::new(hostile).arg(which).env_clear().output()?;
    fs::write(to, output.stdout)
}

fn neighbour(
    program: &Path,
    canary: &str,
    secret: &Path,
    folder: &Path,
    identity: Identity,
) -> io::Result<(Child, Vec<String>)> {
    let mut command = Command::new(program);
    command.arg("neighbour").arg(canary).arg(secret).arg(folder.join("socket"));
    command.env_clear().env("HOTCELL_CANARY", canary).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(identity.uid).gid(identity.gid);
    }
    let mut child = command.spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    }
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    if words.len() == 6 {
        return Ok((child, words));
    }
    drop(child.stdin.take());
    drop(child.wait());
    Err(io::Error::new(io::ErrorKind::InvalidData, line))
}

/// The file by which a control group of the first version starts a program as the host's root.
fn release_agent() -> PathBuf {
    let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let found = groups.map(|group| group.path().join("release_agent")).find(|path| path.exists());
    found.unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup/release_agent"))
}
