//! `hotcell`: the operator's and the tenant's tool. See `hotcell --help`.

mod access;
mod api;
mod args;
mod audit;
mod block;
mod breach;
mod client;
mod creds_agent;
mod destination;
mod doctor;
mod export;
mod fail;
mod key;
mod layout;
mod nats;
mod poison;
mod policy;
mod preset;
mod print;
mod replay;
mod tenant;
mod tls;
mod token;
mod up;
mod usage;
mod webhook;
mod worker;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    fail::exit_code(match runtime {
        Ok(runtime) => runtime.block_on(args::run(args::Args::parse())),
        Err(error) => Err(fail::Fail::failed(format!("no runtime: {error}"))),
    })
}
