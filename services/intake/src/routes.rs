//! The one table of routes. The router, the authentication, the gate and the tests that no `/v1`
//! route is open or undecided are made from it.

use crate::{
    app::{App, Call, FactsOf, Handler, Reply},
    health,
    problem::Problem,
    transcodes, uploads, webhooks,
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

const fn get(path: &'static str, action: Action, serve: Handler) -> Route {
    row(Method::GET, path, action, serve)
}

const fn post(path: &'static str, action: Action, serve: Handler) -> Route {
    row(Method::POST, path, action, serve)
}

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
    get("/v1/transcodes/{id}", Action::ReadJob, |app, who, call| {
        Box::pin(transcodes::get(app, who, call))
    }),
    get("/v1/transcodes/{id}/download", Action::ReadOutput, |app, who, call| {
        Box::pin(transcodes::download(app, who, call))
    }),
    get("/v1/transcodes/{id}/audit", Action::ReadAudit, |app, who, call| {
        Box::pin(transcodes::audit(app, who, call))
    }),
    post("/v1/webhooks", Action::ManageWebhooks, |app, who, call| {
        Box::pin(webhooks::create(app, who, call))
    })
    .on(webhooks::facts),
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
            assert_eq!(route.needs_auth(), route.action.is_some(), "{}", route.path);
            let itself = matches!(route.gate, Gate::Handler) && route.needs_auth();
            let jobs = route.action == Some(Action::SubmitTranscode);
            assert_eq!(itself, jobs && route.method == Method::POST, "{}", route.path);
        }
    }
}
