//! The broker under test, its logins, and every subject that is tried: each row of the route table
//! with own and foreign ids, and the broker's own subjects that would matter to an intruder.
#![allow(clippy::unwrap_used, reason = "tests")]

use hotcell_e2e::raw::{Act, Identity, Raw};
use hotcell_nats_config::{
    Admin, InitOptions, Login, Replicas, TenantSpec,
    keys::Missing,
    testing::{NOW, TestServer},
};
use hotcell_schemas::{
    JobId, PoolId, Role, TenantId,
    routes::{BUCKETS, CONSUMERS, ROUTES, Route, StreamId, Token, work_consumer},
    tenancy::Priority,
};
use std::collections::BTreeSet;

/// Each tenant with the name of its login.
const TENANTS: [(&str, &str); 2] = [("acme", "app"), ("bolt", "ci")];
/// Each worker with its pool.
const WORKERS: [(&str, &str); 2] = [("w1", "cpu"), ("g1", "gpu")];

/// What was tried and may be done.
pub(crate) type Rights = BTreeSet<(Act, String)>;

/// A provisioned broker.
pub(crate) struct World {
    pub(crate) server: TestServer,
    pub(crate) admin: Admin,
    /// The tenants' accounts.
    pub(crate) accounts: Vec<String>,
}

pub(crate) fn job() -> JobId {
    JobId::new(1, [7; 10])
}

fn pools() -> Vec<PoolId> {
    WORKERS.iter().map(|(_, pool)| pool.parse().unwrap()).collect()
}

/// Every credential file.
pub(crate) fn logins() -> Vec<Login> {
    let services = Role::PIPELINE.into_iter().map(Login::Service);
    let workers = WORKERS.iter().map(|(name, pool)| worker(name, pool));
    let tenants = TENANTS.iter().map(|(tenant, user)| program(tenant, user));
    services.chain(workers).chain(tenants).chain([Login::Sys]).collect()
}

pub(crate) fn worker(name: &str, pool: &str) -> Login {
    Login::Worker { name: name.parse().unwrap(), pools: vec![pool.parse().unwrap()] }
}

pub(crate) fn program(tenant: &str, user: &str) -> Login {
    Login::Tenant { tenant: tenant.parse().unwrap(), user: user.parse().unwrap() }
}

impl World {
    pub(crate) async fn start() -> Self {
        let workers =
            WORKERS.iter().map(|(name, pool)| (name.parse().unwrap(), vec![pool.parse().unwrap()]));
        let tenants =
            TENANTS.iter().map(|(tenant, user)| (tenant.parse().unwrap(), user.parse().unwrap()));
        let options =
            InitOptions { now: NOW, workers: workers.collect(), tenants: tenants.collect() };
        let server = TestServer::start(&options).await.unwrap();
        let admin = server.admin().await.unwrap();
        admin.provision(Replicas::One, NOW).await.unwrap();
        let mut accounts = Vec::new();
        for (tenant, user) in TENANTS {
            let id: TenantId = tenant.parse().unwrap();
            let keys = admin.installation().tenant_keys(&id, Missing::Refuse).unwrap();
            accounts.push(keys.account.public_key());
            let spec = TenantSpec::new(id, pools());
            admin.add_tenant(&spec, &user.parse().unwrap(), NOW).await.unwrap();
        }
        Self { server, admin, accounts }
    }

    pub(crate) fn connect(&self, login: &Login) -> Raw {
        let identity = Identity::of(self.server.creds(login).unwrap());
        Raw::connect(&self.server.url(), Some(&identity)).unwrap()
    }

    /// Everything that is tried. The rows' own filters are only subscribed: in a publish the
    /// broker takes a `*` for a word.
    pub(crate) fn acts(&self) -> Vec<(Act, String)> {
        let both = self.rows().chain(local()).chain(api()).chain(direct()).chain(inboxes());
        let both: BTreeSet<String> = both.chain(hostile()).collect();
        let filters: BTreeSet<String> = ROUTES.iter().map(Route::filter).collect();
        let published = both.iter().map(|subject| (Act::Publish, subject.clone()));
        let subscribed = both.iter().chain(&filters).flat_map(|subject| {
            [Act::Subscribe, Act::QueueSubscribe].map(|act| (act, subject.clone()))
        });
        published.chain(subscribed).collect()
    }

