//! ZT-07: the supervisor is killed before each of its system calls: while it makes the root folder of
//! its cells, and while it runs a cell, from lending the files to reading the report. Nothing of the
//! cell outlives it, and the next one removes what it left.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotcell_jail::Identity;
use hotcell_jail::capture::Stdout;
use hotcell_jail::cell::{Cell, End, run};
use hotcell_jail::cgroup::{Choice, Groups, Slot, Wish};
use hotcell_jail::profile::Profile;
use hotcell_jail::program::Program;
use hotcell_jail::root::Root;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::fixture::{PROBE, launcher, marker, words};
use crate::kept::{Unified, cgroups, files_in, mounts_in};
use crate::trace::{self, Event, Follow, Pid};

/// `CACHE [OUT ATTACK [ARGUMENT...]]`: makes this program the supervisor of one such cell, or, with
/// the cache alone, one that makes the root.
const ROLE: &str = "HOTCELL_TEST_SUPERVISOR";
/// Begin of the last argument of a cell that is in control groups; the folder follows, if it is named.
const IN_GROUPS: &str = "in-groups:";
/// Folder in the cache for a copy of the hostile program, so that nobody makes it anew while a test runs.
const PROGRAMS: &str = "programs";
/// A program that is not ours, and not made anew while tests run.
const SMALL: &str = "/usr/bin/env";
/// A supervisor without a call for so long is looked at: it may wait for its cell, or for a processor.
const QUIET: Duration = Duration::from_millis(300);
/// All must be gone so soon after the kill.
const GONE_WITHIN: Duration = Duration::from_secs(60);

fn name() -> String {
    Path::new(PROBE).file_name().unwrap().to_str().unwrap().to_owned()
}

fn cell_of(cache: &Path, out: &Path, args: Vec<String>) -> Cell {
    let program = Program::resolve(&cache.join(PROGRAMS).join(name())).unwrap();
    let root = Root::prepare(cache, &[program]).unwrap();
    let mut cell = Cell::new(launcher(), &root, &name(), Profile::Transcode);
    cell.args = args;
    cell.out_dir = Some(out.to_owned());
    cell
}

/// None, for the groups that this host has, or the one that is named.
fn folders(word: &str) -> Vec<PathBuf> {
    Some(word).filter(|word| !word.is_empty()).map(PathBuf::from).into_iter().collect()
}

/// A slot, and with it the start of a supervisor, which removes what earlier ones left.
fn slot(folders: Vec<PathBuf>) -> Arc<Slot> {
    // The folder has no controller.
    let choice = if folders.is_empty() { Choice::Required } else { Choice::Auto };
    let wish = Wish { choice, folders, cpu_percent: None };
    let groups = Groups::open(&wish).unwrap();
    Arc::new(groups.slot(0, Identity::for_this_process()).unwrap())
}

/// A root of few and small files: nothing is written anew by reading one.
fn small_root(cache: &Path) -> Root {
    Root::prepare(cache, &[Program::resolve(SMALL.as_ref()).unwrap()]).unwrap()
}

/// Not a test but, when its parent says so, the supervisor that the tests kill.
#[test]
fn this_program_as_supervisor() {
    let Ok(line) = std::env::var(ROLE) else { return };
    let mut line = words(&line).into_iter();
    let cache = line.next().unwrap();
    let Some(out) = line.next() else {
        assert!(rustix::process::getppid().is_some());
        return drop(small_root(cache.as_ref()));
    };
    let args: Vec<String> = line.collect();
    let groups = args.last().and_then(|word| word.strip_prefix(IN_GROUPS)).map(folders);
    let mut cell = cell_of(cache.as_ref(), out.as_ref(), args);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The first call that counts.
    assert!(rustix::process::getppid().is_some());
    cell.slot = groups.map(slot);
    let outcome = runtime.block_on(run(&cell, &CancellationToken::new(), Stdout::Discard)).unwrap();
    assert_eq!(outcome.end, End::Exited(0), "{outcome:?}");
}

