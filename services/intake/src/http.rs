//! The HTTP door. Promises: every request has a span with method, route pattern, tenant and status,
//! and never a query string or a URL; a body, a header and a connection each have a bound and a
//! deadline; whatever is asked below `/v1` is authenticated before its path is looked at.

use crate::{
    app::{App, Call, Reply},
    auth::{AuthError, Principal, credential},
    problem::{self, Kind, Problem},
    routes::{ROUTES, Route, Serve},
};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    response::Response,
    routing::{MethodFilter, on},
};
use bytes::Bytes;
use hotcell_schemas::limits::HTTP_BODY_BYTES_MAX;
use hotcell_stage::telemetry;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use std::{
    error::Error as _,
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::{Instrument as _, Span, debug, field::Empty, info, info_span};

/// A body of 64 KiB must arrive within this long, in seconds.
const BODY_SECS: u64 = 10;

/// Seconds after which a client may try again what is not available now.
const RETRY_AFTER_SECS: &str = "1";

type Params = Result<RawPathParams, RawPathParamsRejection>;

/// The router of [`ROUTES`].
pub fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    for route in &ROUTES {
        let filter = MethodFilter::try_from(route.method.clone())
            .expect("the table holds only standard methods");
        let app = Arc::clone(app);
        let serve = move |params: Params, request: Request| {
            let app = Arc::clone(&app);
            async move { served(app, route, &params, request).await }
        };
        router = router.route(route.path, on(filter, serve));
    }
    let (at_path, at_method) = (Arc::clone(app), Arc::clone(app));
    router
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
    let response = async {
        let answer = match &route.serve {
            Serve::Open(handler) => Ok(handler(app).await),
            Serve::Tenant(handler) => tenant(app, route, *handler, params, request).await,
        };
        let response = answer.map_or_else(|problem| refused(&problem), replied);
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

/// Authenticates, reads the body, and calls the handler, in this order.
async fn tenant(
    app: Arc<App>,
    route: &'static Route,
    handler: crate::app::Handler,
    params: &Params,
    request: Request,
) -> Result<Reply, Problem> {
    let (parts, body) = request.into_parts();
    let principal = authenticate(&app, &parts, route.path).await?;
    Span::current().record("tenant", principal.tenant().as_str());
    let call = Call {
        id: id_of(params)?,
        query: parts.uri.query().unwrap_or_default().to_owned(),
        idempotency: idempotency_key(&parts.headers)?,
        body: body_of(&parts.headers, body).await?,
    };
    handler(app, principal, call).await
}

async fn authenticate(app: &App, parts: &Parts, route: &str) -> Result<Principal, Problem> {
    let what = || format!("{} {route}", parts.method);
    let credential = credential(&parts.headers, parts.uri.query())
        .map_err(|reason| app.refuse(&what(), &AuthError::Denied(reason)))?;
    app.connected()?;
    app.auth.key(&credential).await.map_err(|error| app.refuse(&what(), &error))
}

fn id_of(params: &Params) -> Result<String, Problem> {
    let params = params.as_ref().map_err(|_| Problem::not_found("the path is not valid UTF-8"))?;
    let id = params.iter().find(|(name, _)| *name == "id");
    Ok(id.map(|(_, value)| value.to_owned()).unwrap_or_default())
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

async fn body_of(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || {
        let rule = format!("must be at most {HTTP_BODY_BYTES_MAX} bytes");
        Problem::field(Kind::TooLarge, "body", rule)
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let declared = declared.and_then(|text| text.parse::<usize>().ok());
    if declared.is_some_and(|length| length > HTTP_BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let read = to_bytes(body, HTTP_BODY_BYTES_MAX);
    match tokio::time::timeout(Duration::from_secs(BODY_SECS), read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let cut = error.source().is_some_and(|it| it.is::<http_body_util::LengthLimitError>());
            let broken = || Problem::new(Kind::BadRequest, "the body did not arrive whole");
            Err(if cut { too_large() } else { broken() })
        }
        Err(_) => Err(Problem::new(Kind::Timeout, "the body did not arrive in time")),
    }
}

/// A path or a method that the table does not have. Below `/v1` only a principal learns that.
async fn lost(app: Arc<App>, request: Request, kind: Kind) -> Response {
    let span = span(&request, "none");
    let (parts, _) = request.into_parts();
    async {
        if parts.uri.path().starts_with("/v1")
            && let Err(problem) = authenticate(&app, &parts, "none").await
        {
            return refused(&problem);
        }
        refused(&Problem::new(kind, "see the API's list of paths and methods"))
    }
    .instrument(span)
    .await
}

fn replied(reply: Reply) -> Response {
    let mut response = plain(reply.status, "application/json", reply.body);
    if let Some(location) = reply.location.and_then(|text| HeaderValue::try_from(text).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn refused(problem: &Problem) -> Response {
    let mut response = plain(problem.status(), problem::CONTENT_TYPE, problem.body());
    let headers = response.headers_mut();
    if problem.kind() == Kind::Unauthorized {
        let challenge = HeaderValue::from_static("Bearer realm=\"hotcell\"");
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if problem.kind() == Kind::Unavailable {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS));
    }
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
            body_of(&headers, Body::from(body)).await.map_err(|problem| problem.status())
        };
        let full = vec![b' '; HTTP_BODY_BYTES_MAX];
        assert_eq!(check(full.clone(), None).await.unwrap().len(), HTTP_BODY_BYTES_MAX);
        assert_eq!(check([full, vec![b' ']].concat(), None).await, Err(413));
        assert_eq!(check(Vec::new(), Some("65537")).await, Err(413));
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
