//! Real media through real FFmpeg.

use crate::site::Site;
use hotcell_encoder::Image;
use hotcell_schemas::{Digest, RejectCode, report::CellEnd};
use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
};

const FFMPEG: &str = "/usr/bin/ffmpeg";
const FFPROBE: &str = "/usr/bin/ffprobe";

/// A user that owns nothing on this machine.
const USER: u32 = 61_234;

/// Two seconds of picture and sound.
fn media() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp4");
    let made = Command::new(FFMPEG)
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc=s=320x240:r=25:d=2"])
        .args(["-f", "lavfi", "-i", "sine=d=2", "-c:v", "libx264", "-preset", "ultrafast"])
        .args(["-c:a", "aac", "-shortest"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    fs::read(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_encoded_probed_stored_and_reported() {
    let site = Site::start(Path::new(FFMPEG), Path::new(FFPROBE)).await;
    site.order(&media(), |_| {});
    let done = site.work(site.report()).await;
    assert_eq!((done.attempt, done.lease.as_str()), (1, "lease-0"));
    let report = done.report;
    assert_eq!(report.failure, None);

    let [file] = report.files.as_slice() else { panic!("one file") };
    let (objects, nexts) = {
        let seen = site.seen.lock().unwrap();
        (seen.objects.clone(), seen.nexts.clone())
    };
    let stored = &objects[file.name.as_str()];
    assert_eq!((file.size, file.sha256), (stored.len() as u64, Digest::of(stored)));
    let stderr = report.stderr.unwrap();
    let text = zstd::decode_all(objects["stderr.zst"].as_ref()).unwrap();
    assert_eq!(stderr.sha256, Digest::of(&text));
    assert!(String::from_utf8_lossy(&text).contains("Stream #0"), "ffmpeg's own words");

    let (input, output) = (report.input.unwrap(), report.output.unwrap());
    assert_eq!((input.streams[0].height, output.streams[0].height), (Some(240), Some(120)));
    assert_eq!(output.streams.len(), 2);
    assert_eq!(report.encode.unwrap().end, CellEnd::Exited(0));
    let steps = report.steps;
    let times = [steps.fetch, steps.probe, steps.encode, steps.store, steps.done];
    assert!(times.iter().all(Option::is_some) && times.is_sorted(), "{times:?}");

    // What it says of itself is what the operator's tool computes (ZT-03).
    let config = &site.config;
    let own = std::env::current_exe().unwrap();
    let launcher = &config.launcher;
    let image = Image::read(&own, launcher, &config.ffmpeg, &config.ffprobe, &config.root_cache);
    let image = image.unwrap();
    assert_eq!(report.provenance.image_digest, image.digest);
    assert_eq!(report.provenance.root_digest, image.root_digest);
    assert!(report.provenance.ffmpeg.starts_with("ffmpeg version"), "{:?}", report.provenance);
    assert!(report.provenance.degraded.is_empty());
    assert_eq!(nexts[0].image_digest, image.digest);
    assert_eq!(site.left_behind(), [] as [&Path; 0], "ZT-07");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_media_fail_with_their_stderr() {
    let site = Site::start(Path::new(FFMPEG), Path::new(FFPROBE)).await;
    site.order(b"this is no media at all", |_| {});
    let report = site.work(site.report()).await.report;
    assert_eq!(report.failure.unwrap().code, RejectCode::ProbeFailed);
    assert!(report.files.is_empty() && report.encode.is_none());
    assert!(report.stderr.is_some());
    assert!(site.seen.lock().unwrap().objects.contains_key("stderr.zst"));
    assert_eq!(site.left_behind(), [] as [&Path; 0]);
}

/// The program itself, as a user without any right, ended by SIGTERM.
#[tokio::test(flavor = "multi_thread")]
async fn brk_37_the_worker_needs_no_root() {
    let site = Site::start(Path::new(FFMPEG), Path::new(FFPROBE)).await;
    site.order(&media(), |_| {});
    let home = site.dir.path().join("worker");
    fs::create_dir(&home).unwrap();
    let own = |name: &str, from: &Path| {
        let path = home.join(name);
        fs::copy(from, &path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        path.display().to_string()
    };
    let (nats, launcher) = (&site.config.nats, site.config.launcher.display());
    let text = format!(
        "launcher = '{launcher}'\nwork_dir = '{home}/work'\nroot_cache = '{home}/roots'\n\
         [nats]\nurl = '{url}'\ncreds = '{creds}'\ntrust = '{trust}'\n",
        home = home.display(),
        url = nats.url,
        creds = own("login", &nats.creds),
        trust = own("trust.json", &nats.trust),
    );
    let config = home.join("config.toml");
    fs::write(&config, text).unwrap();
    chown(&home, Some(USER), Some(USER)).unwrap();
    fs::set_permissions(site.dir.path(), Permissions::from_mode(0o755)).unwrap();

    let mut worker = Command::new(env!("CARGO_BIN_EXE_hotcell-encoder"))
        .arg(&config)
        .env_clear()
        .stdin(Stdio::null())
        .uid(USER)
        .gid(USER)
        .spawn()
        .unwrap();
    let done = site.report().await;
    // ZT-03: a neighbour of the same user sees neither its memory nor what else /proc tells of it.
    let environ = |pid: u32| {
        let path = format!("/proc/{pid}/environ");
        Command::new("cat").arg(path).uid(USER).gid(USER).output().unwrap().status.success()
    };
    let mut open = Command::new("sleep").arg("60").uid(USER).gid(USER).spawn().unwrap();
    let seen = (environ(open.id()), environ(worker.id()));
    open.kill().unwrap();
    open.wait().unwrap();
    let stopped = Command::new("kill").args(["-TERM", &worker.id().to_string()]).status().unwrap();
    assert!(stopped.success() && worker.wait().unwrap().success());
    assert_eq!(seen, (true, false), "what is not hidden can be read, and the worker is hidden");
    assert_eq!(done.report.failure, None);
    assert_eq!(done.report.files.len(), 1);
    let left = fs::read_dir(home.join("work/w1")).unwrap().count();
    assert_eq!(left, 1, "only the lock is left");
}
