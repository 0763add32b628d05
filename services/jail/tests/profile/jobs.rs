//! What cells are for: every program and every condition that a line of a profile is there for.

use std::cell::Cell as Flag;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::future;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use hotcell_jail::capture::Stdout;
use hotcell_jail::cell::{Cell, End, Outcome, run};
use hotcell_jail::profile::Profile;
use hotcell_jail::program::Program;
use hotcell_jail::root::Root;
use rustix::process::{Pid, Signal, kill_process};
use seccompiler::BpfProgram;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::compile::compile;

pub(crate) const LAUNCHER: &str = env!("CARGO_BIN_EXE_hotcell-jail");
const VARIANT: &str = env!("CARGO_BIN_EXE_hotcell-jail-variant");
const STUB: &str = env!("CARGO_BIN_EXE_hotcell-stub");
pub(crate) const RARE: &str = env!("CARGO_BIN_EXE_hotcell-rare");
const MINIMAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/ffmpeg/bin");
const DEBIAN: &str = "/usr/bin";

/// Runs of a condition that is met within a few tenths of a second, or not.
const TRIES: usize = 4;

/// Roots, clips and launchers of this process. World-readable, as a service's cache is for its cells.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let mode = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().permissions(mode).tempdir().unwrap()
});

pub(crate) fn folder() -> &'static Path {
    FOLDER.path()
}

fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A launcher whose filters are those of the profile text.
pub(crate) fn launcher_of(text: &str) -> PathBuf {
    let made = compile(text, std::env::consts::ARCH).unwrap();
    let words = |program: &BpfProgram| -> Value {
        program.iter().map(|word| json!([word.code, word.jt, word.jf, word.k])).collect()
    };
    let (payload, watch, init) = (words(&made.payload), words(&made.watch), words(&made.init));
    let file = json!({"payload": payload, "watch": watch, "init": init, "names": made.names});
    let path = FOLDER.path().join(format!("launcher-{}", number()));
    fs::write(path.with_extension("json"), file.to_string()).unwrap();
    symlink(VARIANT, &path).unwrap();
    path
}

/// A root with this program, which gets its file's name there. Made once: Debian's has 200 libraries.
pub(crate) fn root_of(program: &Path) -> Root {
    static MADE: Mutex<BTreeMap<PathBuf, Root>> = Mutex::new(BTreeMap::new());
    let make = || Root::prepare(FOLDER.path(), &[Program::resolve(program).unwrap()]).unwrap();
    MADE.lock().unwrap().entry(program.to_owned()).or_insert_with(make).clone()
}

/// A program of this file, under another name.
fn renamed(program: &str, name: &str) -> PathBuf {
    let place = FOLDER.path().join(name);
    if !place.exists() {
        fs::copy(program, &place).unwrap();
    }
    place
}

/// Our static FFmpeg on a host whose vDSO has no clock: it looks for names that are not there.
fn without_vdso() -> PathBuf {
    let place = FOLDER.path().join("ffmpeg-without-vdso");
    if !place.exists() {
        let mut bytes = fs::read(format!("{MINIMAL}/ffmpeg")).unwrap();
        let found: Vec<usize> =
            (0..bytes.len() - 7).filter(|at| bytes[*at..].starts_with(b"__vdso_")).collect();
        assert!(found.len() >= 4, "the C library of our FFmpeg asks the vDSO by name");
        found.into_iter().for_each(|at| bytes[at + 2] = b'X');
        fs::write(&place, bytes).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    place
}

/// One run of one program, or of one condition that programs meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Job {
    /// The stub of load tests, which is Rust.
    Stub,
    /// As ffprobe.
    StubProbe,
    /// It sleeps for a tenth of a second.
    StubSlow,
    /// It sleeps, and the host stops and continues it, as pausing a container or freezing a cgroup does.
    StubFrozen,
    Version,
    Probe,
    /// Of a file that is not what it should be: FFmpeg looks whether it may print in colour.
    ProbeOfNothing,
    DebianProbe,
    X264,
    /// On a host whose vDSO has no clock.
    X265WithoutVdso,
    X265,
    Audio,
    DebianX264,
    DebianX265TwoPass,
    DebianSvtAv1,
    /// Until the limit of processor time: SIGXCPU, which FFmpeg handles.
    TooLong,
    /// glibc finds the heap broken and aborts.
    BrokenHeap,
    /// A large buffer is enlarged.
    Grow,
    /// As glibc 2.39 and later ask for a file's size.
    Fstat,
    /// A named call, for what process 1 does about it.
    Violation,
}

