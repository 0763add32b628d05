//! From text to policies that may be in force: parsed, named by their `@id`, linted, validated
//! strictly against the schema.
//!
//! Promises: each fault says its line and its rule. Refuses templates, names that are missing,
//! doubled or ill-formed, annotations that nobody reads, forbids that say neither what they allow
//! nor what they are about, and a step-up that no header could carry.

pub use crate::scan::TOKENS_MAX;
use crate::{POLICIES_MAX, scan, words};
use cedar_policy::{
    Effect, Policy, PolicyId, PolicySet, Schema, ValidationError, ValidationMode, Validator,
    ffi::DetailedError,
};
use hotcell_schemas::TenantId;
use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    sync::LazyLock,
};

/// The schema's text.
pub const SCHEMA_TEXT: &str = include_str!("../policies/schema.cedarschema");

/// Text of one set, in bytes: it travels in one HTTP body and one record with room to spare.
pub const TEXT_BYTES_MAX: usize = 49_152;

/// Stack of the thread that parses and validates.
const STACK_BYTES: usize = 16 << 20;

/// Faults that are reported at once.
const FAULTS_MAX: usize = 20;

/// Characters of an id.
const ID_CHARS_MAX: usize = 64;

/// Characters of an `@about` or `@allows`: they go into answers and headers' neighbours.
const PROSE_CHARS_MAX: usize = 200;

/// Seconds that a step-up may last: a day.
const MAX_AGE_SECS_MAX: u64 = 86_400;

/// The schema, compiled.
pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let (schema, _warnings) =
        Schema::from_cedarschema_str(SCHEMA_TEXT).expect("a test compiles the schema");
    schema
});

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| Validator::new(SCHEMA.clone()));

/// Whose text it is: what it may say differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// Compiled in.
    BuiltIn,
    /// The operator's, over what is compiled in: `@off("why")` takes a policy away.
    Operator,
    /// A tenant's; its ids become `<tenant>/<id>`, so that none is the platform's.
    Tenant(&'a TenantId),
}

/// One thing that is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its line, from 1.
    pub line: usize,
    /// The policy, where it has a name.
    pub policy: Option<String>,
    /// The rule that it breaks.
    pub rule: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.policy {
            Some(policy) => write!(f, "policy {policy}: {}", self.rule),
            None => f.write_str(&self.rule),
        }
    }
}

/// Everything that is wrong with a text; at most 20 of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// The check itself did not end.
    pub(crate) fn unchecked() -> Self {
        Self(vec![Fault { line: 1, policy: None, rule: "cannot be checked".to_owned() }])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            write!(f, "{between}{fault}")?;
        }
        Ok(())
    }
}

/// The policies of a text, in its order.
#[derive(Debug, Clone)]
pub(crate) struct Parsed(pub(crate) Vec<Policy>);

/// Reads a text.
///
/// # Errors
/// [`Faults`]: it may not be in force.
pub(crate) fn parse(text: &str, origin: Origin<'_>) -> Result<Parsed, Faults> {
    // Parser and validator recurse. With what `scan` lets through they need less than a tenth of
    // this stack in a debug build, and more than a thread of the runtime has to spare.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let parsed = thread.spawn_scoped(scope, || parse_here(text, origin)).ok()?.join();
        parsed.ok()
    })
    .unwrap_or_else(|| Err(Faults::unchecked()))
}

