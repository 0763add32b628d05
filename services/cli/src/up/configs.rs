//! The configuration files that `hotcell up` writes: one for each process, each naming only what
//! that process may have.

use super::{
    Ports,
    cells::Cells,
    issuers, secret,
    secure::{API, STORE, Secure},
};
use crate::{
    args::{DurabilityArg, UpArgs},
    fail::{Context as _, Fail},
    layout::{Layout, keep_secret, write_private},
};
use hotcell_auditor::note::Signer as CheckpointSigner;
use hotcell_schemas::{Role, WorkerId};
use hotcell_stage::clock;
use serde_json::{Value, json};

/// The bucket of the one-machine store.
const BUCKET: &str = "hotcell";

/// Name of the evidence log's key: it appears in every checkpoint.
const AUDIT_ORIGIN: &str = "hotcell.local/audit";

/// All that the files say.
pub(crate) struct Plan<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) args: &'a UpArgs,
    pub(crate) ports: &'a Ports,
    pub(crate) secure: &'a Secure,
    pub(crate) cells: &'a Cells,
    pub(crate) workers: &'a [WorkerId],
}

impl Plan<'_> {
    /// Writes every file.
    pub(crate) fn write(&self) -> Result<(), Fail> {
        self.secrets()?;
        self.file("store", self.store())?;
        self.file("intake", self.intake()?)?;
        self.file("validator", self.validator())?;
        self.file("hasher", self.stage(Role::Hasher))?;
        self.file("signer", self.signer())?;
        self.file("auditor", self.auditor())?;
        self.file("webhook", self.webhook())?;
        for (number, worker) in (0..).zip(self.workers) {
            self.worker(number, worker)?;
        }
        Ok(())
    }

    fn file(&self, name: &str, value: Value) -> Result<(), Fail> {
        write_private(&self.layout.config(&format!("{name}.toml")), &toml(value)?)
    }

    fn secrets(&self) -> Result<(), Fail> {
        for name in
            ["lease.key", "destination.key", "webhook.key", "totp.key", "storage-signer.secret"]
        {
            secret(self.layout, name)?;
        }
        let key = keep_secret(&self.layout.secret("checkpoint.key"), || {
            CheckpointSigner::key_file(AUDIT_ORIGIN, &clock::random::<32>())
                .expect("the origin is a valid key name")
        })?;
        let signer = CheckpointSigner::parse(&key).or_fail("the checkpoint key is malformed")?;
        write_private(&self.layout.audit_vkey(), &format!("{}\n", signer.verifier()))
    }

    fn nats(&self, role: Role) -> Value {
        with(
            json!({
                "url": self.broker(),
                "creds": self.layout.creds(role),
                "trust": self.layout.trust(),
            }),
            "tls",
            self.secure.client(role),
        )
    }

    fn broker(&self) -> String {
        format!("{}://{}", self.secure.scheme("nats", "tls"), self.ports.nats)
    }

    fn telemetry(&self) -> Value {
        json!({ "log": "info", "otlp": self.args.otlp.clone().unwrap_or_default() })
    }

    fn stage(&self, role: Role) -> Value {
        json!({ "nats": self.nats(role), "telemetry": self.telemetry() })
    }

    fn validator(&self) -> Value {
        json!({
            "wall_secs_max": self.args.wall_secs,
            "nats": self.nats(Role::Validator),
            "telemetry": self.telemetry(),
        })
    }

    fn durability(&self) -> &'static str {
        match self.args.durability {
            DurabilityArg::Always => "always",
            DurabilityArg::OneSecond => "1s",
        }
    }

    fn store(&self) -> Value {
        let config = json!({
            "listen": self.ports.store.to_string(),
            "data_dir": self.layout.store(),
            "buckets": [BUCKET],
            "durability": self.durability(),
            "access_keys": [{
                "id": "signer",
                "secret_file": self.layout.secret("storage-signer.secret"),
                "allow": [{
                    "ops": ["get", "put", "delete", "list"], "bucket": BUCKET, "prefix": "",
                }],
            }],
            "telemetry": self.telemetry(),
        });
        with(config, "tls", self.secure.server(STORE))
    }

    fn intake(&self) -> Result<Value, Fail> {
        let mut config = json!({
            "listen": self.ports.api.to_string(),
            "totp_key_file": self.layout.secret("totp.key"),
            "nats": self.nats(Role::Intake),
            "telemetry": self.telemetry(),
        });
        let own = format!("{}://{}", self.secure.scheme("http", "https"), self.ports.api);
        let issuers = self.args.oidc.as_deref().map(issuers::read).transpose()?;
        if let Some(config) = config.as_object_mut() {
            issuers::add(config, issuers.unwrap_or_default(), &own);
        }
        Ok(with(config, "tls", self.secure.server(API)))
    }

    fn signer(&self) -> Value {
        let config = json!({
            "lease_key": self.layout.secret("lease.key"),
            "destination_key": self.layout.secret("destination.key"),
            "images": [self.cells.image],
            "nats": self.nats(Role::Signer),
            "storage": {
                "endpoint":
                    format!("{}://{}", self.secure.scheme("http", "https"), self.ports.store),
                "bucket": BUCKET,
                "access_key_id": "signer",
                "secret": self.layout.secret("storage-signer.secret"),
            },
            "telemetry": self.telemetry(),
        });
        with(config, "reap_secs", self.args.reap_secs.map(Value::from))
    }

    fn auditor(&self) -> Value {
        json!({
            "origin": AUDIT_ORIGIN,
            "signing_key": self.layout.secret("checkpoint.key"),
            "log": { "folder": self.layout.audit_log() },
            "nats": self.nats(Role::Auditor),
            "telemetry": self.telemetry(),
        })
    }

    fn webhook(&self) -> Value {
        let mut config = json!({
            "secrets_key": self.layout.secret("webhook.key"),
            "allow_loopback": true,
            "nats": self.nats(Role::Webhook),
            "telemetry": self.telemetry(),
        });
        if !self.args.webhook_retry.is_empty()
            && let Some(table) = config.as_object_mut()
        {
            table.insert("retry_secs".to_owned(), json!(self.args.webhook_retry));
        }
        config
    }

    /// A worker's folder: its configuration, its login, and the roles' public keys.
    fn worker(&self, number: u16, worker: &WorkerId) -> Result<(), Fail> {
        let home = self.cells.home(worker);
        let mut config = json!({
            "pool": super::POOL,
            "slots": super::processes(self.args).1,
            "degraded": self.args.degraded,
            "cgroup": self.args.cgroup.name(),
            "cgroup_folders": self.cells.lot(number, worker).folders,
            "cell": self.args.cell.to_string(),
            "launcher": self.cells.launcher(),
            "ffmpeg": self.cells.ffmpeg,
            "ffprobe": self.cells.ffprobe,
            "work_dir": home.join("work"),
            "root_cache": self.cells.roots(),
            "nats": {
                "url": self.broker(),
                "creds": home.join("worker.creds"),
                "trust": home.join("trust.json"),
            },
            "telemetry": self.telemetry(),
        });
        let (secrets, own) = self.secure.worker(worker, &home).unzip();
        if let Some(nats) = config.get_mut("nats") {
            *nats = with(nats.take(), "tls", own);
        }
        let creds = self.layout.nats().join("creds").join(format!("worker-{worker}.creds"));
        let creds = std::fs::read(creds).or_fail("cannot read a worker's login")?;
        let trust = std::fs::read(self.layout.trust()).or_fail("cannot read the trust list")?;
        let config = toml(config)?;
        let mut files = vec![
            ("worker.toml", config.into_bytes()),
            ("worker.creds", creds),
            ("trust.json", trust),
        ];
        for (name, path) in secrets.unwrap_or_default() {
            files.push((name, std::fs::read(path).or_fail("cannot read a certificate")?));
        }
        self.cells.furnish(number, worker, &files)
    }
}

/// `table` with a value more, where there is one.
fn with(mut table: Value, key: &str, value: Option<Value>) -> Value {
    if let (Some(table), Some(value)) = (table.as_object_mut(), value) {
        table.insert(key.to_owned(), value);
    }
    table
}

fn toml(value: Value) -> Result<String, Fail> {
    toml::to_string(&value).or_fail("a configuration does not encode")
}
