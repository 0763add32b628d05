//! The same policy for other gateways: Envoy's `ext_authz` over HTTP
//! (envoy.extensions.filters.http.ext_authz.v3, `http_service` with `path_prefix: /ext-authz`).
//!
//! Promises: the credential, the tenant's state and policy are asked as this API asks them, and a
//! refusal has its status, headers and body; who asks is said in `x-hotcell-tenant`,
//! `x-hotcell-actor` and `x-hotcell-roles`. Refuses: what no route and no rule names, and to read
//! any `x-hotcell-*` header that a client sent. No approval is used up here: what is permitted is
//! done, and its approval used, behind the gateway.

use crate::{
    app::{App, Call, Reply},
    approvals,
    auth::Principal,
    gate::{self, Ask},
    problem::{Kind, Problem},
    routes::{Gate, ROUTES, Route},
    transcodes,
};
use hotcell_policy::Facts;
use hotcell_schemas::{identity::Action, job::Actor};
use hotcell_stage::config::ConfigError;
use http::Method;
use serde::Deserialize;
use serde_json::json;

/// What the gateway puts before the path that it asks about.
pub const PREFIX: &str = "/ext-authz";

/// Rules at most: a gateway has some dozen prefixes.
const RULES_MAX: usize = 256;

/// What other gateways may ask for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtAuthzConfig {
    /// The first that fits decides.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What the path begins with; whole segments when it ends with a slash.
    pub prefix: String,
    /// The method; any when `*`.
    pub method: String,
    /// What is asked for.
    pub action: Action,
}

