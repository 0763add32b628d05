//! The gate: policy decides before anything is done, and is told the principal's risk each time.
//!
//! Promises: a tenant that is suspended is not served, nor a principal that is blocked; what cannot
//! be decided is refused; every denial and challenge is on its way to the audit log, within bounds;
//! a change is recorded before it is made, and so is a read of evidence or of an output. Refuses:
//! to answer a program that cannot step up with a challenge that it cannot meet.

use crate::{
    app::{App, Call, store_problem},
    approvals,
    auth::{AuthError, Principal},
    blocks, opa,
    problem::{Kind, Problem},
    routes::{Gate, Route},
};
use hotcell_policy::{Decision, Facts, PolicyError, Question, StepUp, Verdict, question};
use hotcell_schemas::{
    Digest, Role,
    identity::{Action, Decided, Outcome},
    records::{AuditAct, TenantRecord},
};
use hotcell_stage::{
    Outgoing, PublishError, clock,
    retry::{Policy, retry},
    service::describe,
};
use serde_json::json;
use tracing::{error, warn};

/// Reads that are recorded although nothing comes of them but an answer.
const RECORDED: [Action; 3] = [Action::ReadOutput, Action::ReadAudit, Action::ExportAudit];

/// Longest id of a path that a record repeats, in characters.
const TARGET_ID_CHARS_MAX: usize = 64;

/// What is asked of the gate.
#[derive(Debug)]
pub struct Ask<'a> {
    /// For what.
    pub action: Action,
    /// On what: a route and an id, never a URL.
    pub target: &'a str,
    /// What is known beside the principal's risk, which the gate asks for itself.
    pub facts: &'a Facts,
}

/// The tenant's record, when it is served.
///
/// # Errors
/// 401 without a record; 403 `tenant-inactive`; 503.
pub async fn active(app: &App, who: &Principal) -> Result<TenantRecord, Problem> {
    let record = app.auth.tenant(who.tenant()).await;
    let record = record.map_err(|error: AuthError| app.refuse("gate", &error))?;
    if record.state.is_active() {
        return Ok(record);
    }
    let state = serde_json::to_value(record.state).unwrap_or_default();
    let detail = "the tenant is not active; whoever runs this installation can say why";
    Err(Problem::new(Kind::TenantInactive, detail).with("state", state))
}

/// The same at a door: nobody who is blocked comes in. `what` is what is asked for, for the record.
///
/// # Errors
/// As [`active`]; 403 `identity-blocked`.
pub async fn enter(app: &App, who: &Principal, what: &str) -> Result<TenantRecord, Problem> {
    let record = active(app, who).await?;
    blocks::pass(app, who, what).await.map(|()| record)
}

/// Decides the action of a route, for both doors, and gives what its handler is called with.
///
/// # Errors
/// As [`pass`], and those of a shown approval.
pub async fn route(
    app: &App,
    route: &Route,
    who: Principal,
    mut call: Call,
) -> Result<(Principal, Call), Problem> {
    let Gate::Door(facts) = route.gate else { return Ok((who, call)) };
    let action = route.action.ok_or_else(Problem::internal)?;
    let mut facts = facts(&call)?;
    let approval = match &call.approval {
        None => None,
        Some(id) => Some(approvals::shown(app, &who, id, action, &call.digest(action)?).await?),
    };
    facts.approved = approval.is_some();
    let who = who.with_approval(approval.as_ref().map(|entry| entry.value.id.clone()));
    let target = target(route, &call);
    let decided = pass(app, &who, &Ask { action, target: &target, facts: &facts }).await?;
    if let Some(entry) = approval {
        approvals::take(app, entry, &target).await?;
    }
    call.decided = Some(decided);
    Ok((who, call))
}

/// The route and the id in its path, for records. An id of ours has only these characters; anything
/// else that stands there is not repeated.
#[must_use]
pub fn target(route: &Route, call: &Call) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let id: String = call.id.chars().filter(|c| safe(*c)).take(TARGET_ID_CHARS_MAX).collect();
    let gap = if id.is_empty() { "" } else { " " };
    format!("{} {}{gap}{id}", route.method, route.path)
}

