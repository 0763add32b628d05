//! The HTTP and NATS edge: uploads, submissions, reads.
//!
//! Promises: nothing is answered with success before the broker acknowledged it; every act has a
//! principal; what is wrong with a request is said by field and rule. Refuses: to hold a storage
//! key, to touch media except to hash and sniff it, and to log a URL.

pub mod app;
pub mod approvals;
pub mod auth;
pub mod blocks;
pub mod broker;
pub mod cache;
pub mod cancel;
pub mod claims;
pub mod config;
pub mod credential;
pub mod decisions;
pub mod deliveries;
pub mod destinations;
pub mod dpop;
pub mod events;
pub mod evidence;
pub mod ext_authz;
pub mod gate;
pub mod health;
mod heir;
pub mod http;
pub mod json;
pub mod jwt;
pub mod keys;
pub mod list;
pub mod listing;
pub mod oidc;
pub mod opa;
pub mod origin;
pub mod policies;
pub mod presets;
pub mod problem;
pub mod quota;
pub mod rate;
pub mod refusals;
pub mod routes;
pub mod server;
pub mod slow;
pub mod token;
pub mod totp;
pub mod transcodes;
pub mod uploads;
pub mod usage;
pub mod view;
pub mod webhooks;

use crate::{
    app::App,
    broker::VERBS,
    config::Config,
    oidc::Oidc,
    opa::Opa,
    server::{Bounds, HEADERS_SECS, WRITE_SECS},
    slow::Addresses,
};
use hotcell_schemas::Role;
use hotcell_stage::{Bus, ServiceError, Shutdown, service::describe, tls::Acceptor};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// Runs the service until shutdown. The bound address is written to `config.address_file` once
/// connections are accepted.
///
/// # Errors
/// [`ServiceError`]: the configuration, the broker, or the address to listen on.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    config.check()?;
    let tls = config.tls.as_ref().map(Acceptor::new).transpose();
    let tls = tls.map_err(|error| ServiceError::Refused(error.to_string()))?;
    let bus = Bus::connect(Role::Intake, &config.nats).await?;
    let (refusals, recorder) = refusals::refusals();
    let (decisions, decided) = decisions::decisions();
    let vault = config.vault()?;
    let issuers = Oidc::new(&bus, &config.oidc, &config.external_urls);
    let issuers = issuers.map_err(|error| ServiceError::Refused(describe(&error)))?;
    let app = App::new(bus.clone(), &config, refusals, decisions).with_issuers(issuers);
    let opa = Opa::new(&config.opa)?;
    let app = Arc::new(App { vault, opa, ..app });
    app.streams.end_at(shutdown.clone());
    let listener = server::bind(config.listen, &config.address_file).await?;
    let bounds = Bounds {
        connections_max: config.connections_max,
        headers: Duration::from_secs(HEADERS_SECS),
        write: Duration::from_secs(WRITE_SECS),
        addresses: Addresses::new(config.connections_per_address_max, &config.trusted_proxies),
    };
    let mut parts = JoinSet::new();
    for verb in VERBS {
        let (app, shutdown) = (Arc::clone(&app), shutdown.clone());
        let serve = broker::serve(app, verb, config.broker_requests_max, shutdown);
        parts.spawn(serve);
    }
    {
        let (bus, app, shutdown) = (bus.clone(), Arc::clone(&app), shutdown.clone());
        parts.spawn(async move {
            recorder.run(&bus, &app.refusals, &shutdown).await;
            Ok(())
        });
    }
    {
        let (bus, app, shutdown) = (bus.clone(), Arc::clone(&app), shutdown.clone());
        parts.spawn(async move {
            decided.run(&bus, &app.decisions, &shutdown).await;
            Ok(())
        });
    }
    {
        let (router, shutdown) = (http::router(&app), shutdown.clone());
        parts.spawn(async move {
            server::serve(listener, tls, router, bounds, &shutdown).await;
            Ok(())
        });
    }
    let ended = until_drained(parts, &shutdown).await;
    bus.flush().await;
    ended
}

/// Waits for every part. A part that fails, or ends before the shutdown, ends the process: half an
/// edge would look alive.
async fn until_drained(
    mut parts: JoinSet<Result<(), ServiceError>>,
    shutdown: &Shutdown,
) -> Result<(), ServiceError> {
    let mut first = Ok(());
    while let Some(joined) = parts.join_next().await {
        let ended = joined.unwrap_or_else(|error| {
            Err(ServiceError::Unreachable(format!("a part of intake failed ({error}): restart it")))
        });
        if ended.is_err() && first.is_ok() {
            first = ended;
        } else if !shutdown.has_begun() && first.is_ok() {
            let text = "the broker ended a subscription of intake: restart it".to_owned();
            first = Err(ServiceError::Unreachable(text));
        }
        shutdown.begin();
    }
    first
}
