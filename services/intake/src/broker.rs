//! The NATS door: what a tenant's program asks in its own account. The same handlers, the same JSON
//! and the same problems as over HTTP; the status is in the header `Hotcell-Status`.
//!
//! Promises: the tenant is the account that the broker wrote into the subject, the actor the login
//! that the broker states. Refuses: a request whose login the broker does not state.

use crate::{
    app::{App, Call, Handler, Reply},
    problem::{Kind, Problem},
    transcodes,
};
use bytes::Bytes;
use hotcell_schemas::{limits::TENANT_PAYLOAD_BYTES_MAX, routes};
use hotcell_stage::{Incoming, ServiceError, Shutdown};
use std::sync::Arc;
use tracing::{debug, info};

/// Queue group: one of the running intakes answers.
const QUEUE: &str = "intake";

/// The verbs, by the name of their route.
pub const VERBS: [(&str, Handler); 2] = [
    ("tenant.submit", |app, who, call| Box::pin(transcodes::submit(app, who, call))),
    ("tenant.get", |app, who, call| Box::pin(transcodes::get_by_body(app, who, call))),
];

/// Serves one verb until shutdown.
///
/// # Errors
/// [`ServiceError::Unreachable`] when the subscription is refused.
pub async fn serve(
    app: Arc<App>,
    (name, handler): (&'static str, Handler),
    concurrency: usize,
    shutdown: Shutdown,
) -> Result<(), ServiceError> {
    let route = routes::route(name).expect("verbs are rows of the route table");
    let bus = app.bus.clone();
    let handle = move |incoming: Incoming| {
        let app = Arc::clone(&app);
        async move { answer(&app, name, handler, &incoming).await }
    };
    bus.serve(&route.filter(), QUEUE, concurrency, shutdown, handle).await.map_err(|error| {
        ServiceError::Unreachable(format!(
            "the broker refuses the subscription of {name} ({error}): check intake's permissions"
        ))
    })
}

async fn answer(app: &Arc<App>, name: &'static str, handler: Handler, incoming: &Incoming) {
    let answered = call(app, name, handler, incoming).await;
    let (status, body) = match answered {
        Ok(reply) => (reply.status, reply.body),
        Err(problem) => (problem.status(), problem.body()),
    };
    debug!(verb = name, status, "request answered");
    incoming.answer_json(status, body).await;
}

async fn call(
    app: &Arc<App>,
    name: &'static str,
    handler: Handler,
    incoming: &Incoming,
) -> Result<Reply, Problem> {
    let who = app.auth.login(incoming).await.map_err(|error| app.refuse(name, &error))?;
    info!(tenant = %who.tenant(), verb = name, "request over the broker");
    if incoming.payload().len() > TENANT_PAYLOAD_BYTES_MAX {
        let rule = format!("must be at most {TENANT_PAYLOAD_BYTES_MAX} bytes");
        return Err(Problem::field(Kind::TooLarge, "body", rule));
    }
    let body = Bytes::copy_from_slice(incoming.payload());
    handler(Arc::clone(app), who, Call { body, ..Call::default() }).await
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
        assert_eq!(VERBS.map(|(name, _)| name).to_vec(), table);
    }
}
