//! ZT-07: the supervisor is killed before each of its system calls while it runs a cell, from lending the files to
//! reading the report. Nothing of the cell outlives it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hotcell_jail::capture::Stdout;
use hotcell_jail::cell::{Cell, run};
use hotcell_jail::profile::Profile;
use hotcell_jail::program::Program;
use hotcell_jail::root::Root;
use tokio_util::sync::CancellationToken;

use crate::fixture::{PROBE, launcher, marker, words};
use crate::kept::{files_in, mounts_in};
use crate::trace::{self, Event, Follow};

/// `CACHE OUT ATTACK [ARGUMENT...]`: makes this program the supervisor of one such cell.
const ROLE: &str = "HOTCELL_TEST_SUPERVISOR";
/// A supervisor that does nothing for so long waits for its cell, which runs.
const QUIET: Duration = Duration::from_millis(300);
/// All must be gone so soon after the kill.
const GONE_WITHIN: Duration = Duration::from_secs(10);

fn cell_of(cache: &Path, out: &Path, args: Vec<String>) -> Cell {
    let root = Root::prepare(cache, &[Program::resolve(PROBE.as_ref()).unwrap()]).unwrap();
    let mut cell = Cell::new(launcher(), &root, "hotcell-hostile", Profile::Transcode);
    cell.args = args;
    cell.out_dir = Some(out.to_owned());
    cell
}

/// Not a test but, when its parent says so, the supervisor that the tests kill.
#[test]
fn this_program_as_supervisor() {
    let Ok(line) = std::env::var(ROLE) else { return };
    let mut line = words(&line).into_iter();
    let (cache, out) = (line.next().unwrap(), line.next().unwrap());
    let cell = cell_of(cache.as_ref(), out.as_ref(), line.collect());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The first call that counts.
    assert!(rustix::process::getppid().is_some());
    runtime.block_on(run(&cell, &CancellationToken::new(), Stdout::Discard)).unwrap();
}

/// Runs a supervisor until its `nth` call, and kills it; false when it had none, because it ended or only waits.
fn killed_at(nth: u32, role: &str, mark: &str) -> bool {
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
    let (mut counts, mut calls, mut last, mut waits) = (false, 0, Instant::now(), false);
    loop {
        match trace::wait(None, false) {
            Ok(Some((pid, Event::Calls(number)))) => {
                counts |= number == u64::try_from(libc::SYS_getppid).unwrap();
                calls += u32::from(counts);
                if counts && calls == nth {
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
            Ok(None) if counts && calls < nth && last.elapsed() > QUIET => {
                waits = true;
                trace::kill(supervisor);
            }
            Ok(None) => {
                std::thread::yield_now();
                continue;
            }
            // Nobody is left.
            Err(_) => break,
        }
        last = Instant::now();
    }
    assert!(counts, "the supervisor never began");
    calls >= nth && !waits
}

fn at_every_call(line: &str) {
    // The cell's user must reach its root.
    let cache = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir();
    let cache = cache.unwrap();
    let mark = marker();
    let _made = cell_of(cache.path(), cache.path(), Vec::new());
    let files = files_in(cache.path());
    let mut nth = 0;
    loop {
        nth += 1;
        let out = tempfile::tempdir().unwrap();
        let (cache, place) = (cache.path().display(), out.path().display());
        let more = killed_at(nth, &format!("{cache} {place} {line} {mark}"), &mark);
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
        if !more {
            break;
        }
    }
    eprintln!("{nth} moments");
    assert!(nth > 20, "{nth}");
    assert_eq!(mounts_in(cache.path()), Vec::<String>::new());
    assert_eq!(files_in(cache.path()), files);
}

#[test]
fn killed_while_its_cell_starts_and_runs() {
    at_every_call("hold");
}

#[test]
fn killed_while_its_cell_starts_and_ends() {
    at_every_call("exit 0");
}
