//! Roots, cells and clips for the tests.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use hotcell_jail::capture::Stdout;
use hotcell_jail::cell::{Cell, Outcome, run};
use hotcell_jail::profile::Profile;
use hotcell_jail::program::Program;
use hotcell_jail::root::Root;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) const LAUNCHER: &str = env!("CARGO_BIN_EXE_hotcell-jail");
pub(crate) const PROBE: &str = env!("CARGO_BIN_EXE_hotcell-hostile");
pub(crate) const STUB: &str = env!("CARGO_BIN_EXE_hotcell-stub");
/// Some user that is neither root nor `nobody`.
pub(crate) const USER: u32 = 4321;

/// One cache for all tests of this process; the folder is world-readable, as a service's cache is for its cells.
static CACHE: LazyLock<TempDir> = LazyLock::new(|| {
    let dir =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir();
    dir.unwrap()
});

pub(crate) fn launcher() -> &'static Path {
    Path::new(LAUNCHER)
}

pub(crate) fn root_of(paths: &[&Path]) -> Root {
    let programs: Vec<Program> = paths.iter().map(|path| Program::resolve(path).unwrap()).collect();
    Root::prepare(CACHE.path(), &programs).unwrap()
}

pub(crate) fn media_root() -> Root {
    root_of(&[Path::new("/usr/bin/ffmpeg"), Path::new("/usr/bin/ffprobe")])
}

pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// A cell around the hostile program, with an output folder that lives as long as the returned guard.
pub(crate) fn hostile(line: &str) -> (Cell, TempDir) {
    let out = tempfile::tempdir().unwrap();
    let root = root_of(&[Path::new(PROBE)]);
    let mut cell = Cell::new(launcher(), &root, "hotcell-hostile", Profile::Transcode);
    cell.args = words(line);
    cell.out_dir = Some(out.path().to_owned());
    cell.limits.wall_secs = 60;
    (cell, out)
}

pub(crate) async fn end_of(cell: &Cell) -> Outcome {
    run(cell, &CancellationToken::new(), Stdout::Bytes(1 << 20)).await.unwrap()
}

/// The hostile program without a cell, as root.
pub(crate) fn outside(line: &str) -> Output {
    Command::new(PROBE).args(words(line)).output().unwrap()
}

/// The launcher started by a user who never was root, as in a production container.
pub(crate) fn unprivileged(launcher: &Path, args: &[&str]) -> Output {
    // uid() and gid() drop the groups too.
    Command::new(launcher)
        .args(args)
        .env_clear()
        .current_dir("/")
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One second of test picture and tone, made inside a cell, as everything else.
pub(crate) async fn clip(dir: &Path) -> PathBuf {
    let mut cell = Cell::new(launcher(), &media_root(), "ffmpeg", Profile::Transcode);
    cell.args = words(
        "-v error -nostdin -f lavfi -i testsrc=d=1:s=320x240:r=25 -f lavfi -i sine=d=1 \
         -c:v libx264 -preset ultrafast -c:a aac -f mp4 /out/clip",
    );
    cell.out_dir = Some(dir.to_owned());
    let outcome = end_of(&cell).await;
    assert!(outcome.is_clean_success(), "{outcome:?}");
    dir.join("clip")
}

/// Polls until `done`, for at most a minute.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processes on the host whose command line has this marker as an argument.
pub(crate) fn with_argument(marker: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|arg| arg == marker.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// A number that no other test has, to mark a process by.
pub(crate) fn marker() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("marker-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
