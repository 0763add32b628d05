//! Webhook endpoints: checks the request's shape and asks the webhook service, which owns secrets
//! and the rules for addresses. A secret passes through once and is kept nowhere here.
//!
//! Promises: each change is recorded before it is made, and one of what is not there is not recorded;
//! an answer that shows an endpoint shows no secret. Refuses nothing about addresses by itself: that
//! is the webhook service's, which opens the sockets.

use crate::{
    app::{App, Call, Reply},
    auth::Principal,
    gate, json,
    problem::{Kind, Problem},
    quota,
};
use hotcell_policy::Facts;
use hotcell_schemas::{
    DeliveryId, EndpointId, Subject,
    hook::{EndpointView, HookAsk, HookAskReply, HookConflict, HookReply, HookRequest, HookVerb},
    limits::{ENDPOINT_URL_BYTES_MAX, WEBHOOK_OLD_SECRET_SECS},
    request::{WebhookChange, WebhookEvent, WebhookRequest, WebhookRotate},
};
use hotcell_stage::clock;
use serde_json::{Value, json};
use std::sync::Arc;
use tracing::error;
use url::Url;

type Rule = Result<(), (&'static str, String)>;

fn check_url(url: &str) -> Rule {
    let refuse = |rule: &str| Err(("url", rule.to_owned()));
    if url.len() > ENDPOINT_URL_BYTES_MAX {
        return refuse(&format!("must be at most {ENDPOINT_URL_BYTES_MAX} bytes"));
    }
    let Ok(url) = Url::parse(url) else {
        return refuse("must be an absolute URL");
    };
    if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
        return refuse("must be an https URL with a host");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return refuse("must hold no user, no password and no fragment");
    }
    Ok(())
}

fn check_events(events: &[WebhookEvent]) -> Rule {
    if WebhookEvent::are_distinct(events) {
        return Ok(());
    }
    Err(("events", "must name each event at most once".to_owned()))
}

fn unprocessable((field, rule): (&'static str, String)) -> Problem {
    Problem::field(Kind::Unprocessable, field, rule)
}

fn check(request: &WebhookRequest) -> Result<(), Problem> {
    check_url(&request.url).and_then(|()| check_events(&request.events)).map_err(unprocessable)
}

fn check_change(change: &WebhookChange) -> Result<(), Problem> {
    if *change == WebhookChange::default() {
        let rule = "must name url, events or enabled".to_owned();
        return Err(unprocessable(("body", rule)));
    }
    let url = change.url.as_deref().map_or(Ok(()), check_url);
    let checked = url.and_then(|()| check_events(change.events.as_deref().unwrap_or_default()));
    checked.map_err(unprocessable)
}

/// What policy is to know: whither results would go.
///
/// # Errors
/// 400 and 422 naming the field.
pub fn facts(call: &Call) -> Result<Facts, Problem> {
    let request: WebhookRequest = json::parse(&call.body)?;
    check(&request)?;
    Ok(Facts { destination: host(&request.url).unwrap_or_default(), ..Facts::default() })
}

/// The same of a change: nothing, where the URL stays.
///
/// # Errors
/// 400 and 422 naming the field.
pub fn change_facts(call: &Call) -> Result<Facts, Problem> {
    let change: WebhookChange = json::parse(&call.body)?;
    check_change(&change)?;
    let destination = change.url.as_deref().and_then(host).unwrap_or_default();
    Ok(Facts { destination, ..Facts::default() })
}

/// The host that policies see: a trailing dot leads to the same one.
fn host(url: &str) -> Option<String> {
    Some(Url::parse(url).ok()?.host_str()?.trim_end_matches('.').to_owned())
}

/// `POST /v1/webhooks`. Repeating it makes another endpoint.
///
/// # Errors
/// 400 and 422 naming the field; 503 when the webhook service is away.
pub async fn create(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let request: WebhookRequest = json::parse(&call.body)?;
    check(&request)?;
    let target = host(&request.url).unwrap_or_default();
    gate::change(&app, &who, &call, "webhook_created", &target).await?;
    let ask = HookRequest { tenant: who.tenant().clone(), request };
    match app.ask(Subject::hooks_create(), &ask).await? {
        HookReply::Created { created } => Ok(Reply::new(201, created)),
        HookReply::OverQuota { limit, used } => Err(quota::webhooks(limit, used)),
        HookReply::Refused { field, rule } => Err(Problem::field(Kind::Unprocessable, field, rule)),
    }
}

fn none() -> Problem {
    Problem::not_found("there is no such webhook")
}

/// The endpoint in the path; what is no id is nobody's.
pub(crate) fn endpoint_of(call: &Call) -> Result<EndpointId, Problem> {
    call.id.parse().map_err(|_| none())
}

/// Asks the webhook service, for the caller's own tenant.
pub(crate) async fn ask(
    app: &App,
    who: &Principal,
    verb: HookVerb,
) -> Result<HookAskReply, Problem> {
    let ask = HookAsk { tenant: who.tenant().clone(), verb };
    app.ask(Subject::hooks_ask(), &ask).await
}

/// The problem of an answer that is not the one that was asked for.
pub(crate) fn otherwise(reply: HookAskReply) -> Problem {
    match reply {
        HookAskReply::Missing {} => none(),
        HookAskReply::Refused { field, rule } => Problem::field(Kind::Unprocessable, field, rule),
        HookAskReply::Conflict { why } => Problem::new(Kind::Conflict, sentence(why)),
        HookAskReply::Endpoints { .. }
        | HookAskReply::Endpoint { .. }
        | HookAskReply::Rotated { .. }
        | HookAskReply::Queued { .. }
        | HookAskReply::Deliveries { .. } => {
            error!("the webhook service answers something else");
            Problem::internal()
        }
    }
}

const fn sentence(why: HookConflict) -> &'static str {
    match why {
        HookConflict::Disabled => "the webhook is disabled: enable it, then replay",
        HookConflict::Retrying => {
            "it is under way already: the state of the delivery says when it has ended"
        }
        HookConflict::Test => "a test is not replayed: send another one",
        HookConflict::Forgotten => {
            "the delivery is from before replays, and its event is not known"
        }
        HookConflict::Busy => "others change the webhook at this moment: try again",
    }
}

