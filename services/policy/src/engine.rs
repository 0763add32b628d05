//! The sets in force, compiled, and the decision.
//!
//! Promises: pure; forbids win over permits; any error of an evaluation is no decision. A step-up is
//! offered only where it would help: all that refuses carries `@step_up`, the set without these
//! permits, and so does the whole set once the challenge is met. So no principal without the right
//! learns that a second factor would matter, and none is challenged in a circle.

use crate::{
    question::{Decision, OutputFacts, Question, StepUp, Verdict},
    request::{Asked, Factor},
    set::{self, Faults, Origin, Parsed, SCHEMA_TEXT},
    store::PolicyError,
};
use cedar_policy::{
    ActionConstraint, Authorizer, Effect, EntityUid, Policy, PolicyId, PolicySet,
    PrincipalConstraint,
};
use hotcell_schemas::{Digest, TenantId, identity::Action};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Arc, LazyLock},
};

/// What each role is for.
pub const ROLES_TEXT: &str = include_str!("../policies/roles.cedar");

/// What nothing else can permit.
pub const PLATFORM_TEXT: &str = include_str!("../policies/platform.cedar");

/// The sensitive operations.
pub const STEP_UP_TEXT: &str = include_str!("../policies/step-up.cedar");

static DEFAULTS: LazyLock<Arc<Engine>> = LazyLock::new(|| {
    Arc::new(Engine::compile(None, None).expect("a test compiles what is compiled in"))
});

/// One policy in force, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its id; `<tenant>/<id>` for a tenant's own.
    pub id: String,
    /// Whether it forbids.
    pub forbids: bool,
    /// What it is about.
    pub about: String,
    /// What would be allowed, where it says so.
    pub allows: Option<String>,
    /// What stronger authentication lifts it, where it may be lifted.
    pub step_up: Option<StepUp>,
    /// The actions in its head; all when empty.
    pub actions: Vec<String>,
    /// Its own text.
    pub text: String,
    /// The role in its head.
    role: Option<String>,
}

/// A compiled set.
#[derive(Debug)]
pub struct Engine {
    whole: PolicySet,
    /// Without the policies that carry `@step_up`.
    plain: PolicySet,
    rules: BTreeMap<String, Rule>,
    digest: Digest,
}

/// What one evaluation said.
struct Answer {
    allowed: bool,
    reasons: Vec<String>,
}

/// What came of one rendition.
struct Part {
    verdict: Verdict,
    reasons: Vec<String>,
}

impl Engine {
    /// What is compiled in, for a tenant without policies of its own.
    #[must_use]
    pub fn defaults() -> Arc<Self> {
        DEFAULTS.clone()
    }

    /// Compiles the set of one tenant: what is compiled in, the operator's text over it, the
    /// tenant's own beside it.
    ///
    /// The operator's text replaces policies of the same id and adds others; `@off("why")` takes one
    /// away. Those of `platform.cedar` stay. A tenant's text adds: its permits cannot defeat a forbid
    /// of the platform, and count only for its own principals on its own resources.
    ///
    /// # Errors
    /// [`Faults`]: a text may not be in force.
    pub fn compile(
        operator: Option<&str>,
        tenant: Option<(&TenantId, &str)>,
    ) -> Result<Self, Faults> {
        let mut layers = layered(operator)?;
        if let Some((tenant, text)) = tenant {
            layers.extend(set::parse(text, Origin::Tenant(tenant))?.0);
        }
        let rules: BTreeMap<_, _> =
            layers.iter().map(|policy| (policy.id().to_string(), Rule::of(policy))).collect();
        let plain = layers.iter().filter(|policy| policy.annotation("step_up").is_none());
        let compiled = |policies: Vec<Policy>| {
            PolicySet::from_policies(policies).map_err(|_| {
                let rule = "an id is given twice".to_owned();
                Faults(vec![set::Fault { line: 1, policy: None, rule }])
            })
        };
        Ok(Self {
            plain: compiled(plain.cloned().collect())?,
            digest: digest(&rules),
            whole: compiled(layers)?,
            rules,
        })
    }

