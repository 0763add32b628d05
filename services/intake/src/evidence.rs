//! `GET /v1/audit/export`: a tenant's own entries of the log of evidence, by pages.
//!
//! Promises: what is shown was proven to be in the signed log by the auditor, the one service that
//! reads it; each page is itself an entry of the log, before it is answered. Refuses: another
//! tenant's entries and the platform's own; an answer while the auditor is away.
//!
//! A cursor is the index of an entry. Indices count the entries of all tenants, because proofs do.

use crate::{
    app::{App, Call, Reply},
    auth::Principal,
    problem::{Kind, Problem},
};
use hotcell_schemas::{
    Subject, UnixMs,
    evidence::{
        EVIDENCE_LIMIT_DEFAULT, EVIDENCE_LIMIT_MAX, EvidenceReply, EvidenceRequest, EvidenceRow,
        Who,
    },
};
use serde_json::{Value, json};
use std::sync::Arc;
use tracing::error;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ask {
    from: Option<UnixMs>,
    to: Option<UnixMs>,
    actor: Option<Who>,
    cursor: Option<u64>,
    limit: Option<u32>,
}

fn ask(query: &str) -> Result<Ask, Problem> {
    let refuse = |field: &str, rule: &str| Err(Problem::field(Kind::BadRequest, field, rule));
    let mut ask = Ask::default();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let again = match &*name {
            "from" | "to" => {
                let at = if name == "from" { &mut ask.from } else { &mut ask.to };
                match UnixMs::parse(&value) {
                    Some(time) => at.replace(time).is_some(),
                    None => return refuse(&name, "must be a time of RFC 3339, or a date"),
                }
            }
            "actor" => match value.parse::<Who>() {
                Ok(who) => ask.actor.replace(who).is_some(),
                Err(rule) => return refuse("actor", &rule.to_string()),
            },
            "cursor" => match number(&value) {
                Some(index) => ask.cursor.replace(index).is_some(),
                None => return refuse("cursor", "must be a `nextCursor` of an earlier answer"),
            },
            "limit" => match number(&value).and_then(|number| u32::try_from(number).ok()) {
                Some(number @ 1..=EVIDENCE_LIMIT_MAX) => ask.limit.replace(number).is_some(),
                _ => return refuse("limit", "must be a whole number, 1 to 500"),
            },
            other => return refuse(other, "unknown parameter"),
        };
        if again {
            return refuse(&name, "must be given once");
        }
    }
    Ok(ask)
}

/// A number as we write it, and no other text.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// `GET /v1/audit/export?from=&to=&actor=&cursor=&limit=`.
///
/// # Errors
/// 400 naming the parameter; 503 while the auditor is away or the log does not verify.
pub async fn export(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let ask = ask(&call.query)?;
    let request = EvidenceRequest {
        tenant: who.tenant().clone(),
        from: ask.from,
        to: ask.to,
        actor: ask.actor,
        cursor: ask.cursor,
        limit: ask.limit.unwrap_or(EVIDENCE_LIMIT_DEFAULT),
    };
    let reply: EvidenceReply = app.ask(Subject::evidence_export(), &request).await?;
    let EvidenceReply::Page { rows, next, checkpoint } = reply else {
        error!("the auditor cannot read its log, or it does not verify");
        return Err(Problem::unavailable("the log of evidence cannot be shown now"));
    };
    // The auditor filters; that what it says is the caller's is looked at again here.
    if rows.iter().any(|row| row.tenant.as_ref() != Some(who.tenant())) {
        error!("the auditor answers with entries of another tenant");
        return Err(Problem::internal());
    }
    let entries: Vec<Value> = rows.iter().map(EvidenceRow::json).collect();
    let next = next.map(|index| index.to_string());
    let page = json!({ "entries": entries, "nextCursor": next, "checkpoint": checkpoint });
    Ok(Reply::new(200, page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_19_parameters_are_checked_by_name_and_rule() {
        let check = |query: &str, field: Option<&str>| {
            let found = ask(query).err();
            let named = found.as_ref().map(|problem| problem.errors()[0].field.as_str());
            assert_eq!(named, field, "{query}");
        };
        assert_eq!(ask(""), Ok(Ask::default()));
        check("from=2026-11-01&to=2026-12-01T00:00:00Z&actor=user:ana&cursor=0&limit=500", None);
        for bad in ["limit=0", "limit=501", "limit=01", "limit=x", "limit=1&limit=1"] {
            check(bad, Some("limit"));
        }
        check("from=yesterday", Some("from"));
        check("to=2026-02-30", Some("to"));
        check("actor=ana", Some("actor"));
        check("cursor=-1", Some("cursor"));
        check("cursor=99999999999999999999", Some("cursor"));
        check("tenant=bolt", Some("tenant"));
    }
}