/// How a supervisor was before its nth call.
#[derive(Debug, PartialEq, Eq)]
enum Was {
    /// There, and then killed.
    There,
    /// Waiting for its cell, without a call for long, and then killed.
    Waiting,
    /// Gone: it had ended.
    Gone,
}

/// Whether a supervisor waits for a cell that runs: its payload has begun, and none of its own threads has anything to
/// do. On a busy machine, silence alone says neither.
fn waits(supervisor: Pid, mark: &str) -> bool {
    let line = |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // Of the marked, the launcher names the program too, but not first.
    let is_payload = |pid: &i32| {
        let line = line(*pid);
        line.split(|byte| *byte == 0).next().is_some_and(|word| word.ends_with(name().as_bytes()))
    };
    let sleeps = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, it)| it.starts_with('S'));
    let mut threads = std::fs::read_dir(format!("/proc/{supervisor}/task")).unwrap().flatten();
    crate::fixture::with_argument(mark).iter().any(is_payload)
        && threads.all(|task| std::fs::read_to_string(task.path().join("stat")).is_ok_and(sleeps))
}

/// Runs a supervisor until its `nth` call, and kills it; its process id too. One whose cell does not end by itself is
/// killed at the latest when it waits for it.
fn killed_at(nth: u32, role: &str, mark: &str, last: &Was) -> (Was, Pid) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "supervisor::this_program_as_supervisor", "--test-threads=1"])
        // Fits no test, but marks this program too, and what it forks until that is the launcher.
        .arg(mark)
        .env(ROLE, role)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let supervisor = trace::start(&mut command, Follow::Threads).unwrap();
    trace::go_on(supervisor, true, 0);
    let (mut counts, mut calls, mut since) = (false, 0, Instant::now());
    let mut was = Was::Gone;
    loop {
        match trace::wait(None, false) {
            Ok(Some((pid, Event::Calls(number)))) => {
                let is = |call: i64| number == u64::try_from(call).unwrap();
                counts |= is(libc::SYS_getppid);
                // Nothing is other after a read than before it, and files have many.
                calls += u32::from(counts && !is(libc::SYS_read));
                if calls == nth && was == Was::Gone {
                    was = Was::There;
                    trace::kill(supervisor);
                } else {
                    trace::go_on(pid, true, 0);
                }
            }
            Ok(Some((_, Event::Gone(_)))) => {}
            Ok(Some((pid, Event::Signalled(signal)))) => {
                trace::go_on(pid, true, if signal == libc::SIGSTOP { 0 } else { signal });
            }
            Ok(Some((pid, _))) => trace::go_on(pid, true, 0),
            Ok(None) if *last == Was::Waiting && was == Was::Gone && since.elapsed() > QUIET => {
                if counts && waits(supervisor, mark) {
                    was = Was::Waiting;
                    trace::kill(supervisor);
                }
            }
            Ok(None) => {
                std::thread::yield_now();
                continue;
            }
            // Nobody is left.
            Err(_) => break,
        }
        since = Instant::now();
    }
    assert!(counts, "the supervisor never began");
    (was, supervisor)
}

/// The cell's user must reach its root.
fn cache() -> TempDir {
    let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir();
    dir.unwrap()
}