    /// SHA-256 over the schema and every policy in force, by id.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Every policy in force, by id.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values()
    }

    /// The sensitive operations: what asks for stronger authentication.
    pub fn sensitive(&self) -> impl Iterator<Item = &Rule> {
        self.rules().filter(|rule| rule.step_up.is_some())
    }

    /// Decides. Every rendition of a job is decided by itself, and all must be allowed.
    ///
    /// # Errors
    /// `Question`, `NoOutputs`, `Evaluation`: no decision, so a denial.
    pub fn decide(&self, question: &Question<'_>) -> Result<Decision, PolicyError> {
        let asked = Asked::new(question)?;
        let parts = asked
            .outputs()?
            .into_iter()
            .map(|output| self.part(&asked, output))
            .collect::<Result<Vec<_>, _>>()?;
        let worst = |part: &Part| match part.verdict {
            Verdict::Allow => 0,
            Verdict::StepUp(_) => 1,
            Verdict::Deny => 2,
        };
        let level = parts.iter().map(worst).max().unwrap_or(2);
        let decisive = || parts.iter().filter(|part| worst(part) == level);
        let policies: BTreeSet<_> = decisive().flat_map(|part| part.reasons.clone()).collect();
        let verdict = match level {
            0 => Verdict::Allow,
            1 => Verdict::StepUp(joined(decisive().filter_map(|part| match &part.verdict {
                Verdict::StepUp(step) => Some(step),
                Verdict::Allow | Verdict::Deny => None,
            }))),
            _ => Verdict::Deny,
        };
        let advice = match verdict {
            Verdict::Allow => Vec::new(),
            Verdict::StepUp(_) | Verdict::Deny if policies.is_empty() => {
                vec![self.permitted(question.action)]
            }
            Verdict::StepUp(_) | Verdict::Deny => {
                policies.iter().filter_map(|id| Some(self.rules.get(id)?.advice())).collect()
            }
        };
        let policies = policies.into_iter().collect();
        Ok(Decision { verdict, policies, advice, digest: self.digest })
    }

    fn part(&self, asked: &Asked<'_>, output: Option<&OutputFacts>) -> Result<Part, PolicyError> {
        let first = self.evaluate(&self.whole, asked, output, Factor::Shown)?;
        if first.allowed {
            return Ok(Part { verdict: Verdict::Allow, reasons: first.reasons });
        }
        // What refuses when no second factor is asked for: all that a plain denial may name.
        let plain = self.evaluate(&self.plain, asked, output, Factor::Shown)?;
        let steps: Vec<&StepUp> =
            first.reasons.iter().filter_map(|id| self.rules.get(id)?.step_up.as_ref()).collect();
        let liftable = !steps.is_empty() && steps.len() == first.reasons.len();
        if plain.allowed && liftable {
            // Where nothing that it can show lifts the refusal, it is one.
            let step = self.opening(asked, output, joined(steps.into_iter()))?;
            let verdict = step.map_or(Verdict::Deny, Verdict::StepUp);
            return Ok(Part { verdict, reasons: first.reasons });
        }
        Ok(Part { verdict: Verdict::Deny, reasons: plain.reasons })
    }

    /// The challenge, if meeting it opens what is asked; of a person with the classes that do.
    fn opening(
        &self,
        asked: &Asked<'_>,
        output: Option<&OutputFacts>,
        step: StepUp,
    ) -> Result<Option<StepUp>, PolicyError> {
        let opens = |acr: &str| -> Result<bool, PolicyError> {
            let factor = Factor::Fresh { max_age: step.max_age_secs, acr };
            Ok(self.evaluate(&self.whole, asked, output, factor)?.allowed)
        };
        let mut open = Vec::new();
        for acr in asked.acrs(&step.acr_values) {
            if opens(acr)? {
                open.push(acr.to_owned());
            }
        }
        if open.is_empty() {
            // Another policy may want the class that is shown already, and it can be shown again.
            match asked.shown_acr() {
                Some(acr) if opens(acr)? => open.push(acr.to_owned()),
                Some(_) | None => return Ok(None),
            }
        }
        let acr_values = if asked.is_person() { open } else { step.acr_values };
        Ok(Some(StepUp { acr_values, ..step }))
    }

    fn evaluate(
        &self,
        set: &PolicySet,
        asked: &Asked<'_>,
        output: Option<&OutputFacts>,
        factor: Factor<'_>,
    ) -> Result<Answer, PolicyError> {
        let request = asked.request(output, factor)?;
        let response = Authorizer::new().is_authorized(&request, set, &asked.entities);
        // Cedar leaves a policy out that cannot be evaluated. A forbid that is left out protects
        // nothing, so nothing is decided.
        let failed = response.diagnostics().errors().map(|error| {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            error.policy_id().to_string()
        });
        if let Some(policy) = failed.min() {
            return Err(PolicyError::Evaluation(Box::new(self.failed(policy))));
        }
        let mut reasons: Vec<_> =
            response.diagnostics().reason().map(PolicyId::to_string).collect();
        reasons.sort();
        let allowed = response.decision() == cedar_policy::Decision::Allow;
        Ok(Answer { allowed, reasons })
    }

    /// The denial that comes of a policy which cannot be evaluated.
    fn failed(&self, policy: String) -> Decision {
        let allows = self.rules.get(&policy).and_then(|rule| rule.allows.as_ref());
        let allows = allows.map_or_else(String::new, |what| format!("; allowed is {what}"));
        let advice = vec![format!("{policy}: cannot be evaluated on this request{allows}")];
        Decision { verdict: Verdict::Deny, policies: vec![policy], advice, digest: self.digest }
    }

    /// Who may do it: said where no policy permits.
    fn permitted(&self, action: Action) -> String {
        let name = action.as_str();
        let permits = |rule: &&Rule| {
            !rule.forbids && (rule.actions.is_empty() || rule.actions.iter().any(|a| a == name))
        };
        let who: BTreeSet<String> = self
            .rules()
            .filter(permits)
            .map(|rule| {
                let role = rule
                    .role
                    .as_ref()
                    .map_or_else(|| rule.id.clone(), |role| format!("the role {role}"));
                rule.allows.as_ref().map_or_else(|| role.clone(), |what| format!("{role} ({what})"))
            })
            .collect();
        if who.is_empty() {
            return format!("{name} is permitted to nobody");
        }
        let who: Vec<_> = who.into_iter().collect();
        format!("{name} is permitted to {}", who.join(", "))
    }
}

