//! `hotcell webhook list|show|create|set|rotate|test|remove|deliveries|replay`: a tenant's webhooks,
//! through the API.
//!
//! Promises: a secret is printed once, by what made it. Refuses nothing by itself: policy does, and
//! the API says what is missing.

use crate::{api::Api, fail::Fail, key::Factor, print, token};
use hotcell_schemas::{DeliveryId, EndpointId};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::path::Path;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum WebhookCommand {
    /// List the tenant's webhooks.
    List,
    /// Show one: whether it is enabled, and if not, why.
    Show {
        /// Its id.
        id: EndpointId,
    },
    /// Make one, and print its secret this once.
    #[command(after_help = "Examples:
  hotcell webhook create https://example.com/hook
  hotcell webhook create https://example.com/hook --events job.completed,job.failed")]
    Create {
        /// Where to deliver.
        url: String,
        /// Only these: job.completed, job.failed, job.rejected, job.cancelled. All when absent.
        #[arg(long, value_delimiter = ',', value_name = "EVENTS")]
        events: Vec<String>,
        #[command(flatten)]
        factor: Factor,
    },
    /// Change one. What is not named stays.
    #[command(after_help = "Examples:
  hotcell webhook set ID --enabled true           after ten failures disabled it
  hotcell webhook set ID --url https://example.com/new
  hotcell webhook set ID --events all")]
    Set {
        /// Its id.
        id: EndpointId,
        /// Where to deliver.
        #[arg(long)]
        url: Option<String>,
        /// Only these events; `all` for all.
        #[arg(long, value_delimiter = ',', value_name = "EVENTS")]
        events: Vec<String>,
        /// Whether it is told anything. Enabling forgets its failures.
        #[arg(long, value_name = "true|false")]
        enabled: Option<bool>,
        #[command(flatten)]
        factor: Factor,
    },
    /// Give one another secret, and print it this once. The old one signs for a day as well.
    Rotate {
        /// Its id.
        id: EndpointId,
        /// How long the old secret signs as well: 0 ends it at once.
        #[arg(long, value_name = "SECS")]
        old_secret_secs: Option<u32>,
        #[command(flatten)]
        factor: Factor,
    },
    /// Send one delivery that tells of nothing, also to one that is disabled.
    Test {
        /// Its id.
        id: EndpointId,
    },
    /// Remove one. Deliveries that are under way end.
    Remove {
        /// Its id.
        id: EndpointId,
        #[command(flatten)]
        factor: Factor,
    },
    /// List what was delivered to one, newest first.
    #[command(after_help = "Examples:
  hotcell webhook deliveries ID
  hotcell webhook deliveries ID --state exhausted --json | jq -r '.deliveries[].id' |
    xargs -n1 hotcell webhook replay ID")]
    Deliveries {
        /// Its id.
        id: EndpointId,
        /// Only those that are retrying, succeeded or exhausted.
        #[arg(long)]
        state: Option<String>,
        /// At most so many, 1 to 50.
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Where the last list ended.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Deliver once more: the same event under the same id, newly signed.
    Replay {
        /// The webhook.
        id: EndpointId,
        /// The delivery.
        delivery: DeliveryId,
    },
}

const NONE: Option<&()> = None;

/// Runs one of them.
pub(crate) async fn run(data: &Path, command: WebhookCommand, as_json: bool) -> Result<(), Fail> {
    let (result, said) = match command {
        WebhookCommand::List => {
            let list = Api::find(data)?.get("/v1/webhooks").await?;
            let said = table(&list, "webhooks", &["id", "enabled", "failures", "url"]);
            (list, said)
        }
        WebhookCommand::Show { id } => {
            let webhook = Api::find(data)?.get(&path_of(&id)).await?;
            let said = described(&webhook);
            (webhook, said)
        }
        WebhookCommand::Test { id } => {
            let sent = Api::find(data)?.post(&format!("{}/test", path_of(&id)), &json!({})).await?;
            let said = format!("delivery {} is on its way: {}", text(&sent, "delivery"), look(&id));
            (sent, said)
        }
        WebhookCommand::Deliveries { id, state, limit, cursor } => {
            let list = Api::find(data)?.get(&query(&id, state, limit, cursor)).await?;
            let said = deliveries(&list);
            (list, said)
        }
        WebhookCommand::Replay { id, delivery } => {
            let path = format!("{}/deliveries/{delivery}/replay", path_of(&id));
            let sent = Api::find(data)?.post(&path, &json!({})).await?;
            (sent, format!("delivery {delivery} is on its way: {}", look(&id)))
        }
        change @ (WebhookCommand::Create { .. }
        | WebhookCommand::Set { .. }
        | WebhookCommand::Rotate { .. }
        | WebhookCommand::Remove { .. }) => changed(data, change).await?,
    };
    if as_json {
        print::json(&result);
    } else {
        print::line(said);
    }
    Ok(())
}

/// Those that policy asks a second factor for.
async fn changed(data: &Path, command: WebhookCommand) -> Result<(Value, String), Fail> {
    Ok(match command {
        WebhookCommand::Create { url, events, factor } => {
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let made = api.post("/v1/webhooks", &json!({ "url": url, "events": events })).await?;
            let said = secret(&made);
            (made, said)
        }
        WebhookCommand::Set { id, url, events, enabled, factor } => {
            let body = change(url, &events, enabled);
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let webhook = api.call(Method::PATCH, &path_of(&id), Some(&body)).await?;
            let said = described(&webhook);
            (webhook, said)
        }
        WebhookCommand::Rotate { id, old_secret_secs, factor } => {
            let body = old_secret_secs.map_or(json!({}), |secs| json!({ "oldSecretSecs": secs }));
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let made = api.post(&format!("{}/rotate", path_of(&id)), &body).await?;
            let until = match text(&made, "oldSecretUntil").as_str() {
                "-" => "The old secret signs no more.".to_owned(),
                until => format!("The old secret signs as well until {until}."),
            };
            let said = format!("{}\n{until}", secret(&made));
            (made, said)
        }
        WebhookCommand::Remove { id, factor } => {
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let webhook = api.call(Method::DELETE, &path_of(&id), NONE).await?;
            (webhook, format!("webhook {id} is removed"))
        }
        WebhookCommand::List
        | WebhookCommand::Show { .. }
        | WebhookCommand::Test { .. }
        | WebhookCommand::Deliveries { .. }
        | WebhookCommand::Replay { .. } => return Err(Fail::usage("no change")),
    })
}

fn path_of(id: &EndpointId) -> String {
    format!("/v1/webhooks/{id}")
}

fn look(id: &EndpointId) -> String {
    format!("hotcell webhook deliveries {id}")
}

/// The body of a change: what was named.
fn change(url: Option<String>, events: &[String], enabled: Option<bool>) -> Value {
    let mut body = Map::new();
    body.extend(url.map(|url| ("url".to_owned(), json!(url))));
    match events {
        [] => {}
        [all] if all == "all" => drop(body.insert("events".to_owned(), json!([]))),
        some => drop(body.insert("events".to_owned(), json!(some))),
    }
    body.extend(enabled.map(|enabled| ("enabled".to_owned(), json!(enabled))));
    Value::Object(body)
}

fn query(id: &EndpointId, state: Option<String>, limit: u32, cursor: Option<String>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &limit.to_string());
    for (name, value) in [("state", state), ("cursor", cursor)] {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    format!("{}/deliveries?{}", path_of(id), query.finish())
}

fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.is_empty() => "all".to_owned(),
        Some(Value::Array(items)) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

fn secret(made: &Value) -> String {
    format!(
        "id      {}\nurl     {}\nevents  {}\nsecret  {}\n\nThe secret is shown this once.",
        text(made, "id"),
        text(made, "url"),
        text(made, "events"),
        text(made, "secret")
    )
}

fn described(webhook: &Value) -> String {
    let mut rows: Vec<Vec<String>> = ["id", "url", "events", "createdAt", "enabled", "failures"]
        .iter()
        .map(|name| vec![(*name).to_owned(), text(webhook, name)])
        .collect();
    for name in ["disabledAt", "disabledFor", "oldSecretUntil"] {
        if webhook.get(name).is_some_and(|value| !value.is_null()) {
            rows.push(vec![name.to_owned(), text(webhook, name)]);
        }
    }
    if let Some(last) = webhook.get("lastFailure").filter(|last| !last.is_null()) {
        let (at, error) = (text(last, "at"), text(last, "error"));
        rows.push(vec!["lastFailure".to_owned(), format!("{at} {error} {}", text(last, "status"))]);
    }
    print::table(&rows)
}

fn table(list: &Value, of: &str, columns: &[&str]) -> String {
    let mut rows = vec![columns.iter().map(|name| (*name).to_owned()).collect()];
    let items = list.get(of).and_then(Value::as_array).into_iter().flatten();
    rows.extend(items.map(|item| columns.iter().map(|name| text(item, name)).collect()));
    print::table(&rows)
}

fn deliveries(list: &Value) -> String {
    let columns = ["id", "state", "event", "job", "attempts", "replays", "last"];
    let mut rows = vec![columns.map(str::to_owned).to_vec()];
    for item in list.get("deliveries").and_then(Value::as_array).into_iter().flatten() {
        let attempts = item.get("attempts").and_then(Value::as_array);
        let last = attempts.and_then(|attempts| attempts.last());
        let last = last.map_or_else(
            || "-".to_owned(),
            |last| match text(last, "status").as_str() {
                "-" => text(last, "error"),
                status => status.to_owned(),
            },
        );
        let count = attempts.map_or(0, Vec::len).to_string();
        let shown = ["id", "state", "event", "job"].map(|name| text(item, name));
        rows.push([shown.to_vec(), vec![count, text(item, "replays"), last]].concat());
    }
    let mut said = print::table(&rows);
    if let Some(next) = list.get("nextCursor").and_then(Value::as_str) {
        said.push_str(&format!("\n\nMore: --cursor {next}"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_was_named_and_nothing_else() {
        assert_eq!(change(None, &[], None), json!({}));
        assert_eq!(
            change(None, &["all".to_owned()], Some(true)),
            json!({
                "events": [], "enabled": true
            })
        );
        let (url, events) = (Some("https://e.example/".to_owned()), ["job.failed".to_owned()]);
        assert_eq!(
            change(url, &events, None),
            json!({
                "url": "https://e.example/", "events": ["job.failed"]
            })
        );
    }

    #[test]
    fn a_list_shows_how_each_delivery_ended_and_where_to_go_on() {
        let list = json!({ "nextCursor": "1.7", "deliveries": [{ "id": "d1", "state": "exhausted",
            "event": "job.failed", "job": "j1", "replays": 1,
            "attempts": [{ "status": null, "error": "timeout" }] }] });
        let said = deliveries(&list);
        assert!(
            said.contains("d1  exhausted  job.failed  j1   1         1        timeout"),
            "{said}"
        );
        assert!(said.ends_with("More: --cursor 1.7"), "{said}");
    }
}