impl ExtAuthzConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError::Value`]: too many rules, a prefix that is no path or is our own, a method that
    /// is none, an action that needs a job.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse =
            |rule: &str| Err(ConfigError::Value { key: "ext_authz.rules", rule: rule.to_owned() });
        if self.rules.len() > RULES_MAX {
            return refuse("must be at most 256 rules");
        }
        for rule in &self.rules {
            if !rule.prefix.starts_with('/') || rule.prefix.contains(['?', '#', '%']) {
                return refuse("each prefix must be a path");
            }
            if "/v1/".starts_with(&rule.prefix) || rule.prefix.starts_with("/v1/") {
                return refuse("paths under /v1/ are this API's own");
            }
            let method = Method::from_bytes(rule.method.as_bytes());
            let named = method.is_ok_and(|it| it.as_str().bytes().all(|b| b.is_ascii_uppercase()));
            if rule.method != "*" && !named {
                return refuse("each method must be one in capitals, or *");
            }
            if matches!(rule.action, Action::SubmitTranscode | Action::PublishOutput) {
                return refuse("SubmitTranscode and PublishOutput are decided on jobs only");
            }
        }
        Ok(())
    }

    fn action(&self, method: &Method, path: &str) -> Option<(&Rule, Action)> {
        let fits = |rule: &&Rule| {
            (rule.method == "*" || rule.method == method.as_str()) && rule.covers(path)
        };
        self.rules.iter().find(fits).map(|rule| (rule, rule.action))
    }
}

impl Rule {
    /// Most servers take `/keys` for `/keys/`, so a rule on the one is a rule on both.
    fn covers(&self, path: &str) -> bool {
        path.starts_with(&self.prefix) || self.prefix.strip_suffix('/') == Some(path)
    }
}

/// A path that a gateway and its upstream could read in two ways is asked about by nobody. Some
/// upstreams drop what follows a semicolon in a segment (RFC 3986 §3.3).
#[must_use]
pub fn is_plain(path: &str) -> bool {
    let odd = path.contains("//") || path.contains(['\\', '%', ';']);
    let dots = path.split('/').any(|segment| segment == "." || segment == "..");
    path.starts_with('/') && !odd && !dots
}

/// The row that a gateway asks about.
#[must_use]
pub fn row(method: &Method, path: &str) -> Option<&'static Route> {
    // A literal segment goes before a name: `/v1/policy/versions` is no `/v1/policy/{id}`.
    let fits = ROUTES.iter().filter(|route| route.method == *method && route.fits(path));
    fits.min_by_key(|route| route.path.matches('{').count())
}

/// Whether `who` may send `call`, whose path is the one that the gateway asks about.
///
/// # Errors
/// As the route itself would answer; 403 for what nothing names.
pub async fn check(app: &App, who: Principal, mut call: Call) -> Result<Reply, Problem> {
    let nothing = || Problem::new(Kind::Forbidden, "no route and no rule names this request");
    if !is_plain(&call.path) {
        return Err(nothing());
    }
    if let Some(route) = row(&call.method, &call.path) {
        call.route = route.path;
        let mut segments = route.path.split('/').zip(call.path.split('/'));
        let id = segments.find(|(mine, _)| *mine == "{id}").map(|(_, sent)| sent.to_owned());
        call.id = id.unwrap_or_default();
        match (route.gate, route.action) {
            (Gate::Door(facts), Some(action)) => {
                let facts = facts(&call)?;
                let target = gate::target(route, &call);
                asked(app, &who, &call, action, &target, facts).await?;
            }
            (Gate::Handler, Some(_)) => transcodes::permitted_dry(app, &who, &call).await?,
            (Gate::Own, _) => {}
            _ => return Err(nothing()),
        }
    } else {
        let (rule, action) =
            app.config.ext_authz.action(&call.method, &call.path).ok_or_else(nothing)?;
        let target = format!("{} {}", call.method, rule.prefix);
        asked(app, &who, &call, action, &target, Facts::default()).await?;
    }
    Ok(permitted(&who))
}

async fn asked(
    app: &App,
    who: &Principal,
    call: &Call,
    action: Action,
    target: &str,
    mut facts: Facts,
) -> Result<(), Problem> {
    if let Some(id) = &call.approval {
        approvals::shown(app, who, id, action, &call.digest(action)?).await?;
        facts.approved = true;
    }
    gate::pass(app, who, &Ask { action, target, facts: &facts }).await.map(|_| ())
}

fn permitted(who: &Principal) -> Reply {
    let roles: Vec<_> = who.authority().roles.iter().map(|role| role.as_str()).collect();
    Reply::new(200, json!({ "tenant": who.tenant() }))
        .header("x-hotcell-tenant", who.tenant().as_str())
        .header("x-hotcell-actor", actor(who.actor()))
        .header("x-hotcell-roles", roles.join(","))
}

/// An actor as a header's value: kind and names, each percent-encoded, with slashes between.
fn actor(actor: &Actor) -> String {
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    let parts: [String; 3] = match actor {
        Actor::ApiKey { id } => ["api-key".to_owned(), encoded(id.as_str()), String::new()],
        Actor::NatsLogin { user, .. } => ["login".to_owned(), encoded(user), String::new()],
        Actor::User { issuer, subject } => ["user".to_owned(), encoded(issuer), encoded(subject)],
        Actor::Service { issuer, client } => {
            ["service".to_owned(), encoded(issuer), encoded(client)]
        }
    };
    let text = parts.join("/");
    text.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_18_paths_that_read_in_two_ways_are_refused() {
        for good in ["/v1/transcodes", "/v1/keys/abc", "/studio/", "/"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in [
            "",
            "x",
            "/v1//keys",
            "/v1/../v1/keys",
            "/v1/./keys",
            "/v1/%6beys",
            "/v1\\keys",
            "/a;b/c",
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
    }

    #[test]
    fn step_18_rules_are_checked_and_the_first_that_fits_decides() {
        let rule = |prefix: &str, method: &str, action| Rule {
            prefix: prefix.to_owned(),
            method: method.to_owned(),
            action,
        };
        let config = ExtAuthzConfig {
            rules: vec![
                rule("/studio/keys/", "*", Action::ManageKeys),
                rule("/studio/", "GET", Action::ReadJob),
            ],
        };
        config.check().unwrap();
        let check = |method: Method, path: &str, expect: Option<Action>| {
            let found = config.action(&method, path).map(|(_, action)| action);
            assert_eq!(found, expect, "{method} {path}");
        };
        check(Method::GET, "/studio/keys/1", Some(Action::ManageKeys));
        check(Method::GET, "/studio/x", Some(Action::ReadJob));
        check(Method::POST, "/studio/x", None);
        check(Method::GET, "/studiox", None);
        // What most servers take for the same path does not fall through to a weaker rule.
        check(Method::GET, "/studio/keys", Some(Action::ManageKeys));
        for bad in [
            rule("studio", "GET", Action::ReadJob),
            rule("/studio", "get", Action::ReadJob),
            rule("/", "GET", Action::ReadJob),
            rule("/v1/keys", "GET", Action::ReadJob),
            rule("/studio", "GET", Action::SubmitTranscode),
        ] {
            assert!(ExtAuthzConfig { rules: vec![bad.clone()] }.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_person_s_name_is_safe_in_a_header() {
        let person = Actor::User {
            issuer: "https://id.example.com/".to_owned(),
            subject: "a/b\r\nx-hotcell-roles: operator é".to_owned(),
        };
        let text = actor(&person);
        assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
        assert_eq!(text.matches('/').count(), 2, "{text}");
    }
}
