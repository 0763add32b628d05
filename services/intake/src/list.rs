//! `GET /v1/transcodes`: a tenant's jobs, newest first, by pages.
//!
//! Promises: one answer reads at most [`LOOKED_MAX`] jobs, however many there are; a cursor is a
//! place in the caller's own list and opens nothing else; jobs that come while one pages move
//! nothing. An answer that looked for a rare state may hold fewer jobs than asked for, and a cursor:
//! the list ends where there is no cursor.

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    problem::{Kind, Problem},
    transcodes::read,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use hotcell_schemas::{
    EventKind, Job, JobId,
    listing::{CURSOR_BYTES_MAX, LIST_DEFAULT, LIST_MAX, PAGE_JOBS_MAX},
};
use serde_json::{Value, json};
use std::{num::IntErrorKind, sync::Arc};

/// Jobs that one answer reads at most: as many as the largest page shows, so that a request that
/// looks for a rare state costs no more than any other; it counts as one against the plan's rate.
pub const LOOKED_MAX: usize = LIST_MAX;

/// Reads at once.
const READS_MAX: usize = 16;

/// A place in the list: so many ids of a page are still to be shown, then the pages before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    page: u64,
    left: usize,
}

impl Place {
    fn cursor(self) -> String {
        BASE64.encode(format!("{}.{}", self.page, self.left))
    }