/// Whether `who` may. A decision that permits is the handler's to record with what it does; reads
/// of evidence and outputs are recorded here.
///
/// # Errors
/// 401 `step-up-required`, 403 `approval-required`, 403 `forbidden`; 503 when nothing can be decided
/// or recorded.
pub async fn pass(app: &App, who: &Principal, ask: &Ask<'_>) -> Result<Decided, Problem> {
    let risk = blocks::risk(app, who).await.map_err(|error| store_problem(&error))?;
    let facts = Facts { risk, ..ask.facts.clone() };
    let ask = &Ask { facts: &facts, ..*ask };
    let decision = match decide(app, who, ask).await {
        Ok(decision) => decision,
        Err(error) => return Err(undecided(app, who, ask, &error)),
    };
    let (outcome, problem) = match &decision.verdict {
        Verdict::Allow => (Outcome::Allowed, None),
        Verdict::Deny => (Outcome::Denied, Some(denied(who, ask, &decision))),
        Verdict::StepUp(step_up) if who.can_step_up() => {
            (Outcome::StepUp, Some(challenge(who, step_up, &decision)))
        }
        Verdict::StepUp(_) => (Outcome::ApprovalRequired, Some(needs_approval(&decision))),
    };
    let mut decided = Decided {
        node: Role::Intake,
        action: ask.action,
        outcome,
        policies: decision.policies,
        digest: decision.digest,
        at: clock::now(),
    };
    let problem = match problem {
        None => second_opinion(app, who, ask, &mut decided).await,
        some => some,
    };
    match problem {
        Some(problem) => Err(refused(app, who, ask, decided, problem)),
        None if RECORDED.contains(&ask.action) => {
            let act = decision_act(who, ask, decided.clone());
            record(app, who, act).await.map(|()| decided)
        }
        None => Ok(decided),
    }
}

/// What policy would say; `None` where it cannot. Nothing comes of asking: whether it is done is for
/// [`pass`] to say.
pub async fn foreseen(app: &App, who: &Principal, ask: &Ask<'_>) -> Option<Verdict> {
    let risk = blocks::risk(app, who).await.ok()?;
    let facts = Facts { risk, ..ask.facts.clone() };
    let decision = decide(app, who, &Ask { facts: &facts, ..*ask }).await;
    decision.ok().map(|decision| decision.verdict)
}

/// Asks the operator's agent, where there is one; it can only refuse.
async fn second_opinion(
    app: &App,
    who: &Principal,
    ask: &Ask<'_>,
    decided: &mut Decided,
) -> Option<Problem> {
    let agent = app.opa.as_ref()?;
    let input = opa::input(who, ask.action, ask.target, ask.facts, decided);
    let error = agent.permits(&input).await.err()?;
    warn!(error = %describe(&error), action = %ask.action, "the policy agent did not permit");
    decided.outcome = Outcome::Denied;
    decided.policies = vec![opa::POLICY.to_owned()];
    let detail = format!("{} is refused by policy: {}", ask.action, opa::POLICY);
    let problem = Problem::new(Kind::Forbidden, detail)
        .with("action", ask.action.as_str())
        .with("policies", json!(decided.policies))
        .with("allowed", json!(["what this installation's policy agent permits"]));
    Some(problem)
}

async fn decide(app: &App, who: &Principal, ask: &Ask<'_>) -> Result<Decision, PolicyError> {
    let question = Question {
        who: question::Who { tenant: who.tenant(), actor: who.actor(), authority: who.authority() },
        action: ask.action,
        owner: who.tenant(),
        facts: ask.facts,
        now: clock::now(),
    };
    app.policies.decide(&question).await
}

/// Notes a refusal, and gives the caller its reference.
fn refused(
    app: &App,
    who: &Principal,
    ask: &Ask<'_>,
    decided: Decided,
    problem: Problem,
) -> Problem {
    let id = hex::encode(clock::random::<16>());
    let act = decision_act(who, ask, decided);
    app.decisions.note(who.tenant(), who.actor(), act, format!("decision.{id}"));
    problem.with("instance", format!("urn:hotcell:decision:{id}"))
}

fn decision_act(who: &Principal, ask: &Ask<'_>, decided: Decided) -> AuditAct {
    AuditAct::Decision {
        actor: who.actor().clone(),
        authority: who.authority().clone(),
        target: ask.target.to_owned(),
        decided,
    }
}

/// No decision is a denial. Where the broker is away the caller may come again.
fn undecided(app: &App, who: &Principal, ask: &Ask<'_>, cause: &PolicyError) -> Problem {
    // Where no set was evaluated, there is none to name.
    let (policies, advice, digest) = match cause {
        PolicyError::Records(_) => {
            warn!(error = %describe(cause), "policies cannot be read");
            return Problem::unavailable("the policies cannot be read now; nothing was done");
        }
        PolicyError::Evaluation(denial) => {
            (denial.policies.clone(), denial.advice.clone(), denial.digest)
        }
        PolicyError::Set(_)
        | PolicyError::Platform
        | PolicyError::Question
        | PolicyError::NoOutputs => (Vec::new(), Vec::new(), Digest::of(b"")),
    };
    error!(error = %describe(cause), tenant = %who.tenant(), "no decision: refused");
    let detail = "the policies in force cannot be evaluated, so nothing is permitted";
    let problem = Problem::new(Kind::Forbidden, detail)
        .with("action", ask.action.as_str())
        .with("policies", json!(policies))
        .with("allowed", json!(advice));
    let decided = Decided {
        node: Role::Intake,
        action: ask.action,
        outcome: Outcome::Denied,
        policies,
        digest,
        at: clock::now(),
    };
    refused(app, who, ask, decided, problem)
}

