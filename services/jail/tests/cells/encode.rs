//! Honest work in real cells, as root and without root; the stub too.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use hotcell_jail::capture::Stdout;
use hotcell_jail::cell::{Cell, End, run};
use hotcell_jail::output::open_beneath;
use hotcell_jail::profile::Profile;
use hotcell_jail::program::Program;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::fixture::{
    STUB, USER, clip, end_of, launcher, media_root, root_of, text, unprivileged, words,
};

fn ffprobe(input: &Path, line: &str) -> Cell {
    let mut cell = Cell::new(launcher(), &media_root(), "ffprobe", Profile::Probe);
    cell.args = words(line);
    cell.inputs = vec![input.to_owned()];
    cell
}

/// A second of video through every codec that presets use, then ffprobe on the result, in cells.
#[tokio::test]
async fn encodes_and_probes() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path()).await;
    let jobs = [
        ("-c:v libx264 -preset veryfast -c:a aac -movflags +faststart -f mp4 /out/a", "h264"),
        ("-c:v libx265 -preset ultrafast -c:a libmp3lame -f matroska /out/b", "hevc"),
        (
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -row-mt 1 -c:a libopus -f webm /out/c",
            "vp9",
        ),
        ("-c:v libsvtav1 -preset 12 -an -f mp4 /out/d", "av1"),
        (
            "-c:v libx264 -preset ultrafast -c:a aac -f hls -hls_playlist_type vod \
             -hls_segment_filename /out/e%d /out/e",
            "",
        ),
        ("-frames:v 1 -f image2 -c:v mjpeg /out/f", "mjpeg"),
        ("-c:v libaom-av1 -cpu-used 8 -frames:v 5 -an -f mp4 /out/h", "av1"),
        ("-c:v libvpx -deadline realtime -c:a libvorbis -af loudnorm -f webm /out/i", "vp8"),
        ("-c:v libx264 -b:v 200k -pass 1 -passlogfile /tmp/log -an -f mp4 /out/j", "h264"),
        ("-c:v libx265 -x265-params pass=1:stats=/tmp/log -b:v 200k -an -f mp4 /out/k", "hevc"),
    ];
    for (line, codec) in jobs {
        let out = tempfile::tempdir().unwrap();
        let mut cell = Cell::new(launcher(), &media_root(), "ffmpeg", Profile::Transcode);
        let fixed = "-v error -nostdin -f mov,mp4,m4a,3gp,3g2,mj2 -i /in/0 -progress pipe:1";
        cell.args = words(&format!("{fixed} {line}"));
        cell.inputs = vec![source.clone()];
        cell.out_dir = Some(out.path().to_owned());
        let outcome = end_of(&cell).await;
        assert!(outcome.is_clean_success(), "{line}: {outcome:?}");
        assert!(text(&outcome.stdout.bytes).ends_with("progress=end\n"), "{line}");
        assert!(outcome.cpu_ms > 0 && outcome.max_rss_bytes > 1 << 20 && outcome.wall_ms > 0);
        assert_eq!(outcome.profile_hash, Profile::Transcode.hash());
        let name = line.rsplit('/').next().unwrap();
        let (_, bytes) = open_beneath(out.path(), name, 1 << 24).unwrap();
        assert!(bytes > 0);
        if codec.is_empty() {
            continue;
        }
        let produced = out.path().join(name);
        for line in ["-show_streams -show_format", "-count_frames -show_frames -show_streams"] {
            let probe = ffprobe(&produced, &format!("-v error {line} -print_format json /in/0"));
            let outcome = end_of(&probe).await;
            assert!(outcome.is_clean_success(), "{codec}: {outcome:?}");
            let answer: Value = serde_json::from_slice(&outcome.stdout.bytes).unwrap();
            assert_eq!(answer["streams"][0]["codec_name"], codec);
        }
    }
}

