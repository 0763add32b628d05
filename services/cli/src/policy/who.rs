//! Whether policy lets a request through, for `hotcell policy explain --as`.
//!
//! Promises: the engine, the sets and the questions are those of the nodes: what intake and the
//! validator ask of a job, then what the signer asks before it gives out URLs. Refuses to guess what
//! a set in a broker says: other sets than the compiled-in ones are given as files.

use super::{check, read_text};
use crate::{fail::Fail, print};
use hotcell_policy::{Decision, Engine, Facts, PolicyError, Question, Verdict, Who};
use hotcell_schemas::{
    DestinationName, Digest, Plan, TenantId,
    destination::{self, STORE},
    identity::{ACR_MFA, Action, Authority, RoleName},
    job::Actor,
    plan::Sniffed,
};
use hotcell_stage::clock;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What is asked of a job, in order.
const ACTIONS: [Action; 3] = [Action::SubmitTranscode, Action::ReadSource, Action::PublishOutput];

#[derive(Debug, clap::Args)]
pub(crate) struct WhoArgs {
    /// Also say what policy says to a principal with these roles.
    #[arg(long = "as", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<RoleName>,
    /// It has just shown a second factor.
    #[arg(long, requires = "roles")]
    mfa: bool,
    /// Somebody has raised its risk to this: 1 to 3.
    #[arg(long, requires = "roles", default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=3))]
    risk: u8,
    /// Where the destination leads that the request names: https://host/bucket/prefix.
    #[arg(long, value_name = "URL", requires = "roles")]
    destination_url: Option<String>,
    /// Its tenant's own policies.
    #[arg(long, value_name = "FILE", requires = "roles")]
    tenant_policies: Option<PathBuf>,
    /// The operator's policies, over those that are compiled in.
    #[arg(long, value_name = "FILE", requires = "roles")]
    platform_policies: Option<PathBuf>,
}

/// What policy says.
#[derive(Debug)]
pub(super) struct Said {
    digest: Digest,
    destination: String,
    decisions: Vec<(Action, Decision)>,
}

impl WhoArgs {
    /// The sets and what they say of `plan`, whose request names `destination`; none without a role.
    pub(super) fn ask(
        &self,
        plan: &Plan,
        sniffed: &Sniffed,
        destination: Option<&DestinationName>,
    ) -> Result<Option<Said>, Fail> {
        if self.roles.is_empty() {
            return Ok(None);
        }
        let destination = self.location(destination)?;
        let tenant = check::nobody();
        let engine = self.engine(&tenant)?;
        let now = clock::now();
        let authority = Authority {
            roles: self.roles.iter().copied().collect(),
            mfa: self.mfa,
            auth_time: self.mfa.then_some(now),
            acr: self.mfa.then(|| ACR_MFA.to_owned()),
            ..Authority::default()
        };
        let actor =
            Actor::User { issuer: "https://localhost".to_owned(), subject: "you".to_owned() };
        let facts = Facts { risk: self.risk, ..Facts::of_plan(plan, Some(sniffed), destination) };
        let decide = |action| {
            let question = Question {
                who: Who { tenant: &tenant, actor: &actor, authority: &authority },
                action,
                owner: &tenant,
                facts: &facts,
                now,
            };
            match engine.decide(&question) {
                Ok(decision) => Ok((action, decision)),
                // What the nodes make of it.
                Err(PolicyError::Evaluation(denial)) => Ok((action, *denial)),
                Err(error) => Err(Fail::failed(format!("refused: {action}: {error}"))),
            }
        };
        let decisions = ACTIONS.into_iter().map(decide).collect::<Result<_, _>>()?;
        Ok(Some(Said { digest: engine.digest(), destination: facts.destination, decisions }))
    }

    /// Where the outputs go, as policy is told. Where a name leads only an installation knows: it is
    /// never taken for the store.
    fn location(&self, named: Option<&DestinationName>) -> Result<&str, Fail> {
        match (named, self.destination_url.as_deref()) {
            (None, None) => Ok(STORE),
            (Some(_), Some(url)) => match destination::check_location(url) {
                Ok(()) => Ok(url),
                Err(error) => Err(Fail::usage(format!("--destination-url: its {error}"))),
            },
            (Some(name), None) => Err(Fail::usage(format!(
                "the request names the destination {name}: say with --destination-url where it \
                 leads (GET /v1/destinations shows it), or ask POST /v1/policy/explain, which knows"
            ))),
            (None, Some(_)) => Err(Fail::usage(
                "--destination-url: the request names no destination, so its outputs go to the store",
            )),
        }
    }

    fn engine(&self, tenant: &TenantId) -> Result<Engine, Fail> {
        let platform = self.platform_policies.as_deref().map(read_text).transpose()?;
        let own = self.tenant_policies.as_deref().map(read_text).transpose()?;
        for (file, text, whose) in [
            (&self.platform_policies, &platform, None),
            (&self.tenant_policies, &own, Some(tenant)),
        ] {
            if let (Some(file), Some(text)) = (file, text) {
                hotcell_policy::check(text, whose)
                    .map_err(|faults| check::refused(file, &faults, false))?;
            }
        }
        let own = own.as_deref().map(|own| (tenant, own));
        Engine::compile(platform.as_deref(), own)
            .map_err(|faults| Fail::failed(format!("the policies are not valid: {faults}")))
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::StepUp(_) => "step-up",
        Verdict::Deny => "refused",
    }
}

impl Said {
    /// Printed for people.
    pub(super) fn print(&self) {
        let hash: String = self.digest.to_string().chars().take(12).collect();
        print::line(format!("\nPolicy (set {hash}), outputs to {}", self.destination));
        let mut rows = vec![["ACTION", "", "BY", "ADVICE"].map(str::to_owned).to_vec()];
        rows.extend(self.decisions.iter().map(|(action, decision)| {
            let by = decision.policies.join(", ");
            let by = if by.is_empty() { "no policy permits it".to_owned() } else { by };
            let advice = decision.advice.join("; ");
            vec![action.to_string(), word(&decision.verdict).to_owned(), by, advice]
        }));
        let table = print::table(&rows);
        print::line(table.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"));
    }

    /// For machines.
    pub(super) fn json(&self) -> Value {
        let decisions = self.decisions.iter().map(|(action, decision)| {
            json!({
                "action": action,
                "outcome": word(&decision.verdict),
                "policies": decision.policies,
                "advice": decision.advice,
            })
        });
        json!({
            "digest": self.digest,
            "destination": self.destination,
            "decisions": decisions.collect::<Vec<_>>(),
        })
    }

    /// The first refusal.
    pub(super) fn verdict(&self) -> Result<(), Fail> {
        let refused =
            self.decisions.iter().find(|(_, decision)| decision.verdict != Verdict::Allow);
        let Some((action, decision)) = refused else { return Ok(()) };
        let advice = decision.advice.join("; ");
        Err(Fail::failed(format!("{action} is refused by policy: {advice}")))
    }
}
