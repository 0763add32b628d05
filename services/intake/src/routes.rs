//! The one table of routes. The router, the authentication and the test that no `/v1` route is
//! open are made from it.

use crate::{
    app::{App, Handler, Reply},
    health, transcodes, uploads, webhooks,
};
use futures::future::BoxFuture;
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
}

impl Route {
    /// Whether a credential is needed.
    #[must_use]
    pub fn needs_auth(&self) -> bool {
        matches!(self.serve, Serve::Tenant(_))
    }
}

const fn open(path: &'static str, serve: fn(Arc<App>) -> BoxFuture<'static, Reply>) -> Route {
    Route { method: Method::GET, path, serve: Serve::Open(serve), action: None }
}

const fn get(path: &'static str, action: Action, serve: Handler) -> Route {
    Route { method: Method::GET, path, serve: Serve::Tenant(serve), action: Some(action) }
}

const fn post(path: &'static str, action: Action, serve: Handler) -> Route {
    Route { method: Method::POST, path, serve: Serve::Tenant(serve), action: Some(action) }
}

/// Every route of the API.
pub static ROUTES: [Route; 9] = [
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
    }),
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
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_02_every_v1_route_needs_a_credential_and_no_other_does() {
        for route in &ROUTES {
            let expect = route.path.starts_with("/v1/");
            assert_eq!(route.needs_auth(), expect, "{} {}", route.method, route.path);
        }
    }
}
