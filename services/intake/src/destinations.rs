//! Destinations: where outside of hotcell's store a tenant's outputs may go. Promises: a request
//! that names one is told at the door whether it can. Refuses: to enter, change or remove one, which
//! is the operator's; to show an access key. Reading twice changes nothing.

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    problem::Problem,
};
use hotcell_policy::Destinations;
use hotcell_schemas::{DestinationName, Job, destination::DestinationRecord, reject::Failure};
use hotcell_stage::clock;
use serde_json::{Value, json};
use std::sync::Arc;

/// What it must be.
const RULE: &str = "must be one of the tenant's destinations: GET /v1/destinations lists them";

/// Where the outputs of a request are to go that names `name` in its `field`; `None` is the store.
///
/// # Errors
/// 422 for a name that leads nowhere; 503.
pub(crate) async fn find(
    app: &App,
    who: &Principal,
    field: &str,
    name: Option<&DestinationName>,
) -> Result<Option<DestinationRecord>, Problem> {
    let found = Destinations::new(&app.bus).find(who.tenant(), name, clock::now()).await;
    found.map_err(|error| store_problem(&error))?.map_err(|failure| {
        let message = format!("{RULE}; {}", failure.message);
        Problem::rejected(field, &Failure { message, ..failure })
    })
}

/// Where the outputs of a job went; nothing for the store, and where its destination was removed
/// since, or another has its name.
///
/// # Errors
/// 503.
pub(crate) async fn of_job(app: &App, job: &Job) -> Result<Option<DestinationRecord>, Problem> {
    let found = Destinations::new(&app.bus).of_job(job).await;
    Ok(found.map_err(|error| store_problem(&error))?.ok().flatten())
}

fn show(record: &DestinationRecord) -> Value {
    json!({
        "name": record.name,
        "location": record.location(),
        "createdAt": record.created_at.rfc3339(),
    })
}

/// `GET /v1/destinations`.
///
/// # Errors
/// 503.
pub async fn list(app: Arc<App>, who: Principal, _: Call) -> Result<Reply, Problem> {
    let all = Destinations::new(&app.bus).list(who.tenant()).await;
    let all = all.map_err(|error| store_problem(&error))?;
    Ok(Reply::new(200, json!({ "destinations": all.iter().map(show).collect::<Vec<_>>() })))
}
