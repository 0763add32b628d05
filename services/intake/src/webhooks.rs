//! Webhook endpoints: checks the request's shape and asks the webhook service, which owns secrets
//! and the rules for addresses. The secret passes through once and is kept nowhere here.

use crate::{
    app::{App, Call, Reply},
    auth::Principal,
    gate, json,
    problem::{Kind, Problem},
    quota,
};
use hotcell_policy::Facts;
use hotcell_schemas::{
    Subject,
    hook::{HookReply, HookRequest},
    limits::ENDPOINT_URL_BYTES_MAX,
    request::{WebhookEvent, WebhookRequest},
};
use std::sync::Arc;
use url::Url;

fn check(request: &WebhookRequest) -> Result<(), Problem> {
    let refuse = |field, rule: &str| Err(Problem::field(Kind::Unprocessable, field, rule));
    if request.url.len() > ENDPOINT_URL_BYTES_MAX {
        return refuse("url", &format!("must be at most {ENDPOINT_URL_BYTES_MAX} bytes"));
    }
    let Ok(url) = Url::parse(&request.url) else {
        return refuse("url", "must be an absolute URL");
    };
    if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
        return refuse("url", "must be an https URL with a host");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return refuse("url", "must hold no user, no password and no fragment");
    }
    let mut events = request.events.clone();
    events.sort_unstable();
    events.dedup();
    if events.len() != request.events.len() || events.len() > WebhookEvent::ALL.len() {
        return refuse("events", "must name each event at most once");
    }
    Ok(())
}

/// What policy is to know: whither results would go.
///
/// # Errors
/// 400 and 422 naming the field.
pub fn facts(call: &Call) -> Result<Facts, Problem> {
    let request: WebhookRequest = json::parse(&call.body)?;
    check(&request)?;
    Ok(Facts { destination: host(&request).unwrap_or_default(), ..Facts::default() })
}

fn host(request: &WebhookRequest) -> Option<String> {
    Url::parse(&request.url).ok()?.host_str().map(str::to_owned)
}

/// `POST /v1/webhooks`. Repeating it makes another endpoint.
///
/// # Errors
/// 400 and 422 naming the field; 503 when the webhook service is away.
pub async fn create(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let request: WebhookRequest = json::parse(&call.body)?;
    check(&request)?;
    let target = host(&request).unwrap_or_default();
    gate::change(&app, &who, &call, "webhook_created", &target).await?;
    let ask = HookRequest { tenant: who.tenant().clone(), request };
    match app.ask(Subject::hooks_create(), &ask).await? {
        HookReply::Created { created } => Ok(Reply::new(201, created)),
        HookReply::OverQuota { limit, used } => Err(quota::webhooks(limit, used)),
        HookReply::Refused { field, rule } => Err(Problem::field(Kind::Unprocessable, field, rule)),
    }
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
}
