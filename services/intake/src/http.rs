//! The HTTP door. Promises: every request has a span with method, route pattern, tenant and status,
//! and never a query string or a URL; a body, a header and a connection each have a bound and a
//! deadline; whatever is asked below `/v1` is authenticated before its path is looked at.

use crate::{
    app::{App, Call, Reply, Seen},
    auth::{AuthError, Principal, credential},
    events, ext_authz, gate,
    origin::{Peer, origin},
    problem::{self, Kind, Problem},
    routes::{ROUTES, Route, Serve},
};
use axum::{
    Router,
    body::Body,
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    response::Response,
    routing::{MethodFilter, any, on},
};
use bytes::Bytes;
use hotcell_schemas::limits::HTTP_BODY_BYTES_MAX;
use hotcell_stage::telemetry;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{Instrument as _, Span, debug, field::Empty, info, info_span};

/// A body of 64 KiB must arrive within this long, in seconds.
const BODY_SECS: u64 = 10;

/// A request is answered within this long, in seconds, whatever it waits for: a confirmation reads
/// its upload for as long as the URL lives, and waits for its turn before.
const REQUEST_SECS: u64 = 660;

/// Bytes of a refused body that are read and dropped: a client that mistook the API for the store
/// sends more and is cut.
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// Time for that, in seconds.
const DRAIN_SECS: u64 = 2;

/// Seconds after which a client may try again what is not available now.
pub(crate) const RETRY_AFTER_SECS: &str = "1";

type Params = Result<RawPathParams, RawPathParamsRejection>;

/// The router of [`ROUTES`].
pub fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let filter = MethodFilter::try_from(route.method.clone())
            .expect("the table holds only standard methods");
        let app = Arc::clone(app);
        let serve = move |params: Params, request: Request| {
            let app = Arc::clone(&app);
            async move { served(app, route, &params, request).await }
        };
        router = router.route(route.path, on(filter, serve));
    }
    let at_gateway = Arc::clone(app);
    let gateway = any(move |request: Request| {
        let app = Arc::clone(&at_gateway);
        async move { foreign(app, request).await }
    });
    let (at_path, at_method) = (Arc::clone(app), Arc::clone(app));
    router
        .route(&format!("{}/{{*path}}", ext_authz::PREFIX), gateway)
        .fallback(move |request: Request| {
            let app = Arc::clone(&at_path);
            async move { lost(app, request, Kind::NotFound).await }
        })
        .method_not_allowed_fallback(move |request: Request| {
            let app = Arc::clone(&at_method);
            async move { lost(app, request, Kind::MethodNotAllowed).await }
        })
}

async fn served(
    app: Arc<App>,
    route: &'static Route,
    params: &Params,
    request: Request,
) -> Response {
    let (began, method) = (Instant::now(), request.method().clone());
    let span = span(&request, route.path);
    let (parts, mut body) = request.into_parts();
    let response = async {
        let answer = match &route.serve {
            Serve::Open(handler) => Ok(handler(Arc::clone(&app)).await),
            Serve::Tenant(handler) => {
                let app = Arc::clone(&app);
                let answer = tenant(app, route, *handler, params, &parts, &mut body);
                let answer = tokio::time::timeout(Duration::from_secs(REQUEST_SECS), answer).await;
                let late = |_| Err(Problem::unavailable("the request took too long"));
                answer.unwrap_or_else(late)
            }
        };
        let response = match answer {
            Ok(reply) => replied(&app, reply),
            Err(problem) => refused_whole(&problem, &mut body).await,
        };
        let status = response.status().as_u16();
        Span::current().record("status", status);
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if route.needs_auth() {
            info!(%method, route = route.path, status, elapsed_ms, "request served");
        } else {
            debug!(%method, route = route.path, status, elapsed_ms, "probe answered");
        }
        response
    };
    response.instrument(span).await
}

fn span(request: &Request, route: &str) -> Span {
    let span = info_span!(
        "http",
        otel.kind = "server",
        method = %request.method(),
        route,
        tenant = Empty,
        status = Empty
    );
    let traceparent = request.headers().get("traceparent").and_then(|v| v.to_str().ok());
    if let Some(traceparent) = traceparent {
        telemetry::follow_traceparent(&span, traceparent);
    }
    span
}