/// Half a root is never taken for a whole one, and does not stay.
#[test]
fn killed_while_it_makes_the_root() {
    let whole = cache();
    let root = small_root(whole.path());
    let names = |cache: &TempDir| {
        let files = files_in(cache.path()).into_iter();
        files.map(|path| path.strip_prefix(cache.path()).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (mut nth, mut left) = (0, 0);
    loop {
        nth += 1;
        let cache = cache();
        let (was, _) = killed_at(nth, &cache.path().display().to_string(), "no marker", &Was::Gone);
        left += u32::from(!names(&cache).is_empty() && names(&cache) != names(&whole));
        let again = small_root(cache.path());
        assert_eq!(again.digest(), root.digest());
        assert_eq!(names(&cache), names(&whole), "call {nth}");
        let program = std::fs::read(again.path().join("bin/env")).unwrap();
        assert!(program == std::fs::read(SMALL).unwrap(), "call {nth}");
        if was != Was::There {
            assert_eq!(was, Was::Gone);
            break;
        }
    }
    eprintln!("{nth} moments, {left} with half a root");
    assert!(left > 10, "{left}");
}

/// Until the supervisor has no further call, and is `last`. With groups, the next start removes those that it left.
fn at_every_call(line: &str, last: &Was, groups: Option<&str>) {
    let cache = cache();
    let mark = marker();
    std::fs::create_dir(cache.path().join(PROGRAMS)).unwrap();
    std::fs::copy(PROBE, cache.path().join(PROGRAMS).join(name())).unwrap();
    let _made = cell_of(cache.path(), cache.path(), Vec::new());
    let files = files_in(cache.path());
    let (mut nth, mut with_groups) = (0, 0);
    loop {
        nth += 1;
        let out = tempfile::tempdir().unwrap();
        let (cache, place) = (cache.path().display(), out.path().display());
        let last_word = groups.map(|folder| format!("{IN_GROUPS}{folder}")).unwrap_or_default();
        let role = format!("{cache} {place} {line} {mark} {last_word}");
        let (was, supervisor) = killed_at(nth, &role, &mark, last);
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            let left = crate::fixture::with_argument(&mark);
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "call {nth}: {left:?} live on");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(mounts_in(out.path()), Vec::<String>::new(), "call {nth}");
        out.close().unwrap();
        let names = [format!("hotcell-{supervisor}-"), format!("cell-{supervisor}-")];
        let left = || cgroups(&names[0]).into_iter().chain(cgroups(&names[1])).collect::<Vec<_>>();
        with_groups += u32::from(!left().is_empty());
        // A process without arguments may still be on its way out, and then its groups go with a later start.
        while let Some(folder) = groups.filter(|_| !left().is_empty()) {
            assert!(Instant::now() < deadline, "call {nth}: {:?} stay", left());
            drop(slot(folders(folder)));
        }
        assert_eq!(left(), Vec::<PathBuf>::new(), "call {nth}");
        if was != Was::There {
            assert_eq!(&was, last);
            break;
        }
    }
    eprintln!("{nth} moments, {with_groups} with groups left");
    assert!(nth > 20 && (with_groups > 20) == groups.is_some(), "{nth}, {with_groups}");
    assert_eq!(mounts_in(cache.path()), Vec::<String>::new());
    assert_eq!(files_in(cache.path()), files);
}

#[test]
fn killed_while_its_cell_starts_and_runs() {
    at_every_call("hold", &Was::Waiting, None);
}

#[test]
fn killed_while_its_cell_starts_and_ends() {
    at_every_call("exit 0", &Was::Gone, None);
}

#[test]
fn killed_while_its_cell_in_groups_starts_and_runs() {
    at_every_call("hold", &Was::Waiting, Some(""));
}

#[test]
fn killed_while_its_cell_in_groups_starts_and_ends() {
    at_every_call("exit 0", &Was::Gone, Some(""));
}

#[test]
fn killed_while_its_cell_in_a_group_of_version_2_starts_and_runs() {
    let unified = Unified::new();
    at_every_call("hold", &Was::Waiting, unified.0.to_str());
    assert_eq!(unified.cells(), Vec::<PathBuf>::new());
}

#[test]
fn killed_while_its_cell_in_a_group_of_version_2_starts_and_ends() {
    let unified = Unified::new();
    at_every_call("exit 0", &Was::Gone, unified.0.to_str());
    assert_eq!(unified.cells(), Vec::<PathBuf>::new());
}
