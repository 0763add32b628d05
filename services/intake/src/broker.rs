//! The NATS door: what a tenant's program asks in its own account. The same handlers, gate, limits,
//! JSON and problems as over HTTP; the status is in the header `Hotcell-Status`, and the headers of
//! an HTTP answer are headers here. A login may ask for others' approval, read it and list what was
//! asked for; people give it over HTTP, where they show who they are.
//!
//! Promises: the tenant is the account that the broker wrote into the subject, the actor the login
//! that the broker states. Refuses: a request whose login the broker does not state.

use crate::{
    app::{App, Call, Reply},
    gate,
    http::RETRY_AFTER_SECS,
    json,
    problem::{Kind, Problem},
    routes::{Route, Serve, find},
};
use bytes::Bytes;
use hotcell_schemas::{
    limits::{PAYLOAD_BYTES_MAX, TENANT_PAYLOAD_BYTES_MAX},
    listing::ListRequest,
    request::GetRequest,
    routes,
};
use hotcell_stage::{Incoming, ServiceError, Shutdown};
use http::Method;
use std::{sync::Arc, time::Instant};
use tracing::{debug, info};

/// Queue group: one of the running intakes answers.
const QUEUE: &str = "intake";

/// Longest answer, in bytes: what the broker takes, less what is around a result. Headers are under 1 KiB.
const REPLY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - 4096;

/// The header that names an approval, as over HTTP.
const APPROVAL: &str = "Hotcell-Approval";

/// The header of a request that may be repeated, as over HTTP.
const IDEMPOTENCY: &str = "Idempotency-Key";

/// One verb.
#[derive(Debug, Clone)]
pub struct Verb {
    /// The name of its route in the table of flows.
    pub name: &'static str,
    /// Method and pattern of the same request over HTTP: its action, its gate, its handler.
    pub twin: (Method, &'static str),
    /// Moves what HTTP has in path and query from the body to where the handler looks for it.
    pub fit: fn(&mut Call) -> Result<(), Problem>,
}

/// Every verb.
pub static VERBS: &[Verb] = &[
    Verb { name: "tenant.submit", twin: (Method::POST, "/v1/transcodes"), fit: |_| Ok(()) },
    Verb { name: "tenant.get", twin: (Method::GET, "/v1/transcodes/{id}"), fit: by_id },
    Verb { name: "tenant.list", twin: (Method::GET, "/v1/transcodes"), fit: by_query },
    Verb { name: "tenant.cancel", twin: (Method::DELETE, "/v1/transcodes/{id}"), fit: by_id },
    Verb { name: "tenant.ask", twin: (Method::POST, "/v1/approvals"), fit: |_| Ok(()) },
    Verb { name: "tenant.asked", twin: (Method::GET, "/v1/approvals/{id}"), fit: by_id },
    Verb { name: "tenant.approvals", twin: (Method::GET, "/v1/approvals"), fit: by_query },
];

/// `{"id": ...}` is the id in the path. One that is no id is nobody's, as over HTTP.
fn by_id(call: &mut Call) -> Result<(), Problem> {
    let body = std::mem::take(&mut call.body);
    call.id = match json::parse::<GetRequest>(&body) {
        Ok(request) => request.id.to_string(),
        Err(problem) => json::parse::<AnyId>(&body).map_err(|_| problem)?.id,
    };
    call.path = call.path.replace("{id}", &call.id);
    Ok(())
}

/// What a caller takes for an id.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyId {
    id: String,
}

/// `{"limit": ..., "cursor": ..., "state": ...}`, or nothing, is the query string.
fn by_query(call: &mut Call) -> Result<(), Problem> {
    let body = std::mem::take(&mut call.body);
    if body.is_empty() {
        return Ok(());
    }
    let request: ListRequest = json::parse(&body)?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(limit) = request.limit {
        query.append_pair("limit", &limit.to_string());
    }
    if let Some(cursor) = &request.cursor {
        query.append_pair("cursor", cursor);
    }
    if let Some(state) = request.state {
        query.append_pair("state", state.as_str());
    }
    call.query = query.finish();
    Ok(())
}

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
    let (status, fields, body) = match answered {
        Ok(reply) => {
            let location = reply.location.map(|location| ("location", location));
            (reply.status, location.into_iter().chain(reply.headers).collect(), reply.body)
        }
        Err(problem) => {
            let mut fields = problem.headers().to_vec();
            if problem.kind() == Kind::Unavailable {
                fields.push(("retry-after", RETRY_AFTER_SECS.to_owned()));
            }
            (problem.status(), fields, problem.body())
        }
    };
    debug!(verb = verb.name, status, "request answered");
    incoming.answer_json(status, &fields, body).await;
}

