//! A host that lacks a layer: the worker does not start, unless it is told to, and then every
//! report names the layer.

use crate::site::Site;
use hotcell_schemas::report::CellEnd;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const FFMPEG: &str = "/usr/bin/ffmpeg";
const FFPROBE: &str = "/usr/bin/ffprobe";

/// The worker's own program on a kernel without Landlock.
fn worker(site: &Site, more: &str) -> Command {
    let (nats, launcher) = (&site.config.nats, site.config.launcher.display());
    let dir = site.dir.path().display();
    let text = format!(
        "{more}launcher = '{launcher}'\nwork_dir = '{dir}/work'\nroot_cache = '{dir}/roots'\n\
         ffmpeg = '{FFMPEG}'\nffprobe = '{FFPROBE}'\n\
         [nats]\nurl = '{}'\ncreds = '{}'\ntrust = '{}'\n",
        nats.url,
        nats.creds.display(),
        nats.trust.display(),
    );
    let config: PathBuf = site.dir.path().join("config.toml");
    fs::write(&config, text).unwrap();
    let mut command = Command::new("python3");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/without_landlock.py"))
        .args([Path::new(env!("CARGO_BIN_EXE_hotcell-encoder")), &config])
        .stdin(Stdio::null());
    command
}

/// Ends the worker whatever the test finds.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_lacks_a_layer_is_refused_or_named_in_every_report() {
    let site = Site::start(Path::new(FFMPEG), Path::new(FFPROBE)).await;
    let refused = worker(&site, "").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(said.contains("Landlock ABI 3 or later is needed"), "{said}");
    assert!(site.seen.lock().unwrap().nexts.is_empty(), "it asked for no work");

    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("a.mp4");
    let made = Command::new(FFMPEG)
        .args("-v error -f lavfi -i testsrc=s=160x120:d=1 -pix_fmt yuv420p".split(' '))
        .arg(&clip)
        .status()
        .unwrap();
    assert!(made.success());
    site.order(&fs::read(&clip).unwrap(), |_| {});
    let _running = Running(worker(&site, "degraded = true\n").spawn().unwrap());
    let report = site.report().await.report;
    assert_eq!(report.failure, None);
    assert_eq!(report.provenance.degraded, ["landlock"]);
    assert_eq!(report.encode.unwrap().end, CellEnd::Exited(0), "the other layers are on");
}