/// 202, for a delivery that is on its way.
pub(crate) fn queued(reply: HookAskReply) -> Result<Reply, Problem> {
    let HookAskReply::Queued { delivery } = &reply else { return Err(otherwise(reply)) };
    Ok(Reply::new(202, json!({ "delivery": delivery })))
}

fn view_of(reply: HookAskReply) -> Result<EndpointView, Problem> {
    if let HookAskReply::Endpoint { endpoint } = reply {
        return Ok(endpoint);
    }
    Err(otherwise(reply))
}

/// The endpoint, before anything is recorded about it.
async fn find(app: &App, who: &Principal, endpoint: &EndpointId) -> Result<EndpointView, Problem> {
    view_of(ask(app, who, HookVerb::Get { endpoint: endpoint.clone() }).await?)
}

/// An endpoint as its tenant sees it, without a secret.
fn shown(endpoint: &EndpointView) -> Value {
    let at = |at: Option<hotcell_schemas::UnixMs>| at.map(|at| at.rfc3339());
    json!({
        "id": endpoint.id,
        "url": endpoint.url,
        "events": endpoint.events,
        "createdAt": endpoint.created_at.rfc3339(),
        "enabled": endpoint.disabled_at.is_none(),
        "disabledAt": at(endpoint.disabled_at),
        "disabledFor": endpoint.disabled_for,
        "failures": endpoint.failures,
        "lastFailure": endpoint.last_failure.as_ref().map(|last| json!({
            "delivery": last.delivery,
            "attempt": last.number,
            "at": last.at.rfc3339(),
            "status": last.status,
            "error": last.error,
        })),
        "oldSecretUntil": at(endpoint.old_secret_until),
    })
}

/// `GET /v1/webhooks`: the oldest first.
///
/// # Errors
/// 503.
pub async fn list(app: Arc<App>, who: Principal, _: Call) -> Result<Reply, Problem> {
    let reply = ask(&app, &who, HookVerb::List {}).await?;
    let HookAskReply::Endpoints { endpoints } = &reply else { return Err(otherwise(reply)) };
    let webhooks: Vec<_> = endpoints.iter().map(shown).collect();
    Ok(Reply::new(200, json!({ "webhooks": webhooks })))
}

/// `GET /v1/webhooks/{id}`.
///
/// # Errors
/// 404, 503.
pub async fn get(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    Ok(Reply::new(200, shown(&find(&app, &who, &endpoint_of(&call)?).await?)))
}

/// `PATCH /v1/webhooks/{id}`: what is not named stays.
///
/// # Errors
/// 400 and 422 naming the field; 404; 409 when too many change it at the same moment; 503.
pub async fn change(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let change: WebhookChange = json::parse(&call.body)?;
    check_change(&change)?;
    let endpoint = endpoint_of(&call)?;
    find(&app, &who, &endpoint).await?;
    let mut target = endpoint.to_string();
    if let Some(host) = change.url.as_deref().and_then(host) {
        target.push_str(&format!(" url {host}"));
    }
    if change.events.is_some() {
        target.push_str(" events");
    }
    if let Some(enabled) = change.enabled {
        target.push_str(if enabled { " enabled" } else { " disabled" });
    }
    gate::change(&app, &who, &call, "webhook_changed", &target).await?;
    let changed = view_of(ask(&app, &who, HookVerb::Change { endpoint, change }).await?)?;
    Ok(Reply::new(200, shown(&changed)))
}