/// Authenticates, and counts the request, before anything is read or done.
async fn tenant(
    app: Arc<App>,
    route: &'static Route,
    handler: crate::app::Handler,
    params: &Params,
    parts: &Parts,
    body: &mut Body,
) -> Result<Reply, Problem> {
    let principal = authenticate(&app, parts, route.path, true).await?;
    Span::current().record("tenant", principal.tenant().as_str());
    let what = format!("{} {}", route.method, route.path);
    let record = gate::enter(&app, &principal, &what).await?;
    let who = (principal.tenant(), principal.actor());
    let fields = app.rates.take(who, &record.quotas, route.makes_job(), Instant::now())?;
    fields.on(entitled(app, route, handler, params, parts, body, principal).await)
}

/// Reads the body, asks the gate, and calls the handler.
async fn entitled(
    app: Arc<App>,
    route: &'static Route,
    handler: crate::app::Handler,
    params: &Params,
    parts: &Parts,
    body: &mut Body,
    principal: Principal,
) -> Result<Reply, Problem> {
    let call = Call {
        method: route.method.clone(),
        route: route.path,
        path: parts.uri.path().to_owned(),
        id: id_of(params)?,
        query: parts.uri.query().unwrap_or_default().to_owned(),
        idempotency: idempotency_key(&parts.headers)?,
        approval: approval_of(&parts.headers)?,
        network: principal.authority().network,
        last_event_id: last_event_id(&parts.headers),
        decided: None,
        body: body_of(&parts.headers, body).await?,
        reply_bytes_max: None,
    };
    let (principal, call) = gate::route(&app, route, principal, call).await?;
    handler(app, principal, call).await
}

/// A gateway asks whether a request may pass: method, path, headers and, where it sends it, the body
/// are that request's own.
async fn foreign(app: Arc<App>, request: Request) -> Response {
    let span = span(&request, ext_authz::PREFIX);
    let (parts, mut body) = request.into_parts();
    async {
        let answer = asked(&app, parts, &mut body).await;
        let response = match answer {
            Ok(reply) => replied(&app, reply),
            Err(problem) => refused_whole(&problem, &mut body).await,
        };
        Span::current().record("status", response.status().as_u16());
        response
    }
    .instrument(span)
    .await
}

async fn asked(app: &App, mut parts: Parts, body: &mut Body) -> Result<Reply, Problem> {
    let lost = || Problem::new(Kind::BadRequest, "the path after /ext-authz is not usable");
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let path = path.strip_prefix(ext_authz::PREFIX).ok_or_else(lost)?;
    parts.uri = path.parse().map_err(|_| lost())?;
    let route = ext_authz::row(&parts.method, parts.uri.path());
    if route.is_some_and(|route| !route.needs_auth()) {
        return Ok(Reply::new(200, ()));
    }
    // A body that the gateway has cut is not the one that will be served.
    if parts.headers.get("x-envoy-auth-partial-body").is_some_and(|cut| cut != "false") {
        return Err(too_large());
    }
    let name = route.map_or(ext_authz::PREFIX, |route| route.path);
    // A request for one of our own routes comes back to be served, with the same proof of possession.
    let principal = authenticate(app, &parts, name, route.is_none()).await?;
    Span::current().record("tenant", principal.tenant().as_str());
    let record = gate::enter(app, &principal, &format!("{} {name}", parts.method)).await?;
    let call = Call {
        method: parts.method.clone(),
        route: name,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        approval: approval_of(&parts.headers)?,
        network: principal.authority().network,
        body: body_of(&parts.headers, body).await?,
        ..Call::default()
    };
    let who = (principal.tenant(), principal.actor());
    if route.is_some() {
        // It is counted where it is served.
        app.rates.ask(who, Instant::now())?;
        return ext_authz::check(app, principal, call).await;
    }
    let fields = app.rates.take(who, &record.quotas, false, Instant::now())?;
    fields.on(ext_authz::check(app, principal, call).await)
}

