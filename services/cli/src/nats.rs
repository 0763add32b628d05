//! `hotcell nats init|provision|check`: the broker's side of an installation.

use crate::{
    args::{DurabilityArg, InitArgs, NatsCommand},
    fail::{Context as _, Fail},
    layout::write_private,
    print,
};
use hotcell_nats_config::{
    Admin, Durability, InitOptions, Installation, Life, Renewals, Replicas, ServerOptions, init,
    terms::LifeError,
};
use hotcell_schemas::{PoolId, WorkerId, ids::IdError};
use hotcell_stage::clock;
use serde_json::json;
use std::path::Path;

/// A worker's login to make.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    name: WorkerId,
    pool: PoolId,
}

/// Reads `NAME:POOL`.
pub(crate) fn worker(text: &str) -> Result<Worker, String> {
    let (name, pool) = text.split_once(':').ok_or("must be NAME:POOL")?;
    Ok(Worker {
        name: name.parse().map_err(|error: IdError| error.to_string())?,
        pool: pool.parse().map_err(|error: IdError| error.to_string())?,
    })
}

/// How long the logins live that `init` makes; `None` without an end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expires(Option<Life>);

/// Reads a life, or `never`.
pub(crate) fn expires(text: &str) -> Result<Expires, String> {
    if text == "never" {
        return Ok(Expires(None));
    }
    text.parse()
        .map(|life| Expires(Some(life)))
        .map_err(|error: LifeError| format!("{error}, or never"))
}

/// Runs one of the three.
pub(crate) async fn run(command: NatsCommand, as_json: bool) -> Result<(), Fail> {
    match command {
        NatsCommand::Init(args) => make(&args, as_json),
        NatsCommand::Provision { dir, url, replicas } => {
            let admin = connect(&dir, &url).await?;
            let made =
                admin.provision(copies(replicas)?, clock::now()).await.or_fail("not made")?;
            if as_json {
                print::json(&made);
            } else if made.is_empty() {
                print::line("everything was there already");
            } else {
                print::line(made.join("\n"));
            }
            Ok(())
        }
        NatsCommand::Check { dir, url, replicas } => {
            let admin = connect(&dir, &url).await?;
            let found = admin.check(copies(replicas)?).await.or_fail("not checked")?;
            if as_json {
                print::json(&found);
            } else if found.is_empty() {
                print::line("the server is as the code says");
            } else {
                for difference in &found {
                    print::line(difference.to_string());
                }
            }
            if found.is_empty() {
                return Ok(());
            }
            Err(Fail::failed(format!("{} differences", found.len())))
        }
    }
}

/// `hotcell nats init`.
fn make(args: &InitArgs, as_json: bool) -> Result<(), Fail> {
    let workers =
        args.workers.iter().map(|worker| (worker.name.clone(), vec![worker.pool.clone()]));
    let options =
        InitOptions { now: clock::now(), workers: workers.collect(), ..InitOptions::default() };
    let installation = init(&args.dir, &options).or_fail("not written")?;
    match args.expires {
        Expires(Some(life)) => {
            let renewals = installation.renew_due(life, clock::now(), |_| true);
            renewals.and_then(Renewals::all).or_fail("the logins")?;
        }
        Expires(None) => print::note(
            "new logins do not end: whoever copies one has it until it is revoked, and a service's \
             cannot be. `hotcell access report` names them",
        ),
    }
    let dir = args.dir.canonicalize().or_fail("the folder")?;
    let config = installation.server_config(&ServerOptions {
        tls: args.tls.then(|| installation.tls("nats")),
        listen: args.listen,
        store_dir: dir.join("jetstream"),
        durability: match args.durability {
            DurabilityArg::Always => Durability::Always,
            DurabilityArg::OneSecond => Durability::OneSecond,
        },
        ports_dir: None,
        pid_file: None,
    });
    let path = dir.join("nats.conf");
    write_private(&path, &config.or_fail("the server's configuration")?)?;
    let ends = match args.expires {
        Expires(Some(life)) => {
            format!("\nThe logins end after {life}: run `hotcell creds-agent` beside each service.")
        }
        Expires(None) => String::new(),
    };
    if as_json {
        print::json(&json!({ "dir": dir, "config": path }));
    } else {
        print::line(format!(
            "keys, logins and configuration are in {}{ends}\n\nNow:  nats-server -c {}\nThen: hotcell nats \
             provision {} --url nats://{}",
            dir.display(),
            path.display(),
            dir.display(),
            args.listen
        ));
    }
    Ok(())
}

fn copies(replicas: u8) -> Result<Replicas, Fail> {
    match replicas {
        1 => Ok(Replicas::One),
        3 => Ok(Replicas::Three),
        _ => Err(Fail::usage("--replicas must be 1 or 3")),
    }
}

async fn connect(dir: &Path, url: &str) -> Result<Admin, Fail> {
    if !hotcell_stage::tls::is_private(url) {
        return Err(Fail::config(format!("{url} is not on loopback: use tls://")));
    }
    let installation = Installation::open(dir)
        .map_err(|error| Fail::config(hotcell_stage::service::describe(&error)))?;
    installation.renew_operator(clock::now()).or_fail("the operator's logins")?;
    Admin::connect(installation, url).await.map_err(|error| {
        let why = hotcell_stage::service::describe(&error);
        Fail::unreachable(format!("the broker at {url} cannot be used ({why}): is it running?"))
    })
}
