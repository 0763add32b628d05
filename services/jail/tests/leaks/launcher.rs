//! BRK-04: any process of a cell is killed while any process of it stands before any of its system calls.
//!
//! Nobody survives the launcher. Without process 1, or without the payload, the launcher still ends by itself, and its
//! report names the end truly.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hotcell_jail::Identity;
use hotcell_jail::cgroup::{Choice, Groups, Wish};
use hotcell_jail::root::Root;
use serde_json::{Value, json};

use crate::fixture::{LAUNCHER, STUB, root_of};
use crate::kept::{Unified, files_in, mounts_in};
use crate::trace::{self, Event, Follow, Pid};

/// Who in the cell: how many forks away from the launcher.
const LAUNCHER_ITSELF: usize = 0;
const PROCESS_ONE: usize = 1;
const PAYLOAD: usize = 2;
/// All must be gone so soon after the killed one.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// One cell that is followed, and one kill.
struct Followed {
    /// How many forks away from the launcher each living process is.
    alive: BTreeMap<Pid, usize>,
    /// Stands before its call until the killed one is gone.
    held: Option<Pid>,
    /// Stand at their first instruction until their parent has told of them.
    unknown: BTreeSet<Pid>,
    killed: Option<Pid>,
    /// Wait status of the launcher.
    status: Option<i32>,
    calls: u32,
}

/// The kill: of `victim`, when `who` stands before its `nth` system call.
#[derive(Debug, Clone, Copy)]
struct Kill {
    victim: usize,
    who: usize,
    nth: u32,
}

impl Followed {
    fn find(&self, role: usize) -> Option<Pid> {
        self.alive.iter().find(|(_, generation)| **generation == role).map(|(pid, _)| *pid)
    }

    fn on(&mut self, pid: Pid, event: Event, kill: Kill) {
        let free = self.killed.is_some();
        match event {
            Event::Gone(status) => {
                if self.alive.remove(&pid) == Some(LAUNCHER_ITSELF) {
                    self.status = Some(status);
                }
                if self.killed == Some(pid)
                    && let Some(held) = self.held.take()
                {
                    trace::go_on(held, false, 0);
                }
            }
            Event::Calls(_) if !free && self.alive.get(&pid) == Some(&kill.who) => {
                self.calls += 1;
                match self.find(kill.victim) {
                    Some(victim) if self.calls == kill.nth => {
                        self.killed = Some(victim);
                        self.held = (victim != pid).then_some(pid);
                        trace::kill(victim);
                        // Their parent may not live to tell.
                        for pid in std::mem::take(&mut self.unknown) {
                            self.alive.insert(pid, usize::MAX);
                            trace::go_on(pid, false, 0);
                        }
                    }
                    _ => trace::go_on(pid, true, 0),
                }
            }
            Event::Started(child) => {
                let generation = self.alive[&pid] + 1;
                self.alive.insert(child, generation);
                if self.unknown.remove(&child) {
                    trace::go_on(child, !free, 0);
                }
                trace::go_on(pid, !free, 0);
            }
            // A process that is followed from its first moment stops once by itself, maybe before its parent.
            Event::Signalled(libc::SIGSTOP) if !free && !self.alive.contains_key(&pid) => {
                self.unknown.insert(pid);
            }
            Event::Signalled(libc::SIGSTOP) => {
                self.alive.entry(pid).or_insert(usize::MAX);
                trace::go_on(pid, !free, 0);
            }
            Event::Signalled(signal) => trace::go_on(pid, !free, signal),
            Event::Calls(_) | Event::Returned | Event::Stands => trace::go_on(pid, !free, 0),
        }
    }
}

/// What became of a kill.
enum Ran {
    /// There was no such call: all have been tried.
    Over,
    /// There was nobody to kill, not yet or not any more.
    NoVictim,
    /// The launcher's wait status.
    Killed(i32),
    /// So many were still there long after.
    Survived(usize),
}