async fn authenticate(
    app: &App,
    parts: &Parts,
    route: &str,
    is_served: bool,
) -> Result<Principal, Problem> {
    let what = || format!("{} {route}", parts.method);
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
    let seen = Seen {
        method: &parts.method,
        uri: &parts.uri,
        headers: &parts.headers,
        network: origin(peer, &parts.headers, &app.config.trusted_proxies),
        is_served,
    };
    app.rates.admits(seen.network, Instant::now())?;
    // What no credential can be is said also while the broker is away.
    let form = credential(seen.headers, seen.uri.query()).map_err(AuthError::Denied);
    let who = match form {
        Ok(_) => {
            app.connected()?;
            app.auth.request(&seen).await
        }
        Err(error) => Err(error),
    };
    who.map_err(|error| {
        if let AuthError::Denied(_) = error {
            app.rates.failed_from(seen.network, Instant::now());
        }
        app.refuse(&what(), &error)
    })
}

fn id_of(params: &Params) -> Result<String, Problem> {
    let params = params.as_ref().map_err(|_| Problem::not_found("the path is not valid UTF-8"))?;
    let id = params.iter().find(|(name, _)| *name == "id");
    Ok(id.map(|(_, value)| value.to_owned()).unwrap_or_default())
}

/// What a client that comes back to a stream sends by itself (WHATWG HTML §9.2.4).
fn last_event_id(headers: &HeaderMap) -> Option<String> {
    headers.get("last-event-id")?.to_str().ok().map(str::to_owned)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let first = values.next().map(|value| value.as_bytes().to_vec());
    if values.next().is_some() {
        let rule = "must be sent at most once";
        return Err(Problem::field(Kind::BadRequest, "Idempotency-Key", rule));
    }
    Ok(first)
}

/// The header that names an approval.
const APPROVAL: &str = "hotcell-approval";

fn approval_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(APPROVAL).iter();
    let Some(first) = values.next() else { return Ok(None) };
    match (first.to_str(), values.next()) {
        (Ok(id), None) => Ok(Some(id.to_owned())),
        _ => {
            let rule = "must be sent at most once, with the id of an approval";
            Err(Problem::field(Kind::BadRequest, "Hotcell-Approval", rule))
        }
    }
}