fn denied(who: &Principal, ask: &Ask<'_>, decision: &Decision) -> Problem {
    let detail = if decision.policies.is_empty() {
        let roles: Vec<_> = who.authority().roles.iter().map(|role| role.as_str()).collect();
        let roles = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
        format!("no policy permits {} to these roles: {roles}", ask.action)
    } else {
        format!("{} is refused by policy: {}", ask.action, decision.policies.join(", "))
    };
    Problem::new(Kind::Forbidden, detail)
        .with("action", ask.action.as_str())
        .with("policies", json!(decision.policies))
        .with("allowed", json!(decision.advice))
}

/// RFC 9470 §3: the challenge, in the scheme of the token that was shown.
fn challenge(who: &Principal, step_up: &StepUp, decision: &Decision) -> Problem {
    let scheme = if who.authority().bound { "DPoP" } else { "Bearer" };
    let (acr_values, max_age) = (step_up.acr_values.join(" "), step_up.max_age_secs);
    let description = "A different authentication level is required";
    let header = format!(
        "{scheme} error=\"insufficient_user_authentication\", \
         error_description=\"{description}\", acr_values=\"{acr_values}\", max_age=\"{max_age}\""
    );
    let detail = "authenticate again as `acr_values` and `max_age` say, then repeat the request";
    Problem::new(Kind::StepUp, detail)
        .header("www-authenticate", header)
        .with("acr_values", acr_values)
        .with("max_age", max_age)
        .with("policy", json!(decision.policies))
}

fn needs_approval(decision: &Decision) -> Problem {
    let detail = "this principal has no second factor: have the request approved by POST \
                  /v1/approvals, over the broker api.ask, then repeat it with the header \
                  Hotcell-Approval";
    Problem::new(Kind::ApprovalRequired, detail)
        .with("policy", json!(decision.policies))
        .with("allowed", json!(decision.advice))
}

/// Notes that a rule of ours, which no policy can lift, refused what policy permits.
pub fn overruled(app: &App, who: &Principal, call: &Call, rule: &str) {
    let Some(decided) = &call.decided else { return };
    let decided = Decided {
        outcome: Outcome::Denied,
        policies: vec![rule.to_owned()],
        at: clock::now(),
        ..decided.clone()
    };
    let act = AuditAct::Decision {
        actor: who.actor().clone(),
        authority: who.authority().clone(),
        target: format!("{} {}", call.method, call.route),
        decided,
    };
    let id = format!("decision.{}", hex::encode(clock::random::<16>()));
    app.decisions.note(who.tenant(), who.actor(), act, id);
}

/// Records what `who` is about to change, before it is done: no record, no action.
///
/// # Errors
/// 500 where nothing was decided, which the table of routes rules out; 503 when it is not recorded.
pub async fn change(
    app: &App,
    who: &Principal,
    call: &Call,
    what: &str,
    target: &str,
) -> Result<(), Problem> {
    let decided = call.decided.clone().ok_or_else(Problem::internal)?;
    let act = AuditAct::Changed {
        actor: who.actor().clone(),
        authority: who.authority().clone(),
        what: what.to_owned(),
        target: target.to_owned(),
        decided,
    };
    record(app, who, act).await
}

/// Records an act of `who`, and returns when the record is stored.
///
/// # Errors
/// 503: then nothing may be done.
pub(crate) async fn record(app: &App, who: &Principal, act: AuditAct) -> Result<(), Problem> {
    let id = format!("act.{}", hex::encode(clock::random::<16>()));
    let out = Outgoing::audit(Some(who.tenant()), act, id);
    let transient = |error: &PublishError| matches!(error, PublishError::Unacknowledged(_));
    let sent = retry(Policy::REQUEST, transient, || app.bus.publish(&out)).await;
    sent.map(|_| ()).map_err(|error| {
        warn!(error = %describe(&error), "an act cannot be recorded");
        Problem::unavailable("the message broker does not answer; nothing was done")
    })
}