fn parse_here(text: &str, origin: Origin<'_>) -> Result<Parsed, Faults> {
    let whole =
        |line, rule: &str| Err(Faults(vec![Fault { line, policy: None, rule: rule.to_owned() }]));
    if text.len() > TEXT_BYTES_MAX {
        return whole(1, &format!("the text must be at most {TEXT_BYTES_MAX} bytes"));
    }
    let lines = match scan::starts(text) {
        Ok(lines) => lines,
        Err((line, rule)) => return whole(line, &rule.to_string()),
    };
    let set: PolicySet = match text.parse() {
        Ok(set) => set,
        Err(errors) => return Err(faults_of_parser(text, &errors)),
    };
    if set.num_of_templates() > 0 {
        return whole(1, "templates are not used: no ?principal and no ?resource");
    }
    if matches!(origin, Origin::Tenant(_)) && set.num_of_policies() > POLICIES_MAX {
        return whole(1, &format!("at most {POLICIES_MAX} policies"));
    }
    let mut policies: Vec<Policy> = set.policies().cloned().collect();
    // The parser names them policy0, policy1, ... in their order.
    policies.sort_by_key(|policy| {
        policy.id().to_string().trim_start_matches("policy").parse::<usize>().unwrap_or(usize::MAX)
    });
    let mut lint = Lint { text, origin, seen: BTreeSet::new(), faults: Vec::new() };
    let named: Vec<Policy> = policies
        .iter()
        .zip(&lines)
        .filter_map(|(policy, line)| lint.policy(policy, *line))
        .collect();
    lint.validate(&named, &lines);
    lint.faults.sort_by_key(|fault| fault.line);
    lint.faults.truncate(FAULTS_MAX);
    if lint.faults.is_empty() { Ok(Parsed(named)) } else { Err(Faults(lint.faults)) }
}

/// The line of a policy's `@id`.
pub(crate) fn line_of_id(text: &str, policy: &Policy) -> usize {
    let id = policy.annotation("id").unwrap_or_default();
    line_of(text, text.find(&format!("@id(\"{id}\")")).unwrap_or(0))
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

fn faults_of_parser(text: &str, errors: &cedar_policy::ParseErrors) -> Faults {
    let of = |error: &cedar_policy::ParseError| {
        let detail = DetailedError::from(error);
        let at = detail.source_locations.first().map_or(0, |label| label.loc.start);
        Fault { line: line_of(text, at), policy: None, rule: sentence(&detail) }
    };
    Faults(errors.iter().take(FAULTS_MAX).map(of).collect())
}

fn sentence(detail: &DetailedError) -> String {
    let mut rule = detail.message.clone();
    if let Some(help) = &detail.help {
        // Writing to a string does not fail.
        let _never = write!(rule, " ({help})");
    }
    rule.chars().map(|char| if char.is_control() { ' ' } else { char }).take(400).collect()
}

struct Lint<'a> {
    text: &'a str,
    origin: Origin<'a>,
    seen: BTreeSet<String>,
    faults: Vec<Fault>,
}

