//! `hotcell doctor` as an operator runs it, on this very machine, with each FFmpeg that is here.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// The program, beside the launcher that it asks.
fn hotcell() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_hotcell"));
    let launcher = path.with_file_name("hotcell-jail");
    assert!(launcher.exists(), "{} is missing: cargo build --bins", launcher.display());
    path
}

/// Exit code and answer; `programs` is the folder of ffmpeg and ffprobe.
fn doctor(programs: Option<&Path>) -> (i32, Vec<Value>) {
    let scratch = tempfile::tempdir().unwrap();
    // The cell's user enters it.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(hotcell());
    command.args(["doctor", "--json"]).env("TMPDIR", scratch.path());
    for (variable, name) in [("HOTCELL_FFMPEG", "ffmpeg"), ("HOTCELL_FFPROBE", "ffprobe")] {
        command.env_remove(variable);
        if let Some(folder) = programs {
            command.env(variable, folder.join(name));
        }
    }
    let out = command.output().unwrap();
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "something is left behind");
    let checks = serde_json::from_slice(&out.stdout);
    let checks =
        checks.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out.stderr)));
    (out.status.code().unwrap(), checks)
}

fn check<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name}: {checks:?}"))
}

/// BRK-58, BRK-64: every byte that runs in the cell has a hash, and this repository's own FFmpeg is known.
#[test]
fn the_minimal_ffmpeg_is_told_by_its_bytes_and_has_no_known_weakness_within_reach() {
    let (code, checks) = doctor(None);
    let failed: Vec<_> = checks.iter().filter(|check| check["state"] == "fail").collect();
    assert!(failed.is_empty() && code == 0, "{failed:?}");
    for name in ["kernel", "landlock", "seccomp", "cgroups", "nats-server", "disk space"] {
        assert!(!check(&checks, name)["found"].as_str().unwrap().is_empty(), "{name}");
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/ffmpeg");
    let manifest = fs::read_to_string(tools.join("MANIFEST")).unwrap();
    let says = |line: String| assert!(manifest.contains(&line), "{line}");
    for name in ["ffmpeg", "ffprobe"] {
        let detail = &check(&checks, name)["detail"];
        says(format!("sha256 {}  {name}", detail["sha256"].as_str().unwrap()));
        says(format!("configuration {}", detail["configuration_sha256"].as_str().unwrap()));
        assert_eq!(detail["files"].as_array().unwrap().len(), 1, "static");
        assert_eq!(check(&checks, &format!("{name} build"))["state"], "ok");
    }
    let known = check(&checks, "known CVEs");
    assert_eq!(known["detail"]["present"], serde_json::json!([]));
    let absent = known["detail"]["not_built"].as_array().unwrap();
    assert!(!absent.is_empty(), "some are in code that it lacks");
}

/// BRK-64: a published weakness in code that is there fails the command, and says where it is published.
#[test]
fn a_version_with_known_weaknesses_fails() {
    let (code, checks) = doctor(Some(Path::new("/usr/bin")));
    let files = check(&checks, "ffmpeg")["detail"]["files"].as_array().unwrap().len();
    assert!(files > 50, "each library has its hash: {files}");
    assert_eq!(check(&checks, "ffmpeg build")["state"], "warn");
    let known = check(&checks, "known CVEs");
    let present = known["detail"]["present"].as_array().unwrap();
    // Which there are depends on what the distribution has by now; the rule does not.
    assert_eq!(known["state"] == "fail", !present.is_empty());
    assert_eq!(code, i32::from(!present.is_empty()));
    for entry in present {
        assert!(entry["source"][0].as_str().unwrap().starts_with("https://"), "{entry}");
    }
}

#[test]
fn a_missing_ffmpeg_fails_and_says_what_to_do() {
    let (code, checks) = doctor(Some(Path::new("/nonexistent")));
    assert_eq!(code, 1);
    let ffmpeg = check(&checks, "ffmpeg");
    assert_eq!(ffmpeg["state"], "fail");
    assert!(ffmpeg["change"].as_str().unwrap().contains("make ffmpeg"), "{ffmpeg}");
}
