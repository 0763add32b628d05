//! `hotcell policy`: what a request may ask of FFmpeg, who may ask for it, and the sets that decide.

mod check;
mod explain;
mod put;
mod who;

use crate::fail::{Context as _, Fail};
use hotcell_policy::set::TEXT_BYTES_MAX;
use hotcell_schemas::TenantId;
use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show what a request becomes, and whether policy lets it through.
    #[command(after_help = "Examples:
  hotcell policy explain job.json
  hotcell policy explain job.json --input clip.mov   (sniff the real input)
  hotcell policy explain job.json --as submitter --tenant-policies own.cedar
  hotcell policy explain job.json --as tenant-admin --mfa
  hotcell policy explain job.json --as publisher,submitter --mfa \\
    --destination-url https://s3.example.com/media/video   (where its destination leads)
  hotcell policy explain job.json --json | jq -r '.argv[]'

job.json is the body of POST /v1/transcodes:
  {\"inputs\": [{\"url\": \"upload:clip.mov\"}],
   \"outputs\": [{\"format\": \"mp4\", \"ffmpegArgs\": [\"-i\", \"{in0}\", \"-c:v\", \"libx264\",
     \"-crf\", \"21\", \"-vf\", \"scale=1280:-2\", \"-c:a\", \"aac\", \"{out0}\"]}]}

Exit code 1: the request would be refused, and the last line says where. Nothing is sent anywhere.")]
    Explain {
        /// The request.
        request: PathBuf,
        /// The input; without it, an MP4 of 1920 x 1080 with sound is assumed.
        #[arg(long, value_name = "FILE")]
        input: Option<PathBuf>,
        #[command(flatten)]
        who: who::WhoArgs,
    },
    /// Check a file of policies without storing it: each fault with its line and its rule.
    #[command(
        after_help = "docs/policies.md says what policies can speak of. Exit code 1: a fault."
    )]
    Check {
        /// The file.
        file: PathBuf,
        /// It is the operator's, for every tenant.
        #[arg(long)]
        platform: bool,
    },
    /// Put a file of policies in force, within a second and without a restart.
    #[command(after_help = "Examples:
  hotcell policy put own.cedar --tenant acme
  hotcell policy put platform.cedar --platform
  hotcell policy put /dev/null --tenant acme      none of its own")]
    Put {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        whose: Whose,
        /// Refuse if another version than this is in force; 0: if any is.
        #[arg(long, value_name = "VERSION")]
        over: Option<u32>,
    },
    /// List the policies in force, and the versions that were.
    List {
        /// Of this tenant, with the platform's; without it, the platform's.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
}

/// Whose policies.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// This tenant's own.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// The operator's, for every tenant.
    #[arg(long)]
    platform: bool,
}

/// Runs the command.
pub(crate) async fn run(data: &Path, command: PolicyCommand, as_json: bool) -> Result<(), Fail> {
    match command {
        PolicyCommand::Explain { request, input, who } => {
            explain::run(&request, input.as_deref(), &who, as_json)
        }
        PolicyCommand::Check { file, platform } => check::run(&file, platform, as_json),
        PolicyCommand::Put { file, whose, over } => {
            put::put(data, &file, whose.tenant.as_ref(), over, as_json).await
        }
        PolicyCommand::List { tenant } => put::list(data, tenant.as_ref(), as_json).await,
    }
}

/// A file of policies.
fn read_text(path: &Path) -> Result<String, Fail> {
    let text = String::from_utf8(read_at_most(path, TEXT_BYTES_MAX)?);
    text.map_err(|_| Fail::failed(format!("{} is not UTF-8", path.display())))
}

/// A file that ends by `most` bytes; what does not end is not read for ever.
fn read_at_most(path: &Path, most: usize) -> Result<Vec<u8>, Fail> {
    let doing = format!("cannot read {}", path.display());
    let (file, mut bytes) = (File::open(path).or_fail(&doing)?, Vec::new());
    file.take(most as u64 + 1).read_to_end(&mut bytes).or_fail(&doing)?;
    if bytes.len() > most {
        return Err(Fail::usage(format!("{}: larger than {most} bytes", path.display())));
    }
    Ok(bytes)
}