fn cell(root: &Root, out: &Path, group: Option<&Path>) -> (Command, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    let mut command = Command::new(LAUNCHER);
    command
        .arg("--root")
        .arg(root.path())
        .arg("--out")
        .arg(out)
        .args(["--profile", "transcode", "--uid", "65534", "--gid", "65534", "--wall-secs", "60"])
        .args(group.iter().flat_map(|group| [OsStr::new("--cgroup"), group.as_os_str()]))
        .args(["--", "/bin/hotcell-stub", "/out/made"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(far)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    (command, near)
}

/// Runs a program to its end with one kill in it.
fn run(mut command: Command, kill: Kill, gone_within: Duration) -> Ran {
    let launcher = trace::start(&mut command, Follow::All).unwrap();
    // It holds the far end of the control socket.
    drop(command);
    let mut followed = Followed {
        alive: BTreeMap::from([(launcher, LAUNCHER_ITSELF)]),
        held: None,
        unknown: BTreeSet::new(),
        killed: None,
        status: None,
        calls: 0,
    };
    trace::go_on(launcher, true, 0);
    let mut deadline = None;
    while !followed.alive.is_empty() {
        match trace::wait(None, deadline.is_none()) {
            Ok(Some((pid, event))) => followed.on(pid, event, kill),
            Ok(None) => std::thread::sleep(Duration::from_micros(200)),
            Err(error) => panic!("{kill:?}: {error}, {:?} not seen to end", followed.alive),
        }
        // From the end of the killed one on: until this thread has seen it, it counts as alive.
        if followed.killed.is_some_and(|pid| !followed.alive.contains_key(&pid)) {
            let at = deadline.get_or_insert_with(|| Instant::now() + gone_within);
            if Instant::now() > *at {
                followed.alive.keys().for_each(|pid| trace::kill(*pid));
                return Ran::Survived(followed.alive.len());
            }
        }
    }
    match followed.killed {
        Some(_) => Ran::Killed(followed.status.unwrap()),
        None if followed.calls >= kill.nth => Ran::NoVictim,
        None => Ran::Over,
    }
}

/// The group of one cell in version 2, as its supervisor makes it.
fn group(folder: &Path, nth: u32) -> PathBuf {
    let group = folder.join(format!("cell-{nth}"));
    std::fs::create_dir(&group).unwrap();
    let identity = rustix::fs::Uid::from_raw(65534);
    rustix::fs::chown(group.join("cgroup.procs"), Some(identity), None).unwrap();
    group
}

/// At every system call of `who`, without a control group, and then in one that process 1 is born into.
fn at_every_call(who: usize, victim: usize, check: impl Fn(Kill, i32, Option<Value>)) {
    at_every_call_in(None, who, victim, &check);
    let unified = Unified::new();
    let wish = Wish { choice: Choice::Auto, folders: vec![unified.0.clone()], cpu_percent: None };
    let groups = Groups::open(&wish).unwrap();
    // Lets its user put processes there.
    let slot = groups.slot(0, Identity::for_this_process()).unwrap();
    at_every_call_in(Some(&unified), who, victim, &check);
    drop((slot, groups));
}

fn at_every_call_in(
    unified: Option<&Unified>,
    who: usize,
    victim: usize,
    check: &dyn Fn(Kill, i32, Option<Value>),
) {
    let root = root_of(&[Path::new(STUB)]);
    let cache = root.path().parent().unwrap();
    let files = files_in(cache);
    let mut kills = 0;
    for nth in 1.. {
        let out = tempfile::tempdir().unwrap();
        let identity = rustix::fs::Uid::from_raw(65534);
        rustix::fs::chown(out.path(), Some(identity), None).unwrap();
        let kill = Kill { victim, who, nth };
        let group = unified.map(|unified| group(&unified.0, nth));
        let (command, mut near) = cell(&root, out.path(), group.as_deref());
        let ran = run(command, kill, GONE_WITHIN);
        let mut report = Vec::new();
        // Instead of an end there may be a reset.
        drop(near.read_to_end(&mut report));
        let report = serde_json::from_slice(&report).ok();
        assert_eq!(mounts_in(cache), Vec::<String>::new(), "{kill:?}");
        assert_eq!(mounts_in(out.path()), Vec::<String>::new(), "{kill:?}");
        out.close().unwrap();
        if let Some(group) = group {
            // Nobody is in it any more.
            std::fs::remove_dir(group).unwrap();
        }
        match ran {
            Ran::Killed(status) => {
                check(kill, status, report);
                kills += 1;
            }
            Ran::NoVictim => {}
            Ran::Over => break,
            Ran::Survived(count) => panic!("{kill:?}: {count} live on"),
        }
    }
    eprintln!("{kills} moments");
    assert!(kills > 0);
    assert_eq!(files_in(cache), files);
}

fn end(report: Option<Value>) -> Value {
    report.map(|report| report["end"].clone()).unwrap_or_default()
}

/// What the launcher says of a cell whose process 1 or payload was killed, unless the payload had ended before.
fn is_named(kill: Kill, status: i32, report: Option<Value>) {
    let end = end(report);
    if end == json!({"exited": 0}) {
        assert_eq!(status, 0, "{kill:?}");
    } else {
        assert_eq!((&end, libc::WEXITSTATUS(status)), (&json!({"signaled": 9}), 137), "{kill:?}");
    }
}

fn is_killed(kill: Kill, status: i32, _report: Option<Value>) {
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == 9, "{kill:?}: {status}");
}

/// The test above all others: a program that leaves somebody behind is seen to.
#[test]
fn a_survivor_is_seen() {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "sleep 60 & wait"]).stdin(Stdio::null()).stdout(Stdio::null());
    let kill = Kill { victim: LAUNCHER_ITSELF, who: PROCESS_ONE, nth: 3 };
    let ran = run(shell, kill, Duration::from_secs(1));
    assert!(matches!(ran, Ran::Survived(1)));
}

#[test]
fn the_launcher_killed_at_each_of_its_own_calls() {
    at_every_call(LAUNCHER_ITSELF, LAUNCHER_ITSELF, is_killed);
}

#[test]
fn the_launcher_killed_at_each_call_of_process_one() {
    at_every_call(PROCESS_ONE, LAUNCHER_ITSELF, is_killed);
}

#[test]
fn the_launcher_killed_at_each_call_of_the_payload() {
    at_every_call(PAYLOAD, LAUNCHER_ITSELF, is_killed);
}

#[test]
fn process_one_killed_at_each_call_of_the_launcher() {
    at_every_call(LAUNCHER_ITSELF, PROCESS_ONE, is_named);
}

#[test]
fn process_one_killed_at_each_of_its_own_calls() {
    at_every_call(PROCESS_ONE, PROCESS_ONE, is_named);
}

#[test]
fn process_one_killed_at_each_call_of_the_payload() {
    at_every_call(PAYLOAD, PROCESS_ONE, is_named);
}

#[test]
fn the_payload_killed_at_each_of_its_own_calls() {
    at_every_call(PAYLOAD, PAYLOAD, is_named);
}
