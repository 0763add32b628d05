//! `hotcell creds-agent`: keeps one credential file fresh (IAM-03).
//!
//! Promises: the file is whole or the old one at every moment, keeps its owner, and holds the same
//! key for ever: only the token in it is new. Needs the scoped key of that login's role; refuses to
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
use std::{path::Path, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Pause after a renewal that failed, in seconds: a life has at least five minutes left then.
const RETRY_SECS: u64 = 20;

/// Longest pause between two looks, in seconds: clocks are set, and files are put back.
const LOOK_SECS_MAX: u64 = 60;

/// Runs the agent until a signal, or once.
pub(crate) async fn run(args: &AgentArgs, as_json: bool) -> Result<(), Fail> {
    let path = args.dir.join("creds").join(format!("{}.creds", args.login));
    let keys = args.dir.join("keys");
    // What is wrong from the start is said, and not tried for ever.
    let first = renewed(&path, &keys, args.expires)?;
    report(&args.login.to_string(), &first, as_json);
    if args.once {
        return Ok(());
    }
    let stop = Shutdown::new();
    let hook = |kind| signal(kind).or_fail("cannot listen to signals");
    let (mut term, mut int) = (hook(SignalKind::terminate())?, hook(SignalKind::interrupt())?);
    tokio::select! {
        () = keep(&path, &keys, args, as_json, &stop) => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

async fn keep(path: &Path, keys: &Path, args: &AgentArgs, as_json: bool, stop: &Shutdown) {
    let mut wait = 0;
    loop {
        stop.sleep(Duration::from_secs(wait)).await;
        wait = match renewed(path, keys, args.expires) {
            Ok(outcome) => {
                if outcome.is_new {
                    report(&args.login.to_string(), &outcome, as_json);
                }
                let due = creds::renew_in_secs(&outcome.creds.claims, args.expires, clock::now());
                due.clamp(1, LOOK_SECS_MAX)
            }
            Err(fail) => {
                print::note(format!("{}; trying again in {RETRY_SECS} s", fail.message));
                RETRY_SECS
            }
        };
    }
}

/// A login, and whether it was signed just now.
struct Outcome {
    creds: Creds,
    is_new: bool,
}

fn renewed(path: &Path, keys: &Path, life: Life) -> Result<Outcome, Fail> {
    let creds = creds::read(path).or_fail("the login")?;
    if !creds::is_due(&creds.claims, life, clock::now()) {
        return Ok(Outcome { creds, is_new: false });
    }
    let scope = scope_of(keys, &creds.claims.iss).or_fail("the key of the login's role")?;
    let creds = creds::renew(path, &scope, life, clock::now()).or_fail("not renewed")?;
    Ok(Outcome { creds, is_new: true })
}

fn report(login: &str, outcome: &Outcome, as_json: bool) {
    let end = outcome.creds.claims.exp;
    if as_json {
        print::json(&serde_json::json!({
            "login": login, "renewed": outcome.is_new, "expires_at": end,
        }));
        return;
    }
    let end = end.map_or_else(String::new, |end| {
        format!(" until {}", hotcell_schemas::UnixMs(end.saturating_mul(1000)))
    });
    let what = if outcome.is_new { "is renewed" } else { "is valid" };
    print::line(format!("login {login} {what}{end}"));
}