/// `POST /v1/webhooks/{id}/rotate`: the new secret is in this answer alone.
///
/// # Errors
/// 400 and 422 naming the field; 404; 409 when too many change it at the same moment; 503.
pub async fn rotate(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let request = match call.body.is_empty() {
        true => WebhookRotate::default(),
        false => json::parse(&call.body)?,
    };
    let old_secret_secs = request.old_secret_secs.unwrap_or(WEBHOOK_OLD_SECRET_SECS);
    if old_secret_secs > WEBHOOK_OLD_SECRET_SECS {
        let rule = format!("must be 0 to {WEBHOOK_OLD_SECRET_SECS}");
        return Err(unprocessable(("oldSecretSecs", rule)));
    }
    let endpoint = endpoint_of(&call)?;
    find(&app, &who, &endpoint).await?;
    let target = format!("{endpoint} old secret for {old_secret_secs} s");
    gate::change(&app, &who, &call, "webhook_rotated", &target).await?;
    // Asked again, should an answer be lost, it is the same rotation.
    let request = hex::encode(clock::random::<16>());
    let verb = HookVerb::Rotate { endpoint, request, old_secret_secs };
    let reply = ask(&app, &who, verb).await?;
    let HookAskReply::Rotated { endpoint, secret } = &reply else {
        return Err(otherwise(reply));
    };
    let mut result = shown(endpoint);
    if let Some(members) = result.as_object_mut() {
        members.insert("secret".to_owned(), json!(secret));
    }
    Ok(Reply::new(200, result))
}

/// `DELETE /v1/webhooks/{id}`: what it was. Deliveries that are under way end.
///
/// # Errors
/// 404; 409 when too many change it at the same moment; 503.
pub async fn remove(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let endpoint = endpoint_of(&call)?;
    let found = find(&app, &who, &endpoint).await?;
    gate::change(&app, &who, &call, "webhook_removed", endpoint.as_str()).await?;
    let reply = ask(&app, &who, HookVerb::Remove { endpoint }).await?;
    // It was there a moment ago: somebody else removed it, or the first answer was lost.
    let removed = if reply == (HookAskReply::Missing {}) { found } else { view_of(reply)? };
    Ok(Reply::new(200, shown(&removed)))
}

/// `POST /v1/webhooks/{id}/test`: one delivery that tells of nothing; how it ends is in the list of
/// deliveries. A disabled endpoint is tested as well.
///
/// # Errors
/// 404; 409 while as many tests as may be are under way; 503.
pub async fn test(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let endpoint = endpoint_of(&call)?;
    find(&app, &who, &endpoint).await?;
    let delivery = DeliveryId::new(clock::now().0, clock::random());
    let target = format!("{endpoint} {delivery}");
    gate::change(&app, &who, &call, "webhook_tested", &target).await?;
    queued(ask(&app, &who, HookVerb::Test { endpoint, delivery }).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_an_endpoint_is_checked() {
        let check = |url: &str, events: &[WebhookEvent], expect: Option<&str>| {
            let request = WebhookRequest { url: url.to_owned(), events: events.to_vec() };
            let found = check(&request).err();
            let field = found.as_ref().map(|problem| problem.errors()[0].field.as_str());
            assert_eq!(field, expect, "{url} {events:?}");
        };
        check("https://example.com/hook?a=b", &[], None);
        check("http://127.0.0.1:9999/hook", &WebhookEvent::ALL, None);
        for bad in ["", "x", "/hook", "ftp://example.com/", "file:///etc/passwd", "data:,x"] {
            check(bad, &[], Some("url"));
        }
        check("https://user:pw@example.com/", &[], Some("url"));
        check("https://example.com/#f", &[], Some("url"));
        check(&format!("https://example.com/{}", "x".repeat(2048)), &[], Some("url"));
        let twice = [WebhookEvent::Completed, WebhookEvent::Completed];
        check("https://example.com/", &twice, Some("events"));
    }

    /// IAM-09: a policy against a host is one against it with a dot, too.
    #[test]
    fn iam_09_a_host_has_one_form_for_policies() {
        for url in ["https://a.example./x", "https://A.example/x", "https://a.example.:443/"] {
            assert_eq!(host(url).as_deref(), Some("a.example"), "{url}");
        }
    }

    #[test]
    fn a_change_names_something_and_is_checked_as_a_request() {
        let check = |body: &str, expect: Option<&str>| {
            let change: WebhookChange = json::parse(body.as_bytes()).unwrap();
            let found = check_change(&change).err();
            let field = found.as_ref().map(|problem| problem.errors()[0].field.as_str());
            assert_eq!(field, expect, "{body}");
        };
        check("{}", Some("body"));
        check(r#"{"enabled":true}"#, None);
        check(r#"{"events":[]}"#, None);
        check(r#"{"url":"https://example.com/hook"}"#, None);
        check(r#"{"url":"/hook"}"#, Some("url"));
        check(r#"{"events":["job.failed","job.failed"]}"#, Some("events"));
        let unknown = json::parse::<WebhookChange>(br#"{"events":["webhook.test"]}"#);
        assert!(unknown.is_err(), "nobody subscribes to tests");
    }
}
