//! The launcher: one plan in, one cell, one report out.
//!
//! Usage: `hotcell-jail --root DIR --profile probe|transcode [--in FILE]... [--out DIR] [--uid N --gid N]
//! [--LIMIT N]... [--cgroup DIR] [--layer-off NAME]... [--degraded] -- /bin/PROGRAM ARGS...`, or
//! `hotcell-jail --preflight`. Standard input is the control socket: the report is written to it, and when the other side closes it, or half of
//! it, the cell dies. The payload never sees it. Exit code: the payload's, 128 + its signal, 125 when nothing was
//! started, 124 for the wall clock, 123 when cancelled, 122 when the output folder is full. The supervisor, which keeps
//! the cell's group and the clock of progress, makes of 123 and of the payload's end what it alone knows: stalled, out
//! of memory, out of processes.
//!
//! Promises: one thread from start to end; when this process is gone, everything in the cell is. Refuses to start
//! anything when a layer is missing, and says in one sentence what to change.

use std::ffi::OsString;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, setrlimit,
    umask,
};
use thiserror::Error;

use crate::cores::{self, CoresLeave};
use crate::inside::{self, Inside, Note};
use crate::layers::{Layer, Offered, Unfit, decide};
use crate::limits::CellLimits;
use crate::mounts::{MountError, Tree};
use crate::namespaces::{self, NamespaceError};
use crate::plan::{Plan, PlanError};
use crate::profile::{EXEC_FD, Filters, ProfileError, UNKNOWN};
use crate::report::{End, Report};
use crate::sys::{self, Reaped};
use crate::tally::Tally;
use crate::variant;

/// Exit code when the wall clock ended the cell; timeout(1) uses the same.
const WALL_CLOCK: u8 = 124;
/// Exit code when the supervisor ended the cell.
const CANCELLED: u8 = 123;
/// Exit code when the output folder held too much.
const OUTPUT_LIMIT: u8 = 122;
/// What the supervisor alone can find out, should a launcher ever say it.
const STALLED: u8 = 121;
const MEMORY: u8 = 120;
const PIDS: u8 = 119;
/// How often the output folder is counted: a fast disk takes 200 MB meanwhile. 20 000 files take 20 ms to count, so the
/// pause is at least so many times as long as the last count took.
const COUNT_EVERY: Duration = Duration::from_millis(100);
const COUNT_PAUSES: u32 = 20;

/// How long process 1 may take to kill and reap the payload before it is killed itself.
const LETTING_GO: Duration = Duration::from_secs(2);