    /// What the server lets `raw` do of [`Self::acts`].
    pub(crate) fn rights(&self, raw: &mut Raw) -> Rights {
        let acts = self.acts();
        let tried: Vec<(Act, &str)> = acts.iter().map(|(act, on)| (*act, on.as_str())).collect();
        let verdicts = raw.try_all(&tried).unwrap();
        acts.into_iter().zip(verdicts).filter_map(|(act, may)| may.then_some(act)).collect()
    }

    /// Each row with every combination of own and foreign ids.
    fn rows(&self) -> impl Iterator<Item = String> {
        let instances = |route: &Route| {
            let mut made = vec![String::new()];
            for token in route.tokens {
                let words = self.words(*token, route);
                let longer = made.iter().flat_map(|start| {
                    let dot = if start.is_empty() { "" } else { "." };
                    words.iter().map(move |word| format!("{start}{dot}{word}"))
                });
                made = longer.collect();
            }
            made
        };
        ROUTES.iter().flat_map(instances).collect::<Vec<_>>().into_iter()
    }

    fn words(&self, token: Token, route: &Route) -> Vec<String> {
        let firsts = |pairs: &[(&str, &str)]| pairs.iter().map(|p| p.0.to_owned()).collect();
        match token {
            Token::Lit(word) => vec![word.to_owned()],
            Token::Tenant => {
                let mut words: Vec<String> = firsts(&TENANTS);
                words.extend((route.message == "audit").then(|| "_".to_owned()));
                words
            }
            Token::Worker => firsts(&WORKERS),
            Token::Pool => pools().iter().map(ToString::to_string).collect(),
            Token::Class => vec!["high".to_owned()],
            Token::Account => self.accounts.clone(),
            Token::Job | Token::Endpoint | Token::Delivery => vec![job().to_string()],
        }
    }
}

/// What rows are called in a tenant's own account, and what they might be called.
fn local() -> impl Iterator<Item = String> {
    let job = job();
    ["submit", "get", "list", "cancel", "ask", "asked", "approvals", "approve", "*", ">"]
        .map(|verb| format!("api.{verb}"))
        .into_iter()
        .chain(["terminal", "state", "started", ">"].map(|event| format!("events.{job}.{event}")))
        .chain([format!("events.{job}"), "events.>".to_owned(), "events.*.terminal".to_owned()])
}

fn streams() -> impl Iterator<Item = String> {
    let own = StreamId::ALL.into_iter().map(|id| id.as_str().to_owned());
    own.chain(BUCKETS.iter().map(|bucket| format!("KV_{}", bucket.name)))
}

/// The stream and consumer API, with every durable that exists and one that does not.
fn api() -> impl Iterator<Item = String> {
    let mut subjects = Vec::new();
    for stream in streams() {
        for verb in [
            "CREATE",
            "UPDATE",
            "DELETE",
            "PURGE",
            "INFO",
            "MSG.GET",
            "MSG.DELETE",
            "SNAPSHOT",
            "RESTORE",
            "PEER.REMOVE",
            "LEADER.STEPDOWN",
        ] {
            subjects.push(format!("$JS.API.STREAM.{verb}.{stream}"));
        }
        for verb in ["NAMES", "LIST", "CREATE"] {
            subjects.push(format!("$JS.API.CONSUMER.{verb}.{stream}"));
        }
        let fixed = CONSUMERS.iter().filter(|row| row.stream.as_str() == stream);
        let mut durables: Vec<String> = fixed.map(|row| row.durable.to_owned()).collect();
        durables.push("spy".to_owned());
        if stream == StreamId::Jobs.as_str() {
            let tenants = TENANTS.map(|(tenant, _)| tenant.parse().unwrap());
            for (pool, tenant) in pools().iter().flat_map(|p| tenants.iter().map(move |t| (p, t))) {
                durables.extend(Priority::ALL.map(|class| work_consumer(pool, tenant, class)));
            }
        }
        for durable in durables {
            for verb in [
                "CREATE",
                "DURABLE.CREATE",
                "DELETE",
                "INFO",
                "MSG.NEXT",
                "PAUSE",
                "UNPIN",
                "LEADER.STEPDOWN",
            ] {
                subjects.push(format!("$JS.API.CONSUMER.{verb}.{stream}.{durable}"));
            }
            subjects.push(format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}.job.acme"));
            subjects.push(format!("$JS.ACK.{stream}.{durable}.1.2.3.4.5"));
            subjects.push(format!("$JS.ACK._.HASH.{stream}.{durable}.1.2.3.4.5.x"));
        }
    }
    subjects.into_iter()
}

