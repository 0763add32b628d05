//! What each login may publish and subscribe, derived from the route table and from nothing else.
//!
//! Promises: the table rendered here is what the broker enforces (the accounts are made of it) and
//! what the zero-trust test compares with. Refuses: any right that no row asks for; nobody may
//! delete, purge or update a stream, and only the provisioner may call the stream and consumer API.

use crate::{api, login::Login};
use hotcell_schemas::{
    Role,
    routes::{BUCKETS, CONSUMERS, Carrier, ConsumerRow, ROUTES, Route, StreamId, Token},
};
use serde::{Deserialize, Serialize};

/// Who reads the state of a job outside a consumer: the API, the strict broker, the operator, and
/// the stages that ask the signer for a job's bytes, which must know whether it has moved on, and who
/// tells of a job's end again.
pub const JOB_STATE_READERS: [Role; 6] =
    [Role::Intake, Role::Validator, Role::Signer, Role::Hasher, Role::Provisioner, Role::Webhook];

/// Who may ask how much work of a tenant waits: the API, which refuses what would be too much.
pub const WORK_COUNTER: Role = Role::Intake;

/// Seconds within which a responder may answer a request: longer than a worker's long poll.
pub const RESPONSE_SECS: u64 = 60;

/// What the broker replaces by the login's own name.
const OWN_NAME: &str = "{{name()}}";
/// What the broker replaces by each pool of a worker.
const OWN_POOL: &str = "{{tag(pool)}}";

/// Subject filters, allowed and then denied. The broker reads an empty `allow` as everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filters {
    /// Allowed.
    pub allow: Vec<String>,
    /// Denied although allowed.
    pub deny: Vec<String>,
}

/// The right to answer: to publish on the reply subject of what was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Responses {
    /// Answers to one request.
    pub max: i64,
    /// Nanoseconds.
    pub ttl: u64,
}

/// What one login may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Subjects that it may publish on.
    #[serde(rename = "pub")]
    pub publish: Filters,
    /// Subjects that it may subscribe.
    #[serde(rename = "sub")]
    pub subscribe: Filters,
    /// Whether it may answer requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resp: Option<Responses>,
}

impl Filters {
    /// Whether a message on `subject` (no wildcards) passes.
    #[must_use]
    pub fn passes(&self, subject: &str) -> bool {
        let hit = |filters: &[String]| filters.iter().any(|filter| covers(filter, subject));
        hit(&self.allow) && !hit(&self.deny)
    }
}

impl Permissions {
    /// Nothing at all.
    #[must_use]
    pub fn none() -> Self {
        let nothing = Filters { allow: Vec::new(), deny: vec![">".to_owned()] };
        Self { publish: nothing.clone(), subscribe: nothing, resp: None }
    }

    /// Whether the login may publish on `subject`, apart from answering a request.
    #[must_use]
    pub fn may_publish(&self, subject: &str) -> bool {
        self.publish.passes(subject)
    }

    /// Whether the login may subscribe `filter`, which may hold wildcards: it must be inside one
    /// allowed filter as a whole.
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        self.subscribe.passes(filter)
    }

    fn map(mut self, expand: impl Fn(&str) -> Vec<String>) -> Self {
        for filters in [&mut self.publish, &mut self.subscribe] {
            filters.allow = filters.allow.iter().flat_map(|filter| expand(filter)).collect();
            filters.deny = filters.deny.iter().flat_map(|filter| expand(filter)).collect();
        }
        self
    }
}

/// Whether every subject that matches `inner` matches `outer` (both may hold `*` and `>`).
#[must_use]
pub fn covers(outer: &str, inner: &str) -> bool {
    let mut inner = inner.split('.');
    for word in outer.split('.') {
        match (word, inner.next()) {
            (">", found) => return found.is_some(),
            (_, None | Some(">")) => return false,
            ("*", Some(_)) => {}
            (word, Some(found)) if word == found => {}
            (_, Some(_)) => return false,
        }
    }
    inner.next().is_none()
}