/// The library as its callers use it: progress line by line.
#[tokio::test]
async fn progress_comes_in_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut cell = Cell::new(launcher(), &media_root(), "ffmpeg", Profile::Transcode);
    cell.args = words("-nostdin -f lavfi -i testsrc=d=1 -progress pipe:1 -f null -");
    cell.out_dir = Some(dir.path().to_owned());
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let lines = async {
        let mut lines = Vec::new();
        while let Some(line) = receiver.recv().await {
            lines.push(line);
        }
        lines
    };
    let cancel = CancellationToken::new();
    let (outcome, lines) = tokio::join!(run(&cell, &cancel, Stdout::Lines(sender)), lines);
    let outcome = outcome.unwrap();
    assert!(outcome.is_clean_success());
    assert_eq!(lines.last().unwrap(), "progress=end");
    assert!(outcome.stderr.head.contains("ffmpeg version") && outcome.stderr.sha256.len() == 64);
    let json = serde_json::to_value(&outcome).unwrap();
    assert_eq!(json["end"]["exited"], 0);
}

/// BRK-37: no root anywhere: the launcher started by an ordinary user.
#[tokio::test]
async fn works_without_root() {
    let dir = tempfile::tempdir().unwrap();
    let source = clip(dir.path()).await;
    chown(dir.path(), Some(USER), Some(USER)).unwrap();
    chown(&source, Some(USER), Some(USER)).unwrap();
    let copy = dir.path().join("launcher");
    fs::copy(launcher(), &copy).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();

    let root = media_root();
    let (root, out) = (root.path().to_str().unwrap(), dir.path().to_str().unwrap());
    let fixed = ["--root", root, "--profile", "transcode", "--in", source.to_str().unwrap()];
    let line = "-v error -nostdin -f mp4 -i /in/0 -c:v libx264 -preset ultrafast -f mp4 /out/mine";
    let job: Vec<String> = words(&format!("--out {out} -- /bin/ffmpeg {line}"));
    let args: Vec<&str> = fixed.into_iter().chain(job.iter().map(String::as_str)).collect();
    let output = unprivileged(&copy, &args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(fs::metadata(dir.path().join("mine")).unwrap().len() > 1000);
}

/// BRK-58: provenance, asked for inside a cell.
#[tokio::test]
async fn version_is_asked_in_a_cell() {
    let program = Program::resolve(Path::new("/usr/bin/ffmpeg")).unwrap();
    let version = program.version(launcher(), &media_root()).await.unwrap();
    assert!(version.line.starts_with("ffmpeg version "), "{version:?}");
    assert_eq!(version.configuration_sha256.len(), 64);
}

/// The stub answers as ffmpeg and as ffprobe, under the transcode profile, and takes its time when its name says so.
#[tokio::test]
async fn stub_runs_in_a_cell() {
    let dir = tempfile::tempdir().unwrap();
    let slow = dir.path().join("hotcell-stub-fixed-300");
    fs::copy(STUB, &slow).unwrap();
    let root = root_of(&[&slow]);
    let out = tempfile::tempdir().unwrap();
    let mut cell = Cell::new(launcher(), &root, "hotcell-stub-fixed-300", Profile::Transcode);
    cell.args = words("-f mp4 -i /in/0 -c:v libx264 -f mp4 /out/video");
    cell.out_dir = Some(out.path().to_owned());
    let outcome = end_of(&cell).await;
    assert!(outcome.is_clean_success() && outcome.wall_ms >= 300, "{outcome:?}");
    assert_eq!(fs::read(out.path().join("video")).unwrap().len(), 1024);
    assert!(text(&outcome.stdout.bytes).ends_with("progress=end\n"));

    let root = root_of(&[Path::new(STUB)]);
    for profile in [Profile::Probe, Profile::Transcode] {
        let mut cell = Cell::new(launcher(), &root, "hotcell-stub", profile);
        cell.args = words("-v error -show_streams -show_format -print_format json /in/0");
        let outcome = end_of(&cell).await;
        assert_eq!(outcome.end, End::Exited(0));
        let answer: Value = serde_json::from_slice(&outcome.stdout.bytes).unwrap();
        assert_eq!(answer["streams"][0]["width"], 1280);
    }
    let program = Program::resolve(Path::new(STUB)).unwrap();
    let version = program.version(launcher(), &root).await.unwrap();
    assert!(version.line.starts_with("hotcell-stub 0."), "{version:?}");
}
