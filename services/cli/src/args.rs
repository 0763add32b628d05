//! The command line.

use crate::{
    access, audit, block, breach, client, creds_agent, destination, doctor, export, fail::Fail,
    key, nats, poison, policy, preset, replay, tenant, tls, token, up, usage, webhook, worker,
};
use clap::{Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf};

/// Transcodes untrusted video for many tenants: FFmpeg runs in a cell without network,
/// credentials or name.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  hotcell up                                   start everything on this machine
  hotcell transcode clip.mov --resolution 480p make clip.mp4 from clip.mov
  hotcell tenant add acme                      add a tenant while it runs
  hotcell policy explain job.json              what a request makes FFmpeg do
  hotcell audit verify                         check the evidence log offline

Where a command speaks to the API, HOTCELL_API, HOTCELL_KEY and HOTCELL_CA go before what the folder says;
HOTCELL_KEY alone is another key for the folder's own API.

Exit codes: 0 done, 1 the thing failed, 2 usage, 64 bad configuration, 69 a server is unreachable."
)]
pub(crate) struct Args {
    /// Folder of the installation.
    #[arg(
        long,
        global = true,
        env = "HOTCELL_DATA",
        default_value = ".hotcell",
        value_name = "DIR"
    )]
    pub(crate) data: PathBuf,
    /// Print results as JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start broker, store and every service on this machine.
    Up(UpArgs),
    /// Upload a file, transcode it, download the result and check its hash.
    Transcode(TranscodeArgs),
    /// Tenants.
    #[command(subcommand)]
    Tenant(tenant::args::TenantCommand),
    /// Buckets of tenants where their outputs may go, instead of hotcell's own store.
    #[command(subcommand)]
    Destination(destination::DestinationCommand),
    /// What tenants may use.
    #[command(subcommand)]
    Plan(tenant::args::PlanCommand),
    /// Workers' logins.
    #[command(subcommand)]
    Worker(tenant::args::WorkerCommand),
    /// Who may get in.
    #[command(subcommand)]
    Access(tenant::args::AccessCommand),
    /// Keep a login's credential file fresh.
    CredsAgent(tenant::args::AgentArgs),
    /// API keys of a tenant.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Principals that are stopped, whatever credential they show.
    #[command(subcommand)]
    Block(block::BlockCommand),
    /// A tenant's own settings, by name.
    #[command(subcommand)]
    Preset(preset::PresetCommand),
    /// A tenant's webhooks, and what was delivered to them.
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// Exchange the API key for an access token of five minutes, and print it.
    Token(token::TokenArgs),
    /// Jobs.
    #[command(subcommand)]
    Job(JobCommand),
    /// What this month cost, what the plan holds, and how the tenant's work stands.
    Usage,
    /// Inputs that killed their cells.
    #[command(subcommand)]
    Poison(PoisonCommand),
    /// What a request may ask of FFmpeg, and who may ask for it.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// The evidence log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The broker's accounts, streams and permissions.
    #[command(subcommand)]
    Nats(NatsCommand),
    /// A local authority and its certificates.
    #[command(subcommand)]
    Tls(tls::TlsCommand),
    /// Say whether this machine can run cells safely, and with which FFmpeg.
    Doctor(DoctorArgs),
    /// Attack a cell of this installation in every known way, and say what stopped each attack.
    Breach(BreachArgs),
    /// Print versions.
    Version,
}

/// When an acknowledged event is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// Before it is acknowledged.
    Always,
    /// Within a second: a power cut may lose that second.
    #[value(name = "1s")]
    OneSecond,
}

/// Whether cells are bounded by control groups, beside rlimits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CgroupArg {
    /// By as many as this machine gives.
    Auto,
    /// By memory, pids and cpu; a worker that lacks one does not start.
    Required,
    /// By none.
    Off,
}