/// What `login` may do, as the broker will see it: names and pools put in.
#[must_use]
pub fn allowed(login: &Login) -> Permissions {
    let (template, name) = match login {
        Login::Service(role) => return role_permissions(*role),
        Login::Sys => return sys_permissions(),
        Login::Worker { .. } => (role_permissions(Role::Encoder), login.name()),
        Login::Tenant { .. } => (role_permissions(Role::Tenant), login.name()),
    };
    let pools: Vec<String> = match login {
        Login::Worker { pools, .. } => pools.iter().map(ToString::to_string).collect(),
        Login::Service(_) | Login::Tenant { .. } | Login::Sys => Vec::new(),
    };
    template.map(|filter| {
        let filter = filter.replace(OWN_NAME, &name);
        if filter.contains(OWN_POOL) {
            pools.iter().map(|pool| filter.replace(OWN_POOL, pool)).collect()
        } else {
            vec![filter]
        }
    })
}

/// What the logins of `role` may do. For workers and tenants it is the template of their scoped
/// key, with `{{name()}}` and `{{tag(pool)}}` in it: see [`allowed`].
#[must_use]
pub fn role_permissions(role: Role) -> Permissions {
    let mut rights = Permissions::default();
    let own = if in_pipeline(role) { role.as_str() } else { OWN_NAME };
    rights.subscribe.allow.push(api::inbox(own));
    for route in ROUTES {
        if route.publishers.contains(&role) {
            rights.publish.allow.push(published_as(route, role));
        }
        if route.consumers.contains(&role) {
            consume(&mut rights, route, role);
        }
    }
    let own_durables = CONSUMERS.iter().filter(|row| row.role == role);
    for row in own_durables {
        rights.publish.allow.extend(pull_rights(row.stream, row.durable));
    }
    if pulls_work(role) {
        // A durable of the signer is named after pool and tenant, and a wildcard stands for a
        // whole token, so it is given every durable of the stream but the other services'.
        rights.publish.allow.extend(pull_rights(StreamId::Jobs, api::ANY));
        let others =
            CONSUMERS.iter().filter(|row| row.stream == StreamId::Jobs && row.role != role);
        rights.publish.deny.extend(others.flat_map(|row| pull_rights(row.stream, row.durable)));
    }
    if role == WORK_COUNTER {
        // To see how much of a tenant waits, and nothing of the other services.
        let info = |durable: &str| api::consumer_info(StreamId::Jobs.as_str(), durable);
        let others = CONSUMERS.iter().filter(|row| row.stream == StreamId::Jobs);
        rights.publish.allow.push(info(api::ANY));
        rights.publish.deny.extend(others.map(|row| info(row.durable)));
    }
    if JOB_STATE_READERS.contains(&role) {
        rights.publish.allow.push(api::job_states());
    }
    bucket_rights(&mut rights, role);
    if role == Role::Provisioner {
        rights.publish.allow.extend(provisioner_rights());
        // A removed tenant's consumers go; those of the services are nobody's to remove.
        let delete = |durable: &str| api::consumer_delete(StreamId::Jobs.as_str(), durable);
        let fixed = CONSUMERS.iter().filter(|row| row.stream == StreamId::Jobs);
        rights.publish.allow.push(delete(api::ANY));
        rights.publish.deny.extend(fixed.map(|row| delete(row.durable)));
    }
    rights
}

/// What the operator's user of the system account may do: read, replace and remove account JWTs,
/// and count an account's connections.
#[must_use]
pub fn sys_permissions() -> Permissions {
    let mut rights = Permissions::default();
    rights.publish.allow = vec![
        api::CLAIMS_UPDATE.to_owned(),
        api::CLAIMS_LIST.to_owned(),
        api::claims_lookup(api::ANY),
        api::CLAIMS_DELETE.to_owned(),
        api::account_connections(api::ANY),
    ];
    rights.subscribe.allow.push(api::inbox(&Login::Sys.name()));
    rights
}

/// The local name, in a tenant's account, of a row that is imported there; the account's key and
/// all before it are replaced by `api` or `events`. `variable` stands for the n-th variable.
#[must_use]
pub fn tenant_local(route: &Route, variable: impl Fn(usize) -> String) -> String {
    let head = if route.carrier == Carrier::TenantEvents { "events" } else { "api" };
    let mut words = vec![head.to_owned()];
    let after = route.tokens.iter().skip_while(|token| **token != Token::Account).skip(1);
    let mut variables = 0;
    for token in after {
        words.push(if let Token::Lit(word) = token {
            (*word).to_owned()
        } else {
            variables += 1;
            variable(variables)
        });
    }
    words.join(".")
}

