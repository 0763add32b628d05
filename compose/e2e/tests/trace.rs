//! One trace from the HTTP request to the webhook, received by an in-process OTLP receiver.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use axum::{Router, body::Bytes, extract::State, routing::post};
use hotcell_e2e::{
    api::{Api, request, text},
    hook::Receiver,
    media,
    up::Up,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value as Any,
};
use prost::Message as _;
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::Mutex, task::JoinSet};

const PATIENCE: Duration = Duration::from_secs(120);

/// The services whose spans must be in the one trace.
const SERVICES: [&str; 6] = [
    "hotcell-intake",
    "hotcell-validator",
    "hotcell-signer",
    "hotcell-encoder",
    "hotcell-hasher",
    "hotcell-webhook",
];

type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

async fn take(State(seen): State<Seen>, body: Bytes) {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return };
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
        let name = attributes.into_iter().find(|a| a.key == "service.name");
        let Some(Any::StringValue(name)) = name.and_then(|a| a.value).and_then(|v| v.value) else {
            continue;
        };
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            seen.lock().await.push((name.clone(), span.trace_id));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_from_the_request_to_the_webhook() -> Result<()> {
    let seen = Seen::default();
    let app = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&seen));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let otlp = format!("http://{}/v1/traces", listener.local_addr()?);
    let mut server = JoinSet::new();
    server.spawn(async move {
        let _ended = axum::serve(listener, app).await;
    });

    let up = Up::start(&["--encoders", "1", "--cell", "noop", "--otlp", &otlp])?;
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let hook = Receiver::start().await?;
    let admin = api.stepped_up(&up.totp()?).await?;
    admin.post("/v1/webhooks", &json!({ "url": hook.url, "events": [] })).await?;
    let name = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let answer = api
        .http
        .post(format!("{}/v1/transcodes", api.base))
        .bearer_auth(&api.key)
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
        .json(&request(&name))
        .send()
        .await?;
    let id = text(&answer.json::<serde_json::Value>().await?["result"], "id")?;
    hook.until(PATIENCE, |got| got.iter().any(|one| one.job() == id)).await?;

    // Exporters flush when their process ends.
    let services = |spans: &[(String, Vec<u8>)]| -> BTreeSet<String> {
        let ours = spans.iter().filter(|(_, id)| hex::encode(id) == trace);
        ours.map(|(name, _)| name.clone()).collect()
    };
    let until = Instant::now() + PATIENCE;
    let expect: BTreeSet<String> = SERVICES.map(String::from).into();
    while !services(&seen.lock().await).is_superset(&expect) {
        let found = services(&seen.lock().await);
        ensure!(Instant::now() < until, "the trace has spans of {found:?} only");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    up.stop()?;
    Ok(())
}
