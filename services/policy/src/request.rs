//! From a question to the entities and the request that policies see.
//!
//! Promises: the principal and both tenants are always there, because a forbid that misses an
//! entity would be skipped; the request is checked against the schema. Refuses an action on a job
//! without renditions: a ceiling on what is not there refuses nothing.

use crate::{
    question::{Facts, OutputFacts, Question, Who},
    set::SCHEMA,
    store::PolicyError,
};
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
};
use hotcell_schemas::{
    TenantId, UnixMs,
    identity::{ACR_MFA, Action},
    job::Actor,
};
use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// Age of an authentication that nobody states: ten years. Not the largest number, so that a
/// policy that adds to it does not overflow.
const AGE_UNKNOWN_SECS: i64 = 315_360_000;

/// How far an issuer's clock may be ahead, in milliseconds: the skew that tokens are allowed.
const SKEW_MS_MAX: u64 = 30_000;

/// Type names, parsed once.
struct Names {
    role: EntityTypeName,
    tenant: EntityTypeName,
    user: EntityTypeName,
    service: EntityTypeName,
    key: EntityTypeName,
    login: EntityTypeName,
    action: EntityTypeName,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let name = |text: &str| {
        format!("Hotcell::{text}").parse().expect("a constant that is a name of the schema")
    };
    Names {
        role: name("Role"),
        tenant: name("Tenant"),
        user: name("User"),
        service: name("Service"),
        key: name("ApiKey"),
        login: name("Login"),
        action: name("Action"),
    }
});

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn action_uid(action: Action) -> EntityUid {
    uid(&NAMES.action, action.as_str())
}

fn tenant_uid(tenant: &TenantId) -> EntityUid {
    uid(&NAMES.tenant, tenant.as_str())
}

/// The id of an actor in policies.
fn principal(who: &Who<'_>) -> (EntityUid, Vec<(&'static str, String)>) {
    match who.actor {
        Actor::User { issuer, subject } => (
            // An issuer has no fragment (OpenID Connect Discovery §2), so no two people share an id.
            uid(&NAMES.user, &format!("{issuer}#{subject}")),
            vec![("issuer", issuer.clone()), ("subject", subject.clone())],
        ),
        Actor::Service { issuer, client } => (
            uid(&NAMES.service, &format!("{issuer}#{client}")),
            vec![("issuer", issuer.clone()), ("client", client.clone())],
        ),
        Actor::ApiKey { id } => (uid(&NAMES.key, id.as_str()), Vec::new()),
        Actor::NatsLogin { user, name } => (uid(&NAMES.login, user), vec![("name", name.clone())]),
    }
}

/// Everything that one evaluation needs beside the context.
pub(crate) struct Asked<'a> {
    question: &'a Question<'a>,
    principal: EntityUid,
    resource: EntityUid,
    action: EntityUid,
    pub(crate) entities: Entities,
}

/// Classes of a challenge that are tried one by one: each is one evaluation.
const ACRS_MAX: usize = 8;

/// How the second factor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Factor<'a> {
    /// As it is.
    Shown,
    /// As it would be after a challenge.
    Fresh {
        /// In seconds, as asked for.
        max_age: u64,
        /// The authentication context class.
        acr: &'a str,
    },
}

fn malformed(_error: impl std::error::Error) -> PolicyError {
    PolicyError::Question
}