async fn call(app: &Arc<App>, verb: &'static Verb, incoming: &Incoming) -> Result<Reply, Problem> {
    let who = app.auth.login(incoming).await.map_err(|error| app.refuse(verb.name, &error))?;
    info!(tenant = %who.tenant(), verb = verb.name, "request over the broker");
    let record = gate::enter(app, &who, verb.name).await?;
    let (method, path) = &verb.twin;
    let route = find(method, path).expect("a test finds the twin of every verb");
    let by = (who.tenant(), who.actor());
    let fields = app.rates.take(by, &record.quotas, route.makes_job(), Instant::now())?;
    fields.on(entitled(app, verb, route, who, incoming).await)
}

/// A header that may be sent once, as over HTTP.
fn once<'a>(incoming: &'a Incoming, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let repeated = |_| Problem::field(Kind::BadRequest, name, "must be sent at most once");
    incoming.header(name).map_err(repeated)
}

/// Reads the body, asks the gate, and calls the handler.
async fn entitled(
    app: &Arc<App>,
    verb: &'static Verb,
    route: &'static Route,
    who: crate::auth::Principal,
    incoming: &Incoming,
) -> Result<Reply, Problem> {
    if incoming.payload().len() > TENANT_PAYLOAD_BYTES_MAX {
        let rule = format!("must be at most {TENANT_PAYLOAD_BYTES_MAX} bytes");
        return Err(Problem::field(Kind::TooLarge, "body", rule));
    }
    let Serve::Tenant(handler) = route.serve else { return Err(Problem::internal()) };
    let mut call = Call {
        method: route.method.clone(),
        route: route.path,
        path: route.path.to_owned(),
        idempotency: once(incoming, IDEMPOTENCY)?.map(|text| text.as_bytes().to_vec()),
        approval: once(incoming, APPROVAL)?.map(str::to_owned),
        reply_bytes_max: Some(REPLY_BYTES_MAX),
        body: Bytes::copy_from_slice(incoming.payload()),
        ..Call::default()
    };
    (verb.fit)(&mut call)?;
    let (who, call) = gate::route(app, route, who, call).await?;
    handler(Arc::clone(app), who, call).await
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
    fn zt_13_every_verb_is_decided_as_its_twin_over_http() {
        for verb in VERBS {
            let (method, path) = &verb.twin;
            let twin = find(method, path).unwrap();
            assert!(twin.action.is_some() && matches!(twin.serve, Serve::Tenant(_)), "{path}");
        }
    }

    /// NEW-08: what was approved as a call over HTTP is approved at the broker, and the other way.
    #[test]
    fn new_08_a_verb_is_the_same_call_as_its_twin() {
        let cancel = VERBS.iter().find(|verb| verb.name == "tenant.cancel").unwrap();
        let (method, path) = cancel.twin.clone();
        let id = "0193a0f0c0de7000800000000000beef";
        let body = Bytes::from(format!("{{\"id\":\"{id}\"}}"));
        let call =
            |path: String, body| Call { method: method.clone(), path, body, ..Call::default() };
        let mut by_broker = call(path.to_owned(), body);
        (cancel.fit)(&mut by_broker).unwrap();
        let by_http = call(format!("/v1/transcodes/{id}"), Bytes::new());
        let digest =
            |call: &Call| call.digest(hotcell_schemas::identity::Action::CancelJob).unwrap();
        assert_eq!(digest(&by_broker), digest(&by_http));
    }

    #[test]
    fn path_and_query_come_from_the_body() {
        let fit = |index: usize, body: &'static str| {
            let path = "/v1/transcodes/{id}".to_owned();
            let mut call =
                Call { path, body: Bytes::from_static(body.as_bytes()), ..Call::default() };
            let done = VERBS[index].fit;
            done(&mut call).map(|()| (call.id, call.query, call.path)).map_err(|p| p.status())
        };
        let id = "0193a0f0c0de7000800000000000beef";
        let own = fit(1, "{\"id\":\"0193a0f0c0de7000800000000000beef\"}").unwrap();
        assert_eq!(own, (id.to_owned(), String::new(), format!("/v1/transcodes/{id}")));
        assert_eq!(fit(3, "{\"id\":\"x\"}").unwrap().0, "x");
        assert_eq!(fit(1, "{\"id\":\"x\",\"tenant\":\"acme\"}"), Err(400));
        assert_eq!(fit(1, ""), Err(400));
        assert_eq!(fit(2, "").unwrap().1, "");
        assert_eq!(fit(2, "{\"limit\":3,\"state\":\"failed\"}").unwrap().1, "limit=3&state=failed");
        assert_eq!(fit(2, "{\"limit\":-1}"), Err(400));
    }
}