impl Lint<'_> {
    fn fault(&mut self, line: usize, policy: Option<&str>, rule: impl Into<String>) {
        let policy = policy.map(str::to_owned);
        self.faults.push(Fault { line, policy, rule: rule.into() });
    }

    /// The policy under its own name.
    fn policy(&mut self, policy: &Policy, line: usize) -> Option<Policy> {
        let Some(id) = policy.annotation("id").filter(|id| is_id(id)) else {
            let rule = "needs @id(\"...\"): small letters, digits and hyphens, at most 64";
            self.fault(line, None, rule);
            return None;
        };
        if !self.seen.insert(id.to_owned()) {
            self.fault(line, Some(id), "its @id is given twice");
            return None;
        }
        self.annotations(policy, id, line);
        match policy.to_json() {
            Ok(json) => {
                if let Some(rule) = words::never(&json) {
                    self.fault(line, Some(id), rule);
                }
            }
            Err(_) => self.fault(line, Some(id), "has no form in JSON"),
        }
        let name = match self.origin {
            Origin::Tenant(tenant) => format!("{tenant}/{id}"),
            Origin::BuiltIn | Origin::Operator => id.to_owned(),
        };
        Some(policy.new_id(PolicyId::new(name)))
    }

    fn annotations(&mut self, policy: &Policy, id: &str, line: usize) {
        let forbids = policy.effect() == Effect::Forbid;
        let step_up = policy.annotation("step_up").is_some();
        for (name, value) in policy.annotations() {
            let good = match name {
                "id" => true,
                "about" | "allows" => {
                    let length = value.chars().count();
                    (1..=PROSE_CHARS_MAX).contains(&length) && !value.chars().any(char::is_control)
                }
                "step_up" => forbids && value == "mfa",
                "acr_values" => step_up && is_acr_values(value),
                "max_age" => step_up && max_age(value).is_some(),
                "off" => self.origin == Origin::Operator && !value.is_empty(),
                _ => false,
            };
            if !good {
                let rule = format!("@{name} must be {}", expected(name));
                self.fault(line, Some(id), rule);
            }
        }
        if step_up {
            for name in ["acr_values", "max_age"] {
                if policy.annotation(name).is_none() {
                    let rule = format!("@step_up needs @{name}: {}", expected(name));
                    self.fault(line, Some(id), rule);
                }
            }
        }
        let says = ["about", "allows"].iter().any(|name| policy.annotation(name).is_some());
        if forbids && !says {
            let rule = "a forbid needs @allows(\"what is allowed instead\") or @about(\"...\")";
            self.fault(line, Some(id), rule);
        }
    }

    fn validate(&mut self, named: &[Policy], lines: &[usize]) {
        let Ok(set) = PolicySet::from_policies(named.iter().cloned()) else {
            self.fault(1, None, "an id is given twice");
            return;
        };
        let text = self.text;
        let result = VALIDATOR.validate(&set, ValidationMode::Strict);
        let mut found = Vec::new();
        let mut keep = |id: &PolicyId, detail: &DetailedError| {
            let start = named.iter().zip(lines).find(|(policy, _)| policy.id() == id);
            let at = detail.source_locations.first().map(|label| line_of(text, label.loc.start));
            let line = at.or(start.map(|(_, line)| *line)).unwrap_or(1);
            let id = start.and_then(|(policy, _)| policy.annotation("id")).map(str::to_owned);
            let prefix = format!("for policy `{}`, ", named_as(start));
            let rule = sentence(detail).replacen(&prefix, "", 1);
            found.push(Fault { line, policy: id, rule });
        };
        for error in result.validation_errors() {
            keep(error.policy_id(), &DetailedError::from(error));
        }
        // A policy that can never apply is a mistake: as a forbid it protects nothing. One that has
        // errors is not told so as well.
        for warning in result.validation_warnings() {
            let known = |error: &ValidationError| error.policy_id() == warning.policy_id();
            if !result.validation_errors().any(known) {
                keep(warning.policy_id(), &DetailedError::from(warning));
            }
        }
        // The validator has no order.
        found.sort_by(|a, b| (a.line, &a.rule).cmp(&(b.line, &b.rule)));
        found.dedup();
        self.faults.extend(found);
    }
}

fn named_as(found: Option<(&Policy, &usize)>) -> String {
    found.map_or_else(String::new, |(policy, _)| policy.id().to_string())
}

fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(plain)
}

/// Space-separated names that are safe inside a quoted string of a header (RFC 9110 §5.6.4).
fn is_acr_values(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":._/-#".contains(&byte);
    let name = |name: &str| (1..=128).contains(&name.len()) && name.bytes().all(plain);
    value.len() <= 512 && value.split(' ').all(name)
}

/// The seconds of a `@max_age`.
pub(crate) fn max_age(value: &str) -> Option<u64> {
    value.parse().ok().filter(|secs| (1..=MAX_AGE_SECS_MAX).contains(secs))
}

fn expected(annotation: &str) -> &'static str {
    match annotation {
        "about" | "allows" => "1 to 200 characters without control characters",
        "step_up" => "\"mfa\", and on a forbid",
        "acr_values" => "names with spaces between, beside @step_up",
        "max_age" => "seconds from 1 to 86400, beside @step_up",
        "off" => "in the operator's own set, with a reason",
        _ => "one of id, about, allows, step_up, acr_values, max_age",
    }
}
