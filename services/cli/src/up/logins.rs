//! Keeps the logins of a running installation fresh: what `hotcell creds-agent` does elsewhere.
//!
//! Promises: the logins of the services, of the operator, of the workers that `up` started and of
//! each tenant's first program live for a day and are renewed after two thirds of it, so whoever
//! copied one has it for a day; a shorter life that was asked for a tenant's stays. Refuses: to renew
//! a login that somebody asked to end, and one that is revoked.

use super::Cells;
use crate::{
    fail::{Context as _, Fail},
    layout::{Layout, write_owned},
    print, tenant,
};
use hotcell_nats_config::{FoundLogin, Installation, Life, Login};
use hotcell_schemas::WorkerId;
use hotcell_stage::clock;
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
    time::Duration,
};

/// Between two looks, in seconds: far less than the third of a life that is left when one is due.
const LOOK_SECS: u64 = 60;

/// Only its owner reads it, and nobody writes it in place.
const MODE: u32 = 0o400;

/// Renews what is due, and hands the workers theirs.
pub(crate) fn renew(layout: &Layout, installation: &Installation) -> Result<(), Fail> {
    let cells = Cells::dir(layout);
    let ours = |login: &Login| match login {
        Login::Service(_) | Login::Sys => true,
        Login::Worker { name, .. } => worker_creds(&cells, name).exists(),
        Login::Tenant { user, .. } => *user == tenant::login(),
    };
    let doing = "cannot renew all logins";
    let renewals = installation.renew_due(Life::DAY, clock::now(), ours).or_fail(doing)?;
    hand_over(layout, &renewals.renewed)?;
    renewals.all().or_fail(doing).map(|_| ())
}

/// Gives those workers that `up` started the logins that were signed again. One that fails stops no
/// other.
pub(crate) fn hand_over(layout: &Layout, logins: &[FoundLogin]) -> Result<(), Fail> {
    let cells = Cells::dir(layout);
    let handed: Vec<_> = logins.iter().map(|found| hand_over_one(&cells, found)).collect();
    handed.into_iter().collect()
}

/// Renews for as long as it is polled. What fails is said, and tried again at the next look.
pub(crate) async fn keep(layout: &Layout) {
    loop {
        tokio::time::sleep(Duration::from_secs(LOOK_SECS)).await;
        let installation = Installation::open(&layout.nats()).or_fail("the installation's keys");
        if let Err(fail) = installation.and_then(|installation| renew(layout, &installation)) {
            print::note(format!("logins are not renewed: {}", fail.message));
        }
    }
}

fn worker_creds(cells: &Path, worker: &WorkerId) -> std::path::PathBuf {
    cells.join(worker.as_str()).join("worker.creds")
}