impl CgroupArg {
    /// As in a worker's configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Required => "required",
            Self::Off => "off",
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hotcell up --encoders 2
  hotcell up --listen 127.0.0.1:0 --data /tmp/h   (port 0: a free port, see /tmp/h/dev.env)
  hotcell up --cell fixed:250                     (load tests: a program of ours, not FFmpeg)")]
pub(crate) struct UpArgs {
    /// Workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=512))]
    pub(crate) encoders: u16,
    /// Cells that one worker runs at once. Started as root, `up` starts a worker process for each,
    /// so that each has a user of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) slots: u16,
    /// Control groups for cells.
    #[arg(long, value_enum, default_value_t = CgroupArg::Auto)]
    pub(crate) cgroup: CgroupArg,
    /// Address of the HTTP API.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// When an acknowledged event is on disk.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Always)]
    pub(crate) durability: DurabilityArg,
    /// Speak TLS everywhere: broker, store and API, with certificates of a local authority in
    /// DIR/nats/tls. Implied by an address that is not loopback.
    #[arg(long)]
    pub(crate) tls: bool,
    /// Work on a host that lacks a layer of the cell; every report and receipt then names it.
    #[arg(long)]
    pub(crate) degraded: bool,
    /// What runs in the cells: `ffmpeg`, `noop`, or `fixed:MS`.
    #[arg(long, default_value = "ffmpeg")]
    pub(crate) cell: up::CellProgram,
    /// OTLP/HTTP endpoint for traces, as `http://127.0.0.1:4318/v1/traces`.
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<String>,
    /// File with `[[oidc]]` tables: identity providers whose tokens the API believes.
    #[arg(long, value_name = "FILE")]
    pub(crate) oidc: Option<PathBuf>,
    /// Slug of the first tenant.
    #[arg(long, default_value = "demo")]
    pub(crate) tenant: hotcell_schemas::TenantId,
    /// Longest encode, in seconds of wall clock.
    #[arg(long, value_name = "SECS", default_value_t = 3600)]
    pub(crate) wall_secs: u32,
    /// Seconds between delivery attempts of webhooks, instead of 60,300,1800.
    #[arg(long, value_delimiter = ',', value_name = "SECS")]
    pub(crate) webhook_retry: Vec<u64>,
    /// Seconds between two looks for bytes to remove, instead of 60.
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) reap_secs: Option<u64>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "It changes nothing, and stops nothing. Exit code 1 when a check fails, \
also when the FFmpeg in use has a published weakness: tools/ffmpeg-cves.json.

Examples:
  hotcell doctor
  hotcell doctor --json | jq '.[] | select(.state != \"ok\")'
  HOTCELL_FFMPEG=/usr/bin/ffmpeg HOTCELL_FFPROBE=/usr/bin/ffprobe hotcell doctor")]
pub(crate) struct DoctorArgs {}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hotcell transcode clip.mov --resolution 480p -o small.mp4
  hotcell transcode clip.mov --preset-name web-480p   (hotcell preset list)
  hotcell transcode clip.mov --destination cdn        (a publisher's key, with a second factor)")]
pub(crate) struct TranscodeArgs {
    /// The file.
    pub(crate) file: PathBuf,
    /// `low`, `medium` or `high`.
    #[arg(long, default_value = "medium")]
    pub(crate) quality: String,
    /// `source`, `240p`, `360p`, `480p`, `720p`, `1080p` or `2160p`.
    #[arg(long, default_value = "source")]
    pub(crate) resolution: String,
    /// `mp4`, `webm`, `mkv`, `mp3` or `m4a`.
    #[arg(long, default_value = "mp4")]
    pub(crate) format: String,
    /// One of the tenant's own presets, instead of the three above.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["quality", "resolution", "format"])]
    pub(crate) preset_name: Option<hotcell_schemas::PresetName>,
    /// Store the result in this bucket of the tenant's: one that the operator entered.
    #[arg(long, value_name = "NAME")]
    pub(crate) destination: Option<hotcell_schemas::DestinationName>,
    #[command(flatten)]
    pub(crate) factor: key::Factor,
    /// Where to put the result; beside the file when absent.
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Show a job: state, timeline, attempts, outputs.
    Show {
        /// Its id.
        id: hotcell_schemas::JobId,
    },
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A hostile program of ours takes ffmpeg's place in real cells of a running installation: same
launcher, same folders, same user; broker, store and API are what it tries to reach. Canaries lie
where secrets do. Limits are small, so that a flood ends at once. Exit code 1 if an attack succeeds.

Examples:
  hotcell breach
  hotcell breach --layer-off seccomp            what the other layers stop
  hotcell breach --json | jq '.attacks[] | select(.succeeded)'
  hotcell breach --program ./mine -- --verbose  your own static program, once, with these arguments"
)]
pub(crate) struct BreachArgs {
    /// Leave out this layer; may be repeated. One of those that docs/threat-model.md lists.
    #[arg(long = "layer-off", value_name = "NAME", value_parser = breach::layer)]
    pub(crate) layers_off: Vec<hotcell_jail::layers::Layer>,
    /// Run this program once in a cell instead, and print what it said and how it ended.
    #[arg(long, value_name = "PATH")]
    pub(crate) program: Option<PathBuf>,
    /// The program's arguments. Its output folder is /out, its scratch folder /tmp.
    #[arg(last = true, requires = "program", value_name = "ARG")]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoisonCommand {
    /// List what is held against which inputs.
    List,
    /// Let an input run again, and forget what was held against it.
    Release {
        /// Its SHA-256, or the first characters of it, 12 at least.
        sha256: String,
        /// Only what is held against it for this tenant.
        #[arg(long)]
        tenant: Option<hotcell_schemas::TenantId>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check the whole log offline: hashes, tree, checkpoint, signatures.
    Verify {
        /// Folder of the log, instead of the installation's own.
        #[arg(long, value_name = "DIR")]
        log: Option<PathBuf>,
        /// Also prove every event of this job to be in the log.
        #[arg(long)]
        job: Option<hotcell_schemas::JobId>,
    },
    /// Write entries as lines for compliance, or check an earlier export.
    Export(export::ExportArgs),
    /// Run a recorded job again from its record, in a fresh cell, and compare the hashes.
    Replay {
        /// The job.
        job: hotcell_schemas::JobId,
        /// The input: its SHA-256 must be the recorded one.
        #[arg(long, value_name = "FILE")]
        input: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Where.
    pub(crate) dir: PathBuf,
    /// Where the server shall listen.
    #[arg(long, default_value = "127.0.0.1:4222")]
    pub(crate) listen: SocketAddr,
    /// When an acknowledged event is on disk.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Always)]
    pub(crate) durability: DurabilityArg,
    /// TLS 1.3 with client certificates: the server's files are DIR/tls/{ca.pem,nats.pem,nats.key}.
    #[arg(long)]
    pub(crate) tls: bool,
    /// How long each login lives, 15m to 24h; run `hotcell creds-agent` for each. `never` makes logins
    /// that do not end, and leaves those that do as they are.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = nats::expires)]
    pub(crate) expires: nats::Expires,
    /// A worker's login, and the pool whose work it may ask for; may be repeated.
    #[arg(long = "worker", value_name = "NAME:POOL", value_parser = nats::worker)]
    pub(crate) workers: Vec<nats::Worker>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NatsCommand {
    /// Write keys, credential files, resolver folder and server configuration.
    Init(InitArgs),
    /// Make streams, consumers and buckets; safe to repeat.
    Provision {
        /// The folder that `init` wrote.
        dir: PathBuf,
        /// The server.
        #[arg(long, default_value = "nats://127.0.0.1:4222")]
        url: String,
        /// Copies of each stream: 1 or 3.
        #[arg(long, default_value_t = 1)]
        replicas: u8,
    },
    /// Compare a running server with the code, and print the differences.
    Check {
        /// The folder that `init` wrote.
        dir: PathBuf,
        /// The server.
        #[arg(long, default_value = "nats://127.0.0.1:4222")]
        url: String,
        /// Copies of each stream: 1 or 3.
        #[arg(long, default_value_t = 1)]
        replicas: u8,
    },
}

/// Runs the command.
pub(crate) async fn run(args: Args) -> Result<(), Fail> {
    let Args { data, json, command } = args;
    match command {
        Command::Up(up) => Box::pin(up::run(&data, &up, json)).await,
        Command::Transcode(transcode) => client::transcode(&data, &transcode, json).await,
        Command::Usage => usage::run(&data, json).await,
        Command::Job(JobCommand::Show { id }) => client::show(&data, &id, json).await,
        Command::Tenant(command) => Box::pin(tenant::manage::run(&data, command, json)).await,
        Command::Destination(command) => Box::pin(destination::run(&data, command, json)).await,
        Command::Plan(command) => tenant::manage::plans(&command, json),
        Command::Worker(command) => Box::pin(worker::run(&data, command, json)).await,
        Command::Access(command) => Box::pin(access::run(&data, &command, json)).await,
        Command::CredsAgent(args) => creds_agent::run(&args, json).await,
        Command::Audit(AuditCommand::Verify { log, job }) => {
            audit::verify(&data, log.as_deref(), job.as_ref(), json).await
        }
        Command::Audit(AuditCommand::Export(args)) => export::run(&data, &args, json).await,
        Command::Audit(AuditCommand::Replay { job, input }) => {
            replay::run(&data, &job, &input, json).await
        }
        Command::Poison(command) => Box::pin(poison::run(&data, command, json)).await,
        Command::Key(command) => key::run(&data, command, json).await,
        Command::Block(command) => Box::pin(block::run(&data, command, json)).await,
        Command::Preset(command) => preset::run(&data, command, json).await,
        Command::Webhook(command) => webhook::run(&data, command, json).await,
        Command::Token(args) => token::run(&data, &args, json).await,
        Command::Policy(command) => Box::pin(policy::run(&data, command, json)).await,
        Command::Nats(command) => nats::run(command, json).await,
        Command::Tls(command) => tls::run(command, json),
        Command::Doctor(args) => Box::pin(doctor::run(&data, &args, json)).await,
        Command::Breach(args) => Box::pin(breach::run(&data, &args, json)).await,
        Command::Version => {
            crate::print::line(format!("hotcell {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    }
}