    fn of(cursor: &str) -> Option<Self> {
        if cursor.len() > CURSOR_BYTES_MAX {
            return None;
        }
        let text = String::from_utf8(BASE64.decode(cursor).ok()?).ok()?;
        let (page, left) = text.split_once('.')?;
        let place = Self { page: page.parse().ok()?, left: left.parse().ok()? };
        (place.page > 0 && place.left <= PAGE_JOBS_MAX).then_some(place)
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Ask {
    limit: usize,
    from: Option<Place>,
    state: Option<EventKind>,
}

fn ask(query: &str) -> Result<Ask, Problem> {
    let refuse = |field: &str, rule: &str| Err(Problem::field(Kind::BadRequest, field, rule));
    let (mut limit, mut from, mut state) = (None, None, None);
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let again = match &*name {
            "limit" => {
                let number = value.parse::<usize>();
                let over = number.as_ref().is_err_and(|e| *e.kind() == IntErrorKind::PosOverflow);
                match number {
                    Ok(number @ 1..=LIST_MAX) => limit.replace(number).is_some(),
                    Ok(_) => return refuse("limit", "must be 1 to 100"),
                    Err(_) if over => return refuse("limit", "must be 1 to 100"),
                    Err(_) => return refuse("limit", "must be a whole number, 1 to 100"),
                }
            }
            "cursor" => match Place::of(&value) {
                Some(place) => from.replace(place).is_some(),
                None => return refuse("cursor", "must be a `nextCursor` of an earlier answer"),
            },
            "state" => match value.parse::<EventKind>() {
                Ok(kind) => state.replace(kind).is_some(),
                Err(_) => return refuse("state", "must be a state of jobs, such as `completed`"),
            },
            other => return refuse(other, "unknown parameter"),
        };
        if again {
            return refuse(&name, "must be given once");
        }
    }
    Ok(Ask { limit: limit.unwrap_or(LIST_DEFAULT), from, state })
}

fn summary(job: &Job) -> Value {
    json!({
        "id": job.id,
        "state": job.state,
        "workflow": job.workflow,
        "createdAt": job.stamps.first().map(|stamp| stamp.at.rfc3339()),
        "updatedAt": job.stamps.last().map(|stamp| stamp.at.rfc3339()),
        "attempts": job.attempts.len(),
        "failure": job.failure,
    })
}

/// `GET /v1/transcodes?limit=&cursor=&state=`, and `api.list` over the broker.
///
/// # Errors
/// 400 naming the parameter; 503.
pub async fn list(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let ask = ask(&call.query)?;
    let (mut jobs, mut looked) = (Vec::<Value>::new(), 0);
    let mut place = ask.from;
    loop {
        let Some((at, ids)) = ids_at(&app, &who, place).await? else {
            place = None;
            break;
        };
        let mut left = at.left;
        while left > 0 && jobs.len() < ask.limit && looked < LOOKED_MAX {
            // With a filter most of what is read may not match: read ahead.
            let wanted = ask.limit - jobs.len();
            let ahead = if ask.state.is_some() { wanted.max(READS_MAX) } else { wanted };
            let from = left.saturating_sub(ahead.min(LOOKED_MAX - looked));
            let chunk = ids.get(from..left).unwrap_or_default();
            for job in read_all(&app, &who, chunk).await? {
                if jobs.len() == ask.limit {
                    break;
                }
                (left, looked) = (left - 1, looked + 1);
                jobs.extend(job.filter(|job| wants(&ask, job)).as_ref().map(summary));
            }
        }
        let full = jobs.len() == ask.limit || looked >= LOOKED_MAX;
        place = next(Place { page: at.page, left });
        if full || place.is_none() {
            break;
        }
    }
    let result = json!({ "jobs": jobs, "nextCursor": place.map(Place::cursor) });
    Ok(Reply::new(200, result))
}

fn wants(ask: &Ask, job: &Job) -> bool {
    ask.state.is_none_or(|state| state == job.state)
}

/// Where to go on: in the same page, or in the one before it.
fn next(place: Place) -> Option<Place> {
    match place {
        Place { left: 1.., .. } => Some(place),
        Place { page: 2.., .. } => Some(Place { page: place.page - 1, left: PAGE_JOBS_MAX }),
        Place { .. } => None,
    }
}

/// The ids at `place`, or of the newest page.
async fn ids_at(
    app: &App,
    who: &Principal,
    place: Option<Place>,
) -> Result<Option<(Place, Vec<JobId>)>, Problem> {
    let unread = |error| store_problem(&error);
    let (page, left, found) = match place {
        Some(Place { page, left }) => {
            (page, left, app.listing.page(who.tenant(), page).await.map_err(unread)?)
        }
        None => match app.listing.newest(who.tenant()).await.map_err(unread)? {
            Some((page, found)) => (page, PAGE_JOBS_MAX, Some(found)),
            None => return Ok(None),
        },
    };
    Ok(found.map(|found| (Place { page, left: left.min(found.jobs.len()) }, found.jobs)))
}

/// The jobs of `ids`, the last first. An id without an event is a submission that never was.
async fn read_all(app: &App, who: &Principal, ids: &[JobId]) -> Result<Vec<Option<Job>>, Problem> {
    let mut reads = Vec::with_capacity(ids.len());
    for id in ids.iter().rev() {
        reads.push(read(app, who, id).boxed());
    }
    stream::iter(reads).buffered(READS_MAX).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_place_and_nothing_else_is() {
        let place = Place { page: 7813, left: 64 };
        assert_eq!(Place::of(&place.cursor()), Some(place));
        for bad in ["", "x", "====", &BASE64.encode("0.1"), &BASE64.encode("1.129")] {
            assert_eq!(Place::of(bad), None, "{bad}");
        }
        for bad in ["1", "1.", ".1", "-1.1", "1.1.1", "99999999999999999999.1", "acme.1"] {
            assert_eq!(Place::of(&BASE64.encode(bad)), None, "{bad}");
        }
        assert_eq!(Place::of(&"A".repeat(CURSOR_BYTES_MAX + 1)), None);
    }

    #[test]
    fn parameters_are_checked_by_name_and_rule() {
        let check = |query: &str, field: Option<&str>| {
            let found = ask(query).err();
            let named = found.as_ref().map(|problem| problem.errors()[0].field.as_str());
            assert_eq!(named, field, "{query}");
        };
        assert_eq!(ask(""), Ok(Ask { limit: LIST_DEFAULT, from: None, state: None }));
        check("limit=1&state=completed", None);
        check("limit=100", None);
        for bad in ["limit=0", "limit=101", "limit=", "limit=-1", "limit=1e3", "limit=1&limit=1"] {
            check(bad, Some("limit"));
        }
        check("limit=99999999999999999999", Some("limit"));
        check("state=done", Some("state"));
        check("cursor=x", Some("cursor"));
        check("page=1", Some("page"));
    }

    #[test]
    fn the_list_ends_with_the_first_page() {
        let at = |page, left| next(Place { page, left });
        assert_eq!(at(2, 5), Some(Place { page: 2, left: 5 }));
        assert_eq!(at(2, 0), Some(Place { page: 1, left: PAGE_JOBS_MAX }));
        assert_eq!(at(1, 0), None);
    }
}
