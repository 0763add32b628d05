//! What was delivered to a webhook: listed, newest first, and replayed.
//!
//! Promises: one answer is bounded, and so is what is read for it; a cursor is a place in the list of
//! that webhook and opens nothing else. An answer that looks for a rare state may hold fewer than
//! asked for, and a cursor: the list ends where there is none.

use crate::{
    app::{App, Call, Reply},
    auth::Principal,
    gate,
    problem::{Kind, Problem},
    webhooks::{ask, endpoint_of, otherwise, queued},
};
use hotcell_schemas::{
    DeliveryId, EndpointId,
    hook::{DeliveryPlace, DeliveryRecord, DeliveryState, HookAskReply, HookVerb},
    limits::{DELIVERIES_LIST_DEFAULT, DELIVERIES_LIST_MAX},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    limit: u32,
    from: Option<DeliveryPlace>,
    state: Option<DeliveryState>,
}

fn place(cursor: &str) -> Option<DeliveryPlace> {
    let (page, left) = cursor.split_once('.')?;
    Some(DeliveryPlace { page: page.parse().ok()?, left: left.parse().ok()? })
}

fn state(word: &str) -> Option<DeliveryState> {
    match word {
        "retrying" => Some(DeliveryState::Retrying),
        "succeeded" => Some(DeliveryState::Succeeded),
        "exhausted" => Some(DeliveryState::Exhausted),
        _ => None,
    }
}

fn listed(query: &str) -> Result<Listed, Problem> {
    let refuse = |field: &str, rule: &str| Err(Problem::field(Kind::BadRequest, field, rule));
    let (mut limit, mut from, mut only) = (None, None, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let again = match &*name {
            "limit" => match value.parse::<u32>() {
                Ok(number @ 1..=DELIVERIES_LIST_MAX) => limit.replace(number).is_some(),
                _ => {
                    let rule = format!("must be a whole number, 1 to {DELIVERIES_LIST_MAX}");
                    return refuse("limit", &rule);
                }
            },
            "cursor" => match place(&value) {
                Some(place) => from.replace(place).is_some(),
                None => return refuse("cursor", "must be a `nextCursor` of an earlier answer"),
            },
            "state" => match state(&value) {
                Some(state) => only.replace(state).is_some(),
                None => return refuse("state", "must be retrying, succeeded or exhausted"),
            },
            other => return refuse(other, "unknown parameter"),
        };
        if again {
            return refuse(&name, "must be given once");
        }
    }
    Ok(Listed { limit: limit.unwrap_or(DELIVERIES_LIST_DEFAULT), from, state: only })
}

/// A delivery as its tenant sees it.
fn shown(record: &DeliveryRecord) -> Value {
    let attempts = record.attempts.iter().map(|attempt| {
        json!({
            "at": attempt.at.rfc3339(),
            "status": attempt.status,
            "error": attempt.error,
            "elapsedMs": attempt.elapsed_ms,
        })
    });
    json!({
        "id": record.id,
        "event": record.event,
        "job": record.job,
        "sequence": record.sequence,
        "happenedAt": record.happened_at.map(|at| at.rfc3339()),
        "state": record.state,
        "nextAttemptAt": record.next_at.map(|at| at.rfc3339()),
        "replays": record.replays,
        "attempts": attempts.collect::<Vec<_>>(),
        "attemptsDropped": record.dropped,
    })
}

/// `GET /v1/webhooks/{id}/deliveries?limit=&cursor=&state=`.
///
/// # Errors
/// 400 naming the parameter; 404; 503.
pub async fn list(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let endpoint = endpoint_of(&call)?;
    let Listed { limit, from, state } = listed(&call.query)?;
    let reply = ask(&app, &who, HookVerb::Deliveries { endpoint, limit, from, state }).await?;
    let HookAskReply::Deliveries { deliveries, next } = &reply else {
        return Err(otherwise(reply));
    };
    let deliveries: Vec<_> = deliveries.iter().map(shown).collect();
    let cursor = next.map(|DeliveryPlace { page, left }| format!("{page}.{left}"));
    Ok(Reply::new(200, json!({ "deliveries": deliveries, "nextCursor": cursor })))
}

fn none() -> Problem {
    Problem::not_found("there is no such delivery")
}

/// The `{delivery}` of `/v1/webhooks/{id}/deliveries/{delivery}` and what is below it; what is no id
/// is nobody's.
fn delivery_of(path: &str) -> Result<DeliveryId, Problem> {
    path.split('/').nth(5).and_then(|word| word.parse().ok()).ok_or_else(none)
}

async fn find(
    app: &App,
    who: &Principal,
    endpoint: EndpointId,
    delivery: DeliveryId,
) -> Result<DeliveryRecord, Problem> {
    let reply = ask(app, who, HookVerb::Delivery { endpoint, delivery }).await?;
    if let HookAskReply::Deliveries { deliveries, next: _ } = reply {
        return deliveries.into_iter().next().ok_or_else(none);
    }
    Err(otherwise(reply))
}

/// `GET /v1/webhooks/{id}/deliveries/{delivery}`.
///
/// # Errors
/// 404, 503.
pub async fn get(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let (endpoint, delivery) = (endpoint_of(&call)?, delivery_of(&call.path)?);
    Ok(Reply::new(200, shown(&find(&app, &who, endpoint, delivery).await?)))
}

/// `POST /v1/webhooks/{id}/deliveries/{delivery}/replay`: the same event under the same id, with a new
/// time and signature, and the whole schedule (BRK-53).
///
/// # Errors
/// 404; 409 while the webhook is disabled, or the delivery under way; 503.
pub async fn replay(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let (endpoint, delivery) = (endpoint_of(&call)?, delivery_of(&call.path)?);
    find(&app, &who, endpoint.clone(), delivery.clone()).await?;
    let target = format!("{endpoint} {delivery}");
    gate::change(&app, &who, &call, "webhook_replayed", &target).await?;
    let reply = ask(&app, &who, HookVerb::Replay { endpoint, delivery }).await?;
    queued(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked_by_name_and_rule() {
        let check = |query: &str, field: Option<&str>| {
            let found = listed(query).err();
            let named = found.as_ref().map(|problem| problem.errors()[0].field.as_str());
            assert_eq!(named, field, "{query}");
        };
        let plain = Listed { limit: DELIVERIES_LIST_DEFAULT, from: None, state: None };
        assert_eq!(listed(""), Ok(plain));
        check("limit=50&state=exhausted&cursor=2.128", None);
        for bad in ["limit=0", "limit=51", "limit=", "limit=-1", "limit=1&limit=1"] {
            check(bad, Some("limit"));
        }
        for bad in ["cursor=", "cursor=x", "cursor=1", "cursor=1.", "cursor=-1.2", "cursor=1.2.3"] {
            check(bad, Some("cursor"));
        }
        check("state=done", Some("state"));
        check("page=1", Some("page"));
    }

    #[test]
    fn a_path_names_one_delivery() {
        let id = "0193a0f0c0de7000800000000000beef";
        let path = format!("/v1/webhooks/{id}/deliveries/{id}/replay");
        for path in [path.as_str(), path.strip_suffix("/replay").unwrap()] {
            assert_eq!(delivery_of(path).unwrap(), id.parse().unwrap());
        }
        for bad in ["", "/replay", "/v1/webhooks/x/deliveries/y/replay", "/v1/webhooks"] {
            assert_eq!(delivery_of(bad).unwrap_err().status(), 404, "{bad}");
        }
    }
}
