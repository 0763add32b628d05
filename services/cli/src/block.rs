//! `hotcell block add|list|remove`: principals that are stopped, or whose risk is raised, by who
//! administers their tenant through the API, or with `--tenant` by the operator.
//!
//! Promises: what the operator does is in the evidence log before it has any effect, and needs no
//! API: nobody can lock everybody out. Refuses a tenant that is not there, and a key that is
//! not its own.

use crate::{
    api::Api,
    fail::{Context as _, Fail},
    key::Factor,
    poison::connect,
    print, token,
};
use hotcell_policy::Blocks;
use hotcell_schemas::{
    BlockId, KeyId, TenantId, UnixMs,
    block::{BlockList, BlockRecord, BlockRequest, PrincipalRequest, Risk, check, operators_key},
    job::Actor,
    records::{AuditAct, KeyRecord, TenantRecord},
};
use hotcell_stage::{Bus, Outgoing, clock, kv::KvError};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;

/// Writes that lose to another before the command gives up.
const TRIES_MAX: u32 = 5;

/// Whom a block stops.
#[derive(Debug, clap::Args)]
#[group(id = "who", required = true, multiple = false)]
pub(crate) struct Who {
    /// An API key, its tokens, and every key that it made; by its id.
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// A person of an identity provider, and every key that it made: `sub`.
    #[arg(long, value_name = "SUBJECT", requires = "issuer")]
    person: Option<String>,
    /// A program of an identity provider: `client_id`.
    #[arg(long, value_name = "CLIENT", requires = "issuer")]
    program: Option<String>,
    /// A login at the broker, by its public key: U...
    #[arg(long, value_name = "NKEY")]
    login: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum BlockCommand {
    /// Stop a principal within a second, whatever credential it shows; or only raise its risk.
    #[command(after_help = "Examples:
  hotcell block add --key 0193a0f0c0de7000800000000000beef --reason 'seen in a public repository'
  hotcell block add --person ana --issuer https://sso.example.com/realms/video \\
    --reason 'laptop stolen' --expires-secs 3600
  hotcell block add --key 0193a0f0c0de7000800000000000beef --reason x --tenant acme   (the operator)
  hotcell block add --person ana --issuer https://sso.example.com/realms/video \\
    --reason 'signed in from two countries' --risk 2

What waits of its jobs ends with `identity_blocked`; what runs may end. A release asks for a second
factor, a block does not. What the operator blocks, only the operator releases.

With --risk 1 to 3 nobody is stopped: policies see the number as context.risk, and from 2 on each
request of the principal asks for a second factor, or for an approval from who has none.")]
    Add {
        #[command(flatten)]
        who: Who,
        /// The identity provider of --person or --program: `iss`.
        #[arg(long, value_name = "URL")]
        issuer: Option<String>,
        /// Why, for who administers the tenant; whoever is blocked is not told.
        #[arg(long)]
        reason: String,
        /// 1 to 3 stops nobody and is told to policies; 4 stops.
        #[arg(long, value_name = "1-4", default_value_t = 4,
            value_parser = clap::value_parser!(u8).range(1..=4))]
        risk: u8,
        /// It ends by itself after this long, in seconds.
        #[arg(long, value_name = "SECS")]
        expires_secs: Option<u64>,
        /// As the installation's operator, in this tenant, without the API.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// List who is stopped, and whose risk is raised.
    List {
        /// As the installation's operator, in this tenant, without the API.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Release a principal, or lift the risk that one record gave it.
    Remove {
        /// The block's id.
        id: BlockId,
        /// As the installation's operator, in this tenant, without the API.
        #[arg(long)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        factor: Factor,
    },
}

impl Who {
    fn principal(self, issuer: Option<String>) -> PrincipalRequest {
        let issuer = issuer.unwrap_or_default();
        match self {
            Self { key: Some(id), .. } => PrincipalRequest::ApiKey { id },
            Self { person: Some(subject), .. } => PrincipalRequest::User { issuer, subject },
            Self { program: Some(client), .. } => PrincipalRequest::Service { issuer, client },
            Self { login, .. } => {
                let (user, name) = (login.unwrap_or_default(), String::new());
                PrincipalRequest::NatsLogin { user, name }
            }
        }
    }
}

/// Runs one of them.
pub(crate) async fn run(data: &Path, command: BlockCommand, as_json: bool) -> Result<(), Fail> {
    match command {
        BlockCommand::Add { who, issuer, reason, risk, expires_secs: expires_in_secs, tenant } => {
            let principal = who.principal(issuer);
            let risk = Some(risk).filter(|risk| *risk != u8::from(Risk::STOP));
            let asked = BlockRequest { principal, reason, expires_in_secs, risk };
            let block = match tenant {
                None => Api::find(data)?.post("/v1/blocks", &asked).await?,
                Some(tenant) => shown(&add(data, tenant, asked).await?),
            };
            said(&block, "blocked", as_json);
        }
        BlockCommand::List { tenant: None } => {
            let answer = Api::find(data)?.get("/v1/blocks").await?;
            let blocks = answer.get("blocks").and_then(Value::as_array).cloned();
            list(&blocks.unwrap_or_default(), as_json);
        }
        BlockCommand::List { tenant: Some(tenant) } => {
            let bus = connect(data).await?;
            is_there(&bus, &tenant).await?;
            let listed = Blocks::new(&bus).read(&tenant).await.or_fail("cannot read the blocks")?;
            let (all, now) =
                (listed.operators.blocks.iter().chain(&listed.own.blocks), clock::now());
            list(&all.filter(|block| block.stands(now)).map(shown).collect::<Vec<_>>(), as_json);
        }
        BlockCommand::Remove { id, tenant, factor } => {
            let block = match tenant {
                None => {
                    let api = token::for_changes(data, factor.totp.as_deref()).await?;
                    api.call(Method::DELETE, &format!("/v1/blocks/{id}"), None::<&()>).await?
                }
                Some(tenant) => shown(&remove(data, &tenant, &id).await?),
            };
            said(&block, "released", as_json);
        }
    }
    Ok(())
}

async fn is_there(bus: &Bus, tenant: &TenantId) -> Result<(), Fail> {
    let found = bus.bucket("tenants").get::<TenantRecord>(tenant.as_str()).await;
    match found.or_fail("cannot read the tenants")? {
        Some(_) => Ok(()),
        None => Err(Fail::failed(format!("there is no tenant {tenant}"))),
    }
}

/// A key is one of the tenant's: a block of another would stop nobody, and say that it does.
async fn is_of(bus: &Bus, tenant: &TenantId, principal: &Actor) -> Result<(), Fail> {
    let Actor::ApiKey { id } = principal else { return Ok(()) };
    let found = bus.bucket("keys").get::<KeyRecord>(id.as_str()).await;
    match found.or_fail("cannot read the keys")? {
        Some(entry) if entry.value.tenant == *tenant => Ok(()),
        _ => Err(Fail::failed(format!("{tenant} has no key {id}"))),
    }
}

/// The record of the act, before the act.
async fn told(bus: &Bus, action: &str, block: &BlockRecord) -> Result<(), Fail> {
    let act = AuditAct::Admin { action: action.to_owned(), target: block.text() };
    let id = format!("admin-{}", hex::encode(clock::random::<16>()));
    let out = Outgoing::audit(Some(&block.tenant), act, id);
    bus.publish(&out).await.or_fail("not done, because the log does not take the record")?;
    Ok(())
}

/// The operator blocks: in the bucket that no running service writes.
async fn add(data: &Path, tenant: TenantId, asked: BlockRequest) -> Result<BlockRecord, Fail> {
    let usage = |(field, rule)| Fail::usage(format!("{field} {rule}"));
    let BlockRequest { principal, reason, expires_in_secs, risk } = asked;
    let risk = check(&reason, expires_in_secs, risk).map_err(usage)?;
    let principal = principal.actor().map_err(usage)?;
    let (bus, now) = (connect(data).await?, clock::now());
    is_there(&bus, &tenant).await?;
    is_of(&bus, &tenant, &principal).await?;
    let until = expires_in_secs.map(|secs| now.plus_ms(secs.saturating_mul(1000)));
    let (id, by_operator) = (BlockId::new(now.0, clock::random()), true);
    let new =
        BlockRecord { id, tenant, principal, risk, reason, by: None, by_operator, at: now, until };
    told(&bus, "identity_blocked", &new).await?;
    let (bucket, key) = (bus.bucket("platform"), operators_key(&new.tenant));
    for _ in 0..TRIES_MAX {
        let (found, revision) = bucket.look::<BlockList>(&key).await.or_fail("not blocked")?;
        let before = found.map(|entry| entry.value).unwrap_or_default();
        let (after, block) = before.with(new.clone()).or_fail("not blocked")?;
        match bucket.update(&key, &after, revision).await {
            Ok(_) => return Ok(block),
            Err(KvError::Conflict) => {}
            Err(error) => return Err(error).or_fail("not blocked"),
        }
    }
    Err(Fail::failed("not blocked: others change the blocks at the same moment; try again"))
}

/// The operator releases, whoever has blocked.
async fn remove(data: &Path, tenant: &TenantId, id: &BlockId) -> Result<BlockRecord, Fail> {
    let bus = connect(data).await?;
    for (name, key) in [("platform", operators_key(tenant)), ("blocks", tenant.to_string())] {
        let bucket = bus.bucket(name);
        for _ in 0..TRIES_MAX {
            let (found, revision) = bucket.look::<BlockList>(&key).await.or_fail("not released")?;
            let before = found.map(|entry| entry.value).unwrap_or_default();
            let Some(block) = before.blocks.iter().find(|block| block.id == *id) else { break };
            told(&bus, "identity_unblocked", block).await?;
            match bucket.update(&key, &before.without(id), revision).await {
                Ok(_) => return Ok(block.clone()),
                Err(KvError::Conflict) => {}
                Err(error) => return Err(error).or_fail("not released"),
            }
        }
    }
    Err(Fail::failed(format!("{tenant} has no such block: see `hotcell block list --tenant`")))
}

/// As the API shows it.
fn shown(block: &BlockRecord) -> Value {
    json!({
        "id": block.id,
        "principal": principal(&block.principal),
        "risk": block.risk,
        "reason": block.reason,
        "by": block.by.as_ref().map(principal),
        "byOperator": block.by_operator,
        "at": block.at.rfc3339(),
        "until": block.until.map(UnixMs::rfc3339),
    })
}

fn principal(actor: &Actor) -> Value {
    json!(match actor.clone() {
        Actor::ApiKey { id } => PrincipalRequest::ApiKey { id },
        Actor::NatsLogin { user, name } => PrincipalRequest::NatsLogin { user, name },
        Actor::User { issuer, subject } => PrincipalRequest::User { issuer, subject },
        Actor::Service { issuer, client } => PrincipalRequest::Service { issuer, client },
    })
}

/// A principal of an answer in a few words; nothing of it moves a terminal.
fn name_of(principal: Option<&Value>) -> String {
    let known =
        principal.and_then(|it| serde_json::from_value::<PrincipalRequest>(it.clone()).ok());
    let text = match known {
        Some(PrincipalRequest::ApiKey { id }) => format!("key {id}"),
        Some(PrincipalRequest::NatsLogin { user, .. }) => format!("login {user}"),
        Some(PrincipalRequest::User { issuer, subject }) => format!("person {subject} of {issuer}"),
        Some(PrincipalRequest::Service { issuer, client }) => {
            format!("program {client} of {issuer}")
        }
        None => "the operator".to_owned(),
    };
    text.chars().filter(|c| !c.is_control()).collect()
}

fn text(block: &Value, name: &str) -> String {
    block.get(name).and_then(Value::as_str).unwrap_or("-").to_owned()
}

/// The risk of a record of an answer; an installation of before knows stops alone.
fn risk_of(block: &Value) -> Risk {
    let risk = block.get("risk").and_then(|risk| serde_json::from_value(risk.clone()).ok());
    risk.unwrap_or_default()
}

fn said(block: &Value, done: &str, as_json: bool) {
    if as_json {
        print::json(block);
        return;
    }
    let end = match text(block, "until").as_str() {
        until if done == "blocked" && until != "-" => format!(" until {until}"),
        _ => String::new(),
    };
    let (name, id) = (name_of(block.get("principal")), text(block, "id"));
    print::line(match (risk_of(block), done) {
        (Risk::STOP, _) => format!("{done} {name}{end}: {id}"),
        (risk, "blocked") => format!("risk {risk}{end} of {name}: {id}"),
        (risk, _) => format!("lifted risk {risk} of {name}: {id}"),
    });
}

fn list(blocks: &[Value], as_json: bool) {
    if as_json {
        print::json(&blocks);
    } else if blocks.is_empty() {
        print::line("nobody is blocked, and nobody's risk is raised");
    } else {
        let heading = ["id", "who", "risk", "by", "since", "until", "reason"];
        let row = |block: &Value| {
            vec![
                text(block, "id"),
                name_of(block.get("principal")),
                match risk_of(block) {
                    Risk::STOP => "stopped".to_owned(),
                    risk => risk.to_string(),
                },
                name_of(block.get("by").filter(|by| !by.is_null())),
                text(block, "at"),
                text(block, "until"),
                text(block, "reason"),
            ]
        };
        let heading = heading.map(str::to_owned).to_vec();
        let rows: Vec<_> = [heading].into_iter().chain(blocks.iter().map(row)).collect();
        print::line(print::table(&rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: BlockCommand,
    }

    fn parsed(words: &str) -> Option<BlockCommand> {
        Line::try_parse_from(format!("block {words}").split(' ')).ok().map(|line| line.command)
    }

    #[test]
    fn iam_21_exactly_one_principal_is_named_and_those_of_a_provider_with_it() {
        let id = "0193a0f0c0de7000800000000000beef";
        let check = |words: &str, expect: Option<PrincipalRequest>| {
            let found = parsed(&format!("add --reason x {words}")).map(|command| {
                let BlockCommand::Add { who, issuer, .. } = command else { panic!("{command:?}") };
                who.principal(issuer)
            });
            assert_eq!(found, expect, "{words}");
        };
        let issuer = "https://id.example".to_owned();
        check(&format!("--key {id}"), Some(PrincipalRequest::ApiKey { id: id.parse().unwrap() }));
        let (subject, client) = ("ana".to_owned(), "ci".to_owned());
        let person = PrincipalRequest::User { issuer: issuer.clone(), subject };
        check("--person ana --issuer https://id.example", Some(person));
        let program = PrincipalRequest::Service { issuer, client };
        check("--program ci --issuer https://id.example", Some(program));
        check("--person ana", None);
        check("--program ci", None);
        check(&format!("--key {id} --person ana --issuer https://id.example"), None);
        check("", None);
        check("--key x", None);
    }

    #[test]
    fn iam_21_a_block_is_a_stop_unless_a_risk_is_named_and_that_is_one_to_four() {
        let check = |words: &str, expect: Option<u8>| {
            let found = parsed(&format!("add --reason x --login U{words}"));
            let found = found.map(|command| {
                let BlockCommand::Add { risk, .. } = command else { panic!("{command:?}") };
                risk
            });
            assert_eq!(found, expect, "{words}");
        };
        check("", Some(4));
        for good in 1..=4 {
            check(&format!(" --risk {good}"), Some(good));
        }
        for bad in ["0", "5", "-1", "high", "256"] {
            check(&format!(" --risk {bad}"), None);
        }
        for (said, expect) in [(json!(2), 2), (json!(4), 4), (Value::Null, 4)] {
            assert_eq!(u8::from(risk_of(&json!({ "risk": said }))), expect);
        }
        assert!(risk_of(&json!({})).is_stop(), "of a server that knows none");
    }

    /// IAM-21: a mistyped id, or another tenant, is no success.
    #[tokio::test(flavor = "multi_thread")]
    async fn iam_21_the_operator_blocks_no_key_that_the_tenant_does_not_have() {
        let (_server, bus) = crate::destination::tests::provisioner().await;
        let (acme, bolt): (TenantId, TenantId) = ("acme".parse().unwrap(), "bolt".parse().unwrap());
        let id = KeyId::new(1, [1; 10]);
        let key = Actor::ApiKey { id: id.clone() };
        let refused = is_of(&bus, &acme, &key).await.unwrap_err();
        assert!(refused.message.contains("acme has no key"), "{refused}");
        let record = KeyRecord::new(id.clone(), acme.clone(), "text", UnixMs(1));
        bus.bucket("keys").create(id.as_str(), &record).await.unwrap();
        is_of(&bus, &acme, &key).await.unwrap();
        is_of(&bus, &bolt, &key).await.unwrap_err();
        let person = Actor::User { issuer: "https://id.example".into(), subject: "ana".into() };
        is_of(&bus, &acme, &person).await.unwrap();
    }

    #[test]
    fn what_is_listed_is_what_the_api_says_in_a_few_words() {
        let person =
            Actor::User { issuer: "https://id.example".into(), subject: "a\u{1b}na".into() };
        assert_eq!(name_of(Some(&principal(&person))), "person ana of https://id.example");
        assert_eq!(name_of(None), "the operator");
    }
}
