//! The list of a tenant's approvals, for both doors.
//!
//! Promises: what is asked for now is in it, however much was asked for before; an answer that a door
//! cannot carry ends earlier, and says where. Refuses: to leave one out without a word.

use super::{Lately, bucket, key, lately_key, show};
use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    problem::{Kind, Problem},
};
use hotcell_schemas::{ApprovalId, approval::ApprovalRecord, job::Actor};
use hotcell_stage::clock;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is around the approvals of a list, in bytes: names, brackets and the cursor.
const AROUND_BYTES: usize = 256;

/// A view that a door can carry, with its size in bytes: a request that is longer than any answer of
/// it is `null`. Its digest stays.
pub(super) fn carried(mut view: Value, bytes_max: Option<usize>) -> (Value, usize) {
    let mut size = view.to_string().len();
    if bytes_max.is_some_and(|max| size > max) {
        if let Some(request) = view.get_mut("request") {
            *request = Value::Null;
        }
        size = view.to_string().len();
    }
    (view, size)
}

/// Whether `actor` asked for it, or made the key that did. Who has spoken is among the interested, too,
/// each voice's own people after those of the requester.
pub(super) fn is_asked_by(record: &ApprovalRecord, actor: &Actor) -> bool {
    let has_spoken = |who: &Actor| record.voices.iter().any(|voice| voice.actor == *who);
    record.interested.iter().take_while(|who| !has_spoken(who)).any(|who| who == actor)
}

/// `?cursor=`: the last that an earlier answer showed.
fn cursor(query: &str) -> Result<Option<ApprovalId>, Problem> {
    let refuse = |field: &str, rule: &str| Err(Problem::field(Kind::BadRequest, field, rule));
    let mut from = None;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match (&*name, value.parse()) {
            ("cursor", Ok(id)) if from.is_none() => from = Some(id),
            ("cursor", Ok(_)) => return refuse("cursor", "must be given once"),
            ("cursor", Err(_)) => {
                return refuse("cursor", "must be a `nextCursor` of an earlier answer");
            }
            (other, _) => return refuse(other, "unknown parameter"),
        }
    }
    Ok(from)
}

/// `GET /v1/approvals?cursor=`, and `api.approvals` over the broker: a hundred, every open one among
/// them, the newest first. Where an answer cannot hold them all, `nextCursor` says where it ends.
///
/// # Errors
/// 400 naming the parameter; 503.
pub async fn list(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let from = cursor(&call.query)?;
    let lately = bucket(&app).get::<Lately>(&lately_key(who.tenant())).await;
    let lately = lately.map_err(|e| store_problem(&e))?.map(|entry| entry.value);
    let mut ids = lately.unwrap_or_default().ids;
    if let Some(from) = from {
        // One that was forgotten meanwhile is not in the list: its place is by its time.
        let at = ids.iter().position(|id| *id == from);
        ids.truncate(at.unwrap_or_else(|| ids.partition_point(|id| *id < from)));
    }
    let room = call.reply_bytes_max.map(|max| max.saturating_sub(AROUND_BYTES));
    let (now, mut shown, mut used) = (clock::now(), Vec::new(), 0);
    let (mut last, mut next) = (None, None);
    for id in ids.into_iter().rev() {
        let found = bucket(&app).get::<ApprovalRecord>(&key(who.tenant(), &id)).await;
        let found = found.map_err(|e| store_problem(&e))?;
        let Some(record) = found.map(|entry| entry.value) else { continue };
        let (view, size) = carried(show(&record, now), room);
        used += size + 1;
        if room.is_some_and(|room| used > room) && last.is_some() {
            next = last;
            break;
        }
        shown.push(view);
        last = Some(id);
    }
    Ok(Reply::new(200, json!({ "approvals": shown, "nextCursor": next })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::{Digest, KeyId, UnixMs, approval::Voice, identity::Action};
    use std::collections::BTreeSet;

    #[test]
    fn a_request_that_no_answer_can_hold_is_left_out_and_nothing_else() {
        let view = || json!({ "id": "x", "digest": "d", "request": "r".repeat(100) });
        let (whole, size) = carried(view(), None);
        assert_eq!((&whole, size), (&view(), view().to_string().len()));
        assert_eq!(carried(view(), Some(size)).0, view());
        let (cut, less) = carried(view(), Some(size - 1));
        assert_eq!(cut, json!({ "id": "x", "digest": "d", "request": null }));
        assert_eq!(less, cut.to_string().len());
    }

    /// NEW-08: people whose work it is to agree may ask, too.
    #[test]
    fn new_08_who_spoke_on_an_approval_has_not_asked_for_it() {
        let key = |n: u8| Actor::ApiKey { id: KeyId::new(1, [n; 10]) };
        let voice = |n: u8| Voice {
            actor: key(n),
            groups: BTreeSet::new(),
            approves: true,
            reason: None,
            at: UnixMs(1),
        };
        let record = ApprovalRecord {
            id: ApprovalId::new(1, [1; 10]),
            tenant: "acme".parse().unwrap(),
            requester: key(1),
            // 2 made the key that asked; 3 and 5 have spoken, whose keys 4 and 6 made.
            interested: [1, 2, 3, 4, 5, 6].map(key).to_vec(),
            action: Action::ManageKeys,
            request: Digest::of(b"x"),
            shown: String::new(),
            approvers_min: 2,
            groups: BTreeSet::new(),
            created_at: UnixMs(1),
            expires_at: UnixMs(2),
            voices: vec![voice(3), voice(5)],
            used_for: None,
        };
        for (n, expect) in [(1, true), (2, true), (3, false), (4, false), (5, false), (6, false)] {
            assert_eq!(is_asked_by(&record, &key(n)), expect, "{n}");
        }
        let quiet = ApprovalRecord { voices: Vec::new(), ..record };
        assert!(is_asked_by(&quiet, &key(2)) && !is_asked_by(&quiet, &key(7)));
    }

    #[test]
    fn a_cursor_is_an_id_and_given_once() {
        let id = "0193a0f0c0de7000800000000000beef";
        assert_eq!(cursor("").unwrap(), None);
        assert_eq!(cursor(&format!("cursor={id}")).unwrap(), Some(id.parse().unwrap()));
        for bad in ["cursor=x", "cursor=", "limit=1", &format!("cursor={id}&cursor={id}")] {
            assert_eq!(cursor(bad).unwrap_err().status(), 400, "{bad}");
        }
    }
}
