//! What each login should be able to do, read from the tables of `hotcell-schemas` by other means
//! than the product's: subjects are parsed, no filter is rendered.

use hotcell_e2e::raw::Act;
use hotcell_nats_config::Login;
use hotcell_schemas::{
    Role,
    routes::{BUCKETS, CONSUMERS, Carrier, ROUTES, Route, StreamId, Token},
};

/// Who reads jobs outside a consumer. The one list that the route table does not hold: the API
/// answers `GET`, the signer and the operator decide on a job, and the validator and the hasher
/// look whether a job that was delivered late has moved on, and the webhook service tells an end again.
const STATE_READERS: [Role; 6] =
    [Role::Intake, Role::Signer, Role::Provisioner, Role::Validator, Role::Hasher, Role::Webhook];

/// Whether `login` should be able to do `act` on `subject`.
pub(crate) fn expected(login: &Login, act: Act, subject: &str) -> bool {
    let words: Vec<&str> = subject.split('.').collect();
    match act {
        Act::Publish => may_publish(login, &words),
        Act::Subscribe | Act::QueueSubscribe => may_subscribe(login, &words),
    }
}

/// Whether the words are a subject of the row; a `>` is none.
fn fits(route: &Route, words: &[&str], variable: impl Fn(Token, &str) -> bool) -> bool {
    route.tokens.len() == words.len()
        && route.tokens.iter().zip(words).all(|(token, word)| {
            if let Token::Lit(expected) = token {
                expected == word
            } else {
                *word != ">" && variable(*token, word)
            }
        })
}

fn any(_: Token, _: &str) -> bool {
    true
}

fn may_publish(login: &Login, words: &[&str]) -> bool {
    match login {
        Login::Sys => matches!(
            words,
            ["$SYS", "REQ", "CLAIMS", "UPDATE" | "LIST" | "DELETE"]
                | ["$SYS", "REQ", "ACCOUNT", _, "CLAIMS", "LOOKUP"]
                | ["$SYS", "REQ", "ACCOUNT", _, "CONNZ"]
        ),
        Login::Tenant { .. } => ROUTES.iter().any(|route| match (route.tokens, words) {
            ([Token::Lit(_), Token::Account, Token::Lit(verb)], ["api", asked]) => {
                route.carrier == Carrier::TenantRequest && verb == asked
            }
            _ => false,
        }),
        Login::Worker { name, pools } => ROUTES.iter().any(|route| {
            let own = |token: Token, word: &str| {
                token == Token::Worker && name.as_str() == word
                    || token == Token::Pool && pools.iter().any(|pool| pool.as_str() == word)
            };
            route.publishers.contains(&Role::Encoder) && fits(route, words, own)
        }),
        Login::Service(role) => {
            let row = |route: &Route| route.publishers.contains(role) && fits(route, words, any);
            ROUTES.iter().any(row) || may_call(*role, words)
        }
    }
}

/// The broker's own subjects.
fn may_call(role: Role, words: &[&str]) -> bool {
    let is_operator = role == Role::Provisioner;
    let is_log = |stream: &str| StreamId::ALL.iter().any(|id| id.as_str() == stream);
    match words {
        ["$JS", "API", "CONSUMER", "INFO", stream, durable] => {
            pulls(role, stream, durable)
                || is_operator && is_log(stream)
                || role == Role::Intake && counts(stream, durable)
        }
        ["$JS", "API", "CONSUMER", "MSG", "NEXT", stream, durable]
        | ["$JS", "ACK", stream, durable, _, ..] => pulls(role, stream, durable),
        ["$JS", "API", "CONSUMER", "CREATE", stream, _]
        | ["$JS", "API", "CONSUMER", "NAMES", stream] => is_operator && is_log(stream),
        // Consumers of a tenant's work go with the tenant; those of the services are nobody's.
        ["$JS", "API", "CONSUMER", "DELETE", "JOBS", durable] => {
            is_operator && !CONSUMERS.iter().any(|row| row.durable == *durable)
        }
        ["$JS", "API", "STREAM", "NAMES"] => is_operator,
        ["$JS", "API", "STREAM", "CREATE" | "INFO", stream] => {
            is_operator && (is_log(stream) || reads_bucket(None, stream))
        }
        ["$JS", "API", "DIRECT", "GET", "JOBS", "job", _, ..] => STATE_READERS.contains(&role),
        ["$JS", "API", "DIRECT", "GET", stream] => reads_bucket(Some(role), stream),
        ["$JS", "API", "DIRECT", "GET", stream, "$KV", bucket, _, ..] => {
            stream.strip_prefix("KV_") == Some(bucket) && reads_bucket(Some(role), stream)
        }
        ["$KV", bucket, _, ..] => {
            BUCKETS.iter().any(|row| row.name == *bucket && row.writers.contains(&role))
        }
        _ => false,
    }
}

/// Whether the stream is a bucket's, and `role` reads it.
fn reads_bucket(role: Option<Role>, stream: &str) -> bool {
    let name = stream.strip_prefix("KV_");
    BUCKETS
        .iter()
        .any(|row| name == Some(row.name) && role.is_none_or(|role| row.readers.contains(&role)))
}

/// The API counts what waits of a tenant's work, to refuse what would be too much (BRK-81).
fn counts(stream: &str, durable: &str) -> bool {
    stream == StreamId::Jobs.as_str() && !CONSUMERS.iter().any(|row| row.durable == durable)
}

/// A durable of the table belongs to its role. Every other one of JOBS is the signer's: work
/// consumers are named after pool and tenant, and the broker's wildcard is a whole word.
fn pulls(role: Role, stream: &str, durable: &str) -> bool {
    let row = CONSUMERS.iter().find(|row| row.durable == durable && row.stream.as_str() == stream);
    match row {
        Some(row) => row.role == role,
        None => role == Role::Signer && stream == StreamId::Jobs.as_str(),
    }
}

fn may_subscribe(login: &Login, words: &[&str]) -> bool {
    if let [inbox, _, ..] = words
        && *inbox == format!("_INBOX_{}", login.name())
    {
        return true;
    }
    match login {
        Login::Sys | Login::Worker { .. } => false,
        Login::Tenant { .. } => matches!(words, ["events", _, ..]),
        Login::Service(role) => ROUTES.iter().any(|route| {
            route.consumers.contains(role) && hears(*role, route) && fits(route, words, any)
        }),
    }
}

/// Requests are heard; what is stored is pulled, unless no durable of the role brings it. Who gives
/// out work wakes up at the events that its meter reads later.
fn hears(role: Role, route: &Route) -> bool {
    match route.carrier {
        Carrier::Request | Carrier::WorkerRequest | Carrier::TenantRequest => true,
        Carrier::TenantEvents => false,
        Carrier::Stream(_) if role == Role::Signer => true,
        Carrier::Stream(stream) => !CONSUMERS.iter().any(|row| {
            let all = row.routes.is_empty();
            row.role == role && row.stream == stream && (all || row.routes.contains(&route.name))
        }),
    }
}
