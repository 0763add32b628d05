//! The pages of docs/ that are rendered from code. Pure text; a test compares the committed files.
//!
//! Refuses: facts of its own. Whatever these pages say is read from the table or the enum.

use crate::{
    flow::{Carrier, Retention, Role, Route, StreamId},
    reject::RejectCode,
    routes::{BUCKETS, CONSUMERS, ROUTES},
};
use std::fmt::Write as _;

/// The text of docs/subjects.md: every flow, stream, consumer and bucket.
#[must_use]
pub fn subjects_md() -> String {
    let mut page = String::from(
        "# Subjects\n\n\
         Rendered from `schemas/src/routes.rs`; `UPDATE_GOLDEN=1 cargo test -p hotcell-schemas` \
         rewrites this file.\n\
         A role that a row does not name as publisher cannot publish there: the broker denies it, \
         and the receiver refuses it once more by the signature.\n\n\
         ## Flows\n\n\
         | Row | Subject | Carries | Publishes | Reads | Travels | Kept | Says |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for route in ROUTES {
        flow(&mut page, route);
    }
    page.push_str("\n## Streams\n\n| Stream | Subjects |\n|---|---|\n");
    for stream in StreamId::ALL {
        line(&mut page, &[stream.as_str().to_owned(), codes(stream.subjects())]);
    }
    page.push_str(
        "\n## Consumers\n\n\
         The signer's consumers, `work_<pool>_<tenant>`, are made when a tenant is added.\n\n\
         | Durable | Stream | Reads | Pulled by | Ack wait, s | Pending at most |\n\
         |---|---|---|---|---|---|\n",
    );
    for row in CONSUMERS {
        let routes =
            if row.routes.is_empty() { "everything".to_owned() } else { codes(row.routes) };
        let cells = [
            format!("`{}`", row.durable),
            row.stream.as_str().to_owned(),
            routes,
            row.role.to_string(),
            row.ack_wait_secs.to_string(),
            row.max_ack_pending.to_string(),
        ];
        line(&mut page, &cells);
    }
    page.push_str(
        "\n## Buckets\n\n| Bucket | Written by | Read by | Kept, s | Holds |\n|---|---|---|---|---|\n",
    );
    for row in BUCKETS {
        let kept = match row.max_age_secs {
            0 => "always".to_owned(),
            secs => secs.to_string(),
        };
        let name = format!("`{}`", row.name);
        let cells = [name, names(row.writers), names(row.readers), kept, row.about.to_owned()];
        line(&mut page, &cells);
    }
    page
}

/// The text of docs/rejects.md: every code, what it means and whether another attempt is made.
#[must_use]
pub fn rejects_md() -> String {
    let mut page = String::from(
        "# Reject codes\n\n\
         Rendered from `schemas/src/reject.rs`; `UPDATE_GOLDEN=1 cargo test -p hotcell-schemas` \
         rewrites this file.\n\
         A code is a promise: it is never renamed and never reused.\n",
    );
    for code in RejectCode::ALL {
        let retry = if code.is_retryable() {
            "Another worker tries again, until the attempts are spent."
        } else {
            "Final: no other attempt is made."
        };
        let about = code.about().trim();
        write!(page, "\n## `{code}`\n\n{about}\n\n{retry}\n").expect("a String takes any text");
    }
    page
}

fn flow(page: &mut String, route: &Route) {
    let travels = match route.carrier {
        Carrier::Stream(stream) => format!("stream {}", stream.as_str()),
        Carrier::Request => "request".to_owned(),
        Carrier::WorkerRequest => "request from a worker".to_owned(),
        Carrier::TenantRequest => "request from a tenant's account".to_owned(),
        Carrier::TenantEvents => "event to a tenant's account".to_owned(),
    };
    let kept = match route.retention() {
        Some(Retention::History) => "for ever",
        Some(Retention::WorkQueue) => "until acknowledged",
        None => "no",
    };
    let cells = [
        route.name.to_owned(),
        format!("`{}`", route.pattern()),
        format!("`{}`", route.message),
        names(route.publishers),
        names(route.consumers),
        travels,
        kept.to_owned(),
        route.about.to_owned(),
    ];
    line(page, &cells);
}

fn line(page: &mut String, cells: &[String]) {
    writeln!(page, "| {} |", cells.join(" | ")).expect("a String takes any text");
}

fn names(roles: &[Role]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}

fn codes(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