/// A worker reads its own copy, as a user of its own.
fn hand_over_one(cells: &Path, found: &FoundLogin) -> Result<(), Fail> {
    let Some(Login::Worker { name, .. }) = &found.login else { return Ok(()) };
    let doing = "cannot hand a worker its login";
    let path = worker_creds(cells, name);
    if !path.exists() {
        return Ok(());
    }
    let owner = fs::metadata(&path).or_fail(doing)?;
    let text = fs::read(&found.path).or_fail(doing)?;
    write_owned(&path, &text, MODE, |aside| {
        chown(aside, Some(owner.uid()), Some(owner.gid())).or_fail(doing)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_nats_config::{InitOptions, Terms, creds, init};
    use hotcell_schemas::UnixMs;
    use std::os::unix::fs::PermissionsExt as _;

    // IAM-02, IAM-03: what `up` runs has logins of a day, under the keys that they had, and a
    // worker's copy is the worker's.
    #[test]
    fn services_workers_and_first_programs_get_a_day_and_others_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let pools = || vec!["cpu".parse().unwrap()];
        let options = InitOptions {
            now: clock::now(),
            workers: vec![("w1".parse().unwrap(), pools()), ("far".parse().unwrap(), pools())],
            tenants: vec![
                ("acme".parse().unwrap(), "app".parse().unwrap()),
                ("bolt".parse().unwrap(), "ci".parse().unwrap()),
            ],
        };
        let installation = init(&layout.nats(), &options).unwrap();
        let home = Cells::dir(&layout).join("w1");
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("worker.creds"), "old").unwrap();
        chown(home.join("worker.creds"), Some(64_140), Some(64_140)).unwrap();
        let before = installation.logins().unwrap();
        renew(&layout, &installation).unwrap();

        let end = clock::now().secs() + Life::DAY.secs();
        for (before, after) in before.iter().zip(installation.logins().unwrap()) {
            let left = after.path.to_string_lossy();
            let left = ["worker-far", "bolt-ci"].iter().any(|name| left.contains(name));
            assert_eq!(after.claims.exp.is_none(), left, "{:?}", after.login);
            assert!(after.claims.exp.is_none_or(|exp| exp.abs_diff(end) < 10));
            assert_eq!(
                (&before.claims.sub, &before.claims.iss),
                (&after.claims.sub, &after.claims.iss)
            );
        }
        let own = fs::metadata(home.join("worker.creds")).unwrap();
        assert_eq!((own.uid(), own.permissions().mode() & 0o777), (64_140, MODE));
        assert!(creds::read(&home.join("worker.creds")).unwrap().claims.exp.is_some());

        // A second look changes nothing; one after two thirds of the day does.
        let texts = || {
            let read = |found: FoundLogin| fs::read_to_string(found.path).unwrap();
            installation.logins().unwrap().into_iter().map(read).collect::<Vec<_>>()
        };
        let now = texts();
        renew(&layout, &installation).unwrap();
        assert_eq!(texts(), now);
        let later = UnixMs(clock::now().0 + Life::DAY.secs() * 1000 * 2 / 3);
        // A stray file is said, and keeps no login from its renewal.
        fs::write(layout.nats().join("creds/a-stray.creds"), "no login").unwrap();
        assert!(renew(&layout, &installation).is_err());
        let renewals = installation.renew_due(Life::DAY, later, |_| true).unwrap();
        assert_eq!(renewals.failed.len(), 1);
        let is_service = |found: &FoundLogin| matches!(found.login, Some(Login::Service(_)));
        assert!(renewals.renewed.iter().any(is_service));
        assert!(renewals.all().is_err());
        fs::remove_dir_all(Cells::dir(&layout)).unwrap();
    }

    // IAM-02: `tenant creds app --expires 15m` is not made a day of, however often `up` looks.
    #[test]
    fn a_shorter_life_that_was_asked_for_stays() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let options = InitOptions {
            now: clock::now(),
            tenants: vec![("acme".parse().unwrap(), tenant::login())],
            ..InitOptions::default()
        };
        let installation = init(&layout.nats(), &options).unwrap();
        let (acme, app) = ("acme".parse().unwrap(), tenant::login());
        let login = Login::Tenant { tenant: "acme".parse().unwrap(), user: tenant::login() };
        let life = |at: UnixMs| {
            let claims = installation.creds(&login).unwrap().claims;
            claims.exp.unwrap() - at.secs()
        };
        for (asked, secs) in [("15m", 900), ("6h", 21_600), ("24h", 86_400)] {
            let terms = Terms { life: Some(asked.parse().unwrap()), ..Terms::default() };
            let now = clock::now();
            installation.issue_program(&acme, &app, &terms, now).unwrap();
            let renew = |at| installation.renew_due(Life::DAY, at, |_| true).unwrap().all();
            renew(now).unwrap();
            assert_eq!(life(now), secs, "{asked}: renewed although it is not due");
            // Two thirds later it is due: for as long as before.
            let later = UnixMs(now.0 + secs * 1000 * 2 / 3);
            assert!(renew(later).unwrap().iter().any(|found| found.login.as_ref() == Some(&login)));
            assert_eq!(life(later), secs, "{asked}");
        }
    }
}
