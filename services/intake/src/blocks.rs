//! Blocks: a principal of the tenant is stopped while people look, and released by people; or its risk
//! is raised, which policies see and which by itself stops nobody.
//!
//! Promises: whoever is blocked gets nothing through any door, whatever credential it shows, within
//! a second on every replica; each change is recorded before it is made. Refuses: to block oneself,
//! or whoever made one's key, and to lift one's own risk; to block by a name that nobody comes by; to
//! let a tenant block a key of the operator's, or lift a block of the operator's; to take a list that cannot be read for an empty one. Repeating a block lengthens it
//! at most, repeating a release finds nothing.

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    gate, json, keys,
    problem::{Kind, Problem},
    token::WRITES_MAX,
    view,
};
use hotcell_policy::{Lineage, lineage};
use hotcell_schemas::{
    BlockId, TenantId, UnixMs,
    block::{self, BlockList, BlockRecord, BlockRequest, same},
    identity::RoleName,
    job::Actor,
    records::AuditAct,
};
use hotcell_stage::{
    clock,
    kv::{Bucket, KvError},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a record of a refusal calls the rule that nobody blocks itself.
const SELF_BLOCK: &str = "self-block";

/// The same of the rule that the operator's blocks and keys are the operator's.
const OPERATORS: &str = "operators-block";

fn bucket(app: &App) -> Bucket {
    app.bus.bucket("blocks")
}

/// How a principal stands.
pub(crate) enum Standing {
    /// Nobody blocks it.
    Open,
    /// This block does.
    Blocked(BlockId),
    /// Some are blocked, and who made its key cannot be followed.
    Unknown,
}

/// The risk of `who` below a stop, as policies are told it.
///
/// # Errors
/// The records cannot be read.
pub(crate) async fn risk(app: &App, who: &Principal) -> Result<u8, KvError> {
    app.blocks.risk((who.tenant(), who.actor()), &app.auth, None).await
}

/// Whether `who` is blocked.
///
/// # Errors
/// The records cannot be read.
pub(crate) async fn standing(app: &App, who: &Principal) -> Result<Standing, KvError> {
    standing_of(app, who.tenant(), who.actor()).await
}

/// Whether `actor` is blocked in `tenant`.
///
/// # Errors
/// The records cannot be read.
pub(crate) async fn standing_of(
    app: &App,
    tenant: &TenantId,
    actor: &Actor,
) -> Result<Standing, KvError> {
    let (listed, now) = (app.blocks.of(tenant).await?, clock::now());
    if listed.is_empty(now) {
        return Ok(Standing::Open);
    }
    Ok(match lineage(actor, &app.auth).await? {
        Lineage::TooLong => Standing::Unknown,
        Lineage::All(all) => match listed.against(&all, now) {
            Some(block) => Standing::Blocked(block.id.clone()),
            None => Standing::Open,
        },
    })
}

/// Lets `who` through, if nobody has blocked it; `what` is what it asks for, for the record.
///
/// # Errors
/// 403 `identity-blocked`, with the block's id and no reason; 503.
pub(crate) async fn pass(app: &App, who: &Principal, what: &str) -> Result<(), Problem> {
    match standing(app, who).await.map_err(|error| store_problem(&error))? {
        Standing::Open => Ok(()),
        Standing::Unknown => Err(unfollowed()),
        Standing::Blocked(block) => {
            let problem = blocked(&block);
            let (actor, target) = (who.actor().clone(), what.to_owned());
            let act = AuditAct::Blocked { actor, block, target };
            let id = format!("blocked.{}", hex::encode(clock::random::<16>()));
            app.decisions.note(who.tenant(), who.actor(), act, id);
            Err(problem)
        }
    }
}

fn blocked(block: &BlockId) -> Problem {
    let detail =
        "this principal is blocked; who administers the tenant can see why, and release it";
    Problem::new(Kind::IdentityBlocked, detail)
        .with("block", block.as_str())
        .with("instance", format!("urn:hotcell:block:{block}"))
}

fn unfollowed() -> Problem {
    Problem::new(Kind::Forbidden, "the makers of this key cannot be followed that far")
}

/// A block as its tenant's administrators see it.
fn show(block: &BlockRecord) -> Value {
    json!({
        "id": block.id,
        "principal": view::actor(&block.principal),
        "risk": block.risk,
        "reason": block.reason,
        "by": block.by.as_ref().map(view::actor),
        "byOperator": block.by_operator,
        "at": block.at.rfc3339(),
        "until": block.until.map(UnixMs::rfc3339),
    })
}

/// `GET /v1/blocks`: those that stand, the operator's first, then oldest first.
///
/// # Errors
/// 503.
pub async fn list(app: Arc<App>, who: Principal, _: Call) -> Result<Reply, Problem> {
    let listed = app.blocks.read(who.tenant()).await.map_err(|error| store_problem(&error))?;
    let now = clock::now();
    let all = listed.operators.blocks.iter().chain(&listed.own.blocks);
    let all: Vec<_> = all.filter(|block| block.stands(now)).map(show).collect();
    Ok(Reply::new(200, json!({ "blocks": all })))
}

/// `POST /v1/blocks`: stops a principal, or raises its risk. One that is blocked with the same risk
/// already keeps its block, with the later end of the two.
///
/// # Errors
/// 400 and 422 naming the field, an issuer that is none of ours among them; 403 for oneself, and for a
/// key of the operator's; 404 for a key that is not the tenant's; 422 when as many are blocked as may be; 503.
pub async fn create(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let request: BlockRequest = json::parse(&call.body)?;
    let refuse = |(field, rule): (&str, &str)| Problem::field(Kind::Unprocessable, field, rule);
    let risk = block::check(&request.reason, request.expires_in_secs, request.risk);
    let risk = risk.map_err(refuse)?;
    let principal = request.principal.actor().map_err(refuse)?;
    may_stop(&app, &who, &call, &principal).await?;
    let now = clock::now();
    let new = BlockRecord {
        id: BlockId::new(now.0, clock::random()),
        tenant: who.tenant().clone(),
        principal,
        risk,
        reason: request.reason,
        by: Some(who.actor().clone()),
        by_operator: is_operator(&who),
        at: now,
        until: request.expires_in_secs.map(|secs| now.plus_ms(secs.saturating_mul(1000))),
    };
    let mut told = false;
    for _ in 0..WRITES_MAX {
        let (before, revision) = look(&app, &who).await?;
        let full = |error: block::Full| Problem::new(Kind::Unprocessable, error.to_string());
        let (after, block) = before.with(new.clone()).map_err(full)?;
        if after == before {
            return Ok(Reply::new(200, show(&block)));
        }
        if !told {
            gate::change(&app, &who, &call, "identity_blocked", &block.text()).await?;
            told = true;
        }
        if written(&app, &who, &after, revision).await? {
            let is_new = block.id == new.id;
            let reply = Reply::new(if is_new { 201 } else { 200 }, show(&block));
            return Ok(reply.at(format!("/v1/blocks/{}", block.id)));
        }
    }
    Err(store_problem(&KvError::Conflict))
}

fn is_operator(who: &Principal) -> bool {
    who.authority().roles.contains(&RoleName::Operator)
}

/// Whether `who` may stop `principal`, apart from policy.
async fn may_stop(
    app: &App,
    who: &Principal,
    call: &Call,
    principal: &Actor,
) -> Result<(), Problem> {
    if is_self(app, who, principal).await? {
        gate::overruled(app, who, call, SELF_BLOCK);
        let detail = "nobody blocks itself, or whoever made its key: it could not take it back";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let id = match principal {
        Actor::ApiKey { id } => id,
        Actor::NatsLogin { .. } => return Ok(()),
        Actor::User { issuer, .. } | Actor::Service { issuer, .. } => {
            // A slash too many, and the block would stop nobody.
            let rule =
                "must be an identity provider of this installation, as its tokens write `iss`";
            let stranger = || Problem::field(Kind::Unprocessable, "principal.issuer", rule);
            return app.auth.knows_issuer(issuer).then_some(()).ok_or_else(stranger);
        }
    };
    let key = keys::find(app, who.tenant(), id.as_str()).await?;
    if key.value.roles.contains(&RoleName::Operator) && !is_operator(who) {
        gate::overruled(app, who, call, OPERATORS);
        return Err(Problem::new(Kind::Forbidden, "a key of the operator's is the operator's"));
    }
    Ok(())
}

/// Whether `principal` is `who`, or whoever made its key.
async fn is_self(app: &App, who: &Principal, principal: &Actor) -> Result<bool, Problem> {
    let own = lineage(who.actor(), &app.auth).await.map_err(|error| store_problem(&error))?;
    let Lineage::All(own) = own else { return Err(unfollowed()) };
    Ok(own.iter().any(|actor| same(actor, principal)))
}

async fn look(app: &App, who: &Principal) -> Result<(BlockList, u64), Problem> {
    let found = bucket(app).look::<BlockList>(who.tenant().as_str()).await;
    let (entry, revision) = found.map_err(|error| store_problem(&error))?;
    Ok((entry.map(|entry| entry.value).unwrap_or_default(), revision))
}

/// Whether the list was written; not when another write came first.
async fn written(
    app: &App,
    who: &Principal,
    list: &BlockList,
    revision: u64,
) -> Result<bool, Problem> {
    match bucket(app).update(who.tenant().as_str(), list, revision).await {
        Ok(_) => {
            app.blocks.forget(who.tenant());
            Ok(true)
        }
        Err(KvError::Conflict) => Ok(false),
        Err(error) => Err(store_problem(&error)),
    }
}

/// `DELETE /v1/blocks/{id}`: releases a principal, or lifts the risk that one record gave it.
///
/// # Errors
/// 403 for a block of the operator's, and for one's own risk; 404 for one that has ended, and one of
/// another tenant; 503.
pub async fn remove(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let gone = || Problem::not_found("there is no such block");
    let id: BlockId = call.id.parse().map_err(|_| gone())?;
    let listed = app.blocks.read(who.tenant()).await.map_err(|error| store_problem(&error))?;
    let now = clock::now();
    let find = |list: &BlockList| {
        list.blocks.iter().find(|block| block.id == id && block.stands(now)).cloned()
    };
    let by_command = find(&listed.operators);
    let block = by_command.clone().or_else(|| find(&listed.own)).ok_or_else(gone)?;
    if by_command.is_some() || block.by_operator && !is_operator(&who) {
        gate::overruled(&app, &who, &call, OPERATORS);
        let detail = "the operator has blocked this principal, and releases it on the command line";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    // Only of a risk: who is stopped does not come here.
    if is_self(&app, &who, &block.principal).await? {
        gate::overruled(&app, &who, &call, SELF_BLOCK);
        let detail = "nobody lifts its own risk, or that of whoever made its key: another does";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    gate::change(&app, &who, &call, "identity_unblocked", &block.text()).await?;
    for _ in 0..WRITES_MAX {
        let (before, revision) = look(&app, &who).await?;
        if written(&app, &who, &before.without(&id), revision).await? {
            return Ok(Reply::new(200, show(&block)));
        }
    }
    Err(store_problem(&KvError::Conflict))
}
