//! The one table of routes. The router, the authentication, the gate and the tests that no `/v1`
//! route is open or undecided are made from it.

use crate::{
    app::{App, Call, FactsOf, Handler, Reply},
    approvals, blocks, cancel, deliveries, destinations, events, evidence, health, keys, list,
    policies, presets,
    problem::Problem,
    token, transcodes, uploads, usage, webhooks,
};
use futures::future::BoxFuture;
use hotcell_policy::Facts;
use hotcell_schemas::identity::Action;
use http::Method;
use std::sync::Arc;

/// How a route is served, and so who may call it.
#[derive(Debug, Clone, Copy)]
pub enum Serve {
    /// Anyone; no tenant's data.
    Open(fn(Arc<App>) -> BoxFuture<'static, Reply>),
    /// A principal. Without one the handler has no argument to be called with.
    Tenant(Handler),
}

/// Where a route's action is decided.
#[derive(Debug, Clone, Copy)]
pub enum Gate {
    /// Before the handler, on these facts; [`Call::decided`] holds the decision.
    Door(FactsOf),
    /// By the handler, which first finds out what is asked: a job is compiled.
    Handler,
    /// Nowhere, because nothing is asked for that the caller does not have: its own credential for
    /// a shorter one. What that may do is decided where it is used.
    Own,
}

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path's pattern: `/v1/transcodes/{id}`.
    pub path: &'static str,
    /// How it is served.
    pub serve: Serve,
    /// What a principal asks for by it; nothing for an open one.
    pub action: Option<Action>,
    /// Where that is decided.
    pub gate: Gate,
}

impl Route {
    /// Whether a credential is needed.
    #[must_use]
    pub fn needs_auth(&self) -> bool {
        matches!(self.serve, Serve::Tenant(_))
    }

    /// Whether a job comes of it: what the quota of jobs counts.
    #[must_use]
    pub fn makes_job(&self) -> bool {
        self.method == Method::POST && self.path == "/v1/transcodes"
    }

    /// Whether a path is one of its pattern's.
    #[must_use]
    pub fn fits(&self, path: &str) -> bool {
        let (mut mine, mut sent) = (self.path.split('/'), path.split('/'));
        loop {
            match (mine.next(), sent.next()) {
                (None, None) => return true,
                (Some(mine), Some(sent)) => {
                    let open = mine.starts_with('{') && !sent.is_empty();
                    if !open && mine != sent {
                        return false;
                    }
                }
                _ => return false,
            }
        }
    }

    /// The same, decided on `facts`.
    #[must_use]
    pub const fn on(mut self, facts: FactsOf) -> Self {
        self.gate = Gate::Door(facts);
        self
    }

    /// The same, decided by its handler.
    #[must_use]
    pub const fn gates_itself(mut self) -> Self {
        self.gate = Gate::Handler;
        self
    }
}

/// Nothing is known beside who asks.
fn no_facts(_: &Call) -> Result<Facts, Problem> {
    Ok(Facts::default())
}

const fn open(path: &'static str, serve: fn(Arc<App>) -> BoxFuture<'static, Reply>) -> Route {
    let gate = Gate::Handler;
    Route { method: Method::GET, path, serve: Serve::Open(serve), action: None, gate }
}

const fn row(method: Method, path: &'static str, action: Action, serve: Handler) -> Route {
    let gate = Gate::Door(no_facts);
    Route { method, path, serve: Serve::Tenant(serve), action: Some(action), gate }
}

const fn own(method: Method, path: &'static str, serve: Handler) -> Route {
    Route { method, path, serve: Serve::Tenant(serve), action: None, gate: Gate::Own }
}

const fn get(path: &'static str, action: Action, serve: Handler) -> Route {
    row(Method::GET, path, action, serve)
}

const fn post(path: &'static str, action: Action, serve: Handler) -> Route {
    row(Method::POST, path, action, serve)
}

/// The one path that names two things.
const REPLAY: &str = "/v1/webhooks/{id}/deliveries/{delivery}/replay";

