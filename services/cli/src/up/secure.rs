//! TLS of `hotcell up`: the certificates of its servers and clients, and what each process is told
//! of them. Without `--tls` everything is on loopback, and in plain text.

use super::Ports;
use crate::{args::UpArgs, fail::Fail, layout::Layout, tls::Authority};
use hotcell_nats_config::BrokerTls;
use hotcell_schemas::{Role, WorkerId};
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Names that this machine has for itself.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The clients of the broker beside the workers: the services, the operator, a tenant's programs.
const CLIENTS: [&str; 8] =
    ["intake", "validator", "signer", "hasher", "auditor", "webhook", "provisioner", "tenant"];

/// The servers.
pub(crate) const NATS: &str = "nats";
pub(crate) const STORE: &str = "store";
pub(crate) const API: &str = "api";

/// How an installation's processes speak to each other.
pub(crate) struct Secure(Option<Authority>);

impl Secure {
    /// Makes what is needed, if TLS is asked for, or the address is one that others can reach.
    pub(crate) fn prepare(
        layout: &Layout,
        args: &UpArgs,
        ports: &Ports,
        workers: &[WorkerId],
    ) -> Result<Self, Fail> {
        let ip = ports.api.ip();
        if !args.tls && ip.to_canonical().is_loopback() {
            return Ok(Self(None));
        }
        let authority = Authority::open(&layout.nats().join("tls"))?;
        let own: Vec<_> = OWN_NAMES.map(ToOwned::to_owned).to_vec();
        authority.server(NATS, &own)?;
        authority.server(STORE, &own)?;
        authority.server(API, &[own, named(ip)].concat())?;
        for name in CLIENTS {
            authority.client(name)?;
        }
        for worker in workers {
            authority.client(worker.as_str())?;
        }
        Ok(Self(Some(authority)))
    }

    /// `plain`, or what takes its place.
    pub(crate) fn scheme<'a>(&self, plain: &'a str, secured: &'a str) -> &'a str {
        if self.0.is_some() { secured } else { plain }
    }

    /// The authorities that clients of the API and the store must know.
    pub(crate) fn bundle(&self) -> Option<PathBuf> {
        self.0.as_ref().map(Authority::bundle)
    }

    /// The broker's own files.
    pub(crate) fn broker(&self) -> Option<BrokerTls> {
        let authority = self.0.as_ref()?;
        let (cert, key) = authority.files(NATS);
        Some(BrokerTls { ca: authority.ca(), cert, key })
    }

    /// `[nats.tls]` of a service.
    pub(crate) fn client(&self, role: Role) -> Option<Value> {
        let authority = self.0.as_ref()?;
        let (cert, key) = authority.files(role.as_str());
        Some(json!({ "ca": authority.ca(), "cert": cert, "key": key }))
    }

    /// `[tls]` of a listener.
    pub(crate) fn server(&self, name: &str) -> Option<Value> {
        let (cert, key) = self.0.as_ref()?.files(name);
        Some(json!({ "cert": cert, "key": key }))
    }

    /// Files that a worker is given, by the name that they have in its folder, and its own
    /// `[nats.tls]`: it runs as another user, who cannot read ours.
    pub(crate) fn worker(
        &self,
        worker: &WorkerId,
        home: &Path,
    ) -> Option<(Vec<(&'static str, PathBuf)>, Value)> {
        let authority = self.0.as_ref()?;
        let (cert, key) = authority.files(worker.as_str());
        let files = vec![
            ("ca.pem", authority.ca()),
            (WORKER_BUNDLE, authority.bundle()),
            ("tls.pem", cert),
            ("tls.key", key),
        ];
        let own = json!({
            "ca": home.join("ca.pem"), "cert": home.join("tls.pem"), "key": home.join("tls.key"),
        });
        Some((files, own))
    }
}

/// Name of the authorities in a worker's folder.
pub(crate) const WORKER_BUNDLE: &str = "bundle.pem";

/// What a certificate can say of an address; it cannot say "all of them".
fn named(ip: IpAddr) -> Vec<String> {
    if ip.is_unspecified() { Vec::new() } else { vec![ip.to_string()] }
}
