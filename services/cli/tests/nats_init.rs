//! `hotcell nats init` makes logins that end, unless it is told otherwise in so many words.
#![allow(clippy::unwrap_used, reason = "tests")]

use hotcell_nats_config::{FoundLogin, Installation};
use hotcell_stage::clock;
use std::{
    path::Path,
    process::{Command, Output},
};

const DAY_SECS: u64 = 86_400;

fn made(dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotcell"));
    command.args(["nats", "init"]).arg(dir).args(["--worker", "w1:cpu"]).args(more);
    command.output().unwrap()
}

fn logins(dir: &Path) -> Vec<FoundLogin> {
    let found = Installation::open(dir).unwrap().logins().unwrap();
    assert!(found.len() > 8, "services, workers and the operator");
    found
}

// IAM-02, ZT-03: who says nothing gets logins of a day; who wants them without an end says so, is
// warned, and loses no end that is there.
#[test]
fn logins_end_within_a_day_unless_never_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let said = made(dir.path(), &[]);
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stdout).contains("creds-agent"), "{said:?}");
    let day = clock::now().secs() + DAY_SECS;
    for found in logins(dir.path()) {
        let end = found.claims.exp;
        assert!(end.is_some_and(|end| end.abs_diff(day) < 60), "{:?}", found.login);
    }

    let never = tempfile::tempdir().unwrap();
    let said = made(never.path(), &["--expires", "never"]);
    assert!(said.status.success(), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("do not end"), "{said:?}");
    assert!(logins(never.path()).iter().all(|found| found.claims.exp.is_none()));
    made(dir.path(), &["--expires", "never"]);
    assert!(logins(dir.path()).iter().all(|found| found.claims.exp.is_some()));
    // What was made without an end gets one by the plain words.
    made(never.path(), &[]);
    assert!(logins(never.path()).iter().all(|found| found.claims.exp.is_some()));

    for bad in ["25h", "1m", "0", "forever", ""] {
        let refused = made(never.path(), &["--expires", bad]);
        assert_eq!(refused.status.code(), Some(2), "{bad}: {refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("or never"), "{refused:?}");
    }
}