/// Why nothing was started.
#[derive(Debug, Error)]
enum Refusal {
    #[error("bad command line")]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Cores(#[from] CoresLeave),
    #[error("cannot close inherited descriptors")]
    Descriptors(#[source] io::Error),
    #[error("RLIMIT_NOFILE is below {EXEC_FD}: raise its hard limit")]
    Nofile(#[source] Errno),
    #[error("cannot open /dev/null")]
    Null(#[source] Errno),
    #[error(transparent)]
    Namespaces(#[from] NamespaceError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("cannot open the output folder")]
    Output(#[source] Errno),
    #[error("cannot open the cell's control group")]
    Group(#[source] Errno),
    #[error(
        "cannot start process 1 in the cell's control group: start the supervisor in a group beside it that is owned by \
         the cell's user"
    )]
    StartInGroup(#[source] io::Error),
    #[error("cannot start process 1 of the cell")]
    Start(#[source] io::Error),
    #[error("cannot watch process 1 of the cell")]
    Watch(#[source] Errno),
    #[error("cannot wait for process 1 of the cell")]
    Reap(#[source] io::Error),
}

/// An error and its causes as one sentence.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The whole program: `args` without the program's own name; returns the exit code.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    run(args, None)
}

/// With the filters of the plan's profile, or with a test's.
pub(crate) fn run(
    args: impl IntoIterator<Item = OsString>,
    variant: Option<&'static Filters>,
) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    if args == ["--preflight"] {
        return crate::preflight::answer();
    }
    let started = Instant::now();
    let report = match launch(args, variant) {
        Ok(report) => report,
        Err(refusal) => {
            Report { wall_ms: ms(started.elapsed()), ..Report::refused(sentence(&refusal)) }
        }
    };
    if let End::LauncherRefused(why) = &report.end {
        // If standard error is closed there is nobody to tell; the exit code still says it.
        drop(writeln!(io::stderr(), "hotcell-jail: {why}"));
    }
    tell(&report);
    exit_code(&report.end)
}

fn exit_code(end: &End) -> u8 {
    match end {
        End::Exited(code) => u8::try_from(*code).unwrap_or(u8::MAX),
        End::Signaled(signal) => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
        End::WallClock => WALL_CLOCK,
        End::Cancelled => CANCELLED,
        End::OutputLimit => OUTPUT_LIMIT,
        End::Stalled => STALLED,
        End::Memory => MEMORY,
        End::Pids => PIDS,
        End::LauncherRefused(_) => inside::REFUSED,
    }
}

/// Writes the report to the control socket, if standard input is one.
fn tell(report: &Report) {
    let stdin = rustix::stdio::stdin();
    let socket = |mode| FileType::from_raw_mode(mode) == FileType::Socket;
    if fstat(stdin).is_ok_and(|stat| socket(stat.st_mode))
        && let Ok(mut line) = serde_json::to_vec(report)
    {
        line.push(b'\n');
        // A supervisor that is gone needs no report.
        rustix::io::write(stdin, &line).ok();
    }
}

fn launch(args: Vec<OsString>, variant: Option<&'static Filters>) -> Result<Report, Refusal> {
    let plan = Plan::parse(args)?;
    if !plan.layers_off.contains(&Layer::Descriptors) {
        sys::close_on_exec_from(3).map_err(Refusal::Descriptors)?;
    }
    umask(Mode::from_raw_mode(0o077));
    let offered = Offered::here(plan.degraded.then_some(plan.identity));
    let off = decide(offered, &plan.layers_off, plan.degraded)?;
    let filters = variant.map_or_else(|| plan.profile.filters(), Ok)?;
    if !off.contains(&Layer::Limits) {
        cores::stay_in()?;
    }
    make_room_for_exec_fd()?;
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let null = null.map_err(Refusal::Null)?;

    // As root the sources are taken now, so that the cell's user needs no access to the folders above them.
    let tree =
        if rustix::process::geteuid().is_root() { Some(Tree::detach(&plan, &off)?) } else { None };
    let CellLimits { output_bytes, files, .. } = plan.limits;
    let watched = !off.contains(&Layer::Watch);
    let counted = plan.out_dir.as_ref().filter(|_| watched);
    let tally = counted.map(|out| Tally::open(out, output_bytes, files));
    let tally = tally.transpose().map_err(Refusal::Output)?;
    let group = plan.cgroup.as_deref().map(open_group).transpose().map_err(Refusal::Group)?;
    prefer_in_oom();
    namespaces::enter(plan.identity, &off)?;

    let (reader, notes) = io::pipe().map_err(Refusal::Start)?;
    let (leash, hand) = io::pipe().map_err(Refusal::Start)?;
    let start = Instant::now();
    let Some(pid) = start_first(group.as_ref())? else {
        drop((reader, hand));
        let (notes, leash) = (notes.into(), leash.into());
        let (plan, off, null) = (&plan, off.as_slice(), &null);
        inside::run(Inside { plan, off, offered, filters, tree, null, notes, leash })
    };
    drop((notes, leash, tree));
    let deadline = start.checked_add(Duration::from_secs(plan.limits.wall_secs));
    let deadline = deadline.filter(|_| watched);
    let cut = watch(pid, deadline, tally.as_ref(), hand)?;
    let reaped = sys::reap(pid).map_err(Refusal::Reap)?;
    let wall_ms = ms(start.elapsed());

    // The cell is gone, so the pipe ends here; a note is shorter than this bound.
    let mut bytes = Vec::new();
    reader.take(8192).read_to_end(&mut bytes).map_err(Refusal::Reap)?;
    let Reaped { status, cpu_ms, max_rss_kib } = reaped;
    let note = Note::parse(&bytes);
    let refused = match &note {
        Some(Note::Violated(call)) => filters.name(*call),
        _ => UNKNOWN,
    };
    let mut end = end(cut, note, status);
    let (bytes_out, over) = tally.as_ref().map_or((0, false), last_count);
    if over && matches!(end, End::Exited(_)) {
        end = End::OutputLimit;
    }
    let violation = (end == End::Signaled(Signal::SYS.as_raw())).then(|| refused.to_owned());
    Ok(Report {
        end,
        cpu_ms,
        max_rss_kib,
        wall_ms,
        bytes_out,
        violation,
        profile_hash: match variant {
            Some(_) => variant::HASH.to_owned(),
            None => plan.profile.hash(),
        },
        landlock_abi: offered.landlock_abi,
        degraded: off,
    })
}

/// Before the namespaces: afterwards the path may lead nowhere.
fn open_group(dir: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open(dir, flags, Mode::empty())
}

fn start_first(group: Option<&OwnedFd>) -> Result<Option<Pid>, Refusal> {
    match group {
        Some(group) => match sys::fork_into(group.as_fd()) {
            // The filter of a container engine, which cannot see clone3's flags.
            Err(error) if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => {
                start_and_move(group)
            }
            other => other.map_err(Refusal::StartInGroup),
        },
        None => sys::fork().map_err(Refusal::Start),
    }
}

/// The child moves itself before it does anything else, or ends.
fn start_and_move(group: &OwnedFd) -> Result<Option<Pid>, Refusal> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let members = openat(group, "cgroup.procs", flags, Mode::empty());
    let members = members.map_err(|errno| Refusal::StartInGroup(errno.into()))?;
    let child = sys::fork().map_err(Refusal::StartInGroup)?;
    if child.is_none() && rustix::io::write(&members, b"0").is_err() {
        sys::exit_now(inside::REFUSED);
    }
    Ok(child)
}

/// A host that runs out of memory shall kill a cell, and nothing that other jobs need. Best effort: without it, the
/// kernel goes by size.
fn prefer_in_oom() {
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
}

/// `cut` says that we ended the cell; a payload that ended by itself just before keeps its own end.
fn end(cut: Option<End>, note: Option<Note>, init: ExitStatus) -> End {
    match (note, cut) {
        // It did what it may not: nothing that it said counts.
        (_, _) if init.signal() == Some(Signal::SYS.as_raw()) => broke(init),
        (Some(Note::Refused(why)), None) => End::LauncherRefused(why),
        // Let go while it was still starting.
        (Some(Note::Refused(_)), Some(cut)) => cut,
        (Some(Note::Ended(raw)), Some(cut)) if raw == Signal::KILL.as_raw() => cut,
        (Some(Note::Ended(raw)), _) => ended(ExitStatus::from_raw(raw)),
        // As if the profile's default had ended it: SIGSYS is the end of every refused call.
        (Some(Note::Violated(_)), _) => End::Signaled(Signal::SYS.as_raw()),
        (None, Some(cut)) => cut,
        // Somebody outside killed process 1, for example for memory.
        (None, None) if init.signal() == Some(Signal::KILL.as_raw()) => ended(init),
        (None, None) => broke(init),
    }
}

fn broke(init: ExitStatus) -> End {
    End::LauncherRefused(format!("process 1 of the cell broke: {init}"))
}

fn ended(status: ExitStatus) -> End {
    match status.signal() {
        Some(signal) => End::Signaled(signal),
        None => End::Exited(status.code().unwrap_or_default()),
    }
}

/// The payload is opened as descriptor [`EXEC_FD`], which a soft limit of 1000 or less would not allow.
fn make_room_for_exec_fd() -> Result<(), Refusal> {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::from(EXEC_FD.unsigned_abs()) + 1;
    if limit.current.is_some_and(|soft| soft < needed) {
        let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(Refusal::Nofile)?;
    }
    Ok(())
}

/// Waits for the end of process 1, of the time, of the space, or of the supervisor; ends the cell in the last three
/// cases, by letting `hand` go.
fn watch(
    pid: Pid,
    deadline: Option<Instant>,
    tally: Option<&Tally>,
    hand: PipeWriter,
) -> Result<Option<End>, Refusal> {
    let init: OwnedFd = pidfd_open(pid, PidfdFlags::empty()).map_err(Refusal::Watch)?;
    let mut pause = COUNT_EVERY;
    let cut = loop {
        let now = Instant::now();
        let next = tally.and_then(|_| now.checked_add(pause));
        match wait(&init, [deadline, next].into_iter().flatten().min(), true)? {
            Woken::Ended => return Ok(None),
            Woken::Closed => break End::Cancelled,
            Woken::Late if deadline.is_some_and(|at| at <= Instant::now()) => break End::WallClock,
            Woken::Late => {
                let start = Instant::now();
                if tally.is_some_and(|tally| last_count(tally).1) {
                    break End::OutputLimit;
                }
                pause = COUNT_EVERY.max(start.elapsed().saturating_mul(COUNT_PAUSES));
            }
        }
    };
    drop(hand);
    if wait(&init, Instant::now().checked_add(LETTING_GO), false)? != Woken::Ended {
        // Killing process 1 kills all; that it is gone by now is fine too.
        pidfd_send_signal(&init, Signal::KILL).ok();
    }
    Ok(Some(cut))
}

/// Bytes in the output folder, and whether that, or the number of files, is too much; a folder that cannot be counted
/// is too full.
fn last_count(tally: &Tally) -> (u64, bool) {
    tally.count().map_or((0, true), |held| (held.bytes, tally.is_over(held)))
}

#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Ended,
    Closed,
    Late,
}

fn wait(init: &OwnedFd, deadline: Option<Instant>, supervised: bool) -> Result<Woken, Refusal> {
    let control = rustix::stdio::stdin();
    loop {
        // POLLHUP is always reported; only sockets have the other, which is "will write no more".
        let mut fds = [PollFd::new(init, PollFlags::IN), PollFd::new(&control, PollFlags::RDHUP)];
        let watched = if supervised { &mut fds[..] } else { &mut fds[..1] };
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let ready = match poll(watched, timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            other => other.map_err(Refusal::Watch)?,
        };
        match (ready, fds.map(|fd| !fd.revents().is_empty())) {
            (0, _) => return Ok(Woken::Late),
            (_, [true, _]) => return Ok(Woken::Ended),
            (_, [_, true]) => return Ok(Woken::Closed),
            (_, [false, false]) => {}
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::{End, Note, end, exit_code};

    #[test]
    fn who_ended_the_cell() {
        let (clean, killed) = (ExitStatus::from_raw(0), ExitStatus::from_raw(9));
        let note = |raw| Some(Note::Ended(raw));
        assert_eq!(end(None, note(0), clean), End::Exited(0));
        assert_eq!(end(None, note(0x7d00), clean), End::Exited(125));
        assert_eq!(end(None, note(31), clean), End::Signaled(31));
        assert_eq!(end(Some(End::WallClock), None, killed), End::WallClock);
        assert_eq!(end(Some(End::WallClock), note(9), clean), End::WallClock);
        assert_eq!(end(Some(End::WallClock), note(0), clean), End::Exited(0));
        assert_eq!(end(None, note(9), clean), End::Signaled(9));
        assert_eq!(end(None, None, killed), End::Signaled(9));
        assert!(matches!(end(None, None, clean), End::LauncherRefused(_)));
        let refused = || Some(Note::Refused("x".to_owned()));
        assert_eq!(end(None, refused(), clean), End::LauncherRefused("x".to_owned()));
        assert_eq!(end(Some(End::Cancelled), refused(), clean), End::Cancelled);
        assert_eq!(exit_code(&End::Signaled(31)), 159);
    }
}