fn in_pipeline(role: Role) -> bool {
    Role::PIPELINE.contains(&role)
}

fn any(_variable: usize) -> String {
    api::ANY.to_owned()
}

/// The filter on which `role` publishes `route`, in its own account.
fn published_as(route: &Route, role: Role) -> String {
    match role {
        Role::Tenant => tenant_local(route, any),
        Role::Encoder => {
            let words = route.tokens.iter().map(|token| match token {
                Token::Lit(word) => word,
                Token::Worker => OWN_NAME,
                Token::Pool => OWN_POOL,
                Token::Tenant
                | Token::Job
                | Token::Class
                | Token::Account
                | Token::Endpoint
                | Token::Delivery => api::ANY,
            });
            words.collect::<Vec<_>>().join(".")
        }
        Role::Intake
        | Role::Validator
        | Role::Signer
        | Role::Hasher
        | Role::Auditor
        | Role::Webhook
        | Role::Provisioner => route.filter(),
    }
}

fn consume(rights: &mut Permissions, route: &Route, role: Role) {
    match route.carrier {
        Carrier::Request | Carrier::WorkerRequest | Carrier::TenantRequest => {
            rights.subscribe.allow.push(route.filter());
            rights.resp = Some(Responses { max: 1, ttl: RESPONSE_SECS * 1_000_000_000 });
        }
        // Everything that reaches a tenant's account is its own: the import says so.
        Carrier::TenantEvents => {
            let all = "events.>".to_owned();
            if !rights.subscribe.allow.contains(&all) {
                rights.subscribe.allow.push(all);
            }
        }
        // A row that no durable of the role reads is heard live, as a wake-up; who gives out work
        // wakes up at the end of an attempt too, although its meter has a durable of these.
        Carrier::Stream(_) if !has_durable(route, role) || pulls_work(role) => {
            rights.subscribe.allow.push(route.filter());
        }
        Carrier::Stream(_) => {}
    }
}

fn reads(row: &ConsumerRow, route: &Route) -> bool {
    route.carrier == Carrier::Stream(row.stream)
        && (row.routes.is_empty() || row.routes.contains(&route.name))
}

fn has_durable(route: &Route, role: Role) -> bool {
    CONSUMERS.iter().any(|row| row.role == role && reads(row, route))
}

/// Whether `role` pulls from the consumers that are made for each pool and tenant.
fn pulls_work(role: Role) -> bool {
    ROUTES.iter().any(|route| {
        route.carrier == Carrier::Stream(StreamId::Jobs)
            && route.tokens.contains(&Token::Pool)
            && route.consumers.contains(&role)
            && !has_durable(route, role)
    })
}

fn pull_rights(stream: StreamId, durable: &str) -> [String; 3] {
    let stream = stream.as_str();
    [
        api::consumer_info(stream, durable),
        api::consumer_next(stream, durable),
        api::acks(stream, durable),
    ]
}

fn bucket_rights(rights: &mut Permissions, role: Role) {
    for bucket in BUCKETS {
        let keys = api::bucket_keys(bucket.name);
        if bucket.readers.contains(&role) {
            let stream = api::bucket_stream(bucket.name);
            rights.publish.allow.push(api::direct_get(&stream, &keys));
            rights.publish.allow.push(api::direct_scan(&stream));
        }
        if bucket.writers.contains(&role) {
            rights.publish.allow.push(keys);
        }
    }
}

/// The provisioner creates and reads; it cannot update, purge or delete, so what is in the
/// history stays there whoever holds its login.
fn provisioner_rights() -> Vec<String> {
    let mut rights = vec![api::STREAM_NAMES.to_owned()];
    let buckets = BUCKETS.iter().map(|bucket| api::bucket_stream(bucket.name));
    for stream in StreamId::ALL.iter().map(|id| id.as_str().to_owned()).chain(buckets) {
        rights.push(api::stream_create(&stream));
        rights.push(api::stream_info(&stream));
    }
    for stream in StreamId::ALL {
        rights.push(api::consumer_create(stream.as_str(), api::ANY));
        rights.push(api::consumer_info(stream.as_str(), api::ANY));
        rights.push(api::consumer_names(stream.as_str()));
    }
    rights
}

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;
