//! `hotcell creds-agent`: keeps credential files fresh (IAM-03).
//!
//! Promises: the file is whole or the old one at every moment, keeps its owner, and holds the same
//! key for ever: only the token in it is new. A link stays one. Needs the scoped key of that login's role; refuses to
//! look for any other, and refuses a life outside of 15 minutes to a day.

use crate::{
    fail::{Context as _, Fail},
    print,
    tenant::args::AgentArgs,
};
use hotcell_nats_config::{
    Life,
    creds::{self, Creds},
    keys::scope_of,
};
use hotcell_stage::{Shutdown, clock};
use std::{path::PathBuf, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Pause after a renewal that failed, in seconds: a life has at least five minutes left then.
const RETRY_SECS: u64 = 20;

/// Longest pause between two looks, in seconds: clocks are set, and files are put back.
const LOOK_SECS_MAX: u64 = 60;

/// One login that is kept: its file, and the folder of the key that signs it.
struct Kept {
    path: PathBuf,
    keys: PathBuf,
    life: Life,
    as_json: bool,
}

/// Runs the agent until a signal, or once.
pub(crate) async fn run(args: &AgentArgs, as_json: bool) -> Result<(), Fail> {
    let kept = args.dirs.iter().map(|dir| Kept {
        path: dir.join("creds").join(format!("{}.creds", args.login)),
        keys: dir.join("keys"),
        life: args.expires,
        as_json,
    });
    let kept: Vec<Kept> = kept.collect();
    // Before anything is said: whoever reads it may stop us at once.
    let hook = |kind| signal(kind).or_fail("cannot listen to signals");
    let (mut term, mut int) = (hook(SignalKind::terminate())?, hook(SignalKind::interrupt())?);
    // What is wrong from the start is said, and not tried for ever; the others are renewed first, for
    // whoever starts us again and again.
    let mut wrong = None;
    for login in &kept {
        match login.renewed() {
            Ok(outcome) => login.report(&outcome),
            Err(fail) => wrong = wrong.or(Some(fail)),
        }
    }
    if let Some(fail) = wrong {
        return Err(fail);
    }
    if args.once {
        return Ok(());
    }
    let stop = Shutdown::new();
    tokio::select! {
        _ = futures::future::join_all(kept.iter().map(|login| login.keep(&stop))) => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

impl Kept {
    async fn keep(&self, stop: &Shutdown) {
        let mut wait = 0;
        loop {
            stop.sleep(Duration::from_secs(wait)).await;
            wait = match self.renewed() {
                Ok(outcome) => {
                    if outcome.is_new {
                        self.report(&outcome);
                    }
                    let claims = &outcome.creds.claims;
                    creds::renew_in_secs(claims, self.life, clock::now()).clamp(1, LOOK_SECS_MAX)
                }
                Err(fail) => {
                    print::note(format!("{}; trying again in {RETRY_SECS} s", fail.message));
                    RETRY_SECS
                }
            };
        }
    }

    fn renewed(&self) -> Result<Outcome, Fail> {
        // Through links: what takes a link's place is not read where the link leads.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let creds = creds::read(&path).or_fail("the login")?;
        if !creds::is_due(&creds.claims, self.life, clock::now()) {
            return Ok(Outcome { creds, is_new: false });
        }
        let scope = scope_of(&self.keys, &creds.claims.iss);
        let scope = scope.or_fail("the key of the login's role")?;
        let creds = creds::renew(&path, &scope, self.life, clock::now());
        Ok(Outcome { creds: creds.or_fail("not renewed")?, is_new: true })
    }

    fn report(&self, outcome: &Outcome) {
        let (file, end) = (self.path.display(), outcome.creds.claims.exp);
        if self.as_json {
            print::json(&serde_json::json!({
                "creds": self.path, "renewed": outcome.is_new, "expires_at": end,
            }));
            return;
        }
        let end = end.map_or_else(String::new, |end| {
            format!(" until {}", hotcell_schemas::UnixMs(end.saturating_mul(1000)))
        });
        let what = if outcome.is_new { "is renewed" } else { "is valid" };
        print::line(format!("{file} {what}{end}"));
    }
}

/// A login, and whether it was signed just now.
struct Outcome {
    creds: Creds,
    is_new: bool,
}