impl Rule {
    fn of(policy: &Policy) -> Self {
        let text = |name: &str| policy.annotation(name).map(str::to_owned);
        let step_up = policy.annotation("step_up").map(|_| StepUp {
            acr_values: policy
                .annotation("acr_values")
                .unwrap_or_default()
                .split(' ')
                .map(str::to_owned)
                .collect(),
            max_age_secs: policy.annotation("max_age").and_then(set::max_age).unwrap_or(0),
        });
        let action = |uid: &EntityUid| uid.id().unescaped().to_owned();
        // What a forbid allows is what it is not about.
        let forbids = policy.effect() == Effect::Forbid;
        let instead = |allows| if forbids { format!("all but {allows}") } else { allows };
        Self {
            id: policy.id().to_string(),
            forbids,
            about: text("about").or_else(|| text("allows").map(instead)).unwrap_or_default(),
            allows: text("allows"),
            step_up,
            actions: match policy.action_constraint() {
                ActionConstraint::Any => Vec::new(),
                ActionConstraint::In(uids) => uids.iter().map(action).collect(),
                ActionConstraint::Eq(uid) => vec![action(&uid)],
            },
            text: policy.to_string(),
            role: match policy.principal_constraint() {
                PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
                    Some(uid.id().unescaped().to_owned())
                }
                PrincipalConstraint::Any
                | PrincipalConstraint::Eq(_)
                | PrincipalConstraint::Is(_) => None,
            },
        }
    }

    fn advice(&self) -> String {
        let mut advice = format!("{}: ", self.id);
        let step = self.step_up.as_ref().map(|step| {
            format!("{}: needs a second factor of the last {} s", self.about, step.max_age_secs)
        });
        let says = match (&self.allows, step) {
            (Some(allows), None) => format!("allowed is {allows}"),
            (Some(allows), Some(step)) => format!("{step}; otherwise allowed is {allows}"),
            (None, Some(step)) => step,
            (None, None) => format!("forbids {}", self.about),
        };
        advice.push_str(&says);
        advice
    }
}

/// What is compiled in, under the operator's text.
fn layered(operator: Option<&str>) -> Result<Vec<Policy>, Faults> {
    let Parsed(guard) = set::parse(PLATFORM_TEXT, Origin::BuiltIn)?;
    let mut rest = set::parse(ROLES_TEXT, Origin::BuiltIn)?.0;
    rest.extend(set::parse(STEP_UP_TEXT, Origin::BuiltIn)?.0);
    if let Some(text) = operator {
        let Parsed(theirs) = set::parse(text, Origin::Operator)?;
        for policy in &theirs {
            if guard.iter().any(|held| held.id() == policy.id()) {
                let rule = "no policy replaces this one".to_owned();
                let (line, policy) = (set::line_of_id(text, policy), policy.id().to_string());
                return Err(Faults(vec![set::Fault { line, policy: Some(policy), rule }]));
            }
            rest.retain(|held| held.id() != policy.id());
        }
        rest.extend(theirs.into_iter().filter(|policy| policy.annotation("off").is_none()));
    }
    Ok(guard.into_iter().chain(rest).collect())
}

fn digest(rules: &BTreeMap<String, Rule>) -> Digest {
    let mut text = format!("hotcell-policy-v1\n{}\n{SCHEMA_TEXT}", SCHEMA_TEXT.len());
    for (id, rule) in rules {
        // Writing to a string does not fail. With lengths, no text looks like two.
        let _never = write!(text, "\n{id} {}\n{}", rule.text.len(), rule.text);
    }
    Digest::of(text.as_bytes())
}

fn joined<'a>(steps: impl Iterator<Item = &'a StepUp>) -> StepUp {
    let mut all = StepUp { acr_values: Vec::new(), max_age_secs: u64::MAX };
    for step in steps {
        all.max_age_secs = all.max_age_secs.min(step.max_age_secs);
        for value in &step.acr_values {
            if !all.acr_values.contains(value) {
                all.acr_values.push(value.clone());
            }
        }
    }
    all
}

/// The actions that have a name in the schema; a test holds them against [`Action::ALL`].
#[must_use]
pub fn schema_actions() -> BTreeSet<String> {
    set::SCHEMA.actions().map(|uid| uid.id().unescaped().to_owned()).collect()
}
