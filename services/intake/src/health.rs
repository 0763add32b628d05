//! Probes of the process. `livez` says that it runs; `readyz` that it can take a request: the
//! broker is connected and answers a read.

use crate::app::{App, Reply};
use hotcell_schemas::records::TenantRecord;
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// A probe is answered within this long, in seconds: probers wait a second or two.
const PROBE_SECS: u64 = 1;

/// A key that the tenants bucket never holds: `_` is in no slug. Reading it proves the way to the
/// records and back.
const NO_TENANT: &str = "_readyz";

fn reply(status: u16, value: &serde_json::Value) -> Reply {
    Reply {
        status,
        location: None,
        headers: Vec::new(),
        body: value.to_string().into_bytes(),
        follow: None,
    }
}

/// `GET /livez`: always 200.
pub async fn livez(_app: Arc<App>) -> Reply {
    reply(200, &json!({ "live": true }))
}

/// `GET /readyz`: 200 when every check passes, else 503; the checks are in the body.
pub async fn readyz(app: Arc<App>) -> Reply {
    let connected = app.bus.is_connected();
    let records = connected && records_answer(&app).await;
    let ready = connected && records;
    let word = |good: bool| if good { "ok" } else { "failing" };
    let body = json!({
        "ready": ready,
        "checks": { "broker": word(connected), "records": word(records) },
    });
    reply(if ready { 200 } else { 503 }, &body)
}

async fn records_answer(app: &App) -> bool {
    let tenants = app.bus.bucket("tenants");
    let read = tenants.get::<TenantRecord>(NO_TENANT);
    let read = tokio::time::timeout(Duration::from_secs(PROBE_SECS), read).await;
    read.is_ok_and(|answer| answer.is_ok())
}
