//! `hotcell doctor`: can this machine run cells safely, and with what.
//!
//! Promises: every answer comes from trying or reading the thing itself; nothing is changed and
//! nothing is left behind; whatever is not good says what to do. Refuses to call good what it could
//! not find out. It stops nothing: services do their own checks, and a known weakness of FFmpeg
//! fails this command only, because the cell is built for an FFmpeg that has one.

mod ffmpeg;
mod host;
mod known;

use crate::{args::DoctorArgs, fail::Fail, print, up};
use serde::Serialize;
use serde_json::Value;
use std::{fs, path::Path};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Good.
    Ok,
    /// It works, with less than it could.
    Warn,
    /// It does not work, or is not safe.
    Fail,
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// What to do; empty when nothing is to be done.
    change: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    detail: Value,
}

impl Check {
    fn new(name: &'static str, state: State, found: String, change: String) -> Self {
        Self { name, state, found, change, detail: Value::Null }
    }

    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, State::Ok, found.into(), String::new())
    }

    fn warn(name: &'static str, found: impl Into<String>, change: impl Into<String>) -> Self {
        Self::new(name, State::Warn, found.into(), change.into())
    }

    fn fail(name: &'static str, found: impl Into<String>, change: impl Into<String>) -> Self {
        Self::new(name, State::Fail, found.into(), change.into())
    }
}

/// `hotcell doctor`.
pub(crate) async fn run(data: &Path, _args: &DoctorArgs, json: bool) -> Result<(), Fail> {
    let launcher = up::programs()?.join("hotcell-jail");
    let (at, folder) = (launcher.clone(), data.to_owned());
    let work = move || host::checks(&at, &folder);
    let mut checks = tokio::task::spawn_blocking(work).await.unwrap_or_default();
    let scratch = ffmpeg::scratch();
    // Entered by the cells' user, who is another one than root.
    crate::layout::make_dir(&scratch, 0o755)?;
    checks.extend(ffmpeg::checks(&launcher, &scratch).await);
    if let Err(error) = fs::remove_dir_all(&scratch) {
        print::note(format!("cannot remove {}: {error}", scratch.display()));
    }
    if json {
        print::json(&checks);
    } else {
        print::line(print::table(&rows(&checks)));
    }
    match checks.iter().filter(|check| check.state == State::Fail).count() {
        0 => Ok(()),
        1 => Err(Fail::failed("1 check failed: do what its row says, then ask again")),
        count => Err(Fail::failed(format!("{count} checks failed: do what their rows say"))),
    }
}

/// The table: what is not good first says what was found, then what to do.
fn rows(checks: &[Check]) -> Vec<Vec<String>> {
    let heading = ["check", "state", "found"].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    for check in checks {
        let state = match check.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        rows.push(vec![check.name.to_owned(), state.to_owned(), check.found.clone()]);
        if !check.change.is_empty() {
            rows.push(vec![String::new(), String::new(), format!("-> {}", check.change)]);
        }
    }
    rows
}

/// Bytes for people.
fn bytes(count: u64) -> String {
    let (gib, tenths) = (count >> 30, ((count & ((1 << 30) - 1)) * 10) >> 30);
    format!("{gib}.{tenths} GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_to_do_below_what_is_not_good() {
        let checks =
            [Check::ok("kernel", "6.18"), Check::fail("landlock", "ABI 0", "boot with lsm=")];
        let text = print::table(&rows(&checks));
        assert_eq!(
            text,
            "check     state  found\nkernel    ok     6.18\nlandlock  FAIL   ABI 0\n                 \
             -> boot with lsm="
        );
    }

    #[test]
    fn sizes() {
        assert_eq!((bytes(12 << 30), bytes((3 << 30) / 2)), ("12.0 GiB".into(), "1.5 GiB".into()));
    }
}