const IN: &str = "-hide_banner -nostdin -v error -nostats -progress pipe:1 -filter_threads 1 \
                  -protocol_whitelist file -f mov -threads 2 -i /in/0";
const PROBED: &str = "-hide_banner -loglevel error -protocol_whitelist file -f mov -threads 1 \
                      -show_streams -print_format json -i /in/0";

impl Job {
    /// The program and its arguments.
    fn line(self) -> (PathBuf, String) {
        let (minimal, debian) = (format!("{MINIMAL}/ffmpeg"), format!("{DEBIAN}/ffmpeg"));
        let ffmpeg = |program: &str, line: &str| (program.into(), format!("{IN} {line}"));
        let x264 = "-c:v libx264 -preset ultrafast -threads:v 2 -c:a aac -movflags +faststart -f mp4 -n /out/a";
        let x265 = "-c:v libx265 -preset ultrafast -x265-params pools=2:frame-threads=1:log-level=error \
                    -c:a libopus -f matroska -n /out/a";
        let stub =
            |name: &str| (renamed(STUB, name), format!("-f mp4 -i /in/0 -f mp4 /out/{}", number()));
        let rare = |line: &str| (RARE.into(), line.to_owned());
        match self {
            Self::StubProbe => {
                (renamed(STUB, "hotcell-stub"), "-show_streams -print_format json /in/0".to_owned())
            }
            Self::Stub => stub("hotcell-stub"),
            Self::StubSlow => stub("hotcell-stub-fixed-100"),
            Self::StubFrozen => stub("hotcell-stub-fixed-400"),
            Self::Version => (minimal.into(), "-version".to_owned()),
            Self::Probe => (format!("{MINIMAL}/ffprobe").into(), PROBED.to_owned()),
            Self::ProbeOfNothing => {
                (format!("{MINIMAL}/ffprobe").into(), PROBED.replace("mov", "matroska"))
            }
            Self::DebianProbe => (format!("{DEBIAN}/ffprobe").into(), PROBED.to_owned()),
            Self::X264 => ffmpeg(&minimal, x264),
            Self::X265WithoutVdso => (without_vdso(), format!("{IN} {x265}")),
            Self::X265 => ffmpeg(&minimal, x265),
            Self::Audio => ffmpeg(&minimal, "-map 0:a:0 -c:a libmp3lame -f mp3 -n /out/a"),
            Self::DebianX264 => ffmpeg(&debian, x264),
            Self::DebianX265TwoPass => ffmpeg(
                &debian,
                "-c:v libx265 -preset ultrafast -x265-params pass=1:stats=/tmp/log:pools=4:log-level=error \
                 -b:v 200k -an -f mp4 -n /out/a",
            ),
            Self::DebianSvtAv1 => ffmpeg(&debian, "-c:v libsvtav1 -preset 12 -an -f mp4 -n /out/a"),
            Self::TooLong => (
                minimal.into(),
                format!(
                    "-stream_loop -1 {IN} -c:v libx264 -preset slower -an -f matroska -n /out/a"
                ),
            ),
            Self::BrokenHeap => rare("heap"),
            Self::Grow => rare("grow"),
            Self::Fstat => rare("fstat"),
            Self::Violation => rare(&format!("raw {} 1 1 0", libc::SYS_socket)),
        }
    }

    /// Whether it went as it does without any filter.
    pub(crate) fn is_as_ever(self, outcome: &Outcome) -> bool {
        let said = |text: &str| outcome.stderr.head.contains(text);
        if self == Self::TooLong {
            return outcome.end == End::Exited(255) && outcome.cpu_ms >= 900;
        }
        if self == Self::BrokenHeap {
            return outcome.end == End::Signaled(libc::SIGABRT) && said("free(): double free");
        }
        if self == Self::Violation {
            let named = outcome.violation.as_deref() == Some("socket");
            return outcome.end == End::Signaled(libc::SIGSYS) && named;
        }
        outcome.end == End::Exited(i32::from(self == Self::ProbeOfNothing))
    }