/// Every route of the API.
pub static ROUTES: &[Route] = &[
    open("/livez", |app| Box::pin(health::livez(app))),
    open("/readyz", |app| Box::pin(health::readyz(app))),
    post("/v1/upload/presigned-url", Action::UploadSource, |app, who, call| {
        Box::pin(uploads::presign(app, who, call))
    }),
    post("/v1/upload/confirm", Action::UploadSource, |app, who, call| {
        Box::pin(uploads::confirm(app, who, call))
    }),
    post("/v1/transcodes", Action::SubmitTranscode, |app, who, call| {
        Box::pin(transcodes::submit(app, who, call))
    })
    .gates_itself(),
    get("/v1/transcodes", Action::ReadJob, |app, who, call| Box::pin(list::list(app, who, call))),
    row(Method::DELETE, "/v1/transcodes/{id}", Action::CancelJob, |app, who, call| {
        Box::pin(cancel::cancel(app, who, call))
    }),
    get("/v1/transcodes/{id}", Action::ReadJob, |app, who, call| {
        Box::pin(transcodes::get(app, who, call))
    }),
    get("/v1/transcodes/{id}/events", Action::ReadJob, |app, who, call| {
        Box::pin(events::follow(app, who, call))
    }),
    get("/v1/transcodes/{id}/download", Action::ReadOutput, |app, who, call| {
        Box::pin(transcodes::download(app, who, call))
    }),
    get("/v1/transcodes/{id}/audit", Action::ReadAudit, |app, who, call| {
        Box::pin(transcodes::audit(app, who, call))
    }),
    get("/v1/audit/export", Action::ExportAudit, |app, who, call| {
        Box::pin(evidence::export(app, who, call))
    }),
    post("/v1/webhooks", Action::ManageWebhooks, |app, who, call| {
        Box::pin(webhooks::create(app, who, call))
    })
    .on(webhooks::facts),
    get("/v1/webhooks", Action::ReadWebhooks, |app, who, call| {
        Box::pin(webhooks::list(app, who, call))
    }),
    get("/v1/webhooks/{id}", Action::ReadWebhooks, |app, who, call| {
        Box::pin(webhooks::get(app, who, call))
    }),
    row(Method::PATCH, "/v1/webhooks/{id}", Action::ManageWebhooks, |app, who, call| {
        Box::pin(webhooks::change(app, who, call))
    })
    .on(webhooks::change_facts),
    row(Method::DELETE, "/v1/webhooks/{id}", Action::ManageWebhooks, |app, who, call| {
        Box::pin(webhooks::remove(app, who, call))
    }),
    post("/v1/webhooks/{id}/rotate", Action::ManageWebhooks, |app, who, call| {
        Box::pin(webhooks::rotate(app, who, call))
    }),
    post("/v1/webhooks/{id}/test", Action::ReplayWebhook, |app, who, call| {
        Box::pin(webhooks::test(app, who, call))
    }),
    get("/v1/webhooks/{id}/deliveries", Action::ReadWebhooks, |app, who, call| {
        Box::pin(deliveries::list(app, who, call))
    }),
    get("/v1/webhooks/{id}/deliveries/{delivery}", Action::ReadWebhooks, |app, who, call| {
        Box::pin(deliveries::get(app, who, call))
    }),
    row(Method::POST, REPLAY, Action::ReplayWebhook, |app, who, call| {
        Box::pin(deliveries::replay(app, who, call))
    }),
    post("/v1/approvals", Action::RequestApproval, |app, who, call| {
        Box::pin(approvals::create(app, who, call))
    }),
    get("/v1/approvals", Action::RequestApproval, |app, who, call| {
        Box::pin(approvals::list(app, who, call))
    }),
    get("/v1/approvals/{id}", Action::RequestApproval, |app, who, call| {
        Box::pin(approvals::get(app, who, call))
    }),
    post("/v1/approvals/{id}/approve", Action::ApproveRequest, |app, who, call| {
        Box::pin(approvals::approve(app, who, call))
    }),
    post("/v1/approvals/{id}/reject", Action::ApproveRequest, |app, who, call| {
        Box::pin(approvals::reject(app, who, call))
    }),
    get("/v1/blocks", Action::BlockIdentity, |app, who, call| {
        Box::pin(blocks::list(app, who, call))
    }),
    post("/v1/blocks", Action::BlockIdentity, |app, who, call| {
        Box::pin(blocks::create(app, who, call))
    }),
    row(Method::DELETE, "/v1/blocks/{id}", Action::UnblockIdentity, |app, who, call| {
        Box::pin(blocks::remove(app, who, call))
    }),
    get("/v1/policy", Action::ReadPolicy, |app, who, call| Box::pin(policies::get(app, who, call))),
    row(Method::PUT, "/v1/policy", Action::ManagePolicy, |app, who, call| {
        Box::pin(policies::put(app, who, call))
    }),
    get("/v1/policy/versions", Action::ReadPolicy, |app, who, call| {
        Box::pin(policies::versions(app, who, call))
    }),
    get("/v1/policy/versions/{id}", Action::ReadPolicy, |app, who, call| {
        Box::pin(policies::one_version(app, who, call))
    }),
    get("/v1/policy/step-up", Action::ReadPolicy, |app, who, call| {
        Box::pin(policies::sensitive(app, who, call))
    }),
    post("/v1/policy/explain", Action::ReadPolicy, |app, who, call| {
        Box::pin(policies::explain(app, who, call))
    }),
    // The `{id}` of a preset is its name.
    get("/v1/presets", Action::ReadPresets, |app, who, call| {
        Box::pin(presets::list(app, who, call))
    }),
    get("/v1/presets/{id}", Action::ReadPresets, |app, who, call| {
        Box::pin(presets::get(app, who, call))
    }),
    row(Method::DELETE, "/v1/presets/{id}", Action::ManagePresets, |app, who, call| {
        Box::pin(presets::remove(app, who, call))
    }),
    row(Method::PUT, "/v1/presets/{id}", Action::ManagePresets, |app, who, call| {
        Box::pin(presets::put(app, who, call))
    }),
    own(Method::POST, "/v1/token", |app, who, call| Box::pin(token::exchange(app, who, call))),
    get("/v1/destinations", Action::ReadPresets, |app, who, call| {
        Box::pin(destinations::list(app, who, call))
    }),
    get("/v1/usage", Action::ReadUsage, |app, who, call| Box::pin(usage::get(app, who, call))),
    post("/v1/keys", Action::ManageKeys, |app, who, call| Box::pin(keys::create(app, who, call)))
        .on(keys::facts),
    get("/v1/keys", Action::ReadKeys, |app, who, call| Box::pin(keys::list(app, who, call))),
    get("/v1/keys/{id}", Action::ReadKeys, |app, who, call| Box::pin(keys::get(app, who, call))),
    row(Method::DELETE, "/v1/keys/{id}", Action::ManageKeys, |app, who, call| {
        Box::pin(keys::revoke(app, who, call))
    }),
    post("/v1/keys/{id}/rotate", Action::ManageKeys, |app, who, call| {
        Box::pin(keys::rotate(app, who, call))
    }),
    post("/v1/keys/{id}/totp", Action::ManageKeys, |app, who, call| {
        Box::pin(keys::enroll(app, who, call))
    }),
];

/// The row of one method and pattern.
#[must_use]
pub fn find(method: &Method, path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.method == *method && route.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_02_every_v1_route_needs_a_credential_and_no_other_does() {
        for route in ROUTES {
            let expect = route.path.starts_with("/v1/");
            assert_eq!(route.needs_auth(), expect, "{} {}", route.method, route.path);
        }
    }

    #[test]
    fn zt_13_every_route_with_a_credential_has_an_action_and_only_submit_decides_by_itself() {
        for route in ROUTES {
            let own = matches!(route.gate, Gate::Own);
            assert_eq!(own, route.path == "/v1/token", "{}", route.path);
            assert_eq!(route.needs_auth() && !own, route.action.is_some(), "{}", route.path);
            let itself = matches!(route.gate, Gate::Handler) && route.needs_auth();
            let jobs = route.action == Some(Action::SubmitTranscode);
            assert_eq!(itself, jobs && route.method == Method::POST, "{}", route.path);
        }
    }
}