impl<'a> Asked<'a> {
    pub(crate) fn new(question: &'a Question<'a>) -> Result<Self, PolicyError> {
        let who = &question.who;
        let (id, texts) = principal(who);
        let roles: HashSet<_> =
            who.authority.roles.iter().map(|role| uid(&NAMES.role, role.as_str())).collect();
        let mut attributes: HashMap<_, _> = texts
            .into_iter()
            .map(|(name, text)| (name.to_owned(), RestrictedExpression::new_string(text)))
            .collect();
        let (own, owner) = (tenant_uid(who.tenant), tenant_uid(question.owner));
        attributes.insert("tenant".to_owned(), RestrictedExpression::new_entity_uid(own.clone()));
        let mut entities = vec![
            Entity::new(id.clone(), attributes, roles).map_err(malformed)?,
            Entity::new_no_attrs(own.clone(), HashSet::new()),
        ];
        if own != owner {
            entities.push(Entity::new_no_attrs(owner.clone(), HashSet::new()));
        }
        let roles = who.authority.roles.iter();
        entities.extend(
            roles.map(|role| Entity::new_no_attrs(uid(&NAMES.role, role.as_str()), HashSet::new())),
        );
        Ok(Self {
            question,
            principal: id,
            resource: owner,
            action: action_uid(question.action),
            // Not held against the schema each time, as the request is: a test does so for each kind.
            entities: Entities::from_entities(entities, None).map_err(malformed)?,
        })
    }

    /// The renditions that are decided one by one; `None` stands for an action that has none.
    pub(crate) fn outputs(&self) -> Result<Vec<Option<&'a OutputFacts>>, PolicyError> {
        let (action, outputs) = (self.question.action, &self.question.facts.outputs);
        if !matches!(action, Action::SubmitTranscode | Action::PublishOutput) {
            return Ok(vec![None]);
        }
        if outputs.is_empty() {
            return Err(PolicyError::NoOutputs);
        }
        Ok(outputs.iter().map(Some).collect())
    }

    pub(crate) fn request(
        &self,
        output: Option<&OutputFacts>,
        factor: Factor<'_>,
    ) -> Result<Request, PolicyError> {
        let mut pairs = self.context(factor);
        pairs.extend(output.map(|output| ("output", of_output(output))));
        let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
        let context = Context::from_pairs(pairs).map_err(malformed)?;
        let (principal, resource) = (self.principal.clone(), self.resource.clone());
        Request::new(principal, self.action.clone(), resource, context, Some(&SCHEMA))
            .map_err(malformed)
    }

    /// The classes that could be shown after a challenge for `values`: of a person whichever its
    /// issuer grants, of everybody else that of our own tokens.
    pub(crate) fn acrs<'v>(&self, values: &'v [String]) -> impl Iterator<Item = &'v str> {
        let (tried, own) = if self.is_person() { (ACRS_MAX, None) } else { (0, Some(ACR_MFA)) };
        values.iter().map(String::as_str).take(tried).chain(own)
    }

    /// The class in which a second factor was shown, however long ago.
    pub(crate) fn shown_acr(&self) -> Option<&'a str> {
        let authority = self.question.who.authority;
        authority.acr.as_deref().filter(|_| authority.mfa)
    }

    /// Whether an issuer says how strongly the principal authenticated.
    pub(crate) fn is_person(&self) -> bool {
        matches!(self.question.who.actor, Actor::User { .. })
    }

    fn context(&self, factor: Factor<'_>) -> Vec<(&'static str, RestrictedExpression)> {
        use RestrictedExpression as Value;
        let Question { who, facts, now, .. } = self.question;
        let authority = who.authority;
        let text = |text: &str| Value::new_string(text.to_owned());
        let (mfa, age, acr) = match factor {
            Factor::Shown => {
                let acr = authority.acr.as_deref().unwrap_or_default();
                (authority.mfa, age(authority.auth_time, *now), acr)
            }
            Factor::Fresh { max_age, acr } => {
                (true, i64::try_from(max_age).unwrap_or(i64::MAX), acr)
            }
        };
        let minutes = now.secs() / 60;
        // 1 January 1970 was a Thursday.
        let weekday = (minutes / 1440 + 3) % 7 + 1;
        let count = |count: u64| Value::new_long(i64::try_from(count).unwrap_or(i64::MAX));
        let mut pairs = vec![
            ("mfa", Value::new_bool(mfa)),
            ("auth_age_s", Value::new_long(age)),
            ("acr", text(acr)),
            ("bound", Value::new_bool(authority.bound)),
            ("approved", Value::new_bool(facts.approved)),
            ("risk", Value::new_long(i64::from(facts.risk))),
            ("hour", count(minutes / 60 % 24)),
            ("minute", count(minutes % 60)),
            ("weekday", count(weekday)),
            ("destination", text(&facts.destination)),
            ("priority", text(facts.priority.as_str())),
            ("granted_roles", granted(facts)),
            ("source", of_source(facts)),
        ];
        if let Some(network) = authority.network {
            pairs.push(("network", Value::new_ip(network.to_canonical().to_string())));
        }
        pairs
    }
}

