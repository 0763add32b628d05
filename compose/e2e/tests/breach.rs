//! `hotcell breach` against a whole installation: its own broker, store, API, login and folders.
//!
//! NEW-01, BRK-01..05, BRK-08, BRK-26..31: what code in ffmpeg's place tries, it tries in vain.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::Result;
use hotcell_e2e::up::{Up, programs};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn breach(up: &Up, args: &[&str]) -> Result<Output> {
    up.cli(&[&["breach"], args].concat())
}

fn names(output: &Output, which: impl Fn(&Value) -> bool) -> BTreeSet<String> {
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let attacks = all["attacks"].as_array().unwrap().iter();
    attacks.filter(|it| which(it)).map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn new_01_a_running_installation_stops_every_attack_and_a_missing_layer_shows() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let whole = breach(&up, &["--json"])?;
    let said = String::from_utf8_lossy(&whole.stderr).into_owned();
    assert_eq!(whole.status.code(), Some(0), "{said}");
    assert!(names(&whole, |it| it["succeeded"] == true).is_empty());
    assert!(names(&whole, |_| true).len() > 100);

    // What the table says that this layer alone stops, as far as this kernel has it.
    let without = breach(&up, &["--json", "--layer-off", "mdwe"])?;
    assert_eq!(without.status.code(), Some(1));
    let alone = names(&without, |it| it["stopped_by"] == serde_json::json!(["mdwe"]));
    assert_eq!(names(&without, |it| it["succeeded"] == true), alone);
    assert!(!alone.is_empty());

    // A line for each attack, and a sum.
    let lines = breach(&up, &[])?;
    let text = String::from_utf8(lines.stdout)?;
    let count = names(&whole, |_| true).len();
    assert!(
        text.ends_with(&format!("\n{count} attacks, {count} stopped, 0 succeeded\n")),
        "{text}"
    );
    assert!(text.lines().any(|line| {
        line.starts_with("connect_broker ") && line.ends_with(" stopped  killed for `socket`")
    }));

    // A program of the reviewer's.
    let own = breach(&up, &["--program", "/usr/bin/printf", "--", "%s\\033[2J", "seen"])?;
    let text = String::from_utf8(own.stdout)?;
    assert_eq!(own.status.code(), Some(0), "{text}");
    assert!(text.starts_with("stdout\nseen\u{fffd}[2J\n"), "{text}");
    assert!(text.contains("\nended Exited(0) after "), "{text}");
    let wrong = breach(&up, &["--layer-off", "everything"])?;
    assert_eq!(wrong.status.code(), Some(2));

    // Nothing of it is left where the worker's things are.
    let worker = std::fs::read(format!("/proc/{}/cmdline", up.pid("worker-1").unwrap()))?;
    let config = worker.split(|byte| *byte == 0).nth(1).unwrap();
    let cells = Path::new(std::str::from_utf8(config)?).ancestors().nth(2).unwrap();
    assert!(cells.join("roots").is_dir());
    assert_eq!(left(cells), Vec::<PathBuf>::new());
    Ok(())
}

/// What `breach` calls its folders, below `folder`.
fn left(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("breach-") {
            found.push(entry.path());
        } else if entry.file_type().unwrap().is_dir() {
            found.extend(left(&entry.path()));
        }
    }
    found
}

#[test]
fn an_installation_that_does_not_run_is_not_attacked() -> Result<()> {
    let up = Up::start(&["--encoders", "0"])?;
    let none = breach(&up, &[])?;
    assert_eq!(none.status.code(), Some(69), "there is no worker");
    let dir = up.stop()?;
    let program = programs().join("hotcell");
    let stopped = Command::new(program).arg("breach").arg("--data").arg(dir.path()).output()?;
    assert_eq!(stopped.status.code(), Some(69));
    assert!(String::from_utf8(stopped.stderr)?.contains("start `hotcell up` first"));
    Ok(())
}
