//! The command line of tenants, plans, workers' logins, the agent and the access report.

use clap::Subcommand;
use hotcell_nats_config::{Life, LoginName};
use hotcell_schemas::{PoolId, TenantId, WorkerId, identity::RoleName};
use std::path::PathBuf;

/// What can be done with tenants.
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Add a tenant to the running installation: account, login, API key, consumers.
    Add(AddArgs),
    /// List tenants: plan, state, pools, limits.
    List,
    /// Show a tenant: record, number of keys, work, connections.
    Show {
        /// Its slug.
        name: TenantId,
    },
    /// Change a tenant's plan, its pools, or whether it may give FFmpeg's own arguments.
    Set(SetArgs),
    /// Serve a tenant no more: its connections are cut, no request is served, no new work given
    /// out. What runs may end.
    Suspend {
        /// Its slug.
        name: TenantId,
    },
    /// Serve a suspended tenant again. Its logins of before, if they have not ended, work again.
    Resume {
        /// Its slug.
        name: TenantId,
    },
    /// Remove a tenant for good: its bytes are erased, its jobs, keys and logins ended. The
    /// evidence stays, and the name is not given again.
    Remove {
        /// Its slug.
        name: TenantId,
        /// Do not ask for the name to be typed.
        #[arg(long)]
        yes: bool,
    },
    /// Make a login in the tenant's broker account that ends by itself, or renew one.
    Creds(CredsArgs),
    /// End one login at once and for good: its connections are cut, no copy of its file opens
    /// anything. Other logins stay; the name may be given again, and gets another key.
    Revoke {
        /// The tenant's slug.
        name: TenantId,
        /// Which of its programs.
        #[arg(long)]
        user: LoginName,
    },
    /// Give the tenant another scoped key, where an agent's is in strange hands: whatever the one
    /// before signed is cut at once and opens nothing. Its logins are signed again, each under its own
    /// key; hand their files and the new key out.
    Rekey {
        /// The tenant's slug.
        name: TenantId,
    },
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hotcell tenant add acme --plan pro
  hotcell tenant add acme --plan ./acme.toml --pool acme --pool cpu
  hotcell plan show free > acme.toml           a start for a plan of your own")]
pub(crate) struct AddArgs {
    /// Its slug: a-z, 0-9 and '-'.
    pub(crate) name: TenantId,
    /// `free`, `starter`, `pro`, or a file.
    #[arg(long, default_value = "starter", value_name = "PLAN")]
    pub(crate) plan: String,
    /// Let its requests give FFmpeg's own arguments, those of docs/arguments.md.
    #[arg(long)]
    pub(crate) raw_arguments: bool,
    /// A pool where its jobs may run, instead of the plan's; may be repeated, the first is the
    /// default. A pool that no other tenant has is a dedicated one.
    #[arg(long = "pool", value_name = "POOL")]
    pub(crate) pools: Vec<PoolId>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Switch {
    /// Allowed.
    On,
    /// Not allowed.
    Off,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// Its slug.
    pub(crate) name: TenantId,
    /// `free`, `starter`, `pro`, or a file. Pools stay as they are.
    #[arg(long, value_name = "PLAN")]
    pub(crate) plan: Option<String>,
    /// Whether its requests may give FFmpeg's own arguments.
    #[arg(long, value_enum)]
    pub(crate) raw_arguments: Option<Switch>,
    /// All pools where its jobs may run, the first as the default; may be repeated. Pools are
    /// added or put into another order, not taken away.
    #[arg(long = "pool", value_name = "POOL")]
    pub(crate) pools: Vec<PoolId>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hotcell tenant creds acme --user ci --expires 1h --role submitter
  hotcell tenant creds acme --user dash --expires 24h --role viewer --out dash.creds")]
pub(crate) struct CredsArgs {
    /// The tenant's slug.
    pub(crate) name: TenantId,
    /// Which of its programs; a login that is there is renewed under its own key.
    #[arg(long)]
    pub(crate) user: LoginName,
    /// How long it lives: 15m to 24h.
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Life,
    /// What it is for: viewer, submitter, publisher, webhook-admin, tenant-admin or auditor; may be
    /// repeated.
    #[arg(long = "role", value_name = "ROLE", default_value = "submitter")]
    pub(crate) roles: Vec<RoleName>,
    /// Write the credential file here, readable by you alone, instead of printing where it is.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// What can be done with plans.
#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// List the plans that are compiled in.
    List,
    /// Print a plan as a file: a start for one of your own.
    Show {
        /// `free`, `starter` or `pro`.
        name: String,
    },
}

/// What can be done with workers.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Make a worker's login that ends by itself, or renew one.
    Creds {
        /// The worker's name: a-z, 0-9 and '-'.
        name: WorkerId,
        /// A pool whose work it may ask for; may be repeated.
        #[arg(long = "pool", value_name = "POOL", required = true)]
        pools: Vec<PoolId>,
        /// How long it lives: 15m to 24h.
        #[arg(long, value_name = "TIME", default_value = "24h")]
        expires: Life,
        /// Write the credential file here, readable by you alone, instead of printing where it is.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// End a worker's login at once and for good: its connection is cut, and what it ran is given to
    /// another. The name may be given again, and gets another key.
    Revoke {
        /// The worker's name.
        name: WorkerId,
    },
    /// Give the workers another scoped key, where an agent's is in strange hands: whatever the one
    /// before signed is cut at once and opens nothing. All workers' logins are signed again, each under
    /// its own key; hand their files and the new key out.
    Rekey,
}

/// What can be asked about access.
#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// Who has which login, key and role, since when, and until when: for a periodic review.
    Report,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The agent needs the credential file and the scoped key that signed it, and no other key: copy
keys/pipeline.intake.nk to the agent of intake, keys/encoders.workers.nk to that of a worker. The
service reads the file again at each connect, and never sees the key.

Examples:
  hotcell creds-agent --dir /etc/hotcell --login intake
  hotcell creds-agent --dir /etc/hotcell --login worker-w1 --expires 1h
  hotcell creds-agent --dir /etc/hotcell --login intake --once    (from a timer)
  hotcell creds-agent --dir /agents/intake --dir /agents/signer --login service"
)]
pub(crate) struct AgentArgs {
    /// A folder with `creds/LOGIN.creds` and the key in `keys/`; may be repeated.
    #[arg(long = "dir", value_name = "DIR", required = true)]
    pub(crate) dirs: Vec<PathBuf>,
    /// The login: the name of its credential file without `.creds`.
    #[arg(long)]
    pub(crate) login: LoginName,
    /// How long each renewed login lives: 15m to 24h. It is renewed after two thirds of that.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(crate) expires: Life,
    /// Renew it if it is due, then end.
    #[arg(long)]
    pub(crate) once: bool,
}