/// Seconds since a person authenticated. A time that is not known, or that is ahead of the clock by
/// more than the skew, says nothing.
fn age(auth_time: Option<UnixMs>, now: UnixMs) -> i64 {
    match auth_time {
        Some(at) if at <= now.plus_ms(SKEW_MS_MAX) => {
            i64::try_from(now.since_ms(at) / 1000).unwrap_or(i64::MAX).min(AGE_UNKNOWN_SECS)
        }
        Some(_) | None => AGE_UNKNOWN_SECS,
    }
}

fn granted(facts: &Facts) -> RestrictedExpression {
    let names = facts.granted_roles.iter().map(|role| role.as_str().to_owned());
    RestrictedExpression::new_set(names.map(RestrictedExpression::new_string))
}

fn record<const N: usize>(fields: [(&str, RestrictedExpression); N]) -> RestrictedExpression {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(fields).expect("no name is given twice")
}

fn of_source(facts: &Facts) -> RestrictedExpression {
    record([
        ("protected", RestrictedExpression::new_bool(facts.protected_source)),
        ("bytes", RestrictedExpression::new_long(facts.source_bytes)),
    ])
}

fn of_output(output: &OutputFacts) -> RestrictedExpression {
    use RestrictedExpression as Value;
    let filters = output.filters.iter().cloned().map(Value::new_string);
    record([
        ("format", Value::new_string(output.format.clone())),
        ("video_codec", Value::new_string(output.video_codec.clone())),
        ("audio_codec", Value::new_string(output.audio_codec.clone())),
        ("height", Value::new_long(output.height)),
        ("video_bitrate", Value::new_long(output.video_bitrate)),
        ("audio_bitrate", Value::new_long(output.audio_bitrate)),
        ("video_maxrate", Value::new_long(output.video_maxrate)),
        ("crf", Value::new_long(output.crf)),
        ("fps", Value::new_long(output.fps)),
        ("duration_s", Value::new_long(output.duration_secs)),
        ("filters", Value::new_set(filters)),
        ("raw_arguments", Value::new_bool(output.raw_arguments)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::{
        KeyId,
        identity::{Authority, RoleName},
    };

    #[test]
    fn the_entities_of_every_kind_of_principal_are_as_the_schema_says() {
        let (issuer, text) = ("https://id.example".to_owned(), "a \" b".to_owned());
        let actors = [
            Actor::User { issuer: issuer.clone(), subject: text.clone() },
            Actor::Service { issuer, client: text.clone() },
            Actor::ApiKey { id: KeyId::new(1, [7; 10]) },
            Actor::NatsLogin { user: "UABC".to_owned(), name: text },
        ];
        let authority = Authority { roles: RoleName::ALL.into(), ..Authority::default() };
        let tenants: [TenantId; 2] = ["acme", "umbrella"].map(|name| name.parse().unwrap());
        for actor in &actors {
            for owner in &tenants {
                let who = Who { tenant: &tenants[0], actor, authority: &authority };
                let (action, facts, now) = (Action::ReadJob, &Facts::default(), UnixMs(0));
                let question = Question { who, action, owner, facts, now };
                let asked = Asked::new(&question).unwrap();
                // Principal, both tenants, every role.
                let count = if owner == &tenants[0] { 9 } else { 10 };
                assert_eq!(asked.entities.len(), count);
                let entities = asked.entities.iter().cloned();
                Entities::from_entities(entities, Some(&SCHEMA)).unwrap();
                asked.request(None, Factor::Shown).unwrap();
            }
        }
    }
}