async fn body_of(headers: &HeaderMap, body: &mut Body) -> Result<Bytes, Problem> {
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let declared = declared.and_then(|text| text.parse::<usize>().ok());
    if declared.is_some_and(|length| length > HTTP_BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let read = collect(body, declared.unwrap_or_default());
    let read = tokio::time::timeout(Duration::from_secs(BODY_SECS), read).await;
    read.unwrap_or_else(|_| Err(Problem::new(Kind::Timeout, "the body did not arrive in time")))
}

fn too_large() -> Problem {
    let rule = format!("must be at most {HTTP_BODY_BYTES_MAX} bytes");
    Problem::field(Kind::TooLarge, "body", rule)
}

async fn collect(body: &mut Body, expected: usize) -> Result<Bytes, Problem> {
    let mut whole = Vec::with_capacity(expected);
    while let Some(frame) = body.frame().await {
        let broken = |_| Problem::new(Kind::BadRequest, "the body did not arrive whole");
        let frame = frame.map_err(broken)?;
        if let Some(bytes) = frame.data_ref() {
            if whole.len() + bytes.len() > HTTP_BODY_BYTES_MAX {
                return Err(too_large());
            }
            whole.extend_from_slice(bytes);
        }
    }
    Ok(whole.into())
}

/// Reads on what nobody wants, within bounds; whether that was all of it. A socket closed with
/// bytes unread is reset, and the client would lose the answer that says why.
async fn drain(body: &mut Body) -> bool {
    let all = async {
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > DRAIN_BYTES_MAX {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(Duration::from_secs(DRAIN_SECS), all).await.unwrap_or(false)
}

/// Answers a principal that asks for what is not there, which counts as any other request.
async fn astray(app: &App, parts: &Parts, kind: Kind) -> Result<Reply, Problem> {
    let who = authenticate(app, parts, "none", true).await?;
    let record = gate::enter(app, &who, &format!("{} none", parts.method)).await?;
    let by = (who.tenant(), who.actor());
    let fields = app.rates.take(by, &record.quotas, false, Instant::now())?;
    fields.on(Err(nowhere(kind)))
}

fn nowhere(kind: Kind) -> Problem {
    Problem::new(kind, "see the API's list of paths and methods")
}

/// A path or a method that the table does not have. Below `/v1` only a principal learns that.
async fn lost(app: Arc<App>, request: Request, kind: Kind) -> Response {
    let span = span(&request, "none");
    let (parts, mut body) = request.into_parts();
    async {
        let problem = if parts.uri.path().starts_with("/v1") {
            astray(&app, &parts, kind).await.err()
        } else {
            None
        };
        let problem = problem.unwrap_or_else(|| nowhere(kind));
        refused_whole(&problem, &mut body).await
    }
    .instrument(span)
    .await
}

fn replied(app: &Arc<App>, reply: Reply) -> Response {
    let mut response = match reply.follow {
        None => plain(reply.status, "application/json", reply.body),
        Some(follow) => {
            let mut response = plain(reply.status, "text/event-stream", Vec::new());
            *response.body_mut() = Body::from_stream(events::body(Arc::clone(app), follow));
            response
        }
    };
    if let Some(location) = reply.location.and_then(|text| HeaderValue::try_from(text).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    append(response.headers_mut(), &reply.headers);
    response
}

fn append(headers: &mut HeaderMap, more: &[(&'static str, String)]) {
    for (name, value) in more {
        // A value that is no header's value holds what a client wrote; it is in the body as well.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
}

/// A problem, answered when what the client still sends was read, or with the word that the
/// connection ends here.
async fn refused_whole(problem: &Problem, body: &mut Body) -> Response {
    let whole = drain(body).await;
    let mut response = refused(problem);
    if !whole {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

fn refused(problem: &Problem) -> Response {
    let mut response = plain(problem.status(), problem::CONTENT_TYPE, problem.body());
    let headers = response.headers_mut();
    let challenged = problem.headers().iter().any(|(name, _)| *name == "www-authenticate");
    if problem.kind() == Kind::Unauthorized && !challenged {
        let challenge = HeaderValue::from_static("Bearer realm=\"hotcell\"");
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if problem.kind() == Kind::Unavailable {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS));
    }
    append(headers, problem.headers());
    response
}

/// Answers hold URLs and secrets of one tenant: no cache may keep them, no browser guess at them.
fn plain(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).expect("statuses are constants of handlers and problems");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let check = async |body: Vec<u8>, declared: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(length) = declared {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            let mut body = Body::from(body);
            body_of(&headers, &mut body).await.map_err(|problem| problem.status())
        };
        let full = vec![b' '; HTTP_BODY_BYTES_MAX];
        assert_eq!(check(full.clone(), None).await.unwrap().len(), HTTP_BODY_BYTES_MAX);
        assert_eq!(check([full, vec![b' ']].concat(), None).await, Err(413));
        assert_eq!(check(Vec::new(), Some("65537")).await, Err(413));
    }

    #[tokio::test]
    async fn an_unread_body_is_drained_or_the_connection_ends() {
        let check = async |length: usize, expect: Option<&str>| {
            let mut body = Body::from(vec![0; length]);
            let response = refused_whole(&too_large(), &mut body).await;
            let found = response.headers().get(header::CONNECTION).map(|v| v.to_str().unwrap());
            assert_eq!(found, expect, "{length}");
        };
        check(0, None).await;
        check(DRAIN_BYTES_MAX, None).await;
        check(DRAIN_BYTES_MAX + 1, Some("close")).await;
    }

    #[test]
    fn a_problem_carries_its_headers() {
        let response = refused(&Problem::new(Kind::Unauthorized, "x"));
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"hotcell\"");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let response = refused(&Problem::unavailable("x"));
        assert_eq!(response.headers()["retry-after"], "1");
    }

    #[test]
    fn an_idempotency_key_is_sent_once() {
        let mut headers = HeaderMap::new();
        assert_eq!(idempotency_key(&headers), Ok(None));
        headers.append("idempotency-key", HeaderValue::from_static("a"));
        assert_eq!(idempotency_key(&headers), Ok(Some(b"a".to_vec())));
        headers.append("idempotency-key", HeaderValue::from_static("a"));
        assert_eq!(idempotency_key(&headers).unwrap_err().status(), 400);
    }
}
