//! Policies over the API: what is in force, what was, what is sensitive, and what policy would say.
//!
//! Promises: a set is checked whole before it is stored, each fault with its line; a change is
//! recorded before it is made; every version can be read. Refuses: to change the platform's own
//! policies, which only the operator writes, and to do what is only asked about.
//! Storing the same text twice makes two versions.

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    blocks, gate, json,
    problem::{Kind, Problem},
    transcodes, view,
};
use hotcell_policy::{
    Facts, Fault, OutputFacts, PolicyError, Question, Rule, StepUp, Verdict, Who,
    put::{Put, PutError, checked},
};
use hotcell_schemas::{
    Digest,
    identity::{ACR_MFA, Action, Authority, RoleName},
    policy::PolicyRecord,
};
use hotcell_stage::{clock, service::describe};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::SemaphorePermit, time::timeout};
use tracing::error;

/// A set of policies waits this long to be checked, in seconds; then its sender is told to come again.
const TURN_SECS: u64 = 20;

/// `PUT /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PolicyRequest {
    /// The whole set; empty for none of one's own.
    pub text: String,
    /// The version that it takes the place of; 0 for none. Whatever is there when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<u32>,
}

/// `POST /v1/policy/explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExplainRequest {
    /// The body of `POST /v1/transcodes`.
    pub request: Value,
    /// Roles to ask as; one's own when absent.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub roles: Option<BTreeSet<RoleName>>,
    /// Whether to ask with a second factor of this moment.
    #[serde(default)]
    pub mfa: bool,
}

/// Policies that cannot be read, or do not compile, as an answer.
fn policy_problem(cause: &PolicyError) -> Problem {
    match cause {
        PolicyError::Records(cause) => store_problem(cause),
        PolicyError::Set(_)
        | PolicyError::Platform
        | PolicyError::Evaluation(_)
        | PolicyError::Question
        | PolicyError::NoOutputs => {
            error!(error = %describe(cause), "the policies in force cannot be shown");
            Problem::internal()
        }
    }
}

fn rule(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "effect": if rule.forbids { "forbid" } else { "permit" },
        "about": rule.about,
        "allows": rule.allows,
        "actions": rule.actions,
        "stepUp": rule.step_up.as_ref().map(step_up),
        "text": rule.text,
    })
}

fn step_up(step: &StepUp) -> Value {
    json!({ "acrValues": step.acr_values, "maxAge": step.max_age_secs })
}

fn version(record: &PolicyRecord) -> Value {
    json!({
        "version": record.version,
        "digest": record.digest,
        "by": record.by.as_ref().map(view::actor),
        "at": record.at.rfc3339(),
    })
}

/// `GET /v1/policy`: the tenant's own text and every policy in force.
///
/// # Errors
/// 503.
pub async fn get(app: Arc<App>, who: Principal, _: Call) -> Result<Reply, Problem> {
    let engine = app.policies.engine(Some(who.tenant())).await.map_err(|e| policy_problem(&e))?;
    let own = app.policies.current(Some(who.tenant())).await.map_err(|e| store_problem(&e))?;
    let result = json!({
        "version": own.as_ref().map_or(0, |record| record.version),
        "text": own.as_ref().map_or("", |record| record.text.as_str()),
        "digest": engine.digest(),
        "own": own.as_ref().map(version),
        "policies": engine.rules().map(rule).collect::<Vec<_>>(),
    });
    Ok(Reply::new(200, result))
}

/// `GET /v1/policy/step-up`: the sensitive operations, as data (STEP-01).
///
/// # Errors
/// 503.
pub async fn sensitive(app: Arc<App>, who: Principal, _: Call) -> Result<Reply, Problem> {
    let engine = app.policies.engine(Some(who.tenant())).await.map_err(|e| policy_problem(&e))?;
    let one = |rule: &Rule| {
        json!({
            "id": rule.id,
            "about": rule.about,
            "actions": rule.actions,
            "acrValues": rule.step_up.as_ref().map(|step| step.acr_values.clone()),
            "maxAge": rule.step_up.as_ref().map(|step| step.max_age_secs),
        })
    };
    let list: Vec<_> = engine.sensitive().map(one).collect();
    Ok(Reply::new(200, json!({ "digest": engine.digest(), "sensitive": list })))
}

/// `PUT /v1/policy`.
///
/// # Errors
/// 422 with each fault's line and rule; 409 when another version is in force than `over` says; 429
/// when too many were checked; 503.
pub async fn put(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let request: PolicyRequest = json::parse(&call.body)?;
    let tenant = Some(who.tenant());
    app.rates.checks(who.tenant(), Instant::now())?;
    let _turn = turn(&app).await?;
    checked(&request.text, tenant).await.map_err(|faults| faulty(&faults.0))?;
    let digest = Digest::of(request.text.as_bytes());
    gate::change(&app, &who, &call, "policy_put", &digest.to_string()).await?;
    let put = Put {
        tenant,
        text: &request.text,
        by: Some(who.actor().clone()),
        at: clock::now(),
        over: request.over,
    };
    let stored = app.policies.put(put).await.map_err(|error| match &error {
        PutError::Invalid(faults) => faulty(&faults.0),
        PutError::Conflict(version) => {
            Problem::new(Kind::Conflict, error.to_string()).with("version", *version)
        }
        PutError::Full => Problem::new(Kind::Conflict, error.to_string()),
        PutError::Records(cause) => store_problem(cause),
    })?;
    Ok(Reply::new(200, version(&stored)))
}

