//! From the claims of a token to a tenant and roles, by rules in a file. Pure but for the reading
//! of that file.
//!
//! Promises: what no rule names is nobody; what rules give to two tenants is nobody, too; a change
//! of the file is seen within [`LOOK_EVERY`], a change of a person's groups at the next token, and
//! neither needs an administrator's step (IAM-16). A file that does not parse keeps the last good
//! one. Refuses: a rule without a test, and unknown keys.

use crate::jwt::Object;
use hotcell_schemas::{TenantId, identity::RoleName};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often the file is looked at, at most.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Largest file, in bytes: some thousand rules.
const FILE_BYTES_MAX: u64 = 1 << 18;

/// Rules at most: each is tried for each token.
const RULES_MAX: usize = 1000;

/// Why a file of rules is not used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// It cannot be read.
    #[error("the file of rules cannot be read")]
    Read(#[source] io::Error),
    /// It is larger than 256 KiB, or has more than 1000 rules.
    #[error("the file of rules is too large")]
    TooLarge,
    /// It is no TOML of this shape.
    #[error("the file of rules is not the TOML of rules")]
    Toml(#[source] toml::de::Error),
    /// It is no JSON of this shape.
    #[error("the file of rules is not the JSON of rules")]
    Json(#[source] serde_json::Error),
    /// A rule says nothing, or two things.
    #[error("rule {number}: {rule}")]
    Rule {
        /// Which, from 1.
        number: usize,
        /// What it must be.
        rule: &'static str,
    },
}

/// Why a token that was verified has no place here. Constant texts, for the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unmapped {
    /// No rule matches it.
    #[error("a verified token that no rule gives a tenant and a role")]
    NoRule,
    /// Rules give it to two tenants.
    #[error("a verified token that rules give to more than one tenant")]
    SeveralTenants,
}

/// The rules of one issuer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Tenants that the rules can name; any when empty. It bounds what `tenant_claim` can say.
    #[serde(default)]
    tenants: BTreeSet<TenantId>,
    /// Clients whose tokens are their own, never a person's, whatever claims they carry.
    #[serde(default)]
    service_clients: BTreeSet<String>,
    #[serde(default)]
    rule: Vec<Rule>,
}

/// One rule: a test, a tenant, roles.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// The claim that is tested; a list walks into objects.
    claim: Option<ClaimPath>,
    /// The claim, a list or `scope`, has this element.
    contains: Option<String>,
    /// The claim is this string.
    equals: Option<String>,
    /// The token is this client's own.
    client: Option<String>,
    tenant: Option<TenantId>,
    /// The claim that names the tenant.
    tenant_claim: Option<ClaimPath>,
    roles: BTreeSet<RoleName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum ClaimPath {
    Name(String),
    Path(Vec<String>),
}

impl ClaimPath {
    fn of<'a>(&self, claims: &'a Object) -> Option<&'a Value> {
        let names = match self {
            Self::Name(name) => std::slice::from_ref(name),
            Self::Path(names) => names.as_slice(),
        };
        let (first, rest) = names.split_first()?;
        rest.iter().try_fold(claims.0.get(first)?, |value, name| value.get(name))
    }

    fn is_scope(&self) -> bool {
        matches!(self, Self::Name(name) if name == "scope")
    }
}

impl Rules {
    /// The rules in `text`, which is TOML.
    ///
    /// # Errors
    /// `Toml`, `TooLarge`, `Rule`.
    pub fn from_toml(text: &str) -> Result<Self, RulesError> {
        toml::from_str::<Self>(text).map_err(RulesError::Toml)?.checked()
    }

    /// The rules in `text`, which is JSON.
    ///
    /// # Errors
    /// `Json`, `TooLarge`, `Rule`.
    pub fn from_json(text: &str) -> Result<Self, RulesError> {
        serde_json::from_str::<Self>(text).map_err(RulesError::Json)?.checked()
    }

    fn checked(self) -> Result<Self, RulesError> {
        if self.rule.len() > RULES_MAX {
            return Err(RulesError::TooLarge);
        }
        for (number, rule) in (1..).zip(&self.rule) {
            rule.check().map_err(|rule| RulesError::Rule { number, rule })?;
        }
        Ok(self)
    }

    /// Whether tokens of `client` are its own, whoever they say is behind them.
    #[must_use]
    pub fn is_service(&self, client: &str) -> bool {
        self.service_clients.contains(client)
    }