    /// Runs it in a cell with this launcher. What is to be frozen is run again when it was over before
    /// a busy machine came to that.
    pub(crate) async fn run(self, launcher: &Path, profile: Profile) -> Outcome {
        for _ in 1..TRIES {
            if let (outcome, true) = self.tried(launcher, profile).await {
                return outcome;
            }
        }
        self.tried(launcher, profile).await.0
    }

    /// How it ended, and whether it met its condition.
    async fn tried(self, launcher: &Path, profile: Profile) -> (Outcome, bool) {
        let (program, line) = self.line();
        let mut cell = cell_of(launcher, &program, &line, profile);
        let out = tempfile::tempdir().unwrap();
        if profile == Profile::Transcode {
            cell.out_dir = Some(out.path().to_owned());
        }
        cell.inputs = vec![clip().await];
        if self == Self::TooLong {
            cell.limits.cpu_secs = 1;
        }
        let marker = line.rsplit(' ').next().unwrap_or_default();
        let never = CancellationToken::new();
        let job = run(&cell, &never, Stdout::Bytes(1 << 20));
        let met = Flag::new(self != Self::StubFrozen);
        let freezing = async {
            if !met.get() {
                freeze(marker).await;
                met.set(true);
            }
            future::pending::<Infallible>().await
        };
        let outcome = tokio::select! {
            outcome = job => outcome.unwrap(),
            never = freezing => match never {},
        };
        (outcome, met.get())
    }
}

/// A cell around a program of any folder.
pub(crate) fn cell_of(launcher: &Path, program: &Path, line: &str, profile: Profile) -> Cell {
    let name = program.file_name().unwrap().to_str().unwrap();
    let mut cell = Cell::new(launcher, &root_of(program), name, profile);
    cell.args = line.split_whitespace().map(str::to_owned).collect();
    cell.limits.wall_secs = 60;
    cell
}

/// Eight frames of test picture and a third of a second of tone, made in a cell, as everything else.
pub(crate) async fn clip() -> PathBuf {
    static CLIP: tokio::sync::OnceCell<TempDir> = tokio::sync::OnceCell::const_new();
    let made = CLIP.get_or_init(|| async {
        let out = tempfile::tempdir().unwrap();
        let line = "-v error -nostdin -f lavfi -i testsrc=d=0.32:s=320x240:r=25 -f lavfi -i sine=d=0.32 \
                    -c:v libx264 -preset ultrafast -c:a aac -f mp4 /out/clip";
        let ffmpeg = Path::new(DEBIAN).join("ffmpeg");
        let mut cell = cell_of(LAUNCHER.as_ref(), &ffmpeg, line, Profile::Transcode);
        cell.out_dir = Some(out.path().to_owned());
        let outcome = run(&cell, &CancellationToken::new(), Stdout::Discard).await.unwrap();
        assert!(outcome.is_clean_success(), "{outcome:?}");
        out
    });
    made.await.path().join("clip")
}

/// Stops the program with this argument while it sleeps, and lets it go on. Ends only by that.
async fn freeze(marker: &str) {
    let sleeping = format!("{} ", libc::SYS_clock_nanosleep);
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let path = entry.path();
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let is_it = line.starts_with(b"/bin/hotcell-stub")
                && line.split(|byte| *byte == 0).any(|arg| arg == marker.as_bytes());
            let state = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
            if !is_it || !state("syscall").starts_with(&sleeping) {
                continue;
            }
            let pid = Pid::from_raw(entry.file_name().to_str().unwrap().parse().unwrap()).unwrap();
            if kill_process(pid, Signal::STOP).is_err() {
                continue;
            }
            while !state("status").contains("State:\tT") {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Fails only when it has ended.
            kill_process(pid, Signal::CONT).ok();
            return;
        }
    }
}

pub(crate) fn both_ffmpegs() -> [PathBuf; 2] {
    [MINIMAL, DEBIAN].map(|folder| Path::new(folder).join("ffmpeg"))
}

/// The clip to `/out/a`.
pub(crate) async fn encode(program: &Path, line: &str) -> Outcome {
    let out = tempfile::tempdir().unwrap();
    let line = format!("{IN} {line} -n /out/a");
    let mut cell = cell_of(LAUNCHER.as_ref(), program, &line, Profile::Transcode);
    cell.inputs = vec![clip().await];
    cell.out_dir = Some(out.path().to_owned());
    run(&cell, &CancellationToken::new(), Stdout::Discard).await.unwrap()
}
