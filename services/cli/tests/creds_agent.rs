//! `hotcell creds-agent` as it runs beside a service: with one credential file and one key.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_nats_config::{InitOptions, Login, creds, init};
use hotcell_schemas::Role;
use hotcell_stage::clock;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

fn agent(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotcell"));
    command.arg("creds-agent").arg("--dir").arg(dir).args(["--login", "intake"]).args(more);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with the login of intake, and the key of `scope` alone.
fn folder(from: &Path, scope: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["creds", "keys"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::copy(from.join("creds/intake.creds"), dir.path().join("creds/intake.creds")).unwrap();
    let key = format!("keys/{scope}.nk");
    fs::copy(from.join(&key), dir.path().join(&key)).unwrap();
    dir
}

// IAM-02, IAM-03, BRK-84 (least privilege): the key of the login's own role renews it, no other
// does, and the operator's is not needed.
#[test]
fn one_scoped_key_keeps_one_login_fresh() {
    let whole = tempfile::tempdir().unwrap();
    let options = InitOptions { now: clock::now(), ..InitOptions::default() };
    let installation = init(whole.path(), &options).unwrap();
    let before = installation.creds(&Login::Service(Role::Intake)).unwrap();

    let own = folder(whole.path(), "pipeline.intake");
    let file = own.path().join("creds/intake.creds");
    chown(&file, Some(64_139), Some(64_139)).unwrap();
    let end = || clock::now().secs() + 900;
    let begun = end();
    let output = agent(own.path(), &["--once", "--expires", "15m"]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let after = creds::read(&file).unwrap();
    let ends = begun..=end();
    assert!(after.claims.exp.is_some_and(|exp| ends.contains(&exp)), "{:?}", after.claims.exp);
    assert_eq!(after.key.public_key(), before.key.public_key());
    assert_eq!(after.claims.nats, before.claims.nats);
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (64_139, 0o600));

    // Not due: left alone. It runs until it is told to stop.
    let text = fs::read(&file).unwrap();
    let mut running =
        agent(own.path(), &["--expires", "15m"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(running.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("is valid until"), "{line}");
    assert!(running.try_wait().unwrap().is_none(), "the agent ended");
    let pid = running.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = running.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < until, "the agent does not stop");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success());
    assert_eq!(fs::read(&file).unwrap(), text);

    for (scope, says) in [("pipeline.signer", "no key in"), ("operator.signing", "no key in")] {
        let other = folder(whole.path(), scope);
        let output = agent(other.path(), &["--once"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{scope}");
        assert!(said(&output).contains(says), "{}", said(&output));
    }
    for life in ["14m", "25h", "15"] {
        let output = agent(own.path(), &["--once", "--expires", life]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{life}");
        assert!(said(&output).contains("between 15m and 24h"), "{}", said(&output));
    }
}

// IAM-03: an agent of several that is started again for ever, because one of its folders is wrong, still
// keeps the others; a login behind a link is renewed where services read it.
#[test]
fn a_login_that_cannot_be_renewed_keeps_no_other_from_it_and_links_are_followed() {
    let whole = tempfile::tempdir().unwrap();
    init(whole.path(), &InitOptions { now: clock::now(), ..InitOptions::default() }).unwrap();
    let wrong = folder(whole.path(), "pipeline.signer");
    let own = folder(whole.path(), "pipeline.intake");
    let (link, real) = (own.path().join("creds/intake.creds"), own.path().join("real.creds"));
    fs::rename(&link, &real).unwrap();
    symlink(&real, &link).unwrap();

    let both = ["--dir", own.path().to_str().unwrap(), "--once", "--expires", "15m"];
    let output = agent(wrong.path(), &both).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no key in"), "{}", said(&output));
    let end = clock::now().secs() + 900;
    let renewed = creds::read(&real).unwrap().claims.exp;
    assert!(renewed.is_some_and(|exp| exp <= end), "{renewed:?} is after {end}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link is a file");
}