/// The one place of a check: whoever sends many texts at once waits for itself, and no request of
/// others waits for a core.
async fn turn(app: &App) -> Result<SemaphorePermit<'_>, Problem> {
    let turn = timeout(Duration::from_secs(TURN_SECS), app.checks.acquire()).await;
    let turn = turn.map_err(|_| Problem::unavailable("too many sets of policies are checked"))?;
    Ok(turn.expect("the semaphore is never closed"))
}

fn faulty(faults: &[Fault]) -> Problem {
    let one =
        |fault: &Fault| json!({ "line": fault.line, "policy": fault.policy, "rule": fault.rule });
    let first = faults.first().map(ToString::to_string).unwrap_or_default();
    Problem::field(Kind::Unprocessable, "text", first)
        .with("faults", faults.iter().map(one).collect::<Vec<_>>())
}

/// `GET /v1/policy/versions`: the last hundred, the newest first, without their texts.
///
/// # Errors
/// 503.
pub async fn versions(app: Arc<App>, who: Principal, _: Call) -> Result<Reply, Problem> {
    let all = app.policies.history(Some(who.tenant())).await.map_err(|e| store_problem(&e))?;
    let list: Vec<_> = all.iter().map(version).collect();
    Ok(Reply::new(200, json!({ "versions": list })))
}

/// `GET /v1/policy/versions/{id}`: one, with its text.
///
/// # Errors
/// 404, 503.
pub async fn one_version(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let none = || Problem::not_found("there is no version of this number");
    let number: u32 = call.id.parse().map_err(|_| none())?;
    let found = app.policies.version(Some(who.tenant()), number).await;
    let found = found.map_err(|e| store_problem(&e))?.ok_or_else(none)?;
    let mut shown = version(&found);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("text".to_owned(), json!(found.text));
    }
    Ok(Reply::new(200, shown))
}

/// `POST /v1/policy/explain`: what policy would say of a job, which is compiled and not submitted.
///
/// # Errors
/// As for a submission, but for policy's own refusals, which are the answer; 503.
pub async fn explain(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let asked: ExplainRequest = json::parse(&call.body)?;
    let body = asked.request.to_string();
    let (_, _, mut facts) = transcodes::compiled(&app, &who, body.as_bytes()).await?;
    facts.risk = blocks::risk(&app, &who).await.map_err(|error| store_problem(&error))?;
    let now = clock::now();
    let mut authority = who.authority().clone();
    if let Some(roles) = asked.roles {
        authority.roles = roles;
    }
    if asked.mfa {
        authority.mfa = true;
        authority.auth_time = Some(now);
        authority.acr.get_or_insert_with(|| ACR_MFA.to_owned());
    }
    let mut said = Vec::new();
    for action in [Action::SubmitTranscode, Action::ReadSource, Action::PublishOutput] {
        said.push(opinion(&app, &who, &authority, action, &facts).await?);
    }
    let outputs: Vec<_> = facts.outputs.iter().map(output).collect();
    let result = json!({
        "decisions": said,
        "facts": {
            "outputs": outputs,
            "protectedSource": facts.protected_source,
            "sourceBytes": facts.source_bytes,
            "destination": facts.destination,
            "priority": facts.priority,
            "risk": facts.risk,
        },
    });
    Ok(Reply::new(200, result))
}

async fn opinion(
    app: &App,
    who: &Principal,
    authority: &Authority,
    action: Action,
    facts: &Facts,
) -> Result<Value, Problem> {
    let question = Question {
        who: Who { tenant: who.tenant(), actor: who.actor(), authority },
        action,
        owner: who.tenant(),
        facts,
        now: clock::now(),
    };
    let decision = match app.policies.decide(&question).await {
        Err(PolicyError::Evaluation(denial)) => *denial,
        decided => decided.map_err(|e| policy_problem(&e))?,
    };
    let (outcome, step) = match &decision.verdict {
        Verdict::Allow => ("allowed", None),
        Verdict::StepUp(step) => ("step_up", Some(step_up(step))),
        Verdict::Deny => ("denied", None),
    };
    Ok(json!({
        "action": action,
        "outcome": outcome,
        "stepUp": step,
        "policies": decision.policies,
        "allowed": decision.advice,
        "digest": decision.digest,
    }))
}

/// One rendition as policies see it.
pub(crate) fn output(it: &OutputFacts) -> Value {
    json!({
        "format": it.format,
        "videoCodec": it.video_codec,
        "audioCodec": it.audio_codec,
        "height": it.height,
        "videoBitrate": it.video_bitrate,
        "audioBitrate": it.audio_bitrate,
        "videoMaxrate": it.video_maxrate,
        "crf": it.crf,
        "fps": it.fps,
        "durationSecs": it.duration_secs,
        "filters": it.filters,
        "rawArguments": it.raw_arguments,
    })
}