    /// The tenant and the roles of a token; `client` when it is a program's own.
    ///
    /// # Errors
    /// [`Unmapped`].
    pub fn map(
        &self,
        claims: &Object,
        client: Option<&str>,
    ) -> Result<(TenantId, BTreeSet<RoleName>), Unmapped> {
        let mut found: Option<(TenantId, BTreeSet<RoleName>)> = None;
        for rule in self.rule.iter().filter(|rule| rule.matches(claims, client)) {
            let Some(tenant) = rule.tenant(claims) else { continue };
            if !self.tenants.is_empty() && !self.tenants.contains(&tenant) {
                continue;
            }
            match &mut found {
                None => found = Some((tenant, rule.roles.clone())),
                Some((known, _)) if *known != tenant => return Err(Unmapped::SeveralTenants),
                Some((_, roles)) => roles.extend(&rule.roles),
            }
        }
        found.ok_or(Unmapped::NoRule)
    }
}

impl Rule {
    fn check(&self) -> Result<(), &'static str> {
        if self.claim.is_some() == self.client.is_some() {
            return Err("must have exactly one of claim and client");
        }
        let tests = usize::from(self.contains.is_some()) + usize::from(self.equals.is_some());
        if tests != usize::from(self.claim.is_some()) {
            return Err("must have exactly one of contains and equals beside claim, and no client");
        }
        if self.tenant.is_some() == self.tenant_claim.is_some() {
            return Err("must have exactly one of tenant and tenant_claim");
        }
        if self.roles.is_empty() {
            return Err("must give at least one role");
        }
        Ok(())
    }

    fn matches(&self, claims: &Object, client: Option<&str>) -> bool {
        if let Some(wanted) = &self.client {
            return client == Some(wanted);
        }
        let Some(path) = &self.claim else { return false };
        let Some(value) = path.of(claims) else { return false };
        if let Some(wanted) = &self.equals {
            return value.as_str() == Some(wanted);
        }
        let Some(wanted) = &self.contains else { return false };
        match value {
            Value::Array(values) => values.iter().any(|it| it.as_str() == Some(wanted)),
            // A list with spaces in between (RFC 8693 §4.2); no other string is a list.
            Value::String(text) if path.is_scope() => text.split(' ').any(|it| it == wanted),
            Value::String(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Object(_) => false,
        }
    }

    fn tenant(&self, claims: &Object) -> Option<TenantId> {
        match &self.tenant_claim {
            Some(path) => path.of(claims)?.as_str()?.parse().ok(),
            None => self.tenant.clone(),
        }
    }
}

/// What tells one version of the file from another without reading it.
type Version = (i64, i64, u64, u64);

/// A file of rules, read again when it changes.
#[derive(Debug)]
pub struct RulesFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Arc<Rules>,
    version: Option<Version>,
    looked: Instant,
}

impl RulesFile {
    /// Reads the file: `.json` is JSON, all else TOML.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn open(path: &Path, now: Instant) -> Result<Self, RulesError> {
        let version = version(path);
        let rules = Arc::new(read(path)?);
        let state = Mutex::new(State { rules, version, looked: now });
        Ok(Self { path: path.to_owned(), state })
    }

    /// The rules of now.
    pub fn rules(&self, now: Instant) -> Arc<Rules> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.looked) >= LOOK_EVERY {
            state.looked = now;
            let version = version(&self.path);
            if version != state.version {
                // Also after a failure: one line for each change.
                state.version = version;
                match read(&self.path) {
                    Ok(rules) => state.rules = Arc::new(rules),
                    Err(error) => {
                        let error = hotcell_stage::service::describe(&error);
                        let path = self.path.display();
                        tracing::error!(%path, %error, "rules of identities stay as they were");
                    }
                }
            }
        }
        Arc::clone(&state.rules)
    }
}

fn version(path: &Path) -> Option<Version> {
    let it = fs::metadata(path).ok()?;
    Some((it.mtime(), it.mtime_nsec(), it.size(), it.ino()))
}

fn read(path: &Path) -> Result<Rules, RulesError> {
    let file = fs::File::open(path).map_err(RulesError::Read)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(RulesError::Read)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(RulesError::TooLarge);
    }
    match path.extension().is_some_and(|it| it == "json") {
        true => Rules::from_json(&text),
        false => Rules::from_toml(&text),
    }
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
