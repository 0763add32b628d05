//! The NATS door: what a tenant's program asks in its own account. The same handlers, the same JSON
//! and the same problems as over HTTP; the status is in the header `Hotcell-Status`.
//!
//! Promises: the tenant is the account that the broker wrote into the subject, the actor the login
//! that the broker states. Refuses: a request whose login the broker does not state.

use crate::{
    app::{App, Call, Handler, Reply},
    gate,
    problem::{Kind, Problem},
    routes::find,
    transcodes,
};
use bytes::Bytes;
use hotcell_schemas::{limits::TENANT_PAYLOAD_BYTES_MAX, routes};
use hotcell_stage::{Incoming, ServiceError, Shutdown};
use http::Method;
use std::sync::Arc;
use tracing::{debug, info};

/// Queue group: one of the running intakes answers.
const QUEUE: &str = "intake";

/// The header that names an approval, as over HTTP.
const APPROVAL: &str = "Hotcell-Approval";

/// One verb.
#[derive(Debug, Clone)]
pub struct Verb {
    /// The name of its route in the table of flows.
    pub name: &'static str,
    /// Method and pattern of the same request over HTTP: its action and where that is decided.
    pub twin: (Method, &'static str),
    /// Who answers.
    pub serve: Handler,
}

/// Every verb.
pub static VERBS: &[Verb] = &[
    Verb {
        name: "tenant.submit",
        twin: (Method::POST, "/v1/transcodes"),
        serve: |app, who, call| Box::pin(transcodes::submit(app, who, call)),
    },
    Verb {
        name: "tenant.get",
        twin: (Method::GET, "/v1/transcodes/{id}"),
        serve: |app, who, call| Box::pin(transcodes::get_by_body(app, who, call)),
    },
];

/// Serves one verb until shutdown.
///
/// # Errors
/// [`ServiceError::Unreachable`] when the subscription is refused.
pub async fn serve(
    app: Arc<App>,
    verb: &'static Verb,
    concurrency: usize,
    shutdown: Shutdown,
) -> Result<(), ServiceError> {
    let name = verb.name;
    let route = routes::route(name).expect("verbs are rows of the route table");
    let bus = app.bus.clone();
    let handle = move |incoming: Incoming| {
        let app = Arc::clone(&app);
        async move { answer(&app, verb, &incoming).await }
    };
    bus.serve(&route.filter(), QUEUE, concurrency, shutdown, handle).await.map_err(|error| {
        ServiceError::Unreachable(format!(
            "the broker refuses the subscription of {name} ({error}): check intake's permissions"
        ))
    })
}

async fn answer(app: &Arc<App>, verb: &'static Verb, incoming: &Incoming) {
    let answered = call(app, verb, incoming).await;
    let (status, body) = match answered {
        Ok(reply) => (reply.status, reply.body),
        Err(problem) => (problem.status(), problem.body()),
    };
    debug!(verb = verb.name, status, "request answered");
    incoming.answer_json(status, body).await;
}

async fn call(app: &Arc<App>, verb: &'static Verb, incoming: &Incoming) -> Result<Reply, Problem> {
    let who = app.auth.login(incoming).await.map_err(|error| app.refuse(verb.name, &error))?;
    info!(tenant = %who.tenant(), verb = verb.name, "request over the broker");
    gate::active(app, &who).await?;
    if incoming.payload().len() > TENANT_PAYLOAD_BYTES_MAX {
        let rule = format!("must be at most {TENANT_PAYLOAD_BYTES_MAX} bytes");
        return Err(Problem::field(Kind::TooLarge, "body", rule));
    }
    let body = Bytes::copy_from_slice(incoming.payload());
    let (method, path) = &verb.twin;
    let route = find(method, path).expect("a test finds the twin of every verb");
    let call = Call {
        method: method.clone(),
        route: path,
        path: (*path).to_owned(),
        approval: incoming.header(APPROVAL).map(str::to_owned),
        body,
        ..Call::default()
    };
    let (who, call) = gate::route(app, route, who, call).await?;
    (verb.serve)(Arc::clone(app), who, call).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::{Role, routes::Carrier};

    #[test]
    fn every_verb_of_the_table_is_served_and_no_other() {
        let mine = |route: &&routes::Route| {
            route.carrier == Carrier::TenantRequest && route.consumers.contains(&Role::Intake)
        };
        let table: Vec<_> = routes::ROUTES.iter().filter(mine).map(|route| route.name).collect();
        assert_eq!(VERBS.iter().map(|verb| verb.name).collect::<Vec<_>>(), table);
    }

    #[test]
    fn every_verb_asks_for_what_its_twin_over_http_asks_for() {
        for Verb { name, twin: (method, path), .. } in VERBS {
            assert!(find(method, path).unwrap().action.is_some(), "{name}");
        }
    }
}