/// Direct Get in both forms, and writes to buckets.
fn direct() -> impl Iterator<Item = String> {
    let job = job();
    let mut subjects = Vec::new();
    for stream in streams() {
        subjects.push(format!("$JS.API.DIRECT.GET.{stream}"));
        let tails = [format!("job.acme.{job}.>"), format!("job.bolt.{job}.submitted")];
        let rest = ["job.>", "audit.acme.grant", "audit.>", "hook.>", ">"].map(str::to_owned);
        for tail in tails.into_iter().chain(rest) {
            subjects.push(format!("$JS.API.DIRECT.GET.{stream}.{tail}"));
        }
        for bucket in BUCKETS {
            let name = bucket.name;
            subjects.push(format!("$JS.API.DIRECT.GET.{stream}.$KV.{name}.acme"));
            subjects.push(format!("$JS.API.DIRECT.GET.{stream}.$KV.{name}.acme.file"));
        }
    }
    for bucket in BUCKETS {
        subjects.push(format!("$KV.{}.acme", bucket.name));
        subjects.push(format!("$KV.{}.bolt.file", bucket.name));
    }
    subjects.into_iter()
}

fn inboxes() -> impl Iterator<Item = String> {
    let names: BTreeSet<String> = logins().iter().map(Login::name).collect();
    let own = names.into_iter().flat_map(|name| {
        [format!("_INBOX_{name}.x"), format!("_INBOX_{name}.x.1"), format!("_INBOX_{name}.>")]
    });
    own.chain(["_INBOX.x", "_INBOX.>", "_INBOX_*.>", "_R_.x", "_R_.>"].map(str::to_owned))
}

/// What an intruder tries first.
fn hostile() -> impl Iterator<Item = String> {
    [
        ">",
        "*",
        "*.>",
        "job.>",
        "audit.>",
        "hook.>",
        "next.>",
        "lease.>",
        "sign.>",
        "tenant.>",
        "$KV.>",
        "$JS.>",
        "$JS.API.>",
        "$JS.ACK.>",
        "$JS.EVENT.>",
        "$JS.EVENT.ADVISORY.>",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.META.LEADER.STEPDOWN",
        "$JS.API.SERVER.REMOVE",
        "$JS.API.ACCOUNT.PURGE.PIPELINE",
        "$JS.FC.>",
        "$JSC.>",
        "$SYS.>",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$SYS.REQ.CLAIMS.LIST",
        "$SYS.REQ.CLAIMS.DELETE",
        "$SYS.REQ.CLAIMS.PACK",
        "$SYS.REQ.ACCOUNT.ACME.CLAIMS.LOOKUP",
        "$SYS.REQ.ACCOUNT.ACME.CONNZ",
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.SERVER.PING.VARZ",
        "$SYS.REQ.SERVER.ID.RELOAD",
        "$SYS.REQ.SERVER.ID.KICK",
        "$SYS.REQ.USER.INFO",
        "$SYS.ACCOUNT.ACME.CONNECT",
        "$SRV.PING",
        "$SRV.>",
        "$G.>",
        "$GNR.>",
        "$LDS.>",
        "$MQTT.>",
        "job",
        "audit.acme",
        "job.acme.x.completed.more",
        "unknown.subject",
    ]
    .into_iter()
    .map(str::to_owned)
}
